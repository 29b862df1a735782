"""The contour that comes back: what became of an export that somebody edited for planning.

A planning system renames regions, gives new UIDs and another order, and drops references. What it
keeps is the patient and the frame of reference, so those decide, and both must be exactly those of
the crosswalk. Among the cases of one patient and frame the referenced series decides; among the
regions the name, and then the overlap with what was exported. Where two answers are possible none
is taken: the message says how to choose.

The result is the final word on a case. Its revision degree, 100 * (1 - Dice) %, is against what the
model had drawn; how much was changed after the export is kept beside it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum
from pathlib import Path

import numpy as np

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import Mask, Volume
from evaluation.overlap import dice
from evaluation.revision import revision_degree_percent
from site_agent import audit_log
from site_agent.case_store import REFERENCE, RETURNED, CaseStore
from site_agent.config import SiteHome
from site_agent.database import ExportRow, transaction, utc_now
from site_agent.deidentification import OriginalIdentity, pseudonym
from site_agent.dicom_elements import without_remarks
from site_agent.dicom_series import scan
from site_agent.export_store import (
    EXPORTED,
    first_exported_at,
    newest_export,
    uids_of,
    used_uids,
)
from site_agent.pacs_export import original_of
from site_agent.returned_file import NamedRegion, ReturnedFile, read_returned_file
from site_agent.rtstruct import exported_name, folded, read_rtstruct
from site_agent.site_lock import only_worker

LEAST_OVERLAP = 0.5  # Dice with what was exported, for a region to be taken by its place
CLEAR_LEAD = 0.1  # of Dice, before what comes second

_ZONES = timedelta(days=1)  # a structure set states local time
_UNTOUCHED = 0.99  # Dice: a planning system samples points anew when it saves
_TUMOUR = ("", "GTV")  # RTROIInterpretedType; a PTV around what was exported overlaps with it too


class OwnExportError(DataError):
    """This is what was exported, and nobody edited it."""


@dataclass(frozen=True)
class Returned:
    """What a structure set that came back says about a case.

    Attributes:
        case_id: the case it belongs to.
        contour: the region as it came back, on the grid of the case.
        round_id: of the contour that was exported.
        revision_degree_percent: against what the model had drawn (what was exported, where no
            model drew).
        changed_after_export_percent: against what was exported.
        matched_by: how its region was found: "name", "overlap" or "choice".
        approved: the planning system says that it is APPROVED.
        new: it differs from what came back for this case before.
    """

    case_id: str
    contour: Contour
    round_id: str
    revision_degree_percent: float
    changed_after_export_percent: float
    matched_by: str
    approved: bool
    new: bool


def take_back(
    home: SiteHome,
    store: CaseStore,
    source: Path,
    *,
    case_id: str = "",
    roi_name: str = "",
    actor: str,
) -> list[Returned]:
    """Match every structure set of a file or folder with its case, and keep what it says.

    All or nothing. What came back before and says the same is not kept again.

    Args:
        home: of the site.
        store: of the site.
        source: an RTSTRUCT, or a folder; images and other objects in it are passed over.
        case_id: the case it belongs to, where several are possible.
        roi_name: the region's name in the file, which then decides; "": name and overlap do.
        actor: for the audit log.

    Raises:
        DataError: naming the file: it is of no case here or of several, of another frame of
            reference, was not edited, or its region is not clear; and what to do.
    """
    with only_worker(home), without_remarks():
        files = [read_returned_file(file) for file in _structure_sets(source)]
        found = [_match(home, store, file, case_id, roi_name) for file in files]
        for repeated, count in Counter(one.case_id for one in found).items():
            if count > 1:
                raise DataError(
                    f"{source}: {count} structure sets of {repeated}: give the final one alone"
                )
        _keep(store, found, actor)
        return found


class Arrival(Enum):
    """What a structure set is that came over the network."""

    EDITED = "contour came back"
    OWN_EXPORT = "export of ours passed over"
    ANOTHER = "another"


@dataclass(frozen=True)
class Received:
    """What came over the network, and the case that it was kept for ("": none)."""

    arrival: Arrival
    case_id: str = ""


def receive(home: SiteHome, store: CaseStore, file: Path, *, actor: str) -> Received:
    """Take back what came by itself, if it is an edit of an export, and say what it is.

    Nobody is there who would know, so what was saved before the first export, or says the same as
    the reference that came with the images, is another: those were there before us.

    Args:
        home: of the site.
        store: of the site.
        file: an RTSTRUCT.
        actor: for the audit log.

    Raises:
        SiteBusyError: another process of the site works: later.
        DataError: it is an edit, and which case or region is not clear.
    """
    with only_worker(home), without_remarks():
        try:
            said = read_returned_file(file)
            candidates = _of_frame(_of_patient(home, store, said), said)
        except DataError:
            return Received(Arrival.ANOTHER)  # of nothing that was exported
        firsts = [first_exported_at(store, one.case_id) for one in candidates]
        earliest = min(first for first in firsts if first is not None).date() - _ZONES
        if said.saved_on is not None and said.saved_on < earliest:
            return Received(Arrival.ANOTHER)
        try:
            found = _match(home, store, said, "", "")
        except OwnExportError:
            return Received(Arrival.OWN_EXPORT)
        reference = store.contour(found.case_id, purpose=REFERENCE)
        if reference is not None and _equal(reference.mask, found.contour.mask):
            return Received(Arrival.ANOTHER)
        _keep(store, [found], actor)
        return Received(Arrival.EDITED, found.case_id)


def _keep(store: CaseStore, found: Sequence[Returned], actor: str) -> None:
    with transaction(store.engine) as session:
        for one in (one for one in found if one.new):
            store.add_contour(session, one.case_id, one.contour, RETURNED, one.round_id, actor)
            audit_log.append(
                session,
                actor=actor,
                event="contour_returned",
                subject=one.case_id,
                detail={
                    "revision_degree_percent": round(one.revision_degree_percent, 3),
                    "changed_after_export_percent": round(one.changed_after_export_percent, 3),
                    "matched_by": one.matched_by,
                    "approved": one.approved,
                },
                at=utc_now(),
            )


def _structure_sets(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    found = [one.file for one in scan(source).structure_sets]
    if not found:
        raise DataError(f"{source}: holds no RTSTRUCT: give the one that was edited")
    return found


# --- the case ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Candidate:
    """A case that was exported and that a structure set may be about."""

    case_id: str
    export: ExportRow
    exported: Contour
    volume: Volume  # under its original UIDs
    identity: OriginalIdentity


def _match(
    home: SiteHome, store: CaseStore, file: ReturnedFile, case_id: str, roi_name: str
) -> Returned:
    candidates = _of_patient(home, store, file)
    if case_id:
        candidates = [one for one in candidates if one.case_id == case_id]
        if not candidates:
            raise DataError(
                f"{file.file}: the case given with --case is no exported one of its patient: see "
                "'fedgtv-site cases', or leave it out"
            )
    candidate, region = _of_series(_of_frame(candidates, file), file, roi_name)
    _refuse_our_own(store, candidate, region.mask, file)
    exported, mask = candidate.exported, region.mask
    same = _equal(exported.mask, mask)
    changed = revision_degree_percent(exported.mask.voxels, mask.voxels)
    round_id = candidate.export.round_id
    model = store.contour(candidate.case_id, purpose="adapted", round_id=round_id)
    before = store.contour(candidate.case_id, purpose=RETURNED, round_id=round_id)
    return Returned(
        case_id=candidate.case_id,
        contour=Contour(
            exported.roi_name, mask, exported.provenance if same else Provenance.SEMIAUTOMATIC
        ),
        round_id=round_id,
        revision_degree_percent=(
            changed if model is None else revision_degree_percent(model.mask.voxels, mask.voxels)
        ),
        changed_after_export_percent=changed,
        matched_by=region.matched_by,
        approved=file.approved,
        new=before is None or not _equal(before.mask, mask),
    )


def _of_patient(home: SiteHome, store: CaseStore, file: ReturnedFile) -> list[_Candidate]:
    """Return the exported cases of the patient: same PatientID, and no other birth date."""
    patient = pseudonym(file.patient_id, home.secret("pseudonym.key"))
    held = [case.case_id for case in store.cases() if case.patient_id == patient]
    if not held:
        raise DataError(
            f"{file.file}: of a patient of whom nothing is held here: ingest and export the images "
            "first, or give it to the site that did"
        )
    found = [_candidate(home, store, case_id, file) for case_id in held]
    candidates = [one for one in found if one is not None]
    if not candidates:
        raise DataError(
            f"{file.file}: nothing was exported for its patient, so nothing can come back: take it "
            "in as a reference with 'fedgtv-site ingest', together with its images"
        )
    return candidates


def _candidate(
    home: SiteHome, store: CaseStore, case_id: str, file: ReturnedFile
) -> _Candidate | None:
    """Return a case of the patient with what was exported for it; None where nothing was."""
    export = newest_export(store, case_id)
    if export is None:
        return None
    exported = store.contour(case_id, purpose=EXPORTED, round_id=export.round_id)
    if exported is None:
        return None
    volume = store.volume(case_id)
    identity = original_of(home, store, case_id, volume)
    born = {file.birth_date, identity.patient_birth_date.strip()} - {""}
    if identity.patient_id.strip() != file.patient_id or len(born) > 1:
        raise DataError(
            f"{file.file}: its patient has the PatientID of one held here and another birth date: "
            "clear up in the PACS whose structure set it is"
        )
    original = replace(
        volume,
        frame_of_reference_uid=identity.frame_of_reference_uid,
        sop_instance_uids=identity.sop_instance_uids,
    )
    return _Candidate(case_id, export, exported, original, identity)


def _of_frame(candidates: Sequence[_Candidate], file: ReturnedFile) -> list[_Candidate]:
    stated = frozenset[str]().union(*(region.frames for region in file.regions))
    fitting = [one for one in candidates if one.identity.frame_of_reference_uid in stated]
    if not fitting:
        raise DataError(
            f"{file.file}: drawn in another frame of reference than what was exported for its "
            "patient: give the structure set of those images, or register the two first"
        )
    return fitting


def _of_series(
    candidates: Sequence[_Candidate], file: ReturnedFile, roi_name: str
) -> tuple[_Candidate, "_Region"]:
    """Choose among the series of one frame: by reference, and by overlap where there is none."""
    named = [
        one
        for one in candidates
        if file.references & {one.identity.series_instance_uid, *one.identity.sop_instance_uids}
    ]
    candidates = named or candidates
    if len(candidates) == 1:
        return candidates[0], _region(candidates[0], file, roi_name)
    found = []
    for one in candidates:
        try:
            found.append((one, _region(one, file, roi_name)))
        except DataError:
            continue  # it does not fit this series, or not clearly
    found.sort(key=lambda pair: pair[1].overlap, reverse=True)
    if found and (len(found) == 1 or found[0][1].overlap - found[1][1].overlap >= CLEAR_LEAD):
        return found[0]
    cases = ", ".join(one.case_id for one in candidates)
    raise DataError(
        f"{file.file}: could be of any of {cases}, whose images share a frame of reference: say "
        "which with --case"
    )


def _refuse_our_own(
    store: CaseStore, candidate: _Candidate, mask: Mask, file: ReturnedFile
) -> None:
    """Refuse an export that nobody edited: newest and unchanged, or any that was replaced since."""
    if file.sop_instance_uid not in used_uids(store, candidate.case_id):
        return
    newest = file.sop_instance_uid == uids_of(store, candidate.export).sop_instance_uid
    if not newest or _equal(mask, candidate.exported.mask):
        raise OwnExportError(
            f"{file.file}: this is what was exported, not what somebody made of it: give the "
            "structure set that the planning system saved"
        )


# --- the region ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Region:
    """A region of a structure set, on the grid of a case.

    Attributes:
        overlap: its Dice with what was exported.
    """

    mask: Mask
    matched_by: str
    overlap: float


def _region(candidate: _Candidate, file: ReturnedFile, roi_name: str) -> _Region:
    """Find what became of the exported region.

    Raises:
        DataError: there is none, or more than one answer.
    """
    frame = {candidate.identity.frame_of_reference_uid}
    regions = [region for region in file.regions if region.frames == frame]
    if roi_name:
        return _by_choice(candidate, regions, file, roi_name)
    clinical, marked = candidate.exported.roi_name, exported_name(candidate.exported)
    names = " or ".join(dict.fromkeys((clinical, marked)))
    wanted = {folded(clinical), folded(marked)}
    named = _drawn(candidate, [one for one in regions if folded(one.name) in wanted], file)
    if len(named) > 1:
        # A program's region that nobody touched, beside a person's: the person's is the final one.
        edited = {n: m for n, m in named.items() if _overlap(candidate, m) < _UNTOUCHED}
        named = edited or named
    if named:
        return _only(candidate, named, "name", file)
    tumours = [region for region in regions if region.kind in _TUMOUR]
    near = {
        name: mask
        for name, mask in _drawn(candidate, tumours, file).items()
        if _overlap(candidate, mask) >= LEAST_OVERLAP
    }
    if not near:
        raise DataError(
            f"{file.file}: no region is named {names}, and none overlaps with what was exported: "
            "say with --roi which region it became"
        )
    best = max(_overlap(candidate, mask) for mask in near.values())
    rivals = {n: m for n, m in near.items() if _overlap(candidate, m) > best - CLEAR_LEAD}
    return _only(candidate, rivals, "overlap", file)


def _by_choice(
    candidate: _Candidate, regions: Sequence[NamedRegion], file: ReturnedFile, roi_name: str
) -> _Region:
    chosen = [region for region in regions if folded(region.name) == folded(roi_name)]
    drawn = _drawn(candidate, chosen, file)
    if not drawn:
        raise DataError(
            f"{file.file}: the region chosen with --roi is not there, is empty, or is in another "
            "frame of reference: choose another"
        )
    return _only(candidate, drawn, "choice", file)


def _only(candidate: _Candidate, regions: dict[str, Mask], how: str, file: ReturnedFile) -> _Region:
    first, *others = regions.values()
    if not all(_equal(first, other) for other in others):
        raise DataError(
            f"{file.file}: {len(regions)} regions could be what was exported: say with --roi which "
            "it is"
        )
    return _Region(first, how, _overlap(candidate, first))


def _drawn(
    candidate: _Candidate, regions: Sequence[NamedRegion], file: ReturnedFile
) -> dict[str, Mask]:
    """Read those of the regions that are drawn on the grid of the case, by their names."""
    drawn: dict[str, Mask] = {}
    for region in regions:
        try:
            found = read_rtstruct(file.file, candidate.volume, names=[region.name])
        except DataError:
            if len(regions) == 1:
                raise
            continue  # another region, such as one that reaches beyond the images
        drawn |= {name: mask for name, mask in found.items() if mask.voxels.any()}
    return drawn


def _overlap(candidate: _Candidate, mask: Mask) -> float:
    return dice(candidate.exported.mask.voxels, mask.voxels)


def _equal(one: Mask, other: Mask) -> bool:
    return bool(np.array_equal(one.voxels, other.voxels))
