/**
 * What the left mouse button does, one small object per tool.
 *
 * `start`, `move` and `end` get {view, pixel: [row, column] with fractions, voxel, erase}; they
 * put voxels through `viewer.edit(...)`, so that everything can be undone.
 */

import { copyPlane, planeOf } from "./plane.js";
import { connected, isInside, visitBall, visitPolygon, visitStroke } from "./shapes.js";
import { gapsAt, interpolate } from "./interpolation.js";

const MARGIN_POINTS_NEEDED = 3;

/** The tools there can be; `hotkey` is a letter or digit, `modes` where the tool is offered. */
export const TOOLS = [
  { key: "navigate", name: "Navigate", hotkey: "V", modes: ["view", "contour", "scribble"] },
  { key: "margin", name: "Margin points", hotkey: "1", modes: ["contour"], prompts: true },
  { key: "foreground", name: "Tumour click", hotkey: "2", modes: ["contour"], prompts: true },
  { key: "background", name: "Background click", hotkey: "3", modes: ["contour"], prompts: true },
  { key: "brush", name: "Brush", hotkey: "B", modes: ["contour"], brush: true },
  { key: "brush3d", name: "3-D brush", hotkey: "G", modes: ["contour"], brush: true },
  { key: "lasso", name: "Lasso", hotkey: "L", modes: ["contour"] },
  { key: "fill", name: "Fill", hotkey: "F", modes: ["contour"] },
  { key: "inside", name: "Scribble inside", hotkey: "B", modes: ["scribble"], brush: true },
  { key: "outside", name: "Scribble outside", hotkey: "G", modes: ["scribble"], brush: true },
  { key: "eraser", name: "Eraser", hotkey: "E", modes: ["contour", "scribble"], brush: true },
];

/** Return the tools of a mode; those that prompt only where the model answers. */
export function toolsOf(mode, prompts) {
  return TOOLS.filter((tool) => tool.modes.includes(mode) && (!tool.prompts || prompts));
}

/** Begin what a tool does at a place; returns {move, end}, or null. */
export function begin(viewer, tool, place) {
  switch (tool) {
    case "navigate":
      return moveCrosshair(viewer, place);
    case "brush":
      return stroke(viewer, place, place.erase ? "erase" : "stroke", place.erase ? 0 : 1);
    case "eraser":
      return stroke(viewer, place, "erase", 0);
    case "inside":
    case "outside":
      return stroke(viewer, place, place.erase ? "erase" : "scribble", place.erase ? 0 : 1);
    case "brush3d":
      return stroke3d(viewer, place);
    case "lasso":
      return lasso(viewer, place);
    case "fill":
      fill(viewer, place);
      return null;
    default:
      point(viewer, tool, place);
      return null;
  }
}

function moveCrosshair(viewer, place) {
  const move = ({ voxel }) => voxel && viewer.moveCursor(voxel);
  move(place);
  return { move, end() {} };
}

// Returns what sets a pixel of the plane; scribbles inside and outside exclude each other.
function painter(viewer, edit, plane, value) {
  const tool = viewer.tool;
  return (row, column) => {
    const index = plane.base + row * plane.rowStep + column * plane.columnStep;
    if (viewer.mode !== "scribble") {
      edit.put("target", index, value);
      return;
    }
    edit.put("target", index, value && tool === "inside" ? 1 : 0);
    edit.put("outside", index, value && tool === "outside" ? 1 : 0);
  };
}

function stroke(viewer, place, name, value) {
  const { plane } = place.view;
  if (!viewer.mayEditPlane(plane)) return null;
  const edit = viewer.edit(name, place.voxel);
  const paint = painter(viewer, edit, plane, value);
  let last = place.pixel;
  visitStroke(plane, last, last, viewer.radiusMm, paint);
  return {
    move({ pixel }) {
      visitStroke(plane, last, pixel, viewer.radiusMm, paint);
      last = pixel;
    },
    end: () => viewer.finish(edit, { radius_mm: viewer.radiusMm }),
  };
}

function stroke3d(viewer, place) {
  const { shape, spacing } = viewer.volume;
  if (!place.voxel) return null;
  const edit = viewer.edit("brush3d", place.voxel);
  const value = place.erase ? 0 : 1;
  const paint = (z, y, x) => edit.put("target", (z * shape[1] + y) * shape[2] + x, value);
  let last = place.voxel;
  visitBall(shape, spacing, last, last, viewer.radiusMm, paint);
  return {
    move({ voxel }) {
      if (!voxel) return;
      visitBall(shape, spacing, last, voxel, viewer.radiusMm, paint);
      last = voxel;
    },
    end: () => viewer.finish(edit, { radius_mm: viewer.radiusMm, erase: value ? 0 : 1 }),
  };
}

function lasso(viewer, place) {
  const { view, erase } = place;
  const { plane } = view;
  if (!viewer.mayEditPlane(plane)) return null;
  const corners = [place.pixel];
  viewer.lasso = { view, places: [place.place] };
  return {
    move(next) {
      corners.push(next.pixel);
      viewer.lasso.places.push(next.place);
    },
    end() {
      viewer.lasso = null;
      const edit = viewer.edit(erase ? "lasso_erase" : "lasso", place.voxel);
      visitPolygon(plane, corners, painter(viewer, edit, plane, erase ? 0 : 1));
      viewer.finish(edit);
    },
    cancel() {
      viewer.lasso = null;
    },
  };
}

function fill(viewer, { view, pixel, voxel, erase }) {
  const { plane } = view;
  const [row, column] = pixel.map(Math.round);
  if (!isInside(plane, row, column) || !viewer.mayEditPlane(plane)) return;
  const pixels = copyPlane(plane, viewer.masks.target.voxels);
  const inside = pixels[row * plane.columns + column] === 1;
  if (inside && !erase) {
    viewer.hint("Click into a hole to fill it; hold Ctrl and click to remove a region.");
    return;
  }
  if (!inside && erase) {
    viewer.hint("Hold Ctrl and click into a region to remove it.");
    return;
  }
  const region = connected(plane, pixels, row, column);
  if (!inside && region.open) {
    viewer.hint("The outline around this place is not closed: nothing was filled.");
    return;
  }
  const edit = viewer.edit("fill", voxel);
  const paint = painter(viewer, edit, plane, erase ? 0 : 1);
  for (const at of region.pixels) paint(Math.floor(at / plane.columns), at % plane.columns);
  viewer.finish(edit, { erase: erase ? 1 : 0 });
}

function point(viewer, tool, { voxel }) {
  if (!voxel || !viewer.mayEditSlice(voxel[0])) return;
  const detail = { y: voxel[1], x: voxel[2] };
  if (tool !== "margin") {
    // A correction goes to the model at once; it is undone together with the answer.
    viewer.act(`${tool}_click`, voxel[0], detail);
    viewer.prompt("refine", [{ kind: tool, voxel, sent: true }]);
    return;
  }
  const edit = viewer.edit("margin_point", voxel);
  // One slice is segmented at a time: points that wait on another one are given up.
  const kept = viewer.points.filter(
    (other) => other.sent || viewer.prompts === "3d" || other.voxel[0] === voxel[0],
  );
  edit.movePoints(viewer.points, [...kept, { kind: "foreground", voxel, sent: false }]);
  viewer.finish(edit, detail);
}

/** Ask the model for a contour from the margin points that were set. */
export function segment(viewer) {
  const waiting = viewer.points.filter((one) => !one.sent);
  if (waiting.length < MARGIN_POINTS_NEEDED) {
    viewer.hint(`Set at least ${MARGIN_POINTS_NEEDED} points just inside the tumour's edge first.`);
    return;
  }
  viewer.prompt("segment", waiting.map((one) => ({ ...one, sent: true })));
}

/** Fill the gap between the nearest drawn slices along the axis of the large view. */
export function fillBetween(viewer) {
  const view = viewer.largeView;
  const { spec, slice, slices } = view;
  const { target } = viewer.masks;
  const gaps = gapsAt((at) => target.isDrawn(spec.axis, at), slices, slice);
  if (!gaps.length) {
    viewer.hint("Draw on two slices, then go to an empty one between them.");
    return;
  }
  const edit = viewer.edit("interpolate", viewer.cursor);
  const { shape } = viewer.volume;
  for (const [below, above] of gaps) {
    const [first, second] = [below, above].map((at) => planeOf(spec, shape, at));
    const { rows, columns, rowMm, columnMm } = first;
    const drawn = [first, second].map((plane) => copyPlane(plane, target.voxels));
    const between = above - below - 1;
    const masks = interpolate(...drawn, rows, columns, rowMm, columnMm, between);
    masks.forEach((mask, i) => {
      const plane = planeOf(spec, shape, below + 1 + i);
      for (let at = mask.indexOf(1); at >= 0; at = mask.indexOf(1, at + 1)) {
        const row = Math.floor(at / columns);
        const column = at % columns;
        edit.put("target", plane.base + row * plane.rowStep + column * plane.columnStep, 1);
      }
    });
  }
  viewer.finish(edit, { slices: gaps.reduce((sum, [a, b]) => sum + b - a - 1, 0) });
}

/** Take everything off the slice that is shown large. */
export function clearSlice(viewer) {
  const view = viewer.largeView;
  const { plane } = view;
  if (!viewer.mayEditPlane(plane)) return;
  const edit = viewer.edit("clear_slice", viewer.cursor);
  for (let row = 0; row < plane.rows; row += 1) {
    for (let column = 0; column < plane.columns; column += 1) {
      const index = plane.base + row * plane.rowStep + column * plane.columnStep;
      edit.put("target", index, 0);
      if (viewer.mode === "scribble") edit.put("outside", index, 0);
    }
  }
  viewer.finish(edit);
}

/** Use a tool at the crosshair, for those who work without a mouse. */
export function useAtCursor(viewer) {
  const view = viewer.largeView;
  const voxel = [...viewer.cursor];
  const place = view.toScreen(voxel);
  const at = { view, place, pixel: view.toPixel(place).map(Math.round), voxel, erase: false };
  begin(viewer, viewer.tool, at)?.end(at);
}

