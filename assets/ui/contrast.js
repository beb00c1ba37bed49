// Studio.contrast: the stage of "One step or many?".
//
//   Studio.contrast(element, props, watch)   in a gr.HTML whose template is <div class="ds-stage ds-contrast"></div>
//   props.value   JSON text of {state: "training" | "stopped" | "done" | "recorded", title, share: 0..1,
//                 losses: {step: [], one_step: [], ddpm: []}, times: how often DDPM is asked,
//                 drawings: [{step: the update after which, pictures: {name: PNG as data URI}}], of a training that
//                 goes on only the last, table: [{name, variety, sharpness, distance}] or null}
//
// What is over can be walked through with the transport bar; what is recorded plays when it is first seen.
(() => {
  const Studio = (window.Studio = window.Studio || {});

  const PANES = {
    one_step: () => ["One step", "asked once"],
    ddpm: (times) => ["DDPM", `asked ${times} times`],
    repeated: (times) => ["The one-step network", `asked ${times} times at the end`],
    real: () => ["Real digits", "kept out of the training"],
  };
  const MEASURES = ["variety", "sharpness", "distance"];
  const ABOUT = {
    variety: "Standard deviation of a pixel from picture to picture: 0 when all are alike.",
    sharpness: "Mean step between neighbouring pixels.",
    distance: "Root mean square difference to the nearest digit of the training.",
  };
  const NOT_BEFORE_THE_END = ["repeated", "real"];
  const PLAY_S = 8;

  const template = `
    <div class="ds-empty"><p>Press Train. Two small networks learn the same digits, and here you watch what each makes of the same pure noise.</p></div>
    <div class="ds-stage-main" hidden>
      <div class="ds-title"><span class="ds-title-text ds-num" role="status"></span><span class="ds-caption ds-num"></span></div>
      <div class="ds-progress" role="progressbar" aria-label="Training" aria-valuemin="0" aria-valuemax="100"><i></i></div>
      <div class="ds-contrast-body"><div class="ds-contrast-panes"><div class="ds-bar"></div></div><div class="ds-contrast-side"><div class="ds-contrast-chart"></div><div class="ds-contrast-table"></div></div></div>
    </div>`;

  const make = (tag, parent, text) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  };

  const tabulate = (box, rows) => {
    const table = document.createElement("table");
    make("caption", table, "Measured on 64 pictures of each; from black to white is 2.");
    const head = make("tr", make("thead", table));
    make("th", head, "");
    for (const name of MEASURES) make("th", head, name).title = ABOUT[name];
    const body = make("tbody", table);
    for (const row of rows) {
      const line = make("tr", body);
      make("th", line, row.name).scope = "row";
      for (const name of MEASURES) make("td", line, row[name].toFixed(3));
    }
    box.replaceChildren(table);
  };

  Studio.contrast = (element, props, watch) => {
    const root = element.querySelector(".ds-contrast");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "true";
    root.innerHTML = template;
    const part = (selector) => root.querySelector(selector);
    const panesBox = part(".ds-contrast-panes"), progress = part(".ds-progress");
    let asked = 0, times = 0, value = null;

    const panes = Object.fromEntries(Object.keys(PANES).map((name) => {
      const figure = make("figure", panesBox), caption = make("figcaption", figure);
      // The bar lies between what is followed and what comes at the end.
      if (!NOT_BEFORE_THE_END.includes(name)) panesBox.insertBefore(figure, part(".ds-bar"));
      figure.dataset.pane = name;
      figure.hidden = NOT_BEFORE_THE_END.includes(name);
      const title = make("b", caption), words = make("span", caption), canvas = make("canvas", figure);
      canvas.className = "ds-unmade";
      canvas.setAttribute("role", "img");
      return [name, { figure, title, words, canvas, source: null }];
    }));

    const caption = () => {
      for (const [name, pane] of Object.entries(panes)) {
        const [title, words] = PANES[name](times);
        pane.title.textContent = title;
        pane.words.textContent = words;
        pane.canvas.setAttribute("aria-label", `${title}, ${words}`);
      }
    };

    const paint = async (pane, source) => {
      if (pane.source === source) return;
      pane.source = source;
      const bitmap = await createImageBitmap(await (await fetch(source)).blob());
      if (pane.source !== source) return bitmap.close();
      pane.canvas.width = bitmap.width;
      pane.canvas.height = bitmap.height;
      pane.canvas.getContext("2d").drawImage(bitmap, 0, 0);
      pane.canvas.className = "";
      bitmap.close();
    };

    const clear = (pane) => {
      pane.source = null;
      pane.canvas.getContext("2d").clearRect(0, 0, pane.canvas.width, pane.canvas.height);
      pane.canvas.className = "ds-unmade";
    };

    // --- the losses and the transport bar

    const bar = Studio.transport(part(".ds-bar"), {
      noun: "update", label: "Updates of the training",
      text: (index) => (value ? `update ${value.losses.step[index] ?? 0}` : ""),
      onChange: (index) => show(index),
    });
    const chart = Studio.chart(part(".ds-contrast-chart"), {
      xLabel: "updates of each network", xName: "update", yLabel: "loss (mean square, running mean)", yLog: true, height: 230,
      label: "Losses of both networks; click to go to an update",
      onPick: (x) => { if (value && value.state !== "training") bar.go(Studio.nearest(value.losses.step, x)); },
    });
    const drawLosses = ({ step, one_step, ddpm }) => chart.update({
      series: [
        { name: "one_step", label: "One step: error of x₀", color: "var(--ds-series-2)", x: step, y: one_step },
        { name: "ddpm", label: "DDPM: error of v", color: "var(--ds-series-1)", x: step, y: ddpm },
      ],
    });

    // --- one moment of the training

    const show = (index) => {
      const { losses, drawings, state } = value, update = losses.step[index] ?? 0, last = drawings.at(-1);
      const drawn = drawings.findLast(({ step }) => step <= update), pictures = drawn ? { ...drawn.pictures } : {};
      // Real digits are there from the start.
      if (last && last.pictures.real) pictures.real = last.pictures.real;
      for (const [name, pane] of Object.entries(panes)) {
        pane.figure.hidden = NOT_BEFORE_THE_END.includes(name) && !(last && last.pictures[name]);
        if (!pictures[name]) clear(pane);
      }
      part(".ds-caption").textContent = drawn ? `Pictures after update ${drawn.step}` : "No pictures yet";
      chart.point(state === "training" ? null : update);
      root.dataset.update = update;
      return Promise.all(Object.entries(pictures).map(([name, source]) => paint(panes[name], source)));
    };

    const play = (next) => {
      const observer = new IntersectionObserver(([seen]) => {
        if (!seen.isIntersecting) return;
        observer.disconnect();
        if (value === next && bar.index === 0) bar.play();
      });
      observer.observe(root);
    };

    const receive = async () => {
      if (!props.value) return;
      const ticket = ++asked, next = JSON.parse(props.value), training = next.state === "training", count = next.losses.step.length;
      const playing = next.state === "recorded" && !matchMedia("(prefers-reduced-motion: reduce)").matches;
      bar.pause();
      value = next;
      part(".ds-empty").hidden = true;
      part(".ds-stage-main").hidden = false;
      times = next.times;
      caption();
      part(".ds-title-text").textContent = next.title;
      progress.hidden = !training;
      progress.firstElementChild.style.width = `${100 * next.share}%`;
      progress.setAttribute("aria-valuenow", String(Math.round(100 * next.share)));
      drawLosses(next.losses);
      next.table ? tabulate(part(".ds-contrast-table"), next.table) : part(".ds-contrast-table").replaceChildren();
      bar.length(count);
      bar.fps(Math.min(60, count / PLAY_S));
      bar.disable(training || count < 2);
      bar.set(playing ? 0 : count - 1);
      await show(bar.index);
      if (ticket !== asked) return;
      root.dataset.state = next.state;
      if (playing) play(next);
    };

    caption();
    watch("value", receive);
    receive();
  };
})();
