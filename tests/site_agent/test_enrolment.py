import json
import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from algorithms.contracts.enrolment import Enrolment, EnrolmentRequest, fingerprint
from algorithms.contracts.errors import DataError, ProtocolError
from coordinator.config import CoordinatorHome
from coordinator.enrolment import enrol
from coordinator.package_publisher import public_key_hex, read_signing_key
from coordinator.study_store import StudyStore
from site_agent import enrolment
from site_agent.config import SiteHome
from site_agent.database import AuditRow, open_database
from site_agent.enrolment import Asking, accept_answer, read_answer, request_enrolment
from site_agent.site_keys import SiteKeys, tls_context, trusted_keys
from tests.enrolled import NOW, enrol_site
from tests.simulated_site import LEAD_PUBLIC, make_coordinator, make_site

SOON = NOW + timedelta(minutes=1)


@pytest.fixture
def coordinator(tmp_path: Path) -> CoordinatorHome:
    return make_coordinator(tmp_path / "coordinator", targets=("hospital-b", "hospital-c"))


@pytest.fixture
def site(tmp_path: Path) -> SiteHome:
    return make_site(tmp_path / "hospital-b", "hospital-b")


@pytest.fixture
def engine(site: SiteHome) -> Engine:
    return open_database(site.database_url)


def ask(site: SiteHome, engine: Engine, asking: Asking = Asking.FIRST) -> EnrolmentRequest:
    return request_enrolment(site, engine, asking, actor="anna", now=NOW)


def answered(coordinator: CoordinatorHome, request: EnrolmentRequest, now=NOW) -> Enrolment:
    with StudyStore(coordinator.database_url, coordinator.config) as store:
        typed = fingerprint(request.sha256)
        return enrol(coordinator, store, request, typed_fingerprint=typed, now=now)


def accept(site: SiteHome, engine: Engine, answer: Enrolment, typed: str | None = "right") -> None:
    if typed == "right":
        typed = fingerprint(answer.sha256)
    accept_answer(site, engine, answer, typed_fingerprint=typed, actor="anna", now=NOW)


def signed(coordinator: CoordinatorHome, answer: Enrolment, **changes: object) -> Enrolment:
    """Return an answer that a coordinator with other intentions has signed."""
    changed = answer.model_copy(update=changes)
    signature = read_signing_key(coordinator).sign(changed.signed_bytes()).hex()
    return changed.model_copy(update={"signature_hex": signature})


def test_no_private_key_is_in_a_request(site: SiteHome, engine: Engine) -> None:
    text = ask(site, engine).model_dump_json()
    assert "PRIVATE" not in text
    for file in site.keys.rglob("*.key"):
        secret = file.read_text().strip()
        assert secret not in json.loads(json.dumps(text))
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(list(site.keys.rglob("*.key"))) == 4


def test_a_waiting_request_is_given_again_and_its_answer_may_be_taken_twice(
    coordinator, site, engine
) -> None:
    request = ask(site, engine)
    assert ask(site, engine) == request
    answer = answered(coordinator, request)
    accept(site, engine, answer)
    tls_context(site)
    assert not (site.keys / "next").exists()
    accept(site, engine, answer, typed=None)
    with pytest.raises(DataError, match="enrolled already"):
        ask(site, engine)
    with Session(engine) as session:
        entries = session.scalars(select(AuditRow).order_by(AuditRow.sequence)).all()
    assert [(entry.actor, entry.event) for entry in entries] == [
        ("anna", "enrolment_requested"),
        ("anna", "enrolled"),
    ]


def test_an_answer_of_a_key_that_is_trusted_needs_no_fingerprint_any_other_does(
    coordinator, tmp_path
) -> None:
    known = make_site(tmp_path / "c", "hospital-c", public_key_hex(coordinator).upper())
    engine = open_database(known.database_url)
    accept(known, engine, answered(coordinator, ask(known, engine)), typed=None)
    stranger = make_site(tmp_path / "b", "hospital-b")
    engine = open_database(stranger.database_url)
    answer = answered(coordinator, ask(stranger, engine))
    with pytest.raises(DataError, match="--fingerprint"):
        accept(stranger, engine, answer, typed=None)
    with pytest.raises(ProtocolError, match="wrong_fingerprint"):
        accept(stranger, engine, answer, typed=fingerprint("0" * 64))
    assert trusted_keys(stranger) == (LEAD_PUBLIC,)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"site": "hospital-c"}, "wrong_site"),
        ({"study": "other"}, "wrong_site"),
        ({"request_sha256": "0" * 64}, "wrong_answer"),
        ({"certificate_pem": "-----BEGIN CERTIFICATE-----\nAA"}, "bad_certificate"),
    ],
)
def test_an_answer_that_breaks_a_rule_changes_nothing(
    coordinator, site, engine, changes, rule
) -> None:
    answer = answered(coordinator, ask(site, engine))
    with pytest.raises(ProtocolError, match=rule):
        accept(site, engine, signed(coordinator, answer, **changes))
    assert not (site.keys / "enrolment.json").exists()
    accept(site, engine, answer)  # the right one still fits


def test_an_answer_that_was_changed_on_the_way_is_noticed(coordinator, site, engine) -> None:
    answer = answered(coordinator, ask(site, engine))
    changed = answer.model_copy(update={"coordinator_address": "evil.example.org:443"})
    with pytest.raises(ProtocolError, match="bad_signature"):
        accept(site, engine, changed)
    evil = Ed25519PrivateKey.generate()
    taken = answer.model_copy(
        update={"coordinator_signing_key_hex": evil.public_key().public_bytes_raw().hex()}
    )
    taken = taken.model_copy(update={"signature_hex": evil.sign(taken.signed_bytes()).hex()})
    with pytest.raises(ProtocolError, match="wrong_fingerprint"):
        accept(site, engine, taken, typed=fingerprint(answer.sha256))


def test_certificates_of_others_for_others_and_for_another_time_are_refused(
    coordinator, site, engine, tmp_path
) -> None:
    other = make_site(tmp_path / "c", "hospital-c")
    theirs = answered(coordinator, ask(other, open_database(other.database_url)))
    answer = answered(coordinator, ask(site, engine))
    stolen = signed(coordinator, answer, certificate_pem=theirs.certificate_pem)
    with pytest.raises(ProtocolError, match="wrong_key"):
        accept(site, engine, stolen)
    second = make_coordinator(tmp_path / "second")
    authority = answered(second, ask(site, engine)).ca_certificate_pem
    with pytest.raises(ProtocolError, match="bad_certificate"):
        accept(site, engine, signed(coordinator, answer, ca_certificate_pem=authority))
    with pytest.raises(ProtocolError, match=r"not_valid_now: .*clock"):
        accept_answer(
            site,
            engine,
            answer,
            typed_fingerprint=fingerprint(answer.sha256),
            actor="anna",
            now=NOW + timedelta(days=366),
        )


def test_a_renewal_changes_the_tls_key_and_no_other(coordinator, site, engine) -> None:
    with pytest.raises(DataError, match="not enrolled yet"):
        ask(site, engine, Asking.RENEWAL)
    enrol_site(coordinator, site)
    before = {file.name: file.read_bytes() for file in site.keys.glob("*.key")}
    answer = enrol_site(coordinator, site, asking=Asking.RENEWAL, now=SOON)
    changed = {n for n, content in before.items() if (site.keys / n).read_bytes() != content}
    assert changed == {"tls.key"}
    assert trusted_keys(site) == (LEAD_PUBLIC, answer.coordinator_signing_key_hex)


def test_new_keys_are_all_new_and_work_also_where_old_ones_are_damaged(
    coordinator, site, engine
) -> None:
    enrol_site(coordinator, site)
    before = {file.name: file.read_bytes() for file in site.keys.glob("*.key")}
    (site.keys / "signing.key").write_bytes(b"\xff")
    (site.keys / "enrolment.json").write_bytes(b"\xff")
    first = ask(site, engine, Asking.NEW_KEYS)
    assert ask(site, engine, Asking.NEW_KEYS) != first
    assert {n: (site.keys / n).read_bytes() for n in before if n != "signing.key"} == {
        n: content for n, content in before.items() if n != "signing.key"
    }  # until the answer is there


def test_new_keys_take_effect_with_their_answer(coordinator, site, engine) -> None:
    enrol_site(coordinator, site)
    before = {file.name: file.read_bytes() for file in site.keys.glob("*.key")}
    old = SiteKeys.open(site)
    request = ask(site, engine, Asking.NEW_KEYS)
    assert SiteKeys.open(site).signing_public_key_hex == old.signing_public_key_hex
    accept(site, engine, answered(coordinator, request, now=SOON))
    assert all((site.keys / name).read_bytes() != content for name, content in before.items())
    new = SiteKeys.open(site)
    assert new.signing_public_key_hex == request.signing_public_key_hex
    assert new.node_public_key == (site.keys / "node.pub").read_text()


@pytest.mark.parametrize("step", range(8))
@pytest.mark.parametrize("asking", [Asking.RENEWAL, Asking.NEW_KEYS])
def test_an_import_that_is_killed_is_finished_by_the_same_command(
    coordinator, site, engine, step: int, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrol_site(coordinator, site)
    request = request_enrolment(site, engine, asking, actor="anna", now=SOON)
    answer = answered(coordinator, request, now=SOON)
    write: Callable[..., None] = enrolment.write_whole
    written = []

    def killed(file: Path, content: bytes, *, mode: int) -> None:
        if len(written) == step:
            raise KeyboardInterrupt
        written.append(file)
        write(file, content, mode=mode)

    monkeypatch.setattr(enrolment, "write_whole", killed)
    try:
        accept(site, engine, answer)
    except KeyboardInterrupt:
        monkeypatch.setattr(enrolment, "write_whole", write)
        accept(site, engine, answer)
    tls_context(site)
    keys = SiteKeys.open(site)
    assert keys.signing_public_key_hex == request.signing_public_key_hex
    assert not (site.keys / "next").exists()


def test_a_file_that_is_no_answer_is_said(tmp_path: Path) -> None:
    for content in (b"{}", b"\xff", b"0" * 70_000):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(DataError, match=r"no (such )?answer"):
            read_answer(tmp_path / "a.json")
