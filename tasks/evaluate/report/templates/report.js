"use strict";
(() => {
  const data = JSON.parse(document.getElementById("edits").textContent);
  const table = document.getElementById("edit-table");
  const head = table.tHead.rows[0];
  const body = table.tBodies[0];
  const search = document.getElementById("edit-search");
  const method = document.getElementById("edit-method");
  const more = document.getElementById("edit-more");
  const count = document.getElementById("edit-count");
  const step = 50;
  let shown = step;
  let column = 0;
  let down = false;
  let found = [];

  const compare = (a, b) => {
    if (a === b) return 0;
    if (a === null || b === null) return a === null ? 1 : -1;
    const order = typeof a === "string" ? a.localeCompare(b, "en") : a - b;
    return down ? -order : order;
  };
  const draw = () => {
    body.replaceChildren(...found.slice(0, shown).map((row) => {
      const line = document.createElement("tr");
      row.forEach((value, i) => {
        const cell = document.createElement(i ? "td" : "th");
        if (!i) cell.scope = "row";
        if (i === 1) cell.className = "text";
        cell.textContent = value === null ? "–" : value;
        line.append(cell);
      });
      return line;
    }));
    count.textContent = `${Math.min(shown, found.length).toLocaleString("en")} of ${found.length.toLocaleString("en")}`;
    more.hidden = shown >= found.length;
  };
  const select = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    found = data.rows.filter((row) => {
      const text = `${row[0]} ${row[1]}`.toLowerCase();
      return (!method.value || row[1] === method.value) && words.every((word) => text.includes(word));
    });
    found.sort((a, b) => compare(a[column], b[column]));
    shown = step;
    draw();
  };

  data.heads.forEach((entry, i) => {
    const cell = document.createElement("th");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = entry.name;
    button.addEventListener("click", () => {
      down = column === i ? !down : entry.kind === "number";
      column = i;
      [...head.cells].forEach((other) => other.removeAttribute("aria-sort"));
      cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      select();
    });
    if (i === 1) cell.className = "text";
    cell.append(button);
    if (entry.unit) {
      const unit = document.createElement("span");
      unit.textContent = entry.unit;
      cell.append(unit);
    }
    head.append(cell);
  });
  [...new Set(data.rows.map((row) => row[1]))].sort().forEach((name) => method.append(new Option(name, name)));
  search.addEventListener("input", select);
  method.addEventListener("change", select);
  more.addEventListener("click", () => { shown += 4 * step; draw(); });
  select();
})();
