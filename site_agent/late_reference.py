"""Structure sets that come over the network without their images: references of held cases.

Patient and frame of reference decide, as in a folder; among the cases of one frame, what the
structure set names. Where two answers are possible none is taken.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from algorithms.contracts.case import Case
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import Volume
from site_agent.case_store import CaseStore, Intake, NewCase
from site_agent.config import SiteHome
from site_agent.deidentification import mapped_uid, pseudonym
from site_agent.dicom_elements import without_remarks
from site_agent.dicom_series import StructureSetFile
from site_agent.ingest import SeveralStructureSetsError, target_contour
from site_agent.pacs_export import original_of
from site_agent.returned_file import ReturnedFile, read_returned_file
from site_agent.site_lock import only_worker


def add_late_references(
    home: SiteHome, store: CaseStore, structure_sets: Sequence[StructureSetFile], *, actor: str
) -> Intake:
    """Add each structure set to the held case that it was drawn on; all or nothing.

    A case that has a reference already is left as it is.

    Raises:
        SiteBusyError: another process of the site works: later.
        SeveralStructureSetsError: two are of one case.
        DataError: the images are not held, it could be of several cases, or no target is drawn.
    """
    with only_worker(home), without_remarks():
        found = [_held_case(home, store, one) for one in structure_sets]
        if any(count > 1 for count in Counter(one.case_id for one in found).values()):
            raise SeveralStructureSetsError("two structure sets of one case: send the one to use")
        return store.add_cases(found, actor=actor)


def held_case(
    home: SiteHome, store: CaseStore, structure_set: StructureSetFile
) -> tuple[Case, Volume]:
    """Find the held case that a structure set was drawn on: it, and its image.

    The image has its original UIDs, by which the structure set names it.

    Raises:
        DataError: the images are not held, it could be of several cases, or it is of another
            patient.
    """
    case, volume, _ = _held(home, store, structure_set)
    return case, volume


def _held_case(home: SiteHome, store: CaseStore, structure_set: StructureSetFile) -> NewCase:
    """Return the case of a structure set with its contour, if it lacks one."""
    case, original, volume = _held(home, store, structure_set)
    drawn = (
        ()
        if case.has_reference
        else (target_contour(structure_set.file, original, home.config.roi_names),)
    )
    return NewCase(case.case_id, case.patient_id, volume, None, drawn, structure_set.file.name)


def _held(
    home: SiteHome, store: CaseStore, structure_set: StructureSetFile
) -> tuple[Case, Volume, Volume]:
    """Find a case: it, its image with the original UIDs, and the image as it is stored."""
    said = read_returned_file(structure_set.file)
    case, volume = _only(_of_frame(home, store, structure_set, said), home, said)
    identity = original_of(home, store, case.case_id, volume)
    born = {said.birth_date, identity.patient_birth_date.strip()} - {""}
    if identity.patient_id.strip() != said.patient_id or len(born) > 1:
        raise DataError(
            "a structure set whose patient has the PatientID of one held here and another birth "
            "date: clear up in the PACS whose it is"
        )
    original = replace(
        volume,
        frame_of_reference_uid=identity.frame_of_reference_uid,
        sop_instance_uids=identity.sop_instance_uids,
    )
    return case, original, volume


def _of_frame(
    home: SiteHome, store: CaseStore, structure_set: StructureSetFile, said: ReturnedFile
) -> list[tuple[Case, Volume]]:
    """Return the cases of its patient that lie in a frame of reference that it uses."""
    key = home.secret("pseudonym.key")
    patient = pseudonym(said.patient_id, key)
    frames = {mapped_uid(uid, key) for uid in structure_set.frame_of_reference_uids}
    cases = [(one, store.volume(one.case_id)) for one in store.cases() if one.patient_id == patient]
    return [(case, volume) for case, volume in cases if volume.frame_of_reference_uid in frames]


def _only(
    fitting: Sequence[tuple[Case, Volume]], home: SiteHome, said: ReturnedFile
) -> tuple[Case, Volume]:
    key = home.secret("pseudonym.key")
    references = {mapped_uid(uid, key) for uid in said.references}
    named = [
        (case, volume)
        for case, volume in fitting
        if references & {volume.series_instance_uid, *volume.sop_instance_uids}
    ]
    candidates = named or fitting
    if not candidates:
        raise DataError("a structure set whose images are not held: send or fetch them with it")
    if len(candidates) > 1:
        cases = ", ".join(case.case_id for case, _ in candidates)
        raise DataError(
            f"a structure set that could be of any of {cases}, whose images share a frame of "
            "reference: send or fetch the images it was drawn on with it"
        )
    return candidates[0]
