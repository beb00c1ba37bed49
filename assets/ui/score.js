// Scores of pictures: sorted, with bars, and how far the scorers agree.
//
//   Studio.scores(element, props, watch, trigger)   in <div class="ds-stage ds-scores"></div>
//     props.value  JSON text of {pictures: [{src, name, prompt}], scorers: [{name, label, about}], scores: {name: [number or null]},
//                  share: 0..1 while it goes on, else null, agreement: [[tau or null]] or null}, or {invitation}
//     the event `select` with {index}: a picture was pressed
(() => {
  const Studio = (window.Studio = window.Studio || {});
  const make = (...given) => Studio.make(...given);
  const digits = (value) => (value === null ? "" : Math.abs(value) >= 100 ? value.toFixed(1) : value.toFixed(3));

  const TEMPLATE = `
    <div class="ds-empty"><p></p></div>
    <div class="ds-scores-main" hidden>
      <div class="ds-progress" role="progressbar" aria-label="Scoring" aria-valuemin="0" aria-valuemax="100"><i></i></div>
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
    const draw = () => {
      part("thead").replaceChildren(head());
      part("tbody").replaceChildren(...order().map(rowOf));
      agreement();
    };
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
})();
