import io
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import (
    MANIFEST_FILE,
    MODEL_FILE,
    REFERENCE_POINTS_FILE,
    SIGNATURE_FILE,
    Manifest,
    Signature,
)
from site_agent import audit_log
from site_agent.config import SiteHome
from site_agent.database import open_database
from site_agent.package_store import (
    PackageRefused,
    active_package,
    approve,
    load_package,
    packages_held,
    read_manifest,
    read_safetensors_header,
    store_package,
    verify_folder,
    verify_package,
    verify_stored,
)
from tests.simulated_site import STUDY, file_entry, make_site, tiny_package
from tests.site_agent.stored_site import killed_at

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw().hex()
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw().hex()
MANIFEST, FILES = tiny_package()


def _sign(content: bytes) -> bytes:
    key_id = sha256_hex(bytes.fromhex(PUBLIC))[:16]
    signature = Signature(key_id=key_id, signature_hex=KEY.sign(content).hex())
    return canonical_json(signature.model_dump(mode="json"))


def _signed(manifest: Manifest) -> tuple[bytes, bytes]:
    """Return a manifest and its signature as the coordinator writes them."""
    return manifest.signed_bytes(), _sign(manifest.signed_bytes())


def _rewritten(**changes: object) -> bytes:
    """Return the manifest as another version of fedgtv would have written it."""
    fields = json.loads(MANIFEST.signed_bytes()) | changes
    return canonical_json({k: v for k, v in fields.items() if v is not ...})


def _refusal(manifest: Manifest, files: dict[str, bytes], signature: bytes | None = None) -> str:
    content, fitting = _signed(manifest)
    with pytest.raises(PackageRefused) as refused:
        verify_package(content, signature or fitting, files, [PUBLIC], study=STUDY)
    assert "\n" not in str(refused.value)
    return refused.value.rule


def _with_file(name: str, data: bytes) -> tuple[Manifest, dict[str, bytes]]:
    """Return an honestly signed package in which one file is replaced."""
    files = FILES | {name: data}
    return MANIFEST.model_copy(
        update={"files": {n: file_entry(d) for n, d in files.items()}}
    ), files


def _points(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return make_site(tmp_path / "site", "hospital-b", PUBLIC, auto_approve=False)


@pytest.fixture
def engine(home: SiteHome) -> Engine:
    return open_database(home.database_url)


def test_an_honest_package_passes() -> None:
    assert verify_package(*_signed(MANIFEST), FILES, [STRANGER, PUBLIC], study=STUDY) == MANIFEST


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_one_flipped_bit_anywhere_is_refused(data: st.DataObject) -> None:
    manifest, signature = _signed(MANIFEST)
    contents = {MANIFEST_FILE: manifest, SIGNATURE_FILE: signature, **FILES}
    name = data.draw(st.sampled_from(sorted(contents)))
    position = data.draw(st.integers(0, len(contents[name]) * 8 - 1))
    changed = bytearray(contents[name])
    changed[position // 8] ^= 1 << (position % 8)
    contents[name] = bytes(changed)
    with pytest.raises(PackageRefused):
        verify_package(
            contents.pop(MANIFEST_FILE),
            contents.pop(SIGNATURE_FILE),
            contents,
            [PUBLIC],
            study=STUDY,
        )


def test_a_package_signed_before_a_field_came_to_be_stays_what_it_was(
    home: SiteHome, engine: Engine
) -> None:
    older = _rewritten(licence=...)
    package_id = store_package(home, engine, older, _sign(older), FILES)
    assert package_id == sha256_hex(older) != MANIFEST.package_id
    assert (home.packages / package_id / MANIFEST_FILE).read_bytes() == older
    assert load_package(home, package_id)[0] == MANIFEST


def test_a_field_that_this_version_does_not_know_is_refused_after_the_signature() -> None:
    newer = _rewritten(dropout=0.5)
    for signature, rule in (
        (_sign(newer), "unreadable_manifest"),
        (_sign(MANIFEST.signed_bytes()), "bad_signature"),
    ):
        with pytest.raises(PackageRefused) as refused:
            verify_package(newer, signature, FILES, [PUBLIC], study=STUDY)
        assert refused.value.rule == rule


def test_the_key_must_be_trusted() -> None:
    with pytest.raises(PackageRefused, match="telephone") as refused:
        verify_package(*_signed(MANIFEST), FILES, [STRANGER])
    assert refused.value.rule == "unknown_key"


def test_a_signature_of_another_manifest_is_refused() -> None:
    other = MANIFEST.model_copy(update={"seed": 7})
    assert _refusal(other, FILES, _signed(MANIFEST)[1]) == "bad_signature"


def test_rules_about_study_and_files() -> None:
    other_study = MANIFEST.model_copy(update={"study": "another"})
    assert _refusal(other_study, FILES) == "wrong_study"
    assert _refusal(MANIFEST, {MODEL_FILE: FILES[MODEL_FILE]}) == "missing_file"
    assert _refusal(MANIFEST, FILES | {"run.py": b""}) == "extra_file"
    assert _refusal(MANIFEST, FILES | {MODEL_FILE: FILES[MODEL_FILE] + b" "}) == "wrong_size"
    swapped = bytes(reversed(FILES[MODEL_FILE]))
    assert _refusal(MANIFEST, FILES | {MODEL_FILE: swapped}) == "wrong_hash"


def test_even_a_signed_manifest_may_not_name_a_path() -> None:
    assert _refusal(*_with_file("../site.toml", b"")) == "extra_file"


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 255), np.float32),
        np.zeros((4, 256), np.float64),
        np.full((4, 256), np.nan, np.float32),
        np.array([[{}] * 256] * 4, dtype=object),  # a pickle in disguise
    ],
)
def test_reference_points_are_finite_float32_of_the_named_shape(array: np.ndarray) -> None:
    manifest, files = _with_file(REFERENCE_POINTS_FILE, _points(array))
    assert _refusal(manifest, files) == "bad_reference_points"


def test_reference_points_that_are_no_array_are_refused() -> None:
    assert _refusal(*_with_file(REFERENCE_POINTS_FILE, b"")) == "bad_reference_points"
    assert _refusal(*_with_file(REFERENCE_POINTS_FILE, b"\x80\x04.")) == "bad_reference_points"


def test_reference_points_that_no_latent_vector_is_like_are_refused() -> None:
    manifest, files = _with_file(REFERENCE_POINTS_FILE, _points(np.ones((3, 7), np.float32)))
    shape = {"reference_point_count": 3, "reference_point_dimension": 7}
    assert _refusal(manifest.model_copy(update=shape), files) == "bad_reference_points"


def test_reference_points_that_claim_more_than_the_file_holds_take_no_memory() -> None:
    count = 10**12
    data = io.BytesIO()
    fields = {"descr": "<f4", "fortran_order": False, "shape": (count, 256)}
    np.lib.format.write_array_header_1_0(data, fields)
    manifest, files = _with_file(REFERENCE_POINTS_FILE, data.getvalue())
    claimed = manifest.model_copy(update={"reference_point_count": count})
    assert _refusal(claimed, files) == "bad_reference_points"


def test_an_unknown_selection_strategy_is_refused() -> None:
    adaptation = MANIFEST.adaptation.model_copy(update={"selection_strategy": "nonsense"})
    other = MANIFEST.model_copy(update={"adaptation": adaptation})
    assert _refusal(other, FILES) == "unknown_strategy"


def _with_weights(**changes: np.ndarray) -> bytes:
    return save(load(FILES[MODEL_FILE]) | changes)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"extra": np.zeros(3, np.float32)}, "wrong_network"),
        ({"head.bias": np.zeros(3, np.float32)}, "wrong_network"),
        ({"head.bias": np.zeros(2, np.float64)}, "wrong_network"),
        ({"head.bias": np.array([0, np.nan], np.float32)}, "bad_weights"),
        ({"head.bias": np.array([0, np.inf], np.float32)}, "bad_weights"),
    ],
)
def test_weights_are_finite_and_those_of_the_named_network(changes, rule) -> None:
    assert _refusal(*_with_file(MODEL_FILE, _with_weights(**changes))) == rule


def test_a_network_of_another_size_than_the_weights_is_refused() -> None:
    wider = MANIFEST.network.model_copy(update={"base_channels": 4})
    assert _refusal(MANIFEST.model_copy(update={"network": wider}), FILES) == "wrong_network"


def _safetensors(header: object, payload: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + payload


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04K\x01.",  # a pickle
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 200_000) + b"[" * 200_000,
        _safetensors([]),
        _safetensors({}),
        _safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"123"),
        _safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234"),
        _safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]}}, b"12345"),
        _safetensors({"a": {"dtype": "OBJ", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
    ],
)
def test_what_is_not_safetensors_is_refused(data: bytes) -> None:
    assert _refusal(*_with_file(MODEL_FILE, data)) == "not_safetensors"


@given(st.lists(st.integers(0, 4), min_size=0, max_size=3), st.sampled_from(["f2", "f4", "i8"]))
def test_whatever_safetensors_writes_is_read(shape: list[int], dtype: str) -> None:
    header = read_safetensors_header(save({"a": np.zeros(shape, dtype), "b": np.ones(3, dtype)}))
    assert header["a"]["shape"] == shape


def test_storing_twice_is_storing_once(home: SiteHome, engine: Engine) -> None:
    first = store_package(home, engine, *_signed(MANIFEST), FILES)
    assert store_package(home, engine, *_signed(MANIFEST), FILES) == first
    assert [row.package_id for row in packages_held(engine)] == [MANIFEST.package_id]
    assert sorted(p.name for p in home.packages.iterdir()) == [first]
    with Session(engine) as session:
        assert audit_log.verify(session) == 1
    manifest, folder = load_package(home, first)
    assert manifest == MANIFEST
    assert verify_folder(folder, [PUBLIC], study=STUDY)[2] == FILES


def test_a_refused_package_leaves_nothing(home: SiteHome, engine: Engine) -> None:
    with pytest.raises(PackageRefused):
        store_package(home, engine, *_signed(MANIFEST), FILES | {MODEL_FILE: b""})
    assert packages_held(engine) == []
    assert not home.packages.exists()


def test_what_a_kill_leaves_of_a_package_the_next_attempt_replaces(
    home: SiteHome, engine: Engine
) -> None:
    left = []
    while killed_at(len(left), lambda: _store(home)):
        left.append(len(list(home.packages.iterdir())) if home.packages.exists() else 0)
    assert max(left) == 1
    assert [found.name for found in home.packages.iterdir()] == [MANIFEST.package_id]
    assert load_package(home, MANIFEST.package_id)[0] == MANIFEST


def _store(home: SiteHome) -> None:
    store_package(home, open_database(home.database_url), *_signed(MANIFEST), FILES)


def test_a_stored_file_that_changed_is_noticed_and_can_be_replaced(
    home: SiteHome, engine: Engine
) -> None:
    package_id = store_package(home, engine, *_signed(MANIFEST), FILES)
    model = home.packages / package_id / MODEL_FILE
    model.write_bytes(model.read_bytes()[::-1])
    with pytest.raises(PackageRefused, match="SHA-256"):
        load_package(home, package_id)
    store_package(home, engine, *_signed(MANIFEST), FILES)
    assert load_package(home, package_id)[0] == MANIFEST


def test_one_package_is_approved_at_a_time_and_the_old_one_can_come_back(
    home: SiteHome, engine: Engine
) -> None:
    second, files = tiny_package(seed=1, model_version="2.0.0")
    old = store_package(home, engine, *_signed(MANIFEST), FILES)
    new = store_package(home, engine, *_signed(second), files)
    assert active_package(engine) is None
    for package_id in (old, new, old):
        approve(engine, package_id, actor="it")
        active = active_package(engine)
        assert active is not None
        assert active.package_id == package_id
    with pytest.raises(DataError, match="not stored"):
        approve(engine, "0" * 64, actor="it")


def test_where_no_person_approves_an_old_package_never_replaces_a_newer_one(
    home: SiteHome, engine: Engine
) -> None:
    second, files = tiny_package(seed=1, model_version="2.0.0")
    trusting = replace(home, config=home.config.model_copy(update={"auto_approve": True}))
    old = store_package(home, engine, *_signed(MANIFEST), FILES)
    assert store_package(trusting, engine, *_signed(MANIFEST), FILES) == old  # stored, sent again
    assert [row.state for row in packages_held(engine)] == ["approved"]
    store_package(trusting, engine, *_signed(second), files)
    store_package(trusting, engine, *_signed(MANIFEST), FILES)
    assert {row.model_version: row.state for row in packages_held(engine)} == {
        "1.0.0": "retired",
        "2.0.0": "approved",
    }


def test_a_folder_without_a_manifest_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="signed package"):
        verify_folder(tmp_path, [PUBLIC])


# -- before a person lets it in -------------------------------------------------------------------


def test_a_stored_package_is_verified_again_in_all_steps(home: SiteHome, engine: Engine) -> None:
    package_id = store_package(home, engine, *_signed(MANIFEST), FILES)
    assert verify_stored(home, package_id) == read_manifest(home, package_id) == MANIFEST
    weights = home.packages / package_id / MODEL_FILE
    weights.write_bytes(weights.read_bytes()[:-1])
    assert read_manifest(home, package_id) == MANIFEST  # looks at nothing else
    with pytest.raises(PackageRefused, match=MODEL_FILE):
        verify_stored(home, package_id)


def test_a_key_that_is_trusted_no_more_is_found(home: SiteHome, engine: Engine) -> None:
    package_id = store_package(home, engine, *_signed(MANIFEST), FILES)
    config = home.config.model_copy(update={"trusted_keys": (STRANGER,)})
    with pytest.raises(PackageRefused) as refused:
        verify_stored(replace(home, config=config), package_id)
    assert refused.value.rule == "unknown_key"


def test_another_genuine_package_in_its_place_is_found(home: SiteHome, engine: Engine) -> None:
    package_id = store_package(home, engine, *_signed(MANIFEST), FILES)
    other = MANIFEST.model_copy(update={"model_version": "9.9.9"})
    content, signature = _signed(other)
    folder = home.packages / package_id
    (folder / MANIFEST_FILE).write_bytes(content)
    (folder / SIGNATURE_FILE).write_bytes(signature)
    for look in (read_manifest, verify_stored):
        with pytest.raises(PackageRefused) as refused:
            look(home, package_id)
        assert refused.value.rule == "wrong_hash"
    with pytest.raises(DataError, match="not stored here"):
        read_manifest(home, "0" * 64)
