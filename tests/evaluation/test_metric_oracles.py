"""Every figure against its definition and against surface-distance, medpy and MONAI by name."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from evaluation.case_metrics import measure_case
from evaluation.surface_distance import surface_element_distances

# No distance on a grid of the spacings below is one of these: libraries that compare without room
# for the last bit must not decide a test.
TOLERANCES = (1.2345, 2.3456)
KINDS = ("empty", "full", "voxel", "border", "noise", "ball", "low", "high")


def draw_mask(kind, shape, rng):
    """One mask of a kind; "low" and "high" are disjoint whatever they hold."""
    mask = np.zeros(shape, dtype=bool)
    if kind == "full":
        mask[:] = True
    elif kind == "voxel":
        mask[tuple(rng.integers(shape))] = True
    elif kind == "border":
        axis = int(rng.integers(mask.ndim))
        edge = np.moveaxis(mask, axis, 0)[rng.choice([0, -1])]
        edge[...] = rng.random(edge.shape) < 0.6
    elif kind in ("noise", "low", "high"):
        mask[:] = rng.random(shape) < rng.uniform(0.05, 0.95)
        half = shape[-1] // 2
        if kind != "noise":
            mask[..., half:] &= kind == "high"
            mask[..., :half] &= kind == "low"
    elif kind == "ball":
        centre = rng.uniform(0, np.array(shape))
        away = np.linalg.norm(np.indices(shape).T - centre, axis=-1).T
        mask[:] = away < rng.uniform(1, max(shape))
    return mask


@st.composite
def pairs(draw):
    axes = draw(st.sampled_from([2, 3, 3]))
    shape = (*(draw(st.integers(1, 8)) for _ in range(axes - 1)), draw(st.integers(2, 9)))
    spacing = tuple(draw(st.integers(30, 500)) / 97 for _ in range(axes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kinds = draw(st.sampled_from(KINDS)), draw(st.sampled_from(KINDS))
    return *(draw_mask(kind, shape, rng) for kind in kinds), spacing


def outline(mask):
    """Boundary voxels in the words of medpy and MONAI: what an erosion takes away."""
    from scipy.ndimage import binary_erosion, generate_binary_structure

    return mask & ~binary_erosion(mask, generate_binary_structure(mask.ndim, 1), border_value=0)


def by_definition(reference, predicted, spacing):
    """Distances of all pairs of boundary voxels; nothing is clever here."""
    found = cdist(
        np.argwhere(outline(predicted)) * np.array(spacing),
        np.argwhere(outline(reference)) * np.array(spacing),
    )
    to_reference, to_predicted = found.min(axis=1), found.min(axis=0)
    both = np.concatenate([to_reference, to_predicted])
    return {
        "hd_mm": both.max(),
        "hd95_mm": max(np.percentile(to_reference, 95), np.percentile(to_predicted, 95)),
        "hd95_pooled_mm": np.percentile(both, 95),
        "asd_predicted_to_reference_mm": to_reference.mean(),
        "asd_reference_to_predicted_mm": to_predicted.mean(),
        "assd_mm": both.mean(),
        "nsd_voxel": {t: (both <= t).mean() for t in TOLERANCES},
    }


def added_path(reference, predicted, spacing):
    """Slice by slice, in words of sets of pixels."""
    slices = (
        [(reference, predicted)] if reference.ndim == 2 else zip(reference, predicted, strict=True)
    )
    lacking = 0
    for r, p in slices:
        drawn, there = ({tuple(i) for i in np.argwhere(outline(m))} for m in (r, p))
        lacking += len(drawn - there)
    return lacking * (spacing[-1] + spacing[-2]) / 2


def area_weighted(distances, weights):
    """HD95 and mean of one direction as surface-distance defines them, by area."""
    order = np.argsort(distances)
    share = np.cumsum(weights[order]) / weights.sum()
    at = min(np.searchsorted(share, 0.95), len(share) - 1)
    return distances[order][at], np.average(distances, weights=weights)


def test_every_figure_equals_its_definition_and_what_the_libraries_say():
    seen: Counter[str] = Counter()

    @settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
    @given(pairs())
    def check(pair):
        check_pair(pair, seen)

    check()
    for kind in ("2-D", "3-D", "both empty", "one empty", "disjoint", "full", "one voxel"):
        assert seen[kind] >= 5, (kind, seen)


def check_pair(pair, seen):
    """Compare all figures of one pair, and count what kind of pair it is."""
    library = pytest.importorskip("surface_distance")
    medpy = pytest.importorskip("medpy.metric.binary")
    reference, predicted, spacing = pair
    found = measure_case(reference, predicted, spacing_zyx_mm=spacing, tolerances_mm=TOLERANCES)
    sizes = reference.sum(), predicted.sum()
    shared = (reference & predicted).sum()
    seen[f"{reference.ndim}-D"] += 1
    if not sum(sizes):
        seen["both empty"] += 1
        assert math.isnan(found.dsc)
        assert math.isnan(found.added_path_length_mm)
        assert not found.is_failure
        return
    seen["disjoint"] += not shared
    assert found.dsc == pytest.approx(2 * shared / sum(sizes))
    assert found.jaccard == pytest.approx(shared / (reference | predicted).sum())
    assert found.is_failure == (shared == 0)
    if sizes[0]:
        assert found.added_path_length_mm == pytest.approx(
            added_path(reference, predicted, spacing)
        )
    if not all(sizes):
        seen["one empty"] += 1
        assert set(found.nsd.values()) == set(found.nsd_voxel.values()) == {0.0}
        assert math.isnan(found.hd95_mm)
        assert math.isnan(found.added_path_length_mm) == (sizes[0] == 0)
        return
    seen["full"] += reference.all() or predicted.all()
    seen["one voxel"] += 1 in sizes
    for name, value in by_definition(reference, predicted, spacing).items():
        assert getattr(found, name) == pytest.approx(value), name
    # medpy's names: its "hd95" is pooled, as is its "assd"; its "asd" runs from the first mask.
    assert found.hd_mm == pytest.approx(medpy.hd(predicted, reference, spacing))
    assert found.hd95_pooled_mm == pytest.approx(medpy.hd95(predicted, reference, spacing))
    there, back = medpy.asd(predicted, reference, spacing), medpy.asd(reference, predicted, spacing)
    assert found.asd_predicted_to_reference_mm == pytest.approx(there)
    assert found.asd_reference_to_predicted_mm == pytest.approx(back)
    assert found.assd_mm == pytest.approx(medpy.assd(predicted, reference, spacing))
    # surface-distance weighs surface elements by area, in all that it measures.
    theirs = library.compute_surface_distances(reference, predicted, spacing)
    for t in TOLERANCES:
        assert found.nsd[t] == pytest.approx(library.compute_surface_dice_at_tolerance(theirs, t))
    ours = surface_element_distances(reference, predicted, spacing)
    there = area_weighted(ours.predicted_to_reference_mm, ours.predicted_weights)
    back = area_weighted(ours.reference_to_predicted_mm, ours.reference_weights)
    assert (back[1], there[1]) == pytest.approx(library.compute_average_surface_distance(theirs))
    assert max(there[0], back[0]) == pytest.approx(library.compute_robust_hausdorff(theirs, 95))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(pairs())
def test_monai_agrees(pair):
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    reference, predicted, spacing = pair
    if not (reference.any() and predicted.any()):
        return
    found = measure_case(reference, predicted, spacing_zyx_mm=spacing, tolerances_mm=TOLERANCES)
    p, r = (torch.from_numpy(m[None, None].astype(np.uint8)) for m in (predicted, reference))
    shared = {"include_background": True, "spacing": spacing}

    def close(tensor):
        return pytest.approx(float(tensor), rel=1e-5, abs=1e-5)

    assert found.hd_mm == close(monai.compute_hausdorff_distance(p, r, **shared))
    assert found.hd95_mm == close(monai.compute_hausdorff_distance(p, r, percentile=95, **shared))
    asd = monai.compute_average_surface_distance
    assert found.asd_predicted_to_reference_mm == close(asd(p, r, **shared))
    assert found.asd_reference_to_predicted_mm == close(asd(r, p, **shared))
    assert found.assd_mm == close(asd(p, r, symmetric=True, **shared))
    for t in TOLERANCES:
        assert found.nsd_voxel[t] == close(monai.compute_surface_dice(p, r, [t], **shared))
