/**
 * What Streamlit calls: once for each mount of the component and again with each new data.
 *
 * The component is mounted twice on a page. One mount brings the image as bytes, outside the
 * fragment, so that it is sent once; the other is the viewer. They meet in `volumes`.
 */

import { Interface } from "./interface.js";
import { exposeTestHook } from "./test_hook.js";
import { readVolume } from "./volume.js";

const VOLUMES_KEPT = 2;
const volumes = new Map(); // token -> Promise<Volume>, the last ones
const waiting = new Map(); // token -> [resolve, ...]
const pages = new WeakMap(); // parent element -> Interface

/** Take a mount's data in; returns what cleans up when the mount goes away. */
export default function mount({ data, parentElement, setTriggerValue }) {
  if (data instanceof Uint8Array || data instanceof ArrayBuffer) {
    hide(parentElement);
    takeVolume(data).catch((error) => console.error("fedgtv viewer:", error.message));
    return undefined;
  }
  let page = pages.get(parentElement);
  if (!page) {
    page = new Interface(parentElement);
    pages.set(parentElement, page);
  }
  page.viewer.send = setTriggerValue; // a new one with every update
  if (data) takeData(page, data);
  return () => {
    pages.get(parentElement)?.remove();
    pages.delete(parentElement);
  };
}

// Updates are taken in one after the other: each may have to wait for something to be unpacked.
function takeData(page, data) {
  page.turn = (page.turn ?? Promise.resolve()).then(() =>
    takeOne(page, data).catch((error) => {
      page.cover("The case cannot be shown. Reload the page; tell hospital IT if that does not help.");
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
    page.opened(sameImage);
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

// The mount that brings the image has nothing to show, and should take no room on the page.
function hide(parentElement) {
  const host = parentElement.host ?? parentElement;
  const container = host.closest?.("[data-testid=stElementContainer]") ?? host;
  container.style.display = "none";
}
