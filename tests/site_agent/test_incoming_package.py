"""Parts of a package, as a coordinator, a bad line or an enemy sends them."""

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from algorithms.contracts.canonical_json import canonical_json
from algorithms.contracts.messages import PackageReceipt
from algorithms.contracts.model_package import MODEL_FILE, Manifest
from coordinator.package_publisher import open_package, public_key_hex, publish
from site_agent.config import SiteHome
from site_agent.database import open_database
from site_agent.incoming_package import forget_stored, receive_part
from site_agent.package_store import load_package, packages_held
from tests.simulated_site import file_entry, make_coordinator, make_site, tiny_package

MANIFEST, FILES = tiny_package()
STREAM = b"".join(data for _, data in sorted(FILES.items()))
PACKAGE = MANIFEST.package_id


class Sender:
    """The coordinator's end: signs, cuts and sends."""

    def __init__(self, folder: Path) -> None:
        self.coordinator = make_coordinator(folder / "c")
        self.home = make_site(folder / "s", "hospital-b", public_key_hex(self.coordinator))
        self.engine: Engine = open_database(self.home.database_url)
        self.sign(MANIFEST, FILES)

    def sign(self, manifest: Manifest, files: dict[str, bytes]) -> None:
        """Publish a package, which is sent from then on."""
        signed = open_package(self.coordinator, publish(self.coordinator, manifest, files))
        self.manifest, self.signature = signed.manifest, signed.signature

    def send(self, offset: int, content: bytes, home: SiteHome | None = None) -> PackageReceipt:
        """Send a part."""
        target = home or self.home
        return receive_part(target, self.engine, self.manifest, self.signature, offset, content)

    def incoming(self) -> dict[str, int]:
        """Return the size of everything that is not stored, by its name."""
        folder = self.home.packages / ".incoming"
        return {file.name: file.stat().st_size for file in folder.glob("*")}


@pytest.fixture
def sender(tmp_path: Path) -> Sender:
    return Sender(tmp_path)


def test_a_package_in_parts_is_the_package(sender: Sender) -> None:
    middle = len(STREAM) // 2
    assert sender.send(0, b"").bytes_held == 0
    assert not sender.home.packages.exists()
    first = sender.send(0, STREAM[:middle])
    assert (first.accepted, first.refused_by_rule, first.bytes_held) == (False, None, middle)
    assert packages_held(sender.engine) == []
    last = sender.send(middle, STREAM[middle:])
    assert (last.accepted, last.bytes_held) == (True, 0)
    manifest, folder = load_package(sender.home, PACKAGE)
    assert manifest == MANIFEST
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    assert sender.incoming() == {}


PART = st.tuples(st.integers(0, len(STREAM)), st.integers(0, len(STREAM)))


@settings(max_examples=25, deadline=None)
@given(st.lists(PART, max_size=8))
def test_whatever_came_before_the_receipt_says_where_to_go_on(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, int]]
) -> None:
    """Repeated, overlapping, early and lost parts: an oracle that knows bytes only."""
    sender, held = Sender(tmp_path_factory.mktemp("parts")), 0
    for offset, size in parts:
        content = STREAM[offset : offset + size]
        receipt = sender.send(offset, content)
        if content and offset <= held:
            held = max(held, offset + len(content))
        if held == len(STREAM):
            break
        assert (receipt.accepted, receipt.bytes_held) == (False, held)
    assert sender.send(held, STREAM[held:]).accepted
    assert load_package(sender.home, PACKAGE)[0] == MANIFEST
    sender.engine.dispose()


def test_a_stored_package_is_not_received_again(sender: Sender) -> None:
    sender.send(0, STREAM)
    again = sender.send(0, STREAM[:100])
    assert again.accepted
    assert sender.incoming() == {}
    assert len(packages_held(sender.engine)) == 1


def test_a_stored_package_that_was_damaged_is_received_again(sender: Sender) -> None:
    sender.send(0, STREAM)
    model = sender.home.packages / PACKAGE / MODEL_FILE
    model.write_bytes(b"")
    assert sender.send(0, b"").bytes_held == 0
    assert sender.send(0, STREAM).accepted
    assert model.read_bytes() == FILES[MODEL_FILE]


@pytest.mark.parametrize(
    ("rule", "setting"),
    [
        ("unknown_key", {"trusted_keys": ()}),
        ("wrong_study", {"study": "another"}),
        ("package_too_large", {"max_package_bytes": len(STREAM) - 1}),
    ],
)
def test_no_byte_is_kept_of_a_package_that_is_not_let_in(
    sender: Sender, rule: str, setting: dict[str, object]
) -> None:
    config = sender.home.config.model_copy(update=setting)
    receipt = sender.send(0, STREAM[:10], replace(sender.home, config=config))
    assert (receipt.accepted, receipt.refused_by_rule) == (False, rule)
    assert not sender.home.packages.exists()


def test_a_changed_manifest_is_refused_and_what_is_here_stays(sender: Sender) -> None:
    sender.send(0, STREAM[:10])
    sender.signature = sender.signature.replace(b'"signature_hex":"', b'"signature_hex":"00')
    assert sender.send(10, STREAM[10:]).refused_by_rule == "bad_signature"
    assert sender.incoming() == {f"{PACKAGE}.part": 10}


def test_a_signed_manifest_that_names_a_path_is_refused_before_a_byte_is_kept(
    sender: Sender,
) -> None:
    files = {**MANIFEST.files, "../x": file_entry(b"x")}
    fields = MANIFEST.model_copy(update={"files": files}).model_dump(mode="json")
    sender.manifest = canonical_json(fields)
    assert sender.send(0, b"x").refused_by_rule == "bad_signature"
    key = sender.coordinator.signing_key.read_text("ascii")
    signature = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key)).sign(sender.manifest)
    sender.signature = sender.signature[: sender.signature.index(b'"signature_hex"')] + (
        b'"signature_hex":"' + signature.hex().encode() + b'"}'
    )
    assert sender.send(0, b"x").refused_by_rule == "extra_file"
    assert not sender.home.packages.exists()


@pytest.mark.parametrize("offset", [-1, len(STREAM), 2**60])
def test_no_part_reaches_beyond_what_the_manifest_names(sender: Sender, offset: int) -> None:
    assert sender.send(offset, b"x").refused_by_rule == "part_outside"
    assert not sender.home.packages.exists()


def test_a_stream_whose_hash_is_wrong_is_thrown_away_whole(sender: Sender) -> None:
    sender.send(0, STREAM[:10])
    changed = bytes([STREAM[10] ^ 1]) + STREAM[11:]
    assert sender.send(10, changed).refused_by_rule == "wrong_hash"
    assert sender.incoming() == {}
    assert packages_held(sender.engine) == []
    assert sender.send(0, STREAM).accepted


def test_another_package_takes_the_place_of_one_that_was_begun(sender: Sender) -> None:
    sender.send(0, STREAM[:10])
    other, files = tiny_package(seed=1, model_version="2.0.0")
    sender.sign(other, files)
    sender.send(0, b"")
    assert sender.incoming() == {f"{PACKAGE}.part": 10}
    sender.send(0, b"12345")
    assert sender.incoming() == {f"{other.package_id}.part": 5}


def test_what_a_kill_left_of_a_stored_package_is_forgotten(sender: Sender) -> None:
    sender.send(0, STREAM)
    (sender.home.packages / ".incoming" / f"{PACKAGE}.part").write_bytes(STREAM)
    forget_stored(sender.home, [PACKAGE])
    assert sender.incoming() == {}
