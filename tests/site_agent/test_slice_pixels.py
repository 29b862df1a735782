"""From stored bytes to grey values, against pydicom, SimpleITK and arithmetic."""

import signal
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from algorithms.contracts.errors import DataError
from site_agent.codestream_size import stated_size
from site_agent.dicom_series import read_series
from site_agent.jpeg_decoder import JPEG_SYNTAXES, JpegDecoder
from site_agent.slice_pixels import MOST_PIXELS, grey_values, stored_frames
from tests.site_agent import dicom_builder as build
from tests.site_agent.damaged_dicom import as_jpeg_lossless

SHAPE = (3, 40, 36)
VOXELS = SHAPE[1] * SHAPE[2]


def image_of(stored: np.ndarray, bits_stored: int, signed: bool) -> Dataset:
    [image] = build.slices((1, *stored.shape))
    image.BitsAllocated = 8 * stored.dtype.itemsize
    image.BitsStored, image.HighBit = bits_stored, bits_stored - 1
    image.PixelRepresentation = int(signed)
    kept = (1 << bits_stored) - 1
    image.PixelData = (stored.astype(np.int64) & kept).astype(stored.dtype).tobytes()
    return image


def stored_values(image: Dataset) -> np.ndarray:
    image.set_original_encoding(False, True)
    with JpegDecoder() as jpeg:
        [stored] = stored_frames(image, Path("slice"), jpeg)
    return stored


@given(
    arrays(np.int64, (4, 5), elements=st.integers(-(2**31), 2**31 - 1)),
    st.sampled_from([(8, 8), (8, 7), (16, 16), (16, 12), (16, 10), (32, 32), (32, 20)]),
    st.booleans(),
)
def test_only_the_stored_bits_count_and_the_sign_is_kept(values, bits, signed) -> None:
    allocated, kept = bits
    expected = values % 2**kept
    if signed:
        expected = np.where(expected >= 2 ** (kept - 1), expected - 2**kept, expected)
    image = image_of(expected.astype(f"<i{allocated // 8}"), kept, signed)
    np.testing.assert_array_equal(stored_values(image).astype(np.int64), expected)


def test_an_overlay_in_unused_bits_is_no_grey_value() -> None:
    image = image_of(np.arange(20, dtype="<u2").reshape(4, 5), 12, signed=False)
    with_overlay = np.frombuffer(image.PixelData, "<u2") | 0xF000
    image.PixelData = with_overlay.tobytes()
    np.testing.assert_array_equal(stored_values(image), np.arange(20).reshape(4, 5))


def test_signed_pixels_are_those_of_simpleitk(tmp_path: Path) -> None:
    for bits in (16, 12):
        folder = build.save(build.signed_ct(build.slices(SHAPE), bits), tmp_path / str(bits))
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        theirs = SimpleITK.GetArrayFromImage(reader.Execute())
        assert theirs.min() < -1024
        np.testing.assert_array_equal(read_series(folder).image, theirs)


@given(st.floats(-100, 100).filter(lambda slope: abs(slope) > 1e-3), st.floats(-5000, 5000))
def test_the_rescale_is_slope_times_stored_plus_intercept(slope: float, intercept: float) -> None:
    stored = np.arange(-10, 10, dtype=np.int16).reshape(4, 5)
    header = Dataset()
    header.RescaleSlope, header.RescaleIntercept = f"{slope:.8g}", f"{intercept:.8g}"
    exact = float(f"{slope:.8g}") * stored.astype(np.float64) + float(f"{intercept:.8g}")
    np.testing.assert_array_equal(grey_values(stored, header, "x"), exact.astype(np.float32))


def test_a_table_of_grey_values_goes_before_a_rescale() -> None:
    header, table = Dataset(), Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [4, 0, 16], "US"
    table.add_new("LUTData", "US", [7, 5, 3, 900])
    header.ModalityLUTSequence = Sequence([table])
    grey = grey_values(np.array([[0, 1], [2, 3]], dtype=np.uint16), header, "x")
    np.testing.assert_array_equal(grey, [[7, 5], [3, 900]])


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("value", ["nan", "inf", "1e300"])
def test_grey_values_that_are_no_numbers_are_refused(keyword: str, value: str) -> None:
    header = Dataset()
    setattr(header, keyword, value)
    with pytest.raises(DataError, match="no finite numbers"):
        grey_values(np.ones((2, 2), dtype=np.int16), header, "x")


def test_a_header_is_not_believed_before_the_pixels() -> None:
    for rows, columns, frames in ((65535, 65535, 1), (4096, 4096, 65536), (0, 5, 1)):
        image = image_of(np.zeros((4, 5), dtype="<u2"), 16, signed=False)
        image.Rows, image.Columns, image.NumberOfFrames = rows, columns, frames
        assert rows * columns > MOST_PIXELS or rows * columns * frames in (0, 2**40)
        with pytest.raises(DataError, match="impossible size"):
            stored_values(image)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_a_codestream_of_another_size_is_not_decoded(tmp_path: Path, syntax: str) -> None:
    [image] = build.slices((1, *SHAPE[1:]))
    expected = np.frombuffer(image.PixelData, "<u2").reshape(1, *SHAPE[1:])
    image.compress(syntax, generate_instance_uid=False)
    [stream] = generate_frames(image.PixelData, number_of_frames=1)
    assert stated_size(stream) == SHAPE[1:]
    whole = read_series(build.save([image], tmp_path / "whole"))
    np.testing.assert_array_equal(whole.image, 2.0 * expected - 3.0)
    image.Rows = 41
    with pytest.raises(DataError, match="cannot be decoded"):
        read_series(build.save([image], tmp_path / "damaged"))


@given(st.binary(max_size=80), st.sampled_from([b"", b"\xff\xd8", b"\xff\x4f\xff\x51"]))
def test_any_bytes_state_a_size_or_none(stream: bytes, start: bytes) -> None:
    size = stated_size(start + stream)
    assert size is None or len(size) == 2


def test_jpeg_lossless_is_the_same_image(tmp_path: Path) -> None:
    classic = build.save(build.slices(SHAPE), tmp_path / "classic")
    squeezed = as_jpeg_lossless(classic, tmp_path / "jpeg")
    ours = read_series(squeezed)
    np.testing.assert_array_equal(ours.image, read_series(classic).image)


def test_a_decoder_that_dies_ends_one_file_and_not_the_process(tmp_path: Path) -> None:
    classic = build.save(build.slices(SHAPE), tmp_path / "classic")
    file, *_ = sorted(as_jpeg_lossless(classic, tmp_path / "jpeg").iterdir())
    with JpegDecoder() as jpeg:
        whole = jpeg.decode(file, VOXELS)
        child = jpeg._child
        assert child is not None
        child.send_signal(signal.SIGSEGV)
        child.wait()
        with pytest.raises(ValueError, match="ended"):
            jpeg.decode(file, VOXELS)
        np.testing.assert_array_equal(jpeg.decode(file, VOXELS), whole)  # a new child
        with pytest.raises(ValueError, match="ended"):
            jpeg.decode(tmp_path / "nowhere", VOXELS)
        last = jpeg._child
    assert last is None or last.poll() is not None


def test_jpeg_bytes_that_are_no_jpeg_are_refused(tmp_path: Path) -> None:
    for syntax in sorted(JPEG_SYNTAXES):
        [image] = build.slices((1, *SHAPE[1:]))
        image.PixelData = encapsulate([b"\xff\xd8 no more than a start"])
        image["PixelData"].is_undefined_length = True
        image.file_meta.TransferSyntaxUID = syntax
        build.save([image], tmp_path / syntax)
        with pytest.raises(DataError, match="cannot be decoded"):
            read_series(tmp_path / syntax)
