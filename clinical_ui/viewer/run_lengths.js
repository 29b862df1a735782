/**
 * Masks as run lengths: counts of equal voxels, by turns, starting with those outside (may be 0).
 *
 * On the wire: uint32 little-endian counts, gzip, base64. In sessionStorage they are not zipped,
 * because zipping is asynchronous and a page that is being left waits for nothing.
 */

/** Return the counts (Uint32Array) of a mask. `filled[z]` tells which slices are worth a look. */
export function encodeRuns(voxels, filled = null) {
  const slices = filled ? filled.length : 1;
  const size = slices ? voxels.length / slices : 0;
  const counts = [];
  let value = 0;
  let length = 0;
  for (let z = 0; z < slices; z += 1) {
    const end = (z + 1) * size;
    if (filled && !filled[z]) {
      if (value) {
        counts.push(length);
        value = 0;
        length = 0;
      }
      length += size;
      continue;
    }
    let from = z * size;
    while (from < end) {
      let to = voxels.indexOf(value ? 0 : 1, from); // native, so much faster than a loop
      if (to < 0 || to > end) to = end;
      length += to - from;
      if (to < end) {
        counts.push(length);
        value = 1 - value;
        length = 0;
      }
      from = to;
    }
  }
  counts.push(length);
  return Uint32Array.from(counts);
}

/** Return the mask (Uint8Array of 0 and 1) of counts; throws where they do not fill `total`. */
export function decodeRuns(counts, total) {
  const voxels = new Uint8Array(total);
  let at = 0;
  for (let i = 0; i < counts.length; i += 1) {
    const end = at + counts[i];
    if (end > total) throw new Error("run lengths are longer than the volume");
    if (i % 2) voxels.fill(1, at, end);
    at = end;
  }
  if (at !== total) throw new Error("run lengths are shorter than the volume");
  return voxels;
}

/** Return counts as base64 of their bytes. */
export function toText(counts) {
  return base64(new Uint8Array(counts.buffer, counts.byteOffset, counts.byteLength));
}

/** Return the counts that `toText` wrote. */
export function fromText(text) {
  return new Uint32Array(bytesOf(text).buffer);
}

/** Return counts as they travel. */
export async function packRuns(counts) {
  const bytes = new Uint8Array(counts.buffer, counts.byteOffset, counts.byteLength);
  return base64(await pipe(bytes, new CompressionStream("gzip")));
}

/** Return the counts that travelled. */
export async function unpackRuns(text) {
  const bytes = await pipe(bytesOf(text), new DecompressionStream("gzip"));
  return new Uint32Array(bytes.buffer, 0, bytes.byteLength / 4);
}

async function pipe(bytes, stream) {
  const answer = new Response(new Blob([bytes]).stream().pipeThrough(stream));
  return new Uint8Array(await answer.arrayBuffer());
}

function base64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  }
  return btoa(text);
}

function bytesOf(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}
