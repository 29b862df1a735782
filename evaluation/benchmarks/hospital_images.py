"""Hospitals as arrays: the patients of packs and of phantoms, prepared as a package says.

The whole road (DICOM, sites, federation) is `studies`; here methods alone are compared, so a
hospital is a list of patients.
"""

import csv
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import PreprocessingRecipe
from algorithms.contracts.volume import Geometry, ImageArray, MaskArray, Volume
from algorithms.preprocessing import preprocess, preprocess_mask
from evaluation.benchmarks.image_packs import PackCase, read_pack
from evaluation.benchmarks.pack_to_dicom import sts_site
from evaluation.benchmarks.phantom_hospitals import HospitalProfile, generate_patient

_UNKNOWN_SPACING_ZYX_MM = (8.0, 1.5, 1.5)


@dataclass(frozen=True, eq=False)
class HospitalImage:
    """One image of a patient, on its own grid and as the network sees it.

    Attributes:
        reference: bool `[z, y, x]`, on its own grid.
        slices: float32 `[z, h, w]`, preprocessed.
        label: uint8 `[z, h, w]`, the reference on the same grid.
        distances: figures in mm mean something: the slices are one volume of known spacing.
    """

    geometry: Geometry
    reference: MaskArray
    slices: ImageArray
    label: NDArray[np.uint8]
    distances: bool


@dataclass(frozen=True, eq=False)
class HospitalPatient:
    """A patient and all their images."""

    name: str
    images: tuple[HospitalImage, ...]


@dataclass(frozen=True, eq=False)
class HospitalImages:
    """A hospital and its patients, in the order of their names."""

    name: str
    patients: tuple[HospitalPatient, ...]


def prepare_image(
    image: ImageArray,
    mask: MaskArray,
    geometry: Geometry,
    recipe: PreprocessingRecipe,
    *,
    distances: bool = True,
) -> HospitalImage:
    """Prepare one image and its reference."""
    return HospitalImage(
        geometry=geometry,
        reference=mask,
        slices=preprocess(Volume(image, geometry), recipe).slices,
        label=preprocess_mask(mask, geometry, recipe),
        distances=distances,
    )


def phantom_hospital(
    profile: HospitalProfile, recipe: PreprocessingRecipe, *, seed: int
) -> HospitalImages:
    """Invent all patients of a phantom hospital."""
    patients = []
    for index in range(profile.patients):
        image, mask, geometry = generate_patient(profile, index, seed)
        prepared = prepare_image(image, mask, geometry, recipe)
        patients.append(HospitalPatient(f"{profile.name}-seed{seed}-{index:02d}", (prepared,)))
    return HospitalImages(profile.name, tuple(patients))


def pack_hospital(packs: Path, name: str, recipe: PreprocessingRecipe) -> HospitalImages:
    """Read a pack of one hospital: of a known pack its target, of another whatever is labelled.

    Args:
        packs: the folder that holds the packs.
        name: a key of `PACK_TARGETS`, or any folder of `.npz` files with `image` and `label`
            `[z, y, x]` and perhaps `spacing_zyx`, one per patient (or `PATIENT_frame...npz`): see
            `image_packs.pack_target`.
        recipe: of the preprocessing.

    Raises:
        DataError: the pack is not there, or a file is broken.
    """
    by_patient: dict[str, list[HospitalImage]] = {}
    for case in read_pack(packs, name):
        by_patient.setdefault(case.patient, []).append(_pack_image(case, recipe))
    if not by_patient:
        raise DataError(f"{packs / name}: no image shows the target")
    return HospitalImages(
        name, tuple(HospitalPatient(p, tuple(images)) for p, images in by_patient.items())
    )


def sts_hospitals(
    packs: Path, recipe: PreprocessingRecipe, *, seed: int
) -> dict[str, HospitalImages]:
    """Read the sarcomas, parted by scanner; every volume loses a random margin in its plane.

    The pack was cut 50 mm around each tumour: without that the network could know where it is.

    Raises:
        DataError: the pack or its table is not there, or a file is broken.
    """
    table = packs / "sts" / "cases.csv"
    if not table.is_file():
        raise DataError(f"{table}: no such file: fetch the pack again")
    with table.open(newline="", encoding="utf-8") as lines:
        site_of = {
            row["case"]: sts_site(row["vendor_site"], row["model"]) for row in csv.DictReader(lines)
        }
    by_site: dict[str, list[HospitalPatient]] = {}
    for case in read_pack(packs, "sts"):
        if case.patient not in site_of:
            raise DataError(f"{table}: no row for '{case.patient}': fetch the pack again")
        rng = np.random.default_rng([seed, zlib.crc32(case.patient.encode())])
        image, mask = cut_margins(case.image, case.mask, rng)
        cut = PackCase(case.name, case.patient, image, mask, case.spacing_zyx_mm)
        by_site.setdefault(site_of[case.patient], []).append(
            HospitalPatient(case.patient, (_pack_image(cut, recipe),))
        )
    return {site: HospitalImages(site, tuple(people)) for site, people in by_site.items()}


def cut_margins(
    image: ImageArray, mask: MaskArray, rng: np.random.Generator
) -> tuple[ImageArray, MaskArray]:
    """Cut away a random part of the margin around the target, on each side of the plane alone."""
    box = [slice(None)]
    for axis in (1, 2):
        hit = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        low = int(rng.integers(0, int(hit[0]) + 1))
        high = int(rng.integers(int(hit[-1]) + 1, mask.shape[axis] + 1))
        box.append(slice(low, high))
    cut = tuple(box)
    return np.ascontiguousarray(image[cut]), np.ascontiguousarray(mask[cut])


def _pack_image(case: PackCase, recipe: PreprocessingRecipe) -> HospitalImage:
    spacing = case.spacing_zyx_mm or _UNKNOWN_SPACING_ZYX_MM
    shape = case.image.shape
    geometry = Geometry((shape[0], shape[1], shape[2]), spacing, (0.0, 0.0, 0.0))
    return prepare_image(
        case.image, case.mask, geometry, recipe, distances=case.spacing_zyx_mm is not None
    )
