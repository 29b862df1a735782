/** How a scribble is painted: a translucent band, even while it is drawn, striped once saved. */

const LIGHT = 0.45;

/**
 * Return what to fill a band with.
 *
 * @param layer {colour, dash}: its dash is its stripes, lengths in px; empty for an even band
 * @param scale CSS px per unit of the context
 */
export function bandFill(context, { colour: [red, green, blue], dash }, scale = 1) {
  const light = `rgba(${red}, ${green}, ${blue}, ${LIGHT})`;
  if (!dash.length) return light;
  const [on, off] = dash;
  const tile = new OffscreenCanvas(on + off, 1);
  const ink = tile.getContext("2d");
  ink.fillStyle = light;
  ink.fillRect(0, 0, on + off, 1);
  ink.fillRect(0, 0, on, 1); // twice as strong
  const stripes = context.createPattern(tile, "repeat");
  stripes.setTransform(new DOMMatrix().rotate(45).scale(1 / scale));
  return stripes;
}
