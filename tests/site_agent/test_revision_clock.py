"""The clock of a revision: against a tape painted millisecond by millisecond, and its laws."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from site_agent.revision_clock import UNBOUND, Sitting, WorkTime, measure

TAPE_MS = 240
WAITING = -2


@st.composite
def sittings(draw, most: int = 4) -> list[Sitting]:
    """Draw sittings with work and waiting by turns, some before the draft and after its end."""
    found = []
    for _ in range(draw(st.integers(0, most))):
        edges = sorted(draw(st.lists(st.integers(0, 200), max_size=12)))
        spans = list(zip(edges[::2], edges[1::2], strict=False))
        kinds = [draw(st.integers(-2, 3)) for _ in spans]
        found.append(
            Sitting(
                began_ms=draw(st.integers(-60, 200)),
                active=[(*s, z) for s, z in zip(spans, kinds, strict=True) if z != WAITING],
                waiting=[s for s, z in zip(spans, kinds, strict=True) if z == WAITING],
                counted=draw(st.dictionaries(st.integers(-1, 3), st.integers(0, 200), max_size=3)),
            )
        )
    return found


def tape(days: list[Sitting], wall_ms: int) -> dict[int, float]:
    """Paint every millisecond with what was done in it, the newest sitting last."""
    painted = np.full(1000, -9)
    for sitting in days:
        for start, stop, what in [*sitting.active, *((*s, WAITING) for s in sitting.waiting)]:
            counted = sitting.counted.get(max(what, UNBOUND), 0)
            for ms in range(start, stop):
                at = sitting.began_ms + ms
                if ms >= counted and 0 <= at < wall_ms:
                    painted[at] = what
    return {
        int(what): float(count) / 1000
        for what, count in zip(*np.unique(painted, return_counts=True), strict=True)
        if what != -9
    }


@given(sittings(), st.integers(0, 400))
def test_it_reads_the_tape(days, wall_ms) -> None:
    expected = tape(days, wall_ms)
    time = measure(days, wall_ms=wall_ms)
    assert time.model_wait_s == pytest.approx(expected.pop(WAITING, 0.0))
    assert time.slice_s == pytest.approx(expected)
    assert time.active_s == pytest.approx(sum(expected.values()))
    assert time.wall_s == wall_ms / 1000


@given(sittings(), st.integers(-50, 400))
def test_nobody_works_for_longer_than_time_passed(days, wall_ms) -> None:
    time = measure(days, wall_ms=wall_ms)
    assert 0 <= time.active_s + time.model_wait_s <= time.wall_s + 1e-9


@given(sittings(), st.data())
def test_an_interval_in_two_pieces_is_as_long(days, data) -> None:
    def split(sitting: Sitting) -> Sitting:
        pieces = []
        for start, stop, z in sitting.active:
            at = data.draw(st.integers(start, stop))
            pieces += [(start, at, z), (at, stop, z)]
        return replace(sitting, active=pieces)

    whole = measure(days, wall_ms=TAPE_MS)
    assert measure([split(sitting) for sitting in days], wall_ms=TAPE_MS) == whole


@given(sittings(most=1), st.integers(0, 200))
def test_a_reload_at_any_moment_neither_loses_nor_doubles(days, reload_ms) -> None:
    """The old window knows what was before it, the new one what came after."""
    one = replace(days[0] if days else Sitting(0, []), counted={})

    def part(first: int, last: int, shift: int) -> Sitting:
        def cut(spans):
            return [
                (max(start, first) - shift, min(stop, last) - shift, *what)
                for start, stop, *what in spans
                if max(start, first) < min(stop, last)
            ]

        return Sitting(one.began_ms + shift, cut(one.active), cut(one.waiting))

    before, after = part(0, reload_ms, 0), part(reload_ms, 10_000, reload_ms)
    assert measure([before, after], wall_ms=TAPE_MS) == measure([one], wall_ms=TAPE_MS)


@given(sittings(), st.integers(0, 3))
def test_the_same_window_twice_counts_once(days, which) -> None:
    """A message that came again, or another window over the same time."""
    again = [*days, *days[which : which + 1]]
    twice = measure(again, wall_ms=TAPE_MS)
    assert twice.active_s + twice.model_wait_s == pytest.approx(sum(tape(again, TAPE_MS).values()))
    one = days[:1]
    assert measure(one * 3, wall_ms=TAPE_MS) == measure(one, wall_ms=TAPE_MS)


@given(sittings(), st.lists(st.sets(st.integers(0, 3), min_size=1), max_size=4))
def test_saves_in_between_add_up_to_what_was_worked(days, saves) -> None:
    """Slices are saved one after the other, and each save counts what none before it did."""
    days = [replace(day, counted={}, began_ms=300 * i) for i, day in enumerate(days)]
    whole = measure(days, wall_ms=2000)
    saved, done = 0.0, set()
    for slices in saves:
        slices = slices - done
        if not slices:
            continue
        saved += sum(measure(days, wall_ms=2000).of_slices(sorted(slices)).values())
        done |= slices
        counted = dict.fromkeys((UNBOUND, *done), 10_000)
        days = [replace(day, counted=counted) for day in days]
    rest = measure(days, wall_ms=2000)
    assert saved + rest.active_s == pytest.approx(whole.active_s)


def test_two_windows_over_each_other_count_once_and_the_newer_says_for_what() -> None:
    old = Sitting(0, [(0, 60_000, 4)])
    new = Sitting(30_000, [(0, 10_000, 5)], [(10_000, 12_000)])
    assert measure([old, new], wall_ms=100_000) == WorkTime(58.0, 2.0, 100.0, {4: 48.0, 5: 10.0})


def test_what_was_for_no_slice_is_shared_out() -> None:
    time = WorkTime(10.0, 0.0, 20.0, {UNBOUND: 4.0, 3: 5.0, 7: 1.0})
    assert time.of_slices([3, 7]) == {3: 7.0, 7: 3.0}
    assert time.of_slices([9]) == {9: 4.0}
    assert time.of_slices([]) == {}
