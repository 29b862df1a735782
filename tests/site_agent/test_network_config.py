import re
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from algorithms.contracts.errors import DataError
from site_agent.config import CONFIG_FILE, SiteConfig, open_home
from site_agent.dicomweb import DicomWebPacs
from site_agent.network_config import ListenerConfig, PacsConfig, Peer, TlsConfig
from site_agent.network_tls import client_context, first_line, server_context
from site_agent.pacs import open_pacs

PEER = '[[listener.peers]]\nae_title = "PACS"\naddress = "10.1.2.3"\n'
RULE = '[[listener.rules]]\nmodality = "MR"\n'
PACS = '[pacs]\nae_title = "PACS"\nhost = "10.1.2.3"\n'


def written(folder, text):
    (folder / CONFIG_FILE).write_text(f'name = "b"\nstudy = "npc"\n{text}', "utf-8")
    return open_home(folder)


def test_a_site_needs_neither_table_and_the_defaults_stay_on_this_machine(tmp_path) -> None:
    config = SiteConfig(name="b", study="npc")
    assert (config.pacs, config.listener) == (None, None)
    home = written(tmp_path, PACS + PEER + RULE)
    assert home.config.pacs is not None
    assert home.config.listener is not None
    assert home.config.pacs.receive_host == home.config.listener.host == "127.0.0.1"
    with pytest.raises(DataError, match=r"no table \[pacs\]"):
        open_pacs(written(tmp_path, ""))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PACS + "prot = 104", r"table 'pacs': unknown key 'prot': did you mean 'port'"),
        (PEER.replace("address", "adress") + RULE, r"table 'listener\.peers': .*'address'"),
        (PEER + RULE + 'modalty = "MR"', r"table 'listener\.rules': .*'modality'"),
        (PACS + '[pacs.tls]\nca = "x"', r"table 'pacs\.tls': unknown key 'ca'"),
        (PACS + 'own_ae_title = "SEVENTEEN_LETTERS"', r"'pacs\.own_ae_title': .*1 to 16"),
        (PACS.replace('"PACS"', '"   "'), r"'pacs\.ae_title': .*1 to 16"),
        (PACS.replace('"PACS"', '"A\\\\B"'), r"'pacs\.ae_title': .*backslash"),
        ('[pacs]\nae_title = "PACS"', r"'pacs': .*ae_title and host"),
        ('[pacs]\nprotocol = "dicomweb"', r"'pacs': .*needs the key url"),
        ('[pacs]\nprotocol = "dicomweb"\nurl = "http://pacs.example/rs"', r"https://"),
        ('[pacs]\nprotocol = "dicomweb"\nurl = "https://u:geheim@h/rs"', r"password_file"),
        ('[pacs]\nprotocol = "dicomweb"\nurl = "file:///etc/passwd"', r"needs the key url"),
        (PACS + 'user = "u"', "user and password_file go together"),
        (PACS + '[pacs.tls]\nca_file = "c"\nkey_file = "k"', "certificate_file and key_file"),
        (PEER, r"'listener\.rules': Field required"),
        (RULE, r"'listener\.peers': Field required"),
        (PEER.replace("10.1.2.3", "pacs") + RULE, r"'listener\.peers\.0\.address'"),
        (PEER + RULE + '[listener.tls]\nca_file = "c"', "needs certificate_file"),
    ],
)
def test_a_wrong_line_of_a_table_is_named(tmp_path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        written(tmp_path, text)
    assert str(tmp_path / CONFIG_FILE) in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_a_table_can_come_from_the_environment(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FEDGTV_SITE_PACS", '{"ae_title": "PACS", "host": "10.0.0.9"}')
    pacs = written(tmp_path, "").config.pacs
    assert pacs is not None
    assert (pacs.name, pacs.host) == ("PACS PACS", "10.0.0.9")
    monkeypatch.setenv("FEDGTV_SITE_PACS", '{"ae_title": "PACS", "hosts": "10.0.0.9"}')
    with pytest.raises(DataError, match=r"variable FEDGTV_SITE_PACS: table 'pacs': .*'host'"):
        written(tmp_path, "")


def test_the_documented_settings_are_accepted_and_its_defaults_are_true(tmp_path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "dicom-network.md").read_text("utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    config = written(tmp_path, example).config
    assert config.pacs is not None
    assert config.listener is not None
    given = {"ae_title", "host", "receive_host", "tls", "peers", "rules"}
    for table in (config.pacs, config.listener):
        for key in table.model_fields_set - given:
            assert getattr(table, key) == type(table).model_fields[key].default, key


@given(st.text(max_size=24))
def test_a_title_is_accepted_exactly_when_the_standard_allows_it(title: str) -> None:
    """PS3.5 6.2: 1 to 16 characters of the default repertoire, no backslash or control character.

    Blanks at either end mean nothing.
    """
    core = title.strip(" ")
    allowed = 1 <= len(core) <= 16 and all(0x20 <= ord(c) <= 0x7E and c != "\\" for c in core)
    try:
        found = PacsConfig(ae_title=title, host="h").ae_title
    except ValidationError:
        assert not allowed
    else:
        assert allowed
        assert found == core


@pytest.mark.parametrize(
    ("address", "caller", "expected"),
    [
        ("10.1.2.3", ("PACS", "10.1.2.3"), True),
        ("10.1.2.3", ("PACS", "10.1.2.4"), False),
        ("10.1.2.3", ("PACS2", "10.1.2.3"), False),
        ("10.1.2.0/24", ("PACS", "10.1.2.77"), True),
        ("10.1.2.0/24", ("PACS", "10.1.3.77"), False),
        ("10.1.2.3", ("PACS", "::ffff:10.1.2.3"), True),
        ("fe80::1", ("PACS", "fe80::1%eth0"), True),
        ("::1", ("PACS", "127.0.0.1"), False),
    ],
)
def test_a_peer_is_its_name_and_its_address(address, caller, expected) -> None:
    peer = Peer.model_validate({"ae_title": "PACS", "address": address})
    assert peer.is_at(*caller) is expected


# -- TLS and secrets: files below the home ------------------------------------------------------


def certificates(folder) -> TlsConfig:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    own = authority.issue_cert("127.0.0.1", "localhost")
    own.private_key_pem.write_to_path(folder / "own.key")
    own.cert_chain_pems[0].write_to_path(folder / "own.pem")
    return TlsConfig.model_validate(
        {"ca_file": "ca.pem", "certificate_file": "own.pem", "key_file": "own.key"}
    )


def test_paths_are_below_the_home_and_old_tls_is_off(tmp_path) -> None:
    tls = certificates(tmp_path)
    for context in (client_context(tls, tmp_path), server_context(tls, tmp_path)):
        assert context.minimum_version.name == "TLSv1_2"
        assert context.verify_mode.name == "CERT_REQUIRED"
        assert len(context.get_ca_certs()) == 1
    assert client_context(tls, tmp_path).check_hostname


@pytest.mark.parametrize(
    ("file", "words"), [("ca.pem", "correct ca_file"), ("own.key", "certificate_file, key_file")]
)
@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_file_that_is_no_certificate_is_named(tmp_path, file, words, content) -> None:
    tls = certificates(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match=words) as caught:
        server_context(tls, tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_secret_is_the_first_line_of_its_file(tmp_path) -> None:
    file = tmp_path / "password"
    with pytest.raises(DataError, match="secret is missing"):
        first_line(file)
    file.write_text("\n")
    with pytest.raises(DataError, match="first line is empty"):
        first_line(file)
    file.write_text("geheim \nmore\n")
    assert first_line(file) == "geheim"
    file.write_bytes(b"\xef\xbb\xbfge\xc3\xa4im\r\n")  # as an editor on Windows saves it
    assert first_line(file) == "geäim"
    file.write_bytes("geäim".encode("latin-1"))
    with pytest.raises(DataError, match="not in UTF-8") as caught:
        first_line(file)
    assert "im" not in str(caught.value).removeprefix(str(file))


def test_a_token_is_printable_ascii(tmp_path) -> None:
    config = PacsConfig(protocol="dicomweb", url="http://127.0.0.1:1/x", token_file="token")
    (tmp_path / "token").write_bytes(b"\xef\xbb\xbfabc.def-_~+/==\r\n")
    DicomWebPacs(config, tmp_path)
    for wrong in ("secret\N{EURO SIGN}", "s\u200becret", "secrét", "sec\x00ret"):
        (tmp_path / "token").write_text(wrong, "utf-8")
        with pytest.raises(DataError, match="token: the token holds") as caught:
            DicomWebPacs(config, tmp_path)
        assert "sec" not in str(caught.value).removeprefix(str(tmp_path))


def test_settings_of_a_listener_cannot_be_changed_after_reading() -> None:
    config = ListenerConfig.model_validate(
        {"peers": [{"ae_title": "A", "address": "10.0.0.1"}], "rules": [{}]}
    )
    with pytest.raises(ValidationError, match="frozen"):
        config.port = 1  # type: ignore[misc]
