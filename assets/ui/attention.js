// Word attention on the stage: chips of the prompt's words; the chosen one's map lies over the pictures of the step that
// is shown, and the place under the pointer ranks the words. Data: film.attention of tabs/parts/filmstrip.py.
(() => {
  const Studio = (window.Studio = window.Studio || {});
  const OVER = ["x_t", "x0_hat"];
  const RANKED = 4;
  const template = `
    <div class="ds-words-head"><strong>Where it looked</strong><span class="ds-muted">choose a word, or hover the picture</span></div>
    <div class="ds-chips" role="group" aria-label="Words of the prompt"></div>
    <div class="ds-scale" hidden><span class="ds-num">0 %</span><i></i><span class="ds-num" data-end="high"></span><span class="ds-muted ds-attention-words"></span></div>
    <ol class="ds-ranked" aria-live="off"></ol>`;
  const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;

  const join = (stage) => {
    stage.box.innerHTML = template;
    const part = (selector) => stage.box.querySelector(selector);
    let maps = null, chosen = null, words = [], overlays = [];

    const lay = () => OVER.map((name) => {
      const canvas = document.createElement("canvas");
      canvas.className = "ds-attention-map";
      canvas.hidden = true;
      canvas.setAttribute("aria-hidden", "true");
      stage.panes[name].figure.append(canvas);
      stage.panes[name].canvas.addEventListener("pointermove", (event) => rank(event, stage.panes[name].canvas));
      stage.panes[name].canvas.addEventListener("pointerleave", () => { part(".ds-ranked").replaceChildren(); });
      return canvas;
    });

    // The share of attention that a place (row by row) gave a word: its pieces together.
    const shareOf = (word, image, place) => {
      const { attention, images } = maps.film, [w] = attention.tile, pieces = attention.pieces.length;
      return words[word].pieces.reduce((sum, piece) => {
        const tile = (stage.frame * images + image) * pieces + piece;
        const x = (tile % attention.columns) * w + (place % w), y = Math.floor(tile / attention.columns) * attention.tile[1] + Math.floor(place / w);
        return sum + (maps.pixels[4 * (y * maps.width + x)] / 255) * attention.scale[piece];
      }, 0);
    };
    const mapOf = (word, image) => {
      const [w, h] = maps.film.attention.tile;
      return Float32Array.from({ length: w * h }, (_, place) => shareOf(word, image, place));
    };
    const shownImages = () => (stage.solo === null ? [...Array(maps.film.images).keys()] : [stage.solo]);
    const ready = () => maps && stage.value === maps.film;

    const draw = () => {
      const on = ready() && chosen !== null;
      for (const canvas of overlays) canvas.hidden = !on;
      part(".ds-scale").hidden = !on;
      stage.box.hidden = !ready();
      if (!on) return;
      const images = shownImages(), all = images.map((image) => mapOf(chosen, image));
      const high = Math.max(1e-6, ...all.map((map) => Math.max(...map)));
      overlays.forEach((canvas) => paint(canvas, all, high));
      part("[data-end=high]").textContent = percent(high);
      part(".ds-scale i").style.background = Studio.gradient("cividis");
      part(".ds-attention-words").textContent = `of each place's attention went to “${words[chosen].text}” at this step`;
    };

    const paint = (canvas, all, high) => {
      const [w, h] = maps.film.attention.tile, scale = 8, box = stage.layoutOf([w * scale, h * scale]), context = canvas.getContext("2d");
      canvas.width = box.width;
      canvas.height = box.height;
      canvas.style.aspectRatio = `${box.width} / ${box.height}`;
      all.forEach((map, i) => {
        const image = new ImageData(w, h), colours = Studio.colours.cividis;
        map.forEach((share, place) => {
          const level = Math.round((255 * share) / high);
          image.data.set([colours[3 * level], colours[3 * level + 1], colours[3 * level + 2], 70 + Math.round(0.55 * level)], 4 * place);
        });
        const small = new OffscreenCanvas(w, h);
        small.getContext("2d").putImageData(image, 0, 0);
        context.drawImage(small, (i % box.columns) * (box.w + box.gap), Math.floor(i / box.columns) * (box.h + box.gap), box.w, box.h);
      });
    };

    const rank = (event, canvas) => {
      if (!ready()) return;
      const [w, h] = maps.film.attention.tile, box = stage.layoutOf(), area = canvas.getBoundingClientRect();
      const x = ((event.clientX - area.left) / area.width) * box.width, y = ((event.clientY - area.top) / area.height) * box.height;
      const column = Math.floor(x / (box.w + box.gap)), row = Math.floor(y / (box.h + box.gap)), inX = x - column * (box.w + box.gap), inY = y - row * (box.h + box.gap);
      const image = shownImages()[row * box.columns + column];
      if (image === undefined || inX >= box.w || inY >= box.h || inX < 0 || inY < 0) return;
      const place = Math.floor((inY / box.h) * h) * w + Math.floor((inX / box.w) * w);
      const shares = words.map((word, index) => ({ text: word.text, share: shareOf(index, image, place) })).sort((a, b) => b.share - a.share).slice(0, RANKED);
      part(".ds-ranked").replaceChildren(...shares.map(({ text, share }) => {
        const item = document.createElement("li"), bar = document.createElement("i"), name = document.createElement("span"), number = document.createElement("span");
        bar.style.width = `${(100 * share) / Math.max(1e-6, shares[0].share)}%`;
        name.textContent = text;
        number.className = "ds-num";
        number.textContent = percent(share);
        item.append(bar, name, number);
        return item;
      }));
    };

    const wordsOf = ({ pieces }) => {
      const byWord = new Map();
      pieces.forEach((piece, index) => {
        const word = byWord.get(piece.word) || { text: "", pieces: [], kind: "piece", shown: [] };
        word.text += piece.text;
        word.pieces.push(index);
        word.shown.push(piece);
        byWord.set(piece.word, word);
      });
      return [...byWord.values()];
    };
    const drawChips = () => {
      part(".ds-chips").replaceChildren(...words.map((word, index) => {
        const chip = Studio.wordChip({ kind: "piece", pieces: word.shown, count: 1 }, "button");
        chip.type = "button";
        chip.title = `Show where “${word.text}” was looked at`;
        chip.setAttribute("aria-pressed", String(index === chosen));
        chip.onclick = () => {
          chosen = index === chosen ? null : index;
          [...part(".ds-chips").children].forEach((other, i) => other.setAttribute("aria-pressed", String(i === chosen)));
          draw();
        };
        return chip;
      }));
    };

    const film = async (value) => {
      if (value.kind !== "film" || !value.attention) { maps = null; draw(); return; }
      const bitmap = await createImageBitmap(await (await fetch(value.attention.src)).blob());
      if (stage.value !== value) return bitmap.close();
      const canvas = new OffscreenCanvas(bitmap.width, bitmap.height), context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(bitmap, 0, 0);
      const before = chosen !== null && words[chosen] ? words[chosen].text : null;
      maps = { film: value, width: bitmap.width, pixels: context.getImageData(0, 0, bitmap.width, bitmap.height).data };
      bitmap.close();
      words = wordsOf(value.attention);
      if (!overlays.length) overlays = lay();
      const again = words.findIndex((word) => word.text === before);
      chosen = again < 0 ? null : again;
      part(".ds-ranked").replaceChildren();
      drawChips();
      draw();
    };
    return { film, draw };
  };
  (Studio.stageExtras = Studio.stageExtras || []).push(join);
})();
