/**
 * Active time of a sitting, on a monotonic clock.
 *
 * Time is active from one sign of life (moving, clicking, typing, scrolling) to the next, unless
 * they are further apart than the idle limit. Nothing counts while the page is hidden or another
 * window has the focus, while the doctor pauses, before a revision was started, and while the
 * model is awaited, which is written down apart.
 */
export class ActiveClock {
  /**
   * @param now () => ms, monotonic
   * @param idleLimitMs gaps longer than this are not active
   */
  constructor(now, idleLimitMs) {
    this._now = now;
    this._start = now();
    this.idleLimitMs = idleLimitMs;
    this.beganAt = new Date().toISOString();
    this._blocks = new Set();
    this._intervals = [];
    this._waiting = [];
    this._waitingSince = null;
    this._open = null; // {from, last, z}
    this._z = -1;
  }

  /** Return ms since the sitting began. */
  get elapsedMs() {
    return Math.round(this._now() - this._start);
  }

  /** Say whether nothing keeps time from counting. */
  get isRunning() {
    return this._blocks.size === 0;
  }

  /** Say whether time counts just now. */
  get isActive() {
    return this._open !== null;
  }

  /** Note a sign of life. */
  activity() {
    if (!this.isRunning) return;
    const at = this.elapsedMs;
    this._endIfIdle(at);
    if (this._open) this._open.last = at;
    else this._open = { from: at, last: at, z: this._z };
  }

  /** Stop counting for a reason ("paused", "hidden", ...); reasons add up. */
  block(reason) {
    const at = this.elapsedMs;
    if (reason === "waiting" && this._waitingSince === null) this._waitingSince = at;
    if (this._blocks.has(reason)) return;
    this._settle(at);
    this._blocks.add(reason);
  }

  /** Take a reason back; with the last one, counting goes on. */
  unblock(reason) {
    if (reason === "waiting" && this._waitingSince !== null) {
      this._waiting.push([this._waitingSince, this.elapsedMs]);
      this._waitingSince = null;
    }
    if (this._blocks.delete(reason)) this.activity();
  }

  /** Say which asked-for slice time counts for from now on; -1 for none. */
  workOn(z) {
    if (z === this._z) return;
    const counting = this._open !== null;
    this._settle(this.elapsedMs);
    this._z = z;
    if (counting) this.activity();
  }

  /** End the interval where the idle limit has passed; says whether it has just done so. */
  endIfIdle() {
    return this._endIfIdle(this.elapsedMs);
  }

  /** Take the time up to now as active, as at the end of a page's life. */
  settle() {
    const counting = this._open !== null;
    this._settle(this.elapsedMs);
    if (counting) this.activity();
  }

  /** Return [[from, to, z], ...]: what is certain, so that it only ever grows. */
  intervals() {
    const all = this._intervals.map((interval) => [...interval]);
    if (this._open && this._open.last > this._open.from) {
      all.push([this._open.from, this._open.last, this._open.z]);
    }
    return all;
  }

  /** Return [[from, to], ...] of waiting for the model; a wait that goes on ends now. */
  waits() {
    const all = this._waiting.map((wait) => [...wait]);
    if (this._waitingSince !== null) all.push([this._waitingSince, this.elapsedMs]);
    return all;
  }

  /** Return active ms for the display: with the time since the last sign of life. */
  activeMs() {
    const at = this.elapsedMs;
    let sum = this._intervals.reduce((total, [from, to]) => total + to - from, 0);
    if (this._open) {
      const idle = at - this._open.last > this.idleLimitMs;
      sum += (idle ? this._open.last : at) - this._open.from;
    }
    return sum;
  }

  _endIfIdle(at) {
    if (!this._open || at - this._open.last <= this.idleLimitMs) return false;
    this._close(this._open.last);
    return true;
  }

  _settle(at) {
    if (!this._endIfIdle(at) && this._open) this._close(at);
  }

  _close(at) {
    const { from, z } = this._open;
    this._open = null;
    if (at <= from) return;
    const last = this._intervals.at(-1);
    if (last && last[1] === from && last[2] === z) last[1] = at;
    else this._intervals.push([from, at, z]);
  }
}
