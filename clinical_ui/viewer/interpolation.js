/**
 * Fill the slices between two drawn ones: the outline moves evenly from one to the other.
 *
 * Each drawn slice becomes the signed distance to its edge in mm (inside positive); in between,
 * the two are mixed by how near each is, and what is positive is inside.
 */

const FAR = 1e12;

/** Return the gaps [below, above] (both drawn, nothing between) that touch a slice. */
export function gapsAt(isDrawn, slices, slice) {
  const nearest = (from, step) => {
    for (let at = from; at >= 0 && at < slices; at += step) if (isDrawn(at)) return at;
    return -1;
  };
  if (!isDrawn(slice)) {
    const below = nearest(slice - 1, -1);
    const above = nearest(slice + 1, 1);
    return below >= 0 && above >= 0 ? [[below, above]] : [];
  }
  const below = nearest(slice - 1, -1);
  const above = nearest(slice + 1, 1);
  const gaps = [];
  if (below >= 0 && slice - below > 1) gaps.push([below, slice]);
  if (above >= 0 && above - slice > 1) gaps.push([slice, above]);
  return gaps;
}

/**
 * Return the masks of the slices between two drawn ones.
 *
 * @param first, second Uint8Array in rows and columns
 * @param between how many slices lie between
 * @returns {Uint8Array[]}
 */
export function interpolate(first, second, rows, columns, rowMm, columnMm, between) {
  const a = signedDistance(first, rows, columns, rowMm, columnMm);
  const b = signedDistance(second, rows, columns, rowMm, columnMm);
  const masks = [];
  for (let i = 1; i <= between; i += 1) {
    const share = i / (between + 1);
    const mask = new Uint8Array(first.length);
    for (let at = 0; at < mask.length; at += 1) {
      if ((1 - share) * a[at] + share * b[at] > 0) mask[at] = 1;
    }
    masks.push(mask);
  }
  return masks;
}

/** Return distances in mm: of inside pixels to the nearest outside, minus the other way round. */
export function signedDistance(mask, rows, columns, rowMm, columnMm) {
  const inside = distance(mask, 0, rows, columns, rowMm, columnMm);
  const outside = distance(mask, 1, rows, columns, rowMm, columnMm);
  for (let i = 0; i < inside.length; i += 1) inside[i] -= outside[i];
  return inside;
}

// Exact Euclidean distance of every pixel to the nearest one of a value (Felzenszwalb and
// Huttenlocher 2012): squared distances along columns, then along rows.
function distance(mask, value, rows, columns, rowMm, columnMm) {
  const squared = new Float64Array(mask.length);
  for (let i = 0; i < mask.length; i += 1) squared[i] = mask[i] === value ? 0 : FAR;
  const size = Math.max(rows, columns);
  const work = {
    line: new Float64Array(size),
    at: new Int32Array(size),
    from: new Float64Array(size + 1),
  };
  for (let column = 0; column < columns; column += 1) {
    alongLine(squared, column, columns, rows, rowMm, work);
  }
  for (let row = 0; row < rows; row += 1) {
    alongLine(squared, row * columns, 1, columns, columnMm, work);
  }
  for (let i = 0; i < squared.length; i += 1) squared[i] = Math.sqrt(squared[i]);
  return squared;
}

function alongLine(values, start, step, n, mm, { line, at, from }) {
  for (let i = 0; i < n; i += 1) line[i] = values[start + i * step];
  const square = mm * mm;
  let last = 0; // of the parabolas that make the lower envelope
  at[0] = 0;
  from[0] = -Infinity;
  from[1] = Infinity;
  for (let i = 1; i < n; i += 1) {
    let cross = meeting(line, at[last], i, square);
    while (cross <= from[last]) {
      last -= 1;
      cross = meeting(line, at[last], i, square);
    }
    last += 1;
    at[last] = i;
    from[last] = cross;
    from[last + 1] = Infinity;
  }
  let part = 0;
  for (let i = 0; i < n; i += 1) {
    while (from[part + 1] < i) part += 1;
    const away = i - at[part];
    values[start + i * step] = square * away * away + line[at[part]];
  }
}

// Where the parabolas over two pixels meet.
function meeting(line, j, i, square) {
  return (line[i] - line[j] + square * (i * i - j * j)) / (2 * square * (i - j));
}
