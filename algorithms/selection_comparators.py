"""What other methods would ask doctors about: each strategy beside its source.

A strategy is given candidates in order of their ids and chooses by position; ties go to the lowest.
SciPy and scikit-learn are imported where they are used: the names of the strategies are needed
where a slow start would be felt.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from algorithms.slice_description import SliceDescription

Vector = NDArray[np.float64]
CHOSEN = "chosen"


@dataclass(frozen=True, eq=False)
class Candidates:
    """The slices that a strategy chooses from.

    Attributes:
        features: float64 `[n, d]`, (6-2); zeros where no foreground is predicted.
        reference_points: float64 `[k, d]`, all that is known of the source hospital.
        distances: `[n]`, to the nearest reference point, (6-5); NaN where a row of features is
            zero.
        described: what else the model says about them; None where nobody asked it.
    """

    features: Vector
    reference_points: Vector
    distances: Vector
    described: SliceDescription | None

    def __len__(self) -> int:
        return len(self.features)

    @property
    def description(self) -> SliceDescription:
        """What else the model says about the slices.

        Raises:
            ValueError: nobody asked it.
        """
        if self.described is None:
            raise ValueError("this strategy needs `described`: see `features.describe_slices`")
        return self.described


Choice = list[tuple[int, str]]
# candidates, number of domain-invariant and of domain-specific slices, generator. Strategies that
# know no halves choose the sum.
Strategy = Callable[[Candidates, int, int, np.random.Generator], Choice]


def highest(scores: NDArray[np.floating], count: int) -> Choice:
    """Choose the `count` slices of the highest score."""
    return [(int(i), CHOSEN) for i in np.argsort(-scores, kind="stable")[:count]]


def random(slices: Candidates, near: int, far: int, rng: np.random.Generator) -> Choice:
    """Draw slices at random."""
    return [(int(i), CHOSEN) for i in rng.permutation(len(slices))[: near + far]]


def least_confidence(slices: Candidates, near: int, far: int, _rng: np.random.Generator) -> Choice:
    """Take where the least likely class is most likely: (2-14)."""
    return highest(slices.description.least_confidence, near + far)


def margin(slices: Candidates, near: int, far: int, _rng: np.random.Generator) -> Choice:
    """Take where the best class is least ahead of the second best: (2-15).

    With two classes that is 1 - 2 times the least confidence: the same choice.
    """
    return highest(-slices.description.margin, near + far)


def entropy(slices: Candidates, near: int, far: int, _rng: np.random.Generator) -> Choice:
    """Take where the entropy of the prediction is highest: (2-16)."""
    return highest(slices.description.entropy, near + far)


def cluster_representative(
    slices: Candidates, near: int, far: int, rng: np.random.Generator
) -> Choice:
    """Part the slices into as many clusters as may be chosen; take the most central of each (2.3).

    Clusters are of standardised embeddings, in which slices without predicted foreground differ
    too.
    """
    from scipy.spatial.distance import cdist
    from sklearn.cluster import KMeans

    count = near + far
    if not count:
        return []
    places = standardised(slices.description.embedding)
    distinct = len(np.unique(places, axis=0))
    fit = KMeans(min(count, distinct), n_init=3, random_state=int(rng.integers(2**31))).fit(places)
    chosen: list[int] = []
    free = np.ones(len(slices), dtype=bool)
    for distance in cdist(fit.cluster_centers_, places):
        chosen.append(int(np.argmin(np.where(free, distance, np.inf))))
        free[chosen[-1]] = False
    rest = np.flatnonzero(free)[: count - len(chosen)]  # where slices are copies of one another
    return [(int(i), CHOSEN) for i in (*chosen, *rest)]


def adversarial(slices: Candidates, near: int, far: int, _rng: np.random.Generator) -> Choice:
    """Take what a discriminator finds least like the source (as in AdaptSeg, Tsai et al. 2018).

    A discriminator would need the source hospital's images. Their reference points stand in: it is
    a logistic regression between those and the target slices.
    """
    return highest(-_source_probability(slices), near + far)


def aada(slices: Candidates, near: int, far: int, _rng: np.random.Generator) -> Choice:
    """Weigh entropy by how unlike the source a slice is: (1 - D) / D * H (Su et al., WACV 2020).

    D is that of `adversarial`.
    """
    source = _source_probability(slices).clip(1e-6, 1.0)
    return highest((1.0 - source) / source * slices.description.entropy, near + far)


def mhpl(slices: Candidates, near: int, far: int, _rng: np.random.Generator) -> Choice:
    """Take "minimum happy" points: uncertain among near neighbours of another kind (CVPR 2023).

    Score = (entropy of the neighbours' presence of foreground) * (mean similarity to them) * (own
    entropy), which carries the paper's purity and affinity over to slices, where there is one
    class; a slice with a chosen one among its neighbours waits until the others are used up.
    """
    description, count = slices.description, near + far
    places = _unit_rows(standardised(description.embedding))
    likeness = places @ places.T
    np.fill_diagonal(likeness, -np.inf)
    neighbours = np.argsort(-likeness, axis=1, kind="stable")[:, : min(10, len(slices) - 1)]
    if neighbours.shape[1] == 0:
        return highest(description.entropy, count)
    present = (description.foreground_share > 0)[neighbours].mean(axis=1)
    mixed = -sum(q * np.log(np.maximum(q, 1e-12)) for q in (present, 1.0 - present))
    affinity = np.take_along_axis(likeness, neighbours, axis=1).mean(axis=1)
    score = (mixed + 0.1) * (affinity + 1.0) * description.entropy
    chosen: list[int] = []
    waiting: list[int] = []
    for i in np.argsort(-score, kind="stable"):
        near_one = not set(neighbours[i].tolist()).isdisjoint(chosen)
        (waiting if near_one else chosen).append(int(i))
    return [(i, CHOSEN) for i in (*chosen, *waiting)[:count]]


def standardised(rows: NDArray[np.floating]) -> Vector:
    """Give every column zero mean and unit variance."""
    values = rows.astype(np.float64)
    scaled: Vector = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-6)
    return scaled


def _unit_rows(rows: Vector) -> Vector:
    unit: Vector = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit


def _source_probability(slices: Candidates) -> Vector:
    """Return a discriminator's probability that a slice is the source's."""
    from sklearn.linear_model import LogisticRegression

    rows = np.concatenate([slices.reference_points, slices.features])
    domain = np.repeat([1, 0], [len(slices.reference_points), len(slices)])
    scale = rows.std(axis=0)
    scale = np.where(scale > 1e-9 * np.abs(rows).max(), scale, np.inf)  # a constant tells nothing
    judge = LogisticRegression(C=0.01, class_weight="balanced", max_iter=5000).fit(
        rows / scale, domain
    )
    probability: Vector = judge.predict_proba(slices.features / scale)[:, 1]
    return probability
