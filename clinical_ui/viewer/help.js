/** The sheet that lists what mouse and keys do. */

import { el, textButton } from "./elements.js";
import { HELP } from "./keys.js";

/** Build the sheet that lists mouse and keys; hidden at first. */
export function buildHelp(onClose) {
  const groups = grouped(HELP);
  const parts = [...groups].map(([group, rows]) => {
    const lines = rows.map(([, keys, text]) =>
      el("div", {}, el("dt", { text: keys }), el("dd", { text })),
    );
    return el("div", {}, el("h3", { text: group }), el("dl", {}, ...lines));
  });
  const close = textButton("Close (Esc)", "Close the help", onClose);
  const box = el("div", { class: "box" }, ...parts);
  return el(
    "div",
    { class: "help", role: "dialog", "aria-modal": true, "aria-label": "Keys", hidden: true },
    el("div", { class: "sheet" }, box, close),
  );
}

function grouped(rows) {
  const groups = new Map();
  for (const row of rows) groups.set(row[0], [...(groups.get(row[0]) ?? []), row]);
  return groups;
}
