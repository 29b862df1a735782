"""HistMatch: give target images the source hospital's distribution of grey values; no training.

It needs that distribution, here 101 quantiles of the source's preprocessed images, which a package
does not hold: in use it would have to leave the source hospital.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from algorithms.contracts.volume import ImageArray

_LEVELS = np.linspace(0.0, 100.0, 101)


def grey_quantiles(images: Sequence[ImageArray]) -> NDArray[np.float64]:
    """Return the percentiles 0, 1, ..., 100 over all images together."""
    quantiles: NDArray[np.float64] = np.percentile(
        np.concatenate([image.ravel() for image in images]), _LEVELS
    )
    return quantiles


def match_histogram(image: ImageArray, quantiles: NDArray[np.float64]) -> ImageArray:
    """Map each grey value to the source's value of the same rank: float32, the same shape."""
    own = np.percentile(image, _LEVELS)
    rank = np.interp(image, own, _LEVELS)
    matched: ImageArray = np.interp(rank, _LEVELS, quantiles).astype(np.float32)
    return matched
