"""How far the worker is, as a file in the site's home that the pages read.

It holds step names and numbers, nothing of a patient. A worker that ends well removes it; one that
fails or is killed leaves it, and since the worker's lock is free then, the pages say so.
"""

import json
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from site_agent.config import SiteHome
from site_agent.database import utc_now

INTERVAL_S = 1.0  # between two writes


@dataclass(frozen=True)
class LiveProgress:
    """How far a long step is.

    Attributes:
        what: the step, such as "stage1".
        done, total: in steps; 0 of 0 before the first is done.
        loss: of training; negative where there is none.
        counted_from: `done` when the first one was told: a resumed step does not begin at 0.
        counted_at: then; None before.
        started_at: when the step began, UTC.
        updated_at: when this was written, UTC.
    """

    what: str
    done: int
    total: int
    loss: float
    counted_from: int
    counted_at: datetime | None
    started_at: datetime
    updated_at: datetime

    @property
    def share(self) -> float:
        """Return the part that is done, 0 to 1."""
        return min(max(self.done / self.total, 0.0), 1.0) if self.total > 0 else 0.0

    def remaining_s(self, now: datetime) -> float:
        """Return how long the rest of the step takes at the speed so far; NaN while unknown."""
        if self.counted_at is None or self.done <= self.counted_from:
            return math.nan
        took_s = (self.updated_at - self.counted_at).total_seconds()
        left_s = took_s * (self.total - self.done) / (self.done - self.counted_from)
        return max(0.0, left_s - (now - self.updated_at).total_seconds())


class ProgressWriter:
    """Writes how far one step is, about once a second; never fails what it tells about."""

    def __init__(
        self,
        home: SiteHome,
        what: str,
        *,
        now: Callable[[], datetime] = utc_now,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file, self._now, self._seconds = _file(home), now, seconds
        began = now()
        self._said = LiveProgress(what, 0, 0, -1.0, 0, None, began, began)
        self._written_s = -math.inf
        self._write(self._said)

    def update(self, done: int, total: int, loss: float) -> None:
        """Tell how far it is; a negative loss is none."""
        said, now = self._said, self._now()
        first = said.counted_at is None
        self._said = LiveProgress(
            what=said.what,
            done=done,
            total=total,
            loss=loss if math.isfinite(loss) else -1.0,
            counted_from=done if first else said.counted_from,
            counted_at=now if first else said.counted_at,
            started_at=said.started_at,
            updated_at=now,
        )
        if first or done >= total or self._seconds() - self._written_s >= INTERVAL_S:
            self._write(self._said)

    def _write(self, said: LiveProgress) -> None:
        self._written_s = self._seconds()
        times = {k: v.isoformat() for k, v in asdict(said).items() if isinstance(v, datetime)}
        part = self._file.with_name(self._file.name + ".part")
        with suppress(OSError):  # a full disk stops no training
            part.write_text(json.dumps(asdict(said) | times), "utf-8")
            part.replace(self._file)


def read_progress(home: SiteHome) -> LiveProgress | None:
    """Return what the worker told last; None where there is nothing, or nothing readable."""
    try:
        said = json.loads(_file(home).read_text("utf-8"))
        counted_at = said["counted_at"]
        return LiveProgress(
            what=str(said["what"]),
            done=int(said["done"]),
            total=int(said["total"]),
            loss=float(said["loss"]),
            counted_from=int(said["counted_from"]),
            counted_at=None if counted_at is None else datetime.fromisoformat(counted_at),
            started_at=datetime.fromisoformat(said["started_at"]),
            updated_at=datetime.fromisoformat(said["updated_at"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def clear_progress(home: SiteHome) -> None:
    """Forget what was told: the work is done, or begins anew."""
    with suppress(OSError):
        _file(home).unlink(missing_ok=True)


def _file(home: SiteHome) -> Path:
    return home.folder / "progress.json"
