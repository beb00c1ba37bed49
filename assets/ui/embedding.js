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
  const frame = '<div class="ds-words-head" hidden><strong>As the model reads it</strong></div><p class="ds-muted ds-words-note" hidden></p><div class="ds-encoders"></div>';
  const template = `
    <div class="ds-encoder-head"><span class="ds-encoder-name"></span><span class="ds-muted ds-num ds-words-count"></span></div>
    <div class="ds-chips" role="list"></div><p class="ds-cut" hidden></p>
    <div class="ds-pooled" hidden><span></span><canvas role="img" aria-label="The pooled vector: a number for each dimension"></canvas></div>
    <details class="ds-embedding"><summary>The text as numbers</summary>
      <p class="ds-muted">What the text encoder makes of it: a row for each token, a column for each dimension. <span class="ds-embedding-told"></span></p>
      <div class="ds-embedding-map"><div class="ds-embedding-rows" aria-hidden="true"></div><canvas role="img" aria-label="The text embedding as a heat map: a row for each token"></canvas></div>
      <div class="ds-scale"><span class="ds-num" data-end="low"></span><i></i><span class="ds-num" data-end="high"></span><span class="ds-muted ds-num ds-embedding-read"></span></div>
    </details>`;
  const ALONE = "The network is told nothing else.", BESIDE = "The network is told the numbers of all encoders side by side.";

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

  // (rows, columns) bytes onto a canvas of as many pixels; gives the bytes.
  const paint = (canvas, { rows, columns, levels: packed }) => {
    const image = new ImageData(columns, rows), colours = Studio.colours.vik, levels = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
    levels.forEach((level, i) => image.data.set([colours[3 * level], colours[3 * level + 1], colours[3 * level + 2], 255], 4 * i));
    canvas.width = columns;
    canvas.height = rows;
    canvas.getContext("2d").putImageData(image, 0, 0);
    return levels;
  };

  // What one text encoder makes of the prompt. opened: which encoders' numbers are open, kept while the prompt is written.
  const encoderView = (value, alone, opened) => {
    const box = make("section", "ds-encoder", "");
    if (value.note !== undefined) {
      const line = make("p", "ds-muted ds-encoder-off", "");
      line.append(make("strong", "", value.encoder), `: ${value.note}.`);
      box.append(line);
      return box;
    }
    box.innerHTML = template;
    const part = (selector) => box.querySelector(selector), details = part("details"), canvas = part(".ds-embedding-map canvas"), cut = part(".ds-cut");
    const { rows, columns, reach } = value.embedding;
    let levels = null;
    const drawMap = () => {
      levels = paint(canvas, value.embedding);
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
      if (!levels) return;
      const area = canvas.getBoundingClientRect();
      const row = Math.min(rows - 1, Math.floor(((event.clientY - area.top) / area.height) * rows));
      const column = Math.min(columns - 1, Math.floor(((event.clientX - area.left) / area.width) * columns));
      const level = levels[row * columns + column], token = value.tokens[row];
      const beyond = level === 0 || level === 255 ? " or beyond" : "";
      part(".ds-embedding-read").textContent = `${token.kind === "piece" ? token.text : WORDS[token.kind]}, dimension ${column}: ${Studio.format((level / 127.5 - 1) * reach)}${beyond}`;
    };
    canvas.onpointerleave = () => { part(".ds-embedding-read").textContent = ""; };
    details.open = opened.has(value.encoder);
    details.ontoggle = () => {
      opened[details.open ? "add" : "delete"](value.encoder);
      if (details.open) drawMap();
    };

    part(".ds-encoder-name").textContent = alone ? "" : value.encoder;
    part(".ds-embedding-told").textContent = alone ? ALONE : BESIDE;
    const chips = chipsOf(value.tokens).map((group) => Studio.wordChip(group));
    chips.forEach((chip) => chip.setAttribute("role", "listitem"));
    part(".ds-chips").replaceChildren(...chips);
    const used = value.tokens.filter(({ kind }) => kind !== "padding").length, chunks = Math.ceil(value.tokens.length / value.limit);
    part(".ds-words-count").textContent = chunks > 1 ? `${used} places in ${chunks} chunks of ${value.limit}` : `${used} of ${value.limit} places`;
    cut.hidden = !value.cut_off;
    if (value.cut_off) cut.replaceChildren(make("s", "", value.cut_off), make("span", "ds-muted", ` is beyond the ${value.limit} places and was not read.`));
    if (value.pooled) {
      part(".ds-pooled").hidden = false;
      part(".ds-pooled span").textContent = `Pooled vector of the whole prompt: ${value.pooled.columns} numbers, norm ${Studio.format(value.pooled.norm)}`;
      paint(part(".ds-pooled canvas"), value.pooled);
    }
    return box;
  };

  Studio.words = (element, props, watch) => {
    const root = element.querySelector(".ds-words");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "true";
    root.innerHTML = frame;
    const part = (selector) => root.querySelector(selector), head = part(".ds-words-head"), note = part(".ds-words-note"), opened = new Set();

    const receive = () => {
      if (!props.value) return;
      const value = JSON.parse(props.value), encoders = value.encoders || (value.tokens ? [value] : []);
      root.dataset.prompt = value.prompt || "";
      note.hidden = !value.note;
      note.textContent = value.note || "";
      head.hidden = !encoders.length && !value.note;
      const views = encoders.map((one) => encoderView(one, encoders.length === 1, opened));
      part(".ds-encoders").replaceChildren(...views);
      // How many places one encoder alone fills stands beside the heading.
      head.replaceChildren(head.firstChild, ...(views.length === 1 ? views[0].querySelectorAll(".ds-words-count") : []));
    };
    watch("value", receive);
    receive();
  };
})();
