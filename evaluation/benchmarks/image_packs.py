"""Packs of real images for benchmarks: folders of `.npz` files with `image` and `label`.

A pack's folder name says how its arrays lie and what its labels mean. Nothing is copied anywhere.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import ImageArray, MaskArray

Spacing = tuple[float, float, float]
_BROKEN = (OSError, EOFError, ValueError, TypeError, KeyError, BadZipFile, zlib.error)


@dataclass(frozen=True)
class PackTarget:
    """One structure of one pack.

    Attributes:
        folder: of the pack.
        codes: label values that make up the target.
        swapped: arrays are stored `[x, y, z]`.
        spacing_zyx_mm: where the files do not hold it; None means unknown.
        volumes: the slices of a file are one volume (else single slices).
    """

    folder: str
    codes: tuple[int, ...]
    swapped: bool = False
    spacing_zyx_mm: Spacing | None = None
    volumes: bool = True


@dataclass(frozen=True, eq=False)
class PackCase:
    """One image with its target.

    Attributes:
        patient: cases of one patient belong to one side of a split.
        spacing_zyx_mm: None where it is unknown.
    """

    name: str
    patient: str
    image: ImageArray
    mask: MaskArray
    spacing_zyx_mm: Spacing | None


@dataclass(frozen=True, eq=False)
class PackVolume:
    """One image with everything that its file says about it.

    Attributes:
        label: codes as they are stored, `[z, y, x]`.
        scribble: codes of what was drawn, and the pack's own code where nothing was; None where the
            pack holds none.
    """

    name: str
    patient: str
    image: ImageArray
    label: NDArray[np.uint8]
    scribble: NDArray[np.uint8] | None
    spacing_zyx_mm: Spacing | None


PACK_TARGETS: dict[str, PackTarget] = {
    "sts": PackTarget("sts", (1,)),
    "la": PackTarget("la", (1,), swapped=True, spacing_zyx_mm=(0.625, 0.625, 0.625)),
    "hippocampus": PackTarget("hippocampus", (1, 2)),
    # The files hold no spacing: the challenge reports slices 5 to 10 mm apart and pixels of 1.37 to
    # 1.68 mm. Without it clicks and contours would count a slice as a pixel.
    "acdc-lv": PackTarget("acdc", (3,), spacing_zyx_mm=(8.0, 1.5, 1.5)),
    "acdc-rv": PackTarget("acdc", (1,), spacing_zyx_mm=(8.0, 1.5, 1.5)),
    "scd": PackTarget("scd", (3,), volumes=False),
}


def pack_target(name: str) -> PackTarget:
    """Return what is known of a pack; of another folder, that all its labels are the target.

    A file is a patient, or, where its name holds `_frame`, what stands before that is.

    >>> pack_target("mine:2,3")
    PackTarget(folder='mine', codes=(2, 3), swapped=False, spacing_zyx_mm=None, volumes=True)

    Raises:
        DataError: the codes after the colon are no whole numbers.
    """
    if name in PACK_TARGETS:
        return PACK_TARGETS[name]
    folder, _, codes = name.partition(":")
    known = next((t for t in PACK_TARGETS.values() if t.folder == folder), PackTarget(folder, ()))
    try:
        chosen = tuple(int(code) for code in codes.split(",")) if codes else ()
        return replace(known, codes=chosen)
    except ValueError:
        raise DataError(f"pack '{name}': give label codes as whole numbers: {folder}:1,2") from None


def pack_patients(packs: Path, name: str) -> list[str]:
    """Return the patients of a pack, sorted.

    Raises:
        DataError: the pack is unknown or not there.
    """
    return sorted({_patient(file) for file in _files(packs, name)})


def read_pack(packs: Path, name: str, patients: set[str] | None = None) -> Iterator[PackCase]:
    """Read the cases of a pack that show the target, in the order of their names.

    Args:
        packs: the folder that holds the packs.
        name: a key of `PACK_TARGETS`, or a folder and perhaps label codes: see `pack_target`.
        patients: only these.

    Raises:
        DataError: the pack is not there, or a file is broken.
    """
    codes = pack_target(name).codes
    for volume in read_volumes(packs, name, patients):
        mask = np.isin(volume.label, codes) if codes else volume.label > 0
        if mask.any():
            yield PackCase(volume.name, volume.patient, volume.image, mask, volume.spacing_zyx_mm)


def read_volumes(packs: Path, name: str, patients: set[str] | None = None) -> Iterator[PackVolume]:
    """Read the volumes of a pack with all their labels, in the order of their names.

    Args:
        packs: the folder that holds the packs.
        name: a key of `PACK_TARGETS`; which of its pack's targets does not matter.
        patients: only these.

    Raises:
        DataError: the pack is unknown, not there, or a file is broken.
    """
    files = _files(packs, name)
    target = pack_target(name)
    for file in files:
        if patients is not None and _patient(file) not in patients:
            continue
        try:
            with np.load(file, allow_pickle=False) as stored:
                arrays = [stored["image"].astype(np.float32), stored["label"]]
                arrays += [stored["scribble"]] if "scribble" in stored else []
                spacing = (
                    _triple(stored["spacing_zyx"])
                    if "spacing_zyx" in stored
                    else target.spacing_zyx_mm
                )
            shapes = {array.shape for array in arrays}
            if len(shapes) > 1 or arrays[0].ndim != 3:
                raise ValueError(f"arrays of {shapes}")
            if not np.isfinite(arrays[0]).all():
                raise ValueError("grey values that are no numbers")
        except _BROKEN as error:
            raise DataError(
                f"{file}: cannot be read as a case of the pack '{name}': fetch the pack again"
            ) from error
        if target.swapped:
            arrays = [array.transpose(2, 1, 0) for array in arrays]
        image, label, *scribble = (np.ascontiguousarray(array) for array in arrays)
        drawn = scribble[0] if scribble else None
        yield PackVolume(file.stem, _patient(file), image, label, drawn, spacing)


def _files(packs: Path, name: str) -> list[Path]:
    folder = packs / pack_target(name).folder
    files = sorted(folder.glob("*.npz"))
    if not files and name not in PACK_TARGETS:
        raise DataError(
            f"set '{name}' is unknown: one of {', '.join(PACK_TARGETS)}, or a folder of .npz files "
            "in --packs"
        )
    if not files:
        raise DataError(f"{folder}: no .npz files of the pack: give --packs, the folder above it")
    return files


def _patient(file: Path) -> str:
    return file.stem.split("_frame")[0]


def _triple(values: np.ndarray) -> Spacing:
    z, y, x = (float(v) for v in values)
    return z, y, x
