// Studio.anatomy: a model's parts as a diagram and a table. Studio.roundTrip: a picture through the VAE and back.
// The values are JSON text of tabs/anatomy.py.
(() => {
  const Studio = (window.Studio = window.Studio || {});
  const make = (tag, className = "", text = "") => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    node.textContent = text;
    return node;
  };
  const count = (n) => (n >= 1e9 ? `${(n / 1e9).toFixed(2)} G` : n >= 1e6 ? `${(n / 1e6).toFixed(2)} M` : n >= 1e3 ? `${(n / 1e3).toFixed(1)} k` : String(n));
  const mib = (n) => (n >= 1024 ? `${(n / 1024).toFixed(2)} GiB` : `${n.toFixed(n < 10 ? 2 : 0)} MiB`);
  // Without the batch: one picture goes through.
  const shape = (dims) => (dims.length ? dims.slice(1).join(" × ") : "–");

  // What a person meets before and after each network.
  const FLOW = { text_encoder: ["prompt", "states"], unet: ["latents, t, states", "prediction"], transformer: ["latents, t, condition", "prediction"], "vae.encoder": ["picture", "mean and variance"], "vae.decoder": ["latents", "picture"] };

  const cardOf = (part, blocks, most) => {
    const [before, after] = FLOW[part.name] || ["", ""], card = make("section", "ds-part");
    card.append(make("h4", "", part.label), make("div", "ds-part-flow ds-num", `${before} ${shape(part.shape_in)}  →  ${after} ${shape(part.shape_out)}`));
    card.append(make("div", "ds-part-size ds-num", `${count(part.parameters)} parameters, ${mib(part.memory_mib)}`));
    const bars = make("div", "ds-part-bars");
    for (const block of blocks) {
      const bar = make("i");
      // As deep as its share of the numbers; down, middle and up stand in the order of the data.
      bar.style.height = `${Math.max(3, (54 * block.parameters) / most)}px`;
      bar.title = `${block.label}: ${count(block.parameters)}, ${shape(block.shape_in)} → ${shape(block.shape_out)}`;
      bars.append(bar);
    }
    if (blocks.length) card.append(bars);
    return card;
  };

  const groupsOf = (parts) => {
    const groups = [];
    for (const part of parts) part.depth === 0 ? groups.push({ part, blocks: [] }) : groups.at(-1).blocks.push(part);
    return groups;
  };

  const rowOf = (part, total) => {
    const row = make("tr", part.depth ? "ds-part-inner" : "ds-part-whole");
    const share = make("td", "ds-part-share");
    const bar = make("i");
    bar.style.width = `${(100 * part.parameters) / total}%`;
    share.append(bar);
    row.append(make("th", "", part.label), make("td", "", shape(part.shape_in)), make("td", "", shape(part.shape_out)), make("td", "", count(part.parameters)), make("td", "", mib(part.memory_mib)), share);
    row.firstChild.scope = "row";
    row.title = part.name;
    return row;
  };

  const bytes = (packed) => Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  // (h, w) bytes as a picture of so many pixels.
  const mapOf = (levels, [h, w], colours) => {
    const canvas = make("canvas"), image = new ImageData(w, h);
    levels.forEach((level, i) => image.data.set([colours[3 * level], colours[3 * level + 1], colours[3 * level + 2], 255], 4 * i));
    canvas.width = w;
    canvas.height = h;
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  };

  // The patches of a transformer: the picture cut up, how alike the chosen place is to the others, and some dimensions of what tells places apart.
  const patchesOf = (told) => {
    const [rows, columns] = told.grid, [h, w] = told.alike.grid, alike = bytes(told.alike.levels), { indices, reach, levels: packed } = told.dimensions;
    const box = make("section", "ds-anatomy-patches"), pair = make("div", "ds-panes"), words = make("span", "ds-num ds-muted"), slider = make("input");
    const pane = (caption) => {
      const figure = make("figure", "ds-pane"), canvas = make("canvas");
      figure.append(make("figcaption", "ds-muted", caption), canvas);
      pair.append(figure);
      return canvas;
    };
    const cut = pane(`the picture in ${rows} × ${columns} patches`);
    const places = pane(h === rows ? "how alike the places are to its own" : `how alike the places are to its own, ${rows / h} × ${columns / w} patches together`);
    const picture = new Image(), scale = Math.max(1, Math.round(480 / Math.max(rows, columns)));
    let chosen = Math.floor(rows / 2) * columns + Math.floor(columns / 2);
    const outline = (context, x, y, across, down, width) => {
      for (const [style, line] of [["#000", width + 2], ["#fff", width]]) {
        context.strokeStyle = style;
        context.lineWidth = line;
        context.strokeRect(x, y, across, down);
      }
    };
    const draw = () => {
      const row = Math.floor(chosen / columns), column = chosen % columns, context = cut.getContext("2d"), beside = places.getContext("2d");
      for (const canvas of [cut, places]) {
        canvas.width = columns * scale;
        canvas.height = rows * scale;
      }
      context.imageSmoothingEnabled = picture.width > cut.width;
      if (picture.complete) context.drawImage(picture, 0, 0, cut.width, cut.height);
      context.beginPath();
      for (let x = 1; x < columns; x++) { context.moveTo(x * scale, 0); context.lineTo(x * scale, cut.height); }
      for (let y = 1; y < rows; y++) { context.moveTo(0, y * scale); context.lineTo(cut.width, y * scale); }
      for (const [style, line] of [["rgba(0, 0, 0, 0.25)", 3], ["rgba(255, 255, 255, 0.75)", 1]]) {
        context.strokeStyle = style;
        context.lineWidth = line;
        context.stroke();
      }
      outline(context, column * scale, row * scale, scale, scale, 2);
      const at = Math.floor((row * h) / rows) * w + Math.floor((column * w) / columns), tall = places.height / h, wide = places.width / w;
      beside.imageSmoothingEnabled = false;
      beside.drawImage(mapOf(alike.subarray(at * h * w, (at + 1) * h * w), [h, w], Studio.colours.cividis), 0, 0, places.width, places.height);
      outline(beside, (at % w) * wide, Math.floor(at / w) * tall, wide, tall, 2);
      words.textContent = `patch ${chosen + 1} of ${rows * columns}: row ${row + 1}, column ${column + 1}`;
      slider.value = chosen;
      box.dataset.patch = chosen;
    };
    const choose = (patch) => { chosen = patch; draw(); };
    for (const canvas of [cut, places]) {
      canvas.onpointermove = (event) => {
        const area = canvas.getBoundingClientRect(), within = (share, most) => Math.max(0, Math.min(most - 1, Math.floor(share * most)));
        choose(within((event.clientY - area.top) / area.height, rows) * columns + within((event.clientX - area.left) / area.width, columns));
      };
    }
    Object.assign(slider, { type: "range", min: 0, max: rows * columns - 1, step: 1, ariaLabel: "Patch", oninput: () => choose(Number(slider.value)) });
    const choice = make("label", "ds-patch-choice"), scaleLine = make("div", "ds-scale"), bar = make("i"), waves = make("div", "ds-waves"), levels = bytes(packed);
    choice.append(slider, words);
    bar.style.background = Studio.gradient("cividis");
    scaleLine.append(make("span", "", "not at all"), bar, make("span", "", "the same place"));
    indices.forEach((index, i) => {
      const figure = make("figure"), canvas = mapOf(levels.subarray(i * rows * columns, (i + 1) * rows * columns), [rows, columns], Studio.colours.vik);
      canvas.title = `dimension ${index} of ${told.width}, from ${Studio.format(-reach)} to ${Studio.format(reach)}`;
      figure.append(canvas, make("figcaption", "ds-num ds-muted", String(index)));
      waves.append(figure);
    });
    const { side, channels, pixels, width } = told;
    box.append(
      make("h4", "", "Patches and positions"),
      make("p", "ds-num", `A patch is ${pixels} × ${pixels} pixels: ${side} × ${side} latents of ${channels} channels, ${side * side * channels} numbers, which become a token of ${width}. A vector that stands for its place is added to it; nothing else says where it lies.`),
      pair, choice, scaleLine,
      make("p", "ds-muted", `Some of the ${width} dimensions of those vectors, each over all patches: sines and cosines of row or column, from short waves to long ones.`), waves,
    );
    picture.onload = draw;
    picture.src = told.picture;
    draw();
    return box;
  };

  Studio.anatomy = (element, props, watch) => {
    const root = element.querySelector(".ds-anatomy");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "true";

    const receive = () => {
      if (!props.value) return;
      const { parts, title, patches } = JSON.parse(props.value), groups = groupsOf(parts);
      const whole = groups.map(({ part }) => part), total = whole.reduce((sum, part) => sum + part.parameters, 0);
      const diagram = make("div", "ds-parts");
      const most = Math.max(1, ...groups.flatMap(({ blocks }) => blocks.map((block) => block.parameters)));
      groups.forEach(({ part, blocks }) => diagram.append(cardOf(part, blocks, most)));
      const box = make("div", "ds-part-table"), table = make("table"), head = make("tr");
      for (const title of ["Part", "in", "out", "parameters", "memory", "share"]) head.append(make("th", "", title));
      const header = make("thead"), body = make("tbody");
      header.append(head);
      body.append(...parts.map((part) => rowOf(part, total)));
      table.append(header, body);
      box.append(table);
      const memory = whole.reduce((sum, part) => sum + part.memory_mib, 0);
      root.replaceChildren(...Studio.heading(title), diagram, make("p", "ds-num ds-muted", `In all ${count(total)} parameters, ${mib(memory)}. Shapes are channels × height × width, or tokens × features, of one picture.`), box);
      if (patches) root.append(patchesOf(patches));
      root.dataset.parts = parts.length;
    };
    watch("value", receive);
    receive();
  };

  Studio.roundTrip = (element, props, watch) => {
    const root = element.querySelector(".ds-trip");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "true";
    root.innerHTML = '<div class="ds-empty">Take a picture, or drop your own, and press There and back.</div>';
    const figure = (source, words) => {
      const box = make("figure", "ds-pane"), image = new Image();
      image.src = source;
      image.alt = words;
      box.append(make("figcaption", "ds-muted", words), image);
      return box;
    };
    const receive = () => {
      if (!props.value) return;
      const value = JSON.parse(props.value), [w, h] = value.size, [channels, lh, lw] = value.shape;
      const pair = make("div", "ds-panes"), row = make("div", "ds-channels");
      pair.append(figure(value.original, `the picture, ${w} × ${h}`), figure(value.reconstruction, value.perturb ? `back, latents moved by ${value.perturb}` : "there and back"));
      value.channels.forEach((source, i) => row.append(figure(source, `latent channel ${i + 1}`)));
      const saved = (3 * w * h) / (channels * lw * lh);
      const words = make("p", "ds-num");
      words.append(make("strong", "ds-psnr", value.psnr_db === null ? "the very same" : `PSNR ${value.psnr_db.toFixed(1)} dB`));
      words.append(make("span", "ds-muted", `  ·  ${channels} × ${lh} × ${lw} latents, ${saved.toFixed(0)} times fewer numbers  ·  mean ${Studio.format(value.mean)}, deviation ${Studio.format(value.deviation)}`));
      root.replaceChildren(...Studio.heading(value.title), pair, words, row);
      root.dataset.psnr = String(value.psnr_db);
      root.dataset.perturb = String(value.perturb);
    };
    watch("value", receive);
    receive();
  };
})();
