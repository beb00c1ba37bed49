// Ranking by hand, and how well annotators agree.
//
//   Studio.rank(element, props, watch, trigger)   in <div class="ds-stage ds-rank"></div>
//     props.value  JSON text of {annotator, collection, tasks: [{assignment, prompt, collection, repeat, pictures: [{position, src,
//                  width, height}], draft}], progress: {submitted, left, total, done, seconds_each}, flags: {name: label},
//                  ratings: [name], invitation} and of what answers the last event: acknowledged and reopened (an assignment),
//                  feedback (true, false or null: whether a known order was met), error (a sentence) with failed (its assignment),
//                  did (the event it answers), kept (the `request` of the draft that the studio now has); tasks is null where
//                  nothing could be read
//     the event `submit` with {do: "next" | "submit" | "skip" | "undo" | "draft", ...}
//     data-draft   where what was said so far of the task on the board is kept: "" nothing was said since it came, "page" in the
//                  storage of this browser, so that it survives a reload at any moment, "studio" in the database as well
//   Studio.agreement(element, props, watch)       in <div class="ds-stage ds-agreement"></div>
//     props.value  JSON text of tabs.rank.agreement_value
//
// Tasks come a few ahead: the next one is on the screen at once, before the server has answered. What it refuses comes back.
(() => {
  const Studio = (window.Studio = window.Studio || {});
  const DRAFT_AFTER_MS = 700, DRAG_FROM_PX = 6;
  const REASONS = ["I cannot tell", "The prompt is unclear", "Pictures are broken", "I would rather not see this"];
  const FLAG_KEYS = { b: "broken", h: "harmful", t: "text_wrong" };
  const boards = new Set();

  // --- drafts that the studio has not acknowledged: {[name]: draft}, the newest last

  const DRAFTS = "ds-rank-drafts", MAX_DRAFTS = 40;
  // A page inside another one may be denied storage: what it keeps then is forgotten with it.
  let unstored = {};
  const drafts = () => { try { return JSON.parse(localStorage.getItem(DRAFTS)) || {}; } catch { return unstored; } };
  const keepDrafts = (all) => {
    unstored = Object.fromEntries(Object.entries(all).slice(-MAX_DRAFTS));
    try { localStorage.setItem(DRAFTS, JSON.stringify(unstored)); } catch { /* as above */ }
  };
  const keepDraft = (name, draft) => { const { [name]: _, ...others } = drafts(); keepDrafts(draft ? { ...others, [name]: draft } : others); };

  // --- who ranks what, in this browser: [name, collection]

  const RANKER = "ds-ranker";
  Studio.rankAs = (name, collection) => {
    try { localStorage.setItem(RANKER, JSON.stringify([name, collection])); } catch { /* as above */ }
    Studio.askForTasks();
  };
  // As a page that opens sets the two fields; the menu of collections is filled with the first answer.
  Studio.rankedAs = (name, collection) => {
    let kept = null;
    try { kept = JSON.parse(localStorage.getItem(RANKER)); } catch { /* as above */ }
    if (!Array.isArray(kept) || !kept[1]) return [kept?.[0] ?? name, collection];
    return [kept[0] ?? name, { __type__: "update", value: kept[1], choices: [["All", ""], [kept[1], kept[1]]] }];
  };

  // --- the board's parts

  const make = (...given) => Studio.make(...given);
  const button = (parent, text, key, onClick, className = "ds-button") => {
    const node = make("button", parent, className, text);
    node.type = "button";
    if (key) make("kbd", node, "", key);
    node.onclick = onClick;
    return node;
  };
  const letter = (index) => String.fromCharCode(65 + index);
  const minutes = (seconds) => (seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`);

  const TEMPLATE = `
    <div class="ds-empty"><p>Looking for tasks.</p></div>
    <div class="ds-rank-main" hidden>
      <header><p class="ds-rank-prompt"></p><p class="ds-rank-progress ds-muted ds-num"></p></header>
      <div class="ds-rank-tray" aria-label="Pictures"></div>
      <div class="ds-rank-slots" role="list"></div>
      <div class="ds-rank-press"></div>
      <div class="ds-rank-reasons" hidden></div>
      <p class="ds-rank-said" role="status" aria-live="polite"></p>
      <details class="ds-rank-help"><summary>Keys</summary><p>
        <kbd>←</kbd> <kbd>→</kbd> another picture · <kbd>1</kbd>–<kbd>9</kbd> its rank, the same one for a tie · <kbd>0</kbd> leave it out ·
        <kbd>Enter</kbd> submit · <kbd>Backspace</kbd> clear · <kbd>S</kbd> skip · <kbd>Z</kbd> take back · <kbd>Space</kbd> look closely ·
        <kbd>C</kbd> two side by side · <kbd>B</kbd> broken, <kbd>H</kbd> harmful, <kbd>T</kbd> text is wrong</p></details>
    </div>
    <dialog class="ds-rank-zoom"><div></div><footer class="ds-muted"></footer></dialog>`;

  Studio.askForTasks = () => { for (const board of boards) board.ask(); };

  Studio.rank = (element, props, watch, trigger) => {
    const root = element.querySelector(".ds-rank");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "true";
    root.innerHTML = TEMPLATE;
    const part = (selector) => root.querySelector(selector);
    const tray = part(".ds-rank-tray"), slots = part(".ds-rank-slots"), said = part(".ds-rank-said"), zoom = part(".ds-rank-zoom");
    const sent = new Map();
    let value = null, queue = [], task = null, answer = null, shownAt = 0, draftTimer = 0, saving = null, rating = false, dropped = 0;

    const tell = (words, tone = "") => { said.textContent = words; said.dataset.tone = tone; };
    const send = (what, more) => trigger("submit", { do: what, assignment: null, collection: value ? value.collection : "", ...more });
    const requestId = () => (crypto.randomUUID ? crypto.randomUUID() : `${Date.now()}-${Math.random()}`);

    // --- the answer: ranks, flags and ratings by the position of the picture in the task

    const blank = (given) => ({ ranks: Array(given.pictures.length).fill(null), flags: given.pictures.map(() => []), ratings: given.pictures.map(() => ({})) });
    const begin = (given) => {
      const draft = drafts()[draftName(given.assignment)] || given.draft || {}, fresh = blank(given);
      for (const name of Object.keys(fresh)) (draft[name] || []).forEach((one, i) => { if (i in fresh[name]) fresh[name][i] = one; });
      return fresh;
    };
    const changed = () => {
      draw();
      keepDraft(draftName(task.assignment), answer);
      root.dataset.draft = "page";
      sendDraftSoon();
    };

    // --- drafts: at once in the page's storage, soon after in the studio

    const draftName = (assignment) => `${value.annotator} ${assignment}`;
    const sendDraftSoon = () => { clearTimeout(draftTimer); draftTimer = setTimeout(sendDraft, DRAFT_AFTER_MS); };
    const sendDraft = () => {
      // One at a time: the studio may answer two in either order.
      const name = task && draftName(task.assignment), draft = drafts()[name];
      if (saving || !draft) return;
      saving = { name, text: JSON.stringify(draft), request: requestId() };
      send("draft", { assignment: task.assignment, draft, request: saving.request });
    };
    const savedDraft = ({ name, text }) => {
      saving = null;
      const here = task && name === draftName(task.assignment);
      if (JSON.stringify(drafts()[name]) === text) {
        keepDraft(name, null);
        if (here) root.dataset.draft = "studio";
      } else if (here) sendDraftSoon();
    };
    const place = (position, rank) => { answer.ranks[position] = rank; changed(); };
    const ranked = () => answer.ranks.filter((rank) => rank !== null).length;

    const submit = () => {
      if (!task) return;
      if (ranked() < 2) return tell("Give at least two pictures a rank, or skip the task.", "wrong");
      clearTimeout(draftTimer);
      // What was submitted is a draft until the studio has it.
      keepDraft(draftName(task.assignment), answer);
      const request = requestId();
      const seconds = Math.min(86400, (performance.now() - shownAt) / 1000);
      const some = (lists) => (lists.some((one) => Object.keys(one).length) ? lists : []);
      sent.set(task.assignment, { task, answer });
      send("submit", { assignment: task.assignment, request, seconds, ranks: answer.ranks, flags: some(answer.flags), ratings: some(answer.ratings) });
      tell("");
      next();
    };
    const skip = (reason) => {
      clearTimeout(draftTimer);
      part(".ds-rank-reasons").hidden = true;
      sent.set(task.assignment, { task, answer });
      send("skip", { assignment: task.assignment, request: requestId(), reason });
      tell("Skipped. Z takes it back.");
      next();
    };
    const clear = () => { answer = blank(task); changed(); };
    const next = () => { queue.shift(); show(queue[0] || null, true); };
    const undo = () => { clearTimeout(draftTimer); send("undo", {}); };

    // --- the board

    const cards = () => [...root.querySelectorAll(".ds-rank-card")];
    const focused = () => root.querySelector(".ds-rank-card:focus") || root.querySelector(`.ds-rank-card[data-position="${root.dataset.focus}"]`);
    const focusOn = (card) => { if (card) { root.dataset.focus = card.dataset.position; card.focus({ preventScroll: true }); } };
    const moveFocus = (by) => {
      const all = cards(), at = all.indexOf(focused());
      focusOn(all[(at + by + all.length) % all.length]);
    };

    const cardOf = (picture, index) => {
      const card = document.createElement("figure"), { position } = picture;
      card.className = "ds-rank-card";
      card.tabIndex = 0;
      card.dataset.position = position;
      card.setAttribute("aria-label", `Picture ${letter(index)}, ${answer.ranks[position] ? `rank ${answer.ranks[position]}` : "not ranked"}`);
      const image = make("img", card);
      image.src = picture.src;
      image.alt = "";
      image.draggable = false;
      if (picture.width <= 256) image.className = "ds-rank-small";
      if (answer.ranks[position]) make("strong", card, "ds-rank-badge ds-num", String(answer.ranks[position]));
      const caption = make("figcaption", card);
      make("b", caption, "", letter(index));
      for (const flag of answer.flags[position]) make("span", caption, "ds-badge", value.flags[flag]);
      if (rating) ratingsOf(card, position);
      card.onfocus = () => { root.dataset.focus = position; };
      card.ondblclick = () => look([picture]);
      card.onpointerdown = (event) => { if (!event.target.closest("select")) drag(event, card, position); };
      return card;
    };
    const ratingsOf = (card, position) => {
      const box = make("div", card, "ds-rank-ratings");
      for (const name of value.ratings) {
        const label = make("label", box, "", name), select = make("select", label);
        for (const level of ["", 1, 2, 3, 4, 5, 6, 7]) make("option", select, "", String(level)).value = level;
        select.value = answer.ratings[position][name] || "";
        select.onchange = () => {
          select.value ? (answer.ratings[position][name] = Number(select.value)) : delete answer.ratings[position][name];
          changed();
        };
      }
    };

    const chipOf = (picture, index) => {
      const chip = document.createElement("button"), image = make("img", chip, picture.width <= 256 ? "ds-rank-small" : "");
      chip.type = "button";
      chip.className = "ds-rank-chip";
      chip.title = "Drag it to another rank, or press it to leave it out.";
      chip.setAttribute("aria-label", `Picture ${letter(index)}: leave it out`);
      image.src = picture.src;
      image.alt = "";
      image.draggable = false;
      make("b", chip, "", letter(index));
      chip.onclick = () => { if (performance.now() - dropped > 50) place(picture.position, null); };
      chip.onpointerdown = (event) => drag(event, chip, picture.position);
      return chip;
    };

    const draw = () => {
      const keep = root.contains(document.activeElement), count = task.pictures.length, chips = Array.from({ length: count + 1 }, () => []);
      task.pictures.forEach((picture, index) => chips[Math.min(count, answer.ranks[picture.position] || 0)].push(chipOf(picture, index)));
      tray.replaceChildren(...task.pictures.map(cardOf));
      [...slots.children].forEach((slot, i) => slot.querySelector("div").replaceChildren(...chips[i + 1]));
      root.dataset.ranked = ranked();
      part(".ds-rank-submit").disabled = ranked() < 2;
      if (keep) focusOn(focused());
    };

    const show = (given, moved = false) => {
      task = given;
      saving = null;
      root.dataset.assignment = task ? task.assignment : "";
      root.dataset.of = JSON.stringify([value.annotator, value.collection]);
      part(".ds-empty").hidden = Boolean(task);
      part(".ds-rank-main").hidden = !task && !said.textContent;
      for (const name of [".ds-rank-prompt", ".ds-rank-slots", ".ds-rank-tray", ".ds-rank-help"]) part(name).hidden = !task;
      if (!task) {
        part(".ds-empty p").textContent = sent.size ? "Sending." : value ? value.invitation : "Looking for tasks.";
        press.querySelectorAll("button").forEach((one) => { one.disabled = !one.classList.contains("ds-rank-undo"); });
        part(".ds-rank-main").hidden = !value;
        return;
      }
      answer = begin(task);
      root.dataset.draft = drafts()[draftName(task.assignment)] ? "page" : "";
      if (root.dataset.draft) sendDraftSoon();
      shownAt = performance.now();
      part(".ds-rank-prompt").textContent = task.prompt;
      press.querySelectorAll("button").forEach((one) => { one.disabled = false; });
      root.classList.toggle("ds-rank-two", task.pictures.length === 2);
      slots.style.setProperty("--count", task.pictures.length);
      slots.replaceChildren(...task.pictures.map((_, i) => slotOf(i + 1, task.pictures.length)));
      pairPress.hidden = task.pictures.length !== 2;
      root.dataset.focus = task.pictures[0].position;
      draw();
      if (moved || document.activeElement === document.body) focusOn(cards()[0]);
      for (const other of queue.slice(1)) for (const { src } of other.pictures) new Image().src = src;
    };
    const slotOf = (rank, count) => {
      const slot = document.createElement("section");
      slot.className = "ds-rank-slot";
      slot.dataset.rank = rank;
      slot.setAttribute("role", "listitem");
      const head = make("h4", slot, "", String(rank));
      if (rank === 1) make("span", head, "ds-muted", "best");
      if (rank === count) make("span", head, "ds-muted", "worst");
      make("div", slot);
      // For fingers: press a picture, then its rank.
      slot.onclick = (event) => { if (!event.target.closest(".ds-rank-chip")) place(Number(root.dataset.focus), rank); };
      return slot;
    };

    // --- the buttons

    const press = part(".ds-rank-press"), pairPress = make("div", press, "ds-rank-pair");
    const pair = (left, right, bad = false) => () => {
      const [a, b] = task.pictures;
      answer.ranks[a.position] = left;
      answer.ranks[b.position] = right;
      if (bad) answer.flags = answer.flags.map(() => ["bad"]);
      submit();
    };
    button(pairPress, "Left is better", "1", pair(1, 2));
    button(pairPress, "Tie", "=", pair(1, 1));
    button(pairPress, "Right is better", "2", pair(2, 1));
    button(pairPress, "Both are bad", "", pair(1, 1, true));
    button(press, "Submit", "Enter", submit, "ds-button ds-rank-submit");
    button(press, "Clear", "⌫", () => clear());
    button(press, "Skip", "S", () => askWhy());
    button(press, "Take back", "Z", undo, "ds-button ds-rank-undo");
    const ratingPress = button(press, "Ratings", "", () => { rating = !rating; ratingPress.setAttribute("aria-pressed", String(rating)); if (task) draw(); });
    ratingPress.title = "Rate each picture 1 to 7 as well: alignment with the prompt, fidelity, harmlessness.";
    ratingPress.setAttribute("aria-pressed", "false");
    const reasons = part(".ds-rank-reasons");
    make("span", reasons, "ds-muted", "Why?");
    REASONS.forEach((reason, i) => button(reasons, reason, String(i + 1), () => skip(reason)));
    button(reasons, "Do not skip", "Esc", () => { reasons.hidden = true; });
    const askWhy = () => { reasons.hidden = !reasons.hidden; if (!reasons.hidden) reasons.querySelector("button").focus(); };

    const flag = (name) => {
      const position = Number(root.dataset.focus), flags = answer.flags[position];
      answer.flags[position] = flags.includes(name) ? flags.filter((one) => one !== name) : [...flags, name];
      changed();
    };

    // --- looking closely

    const look = (pictures) => {
      zoom.firstElementChild.replaceChildren();
      for (const picture of pictures) {
        const image = make("img", zoom.firstElementChild, picture.width <= 256 ? "ds-rank-small" : "");
        image.src = picture.src;
        image.alt = `Picture ${letter(task.pictures.indexOf(picture))}`;
      }
      zoom.querySelector("footer").textContent = `${pictures.map((one) => letter(task.pictures.indexOf(one))).join(" and ")} of ${task.pictures.length} · ← → another · C ${pictures.length > 1 ? "one" : "two"} · Esc back`;
      zoom.dataset.index = task.pictures.indexOf(pictures[0]);
      zoom.dataset.count = pictures.length;
      if (!zoom.open) zoom.showModal();
    };
    const lookFrom = (index, count) => {
      const all = task.pictures, at = (index + all.length) % all.length;
      look(Array.from({ length: Math.min(count, all.length) }, (_, i) => all[(at + i) % all.length]));
    };
    zoom.onclick = () => zoom.close();
    zoom.addEventListener("close", () => focusOn(cards().find((card) => card.dataset.position === root.dataset.focus)));

    // --- keys

    const indexOfFocus = () => task.pictures.findIndex(({ position }) => String(position) === root.dataset.focus);
    const rankFocused = (digit) => {
      const position = Number(root.dataset.focus);
      if (digit > task.pictures.length) return tell(`There are ${task.pictures.length} ranks here.`, "wrong");
      if (task.pictures.length === 2 && digit) return pair(digit, 3 - digit)();
      place(position, digit || null);
      // On to the next that has no rank yet.
      const open = cards().find((card) => answer.ranks[Number(card.dataset.position)] === null);
      focusOn((digit && open) || cards().find((card) => Number(card.dataset.position) === position));
    };
    const KEYS = {
      ArrowLeft: () => moveFocus(-1), ArrowUp: () => moveFocus(-1), ArrowRight: () => moveFocus(1), ArrowDown: () => moveFocus(1),
      Enter: submit, Backspace: () => clear(), Delete: () => rankFocused(0), s: askWhy, " ": () => lookFrom(indexOfFocus(), 1),
      c: () => lookFrom(indexOfFocus(), 2), "=": () => { if (task.pictures.length === 2) pair(1, 1)(); },
    };
    const onKey = (event) => {
      if (!root.offsetParent || event.ctrlKey || event.metaKey || event.altKey) return;
      const at = document.activeElement;
      if (at !== document.body && !root.contains(at)) return;
      if (zoom.open) return keyOfZoom(event);
      if (at.closest && at.closest("select, summary")) return;
      const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
      if (key === "z") { event.preventDefault(); return undo(); }
      if (!task) return;
      if (!reasons.hidden) {
        if (key === "Escape") reasons.hidden = true;
        if (REASONS[Number(key) - 1]) { event.preventDefault(); skip(REASONS[Number(key) - 1]); }
        return;
      }
      // A button under the focus is pressed by Enter and Space itself.
      if (at.tagName === "BUTTON" && (key === "Enter" || key === " ")) return;
      const act = /^[0-9]$/.test(key) ? () => rankFocused(Number(key)) : key in FLAG_KEYS ? () => flag(FLAG_KEYS[key]) : KEYS[key];
      if (!act) return;
      event.preventDefault();
      act();
    };
    const keyOfZoom = (event) => {
      const index = Number(zoom.dataset.index), count = Number(zoom.dataset.count);
      const act = { ArrowLeft: () => lookFrom(index - 1, count), ArrowRight: () => lookFrom(index + 1, count), c: () => lookFrom(index, 3 - count), " ": () => zoom.close() }[event.key];
      if (act) { event.preventDefault(); act(); }
    };
    document.addEventListener("keydown", onKey);

    // --- dragging: by mouse, pen or finger

    const drag = (event, card, position) => {
      if (event.button) return;
      const from = { x: event.clientX, y: event.clientY };
      let ghost = null;
      const over = ({ clientX, clientY }) => {
        const under = document.elementFromPoint(clientX, clientY), slot = under && under.closest(".ds-rank-slot, .ds-rank-tray");
        for (const one of [tray, ...slots.children]) one.classList.toggle("ds-rank-over", one === slot);
        return slot;
      };
      const move = (now) => {
        if (!ghost && Math.hypot(now.clientX - from.x, now.clientY - from.y) < DRAG_FROM_PX) return;
        if (!ghost) {
          ghost = card.cloneNode(true);
          ghost.classList.add("ds-rank-ghost");
          ghost.style.width = `${card.offsetWidth}px`;
          root.append(ghost);
          card.classList.add("ds-rank-lifted");
        }
        ghost.style.transform = `translate(${now.clientX - card.offsetWidth / 2}px, ${now.clientY - card.offsetHeight / 2}px)`;
        over(now);
      };
      const end = (now) => {
        removeEventListener("pointermove", move);
        removeEventListener("pointerup", end);
        removeEventListener("pointercancel", end);
        if (!ghost) return;
        const slot = now.type === "pointerup" ? over(now) : null;
        over({ clientX: -1, clientY: -1 });
        ghost.remove();
        card.classList.remove("ds-rank-lifted");
        // The press that ends a drag is no press of the chip.
        dropped = performance.now();
        if (slot) place(position, slot === tray ? null : Number(slot.dataset.rank));
        focusOn(cards().find((one) => one.dataset.position === String(position)));
      };
      addEventListener("pointermove", move);
      addEventListener("pointerup", end);
      addEventListener("pointercancel", end);
    };

    // --- what the server says

    const describe = ({ progress: { submitted, left, done, total, seconds_each: each }, sure }) => {
      const rest = each && left ? `, about ${minutes(left * each)}` : "";
      part(".ds-rank-progress").textContent = `${submitted} ranked by you · ${left} left${rest} · ${done} of ${total} by all${sure ? ` · ${sure}` : ""}`;
    };
    const answered = (now) => {
      if (saving && now.did === "draft" && (now.kept === saving.request || now.failed !== undefined)) now.error ? (saving = null) : savedDraft(saving);
      if (now.acknowledged !== undefined) { sent.delete(now.acknowledged); keepDraft(draftName(now.acknowledged), null); }
      if (now.feedback === false) tell("This one has a known order, and yours differs from it. Z takes it back.", "wrong");
      if (now.feedback === true) tell("This one has a known order, and yours is the same.", "right");
      if (!now.error || now.did === "draft") return;
      tell(now.error, "wrong");
      const back = sent.get(now.failed);
      if (!back) return;
      // Nothing that was ranked is lost: it stands on the board as it was sent.
      sent.delete(now.failed);
      queue = [back.task, ...queue.filter((one) => one.assignment !== now.failed)];
      show({ ...back.task, draft: back.answer }, true);
    };
    const receive = () => {
      if (!props.value) return;
      const now = JSON.parse(props.value);
      // A draft changes neither tasks nor counts, and what the studio answers to it may come after its answer to the submission.
      if (value && now.did === "draft" && now.tasks) return answered(now);
      if (!now.tasks) { saving = null; part(".ds-empty p").textContent = now.error; if (task) tell(now.error, "wrong"); return; }
      const other = !value || value.annotator !== now.annotator || value.collection !== now.collection;
      value = now;
      if (other) { sent.clear(); clearTimeout(draftTimer); saving = task = null; tell(""); }
      describe(now);
      queue = now.tasks.filter(({ assignment }) => !sent.has(assignment));
      answered(now);
      const current = task && queue.find(({ assignment }) => assignment === task.assignment);
      if (now.reopened !== undefined) { tell("Taken back: change it and submit it again."); show(queue.find(({ assignment }) => assignment === now.reopened) || queue[0] || null, true); return; }
      if (current) queue = [current, ...queue.filter((one) => one !== current)];
      else show(queue[0] || null, !other);
    };

    boards.add({ ask: () => send("next", {}) });
    const seen = new IntersectionObserver(([entry]) => { if (entry.isIntersecting) { seen.disconnect(); if (!value) send("next", {}); } });
    seen.observe(root);
    watch("value", receive);
    receive();
  };

  // --- agreement

  const AGREEMENT = `<div class="ds-empty"><p>Nothing was ranked yet.</p></div><div class="ds-agreement-main" hidden>
    <dl class="ds-agreement-figures"></dl><div class="ds-agreement-tables"><div class="ds-agreement-people"></div><div class="ds-agreement-time"></div><div class="ds-agreement-models"></div><div class="ds-agreement-matrix"></div></div></div>`;
  const share = (value) => (value === null ? "–" : `${Math.round(100 * value)} %`);
  const number = (value) => (value === null ? "–" : value.toFixed(2));
  const FIGURES = [
    ["pairwise", "Pairwise agreement", share, "Of the pairs that two annotators both put in an order, how many they put in the same one."],
    ["tau_b", "Kendall τ-b", number, "Mean over every two rankings of the same task; 1 is the same order, 0 is chance."],
    ["kendall_w", "Kendall W", number, "Mean over tasks that all ranked completely; 1 is the same order."],
    ["alpha", "Krippendorff α", number, "Ordinal; 1 is full agreement, 0 is chance, above 0.67 is commonly held to be usable."],
    ["itself", "Self-consistency", share, "The same annotator, the same task a second time."],
  ];
  const tabulate = (box, caption, heads, rows) => {
    box.replaceChildren();
    if (!rows.length) return;
    const table = make("table", box);
    make("caption", table, "", caption);
    const head = make("tr", make("thead", table));
    for (const one of heads) make("th", head, "", one);
    const body = make("tbody", table);
    for (const [first, ...cells] of rows) {
      const line = make("tr", body);
      make("th", line, "", first).scope = "row";
      for (const cell of cells) cell instanceof Node ? make("td", line).append(cell) : make("td", line, "", cell);
    }
  };
  const interval = ({ strength, low, high }, ends) => {
    const [from, to] = ends, at = (value) => `${(100 * (value - from)) / (to - from || 1)}%`;
    const bar = document.createElement("span");
    bar.className = "ds-interval";
    const line = make("i", bar), dot = make("b", bar);
    line.style.left = at(low);
    line.style.right = `calc(100% - ${at(high)})`;
    dot.style.left = at(strength);
    bar.title = `${strength.toFixed(2)}, 95 % between ${low.toFixed(2)} and ${high.toFixed(2)}`;
    return bar;
  };
  // Agreement with others, part after part of the rankings in the order in which they were submitted.
  const overTime = (place, parts) => {
    place.replaceChildren();
    if (!parts.length) return;
    make("p", place, "ds-caption", "Agreement with others over time");
    const x = parts.reduce((sums, one) => [...sums, (sums.at(-1) || 0) + one.rankings], []);
    const lines = [["all", (one) => one.pairwise], ...Object.keys(parts[0].annotators).map((name) => [name, (one) => one.annotators[name]])];
    const series = lines.map(([name, of], i) => ({
      name, label: name, color: i ? `var(--ds-series-${((i - 1) % 8) + 1})` : "var(--ds-accent)", dash: i ? "4 3" : undefined, x, y: parts.map(of),
      marks: parts.map((one, k) => ({ x: x[k], y: of(one) })).filter(({ y }) => y !== null),
    }));
    const format = (value, of) => (of === "x" ? `${Math.round(value)} rankings` : share(value));
    Studio.chart(make("div", place), { series, xLabel: "rankings submitted", yLabel: "pairs in the same order", yDomain: [0, 1], height: 180, label: "Agreement with others over time", point: null, format });
  };

  Studio.agreement = (element, props, watch) => {
    const root = element.querySelector(".ds-agreement");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "true";
    root.innerHTML = AGREEMENT;
    const part = (selector) => root.querySelector(selector);
    const receive = () => {
      if (!props.value) return;
      const now = JSON.parse(props.value);
      part(".ds-empty").hidden = now.rankings > 0;
      part(".ds-agreement-main").hidden = !now.rankings;
      root.dataset.rankings = now.rankings;
      const figures = part(".ds-agreement-figures");
      figures.replaceChildren();
      for (const [name, label, format, about] of FIGURES) {
        const box = make("div", figures);
        box.title = about;
        make("dt", box, "", label);
        make("dd", box, "ds-num", format(now[name]));
      }
      tabulate(part(".ds-agreement-people"), `${now.rankings} rankings, ${now.pairs} pairs compared`, ["Annotator", "Rankings", "Agrees with others", "τ-b", "With themselves", "Median"],
        Object.entries(now.annotators).map(([name, one]) => [name, String(one.rankings), share(one.pairwise), number(one.tau_b), share(one.itself), one.seconds === null ? "–" : `${Math.round(one.seconds)} s`]));
      overTime(part(".ds-agreement-time"), now.over_time);
      const ends = [Math.min(...now.strengths.map((one) => one.low)), Math.max(...now.strengths.map((one) => one.high))];
      tabulate(part(".ds-agreement-models"), "Strength by Bradley-Terry, with 95 % intervals", ["Model", "Strength", "", "Won", "Compared"],
        now.strengths.map((one) => [one.model, number(one.strength), interval(one, ends), share(one.comparisons ? one.wins / one.comparisons : null), String(one.comparisons)]));
      const { models, rates } = now.matrix;
      tabulate(part(".ds-agreement-matrix"), "How often the row wins against the column", ["", ...models], models.length < 2 ? [] : models.map((model, i) => [model, ...rates[i].map((rate) => {
        const cell = document.createElement("span");
        cell.className = "ds-rate";
        cell.textContent = rate === null ? "–" : String(Math.round(100 * rate));
        if (rate !== null) cell.style.setProperty("--share", `${Math.round(100 * rate)}%`);
        return cell;
      })]));
    };
    watch("value", receive);
    receive();
  };
})();
