from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from algorithms.contracts.enrolment import Enrolment, EnrolmentRequest, fingerprint
from algorithms.contracts.errors import DataError, ProtocolError
from coordinator.authority import new_key
from coordinator.config import CoordinatorHome
from coordinator.enrolment import enrol, read_request, revoke
from coordinator.package_publisher import public_key_hex
from coordinator.study_keys import encryption_key
from coordinator.study_store import StudyStore
from tests.enrolled import NOW
from tests.simulated_site import STUDY, make_coordinator

LATER = NOW + timedelta(days=300)
Ask = Callable[..., EnrolmentRequest]


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    return make_coordinator(tmp_path / "c", targets=("hospital-b", "hospital-c"))


@pytest.fixture
def store(home: CoordinatorHome) -> Iterator[StudyStore]:
    with StudyStore(home.database_url, home.config) as opened:
        yield opened


class Hospital:
    """The other party, by the agreement alone: it knows nothing of the site's code."""

    def __init__(self, name: str = "hospital-b") -> None:
        self.name, self.key = name, Ed25519PrivateKey.generate()

    def ask(self, **changes: object) -> EnrolmentRequest:
        tls, node = new_key(), new_key().public_key()
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
        csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(tls, hashes.SHA384())
        public = X25519PrivateKey.generate().public_key()
        line = node.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        fields = {
            "study": STUDY,
            "site": self.name,
            "certificate_request_pem": csr.public_bytes(Encoding.PEM).decode(),
            "node_public_key": line.decode(),
            "signing_public_key_hex": self.key.public_key().public_bytes_raw().hex(),
            "encryption_public_key_hex": public.public_bytes_raw().hex(),
            "renews": False,
            "created_at": NOW,
            "signature_hex": "0" * 128,
        }
        draft = EnrolmentRequest.model_validate(fields | changes)
        return draft.model_copy(update={"signature_hex": self.key.sign(draft.signed_bytes()).hex()})


def answered(
    home: CoordinatorHome, store: StudyStore, request: EnrolmentRequest, now=NOW
) -> Enrolment:
    typed = None if request.renews else fingerprint(request.sha256)
    return enrol(home, store, request, typed_fingerprint=typed, now=now)


def revoked_serials(home: CoordinatorHome) -> set[str]:
    listed = x509.load_pem_x509_crl((home.tls / "revoked.pem").read_bytes())
    return {f"{entry.serial_number:x}" for entry in listed}


def serial(answer: Enrolment) -> str:
    return f"{x509.load_pem_x509_certificate(answer.certificate_pem.encode()).serial_number:x}"


def test_an_answer_names_the_study_its_keys_and_the_request(home, store) -> None:
    request = Hospital().ask()
    answer = answered(home, store, request)
    assert answer.request_sha256 == request.sha256
    assert answer.coordinator_signing_key_hex == public_key_hex(home)
    public = encryption_key(home).public_key().public_bytes_raw().hex()
    assert answer.coordinator_encryption_key_hex == public
    key = store.site_key("hospital-b")
    assert key is not None
    assert key.signing_public_key_hex == request.signing_public_key_hex
    assert key.node_public_key == request.node_public_key
    assert key.certificate_serial == serial(answer)
    (site,) = [one for one in store.sites() if one.site == "hospital-b"]
    assert site.certificate_not_after == NOW + timedelta(days=365)
    assert store.site_key("hospital-c") is None
    assert not revoked_serials(home)


def test_the_same_request_gets_the_same_answer(home, store) -> None:
    request = Hospital().ask()
    assert answered(home, store, request) == answered(home, store, request, now=LATER)
    assert len(store.site_keys()) == 1


@pytest.mark.parametrize(
    ("typed", "kind", "words"),
    [(None, DataError, "call the hospital"), ("0123 4567", ProtocolError, "wrong_fingerprint")],
)
def test_without_its_fingerprint_nobody_is_enrolled(home, store, typed, kind, words) -> None:
    request = Hospital().ask()
    with pytest.raises(kind, match=words) as caught:
        enrol(home, store, request, typed_fingerprint=typed, now=NOW)
    # It has to come over the telephone: what the command prints could be copied.
    assert fingerprint(request.sha256)[:9] not in str(caught.value)
    assert not store.site_keys()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"study": "another"}, "wrong_study"),
        ({"site": "hospital-z"}, "unknown_site"),
        ({"certificate_request_pem": "-----BEGIN X-----\nAAAA"}, "bad_certificate_request"),
        ({"renews": True}, "unknown_key"),
    ],
)
def test_a_request_that_breaks_a_rule_is_refused_by_its_name(home, store, change, rule) -> None:
    request = Hospital().ask(**change)
    with pytest.raises(ProtocolError, match=rule):
        answered(home, store, request)
    assert not store.site_keys()


@pytest.mark.parametrize("field", ["node_public_key", "encryption_public_key_hex", "created_at"])
def test_a_field_that_was_exchanged_on_the_way_is_noticed(home, store, field: str) -> None:
    theirs, evil = Hospital().ask(), Hospital().ask(created_at=LATER)
    changed = theirs.model_copy(update={field: getattr(evil, field)})
    with pytest.raises(ProtocolError, match="bad_signature"):
        answered(home, store, changed)


def test_a_renewal_is_signed_with_the_known_key_and_leaves_the_old_certificate(home, store) -> None:
    hospital = Hospital()
    first = answered(home, store, hospital.ask())
    second = answered(home, store, hospital.ask(renews=True, created_at=LATER), now=LATER)
    key = store.site_key("hospital-b")
    assert key is not None
    assert key.certificate_serial == serial(second) != serial(first)
    assert not revoked_serials(home)
    with pytest.raises(ProtocolError, match="unknown_key"):
        answered(home, store, Hospital().ask(renews=True, created_at=LATER))


def test_an_old_renewal_cannot_be_played_again(home, store) -> None:
    hospital = Hospital()
    answered(home, store, hospital.ask())
    old = hospital.ask(renews=True, created_at=NOW + timedelta(days=1))
    answered(home, store, hospital.ask(renews=True, created_at=LATER), now=LATER)
    with pytest.raises(ProtocolError, match="stale_request"):
        answered(home, store, old)


def test_new_keys_replace_and_revoke_the_old_ones(home, store) -> None:
    first = answered(home, store, Hospital().ask())
    again = Hospital().ask()
    answered(home, store, again, now=LATER)
    assert revoked_serials(home) == {serial(first)}
    key = store.site_key("hospital-b")
    assert key is not None
    assert key.signing_public_key_hex == again.signing_public_key_hex
    assert not store.revoked_sites()


def test_revoking_takes_back_everything_and_may_be_repeated(home, store) -> None:
    hospital = Hospital()
    requests = [hospital.ask(), hospital.ask(renews=True, created_at=LATER)]
    answers = [answered(home, store, request) for request in requests]
    answered(home, store, Hospital("hospital-c").ask())
    assert revoke(home, store, "hospital-b", LATER) == 2
    (home.tls / "revoked.pem").unlink()  # as after a kill between database and file
    assert revoke(home, store, "hospital-b", LATER) == 0
    assert revoked_serials(home) == {serial(answer) for answer in answers}
    assert store.revoked_sites() == {"hospital-b"}
    assert store.site_key("hospital-b") is None
    events = [event.event for event in store.events() if event.site == "hospital-b"]
    assert events == ["site_enrolled", "site_renewed", *["certificate_revoked"] * 2]
    with pytest.raises(ProtocolError, match="revoked"):  # its old request does not help it
        answered(home, store, requests[0])
    with pytest.raises(ProtocolError, match="unknown_key"):
        answered(home, store, hospital.ask(renews=True, created_at=LATER + timedelta(days=1)))
    answered(home, store, Hospital().ask(), now=LATER + timedelta(days=1))  # a fresh start may
    assert not store.revoked_sites()


def test_who_is_no_site_or_was_never_enrolled_cannot_be_revoked(home, store) -> None:
    with pytest.raises(DataError, match="not in this study"):
        revoke(home, store, "hospital-z", NOW)
    with pytest.raises(DataError, match="never enrolled"):
        revoke(home, store, "hospital-b", NOW)


def test_a_file_that_is_no_request_is_said(tmp_path: Path) -> None:
    for content in (b"{}", b"\xff", b"0" * 70_000):
        (tmp_path / "r.json").write_bytes(content)
        with pytest.raises(DataError, match=r"no (such )?request"):
            read_request(tmp_path / "r.json")
    with pytest.raises(DataError, match="no such request"):
        read_request(tmp_path / "none.json")
