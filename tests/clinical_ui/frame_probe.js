/**
 * What one step costs the browser: from an event to its last pixel.
 *
 * `window.frameProbe.start(type)` notes every event of a type with the time that the page was busy
 * with it: its handlers, and the frame that draws what they changed, whose pixels are read back so
 * that nothing is left undrawn. Waiting for the next frame, which a screen does 60 times a second
 * whatever a page does, is not counted.
 */
(() => {
  const LONGEST_MS = 30_000;
  const canvases = () => {
    const found = [];
    const look = (root) => {
      found.push(...root.querySelectorAll("canvas"));
      for (const one of root.querySelectorAll("*")) if (one.shadowRoot) look(one.shadowRoot);
    };
    look(document);
    return found.filter((canvas) => canvas.width && canvas.getContext("2d"));
  };
  const channel = new MessageChannel();
  let costs = [];
  let stop = () => {};
  let pending = null;

  channel.port1.onmessage = () => {
    const { began, handled, drawing } = pending;
    for (const canvas of canvases()) canvas.getContext("2d").getImageData(0, 0, 1, 1);
    costs.push(handled - began + performance.now() - drawing);
    pending = null;
  };

  const start = (type) => {
    stop();
    costs = [];
    const before = () => {
      if (pending) return; // several events in one frame are one step
      const began = performance.now();
      pending = { began, handled: began, drawing: began };
      // Runs first of all in the frame: it was asked for before the page's own handlers ran.
      requestAnimationFrame(() => {
        pending.drawing = performance.now();
        channel.port2.postMessage(0); // arrives when the frame is drawn
      });
    };
    const after = () => {
      if (pending) pending.handled = performance.now();
    };
    window.addEventListener(type, before, { capture: true });
    window.addEventListener(type, after);
    stop = () => {
      window.removeEventListener(type, before, { capture: true });
      window.removeEventListener(type, after);
    };
  };
  const end = () => {
    stop();
    return costs;
  };
  /** Resolves when something is true and the frame after it is drawn; with how long it took. */
  const until = (isTrue, began) =>
    new Promise((resolve, reject) => {
      const asked = performance.now();
      const look = () => {
        if (performance.now() - asked > LONGEST_MS) reject(new Error(`not yet: ${isTrue}`));
        else if (!isTrue()) requestAnimationFrame(look);
        else requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - began)));
      };
      look();
    });
  window.frameProbe = { start, end, until };
})();
