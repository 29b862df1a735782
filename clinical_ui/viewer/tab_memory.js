/**
 * What a tab remembers of the work on a draft, beside the drawing that the courier keeps: which
 * slices were declared done, whether the clock stands, the points that the model was not sent.
 */

const NAMES = ["done", "paused", "points"];

/** Write a value down; null forgets it. */
export function remember(epoch, name, value) {
  const key = `fedgtv:${epoch}:${name}`;
  if (value === null) sessionStorage.removeItem(key);
  else sessionStorage.setItem(key, JSON.stringify(value));
}

/** Return what was written down, or `otherwise`. */
export function recall(epoch, name, otherwise) {
  try {
    return JSON.parse(sessionStorage.getItem(`fedgtv:${epoch}:${name}`)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

/** Forget everything of a draft. */
export function forgetAll(epoch) {
  for (const name of NAMES) remember(epoch, name, null);
}
