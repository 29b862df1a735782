from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from evaluation.benchmarks import annotator_styles as module
from evaluation.benchmarks.adaptation_benchmarks import PHANTOMS, PRESETS
from evaluation.benchmarks.annotator_styles import (
    STYLES,
    annotator_styles_table,
    run_annotator_styles,
)
from evaluation.benchmarks.hospital_images import HospitalImages, HospitalPatient, prepare_image
from tests.evaluation.benchmarks.test_adaptation_study import RECIPE, hospitals, study


def squares(_recipe, seed: int):
    """Bright squares; every rater adds one pixel more around them."""
    source, (away,) = hospitals(seed)
    raters = []
    for width, name in enumerate(STYLES):
        drawn = []
        for patient in away.patients:
            (image,) = patient.images
            grown = np.stack(
                [
                    ndimage.binary_dilation(mask, iterations=width) if width else mask
                    for mask in image.reference
                ]
            )
            # The network sees 16 x 16 pixels of 2 mm either way, so the image is its own grid.
            again = prepare_image(image.slices, grown, image.geometry, RECIPE)
            drawn.append(HospitalPatient(patient.name, (again,)))
        raters.append(HospitalImages(name, tuple(drawn)))
    return source, tuple(raters)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("styles")
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_raters", squares)
        tiny = replace(study().preset, stage1=study().preset.source_training)
        patch.setitem(PRESETS, PHANTOMS, {"cpu": tiny, "full": tiny})
        rows = run_annotator_styles(folder, "cpu", seeds=[0], log=said.append)
        again = run_annotator_styles(folder, "cpu", seeds=[0], log=said.append)
    return rows, again, said


def test_every_model_meets_every_rater(result) -> None:
    (row,), _, _ = result
    assert row["raters"] == list(STYLES)
    assert np.shape(row["model_with_rater"]) == (4, 4)
    assert len(row["source_with_rater"]) == 4
    assert row["patients"] == 2


def test_agreement_between_raters_is_that_of_their_squares(result) -> None:
    """A 7 x 7 square and what is left of a cross-shaped growth by 1, 2 and 3 pixels."""
    (row,), _, _ = result
    square = np.zeros((16, 16), dtype=bool)
    square[4:11, 5:12] = True
    grown = [ndimage.binary_dilation(square, iterations=n) if n else square for n in range(4)]
    areas = [int(mask.sum()) for mask in grown]
    pairs = [2 * min(a, b) / (a + b) for i, a in enumerate(areas) for b in areas[i + 1 :]]
    assert row["between_raters"] == pytest.approx(float(np.mean(pairs)))


def test_a_model_draws_like_its_own_rater(result) -> None:
    """The tight rater's model agrees less and less with raters who draw wider."""
    (row,), _, _ = result
    first = row["model_with_rater"][0]
    assert first == sorted(first, reverse=True)


def test_what_is_done_is_read(result) -> None:
    rows, again, said = result
    assert again == rows
    assert len(said) == len(STYLES)


def test_the_table_has_a_line_per_model(result) -> None:
    rows, _, _ = result
    lines = annotator_styles_table(rows).split("\n\n")[0].splitlines()
    assert len(lines) == 2 + 1 + len(STYLES)


def test_phantom_raters_see_the_same_images_and_draw_other_lines(monkeypatch) -> None:
    few = tuple(replace(profile, patients=1) for profile in module.HOSPITALS[:2])
    monkeypatch.setattr(module, "HOSPITALS", few)
    _, raters = module._raters(RECIPE, 0)
    images = [rater.patients[0].images[0] for rater in raters]
    sizes = {int(image.reference.sum()) for image in images}
    assert all(np.array_equal(image.slices, images[0].slices) for image in images)
    assert len(sizes) == len(STYLES)
