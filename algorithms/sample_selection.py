"""Which slices doctors are asked to annotate: STDR (6-5), (6-6) and its comparators."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from algorithms.selection_comparators import (
    CHOSEN,
    Candidates,
    Choice,
    Strategy,
    Vector,
    aada,
    adversarial,
    cluster_representative,
    entropy,
    least_confidence,
    margin,
    mhpl,
    random,
)
from algorithms.slice_description import SliceDescription

DOMAIN_INVARIANT = "domain_invariant"
DOMAIN_SPECIFIC = "domain_specific"
REPRESENTATIVE = "representative"


@dataclass(frozen=True)
class Selection:
    """Slices in the order in which they were chosen.

    Attributes:
        ids: as given to `select`, or positions.
        roles: "domain_invariant", "domain_specific", "chosen" or "representative".
        scores: distance to the nearest reference point (6-5); NaN for slices without
            predicted foreground, which have no place among the reference points.
    """

    ids: tuple[int, ...]
    roles: tuple[str, ...]
    scores: tuple[float, ...]


def distances_to_reference_points(
    features: NDArray[np.float32] | Vector, reference_points: NDArray[np.float32] | Vector
) -> Vector:
    """Return Simi(I) = min_k ||F - R_k||^2 per slice (6-5); NaN where a row of `features` is zero.

    Args:
        features: `[n, d]`; a row of zeros says that no foreground was predicted.
        reference_points: `[k, d]`.
    """
    f = np.asarray(features, dtype=np.float64)
    r = np.asarray(reference_points, dtype=np.float64)
    nearest: Vector = np.stack([np.square(f - point).sum(axis=1) for point in r]).min(axis=0)
    nearest[~np.any(f != 0, axis=1)] = np.nan
    return nearest


def select(
    features: NDArray[np.float32] | Vector,
    reference_points: NDArray[np.float32] | Vector,
    budget: int,
    *,
    strategy: str = "stdr",
    ids: Sequence[int] | None = None,
    patients: Sequence[str] | None = None,
    representative: int = 0,
    described: SliceDescription | None = None,
    rng: np.random.Generator | None = None,
) -> Selection:
    """Choose `budget` slices to annotate.

    Empty predictions have a zero vector. Taken literally they lie nearest to a reference point and
    fill the domain-invariant half with slices on which there is nothing to learn; left out, a
    patient whose tumour the model misses is never asked about. Here they are domain-invariant only
    when nothing else is left, and take part in the domain-specific half in the proportion in which
    they occur, evenly spaced in order of id, so that every patient has its turn. Ties go to the
    lowest id, and no slice is chosen twice.

    Printed, all slices of a site are ranked together. Where patients are few, one of them may then
    fill a whole half with nearly equal neighbours. Given `patients`, the budget is shared out among
    them in proportion to their slices, and each patient's slices are ranked by themselves. Both
    halves stay halves of the whole budget.

    What a strategy chooses is no sample: STDR takes the slices on which the source model is most
    and least at home, and what is measured on them is biased (Kossen et al., Active testing, ICML
    2021). So a part of the budget can be spaced evenly instead, to measure on and to learn from.

    Args:
        features: `[n, d]` of `features.latent_features`.
        reference_points: `[k, d]` of the package.
        budget: number of slices, at most `n`.
        strategy: a name in `STRATEGIES`.
        ids: names of the rows, all different; default 0..n-1.
        patients: whose slice each row is; None ranks all together.
        representative: so many of the budget are spaced evenly in order of id, the strategy chooses
            the others among what is left.
        described: what else the model says about the slices, in the order of `features`; most
            strategies beside STDR need it.
        rng: for strategies that draw.

    Raises:
        ValueError: for an impossible budget, repeated ids, an unknown strategy, `patients` of
            another length, or a strategy that needs `described` without it.
    """
    names = np.arange(len(features)) if ids is None else np.asarray(ids)
    if not 0 <= budget <= len(features):
        raise ValueError(f"a budget of {budget} for {len(features)} slices")
    if not 0 <= representative <= budget:
        raise ValueError(f"{representative} representative slices in a budget of {budget}")
    if len(np.unique(names)) != len(features):
        raise ValueError("ids must name every row once")
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown strategy '{strategy}': one of {', '.join(sorted(STRATEGIES))}")
    if patients is not None and len(patients) != len(features):
        raise ValueError(f"{len(patients)} patients for {len(features)} slices")
    rng = rng or np.random.default_rng(0)
    # Working in order of id makes the choice independent of the order of the rows.
    by_id = np.argsort(names, kind="stable")
    rows = np.asarray(features, dtype=np.float64)[by_id]
    points = np.asarray(reference_points, dtype=np.float64)
    distances = distances_to_reference_points(rows, points)
    sorted_description = None if described is None else described.rows(by_id)
    whose = np.zeros(len(names), dtype=int) if patients is None else np.asarray(patients)[by_id]
    groups = [np.flatnonzero(whose == patient) for patient in dict.fromkeys(whose.tolist())]
    parts = _share_out(budget, [len(group) for group in groups])
    even = _share_out(representative, parts)
    ranked = [part - count for part, count in zip(parts, even, strict=True)]
    total = budget - representative
    halves = _share_out(total - total // 2, ranked)  # an odd slice is domain-invariant
    chosen: Choice = []
    for group, count, rest, half in zip(groups, even, ranked, halves, strict=True):
        evenly = group[_evenly(count, len(group))]
        others = np.setdiff1d(group, evenly)
        candidates = Candidates(
            rows[others],
            points,
            distances[others],
            None if sorted_description is None else sorted_description.rows(others),
        )
        choice = STRATEGIES[strategy](candidates, half, rest - half, rng) if rest else []
        chosen += [(int(others[i]), role) for i, role in choice]
        chosen += [(int(i), REPRESENTATIVE) for i in evenly]
    return Selection(
        ids=tuple(int(names[by_id[index]]) for index, _ in chosen),
        roles=tuple(role for _, role in chosen),
        scores=tuple(float(distances[index]) for index, _ in chosen),
    )


def _share_out(budget: int, sizes: Sequence[int]) -> list[int]:
    """Share a budget out in proportion to `sizes`; what rounding leaves goes to the largest rests.

    >>> _share_out(5, [10, 10, 6])
    [2, 2, 1]
    """
    exact = [budget * size / max(sum(sizes), 1) for size in sizes]
    parts = [int(part) for part in exact]
    rests = sorted(range(len(sizes)), key=lambda i: (parts[i] - exact[i], i))
    for i in rests[: budget - sum(parts)]:
        parts[i] += 1
    return parts


def _evenly(count: int, length: int) -> NDArray[np.int64]:
    """Return the middles of `count` equal parts of `range(length)`.

    >>> _evenly(3, 12).tolist()
    [2, 6, 10]
    """
    return ((np.arange(count) + 0.5) * length / max(count, 1)).astype(np.int64)


def _nearest(distances: Vector, count: int) -> list[int]:
    """Take the `count` nearest; slices with empty predictions only when the others are used up."""
    return [int(i) for i in np.argsort(np.nan_to_num(distances, nan=np.inf), kind="stable")[:count]]


def _farthest(distances: Vector, count: int, taken: Sequence[int] = ()) -> list[int]:
    """Take the `count` farthest that are not `taken`, empty predictions in their proportion."""
    free = np.setdiff1d(np.arange(len(distances)), taken)
    empty = free[np.isnan(distances[free])]
    found = free[~np.isnan(distances[free])]
    quota = round(count * len(empty) / len(free)) if len(free) else 0
    quota = min(max(quota, count - len(found)), len(empty))
    farthest = found[np.argsort(-distances[found], kind="stable")][: count - quota]
    return [int(i) for i in (*farthest, *empty[_evenly(quota, len(empty))])]


def _stdr(slices: Candidates, near: int, far: int, _rng: np.random.Generator) -> Choice:
    """(6-6): half of the budget nearest to the source, half farthest."""
    invariant = _nearest(slices.distances, near)
    specific = _farthest(slices.distances, far, invariant)
    return [(i, DOMAIN_INVARIANT) for i in invariant] + [(i, DOMAIN_SPECIFIC) for i in specific]


def _stdr_invariant(slices: Candidates, near: int, far: int, _rng: np.random.Generator) -> Choice:
    """Ablation: only domain-invariant slices."""
    return [(i, DOMAIN_INVARIANT) for i in _nearest(slices.distances, near + far)]


def _stdr_specific(slices: Candidates, near: int, far: int, _rng: np.random.Generator) -> Choice:
    """Ablation: only domain-specific slices."""
    return [(i, DOMAIN_SPECIFIC) for i in _farthest(slices.distances, near + far)]


def _coverage(slices: Candidates, near: int, far: int, _rng: np.random.Generator) -> Choice:
    """Our own: evenly, in order of id, through the slices on which the model finds the target.

    A slice teaches a fine-tuning of minutes by its target, which four in five slices of a body do
    not show, and by what its neighbours have not taught already. Where slices are numbered patient
    by patient from end to end, even spacing takes every patient, and both ends of every target.
    Slices without finding follow, evenly too, once the others are used up.
    """
    found = np.flatnonzero(~np.isnan(slices.distances))
    empty = np.flatnonzero(np.isnan(slices.distances))
    told = min(near + far, len(found))
    chosen = [found[_evenly(told, len(found))], empty[_evenly(near + far - told, len(empty))]]
    return [(int(i), CHOSEN) for i in np.concatenate(chosen)]


STRATEGIES: dict[str, Strategy] = {
    "coverage": _coverage,
    "stdr": _stdr,
    "stdr_invariant": _stdr_invariant,
    "stdr_specific": _stdr_specific,
    "random": random,
    "least_confidence": least_confidence,
    "margin": margin,
    "entropy": entropy,
    "cluster_representative": cluster_representative,
    "adversarial": adversarial,
    "aada": aada,
    "mhpl": mhpl,
}
