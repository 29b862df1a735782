"""The export gate: what would be sent to the PACS is read again and checked before it is.

`check_export` looks at the very bytes. It returns nothing, or raises `ExportRefused`, a `DataError`
whose `rule` says in one word what is wrong. The rules are in `export_rules`; each kind of object
has a reader of its own here, which shares no code with what wrote it.
"""

from io import BytesIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage, SegmentationStorage

from algorithms.contracts.errors import DataError
from site_agent.dicom_elements import without_remarks
from site_agent.export_gate_rtstruct import check_structure_set
from site_agent.export_gate_seg import check_segmentation
from site_agent.export_rules import Expected, Rule, check_identity, check_values, refuse, text


def check_export(content: bytes, expected: Expected) -> None:
    """Refuse an object that may not be sent.

    Args:
        content: the file, byte by byte as it would be sent.
        expected: what it must hold, about whom, and who signed it.

    Raises:
        ExportRefused: it breaks a rule, or holds something else than was meant.
    """
    with without_remarks():
        try:
            _check(content, expected)
        except DataError:
            raise
        except Exception:
            # pydicom decodes, and breaks, where a value is used, and raises whatever that leads to
            refuse(Rule.UNREADABLE, "it is damaged or no complete DICOM")


def _check(content: bytes, expected: Expected) -> None:
    dataset: Dataset = pydicom.dcmread(BytesIO(content))
    check_values(dataset)
    checks = {
        str(RTStructureSetStorage): check_structure_set,
        str(SegmentationStorage): check_segmentation,
    }
    kind = text(dataset, "SOPClassUID")
    if kind not in checks or text(dataset.file_meta, "MediaStorageSOPClassUID") != kind:
        refuse(Rule.WRONG_KIND, "it is neither an RTSTRUCT nor a SEG")
    check_identity(dataset, expected)
    checks[kind](dataset, expected)
