/**
 * Smooth outlines of a binary slice.
 *
 * Marching squares between pixel centres gives closed loops, holes among them; then every corner
 * is drawn towards its neighbours, so that steps of pixels become a line. No region vanishes and
 * none grow together, and the line stays within half a pixel of the mask's edge.
 */

// Where the line enters and leaves a cell, by which of its four corners are inside (1 top left,
// 2 top right, 4 bottom right, 8 bottom left), with the inside on the right hand. Sides: 0 top,
// 1 right, 2 bottom, 3 left. Two corners that touch only diagonally are two regions.
const CELLS = [
  [], [[0, 3]], [[1, 0]], [[1, 3]], [[2, 1]], [[0, 3], [2, 1]], [[2, 0]], [[2, 3]],
  [[3, 2]], [[0, 2]], [[1, 0], [3, 2]], [[1, 2]], [[3, 1]], [[0, 1]], [[3, 0]], [],
];

const ROUNDS = 4;

/**
 * Return the closed loops around the regions of a slice.
 *
 * @param pixels Uint8Array in rows and columns
 * @returns {Float32Array[]} per loop row, column, row, column, ... in pixels, not closed by hand
 */
export function outlines(pixels, rows, columns) {
  const width = columns + 2; // a rim of outside closes what reaches the border
  const next = new Map();
  const inside = (row, column) =>
    row >= 0 && column >= 0 && row < rows && column < columns ? pixels[row * columns + column] : 0;
  const box = boundingBox(pixels, rows, columns);
  if (!box) return [];
  for (let row = box.top - 1; row <= box.bottom; row += 1) {
    for (let column = box.left - 1; column <= box.right; column += 1) {
      const cell =
        inside(row, column) +
        2 * inside(row, column + 1) +
        4 * inside(row + 1, column + 1) +
        8 * inside(row + 1, column);
      if (cell === 0 || cell === 15) continue;
      const at = (row + 1) * width + column + 1;
      const sides = [2 * at, 2 * (at + 1) + 1, 2 * (at + width), 2 * at + 1];
      for (const [from, to] of CELLS[cell]) next.set(sides[from], sides[to]);
    }
  }
  const loops = [];
  for (const [start] of next) {
    if (!next.has(start)) continue;
    const loop = [];
    let side = start;
    while (next.has(side)) {
      const at = side >> 1;
      const row = Math.floor(at / width) - 1;
      const column = (at % width) - 1;
      if (side & 1) loop.push(row + 0.5, column);
      else loop.push(row, column + 0.5);
      const to = next.get(side);
      next.delete(side);
      side = to;
    }
    loops.push(smooth(Float32Array.from(loop)));
  }
  return loops;
}

/** Return loops as a path in mm from the top left corner of the image. */
export function pathOf(loops, rowMm, columnMm) {
  const path = new Path2D();
  for (const loop of loops) {
    for (let i = 0; i < loop.length; i += 2) {
      const x = (loop[i + 1] + 0.5) * columnMm;
      const y = (loop[i] + 0.5) * rowMm;
      if (i) path.lineTo(x, y);
      else path.moveTo(x, y);
    }
    path.closePath();
  }
  return path;
}

/** Remembers the last paths, because scrolling comes back to the same slices. */
export class PathCache {
  constructor(limit = 400) {
    this.limit = limit;
    this.paths = new Map();
  }

  /** Return the path kept under `key`, else what `make` makes. */
  get(key, make) {
    let path = this.paths.get(key);
    if (path === undefined) {
      if (this.paths.size >= this.limit) this.paths.delete(this.paths.keys().next().value);
      path = make();
      this.paths.set(key, path);
    }
    return path;
  }
}

// Towards the neighbours and almost back again, so that nothing shrinks (Taubin 1995). A loop
// around one or two pixels has no steps to lose.
function smooth(loop) {
  const rounds = loop.length < 24 ? 1 : ROUNDS;
  let line = loop;
  for (let i = 0; i < rounds; i += 1) line = relax(relax(line, 0.5), -0.53);
  return line;
}

function relax(loop, share) {
  const n = loop.length;
  const moved = new Float32Array(n);
  for (let i = 0; i < n; i += 1) {
    const middle = (loop[(i - 2 + n) % n] + loop[(i + 2) % n]) / 2;
    moved[i] = loop[i] + share * (middle - loop[i]);
  }
  return moved;
}

function boundingBox(pixels, rows, columns) {
  const first = pixels.indexOf(1);
  if (first < 0) return null;
  const top = Math.floor(first / columns);
  const bottom = Math.floor(pixels.lastIndexOf(1) / columns);
  let left = columns;
  let right = 0;
  for (let row = top; row <= bottom; row += 1) {
    const start = row * columns;
    for (let column = 0; column < left; column += 1) {
      if (pixels[start + column]) left = column;
    }
    for (let column = columns - 1; column > right; column -= 1) {
      if (pixels[start + column]) right = column;
    }
  }
  return { top, bottom, left, right: Math.max(right, left) };
}
