/** What browser tests may look at; there only where the server says that it is testing. */

import { maskSha256 } from "./mask.js";

/** Put a read-only `fedgtvViewer` on the window. */
export function exposeTestHook(page) {
  const { viewer } = page;
  const hook = {
    state: () => ({
      epoch: viewer.data.epoch,
      sitting: viewer.courier.sitting,
      sequence: viewer.courier.sequence,
      mode: viewer.mode,
      tool: viewer.tool,
      radiusMm: viewer.radiusMm,
      cursor: [...viewer.cursor],
      window: [...viewer.window],
      zoom: page.views.map((view) => view.zoom),
      centre: page.views.map((view) => view.centre),
      busy: viewer.courier.isBusy,
      unsent: viewer.courier.isUnsent,
      trouble: viewer.courier.trouble,
      paused: viewer.paused,
      lock: viewer.lock,
      done: [...viewer.done],
      points: viewer.points.map((point) => ({ ...point })),
      undo: viewer.history.done.map((entry) => entry.name),
      redo: viewer.history.undone.map((entry) => entry.name),
      actions: viewer.actions.map((action) => [...action]),
      active: viewer.clock.intervals(),
      waiting: viewer.clock.waits(),
    }),
    checksum: () => maskSha256(viewer.masks.target),
    voxels: (layer = "target") => viewer.masks[layer].total,
    counts: (layer = "target") => Array.from(viewer.masks[layer].counts),
    runs: (layer = "target") => Array.from(viewer.masks[layer].runs()),
    screen(z, y, x, view = page.views.indexOf(viewer.largeView)) {
      const box = page.views[view].canvas.getBoundingClientRect();
      const [left, top] = page.views[view].toScreen([z, y, x]);
      return { x: box.left + left, y: box.top + top };
    },
    activeSeconds: () => viewer.clock.activeMs() / 1000,
    timings: () => ({
      frameMs: page.frameMs,
      drawMs: page.views.map((view) => view.drawMs),
      openMs: page.openMs,
    }),
  };
  globalThis.fedgtvViewer = Object.freeze(hook);
}

/** Take it away with the viewer that it looks at. */
export function removeTestHook() {
  delete globalThis.fedgtvViewer;
}
