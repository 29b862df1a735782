"""A study report from files: hospitals' reports on disk, and a key to sign with."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.errors import DataError
from algorithms.contracts.messages import SiteReportMessage
from algorithms.contracts.site_report import SiteReport
from evaluation.aggregate_report import aggregate
from evaluation.report_pdf import PDF_FILE, render_pdf
from evaluation.report_rendering import report_files, write_report
from evaluation.report_seal import ReportSigner
from evaluation.study_record import StudyRecord, read_lineage

_MOST_BYTES = 5_000_000  # a report is some ten kilobytes


def read_site_reports(paths: Sequence[Path]) -> list[SiteReport]:
    """Read hospitals' reports: files, or every `*.json` of a folder.

    A file holds a report, or the message in which it left the hospital.

    Raises:
        DataError: naming the file, without a word of its content.
    """
    files: list[Path] = []
    for path in paths:
        found = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not found:
            raise DataError(f"{path}: no *.json in it: give hospitals' reports")
        files += found
    return [_read(file) for file in files]


def write_study_report(
    summaries: Sequence[Path],
    output: Path,
    *,
    title: str | None = None,
    expected_sites: Iterable[str] = (),
    packages: Sequence[Path] = (),
    key: Path | None = None,
    pdf: bool = False,
) -> list[Path]:
    """Make a study's report from hospitals' reports; the same files give the same bytes.

    Nothing is taken from the clock: the page names the reports by their hash instead of a date.

    Args:
        summaries: see `read_site_reports`.
        output: folder for the report.
        title: heading; None takes the study's name.
        expected_sites: those that did not report are named.
        packages: folders of the tested packages, for the model lineage.
        key: file of an Ed25519 key, as a coordinator's home has one; None leaves it unsigned.
        pdf: print it, too.

    Returns:
        The files that were written.

    Raises:
        DataError: for a file that cannot be read.
        ProtocolError: for reports that do not go together.
    """
    reports = read_site_reports(summaries)
    lineage = sorted(map(read_lineage, packages), key=lambda one: one.package_id)
    signer = None if key is None else read_signer(key)
    study = aggregate(
        reports, expected_sites=expected_sites, record=StudyRecord(lineage=tuple(lineage))
    )
    unknown = sorted({o.package_id for o in lineage} - {p.package_id for p in study.packages})
    if unknown:
        raise DataError(f"package {unknown[0][:12]}: no report is about it: give the tested one")
    contents = report_files(
        study, title=title or f"Study {study.study}", generated_at=made_from(reports)
    )
    printed = render_pdf(contents["study.html"].decode("utf-8")) if pdf else None
    written = write_report(
        output, contents, seal=None if signer is None else signer.seal(study.study)
    )
    if printed is not None:
        (output / PDF_FILE).write_bytes(printed)
        written.append(output / PDF_FILE)
    return written


def made_from(reports: Iterable[SiteReport]) -> str:
    """Say from which reports a page was made, in place of when."""
    bodies = sorted({canonical_json(report.model_dump(mode="json")) for report in reports})
    digest = sha256_hex(b"".join(bodies))[:16]
    return f"made from {len(bodies)} hospital report{'' if len(bodies) == 1 else 's'} ({digest})"


def read_signer(key: Path) -> ReportSigner:
    """Read a signing key: 64 hexadecimal digits.

    Raises:
        DataError: when it is not there, or none.
    """
    try:
        return ReportSigner(
            Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key.read_text("ascii").strip()))
        )
    except OSError:
        raise DataError(f"{key}: cannot be read: give the study's signing key") from None
    except ValueError:
        raise DataError(f"{key}: not a signing key: 64 hexadecimal digits") from None


def _read(file: Path) -> SiteReport:
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise DataError(f"{file}: too large for a hospital's report: give another file")
        body = file.read_bytes()
    except OSError:
        raise DataError(f"{file}: cannot be read: give a hospital's report") from None
    for parse in (_parse_report, _parse_message):
        try:
            return parse(body)
        except ValidationError:
            continue
    raise DataError(f"{file}: not a hospital's report of this version: give another file")


def _parse_report(body: bytes) -> SiteReport:
    return SiteReport.model_validate_json(body)


def _parse_message(body: bytes) -> SiteReport:
    return SiteReportMessage.model_validate_json(body).report
