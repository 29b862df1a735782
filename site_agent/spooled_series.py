"""What the series of a spool are, which belong together, and how they become cases."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pydicom

from algorithms.contracts.errors import DataError
from site_agent.case_store import CaseStore, Intake
from site_agent.config import SiteHome
from site_agent.dicom_series import named_when_damaged, scan
from site_agent.ingest import SeveralStructureSetsError, take_in
from site_agent.late_reference import add_late_references
from site_agent.network_config import Rule
from site_agent.returned_contour import Arrival, receive
from site_agent.spool import INSTANCE, newest_time

_RULE_TAGS = [
    "Modality", "SeriesDescription", "BodyPartExamined", "SeriesInstanceUID", "FrameOfReferenceUID",
]  # fmt: skip
STRUCTURE_SET = "RTSTRUCT"


@dataclass(frozen=True, repr=False)
class SpooledSeries:
    """A series in the spool, as its first file describes it.

    Attributes:
        folder: where it lies; its name is the case's.
        newest_s: when its newest instance came, in s since the epoch.
        drawn_on, drawn_in: series and frames of reference that a structure set names.
    """

    folder: Path
    images: int
    newest_s: float
    modality: str
    description: str
    body_part: str
    series_uid: str
    frame_of_reference_uid: str
    drawn_on: frozenset[str] = frozenset()
    drawn_in: frozenset[str] = frozenset()


def read_spooled(folder: Path) -> SpooledSeries:
    """Describe the series in `folder`.

    Raises:
        DataError: its first file is damaged.
    """
    files = sorted(folder.glob(INSTANCE))
    with named_when_damaged(folder):
        header = pydicom.dcmread(files[0], stop_before_pixels=True, specific_tags=_RULE_TAGS)
        stated = {tag: str(header.get(tag, "") or "").strip() for tag in _RULE_TAGS}
    drawn_on: set[str] = set()
    drawn_in: set[str] = set()
    if stated["Modality"] == STRUCTURE_SET:
        for structure_set in scan(folder).structure_sets:
            drawn_on.update(structure_set.series_instance_uids)
            drawn_in.update(structure_set.frame_of_reference_uids)
    return SpooledSeries(
        folder=folder,
        images=len(files),
        newest_s=newest_time(folder),
        modality=stated["Modality"],
        description=stated["SeriesDescription"],
        body_part=stated["BodyPartExamined"],
        series_uid=stated["SeriesInstanceUID"],
        frame_of_reference_uid=stated["FrameOfReferenceUID"],
        drawn_on=frozenset(drawn_on),
        drawn_in=frozenset(drawn_in),
    )


def belonging_together(series: Sequence[SpooledSeries]) -> list[list[SpooledSeries]]:
    """Join each structure set to the series it names, else to those of its frame of reference.

    Every other series stands alone, so that one that is refused takes no other with it. Images come
    first in a group: they are what becomes a case.
    """
    groups = [[one] for one in series]
    for structure_set in series:
        if structure_set.modality != STRUCTURE_SET:
            continue
        named = [s for s in series if s.series_uid in structure_set.drawn_on]
        framed = [s for s in series if s.frame_of_reference_uid in structure_set.drawn_in]
        partners = [structure_set, *(named or framed)]
        joined = [group for group in groups if any(one in group for one in partners)]
        groups = [group for group in groups if group not in joined]
        groups.append([one for group in joined for one in group])
    for group in groups:
        group.sort(key=lambda one: (one.modality == STRUCTURE_SET, one.folder.name))
    return groups


def fits(rule: Rule, series: SpooledSeries) -> bool:
    """Say whether a rule takes a series.

    >>> fits(Rule(modality="MR", description="t1*"), _example("MR", "T1 TSE tra"))
    True
    """
    pairs = (
        (series.modality, rule.modality),
        (series.description, rule.description),
        (series.body_part, rule.body_part),
    )
    return all(fnmatchcase(text.casefold(), pattern.casefold()) for text, pattern in pairs)


def _example(modality: str, description: str) -> SpooledSeries:
    return SpooledSeries(Path(), 1, 0.0, modality, description, "", "1.2", "1.3")


def take_in_group(home: SiteHome, store: CaseStore, group: Path, *, actor: str) -> str:
    """Make cases of a folder of series that belong together, and say what became of them.

    Structure sets that are edits of what was exported are taken back. Those, and exports of ours
    that the PACS sends along, are deleted here, so that the images are not taken in with them. One
    that comes without images is the reference of the held case that it was drawn on. Cases other
    than the one that `group` is named after are named.

    Raises:
        SiteBusyError: another process of the site works: later.
        DataError: a series is refused, in one line without patient data.
    """
    became: dict[str, list[str]] = {}
    for structure_set in scan(group).structure_sets:
        received = receive(home, store, structure_set.file, actor=actor)
        if received.arrival is not Arrival.ANOTHER:
            became.setdefault(received.arrival.value, []).append(received.case_id)
            structure_set.file.unlink()
    # Beside what came back may lie objects that are no images, such as a segmentation of ours.
    if not became or _holds_a_case(home, group):
        intake = _take_rest_in(home, store, group, actor)
        became["new case"] = intake.new
        became["contour added"] = intake.contoured
        became["held already"] = intake.unchanged
    return ", ".join(
        f"{len(ids)} {what}{_named(ids, group.name)}" for what, ids in became.items() if ids
    )


def _named(case_ids: Sequence[str], known: str) -> str:
    named = sorted(set(case_ids) - {""})
    return f" ({', '.join(named)})" if named and named != [known] else ""


def _take_rest_in(home: SiteHome, store: CaseStore, group: Path, actor: str) -> Intake:
    found = scan(group)
    if found.series or not found.structure_sets:
        return take_in(home, store, group, actor=actor)
    return add_late_references(home, store, found.structure_sets, actor=actor)


def _holds_a_case(home: SiteHome, group: Path) -> bool:
    if not any(group.rglob(INSTANCE)):
        return False
    found = scan(group)
    images = any(series.modality in home.config.modalities for series in found.series)
    return images or bool(found.structure_sets)


def refusal(error: Exception) -> str:
    """Say in one line why a series was refused, whatever went wrong."""
    if isinstance(error, SeveralStructureSetsError):
        return (
            "two structure sets of one series: choose one with --series-uid to fetch, or send the "
            "images with the one to use (where both lie in one series, ingest a folder of the "
            "images and one); both remain where they came from"
        )
    if isinstance(error, DataError):
        return " ".join(str(error).split())
    return f"it cannot be read ({type(error).__name__}): export it again"
