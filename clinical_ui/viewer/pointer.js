/** What the mouse does on a plane: tools, window, pan, zoom and slices. */

import { begin } from "./tools.js";

const WHEEL_NOTCH_PX = 60; // of a touchpad; a mouse wheel sends more per notch
const BRUSH_STEP = 1.15;

/** Listen to the mouse on the canvas of a view. Returns nothing: listeners go with the canvas. */
export function attachPointer(viewer, view, { redraw }) {
  const { canvas } = view;
  let gesture = null;
  let scrolled = 0;

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const at = [event.clientX - box.left, event.clientY - box.top];
    return {
      view,
      place: at,
      pixel: view.toPixel(at),
      voxel: view.voxelAt(at),
      erase: event.ctrlKey || event.metaKey,
    };
  };
  const hover = (event) => {
    viewer.hover = event ? place(event) : null;
    redraw(view);
  };

  // Hotkeys work where the mouse is, unless somebody is typing elsewhere.
  canvas.addEventListener("pointerenter", () => {
    const focused = canvas.getRootNode().activeElement ?? document.activeElement;
    if (!focused?.matches?.("input, select, textarea, [contenteditable]")) {
      canvas.focus({ preventScroll: true });
    }
  });
  canvas.addEventListener("pointerdown", (event) => {
    if (!viewer.volume || gesture) return;
    event.preventDefault();
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    if (event.button === 1) gesture = pan(viewer, view, event);
    else if (event.button === 2) gesture = changeWindow(viewer, event);
    else if (event.shiftKey) gesture = begin(viewer, "navigate", place(event));
    else gesture = useTool(viewer, place(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!viewer.volume) return;
    // A page that was drawn anew, as after its server was away, may have taken the focus.
    if (document.activeElement === document.body) canvas.focus({ preventScroll: true });
    if (gesture) {
      const events = gesture.raw ? [event] : (event.getCoalescedEvents?.() ?? [event]);
      for (const one of events.length ? events : [event]) {
        gesture.move(gesture.raw ? one : place(one));
      }
      viewer.refresh();
    }
    hover(event);
  });
  const finish = (how) => (event) => {
    if (!gesture) return;
    const ended = gesture;
    gesture = null;
    if (how === "cancel" && ended.cancel) ended.cancel();
    else ended.end(place(event));
    viewer.drawing = false;
    viewer.refresh();
  };
  canvas.addEventListener("pointerup", finish("end"));
  canvas.addEventListener("pointercancel", finish("cancel"));
  canvas.addEventListener("pointerleave", () => !gesture && hover(null));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("auxclick", (event) => event.preventDefault());
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault(); // neither the page nor its zoom
      if (!viewer.volume || viewer.drawing) return;
      const amount = event.deltaY || event.deltaX; // Shift turns one into the other
      const step = Math.sign(amount);
      if (event.ctrlKey || event.metaKey) {
        view.zoomAt(place(event).place, step < 0 ? 1.15 : 1 / 1.15);
        viewer.refresh();
      } else if (event.shiftKey) {
        viewer.setRadius(viewer.radiusMm * (step < 0 ? BRUSH_STEP : 1 / BRUSH_STEP));
      } else {
        scrolled += event.deltaMode ? step * WHEEL_NOTCH_PX : amount;
        if (Math.abs(amount) >= WHEEL_NOTCH_PX) scrolled = step * WHEEL_NOTCH_PX;
        const slices = Math.trunc(scrolled / WHEEL_NOTCH_PX);
        scrolled -= slices * WHEEL_NOTCH_PX;
        if (slices) viewer.setSlice(view.spec.axis, view.slice + slices);
      }
    },
    { passive: false },
  );
}

function useTool(viewer, place) {
  if (viewer.tool !== "navigate" && viewer.lock) {
    viewer.hint(viewer.lock);
    return null;
  }
  const gesture = begin(viewer, viewer.tool, place);
  viewer.drawing = gesture !== null && viewer.tool !== "navigate";
  viewer.refresh();
  return gesture;
}

function pan(viewer, view, event) {
  let last = [event.clientX, event.clientY];
  return {
    raw: true,
    move(next) {
      view.pan(next.clientX - last[0], next.clientY - last[1]);
      last = [next.clientX, next.clientY];
    },
    end() {},
  };
}

// To the right widens the window, downwards makes it darker (raises its level).
function changeWindow(viewer, event) {
  const [low, high] = viewer.window;
  const start = [event.clientX, event.clientY];
  const perPx = Math.max(high - low, 1e-3) / 250;
  return {
    raw: true,
    move(next) {
      const width = Math.max(high - low + (next.clientX - start[0]) * perPx, perPx);
      const level = (low + high) / 2 + (next.clientY - start[1]) * perPx;
      viewer.setWindow(level - width / 2, level + width / 2);
    },
    end() {},
  };
}
