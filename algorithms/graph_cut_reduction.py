"""What every minimum cut must contain, found by proof before an engine is asked (see `decide`).

A push-relabel method that gives up early: on real problems nearly every pixel is decided by its own
terminal and its neighbours', and only few are left to solve.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from algorithms.contracts.volume import FloatArray, MaskArray

Integers = NDArray[np.int32]
Step = tuple[tuple[int, ...], float]

_HIGHEST = 4  # a pixel that has to be higher to pass on its excess is given up; 2 to 8 do as well
_BACKGROUND, _FOREGROUND = 0, 1  # the label that a pixel is thought to have
OPEN, _GONE = 2, 3  # not decided; decided in an earlier round, or outside the image


class Grid(NamedTuple):
    """A flat image with a border that is `_GONE`, while its pixels are decided.

    The small functions over it are inlined: handing it over costs more than what they do.
    """

    state: NDArray[np.int8]
    label: MaskArray
    terminal: Integers  # how much dearer background is than foreground, in units
    grey: FloatArray
    sigma: float
    offsets: NDArray[np.int64]  # of the neighbours that come later
    weights: FloatArray  # of the edges to them between equal grey values, in units
    capacity: Integers  # [pixel, offset]: of an edge, plus 1; 0 is not computed yet
    flow: Integers  # [pixel, offset]: along an edge
    spare: Integers  # what a pixel can still absorb; its excess if negative
    height: NDArray[np.int8]
    queue: Integers  # a ring of the pixels with excess
    ends: NDArray[np.int64]  # where to take from it, where to put in
    queued: MaskArray


def make_grid(
    terminal: Integers, image: NDArray[np.floating], sigma: float, steps: list[Step]
) -> Grid:
    """Lay out the terminals and edges of an image, all pixels open.

    Args:
        terminal: how much dearer background is than foreground, in units, `[y, x]` or `[z, y, x]`.
        image: grey values, same shape.
        sigma: difference of grey values that counts as an edge.
        steps: to half of the neighbours, with the weight of an edge between equal grey values.
    """
    # A border that never takes part spares all bounds checks.
    state = np.pad(np.full(terminal.shape, OPEN, np.int8), 1, constant_values=_GONE)
    offsets = [int(np.dot(step, state.strides)) for step, _ in steps]
    edges = (state.size, len(steps))
    return Grid(
        state=state.reshape(-1),
        label=np.zeros(state.size, dtype=bool),
        terminal=np.pad(terminal, 1).reshape(-1),
        grey=np.pad(image.astype(np.float64), 1).reshape(-1),
        sigma=float(sigma),
        offsets=np.array(offsets, dtype=np.int64),
        weights=np.array([weight for _, weight in steps]),
        # Fresh zeros take no memory before they are touched, and few of them are.
        capacity=np.zeros(edges, dtype=np.int32),
        flow=np.zeros(edges, dtype=np.int32),
        spare=np.zeros(state.size, dtype=np.int32),
        height=np.zeros(state.size, dtype=np.int8),
        queue=np.zeros(terminal.size + 1, dtype=np.int32),
        ends=np.zeros(2, dtype=np.int64),
        queued=np.zeros(state.size, dtype=bool),
    )


@njit(cache=True, nogil=True)
def decide(grid: Grid, active: Integers) -> Integers:
    """Decide pixels, fold their edges into their neighbours' terminals, return the others.

    Let O be pixels thought to be background, and let flow inside O take the full capacity of
    all edges from elsewhere to their ends in O and on, so that no pixel absorbs more than its
    terminal. Then for any T in O the terminals of T hold at least w(T, elsewhere) - w(T, O - T):
    turning T to foreground never pays, whatever the others are, so O is background in the
    least minimum. Likewise foreground, where one unit kept back per pixel makes "never pays"
    strict. A pixel whose excess finds no way leaves O, and then counts as elsewhere.
    """
    _suppose(grid, active)
    while grid.ends[0] != grid.ends[1]:
        pixel = grid.queue[grid.ends[0]]
        grid.ends[0] = (grid.ends[0] + 1) % grid.queue.size
        grid.queued[pixel] = False
        _pass_on(grid, pixel)
        if grid.spare[pixel] < 0:
            _give_up(grid, pixel)
    return _settle(grid, active)


@njit(cache=True, nogil=True)
def _suppose(grid: Grid, active: Integers) -> None:
    """Suppose the label that each terminal prefers, and saturate all edges between labels."""
    for pixel in active:
        preference = grid.terminal[pixel]
        grid.state[pixel] = _FOREGROUND if preference > 0 else _BACKGROUND
        grid.spare[pixel] = preference - 1 if preference > 0 else -preference
        grid.height[pixel] = 0
        grid.flow[pixel] = 0
    for pixel in active:
        for k in range(grid.offsets.size):
            other = pixel + grid.offsets[k]
            if grid.state[other] == 1 - grid.state[pixel]:
                capacity = _capacity(grid, pixel, k)
                grid.spare[pixel] -= capacity
                grid.spare[other] -= capacity
    for pixel in active:
        _queue_if_full(grid, pixel)


@njit(cache=True, nogil=True)
def _pass_on(grid: Grid, pixel: int) -> None:
    """Push the excess of a pixel to lower neighbours or to such with something to spare.

    Heights are those of push-relabel methods: they only rise, so this comes to an end.
    """
    height = int(grid.height[pixel])
    while grid.spare[pixel] < 0 and height <= _HIGHEST:
        next_height = _HIGHEST + 1
        for k in range(2 * grid.offsets.size):
            tail, step, other = _edge(grid, pixel, k)
            if grid.state[other] != grid.state[pixel]:
                continue
            room = _room(grid, pixel, tail, step)
            spare = grid.spare[other]
            needed = grid.height[other] + (0 if spare > 0 else 1)
            if room <= 0:
                continue
            if needed > height:
                next_height = min(next_height, needed)
                continue
            pushed = min(-grid.spare[pixel], room, spare if spare > 0 else room)
            grid.flow[tail, step] += pushed if tail == pixel else -pushed
            grid.spare[pixel] += pushed
            grid.spare[other] -= pushed
            _queue_if_full(grid, other)
            if grid.spare[pixel] >= 0:
                break
            if pushed < room:
                next_height = min(next_height, grid.height[other] + 1)
        if grid.spare[pixel] < 0:
            height = max(next_height, height + 1)
    grid.height[pixel] = min(height, _HIGHEST)


@njit(cache=True, nogil=True)
def _give_up(grid: Grid, pixel: int) -> None:
    """Leave a pixel open: its edges to neighbours of the supposed label are saturated too."""
    for k in range(2 * grid.offsets.size):
        tail, step, other = _edge(grid, pixel, k)
        if grid.state[other] == grid.state[pixel]:
            grid.spare[other] -= _room(grid, pixel, tail, step)
            _queue_if_full(grid, other)
    grid.state[pixel] = OPEN


@njit(cache=True, nogil=True)
def _settle(grid: Grid, active: Integers) -> Integers:
    """Write the labels of what is decided; return what is open, with new terminals."""
    left = 0
    for pixel in active:
        if grid.state[pixel] != OPEN:
            grid.label[pixel] = grid.state[pixel] == _FOREGROUND
            continue
        left += 1
        for k in range(2 * grid.offsets.size):
            tail, step, other = _edge(grid, pixel, k)
            if grid.state[other] == _FOREGROUND:
                grid.terminal[pixel] += _capacity(grid, tail, step)
            elif grid.state[other] == _BACKGROUND:
                grid.terminal[pixel] -= _capacity(grid, tail, step)
    still_open = np.empty(left, dtype=np.int32)
    left = 0
    for pixel in active:
        if grid.state[pixel] == OPEN:
            still_open[left] = pixel
            left += 1
        else:
            grid.state[pixel] = _GONE
    return still_open


@njit(cache=True, nogil=True)
def open_edges(grid: Grid, active: Integers) -> tuple[Integers, Integers, Integers]:
    """Return tails, heads and capacities of the edges between open pixels, by their position."""
    number = np.empty(grid.state.size, dtype=np.int32)
    for i in range(active.size):
        number[active[i]] = i
    edges = np.empty((3, active.size * grid.offsets.size), dtype=np.int32)
    count = 0
    for pixel in active:
        for k in range(grid.offsets.size):
            other = pixel + grid.offsets[k]
            if grid.state[other] == OPEN and _capacity(grid, pixel, k) > 0:
                edges[0, count] = number[pixel]
                edges[1, count] = number[other]
                edges[2, count] = _capacity(grid, pixel, k)
                count += 1
    return edges[0, :count], edges[1, :count], edges[2, :count]


@njit(cache=True, nogil=True, inline="always")
def _edge(grid: Grid, pixel: int, k: int) -> tuple[int, int, int]:
    """Return the tail, the step and, seen from a pixel, the other end of its k-th edge."""
    count = grid.offsets.size
    if k < count:
        return pixel, k, pixel + grid.offsets[k]
    tail = pixel - grid.offsets[k - count]
    return tail, k - count, tail


@njit(cache=True, nogil=True, inline="always")
def _capacity(grid: Grid, tail: int, step: int) -> int:
    known = grid.capacity[tail, step]
    if known > 0:
        return int(known) - 1
    difference = (grid.grey[tail] - grid.grey[tail + grid.offsets[step]]) / grid.sigma
    units = int(grid.weights[step] * np.exp(-0.5 * difference * difference) + 0.5)
    grid.capacity[tail, step] = units + 1
    return units


@njit(cache=True, nogil=True, inline="always")
def _room(grid: Grid, pixel: int, tail: int, step: int) -> int:
    """Return what an edge can still take from a pixel, one of its ends."""
    flow = int(grid.flow[tail, step])
    return _capacity(grid, tail, step) - (flow if tail == pixel else -flow)


@njit(cache=True, nogil=True, inline="always")
def _queue_if_full(grid: Grid, pixel: int) -> None:
    if grid.spare[pixel] < 0 and not grid.queued[pixel]:
        grid.queued[pixel] = True
        grid.queue[grid.ends[1]] = pixel
        grid.ends[1] = (grid.ends[1] + 1) % grid.queue.size
