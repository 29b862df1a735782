/**
 * What the doctor draws, and the way back.
 *
 * Masks are binary, so an edit is the set of voxels that it flipped, and flipping them again
 * undoes it: the same for a stroke, an interpolation and an answer of the model.
 */

import { encodeRuns } from "./run_lengths.js";

/** A binary mask [z, y, x] that knows how many voxels each slice holds. */
export class Mask {
  /** @param shape voxels along z, y, x; @param voxels Uint8Array of 0 and 1, in C order */
  constructor(shape, voxels = new Uint8Array(shape[0] * shape[1] * shape[2])) {
    this.shape = shape;
    this.voxels = voxels;
    this.sliceSize = shape[1] * shape[2];
    this.version = 0; // changes with every change, for what is cached
    this.counts = new Int32Array(shape[0]);
    for (let z = 0; z < shape[0]; z += 1) {
      const end = (z + 1) * this.sliceSize;
      let at = voxels.indexOf(1, z * this.sliceSize);
      if (at < 0) break;
      let count = 0;
      for (; at < end; at += 1) count += voxels[at];
      this.counts[z] = count;
    }
  }

  /** Return how many voxels there are. */
  get total() {
    return this.counts.reduce((sum, count) => sum + count, 0);
  }

  /** Turn one voxel over. */
  flip(index) {
    const value = 1 - this.voxels[index];
    this.voxels[index] = value;
    this.counts[Math.floor(index / this.sliceSize)] += value ? 1 : -1;
    this.version += 1;
  }

  /** Return the mask as run lengths. */
  runs() {
    return encodeRuns(this.voxels, this.counts);
  }

  /** Say whether a slice along any axis holds anything. */
  isDrawn(axis, slice) {
    if (axis === 0) return this.counts[slice] > 0;
    const { shape, sliceSize, voxels } = this;
    for (let z = 0; z < shape[0]; z += 1) {
      if (!this.counts[z]) continue;
      if (axis === 1) {
        const row = z * sliceSize + slice * shape[2];
        const found = voxels.indexOf(1, row);
        if (found >= 0 && found < row + shape[2]) return true;
      } else {
        for (let y = 0; y < shape[1]; y += 1) {
          if (voxels[z * sliceSize + y * shape[2] + slice]) return true;
        }
      }
    }
    return false;
  }
}

/** One edit while it is made: puts voxels and remembers which of them changed. */
export class Edit {
  /**
   * @param masks {target: Mask, outside: Mask}
   * @param name of the action, such as "stroke"
   * @param z the slice it is counted for
   * @param mayChange (z) => bool: only these slices may be written to; null for all
   */
  constructor(masks, name, z, mayChange = null) {
    this.masks = masks;
    this.name = name;
    this.z = z;
    this.mayChange = mayChange;
    this.refused = false; // something outside those slices was asked for
    this.flipped = { target: [], outside: [] };
    this.points = null;
  }

  /** Set one voxel of a layer. */
  put(layer, index, value) {
    const mask = this.masks[layer];
    if (mask.voxels[index] === value) return;
    if (this.mayChange && !this.mayChange(Math.floor(index / mask.sliceSize))) {
      this.refused = true;
      return;
    }
    mask.flip(index);
    this.flipped[layer].push(index);
  }

  /** Say that the points that prompt the model change with this edit. */
  movePoints(before, after) {
    this.points = { before, after };
  }

  /** Return how many voxels changed. */
  get size() {
    return this.flipped.target.length + this.flipped.outside.length;
  }

  /** Say whether there is nothing to undo. */
  get isEmpty() {
    return this.size === 0 && !this.points;
  }
}

/** Every edit of this sitting, one step back and forth at a time. */
export class History {
  constructor(masks) {
    this.masks = masks;
    this.done = [];
    this.undone = [];
  }

  /** Keep an edit; what was undone before it cannot come back. */
  record(edit) {
    if (edit.isEmpty) return false;
    this.done.push({
      name: edit.name,
      z: edit.z,
      points: edit.points,
      flipped: {
        target: Uint32Array.from(edit.flipped.target),
        outside: Uint32Array.from(edit.flipped.outside),
      },
    });
    this.undone = [];
    return true;
  }

  /** Take the last edit back; returns it, or null. */
  undo() {
    return this._move(this.done, this.undone);
  }

  /** Make the edit again that was taken back last; returns it, or null. */
  redo() {
    return this._move(this.undone, this.done);
  }

  _move(from, to) {
    const entry = from.pop();
    if (!entry) return null;
    for (const layer of ["target", "outside"]) {
      for (const index of entry.flipped[layer]) this.masks[layer].flip(index);
    }
    to.push(entry);
    return entry;
  }
}

/** Return the SHA-256 of a mask as the server writes it, or "" where the page is not secure. */
export async function maskSha256(mask) {
  if (!globalThis.crypto?.subtle) return "";
  const { voxels, shape } = mask;
  const head = new TextEncoder().encode(`(${shape.join(", ")})`);
  const bytes = new Uint8Array(head.length + Math.ceil(voxels.length / 8));
  bytes.set(head);
  for (let z = 0; z < shape[0]; z += 1) {
    if (!mask.counts[z]) continue;
    const end = (z + 1) * mask.sliceSize;
    for (let at = z * mask.sliceSize; at < end; at += 1) {
      if (voxels[at]) bytes[head.length + (at >> 3)] |= 128 >> (at & 7);
    }
  }
  const digest = await crypto.subtle.digest("SHA-256", bytes);
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
