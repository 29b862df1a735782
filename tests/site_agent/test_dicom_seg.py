"""DICOM SEG: highdicom, pydicom and the images' headers as second opinions of what is written."""

from datetime import UTC, datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import Geometry, Mask, Volume
from site_agent.deidentification import deidentify_volume
from site_agent.dicom_seg import write_segmentation
from site_agent.rtstruct import RESEARCH_USE
from tests.site_agent import dicom_builder as build
from tests.site_agent.test_rtstruct import NOW, SHAPE, Images, ball_with_hole


@pytest.fixture(params=[build.AXIAL, build.OBLIQUE, build.FEET_FIRST])
def images(request, tmp_path: Path) -> Images:
    return Images(tmp_path / "images", request.param)


def written(images: Images, contours: list[Contour], **options) -> bytes:
    options = {"identity": images.identity, "now": NOW, **options}
    buffer = BytesIO()
    write_segmentation(images.volume, contours, **options).save_as(buffer)
    return buffer.getvalue()


def read(content: bytes) -> Dataset:
    return pydicom.dcmread(BytesIO(content))


def test_highdicom_reads_each_segment_on_each_image(images: Images) -> None:
    noise = np.random.default_rng(3).random(SHAPE) < 0.4
    contours = [
        images.contour(ball_with_hole(), "GTVp", Provenance.AUTOMATIC),
        images.contour(noise, "GTVn", Provenance.MANUAL),
    ]
    content = written(images, contours)
    again = highdicom.seg.segread(BytesIO(content))
    for number, contour in enumerate(contours, start=1):
        pixels = again.get_pixels_by_source_instance(
            list(images.volume.sop_instance_uids),
            segment_numbers=[number],
            assert_missing_frames_are_empty=True,
        )
        np.testing.assert_array_equal(pixels[..., 0] == 1, contour.mask.voxels)


def test_every_frame_lies_where_its_image_lies(images: Images) -> None:
    dataset = read(written(images, [images.contour(ball_with_hole())]))
    headers = {one.SOPInstanceUID: one for one in map(pydicom.dcmread, images.folder.iterdir())}
    (shared,) = dataset.SharedFunctionalGroupsSequence
    frames = dataset.PerFrameFunctionalGroupsSequence
    assert len(frames) == 4  # the slices that the contour touches
    for frame, pixels in zip(frames, dataset.pixel_array, strict=True):
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        image = headers[source.ReferencedSOPInstanceUID]
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(place, image.ImagePositionPatient, atol=1e-6)
        orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        np.testing.assert_allclose(orientation, image.ImageOrientationPatient, atol=1e-9)
        assert shared.PixelMeasuresSequence[0].PixelSpacing == image.PixelSpacing
        k = images.volume.sop_instance_uids.index(image.SOPInstanceUID)
        np.testing.assert_array_equal(pixels == 1, ball_with_hole()[k])


def test_it_is_the_original_patients_and_says_what_it_is_for(images: Images) -> None:
    contours = [
        images.contour(ball_with_hole(), provenance=Provenance.AUTOMATIC),
        images.contour(ball_with_hole(), "GTVn", Provenance.SEMIAUTOMATIC),
        images.contour(ball_with_hole(), "GTVp2", Provenance.MANUAL),
        images.contour(ball_with_hole(), "GTVp3", Provenance.SIMULATED),
    ]
    dataset = read(written(images, contours))
    assert (dataset.PatientName, dataset.PatientID) == (build.PATIENT_NAME, build.PATIENT_ID)
    assert (dataset.StudyInstanceUID, dataset.AccessionNumber) == (build.STUDY_UID, "ACC-5519")
    assert dataset.FrameOfReferenceUID == build.FRAME_UID
    (series,) = dataset.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == build.SERIES_UID
    listed = [one.ReferencedSOPInstanceUID for one in series.ReferencedInstanceSequence]
    assert listed == list(images.volume.sop_instance_uids)
    assert (dataset.SegmentationType, dataset.BitsAllocated) == ("BINARY", 1)
    assert dataset.ContentDescription == dataset.SeriesDescription == RESEARCH_USE
    assert all(RESEARCH_USE in one.SegmentDescription for one in dataset.SegmentSequence)
    assert [(one.SegmentLabel, one.SegmentAlgorithmType) for one in dataset.SegmentSequence] == [
        ("GTVp^AI", "AUTOMATIC"),
        ("GTVn", "SEMIAUTOMATIC"),
        ("GTVp2", "MANUAL"),
        ("GTVp3^AI", "AUTOMATIC"),
    ]


def test_a_name_in_any_script_survives(images: Images) -> None:
    name = "Müller^Zoë=山田^太郎"
    dataset = read(
        written(
            images,
            [images.contour(ball_with_hole())],
            identity=images.identity.__class__(**{**vars(images.identity), "patient_name": name}),
        )
    )
    assert str(dataset.PatientName) == name


def test_the_same_arguments_write_the_same_bytes_and_another_time_another_uid(
    images: Images,
) -> None:
    contours = [images.contour(ball_with_hole())]
    content = written(images, contours)
    assert written(images, contours) == content
    first, later = read(content), read(written(images, contours, now=NOW + timedelta(seconds=1)))
    assert first.SOPInstanceUID != later.SOPInstanceUID
    assert first.SeriesInstanceUID != later.SeriesInstanceUID
    other = read(written(images, [images.contour(~ball_with_hole())]))
    assert other.SOPInstanceUID != first.SOPInstanceUID
    here = datetime(2026, 3, 4, 7, 6, 7, tzinfo=timezone(timedelta(hours=2)))
    assert here.astimezone(UTC) == NOW
    assert written(images, contours, now=here) == content
    assert (first.ContentDate, first.ContentTime) == ("20260304", "050607")


def test_contours_from_the_deidentified_volume_are_as_good(images: Images) -> None:
    contours = [images.contour(ball_with_hole())]
    research = deidentify_volume(images.volume, b"0123456789abcdef")
    buffer = BytesIO()
    write_segmentation(research, contours, identity=images.identity, now=NOW).save_as(buffer)
    assert buffer.getvalue() == written(images, contours)


def test_what_a_seg_cannot_say_is_refused(images: Images) -> None:
    drawn = images.contour(ball_with_hole())
    with pytest.raises(DataError, match="nothing is drawn"):
        written(images, [drawn, images.contour(np.zeros(SHAPE, dtype=bool), "GTVn")])
    with pytest.raises(DataError, match="in the PACS already"):
        written(images, [images.contour(ball_with_hole(), provenance=Provenance.REFERENCE)])
    with pytest.raises(ValueError, match="one name"):
        written(images, [drawn, drawn])
    with pytest.raises(ValueError, match="time zone"):
        written(images, [drawn], now=NOW.replace(tzinfo=None))
    elsewhere = Geometry(SHAPE, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="grid"):
        write_segmentation(
            Volume(images.volume.image, elsewhere),
            [Contour("GTVp", Mask(ball_with_hole(), images.volume.geometry), Provenance.MANUAL)],
            identity=images.identity,
            now=NOW,
        )
