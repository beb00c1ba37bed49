// Studio.compare: two runs of one seed on a common log-SNR axis, and where they differ. Studio.pictureGrid: pictures in rows
// and columns that come one by one. The values are JSON text of tabs/compare.py.
(() => {
  const Studio = (window.Studio = window.Studio || {});
  const make = (tag, className = "", text = "") => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    node.textContent = text;
    return node;
  };
  const bitmapOf = async (uri) => createImageBitmap(await (await fetch(uri)).blob());
  const cssColor = { a: "var(--ds-series-1)", b: "var(--ds-series-2)" };
  const percent = (share) => `${(100 * share).toFixed(1)} %`;

  const template = `
    <div class="ds-stage-main" hidden>
      <div class="ds-title"><span class="ds-title-text">One seed, two settings</span><span class="ds-caption ds-num"></span></div>
      <div class="ds-panes" data-count="3">
        <figure class="ds-pane" data-side="a"><figcaption><b>A</b> <span class="ds-muted"></span></figcaption><canvas role="img" aria-label="Run A"></canvas><p class="ds-num ds-muted"></p></figure>
        <figure class="ds-pane" data-side="b"><figcaption><b>B</b> <span class="ds-muted"></span></figcaption><canvas role="img" aria-label="Run B"></canvas><p class="ds-num ds-muted"></p></figure>
        <figure class="ds-pane" data-side="difference"><figcaption><b>|A − B|</b> <span class="ds-muted ds-num"></span></figcaption><canvas role="img" aria-label="Where the two differ"></canvas>
          <div class="ds-scale"><span>same</span><i></i><span class="ds-num" data-end="high"></span></div></figure>
      </div>
      <div class="ds-bar-row"><div class="ds-bar"></div><div class="ds-tools">
        <button type="button" class="ds-button" data-stream="x0_hat" aria-pressed="true">belief <i>x̂</i><sub>0</sub></button>
        <button type="button" class="ds-button" data-stream="x_t" aria-pressed="false">state <i>x</i><sub>t</sub></button>
      </div></div>
      <div class="ds-compare-chart"></div>
      <p class="ds-compare-kinds"></p>
      <div class="ds-compare-paths"><div></div><div></div></div>
    </div>
    <div class="ds-empty"></div>`;

  // A flow's two scales add up to 1, those of a diffusion in squares; along log-SNR each kind has its own curves, whatever its schedule.
  const kindOf = (steps) => (steps.every(({ signal, noise }) => Math.abs(signal + noise - 1) < 1e-3) ? "flow" : "diffusion");
  const logistic = (value) => 1 / (1 + Math.exp(-value));
  const scalesAt = { flow: (level) => [logistic(level / 2), logistic(-level / 2)], diffusion: (level) => [Math.sqrt(logistic(level)), Math.sqrt(logistic(-level))] };
  const KINDS = { flow: ["a rectified flow (α + σ = 1)", "rectified flows (α + σ = 1)"], diffusion: ["a diffusion (α² + σ² = 1)", "diffusions (α² + σ² = 1)"] };

  Studio.compare = (element, props, watch) => {
    const root = element.querySelector(".ds-compare");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "true";
    root.innerHTML = template;
    const part = (selector) => root.querySelector(selector);
    part(".ds-empty").textContent = root.dataset.invitation ?? "Set A and B, and press Compare: both start from the same noise.";
    const paneOf = (side) => part(`[data-side=${side}]`);
    let value = null, sprites = null, stream = "x0_hat", at = 0, asked = 0;

    const bar = Studio.transport(part(".ds-bar"), {
      length: 1, noun: "place", label: "Places on the common axis", onChange: (index) => { at = index; draw(); },
      text: (index) => (value ? `log-SNR ${value.meetings[index].log_snr.toFixed(2).replace("-", "−")}` : "nothing yet"),
    });
    bar.disable(true);
    const chart = Studio.chart(part(".ds-compare-chart"), {
      height: 190, xLabel: "log-SNR   (noise on the left, picture on the right)", xName: "log-SNR", yLabel: "mean difference",
      onPick: (x) => { if (value) bar.go(Studio.nearest(value.meetings.map((m) => m.log_snr), x)); },
    });

    const shared = { height: 190, xLabel: "log-SNR", onPick: (x) => { if (value) bar.go(Studio.nearest(value.meetings.map((m) => m.log_snr), x)); } };
    const [scalesChart, shareChart] = [...part(".ds-compare-paths").children].map((box) => Studio.chart(box, shared));

    const frameOf = (film, step) => Studio.nearest(film.frames, step);
    const atEnd = () => stream === "x0_hat" && at === value.meetings.length - 1;
    const tileOf = (side) => {
      if (atEnd()) return { bitmap: sprites.end[side], x: 0, y: 0, tile: value.end[side].tile };
      const film = value[side], tile = frameOf(film, value.meetings[at][side]), [w, h] = film.tile;
      return { bitmap: sprites[side][stream], x: (tile % film.sprite_columns) * w, y: Math.floor(tile / film.sprite_columns) * h, tile: film.tile };
    };
    const differenceOf = () => {
      if (atEnd()) return { bitmap: sprites.end.difference, x: 0, y: 0, tile: value.end.difference.tile, mean: value.end.mean };
      const sheet = value.differences[stream], [w, h] = sheet.tile;
      return { bitmap: sprites.difference[stream], x: (at % sheet.columns) * w, y: Math.floor(at / sheet.columns) * h, tile: sheet.tile, mean: sheet.mean[at] };
    };
    const paint = (canvas, { bitmap, x, y, tile: [w, h] }) => {
      canvas.width = w;
      canvas.height = h;
      canvas.style.aspectRatio = `${w} / ${h}`;
      const context = canvas.getContext("2d", { willReadFrequently: canvas.dataset.read === "true" });
      context.drawImage(bitmap, x, y, w, h, 0, 0, w, h);
      return context;
    };
    const paintDifference = (canvas, shown) => {
      canvas.dataset.read = "true";
      const context = paint(canvas, shown), [w, h] = shown.tile, image = context.getImageData(0, 0, w, h), colours = Studio.colours.cividis;
      let high = 1;
      for (let i = 0; i < image.data.length; i += 4) high = Math.max(high, image.data[i]);
      for (let i = 0; i < image.data.length; i += 4) {
        const level = Math.round((255 * image.data[i]) / high);
        for (let c = 0; c < 3; c++) image.data[i + c] = colours[3 * level + c];
      }
      context.putImageData(image, 0, 0);
      return high / 255;
    };

    const draw = () => {
      const meeting = value.meetings[at];
      for (const side of ["a", "b"]) {
        const step = value[side].steps[meeting[side]];
        paint(paneOf(side).querySelector("canvas"), tileOf(side));
        const exact = step.log_snr === null ? "" : `, log-SNR ${step.log_snr.toFixed(2).replace("-", "−")}`;
        paneOf(side).querySelector("p").textContent = atEnd() ? "the picture, decoded" : `step ${step.index + 1} of ${step.num_steps}${exact}`;
      }
      const shown = differenceOf(), high = paintDifference(paneOf("difference").querySelector("canvas"), shown);
      paneOf("difference").querySelector(".ds-muted").textContent = `${percent(shown.mean)} on average`;
      part("[data-end=high]").textContent = percent(high);
      part(".ds-caption").textContent = `log-SNR ${meeting.log_snr.toFixed(2).replace("-", "−")}`;
      for (const one of [chart, scalesChart, shareChart]) one.point(meeting.log_snr);
      root.dataset.at = at;
    };

    const drawChart = () => {
      const levels = value.meetings.map((m) => m.log_snr);
      const rug = (side) => ({
        name: side, label: `steps of ${side.toUpperCase()}`, color: cssColor[side], x: levels, y: levels.map(() => null),
        marks: value[side].steps.map((step) => ({ x: step.log_snr, y: null })),
      });
      chart.update({
        series: [{ name: "difference", label: "difference", color: "var(--ds-accent)", x: levels, y: value.differences[stream].mean, marks: [] }, rug("a"), rug("b")],
        yDomain: [0, 1.1 * Math.max(0.01, ...value.differences[stream].mean)], label: "Mean difference of the two runs against log-SNR; click to go there",
      });
    };

    // Both runs on the axis of noise: the scales of either with a dot for each step, and how far either is.
    const drawPaths = () => {
      const levels = value.meetings.map((m) => m.log_snr), xDomain = [levels[0], levels.at(-1)], kinds = { a: kindOf(value.a.steps), b: kindOf(value.b.steps) };
      const alike = kinds.a === kinds.b, fine = Array.from({ length: 81 }, (_, i) => xDomain[0] + (i / 80) * (xDomain[1] - xDomain[0]));
      const curves = (alike ? ["a"] : ["a", "b"]).flatMap((side) => [["α", "signal"], ["σ", "noise"]].map(([letter, hue], which) => ({
        name: `${hue}-${side}`, label: alike ? letter : `${letter} of ${side.toUpperCase()}`, color: `var(--ds-${hue})`, dash: side === "b", x: fine,
        y: fine.map((level) => scalesAt[kinds[side]](level)[which]), marks: [],
      })));
      const dots = (side) => ({
        name: side, label: `steps of ${side.toUpperCase()}`, color: cssColor[side], x: levels, y: levels.map(() => null),
        marks: value[side].steps.flatMap(({ log_snr: x, signal, noise }) => [{ x, y: signal }, { x, y: noise }]),
      });
      const share = (side) => {
        const { steps } = value[side], kept = steps.filter((step) => step.log_snr !== null), x = kept.map((step) => step.log_snr);
        const y = kept.map((step) => step.index / Math.max(1, steps.length - 1));
        return { name: side, label: `${side.toUpperCase()}, ${steps.length} steps`, color: cssColor[side], x, y, marks: x.map((at, i) => ({ x: at, y: y[i] })) };
      };
      scalesChart.update({
        series: [...curves, dots("a"), dots("b")], xDomain, yDomain: [0, 1.02], yLabel: "signal α, noise σ",
        label: "Signal and noise of both runs against log-SNR, a dot for each step",
      });
      shareChart.update({ series: [share("a"), share("b")], xDomain, yDomain: [0, 1.02], yLabel: "share of the run", label: "How far either run is at each log-SNR" });
      const said = alike ? `Both are ${KINDS[kinds.a][1]}.` : `A is ${KINDS[kinds.a][0]}, B is ${KINDS[kinds.b][0]}.`;
      part(".ds-compare-kinds").textContent = `${said} At one log-SNR both have the same ratio of signal to noise. Where the share of the run rises steeply, its steps lie close together.`;
      root.dataset.kinds = `${kinds.a} ${kinds.b}`;
    };

    const load = async (next) => {
      const streams = async (film) => Object.fromEntries(await Promise.all(film.streams.map(async ({ name, src }) => [name, await bitmapOf(src)])));
      const difference = async () => Object.fromEntries(await Promise.all(Object.entries(next.differences).map(async ([name, { src }]) => [name, await bitmapOf(src)])));
      const end = async () => ({ a: await bitmapOf(next.end.a.src), b: await bitmapOf(next.end.b.src), difference: await bitmapOf(next.end.difference.src) });
      const [a, b, differences, ends] = await Promise.all([streams(next.a), streams(next.b), difference(), end()]);
      return { a, b, difference: differences, end: ends };
    };
    const receive = async () => {
      if (!props.value) return;
      const ticket = ++asked, next = JSON.parse(props.value), loaded = await load(next);
      if (ticket !== asked) return;
      value = next;
      sprites = loaded;
      at = next.meetings.length - 1;
      part(".ds-empty").hidden = true;
      part(".ds-stage-main").hidden = false;
      part(".ds-title-text").textContent = next.title || "One seed, two settings";
      for (const side of ["a", "b"]) {
        const words = paneOf(side).querySelector("figcaption .ds-muted");
        words.textContent = words.title = next[side].title;
        paneOf(side).querySelector("b").style.color = cssColor[side];
      }
      part(".ds-scale i").style.background = Studio.gradient("cividis");
      bar.length(next.meetings.length);
      bar.fps(Math.min(30, Math.max(5, next.meetings.length / 4)));
      bar.disable(false);
      bar.set(at);
      drawChart();
      drawPaths();
      draw();
      root.dataset.meetings = next.meetings.length;
    };
    for (const button of root.querySelectorAll("[data-stream]")) {
      button.onclick = () => {
        stream = button.dataset.stream;
        for (const other of root.querySelectorAll("[data-stream]")) other.setAttribute("aria-pressed", String(other === button));
        if (value) { drawChart(); draw(); }
      };
    }
    watch("value", receive);
    receive();
  };

  Studio.pictureGrid = (element, props, watch) => {
    const root = element.querySelector(".ds-grid-stage");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "true";
    root.innerHTML = `<div class="ds-empty">${root.dataset.invitation ?? "Choose what changes along rows and columns, and press Draw the grid."}</div>`;

    const drawCurve = ({ x, y }, xName) => {
      const box = make("div", "ds-compare-chart ds-grid-curve");
      root.append(box);
      Studio.chart(box, {
        height: 190, xLabel: xName, yLabel: "obedience", yDomain: [0, 1.05], xDomain: [0, Math.max(1, ...x)],
        series: [{ name: "obedience", label: "obeys the map", color: "var(--ds-accent)", x, y, marks: x.map((at, i) => ({ x: at, y: y[i] })) }],
        label: "How well the picture obeys the map, 0 to 1, against the scale of the unit",
      });
    };
    const receive = () => {
      if (!props.value) return;
      const { rows, columns, cells, row_name, column_name, title, curve } = JSON.parse(props.value);
      const table = make("table", "ds-grid-table"), head = make("tr");
      head.append(make("th", "ds-muted", `${row_name} ↓   ${column_name} →`), ...columns.map((text) => make("th", "ds-num", text)));
      const header = make("thead"), body = make("tbody");
      header.append(head);
      rows.forEach((text, i) => {
        const row = make("tr"), title = make("th", "ds-num", text);
        title.scope = "row";
        row.append(title);
        columns.forEach((column, j) => {
          const cell = make("td"), source = cells[i * columns.length + j], picture = source ? new Image() : make("div", "ds-grid-waiting");
          if (source) {
            picture.src = source;
            picture.alt = `${row_name} ${text}, ${column_name} ${column}`;
          }
          cell.append(picture);
          row.append(cell);
        });
        body.append(row);
      });
      table.append(header, body);
      const box = make("div", "ds-grid-box");
      box.append(table);
      root.replaceChildren(...Studio.heading(title), box);
      if (curve) drawCurve(curve, column_name);
      root.dataset.cells = cells.length;
      root.dataset.done = cells.filter(Boolean).length;
    };
    watch("value", receive);
    receive();
  };
})();
