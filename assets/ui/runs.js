// Training runs: one that is followed, the list of all, and sheets of pictures that compare models.
//
//   Studio.follow(element, props, watch)            in <div class="ds-stage ds-follow"></div>
//     props.value  JSON text of {name, state, title, message, share: 0..1 or null, figures: [[name, value]], prompts: [], heads: [{label, share}],
//                  curves: {step: [], values: {loss, smooth, q1..q4, pretrain, kl, grad_norm, lr, obedience, obedience_empty}}, jump: [step, step] or null, samples: [{step, src}],
//                  compared: [{name, step: [], smooth: []}], command, log, options: [[name, value]]}, or {invitation}
//   Studio.runlist(element, props, watch, trigger)  in <div class="ds-stage ds-runlist"></div>
//     props.value  JSON text of {runs: [{name, trainer, state, words, share, when}], chosen, invitation or ""}; a click is the event
//                  `select` with {name}
//   Studio.sheet(element, props, watch)             in <div class="ds-stage ds-sheet"></div>
//     props.value  JSON text of {title, share or null, columns: [], rows: [{name, cells: [PNG as data URI or null], heading or none}], note};
//                  a heading stands once above rows in sequence that share it
(() => {
  const Studio = (window.Studio = window.Studio || {});

  const make = (...given) => Studio.make(...given);

  const progressOf = (bar, share) => {
    bar.hidden = share === null || share === undefined;
    bar.firstElementChild.style.width = `${100 * (share || 0)}%`;
    bar.setAttribute("aria-valuenow", String(Math.round(100 * (share || 0))));
  };

  // Each entry is a set of curves that one button shows or hides.
  const SETS = {
    loss: { label: "Loss", on: true, curves: [["loss", "Loss of the step", "color-mix(in srgb, var(--ds-series-1) 38%, transparent)"], ["smooth", "Running mean", "var(--ds-series-1)"]] },
    quarters: {
      label: "By noise", on: true, curves: [
        ["q1", "Least noise, t in the 1st quarter", "var(--ds-series-5)"], ["q2", "2nd quarter", "var(--ds-series-2)"],
        ["q3", "3rd quarter", "var(--ds-series-4)"], ["q4", "Most noise, 4th quarter", "var(--ds-series-3)"],
      ],
    },
    obedience: {
      label: "Obedience", on: true, curves: [
        ["obedience_empty", "Obeys the map, empty prompt", "var(--ds-series-2)"], ["obedience", "Obeys the map, with its prompt", "var(--ds-series-3)"],
      ],
    },
    terms: { label: "Loss terms", on: true, curves: [["pretrain", "Pre-training loss", "var(--ds-series-6)"], ["kl", "KL to the base", "var(--ds-series-4)"]] },
    grad: { label: "Gradient", on: false, curves: [["grad_norm", "Gradient norm", "var(--ds-series-8)"]] },
    rate: { label: "Learning rate", on: false, curves: [["lr", "Learning rate", "var(--ds-series-7)"]] },
  };
  const seriesOf = (value, shown) => {
    const { step, values } = value.curves;
    const own = Object.entries(SETS).filter(([name]) => shown.has(name)).flatMap(([, set]) => set.curves)
      .filter(([name]) => (values[name] || []).some((y) => y !== null))
      .map(([name, label, color]) => {
        // What is measured at few points is a line through these.
        const known = SETS.obedience.curves.some(([measured]) => measured === name) ? step.map((_, i) => i).filter((i) => values[name][i] !== null) : null;
        return { name, label, color, x: known ? known.map((i) => step[i]) : step, y: known ? known.map((i) => values[name][i]) : values[name] };
      });
    if (!value.compared.length) return own;
    const all = [{ name: value.name, step, smooth: values.smooth }, ...value.compared];
    return all.map((run, i) => ({ name: run.name, label: run.name, color: `var(--ds-series-${(i % 8) + 1})`, x: run.step, y: run.smooth }));
  };

  const FOLLOW = `
    <div class="ds-empty"><p></p></div>
    <div class="ds-stage-main" hidden>
      <div class="ds-title"><span class="ds-title-text ds-num" role="status"></span><span class="ds-caption ds-num"></span></div>
      <div class="ds-progress" role="progressbar" aria-label="Training" aria-valuemin="0" aria-valuemax="100"><i></i></div>
      <p class="ds-follow-message"></p>
      <div class="ds-follow-body">
        <section class="ds-follow-look" hidden>
          <div class="ds-follow-scroll">
            <div class="ds-follow-heads"></div>
            <div class="ds-follow-picture"><div class="ds-follow-prompts"></div><img alt=""></div>
          </div>
          <div class="ds-bar"></div>
          <p class="ds-follow-jump" hidden>It begins to obey between two sample points: <button type="button" class="ds-button" data-jump="0"></button> <button type="button" class="ds-button" data-jump="1"></button></p>
        </section>
        <section class="ds-follow-curves"><div class="ds-follow-sets" role="group" aria-label="Curves"></div><div class="ds-follow-chart"></div></section>
      </div>
      <details class="ds-follow-log"><summary>Log</summary><pre></pre></details>
      <details class="ds-follow-command"><summary>The same in a terminal</summary><pre></pre><button type="button" class="ds-button">Copy</button></details>
      <details class="ds-follow-options"><summary>Options</summary><table><tbody></tbody></table></details>
    </div>`;

  Studio.follow = (element, props, watch) => {
    const root = element.querySelector(".ds-follow");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "true";
    root.innerHTML = FOLLOW;
    const part = (selector) => root.querySelector(selector);
    const shown = new Set(Object.keys(SETS).filter((name) => SETS[name].on));
    let value = null;

    for (const [name, set] of Object.entries(SETS)) {
      const button = make("button", part(".ds-follow-sets"), "ds-button", set.label);
      button.type = "button";
      button.dataset.set = name;
      button.setAttribute("aria-pressed", String(set.on));
      button.onclick = () => {
        shown.has(name) ? shown.delete(name) : shown.add(name);
        button.setAttribute("aria-pressed", String(shown.has(name)));
        if (value) chart.update({ series: seriesOf(value, shown) });
      };
    }
    part(".ds-follow-log").ontoggle = () => { part(".ds-follow-log pre").scrollTop = part(".ds-follow-log pre").scrollHeight; };
    part(".ds-follow-command button").onclick = () => navigator.clipboard.writeText(part(".ds-follow-command pre").textContent);

    const bar = Studio.transport(part(".ds-bar"), {
      noun: "sample", label: "Samples over the steps of the training", fps: 2,
      text: (index) => (value && value.samples[index] ? `step ${value.samples[index].step}` : ""),
      onChange: (index) => look(index),
    });
    const chart = Studio.chart(part(".ds-follow-chart"), {
      xLabel: "steps of training", xName: "step", yLog: true, height: 280, label: "Losses, gradient norm and learning rate; click to see the samples of a step",
      onPick: (x) => { if (value && value.samples.length) bar.go(Studio.nearest(value.samples.map(({ step }) => step), x)); },
    });

    const look = (index) => {
      const sample = value.samples[index], picture = part(".ds-follow-picture img");
      if (!sample) return;
      // Decoded before it is swapped, so that scrubbing never shows an empty frame.
      const next = new Image();
      next.onload = () => { if (bar.index === index) { picture.src = sample.src; root.dataset.sample = sample.step; } };
      next.src = sample.src;
      picture.alt = `Samples after step ${sample.step}`;
      chart.point(sample.step);
    };

    const describe = () => {
      part(".ds-follow-prompts").replaceChildren();
      for (const prompt of value.prompts) make("span", part(".ds-follow-prompts"), "", prompt).title = prompt;
      const heads = part(".ds-follow-heads");
      heads.hidden = !value.prompts.length;
      heads.style.gridTemplateColumns = value.heads.map(({ share }) => `minmax(0, ${share}fr)`).join(" ");
      heads.replaceChildren();
      for (const { label } of value.heads) make("span", heads, "", label);
      const log = part(".ds-follow-log pre"), atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
      log.textContent = value.log || "Nothing was said yet.";
      if (atEnd) log.scrollTop = log.scrollHeight;
      part(".ds-follow-command pre").textContent = value.command;
      const body = part(".ds-follow-options tbody");
      body.replaceChildren();
      for (const [name, setting] of value.options) {
        const row = body.insertRow();
        make("th", row, "", name).scope = "row";
        row.insertCell().textContent = setting;
      }
    };

    const receive = () => {
      if (!props.value) return;
      const next = JSON.parse(props.value), same = value && value.name === next.name;
      const atEnd = !same || bar.index >= value.samples.length - 1, fresh = !same || next.samples.length !== value.samples.length;
      part(".ds-empty").hidden = !("invitation" in next);
      part(".ds-stage-main").hidden = "invitation" in next;
      root.dataset.state = next.state || "none";
      root.dataset.run = next.name || "";
      if ("invitation" in next) { value = null; part(".ds-empty p").textContent = next.invitation; return; }
      value = next;
      root.dataset.step = value.curves.step.at(-1) || 0;
      part(".ds-title-text").textContent = value.title;
      part(".ds-caption").textContent = value.figures.map(([name, figure]) => `${name} ${figure}`).join("    ");
      part(".ds-follow-message").textContent = value.message;
      part(".ds-follow-message").hidden = !value.message;
      progressOf(part(".ds-progress"), value.share);
      describe();
      part(".ds-follow-sets").hidden = value.compared.length > 0;
      part(".ds-follow-curves").hidden = !value.curves.step.length && !value.compared.length;
      chart.update({ series: seriesOf(value, shown), yLabel: value.compared.length ? "running mean of the loss" : "" });
      part(".ds-follow-look").hidden = !value.samples.length;
      part(".ds-follow-body").dataset.look = String(value.samples.length > 0);
      bar.length(Math.max(1, value.samples.length));
      if (atEnd) bar.set(value.samples.length - 1);
      bar.set(bar.index);
      if (fresh && value.samples.length) look(bar.index);
      showJump();
    };
    // The pictures before and after obedience rose most at once.
    const showJump = () => {
      const places = (value.jump || []).map((step) => value.samples.findIndex((sample) => sample.step === step));
      part(".ds-follow-jump").hidden = places.length < 2 || places.includes(-1);
      places.forEach((place, i) => {
        const button = part(`[data-jump="${i}"]`);
        button.textContent = `${i ? "after" : "before"}, step ${value.jump[i]}`;
        button.onclick = () => { bar.go(place); };
      });
    };

    watch("value", receive);
    receive();
  };

  Studio.runlist = (element, props, watch, trigger) => {
    const root = element.querySelector(".ds-runlist");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "true";

    const rowOf = (run, chosen, body) => {
      const row = body.insertRow();
      row.dataset.run = run.name;
      row.dataset.state = run.state;
      row.setAttribute("aria-selected", String(run.name === chosen));
      const name = make("button", row.insertCell(), "ds-runlist-name", run.name);
      name.type = "button";
      row.onclick = () => trigger("select", { name: run.name });
      row.insertCell().textContent = run.trainer;
      make("span", row.insertCell(), "ds-badge", run.state);
      const cell = row.insertCell(), bar = make("div", cell, "ds-progress");
      make("i", bar);
      progressOf(bar, run.share);
      row.insertCell().textContent = run.words;
      row.insertCell().textContent = run.when;
    };
    const receive = () => {
      if (!props.value) return;
      const { runs, chosen, invitation } = JSON.parse(props.value);
      root.dataset.count = runs.length;
      const focused = root.contains(document.activeElement) ? document.activeElement.textContent : null;
      const table = document.createElement("table");
      const head = make("tr", make("thead", table));
      for (const name of ["Run", "Trainer", "State", "Progress", "", "Asked for"]) make("th", head, "", name);
      const body = make("tbody", table);
      for (const run of runs) rowOf(run, chosen, body);
      root.replaceChildren(table);
      if (invitation) make("p", root, "ds-runlist-invitation ds-muted", invitation);
      if (focused) [...root.querySelectorAll(".ds-runlist-name")].find((button) => button.textContent === focused)?.focus();
    };
    watch("value", receive);
    receive();
  };

  Studio.sheet = (element, props, watch) => {
    const root = element.querySelector(".ds-sheet");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "true";
    root.innerHTML = `
      <div class="ds-stage-main" hidden>
        <div class="ds-title"><span class="ds-title-text" role="status"></span></div>
        <div class="ds-progress" role="progressbar" aria-label="Drawing" aria-valuemin="0" aria-valuemax="100"><i></i></div>
        <div class="ds-sheet-scroll"></div><p class="ds-sheet-note ds-muted"></p>
      </div>`;
    const receive = () => {
      if (!props.value) return;
      const value = JSON.parse(props.value);
      root.querySelector(".ds-stage-main").hidden = false;
      root.querySelector(".ds-title-text").textContent = value.title;
      root.querySelector(".ds-sheet-note").textContent = value.note || "";
      progressOf(root.querySelector(".ds-progress"), value.share);
      root.dataset.state = value.share === null ? "done" : "drawing";
      const table = document.createElement("table"), head = make("tr", make("thead", table));
      make("th", head, "", "");
      for (const column of value.columns) make("th", head, "", column);
      const body = make("tbody", table);
      let above = "";
      for (const { name, heading = "", cells } of value.rows) {
        if (heading && heading !== above) {
          const cell = make("th", body.insertRow(), "ds-sheet-heading", heading);
          cell.colSpan = 1 + value.columns.length;
          cell.scope = "rowgroup";
        }
        above = heading;
        const row = body.insertRow();
        make("th", row, "", name).scope = "row";
        cells.forEach((source, i) => {
          const cell = row.insertCell();
          if (!source) return make("div", cell, "ds-unmade");
          const picture = make("img", cell);
          picture.src = source;
          picture.alt = [heading, name, value.columns[i]].filter(Boolean).join(", ");
        });
      }
      root.querySelector(".ds-sheet-scroll").replaceChildren(table);
    };
    watch("value", receive);
    receive();
  };
})();
