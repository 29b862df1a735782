/** Which pixels of a plane, or voxels of the volume, a movement of the hand covers. Pure. */

/**
 * Visit the pixels within `radiusMm` of the line between two places (row, column; fractions).
 *
 * A brush that is smaller than a pixel still covers one: along each axis it reaches at least half
 * a pixel, so that a fast movement leaves no gap.
 */
export function visitStroke(plane, from, to, radiusMm, visit) {
  const reachRow = Math.max(radiusMm / plane.rowMm, 0.5);
  const reachColumn = Math.max(radiusMm / plane.columnMm, 0.5);
  // In units of the brush: a circle in mm becomes the unit circle.
  const startRow = from[0] / reachRow;
  const startColumn = from[1] / reachColumn;
  const alongRow = to[0] / reachRow - startRow;
  const alongColumn = to[1] / reachColumn - startColumn;
  const square = alongRow * alongRow + alongColumn * alongColumn;
  const top = Math.max(0, Math.ceil(Math.min(from[0], to[0]) - reachRow));
  const bottom = Math.min(plane.rows - 1, Math.floor(Math.max(from[0], to[0]) + reachRow));
  const left = Math.max(0, Math.ceil(Math.min(from[1], to[1]) - reachColumn));
  const right = Math.min(plane.columns - 1, Math.floor(Math.max(from[1], to[1]) + reachColumn));
  for (let row = top; row <= bottom; row += 1) {
    const downwards = row / reachRow - startRow;
    for (let column = left; column <= right; column += 1) {
      const sideways = column / reachColumn - startColumn;
      let share = 0;
      if (square > 0) {
        share = (downwards * alongRow + sideways * alongColumn) / square;
        share = Math.min(1, Math.max(0, share));
      }
      const awayRow = downwards - share * alongRow;
      const awayColumn = sideways - share * alongColumn;
      if (awayRow * awayRow + awayColumn * awayColumn <= 1 + 1e-9) visit(row, column);
    }
  }
  for (const [row, column] of [from, to]) {
    const nearest = [Math.round(row), Math.round(column)];
    if (isInside(plane, nearest[0], nearest[1])) visit(nearest[0], nearest[1]);
  }
}

/** Visit the pixels whose centre lies inside a polygon [[row, column], ...] (even-odd rule). */
export function visitPolygon(plane, corners, visit) {
  if (corners.length < 3) return;
  let top = Infinity;
  let bottom = -Infinity;
  for (const [row] of corners) {
    top = Math.min(top, row);
    bottom = Math.max(bottom, row);
  }
  const last = Math.min(plane.rows - 1, Math.floor(bottom));
  for (let row = Math.max(0, Math.ceil(top)); row <= last; row += 1) {
    const crossings = [];
    for (let i = 0; i < corners.length; i += 1) {
      const [rowA, columnA] = corners[i];
      const [rowB, columnB] = corners[(i + 1) % corners.length];
      if (rowA <= row !== rowB <= row) {
        crossings.push(columnA + ((row - rowA) / (rowB - rowA)) * (columnB - columnA));
      }
    }
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const end = Math.min(plane.columns - 1, Math.ceil(crossings[i + 1]) - 1);
      const start = Math.max(0, Math.ceil(crossings[i]));
      for (let column = start; column <= end; column += 1) visit(row, column);
    }
  }
}

/**
 * Return the pixels that hang together (4 neighbours) with one and have its value.
 *
 * @param pixels values in rows and columns, as `copyPlane` gives them
 * @returns {{pixels: number[], open: boolean}} numbers `row * columns + column`; `open` where the
 *   region reaches the border of the image
 */
export function connected(plane, pixels, row, column) {
  const { rows, columns } = plane;
  const start = row * columns + column;
  const value = pixels[start];
  const seen = new Uint8Array(pixels.length);
  const found = [start];
  seen[start] = 1;
  let open = false;
  for (let i = 0; i < found.length; i += 1) {
    const at = found[i];
    const r = Math.floor(at / columns);
    const c = at % columns;
    if (r === 0 || c === 0 || r === rows - 1 || c === columns - 1) open = true;
    const next = [r > 0 && at - columns, r < rows - 1 && at + columns];
    next.push(c > 0 && at - 1, c < columns - 1 && at + 1);
    for (const to of next) {
      if (to !== false && !seen[to] && pixels[to] === value) {
        seen[to] = 1;
        found.push(to);
      }
    }
  }
  return { pixels: found, open };
}

/** Visit the voxels (z, y, x) within `radiusMm` of the line between two voxels. */
export function visitBall(shape, spacing, from, to, radiusMm, visit) {
  const reach = spacing.map((mm) => Math.max(radiusMm / mm, 0.5));
  const along = reach.map((r, axis) => (to[axis] - from[axis]) / r);
  const square = along.reduce((sum, part) => sum + part * part, 0);
  const low = reach.map((r, axis) => Math.max(0, Math.ceil(Math.min(from[axis], to[axis]) - r)));
  const high = reach.map((r, axis) =>
    Math.min(shape[axis] - 1, Math.floor(Math.max(from[axis], to[axis]) + r)),
  );
  for (let z = low[0]; z <= high[0]; z += 1) {
    for (let y = low[1]; y <= high[1]; y += 1) {
      for (let x = low[2]; x <= high[2]; x += 1) {
        const a = (z - from[0]) / reach[0];
        const b = (y - from[1]) / reach[1];
        const c = (x - from[2]) / reach[2];
        let share = 0;
        if (square > 0) {
          share = (a * along[0] + b * along[1] + c * along[2]) / square;
          share = Math.min(1, Math.max(0, share));
        }
        const da = a - share * along[0];
        const db = b - share * along[1];
        const dc = c - share * along[2];
        if (da * da + db * db + dc * dc <= 1 + 1e-9) visit(z, y, x);
      }
    }
  }
}

/** Say whether a pixel is one of the plane's. */
export function isInside(plane, row, column) {
  return row >= 0 && column >= 0 && row < plane.rows && column < plane.columns;
}
