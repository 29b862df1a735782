from pathlib import Path

import numpy as np
import pytest

from algorithms.contracts.errors import DataError
from evaluation.benchmarks.image_packs import PACK_TARGETS, pack_patients, pack_target, read_pack

SHAPE = (3, 4, 5)


def label_of(*codes: int, shape=SHAPE) -> np.ndarray:
    """Put the codes one after the other at the start of the array."""
    label = np.zeros(shape, dtype=np.uint8)
    label.flat[: len(codes)] = codes
    return label


def write(packs: Path, folder: str, name: str, label: np.ndarray, **more) -> Path:
    """Write a case whose grey values are their own positions."""
    file = packs / folder / f"{name}.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    image = np.arange(label.size, dtype=np.int16).reshape(label.shape)
    np.savez_compressed(file, **({"image": image, "label": label} | more))
    return file


# -- one case ---------------------------------------------------------------------------------


def test_a_case_is_its_image_and_its_target(tmp_path) -> None:
    write(tmp_path, "sts", "STS_001", label_of(0, 1, 2, 1), spacing_zyx=np.array([3.0, 1.0, 0.5]))
    (case,) = read_pack(tmp_path, "sts")
    assert (case.name, case.patient) == ("STS_001", "STS_001")
    assert case.image.dtype == np.float32
    np.testing.assert_array_equal(case.image, np.arange(60).reshape(SHAPE))
    assert case.mask.dtype == np.bool_
    assert np.flatnonzero(case.mask).tolist() == [1, 3]
    assert case.spacing_zyx_mm == (3.0, 1.0, 0.5)
    assert all(type(s) is float for s in case.spacing_zyx_mm)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("sts", [1]),
        ("la", [1]),
        ("hippocampus", [1, 2]),
        ("acdc-lv", [3]),
        ("acdc-rv", [1]),
        ("scd", [3]),
    ],
)
def test_each_pack_has_its_own_codes(tmp_path, name, found) -> None:
    label = np.arange(5, dtype=np.uint8).reshape(1, 1, 5)
    write(tmp_path, PACK_TARGETS[name].folder, "p1", label)
    (case,) = read_pack(tmp_path, name)
    assert case.image[case.mask].tolist() == found


def test_every_pack_is_tested() -> None:
    assert set(PACK_TARGETS) == {"sts", "la", "hippocampus", "acdc-lv", "acdc-rv", "scd"}
    assert [name for name, target in PACK_TARGETS.items() if not target.volumes] == ["scd"]


def test_a_known_folder_keeps_its_axes_and_spacing_with_other_codes() -> None:
    atrium, heart, other = (pack_target(name) for name in ("la:1", "acdc:1,3", "clinic:2"))
    assert (atrium.swapped, atrium.spacing_zyx_mm) == (True, (0.625, 0.625, 0.625))
    assert (heart.codes, heart.spacing_zyx_mm) == ((1, 3), (8.0, 1.5, 1.5))
    assert (other.folder, other.codes, other.spacing_zyx_mm) == ("clinic", (2,), None)


def test_grey_values_that_are_no_numbers_are_refused(tmp_path) -> None:
    label = np.ones(SHAPE, dtype=np.uint8)
    (tmp_path / "clinic").mkdir()
    image = np.full(SHAPE, np.nan, dtype=np.float32)
    np.savez(tmp_path / "clinic" / "p1.npz", image=image, label=label)
    with pytest.raises(DataError, match=r"p1\.npz"):
        list(read_pack(tmp_path, "clinic"))


def test_swapped_axes_are_put_right(tmp_path) -> None:
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[2, 1, 4] = 1  # x, y, z
    write(tmp_path, "la", "p1", label)
    (case,) = read_pack(tmp_path, "la")
    assert case.image.shape == case.mask.shape == SHAPE[::-1]
    assert np.argwhere(case.mask).tolist() == [[4, 1, 2]]
    assert case.image[4, 1, 2] == 2 * 20 + 1 * 5 + 4
    assert case.image.flags.c_contiguous
    assert case.mask.flags.c_contiguous


def test_spacing_is_the_files_else_the_packs_else_unknown(tmp_path) -> None:
    write(tmp_path, "la", "p1", label_of(1))
    write(tmp_path, "la", "p2", label_of(1), spacing_zyx=np.array([2.0, 1.0, 1.0]))
    write(tmp_path, "hippocampus", "p1", label_of(1))
    assert [case.spacing_zyx_mm for case in read_pack(tmp_path, "la")] == [
        (0.625, 0.625, 0.625),
        (2.0, 1.0, 1.0),
    ]
    (unknown,) = read_pack(tmp_path, "hippocampus")
    assert unknown.spacing_zyx_mm is None


# -- many cases -------------------------------------------------------------------------------


@pytest.fixture
def frames(tmp_path) -> Path:
    """Two frames of each of three patients; one shows no left ventricle."""
    for patient, frame in ((3, 1), (1, 12), (2, 1), (1, 1), (3, 7)):
        write(tmp_path, "acdc", f"patient{patient:03}_frame{frame:02}", label_of(3, 1))
    write(tmp_path, "acdc", "patient002_frame09", label_of(1))
    (tmp_path / "acdc" / "README.md").write_text("not a case")
    return tmp_path


def test_the_frames_of_a_patient_belong_together(frames) -> None:
    assert pack_patients(frames, "acdc-lv") == ["patient001", "patient002", "patient003"]
    assert [(case.name, case.patient) for case in read_pack(frames, "acdc-rv")] == [
        (f"patient{p:03}_frame{f:02}", f"patient{p:03}")
        for p, f in ((1, 1), (1, 12), (2, 1), (2, 9), (3, 1), (3, 7))
    ]


def test_cases_without_the_target_are_left_out(frames) -> None:
    names = [case.name for case in read_pack(frames, "acdc-lv")]
    assert len(names) == 5
    assert "patient002_frame09" not in names


def test_a_split_by_patients_shares_no_case(frames) -> None:
    train, test = (
        {case.name for case in read_pack(frames, "acdc-rv", patients)}
        for patients in ({"patient001", "patient003"}, {"patient002"})
    )
    assert (len(train), len(test)) == (4, 2)
    assert not train & test
    assert list(read_pack(frames, "acdc-rv", set())) == []
    assert list(read_pack(frames, "acdc-rv", {"patient009"})) == []


def test_a_broken_case_of_another_patient_does_not_disturb(frames) -> None:
    (frames / "acdc" / "patient002_frame01.npz").write_bytes(b"broken")
    assert len(list(read_pack(frames, "acdc-rv", {"patient001"}))) == 2


# -- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [pack_patients, lambda packs, name: list(read_pack(packs, name))])
def test_an_unknown_or_missing_pack_is_refused(tmp_path, ask) -> None:
    with pytest.raises(DataError, match=r"'liver' is unknown.*hippocampus"):
        ask(tmp_path, "liver")
    with pytest.raises(DataError, match=r"sts: no .npz files"):
        ask(tmp_path, "sts")
    (tmp_path / "sts").mkdir()
    (tmp_path / "sts" / "notes.txt").write_text("")
    with pytest.raises(DataError, match=r"give --packs"):
        ask(tmp_path, "sts")


def _keep(file: Path, share: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])


def _without(file: Path, *names: str) -> None:
    np.savez(file, **{name: label_of(1) for name in names})


BROKEN = {
    "text": lambda file: file.write_bytes(b"this is not a case"),
    "half of it": lambda file: _keep(file, 0.5),
    "most of it": lambda file: _keep(file, 0.95),
    "no label": lambda file: _without(file, "image"),
    "no image": lambda file: _without(file, "label"),
    "objects": lambda file: np.savez(file, image=np.array([{}]), label=label_of(1)),
    "two spacings": lambda file: np.savez(
        file, image=label_of(1), label=label_of(1), spacing_zyx=np.ones(2)
    ),
    "words": lambda file: np.savez(file, image=np.array(["a"]), label=label_of(1)),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}


def _damage(file: Path) -> None:
    """Change bytes of the compressed data, as a failing disk does."""
    data = bytearray(file.read_bytes())
    at = data.index(b"image.npy") + 40
    data[at : at + 30] = b"\xff" * 30
    file.write_bytes(bytes(data))


def _one_array(file: Path) -> None:
    with file.open("wb") as out:
        np.save(out, label_of(1))


DAMAGED = {
    "nothing": lambda file: file.write_bytes(b""),
    "one array": _one_array,
    "damaged data": _damage,
    "two shapes": lambda file: np.savez(file, image=label_of(1), label=label_of(1, shape=(2, 2))),
    "two axes": lambda file: np.savez(
        file, image=label_of(1, shape=(5, 5)), label=label_of(1, shape=(5, 5))
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_case_is_named(tmp_path, kind) -> None:
    file = write(tmp_path, "sts", "STS_002", label_of(1))
    BROKEN[kind](file)
    with pytest.raises(DataError, match=r"STS_002\.npz: .*'sts': fetch the pack again"):
        list(read_pack(tmp_path, "sts"))


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_case_is_named(tmp_path, kind) -> None:
    file = write(tmp_path, "la", "p2", label_of(1))
    DAMAGED[kind](file)
    with pytest.raises(DataError, match=r"p2\.npz: .*'la': fetch the pack again"):
        list(read_pack(tmp_path, "la"))
