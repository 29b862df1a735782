"""Say what ingesting a folder would find, without storing anything or opening a site.

One row per series: what it is, and whether it reads as one whole volume of one patient or why not.
The rows hold no patient data, so hospital IT can send them to whoever helps. What only a site knows
is not asked: which modalities it takes, and what its regions are called.
"""

from dataclasses import dataclass
from pathlib import Path

from algorithms.contracts.errors import DataError
from site_agent.deidentification import original_identity, refuse_nameless, refuse_unfit
from site_agent.dicom_series import (
    SeriesFiles,
    named_when_damaged,
    read_series_and_headers,
    scan,
)
from site_agent.progress import progress_bar


@dataclass(frozen=True)
class SeriesCheck:
    """What became of reading one series.

    Attributes:
        modality: DICOM modality, such as "MR".
        files: how many.
        shape_zyx: slices, rows, columns; None when it was refused.
        spacing_zyx_mm: of the grid.
        grey_range: lowest and highest grey value.
        refusal: why it does not read; "" when it does.
    """

    modality: str
    files: int
    shape_zyx: tuple[int, int, int] | None = None
    spacing_zyx_mm: tuple[float, float, float] | None = None
    grey_range: tuple[float, float] | None = None
    refusal: str = ""


def check_folder(folder: Path) -> list[SeriesCheck]:
    """Read every image series below a folder, one after the other.

    Raises:
        DataError: the folder holds no DICOM, or a file that is none.
    """
    series = scan(folder).series
    rows = []
    with progress_bar("reading series") as progress:
        for done, one in enumerate(series, start=1):
            rows.append(_check(one))
            progress(done, len(series), -1.0)
    return rows


def _check(series: SeriesFiles) -> SeriesCheck:
    try:
        volume, headers = read_series_and_headers(series.files)
        with named_when_damaged(f"the series of {series.files[0]}"):
            for header in headers:
                refuse_unfit(header)
            refuse_nameless(original_identity(headers).patient_id)
    except DataError as refusal:
        return SeriesCheck(series.modality, len(series.files), refusal=str(refusal))
    return SeriesCheck(
        series.modality,
        len(series.files),
        volume.geometry.shape_zyx,
        volume.geometry.spacing_zyx_mm,
        (float(volume.image.min()), float(volume.image.max())),
    )
