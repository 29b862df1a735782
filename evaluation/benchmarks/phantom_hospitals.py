"""Invented hospitals: each has its scanner, its sequence, its way of contouring and its patients.

They stand in where no hospital's data may be used: same task, different pictures, so that a model
trained at one of them loses at the others. `HOSPITALS[0]` is the source. Every number that makes
the shift stands in the profile table and may be tuned there.

Research use only, not a medical device; every patient is invented.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from algorithms.contracts.volume import Geometry, ImageArray, MaskArray
from evaluation.benchmarks.dicom_writer import PatientTags, ScannerTags, write_study
from evaluation.benchmarks.phantom_anatomy import Tissue, draw_head, smooth_noise

HEAD_LENGTH_MM = 8.0  # how far behind the airway the middle of the head lies


@dataclass(frozen=True)
class ContouringStyle:
    """How a hospital's oncologists draw the tumour that is there.

    Attributes:
        margin_mm: added all around in the slice; negative draws tight.
        smoothing_mm: standard deviation with which corners are rounded.
        jitter_mm: how far the line wanders by chance.
    """

    margin_mm: float
    smoothing_mm: float
    jitter_mm: float


@dataclass(frozen=True, eq=False)
class HospitalProfile:
    """Everything that makes one hospital's images differ from another's.

    Attributes:
        name: as sites are named everywhere.
        scanner: vendor, model, field strength and sequence in the DICOM headers.
        grey: mean grey value per tissue, 0 dark to 1 bright; absent tissues count as AIR's.
        grey_sd: by how much a tissue's grey value varies between patients, as a share of it.
        tumour_grey_sd: the same for the tumour alone.
        texture: granularity within a tissue, as a share of its grey value.
        tumour_texture: the same for the tumour.
        bias: amplitude of the receive field; 0.3 means grey values between about 0.7 and 1.3.
        noise: standard deviation of the Rician noise, in units of `grey`.
        blur_mm: in-plane point spread (standard deviation).
        slice_blur: through-plane point spread (standard deviation), in slices.
        scale: stored grey value of `grey` 1.0.
        matrix: pixels per row and column.
        pixel_mm: pixel size.
        slice_mm: distance between slices, which is also their thickness.
        slices: number of slices.
        tilt_deg: how far slices are tilted from axial about the left-right axis.
        contouring: how reference contours are drawn.
        roi_name: what the planning system calls the gross tumour volume.
        patients: how many patients the hospital brings.
    """

    name: str
    scanner: ScannerTags
    grey: Mapping[Tissue, float]
    grey_sd: float
    tumour_grey_sd: float
    texture: float
    tumour_texture: float
    bias: float
    noise: float
    blur_mm: float
    slice_blur: float
    scale: float
    matrix: int
    pixel_mm: float
    slice_mm: float
    slices: int
    tilt_deg: float
    contouring: ContouringStyle
    roi_name: str
    patients: int


# Grey values per tissue for three weightings. The order of muscle, tumour, mucosa, marrow and fat
# is what a network learns; it changes from table to table.
T1_ENHANCED: Mapping[Tissue, float] = {
    Tissue.AIR: 0.02, Tissue.SKIN: 0.55, Tissue.FAT: 0.95, Tissue.MUSCLE: 0.38,
    Tissue.CORTICAL_BONE: 0.07, Tissue.MARROW: 0.70, Tissue.GREY_MATTER: 0.40,
    Tissue.WHITE_MATTER: 0.48, Tissue.CSF: 0.16, Tissue.MUCOSA: 0.74, Tissue.GLAND: 0.60,
    Tissue.NODE: 0.58, Tissue.VESSEL: 0.78, Tissue.SINUS_FLUID: 0.34, Tissue.VITREOUS: 0.17,
    Tissue.TUMOUR: 0.60,
}  # fmt: skip
T1_PLAIN: Mapping[Tissue, float] = {
    Tissue.AIR: 0.03, Tissue.SKIN: 0.50, Tissue.FAT: 1.00, Tissue.MUSCLE: 0.38,
    Tissue.CORTICAL_BONE: 0.10, Tissue.MARROW: 0.75, Tissue.GREY_MATTER: 0.40,
    Tissue.WHITE_MATTER: 0.50, Tissue.CSF: 0.20, Tissue.MUCOSA: 0.52, Tissue.GLAND: 0.58,
    Tissue.NODE: 0.44, Tissue.VESSEL: 0.12, Tissue.SINUS_FLUID: 0.30, Tissue.VITREOUS: 0.20,
    Tissue.TUMOUR: 0.49,
}  # fmt: skip
# Enhanced T1 with partial fat suppression: fat and marrow go dark, mucosa outshines the tumour.
T1_FAT_SUPPRESSED: Mapping[Tissue, float] = {
    **T1_ENHANCED,
    Tissue.SKIN: 0.45, Tissue.FAT: 0.55, Tissue.MARROW: 0.50, Tissue.MUCOSA: 0.85,
    Tissue.TUMOUR: 0.62,
}  # fmt: skip

HOSPITALS: tuple[HospitalProfile, ...] = (
    HospitalProfile(
        name="hospital-a",  # the source: enhanced T1 at 3 T, careful contours
        scanner=ScannerTags("SIEMENS", "Phantom Skyra", 3.0, "t1_tse_tra_gd", "SE", 650, 11),
        grey=T1_ENHANCED,
        grey_sd=0.05,
        tumour_grey_sd=0.06,
        texture=0.05,
        tumour_texture=0.09,
        bias=0.08,
        noise=0.02,
        blur_mm=0.6,
        slice_blur=0.25,
        scale=900.0,
        matrix=160,
        pixel_mm=1.35,
        slice_mm=4.0,
        slices=32,
        tilt_deg=0.0,
        contouring=ContouringStyle(margin_mm=0.0, smoothing_mm=1.0, jitter_mm=0.3),
        roi_name="GTVp",
        patients=28,
    ),
    HospitalProfile(
        name="hospital-b",  # older 1.5 T scanner, no contrast agent, noise, a margin drawn in
        scanner=ScannerTags("GE MEDICAL SYSTEMS", "Phantom Signa", 1.5, "Ax T1", "SE", 500, 14),
        grey=T1_PLAIN,
        grey_sd=0.06,
        tumour_grey_sd=0.06,
        texture=0.05,
        tumour_texture=0.10,
        bias=0.25,
        noise=0.05,
        blur_mm=0.8,
        slice_blur=0.3,
        scale=2200.0,
        matrix=144,
        pixel_mm=1.5,
        slice_mm=5.0,
        slices=26,
        tilt_deg=0.0,
        contouring=ContouringStyle(margin_mm=1.5, smoothing_mm=2.0, jitter_mm=0.6),
        roi_name="GTV_primary",
        patients=18,
    ),
    HospitalProfile(
        name="hospital-c",  # enhanced T1 with partial fat suppression, tight and smooth contours
        scanner=ScannerTags("Philips", "Phantom Ingenia", 3.0, "T1W_SPIR_tra_Gd", "SE", 620, 12),
        grey=T1_FAT_SUPPRESSED,
        grey_sd=0.06,
        tumour_grey_sd=0.07,
        texture=0.06,
        tumour_texture=0.10,
        bias=0.15,
        noise=0.03,
        blur_mm=0.6,
        slice_blur=0.25,
        scale=1400.0,
        matrix=160,
        pixel_mm=1.4,
        slice_mm=4.0,
        slices=30,
        tilt_deg=0.0,
        contouring=ContouringStyle(margin_mm=-0.8, smoothing_mm=2.5, jitter_mm=0.3),
        roi_name="GTV-T",
        patients=18,
    ),
    HospitalProfile(
        name="hospital-d",  # enhanced T1 again, but thick tilted slices, blur and a strong bias
        scanner=ScannerTags("SIEMENS", "Phantom Avanto", 1.5, "t1_se_tra_km", "SE", 480, 17),
        grey={**T1_ENHANCED, Tissue.TUMOUR: 0.52, Tissue.MUCOSA: 0.62, Tissue.FAT: 1.0},
        grey_sd=0.06,
        tumour_grey_sd=0.06,
        texture=0.05,
        tumour_texture=0.08,
        bias=0.45,
        noise=0.035,
        blur_mm=1.5,
        slice_blur=0.4,
        scale=500.0,
        matrix=128,
        pixel_mm=1.6,
        slice_mm=6.0,
        slices=22,
        tilt_deg=8.0,
        contouring=ContouringStyle(margin_mm=2.0, smoothing_mm=2.0, jitter_mm=0.6),
        roi_name="GTV Nasopharynx",
        patients=18,
    ),
)

FAMILY_NAMES = ("Phantom", "Fictitious", "Imaginary", "Invented", "Madeup", "Nobody", "Placeholder")
GIVEN_NAMES = ("Aurelia", "Bertram", "Cosima", "Dorian", "Elvira", "Florian", "Gisela", "Hektor")


def generate_patient(
    profile: HospitalProfile, patient_index: int, seed: int
) -> tuple[ImageArray, MaskArray, Geometry]:
    """Make one patient of a hospital, the same for the same arguments.

    Returns:
        The image (float32 `[z, y, x]`, whole grey values), the reference contour as this hospital
        draws it (bool `[z, y, x]`) and their grid.
    """
    rng = _generator(profile, patient_index, seed)
    geometry = _slice_positions(rng, profile)
    head = draw_head(rng, geometry)
    image = _acquire(rng, profile, head.labels, geometry)
    mask = _draw_contour(rng, profile.contouring, head.tumour, geometry) & head.inside
    return image, mask, geometry


def write_patient(profile: HospitalProfile, patient_index: int, folder: Path, seed: int) -> None:
    """Write one patient as DICOM: `folder/<PatientID>/` with MR slices and an RTSTRUCT.

    Args:
        profile: the hospital.
        patient_index: 0 to `profile.patients` - 1.
        folder: where the patient's folder goes; created when absent.
        seed: same seed, same bytes.
    """
    image, mask, geometry = generate_patient(profile, patient_index, seed)
    tags = patient_tags(profile, patient_index, seed)
    write_study(
        folder / tags.patient_id,
        image,
        mask,
        geometry,
        roi_name=profile.roi_name,
        patient=tags,
        scanner=profile.scanner,
        entropy=f"phantom {profile.name} {seed} {patient_index}",
    )


def patient_tags(profile: HospitalProfile, patient_index: int, seed: int) -> PatientTags:
    """Invent the identifying elements of one patient: fictional on sight, different per patient."""
    rng = np.random.default_rng([seed, patient_index, zlib.crc32(profile.name.encode()), 1])
    letter = profile.name[-1].upper()
    family, given = rng.choice(FAMILY_NAMES), rng.choice(GIVEN_NAMES)
    day, month, hour = int(rng.integers(1, 29)), int(rng.integers(1, 13)), int(rng.integers(8, 18))
    return PatientTags(
        patient_id=f"{letter}{10000 + 37 * patient_index + seed % 37:06d}",
        name=f"{family}-{patient_index:03d}^{given}",
        birth_date=f"{int(rng.integers(1940, 1996))}{month:02d}{day:02d}",
        sex=str(rng.choice(["F", "M", "O"])),
        institution=f"Fictional {profile.name.title()}",
        referring_physician="Referrer^Imaginary",
        accession_number=f"ACC{letter}{seed % 1000:03d}{patient_index:05d}",
        study_date=f"20{int(rng.integers(18, 25))}{month:02d}{day:02d}",
        study_time=f"{hour:02d}{int(rng.integers(0, 60)):02d}00",
    )


def _generator(profile: HospitalProfile, patient_index: int, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, patient_index, zlib.crc32(profile.name.encode())])


def _slice_positions(rng: np.random.Generator, profile: HospitalProfile) -> Geometry:
    """Centre the slices on the nasopharynx as well as a radiographer does."""
    tilt = np.deg2rad(profile.tilt_deg)
    cos, sin = float(np.cos(tilt)), float(np.sin(tilt))
    axes = ((1.0, 0.0, 0.0), (0.0, cos, sin), (0.0, -sin, cos))
    half_mm = (profile.matrix - 1) / 2 * profile.pixel_mm
    first_mm = -(profile.slices - 1) / 2 * profile.slice_mm + float(rng.normal(0.0, 5.0))
    offsets = np.array([-half_mm, -half_mm, first_mm]) @ np.asarray(axes)
    origin = offsets + np.array([0.0, HEAD_LENGTH_MM, 0.0]) + rng.normal(0.0, 2.0, 3)
    x, y, z = (round(float(value), 3) for value in origin)
    return Geometry(
        shape_zyx=(profile.slices, profile.matrix, profile.matrix),
        spacing_zyx_mm=(profile.slice_mm, profile.pixel_mm, profile.pixel_mm),
        origin_xyz_mm=(x, y, z),
        axes_xyz=axes,
    )


def _acquire(
    rng: np.random.Generator,
    profile: HospitalProfile,
    labels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    geometry: Geometry,
) -> ImageArray:
    """Turn tissues into grey values: contrast, texture, point spread, receive field, noise."""
    sd = np.full(len(Tissue), profile.grey_sd)
    sd[Tissue.TUMOUR] = profile.tumour_grey_sd
    grey = np.array([profile.grey.get(t, profile.grey[Tissue.AIR]) for t in Tissue])
    grey *= np.clip(rng.normal(1.0, sd), 1 - 2 * sd, 1 + 2 * sd)
    texture = np.full(len(Tissue), profile.texture)
    texture[Tissue.TUMOUR] = profile.tumour_texture
    signal = grey.astype(np.float32)[labels]
    signal *= 1 + texture.astype(np.float32)[labels] * smooth_noise(rng, geometry, (5.0, 4.0, 4.0))
    pixel_sigma = profile.blur_mm / profile.pixel_mm
    signal = ndimage.gaussian_filter(
        signal, (profile.slice_blur, pixel_sigma, pixel_sigma), truncate=3.0
    )
    field = smooth_noise(rng, geometry, 130.0)
    signal *= 1 + np.float32(profile.bias / 2) * np.clip(field, -2, 2)
    noise = rng.standard_normal((2, *signal.shape), dtype=np.float32) * np.float32(profile.noise)
    measured = np.hypot(signal + noise[0], noise[1])
    gain = profile.scale * float(rng.uniform(0.8, 1.25))
    image: ImageArray = np.clip(np.rint(measured * np.float32(gain)), 0, 65535).astype(np.float32)
    return image


def _draw_contour(
    rng: np.random.Generator, style: ContouringStyle, tumour: MaskArray, geometry: Geometry
) -> MaskArray:
    """Draw the tumour slice by slice in a hospital's style: margin, rounding and chance."""
    spacing_yx = geometry.spacing_zyx_mm[1:]
    half_pixel_mm = min(spacing_yx) / 2
    wander = smooth_noise(rng, geometry, (3 * geometry.spacing_zyx_mm[0], 12.0, 12.0))
    sigma = [style.smoothing_mm / side for side in spacing_yx]
    mask = np.zeros_like(tumour)
    reach = [int(np.ceil(8.0 / side)) for side in spacing_yx]
    for z in np.flatnonzero(tumour.any(axis=(1, 2))):
        rows, columns = np.nonzero(tumour[z])
        box = tuple(
            slice(max(0, int(found.min()) - side), int(found.max()) + side + 1)
            for found, side in zip((rows, columns), reach, strict=True)
        )
        region = tumour[z][box]
        inward = ndimage.distance_transform_edt(region, sampling=spacing_yx)
        outward = ndimage.distance_transform_edt(~region, sampling=spacing_yx)
        # distances run between pixel centres; the edge lies half a pixel before the next centre
        depth_mm = inward - outward + np.where(region, -half_pixel_mm, half_pixel_mm)
        depth_mm = ndimage.gaussian_filter(depth_mm, sigma)
        mask[z][box] = depth_mm + style.jitter_mm * wander[z][box] > -style.margin_mm
    return mask
