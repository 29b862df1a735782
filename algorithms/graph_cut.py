"""Minimum cut between foreground and background: the last step of interactive segmentation.

On real problems nearly every pixel is decided by its own probability and its neighbours'. Such
pixels are found first, by a proof and not by a threshold (`graph_cut_reduction`), so that a
max-flow engine sees only what is left. Energies are counted in whole units (`_PER_NAT`), the same
in every engine; of several minimum cuts the one with the fewest foreground pixels is taken, and
that is unique. So every engine, and every order of the pixels, gives the same mask.
"""

import importlib.util
from collections.abc import Callable
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import FloatArray, MaskArray
from algorithms.graph_cut_reduction import OPEN, Grid, Integers, Step, decide, make_grid, open_edges

Engine = Literal["auto", "pymaxflow", "scipy"]
Neighbourhood = Literal["full", "face"]

_LOWEST = 1e-6  # probabilities are clipped to [_LOWEST, 1 - _LOWEST]
_PER_NAT = 2.0**20  # units per nat of energy, so the resolution is 1e-6 ...
_LARGEST = 2.0**29  # ... unless this is too little for all terms of one pixel together
_CERTAIN = 2**30  # units; outweighs all terms of one pixel, and the sum still is an int32
_WORTH = 0.75  # another round is worth its time if the last one left less than this part


def minimum_cut(
    foreground_probability: NDArray[np.floating],
    image: NDArray[np.floating],
    foreground_seeds: MaskArray | None,
    background_seeds: MaskArray | None,
    *,
    spacing_mm: tuple[float, ...] | None = None,
    pairwise_weight: float = 5.0,
    intensity_sigma: float = 0.1,
    neighbourhood: Neighbourhood = "face",
    region: MaskArray | None = None,
    engine: Engine = "auto",
) -> MaskArray:
    """Return the labels y of least energy that agree with the seeds: (3-8) to (3-10).

    E(y) = sum over pixels i of -(y_i log r_i + (1 - y_i) log(1 - r_i))
         + sum over pairs of neighbours i, j with y_i != y_j of
           pairwise_weight * exp(-(I_i - I_j)^2 / (2 intensity_sigma^2)) / distance_ij

    Each term is rounded to 1e-6 (with weights above about 40 in 3-D coarser: to 1e-9 of all
    terms of a pixel together). Of several minima the one with the fewest foreground pixels.

    Args:
        foreground_probability: r, `[y, x]` or `[z, y, x]`; clipped to [1e-6, 1 - 1e-6].
        image: I, grey values of the same shape, in the unit of `intensity_sigma`.
        foreground_seeds: True where y is 1 whatever it costs; None means no seeds.
        background_seeds: True where y is 0 whatever it costs; None means no seeds.
        spacing_mm: of the axes, in their order; None means 1 mm.
        pairwise_weight: lambda, the cost of 1 / mm of boundary in a homogeneous area.
        intensity_sigma: difference of grey values that counts as an edge.
        neighbourhood: "face" for 4 / 6 neighbours, "full" for 8 / 26. A weight that suits one is
            too large or too small for the other.
        region: outside it a pixel that is no seed is foreground where r > 0.5; None means that
            all pixels may change.
        engine: "pymaxflow" (GPL, may be absent), "scipy", or "auto" for the fastest there is.

    Returns:
        True in the foreground, the image's shape.

    Raises:
        ValueError: shapes, types or parameters that do not fit.
        DataError: a value is not finite, a probability is outside [0, 1], a pixel is a seed of
            both kinds, or the engine is not installed.

    >>> minimum_cut(np.array([[0.6, 0.4, 0.1]]), np.zeros((1, 3)), None, None).tolist()
    [[False, False, False]]
    """
    _check_values(foreground_probability, image)
    steps = _steps(image, spacing_mm, pairwise_weight, intensity_sigma, neighbourhood)
    if engine not in _ENGINES:
        raise ValueError(f"engine '{engine}' is unknown: {', '.join(map(repr, _ENGINES))}")
    foreground = _checked_mask("foreground_seeds", foreground_seeds, image.shape, False)
    background = _checked_mask("background_seeds", background_seeds, image.shape, False)
    if (foreground & background).any():
        place = tuple(np.argwhere(foreground & background)[0].tolist())
        raise DataError(f"pixel {place} is clicked as foreground and background: remove one click")
    label = ((foreground_probability > 0.5) | foreground) & ~background
    free = _checked_mask("region", region, image.shape, True)
    # What lies farther than one pixel from the region has no edge to it.
    box = _box_around(free)
    if box is None:
        return label
    certain = ~free[box] | foreground[box] | background[box]
    scale = min(_PER_NAT, _LARGEST / (2.0 * sum(w for _, w in steps) - np.log(_LOWEST)))
    terminal = np.where(
        certain,
        np.where(label[box], _CERTAIN, -_CERTAIN),
        np.rint(_log_odds(foreground_probability[box]) * scale),
    ).astype(np.int32)
    grid = make_grid(terminal, image[box], intensity_sigma, [(s, w * scale) for s, w in steps])
    _solve(grid, _ENGINES[engine])
    inside = (slice(1, -1),) * image.ndim
    label[box] = grid.label.reshape([n + 2 for n in terminal.shape])[inside]
    return label


def cut_energy(
    labels: MaskArray,
    foreground_probability: NDArray[np.floating],
    image: NDArray[np.floating],
    *,
    spacing_mm: tuple[float, ...] | None = None,
    pairwise_weight: float = 5.0,
    intensity_sigma: float = 0.1,
    neighbourhood: Neighbourhood = "face",
) -> float:
    """Return the energy (3-8) of labels, which `minimum_cut` makes least; nothing is rounded.

    Args:
        labels: True in the foreground, the image's shape.
        foreground_probability: as for `minimum_cut`, like all that follows.
        image: grey values.
        spacing_mm: of the axes.
        pairwise_weight: lambda.
        intensity_sigma: difference of grey values that counts as an edge.
        neighbourhood: "face" or "full".

    Returns:
        The energy in nats. Seeds have the cost of their label like other pixels.

    Raises:
        ValueError: shapes, types or parameters that do not fit.
        DataError: a value is not finite, or a probability is outside [0, 1].

    >>> round(cut_energy(np.array([[True, False]]), np.full((1, 2), 0.5), np.zeros((1, 2))), 4)
    6.3863
    """
    _check_values(foreground_probability, image)
    steps = _steps(image, spacing_mm, pairwise_weight, intensity_sigma, neighbourhood)
    _checked_mask("labels", labels, image.shape, False)
    r = np.clip(foreground_probability.astype(np.float64), _LOWEST, 1.0 - _LOWEST)
    energy = -float(np.log(np.where(labels, r, 1.0 - r)).sum())
    grey = image.astype(np.float64)
    for step, weight in steps:
        here = tuple(
            slice(max(-s, 0), n - max(s, 0)) for s, n in zip(step, grey.shape, strict=True)
        )
        there = tuple(
            slice(max(s, 0), n - max(-s, 0)) for s, n in zip(step, grey.shape, strict=True)
        )
        cut = labels[here] != labels[there]
        with np.errstate(over="ignore"):  # an infinite difference is an edge that costs nothing
            difference = (grey[here][cut] - grey[there][cut]) / intensity_sigma
            energy += weight * float(np.exp(-0.5 * np.square(difference)).sum())
    return energy


def _check_values(probability: NDArray[np.floating], image: NDArray[np.floating]) -> None:
    if image.ndim not in (2, 3) or image.size == 0:
        raise ValueError(f"an image is [y, x] or [z, y, x] and not empty, not {image.shape}")
    if probability.shape != image.shape:
        raise ValueError(f"probabilities {probability.shape} for an image of {image.shape}")
    for name, values in (("the image", image), ("the probability map", probability)):
        if not np.issubdtype(values.dtype, np.floating):
            raise ValueError(f"{name} has type {values.dtype}, not a floating-point one")
        if not np.isfinite(values).all():
            raise DataError(f"{name} holds values that are not finite: make it again")
    if probability.min() < 0.0 or probability.max() > 1.0:
        raise DataError("the probability map leaves [0, 1]: give probabilities, not logits")


def _checked_mask(
    name: str, mask: MaskArray | None, shape: tuple[int, ...], default: bool
) -> MaskArray:
    if mask is None:
        return np.full(shape, default)
    if mask.shape != shape or mask.dtype != bool:
        raise ValueError(f"{name} {mask.dtype} {mask.shape} for an image of {shape}")
    return mask


def _steps(
    image: NDArray[np.floating],
    spacing_mm: tuple[float, ...] | None,
    pairwise_weight: float,
    sigma: float,
    neighbourhood: Neighbourhood,
) -> list[Step]:
    """Return the steps to the neighbours that come later, each with lambda / distance."""
    spacing = spacing_mm or (1.0,) * image.ndim
    if len(spacing) != image.ndim or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise ValueError(f"spacing {spacing_mm} for {image.ndim} axes: a positive number for each")
    if not (np.isfinite(sigma) and sigma > 0):
        raise ValueError(f"intensity_sigma {sigma} is not a positive number")
    if neighbourhood not in ("face", "full"):
        raise ValueError(f"neighbourhood '{neighbourhood}' is unknown: 'face' or 'full'")
    steps = []
    for step in product((-1, 0, 1), repeat=image.ndim):
        if step > (0,) * image.ndim and (neighbourhood == "full" or sum(map(abs, step)) == 1):
            length_mm = float(np.linalg.norm(np.multiply(step, spacing)))
            steps.append((step, pairwise_weight / length_mm))
    if not all(np.isfinite(weight) and weight >= 0 for _, weight in steps):
        raise ValueError(
            f"pairwise_weight {pairwise_weight} over the distance is negative or not finite"
        )
    return steps


def _log_odds(probability: NDArray[np.floating]) -> FloatArray:
    r = np.clip(probability.astype(np.float64), _LOWEST, 1.0 - _LOWEST)
    return np.log(r / (1.0 - r))


def _box_around(region: MaskArray) -> tuple[slice, ...] | None:
    """Return the bounding box of a region with a margin of one pixel; None without a region."""
    box = []
    for axis, length in enumerate(region.shape):
        others = tuple(a for a in range(region.ndim) if a != axis)
        places = np.flatnonzero(region.any(axis=others))
        if not places.size:
            return None
        box.append(slice(max(places[0] - 1, 0), min(places[-1] + 2, length)))
    return tuple(box)


def _solve(grid: Grid, engine: "Solver") -> None:
    """Label all pixels of a grid: round by round what can be decided, by an engine the rest."""
    active = np.flatnonzero(grid.state == OPEN).astype(np.int32)
    while active.size:
        before = active.size
        active = decide(grid, active)
        if active.size > _WORTH * before:
            break
    if active.size:
        grid.label[active] = engine(grid.terminal[active], *open_edges(grid, active))


def _pymaxflow(
    terminal: Integers, tails: Integers, heads: Integers, capacities: Integers
) -> MaskArray:
    try:
        import maxflow
    except ImportError:
        raise DataError("PyMaxflow is not installed: use the engine 'scipy' or 'auto'") from None
    graph = maxflow.GraphInt(terminal.size, tails.size)
    nodes = graph.add_nodes(terminal.size)
    graph.add_edges(tails, heads, capacities, capacities)
    # Its segment True is only what still reaches the sink: the sink stands for the foreground,
    # so that this is the least foreground.
    graph.add_grid_tedges(nodes, np.maximum(-terminal, 0), np.maximum(terminal, 0))
    graph.maxflow()
    return np.asarray(graph.get_grid_segments(nodes))


def _scipy(terminal: Integers, tails: Integers, heads: Integers, capacities: Integers) -> MaskArray:
    source, sink = terminal.size, terminal.size + 1
    plus, minus = np.flatnonzero(terminal > 0), np.flatnonzero(terminal < 0)
    rows = np.concatenate([tails, heads, np.full(plus.size, source), minus])
    columns = np.concatenate([heads, tails, plus, np.full(minus.size, sink)])
    values = np.concatenate([capacities, capacities, terminal[plus], -terminal[minus]])
    size = (sink + 1, sink + 1)
    graph = sparse.coo_array((values, (rows, columns)), shape=size).tocsr()
    left = graph - csgraph.maximum_flow(graph, source, sink).flow
    left.eliminate_zeros()
    # The source stands for the foreground: what it still reaches is the least foreground.
    reached = np.zeros(sink + 1, dtype=bool)
    reached[csgraph.breadth_first_order(left, source, return_predecessors=False)] = True
    return reached[:source]


def _auto(terminal: Integers, tails: Integers, heads: Integers, capacities: Integers) -> MaskArray:
    present = importlib.util.find_spec("maxflow") is not None
    return (_pymaxflow if present else _scipy)(terminal, tails, heads, capacities)


Solver = Callable[[Integers, Integers, Integers, Integers], MaskArray]
_ENGINES: dict[str, Solver] = {"auto": _auto, "pymaxflow": _pymaxflow, "scipy": _scipy}
