"""A mixed model across sites: patients of one hospital resemble each other more than others do.

y_ij = x_ij b + u_j + e_ij, with u_j ~ N(0, s_u^2) for site j and e_ij ~ N(0, s^2) for patient i.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from algorithms.contracts.volume import FloatArray

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class FixedEffect:
    """One coefficient with its Wald interval and two-sided p value.

    With few sites they are too sure of themselves: they take the site variance as known.
    """

    value: float
    standard_error: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class SiteMixedModel:
    """A fitted model.

    Attributes:
        effects: by name; "mean" is the intercept, the mean of a typical site's patients when every
            covariate is 0.
        site_variance: s_u^2, how much sites differ.
        residual_variance: s^2, how much patients of one site differ.
        patients: how many entered.
        sites: how many have patients.
        left_out: patients whose figure or covariate is NaN.
    """

    effects: dict[str, FixedEffect]
    site_variance: float
    residual_variance: float
    patients: int
    sites: int
    left_out: int

    @property
    def site_share(self) -> float:
        """Share of the variance that lies between sites, s_u^2 / (s_u^2 + s^2)."""
        whole = self.site_variance + self.residual_variance
        return self.site_variance / whole if whole else math.nan


def fit_site_model(
    figures: Sequence[float] | FloatArray,
    sites: Sequence[Hashable],
    *,
    covariates: Mapping[str, Sequence[float]] | None = None,
    confidence: float = 0.95,
) -> SiteMixedModel:
    """Fit a random intercept per site by restricted maximum likelihood (REML).

    For paired comparisons give the differences: "mean" then is the effect across sites.

    Args:
        figures: one per patient; NaN is left out and counted.
        sites: the hospital of each.
        covariates: further fixed effects by name, one number per patient.
        confidence: of the intervals.

    Raises:
        ValueError: lengths that differ, fewer than two sites, too few patients for the effects,
            effects that cannot be told apart, or figures without any spread.

    Reference:
        Laird and Ware, Random-effects models for longitudinal data, 1982.
    """
    given = dict(covariates or {})
    y = np.asarray(figures, dtype=np.float64)
    if any(len(one) != len(y) for one in (sites, *given.values())):
        raise ValueError("every patient needs a site and every covariate")
    columns = [np.ones(len(y)), *(np.asarray(one, dtype=np.float64) for one in given.values())]
    design = np.stack(columns, axis=1)
    whole = np.isfinite(y) & np.isfinite(design).all(axis=1)
    labels = [site for site, kept in zip(sites, whole, strict=True) if kept]
    members = _members(labels)
    y, design = y[whole], design[whole]
    _check(y, design, members)

    shift = float(y.mean())  # figures that are large beside their spread would lose digits
    y = y - shift
    ratio = _best_ratio(y, design, members)
    _, beta, covariance, variance = _reml(ratio, y, design, members)
    beta[0] += shift
    z = float(stats.norm.ppf(0.5 + confidence / 2.0))
    effects = {}
    for name, value, error in zip(
        ("mean", *given), beta, np.sqrt(np.diag(covariance)), strict=True
    ):
        p = float(2.0 * stats.norm.sf(abs(value) / error))
        effects[name] = FixedEffect(
            float(value), float(error), float(value - z * error), float(value + z * error), p
        )
    return SiteMixedModel(
        effects, ratio * variance, variance, len(y), len(members), int((~whole).sum())
    )


def _best_ratio(y: FloatArray, design: FloatArray, members: list[Rows]) -> float:
    """Return the ratio s_u^2 / s^2 of the largest restricted likelihood; 0 may be the best."""

    def loss(log_ratio: float) -> float:
        return _reml(math.exp(log_ratio), y, design, members)[0]

    grid = np.linspace(-16.0, 16.0, 65)
    near = float(grid[int(np.argmin([loss(float(one)) for one in grid]))])
    best = optimize.minimize_scalar(
        loss, bounds=(near - 0.5, near + 0.5), method="bounded", options={"xatol": 1e-9}
    )
    return 0.0 if _reml(0.0, y, design, members)[0] <= best.fun else math.exp(best.x)


def _members(labels: Sequence[Hashable]) -> list[Rows]:
    """Return the rows of each site."""
    found: dict[Hashable, list[int]] = {}
    for row, label in enumerate(labels):
        found.setdefault(label, []).append(row)
    return [np.array(rows) for rows in found.values()]


def _check(y: FloatArray, design: FloatArray, members: list[Rows]) -> None:
    if len(members) < 2:
        raise ValueError("a mixed model across sites needs two sites")
    if len(y) <= design.shape[1] + 1:
        raise ValueError(f"{len(y)} patients are too few for {design.shape[1]} effects")
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise ValueError("the effects cannot be told apart: leave one covariate out")
    left = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    if (left**2).sum() <= 1e-20 * max(1.0, float((y**2).sum())):
        raise ValueError("the figures have no spread that a model could explain")


def _reml(
    ratio: float, y: FloatArray, design: FloatArray, members: list[Rows]
) -> tuple[float, FloatArray, FloatArray, float]:
    """Profile the restricted likelihood at `ratio` = s_u^2 / s^2.

    The covariance of a site of n patients is s^2 (I + ratio J); by Sherman and Morrison its inverse
    is (I - ratio / (1 + n ratio) J) / s^2 and its determinant s^(2n) (1 + n ratio).

    Returns:
        -2 log likelihood up to a constant, b, its covariance, and s^2.
    """
    xx, xy, yy, log_determinant = design.T @ design, design.T @ y, float(y @ y), 0.0
    for rows in members:
        x_sum, y_sum, n = design[rows].sum(axis=0), float(y[rows].sum()), len(rows)
        shrink = ratio / (1.0 + n * ratio)
        xx = xx - shrink * np.outer(x_sum, x_sum)
        xy = xy - shrink * x_sum * y_sum
        yy -= shrink * y_sum**2
        log_determinant += math.log1p(n * ratio)
    beta = np.asarray(np.linalg.solve(xx, xy), dtype=np.float64)
    inverse = np.asarray(np.linalg.inv(xx), dtype=np.float64)
    freedom = len(y) - design.shape[1]
    variance = max(yy - float(beta @ xy), 1e-300) / freedom
    loss = freedom * math.log(variance) + log_determinant + float(np.linalg.slogdet(xx)[1])
    return loss, beta, variance * inverse, variance
