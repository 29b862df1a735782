"""From stored cases to slices the network learns from; the only bridge from store to training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from algorithms.contracts.case import Case
from algorithms.contracts.contour import NOT_ANNOTATED
from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import PreprocessingRecipe
from algorithms.contracts.volume import Geometry, ImageArray
from algorithms.finetuning import LabelledSlice, ValidationCase, scribbled_slice
from algorithms.preprocessing import preprocess, preprocess_mask, preprocess_scribble
from site_agent.case_store import REFERENCE, CaseStore


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A preprocessed case: `slices` float32 `[z, h, w]`."""

    case_id: str
    geometry: Geometry
    slices: ImageArray


def prepare(
    store: CaseStore, cases: Sequence[Case], recipe: PreprocessingRecipe
) -> list[PreparedCase]:
    """Preprocess the images of `cases`."""
    prepared = []
    for case in cases:
        image = preprocess(store.volume(case.case_id), recipe)
        prepared.append(PreparedCase(case.case_id, image.geometry, image.slices))
    return prepared


def reference_label(
    store: CaseStore, case: PreparedCase, recipe: PreprocessingRecipe
) -> NDArray[np.uint8]:
    """Return the reference contour of a case on the working grid: uint8 `[z, h, w]`."""
    contour = store.contour(case.case_id, purpose=REFERENCE)
    if contour is None:
        raise DataError(f"{case.case_id}: has no reference contour: ingest its structure set")
    return preprocess_mask(contour.mask.voxels, case.geometry, recipe)


def annotated_slice(
    image: ImageArray,
    label_yx: NDArray[np.uint8],
    geometry: Geometry,
    recipe: PreprocessingRecipe,
) -> LabelledSlice:
    """Bring what a doctor said about a slice onto the working grid.

    Args:
        image: preprocessed, `[h, w]`.
        label_yx: 0 or 1, and `NOT_ANNOTATED` beside a scribble, on the case's own grid.
        geometry: that grid.
        recipe: of the package.
    """
    if (label_yx == NOT_ANNOTATED).any():
        return scribbled_slice(image, preprocess_scribble(label_yx, geometry, recipe))
    return LabelledSlice(image, preprocess_mask(label_yx[None] > 0, geometry, recipe)[0])


def fully_labelled(
    store: CaseStore, cases: Sequence[PreparedCase], recipe: PreprocessingRecipe
) -> list[LabelledSlice]:
    """Return every slice of `cases` with its reference contour."""
    return [
        LabelledSlice(image, label)
        for case in cases
        for image, label in zip(case.slices, reference_label(store, case, recipe), strict=True)
    ]


def fully_known(
    store: CaseStore, cases: Sequence[PreparedCase], recipe: PreprocessingRecipe
) -> list[ValidationCase]:
    """Return validation cases of which every slice has a reference contour."""
    return [
        ValidationCase(
            case.slices,
            reference_label(store, case, recipe),
            np.ones(case.slices.shape, dtype=bool),
        )
        for case in cases
    ]
