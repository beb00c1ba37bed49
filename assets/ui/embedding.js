// Studio.words: a prompt as the model reads it: tokens as chips, pieces of one word joined, and the text embedding as a
// heat map. The value is JSON text of tabs/parts/words.py. Also here: Studio.colours, maps that the colour-blind can read.
(() => {
  const Studio = (window.Studio = window.Studio || {});
  // cividis (Nunez et al. 2018) for sizes, vik (Crameri 2018) for what has a sign; both from dark to light or to dark.
  const STOPS = {
    cividis: ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"],
    vik: ["#001261", "#033e7d", "#1e6f9d", "#71a8c4", "#c9dde7", "#eacebd", "#d39774", "#be6533", "#8b2706", "#590008"],
  };
  const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const table = (stops) => {
    const colours = stops.map(channels), rows = new Uint8Array(256 * 3);
    for (let level = 0; level < 256; level++) {
      const at = (level / 255) * (colours.length - 1), low = Math.min(colours.length - 2, Math.floor(at));
      for (let c = 0; c < 3; c++) rows[3 * level + c] = Math.round(colours[low][c] + (at - low) * (colours[low + 1][c] - colours[low][c]));
    }
    return rows;
  };
  // 256 colours of three bytes each.
  Studio.colours = Object.fromEntries(Object.entries(STOPS).map(([name, stops]) => [name, table(stops)]));
  Studio.gradient = (name) => `linear-gradient(to right, ${STOPS[name].join(", ")})`;

  const WORDS = { start: "start of the text", end: "end of the text", padding: "filled up" };
  const template = `
    <div class="ds-words-head" hidden><strong>As the model reads it</strong><span class="ds-muted ds-num ds-words-count"></span></div>
    <div class="ds-chips" role="list"></div>
    <p class="ds-cut" hidden></p><p class="ds-muted ds-words-note" hidden></p>
    <details class="ds-embedding" hidden><summary>The text as numbers</summary>
      <p class="ds-muted">What the text encoder makes of it: a row for each token, a column for each dimension. The U-Net is told nothing else.</p>
      <div class="ds-embedding-map"><div class="ds-embedding-rows" aria-hidden="true"></div><canvas role="img" aria-label="The text embedding as a heat map: a row for each token"></canvas></div>
      <div class="ds-scale"><span class="ds-num" data-end="low"></span><i></i><span class="ds-num" data-end="high"></span><span class="ds-muted ds-num ds-embedding-read"></span></div>
    </details>`;

  // Pieces of one word stand joined; runs of padding become one chip.
  const chipsOf = (tokens) => {
    const groups = [];
    for (const token of tokens) {
      const last = groups.at(-1);
      if (token.kind === "padding" && last && last.kind === "padding") last.count++;
      else if (token.kind === "piece" && last && last.kind === "piece" && last.word === token.word && last.weight === token.weight) last.pieces.push(token);
      else groups.push({ kind: token.kind, word: token.word, weight: token.weight, pieces: [token], count: 1 });
    }
    return groups;
  };
  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    node.className = className;
    node.textContent = text;
    return node;
  };
  Studio.wordChip = ({ kind, pieces, count, weight }, tag = "span") => {
    const chip = make(tag, `ds-chip ds-chip-${kind}`, "");
    if (kind !== "piece") {
      chip.textContent = count > 1 ? `${WORDS[kind]} × ${count}` : WORDS[kind];
      return chip;
    }
    for (const piece of pieces) chip.append(make("span", "ds-piece", piece.text));
    chip.title = pieces.length > 1 ? `one word in ${pieces.length} pieces: ${pieces.map((piece) => piece.text).join(" + ")}` : `token ${pieces[0].id ?? ""}`;
    if (weight !== undefined) chip.append(make("span", "ds-weight ds-num", `×${weight}`));
    return chip;
  };

  Studio.words = (element, props, watch) => {
    const root = element.querySelector(".ds-words");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "true";
    root.innerHTML = template;
    const part = (selector) => root.querySelector(selector);
    const details = part("details"), canvas = part("canvas"), cut = part(".ds-cut"), note = part(".ds-words-note");
    let value = null, levels = null;

    const drawMap = () => {
      const { rows, columns, reach } = value.embedding, image = new ImageData(columns, rows), colours = Studio.colours.vik;
      levels = Uint8Array.from(atob(value.embedding.levels), (c) => c.charCodeAt(0));
      levels.forEach((level, i) => image.data.set([colours[3 * level], colours[3 * level + 1], colours[3 * level + 2], 255], 4 * i));
      canvas.width = columns;
      canvas.height = rows;
      canvas.getContext("2d").putImageData(image, 0, 0);
      const tall = Math.max(6, Math.min(18, 340 / rows));
      canvas.style.height = `${rows * tall}px`;
      const labels = value.tokens.map((token) => make("span", `ds-row-${token.kind}`, token.kind === "piece" ? token.text : token.kind === "padding" ? "" : token.kind));
      labels.forEach((label) => { label.style.height = `${tall}px`; });
      part(".ds-embedding-rows").replaceChildren(...labels);
      part(".ds-embedding-rows").style.fontSize = `${Math.min(12, tall)}px`;
      part(".ds-scale i").style.background = Studio.gradient("vik");
      part("[data-end=low]").textContent = Studio.format(-reach);
      part("[data-end=high]").textContent = Studio.format(reach);
    };
    canvas.onpointermove = (event) => {
      const box = canvas.getBoundingClientRect(), { rows, columns, reach } = value.embedding;
      const row = Math.min(rows - 1, Math.floor(((event.clientY - box.top) / box.height) * rows));
      const column = Math.min(columns - 1, Math.floor(((event.clientX - box.left) / box.width) * columns));
      const level = levels[row * columns + column], token = value.tokens[row];
      const beyond = level === 0 || level === 255 ? " or beyond" : "";
      part(".ds-embedding-read").textContent = `${token.kind === "piece" ? token.text : WORDS[token.kind]}, dimension ${column}: ${Studio.format((level / 127.5 - 1) * reach)}${beyond}`;
    };
    canvas.onpointerleave = () => { part(".ds-embedding-read").textContent = ""; };
    details.ontoggle = () => { if (details.open && value && value.embedding) drawMap(); };

    const receive = () => {
      if (!props.value) return;
      value = JSON.parse(props.value);
      const known = Boolean(value.tokens);
      root.dataset.prompt = value.prompt || "";
      note.hidden = !value.note;
      note.textContent = value.note || "";
      part(".ds-words-head").hidden = !known && !value.note;
      cut.hidden = !value.cut_off;
      details.hidden = !value.embedding;
      if (!known) {
        part(".ds-chips").replaceChildren();
        part(".ds-words-count").textContent = "";
        return;
      }
      const chips = chipsOf(value.tokens).map((group) => Studio.wordChip(group));
      chips.forEach((chip) => chip.setAttribute("role", "listitem"));
      part(".ds-chips").replaceChildren(...chips);
      const used = value.tokens.filter(({ kind }) => kind !== "padding").length;
      const chunks = Math.max(1, value.tokens.length / value.limit);
      part(".ds-words-count").textContent = chunks > 1 ? `${used} places in ${chunks} chunks of ${value.limit}` : `${used} of ${value.limit} places`;
      if (value.cut_off) cut.replaceChildren(make("s", "", value.cut_off), make("span", "ds-muted", ` is beyond the ${value.limit} places and was not read.`));
      if (details.open && value.embedding) drawMap();
    };
    watch("value", receive);
    receive();
  };
})();
