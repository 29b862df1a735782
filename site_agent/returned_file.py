"""What a structure set from a planning system says about itself: read once, before any matching."""

from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage

from algorithms.contracts.errors import DataError
from site_agent.dicom_elements import without_remarks
from site_agent.dicom_series import named_when_damaged


@dataclass(frozen=True)
class NamedRegion:
    """A region of a structure set.

    Attributes:
        name: as `rtstruct.read_rtstruct` calls it.
        frames: the coordinate systems it may be in: its own where it states one, else all listed.
        kind: RTROIInterpretedType, such as "GTV" or "PTV"; "" where it states none.
    """

    name: str
    frames: frozenset[str]
    kind: str


@dataclass(frozen=True)
class ReturnedFile:
    """A structure set that came back.

    Attributes:
        saved_on: day on which it says that it was saved, local time; None where it does not.
        references: every series and image that it names, wherever it names them.
        approved: it says that somebody approved it.
    """

    file: Path
    patient_id: str
    birth_date: str
    sop_instance_uid: str
    saved_on: date | None
    references: frozenset[str]
    regions: tuple[NamedRegion, ...]
    approved: bool

    def __repr__(self) -> str:
        """Say nothing about the patient, so that a stray log line cannot either."""
        return f"ReturnedFile(<sealed>, {len(self.regions)} regions)"


def read_returned_file(file: Path) -> ReturnedFile:
    """Read who and what a structure set is about.

    Raises:
        DataError: it is no whole RTSTRUCT, or says of no patient.
    """
    with named_when_damaged(file), without_remarks():
        dataset = pydicom.dcmread(file)
        if dataset.get("SOPClassUID") != RTStructureSetStorage:
            raise DataError(f"{file}: not an RTSTRUCT: give the structure set that was edited")
        patient_id = _text(dataset, "PatientID")
        if not patient_id:
            raise DataError(f"{file}: has no PatientID: export it again with the patient's")
        return ReturnedFile(
            file=file,
            patient_id=patient_id,
            birth_date=_text(dataset, "PatientBirthDate"),
            sop_instance_uid=_text(dataset, "SOPInstanceUID"),
            saved_on=_day(_text(dataset, "StructureSetDate")),
            references=_references(dataset),
            regions=_regions(dataset),
            approved=_text(dataset, "ApprovalStatus") == "APPROVED",
        )


def _day(text: str) -> date | None:
    """Read a DA value.

    >>> _day("20261126"), _day(""), _day("2026")
    (datetime.date(2026, 11, 26), None, None)
    """
    try:
        return datetime.strptime(text, "%Y%m%d").date()
    except ValueError:
        return None


def _references(dataset: Dataset) -> frozenset[str]:
    found: set[str] = set()

    def collect(_parent: Dataset, element: DataElement) -> None:
        if element.keyword in ("SeriesInstanceUID", "ReferencedSOPInstanceUID"):
            found.add(str(element.value))

    dataset.walk(collect)
    return frozenset(found)


def _regions(dataset: Dataset) -> tuple[NamedRegion, ...]:
    kinds = {
        _text(item, "ReferencedROINumber"): _text(item, "RTROIInterpretedType")
        for item in _items(dataset, "RTROIObservationsSequence")
    }
    listed = {
        _text(item, "FrameOfReferenceUID")
        for item in _items(dataset, "ReferencedFrameOfReferenceSequence")
    }
    regions = []
    for roi in _items(dataset, "StructureSetROISequence"):
        number = _text(roi, "ROINumber")
        own = _text(roi, "ReferencedFrameOfReferenceUID")
        name = _text(roi, "ROIName") or f"ROI_{number}"
        frames = frozenset({own} if own else listed) - {""}
        regions.append(NamedRegion(name, frames, kinds.get(number, "")))
    return tuple(regions)


def _text(item: Dataset, keyword: str) -> str:
    value = item.get(keyword, "")
    return "" if value is None else str(value).strip()


def _items(item: Dataset, keyword: str) -> list[Dataset]:
    return list(item.get(keyword, None) or ())
