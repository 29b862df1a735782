"""Read research data that never was DICOM: an image and, beside it, a mask as NIfTI files.

Convention, within one folder (`.nii` or `.nii.gz`; letters in either case):

    NAME.nii.gz  or  NAME_image.nii.gz         the image
    NAME_mask.nii.gz  or  NAME_label.nii.gz    its mask, if any; labels above 0 are target

NAME stands for the patient: it must not be an identity, and it is replaced by a pseudonym anyway.
NIfTI does not say the modality, so `Volume.modality` stays "". Values that are no numbers arrive as
0: SimpleITK reads them so.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import Geometry, Mask, Volume
from evaluation.nifti_length import refuse_cut_off

_ENDINGS = (".nii.gz", ".nii")
_IMAGE_SUFFIX = "_image"
_MASK_SUFFIXES = ("_mask", "_label")


@dataclass(frozen=True)
class NiftiPair:
    """An image file and the mask file beside it, if there is one."""

    name: str
    image: Path
    mask: Path | None


def find_pairs(folder: Path) -> list[NiftiPair]:
    """List the images of a folder (not of its subfolders) by name; empty when there is no NIfTI.

    Raises:
        DataError: not a folder, two files for one part, or a mask without an image.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give the folder that holds the .nii.gz files")
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        ending = next((one for one in _ENDINGS if file.name.lower().endswith(one)), None)
        if ending is None or file.name.startswith("."):
            continue
        name, is_mask = _split(file.name[: -len(ending)])
        if not name.strip():
            raise DataError(f"{file} has no NAME: put the patient's name in this study before it")
        part = masks if is_mask else images
        if name in part:
            raise DataError(f"{part[name].name} and {file.name} claim the same part: remove one")
        part[name] = file
    for name in masks.keys() - images.keys():
        raise DataError(
            f"{masks[name]} has no image beside it: name the image {name}.nii.gz or "
            f"{name}{_IMAGE_SUFFIX}.nii.gz"
        )
    return [NiftiPair(name, images[name], masks.get(name)) for name in sorted(images)]


def read_pair(pair: NiftiPair) -> tuple[Volume, Mask | None]:
    """Read image (float32) and mask (label > 0), `[z, y, x]` on one grid in LPS mm.

    Raises:
        DataError: a file is unreadable, not 3-D and grey or not of finite numbers, or the two lie
            on different grids.
    """
    voxels, geometry = _read(pair.image)
    with np.errstate(over="ignore"):
        volume = Volume(np.asarray(voxels, dtype=np.float32), geometry)
    if not np.isfinite(volume.image).all():
        raise DataError(f"{pair.image}: grey values are no finite numbers: write the file again")
    if pair.mask is None:
        return volume, None
    labels, mask_geometry = _read(pair.mask)
    if not mask_geometry.matches(geometry):
        raise DataError(
            f"{pair.mask} lies on another grid than {pair.image.name}: resample the mask to it"
        )
    return volume, Mask(labels > 0, geometry)


def _split(stem: str) -> tuple[str, bool]:
    """Split a file's stem into NAME and whether it is a mask."""
    for suffix in _MASK_SUFFIXES:
        if stem.lower().endswith(suffix):
            return stem[: -len(suffix)], True
    return stem[: -len(_IMAGE_SUFFIX)] if stem.lower().endswith(_IMAGE_SUFFIX) else stem, False


def _read(file: Path) -> tuple[NDArray[Any], Geometry]:
    refuse_cut_off(file)
    try:
        image: Any = SimpleITK.ReadImage(str(file))
    except RuntimeError as error:
        raise DataError(f"{file} cannot be read as NIfTI: write the file again") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise DataError(f"{file} is not one 3-D grey image: give one volume per file")
    voxels = SimpleITK.GetArrayFromImage(image)
    # SimpleITK reports LPS, and the axes as the columns of its direction matrix
    axes = np.reshape(image.GetDirection(), (3, 3)).T
    x, y, z = ((float(axis[0]), float(axis[1]), float(axis[2])) for axis in axes)
    spacing_xyz, origin = image.GetSpacing(), image.GetOrigin()
    geometry = Geometry(
        shape_zyx=voxels.shape,
        spacing_zyx_mm=(spacing_xyz[2], spacing_xyz[1], spacing_xyz[0]),
        origin_xyz_mm=(origin[0], origin[1], origin[2]),
        axes_xyz=(x, y, z),
    )
    return voxels, geometry
