"""Federated averaging of model updates that were clipped and, where a plan says so, noised.

An update is what a hospital's training changed: adapted weights less the weights of the package.
Only numpy and scipy: the coordinator averages without torch.

- FedAvg: McMahan et al., AISTATS 2017, algorithm 1 (one round, weights by training patients).
- Clipping and Gaussian noise: McMahan et al., ICLR 2018, section 2.
- The epsilon of Gaussian noise: Balle and Wang, ICML 2018, theorem 8 (exact, no tail bound).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, log_ndtr, ndtr  # scipy.stats takes half a second to import

Tensors = Mapping[str, NDArray[np.float32]]
StandardNormal = Callable[[tuple[int, ...]], NDArray[np.float64]]
LARGEST_EPSILON = 1e6
VARIANCE = ".running_var"  # of a batch normalisation
SMALLEST_VARIANCE = 0.1  # over that of the base
_NEVER = 1e-12


def l2_norm(update: Tensors) -> float:
    """Return the Euclidean norm over all tensors of an update."""
    squares = (float(np.sum(np.square(one, dtype=np.float64))) for one in update.values())
    return math.sqrt(sum(squares))


def clip_update(update: Tensors, clip_norm: float) -> dict[str, NDArray[np.float32]]:
    """Scale an update down to a norm of at most `clip_norm`; a shorter one stays as it is.

    Raises:
        ValueError: `clip_norm` is not positive, or the update is not finite.
    """
    if not clip_norm > 0:
        raise ValueError("clip_norm must be positive")
    length = l2_norm(update)
    if not math.isfinite(length):
        raise ValueError("an update must be finite")
    # Towards zero by a rounding more, so that float32 never makes it longer than promised.
    scale = 1.0 if length <= clip_norm else clip_norm / length * (1 - 2**-20)
    return {name: (one * np.float64(scale)).astype(np.float32) for name, one in update.items()}


def add_noise(
    update: Tensors, noise_multiplier: float, clip_norm: float, standard_normal: StandardNormal
) -> dict[str, NDArray[np.float32]]:
    """Add Gaussian noise of standard deviation `noise_multiplier * clip_norm` to every number.

    Args:
        update: clipped to `clip_norm`.
        noise_multiplier: 0 adds none.
        clip_norm: as for `clip_update`.
        standard_normal: draws an array of a shape, in a fixed order of names. Where privacy
            hangs on it, nobody may be able to draw it again.
    """
    sigma = noise_multiplier * clip_norm
    noised = {}
    for name in sorted(update):
        one = update[name]
        noised[name] = (one + sigma * standard_normal(one.shape)).astype(np.float32)
    return noised


def longest_update(numbers: int, clip_norm: float, noise_multiplier: float) -> float:
    """Return the L2 norm that a clipped and noised update of so many numbers never exceeds.

    The noise alone is longer than that once in 10^12 updates. Rounding to float32 is allowed for.
    """
    noise = noise_multiplier * clip_norm * math.sqrt(float(chdtri(numbers, _NEVER)))
    return (clip_norm + noise) * (1 + 1e-6)


def average(
    base: Tensors, updates: Sequence[Tensors], patients: Sequence[int]
) -> dict[str, NDArray[np.float32]]:
    """Return the base weights plus the mean of the updates, weighted by training patients.

    The variances of a batch normalisation are kept above a tenth of the base's: noise would make
    some of them negative.

    Raises:
        ValueError: no update, a count below one, or tensors that do not fit the base.
    """
    if not updates or len(updates) != len(patients) or min(patients) < 1:
        raise ValueError("every update needs a count of at least one patient")
    for update in updates:
        shapes = {name: one.shape for name, one in update.items()}
        if shapes != {name: one.shape for name, one in base.items()}:
            raise ValueError("an update does not fit the base")
    total = sum(patients)
    averaged = {}
    for name, weights in base.items():
        parts = zip(updates, patients, strict=True)
        mean = weights + sum(np.float64(count / total) * update[name] for update, count in parts)
        if name.endswith(VARIANCE):
            mean = np.maximum(mean, SMALLEST_VARIANCE * weights)
        averaged[name] = mean.astype(np.float32)
    return averaged


def gaussian_delta(epsilon: float, noise_multiplier: float, releases: int = 1) -> float:
    """Return the smallest delta with which `releases` noised updates are (epsilon, delta)-private.

    What is protected is everything one hospital contributes, and so each of its patients: exchange
    either, and a clipped update moves by at most twice `clip_norm`. Several releases with the same
    noise are one with the noise divided by the square root of their number.
    """
    mu = 2 * math.sqrt(releases) / noise_multiplier
    left, right = mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu
    return float(ndtr(left) - math.exp(epsilon + log_ndtr(right)))


def gaussian_epsilon(noise_multiplier: float, delta: float, releases: int = 1) -> float:
    """Return the epsilon that noised updates keep at a `delta`; infinite without noise.

    Raises:
        ValueError: `delta` is not in (0, 1), or there is less than one release.
    """
    if not 0 < delta < 1 or releases < 1:
        raise ValueError("delta must be in (0, 1), and releases at least 1")
    if noise_multiplier <= 0:
        return math.inf

    from scipy.optimize import brentq  # which most commands do without

    def excess(epsilon: float) -> float:
        return gaussian_delta(epsilon, noise_multiplier, releases) - delta

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
        if high > LARGEST_EPSILON:
            return math.inf
    return float(brentq(excess, 0.0, high, xtol=1e-10))


def total_epsilon(noise_multipliers: Iterable[float], delta: float) -> float:
    """Return the epsilon that several noised updates of one hospital keep together at a `delta`.

    Gaussian noises compose exactly: together they are one with 1 / noise^2 = sum of 1 / noise_i^2,
    also where a later update depends on what became of the earlier ones.

    >>> total_epsilon([2.0, 2.0], 1e-5) == gaussian_epsilon(2.0, 1e-5, releases=2)
    True
    """
    multipliers = list(noise_multipliers)
    if not all(one > 0 for one in multipliers):
        return math.inf
    if not multipliers:
        return 0.0
    return gaussian_epsilon(sum(one**-2 for one in multipliers) ** -0.5, delta)
