// Tuning by a reward: whether the pictures get better, or only the number.
//
//   Studio.tuning(element, props, watch)   in <div class="ds-stage ds-tuning"></div>
//     props.value  JSON text of {alarm, charts: [{title, series: [{name, label, x: [], y: []}]}], judge, follow}, {note}, or {} for nothing
(() => {
  const Studio = (window.Studio = window.Studio || {});

  // A curve of more points than there are looks needs no marks.
  const MOST_MARKS = 40;

  Studio.tuning = (element, props, watch) => {
    const root = element.querySelector(".ds-tuning");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "true";
    const alarm = Studio.make("p", root, "ds-tuning-alarm"), about = Studio.make("p", root, "ds-muted"), grid = Studio.make("div", root, "ds-tuning-charts");
    alarm.setAttribute("role", "status");
    const charts = new Map();

    const chartOf = (title) => {
      if (!charts.has(title)) {
        const box = Studio.make("figure", grid);
        Studio.make("figcaption", box, "", title);
        charts.set(title, { box, chart: Studio.chart(Studio.make("div", box), { series: [], xLabel: "updates", xName: "update", height: 170, label: title, point: null }) });
      }
      return charts.get(title);
    };

    const receive = () => {
      const value = props.value ? JSON.parse(props.value) : {}, shown = value.charts || [];
      root.hidden = !shown.length && !value.note;
      alarm.hidden = !(value.alarm || value.note);
      alarm.textContent = value.alarm || value.note || "";
      root.dataset.alarm = String(Boolean(value.alarm));
      about.hidden = !shown.length;
      about.textContent = [value.follow && `Followed: ${value.follow}.`, value.judge && `Held out: ${value.judge}.`].filter(Boolean).join(" ");
      for (const [title, { box }] of charts) box.hidden = !shown.some((one) => one.title === title);
      for (const { title, series } of shown) {
        const { chart } = chartOf(title);
        chart.update({ series: series.map((one, i) => ({ ...one, color: `var(--ds-series-${i + 1})`, marks: one.x.length > MOST_MARKS ? [] : one.x.map((x, k) => ({ x, y: one.y[k] })) })) });
      }
      root.dataset.looks = String(Math.max(0, ...shown.map(({ series }) => series[0].x.length - 1)));
    };
    watch("value", receive);
    receive();
  };
})();
