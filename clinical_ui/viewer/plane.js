/**
 * One slice of the volume along any index axis, as it lies on the screen.
 *
 * A plane's pixel (row, column) is the voxel `base + row * rowStep + column * columnStep`; its
 * centre is at whole numbers. Everything else in the viewer works on planes and knows no axes.
 */

/**
 * Return the plane of a slice.
 *
 * @param view one of the header's views: axis, rows_axis, columns_axis, flips, row_mm, column_mm
 * @param shape voxels along z, y, x
 * @param slice index along the view's axis
 */
export function planeOf(view, shape, slice) {
  const step = [shape[1] * shape[2], shape[2], 1];
  const rows = shape[view.rows_axis];
  const columns = shape[view.columns_axis];
  let base = slice * step[view.axis];
  let rowStep = step[view.rows_axis];
  let columnStep = step[view.columns_axis];
  if (view.flipped_rows) {
    base += (rows - 1) * rowStep;
    rowStep = -rowStep;
  }
  if (view.flipped_columns) {
    base += (columns - 1) * columnStep;
    columnStep = -columnStep;
  }
  return {
    axis: view.axis,
    slice,
    rows,
    columns,
    base,
    rowStep,
    columnStep,
    rowMm: view.row_mm,
    columnMm: view.column_mm,
  };
}

/** Return the voxel [z, y, x] of a plane's pixel. */
export function voxelOf(view, shape, slice, row, column) {
  const voxel = [0, 0, 0];
  voxel[view.axis] = slice;
  voxel[view.rows_axis] = view.flipped_rows ? shape[view.rows_axis] - 1 - row : row;
  voxel[view.columns_axis] = view.flipped_columns ? shape[view.columns_axis] - 1 - column : column;
  return voxel;
}

/** Return the pixel [row, column] of a voxel [z, y, x], or of a place between voxels. */
export function pixelOf(view, shape, voxel) {
  const row = voxel[view.rows_axis];
  const column = voxel[view.columns_axis];
  return [
    view.flipped_rows ? shape[view.rows_axis] - 1 - row : row,
    view.flipped_columns ? shape[view.columns_axis] - 1 - column : column,
  ];
}

/** Copy a plane of `voxels` into rows and columns (Uint8Array). */
export function copyPlane(plane, voxels, into = new Uint8Array(plane.rows * plane.columns)) {
  const { rows, columns, rowStep, columnStep } = plane;
  let to = 0;
  for (let row = 0; row < rows; row += 1) {
    let from = plane.base + row * rowStep;
    for (let column = 0; column < columns; column += 1, from += columnStep) {
      into[to] = voxels[from];
      to += 1;
    }
  }
  return into;
}
