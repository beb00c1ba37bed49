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
  const FLOW = { text_encoder: ["prompt", "states"], unet: ["latents, t, states", "prediction"], "vae.encoder": ["picture", "mean and variance"], "vae.decoder": ["latents", "picture"] };

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

  Studio.anatomy = (element, props, watch) => {
    const root = element.querySelector(".ds-anatomy");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "true";

    const receive = () => {
      if (!props.value) return;
      const { parts, title } = JSON.parse(props.value), groups = groupsOf(parts);
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
