import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.integrate import quad
from scipy.stats import norm

from algorithms.federated_averaging import (
    add_noise,
    average,
    clip_update,
    gaussian_delta,
    gaussian_epsilon,
    l2_norm,
    longest_update,
    total_epsilon,
)

SHAPES = {"a": (3, 2), "b": (4,)}
NUMBERS = st.floats(-1e3, 1e3, width=32)
UPDATES = st.fixed_dictionaries(
    {
        "a": arrays(np.float32, (3, 2), elements=NUMBERS),
        "b": arrays(np.float32, 4, elements=NUMBERS),
    }
)


def test_a_long_update_is_scaled_and_a_short_one_is_not() -> None:
    update = {"a": np.array([3.0], np.float32), "b": np.array([4.0], np.float32)}
    assert l2_norm(update) == 5
    clipped = clip_update(update, 1.0)
    np.testing.assert_allclose([clipped["a"][0], clipped["b"][0]], [0.6, 0.8], rtol=1e-5)
    np.testing.assert_array_equal(clip_update(update, 5.0)["a"], update["a"])


@given(UPDATES, st.floats(1e-3, 1e3))
def test_no_clipped_update_is_longer_than_promised(update, clip_norm: float) -> None:
    clipped = clip_update(update, clip_norm)
    assert l2_norm(clipped) <= clip_norm
    for name in update:  # the direction stays
        cross = clipped[name].astype(np.float64) * l2_norm(update)
        same = update[name].astype(np.float64) * l2_norm(clipped)
        np.testing.assert_allclose(cross, same, atol=1e-3 * max(1, l2_norm(update) * clip_norm))


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        clip_update({"a": np.array([number], np.float32)}, 1.0)


def test_noise_is_as_wide_as_said_and_the_seed_decides_it() -> None:
    update = {"b": np.full(200_000, 2, np.float32), "a": np.zeros(3, np.float32)}
    noised = add_noise(update, 0.5, 4.0, np.random.default_rng(1).standard_normal)
    assert noised["b"].std() == pytest.approx(2.0, rel=0.01)
    assert noised["b"].mean() == pytest.approx(2.0, abs=0.02)
    turned = dict(reversed(update.items()))
    again = add_noise(turned, 0.5, 4.0, np.random.default_rng(1).standard_normal)
    np.testing.assert_array_equal(noised["a"], again["a"])
    np.testing.assert_array_equal(
        add_noise(update, 0, 4.0, np.random.default_rng(1).standard_normal)["b"], 2
    )


@given(st.lists(st.tuples(UPDATES, st.integers(1, 500)), min_size=1, max_size=5), UPDATES)
def test_the_mean_is_that_of_all_patients(sites, base) -> None:
    """As if every patient brought the update of their hospital."""
    averaged = average(base, [update for update, _ in sites], [count for _, count in sites])
    for name, weights in base.items():
        each = np.concatenate([[update[name]] * count for update, count in sites])
        expected = weights + each.astype(np.float64).mean(0)
        np.testing.assert_allclose(averaged[name], expected, rtol=1e-4, atol=1e-2)


def test_what_does_not_fit_is_refused() -> None:
    one = {"a": np.zeros(2, np.float32)}
    with pytest.raises(ValueError, match="does not fit"):
        average(one, [{"a": np.zeros(3, np.float32)}], [1])
    with pytest.raises(ValueError, match="does not fit"):
        average(one, [{"b": np.zeros(2, np.float32)}], [1])
    for updates, counts in (([], []), ([one], [0]), ([one], [1, 2])):
        with pytest.raises(ValueError, match="at least one patient"):
            average(one, updates, counts)


def hockey_stick(epsilon: float, mu: float) -> float:
    """Integrate the definition: how much more than exp(epsilon) times likelier an output is."""

    def over(x: float) -> float:
        return max(norm.pdf(x, mu) - math.exp(epsilon) * norm.pdf(x), 0.0)

    start = epsilon / mu + mu / 2  # where the likelihood ratio is exp(epsilon)
    return float(quad(over, start, max(start, mu) + 40)[0])


@settings(max_examples=60)
@given(st.floats(0, 8), st.floats(0.5, 20), st.integers(1, 30))
def test_delta_is_what_its_definition_integrates_to(
    epsilon: float, noise_multiplier: float, releases: int
) -> None:
    mu = 2 * math.sqrt(releases) / noise_multiplier
    told = gaussian_delta(epsilon, noise_multiplier, releases)
    assert told == pytest.approx(hockey_stick(epsilon, mu), abs=1e-7)


@given(st.floats(0.3, 50), st.floats(1e-9, 1e-2), st.integers(1, 50))
def test_epsilon_keeps_its_delta_and_is_the_smallest(
    noise_multiplier: float, delta: float, releases: int
) -> None:
    epsilon = gaussian_epsilon(noise_multiplier, delta, releases)
    assert gaussian_delta(epsilon, noise_multiplier, releases) <= delta * (1 + 1e-6)
    if epsilon > 1e-3:
        assert gaussian_delta(epsilon * 0.999, noise_multiplier, releases) > delta
    assert gaussian_epsilon(noise_multiplier * 1.1, delta, releases) <= epsilon
    assert gaussian_epsilon(noise_multiplier, delta, releases + 1) >= epsilon


def test_it_is_never_more_than_the_textbook_bound() -> None:
    """Dwork and Roth, theorem A.1: sigma = sensitivity sqrt(2 ln(1.25/delta)) / epsilon."""
    delta = 1e-5
    for epsilon in (0.1, 0.5, 0.9):
        multiplier = 2 * math.sqrt(2 * math.log(1.25 / delta)) / epsilon
        assert gaussian_epsilon(multiplier, delta) < epsilon


def test_without_noise_nothing_is_promised() -> None:
    assert gaussian_epsilon(0, 1e-5) == math.inf
    for delta in (0, 1):
        with pytest.raises(ValueError, match="delta"):
            gaussian_epsilon(1, delta)


@pytest.mark.parametrize("noise_multiplier", [0.0, 0.1, 2.0])
def test_no_honest_update_is_longer_than_the_bound(noise_multiplier: float) -> None:
    rng = np.random.default_rng(3)
    for numbers in (1, 30, 20_000):
        update = clip_update({"a": rng.normal(size=numbers).astype(np.float32)}, 0.5)
        noised = add_noise(update, noise_multiplier, 0.5, rng.standard_normal)
        bound = longest_update(numbers, 0.5, noise_multiplier)
        assert l2_norm(noised) <= bound
        if numbers > 1000:  # and no bound that lets through what is much longer
            expected = math.hypot(0.5, 0.5 * noise_multiplier * math.sqrt(numbers))
            assert bound < 1.8 * expected


def test_noise_makes_no_variance_negative() -> None:
    base = {"norm.running_var": np.array([1, 2], np.float32), "b": np.zeros(2, np.float32)}
    update = {"norm.running_var": np.array([-5, 1], np.float32), "b": np.full(2, -5, np.float32)}
    averaged = average(base, [update], [3])
    np.testing.assert_allclose(averaged["norm.running_var"], [0.1, 3.0], rtol=1e-6)
    np.testing.assert_array_equal(averaged["b"], [-5, -5])


@given(st.lists(st.floats(0.5, 20), min_size=1, max_size=6), st.floats(1e-9, 1e-2))
def test_releases_add_up(noise_multipliers: list[float], delta: float) -> None:
    """Independently: distances of means in units of noise add up as the sides of a box."""
    mu = math.hypot(*(2 / one for one in noise_multipliers))
    total = total_epsilon(noise_multipliers, delta)
    assert total == pytest.approx(gaussian_epsilon(2 / mu, delta), rel=1e-6, abs=1e-6)
    assert total >= gaussian_epsilon(min(noise_multipliers), delta) - 1e-9
    assert total_epsilon([*noise_multipliers, 0.0], delta) == math.inf
    assert total_epsilon([], delta) == 0
