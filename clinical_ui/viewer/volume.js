/** The image: how its bytes are read, which grey values it has, and how they become light. */

const GREY_LEVELS = 65536;

/** An image [z, y, x] with the header that came with it. */
export class Volume {
  constructor(header, voxels) {
    this.header = header;
    this.voxels = voxels;
    this.shape = header.shape_zyx;
    this.spacing = header.spacing_zyx_mm;
    this._sorted = null;
  }

  /** Return the grey value of a voxel [z, y, x]. */
  grey([z, y, x]) {
    const stored = this.voxels[(z * this.shape[1] + y) * this.shape[2] + x];
    return stored * this.header.slope + this.header.intercept;
  }

  /** Return the grey value below which a share (0 to 1) of the voxels lies. */
  percentile(share) {
    this._sorted ??= histogram(this.voxels);
    const wanted = share * (this.voxels.length - 1);
    let below = 0;
    let level = 0;
    while (level < GREY_LEVELS - 1 && below + this._sorted[level] <= wanted) {
      below += this._sorted[level];
      level += 1;
    }
    return (level - 32768) * this.header.slope + this.header.intercept;
  }
}

/**
 * Read a volume from gzipped bytes: uint32 length, JSON header, int16 voxels.
 *
 * @param isKnown (token) => bool: reading stops after the header of a volume that is there already
 * @returns {Promise<Volume|null>} null when it was known
 */
export async function readVolume(bytes, isKnown = () => false) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const reader = stream.getReader();
  let head = new Uint8Array(0);
  let header = null;
  let body = null;
  let filled = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    let rest = value;
    if (!header) {
      head = joined(head, value);
      const parsed = parseHeader(head);
      if (!parsed) continue;
      header = parsed.header;
      if (isKnown(header.token)) {
        reader.cancel().catch(() => {});
        return null;
      }
      const [z, y, x] = header.shape_zyx;
      body = new Uint8Array(2 * z * y * x);
      rest = head.subarray(parsed.end);
    }
    if (filled + rest.length > body.length) throw new Error("the image is longer than it says");
    body.set(rest, filled);
    filled += rest.length;
  }
  if (!body || filled !== body.length) throw new Error("the image is shorter than it says");
  return new Volume(header, new Int16Array(body.buffer));
}

/** Return light (0 to 255) for each stored value + 32768, for a window of grey values. */
export function lightTable(header, [low, high]) {
  const table = new Uint8Array(GREY_LEVELS);
  const scale = 255 / Math.max(high - low, 1e-9);
  const first = ((low - header.intercept) / header.slope) + 32768;
  const step = header.slope * scale;
  for (let level = 0; level < GREY_LEVELS; level += 1) {
    const light = (level - first) * step;
    table[level] = light <= 0 ? 0 : light >= 255 ? 255 : light + 0.5;
  }
  return table;
}

/** Write a plane of the volume as RGBA into `pixels` (Uint32Array). */
export function shadePlane(plane, voxels, table, pixels) {
  const { rows, columns, rowStep, columnStep } = plane;
  let to = 0;
  for (let row = 0; row < rows; row += 1) {
    let from = plane.base + row * rowStep;
    for (let column = 0; column < columns; column += 1, from += columnStep) {
      pixels[to] = 0xff000000 | (table[voxels[from] + 32768] * 0x010101);
      to += 1;
    }
  }
}

/** Return the windows that fit a modality: [{name, window: [low, high]}, ...]. */
export function presets(volume) {
  if (volume.header.modality === "CT") {
    const known = [
      ["Soft tissue", 400, 40],
      ["Lung", 1500, -600],
      ["Liver", 150, 90],
      ["Bone", 2500, 480],
      ["Brain", 80, 40],
    ];
    return known.map(([name, width, level]) => ({
      name,
      window: [level - width / 2, level + width / 2],
    }));
  }
  const [low, high] = volume.header.percentiles;
  const between = (a, b) => widened(volume.percentile(a), volume.percentile(b));
  return [
    { name: "1–99 %", window: widened(low, high) },
    { name: "5–95 %", window: between(0.05, 0.95) },
    { name: "Full range", window: between(0, 1) },
    { name: "Bright half", window: between(0.5, 0.999) },
  ];
}

function widened(low, high) {
  return [low, high > low ? high : low + 1];
}

function histogram(voxels) {
  const counts = new Uint32Array(GREY_LEVELS);
  for (let i = 0; i < voxels.length; i += 1) counts[voxels[i] + 32768] += 1;
  return counts;
}

function parseHeader(bytes) {
  if (bytes.length < 4) return null;
  const end = 4 + new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  if (bytes.length < end) return null;
  return { header: JSON.parse(new TextDecoder().decode(bytes.subarray(4, end))), end };
}

function joined(first, second) {
  const all = new Uint8Array(first.length + second.length);
  all.set(first);
  all.set(second, first.length);
  return all;
}
