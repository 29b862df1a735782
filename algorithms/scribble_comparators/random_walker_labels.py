"""Labels spread from scribbles by random walks (Grady 2006), before training."""

import numpy as np
from numpy.typing import NDArray

from algorithms.contracts.contour import NOT_ANNOTATED
from algorithms.contracts.volume import ImageArray


def walk(
    image: ImageArray, scribble: NDArray[np.uint8], *, beta: float = 130.0, least: float = 0.5
) -> NDArray[np.uint8]:
    """Return, for every pixel, the class whose scribble a walker from it most likely meets first.

    A slice on which only background was drawn is background; one with scribbles of a single other
    class stays as it was drawn.

    Args:
        image: `[y, x]`.
        scribble: class, or `NOT_ANNOTATED`, `[y, x]`.
        beta: how much a change of grey value hinders.
        least: probability that a label needs; the rest stays `NOT_ANNOTATED`.
    """
    from skimage.segmentation import random_walker  # comes with the extra for benchmarks

    classes = np.setdiff1d(np.unique(scribble), [NOT_ANNOTATED])
    if len(classes) < 2:  # nothing to choose between
        return np.zeros_like(scribble) if 0 in classes else scribble.copy()
    seeds = np.zeros(scribble.shape, dtype=np.int32)
    for number, code in enumerate(classes, start=1):
        seeds[scribble == code] = number
    chance = random_walker(image, seeds, beta=beta, mode="cg_j", return_full_prob=True)
    labels = classes[chance.argmax(axis=0)]
    return np.where(chance.max(axis=0) >= least, labels, NOT_ANNOTATED).astype(np.uint8)
