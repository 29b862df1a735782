/** What the keyboard does, and the table that the help shows: one list for both. */

import { clearSlice, fillBetween, segment, TOOLS, toolsOf, useAtCursor } from "./tools.js";

/** Everything that the help lists: [group, keys, what they do]. */
export const HELP = [
  ["Mouse", "Wheel", "slice"],
  ["Mouse", "Ctrl + wheel", "zoom"],
  ["Mouse", "Shift + wheel", "brush size"],
  ["Mouse", "Right drag", "window and level"],
  ["Mouse", "Middle drag", "move the image"],
  ["Mouse", "Shift + click", "crosshair"],
  ["Mouse", "Ctrl held", "brush and lasso erase, fill removes"],
  ["Tools", "V", "navigate: crosshair only"],
  ["Tools", "1  2  3", "margin point, tumour click, background click"],
  ["Tools", "Enter", "contour from the margin points"],
  ["Tools", "B  E  L  F", "brush (or scribble inside), eraser, lasso, fill"],
  ["Tools", "G", "3-D brush (or scribble outside)"],
  ["Tools", "[  ]", "smaller, larger brush"],
  ["Tools", "I", "interpolate between drawn slices"],
  ["Tools", "Ctrl+Z  Ctrl+Y", "undo, redo (also Ctrl+Shift+Z)"],
  ["Slices", "↑ ↓  ← →", "one slice back, on"],
  ["Slices", "PageUp  PageDown", "five slices"],
  ["Slices", "N  P", "next, previous slice asked for"],
  ["Slices", "D", "this slice is done"],
  ["Slices", "J", "jump to the largest change"],
  ["View", "C", "AI contour on and off"],
  ["View", "H", "what you draw on and off"],
  ["View", "X", "next plane large"],
  ["View", "M", "one plane alone, or all three"],
  ["View", "R", "fit the image"],
  ["Without a mouse", "Shift + arrows", "move the crosshair"],
  ["Without a mouse", "Space", "use the tool at the crosshair"],
];

/** Listen to the keys pressed in the viewer; nothing reaches the page, whose hotkeys would act. */
export function attachKeys(viewer, root, page) {
  root.addEventListener("keydown", (event) => {
    event.stopPropagation(); // Streamlit takes r (run again) and c (clear) for itself
    if (event.key === "Escape" && page.closeHelp()) return;
    if (event.key === "Tab" && page.helpIsOpen()) event.preventDefault(); // it has one button only
    if (!viewer.volume || event.altKey || page.helpIsOpen()) return;
    const widget = event.target.closest?.("input, select, button");
    if (act(viewer, page, event, widget)) event.preventDefault();
  });
  root.addEventListener("keyup", (event) => event.stopPropagation());
}

function act(viewer, page, event, widget) {
  const { key } = event;
  const letter = key.length === 1 ? key.toLowerCase() : key;
  if (event.ctrlKey || event.metaKey) {
    if (letter === "z" && !event.shiftKey) viewer.undo();
    else if (letter === "y" || letter === "z") viewer.redo();
    else return false;
    return true;
  }
  // What a focused slider, list or button does itself.
  if (widget?.matches("select, input[type=range]")) return false;
  if (widget && ["Enter", " "].includes(key)) return false;
  const arrows = { ArrowUp: -1, ArrowDown: 1, ArrowLeft: -1, ArrowRight: 1 };
  if (key in arrows) {
    if (event.shiftKey) moveCrosshair(viewer, key);
    else scroll(viewer, arrows[key]);
    return true;
  }
  const does = {
    PageUp: () => scroll(viewer, -5),
    PageDown: () => scroll(viewer, 5),
    Enter: () => unlocked(viewer, () => viewer.prompts && segment(viewer)),
    " ": () => (viewer.tool === "navigate" ? null : unlocked(viewer, () => useAtCursor(viewer))),
    "[": () => viewer.setRadius(viewer.radiusMm - 0.5),
    "]": () => viewer.setRadius(viewer.radiusMm + 0.5),
    "?": () => page.openHelp(),
    i: () => unlocked(viewer, () => viewer.mode === "contour" && fillBetween(viewer)),
    n: () => viewer.nextAsked(1),
    p: () => viewer.nextAsked(-1),
    d: () => viewer.toggleDone(),
    j: () => viewer.jumpToChange(),
    c: () => viewer.data.compare && viewer.toggleLayer(viewer.data.compare),
    h: () => viewer.toggleDrawn(),
    x: () => page.nextLarge(),
    m: () => page.toggleAlone(),
    r: () => page.fit(),
  };
  if (does[letter]) {
    does[letter]();
    return true;
  }
  const offered = toolsOf(viewer.mode, viewer.prompts);
  const tool = offered.find((one) => one.hotkey.toLowerCase() === letter);
  if (tool) viewer.setTool(tool.key);
  return Boolean(tool) || TOOLS.some((one) => one.hotkey.toLowerCase() === letter);
}

/** Do something that changes the drawing, or say why not. */
export function unlocked(viewer, action) {
  if (viewer.lock) viewer.hint(viewer.lock);
  else action();
}

/** What the buttons beside the tools do. */
export const ACTIONS = { clearSlice, fillBetween, segment };

function scroll(viewer, step) {
  const view = viewer.largeView;
  viewer.setSlice(view.spec.axis, view.slice + step);
}

function moveCrosshair(viewer, key) {
  const { spec } = viewer.largeView;
  const voxel = [...viewer.cursor];
  const vertical = key === "ArrowUp" || key === "ArrowDown";
  const axis = vertical ? spec.rows_axis : spec.columns_axis;
  const flipped = vertical ? spec.flipped_rows : spec.flipped_columns;
  const step = (key === "ArrowDown" || key === "ArrowRight" ? 1 : -1) * (flipped ? -1 : 1);
  voxel[axis] = Math.min(Math.max(voxel[axis] + step, 0), viewer.volume.shape[axis] - 1);
  viewer.moveCursor(voxel);
}
