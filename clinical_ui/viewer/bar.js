/** The tools at the left and the bar above: what can be done, and what the tool in hand does. */

import { el, iconButton, setText, textButton } from "./elements.js";
import { ACTIONS, unlocked } from "./keys.js";
import { toolsOf } from "./tools.js";

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

/** Builds palette and bar, and keeps them true to the viewer's state. */
export class Tools {
  /** @param page the interface: fits, refreshes, opens the help, focuses the large plane */
  constructor(viewer, page) {
    this.viewer = viewer;
    this.palette = el("div", {
      class: "palette",
      role: "toolbar",
      "aria-label": "Tools",
      "aria-orientation": "vertical",
    });
    this._page = page;
    this._modeShown = null;
    this.bar = this._buildBar();
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
      this._page.refresh();
    });
    const fit = iconButton("fit", "Fit the image", "R", () => this._page.fit());
    const help = iconButton("help", "Help", "?", () => this._page.openHelp());
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

  /** Show what can be done just now. */
  show() {
    const { viewer } = this;
    const modeKey = `${viewer.mode}|${viewer.prompts}`;
    if (modeKey !== this._modeShown) {
      this._modeShown = modeKey;
      this.palette.replaceChildren(
        ...toolsOf(viewer.mode, viewer.prompts).map((tool) => {
          const button = iconButton(tool.key, tool.name, tool.hotkey, () => {
            viewer.setTool(tool.key);
            this._page.focusLarge();
          });
          button.dataset.tool = tool.key;
          return button;
        }),
      );
    }
    const locked = Boolean(viewer.lock);
    for (const button of this.palette.children) {
      button.setAttribute("aria-pressed", button.dataset.tool === viewer.tool);
      button.disabled = locked && button.dataset.tool !== "navigate";
    }
    const editing = viewer.mode !== "view";
    const tool = toolsOf(viewer.mode, viewer.prompts).find((one) => one.key === viewer.tool);
    setText(this._toolName, tool?.name ?? "");
    setText(this._toolHint, TOOL_HINTS[viewer.tool] ?? "");
    this._brushPart.hidden = !tool?.brush;
    const share = Math.log(viewer.radiusMm / 0.5) / Math.log(100); // 0.5 to 50 mm, evenly felt
    this._radius.value = String(Math.round(share * 100));
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
    this._crosshair.setAttribute("aria-pressed", viewer.crosshairShown);
  }
}
