"""Tiny synthetic volumes, cases and studies: a bright ball in noise, 8 slices of 32 x 32."""

import json
import shutil
from pathlib import Path

import numpy as np
import SimpleITK
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.model_package import (
    MANIFEST_FILE,
    MODEL_FILE,
    REFERENCE_POINTS_FILE,
    SIGNATURE_FILE,
    AdaptationPlan,
    FileEntry,
    Manifest,
    NetworkSpec,
    PreprocessingRecipe,
    Signature,
    SourceValidation,
    StudyPlan,
    TrainingSchedule,
)
from algorithms.contracts.volume import Geometry, Mask, MaskArray, Volume
from site_agent.case_store import CaseStore, NewCase
from site_agent.config import SiteHome, open_home
from site_agent.site_setup import initialise
from tests.empty_database import lay_database

STUDY = "tiny"
SHAPE_ZYX = (8, 32, 32)
SPACING_ZYX_MM = (3.0, 1.0, 1.0)


def turned_axes(angles_rad: tuple[float, float, float]) -> tuple[tuple[float, ...], ...]:
    """Turn the x, y and z axes about z, y and x: three orthogonal unit vectors."""
    a, b, c = angles_rad
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(c), -np.sin(c)], [0, np.sin(c), np.cos(c)]])
    return tuple(tuple(float(v) for v in row) for row in (about_z @ about_y @ about_x).T)


def ball(
    shape_zyx: tuple[int, int, int], centre_zyx: tuple[float, float, float], radius: float
) -> MaskArray:
    """Fill a ball, in voxels."""
    z, y, x = np.indices(shape_zyx)
    cz, cy, cx = centre_zyx
    return (z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 <= radius**2


def tiny_volume(
    seed: int,
    *,
    shape_zyx: tuple[int, int, int] = SHAPE_ZYX,
    spacing_zyx_mm: tuple[float, float, float] = SPACING_ZYX_MM,
    contrast: float = 120.0,
) -> tuple[Volume, MaskArray]:
    """Draw a noisy image with a bright ball in it; whole grey values, as a scanner stores them."""
    rng = np.random.default_rng(seed)
    depth, height, width = shape_zyx
    centre = (depth / 2, height * rng.uniform(0.35, 0.65), width * rng.uniform(0.35, 0.65))
    mask = ball(shape_zyx, centre, depth / 2 - 1)
    image = 100.0 + contrast * mask + rng.normal(0, 12, shape_zyx)
    geometry = Geometry(shape_zyx, spacing_zyx_mm, (-16.0, -16.0, 5.0 * seed))
    scanner = {"manufacturer": "PHANTOM", "model": "P1"}
    volume = Volume(np.rint(image).astype(np.float32), geometry, modality="MR", scanner=scanner)
    return volume, mask


def tiny_case(seed: int, *, contrast: float = 120.0, has_reference: bool = True) -> NewCase:
    """Make a case with its reference contour, as ingestion hands it to the store."""
    volume, mask = tiny_volume(seed, contrast=contrast)
    contour = Contour("GTVp", Mask(mask, volume.geometry), Provenance.REFERENCE)
    return NewCase(
        case_id=f"case-{seed:012x}",
        patient_id=f"patient-{seed:012x}",
        volume=volume,
        identity_sealed=None,
        contours=(contour,) if has_reference else (),
    )


def write_nifti_pair(
    folder: Path, name: str, volume: Volume, mask: MaskArray | None, mask_shift_mm: float = 0.0
) -> None:
    """Write an axis-aligned volume and its mask as NIfTI files beside each other."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {name: (volume.image, 0.0)}
    if mask is not None:
        parts[f"{name}_mask"] = (mask.astype(np.uint8), mask_shift_mm)
    for stem, (array, shift_mm) in parts.items():
        image = SimpleITK.GetImageFromArray(array)
        image.SetSpacing(volume.geometry.spacing_zyx_mm[::-1])
        image.SetOrigin([v + shift_mm for v in volume.geometry.origin_xyz_mm])
        SimpleITK.WriteImage(image, str(folder / f"{stem}.nii.gz"))


def tiny_plan(*, iterations: int = 6, validate_every: int = 2, target_trained: bool = True):
    """Return a plan that trains for seconds: long enough for the source model to find balls."""
    schedule = TrainingSchedule(
        iterations=iterations, batch_size=4, learning_rate=0.05, validate_every=validate_every
    )
    return StudyPlan(
        preprocessing=PreprocessingRecipe(in_plane_spacing_mm=1.0, patch_yx=(32, 32)),
        network=NetworkSpec(base_channels=2, levels=3),
        source_training=TrainingSchedule(
            iterations=60, batch_size=8, learning_rate=0.2, validate_every=15
        ),
        adaptation=AdaptationPlan(
            adapted_share=1.0,
            annotation_budget=0.25,
            stage1=schedule,
            stage3=schedule,
            target_trained=schedule if target_trained else None,
        ),
        reference_points=3,
    )


def make_home(
    folder: Path, name: str = "hospital-b", role: str = "target", trusted_key: str = "", **settings
) -> SiteHome:
    """Make a site's home as `fedgtv-site init` does, with more settings."""
    lay_database(folder)
    initialise(
        folder, name=name, study=STUDY, role=role, trusted_keys=[trusted_key] if trusted_key else []
    )
    with (folder / "site.toml").open("a", encoding="utf-8") as file:
        for key, value in {"threads": 1, **settings}.items():
            file.write(f"{key} = {json.dumps(value)}\n")
    return open_home(folder)


def filled_store(
    home: SiteHome, patients: int = 6, *, first_seed: int = 0, contrast: float = 120.0
):
    """Open a home's store and add tiny cases, one per patient."""
    store = CaseStore(home)
    cases = [tiny_case(first_seed + i, contrast=contrast) for i in range(patients)]
    store.add_cases(cases, actor="test")
    return store


def tiny_manifest(**changes) -> Manifest:
    """Return a manifest in which every field has a value."""
    plan = tiny_plan()
    entry = FileEntry(sha256="ab" * 32, size_bytes=7)
    fields = {
        "study": STUDY,
        "model_version": plan.model_version,
        "parent_version": "0.9.0",
        "preprocessing": plan.preprocessing,
        "network": plan.network,
        "adaptation": plan.adaptation,
        "reference_point_count": 3,
        "reference_point_dimension": 256,
        "source_training_slices": 16,
        "source_validation": SourceValidation(
            validation_patients=1, validation_dsc=0.5, test_patients=2, test_dsc=0.6
        ),
        "seed": 4,
        "files": {MODEL_FILE: entry, REFERENCE_POINTS_FILE: entry},
    }
    return Manifest(**(fields | changes))


def sign_folder(source: Path, target: Path, key: Ed25519PrivateKey) -> Path:
    """Copy an unsigned package and sign it, as the coordinator does."""
    shutil.copytree(source, target)
    signed_bytes = Manifest.model_validate_json(
        (target / MANIFEST_FILE).read_bytes()
    ).signed_bytes()
    signature = Signature(
        key_id=sha256_hex(key.public_key().public_bytes_raw())[:16],
        signature_hex=key.sign(signed_bytes).hex(),
    )
    (target / SIGNATURE_FILE).write_text(signature.model_dump_json(), "utf-8")
    return target


def public_hex(key: Ed25519PrivateKey) -> str:
    """Return the public key as a site's configuration has it."""
    return key.public_key().public_bytes_raw().hex()
