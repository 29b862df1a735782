/** The whole of what is seen: three planes, with tools, panel, status line and help around. */

import { Tools } from "./bar.js";
import { el, iconButton, setText } from "./elements.js";
import { buildHelp } from "./help.js";
import { attachKeys } from "./keys.js";
import { Panel, shortNumber } from "./panel.js";
import { attachPointer } from "./pointer.js";
import { View } from "./view.js";
import { Viewer } from "./viewer.js";

const SMALLEST_HEIGHT_PX = 430;
const ROOM_BELOW_PX = 10;
const HINT_MS = 5000;

/** Builds the page of one viewer and keeps it true to the viewer's state. */
export class Interface {
  /** @param place the element to build in (a shadow root or an element) */
  constructor(place) {
    this.viewer = new Viewer({ refresh: () => this.refresh(), say: (text) => this.say(text) });
    this._dirty = new Set();
    this._frame = 0;
    this._large = 0;
    this._alone = false;
    this.root = this._build();
    place.append(this.root);
    this.views = this._canvases.map((canvas, number) => new View(this.viewer, canvas, number));
    this.viewer.largeView = this.views[0];
    for (const view of this.views) {
      attachPointer(this.viewer, view, { redraw: (one) => this._redraw(one) });
    }
    attachKeys(this.viewer, this.root, this);
    this._listen();
  }

  /** Show what the viewer holds, with the next frame. */
  refresh() {
    for (const view of this.views) this._dirty.add(view);
    this._whole = true;
    this._redraw(null);
  }

  /** Build what depends on the case: called when one was opened. */
  opened() {
    this.panel.opened();
    for (const view of this.views) view.fit();
    this._cover.hidden = true;
    // From the button that opened it, too: its keys would go to Streamlit; not from who is typing.
    if (!document.activeElement?.matches("input, select, textarea, [contenteditable]")) {
      this.focusLarge();
    }
    this.refresh();
  }

  /** Say in place of the image what is being waited for, or what went wrong. */
  cover(text) {
    setText(this._cover, text);
    this._cover.hidden = false;
  }

  /** Say something for a few seconds. */
  say(text) {
    setText(this._hint, text);
    this._hint.classList.toggle("shown", Boolean(text));
    clearTimeout(this._hintTimer);
    if (text) this._hintTimer = setTimeout(() => this.say(""), HINT_MS);
  }

  openHelp() {
    this._help.hidden = false;
    this._help.querySelector("button").focus();
  }

  closeHelp() {
    if (this._help.hidden) return false;
    this._help.hidden = true;
    this.focusLarge();
    return true;
  }

  helpIsOpen() {
    return !this._help.hidden;
  }

  /** Show a plane large, or the next one. */
  nextLarge(number = (this._large + 1) % 3) {
    this._large = number;
    this.viewer.largeView = this.views[number];
    this._arrange();
  }

  /** Show the large plane alone, or all three. */
  toggleAlone() {
    this._alone = !this._alone;
    this._arrange();
  }

  /** Show all of the image in every plane. */
  fit() {
    for (const view of this.views) view.fit();
    this.refresh();
  }

  /** Let keys act on the large plane. */
  focusLarge() {
    this._canvases[this._large].focus({ preventScroll: true });
  }

  /** Leave the page for a moment, with the work written down. */
  detach() {
    this.viewer.keepAll();
    this.viewer.clock?.block("detached");
    this.viewer.send = () => {}; // nobody would hear it
    this._sizes.disconnect();
    this.root.remove();
  }

  /** Go on in another place of the page. */
  attach(place) {
    place.append(this.root);
    this._observe();
    this.viewer.clock?.unblock("detached");
    this._resize();
  }

  /** Take everything down. */
  remove() {
    this.viewer.leave();
    this._leaving.abort();
    this._sizes.disconnect();
    clearInterval(this._seconds);
    clearTimeout(this._hintTimer);
    cancelAnimationFrame(this._frame);
    this.root.remove();
  }

  // -- building ---------------------------------------------------------------------------------

  _build() {
    const { viewer } = this;
    this._canvases = [0, 1, 2].map(() =>
      el("canvas", { tabindex: 0, role: "img", "aria-label": "Image" }),
    );
    this._captions = [0, 1, 2].map(() => el("span", { class: "caption" }));
    this._frames = [0, 1, 2].map((number) => {
      const large = iconButton("large", "Show this plane large", "X", () =>
        number === this._large ? this.toggleAlone() : this.nextLarge(number),
      );
      const head = el("div", { class: "head" }, this._captions[number], large);
      head.addEventListener("dblclick", () => this.nextLarge(number));
      return el("div", { class: "plane" }, this._canvases[number], head);
    });
    this._cover = el("div", { class: "cover", role: "status", text: "Reading the case" });
    this._planes = el("div", { class: "planes" }, ...this._frames, this._cover);
    this.tools = new Tools(viewer, this);
    this.panel = new Panel(viewer, this);
    this._hint = el("div", { class: "hint", role: "status", "aria-live": "polite" });
    this._place = el("span", { class: "place" });
    this._grey = el("span", { class: "place" });
    const research = el("span", { class: "research", text: "Research use only" });
    const status = el("div", { class: "status" }, this._place, this._grey, this._hint, research);
    this._help = buildHelp(() => this.closeHelp());
    const root = el(
      "section",
      { class: "viewer", "aria-label": "Contour viewer" },
      this.tools.bar,
      this.tools.palette,
      this._planes,
      this.panel.root,
      status,
      this._help,
    );
    return root;
  }

  _listen() {
    this._leaving = new AbortController();
    const { signal } = this._leaving;
    const { viewer } = this;
    let pointerAt = "";
    const alive = (event) => {
      if (event.type === "pointermove") {
        // A browser may say that the pointer moved when the page moved below a hand at rest.
        const place = `${event.screenX} ${event.screenY}`;
        if (place === pointerAt) return;
        pointerAt = place;
      }
      viewer.clock?.activity();
    };
    for (const event of ["pointermove", "pointerdown", "keydown", "wheel"]) {
      addEventListener(event, alive, { capture: true, passive: true, signal });
    }
    addEventListener(
      "pointerdown",
      (event) => {
        if (!event.composedPath().includes(this.root)) viewer.flush();
      },
      { capture: true, signal },
    );
    document.addEventListener(
      "visibilitychange",
      () => viewer.away("hidden", document.hidden),
      { signal },
    );
    addEventListener("blur", () => viewer.away("blurred", true), { signal });
    addEventListener("focus", () => viewer.away("blurred", false), { signal });
    addEventListener("pagehide", () => viewer.keepAll(), { signal });
    addEventListener(
      "beforeunload",
      (event) => {
        if (viewer.mode !== "view" && viewer.courier?.isUnsent) event.preventDefault();
      },
      { signal },
    );
    addEventListener("resize", () => this._resize(), { signal });
    this._sizes = new ResizeObserver(() => this._resize());
    this._observe();
    this._seconds = setInterval(() => {
      viewer.tick();
      this.panel.showTime();
      this._resize();
    }, 1000);
  }

  _observe() {
    this._sizes.observe(this.root.parentElement ?? this.root.getRootNode().host);
    this._sizes.observe(this._planes);
  }

  // -- showing ----------------------------------------------------------------------------------

  // As high as the window has room below what the page shows above.
  _resize() {
    const top = this.root.getBoundingClientRect().top + scrollTop(this.root);
    const height = Math.max(SMALLEST_HEIGHT_PX, Math.floor(innerHeight - top - ROOM_BELOW_PX));
    const wanted = `${height}px`;
    if (this.root.style.height !== wanted) this.root.style.height = wanted;
    const sizes = this._canvases.map((one) => `${one.clientWidth}x${one.clientHeight}`).join();
    if (sizes !== this._sizesShown) {
      this._sizesShown = sizes;
      for (const view of this.views) view.resize();
      this.refresh();
    }
  }

  _arrange() {
    this._frames.forEach((frame, number) => {
      frame.classList.toggle("large", number === this._large);
    });
    this._planes.classList.toggle("alone", this._alone);
    this._sizesShown = "";
    this._resize();
  }

  _redraw(view) {
    if (view) this._dirty.add(view);
    this._frame ||= requestAnimationFrame(() => {
      this._frame = 0;
      const began = performance.now();
      if (this._whole) this._showAll();
      this._whole = false;
      if (this.viewer.masks) {
        for (const one of this._dirty) one.draw();
        this._showPlace();
      }
      this._dirty.clear();
      this.frameMs = performance.now() - began;
    });
  }

  _showAll() {
    const { viewer } = this;
    if (!viewer.data || !viewer.volume) return;
    if (!this._frames[this._large].classList.contains("large")) this._arrange();
    this.tools.show();
    this.panel.show();
    for (const view of this.views) this._describe(view);
  }

  _describe(view) {
    const { viewer } = this;
    const { spec } = view;
    const place = `${spec.plane} slice ${view.slice + 1} of ${view.slices}`;
    const asked = spec.axis === 0 && viewer.data.selected.find((one) => one.z === view.slice);
    const caption = this._captions[view.number];
    const saved = asked && asked.done; // only what is at the hospital is told on the picture
    const words = `${capital(spec.plane)} ${view.slice + 1} / ${view.slices}`;
    setText(caption, saved ? `${words} ✓ saved` : words);
    caption.classList.toggle("asked", Boolean(asked));
    caption.classList.toggle("saved", Boolean(saved));
    const drawn = viewer.shownLayers(view.plane).filter((one) => one.mask.isDrawn(spec.axis, view.slice));
    const names = drawn.map((one) => one.name).join(", ");
    const label = `${place}; contours: ${names || "none on this slice"}`;
    if (view.canvas.getAttribute("aria-label") !== label) {
      view.canvas.setAttribute("aria-label", label);
    }
  }

  _showPlace() {
    const { viewer } = this;
    const voxel = viewer.hover?.voxel ?? viewer.cursor;
    const mm = voxel.map((n, axis) => (n * viewer.volume.spacing[axis]).toFixed(1));
    setText(this._place, `x ${mm[2]}  y ${mm[1]}  z ${mm[0]} mm`);
    const unit = viewer.volume.header.modality === "CT" ? "HU " : "grey ";
    setText(this._grey, unit + shortNumber(viewer.volume.grey(voxel)));
  }
}

function scrollTop(element) {
  let scrolled = 0;
  let at = element.getRootNode().host ?? element;
  for (at = at.parentElement; at; at = at.parentElement) scrolled += at.scrollTop;
  return scrolled;
}

function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}
