"""What keeps a coordinator from working, found before the first site connects."""

import shutil
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.enrolment import WARN_BELOW_DAYS, days_left
from algorithms.contracts.errors import DataError
from algorithms.contracts.health import Check, CheckState, Concern, run_check
from algorithms.contracts.model_package import MANIFEST_FILE, SIGNATURE_FILE, Manifest, Signature
from coordinator.config import CoordinatorHome, open_home
from coordinator.package_publisher import public_key_hex
from coordinator.record_check import check_records, is_signed
from coordinator.study_keys import WHAT_ENDS, not_valid_after
from coordinator.study_store import SCHEMA, StudyStore

LOW_SPACE_BYTES = 5 << 30


def examine_coordinator(folder: Path) -> Iterator[Check]:
    """Look at everything that a coordinator needs, one check after the other.

    Without a readable configuration there is nothing else to look at.
    """
    configuration = run_check("configuration", lambda: _configuration(folder))
    yield configuration
    if configuration.state is CheckState.FAILED:
        return
    home = open_home(folder)
    yield from examine_readiness(home)
    yield run_check("records", partial(_records, home))
    yield run_check("packages", partial(_packages, home))


def examine_readiness(home: CoordinatorHome) -> Iterator[Check]:
    """Look at what a coordinator cannot work without and is quickly looked at: for monitoring."""
    for name, examine in (
        ("signing-key", _signing_key),
        ("certificate", _certificate),
        ("disk", _disk),
        ("database", _database),
    ):
        yield run_check(name, partial(examine, home))


def _configuration(folder: Path) -> str:
    config = open_home(folder).config
    return f"study {config.study} of {len(config.sites)} sites"


def _signing_key(home: CoordinatorHome) -> str:
    others = stat.S_IRWXG | stat.S_IRWXO
    if home.signing_key.is_file() and stat.S_IMODE(home.signing_key.stat().st_mode) & others:
        raise DataError(
            f"{home.signing_key}: other users of this machine can read it: run chmod 600"
        )
    return f"public key {public_key_hex(home)}"


def _certificate(home: CoordinatorHome) -> str:
    """Look at what every hospital checks when it connects: the proxy's, and the authority's."""
    said = "none yet, and no hospital can connect: run 'fedgtv-coordinator certificate'"
    if not_valid_after(home.tls / "server.crt") is None:
        return Concern(said)
    now = datetime.now(UTC)
    for name, advice in reversed(WHAT_ENDS):
        not_after = not_valid_after(home.tls / name)
        if not_after is None:
            raise DataError(f"{home.tls / name}: missing: restore it from a backup")
        left = days_left(not_after, now)
        if left < 0:
            raise DataError(f"{home.tls / name}: expired: {advice}")
        said = f"valid for {left} days"
        if left < WARN_BELOW_DAYS:
            return Concern(f"{home.tls / name}: {said}: {advice}")
    return said


def _disk(home: CoordinatorHome) -> str:
    free_bytes = shutil.disk_usage(home.folder).free
    said = f"{free_bytes / 2**30:.1f} GiB free"
    if free_bytes < LOW_SPACE_BYTES:
        return Concern(f"{said}, less than {LOW_SPACE_BYTES / 2**30:.1f} GiB: make room")
    return said


def _database(home: CoordinatorHome) -> str:
    with StudyStore(home.database_url, home.config) as store:
        return f"{len(store.sites())} sites, schema {SCHEMA}"


def _records(home: CoordinatorHome) -> str:
    with StudyStore(home.database_url, home.config) as store:
        return f"{check_records(home, store)} are as they were"


def _packages(home: CoordinatorHome) -> str:
    """Read what is or was delivered: a site would refuse a file that was changed."""
    with StudyStore(home.database_url, home.config) as store:
        packages = [row.package_id for row in store.packages()]
    if not packages:
        return "none published yet"
    for package_id in packages:
        _check_package(home, package_id)
    return f"{packages[-1][:12]} is the study's; all {len(packages)} are as they were signed"


def _check_package(home: CoordinatorHome, package_id: str) -> None:
    folder, advice = home.packages / package_id, "restore the folder from a backup"

    def changed(file: Path) -> DataError:
        return DataError(f"{file}: missing or changed since it was signed: {advice}")

    file = folder / MANIFEST_FILE
    if not file.is_file() or sha256_hex(file.read_bytes()) != package_id:
        raise changed(file)
    signature = folder / SIGNATURE_FILE
    try:
        signed = Signature.model_validate_json(signature.read_bytes())
    except (OSError, ValidationError):
        raise changed(signature) from None
    if not is_signed(home, file.read_bytes(), signed):
        raise changed(signature)
    for name, entry in Manifest.model_validate_json(file.read_bytes()).files.items():
        part = folder / Path(name).name
        if not part.is_file() or sha256_hex(part.read_bytes()) != entry.sha256:
            raise changed(part)
