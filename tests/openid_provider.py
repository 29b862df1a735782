"""A small OpenID provider for tests: discovery, authorisation code with PKCE, signed ID tokens.

Who comes is let in without a question, as by a hospital's single sign-on; `prompt=login` counts as
proving anew who is there. Only what `st.login` needs, from OpenID Connect Core 1.0.
"""

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT_ID, CLIENT_SECRET = "fedgtv", "the client's secret"


@dataclass
class Provider:
    """What the provider knows; a test may change it between two visits.

    Attributes:
        subject: who sits at the browser.
        logged_in_at: when they last proved it, Unix seconds.
        obeys_prompt: whether `prompt=login` makes them prove it anew.
        asked: the queries of all authorisation requests.
        signed_out: how many came to sign out.
    """

    issuer: str = ""
    subject: str = "7"
    logged_in_at: float = field(default_factory=lambda: time.time() - 3600)
    obeys_prompt: bool = True
    asked: list[dict[str, str]] = field(default_factory=list)
    signed_out: int = 0
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "1"}))
    codes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def metadata(self) -> dict[str, Any]:
        """Return the discovery document."""
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "end_session_endpoint": f"{self.issuer}/logout",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "code_challenge_methods_supported": ["S256"],
        }

    def authorize(self, query: dict[str, str]) -> str:
        """Let the browser in; return where it is sent."""
        self.asked.append(query)
        if query.get("prompt") == "login" and self.obeys_prompt:
            self.logged_in_at = time.time()
        code = secrets.token_urlsafe(16)
        self.codes[code] = {**query, "sub": self.subject, "auth_time": int(self.logged_in_at)}
        return f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}"

    def token(self, form: dict[str, str], basic: str) -> dict[str, Any]:
        """Exchange a code, once, for an ID token; its client and its verifier are checked."""
        asked = self.codes.pop(form["code"])
        client = base64.b64decode(basic.removeprefix("Basic ")).decode()
        assert client.split(":") == [CLIENT_ID, CLIENT_SECRET]
        challenge = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge_text = base64.urlsafe_b64encode(challenge).decode().rstrip("=")
        assert challenge_text == asked["code_challenge"]
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": CLIENT_ID,
            "sub": asked["sub"],
            "iat": now,
            "exp": now + 300,
            "nonce": asked["nonce"],
            "auth_time": asked["auth_time"],
        }
        token = jwt.encode({"alg": "RS256", "kid": "1"}, claims, self.key)
        return {"access_token": "x", "token_type": "Bearer", "id_token": token}


@contextmanager
def running_provider() -> Iterator[Provider]:
    """Serve a provider on this machine."""
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            if parts.path == "/.well-known/openid-configuration":
                self._answer(provider.metadata())
            elif parts.path == "/jwks":
                self._answer({"keys": [provider.key.as_dict(private=False)]})
            elif parts.path == "/authorize":
                self._send_to(provider.authorize(query))
            elif parts.path == "/logout":
                provider.signed_out += 1
                self._send_to(query["post_logout_redirect_uri"])
            else:
                self.send_error(404)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {key: values[0] for key, values in parse_qs(body).items()}
            self._answer(provider.token(form, self.headers["Authorization"]))

        def _answer(self, value: dict[str, Any]) -> None:
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _send_to(self, url: str) -> None:
            self.send_response(302)
            self.send_header("Location", url)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        provider.issuer = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield provider
        finally:
            server.shutdown()
            thread.join()
