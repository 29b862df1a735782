/** The page around the planes: palette, bar, panel, status line and help. */

import { el, icon, iconButton, lineSample, setText, textButton } from "./elements.js";
import { ACTIONS, attachKeys, HELP, unlocked } from "./keys.js";
import { attachPointer } from "./pointer.js";
import { toolsOf } from "./tools.js";
import { View } from "./view.js";
import { Viewer } from "./viewer.js";
import { presets } from "./volume.js";

const SMALLEST_HEIGHT_PX = 430;
const ROOM_BELOW_PX = 10;
const HINT_MS = 5000;
const TOOL_HINTS = {
  navigate: "Click to move the crosshair. The wheel changes the slice.",
  margin: "Click a few points just inside the tumour's edge, then press Contour.",
  foreground: "Click on tumour that the contour leaves out.",
  background: "Click on what the contour should leave out.",
  brush: "Paint. Hold Ctrl to erase.",
  brush3d: "Paint a ball through several slices. Hold Ctrl to erase.",
  lasso: "Draw around what belongs to the tumour. Hold Ctrl to cut it away.",
  fill: "Click into a closed outline to fill it. Ctrl+click removes a region.",
  inside: "Mark some of the tumour with a few strokes.",
  outside: "Mark some of what is not tumour.",
  eraser: "Rub out.",
};

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
    this._list(this._presets, this._presetChoices());
    for (const view of this.views) view.fit();
    setText(this._title, this.viewer.data.title);
    this._cover.hidden = true;
    this._modeShown = null;
    if (document.activeElement === document.body) {
      this._canvases[this._large].focus({ preventScroll: true });
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
    this._canvases[this._large].focus({ preventScroll: true });
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
    this._palette = el("div", {
      class: "palette",
      role: "toolbar",
      "aria-label": "Tools",
      "aria-orientation": "vertical",
    });
    this._hint = el("div", { class: "hint", role: "status", "aria-live": "polite" });
    this._place = el("span", { class: "place" });
    this._grey = el("span", { class: "place" });
    const research = el("span", { class: "research", text: "Research use only" });
    const status = el("div", { class: "status" }, this._place, this._grey, this._hint, research);
    this._help = this._buildHelp();
    const root = el(
      "section",
      { class: "viewer", "aria-label": "Contour viewer" },
      this._buildBar(),
      this._palette,
      this._planes,
      this._buildPanel(viewer),
      status,
      this._help,
    );
    return root;
  }

  _buildBar() {
    const { viewer } = this;
    this._undo = iconButton("undo", "Undo", "Ctrl+Z", () => viewer.undo());
    this._redo = iconButton("redo", "Redo", "Ctrl+Y", () => viewer.redo());
    this._toolName = el("b");
    this._toolHint = el("span", { class: "toolhint" });
    this._radius = el("input", {
      type: "range",
      min: 0,
      max: 100,
      "aria-label": "Brush radius in mm",
      oninput: (event) => viewer.setRadius(0.5 * 100 ** (event.target.value / 100)),
    });
    this._radiusText = el("span", { class: "number" });
    const title = "Brush radius ([ and ], Shift+wheel)";
    this._brushPart = el("label", { class: "brush", title }, "Radius", this._radius);
    this._brushPart.append(this._radiusText);
    const edit = (action) => () => unlocked(viewer, () => ACTIONS[action](viewer));
    this._segment = textButton(
      "Contour",
      "Contour from the margin points (Enter)",
      edit("segment"),
      "main",
    );
    this._between = iconButton(
      "interpolate",
      "Interpolate between drawn slices",
      "I",
      edit("fillBetween"),
    );
    this._clear = iconButton("clear", "Clear this slice", "", edit("clearSlice"));
    this._crosshair = iconButton("crosshair", "Crosshair", "", () => {
      viewer.crosshairShown = !viewer.crosshairShown;
      this.refresh();
    });
    const fit = iconButton("fit", "Fit the image", "R", () => this.fit());
    const help = iconButton("help", "Help", "?", () => this.openHelp());
    this._editPart = el("div", { class: "group" }, this._undo, this._redo);
    this._slicePart = el("div", { class: "group" }, this._between, this._clear);
    return el(
      "div",
      { class: "bar" },
      this._editPart,
      this._slicePart,
      el("div", { class: "tool" }, this._toolName, this._toolHint),
      this._brushPart,
      this._segment,
      el("div", { class: "group" }, this._crosshair, fit, help),
    );
  }

  _buildPanel(viewer) {
    this._title = el("h2", { class: "title" });
    this._time = el("output", { class: "time", "aria-label": "Active time" });
    this._pause = el("button", {
      type: "button",
      class: "words",
      onclick: () => viewer.togglePause(),
    });
    this._state = el("div", { class: "state", role: "status" });
    this._timePart = el("div", { class: "row" }, this._time, this._pause);
    this._asked = el("ul", { class: "slices", "aria-label": "Slices asked for" });
    this._doneButton = textButton("Slice done", "This slice is done (D)", () => viewer.toggleDone());
    this._askedPart = el(
      "div",
      { class: "part" },
      el(
        "div",
        { class: "row" },
        el("h3", { text: "Slices" }),
        iconButton("previous", "Previous slice asked for", "P", () => viewer.nextAsked(-1)),
        iconButton("next", "Next slice asked for", "N", () => viewer.nextAsked(1)),
        this._doneButton,
      ),
      this._asked,
    );
    this._layers = el("div", { class: "layers" });
    this._change = textButton("Largest change", "Slice with the largest change (J)", () =>
      viewer.jumpToChange(),
    );
    this._presets = el("select", {
      "aria-label": "Window preset",
      onchange: (event) => {
        const preset = this._windows[event.target.value];
        if (preset) viewer.setWindow(...preset.window);
      },
    });
    this._window = el("span", { class: "number" });
    this._save = textButton("Save", "Store the contour", () => viewer.save(this._verdict()), "main");
    return el(
      "div",
      { class: "panel" },
      this._title,
      this._timePart,
      this._state,
      this._askedPart,
      el(
        "div",
        { class: "part" },
        el("div", { class: "row" }, el("h3", { text: "Contours" }), this._change),
        this._layers,
      ),
      el(
        "div",
        { class: "part" },
        el("h3", { text: "Window" }),
        el("div", { class: "row" }, this._presets, this._window),
      ),
      el("div", { class: "spring" }),
      this._buildVerdict(viewer),
      this._save,
    );
  }

  _buildVerdict(viewer) {
    this._likert = el("select", { "aria-label": "Score of the model's contour, if you like" });
    this._reason = el("select", { "aria-label": "Reason to reject", onchange: () => this.refresh() });
    this._reject = textButton("Reject", "Keep nothing of the model's contour", () =>
      viewer.save({ ...this._verdict(), verdict: "reject", reason: this._reason.value }),
    );
    this._verdictPart = el(
      "div",
      { class: "part" },
      el("h3", { text: "Verdict" }),
      el("div", { class: "row" }, this._likert),
      el("div", { class: "row" }, this._reason, this._reject),
    );
    return this._verdictPart;
  }

  _verdict() {
    const score = Number(this._likert.value);
    return { verdict: "accept", likert: score || null, reason: "" };
  }

  _showVerdict() {
    const form = this.viewer.data.verdict;
    this._verdictPart.hidden = !form || this.viewer.mode === "view";
    if (!form) return;
    const shown = JSON.stringify(form);
    if (shown !== this._verdictShown) {
      this._verdictShown = shown;
      const choices = (rows) => rows.map(([value, text]) => el("option", { value, text }));
      this._list(this._likert, choices([["", "Score (optional)"], ...form.scores]));
      this._list(this._reason, choices([["", "Reason to reject"], ...form.reasons]));
    }
    this._reject.disabled = Boolean(this.viewer.lock) || !this._reason.value;
  }

  _buildHelp() {
    const groups = Map.groupBy ? Map.groupBy(HELP, ([group]) => group) : grouped(HELP);
    const parts = [...groups].map(([group, rows]) => {
      const lines = rows.map(([, keys, text]) =>
        el("div", {}, el("dt", { text: keys }), el("dd", { text })),
      );
      return el("div", {}, el("h3", { text: group }), el("dl", {}, ...lines));
    });
    const close = textButton("Close (Esc)", "Close the help", () => this.closeHelp());
    const box = el("div", { class: "box" }, ...parts);
    return el(
      "div",
      { class: "help", role: "dialog", "aria-modal": true, "aria-label": "Keys", hidden: true },
      el("div", { class: "sheet" }, box, close),
    );
  }

  _listen() {
    this._leaving = new AbortController();
    const { signal } = this._leaving;
    const { viewer } = this;
    const alive = () => viewer.clock?.activity();
    for (const event of ["pointermove", "pointerdown", "keydown", "wheel"]) {
      addEventListener(event, alive, { capture: true, passive: true, signal });
    }
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
        if (viewer.courier?.isUnsent) event.preventDefault();
      },
      { signal },
    );
    addEventListener("resize", () => this._resize(), { signal });
    this._sizes = new ResizeObserver(() => this._resize());
    this._sizes.observe(this.root.parentElement ?? this.root.getRootNode().host);
    this._sizes.observe(this._planes);
    this._seconds = setInterval(() => {
      viewer.tick();
      this._showTime();
      this._resize();
    }, 1000);
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
    this._showTools();
    this._showState();
    this._showTime();
    this._showAsked();
    this._showLayers();
    const [low, high] = viewer.window;
    setText(this._window, `W ${show(high - low)} L ${show((low + high) / 2)}`);
    const chosen = this._windows.findIndex(({ window }) => window[0] === low && window[1] === high);
    this._presets.value = chosen < 0 ? "" : String(chosen);
    this._crosshair.setAttribute("aria-pressed", viewer.crosshairShown);
    for (const view of this.views) this._describe(view);
  }

  _showTools() {
    const { viewer } = this;
    const modeKey = `${viewer.mode}|${viewer.prompts}`;
    if (modeKey !== this._modeShown) {
      this._modeShown = modeKey;
      this._palette.replaceChildren(
        ...toolsOf(viewer.mode, viewer.prompts).map((tool) => {
          const button = iconButton(tool.key, tool.name, tool.hotkey, () => {
            viewer.setTool(tool.key);
            this._canvases[this._large].focus({ preventScroll: true });
          });
          button.dataset.tool = tool.key;
          return button;
        }),
      );
    }
    const locked = Boolean(viewer.lock);
    for (const button of this._palette.children) {
      button.setAttribute("aria-pressed", button.dataset.tool === viewer.tool);
      button.disabled = locked && button.dataset.tool !== "navigate";
    }
    const editing = viewer.mode !== "view";
    const tool = toolsOf(viewer.mode, viewer.prompts).find((one) => one.key === viewer.tool);
    setText(this._toolName, tool?.name ?? "");
    setText(this._toolHint, TOOL_HINTS[viewer.tool] ?? "");
    this._brushPart.hidden = !tool?.brush;
    this._radius.value = String(Math.round((Math.log(viewer.radiusMm / 0.5) / Math.log(100)) * 100));
    setText(this._radiusText, `${viewer.radiusMm.toFixed(1)} mm`);
    this._segment.hidden = viewer.tool !== "margin";
    this._segment.disabled = locked;
    this._editPart.hidden = !editing;
    this._slicePart.hidden = !editing;
    this._between.hidden = viewer.mode !== "contour";
    this._undo.disabled = locked || !viewer.history.done.length;
    this._redo.disabled = locked || !viewer.history.undone.length;
    this._between.disabled = locked;
    this._clear.disabled = locked;
  }

  _showState() {
    const { viewer } = this;
    const { courier } = viewer;
    const editing = viewer.mode !== "view";
    this._timePart.hidden = !editing;
    this._save.hidden = !editing;
    const count = viewer.done.size;
    const asked = viewer.data.selected.length;
    this._save.disabled = Boolean(viewer.lock) || (asked > 0 && count === 0);
    setText(this._save, this._saveLabel(asked, count));
    this._showVerdict();
    let [text, kind] = ["Stored", "good"];
    if (!editing) [text, kind] = ["Read-only", "calm"];
    else if (courier.trouble) [text, kind] = [courier.trouble, "bad"];
    else if (courier.isPrompting) [text, kind] = ["The model is at work …", "busy"];
    else if (courier.isBusy) [text, kind] = ["Saving …", "busy"];
    else if (courier.isUnsent) [text, kind] = ["Draft not stored yet", "wait"];
    else if (!courier.sequence) [text, kind] = ["No changes", "calm"];
    else text = "Draft stored";
    setText(this._state, text);
    this._state.dataset.kind = kind;
    this.root.dataset.busy = String(courier.isBusy);
  }

  _saveLabel(asked, count) {
    if (this.viewer.data.verdict) return this.viewer.isRevised ? "Save revision" : "Accept as it is";
    return asked ? `Save ${plural(count, "done slice")}` : "Save";
  }

  _showTime() {
    const { viewer } = this;
    if (!viewer.clock || viewer.mode === "view") return;
    const total = viewer.data.earlier_active_s + viewer.clock.activeMs() / 1000;
    const clock = `${Math.floor(total / 60)}:${String(Math.floor(total % 60)).padStart(2, "0")}`;
    let text = clock;
    if (viewer.paused) text += " paused";
    else if (!viewer.clock.isActive && viewer.clock.isRunning) text += " idle";
    setText(this._time, text);
    if (this._pausedShown !== viewer.paused) {
      this._pausedShown = viewer.paused;
      this._pause.replaceChildren(
        icon(viewer.paused ? "play" : "pause"),
        viewer.paused ? "Continue" : "Pause",
      );
      this.root.classList.toggle("paused", viewer.paused);
    }
  }

  _showAsked() {
    const { viewer } = this;
    const { selected } = viewer.data;
    this._askedPart.hidden = !selected.length;
    const rows = selected.map(({ z, label, done }) => {
      const marked = viewer.done.has(z);
      const drawn = viewer.masks.target.counts[z] > 0;
      let state = done ? "saved" : drawn ? "drawn" : "open";
      if (marked) state = drawn ? "done" : "done, no target";
      return { z, label, state, here: z === viewer.cursor[0] };
    });
    const key = JSON.stringify(rows);
    if (key !== this._askedShown) {
      this._askedShown = key;
      this._asked.replaceChildren(
        ...rows.map(({ z, label, state, here }) => {
          const button = el(
            "button",
            {
              type: "button",
              title: label,
              "aria-current": here && "true",
              onclick: () => viewer.jump(z),
            },
            el("b", { text: String(z + 1) }),
            el("span", { class: "label", text: label }),
            el("span", { class: "mark", "data-state": state, text: state }),
          );
          return el("li", {}, button);
        }),
      );
    }
    const here = rows.find((row) => row.here);
    this._doneButton.disabled = !here || viewer.mode === "view";
    this._doneButton.setAttribute("aria-pressed", viewer.done.has(viewer.cursor[0]));
  }

  _showLayers() {
    const { viewer } = this;
    const { compare } = viewer.data;
    const own = viewer.hasTarget ? [{ ...viewer.targetStyle, key: "target" }] : [];
    const rows = [...viewer.layers.map((one) => ({ ...one, mask: null })), ...own];
    const key = JSON.stringify([rows, compare]);
    if (key !== this._layersShown) {
      this._layersShown = key;
      const boxes = rows.map((layer) => {
        const box = el("input", { type: "checkbox", onchange: () => viewer.toggleLayer(layer.key) });
        box.dataset.layer = layer.key;
        const hotkey = layer.key === compare ? "C" : layer.key === "target" ? "H" : "";
        const amount = el("span", { class: "number" });
        const title = hotkey ? `${layer.name} (${hotkey})` : layer.name;
        const name = el("span", { class: "name", text: layer.name });
        return el("label", { title }, box, lineSample(layer.colour, layer.dash), name, amount);
      });
      if (compare && viewer.hasTarget) {
        const box = el("input", {
          type: "checkbox",
          onchange: () => {
            viewer.differenceShown = !viewer.differenceShown;
            this.refresh();
          },
        });
        boxes.push(
          el("label", {}, box, el("span", { class: "swatch" }), el("span", { text: "Difference" })),
        );
      }
      this._layers.replaceChildren(...boxes);
    }
    this._change.hidden = !compare || !viewer.hasTarget;
    for (const box of this._layers.querySelectorAll("[data-layer]")) {
      const { layer } = box.dataset;
      box.checked = viewer.isShown(layer);
      const mask =
        layer === "target"
          ? viewer.masks.target
          : viewer.layers.find((one) => one.key === layer)?.mask;
      setText(box.parentElement.querySelector(".number"), millilitres(mask, viewer.volume));
    }
  }

  _presetChoices() {
    const { viewer } = this;
    this._windows = [
      { name: "As opened", window: [...viewer.data.window] },
      ...presets(viewer.volume),
    ];
    return [
      el("option", { value: "", text: "By hand" }),
      ...this._windows.map(({ name }, i) => el("option", { value: i, text: name })),
    ];
  }

  _list(select, options) {
    select.replaceChildren(...options);
  }

  _describe(view) {
    const { viewer } = this;
    const { spec } = view;
    const place = `${spec.plane} slice ${view.slice + 1} of ${view.slices}`;
    const asked = spec.axis === 0 && viewer.data.selected.find((one) => one.z === view.slice);
    const caption = this._captions[view.number];
    setText(caption, `${capital(spec.plane)} ${view.slice + 1} / ${view.slices}`);
    caption.classList.toggle("asked", Boolean(asked));
    const drawn = viewer.shownLayers().filter((one) => one.mask.isDrawn(spec.axis, view.slice));
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
    setText(this._grey, unit + show(viewer.volume.grey(voxel)));
  }
}

function grouped(rows) {
  const groups = new Map();
  for (const row of rows) groups.set(row[0], [...(groups.get(row[0]) ?? []), row]);
  return groups;
}

function scrollTop(element) {
  let scrolled = 0;
  let at = element.getRootNode().host ?? element;
  for (at = at.parentElement; at; at = at.parentElement) scrolled += at.scrollTop;
  return scrolled;
}

function millilitres(mask, volume) {
  if (!mask) return "";
  const [z, y, x] = volume.spacing;
  return `${((mask.total * z * y * x) / 1000).toFixed(1)} ml`;
}

function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

function show(value) {
  return Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}

function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}
