import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813

from algorithms.contracts.messages import SITE_NAME_PATTERN
from evaluation.benchmarks.phantom_anatomy import Tissue
from evaluation.benchmarks.phantom_hospitals import (
    HOSPITALS,
    HospitalProfile,
    generate_patient,
    patient_tags,
    write_patient,
)
from tests.evaluation.benchmarks.reading_back import (
    dice,
    fill_contours,
    geometry_of,
    read_with_simpleitk,
    structure_set,
)

every_hospital = pytest.mark.parametrize("profile", HOSPITALS, ids=lambda profile: profile.name)


@every_hospital
def test_profile_is_complete(profile: HospitalProfile) -> None:
    assert re.fullmatch(SITE_NAME_PATTERN, profile.name)
    assert set(profile.grey) == set(Tissue)


@every_hospital
def test_tumour_has_a_plausible_size_and_place(profile: HospitalProfile) -> None:
    shares = []
    for index in range(5):
        image, mask, geometry = generate_patient(profile, index, seed=3)
        body = image > 0.1 * np.percentile(image, 99)
        assert 5.0 <= mask.sum() * geometry.voxel_volume_ml <= 60.0
        assert body[mask].mean() > 0.9  # the rest is airway inside the contour
        centre = geometry.points_from_index(np.argwhere(mask).mean(axis=0)[None])[0]
        assert np.abs(centre).max() < 30.0  # mm from the nasopharynx
        assert not mask[0].any()
        assert not mask[-1].any()
        shares.append(mask.any(axis=(1, 2)).mean())
    assert 0.2 < np.mean(shares) < 0.5


@every_hospital
def test_margin_adds_its_width_all_around(profile: HospitalProfile) -> None:
    """Same patient, same image; a disc of area a grows by about 2 sqrt(pi a) m + pi m^2."""
    drawn = {}
    for margin_mm in (-1.0, 0.0, 2.0):
        style = replace(profile.contouring, margin_mm=margin_mm, smoothing_mm=0.5, jitter_mm=0.0)
        image, drawn[margin_mm], geometry = generate_patient(
            replace(profile, contouring=style), 1, seed=5
        )
        np.testing.assert_array_equal(image, generate_patient(profile, 1, seed=5)[0])
    assert not (drawn[-1.0] & ~drawn[0.0]).any()
    assert not (drawn[0.0] & ~drawn[2.0]).any()
    z = int(np.argmax(drawn[0.0].sum(axis=(1, 2))))
    pixel_mm2 = float(np.prod(geometry.spacing_zyx_mm[1:]))
    before, after = (float(drawn[m][z].sum()) * pixel_mm2 for m in (0.0, 2.0))
    disc = 4.0 * np.sqrt(np.pi * before) + 4.0 * np.pi  # the least any shape can grow by, in mm^2
    assert 0.8 * disc < after - before < 2.5 * disc


def test_patients_differ_in_tumour_volume() -> None:
    cases = [generate_patient(HOSPITALS[3], index, seed=5) for index in range(8)]
    assert np.std([mask.sum() * grid.voxel_volume_ml for _, mask, grid in cases]) > 3.0


@every_hospital
def test_same_seed_same_patient_and_other_seed_another(profile: HospitalProfile) -> None:
    image, mask, geometry = generate_patient(profile, 2, seed=1)
    again = generate_patient(profile, 2, seed=1)
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(mask, again[1])
    assert geometry == again[2]
    for other in (generate_patient(profile, 3, seed=1), generate_patient(profile, 2, seed=2)):
        assert not np.array_equal(image, other[0])
        assert not np.array_equal(mask, other[1])


def test_hospitals_differ_more_than_patients_do() -> None:
    """Histograms of the normalised body, by total variation distance."""
    histograms: dict[str, list[np.ndarray]] = {}
    for profile in HOSPITALS:
        for index in range(3):
            image = generate_patient(profile, index, seed=4)[0]
            body = image[image > 0.1 * np.percentile(image, 99)]
            counts, _ = np.histogram((body - body.mean()) / body.std(), np.linspace(-3, 4, 36))
            histograms.setdefault(profile.name, []).append(counts / counts.sum())

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.abs(a - b).sum() / 2)

    means = {name: np.mean(rows, axis=0) for name, rows in histograms.items()}
    within = max(distance(row, means[name]) for name, rows in histograms.items() for row in rows)
    source = HOSPITALS[0].name
    for name in means.keys() - {source}:
        assert distance(means[source], means[name]) > within


def test_written_files_say_what_was_generated(tmp_path: Path) -> None:
    profile = HOSPITALS[3]  # the tilted one
    write_patient(profile, 0, tmp_path, seed=9)
    image, mask, geometry = generate_patient(profile, 0, seed=9)
    folder = tmp_path / patient_tags(profile, 0, 9).patient_id
    read = read_with_simpleitk(folder)
    assert geometry_of(read).matches(geometry, tolerance_mm=1e-3)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), image)
    dataset = structure_set(folder)
    assert dataset.StructureSetROISequence[0].ROIName == profile.roi_name
    assert dice(fill_contours(dataset, geometry), mask) >= 0.98
    header = pydicom.dcmread(next(folder.glob("MR.*")))
    assert header.ManufacturerModelName == profile.scanner.model


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_patient(HOSPITALS[3], 0, tmp_path / name, seed=9)
    one, two = (
        {f.relative_to(tmp_path / name): f.read_bytes() for f in (tmp_path / name).rglob("*.dcm")}
        for name in ("one", "two")
    )
    assert len(one) == HOSPITALS[3].slices + 1
    assert one == two


def test_patient_ids_are_unique() -> None:
    ids = [patient_tags(p, i, 0).patient_id for p in HOSPITALS for i in range(p.patients)]
    assert len(ids) == len(set(ids))
