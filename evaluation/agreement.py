"""How far several people, or several models, agree about the same images."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from algorithms.contracts.volume import FloatArray, MaskArray
from evaluation.case_metrics import measure_case
from evaluation.overlap import dice


def agreement_matrix(
    rows: Sequence[Sequence[MaskArray]], columns: Sequence[Sequence[MaskArray]] | None = None
) -> NDArray[np.float64]:
    """Return the mean Dice over patients between every one of `rows` and every one of `columns`.

    Args:
        rows: per rater, one mask per patient, in one order.
        columns: likewise; None compares the raters of `rows` with one another.

    Returns:
        `[raters, raters]`. Patients on whom both masks are empty are left out; NaN without others.

    Raises:
        ValueError: when somebody has not drawn as many patients as the others.
    """
    others = rows if columns is None else columns
    if len({len(masks) for masks in (*rows, *others)}) > 1:
        raise ValueError("every rater must have a mask of every patient")
    found = np.full((len(rows), len(others)), np.nan)
    for i, one in enumerate(rows):
        for j, other in enumerate(others):
            scores = np.array([dice(a, b) for a, b in zip(one, other, strict=True)])
            if np.isfinite(scores).any():
                found[i, j] = float(np.nanmean(scores))
    return found


def mean_agreement(matrix: NDArray[np.float64]) -> float:
    """Return the mean over all pairs of different raters of a square matrix.

    >>> round(mean_agreement(np.array([[1.0, 0.8], [0.6, 1.0]])), 3)
    0.7

    Raises:
        ValueError: with fewer than two raters.
    """
    if len(matrix) < 2:
        raise ValueError("agreement needs two raters")
    return float(np.mean(matrix[~np.eye(len(matrix), dtype=bool)]))


@dataclass(frozen=True, eq=False)
class RaterAgreement:
    """Every pair of raters on every patient.

    Attributes:
        rows: the raters that lie along the rows.
        columns: those along the columns: others, or the same at a second sitting.
        repeated: the columns are a second sitting of the rows, so the diagonal tells how well each
            rater repeats themselves.
        dsc: float64 `[rows, columns, patients]`; NaN where both drew nothing.
        hd95_mm: likewise; NaN where either drew nothing.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    repeated: bool
    dsc: FloatArray
    hd95_mm: FloatArray

    def failures(self) -> NDArray[np.int64]:
        """Count, per pair, the patients on whom the two share nothing: `[rows, columns]`."""
        return np.asarray((self.dsc == 0.0).sum(axis=-1), dtype=np.int64)

    def undefined(self) -> NDArray[np.int64]:
        """Count, per pair, the patients without an HD95: `[rows, columns]`."""
        return np.asarray(np.isnan(self.hd95_mm).sum(axis=-1), dtype=np.int64)


def rater_agreement(
    raters: Mapping[str, Sequence[MaskArray]],
    spacings_zyx_mm: Sequence[Sequence[float]],
    *,
    second: Mapping[str, Sequence[MaskArray]] | None = None,
) -> RaterAgreement:
    """Measure Dice and HD95 between raters, patient by patient.

    Args:
        raters: per name, one mask per patient, in one order.
        spacings_zyx_mm: of the patients, in the same order.
        second: the same raters' contours of a second sitting, for intra-rater agreement; None
            compares the raters with one another.

    Raises:
        ValueError: fewer than two raters without a second sitting, other names in the second, or
            other numbers of patients.
    """
    if second is None and len(raters) < 2:
        raise ValueError("agreement needs two raters, or a second sitting of one")
    others = raters if second is None else second
    if others.keys() != raters.keys():
        raise ValueError("the second sitting must be one of the same raters")
    if any(len(masks) != len(spacings_zyx_mm) for masks in (*raters.values(), *others.values())):
        raise ValueError("every rater must have a mask of every patient")
    names = tuple(raters)
    dsc = np.full((len(names), len(names), len(spacings_zyx_mm)), np.nan)
    hd95 = dsc.copy()
    for i, j in np.ndindex(len(names), len(names)):
        if second is None and j < i:  # both figures are symmetric
            dsc[i, j], hd95[i, j] = dsc[j, i], hd95[j, i]
            continue
        pairs = zip(raters[names[i]], others[names[j]], spacings_zyx_mm, strict=True)
        for k, (one, other, spacing) in enumerate(pairs):
            found = measure_case(one, other, spacing_zyx_mm=spacing, tolerances_mm=())
            dsc[i, j, k], hd95[i, j, k] = found.dsc, found.hd95_mm
    return RaterAgreement(names, names, second is not None, dsc, hd95)


def mean_and_sd(figures: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return mean and sample standard deviation over the last axis, NaN left out.

    >>> mean, sd = mean_and_sd(np.array([[1.0, 3.0, np.nan], [np.nan, 5.0, np.nan]]))
    >>> mean.tolist(), sd.round(3).tolist()
    ([2.0, 5.0], [1.414, nan])
    """
    defined = np.isfinite(figures)
    count = defined.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(defined, figures, 0.0).sum(axis=-1) / count
        squares = np.where(defined, (figures - mean[..., None]) ** 2, 0.0).sum(axis=-1)
        return mean, np.sqrt(np.where(count > 1, squares / (count - 1), np.nan))


def _shown(mean: float, sd: float) -> str:
    """Write mean and SD; of one patient there is no SD, of none not even a mean."""
    if np.isnan(mean):
        return "not defined"
    return f"{mean:.2f}" if np.isnan(sd) else f"{mean:.2f} ± {sd:.2f}"


def agreement_table(agreement: RaterAgreement) -> str:
    """Show raters as table 2-4 of the thesis: below the diagonal Dice in %, above it HD95 in mm.

    With a second sitting every cell holds both. Mean +- SD over the patients on whom the figure is
    defined; what was left out is counted in the lines below the table.
    """
    dsc, dsc_sd = mean_and_sd(100.0 * agreement.dsc)
    hd95, hd95_sd = mean_and_sd(agreement.hd95_mm)

    def cell(i: int, j: int) -> str:
        overlap = _shown(dsc[i, j], dsc_sd[i, j])
        distance = _shown(hd95[i, j], hd95_sd[i, j])
        if agreement.repeated:
            return f"{overlap} / {distance}"
        return "-" if i == j else overlap if j < i else distance

    lines = ["| | " + " | ".join(agreement.columns) + " |"]
    lines.append("| --- |" + " --- |" * len(agreement.columns))
    for i, name in enumerate(agreement.rows):
        cells = " | ".join(cell(i, j) for j in range(len(agreement.columns)))
        lines.append(f"| {name} | {cells} |")
    notes = []
    failures, undefined = agreement.failures(), agreement.undefined()
    for i, j in np.ndindex(failures.shape):
        if (failures[i, j] or undefined[i, j]) and (agreement.repeated or j < i):
            notes.append(
                f"{agreement.rows[i]}, {agreement.columns[j]}: {failures[i, j]} of "
                f"{agreement.dsc.shape[-1]} patients share nothing (Dice 0 in the mean), "
                f"{undefined[i, j]} without an HD95 (left out of its mean)"
            )
    return "\n".join([*lines, "", *notes]) if notes else "\n".join(lines)


@dataclass(frozen=True)
class IntraclassCorrelation:
    """An intraclass correlation of single ratings, with its confidence interval."""

    value: float
    low: float
    high: float


def icc_2_1(ratings: FloatArray, *, confidence: float = 0.95) -> IntraclassCorrelation:
    """Return ICC(2,1): absolute agreement of raters drawn from many.

    ICC(2,1) = (MSR - MSE) / (MSR + (k - 1) MSE + k (MSC - MSE) / n)

    where MSR, MSC and MSE are the mean squares between targets, between raters and of what is left
    in a two-way analysis of variance of n targets and k raters.

    Args:
        ratings: float64 `[targets, raters]`, such as volumes in ml; without NaN.
        confidence: of the interval.

    Raises:
        ValueError: fewer than two targets or raters, or a rating that is missing.

    Reference:
        Shrout and Fleiss, Intraclass correlations: uses in assessing rater reliability, 1979;
        the interval as McGraw and Wong, 1996.
    """
    n, k, msr, msc, mse = _mean_squares(ratings)
    spread = msr + (k - 1) * mse + k * (msc - mse) / n
    if spread == 0:
        return IntraclassCorrelation(math.nan, math.nan, math.nan)
    value = (msr - mse) / spread
    if msc == mse == 0.0:
        return IntraclassCorrelation(value, value, value)
    tail = 1.0 - (1.0 - confidence) / 2.0
    a = k * value / (n * (1.0 - value))
    b = 1.0 + k * value * (n - 1) / (n * (1.0 - value))
    parts = (a * msc) ** 2 / (k - 1) + (b * mse) ** 2 / ((n - 1) * (k - 1))
    freedom = (a * msc + b * mse) ** 2 / parts if parts else 0.0
    if freedom < 1e-9:  # such as raters who differ by an offset on targets that are all alike
        return IntraclassCorrelation(float(value), math.nan, math.nan)
    below, above = stats.f.ppf(tail, n - 1, freedom), stats.f.ppf(tail, freedom, n - 1)
    rest = k * msc + (k * n - k - n) * mse
    return IntraclassCorrelation(
        float(value),
        float(n * (msr - below * mse) / (below * rest + n * msr)),
        float(n * (above * msr - mse) / (rest + n * above * msr)),
    )


def icc_3_1(ratings: FloatArray, *, confidence: float = 0.95) -> IntraclassCorrelation:
    """Return ICC(3,1): consistency of just these raters, whose constant offsets do not count.

    ICC(3,1) = (MSR - MSE) / (MSR + (k - 1) MSE), with the mean squares of `icc_2_1`.

    Args:
        ratings: float64 `[targets, raters]`, without NaN.
        confidence: of the interval.

    Raises:
        ValueError: fewer than two targets or raters, or a rating that is missing.
    """
    n, k, msr, _, mse = _mean_squares(ratings)
    if msr == 0 and mse == 0:
        return IntraclassCorrelation(math.nan, math.nan, math.nan)
    value = (msr - mse) / (msr + (k - 1) * mse)
    if mse == 0:
        return IntraclassCorrelation(value, value, value)
    tail = 1.0 - (1.0 - confidence) / 2.0
    rest = (n - 1) * (k - 1)
    below = msr / mse / stats.f.ppf(tail, n - 1, rest)
    above = msr / mse * stats.f.ppf(tail, rest, n - 1)
    return IntraclassCorrelation(
        float(value), float((below - 1) / (below + k - 1)), float((above - 1) / (above + k - 1))
    )


def _mean_squares(ratings: FloatArray) -> tuple[int, int, float, float, float]:
    if ratings.ndim != 2 or min(ratings.shape) < 2:
        raise ValueError("an intraclass correlation needs two targets and two raters")
    if not np.isfinite(ratings).all():
        raise ValueError("every rater must have rated every target: leave out the others")
    n, k = ratings.shape
    targets, raters = ratings.mean(axis=1), ratings.mean(axis=0)
    left = ratings - targets[:, None] - raters[None] + ratings.mean()
    msr, msc = k * targets.var(ddof=1), n * raters.var(ddof=1)
    mse = (left**2).sum() / ((n - 1) * (k - 1))
    # Raters who agree but for an offset leave a mean square of rounding alone.
    noise = 1e-20 * float((ratings**2).sum())
    msr, msc, mse = (0.0 if square < noise else float(square) for square in (msr, msc, mse))
    return n, k, msr, msc, mse


def cohen_kappa(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    *,
    categories: Sequence[Hashable] | None = None,
    weights: Literal["none", "linear", "quadratic"] = "none",
) -> float:
    """Return Cohen's kappa of two raters: agreement beyond that of chance.

    kappa = 1 - sum w_ij o_ij / sum w_ij e_ij

    where o are the observed shares of pairs of categories, e those of independent raters with the
    same margins, and w is 1 off the diagonal, |i - j| or (i - j)^2.

    >>> round(cohen_kappa("aabb", "aabc"), 3)
    0.6

    Args:
        first: one category per item.
        second: likewise, the same items.
        categories: in their order, which weights need; None takes those that occur, sorted.
        weights: how bad it is to be several categories apart.

    Returns:
        NaN when chance alone would agree always (both raters used one category).

    Raises:
        ValueError: no item, another number of items, or a category that is not listed.

    Reference:
        Cohen, A coefficient of agreement for nominal scales, 1960; weighted: Cohen, 1968.
    """
    codes, count = _codes([first, second], categories)
    observed = np.zeros((count, count))
    np.add.at(observed, (codes[0], codes[1]), 1.0 / codes.shape[1])
    apart = np.abs(np.subtract.outer(np.arange(count), np.arange(count))).astype(np.float64)
    weight = {"none": (apart > 0).astype(np.float64), "linear": apart, "quadratic": apart**2}
    expected = np.outer(observed.sum(axis=1), observed.sum(axis=0))
    by_chance = float((weight[weights] * expected).sum())
    if by_chance == 0.0:
        return math.nan
    return 1.0 - float((weight[weights] * observed).sum()) / by_chance


def fleiss_kappa(raters: Sequence[Sequence[Hashable]]) -> float:
    """Return Fleiss' kappa of any number of raters: agreement beyond that of chance.

    kappa = (P - Pe) / (1 - Pe)

    where P is the mean share of agreeing pairs of raters per item, and Pe the sum of the squared
    shares of the categories over all ratings.

    >>> round(fleiss_kappa(["aabb", "aabb", "aaba"]), 3)
    0.657

    Args:
        raters: per rater, one category per item.

    Returns:
        NaN when every rating is the same category.

    Raises:
        ValueError: fewer than two raters, no item, or another number of items.

    Reference:
        Fleiss, Measuring nominal scale agreement among many raters, 1971.
    """
    if len(raters) < 2:
        raise ValueError("agreement needs two raters")
    codes, count = _codes(raters, None)
    votes = np.stack([(codes == code).sum(axis=0) for code in range(count)], axis=1)
    n = len(codes)
    agreeing = float(((votes**2).sum(axis=1) - n).mean()) / (n * (n - 1))
    by_chance = float(((votes.sum(axis=0) / votes.sum()) ** 2).sum())
    return math.nan if by_chance == 1.0 else (agreeing - by_chance) / (1.0 - by_chance)


def _codes(
    raters: Sequence[Sequence[Hashable]], categories: Sequence[Hashable] | None
) -> tuple[NDArray[np.int64], int]:
    """Number the categories: `[raters, items]` and how many categories there are."""
    if len({len(items) for items in raters}) != 1 or not len(raters[0]):
        raise ValueError("every rater must have rated every item, and there must be one")
    found = {item for items in raters for item in items}
    listed = sorted(found, key=str) if categories is None else list(categories)
    if unknown := found - set(listed):
        raise ValueError(f"category {min(map(str, unknown))!r} is not among those listed")
    number = {category: code for code, category in enumerate(listed)}
    return np.array([[number[item] for item in items] for items in raters]), len(listed)
