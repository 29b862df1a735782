"""Stage 2: the fixed stage-1 model labels every slice that no doctor annotated."""

from collections.abc import Sequence

import numpy as np

from algorithms.contracts.volume import ImageArray
from algorithms.finetuning import LabelledSlice
from algorithms.inference import SlicePredictor


def pseudo_label(
    predictor: SlicePredictor, slices: Sequence[ImageArray], *, min_confidence: float = 0.0
) -> list[LabelledSlice]:
    """Label slices by the model; pixels it is unsure about carry no loss.

    Args:
        predictor: the stage-1 model, fixed.
        slices: preprocessed, float32 `[h, w]` each.
        min_confidence: confidence is |2p - 1|; pixels below it get weight 0. With 0 every pixel
            counts, as in the thesis.
    """
    labelled = []
    for image in slices:
        probability = predictor(image[None])[0]
        confident = np.abs(2.0 * probability - 1.0) >= min_confidence
        labelled.append(
            LabelledSlice(
                image=image,
                label=(probability > 0.5).astype(np.uint8),
                weight=confident.astype(np.float32),
            )
        )
    return labelled
