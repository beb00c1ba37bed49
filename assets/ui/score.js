// Scores of pictures: sorted, with bars, and how far the scorers agree.
//
//   Studio.scores(element, props, watch, trigger)   in <div class="ds-stage ds-scores"></div>
//     props.value  JSON text of {pictures: [{src, name, prompt}], scorers: [{name, label, about}], scores: {name: [number or null]},
//                  share: 0..1 while it goes on, else null, agreement: [[tau or null]] or null, curve: {x, y, xLabel, yLabel} or nothing},
//                  and {title}, a line above; or {invitation}, which an element without a value has as data-invitation
//     the event `select` with {index}: a picture was pressed
//   Studio.why(element, props, watch)               in <div class="ds-stage ds-why"></div>
//     props.value  JSON text of {picture, title, maps: [{name, label, about, src, smooth}]}, or {picture, title, words: [{word, others: [{word,
//                  change}]}]}, or {invitation}; a map is a grey picture, white where it is strong
//   Studio.measured(element, props, watch)          in <div class="ds-stage ds-measured"></div>
//     props.value  JSON text of tabs.reward_training.measured_value
//   and on every stage: the rewards of a film, {rewards: [{name, label, values}]}, as curves under it
(() => {
  const Studio = (window.Studio = window.Studio || {});
  const make = (...given) => Studio.make(...given);
  const digits = (value) => (value === null ? "" : Math.abs(value) >= 100 ? value.toFixed(1) : value.toFixed(3));

  const TEMPLATE = `
    <div class="ds-empty"><p></p></div>
    <div class="ds-scores-main" hidden>
      <div class="ds-scores-head"></div>
      <div class="ds-progress" role="progressbar" aria-label="Scoring" aria-valuemin="0" aria-valuemax="100"><i></i></div>
      <div class="ds-scores-curve" hidden></div>
      <div class="ds-scores-scroll"><table><thead></thead><tbody></tbody></table></div>
      <section class="ds-scores-agreement" hidden><h4>How far the scorers agree</h4><p class="ds-muted">Kendall's τ-b of the two orders: 1 the same, 0 unrelated, −1 reversed.</p><table></table></section>
    </div>`;

  Studio.scores = (element, props, watch, trigger) => {
    const root = element.querySelector(".ds-scores");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "true";
    root.innerHTML = TEMPLATE;
    const part = (selector) => root.querySelector(selector);
    let value = null, by = null;

    const order = () => {
      const of = value.scores[by], places = value.pictures.map((_, i) => i);
      // What has no score yet stands last, in its own order.
      return places.sort((a, b) => (of[b] ?? -Infinity) - (of[a] ?? -Infinity) || a - b);
    };
    const head = () => {
      const row = document.createElement("tr");
      make("th", row, "", "");
      make("th", row, "", "Picture");
      for (const scorer of value.scorers) {
        const cell = make("th", row), button = make("button", cell, "", scorer.label);
        button.type = "button";
        button.title = `${scorer.about} Press to sort by it.`;
        button.setAttribute("aria-pressed", String(scorer.name === by));
        button.onclick = () => { by = scorer.name; draw(); };
      }
      return row;
    };
    const barOf = (cell, score, low, high) => {
      if (score === null) return;
      make("span", cell, "ds-num", digits(score));
      const bar = make("i", cell);
      bar.style.width = `${high > low ? 4 + 96 * (score - low) / (high - low) : 100}%`;
    };
    const rowOf = (i, place) => {
      const row = document.createElement("tr"), { src, name, prompt } = value.pictures[i];
      row.dataset.index = i;
      make("td", row, "ds-num ds-muted", String(place + 1));
      const cell = make("div", make("td", row, "ds-scores-picture")), button = make("button", cell), image = make("img", button), words = make("div", cell);
      button.type = "button";
      button.title = "Choose this picture for a closer look.";
      button.onclick = () => trigger("select", { index: i });
      image.src = src;
      image.alt = name;
      make("b", words, "", name);
      make("span", words, "ds-muted", prompt);
      for (const scorer of value.scorers) {
        const known = value.scores[scorer.name].filter((score) => score !== null);
        barOf(make("td", row, "ds-scores-bar"), value.scores[scorer.name][i], Math.min(...known), Math.max(...known));
      }
      return row;
    };
    const agreement = () => {
      const box = part(".ds-scores-agreement"), table = box.querySelector("table");
      box.hidden = !value.agreement;
      if (!value.agreement) return;
      table.replaceChildren();
      const top = make("tr", make("thead", table)), body = make("tbody", table);
      for (const label of ["", ...value.scorers.map((one) => one.label)]) make("th", top, "", label);
      value.agreement.forEach((taus, i) => {
        const row = make("tr", body);
        make("th", row, "", value.scorers[i].label);
        taus.forEach((tau, j) => make("td", row, "ds-num", i === j ? "" : tau === null ? "–" : tau.toFixed(2)));
      });
    };
    let chart = null;
    const curve = () => {
      const box = part(".ds-scores-curve");
      box.hidden = !value.curve;
      if (!value.curve) return;
      const { x, y, xLabel, yLabel } = value.curve;
      const told = { series: [{ name: "curve", label: yLabel, color: "var(--ds-accent)", x, y, marks: x.map((at, i) => ({ x: at, y: y[i] })) }], xLabel, yLabel, height: 170, label: `${yLabel} against ${xLabel}`, point: null };
      chart ? chart.update(told) : (chart = Studio.chart(box, told));
    };
    const draw = () => {
      part(".ds-scores-head").replaceChildren(...Studio.heading(value.title));
      curve();
      part("thead").replaceChildren(head());
      part("tbody").replaceChildren(...order().map(rowOf));
      agreement();
    };
    part(".ds-empty p").textContent = root.dataset.invitation || "";
    const receive = () => {
      if (!props.value) return;
      const now = JSON.parse(props.value);
      part(".ds-empty").hidden = Boolean(now.pictures);
      part(".ds-scores-main").hidden = !now.pictures;
      if (!now.pictures) { part(".ds-empty p").textContent = now.invitation || ""; return; }
      value = now;
      if (!value.scorers.some(({ name }) => name === by)) by = value.scorers[0].name;
      const bar = part(".ds-progress");
      bar.hidden = value.share === null;
      bar.firstElementChild.style.width = `${100 * (value.share || 0)}%`;
      bar.setAttribute("aria-valuenow", String(Math.round(100 * (value.share || 0))));
      root.dataset.done = String(value.share === null);
      draw();
    };
    watch("value", receive);
    receive();
  };

  // --- a closer look

  const WHY = `<div class="ds-empty"><p></p></div><div class="ds-why-main" hidden><p class="ds-why-title"></p><div class="ds-why-maps"></div><div class="ds-why-words"></div></div>`;
  // Dark where nothing matters, through teal to yellow where it matters most: cividis, which the colour-blind read as well.
  const CIVIDIS = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56]];
  const shade = (level) => {
    const at = level * (CIVIDIS.length - 1), low = Math.min(CIVIDIS.length - 2, Math.floor(at)), part = at - low;
    return CIVIDIS[low].map((from, i) => from + part * (CIVIDIS[low + 1][i] - from));
  };
  const colourMap = async (canvas, src, smooth) => {
    const bitmap = await createImageBitmap(await (await fetch(src)).blob()), { width, height } = bitmap;
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d");
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    const pixels = context.getImageData(0, 0, width, height);
    for (let i = 0; i < pixels.data.length; i += 4) pixels.data.set(shade(pixels.data[i] / 255), i);
    context.putImageData(pixels, 0, 0);
    canvas.style.imageRendering = smooth ? "auto" : "pixelated";
  };

  Studio.why = (element, props, watch) => {
    const root = element.querySelector(".ds-why");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "true";
    root.innerHTML = WHY;
    const part = (selector) => root.querySelector(selector);
    const figure = (label, about) => {
      const node = make("figure", part(".ds-why-maps")), words = make("figcaption", node);
      make("b", words, "", label);
      make("span", words, "ds-muted", about);
      return node;
    };
    const receive = () => {
      if (!props.value) return;
      const now = JSON.parse(props.value);
      part(".ds-empty").hidden = Boolean(now.picture);
      part(".ds-why-main").hidden = !now.picture;
      if (!now.picture) { part(".ds-empty p").textContent = now.invitation || ""; return; }
      part(".ds-why-title").textContent = now.title;
      part(".ds-why-maps").replaceChildren();
      const image = document.createElement("img");
      image.src = now.picture;
      image.alt = "The picture that was scored";
      figure("Picture", "").prepend(image);
      for (const map of now.maps || []) {
        const canvas = document.createElement("canvas");
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", `${map.label}: ${map.about}`);
        figure(map.label, map.about).prepend(canvas);
        colourMap(canvas, map.src, map.smooth);
      }
      words(now.words || []);
      root.dataset.shown = now.maps ? "pixels" : "words";
      root.dataset.words = (now.words || []).length;
    };
    const words = (rows) => {
      const box = part(".ds-why-words");
      box.replaceChildren();
      const reach = Math.max(1e-9, ...rows.flatMap((row) => row.others.map(({ change }) => Math.abs(change || 0))));
      for (const row of rows) {
        const line = make("div", box);
        make("b", line, "", row.word);
        const others = make("div", line);
        for (const { word, change } of row.others) {
          const chip = make("span", others, "ds-why-word ds-num", `${word || "left out"} ${change === null ? "–" : `${change >= 0 ? "+" : "−"}${Math.abs(change).toFixed(2)}`}`);
          chip.style.setProperty("--share", `${Math.round(100 * Math.abs(change || 0) / reach)}%`);
          chip.dataset.sign = (change || 0) >= 0 ? "up" : "down";
        }
      }
    };
    watch("value", receive);
    receive();
  };

  // --- what was measured of a trained reward

  const share = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)} %`);

  Studio.measured = (element, props, watch) => {
    const root = element.querySelector(".ds-measured");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "true";
    let chart = null;
    const receive = () => {
      if (!props.value) return;
      const now = JSON.parse(props.value);
      root.hidden = (now.pairs ?? null) === null && !now.note;
      root.dataset.pairs = now.pairs ?? "";
      root.replaceChildren();
      chart = null;
      if (root.hidden) return;
      if ((now.pairs ?? null) !== null) {
        const list = make("dl", root, "ds-agreement-figures");
        const figure = (label, value, about) => { const box = make("div", list); box.title = about; make("dt", box, "", label); make("dd", box, "ds-num", value); };
        figure("Accuracy", share(now.accuracy), "Held-out pairs of different ranks that the reward puts in the right order; equal rewards count as wrong.");
        figure("95 % interval", (now.low ?? null) === null ? "–" : `${share(now.low)} – ${share(now.high)}`, "By pairs and by prompts, the wider of the two.");
        figure("People", share(now.human), "How often one annotator agrees with another on the same pairs.");
        figure("Held-out pairs", String(now.pairs), `Of ${now.prompts} prompts that were never trained on.`);
        figure("Trained on", String(now.train_pairs ?? "–"), "Pairs of different ranks.");
      }
      if (now.note) make("p", root, "ds-measured-note", now.note);
      if ((now.calibration || []).length > 1) {
        const box = make("div", root, "ds-measured-chart"), rows = now.calibration;
        const points = rows.map((row) => ({ x: row.sure, y: row.right }));
        chart = Studio.chart(box, {
          series: [
            { name: "right", label: "Share that is right", color: "var(--ds-accent)", x: rows.map((row) => row.sure), y: rows.map((row) => row.right), marks: points },
            { name: "sure", label: "As sure as it is right", color: "var(--ds-muted)", x: [0.5, 1], y: [0.5, 1], dash: "4 4" },
          ], xLabel: "how sure it is", yLabel: "", yDomain: [0, 1], xDomain: [0.5, 1], height: 190, label: "Calibration: how sure the reward is, and how often it is right", point: null,
        });
      }
      if (now.published) make("p", root, "ds-muted", now.published);
    };
    watch("value", receive);
    receive();
  };

  // --- the rewards of a film

  (Studio.stageExtras = Studio.stageExtras || []).push((stage) => {
    let box = null, chart = null;
    const film = (value) => {
      if (box) box.hidden = !value.rewards;
      if (!value.rewards) return;
      if (!box) {
        box = document.createElement("figure");
        box.className = "ds-reward-curve";
        stage.root.querySelector(".ds-explain").prepend(box);
      }
      const x = value.rewards[0].values.map((_, i) => i + 1);
      // Each by its own range: scorers count in units of their own.
      const ranges = Object.fromEntries(value.rewards.map(({ name, values }) => [name, [Math.min(...values), Math.max(...values)]]));
      const series = value.rewards.map(({ name, label, values }, i) => {
        const [low, high] = ranges[name];
        return { name, label, color: `var(--ds-series-${(i % 8) + 1})`, x, y: values.map((one) => (high > low ? (one - low) / (high - low) : 0.5)) };
      });
      const read = (at, name) => Studio.format(name === "x" ? at : ranges[name][0] + at * (ranges[name][1] - ranges[name][0]));
      const told = { series, xLabel: "step", yLabel: "reward, lowest to highest", height: 180, label: "The reward of x̂0 at each step", point: null, format: read, onPick: (at) => stage.goTo(Math.round(at) - 1) };
      chart ? chart.update(told) : (chart = Studio.chart(box, told));
      stage.root.dataset.rewards = String(value.rewards.length);
    };
    const draw = () => { if (chart && stage.value && stage.value.rewards) chart.point(stage.index + 1); };
    return { film, draw };
  });
})();
