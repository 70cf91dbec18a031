"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const list = document.getElementById("cards"), cards = [...list.children];
  const by = document.getElementById("by"), way = document.getElementById("way");
  const search = document.getElementById("search"), count = document.getElementById("count");
  const limits = [...document.querySelectorAll("[data-column]")];
  const urls = (card) => [...card.querySelectorAll("a")].map((link) => link.href).join(" ");
  const texts = cards.map((card) => `${card.querySelector(".says").textContent} ${urls(card)}`.toLowerCase());
  let down = true;

  const passes = (i) => limits.every((field) => {
    if (field.value === "") return true;
    const value = data.rows[i][field.dataset.column];
    if (field.dataset.side === "is") return value === field.value;
    if (value === null) return false;
    return field.dataset.side === "min" ? value >= Number(field.value) : value <= Number(field.value);
  });
  const show = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    cards.forEach((card, i) => {
      card.hidden = !(words.every((word) => texts[i].includes(word)) && passes(i));
      if (!card.hidden) shown += 1;
    });
    count.textContent = `${shown.toLocaleString("en")} of ${cards.length.toLocaleString("en")} pairs`;
    document.getElementById("none").style.display = shown ? "none" : "block";
    const used = limits.filter((field) => field.value !== "").length;
    document.getElementById("used").textContent = used ? ` (${used})` : "";
  };
  const compare = (a, b) => {
    if (a === b) return 0;
    if (a === null || b === null) return a === null ? 1 : -1;
    const order = typeof a === "string" ? a.localeCompare(b, "en") : a - b;
    return down ? -order : order;
  };
  const sort = () => {
    const column = Number(by.value);
    const order = cards.map((_, i) => i);
    if (column >= 0) order.sort((i, j) => compare(data.rows[i][column], data.rows[j][column]) || i - j);
    list.append(...order.map((i) => cards[i]));
    way.textContent = down ? "↓ high first" : "↑ low first";
    way.disabled = column < 0;
    document.querySelectorAll(".on").forEach((line) => line.classList.remove("on"));
    document.querySelectorAll(`[data-score="${column}"]`).forEach((line) => line.classList.add("on"));
  };

  by.addEventListener("change", sort);
  way.addEventListener("click", () => { down = !down; sort(); });
  [search, ...limits].forEach((field) => field.addEventListener("input", show));
  document.getElementById("reset").addEventListener("click", () => {
    [search, ...limits].forEach((field) => { field.value = ""; });
    by.value = "-1"; down = true;
    sort(); show();
  });
  list.addEventListener("click", (event) => {
    const images = event.target.closest(".pics");
    if (images) images.setAttribute("aria-expanded", String(images.parentElement.classList.toggle("big")));
  });
  sort(); show();
})();
