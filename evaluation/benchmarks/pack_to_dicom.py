"""Turn a pack of real images (one .npz per case) into hospitals of DICOM, so that one road ingests.

A pack is a folder of `.npz` files with `image` and `label` `[z, y, x]`, and whatever else its
recipe names. Grey values, spacing and position survive exactly where the pack knows them; who the
patients were is not in a pack, so the identifying elements written here are invented.

Research use only, not a medical device.
"""

import csv
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.valuerep import format_number_as_ds

from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import Geometry, ImageArray, MaskArray
from evaluation.benchmarks.dicom_writer import PatientTags, ScannerTags, write_study

Triple = tuple[float, float, float]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class PackRecipe:
    """What must be known of a pack beyond its files.

    Attributes:
        roi_name: how the region is called in the structure sets.
        region_codes: values of `label` that belong to the region.
        site: the one hospital the pack comes from; "" when `cases.csv` says it per case.
        manufacturer: vendor of that one hospital; "" likewise.
        frame_mark: text in a case's name before which the patient's name ends; "" when one case is
            one patient.
    """

    roi_name: str
    region_codes: tuple[int, ...]
    site: str = ""
    manufacturer: str = ""
    frame_mark: str = ""


PACKS: Mapping[str, PackRecipe] = {
    "sts": PackRecipe(roi_name="GTV_Mass", region_codes=(1,)),
    "acdc": PackRecipe("LV_cavity", (3,), "acdc-dijon", "SIEMENS", frame_mark="_frame"),
    "scd": PackRecipe("LV_cavity", (3,), "scd-toronto", "GE MEDICAL SYSTEMS"),
}
MANUFACTURERS: Mapping[str, str] = {"ge": "GE MEDICAL SYSTEMS", "siemens": "SIEMENS"}
STS_SOURCE_MODEL = "SIGNA EXCITE"


@dataclass(frozen=True)
class PackCase:
    """One `.npz` of a pack, and the stand-in hospital and scanner it comes from."""

    file: Path
    site: str
    scanner: ScannerTags


def sts_site(vendor: str, model: str) -> str:
    """Name the stand-in hospital of an `sts` case, by vendor and scanner model.

    >>> sts_site("ge", "SIGNA EXCITE"), sts_site("ge", "Signa HDxt"), sts_site("siemens", "Avanto")
    ('ge-signa-excite', 'ge-other', 'siemens')
    """
    if vendor == "ge":
        return "ge-signa-excite" if model == STS_SOURCE_MODEL else "ge-other"
    return vendor


def convert_pack(
    pack_folder: Path,
    out: Path,
    *,
    pack: str | None = None,
    spacing_zyx_mm: Triple | None = None,
    sites: frozenset[str] | None = None,
    on_progress: Progress | None = None,
) -> dict[str, int]:
    """Write `out/<site>/<PatientID>/[<case>/]` with an MR series and an RTSTRUCT per case.

    Args:
        pack_folder: folder of `.npz` files, and `cases.csv` where the recipe needs one.
        out: where the sites' folders go; created when absent.
        pack: name of the recipe in `PACKS`; the folder's name when None.
        spacing_zyx_mm: voxel size for packs that do not know theirs (acdc, scd). It is the caller's
            assumption: distances measured on such cases are no better than it. Refused for a pack
            that knows its spacing.
        sites: only these sites; all when None.
        on_progress: called after every case with (done, total, name of the site).

    Returns:
        The number of cases written per site.

    Raises:
        DataError: for an unknown pack, a missing or unreadable file or array, or a spacing that is
            missing or superfluous.
    """
    name = pack or pack_folder.name
    cases = list_cases(pack_folder, pack=name, sites=sites)
    for done, case in enumerate(cases, start=1):
        write_case(case, out, pack=name, spacing_zyx_mm=spacing_zyx_mm)
        if on_progress is not None:
            on_progress(done, len(cases), case.site)
    return dict(Counter(case.site for case in cases))


def list_cases(
    pack_folder: Path, *, pack: str, sites: frozenset[str] | None = None
) -> list[PackCase]:
    """List the cases of a pack, of all sites or of these only.

    Raises:
        DataError: for an unknown pack, a missing folder or table, or when nothing is found.
    """
    if pack not in PACKS:
        known = ", ".join(sorted(PACKS))
        raise DataError(f"pack '{pack}': no recipe for it: name one of {known}")
    if not pack_folder.is_dir():
        raise DataError(f"pack '{pack}': its folder is missing: fetch the pack or correct the path")
    every = _all_cases(pack_folder, PACKS[pack])
    cases = [case for case in every if sites is None or case.site in sites]
    if not cases:
        raise DataError(
            f"pack '{pack}': no cases for the wanted sites: fetch it whole or ask others"
        )
    return cases


def _all_cases(pack_folder: Path, recipe: PackRecipe) -> list[PackCase]:
    if recipe.site:
        scanner = ScannerTags(recipe.manufacturer, "unknown", 1.5, "cine short axis", "GR", 40, 1.5)
        files = sorted(pack_folder.glob("*.npz"))
        return [PackCase(file, recipe.site, scanner) for file in files]
    table = pack_folder / "cases.csv"
    if not table.is_file():
        raise DataError("cases.csv: missing in the pack: it names every case's scanner; fetch it")
    with table.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    cases = []
    for row in rows:
        try:
            case, vendor, model = row["case"], row["vendor_site"], row["model"]
        except KeyError as error:
            raise DataError(f"cases.csv: no column {error}: restore the pack's table") from error
        scanner = ScannerTags(MANUFACTURERS.get(vendor, vendor), model, 1.5, "T1 axial")
        cases.append(PackCase(pack_folder / f"{case}.npz", sts_site(vendor, model), scanner))
    return cases


def write_case(
    case: PackCase, out: Path, *, pack: str, spacing_zyx_mm: Triple | None = None
) -> None:
    """Write one case as `convert_pack` writes all of them."""
    recipe = PACKS[pack]
    image, mask, geometry, rescale = _read_case(case.file, recipe, spacing_zyx_mm)
    name = case.file.stem
    folder = out / case.site
    if recipe.frame_mark:
        patient_id = name.split(recipe.frame_mark)[0]
        folder = folder / patient_id / name
    else:
        patient_id = name
        folder = folder / patient_id
    write_study(
        folder,
        image,
        mask,
        geometry,
        roi_name=recipe.roi_name,
        patient=_invent_patient(patient_id, case.site),
        scanner=case.scanner,
        entropy=f"pack {pack} {name}",
        rescale=rescale,
    )


def _read_case(
    file: Path, recipe: PackRecipe, spacing_zyx_mm: Triple | None
) -> tuple[ImageArray, MaskArray, Geometry, tuple[float, float]]:
    """Read a case: original grey values, region, grid, and the rescale that keeps the values."""
    arrays = _load_arrays(file)
    for key in ("image", "label"):
        if key not in arrays:
            raise DataError(f"{file.name}: no array '{key}': fetch the case again")
    stored, label = arrays["image"], arrays["label"]
    if stored.ndim != 3 or stored.shape != label.shape:
        raise DataError(
            f"{file.name}: image {stored.shape} and label {label.shape}: fetch the case again"
        )
    # slope and intercept as the DICOM file can say them, so that stored codes come back unchanged
    slope = float(format_number_as_ds(float(arrays.get("scale", np.float32(1.0)))))
    intercept = float(format_number_as_ds(float(arrays.get("offset", np.float32(0.0)))))
    image = (stored.astype(np.float64) * slope + intercept).astype(np.float32)
    spacing = _spacing(file, arrays, spacing_zyx_mm)
    x, y, z = (float(value) for value in arrays.get("origin_xyz", np.zeros(3)))
    slices, rows, columns = image.shape
    geometry = Geometry((slices, rows, columns), spacing, (x, y, z))
    return image, np.isin(label, recipe.region_codes), geometry, (slope, intercept)


def _load_arrays(file: Path) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    if not file.is_file():
        raise DataError(f"{file.name}: missing in the pack: fetch the pack again")
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{file.name}: not a readable .npz: fetch the case again") from error


def _spacing(
    file: Path,
    arrays: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]],
    given_zyx_mm: Triple | None,
) -> Triple:
    if "spacing_zyx" not in arrays:
        if given_zyx_mm is None:
            raise DataError(
                f"{file.name}: no array 'spacing_zyx': give spacing_zyx_mm for this pack"
            )
        return given_zyx_mm
    if given_zyx_mm is not None:
        raise DataError(f"{file.name}: the pack knows its spacing: leave spacing_zyx_mm out")
    z, y, x = (float(value) for value in arrays["spacing_zyx"])
    return z, y, x


def _invent_patient(patient_id: str, site: str) -> PatientTags:
    digits = "".join(filter(str.isdigit, patient_id)) or "0"
    return PatientTags(
        patient_id=patient_id,
        name=f"Pack-{digits}^Nobody",
        birth_date="19500101",
        sex="O",
        institution=f"Fictional {site}",
        referring_physician="Referrer^Imaginary",
        accession_number=f"PACK{digits[-12:]}",
        study_date="20040101",
        study_time="120000",
        study_description="Converted from a public pack of images",
    )
