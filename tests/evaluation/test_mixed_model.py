import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.mixed_model import fit_site_model


def draw(seed, sizes, *, between=0.3, within=1.0, mean=5.0):
    rng = np.random.default_rng(seed)
    sites = np.repeat(np.arange(len(sizes)), sizes)
    figures = mean + rng.normal(0, between, len(sizes))[sites] + rng.normal(0, within, len(sites))
    return figures, sites.tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 8), st.integers(2, 12), st.floats(0.0, 3.0))
def test_balanced_sites_give_the_estimates_of_the_analysis_of_variance(seed, sites, n, between):
    """For sites of n patients REML is s^2 = MSW, s_u^2 = (MSB - MSW) / n where that is positive."""
    figures, labels = draw(seed, [n] * sites, between=between)
    table = figures.reshape(sites, n)
    msb = n * table.mean(axis=1).var(ddof=1)
    msw = table.var(axis=1, ddof=1).mean()
    if sites * n < 4:
        return
    found = fit_site_model(figures, labels)
    assert found.effects["mean"].value == pytest.approx(figures.mean())
    if msb > msw:
        assert found.residual_variance == pytest.approx(msw, rel=1e-4)
        assert found.site_variance == pytest.approx((msb - msw) / n, rel=1e-3, abs=1e-4)
        expected = math.sqrt(msb / figures.size)
    else:
        assert found.site_variance == 0.0
        expected = math.sqrt(figures.var(ddof=1) / figures.size)
    assert found.effects["mean"].standard_error == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_statsmodels_fits_the_same_to_unequal_sites_with_covariates(seed):
    mixed = pytest.importorskip("statsmodels.regression.mixed_linear_model")
    figures, sites = draw(seed, [5, 30, 12, 3, 20, 8], between=0.8, mean=0.85)
    rng = np.random.default_rng(seed + 100)
    covariates = {
        "volume": rng.normal(30, 10, len(sites)),
        "t_stage": rng.integers(0, 2, len(sites)),
    }
    figures = figures + 0.05 * covariates["volume"] - 0.7 * covariates["t_stage"]
    design = np.column_stack([np.ones(len(sites)), *covariates.values()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = mixed.MixedLM(figures, design, groups=np.array(sites)).fit(reml=True)
    found = fit_site_model(figures, sites, covariates=covariates)
    assert list(found.effects) == ["mean", "volume", "t_stage"]
    # Standard errors by generalised least squares, written out, at the variances it found.
    same_site = np.equal.outer(sites, sites)
    whole = theirs.scale * np.eye(len(sites)) + float(theirs.cov_re[0, 0]) * same_site
    errors = np.sqrt(np.diag(np.linalg.inv(design.T @ np.linalg.solve(whole, design))))
    for effect, value, error in zip(found.effects.values(), theirs.fe_params, errors, strict=True):
        assert effect.value == pytest.approx(value, rel=1e-3, abs=1e-4)
        assert effect.standard_error == pytest.approx(error, rel=2e-3)
        assert effect.p == pytest.approx(math.erfc(abs(value) / error / math.sqrt(2)), rel=0.02)
    assert found.residual_variance == pytest.approx(theirs.scale, rel=1e-3)
    assert found.site_variance == pytest.approx(float(theirs.cov_re[0, 0]), rel=5e-3)


def test_patients_of_one_site_count_for_less_than_patients_of_many():
    figures, sites = draw(3, [20] * 6, between=3.0)
    found = fit_site_model(figures, sites)
    naive = figures.std(ddof=1) / math.sqrt(figures.size)
    assert found.effects["mean"].standard_error > 3 * naive
    assert 0.5 < found.site_share < 1.0
    low, high = found.effects["mean"].low, found.effects["mean"].high
    half = 1.959964 * found.effects["mean"].standard_error
    assert (low, high) == pytest.approx((figures.mean() - half, figures.mean() + half))


@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(-1e4, 1e4))
@settings(max_examples=30, deadline=None)
def test_a_change_of_unit_changes_units_alone(seed, scale, shift):
    figures, sites = draw(seed, [4, 9, 6, 7], between=0.7)
    one, other = fit_site_model(figures, sites), fit_site_model(scale * figures + shift, sites)
    assert other.effects["mean"].value == pytest.approx(scale * one.effects["mean"].value + shift)
    assert other.residual_variance == pytest.approx(scale**2 * one.residual_variance, rel=1e-3)
    assert other.site_share == pytest.approx(one.site_share, abs=1e-3)


def test_what_is_missing_is_left_out_and_counted():
    figures, sites = draw(4, [6, 6, 6])
    extra = [*figures, math.nan, 3.0]
    volume = [*range(18), 4.0, math.nan]
    found = fit_site_model(extra, [*sites, 0, 9], covariates={"volume": volume})
    assert (found.patients, found.sites, found.left_out) == (18, 3, 2)
    expected = fit_site_model(figures, sites, covariates={"volume": volume[:18]})
    assert found.effects == expected.effects


@pytest.mark.parametrize(
    ("figures", "sites", "covariates", "said"),
    [
        ([1, 2, 3], "aaa", None, "two sites"),
        ([1, 2], "ab", None, "too few"),
        ([1, 2, 3, 4], "aabb", {"x": [2, 2, 2, 2]}, "told apart"),
        ([2, 2, 2, 2], "aabb", None, "no spread"),
        ([1, 2, 3, 4], "aab", None, "needs a site"),
        ([1, 2, 3, 4], "aabb", {"x": [1]}, "needs a site"),
    ],
)
def test_what_cannot_be_fitted_is_refused(figures, sites, covariates, said):
    with pytest.raises(ValueError, match=said):
        fit_site_model([float(f) for f in figures], list(sites), covariates=covariates)
