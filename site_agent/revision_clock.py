"""How long somebody worked on a contour: from what the viewer noted to seconds of work.

The viewer notes, on its own monotonic clock, when the doctor was active and when the model was
awaited. A sitting is one load of the viewer; a reload begins another one of the same draft. All
times here are whole milliseconds, so that nothing is lost by adding.

    active_s     = sum over sittings of the active intervals
    model_wait_s = sum over sittings of the waiting intervals, which are not active
    wall_s       = from the draft's beginning to its saving, on the server's clock

where the server's clock bounds what a browser may say: a sitting is placed on it by when its
messages came, and what lies before the draft's beginning or after its saving is cut off. Where two
sittings lie over each other, as with two windows, the newer one counts and the older one does not.
So nobody works for longer than time passed, and nothing counts twice.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

UNBOUND = -1  # work on no asked-for slice in particular
_WAITING = -2

Span = tuple[int, int]
Interval = tuple[int, int, int]  # from and to in ms since the sitting began; the slice


@dataclass(frozen=True)
class Sitting:
    """What one load of the viewer noted.

    Attributes:
        began_ms: on the server's clock, since the draft was begun; negative before that.
        active: in order, not overlapping.
        waiting: likewise.
        counted: by slice, up to when in this sitting an earlier save has counted its time already.
            Waiting and work on no slice in particular are under `UNBOUND`.
    """

    began_ms: int
    active: Sequence[Interval]
    waiting: Sequence[Span] = ()
    counted: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkTime:
    """What a draft took.

    Attributes:
        active_s: work, over everything.
        model_wait_s: waiting for the model.
        wall_s: from the beginning to the saving.
        slice_s: work by asked-for slice, and under `UNBOUND` what was for none of them.
    """

    active_s: float
    model_wait_s: float
    wall_s: float
    slice_s: Mapping[int, float]

    def of_slices(self, slices: Sequence[int]) -> dict[int, float]:
        """Return the work on each of the slices that are saved together.

        What was for no slice in particular is shared out evenly, so that over all saves the sum is
        what was worked.
        """
        share = self.slice_s.get(UNBOUND, 0.0) / max(len(slices), 1)
        return {z: self.slice_s.get(z, 0.0) + share for z in slices}


def measure(sittings: Sequence[Sitting], *, wall_ms: int) -> WorkTime:
    """Add up the sittings of one draft.

    >>> day = [Sitting(0, [(0, 4000, 5)]), Sitting(3000, [(0, 1000, 7)], [(1000, 1500)])]
    >>> measure(day, wall_ms=60_000)
    WorkTime(active_s=4.0, model_wait_s=0.5, wall_s=60.0, slice_s={5: 3.0, 7: 1.0})

    Args:
        sittings: all of them, the newest last.
        wall_ms: from the draft's beginning to now, or to its saving.
    """
    wall_ms = max(wall_ms, 0)
    day: list[Interval] = []
    for sitting in sittings:
        waiting = [(*span, _WAITING) for span in sitting.waiting]
        for spans in (sitting.active, waiting):
            day = _laid_over(day, _placed(sitting, spans, wall_ms))
    spent_ms: defaultdict[int, int] = defaultdict(int)
    for start, stop, what in day:
        spent_ms[what] += stop - start
    waited_ms = spent_ms.pop(_WAITING, 0)
    return WorkTime(
        active_s=sum(spent_ms.values()) / 1000,
        model_wait_s=waited_ms / 1000,
        wall_s=wall_ms / 1000,
        slice_s={z: ms / 1000 for z, ms in sorted(spent_ms.items())},
    )


def _placed(sitting: Sitting, spans: Sequence[Interval], wall_ms: int) -> list[Interval]:
    """Put spans of a sitting on the server's clock, without what does not count."""
    placed = []
    for start, stop, what in spans:
        counted = sitting.counted.get(max(what, UNBOUND), 0)
        start = sitting.began_ms + max(start, counted)
        stop = sitting.began_ms + stop
        if (start := max(start, 0)) < (stop := min(stop, wall_ms)):
            placed.append((start, stop, what))
    return placed


def _laid_over(below: list[Interval], above: list[Interval]) -> list[Interval]:
    """Return `above`, and of `below` what it does not cover; all in order."""
    seen, first = list(above), 0
    for start, stop, what in below:
        while first < len(above) and above[first][1] <= start:
            first += 1
        at = start
        for over in above[first:]:
            if over[0] >= stop:
                break
            if over[0] > at:
                seen.append((at, over[0], what))
            at = max(at, over[1])
        if at < stop:
            seen.append((at, stop, what))
    return sorted(seen)
