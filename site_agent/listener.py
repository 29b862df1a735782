"""The listener: others send series, and those that a rule takes become cases.

Whole series only. A series is whole when every association that sent some of it was released and
nothing more came for a while. One whose sender broke off waits for a later association that sends
some of it and is released. All that is known lies in the spool, so that after a restart it goes on
from there.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from weakref import WeakKeyDictionary

from sqlalchemy.exc import SQLAlchemyError

from algorithms.contracts.errors import DataError, failure_line
from site_agent.case_store import CaseStore
from site_agent.config import SiteHome
from site_agent.dicom_elements import without_remarks
from site_agent.network_config import ListenerConfig
from site_agent.network_tls import server_context
from site_agent.site_lock import SiteBusyError, spool_alone
from site_agent.spool import Spool, delete, newest_time
from site_agent.spooled_series import (
    SpooledSeries,
    belonging_together,
    fits,
    read_spooled,
    refusal,
    take_in_group,
)
from site_agent.store_scp import StoreScp

ACTOR = "fedgtv-site listen"
_HOUR_S = 3600.0
_LONGEST_PAUSE_S = 5.0
_ROOM = "room"
_OPEN, _BROKEN = ".open-", ".broken-"  # markers in a series' folder; hidden, so no image to `scan`


@dataclass
class _Sender:
    """An association that sends: when it began, where to, and whether there was no room once."""

    began_ns: int = field(default_factory=time.time_ns)
    folders: set[Path] = field(default_factory=set)
    was_refused: bool = False


class Listener:
    """Receives while it is entered; `sweep` takes in what is whole.

    Args:
        say: is told in one line what happened; no line names a patient.

    Raises:
        DataError: the configuration has no table `[listener]`.
    """

    def __init__(self, home: SiteHome, store: CaseStore, say: Callable[[str], None]) -> None:
        if home.config.listener is None:
            raise DataError(
                f"{home.folder}: no table [listener] in site.toml: write one with ae_title, peers "
                "and rules"
            )
        self._home, self._store, self._say = home, store, say
        self._config: ListenerConfig = home.config.listener
        self.name = f"{self._config.ae_title} at {self._config.host}, port {self._config.port}"
        self._said: dict[str, str] = {}  # the last line about each thing that waits
        self._lock = threading.Lock()  # of the spool, between associations and `sweep`
        self._senders: WeakKeyDictionary[object, _Sender] = WeakKeyDictionary()
        self.spool = Spool(
            home.spool / "listener",
            home.secret("pseudonym.key"),
            keep_free_bytes=self._config.keep_free_mb * 2**20,
        )
        tls = self._config.tls
        self._scp = StoreScp(
            self,
            ae_title=self._config.ae_title,
            host=self._config.host,
            port=self._config.port,
            peers=self._config.peers,
            tls=None if tls is None else server_context(tls, home.folder),
            refused=say,
        )

    def __enter__(self) -> Self:
        """Open the port, and find what an earlier listener left in the spool.

        Raises:
            DataError: the port cannot be opened.
        """
        with spool_alone(self._home), self._lock:
            try:
                self._scp.__enter__()
            except OSError as error:
                raise DataError(
                    f"port {self._config.port} of {self._config.host} cannot be opened "
                    f"({error.strerror}): is another listener running? Correct host and port in "
                    "the table [listener]"
                ) from None
            self.spool.restore()
            for marker in self.spool.incoming.glob(f"*/{_OPEN}*"):
                _break_off(marker)
        return self

    def __exit__(self, *_: object) -> None:
        """Close the port; what is in the spool stays there."""
        self._scp.__exit__()

    def serve(self, stop: threading.Event) -> None:
        """Take in what comes until `stop` is set."""
        pause_s = min(_LONGEST_PAUSE_S, self._config.quiet_s / 4)
        with without_remarks():
            while not stop.is_set():
                with self._told("spool"):
                    self.sweep(time.time())
                stop.wait(pause_s)

    # -- from the threads of the associations -----------------------------------------------------

    def received(self, association: object, content: bytes) -> None:
        """Keep one file, and mark its series as being sent."""
        with self._lock:
            sender = self._senders.setdefault(association, _Sender())
            try:
                folder = self.spool.keep(content)
            except OSError as error:
                sender.was_refused = True
                self._say_once(
                    _ROOM,
                    f"no room: what is sent is refused ({error.strerror or 'failed'}): free disk "
                    f"space (keep_free_mb is {self._config.keep_free_mb})",
                )
                raise
            if folder not in sender.folders:
                (folder / f"{_OPEN}{sender.began_ns}").touch(0o600)
                sender.folders.add(folder)

    def released(self, association: object) -> None:
        """Unmark what the association sent, and what broke off before it began.

        Of one that found no room only a part is here: what it sent is as if it broke off.
        """
        with self._lock:
            sender = self._senders.pop(association, _Sender())
            if sender.was_refused:
                for folder in sender.folders:
                    _break_off(folder / f"{_OPEN}{sender.began_ns}")
                return
            if sender.folders:
                self._said.pop(_ROOM, None)
            for folder in sender.folders:
                for kind in (_OPEN, _BROKEN):
                    (folder / f"{kind}{sender.began_ns}").unlink(missing_ok=True)
                for marker in folder.glob(f"{_BROKEN}*"):
                    if marker.stat().st_mtime_ns < sender.began_ns:
                        marker.unlink()

    def broken(self, association: object) -> None:
        """Mark what the association sent as broken off, unless it was released."""
        with self._lock:
            sender = self._senders.get(association, _Sender())
            for folder in sender.folders:
                _break_off(folder / f"{_OPEN}{sender.began_ns}")

    # -- from the thread that serves ------------------------------------------------------------

    def sweep(self, now_s: float) -> None:
        """Take in the series that are whole at `now_s`, and delete what has lain for too long.

        A series that fails stops no other, and an erasure waits until this is done.
        """
        with spool_alone(self._home):
            with self._lock:
                whole = self._set_whole_apart(now_s)
            for group in whole:
                with self._told(group.name):
                    self._take_in(group)
            with self._lock, self._told("refused"):
                for note in self.spool.refused.glob("*.txt"):
                    if now_s - note.stat().st_mtime > self._config.delete_refused_after_h * _HOUR_S:
                        self.spool.forget_refusal(note.stem)
                        self._say(f"{note.stem}: was refused long ago: deleted")
                self._forget_what_is_gone()

    def _set_whole_apart(self, now_s: float) -> list[Path]:
        described = []
        for folder in self.spool.series():
            with self._told(folder.name):
                try:
                    described.append(read_spooled(folder))
                except DataError as error:
                    if self._is_quiet(newest_time(folder), now_s):
                        self._refuse(self.spool.gather([folder]), error)
        whole = []
        for group in belonging_together(described):
            with self._told(group[0].folder.name):
                if self._is_ready(group, now_s):
                    whole.append(self.spool.gather(one.folder for one in group))
        return whole

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Tell of a file or disk that fails, and go on: it is tried again."""
        try:
            yield
        except OSError as error:
            self._say_once(what, f"{what}: waits: {failure_line(error)}")

    def _is_ready(self, group: list[SpooledSeries], now_s: float) -> bool:
        """Say whether a group is whole and wanted; delete or refuse it after the stated time."""
        newest_s = max(one.newest_s for one in group)
        folders = [one.folder for one in group]
        if not self._is_quiet(newest_s, now_s) or _marked(folders, _OPEN):
            return False
        hours = self._config.delete_unmatched_after_h
        long_ago = now_s - newest_s > hours * _HOUR_S
        if not any(fits(rule, one) for rule in self._config.rules for one in group):
            for folder in folders:
                if long_ago:
                    delete(folder)
                    self._say(f"{folder.name}: no rule takes it: deleted")
                else:
                    self._waits(folder, f"no rule takes it; deleted {hours:g} h after it came")
            return False
        if not _marked(folders, _BROKEN):
            return True
        if long_ago:
            self._refuse(
                self.spool.gather(folders),
                DataError("its sender broke off and did not come back: send it again"),
            )
        else:
            self._waits(
                folders[0],
                "its sender broke off, or found no room; moved aside "
                f"{hours:g} h after it came, unless it is sent again",
            )
        return False

    def _is_quiet(self, newest_s: float, now_s: float) -> bool:
        # By amount: after a clock was set back, a series must not wait until it catches up.
        return abs(now_s - newest_s) >= self._config.quiet_s

    def _take_in(self, group: Path) -> None:
        images = sum(1 for _ in group.glob("*/*.dcm"))
        try:
            outcome = take_in_group(self._home, self._store, group, actor=ACTOR)
        except (SiteBusyError, OSError, SQLAlchemyError) as error:
            self._say_once(group.name, f"{group.name}: waits: {failure_line(error)}")
            with self._lock:  # no fault of the images: later
                self.spool.put_back(group)
        except Exception as error:  # an edge: whatever was sent must not end the listener
            with self._lock:
                self._refuse(group, error)
        else:
            delete(group)
            self._say(f"{group.name}: {images} objects: {outcome}")

    def _refuse(self, group: Path, error: Exception) -> None:
        reason = refusal(error)
        self.spool.refuse(group, reason)
        self._say(f"{group.name}: refused: {reason}")

    def _waits(self, folder: Path, why: str) -> None:
        self._say_once(folder.name, f"{folder.name}: waits: {why}")

    def _say_once(self, about: str, line: str) -> None:
        """Say nothing again that was said last about it: what waits is tried every few seconds."""
        if self._said.get(about) != line:
            self._say(line)
        self._said[about] = line

    def _forget_what_is_gone(self) -> None:
        """Of a series that comes again, everything is said again."""
        for name in [name for name in self._said if name.startswith("case-")]:
            if not (self.spool.incoming / name).is_dir():
                del self._said[name]


def _marked(folders: list[Path], kind: str) -> bool:
    return any(True for folder in folders for _ in folder.glob(f"{kind}*"))


def _break_off(open_marker: Path) -> None:
    """Turn the marker of a transfer under way into that of one that broke off now."""
    if open_marker.exists():
        broken = open_marker.with_name(open_marker.name.replace(_OPEN, _BROKEN))
        open_marker.replace(broken)
        os.utime(broken)
