import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.case_metrics import measure_case, measure_classes

DISTANCES = (
    "hd_mm",
    "hd95_mm",
    "hd95_pooled_mm",
    "asd_predicted_to_reference_mm",
    "asd_reference_to_predicted_mm",
    "assd_mm",
)


def blob(seed, shape=(9, 14, 12)):
    """A random connected-looking region: a ball with a ragged surface."""
    rng = np.random.default_rng(seed)
    centre = np.array(shape) / 2 + rng.uniform(-1.5, 1.5, len(shape))
    distance = np.linalg.norm(np.indices(shape).T - centre, axis=-1).T
    return distance + rng.normal(0, 0.7, shape) < 4


@pytest.mark.parametrize("name", ["A", "B", "C_border", "D_perfect"])
def test_the_independent_vectors_are_reproduced(vectors, name):
    data = np.load(vectors / "metrics.npz", allow_pickle=False)

    def expected(key):
        return pytest.approx(float(data[f"{name}_{key}"]), abs=1e-6)

    metrics = measure_case(
        data[f"{name}_gt"].astype(bool),
        data[f"{name}_pred"].astype(bool),
        spacing_zyx_mm=data[f"{name}_spacing"],
    )
    assert metrics.dsc == expected("dice")
    assert metrics.jaccard == expected("jaccard")
    assert metrics.hd_mm == expected("hd")
    assert metrics.hd95_mm == expected("hd95_maxdirected")
    assert metrics.asd_predicted_to_reference_mm == expected("asd_pred2gt")
    assert metrics.asd_reference_to_predicted_mm == expected("asd_gt2pred")
    assert metrics.hd95_pooled_mm == expected("hd95_pooled")
    assert metrics.assd_mm == expected("assd_pooled")
    assert metrics.nsd_voxel[1.0] == expected("nsd1_voxel")
    assert metrics.nsd[1.0] == expected("lib_sd_nsd1")
    assert metrics.nsd[2.0] == expected("lib_sd_nsd2")


@pytest.mark.parametrize("seed", range(3))
def test_simpleitk_and_monai_agree(seed):
    sitk = pytest.importorskip("SimpleITK")
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    reference, predicted = blob(seed), blob(seed + 100)
    spacing = (3.0, 0.7, 0.9)
    metrics = measure_case(reference, predicted, spacing_zyx_mm=spacing)

    def contour(mask):
        image = sitk.GetImageFromArray(np.pad(mask, 1).astype(np.uint8))
        image.SetSpacing(spacing[::-1])
        return sitk.BinaryContour(image, fullyConnected=False)

    hausdorff = sitk.HausdorffDistanceImageFilter()
    hausdorff.Execute(contour(reference), contour(predicted))
    assert metrics.hd_mm == pytest.approx(hausdorff.GetHausdorffDistance(), abs=1e-4)

    def batch(mask):
        return torch.from_numpy(np.stack([~mask, mask])[None].astype(np.uint8))

    p, r = batch(predicted), batch(reference)
    assert metrics.hd95_mm == pytest.approx(
        float(monai.compute_hausdorff_distance(p, r, percentile=95, spacing=spacing)), abs=1e-4
    )
    assert metrics.asd_predicted_to_reference_mm == pytest.approx(
        float(monai.compute_average_surface_distance(p, r, spacing=spacing)), abs=1e-4
    )
    assert metrics.assd_mm == pytest.approx(
        float(monai.compute_average_surface_distance(p, r, symmetric=True, spacing=spacing)),
        abs=1e-4,
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0.5, 4.0))
def test_scaling_the_patient_scales_distances_and_leaves_shares(seed_a, seed_b, scale):
    reference, predicted = blob(seed_a), blob(seed_b)
    spacing = np.array((2.0, 0.8, 0.6))
    one = measure_case(reference, predicted, spacing_zyx_mm=spacing, tolerances_mm=(1.0,))
    scaled = measure_case(
        reference, predicted, spacing_zyx_mm=spacing * scale, tolerances_mm=(scale,)
    )
    for name in DISTANCES:
        assert getattr(scaled, name) == pytest.approx(scale * getattr(one, name))
    assert scaled.dsc == one.dsc
    assert scaled.nsd[scale] == pytest.approx(one.nsd[1.0])
    assert scaled.volume_predicted_ml == pytest.approx(scale**3 * one.volume_predicted_ml)
    assert one.hd95_mm <= one.hd_mm
    assert one.asd_predicted_to_reference_mm <= one.hd_mm


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.tuples(*[st.integers(0, 3)] * 6))
def test_more_background_around_changes_nothing(seed, margins):
    reference, predicted = blob(seed), blob(seed + 1)
    pad = np.reshape(margins, (3, 2))
    spacing = (2.0, 1.0, 1.0)
    assert measure_case(reference, predicted, spacing_zyx_mm=spacing) == measure_case(
        np.pad(reference, pad), np.pad(predicted, pad), spacing_zyx_mm=spacing
    )


def test_a_perfect_prediction():
    mask = blob(1)
    metrics = measure_case(mask, mask.copy(), spacing_zyx_mm=(3.0, 1.0, 1.0))
    assert (metrics.dsc, metrics.jaccard) == (1.0, 1.0)
    assert all(getattr(metrics, name) == 0.0 for name in DISTANCES)
    assert metrics.nsd == metrics.nsd_voxel == {1.0: 1.0, 2.0: 1.0}
    assert metrics.volume_reference_ml == pytest.approx(mask.sum() * 3 / 1000)


@pytest.mark.parametrize("missed", ["reference", "predicted"])
def test_one_empty_mask_is_a_failure_without_distances(missed):
    masks = {"reference": blob(2), "predicted": blob(2)}
    masks[missed] = np.zeros_like(masks[missed])
    metrics = measure_case(**masks, spacing_zyx_mm=(1.0, 1.0, 1.0))
    assert metrics.dsc == metrics.jaccard == metrics.nsd[1.0] == metrics.nsd_voxel[2.0] == 0.0
    assert all(math.isnan(getattr(metrics, name)) for name in DISTANCES)
    assert metrics.is_failure
    assert getattr(metrics, f"volume_{missed}_ml") == 0.0
    # A missed tumour is drawn whole; an invented one is erased, which is no drawing.
    assert math.isnan(metrics.added_path_length_mm) == (missed == "reference")
    if missed == "predicted":
        assert metrics.added_path_length_mm > 50


def test_two_empty_masks_are_undefined_and_no_failure():
    empty = np.zeros((3, 3, 3), dtype=bool)
    metrics = measure_case(empty, empty, spacing_zyx_mm=(1.0, 1.0, 1.0))
    assert math.isnan(metrics.dsc)
    assert math.isnan(metrics.nsd[1.0])
    assert all(math.isnan(getattr(metrics, name)) for name in DISTANCES)
    assert not metrics.is_failure
    assert metrics.volume_reference_ml == 0.0


def test_disjoint_masks_are_a_failure_with_a_distance():
    reference, predicted = np.zeros((2, 1, 4, 40), dtype=bool)
    reference[0, 1, 1] = predicted[0, 1, 31] = True
    metrics = measure_case(reference, predicted, spacing_zyx_mm=(1.0, 1.0, 1.0))
    assert metrics.is_failure
    assert metrics.hd95_mm == 30.0


def test_masks_that_are_views_of_other_arrays_are_measured_alike():
    reference, predicted = blob(5), blob(6)
    spacing = (2.0, 1.0, 0.5)
    expected = measure_case(reference, predicted, spacing_zyx_mm=spacing)
    turned = [np.asfortranarray(mask) for mask in (reference, predicted)]
    assert measure_case(*turned, spacing_zyx_mm=spacing) == expected
    flipped = [mask[::-1, :, ::-1][::-1, :, ::-1] for mask in turned]
    assert measure_case(*flipped, spacing_zyx_mm=spacing) == expected


def test_every_class_is_measured_against_the_rest():
    a, b = blob(7), blob(8)
    reference = np.where(a, 1, 0) + np.where(a & b, 4, 0)
    predicted = np.where(b, 1, 0)
    spacing = (3.0, 1.0, 1.0)
    rows = measure_classes(reference, predicted, spacing_zyx_mm=spacing)
    assert list(rows) == [1, 5]
    assert rows[1] == measure_case(reference == 1, predicted == 1, spacing_zyx_mm=spacing)
    assert rows[5].is_failure
    named = measure_classes(
        reference, predicted, spacing_zyx_mm=spacing, classes=(9, 1), tolerances_mm=(3.0,)
    )
    assert list(named) == [9, 1]
    assert math.isnan(named[9].dsc)
    assert list(named[1].nsd) == [3.0]
    with pytest.raises(TypeError, match="integers"):
        measure_classes(reference.astype(float), predicted, spacing_zyx_mm=spacing)


def test_a_slice_is_measured_in_its_plane():
    reference, predicted = np.zeros((2, 20, 20), dtype=bool)
    reference[5:10, 5:10] = predicted[5:10, 7:12] = True
    flat = measure_case(reference, predicted, spacing_zyx_mm=(2.0, 3.0))
    thick = measure_case(reference, predicted, spacing_zyx_mm=(4.0, 2.0, 3.0))
    assert flat.hd_mm == thick.hd_mm == 6.0
    assert math.isnan(flat.volume_reference_ml)
    assert thick.volume_reference_ml == pytest.approx(25 * 24 / 1000)


def test_what_is_not_a_pair_of_masks_is_refused():
    mask = np.ones((2, 2, 2), dtype=bool)
    with pytest.raises(TypeError):
        measure_case(mask.astype(float), mask, spacing_zyx_mm=(1, 1, 1))
    with pytest.raises(ValueError, match="spacings"):
        measure_case(mask, mask, spacing_zyx_mm=(1, 1))
    with pytest.raises(ValueError, match="positive"):
        measure_case(mask, mask, spacing_zyx_mm=(1, 0, 1))
    with pytest.raises(ValueError, match="axes"):
        measure_case(mask[0, 0], mask[0, 0], spacing_zyx_mm=(1, 1))
    with pytest.raises(ValueError, match="tolerances"):
        measure_case(mask, mask, spacing_zyx_mm=(1, 1, 1), tolerances_mm=(-1.0,))


def test_a_row_cannot_be_changed():
    metrics = measure_case(blob(3), blob(4), spacing_zyx_mm=(1.0, 1.0, 1.0))
    with pytest.raises(dataclasses.FrozenInstanceError):
        metrics.dsc = 1.0
