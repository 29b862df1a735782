import pytest

from algorithms.contracts.errors import DataError
from site_agent.config import CONFIG_FILE, SiteConfig, open_home

URL = 'server_metadata_url = "https://id.example/.well-known/openid-configuration"\n'
CLIENT = 'client_id = "fedgtv"\nclient_secret_file = "secrets/oidc.secret"\n'
BACK = 'redirect_uri = "https://fedgtv.example/oauth2callback"\n'
OIDC = f'[sign_in]\nmethod = "oidc"\n{URL}{CLIENT}{BACK}'


def written(folder, text):
    (folder / CONFIG_FILE).write_text(f'name = "b"\nstudy = "npc"\n{text}', "utf-8")
    return open_home(folder).config.sign_in


def test_by_default_there_are_local_accounts_half_an_hour_and_a_working_day() -> None:
    config = SiteConfig(name="b", study="npc").sign_in
    assert (config.method, config.idle_s, config.absolute_s) == ("local", 1800, 43200)
    assert config.origin is None


def test_a_provider_is_told_in_one_table(tmp_path) -> None:
    config = written(tmp_path, OIDC + "idle_timeout_min = 5\n")
    assert (config.method, config.client_id, config.idle_s) == ("oidc", "fedgtv", 300)
    assert config.origin == "https://fedgtv.example"
    public = written(tmp_path, '[sign_in]\npublic_url = "https://gtv.example:8443"\n')
    assert public.origin == "https://gtv.example:8443"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[sign_in]\nidle_timeout = 5\n", "did you mean 'idle_timeout_min'"),
        ("[sign_in]\nidle_timeout_min = 0\n", "idle_timeout_min"),
        ("[sign_in]\nabsolute_timeout_h = 1000\n", "absolute_timeout_h"),
        ('[sign_in]\nmethod = "ldap"\n', "method"),
        ('[sign_in]\nmethod = "oidc"\n', "needs server_metadata_url, client_id"),
        (f'[sign_in]\nmethod = "oidc"\n{URL}{CLIENT}', "needs redirect_uri"),
        (f"[sign_in]\n{URL}", 'server_metadata_url belongs to method = "oidc"'),
        (OIDC.replace("oauth2callback", "callback"), "with /oauth2callback"),
        (OIDC.replace("https://id.", "http://id."), "begins with https://"),
        (OIDC.replace("https://fedgtv.", "http://fedgtv."), "begins with https://"),
        (OIDC.replace("https://id.", "https://u:secret@id."), "without user name"),
        ('[sign_in]\npublic_url = "https://gtv.example/pages"\n', "without a path"),
        ('[sign_in]\npublic_url = "gtv.example"\n', "begins with https://"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, text, words) -> None:
    with pytest.raises(DataError, match=words) as caught:
        written(tmp_path, text)
    assert "sign_in" in str(caught.value)
    assert "u:secret" not in str(caught.value)


def test_on_this_machine_a_provider_may_be_tried_in_the_clear(tmp_path) -> None:
    text = OIDC.replace("https://id.example", "http://127.0.0.1:9000")
    text = text.replace("https://fedgtv.example", "http://127.0.0.1:8501")
    assert written(tmp_path, text).origin == "http://127.0.0.1:8501"
