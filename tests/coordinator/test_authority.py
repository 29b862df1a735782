import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from algorithms.contracts.errors import DataError, ProtocolError
from coordinator.authority import Authority, new_key, private_pem, write_secret

NOW = datetime.now(UTC).replace(microsecond=0)
YEAR = timedelta(days=365)


def request_for(key: ec.EllipticCurvePrivateKey) -> str:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "whoever")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    return builder.sign(key, hashes.SHA384()).public_bytes(Encoding.PEM).decode()


class Party:
    """One end of a TLS connection in memory, after OpenSSL's rules: the independent oracle."""

    def __init__(self, folder: Path, purpose: int, trusted: bytes, key: bytes, pem: bytes) -> None:
        folder.mkdir()
        (folder / "chain").write_bytes(key + pem)
        self.context = ssl.SSLContext(purpose)
        self.context.load_verify_locations(cadata=trusted.decode())
        self.context.load_cert_chain(folder / "chain")


def shake_hands(client: Party, server: Party, host: str) -> None:
    """Connect; raises what OpenSSL says when one does not trust the other."""
    server.context.verify_mode = ssl.CERT_REQUIRED
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.context.wrap_bio(back, there, server_hostname=host),
        server.context.wrap_bio(there, back, server_side=True),
    ]
    done = [False, False]
    for _ in range(10):
        for place, end in enumerate(ends):
            try:
                end.do_handshake()
                done[place] = True
            except ssl.SSLWantReadError:
                pass
    assert done == [True, True]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("npc", NOW)


def client(authority: Authority, folder: Path, *, now: datetime = NOW) -> Party:
    key = new_key()
    pem = authority.site_certificate(request_for(key), "hospital-b", now).public_bytes(Encoding.PEM)
    trusted = authority.certificate_pem
    return Party(folder, ssl.PROTOCOL_TLS_CLIENT, trusted, private_pem(key), pem)


def server(authority: Authority, folder: Path, *hosts: str, trusted: bytes = b"") -> Party:
    key, pem = authority.server_certificate(hosts, NOW)
    known = trusted or authority.certificate_pem
    return Party(folder, ssl.PROTOCOL_TLS_SERVER, known, key, pem)


@pytest.mark.parametrize("host", ["study.example.org", "192.0.2.7", "::1"])
def test_both_parties_of_a_study_trust_each_other(
    authority: Authority, tmp_path: Path, host: str
) -> None:
    other = server(authority, tmp_path / "s", "localhost", host)
    shake_hands(client(authority, tmp_path / "c"), other, host)


def test_a_server_under_another_name_is_not_trusted(authority: Authority, tmp_path: Path) -> None:
    other = server(authority, tmp_path / "s", "study.example.org")
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake_hands(client(authority, tmp_path / "c"), other, "evil.example.org")


def test_a_client_of_another_study_an_expired_one_and_a_server_as_client_are_refused(
    authority: Authority, tmp_path: Path
) -> None:
    host = "localhost"
    other = Authority.create("npc", NOW)  # the same name, another key
    stranger = client(other, tmp_path / "c1")
    stranger.context.load_verify_locations(cadata=authority.certificate_pem.decode())
    late = client(authority, tmp_path / "c2", now=NOW - YEAR - timedelta(hours=1))
    key, pem = authority.server_certificate(("localhost", host), NOW)
    wrong = Party(tmp_path / "c3", ssl.PROTOCOL_TLS_CLIENT, authority.certificate_pem, key, pem)
    for number, party in enumerate((stranger, late, wrong)):
        with pytest.raises(ssl.SSLError, match=r"(?i)verif|unknown ca|expired|unsupported"):
            shake_hands(party, server(authority, tmp_path / f"s{number}", host), host)


def test_a_hospitals_certificate_is_a_clients_for_a_year_in_the_name_we_give(
    authority: Authority,
) -> None:
    key = new_key()
    made = authority.site_certificate(request_for(key), "hospital-b", NOW)
    assert made.subject.rfc4514_string() == "CN=hospital-b"  # not what the request says
    assert made.public_key() == key.public_key()
    assert made.not_valid_after_utc == NOW + YEAR
    made.verify_directly_issued_by(authority.certificate)
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_key_on_another_curve_is_refused(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(ProtocolError, match="weak_key"):
        authority.site_certificate(request_for(key), "hospital-b", NOW)


def test_a_request_that_its_own_key_did_not_sign_is_refused(authority: Authority) -> None:
    lines = request_for(new_key()).splitlines()
    body = list("".join(lines[1:-1]))
    body[-20] = "A" if body[-20] != "A" else "B"  # in the signature
    changed = "\n".join([lines[0], "".join(body), lines[-1]]) + "\n"
    with pytest.raises(ProtocolError, match="bad_certificate_request"):
        authority.site_certificate(changed, "hospital-b", NOW)
    with pytest.raises(ProtocolError, match="bad_certificate_request"):
        authority.site_certificate("-----BEGIN CERTIFICATE REQUEST-----\nx", "hospital-b", NOW)


def test_the_revocation_list_names_what_is_revoked_and_lasts_as_long_as_the_authority(
    authority: Authority,
) -> None:
    revoked = x509.load_pem_x509_crl(authority.revocation_list([(0xABC, NOW)], NOW))
    assert revoked.is_signature_valid(authority.key.public_key())
    assert [entry.serial_number for entry in revoked] == [0xABC]
    assert revoked.next_update_utc == authority.certificate.not_valid_after_utc


def test_an_authority_is_made_once_and_survives_a_kill_after_its_key(tmp_path: Path) -> None:
    files = tmp_path / "secrets" / "ca.key", tmp_path / "tls" / "ca.crt"
    made = Authority.open_or_create(*files, name="npc", now=NOW)
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600
    again = Authority.open_or_create(*files, name="npc", now=NOW + YEAR)
    assert again.certificate == made.certificate
    site = made.site_certificate(request_for(new_key()), "hospital-b", NOW)
    files[1].unlink()
    mended = Authority.open_or_create(*files, name="npc", now=NOW)
    site.verify_directly_issued_by(mended.certificate)


def test_a_lost_or_exchanged_key_is_not_replaced(tmp_path: Path) -> None:
    files = tmp_path / "ca.key", tmp_path / "ca.crt"
    Authority.open_or_create(*files, name="npc", now=NOW)
    write_secret(files[0], private_pem(new_key()))
    with pytest.raises(DataError, match="restore both"):
        Authority.open_or_create(*files, name="npc", now=NOW)
    write_secret(files[0], b"no key")
    with pytest.raises(DataError, match="restore both"):
        Authority.open_or_create(*files, name="npc", now=NOW)
    files[0].unlink()
    with pytest.raises(DataError, match="missing: restore it"):
        Authority.open_or_create(*files, name="npc", now=NOW)


@pytest.mark.parametrize("host", ["größe", "two names", "", "https://study.example.org"])
def test_what_is_no_host_is_said(authority: Authority, host: str) -> None:
    with pytest.raises(DataError, match="no host name"):
        authority.server_certificate(("localhost", host), NOW)
