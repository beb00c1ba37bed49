// Attention between patches on the stage: the patch under the pointer, or the one that the slider names, and where it looked at
// the step that is shown. Data: film.patches of tabs/parts/filmstrip.py.
(() => {
  const Studio = (window.Studio = window.Studio || {});
  const OVER = ["x_t", "x0_hat"];
  const template = `
    <div class="ds-words-head"><strong>Where a patch looked</strong><span class="ds-muted">choose what to see, then point at the picture or move the slider</span></div>
    <div class="ds-patch-show" role="group" aria-label="What is shown of the patch">
      <button type="button" class="ds-button" data-show="looked" aria-pressed="false">where it looked</button>
      <button type="button" class="ds-button" data-show="positions" aria-pressed="false" title="How alike the numbers are that tell each patch its place">its position</button>
    </div>
    <label class="ds-patch-choice"><input type="range" min="0" step="1" aria-label="Patch"><span class="ds-num ds-muted"></span></label>
    <div class="ds-scale"><span>not at all</span><i></i><span>most of all</span></div>
    <p class="ds-muted">The picture is cut into patches, each a token with its place added to it; in every block each patch weighs all others. This is the mean over blocks and heads.</p>`;

  const join = (stage) => {
    const box = document.createElement("div");
    box.className = "ds-patches";
    box.innerHTML = template;
    box.hidden = true;
    stage.box.parentElement.append(box);
    const slider = box.querySelector("input"), words = box.querySelector("label span");
    let maps = null, chosen = 0, overlays = [], show = null;
    const ready = () => maps && stage.value === maps.film;
    const images = () => (stage.solo === null ? [...Array(stage.value.images).keys()] : [stage.solo]);

    const lay = () => OVER.map((name) => {
      const canvas = document.createElement("canvas");
      canvas.className = "ds-attention-map";
      canvas.hidden = true;
      canvas.setAttribute("aria-hidden", "true");
      stage.panes[name].figure.append(canvas);
      stage.panes[name].canvas.addEventListener("pointermove", (event) => point(event, stage.panes[name].canvas));
      return canvas;
    });

    // Of the steps that were kept, the one nearest to what is shown.
    const frameAt = () => {
      const { frames } = maps.film.patches;
      return frames.reduce((best, place, i) => (Math.abs(place - stage.frame) < Math.abs(frames[best] - stage.frame) ? i : best), 0);
    };
    const draw = () => {
      const on = Boolean(ready());
      for (const canvas of overlays) canvas.hidden = !on || !show;
      box.hidden = !on;
      if (!on) return;
      const { tile: [w, h], columns, images: kept } = maps.film.patches, frame = frameAt(), scale = 24, colours = Studio.colours.cividis;
      words.textContent = `patch ${chosen + 1} of ${w * h}: row ${Math.floor(chosen / w) + 1}, column ${(chosen % w) + 1}`;
      for (const canvas of show ? overlays : []) {
        const layout = stage.layoutOf([w * scale, h * scale]), context = canvas.getContext("2d");
        canvas.width = layout.width;
        canvas.height = layout.height;
        canvas.style.aspectRatio = `${layout.width} / ${layout.height}`;
        images().forEach((image, i) => {
          if (image >= kept) return;
          const at = (frame * kept + image) * w * h + chosen, left = (at % columns) * w, top = Math.floor(at / columns) * h, small = new ImageData(w, h);
          for (let place = 0; place < w * h; place++) {
            const level = show === "positions" ? maps.positions[chosen * w * h + place] : maps.pixels[4 * ((top + Math.floor(place / w)) * maps.width + left + (place % w))];
            small.data.set([colours[3 * level], colours[3 * level + 1], colours[3 * level + 2], 60 + Math.round(0.6 * level)], 4 * place);
          }
          const sheet = new OffscreenCanvas(w, h), x = (i % layout.columns) * (layout.w + layout.gap), y = Math.floor(i / layout.columns) * (layout.h + layout.gap);
          sheet.getContext("2d").putImageData(small, 0, 0);
          context.imageSmoothingEnabled = false;
          context.drawImage(sheet, x, y, layout.w, layout.h);
          context.strokeStyle = "#fff";
          context.lineWidth = 2;
          context.strokeRect(x + (chosen % w) * scale + 1, y + Math.floor(chosen / w) * scale + 1, scale - 2, scale - 2);
        });
      }
    };
    for (const button of box.querySelectorAll("[data-show]")) {
      button.onclick = () => {
        show = show === button.dataset.show ? null : button.dataset.show;
        for (const other of box.querySelectorAll("[data-show]")) other.setAttribute("aria-pressed", String(other.dataset.show === show));
        draw();
      };
    }
    const choose = (patch) => { chosen = patch; slider.value = patch; draw(); };
    slider.oninput = () => choose(Number(slider.value));
    const point = (event, canvas) => {
      if (!ready()) return;
      const [w, h] = maps.film.patches.tile, layout = stage.layoutOf(), area = canvas.getBoundingClientRect();
      const x = ((event.clientX - area.left) / area.width) * layout.width, y = ((event.clientY - area.top) / area.height) * layout.height;
      const inX = x % (layout.w + layout.gap), inY = y % (layout.h + layout.gap);
      if (x < 0 || y < 0 || inX >= layout.w || inY >= layout.h) return;
      choose(Math.min(w * h - 1, Math.floor((inY / layout.h) * h) * w + Math.floor((inX / layout.w) * w)));
    };

    const film = async (value) => {
      if (value.kind !== "film" || !value.patches) { maps = null; draw(); return; }
      const bitmap = await createImageBitmap(await (await fetch(value.patches.src)).blob());
      if (stage.value !== value) return bitmap.close();
      const canvas = new OffscreenCanvas(bitmap.width, bitmap.height), context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(bitmap, 0, 0);
      maps = { film: value, width: bitmap.width, pixels: context.getImageData(0, 0, bitmap.width, bitmap.height).data };
      bitmap.close();
      const { positions } = value.patches;
      maps.positions = positions && Uint8Array.from(atob(positions), (c) => c.charCodeAt(0));
      box.querySelector("[data-show=positions]").hidden = !positions;
      if (!positions && show === "positions") show = null;
      const [w, h] = value.patches.tile;
      if (!overlays.length) overlays = lay();
      slider.max = w * h - 1;
      box.querySelector(".ds-scale i").style.background = Studio.gradient("cividis");
      choose(Math.min(chosen || Math.floor(h / 2) * w + Math.floor(w / 2), w * h - 1));
    };
    return { film, draw };
  };
  (Studio.stageExtras = Studio.stageExtras || []).push(join);
})();
