// Studio.make(tag, parent, className, text): a new element at the end of `parent`; class and text are left out where they are not given.
(() => {
  const Studio = (window.Studio = window.Studio || {});

  Studio.make = (tag, parent, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  };
})();
