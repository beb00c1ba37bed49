// Studio.recorded: a value that stands for a recorded opening, {recorded: address of its file, place}, becomes what the file
// holds for that place. The page fetches a file once, when a part that shows it is there (tabs/parts/openings.py).
(() => {
  const Studio = (window.Studio = window.Studio || {});
  const files = new Map();
  const fileAt = (address) => {
    if (!files.has(address)) files.set(address, fetch(address).then((answer) => answer.json()));
    return files.get(address);
  };
  const isReference = (value) => typeof value === "string" && value.startsWith('{"recorded":');

  // (props, watch) as a part takes them, with the recording in place of the reference once it is there, and nothing before.
  Studio.recorded = (props, watch) => {
    let reference = "", text = "";
    const look = (act) => {
      const asked = props.value;
      if (!isReference(asked) || asked === reference) return act();
      const { recorded, place } = JSON.parse(asked);
      // Where it cannot be had the part stays as it is when empty, and says what to do.
      fileAt(recorded).then(({ places }) => {
        if (props.value !== asked) return;
        reference = asked;
        text = JSON.stringify(places[place]);
        act();
        Studio.opened = true;
      }).catch(() => files.delete(recorded));
    };
    const valueNow = () => (!isReference(props.value) ? props.value : props.value === reference ? text : "");
    const seen = new Proxy(props, {
      get: (target, name) => (name === "value" ? valueNow() : target[name]),
      set: (target, name, value) => { target[name] = value; return true; },
    });
    const watching = (name, act) => {
      watch(name, name === "value" ? () => look(act) : act);
      if (name === "value" && isReference(props.value)) look(act);
    };
    return [seen, watching];
  };

  // The line above what is shown, as a list of nodes; empty where there is nothing to say.
  Studio.heading = (title) => {
    if (!title) return [];
    const line = document.createElement("div"), words = document.createElement("span");
    line.className = "ds-title";
    words.className = "ds-title-text";
    words.textContent = title;
    line.append(words);
    return [line];
  };
})();
