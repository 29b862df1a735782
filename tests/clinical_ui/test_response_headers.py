"""What the headers allow, asked of a browser's rules and of a small application behind them."""

import asyncio
import base64
import hashlib
import re

import pytest

from clinical_ui.response_headers import ResponseHeaders, content_security_policy


def directives(policy: str) -> dict[str, list[str]]:
    return {name: words for name, *words in (part.split() for part in policy.split("; "))}


def answer(path: str, *, kind: str = "http", **options) -> dict[bytes, list[bytes]]:
    """Ask an application that sets headers of its own; return what reaches the browser."""
    sent = []

    async def app(scope, receive, send):
        headers = [(b"Cache-Control", b"public, max-age=9"), (b"content-type", b"text/html")]
        await send({"type": f"{kind}.response.start", "status": 200, "headers": headers})
        await send({"type": f"{kind}.response.body", "body": b"x"})

    async def send(message):
        sent.append(message)

    wrapped = ResponseHeaders(app, **options)
    asyncio.run(wrapped({"type": kind, "path": path}, lambda: None, send))
    assert sent[1] == {"type": f"{kind}.response.body", "body": b"x"}
    found: dict[bytes, list[bytes]] = {}
    for name, value in sent[0]["headers"]:
        found.setdefault(name.lower(), []).append(value)
    return found


def test_nothing_is_allowed_but_what_this_server_sends() -> None:
    policy = directives(content_security_policy())
    assert policy["default-src"] == ["'none'"]
    assert policy["connect-src"] == ["'self'"]
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["frame-src"] == ["'none'"]
    words = {word for allowed in policy.values() for word in allowed}
    assert words == {"'none'", "'self'", "'unsafe-inline'", "data:", "blob:"}
    assert policy["script-src"] == ["'self'", "blob:"]  # no inline script, no eval


def test_inline_scripts_of_the_page_are_allowed_by_their_hash_alone() -> None:
    page = b"<script>\n a = 1\n</script><script src='x.js'></script><script>b</script>"
    allowed = directives(content_security_policy(page))["script-src"]
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"
        for text in (b"\n a = 1\n", b"b")
    ]
    assert allowed == ["'self'", "blob:", *hashes]


def test_every_page_carries_them_once_and_is_not_kept() -> None:
    for path in ("/", "/study", "/_stcore/health", "/media/x.png", "/static", "/auth/login"):
        headers = answer(path)
        assert headers[b"cache-control"] == [b"no-store"]
        assert headers[b"content-type"] == [b"text/html"]
        assert headers[b"x-frame-options"] == [b"DENY"]
        assert headers[b"referrer-policy"] == [b"no-referrer"]
        assert headers[b"x-content-type-options"] == [b"nosniff"]
        assert len(headers[b"content-security-policy"]) == 1
        assert b"strict-transport-security" not in headers


@pytest.mark.parametrize(
    "path", ["/static/js/index.Dorm.js", "/_stcore/bidi-components/viewer/a.js"]
)
def test_programs_with_a_hash_in_their_name_are_kept_as_before(path) -> None:
    assert answer(path)[b"cache-control"] == [b"public, max-age=9"]


def test_behind_tls_browsers_are_told_to_stay_there() -> None:
    (value,) = answer("/", encrypted=True)[b"strict-transport-security"]
    assert int(re.fullmatch(rb"max-age=(\d+)", value)[1]) >= 31536000


def test_what_is_no_http_answer_is_left_alone() -> None:
    assert set(answer("/", kind="websocket")) == {b"cache-control", b"content-type"}
