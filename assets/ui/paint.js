// Studio.paint: the map of a ControlNet unit. It is shown as the net gets it, and it can be drawn on: white strokes make a map
// of one's own, and a mask says where in the picture the unit acts.
//
//   props.value  JSON text of {map: PNG as data URI or "", width, height, mask: data URI or "", binary}, see tabs/parts/units.py
//   The template's data-modes names the tools, of "look draw erase mask"; data-mask is what the last is called.
//   The event `select` brings {what: "map" or "mask", png: data URI or ""} when a stroke has ended.
(() => {
  const Studio = (window.Studio = window.Studio || {});
  const MODES = { look: "Look", draw: "Draw", erase: "Erase", mask: "Mask" };
  const templateOf = (modes) => `
    <div class="ds-paint-board"><canvas class="ds-paint-map" role="img" aria-label="The map of this unit"></canvas><canvas class="ds-paint-mask" aria-hidden="true"></canvas></div>
    <div class="ds-paint-tools" role="group" aria-label="What the pointer does on the map">
      ${modes.map(([mode, label]) => `<button type="button" class="ds-button" data-mode="${mode}" aria-pressed="${mode === "look"}">${label}</button>`).join("")}
      <label class="ds-paint-size">Brush <input type="range" min="1" max="12" value="2" aria-label="Width of the brush"></label>
      <button type="button" class="ds-button" data-clear>Clear</button>
    </div>`;

  Studio.paint = (element, props, watch, trigger) => {
    const root = element.querySelector(".ds-paint");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "true";
    // data-modes: those that there are; data-mask: what the last is called.
    const given = root.dataset.modes ? root.dataset.modes.split(" ") : Object.keys(MODES);
    root.innerHTML = templateOf(given.map((name) => [name, (name === "mask" && root.dataset.mask) || MODES[name]]));
    const part = (selector) => root.querySelector(selector);
    const board = part(".ds-paint-board"), canvas = part(".ds-paint-map"), over = part(".ds-paint-mask");
    const context = canvas.getContext("2d", { willReadFrequently: true }), masked = over.getContext("2d", { willReadFrequently: true });
    let mode = "look", binary = false, last = null, asked = 0;

    const fill = (target, colour) => { target.fillStyle = colour; target.fillRect(0, 0, canvas.width, canvas.height); };
    const sized = (width, height) => {
      if (canvas.width === width && canvas.height === height) return;
      for (const one of [canvas, over]) { one.width = width; one.height = height; }
      board.style.aspectRatio = `${width} / ${height}`;
      fill(context, "#000");
    };
    // The mask as it lies over the map: what is left out is veiled.
    const veil = (uri) => {
      masked.clearRect(0, 0, over.width, over.height);
      if (!uri) return;
      const ticket = asked, image = new Image();
      image.onload = () => { if (ticket === asked) { masked.drawImage(image, 0, 0); toVeil(); } };
      image.src = uri;
    };
    // White and black of a mask become clear and veiled; and back.
    const toVeil = () => {
      const pixels = masked.getImageData(0, 0, over.width, over.height);
      for (let i = 0; i < pixels.data.length; i += 4) {
        const inside = pixels.data[i] > 127;
        pixels.data.set([91, 112, 131, inside ? 0 : 190], i);
      }
      masked.putImageData(pixels, 0, 0);
    };
    const maskPng = () => {
      const copy = document.createElement("canvas"), target = copy.getContext("2d");
      copy.width = over.width;
      copy.height = over.height;
      const pixels = masked.getImageData(0, 0, over.width, over.height);
      let veiled = false;
      for (let i = 0; i < pixels.data.length; i += 4) {
        const level = pixels.data[i + 3] > 60 ? 0 : 255;
        veiled = veiled || level === 0;
        pixels.data.set([level, level, level, 255], i);
      }
      target.putImageData(pixels, 0, 0);
      return veiled ? copy.toDataURL("image/png") : "";
    };

    const receive = () => {
      if (!props.value) return;
      let next;
      try { next = JSON.parse(props.value); } catch { return; }
      const ticket = ++asked;
      sized(next.width, next.height);
      binary = Boolean(next.binary);
      veil(next.mask);
      root.dataset.map = next.map ? "given" : "none";
      if (!next.map) { fill(context, "#000"); return; }
      const image = new Image();
      image.onload = () => {
        if (ticket !== asked) return;
        context.imageSmoothingEnabled = false;
        context.drawImage(image, 0, 0, canvas.width, canvas.height);
        root.dataset.shown = String(ticket);
      };
      image.src = next.map;
    };

    const placeOf = (event) => {
      const area = board.getBoundingClientRect();
      return [((event.clientX - area.left) / area.width) * canvas.width, ((event.clientY - area.top) / area.height) * canvas.height];
    };
    // Whole pixels, so that a map of two values stays one.
    const dab = (target, [x, y], paint) => {
      const width = Math.max(1, Math.round(Number(part("input").value) * canvas.width / 128));
      const left = Math.round(x - width / 2), top = Math.round(y - width / 2);
      if (paint === null) target.clearRect(left, top, width, width);
      else { target.fillStyle = paint; target.fillRect(left, top, width, width); }
    };
    const stroke = (to) => {
      const [target, paint] = { draw: [context, "#fff"], erase: [context, "#000"], mask: [masked, null] }[mode];
      const count = Math.max(1, Math.ceil(Math.hypot(to[0] - last[0], to[1] - last[1])));
      for (let i = 1; i <= count; i++) dab(target, [last[0] + ((to[0] - last[0]) * i) / count, last[1] + ((to[1] - last[1]) * i) / count], paint);
      last = to;
    };

    board.addEventListener("pointerdown", (event) => {
      if (mode === "look" || event.button) return;
      event.preventDefault();
      board.setPointerCapture(event.pointerId);
      // Strokes of a map of one's own begin on black, unless there are white lines to go on with.
      if (mode !== "mask" && !binary) { fill(context, "#000"); binary = true; }
      // The first stroke of a mask leaves everything else out.
      if (mode === "mask" && !maskPng()) { masked.fillStyle = "rgb(91 112 131 / .745)"; masked.fillRect(0, 0, over.width, over.height); }
      last = placeOf(event);
      stroke(last);
    });
    board.addEventListener("pointermove", (event) => { if (last) stroke(placeOf(event)); });
    const end = () => {
      if (!last) return;
      last = null;
      asked++;
      trigger("select", mode === "mask" ? { what: "mask", png: maskPng() } : { what: "map", png: canvas.toDataURL("image/png") });
    };
    board.addEventListener("pointerup", end);
    board.addEventListener("pointercancel", end);

    for (const button of root.querySelectorAll("[data-mode]")) {
      button.onclick = () => {
        mode = button.dataset.mode;
        root.dataset.mode = mode;
        for (const other of root.querySelectorAll("[data-mode]")) other.setAttribute("aria-pressed", String(other === button));
      };
    }
    part("[data-clear]").onclick = () => {
      asked++;
      if (mode === "mask" || !given.includes("draw")) { masked.clearRect(0, 0, over.width, over.height); trigger("select", { what: "mask", png: "" }); return; }
      fill(context, "#000");
      binary = true;
      trigger("select", { what: "map", png: canvas.toDataURL("image/png") });
    };
    sized(64, 64);
    watch("value", receive);
    receive();
  };
})();
