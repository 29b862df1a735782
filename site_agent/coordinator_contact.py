"""When the coordinator asked this site last: the connection as it is, not as it was set up."""

from datetime import UTC, datetime
from pathlib import Path

from algorithms.contracts.errors import DataError
from site_agent.config import SiteHome
from site_agent.site_keys import read_enrolment

SILENCE_LIMIT_S = 3600.0


def note_asked(home: SiteHome) -> None:
    """Keep that a message of the coordinator's was answered just now."""
    file = _file(home)
    file.parent.mkdir(mode=0o700, exist_ok=True)
    file.touch()


def last_asked_at(home: SiteHome) -> datetime | None:
    """Return when a message was answered last, UTC with its zone; None when none ever was."""
    try:
        return datetime.fromtimestamp(_file(home).stat().st_mtime, UTC)
    except FileNotFoundError:
        return None


def examine_contact(home: SiteHome) -> str:
    """Say when the coordinator asked last; one not enrolled, or air-gapped, is never asked.

    Raises:
        DataError: it has not asked for `SILENCE_LIMIT_S`, or never.
    """
    if home.config.air_gapped:
        return "air-gapped: people carry bundles"
    if read_enrolment(home) is None:
        return "not enrolled: works without a connection"
    asked = last_asked_at(home)
    advice = "run 'fedgtv-site doctor', see logs/supernode.log, and call the coordinator"
    if asked is None:
        raise DataError(f"never asked yet: unless 'serve' has just begun, {advice}")
    silent_s = (datetime.now(UTC) - asked).total_seconds()
    if silent_s > SILENCE_LIMIT_S:
        raise DataError(f"has not asked for {silent_s / 60:.0f} minutes: {advice}")
    return f"asked {max(silent_s, 0):.0f} s ago"


def _file(home: SiteHome) -> Path:
    return home.folder / "run" / "asked"
