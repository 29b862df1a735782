"""Seeded damage to DICOM files: what a bad disk, a cut transfer or an attacker makes of them."""

import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import gdcm
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.volume import Mask
from site_agent.deidentification import original_identity
from site_agent.dicom_series import read_series_and_headers
from site_agent.rtstruct import write_rtstruct
from tests.site_agent import dicom_builder as build

SHAPE = (3, 40, 36)
_HUGE = (0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF, 0x80000000, 0x00FFFFFF)


def undamaged(folder: Path) -> dict[str, Path]:
    """Write one small series of each kind, a structure set among them, and return the folders."""
    kinds = {
        "explicit": build.slices(SHAPE),
        "implicit": [_implicit(image) for image in build.slices(SHAPE)],
        "enhanced": [build.enhanced(build.slices(SHAPE))],
    }
    for name, syntax in (
        ("rle", RLELossless),
        ("jpeg_2000", JPEG2000Lossless),
        ("jpeg_ls", JPEGLSLossless),
    ):
        kinds[name] = build.slices(SHAPE)
        for image in kinds[name]:
            image.compress(syntax, generate_instance_uid=False)
    folders = {name: build.save(images, folder / name) for name, images in kinds.items()}
    folders["jpeg_lossless"] = as_jpeg_lossless(folders["explicit"], folder / "jpeg_lossless")
    volume, headers = read_series_and_headers(folders["explicit"])
    voxels = np.zeros(SHAPE, dtype=bool)
    voxels[:, 3:9, 4:11] = True
    contour = Contour("GTVp", Mask(voxels, volume.geometry), Provenance.MANUAL)
    structure_set = write_rtstruct(
        volume,
        [contour],
        identity=original_identity(headers),
        label="fuzz",
        now=datetime(2026, 1, 1, tzinfo=UTC),
    )
    folders["structure_set"] = folder / "structure_set"
    folders["structure_set"].mkdir()
    structure_set.save_as(folders["structure_set"] / "rs.dcm", enforce_file_format=True)
    return folders


def as_jpeg_lossless(source: Path, to: Path) -> Path:
    """Compress every file of a folder as JPEG lossless, by the one encoder there is."""
    to.mkdir()
    for file in source.iterdir():
        reader = gdcm.ImageReader()
        reader.SetFileName(str(file))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(to / file.name))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    return to


def _implicit(image: Dataset) -> Dataset:
    image.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return image


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Damage a file in one of seven ways."""
    way = rng.choice(
        ["flip", "flip_header", "cut", "swap", "huge", "zero", "insert"],
        p=[0.15, 0.25, 0.12, 0.16, 0.16, 0.08, 0.08],
    )
    data = bytearray(content)
    size = len(data)
    if way == "flip" or way == "flip_header":
        end = size if way == "flip" else min(size, 1600)
        for at in rng.integers(0, end, size=int(rng.integers(1, 20))):
            data[at] = int(rng.integers(0, 256))
    elif way == "cut":
        del data[int(rng.integers(0, size)) :]
    elif way == "swap":
        one, other = (int(at) for at in rng.choice(_tags(content), size=2))
        data[one : one + 4], data[other : other + 4] = data[other : other + 4], data[one : one + 4]
    elif way == "huge":
        at = int(rng.choice(_tags(content)))
        long = data[at + 6 : at + 8] == b"\0\0"
        value = struct.pack("<L", int(rng.choice(_HUGE)))
        start = at + 8 if long else at + 4 if rng.random() < 0.3 else at + 6
        width = 2 if start == at + 6 else 4
        data[start : start + width] = value[:width]
    elif way == "zero":
        at = int(rng.integers(0, size))
        stop = min(size, at + int(rng.integers(1, 200)))
        data[at:stop] = bytes(stop - at)
    else:
        at = int(rng.integers(0, size))
        data[at:at] = rng.integers(0, 256, size=int(rng.integers(1, 40)), dtype=np.uint8).tobytes()
    return bytes(data)


def _tags(content: bytes) -> list[int]:
    """List where elements seem to start: a group that exists, a small element number."""
    found = []
    for at in range(132, min(len(content) - 8, 4000), 2):
        [group] = struct.unpack_from("<H", content, at)
        if group in (0x0002, 0x0008, 0x0010, 0x0018, 0x0020, 0x0028, 0x3006, 0x7FE0, 0xFFFE):
            found.append(at)
    return found or [132]


class TookTooLong(BaseException):
    """Raised out of code under test, which may catch every `Exception`."""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise in the middle of whatever takes longer."""

    def stop(*_: object) -> None:
        raise TookTooLong(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
