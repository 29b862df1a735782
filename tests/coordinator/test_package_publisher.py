from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.errors import DataError, ProtocolError
from algorithms.contracts.model_package import MODEL_FILE
from coordinator.package_publisher import (
    PublishedPackage,
    create_key,
    open_package,
    public_key_hex,
    publish,
)
from site_agent.package_store import verify_folder, verify_package
from tests.simulated_site import STUDY, make_coordinator, tiny_package
from tests.site_agent.stored_site import killed_at

MANIFEST, FILES = tiny_package()


def test_what_is_published_is_what_a_site_accepts(tmp_path: Path) -> None:
    home = make_coordinator(tmp_path / "c")
    manifest, files = tiny_package()
    package_id = publish(home, manifest, files)
    key = public_key_hex(home)
    package = open_package(home, package_id)
    parts = (package.manifest, package.signature, files)
    assert verify_folder(home.packages / package_id, [key], study=STUDY) == parts
    assert verify_package(*parts, [key]) == manifest
    assert package_id == sha256_hex(package.manifest)


def test_publishing_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    home = make_coordinator(tmp_path / "c")
    manifest, files = tiny_package()
    first = open_package(home, publish(home, manifest, files))
    assert open_package(home, publish(home, manifest, files)) == first
    assert len(list(home.packages.iterdir())) == 1


def test_a_kill_at_any_change_of_a_file_leaves_a_whole_package_or_none(tmp_path: Path) -> None:
    home = make_coordinator(tmp_path / "c")
    step = 0
    while killed_at(step, lambda: publish(home, MANIFEST, FILES)):
        assert not (home.packages / MANIFEST.package_id).exists()
        step += 1
    assert step > len(FILES)
    assert [folder.name for folder in home.packages.iterdir()] == [MANIFEST.package_id]


@given(st.integers(0, 70_000), st.integers(0, 70_000))
def test_any_part_of_the_stream_is_read_from_its_files(
    package: PublishedPackage, offset: int, size_bytes: int
) -> None:
    whole = b"".join(data for _, data in sorted(FILES.items()))
    assert package.size_bytes == len(whole)
    assert package.read(offset, size_bytes) == whole[offset : offset + size_bytes]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> PublishedPackage:
    home = make_coordinator(tmp_path_factory.mktemp("published") / "c")
    return open_package(home, publish(home, MANIFEST, FILES))


def test_a_published_file_that_is_gone_or_cut_is_named(tmp_path: Path) -> None:
    home = make_coordinator(tmp_path / "c")
    package_id = publish(home, MANIFEST, FILES)
    package = open_package(home, package_id)
    file = home.packages / package_id / MODEL_FILE
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"model\.safetensors.*backup"):
        package.read(0, package.size_bytes)
    file.unlink()
    with pytest.raises(DataError, match=r"model\.safetensors.*backup"):
        package.read(0, 1)


def test_an_offer_that_breaks_a_rule_is_not_signed(tmp_path: Path) -> None:
    home = make_coordinator(tmp_path / "c")
    manifest, files = tiny_package()
    with pytest.raises(ProtocolError, match="wrong_hash"):
        publish(home, manifest, files | {MODEL_FILE: b"other"})
    with pytest.raises(ProtocolError, match="missing_file"):
        publish(home, manifest, {MODEL_FILE: files[MODEL_FILE]})
    with pytest.raises(ProtocolError, match="wrong_study"):
        publish(home, manifest.model_copy(update={"study": "another"}), files)
    entry = manifest.files[MODEL_FILE]
    escaping = manifest.model_copy(update={"files": manifest.files | {"../x": entry}})
    with pytest.raises(ProtocolError, match="bad_file_name"):
        publish(home, escaping, files | {"../x": files[MODEL_FILE]})
    assert not home.packages.exists()


def test_the_key_is_private_and_made_once(tmp_path: Path) -> None:
    home = make_coordinator(tmp_path / "c")
    assert home.signing_key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(DataError, match="already"):
        create_key(home.signing_key)
    home.signing_key.unlink()
    with pytest.raises(DataError, match="backup"):
        public_key_hex(home)


@pytest.mark.parametrize("damaged", [b"", b"not hexadecimal", b"ab" * 31, b"\xff" * 64])
def test_a_damaged_key_is_an_expected_error(tmp_path: Path, damaged: bytes) -> None:
    home = make_coordinator(tmp_path / "c")
    home.signing_key.write_bytes(damaged)
    with pytest.raises(DataError, match=r"signing\.key.*backup"):
        public_key_hex(home)
