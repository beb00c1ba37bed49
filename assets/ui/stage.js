// Studio.stage: the denoising stage. x_t beside x0_hat (and eps_hat when asked), always of the same step.
//
// The value is JSON text (tabs/parts/filmstrip.py): of a run that begins, whose live frames then come from an address of its
// own, or of a film. A film brings every step as one sprite a stream, decoded once; from then on a step change is a few
// drawImage calls and needs no server. A value that cannot be read leaves the picture that is there.
(() => {
  const Studio = (window.Studio = window.Studio || {});
  // studio/sampling/streams.py, in the order of the panes; the page brings it.
  const PANES = Studio.streams;
  // Panes that are shown when asked, where the run has them.
  const VIEWS = {
    eps: { html: "Show <i>ε̂</i>", title: "Show the noise that the model finds in x_t, as a further picture", always: true },
    guidance: { html: "Guidance", title: "Show what the model believes without and with the prompt, beside the guided belief" },
    velocity: { html: "Velocity", title: "Show the velocity that the network predicts: from the picture towards the noise" },
    skipped: { html: "Skipped layers", title: "Show what the model believes without the layers that skip-layer guidance leads away from" },
    clip: { html: "CLIP gradient", title: "Show which change of x_t brings the picture nearer to the prompt, as CLIP sees it" },
  };
  const FULL_ICON = '<svg viewBox="0 0 16 16" width="14" height="14" fill="none" stroke="currentColor" stroke-width="1.6" aria-hidden="true"><path d="M9.5 2H14v4.5M14 2 9 7M6.5 14H2V9.5M2 14l5-5"/></svg>';
  const PLAY_S = 4;

  const template = `
    <div class="ds-stage-body">
    <div class="ds-stage-main">
      <div class="ds-title"><span class="ds-title-text"></span><span class="ds-caption ds-num"></span></div>
      <div class="ds-progress" hidden><i></i></div>
      <div class="ds-panes"></div>
      <div class="ds-empty"></div>
      <div class="ds-bar-row"><div class="ds-bar"></div><div class="ds-tools">
        ${Object.entries(VIEWS).map(([name, { html, title }]) => `<button type="button" class="ds-button ds-view ds-${name}" data-view="${name}" aria-pressed="false" title="${title}" hidden>${html}</button>`).join("")}
        <button type="button" class="ds-button ds-all" title="Back to all pictures of the run" hidden>All pictures</button>
        <span class="ds-note ds-muted"></span>
      </div></div>
    </div>
    <div class="ds-explain" hidden>
      <div class="ds-extras" hidden></div>
      <figure class="ds-formula-box" aria-label="This step in numbers">
        <div class="ds-formula"><i>x</i><sub>t</sub> <span>=</span> <b class="ds-signal ds-num" data-n="signal"></b> <span class="ds-signal"><i>x̂</i><sub>0</sub></span> <span>+</span> <b class="ds-noise ds-num" data-n="noise"></b> <span class="ds-noise"><i>ε̂</i></span></div>
        <div class="ds-power" aria-hidden="true"><i class="ds-power-signal"></i><i class="ds-power-noise"></i></div>
        <figcaption><span class="ds-signal ds-num" data-n="signal_share"></span><span class="ds-noise ds-num" data-n="noise_share"></span></figcaption>
        <p class="ds-muted" data-n="words"></p>
      </figure>
      <div class="ds-curve">
        <div class="ds-curve-choice" role="group" aria-label="Curve">
          <button type="button" class="ds-button" data-curve="scales" aria-pressed="true">scales</button>
          <button type="button" class="ds-button" data-curve="log_snr" aria-pressed="false">log-SNR</button>
          <button type="button" class="ds-button" data-curve="clip" aria-pressed="false" title="The size of CLIP's gradient, step by step" hidden>CLIP</button>
        </div>
        <div class="ds-curve-chart"></div>
      </div>
    </div>
    </div>
    <div class="ds-drop" hidden>Drop a run file, or a picture that the studio saved</div>
    <dialog class="ds-full" aria-label="One picture in full">
      <header><strong></strong><span class="ds-caption ds-num"></span><button type="button" class="ds-button ds-download">Download PNG</button><button type="button" class="ds-button ds-close">Close</button></header>
      <div class="ds-full-body"><canvas></canvas></div>
      <footer class="ds-muted">Left and right arrows change the step. Escape closes. <span class="ds-full-note"></span></footer>
    </dialog>`;

  const bitmapOf = async (uri) => createImageBitmap(await (await fetch(uri)).blob());
  const close = ({ bitmap }) => bitmap.close && bitmap.close();
  // A sheet of raw pixels, 1 or 3 bytes each, as something that drawImage takes.
  const sheetOf = (base64, channels, width) => {
    const bytes = atob(base64), count = bytes.length / channels, image = new ImageData(width, count / width);
    for (let i = 0, from = 0; i < count; i++, from += channels) {
      image.data[4 * i] = bytes.charCodeAt(from);
      image.data[4 * i + 1] = bytes.charCodeAt(channels === 1 ? from : from + 1);
      image.data[4 * i + 2] = bytes.charCodeAt(channels === 1 ? from : from + 2);
      image.data[4 * i + 3] = 255;
    }
    const canvas = new OffscreenCanvas(image.width, image.height);
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  };
  const fixed = (value, digits) => (value === null || value === undefined ? null : value.toFixed(digits).replace("-", "−"));
  const seconds = (s) => (s < 90 ? `${Math.max(1, Math.round(s))} s` : `${Math.round(s / 60)} min`);

  // What else can be seen of a run joins here: (stage) => ({ film(value), draw() }), as in assets/ui/attention.js.
  Studio.stageExtras = Studio.stageExtras || [];

  Studio.stage = (element, props, watch, trigger) => {
    const root = element.querySelector(".ds-stage");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "true";
    root.innerHTML = template;
    const part = (selector) => root.querySelector(selector);
    const panesBox = part(".ds-panes"), caption = part(".ds-caption"), titleText = part(".ds-title-text"), note = part(".ds-note");
    const progress = part(".ds-progress"), explain = part(".ds-explain"), empty = part(".ds-empty"), dialog = part("dialog");
    const numbers = Object.fromEntries([...root.querySelectorAll("[data-n]")].map((node) => [node.dataset.n, node]));

    empty.textContent = root.dataset.invitation || "Choose a model and press Run, or drop a run file here.";

    const views = new Set();
    let value = null, sprites = {}, decoded = {}, frame = 0, solo = null, curveKind = "scales", full = null, extras = [];
    let asked = 0, shown = 0, live = { run: null, since: 0 };

    // --- drawing

    const panes = Object.fromEntries(Object.entries(PANES).map(([name, stream]) => {
      const figure = document.createElement("figure");
      figure.className = "ds-pane";
      figure.dataset.stream = name;
      figure.innerHTML = `<figcaption><span class="ds-symbol">${stream.symbol}</span> <span class="ds-muted">${stream.label}</span>
        <button type="button" class="ds-open-full" title="Open in full" aria-label="Open ${stream.about} in full">${FULL_ICON}</button></figcaption><canvas role="img" aria-label="${stream.about}"></canvas>`;
      panesBox.append(figure);
      const canvas = figure.querySelector("canvas");
      figure.querySelector("button").onclick = () => openFull(name);
      canvas.onclick = (event) => pick(event, canvas);
      return [name, { figure, canvas, context: canvas.getContext("2d"), words: figure.querySelector("figcaption .ds-muted") }];
    }));

    const visible = () => Object.keys(panes).filter((name) => sprites[name] && (!PANES[name].view || views.has(PANES[name].view)));
    const columnsOf = (count) => Math.ceil(Math.sqrt(count));

    const indexNow = () => (value.kind === "live" ? value.step.index : value.frames[frame]);
    // What the real decoder made of this step, where it was asked.
    const decodedOf = (name) => decoded[`${name} ${indexNow()}`];

    const layoutOf = ([w, h] = value.tile) => {
      const count = solo === null ? value.images : 1, columns = columnsOf(count);
      const gap = count > 1 ? Math.max(1, Math.round(w / 16)) : 0;
      const width = columns * (w + gap) - gap, height = Math.ceil(count / columns) * (h + gap) - gap;
      return { w, h, count, columns, gap, width, height };
    };

    const paint = (canvas, context, name) => {
      const real = value.kind === "film" && decodedOf(name), sprite = real || sprites[name], box = layoutOf(real ? real.tile : value.tile);
      if (canvas.width !== box.width || canvas.height !== box.height) {
        canvas.width = box.width;
        canvas.height = box.height;
      }
      context.imageSmoothingEnabled = false;
      const first = (real ? 0 : frame) * value.images + (solo === null ? 0 : solo);
      for (let i = 0; i < box.count; i++) {
        const sx = ((first + i) % sprite.columns) * box.w, sy = Math.floor((first + i) / sprite.columns) * box.h;
        context.drawImage(sprite.bitmap, sx, sy, box.w, box.h, (i % box.columns) * (box.w + box.gap), Math.floor(i / box.columns) * (box.h + box.gap), box.w, box.h);
      }
    };

    const stepNow = () => (value.kind === "live" ? value.step : value.steps[value.frames[frame]]);

    const captionOf = (step) => {
      const sigma = step.sigma === null ? "∞" : Studio.format(step.sigma);
      const logSnr = step.log_snr === null ? (step.sigma === null ? "−∞" : "∞") : fixed(step.log_snr, 2);
      const timestep = Number.isInteger(step.timestep) ? step.timestep : fixed(step.timestep, 1);
      return `step ${step.index + 1} of ${step.num_steps}  ·  timestep\u00a0${timestep}  ·  σ\u00a0${sigma}  ·  log\u2060-\u2060SNR\u00a0${logSnr}${step.refined ? "  ·  refiner" : ""}`;
    };

    const wordsOf = (name) => {
      const norms = stepNow().clip_gradient_norm;
      if (name === "clip_gradient" && norms) return `where CLIP pulls, norm ${(solo === null ? norms : [norms[solo]]).map((norm) => Studio.format(norm)).join(", ")}`;
      if (name === "x0_hat" && views.has("guidance") && sprites.x0_cond) return `guided, ×${Studio.format(stepNow().guidance_scale)}`;
      return PANES[name].label;
    };

    const explainStep = (step) => {
      const share = step.signal ** 2;
      numbers.signal.textContent = fixed(step.signal, 3);
      numbers.noise.textContent = fixed(step.noise, 3);
      numbers.signal_share.textContent = `${(100 * share).toFixed(1)} % signal`;
      numbers.noise_share.textContent = `${(100 * (1 - share)).toFixed(1)} % noise`;
      part(".ds-power-signal").style.width = `${100 * share}%`;
      numbers.words.textContent = share < 0.1 ? "Almost pure noise: the belief is the average of all it has learned." : share < 0.5 ? "Noise outweighs signal: large shapes are being decided." : share < 0.97 ? "Signal outweighs noise: edges and details are being decided." : "Hardly any noise is left: the last touches.";
    };

    const draw = () => {
      const start = performance.now();
      for (const name of visible()) {
        paint(panes[name].canvas, panes[name].context, name);
        panes[name].words.textContent = wordsOf(name);
      }
      const step = stepNow(), text = captionOf(step);
      caption.textContent = text;
      explainStep(step);
      chart.point(step.timestep);
      for (const extra of extras) extra.draw();
      if (full) drawFull(text);
      element.dataset.step = root.dataset.step = step.index;
      const end = performance.now();
      Studio.lastDrawMs = end - start;
      performance.measure("studio-draw", { start, end });
    };

    const arrange = () => {
      if (!value) return;
      for (const [name, pane] of Object.entries(panes)) pane.figure.hidden = !visible().includes(name);
      panesBox.dataset.count = visible().length;
      const box = layoutOf();
      for (const button of root.querySelectorAll("[data-view]")) {
        button.hidden = !VIEWS[button.dataset.view].always && !Object.keys(PANES).some((name) => PANES[name].view === button.dataset.view && sprites[name]);
      }
      for (const { canvas } of Object.values(panes)) {
        canvas.style.aspectRatio = `${box.width} / ${box.height}`;
        canvas.title = value.images > 1 ? (solo === null ? "Click a picture to see it alone" : "Click to see all pictures") : "";
        canvas.classList.toggle("ds-clickable", value.images > 1);
      }
      part(".ds-all").hidden = solo === null;
      draw();
    };

    // --- the curve and the transport bar

    const bar = Studio.transport(part(".ds-bar"), {
      length: 1, label: "Steps of the run",
      text: (index) => {
        if (!value) return "no run yet";
        const step = value.kind === "film" ? value.steps[value.frames[index]] : value.step;
        return `step ${step.index + 1} of ${step.num_steps}`;
      },
      onChange: (index) => { if (value && value.kind === "film") { frame = index; draw(); } },
    });
    bar.disable(true);

    const chart = Studio.chart(part(".ds-curve-chart"), {
      height: 172, xLabel: "timestep t   (sampling runs to the right)", xName: "timestep", xReverse: true,
      onPick: (t) => {
        if (!value || value.kind !== "film") return;
        const timesteps = value.frames.map((index) => value.steps[index].timestep);
        bar.go(Studio.nearest(timesteps, t));
      },
    });

    const drawCurve = () => {
      const { t, log_snr, signal, noise } = value.curve;
      const steps = value.steps || [];
      const marks = (read) => (steps.length <= 100 ? steps.map((step) => ({ x: step.timestep, y: read(step) })) : []);
      const scales = [
        { name: "signal", label: "signal scale", color: "var(--ds-signal)", x: t, y: signal, marks: marks((s) => s.signal) },
        { name: "noise", label: "noise scale", color: "var(--ds-noise)", x: t, y: noise, marks: marks((s) => s.noise) },
      ];
      const snr = [{ name: "log_snr", label: "log-SNR", color: "var(--ds-accent)", x: t, y: log_snr, marks: marks((s) => s.log_snr) }];
      const norms = steps.filter((step) => step.clip_gradient_norm);
      const clipButton = part("[data-curve=clip]");
      clipButton.hidden = !norms.length;
      if (!norms.length && curveKind === "clip") part("[data-curve=scales]").click();
      const read = (step) => step.clip_gradient_norm.reduce((sum, norm) => sum + norm, 0) / step.clip_gradient_norm.length;
      const clip = [{ name: "clip", label: "CLIP gradient", color: "var(--ds-accent)", x: norms.map((s) => s.timestep), y: norms.map(read), marks: norms.map((s) => ({ x: s.timestep, y: read(s) })) }];
      const series = { scales, log_snr: snr, clip }[curveKind];
      chart.update({ series, yLabel: { scales: "", log_snr: "log-SNR", clip: "norm of CLIP's gradient" }[curveKind], yDomain: curveKind === "scales" ? [0, 1.02] : null, label: "Noise schedule of the model; click to go to a step" });
    };
    for (const button of root.querySelectorAll("[data-curve]")) {
      button.onclick = () => {
        curveKind = button.dataset.curve;
        for (const other of root.querySelectorAll("[data-curve]")) other.setAttribute("aria-pressed", String(other === button));
        if (value) { drawCurve(); chart.point(stepNow().timestep); }
      };
    }

    // --- one picture, in full

    const pick = (event, canvas) => {
      if (!value || value.images < 2) return;
      if (solo !== null) solo = null;
      else {
        const box = layoutOf(), area = canvas.getBoundingClientRect();
        const column = Math.floor(((event.clientX - area.left) / area.width) * box.width / (box.w + box.gap));
        const row = Math.floor(((event.clientY - area.top) / area.height) * box.height / (box.h + box.gap));
        const index = row * box.columns + column;
        if (index >= value.images) return;
        solo = index;
      }
      arrange();
    };
    part(".ds-all").onclick = () => { solo = null; arrange(); };
    for (const button of root.querySelectorAll("[data-view]")) {
      button.onclick = () => {
        const view = button.dataset.view;
        views.has(view) ? views.delete(view) : views.add(view);
        button.setAttribute("aria-pressed", String(views.has(view)));
        arrange();
      };
    }

    const fullCanvas = dialog.querySelector("canvas"), fullContext = fullCanvas.getContext("2d");
    const drawFull = (text) => {
      paint(fullCanvas, fullContext, full);
      fullCanvas.style.aspectRatio = `${fullCanvas.width} / ${fullCanvas.height}`;
      fullCanvas.style.setProperty("--ds-ratio", fullCanvas.width / fullCanvas.height);
      dialog.querySelector(".ds-caption").textContent = text;
      askToDecode();
    };

    // --- the real decoder, for the step that is open in full

    const fullNote = part(".ds-full-note");
    let resting = 0;
    const mayDecode = (name) => value.kind === "film" && value.decodes && value.decodes.includes(name);
    const askToDecode = () => {
      clearTimeout(resting);
      const real = decodedOf(full);
      fullNote.textContent = !mayDecode(full) ? "" : real ? "Decoded." : "A small preview; the decoder is at work.";
      if (!mayDecode(full) || real || !trigger) return;
      const asked = { run: value.run, stream: full, index: indexNow() };
      // Only where the hand rests: the decoder costs far more than a step of the slider.
      resting = setTimeout(() => { if (full) trigger("select", asked); }, 250);
    };
    const receiveDecoded = async () => {
      if (!props.decoded) return;
      const { run, stream, index, src, tile, columns, error } = JSON.parse(props.decoded);
      if (!value || value.run !== run) return;
      if (error) { fullNote.textContent = error; return; }
      const bitmap = await bitmapOf(src);
      if (!value || value.run !== run) return bitmap.close();
      decoded[`${stream} ${index}`] = { bitmap, tile, columns };
      draw();
    };
    const openFull = (name) => {
      if (!value || !sprites[name]) return;
      full = name;
      dialog.querySelector("strong").innerHTML = `${PANES[name].symbol} <span class="ds-muted">${PANES[name].label}</span>`;
      drawFull(captionOf(stepNow()));
      dialog.showModal();
    };
    dialog.onclose = () => { full = null; };
    dialog.onclick = (event) => { if (event.target === dialog) dialog.close(); };
    dialog.querySelector(".ds-close").onclick = () => dialog.close();
    dialog.querySelector(".ds-download").onclick = async () => {
      // Enlarged by whole pixels to at least 512, so that it stays sharp wherever it is shown.
      const scale = Math.max(1, Math.ceil(512 / Math.max(fullCanvas.width, fullCanvas.height)));
      const copy = document.createElement("canvas");
      copy.width = fullCanvas.width * scale;
      copy.height = fullCanvas.height * scale;
      const context = copy.getContext("2d");
      context.imageSmoothingEnabled = false;
      context.drawImage(fullCanvas, 0, 0, copy.width, copy.height);
      const link = document.createElement("a");
      link.download = `${full}-step-${stepNow().index + 1}.png`;
      // The options that make what is seen: one picture, or all of them.
      const text = layoutOf().count === 1 ? value.options.each[solo || 0] : value.options.all;
      const png = await new Promise((resolve) => copy.toBlob(resolve, "image/png"));
      link.href = URL.createObjectURL(await Studio.pngWith(png, "diffusion-studio", text));
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    };

    // --- what comes from the server

    const showLive = (next) => {
      if (live.run !== next.run) { live = { run: next.run, since: performance.now(), first: next.step.index }; solo = null; }
      frame = 0;
      bar.length(next.step.num_steps);
      bar.mark(null);
      bar.disable(true);
      bar.set(next.step.index);
      const done = next.step.index + 1, total = next.step.num_steps;
      const passed = (performance.now() - live.since) / 1000, left = (passed / Math.max(1, done - 1 - live.first)) * (total - done);
      titleText.textContent = passed + left > 2 && done - 1 > live.first ? `Running, about ${seconds(left)} left` : "Running";
      progress.hidden = false;
      progress.firstElementChild.style.width = `${(100 * done) / total}%`;
      note.textContent = "";
    };
    const showFilm = (next) => {
      const still = matchMedia("(prefers-reduced-motion: reduce)").matches, play = next.autoplay && !still;
      const last = next.frames.length - 1, same = live.run === next.run;
      if (!same) solo = null;
      frame = play ? 0 : last;
      bar.length(next.frames.length);
      bar.fps(Math.min(30, Math.max(5, next.frames.length / PLAY_S)));
      bar.disable(false);
      bar.set(frame);
      const taken = next.frames.findIndex((index) => next.steps[index].refined);
      bar.mark(taken > 0 ? { at: taken - 0.5, title: `The refiner took over at step ${next.frames[taken] + 1}` } : null);
      titleText.textContent = next.title || "";
      progress.hidden = true;
      note.textContent = next.every > 1 ? `Every ${next.every}${["th", "st", "nd", "rd"][next.every % 100 > 10 && next.every % 100 < 14 ? 0 : next.every % 10] || "th"} step shown.` : "";
      if (play) setTimeout(() => { if (value === next && bar.index === 0) bar.play(); }, 400);
    };

    // --- live frames: the newest that has come is drawn, once for every frame of the screen

    let feed = null;
    const hush = () => { if (feed) feed.source.close(); feed = null; };
    const listen = (begun) => {
      hush();
      const mine = (feed = { source: new EventSource(begun.address), newest: null });
      const show = () => {
        if (feed !== mine) return;
        const frame = JSON.parse(mine.newest);
        mine.newest = null;
        const width = frame.columns * frame.tile[0];
        const drawn = Object.fromEntries(Object.entries(frame.pictures).map(([name, pixels]) => [name, { bitmap: sheetOf(pixels, frame.channels, width), columns: frame.columns }]));
        settle({ ...begun, ...frame, kind: "live" }, drawn, {});
      };
      mine.source.onmessage = ({ data }) => {
        const waiting = mine.newest !== null;
        mine.newest = data;
        if (!waiting) requestAnimationFrame(show);
      };
      // Without its frames a run still ends with its film.
      mine.source.addEventListener("over", hush);
      mine.source.onerror = () => { if (feed === mine) hush(); };
    };

    // The run ended without a film: the picture stays, and nothing pretends to be running.
    const halt = (next, ticket) => {
      shown = ticket;
      if (!value || value.kind !== "live") return;
      progress.hidden = true;
      titleText.textContent = next.title;
      root.dataset.kind = "note";
    };

    const receive = async () => {
      if (!props.value) return;
      const ticket = ++asked;
      let next, drawn, real;
      try {
        next = JSON.parse(props.value);
        if (next.kind === "begin") { shown = ticket; return listen(next); }
        if (next.kind === "note") { hush(); return halt(next, ticket); }
        const drawnOf = async ({ name, src }) => [name, { bitmap: await bitmapOf(src), columns: next.sprite_columns }];
        const realOf = async ({ stream, index, src, tile, columns: wide }) => [`${stream} ${index}`, { bitmap: await bitmapOf(src), tile, columns: wide }];
        [drawn, real] = (await Promise.all([Promise.all(next.streams.map(drawnOf)), Promise.all((next.decoded || []).map(realOf))])).map(Object.fromEntries);
      } catch (error) {
        console.error("The stage keeps its picture: this value cannot be drawn.", error);
        return;
      }
      // Decoding is asynchronous: an older film that comes late must not cover a newer one.
      if (ticket < shown) return [...Object.values(drawn), ...Object.values(real)].forEach(close);
      shown = ticket;
      hush();
      settle(next, drawn, real);
    };

    // The value and its pictures take the stage.
    const settle = (next, drawn, real) => {
      const before = [...Object.values(sprites), ...Object.values(decoded)], another = !value || value.run !== next.run || value.kind !== next.kind;
      bar.pause();
      value = next;
      sprites = drawn;
      decoded = real;
      for (const extra of extras) extra.film(next);
      next.kind === "live" ? showLive(next) : showFilm(next);
      empty.hidden = true;
      explain.hidden = false;
      part(".ds-eps").disabled = next.kind !== "film" || !sprites.eps_hat;
      root.dataset.kind = next.kind;
      root.dataset.run = next.run;
      root.dataset.complete = String(next.kind === "film" && next.complete);
      if (another) drawCurve();
      arrange();
      bar.set(bar.index);
      before.forEach(close);
    };

    // --- a file dropped on the stage goes the way of the file button, so that the server checks it as any upload

    const drop = part(".ds-drop"), target = () => document.querySelector(`${root.dataset.dropTo} input[type=file]`);
    const files = (event) => root.dataset.dropTo && event.dataTransfer && [...event.dataTransfer.types].includes("Files");
    root.addEventListener("dragover", (event) => { if (files(event)) { event.preventDefault(); drop.hidden = false; } });
    root.addEventListener("dragleave", (event) => { if (!root.contains(event.relatedTarget)) drop.hidden = true; });
    root.addEventListener("drop", (event) => {
      if (!files(event)) return;
      event.preventDefault();
      drop.hidden = true;
      const input = target();
      if (!input || !event.dataTransfer.files.length) return;
      const one = new DataTransfer();
      one.items.add(event.dataTransfer.files[0]);
      input.files = one.files;
      input.dispatchEvent(new Event("change", { bubbles: true }));
    });

    panesBox.dataset.count = 0;
    part(".ds-eps").disabled = true;
    for (const { figure } of Object.values(panes)) figure.hidden = true;
    extras = Studio.stageExtras.map((join) => join({
      root, panes, box: part(".ds-extras"), redraw: () => value && draw(),
      get value() { return value; }, get frame() { return frame; }, get solo() { return solo; }, layoutOf,
      get index() { return indexNow(); }, goTo: (index) => bar.go(Studio.nearest(value.frames, index)),
    })).filter(Boolean);
    watch("value", receive);
    watch("decoded", receiveDecoded);
    receive();
  };
})();
