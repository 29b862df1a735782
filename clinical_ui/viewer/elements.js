/** Small ways to make elements: buttons with icons, labels and hotkeys in their tooltip. */

import { bandFill } from "./band.js";

const PATHS = {
  navigate: "M12 3v18M3 12h18M12 7a5 5 0 1 0 0 10a5 5 0 0 0 0-10",
  margin: "M12 4c5 0 8 3 8 8s-3 8-8 8-8-3-8-8 3-8 8-8M12 7v.01M17 12v.01M12 17v.01M7 12v.01",
  foreground: "M12 4a8 8 0 1 0 0 16a8 8 0 0 0 0-16M12 9v6M9 12h6",
  background: "M5 5h14v14H5zM9 12h6",
  brush: "M20 4L10 14M9 13c-3 0-4 2-4 4 0 1-1 2-2 2 2 2 9 2 9-3 0-2-1-3-3-3",
  brush3d: "M12 3l8 4.5v9L12 21l-8-4.5v-9zM4 7.5l8 4.5 8-4.5M12 12v9",
  lasso: "M12 4c5 0 9 2 9 5.5s-4 5.5-9 5.5-9-2-9-5.5S7 4 12 4M8 14c-3 2 2 3 0 6",
  fill: "M5 12l7-7 7 7-7 7zM5 12h14M20 16c1 2 2 3 0 4-2-1-1-2 0-4",
  inside: "M3 14c3-8 6 6 9-1s5-4 8-6M18 17v4M16 19h4",
  outside: "M3 14c3-8 6 6 9-1s5-4 8-6M16 19h5",
  eraser: "M8 19l-5-5L13 4l7 7-8 8zM8 9l7 7M12 19h8",
  undo: "M8 5L4 9l4 4M4 9h10a5 5 0 0 1 0 10h-3",
  redo: "M16 5l4 4-4 4M20 9H10a5 5 0 0 0 0 10h3",
  interpolate: "M6 4h12M4 20h16M8 9h8M7 14.5h10",
  clear: "M5 7h14M9 7V4h6v3M7 7l1 13h8l1-13M10 11v6M14 11v6",
  crosshair: "M12 3v6M12 15v6M3 12h6M15 12h6",
  fit: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  help: "M9 9a3 3 0 1 1 4 3c-1 .5-1 1-1 2M12 17.5v.01M12 3a9 9 0 1 0 0 18a9 9 0 0 0 0-18",
  pause: "M8 5v14M16 5v14",
  play: "M7 5l12 7-12 7z",
  large: "M14 4h6v6M20 4l-7 7M10 20H4v-6M4 20l7-7",
  previous: "M14 6l-6 6 6 6",
  next: "M10 6l6 6-6 6",
  check: "M5 12l5 5 9-10",
  change: "M4 18l5-6 4 3 7-9M15 6h5v5",
};

/** Make an element; properties go where they belong, children may be strings. */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children);
  return element;
}

/** Make an icon. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** Make a button with an icon; its name and hotkey are its tooltip, its name its label. */
export function iconButton(name, label, hotkey, onclick) {
  const title = hotkey ? `${label} (${hotkey})` : label;
  const properties = { type: "button", class: "icon", title, "aria-label": label, onclick };
  const button = el("button", properties);
  if (hotkey) button.setAttribute("aria-keyshortcuts", hotkey.replace("Ctrl", "Control"));
  button.append(icon(name));
  return button;
}

/** Make a button with words. */
export function textButton(label, title, onclick, extra = "") {
  return el("button", { type: "button", class: `words ${extra}`, title, onclick }, label);
}

/** Make a short piece of a contour's line, or of a scribble. */
export function layerSample(layer) {
  const { dash, band } = layer;
  const [red, green, blue] = layer.colour;
  const canvas = el("canvas", { class: "sample", width: 56, height: 16, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  if (band) {
    context.fillStyle = bandFill(context, layer);
    context.fillRect(0, 2, 56, 12);
    return canvas;
  }
  context.strokeStyle = `rgb(${red}, ${green}, ${blue})`;
  context.lineWidth = 4;
  context.setLineDash(dash);
  context.beginPath();
  context.moveTo(2, 8);
  context.lineTo(54, 8);
  context.stroke();
  return canvas;
}

/** Set text only where it changed: screen readers and layout are left in peace. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
