"""Which slice a case opens at, and that contours can be told apart."""

import numpy as np

from clinical_ui.case_layers import (
    STYLES,
    Layer,
    first_slice,
    largest_slice,
)


def boxes(*sizes: int) -> np.ndarray:
    """Return a mask with one row of the given length per slice."""
    mask = np.zeros((len(sizes), 4, 10), dtype=bool)
    for z, size in enumerate(sizes):
        mask[z, 0, :size] = True
    return mask


def test_the_largest_slice_has_the_most_voxels():
    assert largest_slice(boxes(1, 5, 3)) == 1
    assert largest_slice(boxes(0, 0)) is None


def test_a_case_opens_at_its_most_final_contour():
    masks = {Layer.DIRECT: boxes(9, 0, 0), Layer.REVIEWED: boxes(0, 0, 2)}
    assert first_slice(masks, 3) == 2


def test_a_missed_tumour_falls_back_on_the_other_contours():
    assert first_slice({Layer.ADAPTED: boxes(0, 0), Layer.DIRECT: boxes(0, 1)}, 2) == 1


def test_the_reference_does_not_show_the_way():
    masks = {Layer.REFERENCE: boxes(9, 0, 0, 0)}
    assert first_slice(masks, 4) == 2
    assert first_slice({**masks, Layer.ANNOTATION: boxes(0, 0, 0, 1)}, 4) == 3


def test_contours_differ_by_line_as_well_as_colour():
    styles = [STYLES[layer] for layer in Layer]
    for key in ("name", "colour", "dash_px"):
        assert len({getattr(style, key) for style in styles}) == len(Layer)
