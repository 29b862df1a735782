"""The hospital's PACS behind one small interface: echo, find, fetch, send.

Whether it is reached by DIMSE or by DICOMweb, commands and workers see `Pacs`. What is found is
about patients: it is shown to the person who asked, and is never logged; its classes say nothing
when printed by accident.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from algorithms.contracts.errors import DataError
from site_agent.case_store import CaseStore
from site_agent.config import SiteHome
from site_agent.dicom_elements import without_remarks
from site_agent.site_lock import SiteBusyError, only_fetch
from site_agent.spool import Spool, delete
from site_agent.spooled_series import (
    STRUCTURE_SET,
    belonging_together,
    read_spooled,
    refusal,
    take_in_group,
)

FIND_LIMIT = 500  # studies or series; more are no answer to a person's question
_LISTINGS = 3  # how often a list that changes is followed, before a person is told
Receive = Callable[[bytes], None]


class RefusedError(DataError):
    """The PACS answered and would not do it this way; another way may succeed."""


@dataclass(frozen=True, repr=False)
class StudyQuery:
    """Which studies to find; "" means any, and ``*`` and ``?`` are wildcards where DICOM has them.

    Attributes:
        study_date: YYYYMMDD, or a range such as 20240101-20240630.
    """

    patient_id: str = ""
    accession_number: str = ""
    study_date: str = ""
    modality: str = ""
    study_uid: str = ""


@dataclass(frozen=True, repr=False)
class StudyFound:
    """A study as the PACS describes it."""

    study_uid: str
    patient_id: str
    patient_name: str
    study_date: str
    description: str
    modalities: str

    @classmethod
    def read(cls, value: Callable[[str], str]) -> Self:
        """Read an answer, whose values `value` returns by keyword."""
        return cls(
            study_uid=value("StudyInstanceUID"),
            patient_id=value("PatientID"),
            patient_name=value("PatientName"),
            study_date=value("StudyDate"),
            description=value("StudyDescription"),
            modalities=value("ModalitiesInStudy"),
        )


@dataclass(frozen=True, repr=False)
class SeriesFound:
    """A series as the PACS describes it; `images` is "" where it does not count them."""

    study_uid: str
    series_uid: str
    modality: str
    description: str
    body_part: str
    images: str

    @classmethod
    def read(cls, study_uid: str, value: Callable[[str], str]) -> Self:
        """Read an answer about a study, whose values `value` returns by keyword."""
        return cls(
            study_uid=study_uid,
            series_uid=value("SeriesInstanceUID"),
            modality=value("Modality"),
            description=value("SeriesDescription"),
            body_part=value("BodyPartExamined"),
            images=value("NumberOfSeriesRelatedInstances"),
        )


def checked_uid(text: str) -> str:
    """Return a UID as it is given; nothing and wildcards would match every patient of a PACS.

    Raises:
        DataError: it is none.
    """
    if not re.fullmatch(r"[0-9.]{1,64}", text):
        raise DataError("that is no UID: copy it from what 'fedgtv-site pacs find' shows")
    return text


class Pacs(Protocol):
    """What a PACS is asked for. Every method raises `DataError` in one line without patient data.

    Attributes:
        name: what messages call it.
        ways: the ways to retrieve, in the order in which to try them.
    """

    name: str
    ways: tuple[str, ...]

    def echo(self) -> None:
        """Check that the PACS answers and lets us in."""

    def find_studies(self, query: StudyQuery) -> list[StudyFound]:
        """Find studies, at most `FIND_LIMIT`."""

    def find_series(self, study_uid: str) -> list[SeriesFound]:
        """Find the series of a study."""

    def find_instances(self, series: SeriesFound) -> frozenset[str]:
        """List the SOP instance UIDs of a series."""

    def retrieve(
        self, way: str, series: SeriesFound, instances: Sequence[str] | None, receive: Receive
    ) -> None:
        """Hand the instances of a series, or all with None, to `receive` as DICOM files.

        Raises:
            RefusedError: not this way.
        """

    def send(self, files: Sequence[Path]) -> None:
        """Store DICOM files in the PACS; all of them were stored when it returns."""


def open_pacs(home: SiteHome) -> Pacs:
    """Make the way to the PACS that the table `[pacs]` describes; nothing is sent yet.

    Raises:
        DataError: there is no such table, or a file it names is missing.
    """
    from site_agent.dicomweb import DicomWebPacs
    from site_agent.dimse import DimsePacs

    config = home.config.pacs
    if config is None:
        raise DataError(
            f"{home.folder}: no table [pacs] in site.toml: write one with ae_title, host and port, "
            "or with protocol and url for DICOMweb"
        )
    kind = DimsePacs if config.protocol == "dimse" else DicomWebPacs
    return kind(config, home.folder)


def fetch_series(pacs: Pacs, spool: Spool, series: SeriesFound) -> int:
    """Bring a series into the spool whole and return its number of instances.

    What arrived earlier is not asked for again, and what the PACS no longer lists is deleted. The
    PACS may itself still be receiving the series, so it is whole when the list did not change.

    Raises:
        DataError: not all came; what did stays in the spool, and the same call goes on.
        OSError: our disk is full.
    """
    name = spool.series_name(series.series_uid)
    wanted = _listed(pacs, spool, series)
    for _ in range(_LISTINGS):
        for stale in spool.arrived(name) - wanted.keys():
            (spool.incoming / name / stale).unlink()
        _fetch_missing(pacs, spool, series, wanted)
        listed = _listed(pacs, spool, series)
        if listed == wanted:
            return len(wanted)
        wanted = listed
    raise DataError(f"{name} still changes in {pacs.name}: fetch it when the study is complete")


def _listed(pacs: Pacs, spool: Spool, series: SeriesFound) -> dict[str, str]:
    """Map the names of a series' files in the spool to the UIDs that the PACS lists."""
    wanted = {spool.instance_name(uid): uid for uid in pacs.find_instances(series)}
    if not wanted:
        name = spool.series_name(series.series_uid)
        raise DataError(f"{pacs.name} lists no instance of {name}: find it again")
    return wanted


def _fetch_missing(pacs: Pacs, spool: Spool, series: SeriesFound, wanted: dict[str, str]) -> None:
    """Ask for what is missing, one way after the other."""
    name = spool.series_name(series.series_uid)
    no_room: list[OSError] = []

    def receive(content: bytes) -> None:
        try:
            spool.keep(content, only=wanted)
        except OSError as error:
            no_room.append(error)
            raise

    reason = "it did not send them"
    for way in pacs.ways:
        missing = wanted.keys() - spool.arrived(name)
        if not missing:
            return
        part = None if len(missing) == len(wanted) else sorted(wanted[one] for one in missing)
        try:
            pacs.retrieve(way, series, part, receive)
        except RefusedError as error:
            reason = str(error)
        if no_room:
            raise no_room[0]
    came = len(spool.arrived(name))
    if came < len(wanted):
        raise DataError(
            f"{name}: {came} of {len(wanted)} instances came from {pacs.name} ({reason}): "
            "run the same command to go on"
        )


def fetch(
    home: SiteHome,
    store: CaseStore,
    pacs: Pacs,
    series: Iterable[SeriesFound],
    *,
    actor: str,
    say: Callable[[str], None],
) -> None:
    """Fetch series whole, and only then make cases of them.

    `say` is told in one line what became of each; no line names a patient.

    Raises:
        DataError: a transfer broke off (run again to go on), or series were refused.
    """
    fetched = list(series)
    with without_remarks(), only_fetch(home):
        spool = Spool(home.spool / "fetched", home.secret("pseudonym.key"))
        spool.restore()
        for one in fetched:
            count = fetch_series(pacs, spool, one)
            kind = " (structure set)" if one.modality == STRUCTURE_SET else ""
            say(f"{spool.series_name(one.series_uid)}{kind}: {count} instances from {pacs.name}")
        folders = [spool.incoming / spool.series_name(one.series_uid) for one in fetched]
        refused = 0
        for group in belonging_together([read_spooled(folder) for folder in folders]):
            together = spool.gather(one.folder for one in group)
            try:
                say(f"{together.name}: {take_in_group(home, store, together, actor=actor)}")
            except SiteBusyError:
                spool.put_back(together)
                raise
            except DataError as error:  # the PACS has it still: no copy need lie here
                refused += 1
                say(f"{together.name}: refused: {refusal(error)}")
            delete(together)
    if refused:
        raise DataError(f"{refused} of the fetched series were refused: see the lines above")
