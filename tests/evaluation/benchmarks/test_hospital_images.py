from dataclasses import replace

import numpy as np
import pytest

from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import PreprocessingRecipe
from evaluation.benchmarks.hospital_images import (
    cut_margins,
    pack_hospital,
    phantom_hospital,
    sts_hospitals,
)
from evaluation.benchmarks.phantom_hospitals import HOSPITALS

RECIPE = PreprocessingRecipe(in_plane_spacing_mm=3.0, patch_yx=(16, 16))


def write(folder, name: str, **more) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(name))
    label = np.zeros((3, 20, 24), dtype=np.uint8)
    label[1, 8:14, 6:12] = 1
    label[1, 8:10, 6:8] = 2
    image = rng.integers(0, 200, label.shape).astype(np.uint8)
    np.savez(folder / f"{name}.npz", **{"image": image, "label": label} | more)


def test_a_pack_never_seen_is_a_hospital_whose_labels_are_the_target(tmp_path) -> None:
    write(tmp_path / "clinic", "anna_frame01", spacing_zyx=np.array([4.0, 1.5, 1.5]))
    write(tmp_path / "clinic", "anna_frame09", spacing_zyx=np.array([4.0, 1.5, 1.5]))
    write(tmp_path / "clinic", "bert")
    hospital = pack_hospital(tmp_path, "clinic", RECIPE)
    assert [(p.name, len(p.images)) for p in hospital.patients] == [("anna", 2), ("bert", 1)]
    image = hospital.patients[0].images[0]
    assert image.reference.sum() == 36
    assert image.slices.shape == image.label.shape == (3, 10, 12)  # 1.5 mm to 3 mm
    assert image.distances
    assert not hospital.patients[1].images[0].distances  # no spacing, no millimetres
    second = pack_hospital(tmp_path, "clinic:2", RECIPE).patients[0].images[0]
    assert second.reference.sum() == 4


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", "is unknown: one of"),
        ("clinic:a", "whole numbers"),
        ("clinic:9", "no image shows"),
    ],
)
def test_a_pack_that_is_not_there_or_shows_nothing_is_refused(tmp_path, name, words) -> None:
    write(tmp_path / "clinic", "anna")
    with pytest.raises(DataError, match=words):
        pack_hospital(tmp_path, name, RECIPE)


def test_margins_are_cut_at_random_and_never_the_target() -> None:
    mask = np.zeros((2, 30, 40), dtype=bool)
    mask[0, 10:15, 20:30] = True
    image = np.arange(mask.size, dtype=np.float32).reshape(mask.shape)
    shapes = set()
    for seed in range(20):
        cut, target = cut_margins(image, mask, np.random.default_rng(seed))
        assert target.sum() == mask.sum()
        np.testing.assert_array_equal(cut[target], image[mask])
        shapes.add(cut.shape)
    assert len(shapes) > 15
    assert {shape[0] for shape in shapes} == {2}


def test_sarcomas_are_parted_by_scanner(tmp_path) -> None:
    lines = ["case,vendor_site,model"]
    for case, vendor, model in (
        ("S1", "ge", "SIGNA EXCITE"),
        ("S2", "ge", "Signa HDxt"),
        ("S3", "siemens", "Avanto"),
    ):
        write(tmp_path / "sts", case, spacing_zyx=np.array([3.0, 1.0, 1.0]))
        lines.append(f"{case},{vendor},{model}")
    with pytest.raises(DataError, match=r"cases\.csv"):
        sts_hospitals(tmp_path, RECIPE, seed=0)
    (tmp_path / "sts" / "cases.csv").write_text("\n".join(lines))
    one, same, other = (sts_hospitals(tmp_path, RECIPE, seed=s) for s in (0, 0, 1))
    assert {site: [p.name for p in h.patients] for site, h in one.items()} == {
        "ge-signa-excite": ["S1"],
        "ge-other": ["S2"],
        "siemens": ["S3"],
    }
    first, again, else_ = (h["siemens"].patients[0].images[0] for h in (one, same, other))
    np.testing.assert_array_equal(first.slices, again.slices)
    assert first.reference.shape != else_.reference.shape
    assert first.reference.sum() == else_.reference.sum() == 32  # code 1 alone


def test_phantoms_are_hospitals_too() -> None:
    profile = replace(HOSPITALS[1], patients=2)
    hospital = phantom_hospital(profile, RECIPE, seed=0)
    assert [p.name for p in hospital.patients] == ["hospital-b-seed0-00", "hospital-b-seed0-01"]
    image = hospital.patients[0].images[0]
    assert image.label.any()
    assert len(image.slices) == len(image.reference)
