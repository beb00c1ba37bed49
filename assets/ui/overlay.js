// Studio.overlay(stage): a picture laid over the belief at any opacity, once for every picture of the run. Of the parts that join the stage.
(() => {
  const Studio = (window.Studio = window.Studio || {});
  Studio.overlay = (stage) => {
    let canvas = null, asked = 0;
    const hide = () => {
      asked++;
      if (canvas) canvas.hidden = true;
    };
    const show = async (source, opacity) => {
      hide();
      if (!source || !opacity) return;
      const ticket = asked, bitmap = await createImageBitmap(await (await fetch(source)).blob());
      if (ticket !== asked) return bitmap.close();
      if (!canvas) {
        canvas = document.createElement("canvas");
        canvas.className = "ds-control-overlay";
        canvas.setAttribute("aria-hidden", "true");
        stage.panes.x0_hat.figure.append(canvas);
      }
      const { count, columns, gap, w, h, width, height } = stage.layoutOf([bitmap.width, bitmap.height]), context = canvas.getContext("2d");
      canvas.hidden = false;
      canvas.width = width;
      canvas.height = height;
      canvas.style.aspectRatio = `${width} / ${height}`;
      canvas.style.opacity = opacity;
      for (let i = 0; i < count; i++) context.drawImage(bitmap, (i % columns) * (w + gap), Math.floor(i / columns) * (h + gap));
      bitmap.close();
    };
    return { show, hide };
  };
})();
