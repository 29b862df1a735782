/**
 * One plane on a canvas: image, contours, points, crosshair, labels; zoom and pan.
 *
 * Coordinates: screen (CSS px from the canvas corner) -> mm from the image's corner -> pixel
 * (row, column). The image is shaded once per slice and window and then only drawn.
 */

import { bandFill } from "./band.js";
import { outlines, pathOf } from "./contour_lines.js";
import { copyPlane, pixelOf, planeOf, voxelOf } from "./plane.js";
import { shadePlane } from "./volume.js";

const LINE_PX = 2;
const INK = "#dfe7ec";
export const FOREGROUND = "#2ee68a";
export const BACKGROUND = "#5aa9ff";

/** A canvas that shows one of the header's three views. */
export class View {
  /** @param viewer what is shown: volume, masks, layers, cursor, window, ...; @param number 0-2 */
  constructor(viewer, canvas, number) {
    this.viewer = viewer;
    this.canvas = canvas;
    this.number = number;
    this.zoom = 1;
    this.centre = null; // [x, y] in mm in the middle of the canvas; null for the image's
    this.size = [0, 0];
    this.drawMs = 0;
    this._image = document.createElement("canvas");
    this._shaded = "";
  }

  get spec() {
    return this.viewer.volume.header.views[this.number];
  }

  get slices() {
    return this.viewer.volume.shape[this.spec.axis];
  }

  get slice() {
    return this.viewer.cursor[this.spec.axis];
  }

  get plane() {
    return planeOf(this.spec, this.viewer.volume.shape, this.slice);
  }

  get sizeMm() {
    const { shape } = this.viewer.volume;
    const { spec } = this;
    return [shape[spec.columns_axis] * spec.column_mm, shape[spec.rows_axis] * spec.row_mm];
  }

  /** Return CSS px per mm. */
  get scale() {
    const [width, height] = this.sizeMm;
    const room = Math.min((this.size[0] - 8) / width, (this.size[1] - 8) / height);
    return Math.max(room, 1e-6) * this.zoom;
  }

  /** Show all of the image again. */
  fit() {
    this.zoom = 1;
    this.centre = null;
  }

  /** Zoom by a factor; what is under `[x, y]` (CSS px) stays there. */
  zoomAt([x, y], factor) {
    const before = this.toMm([x, y]);
    this.zoom = Math.min(20, Math.max(0.5, this.zoom * factor));
    const after = this.toMm([x, y]);
    const centre = this._centre();
    this.centre = [centre[0] + before[0] - after[0], centre[1] + before[1] - after[1]];
  }

  /** Move the image by CSS px. */
  pan(dx, dy) {
    const centre = this._centre();
    this.centre = [centre[0] - dx / this.scale, centre[1] - dy / this.scale];
  }

  toMm([x, y]) {
    const centre = this._centre();
    return [
      centre[0] + (x - this.size[0] / 2) / this.scale,
      centre[1] + (y - this.size[1] / 2) / this.scale,
    ];
  }

  /** Return the pixel (row, column; fractions, centres at whole numbers) under CSS px. */
  toPixel(place) {
    const [x, y] = this.toMm(place);
    return [y / this.spec.row_mm - 0.5, x / this.spec.column_mm - 0.5];
  }

  /** Return where on the canvas (CSS px) a voxel [z, y, x] lies. */
  toScreen(voxel) {
    const [row, column] = pixelOf(this.spec, this.viewer.volume.shape, voxel);
    const centre = this._centre();
    const x = (column + 0.5) * this.spec.column_mm;
    const y = (row + 0.5) * this.spec.row_mm;
    return [
      (x - centre[0]) * this.scale + this.size[0] / 2,
      (y - centre[1]) * this.scale + this.size[1] / 2,
    ];
  }

  /** Return the voxel [z, y, x] under CSS px, or null beside the image. */
  voxelAt(place) {
    const [row, column] = this.toPixel(place).map(Math.round);
    const { rows, columns } = this.plane;
    if (row < 0 || column < 0 || row >= rows || column >= columns) return null;
    return voxelOf(this.spec, this.viewer.volume.shape, this.slice, row, column);
  }

  /** Take on the size of the element. */
  resize() {
    const width = this.canvas.clientWidth;
    const height = this.canvas.clientHeight;
    const ratio = Math.min(globalThis.devicePixelRatio || 1, 2);
    this.size = [width, height];
    const wanted = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== wanted[0] || this.canvas.height !== wanted[1]) {
      [this.canvas.width, this.canvas.height] = wanted;
    }
  }

  /** Draw everything. */
  draw() {
    const began = performance.now();
    const context = this.canvas.getContext("2d", { alpha: false });
    const ratio = this.canvas.width / Math.max(this.size[0], 1);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    if (this.size[0] < 2 || this.size[1] < 2) return;
    const [centreX, centreY] = this._centre();
    const scale = this.scale * ratio;
    const offsetX = this.canvas.width / 2 - centreX * scale;
    const offsetY = this.canvas.height / 2 - centreY * scale;
    context.setTransform(scale, 0, 0, scale, offsetX, offsetY);
    this._drawImage(context);
    this._drawDifference(context);
    this._drawContours(context, scale / ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this._drawCrosshair(context);
    this._drawPoints(context);
    this._drawLasso(context);
    this._drawBrush(context);
    this._drawLabels(context);
    this.drawMs = performance.now() - began;
  }

  _centre() {
    const [width, height] = this.sizeMm;
    return this.centre ?? [width / 2, height / 2];
  }

  _drawImage(context) {
    const { volume, windowKey, table } = this.viewer;
    const { plane } = this;
    const key = `${volume.header.token}|${this.number}|${this.slice}|${windowKey}`;
    if (key !== this._shaded) {
      if (this._image.width !== plane.columns || this._image.height !== plane.rows) {
        this._image.width = plane.columns;
        this._image.height = plane.rows;
        this._pixels = new ImageData(plane.columns, plane.rows);
      }
      shadePlane(plane, volume.voxels, table, new Uint32Array(this._pixels.data.buffer));
      this._image.getContext("2d").putImageData(this._pixels, 0, 0);
      this._shaded = key;
    }
    const [width, height] = this.sizeMm;
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "medium";
    context.drawImage(this._image, 0, 0, width, height);
  }

  _path(layer) {
    const { mask } = layer;
    const key = `${this.number}|${this.slice}|${layer.key}|${layer.generation}|${mask.version}`;
    return this.viewer.paths.get(key, () => {
      const { plane } = this;
      if (!mask.isDrawn(plane.axis, plane.slice)) return null;
      const loops = outlines(copyPlane(plane, mask.voxels), plane.rows, plane.columns);
      return loops.length ? pathOf(loops, plane.rowMm, plane.columnMm) : null;
    });
  }

  _drawContours(context, scale) {
    context.lineJoin = "round";
    for (const layer of this.viewer.shownLayers(this.plane)) {
      const path = this._path(layer);
      if (!path) continue;
      if (layer.band) {
        context.fillStyle = bandFill(context, layer, scale);
        context.fill(path, "evenodd");
        continue;
      }
      if (layer.fill) {
        context.fillStyle = rgb(layer.colour, layer.fill);
        context.fill(path, "evenodd");
      }
      context.setLineDash(layer.dash.map((px) => px / scale));
      context.lineWidth = (LINE_PX + 1.6) / scale; // a dark rim keeps it visible on bright tissue
      context.strokeStyle = "rgba(0, 0, 0, 0.55)";
      context.stroke(path);
      context.lineWidth = LINE_PX / scale;
      context.strokeStyle = rgb(layer.colour, 1);
      context.stroke(path);
    }
    context.setLineDash([]);
  }

  _drawDifference(context) {
    const pair = this.viewer.difference();
    if (!pair) return;
    const { plane } = this;
    const [now, before] = pair.map((mask) => copyPlane(plane, mask.voxels));
    const pixels = new ImageData(plane.columns, plane.rows);
    const light = new Uint32Array(pixels.data.buffer);
    for (let i = 0; i < light.length; i += 1) {
      if (now[i] !== before[i]) light[i] = now[i] ? 0x803c5cff : 0x80ffb43c; // red added, blue gone
    }
    this._difference ??= document.createElement("canvas");
    this._difference.width = plane.columns;
    this._difference.height = plane.rows;
    this._difference.getContext("2d").putImageData(pixels, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(this._difference, 0, 0, ...this.sizeMm);
  }

  _drawCrosshair(context) {
    if (!this.viewer.crosshairShown) return;
    const [x, y] = this.toScreen(this.viewer.cursor).map((px) => Math.round(px) + 0.5);
    const gap = 14;
    context.strokeStyle = "rgba(120, 200, 220, 0.55)";
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(0, y);
    context.lineTo(x - gap, y);
    context.moveTo(x + gap, y);
    context.lineTo(this.size[0], y);
    context.moveTo(x, 0);
    context.lineTo(x, y - gap);
    context.moveTo(x, y + gap);
    context.lineTo(x, this.size[1]);
    context.stroke();
  }

  _drawPoints(context) {
    for (const point of this.viewer.points) {
      if (point.voxel[this.spec.axis] !== this.slice) continue;
      const [x, y] = this.toScreen(point.voxel);
      const foreground = point.kind !== "background";
      context.lineWidth = 2;
      context.fillStyle = foreground ? FOREGROUND : BACKGROUND;
      context.strokeStyle = "#001018";
      context.globalAlpha = point.sent ? 0.75 : 1;
      context.beginPath();
      if (foreground) context.arc(x, y, point.sent ? 4 : 5.5, 0, 2 * Math.PI);
      else context.rect(x - 4.5, y - 4.5, 9, 9);
      context.fill();
      context.stroke();
      context.globalAlpha = 1;
    }
  }

  _drawLasso(context) {
    const { lasso } = this.viewer;
    if (!lasso || lasso.view !== this || lasso.places.length < 2) return;
    context.beginPath();
    context.moveTo(...lasso.places[0]);
    for (const place of lasso.places) context.lineTo(...place);
    context.strokeStyle = "#fff";
    context.lineWidth = 1.5;
    context.setLineDash([5, 4]);
    context.stroke();
    context.setLineDash([]);
  }

  _drawBrush(context) {
    const { hover, brush } = this.viewer;
    if (!brush || !hover || hover.view !== this) return;
    const radius = brush.radiusMm * this.scale;
    context.lineWidth = 1.5;
    const rim = [1, "rgba(0, 0, 0, 0.6)"];
    for (const [shift, colour] of [rim, [0, brush.erase ? "#ffb454" : "#fff"]]) {
      context.strokeStyle = colour;
      context.beginPath();
      context.arc(hover.place[0], hover.place[1], Math.max(radius, 2) + shift, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  _drawLabels(context) {
    const [width, height] = this.size;
    const [left, right, top, bottom] = this.spec.edges;
    const small = width < 420;
    context.font = `600 ${small ? 12 : 14}px system-ui, sans-serif`;
    context.textBaseline = "middle";
    context.fillStyle = INK;
    context.shadowColor = "#000";
    context.shadowBlur = 4;
    context.textAlign = "left";
    context.fillText(left, 8, height / 2);
    context.textAlign = "right";
    context.fillText(right, width - 8, height / 2);
    context.textAlign = "center";
    context.fillText(top, width / 2, small ? 34 : 14);
    context.fillText(bottom, width / 2, height - 12);
    this._drawScale(context, width, height);
    context.shadowBlur = 0;
  }

  // A bar of a round length in mm, so that sizes can be judged at any zoom.
  _drawScale(context, width, height) {
    const room = width / 4 / this.scale;
    const length = [1, 2, 5, 10, 20, 50, 100, 200].findLast((mm) => mm <= room);
    if (!length || width < 300) return;
    const px = length * this.scale;
    context.strokeStyle = INK;
    context.lineWidth = 1.5;
    context.beginPath();
    context.moveTo(10, height - 16);
    context.lineTo(10, height - 12);
    context.lineTo(10 + px, height - 12);
    context.lineTo(10 + px, height - 16);
    context.stroke();
    context.font = "500 11px system-ui, sans-serif";
    context.textAlign = "left";
    context.fillText(`${length} mm`, 10, height - 24);
  }
}

/** Return a CSS colour. */
export function rgb([red, green, blue], alpha) {
  return `rgba(${red}, ${green}, ${blue}, ${alpha})`;
}
