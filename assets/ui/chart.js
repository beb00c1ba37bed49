// Studio.chart: a small line chart in SVG. Hover reads every series off at one x; click or drag picks an x.
//
//   const chart = Studio.chart(container, {
//     series: [{name, label, color, x: [...], y: [...], marks: [{x, y}], dash}],
//     xLabel, yLabel, xName (what the table of values calls x; xLabel by default), xLog, yLog, xReverse, xDomain, yDomain, height, label,   // label: what a screen reader says
//     onPick(x, seriesName), point: x or null, format(value, "x" or the series' name) -> string });
//   chart.update({...})   merges options and draws again      chart.point(x)   moves the point; null takes it away
//   chart.destroy()
//
// Values that are null or not finite break the line.
(() => {
  const Studio = (window.Studio = window.Studio || {});
  const SVG = "http://www.w3.org/2000/svg";
  const MAX_POINTS = 1500;

  const svg = (tag, attributes = {}, parent = null) => {
    const node = document.createElementNS(SVG, tag);
    for (const name in attributes) node.setAttribute(name, attributes[name]);
    if (parent) parent.append(node);
    return node;
  };
  const html = (tag, className, parent) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (parent) parent.append(node);
    return node;
  };
  const finite = (value) => value !== null && value !== undefined && Number.isFinite(value);

  // Four significant figures, without an exponent where a person would write none.
  Studio.format = (value) => {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
    const size = Math.abs(value);
    let text;
    if (size === 0) text = "0";
    else if (size >= 1e5 || size < 1e-3) text = value.toExponential(2).replace("e+", "e");
    else if (Number.isInteger(value)) text = String(value);
    else text = value.toFixed(Math.max(0, 3 - Math.max(0, Math.floor(Math.log10(size)))));
    return text.replaceAll("-", "−");
  };

  const niceTicks = (low, high, count) => {
    const raw = (high - low) / Math.max(1, count);
    const power = 10 ** Math.floor(Math.log10(raw));
    const many = [1, 2, 2.5, 5, 10].find((m) => m * power >= raw * 0.999), step = many * power;
    const ticks = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) ticks.push(k * step);
    const digits = Math.max(0, (many === 2.5 ? 1 : 0) - Math.floor(Math.log10(step) + 1e-9));
    const plain = Math.max(Math.abs(low), Math.abs(high)) < 1e6 && digits <= 5;
    return ticks.map((value) => ({ value, text: plain ? value.toFixed(digits).replace("-", "−").replace(/^−(0(\.0*)?)$/, "$1") : Studio.format(value) }));
  };

  const SUPERSCRIPT = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
  const plainPower = (exponent) => exponent >= -2 && exponent <= 3;
  const powerText = (exponent) => (plainPower(exponent) ? String(Number((10 ** exponent).toPrecision(1))) : "10" + [...String(exponent)].map((c) => SUPERSCRIPT[c]).join(""));

  const logTicks = (low, high, count) => {
    const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
    const every = Math.max(1, Math.ceil((last - first) / Math.max(1, count)));
    const ticks = [];
    for (let e = first; e <= last; e++) {
      if ((e - first) % every === 0) ticks.push({ value: 10 ** e, text: powerText(e) });
      if (last - first <= 2) for (const m of [2, 5]) ticks.push({ value: m * 10 ** e, text: plainPower(e) ? String(Number((m * 10 ** e).toPrecision(1))) : Studio.format(m * 10 ** e) });
    }
    return ticks.filter((tick) => tick.value >= low * 0.999 && tick.value <= high * 1.001);
  };

  const extent = (lists, log) => {
    let low = Infinity, high = -Infinity;
    for (const list of lists) for (const value of list) {
      if (!finite(value) || (log && value <= 0)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
    if (low > high) return log ? [0.1, 1] : [0, 1];
    if (low === high) return log ? [low / 2, high * 2] : [low - 0.5, high + 0.5];
    return [low, high];
  };

  const scaleOf = (domain, range, log) => {
    const f = log ? Math.log10 : (v) => v, g = log ? (v) => 10 ** v : (v) => v;
    const a = f(domain[0]), b = f(domain[1]);
    const to = (value) => range[0] + ((f(value) - a) / (b - a)) * (range[1] - range[0]);
    const from = (pixel) => g(a + ((pixel - range[0]) / (range[1] - range[0])) * (b - a));
    return { to, from };
  };

  // Index of the entry of the monotone list xs that is nearest to x.
  const nearest = (xs, x) => {
    const up = xs[xs.length - 1] >= xs[0];
    let low = 0, high = xs.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (up ? xs[middle] <= x : xs[middle] >= x) low = middle; else high = middle;
    }
    return Math.abs(xs[low] - x) <= Math.abs(xs[high] - x) ? low : high;
  };
  Studio.nearest = nearest;

  Studio.chart = (container, options = {}) => {
    let opts = { series: [], height: 220, point: null, ...options };
    const hidden = new Set();
    const root = html("div", "ds-chart", container);
    const legend = html("div", "ds-chart-legend", root);
    const picture = svg("svg", { role: "img", tabindex: "0" }, root);
    const tip = html("div", "ds-chart-tip", root);
    tip.hidden = true;
    let x = null, y = null, plot = null, cross = null, now = null, dots = [], dragging = false, tick = 0;

    const colorOf = (series, i) => series.color || `var(--ds-series-${(i % 8) + 1})`;
    const shown = () => opts.series.filter((series) => !hidden.has(series.name) && series.x && series.x.length);
    const show = (value, name) => (opts.format ? opts.format(value, name) : Studio.format(value));
    const inLog = (value) => finite(value) && (!opts.yLog || value > 0);

    const drawLegend = () => {
      legend.replaceChildren();
      legend.hidden = opts.series.length < 2;
      if (legend.hidden) return;
      opts.series.forEach((series, i) => {
        const button = html("button", "", legend);
        button.type = "button";
        const swatch = html("i", "", button);
        swatch.style.borderTopColor = colorOf(series, i);
        if (series.dash) swatch.style.borderTopStyle = "dashed";
        button.append(series.label || series.name);
        button.setAttribute("aria-pressed", String(!hidden.has(series.name)));
        button.title = "Show or hide this curve";
        button.onclick = () => { hidden.has(series.name) ? hidden.delete(series.name) : hidden.add(series.name); draw(); };
      });
    };

    const pathOf = (series) => {
      const stride = Math.max(1, Math.ceil(series.x.length / MAX_POINTS));
      let path = "", pen = false;
      for (let i = 0; i < series.x.length; i++) {
        if (i % stride && i !== series.x.length - 1) continue;
        const ok = inLog(series.y[i]) && finite(series.x[i]) && (!opts.xLog || series.x[i] > 0);
        if (ok) path += `${pen ? "L" : "M"}${x.to(series.x[i]).toFixed(1)} ${y.to(series.y[i]).toFixed(1)}`;
        pen = ok;
      }
      return path;
    };

    const draw = () => {
      const width = Math.max(160, root.clientWidth || 0);
      if (!root.clientWidth) return;
      const height = opts.height;
      drawLegend();
      picture.replaceChildren();
      picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
      picture.style.height = `${height}px`;
      picture.classList.toggle("ds-pick", Boolean(opts.onPick));
      const visible = shown();
      picture.setAttribute("aria-label", opts.label || `${opts.yLabel || "value"} against ${opts.xLabel || "x"}: ${visible.map((s) => s.label || s.name).join(", ")}`);

      const xs = opts.xDomain || extent(visible.map((s) => s.x), opts.xLog);
      let ys = opts.yDomain || extent(visible.map((s) => s.y), opts.yLog);
      if (!opts.yDomain) {
        const pad = opts.yLog ? (ys[1] / ys[0]) ** 0.04 : (ys[1] - ys[0]) * 0.05;
        ys = opts.yLog ? [ys[0] / pad, ys[1] * pad] : [ys[0] - pad, ys[1] + pad];
      }
      const bottom = opts.xLabel ? 36 : 20, top = opts.yLabel ? 20 : 6;
      const yTicks = (opts.yLog ? logTicks : niceTicks)(ys[0], ys[1], (height - top - bottom) / 38);
      const left = 12 + Math.max(14, ...yTicks.map((t) => t.text.length * 6.2));
      plot = { left, right: width - 10, top, bottom: height - bottom };
      x = scaleOf(xs, opts.xReverse ? [plot.right, plot.left] : [plot.left, plot.right], opts.xLog);
      y = scaleOf(ys, [plot.bottom, plot.top], opts.yLog);
      const xTicks = (opts.xLog ? logTicks : niceTicks)(xs[0], xs[1], (plot.right - plot.left) / 70);

      for (const { value, text } of yTicks) {
        const at = Math.round(y.to(value)) + 0.5;
        svg("line", { class: "ds-grid", x1: plot.left, x2: plot.right, y1: at, y2: at }, picture);
        svg("text", { x: plot.left - 6, y: at + 3.5, "text-anchor": "end" }, picture).textContent = text;
      }
      for (const { value, text } of xTicks) {
        const at = Math.round(x.to(value)) + 0.5;
        svg("line", { class: "ds-grid", x1: at, x2: at, y1: plot.bottom, y2: plot.bottom + 4 }, picture);
        svg("text", { x: at, y: plot.bottom + 16, "text-anchor": "middle" }, picture).textContent = text;
      }
      if (opts.xLabel) svg("text", { class: "ds-axis-label", x: (plot.left + plot.right) / 2, y: height - 4, "text-anchor": "middle" }, picture).textContent = opts.xLabel;
      if (opts.yLabel) svg("text", { class: "ds-axis-label", x: 2, y: 11 }, picture).textContent = opts.yLabel;

      opts.series.forEach((series, i) => {
        if (hidden.has(series.name)) return;
        const line = svg("path", { class: "ds-line", d: pathOf(series) }, picture);
        line.style.stroke = colorOf(series, i);
        if (series.dash) line.setAttribute("stroke-dasharray", series.dash === true ? "5 4" : series.dash);
        for (const mark of series.marks || []) {
          if (!finite(mark.x) || (opts.xLog && mark.x <= 0)) continue;
          const node = inLog(mark.y)
            ? svg("circle", { cx: x.to(mark.x), cy: y.to(mark.y), r: 2.4 }, picture)
            : svg("rect", { x: x.to(mark.x) - 0.75, y: plot.bottom - 6, width: 1.5, height: 6 }, picture);
          node.style.fill = colorOf(series, i);
        }
      });

      cross = svg("line", { class: "ds-cross", y1: plot.top, y2: plot.bottom, visibility: "hidden" }, picture);
      now = svg("line", { class: "ds-now", y1: plot.top, y2: plot.bottom, visibility: "hidden" }, picture);
      dots = opts.series.map((series, i) => {
        const dot = svg("circle", { class: "ds-dot", r: 5, visibility: "hidden" }, picture);
        dot.style.fill = colorOf(series, i);
        return dot;
      });
      point(opts.point);
    };

    const point = (value) => {
      opts.point = value;
      if (!now) return;
      const on = finite(value) && (!opts.xLog || value > 0);
      now.setAttribute("visibility", on ? "visible" : "hidden");
      if (on) { now.setAttribute("x1", x.to(value)); now.setAttribute("x2", x.to(value)); }
      opts.series.forEach((series, i) => {
        const at = on && !hidden.has(series.name) && series.x.length ? series.y[nearest(series.x, value)] : null;
        dots[i].setAttribute("visibility", inLog(at) ? "visible" : "hidden");
        if (inLog(at)) { dots[i].setAttribute("cx", x.to(value)); dots[i].setAttribute("cy", y.to(at)); }
      });
    };

    const locate = (event) => {
      const box = picture.getBoundingClientRect();
      const px = Math.min(plot.right, Math.max(plot.left, event.clientX - box.left)), py = event.clientY - box.top;
      let best = null;
      for (const series of shown()) {
        const i = nearest(series.x, x.from(px));
        const distance = inLog(series.y[i]) ? Math.abs(y.to(series.y[i]) - py) : Infinity;
        if (!best || distance < best.distance) best = { series, x: series.x[i], distance };
      }
      return best && { ...best, px, py };
    };

    const hover = (at) => {
      cross.setAttribute("x1", x.to(at.x));
      cross.setAttribute("x2", x.to(at.x));
      cross.setAttribute("visibility", "visible");
      const table = html("table");
      html("caption", "", table).textContent = `${opts.xName || opts.xLabel || "x"} = ${show(at.x, "x")}`;
      opts.series.forEach((series, i) => {
        if (hidden.has(series.name) || !series.x.length) return;
        const row = table.insertRow();
        const name = row.insertCell(), value = row.insertCell();
        name.textContent = series.label || series.name;
        name.style.color = colorOf(series, i);
        value.textContent = show(series.y[nearest(series.x, at.x)], series.name);
      });
      tip.replaceChildren(table);
      tip.hidden = false;
      const width = root.clientWidth, left = x.to(at.x) + 12;
      tip.style.transform = `translate(${left + tip.offsetWidth > width ? Math.max(0, left - 24 - tip.offsetWidth) : left}px, ${picture.offsetTop + plot.top}px)`;
    };
    const leave = () => { tip.hidden = true; if (cross) cross.setAttribute("visibility", "hidden"); };

    picture.addEventListener("pointermove", (event) => {
      const at = plot && locate(event);
      if (!at) return;
      hover(at);
      if (dragging && opts.onPick) opts.onPick(at.x, at.series.name);
    });
    picture.addEventListener("pointerdown", (event) => {
      const at = plot && locate(event);
      if (!at || !opts.onPick || event.button) return;
      dragging = true;
      picture.setPointerCapture(event.pointerId);
      opts.onPick(at.x, at.series.name);
    });
    for (const type of ["pointerup", "pointercancel"]) picture.addEventListener(type, () => { dragging = false; });
    picture.addEventListener("pointerleave", leave);

    const observer = new ResizeObserver(() => { cancelAnimationFrame(tick); tick = requestAnimationFrame(draw); });
    observer.observe(root);
    draw();
    return {
      update(more) { opts = { ...opts, ...more }; leave(); draw(); },
      point,
      destroy() { observer.disconnect(); cancelAnimationFrame(tick); root.remove(); },
    };
  };
})();
