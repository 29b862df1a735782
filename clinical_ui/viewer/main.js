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
const REMOUNT_MS = 1000; // a mount that goes and comes again within it was never left
const volumes = new Map(); // token -> Promise<Volume>, the last ones
const waiting = new Map(); // token -> [resolve, ...]
let shown = null; // {page, place}: a screen has one viewer

/** Take in the image, and open the doorway for the viewer's mount. */
export default function mountVolume({ data, parentElement }) {
  hide(parentElement);
  const room = (globalThis[Symbol.for("fedgtv.viewer")] ??= { mount: null, waiting: [] });
  room.mount ??= mountViewer;
  for (const enter of room.waiting.splice(0)) enter();
  takeVolume(data).catch((error) => console.error("fedgtv viewer:", error.message));
}

function mountViewer({ data, parentElement, setTriggerValue }) {
  if (shown?.place !== parentElement) {
    if (shown && isSameWork(shown.page, data)) moveTo(parentElement);
    else build(parentElement);
    dress(parentElement.getRootNode());
  }
  const { page } = shown;
  page.viewer.send = setTriggerValue; // a new one with every update
  if (data) takeData(page, data);
  return () => {
    if (shown?.place === parentElement) rest(); // else the viewer is in another place by now
  };
}

function build(place) {
  takeDown();
  shown = { page: new Interface(place), place };
}

// Streamlit may mount a viewer anew while somebody draws, as where a slow page was drawn again:
// its drawing, what can be undone and its sitting go on.
function moveTo(place) {
  clearTimeout(shown.timer);
  shown = { page: shown.page, place };
  shown.page.attach(place);
  if (shown.page.viewer.data.testing) exposeTestHook(shown.page);
}

function rest() {
  shown.page.detach();
  removeTestHook();
  shown = { page: shown.page, place: null, timer: setTimeout(takeDown, REMOUNT_MS) };
}

function takeDown() {
  clearTimeout(shown?.timer);
  shown?.page.remove();
  shown = null;
}

function isSameWork(page, data) {
  const open = page.viewer.data;
  return Boolean(data && open) && open.epoch === data.epoch && open.volume === data.volume;
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
