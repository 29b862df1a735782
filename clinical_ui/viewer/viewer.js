/**
 * The viewer of one mount: what is open, what is drawn on it, and who is told.
 *
 * It knows no buttons: `interface.js` builds the page around it and is told by `refresh`.
 */

import { ActiveClock } from "./clock.js";
import { PathCache } from "./contour_lines.js";
import { Courier, keptWorks } from "./courier.js";
import { Edit, History, Mask, maskSha256 } from "./mask.js";
import { decodeRuns, fromText, unpackRuns } from "./run_lengths.js";
import { forgetAll, recall, remember } from "./tab_memory.js";
import { toolsOf } from "./tools.js";
import { lightTable } from "./volume.js";

const SMALLEST_RADIUS_MM = 0.5;
const LARGEST_RADIUS_MM = 50;
const SCRIBBLE_RADIUS_MM = 1;
// What is being drawn, by the mask that holds it.
const CONTOUR = [{ key: "target", name: "Your contour", colour: [255, 92, 80], dash: [14, 10] }];
const SCRIBBLES = [
  { key: "target", name: "Scribble inside", colour: [46, 230, 138], dash: [], band: true },
  { key: "outside", name: "Scribble outside", colour: [90, 169, 255], dash: [], band: true },
];

/** Holds the state of one viewer and every way to change it. */
export class Viewer {
  /** @param refresh () => void: called after every change; @param say (text) => void: a hint */
  constructor({ refresh, say }) {
    this.refresh = refresh;
    this.hint = say;
    this.send = () => {};
    this.data = null;
    this.volume = null;
    this.masks = null;
    this.history = null;
    this.courier = null;
    this.clock = null;
    this.layers = [];
    this.shown = new Map(); // layer key -> bool, as the doctor switched it
    this.cursor = [0, 0, 0];
    this.window = [0, 1];
    this.points = [];
    this.done = new Set(); // asked-for slices that the doctor has declared done
    this.actions = [];
    this.mode = "view";
    this.prompts = null;
    this.editable = null;
    this.tool = "navigate";
    this.radiusMm = 5;
    this.paused = false;
    this.earlierActiveS = 0;
    this.crosshairShown = true;
    this.differenceShown = false;
    this.hover = null;
    this.lasso = null;
    this.drawing = false; // a stroke is under way
    this.largeView = null;
    this.paths = new PathCache();
    this._generation = 0;
    this._ticket = 0;
    this._opened = "";
  }

  // -- what is open -----------------------------------------------------------------------------

  /** Say whether an update of the server is about work that is not open here yet. */
  isNews(data) {
    const known = this.data?.epoch === data.epoch && this.data?.volume === data.volume;
    return !known || (data.fresh && openingOf(data) !== this._opened);
  }

  /** Open a case; work that this tab kept for its epoch goes before the server's. */
  async open(data, volume) {
    this._ticket += 1;
    const ticket = this._ticket;
    const total = volume.voxels.length;
    if (data.fresh) {
      sessionStorage.removeItem(`fedgtv:${data.epoch}`);
      forgetAll(data.epoch);
    }
    const kept = keptWorks(data.epoch).at(-1);
    const [target, outside, layers] = await Promise.all([
      kept ? decodeKept(kept.target, total) : unpack(data.target, total),
      kept ? decodeKept(kept.outside, total) : unpack(data.outside, total),
      Promise.all(data.layers.map((layer) => this._readLayer(layer, volume))),
    ]);
    if (ticket !== this._ticket) return false;
    const sameImage = this.volume?.header.token === volume.header.token;
    const sitting = data.fresh && sameImage ? this._sitting() : null; // begun anew: it goes on
    if (sitting || isSaved(data.stored, this.courier)) this._forget();
    this.leave();
    this.volume = volume;
    this._draw(target, outside);
    this.layers = layers;
    this.points = recall(data.epoch, "points", []);
    this.actions = sitting?.actions ?? [];
    this.paused = recall(data.epoch, "paused", false); // until Continue
    this._generation += 1;
    if (!sameImage) {
      this.window = [...data.window];
      this.cursor = volume.shape.map((n) => Math.floor(n / 2));
      this.cursor[0] = Math.min(Math.max(data.slice, 0), volume.shape[0] - 1);
      this.radiusMm = 5;
    }
    this._opened = openingOf(data);
    this.done = new Set(recall(data.epoch, "done", []));
    this._begin(data, sitting);
    this._take(data);
    return true;
  }

  /** Take in what the server says about the work that is open. */
  async update(data) {
    const layers = JSON.stringify(data.layers.map(({ shown: _, ...layer }) => layer));
    if (layers !== this._layersText) {
      this.layers = await Promise.all(data.layers.map((one) => this._readLayer(one, this.volume)));
      this._generation += 1;
    }
    const news = this.courier.receive(data);
    if (!this.courier.recovered.length) this.clock.unblock("sending");
    this._take(data);
    if (news) await this._answered(news, data);
    this.refresh();
  }

  /** Write everything down and stop, as when the page is left. */
  leave() {
    if (!this.courier) return;
    this.keepAll();
    this.courier.close();
    this.courier = null;
  }

  // What was saved is on the server: nothing of it stays in the browser.
  _forget() {
    this.courier.close();
    this.courier.forget();
    forgetAll(this.data.epoch);
    this.courier = null;
  }

  /** Send what is new, as before something else is done on the page. */
  flush() {
    if (this.mode !== "view" && !this.drawing) this.courier?.flush();
  }

  /** Keep work and time in this tab, for a page that may not come back. */
  keepAll() {
    if (this.mode === "view" || !this.courier) return;
    this.clock.settle();
    this.courier.keep();
  }

  // Time and actions so far, with the name and number under which they are told.
  _sitting() {
    if (!this.courier) return null;
    const { clock, actions } = this;
    const { sitting, sequence } = this.courier;
    return { clock, actions, sitting, sequence };
  }

  _begin(data, carried) {
    const { clock, sitting, sequence } = carried ?? {};
    this.clock = clock ?? new ActiveClock(() => performance.now(), data.idle_limit_s * 1000);
    this.clock.block("view");
    for (const over of ["paused", "sending", "waiting"]) this.clock.unblock(over);
    if (this.paused) this.clock.block("paused");
    if (document.hidden) this.clock.block("hidden");
    if (!document.hasFocus()) this.clock.block("blurred");
    this.mode = "view";
    this.courier = new Courier({
      epoch: data.epoch,
      revision: data.revision,
      send: (kind, message) => this.send(kind, message),
      snapshot: () => this._snapshot(),
      mayDraft: () => !this.drawing,
      isAtWork: () => this.mode !== "view",
      server: serverState,
      isActive: () => this.clock.isActive,
      changed: () => this.refresh(),
    });
    if (clock) Object.assign(this.courier, { sitting, sequence });
    if (this.courier.recovered.length) this.clock.block("sending");
    this.act("open", this.cursor[0]);
  }

  _take(data) {
    const started = this.mode === "view" && data.mode !== "view";
    this.data = data;
    // What other sittings took; the server's figure holds this one too, once it was told of it.
    if (!this.courier.sequence) this.earlierActiveS = data.earlier_active_s;
    this._layersText = JSON.stringify(data.layers.map(({ shown: _, ...layer }) => layer));
    this.mode = data.mode;
    this.prompts = data.prompts;
    this.editable = data.editable_z ? new Set(data.editable_z) : null;
    for (const { key, shown } of data.layers) {
      if (!this.shown.has(key)) this.shown.set(key, shown);
    }
    for (const { z, done } of data.selected) if (done) this.done.delete(z);
    this._workOn(this.cursor[0]);
    if (this.mode === "view") this.clock.block("view");
    if (started) {
      if (this.mode === "scribble") this.radiusMm = SCRIBBLE_RADIUS_MM;
      this.act("start", this.cursor[0]);
      this.courier.trouble = ""; // such as that the case was released
      this.clock.unblock("view");
    }
    const tools = toolsOf(this.mode, this.prompts).map((tool) => tool.key);
    if (started || !tools.includes(this.tool)) this.tool = tools[1] ?? tools[0];
  }

  async _answered(news, data) {
    if (news.state === "refused") {
      if (news.kind === "prompt") this._endPrompt(null);
      if (news.recovered) await this._takeServers(data);
      this.hint(news.message);
      return;
    }
    if (news.kind === "save") {
      const drawn = await this._sentSha256;
      if (drawn && news.sha256 && drawn !== news.sha256) {
        this.courier.trouble = "What was stored differs from what is drawn here: save again.";
      }
    }
    if (news.kind === "prompt") {
      const voxels = news.target && (await unpack(news.target, this.volume.voxels.length));
      this._endPrompt(voxels);
      if (news.message) this.hint(news.message);
    }
  }

  // What this tab had kept is no longer wanted: another window has gone on since.
  async _takeServers(data) {
    const { length } = this.volume.voxels;
    const [target, outside] = await Promise.all([
      unpack(data.target, length),
      unpack(data.outside, length),
    ]);
    this._draw(target, outside);
    this._generation += 1;
    this.courier.forget();
  }

  _draw(target, outside) {
    const { shape } = this.volume;
    this.masks = { target: new Mask(shape, target), outside: new Mask(shape, outside) };
    this.history = new History(this.masks);
  }

  async _readLayer(layer, volume) {
    const voxels = await unpack(layer.mask, volume.voxels.length);
    return { ...layer, mask: new Mask(volume.shape, voxels) };
  }

  _snapshot() {
    const waiting = this.clock.waits(); // what goes on ends now: before the time is taken
    return {
      work: {
        began_at: this.clock.beganAt,
        active: this.clock.intervals(),
        waiting,
        actions: this.actions.map((action) => [...action]),
        elapsed_ms: this.clock.elapsedMs, // last: nothing above may end after it
      },
      target: this.masks.target.runs(),
      outside: this.mode === "scribble" ? this.masks.outside.runs() : null,
    };
  }

  // -- drawing ----------------------------------------------------------------------------------

  /** Say why nothing can be drawn just now, or "". */
  get lock() {
    if (!this.masks) return "The case is still being read.";
    if (this.mode === "view") return "Read-only: start the revision to draw.";
    if (this.paused) return "Paused: press Continue to draw.";
    if (this.courier.isPrompting || this._applying) return "The model is at work.";
    if (this.courier.isBusy) return "The contour is being saved.";
    if (this.courier.recovered.length) return "What this tab kept is being sent.";
    return "";
  }

  /** Begin an edit at a voxel [z, y, x] or near the slice shown; `finish` ends it. */
  edit(name, voxel) {
    const z = voxel?.[0] ?? this.cursor[0];
    const mayChange = this.editable && ((slice) => this.editable.has(slice));
    return new Edit(this.masks, name, z, mayChange);
  }

  /** Keep an edit for undoing and tell the server about it soon. */
  finish(edit, detail = {}) {
    if (edit.refused && !edit.size) this.hint("This slice was not asked for: it stays as it is.");
    if (edit.points) this._setPoints(edit.points.after);
    if (!this.history.record(edit)) return;
    this.act(edit.name, edit.z, { voxels: edit.size, ...detail });
    this.courier.edited();
    this.refresh();
  }

  /** Say whether a plane can be drawn on, with a hint where it cannot. */
  mayEditPlane(plane) {
    if (plane.axis === 0) return this.mayEditSlice(plane.slice);
    if (!this.editable) return true;
    this.hint("Only the slices asked for can be drawn on: use the plane they lie in.");
    return false;
  }

  /** Say whether a slice can be drawn on, with a hint where it cannot. */
  mayEditSlice(z) {
    if (!this.editable || this.editable.has(z)) return true;
    this.hint("This slice was not asked for. N goes to the next one that was.");
    return false;
  }

  /** Take the last edit back, whatever made it. */
  undo() {
    this._step("undo");
  }

  /** Make the last edit again that was taken back. */
  redo() {
    this._step("redo");
  }

  _step(way) {
    if (this.lock) {
      this.hint(this.lock);
      return;
    }
    const entry = this.history[way]();
    if (!entry) return;
    if (entry.points) this._setPoints(entry.points[way === "undo" ? "before" : "after"]);
    this.act(way, entry.z, { of: entry.name });
    this.courier.edited();
    this.refresh();
  }

  _setPoints(points) {
    this.points = points;
    remember(this.data.epoch, "points", points);
  }

  // -- the model and the server -----------------------------------------------------------------

  /** Send points {kind, voxel, sent: true} to the model; drawing waits for the answer. */
  prompt(kind, points) {
    const before = this.points;
    const of = (wanted) => points.filter((one) => one.kind === wanted).map((one) => one.voxel);
    const sent = [...(kind === "segment" ? before.filter((one) => one.sent) : before), ...points];
    const prompt = { kind, foreground: of("foreground"), background: of("background") };
    this.clock.block("waiting");
    if (!this.courier.request("prompt", { prompt })) return;
    this._promptPoints = { before, after: sent };
    this.points = sent;
    this.refresh();
  }

  _endPrompt(voxels) {
    const { before, after } = this._promptPoints ?? { before: this.points, after: this.points };
    this._promptPoints = null;
    this.clock.unblock("waiting");
    if (!voxels) {
      this.points = before;
      return;
    }
    const edit = new Edit(this.masks, "model", after.at(-1)?.voxel[0] ?? this.cursor[0]);
    const now = this.masks.target.voxels;
    for (let i = 0; i < voxels.length; i += 1) {
      if (voxels[i] !== now[i]) edit.put("target", i, voxels[i]);
    }
    edit.movePoints(before, after);
    this.finish(edit);
  }

  /**
   * Save: the slices declared done, or in a review everything, with what it ends in.
   *
   * @param verdict {verdict: "accept"|"reject", likert, reason} of a review
   */
  save(verdict = { verdict: "accept", likert: null, reason: "" }) {
    if (this.lock) {
      this.hint(this.lock);
      return;
    }
    const slices = [...this.done].sort((a, b) => a - b);
    if (this.data.selected.length && !slices.length) {
      this.hint("Mark the slices that are done first (key D).");
      return;
    }
    this.act("save", this.cursor[0], { slices: slices.length });
    this.clock.activity();
    this._sentSha256 = maskSha256(this.masks.target);
    this.courier.request("save", { slices, ...(this.data.verdict ? verdict : {}) });
  }

  /** Say whether what is drawn differs from the model's contour. */
  get isRevised() {
    const pair = this._comparePair();
    if (!pair) return false;
    const key = `${this._generation}|${this.courier?.edits}`;
    if (key !== this._revisedKey) {
      this._revisedKey = key;
      const [now, before] = pair;
      const counted = now.counts.every((count, z) => count === before.counts[z]);
      this._revised = !counted || now.voxels.some((voxel, at) => voxel !== before.voxels[at]);
    }
    return this._revised;
  }

  /** Declare the asked-for slice on screen done, or not. */
  toggleDone(z = this.cursor[0]) {
    const slice = this.data.selected.find((one) => one.z === z);
    if (!slice || this.mode === "view") return;
    if (!this.done.delete(z)) this.done.add(z);
    remember(this.data.epoch, "done", [...this.done]);
    this.refresh();
  }

  /** Stop the clock, or go on. */
  togglePause() {
    if (this.mode === "view" || !this.clock) return;
    this.paused = !this.paused;
    if (this.paused) this.clock.block("paused");
    else this.clock.unblock("paused");
    remember(this.data.epoch, "paused", this.paused);
    this.act(this.paused ? "pause" : "resume", this.cursor[0]);
    if (this.paused) this.courier.draftNow();
    this.refresh();
  }

  /** Note that the page is hidden or another window has the focus ("hidden", "blurred"). */
  away(reason, isAway) {
    if (!this.clock) return;
    const names = { hidden: ["hide", "focus"], blurred: ["blur", "focus"] };
    if (isAway) this.clock.block(reason);
    else this.clock.unblock(reason);
    if (this.mode === "view") return;
    this.act(names[reason][isAway ? 0 : 1], this.cursor[0]);
    if (!isAway) return;
    this.keepAll();
    if (this.courier.isUnsent) this.courier.draftNow();
  }

  /** Let the clock see that time has passed. */
  tick() {
    if (this.clock?.endIfIdle()) this.act("idle", this.cursor[0]);
  }

  /** Add to the action log of the sitting. */
  act(name, z, detail = {}) {
    this.actions.push([this.clock.elapsedMs, name, z, detail]);
  }

  // -- looking ----------------------------------------------------------------------------------

  /** Go to a slice along an axis. */
  setSlice(axis, slice) {
    const wanted = Math.min(Math.max(slice, 0), this.volume.shape[axis] - 1);
    if (wanted === this.cursor[axis]) return;
    this.cursor[axis] = wanted;
    if (axis === 0) this._workOn(wanted);
    this.refresh();
  }

  /** Put the crosshair on a voxel; the other planes follow. */
  moveCursor(voxel) {
    this.cursor = [...voxel];
    this._workOn(voxel[0]);
    this.refresh();
  }

  /** Go to the next (1) or previous (-1) slice that was asked for. */
  nextAsked(step) {
    const slices = this.data.selected.map((one) => one.z).sort((a, b) => a - b);
    const ahead = slices.filter((z) => (step > 0 ? z > this.cursor[0] : z < this.cursor[0]));
    const wanted = step > 0 ? (ahead[0] ?? slices[0]) : (ahead.at(-1) ?? slices.at(-1));
    if (wanted !== undefined) this.jump(wanted);
  }

  /** Go to a slice of the acquisition plane at once, and log it. */
  jump(z) {
    this.setSlice(0, z);
    this.act("jump", z);
  }

  /** Go to the slice that differs most from the model's contour. */
  jumpToChange() {
    const pair = this._comparePair();
    if (!pair) return;
    const [now, before] = pair;
    let most = 0;
    let found = -1;
    for (let z = 0; z < this.volume.shape[0]; z += 1) {
      if (!now.counts[z] && !before.counts[z]) continue;
      let changed = 0;
      const end = (z + 1) * now.sliceSize;
      for (let at = z * now.sliceSize; at < end; at += 1) {
        changed += now.voxels[at] ^ before.voxels[at];
      }
      if (changed > most) [most, found] = [changed, z];
    }
    if (found < 0) this.hint("Nothing was changed so far.");
    else this.jump(found);
  }

  /** Set the grey values shown black and white. */
  setWindow(low, high) {
    const least = Math.abs(this.volume.header.slope) || 1e-6;
    this.window = [low, Math.max(high, low + least)];
    this.refresh();
  }

  get windowKey() {
    return `${this.window[0]}|${this.window[1]}`;
  }

  /** Return the light of each stored grey value. */
  get table() {
    const key = `${this.volume.header.token}|${this.windowKey}`;
    if (key !== this._tableKey) {
      this._table = lightTable(this.volume.header, this.window);
      this._tableKey = key;
    }
    return this._table;
  }

  /** Set the size of the brush. */
  setRadius(mm) {
    const bounded = Math.min(Math.max(mm, SMALLEST_RADIUS_MM), LARGEST_RADIUS_MM);
    this.radiusMm = Math.round(bounded * 10) / 10;
    this.refresh();
  }

  /** Choose a tool of the mode. */
  setTool(key) {
    if (!toolsOf(this.mode, this.prompts).some((tool) => tool.key === key)) return;
    this.tool = key;
    this.refresh();
  }

  /** Return the brush under the pointer {radiusMm, erase}, or null. */
  get brush() {
    const tool = toolsOf(this.mode, this.prompts).find((one) => one.key === this.tool);
    if (!tool?.brush || this.lock) return null;
    return { radiusMm: this.radiusMm, erase: this.tool === "eraser" || this.hover?.erase };
  }

  /** Show a layer or hide it. */
  toggleLayer(key) {
    this.shown.set(key, !this.isShown(key));
    this.refresh();
  }

  /** Say whether a layer is shown. */
  isShown(key) {
    return this.shown.get(key) ?? true;
  }

  /** Return name, colour and line of what is being drawn; nothing before the work starts. */
  get drawn() {
    if (this.mode === "view") return [];
    return this.mode === "scribble" ? SCRIBBLES : CONTOUR;
  }

  /** Show everything that is being drawn, or hide it. */
  toggleDrawn() {
    const shown = this.drawn.some((one) => this.isShown(one.key));
    for (const { key } of this.drawn) this.shown.set(key, !shown);
    this.refresh();
  }

  /** Say how far an asked-for slice is: "saved" is at the hospital, all else is not. */
  sliceState({ z, done }) {
    if (done) return "saved";
    const isDrawn = Object.values(this.masks).some((mask) => mask.counts[z] > 0);
    if (this.done.has(z)) return isDrawn ? "done" : "empty";
    return isDrawn ? "drawn" : "open";
  }

  /** Return what to draw on a plane, from below to above; a saved slice shows what is saved. */
  shownLayers({ axis, slice }) {
    if (!this.masks) return [];
    const generation = this._generation;
    const isSaved = this.data.selected.some(({ z, done }) => done && axis === 0 && z === slice);
    const own = isSaved ? [] : this.drawn;
    const drawn = own.map((one) => ({ ...one, mask: this.masks[one.key], fill: 0.1 }));
    return [...this.layers, ...drawn]
      .filter((layer) => this.isShown(layer.key))
      .map((layer) => ({ ...layer, generation }));
  }

  /** Return [what is drawn, the model's] where their difference is to be shown, else null. */
  difference() {
    return this.differenceShown ? this._comparePair() : null;
  }

  _comparePair() {
    const layer = this.layers.find((one) => one.key === this.data?.compare);
    return layer && this.masks ? [this.masks.target, layer.mask] : null;
  }

  _workOn(z) {
    if (this.data?.selected.some((one) => one.z === z)) this.clock?.workOn(z);
  }
}

// As Streamlit 1.67 tells it on its page.
function serverState() {
  const told = document.querySelector("[data-testid=stApp]")?.dataset;
  if (!told?.testConnectionState || !told.testScriptState) return "";
  if (told.testConnectionState !== "CONNECTED") return "away";
  return told.testScriptState === "notRunning" ? "idle" : "busy";
}

async function unpack(text, total) {
  return text ? decodeRuns(await unpackRuns(text), total) : new Uint8Array(total);
}

function decodeKept(text, total) {
  return text ? decodeRuns(fromText(text), total) : new Uint8Array(total);
}

function isSaved(stored, courier) {
  return Boolean(courier) && stored?.kind === "save" && stored.sitting === courier.sitting;
}

function openingOf({ epoch, volume, revision, target }) {
  return JSON.stringify([epoch, volume, revision, target]);
}
