// Studio.transport: one bar for everything that has steps.
//
//   const bar = Studio.transport(container, {length, index, onChange(index), fps, keyTarget, noun, label, text(index, length)});
//   bar.set(index)   moves without calling onChange        bar.length(n)   another number of steps, index kept in range
//   bar.go(index)    moves as a hand would: pauses, calls onChange
//   bar.play()  bar.pause()  bar.playing  bar.index  bar.fps(n)  bar.disable(true or false)  bar.destroy()
//
// Keys on keyTarget (the document by default), while the bar is visible and no control in focus needs them: left and
// right arrows, space, Home, End. Moving by hand pauses.
(() => {
  const Studio = (window.Studio = window.Studio || {});
  const ICONS = {
    back: "M11 2.5v11L4 8zM2.5 2.5h1.6v11H2.5z", forward: "M5 2.5v11L12 8zM11.9 2.5h1.6v11h-1.6z",
    play: "M3.5 1.8v12.4L14 8z", pause: "M3.5 2h3.2v12H3.5zM9.3 2h3.2v12H9.3z",
  };
  const icon = (name) => `<svg viewBox="0 0 16 16" aria-hidden="true"><path d="${ICONS[name]}"/></svg>`;

  // Which controls keep a key to themselves, beside the bar's own slider.
  const EVERY_KEY = "textarea, select, input:not([type=checkbox], [type=button], [type=file]), [contenteditable=true], [role=tab], [role=listbox], [role=option], [role=slider], [role=radio], video, audio";
  const SPACE_KEY = "button, a, summary, input, [role=button], [role=checkbox], [role=switch]";
  const keeps = (node, key) => node instanceof Element && (node.matches(EVERY_KEY) || (key === " " && node.closest(SPACE_KEY) !== null));

  // Arrows walk along the tabs for those who came to them by keyboard; after a click they are the stage's.
  document.addEventListener("click", (event) => {
    const tab = event.target instanceof Element && event.target.closest("[role=tab]");
    if (tab && event.detail > 0 && !tab.matches(":focus-visible")) tab.blur();
  });
  // A tab may have been clicked before this script was there.
  if (document.activeElement && document.activeElement.matches("[role=tab]:not(:focus-visible)")) document.activeElement.blur();

  Studio.transport = (container, options = {}) => {
    const { onChange = () => {}, keyTarget = document, noun = "step" } = options;
    const wording = options.text || ((i, n) => `${noun} ${i + 1} of ${n}`);
    let fps = options.fps || 12, disabled = false, length = Math.max(1, options.length || 1), index = 0, playing = false, speed = 1, frame = 0, due = 0, mark = null;

    const root = document.createElement("div");
    root.className = "ds-transport";
    root.setAttribute("role", "group");
    root.setAttribute("aria-label", options.label || "Playback");
    root.innerHTML = `
      <button type="button" class="ds-back" aria-label="One ${noun} back" title="One ${noun} back (left arrow)">${icon("back")}</button>
      <button type="button" class="ds-play" aria-label="Play" title="Play (space)">${icon("play")}</button>
      <button type="button" class="ds-forward" aria-label="One ${noun} forward" title="One ${noun} forward (right arrow)">${icon("forward")}</button>
      <div class="ds-track"><svg class="ds-ticks" preserveAspectRatio="none" aria-hidden="true"></svg>
        <input type="range" min="0" step="1" aria-label="${noun[0].toUpperCase() + noun.slice(1)}"></div>
      <span class="ds-count" aria-live="off"></span>
      <select aria-label="Speed" title="Speed of playing"><option value="0.5">0.5×</option><option value="1" selected>1×</option><option value="2">2×</option><option value="4">4×</option></select>`;
    container.append(root);
    const part = (selector) => root.querySelector(selector);
    const [back, toggle, forward, slider, count, pace, ticks] = [".ds-back", ".ds-play", ".ds-forward", "input", ".ds-count", "select", ".ds-ticks"].map(part);

    const show = () => {
      const text = wording(index, length);
      slider.value = index;
      slider.style.setProperty("--ds-fill", `${length > 1 ? (100 * index) / (length - 1) : 0}%`);
      slider.setAttribute("aria-valuetext", text);
      count.textContent = text;
      back.disabled = disabled || index === 0;
      forward.disabled = disabled || index === length - 1;
      slider.disabled = toggle.disabled = disabled || length < 2;
    };
    const drawTicks = () => {
      slider.max = length - 1;
      const every = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((n) => length / n <= 60) || 2000;
      ticks.setAttribute("viewBox", `0 0 ${Math.max(1, length - 1)} 6`);
      let lines = "";
      for (let i = 0; i < length; i += every) lines += `<line x1="${i}" x2="${i}" y1="${i % (every * 5) ? 3 : 0}" y2="6" vector-effect="non-scaling-stroke"/>`;
      if (mark) lines += `<line class="ds-mark" x1="${mark.at}" x2="${mark.at}" y1="-20" y2="6" vector-effect="non-scaling-stroke"/>`;
      ticks.innerHTML = lines;
      slider.title = mark ? mark.title : "";
    };
    const go = (to) => {
      const next = Math.min(length - 1, Math.max(0, Math.round(to)));
      if (next === index) return;
      index = next;
      show();
      onChange(index);
    };

    const tick = (time) => {
      if (!playing) return;
      if (!root.isConnected) return destroy();
      if (time >= due) {
        if (index >= length - 1) return pause();
        due = Math.max(due + 1000 / (fps * speed), time - 100);
        go(index + 1);
      }
      frame = requestAnimationFrame(tick);
    };
    const paint = () => {
      toggle.innerHTML = icon(playing ? "pause" : "play");
      toggle.setAttribute("aria-label", playing ? "Pause" : "Play");
      toggle.title = `${playing ? "Pause" : "Play"} (space)`;
      root.dataset.playing = String(playing);
    };
    const play = () => {
      if (playing || disabled || length < 2) return;
      if (index >= length - 1) go(0);
      playing = true;
      paint();
      due = performance.now() + 1000 / (fps * speed);
      frame = requestAnimationFrame(tick);
    };
    const pause = () => {
      cancelAnimationFrame(frame);
      if (!playing) return;
      playing = false;
      paint();
    };
    const byHand = (to) => { pause(); go(to); };

    back.onclick = () => byHand(index - 1);
    forward.onclick = () => byHand(index + 1);
    toggle.onclick = () => (playing ? pause() : play());
    slider.oninput = () => byHand(Number(slider.value));
    slider.onpointerdown = pause;
    pace.onchange = () => { speed = Number(pace.value); };

    const onKey = (event) => {
      if (!root.isConnected) return destroy();
      const target = event.target;
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || root.offsetParent === null) return;
      if (target !== slider && keeps(target, event.key)) return;
      const act = { ArrowLeft: () => byHand(index - 1), ArrowRight: () => byHand(index + 1), Home: () => byHand(0), End: () => byHand(length - 1), " ": () => (playing ? pause() : play()) }[event.key];
      if (!act || disabled || length < 2) return;
      event.preventDefault();
      act();
    };
    keyTarget.addEventListener("keydown", onKey);
    const destroy = () => {
      pause();
      keyTarget.removeEventListener("keydown", onKey);
      root.remove();
    };

    index = Math.min(length - 1, Math.max(0, options.index || 0));
    drawTicks();
    show();
    paint();
    return {
      set(to) { index = Math.min(length - 1, Math.max(0, Math.round(to))); show(); },
      length(n) { length = Math.max(1, n); index = Math.min(index, length - 1); drawTicks(); show(); },
      go: byHand,
      // A place between two steps, such as where a refiner took over; null takes it away.
      mark(next) { mark = next; drawTicks(); },
      fps(n) { fps = n; },
      disable(on) { disabled = on; if (on) pause(); show(); },
      play, pause, destroy,
      get playing() { return playing; },
      get index() { return index; },
    };
  };
})();
