import numpy as np
import pytest

from algorithms.contracts.errors import DataError
from evaluation.mask_files import read_labels, read_pair

sitk = pytest.importorskip("SimpleITK")
pytest.importorskip("pydicom")


def cube(shape=(6, 8, 9)):
    labels = np.zeros(shape, dtype=np.uint8)
    labels[1:4, 2:6, 3:7] = 1
    labels[2, 3, 4] = 2
    return labels


def write(file, labels, spacing=(3.0, 1.0, 0.5), origin=(10.0, -20.0, 30.0)):
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin(origin[: labels.ndim])
    sitk.WriteImage(image, str(file))
    return file


def line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_label_map_comes_back_with_its_grid(tmp_path, ending):
    found = read_labels(write(tmp_path / f"a{ending}", cube()))
    np.testing.assert_array_equal(found.labels, cube())
    assert found.spacing_mm == pytest.approx((3.0, 1.0, 0.5))
    assert found.geometry is not None
    assert found.geometry.origin_xyz_mm == pytest.approx((10, -20, 30))


@pytest.mark.parametrize("name", ["mask", "label", "anything"])
def test_an_npz_needs_one_array_of_labels(tmp_path, name):
    file = tmp_path / "a.npz"
    np.savez(file, **{name: cube()})
    np.testing.assert_array_equal(read_labels(file).labels, cube())
    assert read_labels(file).spacing_mm is None
    np.savez(file, label=cube().astype(bool), image=cube() * 3.0, spacing=[3.0, 1.0, 0.5])
    found = read_labels(file)
    assert found.spacing_mm == (3.0, 1.0, 0.5)
    assert found.labels.max() == 1


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"a": cube(), "b": cube()}, "name the labels"),
        ({"mask": cube() * 0.5}, "fractions"),
        ({"mask": np.array(["x"])}, "two or three axes"),
        ({"mask": cube(), "spacing": np.array([1.0, 1.0])}, "3 numbers"),
        ({"mask": cube(), "spacing": np.array([1.0, 0.0, 1.0])}, "above 0"),
        ({"mask": np.array([{}], dtype=object)}, "cannot be read"),
    ],
)
def test_an_npz_that_holds_something_else_is_refused(tmp_path, arrays, said):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=said) as error:
        read_labels(tmp_path / "a.npz")
    line(error)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.nii.gz", b"no image", "cannot be read"),
        ("a.npz", b"no archive", "cannot be read"),
        ("a.txt", b"text", "unknown kind"),
        ("a.dcm", b"no dicom", "unknown kind"),
        ("a.dcm", b"\0" * 128 + b"DICM", "damaged"),
    ],
)
def test_files_that_hold_no_labels_are_one_line(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as error:
        read_labels(tmp_path / name)
    assert name in line(error)
    with pytest.raises(DataError, match="not there"):
        read_labels(tmp_path / "missing.nii")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"labels": cube((6, 8, 10))}, "shapes"),
        ({"labels": cube(), "spacing": (3.0, 1.0, 0.6)}, "spacings 3 x 1 x 0.5 and 3 x 1 x 0.6"),
        ({"labels": cube(), "origin": (10.0, -20.0, 33.0)}, "other places"),
    ],
)
def test_grids_that_differ_are_refused(tmp_path, other, said):
    one = write(tmp_path / "one.nii.gz", cube())
    two = write(tmp_path / "two.nii.gz", **other)
    with pytest.raises(DataError, match=said) as error:
        read_pair(one, two)
    assert "one.nii.gz" in line(error)


def test_a_slice_and_rounded_coordinates_are_no_other_grid(tmp_path):
    flat = write(tmp_path / "flat.mha", cube()[2], spacing=(1.0, 0.5))
    assert read_pair(flat, flat)[0].spacing_mm == (1.0, 0.5)
    one = write(tmp_path / "one.nii.gz", cube())
    two = write(tmp_path / "two.nii.gz", cube(), origin=(10.004, -20.0, 30.0))
    assert read_pair(one, two)[1].labels.sum() == cube().sum()


# -- DICOM ------------------------------------------------------------------------------------


def test_a_segmentation_equals_its_makers_own_label_map(data_packs):
    folder = data_packs / "dicom" / "seg_dcmqi"
    ours, theirs = read_pair(folder / "liver.dcm", folder / "liver_seg.nrrd")
    assert ours.labels.any()
    np.testing.assert_array_equal(ours.labels > 0, theirs.labels > 0)


@pytest.mark.parametrize("patient", ["STS_015/MR_T1", "STS_025/MR_T1", "STS_025/CT"])
def test_a_structure_set_equals_its_origins_own_mask(data_packs, patient):
    folder = data_packs / "dicom" / "sts_rtstruct" / patient
    (rtstruct,) = (folder / "mask").iterdir()
    ours, theirs = read_pair(rtstruct, folder / "mask_reference.nii.gz")
    shared = ((ours.labels > 0) & (theirs.labels > 0)).sum()
    assert 2 * shared / ((ours.labels > 0).sum() + (theirs.labels > 0).sum()) > 0.999
    back, _ = read_pair(folder / "mask_reference.nii.gz", rtstruct)
    np.testing.assert_array_equal(back.labels, theirs.labels)
    with pytest.raises(DataError, match="both RTSTRUCT"):
        read_pair(rtstruct, rtstruct)
    with pytest.raises(DataError, match="choose by --roi"):
        read_pair(rtstruct, folder / "mask_reference.nii.gz", roi="no such region")


def test_overlapping_segments_are_read_one_by_one(data_packs):
    file = data_packs / "dicom" / "seg_highdicom" / "seg_image_ct_binary_overlap.dcm"
    with pytest.raises(DataError, match="choose one by --label"):
        read_labels(file)
    one, two = read_labels(file, label=1), read_labels(file, label=2)
    assert one.labels.shape == two.labels.shape
    assert (one.labels.astype(bool) & two.labels.astype(bool)).any()
    with pytest.raises(DataError, match=r"no segment 7: one of \[1, 2\]"):
        read_labels(file, label=7)


def test_other_dicom_objects_are_refused(data_packs):
    folder = data_packs / "dicom" / "seg_highdicom"
    with pytest.raises(DataError, match="neither DICOM SEG nor RTSTRUCT"):
        read_labels(folder / "ct_image.dcm")
    with pytest.raises(DataError, match="where its slices lie"):
        read_labels(folder / "seg_image_cr_binary.dcm")


def test_a_segmentation_of_some_slices_is_laid_onto_the_whole_grid(data_packs, tmp_path):
    """A NIfTI of more slices around the SEG: the SEG is empty on those it does not hold."""
    file = data_packs / "dicom" / "seg_dcmqi" / "liver.dcm"
    alone = read_labels(file)
    assert alone.geometry is not None
    image = sitk.GetImageFromArray(np.pad(alone.labels, ((2, 3), (0, 0), (0, 0))).astype(np.uint8))
    image.SetSpacing(alone.geometry.spacing_zyx_mm[::-1])
    image.SetDirection(np.array(alone.geometry.axes_xyz).T.ravel().tolist())
    corner = alone.geometry.points_from_index(np.array([[-2.0, 0.0, 0.0]]))[0]
    image.SetOrigin(corner.tolist())
    sitk.WriteImage(image, str(tmp_path / "whole.nii.gz"))
    for ours, theirs in (
        read_pair(file, tmp_path / "whole.nii.gz"),
        read_pair(tmp_path / "whole.nii.gz", file),
    ):
        assert ours.labels.shape == (8, 512, 512)
        np.testing.assert_array_equal(ours.labels > 0, theirs.labels > 0)
    image.SetOrigin((corner + np.array([0.4, 0.0, 0.0])).tolist())
    sitk.WriteImage(image, str(tmp_path / "shifted.nii.gz"))
    with pytest.raises(DataError, match="not one"):
        read_pair(file, tmp_path / "shifted.nii.gz")
