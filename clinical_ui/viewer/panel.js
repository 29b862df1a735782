/** The panel at the right: time, slices asked for, contours, window, and saving. */

import { el, icon, iconButton, layerSample, setText, textButton } from "./elements.js";
import { Verdict } from "./verdict.js";
import { presets } from "./volume.js";

// What a slice is marked with, and what that means.
const SLICE_STATES = {
  saved: ["✓ saved", "stored at the hospital"],
  done: ["● done", "done, not saved yet"],
  empty: ["● empty", "done without any tumour on it, not saved yet"],
  drawn: ["◐ drawn", "drawn on, not done yet"],
  open: ["○ open", "to do"],
};

/** Builds the panel and keeps it true to the viewer's state. */
export class Panel {
  /** @param page the interface: its root and its refresh */
  constructor(viewer, page) {
    this.viewer = viewer;
    this._page = page;
    this._windows = [];
    this._verdict = new Verdict(viewer);
    this.root = this._build();
  }

  /** Build what depends on the case. */
  opened() {
    const { viewer } = this;
    setText(this._title, viewer.data.title);
    this._windows = [{ name: "As opened", window: [...viewer.data.window] }];
    this._windows.push(...presets(viewer.volume));
    this._presets.replaceChildren(
      el("option", { value: "", text: "By hand" }),
      ...this._windows.map(({ name }, i) => el("option", { value: i, text: name })),
    );
  }

  /** Show the viewer's state. */
  show() {
    this._showState();
    this.showTime();
    this._showAsked();
    this._showLayers();
    const [low, high] = this.viewer.window;
    setText(this._window, `W ${shortNumber(high - low)} L ${shortNumber((low + high) / 2)}`);
    const chosen = this._windows.findIndex(({ window }) => window[0] === low && window[1] === high);
    this._presets.value = chosen < 0 ? "" : String(chosen);
  }

  _build() {
    const { viewer } = this;
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
    this._doneButton = textButton("Slice done", "This slice is done (D)", () =>
      viewer.toggleDone(),
    );
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
    const save = () => viewer.save(this._verdict.chosen);
    this._save = textButton("Save", "Store the contour", save, "main");
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
      this._verdict.root,
      this._save,
    );
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
    const usual = asked ? `Save ${plural(count, "done slice")}` : "Save";
    setText(this._save, this._verdict.saveLabel ?? usual);
    this._verdict.show();
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
    this._page.root.dataset.busy = String(courier.isBusy);
  }

  /** Show the active time, as each second. */
  showTime() {
    const { viewer } = this;
    if (!viewer.clock || viewer.mode === "view") return;
    const total = viewer.earlierActiveS + viewer.clock.activeMs() / 1000;
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
      this._page.root.classList.toggle("paused", viewer.paused);
    }
  }

  _showAsked() {
    const { viewer } = this;
    const { selected } = viewer.data;
    this._askedPart.hidden = !selected.length;
    const rows = selected.map((one) => ({
      ...one,
      state: viewer.sliceState(one),
      here: one.z === viewer.cursor[0],
    }));
    const key = JSON.stringify(rows);
    if (key !== this._askedShown) {
      this._askedShown = key;
      this._asked.replaceChildren(
        ...rows.map(({ z, label, state, here }) => {
          const [words, title] = SLICE_STATES[state];
          const button = el(
            "button",
            {
              type: "button",
              title: `${label}: ${title}`,
              "aria-current": here && "true",
              onclick: () => viewer.jump(z),
            },
            el("b", { text: String(z + 1) }),
            el("span", { class: "label", text: label }),
            el("span", { class: "mark", "data-state": state, text: words }),
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
    const rows = [...viewer.layers.map((one) => ({ ...one, mask: null })), ...viewer.drawn];
    const key = JSON.stringify([rows, compare]);
    if (key !== this._layersShown) {
      this._layersShown = key;
      const boxes = rows.map((layer) => {
        const onchange = () => viewer.toggleLayer(layer.key);
        const box = el("input", { type: "checkbox", onchange });
        box.dataset.layer = layer.key;
        const hotkey = layer.key === compare ? "C" : layer.key === "target" ? "H" : "";
        const amount = el("span", { class: "number" });
        const title = hotkey ? `${layer.name} (${hotkey})` : layer.name;
        const name = el("span", { class: "name", text: layer.name });
        return el("label", { title }, box, layerSample(layer), name, amount);
      });
      if (compare && viewer.drawn.length) {
        const box = el("input", {
          type: "checkbox",
          onchange: () => {
            viewer.differenceShown = !viewer.differenceShown;
            this._page.refresh();
          },
        });
        boxes.push(
          el("label", {}, box, el("span", { class: "swatch" }), el("span", { text: "Difference" })),
        );
      }
      this._layers.replaceChildren(...boxes);
    }
    this._change.hidden = !compare || !viewer.drawn.length;
    for (const box of this._layers.querySelectorAll("[data-layer]")) {
      const { layer } = box.dataset;
      box.checked = viewer.isShown(layer);
      const found = viewer.layers.find((one) => one.key === layer);
      const mask = found ? found.mask : viewer.masks[layer];
      const sized = viewer.data.volumes_shown && !rows.find((one) => one.key === layer).band;
      const amount = sized ? millilitres(mask, viewer.volume) : "";
      setText(box.parentElement.querySelector(".number"), amount);
    }
  }
}

function millilitres(mask, volume) {
  if (!mask) return "";
  const [z, y, x] = volume.spacing;
  return `${((mask.total * z * y * x) / 1000).toFixed(1)} ml`;
}

function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** Write a number with as many digits as somebody reads. */
export function shortNumber(value) {
  return Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}
