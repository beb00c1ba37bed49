// ControlNets on the stage: the map laid over the belief at any opacity, and how much each unit adds, block by block and step by
// step. Data: film.control of tabs/parts/filmstrip.py.
(() => {
  const Studio = (window.Studio = window.Studio || {});
  const template = `
    <div class="ds-words-head"><strong>What steers it</strong><span class="ds-control-unit"></span></div>
    <label class="ds-control-over">Map over the belief <input type="range" min="0" max="100" value="0" aria-label="Opacity of the map over the belief"><span class="ds-num">0 %</span></label>
    <canvas class="ds-control-heat" role="img" aria-label="How much each block adds at each step"></canvas>
    <div class="ds-scale"><span class="ds-num">0</span><i></i><span class="ds-num" data-end="high"></span><span class="ds-muted">root mean square of what is added; a row a block, the middle last; a column a step</span></div>
    <p class="ds-muted ds-num ds-control-now"></p>`;
  const CELL = 8;

  const join = (stage) => {
    const box = document.createElement("div");
    box.className = "ds-control-extra";
    box.hidden = true;
    stage.box.after(box);
    box.innerHTML = template;
    const part = (selector) => box.querySelector(selector);
    const slider = part("input"), heat = part(".ds-control-heat");
    const overlay = Studio.overlay(stage);
    let value = null, unit = 0;

    const ready = () => value && stage.value === value;

    const drawOverlay = () => {
      part(".ds-control-over span").textContent = `${slider.value} %`;
      ready() ? overlay.show(value.control.maps[unit], Number(slider.value) / 100) : overlay.hide();
    };

    const drawHeat = () => {
      const { sizes } = value.control, colours = Studio.colours.cividis;
      heat.hidden = part(".ds-scale").hidden = !sizes;
      if (!sizes) { part(".ds-control-now").textContent = "It acted in no step."; return; }
      const rows = sizes[0][unit].length, high = Math.max(1e-9, ...sizes.flatMap((units) => units[unit]));
      heat.width = sizes.length * CELL;
      heat.height = rows * CELL;
      const context = heat.getContext("2d");
      sizes.forEach((units, column) => units[unit].forEach((size, row) => {
        const level = Math.round((255 * size) / high);
        context.fillStyle = `rgb(${colours[3 * level]} ${colours[3 * level + 1]} ${colours[3 * level + 2]})`;
        context.fillRect(column * CELL, row * CELL, CELL, CELL);
      }));
      context.strokeStyle = "#fff";
      context.lineWidth = 2;
      context.strokeRect(stage.frame * CELL + 1, 1, CELL - 2, heat.height - 2);
      part("[data-end=high]").textContent = Studio.format(high);
      part(".ds-scale i").style.background = Studio.gradient("cividis");
      const now = sizes[stage.frame][unit], most = Math.max(...now);
      part(".ds-control-now").textContent = most > 0
        ? `This step: ${Studio.format(most)} at most, in ${now.indexOf(most) === rows - 1 ? "the middle" : `block ${now.indexOf(most) + 1}`}.`
        : "This unit does not act in this step.";
    };
    const draw = () => {
      box.hidden = !ready();
      if (!ready()) overlay.hide();
      if (ready()) drawHeat();
    };

    const choose = () => {
      const { units } = value.control;
      unit = Math.min(unit, units.length - 1);
      part(".ds-control-unit").replaceChildren(...units.map(({ name, scale }, index) => {
        const button = document.createElement("button");
        button.type = "button";
        button.className = "ds-button";
        button.textContent = `${name || "unit"} ×${scale}`;
        button.setAttribute("aria-pressed", String(index === unit));
        button.onclick = () => { unit = index; choose(); drawOverlay(); draw(); };
        return button;
      }));
    };

    slider.oninput = drawOverlay;
    const film = (next) => {
      value = next.kind === "film" && next.control ? next : null;
      if (value) { choose(); queueMicrotask(drawOverlay); }
      draw();
    };
    return { film, draw };
  };
  (Studio.stageExtras = Studio.stageExtras || []).push(join);
})();
