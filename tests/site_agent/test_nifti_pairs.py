"""NIfTI pairs: naming, geometry in LPS, and what is refused."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import Geometry
from site_agent.nifti_pairs import find_pairs, read_pair

SHAPE = (4, 5, 6)
TURN = np.deg2rad(30.0)
AXES = (
    (float(np.cos(TURN)), float(np.sin(TURN)), 0.0),
    (-float(np.sin(TURN)), float(np.cos(TURN)), 0.0),
    (0.0, 0.0, 1.0),
)
GEOMETRY = Geometry(SHAPE, (3.0, 0.9, 0.7), (11.0, -7.0, 40.0), AXES)


def write(file: Path, voxels: np.ndarray, geometry: Geometry = GEOMETRY) -> Path:
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing(geometry.spacing_zyx_mm[::-1])
    image.SetOrigin(geometry.origin_xyz_mm)
    image.SetDirection(np.array(geometry.axes_xyz).T.ravel().tolist())
    SimpleITK.WriteImage(image, str(file))
    return file


def grey() -> np.ndarray:
    return np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


def labels() -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[1, 2, 3], mask[2, 2, 3] = 1, 4
    return mask


def test_names_make_pairs(tmp_path: Path) -> None:
    for name in ("b_image.nii.gz", "b_label.nii", "a.nii.gz", "a_MASK.nii.gz", "c.nii"):
        (tmp_path / name).touch()
    (tmp_path / ".hidden.nii").touch()
    (tmp_path / "README.md").touch()
    found = [(one.name, one.image.name, one.mask and one.mask.name) for one in find_pairs(tmp_path)]
    assert found == [
        ("a", "a.nii.gz", "a_MASK.nii.gz"),
        ("b", "b_image.nii.gz", "b_label.nii"),
        ("c", "c.nii", None),
    ]


def test_a_folder_without_nifti_has_no_pairs(tmp_path: Path) -> None:
    assert find_pairs(tmp_path) == []
    with pytest.raises(DataError, match="not a folder"):
        find_pairs(tmp_path / "absent")


def test_ambiguous_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "_image.nii").touch()
    with pytest.raises(DataError, match=r"_image\.nii has no NAME"):
        find_pairs(tmp_path)
    (tmp_path / "_image.nii").unlink()
    (tmp_path / "a_mask.nii").touch()
    with pytest.raises(DataError, match="no image beside it"):
        find_pairs(tmp_path)
    (tmp_path / "a.nii").touch()
    (tmp_path / "a_label.nii").touch()
    with pytest.raises(DataError, match="same part"):
        find_pairs(tmp_path)


def test_a_turned_pair_is_read_in_lps(tmp_path: Path) -> None:
    write(tmp_path / "a.nii.gz", grey())
    write(tmp_path / "a_mask.nii.gz", labels())
    [pair] = find_pairs(tmp_path)
    volume, mask = read_pair(pair)
    assert mask is not None
    assert volume.image.dtype == np.float32
    np.testing.assert_array_equal(volume.image, grey())
    np.testing.assert_array_equal(mask.voxels, labels() > 0)
    assert mask.voxels.sum() == 2
    assert volume.geometry.matches(GEOMETRY, tolerance_mm=1e-4)
    assert mask.geometry == volume.geometry
    theirs = SimpleITK.ReadImage(str(pair.image)).TransformIndexToPhysicalPoint((5, 1, 3))
    ours = volume.geometry.points_from_index(np.array([[3.0, 1.0, 5.0]]))[0]
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_an_image_without_mask_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a_image.nii", grey())
    assert read_pair(find_pairs(tmp_path)[0])[1] is None


def test_what_cannot_be_a_pair_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.nii", grey())
    moved = Geometry(SHAPE, (3.0, 0.9, 0.7), (11.0, -7.0, 41.0), AXES)
    mask = write(tmp_path / "a_mask.nii", labels(), moved)
    with pytest.raises(DataError, match="another grid"):
        read_pair(find_pairs(tmp_path)[0])
    mask.write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"a_mask\.nii cannot be read"):
        read_pair(find_pairs(tmp_path)[0])


def test_grey_values_beyond_single_precision_are_refused(tmp_path: Path) -> None:
    voxels = grey().astype(np.float64)
    voxels[1, 2, 3] = 1e300
    write(tmp_path / "a.nii", voxels)
    with pytest.raises(DataError, match=r"a\.nii: grey values are no finite numbers"):
        read_pair(find_pairs(tmp_path)[0])


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, ending: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(-3000, 3000, (20, 30, 40)).astype(np.int16)
    file = write(tmp_path / f"a.{ending}", noise, Geometry(noise.shape, (1.0, 1.0, 1.0), (0, 0, 0)))
    np.testing.assert_array_equal(read_pair(find_pairs(tmp_path)[0])[0].image, noise)
    whole = file.read_bytes()
    for end in (int(kept * len(whole)), int(kept * len(whole)) - 7):
        file.write_bytes(whole[:end])
        with pytest.raises(DataError, match=rf"a\.{ending} .*(copy or )?write the file again"):
            read_pair(find_pairs(tmp_path)[0])


def test_a_cut_file_that_was_packed_again_and_one_of_zero_bytes_are_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.nii", grey()).read_bytes()
    (tmp_path / "a.nii").unlink()
    for content in (gzip.compress(whole[:-10]), b""):
        (tmp_path / "a.nii.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.nii\.gz .*write the file again"):
            read_pair(find_pairs(tmp_path)[0])


def test_a_four_dimensional_image_is_refused(tmp_path: Path) -> None:
    stack = SimpleITK.JoinSeries([SimpleITK.GetImageFromArray(grey())] * 2)
    SimpleITK.WriteImage(stack, str(tmp_path / "a.nii"))
    with pytest.raises(DataError, match="not one 3-D grey image"):
        read_pair(find_pairs(tmp_path)[0])
