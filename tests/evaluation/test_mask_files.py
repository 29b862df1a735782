import gzip

import numpy as np
import pytest

from algorithms.contracts.errors import DataError
from evaluation.mask_files import read_labels, read_pair

sitk = pytest.importorskip("SimpleITK")
pytest.importorskip("pydicom")

from pydicom import dcmread  # noqa: E402
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import (  # noqa: E402
    ExplicitVRLittleEndian,
    RTStructureSetStorage,
    SegmentationStorage,
    generate_uid,
)


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


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("left_out", [1, 200])
def test_a_file_that_ends_before_its_last_voxel_is_refused(tmp_path, ending, left_out):
    """SimpleITK reads zeros there, which would be scored as a mask that misses half the tumour."""
    whole = write(tmp_path / "whole.nii", cube()).read_bytes()
    cut = whole[:-left_out]
    (tmp_path / f"cut{ending}").write_bytes(gzip.compress(cut) if ending == ".nii.gz" else cut)
    with pytest.raises(DataError, match="ends before its last voxel") as error:
        read_labels(tmp_path / f"cut{ending}")
    line(error)


def test_numbers_that_are_no_labels_are_refused(tmp_path, recwarn):
    signed = write(tmp_path / "a.nii.gz", (cube() * 255).astype(np.uint8).view(np.int8))
    with pytest.raises(DataError, match="below 0") as error:
        read_labels(signed)
    line(error)
    for number in (np.nan, 1e300):
        np.savez(tmp_path / "b.npz", mask=np.where(cube() > 0, number, 0.0))
        with pytest.raises(DataError, match="fractions"):
            read_labels(tmp_path / "b.npz")
    assert not recwarn.list


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
    on_series, _ = read_pair(rtstruct, rtstruct, grid=folder / "image")
    np.testing.assert_array_equal(on_series.labels, ours.labels)
    with pytest.raises(DataError, match="are RTSTRUCT, which has no grid: give --grid"):
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


def structure_set(file, *, kind="CLOSED_PLANAR", shift=(0.0, 0.0, 0.0), regions=1):
    """An RTSTRUCT of squares on slice 2 of the grid that `write` makes."""
    header = FileDataset(str(file), {}, preamble=b"\0" * 128)
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    header.StructureSetROISequence, header.ROIContourSequence = [], []
    square = np.array([(11.5, -18, 36), (13, -18, 36), (13, -15, 36), (11.5, -15, 36)]) + shift
    for number in range(1, regions + 1):
        region, drawn, contour = Dataset(), Dataset(), Dataset()
        region.ROINumber = drawn.ReferencedROINumber = number
        region.ROIName = f"GTV{number}"
        contour.ContourGeometricType = kind
        contour.ContourData = square.ravel().tolist()
        drawn.ContourSequence = [contour]
        header.StructureSetROISequence.append(region)
        header.ROIContourSequence.append(drawn)
    header.save_as(file, enforce_file_format=True)
    return file


def test_a_structure_set_that_cannot_be_filled_is_no_missed_tumour(tmp_path):
    grid = write(tmp_path / "grid.nii.gz", cube())
    drawn, _ = read_pair(structure_set(tmp_path / "rs.dcm"), grid)
    assert 6 <= drawn.labels.sum() == drawn.labels[2].sum() <= 16
    for arguments, said in (
        ({"kind": "OPEN_PLANAR"}, "no closed contour"),
        ({"shift": (100.0, 0.0, 0.0)}, "beside the other file's grid"),
        ({"shift": (0.0, -50.0, 0.0)}, "beside the other file's grid"),
        ({"shift": (0.0, 0.0, 90.0)}, "on no slice"),
        ({"regions": 0}, "has no region"),
        ({"regions": 2}, "2 regions fit: choose by --roi one of GTV1, GTV2"),
    ):
        file = structure_set(tmp_path / "rs.dcm", **arguments)
        with pytest.raises(DataError, match=said) as error:
            read_pair(file, grid)
        line(error)
    with pytest.raises(DataError, match="is RTSTRUCT, which has no grid"):
        read_labels(file)


def test_structure_sets_alone_are_filled_on_the_grid_of_the_image(tmp_path):
    image = write(tmp_path / "mr.nii.gz", np.full((6, 8, 9), -3.7, dtype=np.float32))
    one, two = (structure_set(tmp_path / f"{i}.dcm", shift=(0, i, 0)) for i in range(2))
    ours, theirs = read_pair(one, two, grid=image)
    beside, _ = read_pair(one, write(tmp_path / "mask.nii.gz", cube()))
    np.testing.assert_array_equal(ours.labels, beside.labels)
    np.testing.assert_array_equal(theirs.labels[:, 1:], ours.labels[:, :-1])
    assert ours.spacing_mm == (3.0, 1.0, 0.5)


def test_what_is_no_grid_is_told_in_one_line(tmp_path):
    drawn = structure_set(tmp_path / "rs.dcm")
    flat = write(tmp_path / "flat.nii.gz", np.zeros((8, 9), np.uint8), (1.0, 0.5), (0.0, 0.0))
    (tmp_path / "empty").mkdir()
    for grid, said in (
        (flat, "2 axes"),
        (tmp_path / "empty", "holds 0 DICOM series: give a folder of one"),
        (tmp_path / "nothing.nii.gz", "cannot be read as an image"),
    ):
        with pytest.raises(DataError, match=said) as error:
            read_pair(drawn, drawn, grid=grid)
        line(error)


def segmentation(file, frames, *, declared=(1, 2)):
    """A binary SEG: per frame (segment, slice); each segment is a square in the slice."""
    header = FileDataset(str(file), {}, preamble=b"\0" * 128)
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = SegmentationStorage
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    header.SegmentationType, header.PhotometricInterpretation = "BINARY", "MONOCHROME2"
    header.Rows, header.Columns, header.NumberOfFrames = 8, 8, len(frames)
    header.BitsAllocated = header.BitsStored = header.SamplesPerPixel = 1
    header.HighBit = header.PixelRepresentation = 0
    header.SegmentSequence = []
    for number in declared:
        segment = Dataset()
        segment.SegmentNumber = number
        header.SegmentSequence.append(segment)
    shared, plane, measures = Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SpacingBetweenSlices = [1, 1], 3
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [plane], [measures]
    header.SharedFunctionalGroupsSequence = [shared]
    header.PerFrameFunctionalGroupsSequence = []
    for number, z in frames:
        group, place, whose = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient, whose.ReferencedSegmentNumber = [0, 0, 3 * z], number
        group.PlanePositionSequence, group.SegmentIdentificationSequence = [place], [whose]
        header.PerFrameFunctionalGroupsSequence.append(group)
    pixels = np.zeros((len(frames), 8, 8), dtype=np.uint8)
    pixels[:, 2:5, 2:6] = 1
    header.PixelData = np.packbits(pixels.ravel(), bitorder="little").tobytes()
    header["PixelData"].VR = "OB"
    header.save_as(file, enforce_file_format=True)
    return file


def test_a_segment_that_is_declared_but_has_no_frame_is_empty(tmp_path):
    """Writers leave out empty frames: a model that missed the second target is to be counted."""
    missed = segmentation(tmp_path / "missed.dcm", [(1, 0), (1, 1)])
    both = segmentation(tmp_path / "both.dcm", [(1, 0), (1, 1), (2, 2), (2, 3)])
    ours, theirs = read_pair(missed, both, label=2)
    assert not ours.labels.any()
    assert theirs.labels.sum() == 2 * 2 * 12
    assert ours.labels.shape == theirs.labels.shape == (4, 8, 8)
    with pytest.raises(DataError, match=r"no segment 3: one of \[1, 2\]"):
        read_labels(missed, label=3)


def test_a_label_map_segmentation_is_named_as_what_it_is(tmp_path):
    file = segmentation(tmp_path / "map.dcm", [(1, 0)])
    header = dcmread(file)
    header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.7"
    header.save_as(file)
    with pytest.raises(DataError, match="label map SEG") as error:
        read_labels(file)
    line(error)
