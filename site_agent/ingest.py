"""Take images in: DICOM series with their structure sets, or NIfTI pairs; all or nothing."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import Volume
from site_agent.case_store import CaseStore, Intake, NewCase
from site_agent.config import SiteHome
from site_agent.deidentification import (
    OriginalIdentity,
    deidentify_volume,
    original_identity,
    pseudonym,
    refuse_unfit,
    seal,
)
from site_agent.dicom_series import (
    Scan,
    SeriesFiles,
    StructureSetFile,
    holds_dicom,
    named_when_damaged,
    read_series_and_headers,
    scan,
    without_remarks,
)
from site_agent.nifti_pairs import NiftiPair, find_pairs, read_pair
from site_agent.progress import progress_bar
from site_agent.rtstruct import folded, read_rtstruct
from site_agent.site_lock import only_worker

TARGET_ROI = "GTVp"


class SeveralStructureSetsError(DataError):
    """Two structure sets were drawn on one series: a person has to choose."""


def ingest(home: SiteHome, store: CaseStore, folder: Path, *, actor: str) -> list[str]:
    """Take a folder in as `take_in` does, and return the ids of the new cases."""
    return take_in(home, store, folder, actor=actor).new


def take_in(home: SiteHome, store: CaseStore, folder: Path, *, actor: str) -> Intake:
    """Read, de-identify and store every series below `folder`, and contours that came later.

    Nothing is stored unless everything could be read, so a folder can be corrected and given again.

    Raises:
        DataError: naming the file or series that is wrong, and what to do; or the site is busy.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder: give the folder that holds the images")
    with only_worker(home), without_remarks():
        pairs = find_pairs(folder)
        if pairs and holds_dicom(folder):
            raise DataError(
                f"{folder}: holds both NIfTI and DICOM files: ingest each kind from a folder of "
                "its own"
            )
        cases = _from_nifti(home, pairs) if pairs else _from_dicom(home, folder)
        return store.add_cases(cases, actor=actor)


def _from_dicom(home: SiteHome, folder: Path) -> Iterator[NewCase]:
    """Read series one by one: together they may be larger than the memory."""
    found = scan(folder)
    wanted = [s for s in found.series if s.modality in home.config.modalities]
    if not found.series and found.structure_sets:
        raise DataError(
            f"{folder}: structure sets without images: give the folder that holds both, or copy "
            "the images into it"
        )
    if not wanted:
        kinds = ", ".join(sorted({s.modality for s in found.series})) or "none"
        raise DataError(
            f"{folder}: no series of modality {' or '.join(home.config.modalities)} "
            f"(found: {kinds}): give another folder or add the modality to the key 'modalities'"
        )
    pseudonym_key, crosswalk_key = home.secret("pseudonym.key"), home.secret("crosswalk.key")
    structure_sets = _assign(wanted, found)
    with progress_bar("reading series", home) as progress:
        for done, series in enumerate(wanted, start=1):
            volume, headers = read_series_and_headers(series.files)
            with _named(series.files[0]):
                for header in headers:
                    refuse_unfit(header)
                identity = original_identity(headers)
                patient_id = pseudonym(identity.patient_id, pseudonym_key)
            structure_set = structure_sets.get(series.series_instance_uid)
            contours: tuple[Contour, ...] = ()
            if structure_set is not None:
                _refuse_another_patient(structure_set, identity)
                contours = (target_contour(structure_set.file, volume, home.config.roi_names),)
            yield NewCase(
                case_id=pseudonym(series.series_instance_uid, pseudonym_key, prefix="case"),
                patient_id=patient_id,
                volume=deidentify_volume(volume, pseudonym_key),
                identity_sealed=seal(identity, crosswalk_key),
                contours=contours,
                source=str(series.files[0].parent),
            )
            progress(done, len(wanted), -1.0)


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Say which series a refusal is about: de-identification sees headers, not files."""
    series = f"the series of {file}"
    with named_when_damaged(series):
        try:
            yield
        except DataError as error:
            raise DataError(f"{series}: {error}") from None


def _refuse_another_patient(structure_set: StructureSetFile, identity: OriginalIdentity) -> None:
    """Refuse a structure set that names another patient; what it leaves out proves nothing."""
    for said, known in (
        (structure_set.patient_id, identity.patient_id),
        (structure_set.birth_date, identity.patient_birth_date),
    ):
        if said and known.strip() and said != known.strip():
            raise DataError(
                f"{structure_set.file}: of another patient than the images that it was drawn on: "
                "move it away, or clear up in the PACS whose it is"
            )


def _assign(wanted: Sequence[SeriesFiles], found: Scan) -> dict[str, StructureSetFile]:
    """Give every structure set to the series it was drawn on: by frame of reference, then nearness.

    Raises:
        DataError: a structure set fits no series or more than one, or a series has two.
    """
    assigned: dict[str, StructureSetFile] = {}
    for structure_set in found.structure_sets:
        file = structure_set.file
        frames, drawn_on = structure_set.frame_of_reference_uids, structure_set.series_instance_uids
        fitting = [s for s in found.series if s.frame_of_reference_uid in frames]
        if not fitting:
            raise DataError(
                f"{file}: drawn in another frame of reference than every series here: "
                "export the structure set together with the images it was drawn on"
            )
        named = [s for s in fitting if s.series_instance_uid in drawn_on]
        near = [s for s in fitting if _lie_together(s.files[0], file)]
        candidates = named or near or fitting
        if len(candidates) > 1:
            raise DataError(
                f"{file}: could belong to any of {len(candidates)} series of one frame of "
                "reference: ingest one series and its structure set at a time"
            )
        if candidates[0] in wanted:
            first = assigned.setdefault(candidates[0].series_instance_uid, structure_set)
            if first is not structure_set:
                raise SeveralStructureSetsError(
                    f"{file}: a second structure set of the series that {first.file.name} was "
                    "drawn on: move away all but the one to use"
                )
    return assigned


def _lie_together(image: Path, structure_set: Path) -> bool:
    """Say whether the structure set lies beside the images or in a folder next to theirs."""
    return bool(
        {image.parent, image.parent.parent} & {structure_set.parent, structure_set.parent.parent}
    )


def target_contour(file: Path, volume: Volume, names: Sequence[str]) -> Contour:
    """Take the first of the hospital's names for the target under which something is drawn.

    Templates leave empty regions behind: they say that nobody drew, not that there is no tumour.

    Raises:
        DataError: nothing is drawn under them, or in two regions; and what to do.
    """
    regions = read_rtstruct(file, volume, names=names)
    drawn = {name: mask for name, mask in regions.items() if mask.voxels.any()}
    for wanted in names:
        masks = [mask for name, mask in drawn.items() if folded(name) == folded(wanted)]
        if len(masks) > 1:
            raise DataError(f"{file}: two regions are named {wanted}: rename or delete one")
        if masks:
            return Contour(TARGET_ROI, masks[0], Provenance.REFERENCE)
    if regions:
        raise DataError(
            f"{file}: nothing is drawn under {' or '.join(names)}: draw the target and export it "
            "again, or move the file away to take the images in without a contour"
        )
    raise DataError(
        f"{file}: none of its regions is named {' or '.join(names)}: "
        "add the hospital's name for the target to the key 'roi_names'"
    )


def _from_nifti(home: SiteHome, pairs: Sequence[NiftiPair]) -> Iterator[NewCase]:
    pseudonym_key = home.secret("pseudonym.key")
    for pair in pairs:
        volume, mask = read_pair(pair)
        name = pair.name
        contours = () if mask is None else (Contour(TARGET_ROI, mask, Provenance.REFERENCE),)
        yield NewCase(
            case_id=pseudonym(name, pseudonym_key, prefix="case"),
            patient_id=pseudonym(name, pseudonym_key),
            volume=_as_mr(volume),
            identity_sealed=None,
            contours=contours,
            source=str(pair.image),
        )


def _as_mr(volume: Volume) -> Volume:
    """NIfTI does not say the modality; the study is about MR."""
    return volume if volume.modality else Volume(volume.image, volume.geometry, modality="MR")
