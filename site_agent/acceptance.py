"""From a bare machine to a phantom through PACS, model, RTSTRUCT and back, step by step.

The phantom is drawn, not scanned: nobody's image. It goes the way that a patient goes, through the
same functions, in a home of its own beside the site's that is removed in the end, so that it never
counts as a case. In the PACS it stays, under a name that says what it is: a site may not delete
there.
"""

import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.health import Check, CheckState, run_check
from algorithms.contracts.model_package import MODEL_FILE, NetworkSpec, PreprocessingRecipe
from algorithms.contracts.volume import Geometry, Mask
from evaluation.benchmarks.dicom_writer import (
    PatientTags,
    ScannerTags,
    StudyUids,
    study_uids,
    write_mr_series,
)
from evaluation.overlap import dice
from site_agent.case_store import CaseStore
from site_agent.config import SiteHome, open_home
from site_agent.dicom_elements import without_remarks
from site_agent.dicom_series import read_series
from site_agent.doctor import examine_site
from site_agent.export_gate import check_export
from site_agent.export_rules import Expected
from site_agent.ingest import take_in
from site_agent.pacs import SeriesFound, fetch_series, open_pacs
from site_agent.pacs_export import original_of
from site_agent.residue import Known, scan_folder
from site_agent.rtstruct import exported_name, read_rtstruct, write_rtstruct
from site_agent.site_setup import initialise
from site_agent.spool import Spool

SHAPE_ZYX = (16, 96, 96)
SPACING_ZYX_MM = (4.0, 1.5, 1.5)
TUMOUR_RADIUS_MM = 16.0
LABEL = "ACCEPTANCE"
SAME_CONTOUR_DICE = 0.99
SCANNER = ScannerTags("fedgtv", "acceptance", 1.5, "ACCEPTANCE TEST, NO PATIENT")


@dataclass
class _Run:
    """What the steps hand on to one another."""

    home: SiteHome
    folder: Path
    patient: PatientTags
    uids: StudyUids
    scratch: SiteHome | None = None
    store: CaseStore | None = None
    case_id: str = ""
    contour: Contour | None = None
    facts: dict[str, object] = field(default_factory=dict)

    @property
    def images(self) -> Path:
        return self.folder / "images"


def accept(folder: Path, facts: dict[str, object]) -> Iterator[Check]:
    """Run the whole of it, one check after the other; after a failed one it ends.

    Args:
        folder: the site's home.
        facts: is filled with figures for the proof.
    """
    failed = False
    for check in examine_site(folder):
        failed |= check.state is CheckState.FAILED
        yield check
    if failed:
        return
    home = open_home(folder)
    if home.config.pacs is None:
        yield Check(
            "pacs",
            CheckState.FAILED,
            f"{home.folder}: no table [pacs] in site.toml: write one, and run this again",
        )
        return
    with tempfile.TemporaryDirectory(dir=home.folder, prefix=".acceptance-") as scratch:
        run = _new_run(home, Path(scratch), facts)
        for name, step in STEPS.items():
            began = time.monotonic()
            check = run_check(name, lambda step=step: step(run))  # type: ignore[misc]
            facts[f"{name}_s"] = round(time.monotonic() - began, 2)
            yield check
            if check.state is CheckState.FAILED:
                return


def _new_run(home: SiteHome, folder: Path, facts: dict[str, object]) -> _Run:
    now = datetime.now(UTC)
    tag = secrets.token_hex(4).upper()
    patient = PatientTags(
        patient_id=f"FEDGTV-{tag}",
        name="Phantomperson^Fedgtvtest",  # in no other word that is stored
        birth_date="19000101",
        sex="O",
        institution="fedgtv acceptance test",
        referring_physician="Nobody^Nobody",
        accession_number=f"ACC-{tag}",
        study_date=f"{now:%Y%m%d}",
        study_time=f"{now:%H%M%S}",
        study_description="fedgtv acceptance test, no patient",
    )
    uids = study_uids(f"acceptance {home.config.name} {tag}", SHAPE_ZYX[0])
    facts["phantom_patient_id"] = patient.patient_id
    return _Run(home, folder, patient, uids, facts=facts)


def _draw(run: _Run) -> str:
    """Write the phantom's series: a head-like ellipsoid with a brighter ball in it."""
    depth, height, width = SHAPE_ZYX
    zyx = np.meshgrid(*(np.arange(n) for n in SHAPE_ZYX), indexing="ij")
    centre = [n / 2 for n in SHAPE_ZYX]
    mm = [(axis - c) * s for axis, c, s in zip(zyx, centre, SPACING_ZYX_MM, strict=True)]
    head = sum((m / r) ** 2 for m, r in zip(mm, (30.0, 60.0, 50.0), strict=True)) < 1
    tumour = sum(m**2 for m in mm) < TUMOUR_RADIUS_MM**2
    noise = np.random.default_rng(0).normal(0, 8, SHAPE_ZYX)
    image = np.clip(np.rint(40 + 200 * head + 150 * tumour + noise), 0, 4000).astype(np.float32)
    geometry = Geometry(SHAPE_ZYX, SPACING_ZYX_MM, (-70.0, -70.0, 0.0))
    write_mr_series(
        run.images, image, geometry, patient=run.patient, scanner=SCANNER, uids=run.uids
    )
    mask = Mask(np.asarray(tumour, bool), geometry)
    run.contour = Contour("GTVp", mask, Provenance.AUTOMATIC)
    return f"{depth} slices of {height} x {width}, patient {run.patient.patient_id}"


def _to_pacs(run: _Run) -> str:
    with without_remarks():
        pacs = open_pacs(run.home)
        pacs.send(sorted(run.images.glob("*.dcm")))
    return f"{pacs.name} took {SHAPE_ZYX[0]} images"


def _from_pacs(run: _Run) -> str:
    found = _fetch(run, run.uids.series, "fetched")
    return f"{len(list(found.glob('*.dcm')))} images came back"


def _take_in(run: _Run) -> str:
    """De-identify and store in a home of the phantom's own, and look for what was left of it."""
    folder = run.folder / "home"
    config = run.home.config
    initialise(folder, name=config.name, study=config.study, role="target", trusted_keys=())
    run.scratch = open_home(folder)
    run.store = CaseStore(run.scratch)
    (run.case_id,) = take_in(
        run.scratch, run.store, _fetched(run, "fetched"), actor="acceptance"
    ).new
    known = Known(
        names=frozenset({run.patient.name}),
        identifiers=frozenset(
            {
                run.patient.patient_id,
                run.patient.accession_number,
                run.uids.study,
                run.uids.series,
                *run.uids.sop_instances,
            }
        ),
        dates=frozenset(),
    )
    broken = scan_folder(folder, known)
    if broken:
        raise DataError(
            f"de-identification left something of the phantom in {len(broken)} files: do not take "
            "patients in, and report this"
        )
    return f"stored as {run.case_id}; nothing of the phantom's identity is left"


def _segment(run: _Run) -> str:
    """Have the approved model segment it, or a network that learned nothing where none is here."""
    from algorithms.networks import build_network
    from site_agent.checkpoints import load_weights
    from site_agent.package_store import active_package, load_package
    from site_agent.segmentation import segment, use_threads

    assert run.store is not None  # noqa: S101 - a step before made it
    assert run.contour is not None  # noqa: S101
    use_threads(run.home.config.threads)
    site = CaseStore(run.home)
    package = active_package(site.engine)
    site.engine.dispose()
    if package is None:
        network, recipe = build_network(NetworkSpec(), seed=0), PreprocessingRecipe()
        model, roi_name = "no package is approved yet: a network that learned nothing", "GTVp"
    else:
        manifest, folder = load_package(run.home, package.package_id)
        network, recipe = build_network(manifest.network), manifest.preprocessing
        network.load_state_dict(load_weights(folder / MODEL_FILE))
        model, roi_name = f"model {manifest.model_version}", manifest.roi_name
        run.facts["package_id"] = package.package_id
    began = time.monotonic()
    mask = segment(run.store, run.case_id, network, recipe)
    run.facts["inference_s"] = round(time.monotonic() - began, 2)
    said = f"{model} found {int(mask.voxels.sum())} voxels in {run.facts['inference_s']} s"
    if mask.voxels.any() and package is not None:
        run.contour = Contour(roi_name, mask, Provenance.AUTOMATIC)
        return said
    # The way back is looked at with a contour in any case.
    return f"{said}; the phantom's own contour goes on"


def _export(run: _Run) -> str:
    assert run.store is not None  # noqa: S101
    assert run.scratch is not None  # noqa: S101
    assert run.contour is not None  # noqa: S101
    volume = run.store.volume(run.case_id)
    contour = Contour(
        run.contour.roi_name, Mask(run.contour.mask.voxels, volume.geometry), Provenance.AUTOMATIC
    )
    identity = original_of(run.scratch, run.store, run.case_id, volume)
    buffer = BytesIO()
    with without_remarks():
        dataset = write_rtstruct(
            volume, [contour], identity=identity, label=LABEL, now=datetime.now(UTC)
        )
        dataset.save_as(buffer, enforce_file_format=True)
    check_export(buffer.getvalue(), Expected([contour], identity, None, None, frozenset()))
    (run.folder / "rs.dcm").write_bytes(buffer.getvalue())
    run.facts["rtstruct_series"] = str(dataset.SeriesInstanceUID)
    return f"RTSTRUCT with {exported_name(contour)} passed the export gate"


def _back_to_pacs(run: _Run) -> str:
    with without_remarks():
        pacs = open_pacs(run.home)
        pacs.send([run.folder / "rs.dcm"])
    return f"{pacs.name} took the RTSTRUCT"


def _compare(run: _Run) -> str:
    """Fetch the RTSTRUCT and see that it is the contour that was drawn, on the same patient."""
    assert run.contour is not None  # noqa: S101
    series = str(run.facts.pop("rtstruct_series"))
    (file,) = _fetch(run, series, "returned").glob("*.dcm")
    with without_remarks():
        volume = read_series(run.images)
        regions = read_rtstruct(file, volume)
    (found,) = regions.values()
    agreement = dice(found.voxels, run.contour.mask.voxels)
    run.facts["returned_dice"] = round(agreement, 4)
    if not agreement >= SAME_CONTOUR_DICE:
        raise DataError(
            f"the contour that came back has a Dice of {agreement:.3f} with the one that was sent: "
            "do not use this PACS before somebody found out why"
        )
    return f"the contour came back as it was sent (Dice {agreement:.4f})"


def _fetch(run: _Run, series_uid: str, name: str) -> Path:
    """Bring one series of the phantom's study out of the PACS into a folder of the run."""
    with without_remarks():
        pacs = open_pacs(run.home)
        found = [one for one in pacs.find_series(run.uids.study) if one.series_uid == series_uid]
        if not found:
            raise DataError(
                f"{pacs.name} does not list what it took a moment ago: have its administrator see "
                "whether our AE title may query, and whether objects are held back"
            )
        return _retrieve(run, found[0], name)


def _retrieve(run: _Run, series: SeriesFound, name: str) -> Path:
    (run.folder / "spools").mkdir(exist_ok=True)
    spool = Spool(run.folder / "spools" / name, secrets.token_bytes(32))
    fetch_series(open_pacs(run.home), spool, series)
    return spool.incoming / spool.series_name(series.series_uid)


def _fetched(run: _Run, name: str) -> Path:
    return run.folder / "spools" / name / "incoming"


STEPS: dict[str, Callable[[_Run], str]] = {
    "phantom": _draw,
    "to-pacs": _to_pacs,
    "from-pacs": _from_pacs,
    "de-identification": _take_in,
    "model": _segment,
    "rtstruct": _export,
    "back-to-pacs": _back_to_pacs,
    "round-trip": _compare,
}
