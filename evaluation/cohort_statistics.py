"""Statistics over the patients of a cohort: what is typical, what differs, and how sure that is.

Undefined figures (NaN) are never filled in: every answer says how many patients it is about and how
many were left out. Where those are failures, compare a figure that counts them, such as Dice.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from algorithms.contracts.volume import FloatArray


@dataclass(frozen=True)
class MedianIqr:
    """Median and quartiles of the defined figures; NaN without any.

    Attributes:
        count: how many are defined.
        undefined: how many are NaN.
    """

    count: int
    undefined: int
    median: float
    q1: float
    q3: float


def median_iqr(figures: Sequence[float] | FloatArray) -> MedianIqr:
    """Return the median and the quartiles (linear) of the figures that are defined.

    >>> median_iqr([1.0, 2.0, 3.0, math.nan])
    MedianIqr(count=3, undefined=1, median=2.0, q1=1.5, q3=2.5)
    """
    defined, undefined = _defined(figures)
    if not len(defined):
        return MedianIqr(0, undefined, math.nan, math.nan, math.nan)
    q1, median, q3 = (float(q) for q in np.percentile(defined, (25, 50, 75)))
    return MedianIqr(len(defined), undefined, median, q1, q3)


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval."""

    value: float
    low: float
    high: float


def bootstrap_interval(
    figures: Sequence[float] | FloatArray,
    *,
    seed: int,
    statistic: str = "mean",
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    """Return a percentile bootstrap interval over patients; the same seed gives the same interval.

    Args:
        figures: one per patient (for a paired comparison: the differences). NaN is left out.
        seed: of the resampling.
        statistic: "mean" or "median".
        confidence: share of the resampled statistics inside the interval.
        resamples: how many.

    Returns:
        NaN without figures; of one figure alone, itself.

    Raises:
        ValueError: another statistic, or a confidence outside (0, 1).
    """
    if statistic not in ("mean", "median"):
        raise ValueError(f"statistic '{statistic}' is unknown: use mean or median")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"a confidence lies between 0 and 1, not {confidence}")
    reduce = np.mean if statistic == "mean" else np.median
    defined, _ = _defined(figures)
    if not len(defined):
        return Interval(math.nan, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    drawn = reduce(defined[rng.integers(len(defined), size=(resamples, len(defined)))], axis=1)
    low, high = np.percentile(drawn, (50 * (1 - confidence), 50 * (1 + confidence)))
    return Interval(float(reduce(defined)), float(low), float(high))


@dataclass(frozen=True)
class PairedComparison:
    """Two ways on the same patients, `second - first`.

    Attributes:
        pairs: patients on whom both figures are defined.
        left_out: patients on whom one of them is not.
        difference: mean of the differences, with its bootstrap interval.
        t_p: of the two-sided paired t test; NaN below two pairs or without any spread.
        wilcoxon_p: of the two-sided signed-rank test; NaN without a difference that is not 0.
    """

    pairs: int
    left_out: int
    difference: Interval
    t_p: float
    wilcoxon_p: float


def compare_paired(
    first: Sequence[float] | FloatArray, second: Sequence[float] | FloatArray, *, seed: int
) -> PairedComparison:
    """Compare two ways on the same patients, in one order.

    Raises:
        ValueError: when the numbers of patients differ.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != other.shape:
        raise ValueError(f"{one.size} and {other.size} patients: paired tests need the same ones")
    differences, left_out = _defined(other - one)
    t_p = wilcoxon_p = math.nan
    if len(differences) > 1 and np.ptp(differences) > 0:
        t_p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    if np.any(differences != 0):
        wilcoxon_p = float(stats.wilcoxon(differences, zero_method="wilcox").pvalue)
    return PairedComparison(
        len(differences), left_out, bootstrap_interval(differences, seed=seed), t_p, wilcoxon_p
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for how many were looked at, by Holm's step-down method.

    adjusted p_(i) = max over j <= i of min(1, (m - j + 1) p_(j)), for the m p values in ascending
    order. NaN stays NaN and is not counted.

    >>> holm([0.01, 0.04, 0.03, math.nan])
    [0.03, 0.06, 0.06, nan]

    Raises:
        ValueError: a p value outside [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if ((p < 0) | (p > 1)).any():
        raise ValueError("a p value lies between 0 and 1")
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted = p.copy()
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * p[order]))
    return [float(value) for value in adjusted]


@dataclass(frozen=True)
class EquivalenceTest:
    """Two one-sided t tests of `second - first` against a margin that was stated before.

    Attributes:
        pairs: patients.
        margin: in the unit of the figure.
        difference: mean difference with its 1 - 2 alpha interval of the t distribution.
        p_not_worse: of the test that the second way is not worse by the margin or more.
        p_not_better: of the test that it is not better by the margin or more.
        non_inferior: `p_not_worse` is below alpha.
        equivalent: both are.
    """

    pairs: int
    margin: float
    difference: Interval
    p_not_worse: float
    p_not_better: float
    non_inferior: bool
    equivalent: bool


def equivalence(
    differences: Sequence[float] | FloatArray,
    *,
    margin: float,
    alpha: float = 0.05,
    higher_is_better: bool = True,
) -> EquivalenceTest:
    """Test non-inferiority and equivalence of paired differences `second - first` (TOST).

    Args:
        differences: one per patient; NaN is left out.
        margin: the largest difference that would not matter, above 0; state it beforehand.
        alpha: of each one-sided test; the interval has confidence 1 - 2 alpha.
        higher_is_better: True for Dice, False for distances.

    Raises:
        ValueError: a margin or an alpha that cannot be.

    Reference:
        Schuirmann, A comparison of the two one-sided tests procedure and the power approach, 1987.
    """
    if not 0.0 < margin < math.inf:
        raise ValueError(f"a margin is a figure above 0, not {margin}")
    if not 0.0 < alpha < 0.5:
        raise ValueError(f"alpha lies between 0 and 0.5, not {alpha}")
    defined, _ = _defined(differences)
    n = len(defined)
    if n < 2:
        nothing = Interval(float(defined.mean()) if n else math.nan, math.nan, math.nan)
        return EquivalenceTest(n, margin, nothing, math.nan, math.nan, False, False)
    mean, error = float(defined.mean()), float(defined.std(ddof=1) / math.sqrt(n))
    half = error * float(stats.t.ppf(1.0 - alpha, n - 1))
    above_lower = _upper_tail(mean + margin, error, n)
    below_upper = _upper_tail(margin - mean, error, n)
    worse, better = (above_lower, below_upper)[:: 1 if higher_is_better else -1]
    return EquivalenceTest(
        n,
        margin,
        Interval(mean, mean - half, mean + half),
        worse,
        better,
        worse < alpha,
        max(worse, better) < alpha,
    )


def _upper_tail(distance: float, error: float, n: int) -> float:
    """Return the p value of a mean that lies `distance` on the right side of a margin."""
    if error == 0.0:
        return 0.0 if distance > 0 else 1.0
    return float(stats.t.sf(distance / error, n - 1))


@dataclass(frozen=True)
class SubgroupTest:
    """Whether a figure differs between the groups of one attribute, such as the T stage.

    Attributes:
        attribute: what the groups are by.
        groups: median and quartiles of each, by name.
        test: "Mann-Whitney" for two groups, "Kruskal-Wallis" for more, "" when nothing can be said.
        p: two-sided, NaN when nothing can be said.
        p_holm: adjusted for the number of attributes that were tested together.
    """

    attribute: str
    groups: dict[str, MedianIqr]
    test: str
    p: float
    p_holm: float


def compare_subgroups(
    figures: Sequence[float] | FloatArray, attributes: Mapping[str, Sequence[str]]
) -> list[SubgroupTest]:
    """Test one figure over the groups of several attributes, adjusted together by Holm.

    Args:
        figures: one per patient; NaN is counted in its group and left out of the test.
        attributes: per name (T stage, volume, scanner), one group per patient; "" is unknown and
            left out.

    Raises:
        ValueError: another number of patients.
    """
    values = np.asarray(figures, dtype=np.float64)
    found: list[tuple[str, dict[str, MedianIqr], str, float]] = []
    for attribute, labels in attributes.items():
        if len(labels) != len(values):
            raise ValueError(f"{attribute}: {len(labels)} groups for {len(values)} patients")
        members = {
            name: values[np.array([label == name for label in labels])]
            for name in sorted(set(labels) - {""})
        }
        groups = {name: median_iqr(group) for name, group in members.items()}
        samples = [_defined(group)[0] for group in members.values()]
        test, p = _between([sample for sample in samples if len(sample)])
        found.append((attribute, groups, test, p))
    adjusted = holm([p for *_, p in found])
    return [SubgroupTest(*one, both) for one, both in zip(found, adjusted, strict=True)]


def _between(samples: Sequence[FloatArray]) -> tuple[str, float]:
    if len(samples) < 2 or np.ptp(np.concatenate(samples)) == 0:
        return "", math.nan
    if len(samples) == 2:
        return "Mann-Whitney", float(stats.mannwhitneyu(samples[0], samples[1]).pvalue)
    return "Kruskal-Wallis", float(stats.kruskal(*samples).pvalue)


def halves(figures: Sequence[float] | FloatArray, unit: str) -> list[str]:
    """Part patients at the median of a figure such as the volume: group names for subgroups.

    >>> halves([1.0, 5.0, 30.0, math.nan], "ml")
    ['<= 5 ml', '<= 5 ml', '> 5 ml', '']
    """
    values = np.asarray(figures, dtype=np.float64)
    defined, _ = _defined(values)
    if not len(defined):
        return [""] * len(values)
    middle = float(np.median(defined))
    name = f"{middle:.4g} {unit}"
    return ["" if math.isnan(v) else f"<= {name}" if v <= middle else f"> {name}" for v in values]


def _defined(figures: Sequence[float] | FloatArray) -> tuple[FloatArray, int]:
    values = np.asarray(figures, dtype=np.float64)
    defined: FloatArray = values[~np.isnan(values)]
    return defined, int(values.size - defined.size)
