"""What keeps a site from working, found before the first connection, each with what helps.

Nothing here changes a thing or calls anybody but the PACS and the coordinator of the configuration.
"""

import contextlib
import errno
import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from sqlalchemy import URL
from sqlalchemy.orm import Session

from algorithms.contracts.errors import DataError
from algorithms.contracts.health import Check, CheckState, Concern, run_check
from algorithms.contracts.site_report import small_group_concern
from site_agent import audit_log
from site_agent.config import SiteHome, open_home
from site_agent.coordinator_check import check_connection, check_keys
from site_agent.database import open_database, place, transaction
from site_agent.site_lock import is_listening

PROBE_BYTES = 1 << 20
LOW_SPACE_BYTES = 5 << 30  # a round keeps a few weights and checkpoints
Examination = Callable[[], str]


def examine_site(folder: Path) -> Iterator[Check]:
    """Look at everything that a site needs, one check after the other.

    Without a readable configuration there is nothing else to look at.
    """
    configuration = run_check("configuration", lambda: _configuration(folder))
    yield configuration
    if configuration.state is CheckState.FAILED:
        return
    home = open_home(folder)
    for name, examine in _examinations(home):
        yield run_check(name, examine)


def examine_readiness(home: SiteHome) -> Iterator[Check]:
    """Look at what a site cannot work without and is quickly looked at: for monitoring."""
    for name, examine in (("secrets", _secrets), ("disk", _disk), ("database", _database)):
        yield run_check(name, partial(examine, home))


def _examinations(home: SiteHome) -> Iterator[tuple[str, Examination]]:
    yield "secrets", partial(_secrets, home)
    yield "disk", partial(_disk, home)
    yield "database", partial(_database, home)
    yield "records", partial(_records, home)
    yield "packages", partial(_packages, home)
    yield "gpu", partial(_gpu, home)
    if home.config.pacs is not None:
        yield "pacs", partial(_pacs, home)
    yield "ports", partial(_ports, home)
    yield "keys", partial(check_keys, home)
    yield "coordinator", partial(check_connection, home)


def _configuration(folder: Path) -> str:
    config = open_home(folder).config
    site = f"site {config.name} of study {config.study}"
    concerns = []
    if config.auto_approve:
        concerns.append(
            "which approves by itself what should be approved by a person: remove auto_approve "
            "from site.toml"
        )
    if few := small_group_concern(config.minimum_group_size):
        concerns.append(f"{few} in site.toml")
    return Concern(f"{site}, {'; '.join(concerns)}") if concerns else site


def _secrets(home: SiteHome) -> str:
    for name in ("pseudonym.key", "crosswalk.key"):
        home.secret(name)
        file = home.folder / "secrets" / name
        others = stat.S_IMODE(file.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO)
        if others:
            raise DataError(f"{file}: other users of this machine can read it: run chmod 600")
    return "there, and readable by this user alone"


def _disk(home: SiteHome) -> str:
    """Write a little and see whether it arrives: free space alone does not tell of quotas."""
    probe = home.folder / f".doctor-{os.getpid()}"
    try:
        with probe.open("wb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(f"{home.folder}: the disk is full: make room on it") from None
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise DataError(
                f"{home.folder}: this user cannot write there: mount the disk for writing and give "
                "the folder to the user that runs fedgtv"
            ) from None
        raise
    finally:
        with contextlib.suppress(OSError):  # what kept it from being made
            probe.unlink()
    free_bytes = shutil.disk_usage(home.folder).free
    listener = home.config.listener
    least_bytes = max(LOW_SPACE_BYTES, 0 if listener is None else listener.keep_free_mb << 20)
    said = f"{free_bytes / 2**30:.1f} GiB free"
    if free_bytes < least_bytes:
        return Concern(f"{said}, less than {least_bytes / 2**30:.1f} GiB: make room")
    return said


def _database(home: SiteHome) -> str:
    location = home.database_url
    where = place(location)
    engine = open_database(location) if _may_write(location) else None
    if engine is None:
        raise DataError(
            f"{where}: this user can only read the database: give the file and its folder to the "
            "user that runs fedgtv, on a disk that is mounted for writing"
        )
    try:
        with transaction(engine) as session:
            # A writer's lock, and a page that is written: what the first real work would need.
            session.connection().exec_driver_sql("CREATE TABLE doctor_probe (id INTEGER)")
            session.connection().exec_driver_sql("DROP TABLE doctor_probe")
    finally:
        engine.dispose()
    return where


def _may_write(location: URL) -> bool:
    """Say whether SQLite can write its file and, beside it, its journal."""
    file = Path(location.database or "")
    if location.get_backend_name() != "sqlite" or not file.exists():
        return True
    return os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)


def _records(home: SiteHome) -> str:
    from site_agent import egress

    engine = open_database(home.database_url)
    try:
        with Session(engine) as session:
            audited = audit_log.verify(session)
        released = egress.verify_ledger(home, engine)
    finally:
        engine.dispose()
    return f"audit log of {audited} and ledger of {released} entries are whole"


def _packages(home: SiteHome) -> str:
    from site_agent.package_store import active_package, packages_held, verify_stored

    engine = open_database(home.database_url)
    try:
        held, active = packages_held(engine), active_package(engine)
    finally:
        engine.dispose()
    for package in held:
        verify_stored(home, package.package_id)
    if not held:
        return "none yet: the coordinator sends one"
    if active is None:
        return Concern(
            f"{len(held)} verified, none approved: run 'fedgtv-site package approve' after reading"
        )
    return f"{len(held)} verified, {active.package_id[:12]} approved"


def _gpu(home: SiteHome) -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    threads = home.config.threads or len(os.sched_getaffinity(0))
    if home.config.require_gpu:
        raise DataError(
            "site.toml: key 'require_gpu': no GPU that CUDA can use: install its driver and the "
            f"CUDA build of torch, or set the key to false to train on {threads} CPU threads"
        )
    return f"none: training takes {threads} CPU threads"


def _pacs(home: SiteHome) -> str:
    from site_agent.dicom_elements import without_remarks
    from site_agent.pacs import open_pacs

    with without_remarks():
        pacs = open_pacs(home)
        pacs.echo()
    return f"{pacs.name} answers"


def _ports(home: SiteHome) -> str:
    """See that what will be opened can be; the port of a listener that runs is rightly taken."""
    wanted: list[tuple[str, str, int]] = []
    pacs, listener = home.config.pacs, home.config.listener
    if pacs is not None and pacs.protocol == "dimse" and pacs.retrieve != "get":
        wanted.append(("[pacs] receive_port", pacs.receive_host, pacs.receive_port))
    if listener is not None and not is_listening(home):
        wanted.append(("[listener] port", listener.host, listener.port))
    for key, host, port in wanted:
        _open_port(key, host, port)
    return ", ".join(str(port) for _, _, port in wanted) or "none to open"


def _open_port(key: str, host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise DataError(
                    f"site.toml: table {key}: another program uses port {port}: end it, or choose "
                    "another port and tell it to who sends there"
                ) from None
            raise DataError(
                f"site.toml: table {key}: {host}, port {port} cannot be opened "
                f"({error.strerror}): correct host and port"
            ) from None
