// Studio.noiser: the stage of noise schedules. The picture and its noise come once; after that any x_t of any schedule
// is computed here, x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps, with no round trip.
//
//   Studio.noiser(element, props, watch)   in a gr.HTML whose template is <div class="ds-stage ds-noiser"></div>
//   props.picture    {width, height, x0: base64 uint8 (H, W, 3), eps: base64 int16 / eps_scale, eps_scale, label}
//   props.schedules  {T, items: [{name, label, kept: [t] or null, curves: {beta: base64 float32 (T), ...}}]}
//   props.view       {curves: [name], axis: "t" or "log_snr", titles: {name: words}}
//   props.note       a sentence about a control that makes no sense, or ""
//
// Studio.chain: the two ways to x_t beside each other; props.result, see tabs/schedules.py.
(() => {
  const Studio = (window.Studio = window.Studio || {});
  const SCALES = ["sqrt_alpha_bar", "sqrt_one_minus_alpha_bar"];
  const HUES = { sqrt_alpha_bar: "var(--ds-signal)", sqrt_one_minus_alpha_bar: "var(--ds-noise)" };
  const LOG_CURVES = ["beta", "snr", "sigma", "posterior_variance"];
  const DASHES = ["", "7 3", "2 3", "9 3 2 3", "4 2", "12 4", "6 2 1 2 1 2", "1 4"];
  const STRIP_CELLS = 9, STRIP_SIDE = 80, MAX_MARKS = 120;
  const FIRST_SHARE = 0.25;

  const bytesOf = (text) => {
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return bytes;
  };
  const floatsOf = (text) => new Float32Array(bytesOf(text).buffer);
  const node = (tag, className, parent, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  };
  const fixed = (value, digits) => (Number.isFinite(value) ? value.toFixed(digits).replace("-", "−") : Studio.format(value));
  // So many significant figures; an exponent only where zeros would hide them.
  const precise = (value, figures = 4) => {
    const size = Math.abs(value);
    if (!Number.isFinite(value) || size === 0) return Studio.format(value);
    const text = size >= 1e5 || size < 1e-4 ? value.toExponential(figures - 1).replace("e+", "e") : value.toPrecision(Math.max(figures, Math.floor(Math.log10(size)) + 1));
    return text.replaceAll("-", "−");
  };
  const colorOf = (index) => `var(--ds-series-${(index % 8) + 1})`;

  // --- pictures

  const unpack = (packed) => {
    const { width, height } = packed, x0 = bytesOf(packed.x0), whole = new Int16Array(bytesOf(packed.eps).buffer);
    const eps = Float32Array.from(whole, (value) => value / packed.eps_scale);
    return { width, height, x0, eps };
  };

  // A smaller copy: the picture is averaged, the noise is picked, so that it stays as strong as in the large one.
  const shrink = (picture, side) => {
    const factor = Math.max(1, Math.ceil(Math.max(picture.width, picture.height) / side));
    if (factor === 1) return picture;
    const width = Math.max(1, Math.floor(picture.width / factor)), height = Math.max(1, Math.floor(picture.height / factor));
    const x0 = new Float32Array(width * height * 3), eps = new Float32Array(x0.length);
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) for (let c = 0; c < 3; c++) {
      const at = (y * width + x) * 3 + c;
      let sum = 0, count = 0;
      for (let dy = 0; dy < factor && y * factor + dy < picture.height; dy++) for (let dx = 0; dx < factor && x * factor + dx < picture.width; dx++) {
        sum += picture.x0[((y * factor + dy) * picture.width + x * factor + dx) * 3 + c];
        count++;
      }
      x0[at] = sum / count;
      eps[at] = picture.eps[(Math.min(y * factor, picture.height - 1) * picture.width + Math.min(x * factor, picture.width - 1)) * 3 + c];
    }
    return { width, height, x0, eps };
  };

  // x_t in pixels: with p = 127.5 (x0 + 1), it is 127.5 + signal (p - 127.5) + 127.5 noise eps; the array rounds and clips.
  const paint = (canvas, picture, signal, noise) => {
    const { width, height, x0, eps } = picture;
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    const context = canvas.getContext("2d"), image = context.createImageData(width, height), out = image.data;
    const spread = 127.5 * noise, base = 127.5 * (1 - signal);
    for (let i = 0, o = 0; i < x0.length; i += 3, o += 4) {
      out[o] = base + signal * x0[i] + spread * eps[i];
      out[o + 1] = base + signal * x0[i + 1] + spread * eps[i + 1];
      out[o + 2] = base + signal * x0[i + 2] + spread * eps[i + 2];
      out[o + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  };

  const template = `
    <div class="ds-stage-body">
    <div class="ds-stage-main">
      <div class="ds-title"><div class="ds-which" role="group" aria-label="Schedule on the stage"></div><span class="ds-caption ds-num"></span></div>
      <p class="ds-complaint" role="status" hidden></p>
      <div class="ds-panes" data-count="2" hidden>
        <figure class="ds-pane" data-stream="x0"><figcaption><span class="ds-symbol"><i>x</i><sub>0</sub></span> <span class="ds-muted">the clean picture</span></figcaption><canvas role="img" aria-label="x0, the clean picture"></canvas></figure>
        <figure class="ds-pane" data-stream="x_t"><figcaption><span class="ds-symbol"><i>x</i><sub>t</sub></span> <span class="ds-muted">with noise</span></figcaption><canvas role="img" aria-label="x_t, the noised picture"></canvas></figure>
      </div>
      <div class="ds-empty">Drop a picture, or take one of these: Cat, Coffee, Digit, Toybox scene.</div>
      <div class="ds-bar"></div>
      <div class="ds-strip" hidden></div>
    </div>
    <div class="ds-explain" hidden>
      <figure class="ds-formula-box" aria-label="This timestep in numbers">
        <div class="ds-formula"><i>x</i><sub>t</sub> <span>=</span> <b class="ds-signal ds-num" data-n="signal"></b> <span class="ds-signal"><i>x</i><sub>0</sub></span> <span>+</span> <b class="ds-noise ds-num" data-n="noise"></b> <span class="ds-noise"><i>ε</i></span></div>
        <div class="ds-power" aria-hidden="true"><i class="ds-power-signal"></i><i class="ds-power-noise"></i></div>
        <figcaption><span class="ds-signal ds-num" data-n="signal_share"></span><span class="ds-noise ds-num" data-n="noise_share"></span></figcaption>
        <dl class="ds-facts ds-num">
          <dt><i>ᾱ</i><sub>t</sub></dt><dd data-n="alpha_bar"></dd><dt>SNR</dt><dd data-n="snr"></dd><dt>log-SNR</dt><dd data-n="log_snr"></dd>
          <dt><i>σ</i><sub>t</sub></dt><dd data-n="sigma"></dd><dt><i>β</i><sub>t</sub></dt><dd data-n="beta"></dd>
        </dl>
        <p class="ds-muted" data-n="words"></p>
      </figure>
      <div class="ds-curves"></div>
    </div>
    </div>`;

  const wordsOf = (share) =>
    share > 0.99 ? "Hardly any noise: only the finest detail is covered." : share > 0.7 ? "Texture is going; every shape is still there." : share > 0.3 ? "Signal and noise are of one strength: large shapes survive." : share > 0.03 ? "Noise outweighs signal: only the coarsest light and dark is left." : share > 0.0005 ? "A trace of the picture is left in the noise." : "Nothing of the picture is left to see.";

  Studio.noiser = (element, props, watch) => {
    const root = element.querySelector(".ds-noiser");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "true";
    root.innerHTML = template;
    const part = (selector) => root.querySelector(selector);
    const [clean, noised] = root.querySelectorAll(".ds-pane canvas");
    const numbers = Object.fromEntries([...root.querySelectorAll("[data-n]")].map((found) => [found.dataset.n, found]));
    const panes = part(".ds-panes"), strip = part(".ds-strip"), which = part(".ds-which"), curvesBox = part(".ds-curves");
    let picture = null, small = null, T = 0, items = [], active = 0, t = 0, charts = [], cells = [];

    const now = () => items[active];
    const at = (name) => now().curves[name][t];

    const bar = Studio.transport(part(".ds-bar"), {
      length: 1, noun: "timestep", label: "Timesteps", fps: 60,
      text: (index, length) => (T ? `t = ${index} / ${length - 1}` : ""),
      onChange: (index) => { t = index; draw(); },
    });
    bar.disable(true);
    const goTo = (index, schedule = active) => {
      bar.pause();
      const other = schedule !== active;
      active = schedule;
      t = Math.min(T - 1, Math.max(0, index));
      bar.set(t);
      if (other) mark();
      draw();
    };

    // --- one timestep

    const explain = () => {
      const share = at("alpha_bar");
      numbers.signal.textContent = fixed(at("sqrt_alpha_bar"), 4);
      numbers.noise.textContent = fixed(at("sqrt_one_minus_alpha_bar"), 4);
      numbers.signal_share.textContent = `${(100 * share).toFixed(share < 0.01 ? 3 : 1)} % signal`;
      numbers.noise_share.textContent = `${(100 * (1 - share)).toFixed(share > 0.99 ? 3 : 1)} % noise`;
      part(".ds-power-signal").style.width = `${100 * share}%`;
      for (const name of ["alpha_bar", "snr", "sigma", "beta"]) numbers[name].textContent = precise(at(name));
      numbers.log_snr.textContent = fixed(at("log_snr"), 2);
      numbers.words.textContent = wordsOf(share);
    };

    const draw = () => {
      if (!picture || !items.length) return;
      const start = performance.now();
      paint(noised, picture, at("sqrt_alpha_bar"), at("sqrt_one_minus_alpha_bar"));
      const kept = now().kept, keptWords = kept ? (kept.includes(t) ? ", kept" : ", left out") : "";
      part(".ds-caption").textContent = `timestep ${t}${keptWords}  ·  σ\u00a0${precise(at("sigma"), 3)}  ·  log\u2060-\u2060SNR\u00a0${fixed(at("log_snr"), 2)}`;
      explain();
      for (const chart of charts) chart.point(props.view.axis === "log_snr" ? at("log_snr") : t);
      for (const cell of cells) cell.button.setAttribute("aria-current", String(cell.schedule === active && cell.t === t));
      root.dataset.t = t;
      root.dataset.schedule = now().name;
      const end = performance.now();
      Studio.lastDrawMs = end - start;
      performance.measure("studio-draw", { start, end });
    };

    // --- the strip: every schedule at the same timesteps

    const mark = () => {
      for (const button of root.querySelectorAll("[data-schedule]")) button.setAttribute("aria-pressed", String(Number(button.dataset.schedule) === active));
    };
    const pickButton = (parent, index) => {
      const button = node("button", "ds-button", parent);
      button.type = "button";
      button.dataset.schedule = index;
      const swatch = node("i", "ds-swatch", button);
      swatch.style.background = colorOf(index);
      button.append(items[index].label);
      button.title = `Show ${items[index].label} on the stage`;
      button.onclick = () => goTo(t, index);
    };
    const drawStrip = () => {
      const times = [...new Set(Array.from({ length: STRIP_CELLS }, (_, i) => Math.round((i * (T - 1)) / (STRIP_CELLS - 1))))];
      strip.replaceChildren();
      which.replaceChildren();
      cells = [];
      strip.style.setProperty("--ds-cells", times.length);
      items.forEach((item, index) => {
        if (items.length > 1) pickButton(which, index);
        const row = node("div", "ds-strip-row", strip);
        const label = node("span", "ds-strip-label", row);
        node("i", "ds-swatch", label).style.background = colorOf(index);
        label.append(item.label);
        for (const time of times) {
          const button = node("button", "", row), canvas = node("canvas", "", button);
          button.type = "button";
          button.title = `${item.label}, timestep ${time}, log-SNR ${fixed(item.curves.log_snr[time], 2)}`;
          button.setAttribute("aria-label", button.title);
          button.onclick = () => goTo(time, index);
          paint(canvas, small, item.curves.sqrt_alpha_bar[time], item.curves.sqrt_one_minus_alpha_bar[time]);
          cells.push({ button, schedule: index, t: time });
        }
      });
      const row = node("div", "ds-strip-row ds-strip-times ds-num", strip);
      node("span", "ds-strip-label", row, "t");
      for (const time of times) node("span", "", row, String(time));
      if (items.length === 1) node("strong", "", which, items[0].label);
      mark();
    };

    // --- the curves: the two scales together, every other curve in a panel of its own

    const lineOf = (item, index, name, onLogSnr) => {
      const x = onLogSnr ? item.curves.log_snr : Float32Array.from({ length: T }, (_, i) => i), y = item.curves[name];
      const scale = HUES[name], kept = item.kept || [], stride = Math.ceil(kept.length / MAX_MARKS) || 1;
      const label = scale ? `${item.label}, ${name === SCALES[0] ? "signal" : "noise"}` : item.label;
      return {
        name: `${item.name}:${name}`, label: scale && items.length === 1 ? label.split(", ")[1] : label, color: scale || colorOf(index), dash: DASHES[index % 8], x, y,
        marks: kept.filter((_, i) => i % stride === 0).map((step) => ({ x: x[step], y: y[step] })),
      };
    };
    const panels = (names) => {
      const scales = SCALES.filter((name) => names.includes(name));
      return [...(scales.length ? [scales] : []), ...names.filter((name) => !SCALES.includes(name)).map((name) => [name])];
    };
    const drawCurves = () => {
      for (const chart of charts) chart.destroy();
      curvesBox.replaceChildren();
      const { curves, axis, titles } = props.view, onLogSnr = axis === "log_snr";
      const wanted = panels(curves);
      if (!wanted.length) node("p", "ds-muted", curvesBox, "No curve is chosen: take one under Curves.");
      root.dataset.view = `${axis} ${curves.join(" ")}`;
      charts = wanted.map((names) => {
        const title = names.length > 1 ? "signal and noise scale" : titles[names[0]];
        const box = node("div", "ds-curve-panel", curvesBox);
        box.dataset.curve = names.join(" ");
        return Studio.chart(box, {
          series: items.flatMap((item, index) => names.map((name) => lineOf(item, index, name, onLogSnr))),
          height: 196, yLabel: title, xLabel: onLogSnr ? "log-SNR   (more noise to the right)" : "timestep t", xReverse: onLogSnr,
          yLog: LOG_CURVES.includes(names[0]), yDomain: SCALES.includes(names[0]) ? [0, 1.02] : null, label: `${title} against ${onLogSnr ? "log-SNR" : "timestep"}; click to go to a timestep`,
          onPick: (x) => goTo(onLogSnr ? Studio.nearest(now().curves.log_snr, x) : Math.round(x)),
        });
      });
    };

    // --- what comes from the server

    const arrange = () => {
      const ready = Boolean(picture && items.length);
      panes.hidden = strip.hidden = part(".ds-explain").hidden = !ready;
      part(".ds-empty").hidden = ready;
      bar.disable(!ready);
      if (!ready) return;
      panes.style.setProperty("--ds-ratio", picture.width / picture.height);
      for (const canvas of [clean, noised]) canvas.style.aspectRatio = `${picture.width} / ${picture.height}`;
      drawStrip();
      draw();
    };
    const receivePicture = () => {
      if (!props.picture) return;
      picture = unpack(props.picture);
      small = shrink(picture, STRIP_SIDE);
      paint(clean, picture, 1, 0);
      root.dataset.picture = props.picture.id;
      arrange();
    };
    const receiveSchedules = () => {
      if (!props.schedules || !props.view) return;
      const share = T > 1 ? t / (T - 1) : FIRST_SHARE, before = items.length ? now().name : null;
      T = props.schedules.T;
      items = props.schedules.items.map((item) => ({ ...item, curves: Object.fromEntries(Object.entries(item.curves).map(([name, text]) => [name, floatsOf(text)])) }));
      active = Math.max(0, items.findIndex((item) => item.name === before));
      t = Math.round(share * (T - 1));
      bar.length(T);
      arrange();
      bar.set(t);
      drawCurves();
      draw();
      root.dataset.schedules = props.schedules.id;
    };
    const receiveView = () => { if (props.view && items.length) { drawCurves(); draw(); } };
    const receiveNote = () => {
      const complaint = part(".ds-complaint");
      complaint.textContent = props.note || "";
      complaint.hidden = !props.note;
    };
    watch("picture", receivePicture);
    watch("schedules", receiveSchedules);
    watch("view", receiveView);
    watch("note", receiveNote);
    receivePicture();
    receiveSchedules();
  };

  // --- the chain against the jump

  const chainTemplate = `
    <div class="ds-title"><span class="ds-verdict" role="status"></span><span class="ds-caption ds-num"></span></div>
    <div class="ds-progress" hidden><i></i></div>
    <div class="ds-empty">Press Run: the picture above takes every single step up to t, and one jump to the same t.</div>
    <div class="ds-chain-body">
      <div class="ds-chain-left">
        <div class="ds-panes" data-count="2" hidden>
          <figure class="ds-pane" data-way="chain"><figcaption><i class="ds-swatch" style="background: var(--ds-series-1)"></i> <span class="ds-muted"></span></figcaption><img alt="x_t made by single steps"></figure>
          <figure class="ds-pane" data-way="jump"><figcaption><i class="ds-swatch" style="background: var(--ds-series-2)"></i> <span class="ds-muted">one jump, other noise</span></figcaption><img alt="x_t made by one jump"></figure>
        </div>
        <div class="ds-evidence ds-table-box" hidden>
          <table class="ds-moments ds-num"><thead><tr><th></th><th>measured</th><th>theory</th><th>off by</th></tr></thead><tbody></tbody></table>
          <p class="ds-muted">Theory is given with its standard error; "off by" counts them. Chance alone stays below 2 nineteen times in twenty.</p>
        </div>
      </div>
      <div class="ds-evidence ds-histogram" hidden></div>
    </div>`;

  Studio.chain = (element, props, watch) => {
    const root = element.querySelector(".ds-chain");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "true";
    root.innerHTML = chainTemplate;
    const part = (selector) => root.querySelector(selector);
    let stopped = null;
    const histogram = Studio.chart(part(".ds-histogram"), { height: 300, xLabel: "value of x_t", yLabel: "share of values", label: "Histograms of both pictures" });

    const drawEvidence = ({ histogram: bins, moments }) => {
      const line = (name, label, color, dash) => ({ name, label, color, dash, x: bins.centres, y: bins[name] });
      histogram.update({ series: [line("chain", "single steps", "var(--ds-series-1)"), line("jump", "one jump", "var(--ds-series-2)", "8 8"), line("theory", "theory", "var(--ds-ink)", "1 5")] });
      const body = part("tbody");
      body.replaceChildren();
      const row = (name, measured, theory, error, deviation) => {
        const line = node("tr", "", body);
        node("th", "", line, name);
        node("td", "", line, measured);
        node("td", "", line, `${theory} ± ${precise(error, 2)}`);
        node("td", Math.abs(deviation) > 4 ? "ds-far" : "", line, `${fixed(deviation, 1)}`);
      };
      for (const m of moments) {
        row(`${m.name}: mean`, fixed(m.mean, 5), "0", m.mean_error, m.mean_deviation);
        row(`${m.name}: variance`, fixed(m.variance, 5), fixed(m.theory_variance, 5), m.variance_error, m.variance_deviation);
      }
    };
    const receive = () => {
      const result = props.result;
      // A progress that was under way when its run was stopped.
      if (!result || (result.state === "running" && result.run === stopped)) return;
      stopped = result.state === "stopped" ? result.run : null;
      const running = result.state === "running", done = result.state === "done";
      root.dataset.state = result.state;
      const left = running && result.left_s >= 2 ? `  ·  about ${Math.round(result.left_s)} s left` : "";
      part(".ds-caption").textContent = `${result.words}${left}`;
      part(".ds-progress").hidden = !running;
      part(".ds-progress i").style.width = `${(100 * result.index) / result.num_steps}%`;
      if (result.chain) {
        part(".ds-empty").hidden = true;
        part(".ds-panes").hidden = false;
        part("[data-way=chain] .ds-muted").textContent = `${result.index} single step${result.index === 1 ? "" : "s"}`;
        part("[data-way=chain] img").src = result.chain;
        part("[data-way=jump]").style.visibility = result.jump ? "visible" : "hidden";
        if (result.jump) part("[data-way=jump] img").src = result.jump;
      }
      part(".ds-verdict").textContent = result.verdict || "";
      part(".ds-verdict").dataset.agrees = String(Boolean(result.agrees));
      for (const box of root.querySelectorAll(".ds-evidence")) box.hidden = !done;
      if (done) drawEvidence(result);
    };
    watch("result", receive);
    receive();
  };
})();
