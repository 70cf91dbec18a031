"use strict";
(() => {
  const token = document.querySelector("meta[name=iedit-token]").content;
  const at = (id) => document.getElementById(id);
  const list = at("list"), image = at("image"), canvas = at("mask"), status = at("status");
  const brush = canvas.getContext("2d", { willReadFrequently: true });
  const colour = "rgb(255, 45, 140)";
  let pairs = [], current = null, erasing = false, drawing = false, last = null, dirty = false, history = [];

  const say = (words, kind = "") => { status.textContent = words; status.className = kind; };
  const label = (pair) => (pair.origin === "none" ? "no mask yet" : `mask: ${pair.origin}`);
  const snapshot = () => brush.getImageData(0, 0, canvas.width, canvas.height);

  const remember = () => {
    history.push(snapshot());
    if (history.length > 20) history.shift();
    at("undo").disabled = false;
    dirty = true;
  };
  const mode = (erase) => {
    erasing = erase;
    at("paint").setAttribute("aria-pressed", String(!erase));
    at("erase").setAttribute("aria-pressed", String(erase));
  };
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height];
  };
  const stroke = (from, to) => {
    brush.globalCompositeOperation = erasing ? "destination-out" : "source-over";
    brush.strokeStyle = brush.fillStyle = colour;
    brush.lineCap = brush.lineJoin = "round";
    brush.lineWidth = Math.max(1, Number(at("size").value) / 100 * Math.max(canvas.width, canvas.height) / 2);
    brush.beginPath();
    brush.moveTo(...from);
    brush.lineTo(to[0] + 0.01, to[1]);
    brush.stroke();
  };
  const show = () => {
    const words = at("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    list.replaceChildren(...pairs.filter((pair) => {
      const text = `${pair.id} ${pair.source} ${pair.edit} ${pair.word ?? ""} ${pair.origin}`.toLowerCase();
      return words.every((word) => text.includes(word));
    }).map((pair) => {
      const item = document.createElement("li"), button = document.createElement("button");
      const small = document.createElement("small");
      button.type = "button";
      button.textContent = `${pair.id}: ${pair.edit}`;
      small.textContent = label(pair);
      button.append(small);
      button.setAttribute("aria-current", String(pair === current));
      button.addEventListener("click", () => open(pair));
      item.append(button);
      return item;
    }));
  };
  const load = (address) => new Promise((resolve, reject) => {
    const picture = new Image();
    picture.onload = () => resolve(picture);
    picture.onerror = () => reject(new Error(`${address} cannot be loaded`));
    picture.src = address;
  });
  const open = async (pair) => {
    if (dirty && !window.confirm("The mask of this pair is not saved. Leave it?")) return;
    current = pair;
    dirty = false;
    history = [];
    at("undo").disabled = true;
    show();
    const words = document.createElement("b");
    words.textContent = `\u2192 ${pair.edit}`;
    at("words").replaceChildren(`${pair.source}${pair.word ? ` (word: ${pair.word})` : ""}`, words);
    try {
      const [picture, mask] = await Promise.all([load(`/image/${pair.id}`), load(`/mask/${pair.id}?${Date.now()}`)]);
      if (current !== pair) return;
      image.src = picture.src;
      image.alt = pair.source;
      canvas.width = picture.naturalWidth;
      canvas.height = picture.naturalHeight;
      at("stage").classList.toggle("fine", picture.naturalWidth <= 128);
      brush.drawImage(mask, 0, 0);
      const pixels = snapshot();
      for (let i = 0; i < pixels.data.length; i += 4) {
        const inside = pixels.data[i] >= 128;
        pixels.data.set(inside ? [255, 45, 140, 255] : [0, 0, 0, 0], i);
      }
      brush.putImageData(pixels, 0, 0);
      say(label(pair));
    } catch (error) {
      say(error.message, "bad");
    }
  };
  const exported = () => new Promise((resolve) => {
    const out = document.createElement("canvas");
    out.width = canvas.width;
    out.height = canvas.height;
    const target = out.getContext("2d"), pixels = snapshot();
    for (let i = 0; i < pixels.data.length; i += 4) {
      const level = pixels.data[i + 3] >= 128 ? 255 : 0;
      pixels.data.set([level, level, level, 255], i);
    }
    target.putImageData(pixels, 0, 0);
    out.toBlob(resolve, "image/png");
  });
  const save = async () => {
    if (!current) return;
    const pair = current;
    at("save").disabled = true;
    try {
      const answer = await fetch(`/mask/${pair.id}`, {
        method: "POST", headers: { "X-Iedit-Token": token, "Content-Type": "image/png" }, body: await exported(),
      });
      const found = await answer.json();
      if (!answer.ok) throw new Error(found.error);
      pair.origin = found.origin;
      dirty = false;
      show();
      say(`Saved: ${found.inside} of ${found.pixels} pixels are inside.`, "good");
    } catch (error) {
      say(`Not saved: ${error.message}`, "bad");
    } finally {
      at("save").disabled = false;
    }
  };

  canvas.addEventListener("pointerdown", (event) => {
    if (!current) return;
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    remember();
    drawing = true;
    last = place(event);
    stroke(last, last);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!drawing) return;
    const next = place(event);
    stroke(last, next);
    last = next;
  });
  ["pointerup", "pointercancel"].forEach((name) => canvas.addEventListener(name, () => { drawing = false; }));
  at("paint").addEventListener("click", () => mode(false));
  at("erase").addEventListener("click", () => mode(true));
  at("undo").addEventListener("click", () => {
    if (history.length) brush.putImageData(history.pop(), 0, 0);
    at("undo").disabled = !history.length;
  });
  at("clear").addEventListener("click", () => { remember(); brush.clearRect(0, 0, canvas.width, canvas.height); });
  at("invert").addEventListener("click", () => {
    remember();
    const pixels = snapshot();
    for (let i = 0; i < pixels.data.length; i += 4) {
      pixels.data.set(pixels.data[i + 3] >= 128 ? [0, 0, 0, 0] : [255, 45, 140, 255], i);
    }
    brush.putImageData(pixels, 0, 0);
  });
  at("save").addEventListener("click", save);
  at("filter").addEventListener("input", show);
  window.addEventListener("beforeunload", (event) => { if (dirty) event.preventDefault(); });

  (async () => {
    const answer = await fetch("/pairs.json");
    const found = await answer.json();
    pairs = found.pairs;
    at("title").textContent = `Paint masks: ${found.name}`;
    show();
    if (pairs.length) await open(pairs.find((pair) => pair.origin === "none") ?? pairs[0]);
  })();
})();
