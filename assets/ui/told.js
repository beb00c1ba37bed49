// What the network was told in pictures: small pictures beside the stage, and those of the same place laid over the belief.
// Data: film.told of tabs/parts/filmstrip.py.
(() => {
  const Studio = (window.Studio = window.Studio || {});
  const template = `
    <div class="ds-words-head"><strong>What it is told</strong></div>
    <div class="ds-told-pictures"></div>
    <label class="ds-control-over ds-told-over">Over the belief <input type="range" min="0" max="100" value="0" aria-label="Opacity of it over the belief"><span class="ds-num">0 %</span></label>`;

  const join = (stage) => {
    const box = document.createElement("div");
    box.className = "ds-control-extra ds-told-extra";
    box.hidden = true;
    stage.box.after(box);
    box.innerHTML = template;
    const part = (selector) => box.querySelector(selector);
    const slider = part("input"), overlay = Studio.overlay(stage);
    let value = null, chosen = null;

    const ready = () => value && stage.value === value;
    const drawOverlay = () => {
      part(".ds-told-over span").textContent = `${slider.value} %`;
      ready() && chosen ? overlay.show(chosen.sources[0], Number(slider.value) / 100) : overlay.hide();
    };
    const choose = (one) => {
      chosen = one;
      for (const button of box.querySelectorAll("button")) button.setAttribute("aria-pressed", String(Boolean(one) && button.dataset.told === one.name));
      part(".ds-told-over").hidden = !one;
      drawOverlay();
    };
    const pictures = () => value.told.flatMap((one) => one.sources.map((source, index) => {
      const frame = document.createElement(one.over ? "button" : "figure");
      if (one.over) {
        frame.type = "button";
        frame.title = "Lay this one over the belief";
        frame.onclick = () => choose(one);
      }
      frame.className = "ds-told-picture";
      frame.dataset.told = one.name;
      const image = new Image(), words = document.createElement("span");
      image.src = source;
      image.alt = one.label;
      words.className = "ds-muted";
      words.textContent = one.sources.length > 1 ? `${one.label} ${index + 1}` : one.label;
      frame.append(image, words);
      return frame;
    }));

    slider.oninput = drawOverlay;
    const draw = () => {
      box.hidden = !ready();
      if (!ready()) overlay.hide();
    };
    const film = (next) => {
      value = next.kind === "film" && next.told && next.told.length ? next : null;
      if (value) {
        part(".ds-told-pictures").replaceChildren(...pictures());
        const last = value.told.filter((one) => one.over).at(-1) || null;
        queueMicrotask(() => choose(value && last));
      }
      draw();
    };
    return { film, draw };
  };
  (Studio.stageExtras = Studio.stageExtras || []).push(join);
})();
