/**
 * What Streamlit calls: once for each mount and again with each new data.
 *
 * There are two mounts on a page. One brings the image as bytes and this code, outside the
 * fragment, so that both are sent once; the other is the viewer, which comes in through
 * `doorway.js`. They meet in `volumes`.
 */

import { Interface } from "./interface.js";
import { exposeTestHook, removeTestHook } from "./test_hook.js";
import { readVolume } from "./volume.js";

const VOLUMES_KEPT = 2;
const volumes = new Map(); // token -> Promise<Volume>, the last ones
const waiting = new Map(); // token -> [resolve, ...]
const pages = new WeakMap(); // parent element -> Interface

/** Take in the image, and open the doorway for the viewer's mount. */
export default function mountVolume({ data, parentElement }) {
  hide(parentElement);
  const room = (globalThis[Symbol.for("fedgtv.viewer")] ??= { mount: null, waiting: [] });
  room.mount ??= mountViewer;
  for (const enter of room.waiting.splice(0)) enter();
  takeVolume(data).catch((error) => console.error("fedgtv viewer:", error.message));
}

function mountViewer({ data, parentElement, setTriggerValue }) {
  let page = pages.get(parentElement);
  if (!page) {
    page = new Interface(parentElement);
    dress(parentElement.getRootNode());
    pages.set(parentElement, page);
  }
  page.viewer.send = setTriggerValue; // a new one with every update
  if (data) takeData(page, data);
  return () => {
    pages.get(parentElement)?.remove();
    pages.delete(parentElement);
    removeTestHook();
  };
}

// Updates are taken in one after the other: each may have to wait for something to be unpacked.
function takeData(page, data) {
  page.turn = (page.turn ?? Promise.resolve()).then(() =>
    takeOne(page, data).catch((error) => {
      page.cover("The case cannot be shown. Reload the page, or tell hospital IT.");
      console.error("fedgtv viewer:", error.message);
    }),
  );
}

async function takeOne(page, data) {
  const { viewer } = page;
  if (!viewer.isNews(data)) {
    await viewer.update(data);
    return;
  }
  const began = performance.now();
  const sameImage = viewer.volume?.header.token === data.volume;
  if (!sameImage) page.cover("Reading the image …");
  const volume = await volumeOf(data.volume);
  if (await viewer.open(data, volume)) {
    page.opened();
    page.openMs = performance.now() - began;
    if (data.testing) exposeTestHook(page);
  }
}

function volumeOf(token) {
  const known = volumes.get(token);
  if (known) return known;
  return new Promise((resolve) => {
    waiting.set(token, [...(waiting.get(token) ?? []), resolve]);
  });
}

async function takeVolume(bytes) {
  const volume = await readVolume(bytes, (token) => volumes.has(token));
  if (!volume) return;
  const { token } = volume.header;
  volumes.set(token, volume);
  while (volumes.size > VOLUMES_KEPT) volumes.delete(volumes.keys().next().value);
  for (const resolve of waiting.get(token) ?? []) resolve(volume);
  waiting.delete(token);
}

// A sheet made by script needs no exception in a content security policy.
function dress(root) {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(STYLE); // `assets.py` puts it into the script
  root.adoptedStyleSheets = [...root.adoptedStyleSheets, sheet];
}

// The mount that brings the image has nothing to show, and should take no room on the page.
function hide(parentElement) {
  const host = parentElement.host ?? parentElement;
  const container = host.closest?.("[data-testid=stElementContainer]") ?? host;
  container.style.display = "none";
}
