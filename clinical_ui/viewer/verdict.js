/** What a review ends in beside its contour: a score, and a rejection with its reason. */

import { el, textButton } from "./elements.js";

/** Builds the part of the panel and keeps it true to the viewer's state. */
export class Verdict {
  constructor(viewer) {
    this.viewer = viewer;
    this._score = el("select", { "aria-label": "Score of the model's contour, if you like" });
    this._reason = el("select", {
      "aria-label": "Reason to reject",
      onchange: () => this.show(),
    });
    this._reject = textButton("Reject", "Keep nothing of the model's contour", () =>
      viewer.save({ ...this.chosen, verdict: "reject", reason: this._reason.value }),
    );
    this.root = el(
      "div",
      { class: "part", hidden: true },
      el("h3", { text: "Verdict" }),
      el("div", { class: "row" }, this._score),
      el("div", { class: "row" }, this._reason, this._reject),
    );
  }

  /** Return what a save says of the review. */
  get chosen() {
    return { verdict: "accept", likert: Number(this._score.value) || null, reason: "" };
  }

  /** Return the words on the button that saves, or null outside a review. */
  get saveLabel() {
    if (!this.viewer.data.verdict) return null;
    return this.viewer.isRevised ? "Save revision" : "Accept as it is";
  }

  /** Show the choices that there are. */
  show() {
    const { viewer } = this;
    const form = viewer.data.verdict;
    this.root.hidden = !form || viewer.mode === "view";
    if (!form) {
      this._shown = "";
      return;
    }
    // Another case begins without a choice.
    const shown = JSON.stringify([form, viewer.data.epoch]);
    if (shown !== this._shown) {
      this._shown = shown;
      list(this._score, [["", "Score (optional)"], ...form.scores]);
      list(this._reason, [["", "Reason to reject"], ...form.reasons]);
    }
    this._reject.disabled = Boolean(viewer.lock) || !this._reason.value;
  }
}

function list(select, rows) {
  select.replaceChildren(...rows.map(([value, text]) => el("option", { value, text })));
}
