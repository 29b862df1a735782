/**
 * What travels to the server, one message at a time, and what is kept until it has arrived.
 *
 * Messages are cumulative and numbered, so one that got lost is simply followed by a newer one.
 * Work that the server has not confirmed also lies in sessionStorage: a reloaded page sends it as
 * the last message of the sitting it came from, before the new sitting begins.
 */

import { fromText, packRuns, toText } from "./run_lengths.js";

export const DRAFT_AFTER_MS = 2000;
const LONGEST_DRAFT_DELAY_MS = 10000; // also while somebody paints without a pause
const HEARTBEAT_MS = 30000; // of active time without a change
const PATIENCE_MS = { draft: 8000, save: 20000, prompt: 90000 };
const ATTEMPTS_BEFORE_WARNING = 2;
const NO_ANSWER_AFTER_MS = 1500; // a server at rest for so long has nothing more to say
const AGAIN_AFTER_MS = 10000; // where the server could not take it just now

/** Sends the work of one sitting on one draft. */
export class Courier {
  /**
   * @param epoch, revision of the draft
   * @param send (kind, message) => void, the component's trigger
   * @param snapshot () => {work, target, outside}: times, actions and run lengths just now
   * @param mayDraft () => bool: false while a stroke is being drawn
   * @param isAtWork () => bool: false while the case is only looked at, and nothing is taken of it
   * @param isActive () => bool: whether active time counts
   * @param changed () => void: what is shown of the courier has changed
   * @param server () => "away", "busy", "idle", or "" where nobody knows
   */
  constructor({ epoch, revision, server = () => "", ...told }) {
    Object.assign(this, { epoch, revision, server, ...told });
    this.sitting = newSitting();
    this.sequence = 0;
    this.edits = 0; // how many changes there were, and how many of them the server has
    this.storedEdits = 0;
    this.inFlight = null;
    this.next = null; // a prompt or save that waits for the message before it
    this.recovered = keptWorks(epoch); // of earlier pages, oldest first
    this.trouble = "";
    this.mayRetry = false; // though there is trouble
    this.attempts = 0;
    this._firstUnsent = 0;
    this._lastEdit = 0;
    this._lastSent = performance.now();
    this._closed = false;
    this._timer = setInterval(() => this._tick(), 250);
  }

  /** Say whether something drawn has not reached the server. */
  get isUnsent() {
    return this.edits > this.storedEdits || this.recovered.length > 0;
  }

  /** Say whether an answer of the model or a save is being waited for. */
  get isBusy() {
    return this.isPrompting || this.inFlight?.kind === "save" || this.next?.kind === "save";
  }

  /** Say whether the model is being waited for. */
  get isPrompting() {
    return this.inFlight?.kind === "prompt" || this.next?.kind === "prompt";
  }

  /** Note a change of the drawing. */
  edited() {
    const now = performance.now();
    if (this.edits === this.storedEdits) this._firstUnsent = now;
    this._lastEdit = now;
    this.edits += 1;
    this.trouble = "";
    this.keep();
  }

  /** Send a draft now, for the time as much as for the drawing; not while a message is out. */
  draftNow() {
    if (!this.inFlight && !this.recovered.length && !this.trouble) this._dispatch("draft", {});
  }

  /** Send what is new, as before something else is done on the page. */
  flush() {
    const sinceLast = performance.now() - this._lastSent;
    if (this.isUnsent || (this.isActive() && sinceLast > 1000)) this.draftNow();
  }

  /** Send a prompt or a save, with what goes into the message beside the work. */
  request(kind, extra) {
    if (this.isBusy) return false;
    this.trouble = "";
    if (this.inFlight || this.recovered.length) this.next = { kind, extra };
    else this._dispatch(kind, extra);
    this.changed();
    return true;
  }

  /**
   * Look through what the server says for the answer to the message that is under way.
   *
   * @returns null, or {kind, state, ...}: "stored"; "answered" with target and message; "refused"
   *   with message, and `recovered` when it was of an earlier page
   */
  receive(data) {
    this.revision = data.revision ?? this.revision;
    const flight = this.inFlight;
    if (!flight?.sequence) return null;
    const fits = (part) => part?.sitting === flight.sitting && part.sequence >= flight.sequence;
    if (fits(data.refused)) {
      this._landed();
      this.next = null;
      this.trouble = data.refused.message;
      this.mayRetry = data.refused.again;
      const recovered = !this.mayRetry && this._forgetRecovered(flight);
      return { kind: flight.kind, state: "refused", message: this.trouble, recovered };
    }
    if (!fits(data.answer) && !(fits(data.stored) && flight.kind !== "prompt")) {
      // An update without the answer: the server was restarted, or the message was lost.
      if (performance.now() - flight.at > 1000) flight.lost = true;
      return null;
    }
    this._landed();
    this._forgetRecovered(flight);
    this.storedEdits = Math.max(this.storedEdits, flight.edits);
    if (!this.isUnsent) this.forget();
    const { target = null, message = null } = data.answer ?? {};
    const state = flight.kind === "prompt" ? "answered" : "stored";
    return { kind: flight.kind, state, target, message, sha256: data.stored?.sha256 ?? "" };
  }

  /** Write the work to sessionStorage, at once: a page that is being left waits for nothing. */
  keep() {
    const { work, target, outside } = this.snapshot();
    const kept = {
      ...this._head(work),
      target: toText(target),
      outside: outside && toText(outside),
      earlier: this.recovered,
    };
    try {
      sessionStorage.setItem(storageKey(this.epoch), JSON.stringify(kept));
    } catch {
      this.trouble = "This browser has no room for drafts: save soon.";
    }
  }

  /** Drop what is kept. */
  forget() {
    sessionStorage.removeItem(storageKey(this.epoch));
  }

  /** Stop sending. */
  close() {
    this._closed = true;
    clearInterval(this._timer);
  }

  _head(work) {
    const { epoch, sitting, sequence, revision } = this;
    return { ...work, epoch, sitting, sequence, revision };
  }

  _tick() {
    const now = performance.now();
    const server = this.server();
    if (server === "away") {
      if (this.inFlight) this.inFlight.lost = true;
      return;
    }
    if (this.inFlight) {
      this._tryAgain(this.inFlight, now, server);
      return;
    }
    // One trigger at a time, and none while an update is being taken in: hence the timer.
    if (this.trouble && this.mayRetry && now - this._lastSent >= AGAIN_AFTER_MS) this.trouble = "";
    if (this.recovered.length) {
      if (this.isAtWork() && !this.trouble) this._dispatch("draft", {}, this.recovered[0]);
    } else if (this.next) {
      const { kind, extra } = this.next;
      this.next = null;
      this._dispatch(kind, extra);
    } else if (this.isAtWork() && this.mayDraft() && !this.trouble) {
      const quiet = now - this._lastEdit >= DRAFT_AFTER_MS;
      const late = now - this._firstUnsent >= LONGEST_DRAFT_DELAY_MS;
      const rested = now - this._lastSent >= DRAFT_AFTER_MS;
      const beat = this.isActive() && now - this._lastSent >= HEARTBEAT_MS;
      if ((this.isUnsent && rested && (quiet || late)) || beat) this._dispatch("draft", {});
    }
  }

  _tryAgain(flight, now, server) {
    const patience = PATIENCE_MS[flight.kind] * Math.min(2 ** this.attempts, 4);
    const waited = now - flight.at;
    flight.idleSince = server === "idle" && flight.sequence ? (flight.idleSince ?? now) : null;
    const silent = flight.idleSince !== null && now - flight.idleSince > NO_ANSWER_AFTER_MS;
    if (waited <= patience && !silent && !(flight.lost && waited > 2000)) return;
    this.attempts += 1;
    if (this.attempts >= ATTEMPTS_BEFORE_WARNING) {
      this.trouble = "The server does not answer. What you drew is kept in this tab.";
    }
    this._dispatch(flight.kind, flight.extra, flight.recovered);
  }

  async _dispatch(kind, extra, recovered = null) {
    const flight = { kind, extra, recovered, at: performance.now(), edits: 0 };
    this.inFlight = flight;
    this._lastSent = flight.at;
    let head;
    let runs;
    if (recovered) {
      recovered.sequence += 1;
      const { target, outside, earlier: _, ...rest } = recovered;
      // The server places a sitting by how long ago it began; it was kept a while ago.
      const ago = Date.now() - Date.parse(rest.began_at);
      head = { ...rest, elapsed_ms: Math.max(rest.elapsed_ms, ago) };
      runs = [fromText(target), outside && fromText(outside)];
    } else {
      this.sequence += 1;
      flight.edits = this.edits;
      const { work, target, outside } = this.snapshot();
      head = this._head(work);
      runs = [target, outside];
    }
    const [target, outside] = await Promise.all(runs.map((counts) => counts && packRuns(counts)));
    if (this._closed || this.inFlight !== flight) return;
    flight.sitting = head.sitting;
    flight.sequence = head.sequence;
    flight.at = performance.now();
    this.send(kind, { ...head, revision: this.revision, target, outside, ...extra });
    this.changed();
  }

  _landed() {
    this.inFlight = null;
    this.attempts = 0;
    this.trouble = "";
  }

  _forgetRecovered(flight) {
    if (!flight.recovered) return false;
    this.recovered.shift();
    return true;
  }
}

/** Return what earlier pages of this tab could not send for an epoch, oldest first. */
export function keptWorks(epoch) {
  const text = sessionStorage.getItem(storageKey(epoch));
  if (!text) return [];
  try {
    const { earlier, ...last } = JSON.parse(text);
    return [...earlier, last];
  } catch {
    return [];
  }
}

/** Return the name under which work on a draft is kept. */
export function storageKey(epoch) {
  return `fedgtv:${epoch}`;
}

/** Return 16 random hex digits. */
export function newSitting() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
