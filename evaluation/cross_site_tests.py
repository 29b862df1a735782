"""Tests over the patients of all hospitals, computed from summaries alone.

Two roads. From n, mean and SD per hospital: the paired t test of all differences, and a random
effects estimate that lets hospitals differ. From counts on a public scale: the sign test,
Wilcoxon's signed rank test and the Mann-Whitney test; their statistics can only rise when a
patient's value rises, so they lie between those of the lower and of the upper ends of the bins (see
`evaluation.pooled_sketch`), and with them the p values.

All p values are two-sided. Those of the rank tests are normal ones with the variance of values
without ties; ties only make the variance smaller, so p errs on the side of no difference.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import stats

from evaluation.pooled_sketch import Spread

Moments = tuple[int, float, float]
"""n, mean and sample SD of one hospital."""


class _Noun(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MeanDifference(_Noun):
    """A mean difference with its 95 % interval.

    Attributes:
        model: "all_patients" (paired t test of all patients together) or "sites_differ" (random
            effects: each hospital has its own true difference).
        heterogeneity: I^2, the share of the variation between hospitals that is not chance.
    """

    model: Literal["all_patients", "sites_differ"]
    sites: int
    n: int
    mean: float
    low: float
    high: float
    p: float
    heterogeneity: float | None = None


class BoundedTest(_Noun):
    """A test whose statistic and p value are known to lie between two ends.

    Attributes:
        statistic_low: for the lower ends of all bins.
        statistic_high: for the upper ends.
        p_low: p is not lower.
        p_high: p is not higher: the one to judge by.
    """

    test: Literal["sign", "wilcoxon", "mann_whitney", "jonckheere_terpstra", "pairs"]
    n: int
    statistic_low: float
    statistic_high: float
    p_low: float
    p_high: float


def pooled_moments(sites: Sequence[Moments]) -> Moments:
    """Return n, mean and SD of all patients together from those of each hospital.

    sd^2 = (sum((n_i - 1) s_i^2) + sum(n_i (m_i - mean)^2)) / (n - 1).

    >>> pooled_moments([(2, 1.5, 0.5 ** 0.5), (2, 3.5, 0.5 ** 0.5)])  # 1, 2, 3 and 4
    (4, 2.5, 1.2909944487358056)

    Raises:
        ValueError: for fewer than two patients.
    """
    n = sum(count for count, _, _ in sites)
    if n < 2:
        raise ValueError("an SD needs two patients")
    mean = math.fsum(count * m for count, m, _ in sites) / n
    within = math.fsum((count - 1) * s**2 for count, _, s in sites)
    between = math.fsum(count * (m - mean) ** 2 for count, m, _ in sites)
    return n, mean, math.sqrt((within + between) / (n - 1))


def paired_t_test(sites: Sequence[Moments]) -> MeanDifference | None:
    """Test whether the mean of all differences is 0; None with fewer than two, or without spread.

    Equal to the test on the differences themselves, but for the rounding of the moments.
    """
    if sum(count for count, _, _ in sites) < 2:
        return None
    n, mean, sd = pooled_moments(sites)
    if sd == 0:
        return None
    error = sd / math.sqrt(n)
    reach = float(stats.t.ppf(0.975, n - 1)) * error
    return MeanDifference(
        model="all_patients",
        sites=len(sites),
        n=n,
        mean=mean,
        low=mean - reach,
        high=mean + reach,
        p=float(2 * stats.t.sf(abs(mean) / error, n - 1)),
    )


def random_effects(sites: Sequence[Moments]) -> MeanDifference | None:
    """Estimate a difference that may be another in every hospital, from k hospitals.

    tau^2 = max(0, (Q - (k - 1)) / (sum(w) - sum(w^2) / sum(w)));  w* = 1 / (s^2 / n + tau^2), where
    w = n / s^2 and Q = sum(w (m - m_fixed)^2) (DerSimonian and Laird, 1986). The interval is that
    of Hartung and Knapp, never narrower than without: the variance 1 / sum(w*) times
    max(1, sum(w* (m - mean)^2) / (k - 1)), and t with k - 1 degrees of freedom. A normal quantile
    would make three hospitals look like all.

    Returns:
        None with fewer than two hospitals whose differences vary.
    """
    varying = [(n, mean, sd) for n, mean, sd in sites if n > 1 and sd > 0]
    if len(varying) < 2:
        return None
    return _combined(
        np.array([mean for _, mean, _ in varying]),
        np.array([sd**2 / n for n, _, sd in varying]),
        n=sum(n for n, _, _ in varying),
    )


def difference_within_sites(sites: Sequence[tuple[Moments, Moments]]) -> MeanDifference | None:
    """Compare two groups of other patients inside each hospital: mean of the second less the first.

    The variance of a hospital's difference is s_1^2 / n_1 + s_2^2 / n_2 (Welch); hospitals are put
    together as by `random_effects`, so that what differs between hospitals does not enter; of one
    alone it is Welch's test. None without a hospital where both groups have two patients and vary.
    """
    comparable = [
        (first, second)
        for first, second in sites
        if min(first[0], second[0]) > 1 and first[2] + second[2] > 0
    ]
    if not comparable:
        return None
    parts = np.array([[one[2] ** 2 / one[0] for one in pair] for pair in comparable])
    sizes = np.array([[one[0] for one in pair] for pair in comparable])
    welch = parts.sum(axis=1) ** 2 / (parts**2 / (sizes - 1)).sum(axis=1)
    return _combined(
        np.array([second[1] - first[1] for first, second in comparable]),
        parts.sum(axis=1),
        n=int(sizes.sum()),
        freedom_alone=float(welch[0]),
    )


def _combined(
    means: NDArray[np.float64],
    variances: NDArray[np.float64],
    *,
    n: int,
    freedom_alone: float = math.inf,
) -> MeanDifference:
    """Put hospitals' differences together; one alone is tested with its own degrees of freedom."""
    weights = 1 / variances
    fixed = float(np.average(means, weights=weights))
    q = float((weights * (means - fixed) ** 2).sum())
    freedom = len(means) - 1
    tau2, stretch = 0.0, 1.0
    if freedom:
        scale = float(weights.sum() - (weights**2).sum() / weights.sum())
        tau2 = max(0.0, (q - freedom) / scale)
    weights = 1 / (variances + tau2)
    mean = float(np.average(means, weights=weights))
    if freedom:
        stretch = max(1.0, float((weights * (means - mean) ** 2).sum() / freedom))
    error = math.sqrt(stretch / float(weights.sum()))
    t = stats.t(freedom or freedom_alone)
    reach = float(t.ppf(0.975)) * error
    return MeanDifference(
        model="sites_differ",
        sites=len(means),
        n=n,
        mean=mean,
        low=mean - reach,
        high=mean + reach,
        p=float(2 * t.sf(abs(mean) / error)),
        heterogeneity=max(0.0, (q - freedom) / q) if q > 0 else 0.0,
    )


def sign_test(differences: Spread) -> BoundedTest | None:
    """Test whether as many patients gained as lost (exact binomial, ties left out).

    The statistic is the number who gained minus the number who lost. None without patients.
    """
    if not len(differences):
        return None
    # P(at least as many gains) falls and P(at most as many) rises with every patient's value.
    (low, at_least_high, at_most_low), (high, at_least_low, at_most_high) = (
        _signs(ends) for ends in (differences.low, differences.high)
    )
    return BoundedTest(
        test="sign",
        n=len(differences),
        statistic_low=low,
        statistic_high=high,
        p_low=min(1.0, 2 * min(at_least_low, at_most_low)),
        p_high=min(1.0, 2 * min(at_least_high, at_most_high)),
    )


def wilcoxon_test(differences: Spread) -> BoundedTest | None:
    """Test whether differences are symmetric about 0 (signed ranks, zeros ranked as Pratt does).

    T = sum over i <= j of sign(d_i + d_j): with each rank shared among ties, the rank sum of gains
    minus that of losses. Its variance without ties or zeros is n (n + 1) (2 n + 1) / 6.
    """
    n = len(differences)
    if not n:
        return None
    low, high = (_walsh_sum(ends) for ends in (differences.low, differences.high))
    return _normal_test("wilcoxon", n, low, high, n * (n + 1) * (2 * n + 1) / 6)


def mann_whitney_test(first: Spread, second: Spread) -> BoundedTest | None:
    """Test whether values of the second group tend to be higher than those of the first.

    The statistic is the number of pairs in which the second is higher minus that in which it is
    lower. Its variance without ties is n_1 n_2 (n_1 + n_2 + 1) / 3. None when a group is empty.
    """
    if not (len(first) and len(second)):
        return None
    return trend_test([first, second])


def trend_test(groups: Sequence[Spread]) -> BoundedTest | None:
    """Test whether values rise or fall from group to group, in their order (Jonckheere-Terpstra).

    The statistic is the sum of Mann-Whitney's over all pairs of groups, later against earlier; of
    two groups it is that test. Its variance without ties is
    (N^2 (2 N + 3) - sum(n_i^2 (2 n_i + 3))) / 18. Empty groups are left out; None with fewer than
    two others.

    Reference:
        Jonckheere, A distribution-free k-sample test against ordered alternatives, 1954.
    """
    there = [group for group in groups if len(group)]
    if len(there) < 2:
        return None
    pairs = list(combinations(there, 2))
    sizes = [len(group) for group in there]
    n = sum(sizes)
    return _normal_test(
        "mann_whitney" if len(there) == 2 else "jonckheere_terpstra",
        n,
        sum(_dominance(earlier.high, later.low) for earlier, later in pairs),
        sum(_dominance(earlier.low, later.high) for earlier, later in pairs),
        (n**2 * (2 * n + 3) - sum(size**2 * (2 * size + 3) for size in sizes)) / 18,
    )


def pairs_test(groups: Sequence[Spread]) -> BoundedTest | None:
    """Test whether any two of several groups without an order differ.

    The least p of Mann-Whitney's test over all pairs, times their number (Bonferroni), with the
    statistic of that pair; of two groups it is that test. None with fewer than two groups.
    """
    there = [group for group in groups if len(group)]
    tests = [test for pair in combinations(there, 2) if (test := trend_test(pair)) is not None]
    if len(tests) < 2:
        return tests[0] if tests else None
    least = min(tests, key=lambda test: test.p_high)
    return least.model_copy(
        update={
            "test": "pairs",
            "n": sum(map(len, there)),
            "p_low": min(1.0, len(tests) * min(test.p_low for test in tests)),
            "p_high": min(1.0, len(tests) * least.p_high),
        }
    )


def _signs(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return gains minus losses, and how likely at least, and at most, as many gains are."""
    gained, lost = int((values > 0).sum()), int((values < 0).sum())
    at_least = float(stats.binom.sf(gained - 1, gained + lost, 0.5))
    at_most = float(stats.binom.cdf(gained, gained + lost, 0.5))
    return float(gained - lost), at_least, at_most


def _walsh_sum(ascending: NDArray[np.float64]) -> float:
    """Sum sign(d_i + d_j) over all i <= j."""
    above = len(ascending) - np.searchsorted(ascending, -ascending, side="right")
    below = np.searchsorted(ascending, -ascending, side="left")
    every_pair = int((above - below).sum())  # ordered pairs, each with itself too
    return (every_pair + int(np.sign(ascending).sum())) / 2


def _dominance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Count the pairs in which the second is higher minus those in which it is lower."""
    lower = np.searchsorted(first, second, side="left")
    higher = len(first) - np.searchsorted(first, second, side="right")
    return float((lower - higher).sum())


def _normal_test(
    test: Literal["wilcoxon", "mann_whitney", "jonckheere_terpstra"],
    n: int,
    low: float,
    high: float,
    variance: float,
) -> BoundedTest:
    nearest = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    farthest = max(abs(low), abs(high))
    p_low, p_high = (2 * float(stats.norm.sf(t / math.sqrt(variance))) for t in (farthest, nearest))
    return BoundedTest(
        test=test, n=n, statistic_low=low, statistic_high=high, p_low=p_low, p_high=p_high
    )
