"""What every answer of the server tells the browser it may do: next to nothing."""

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
Asgi = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

# Programs and fonts with a hash in their names, the same for everybody.
_MAY_BE_KEPT = ("/static/", "/_stcore/bidi-components/")
_INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


def content_security_policy(page: bytes = b"") -> str:
    """Return the policy; `page` is Streamlit's, whose own inline scripts are allowed by hash.

    blob: is how Streamlit starts the modules of components. Styles are inline all over Streamlit.
    """
    hashes = "".join(
        f" 'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"
        for script in _INLINE_SCRIPT.findall(page)
    )
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'self' blob:{hashes}",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "connect-src 'self'",
            "worker-src 'self' blob:",
            "manifest-src 'self'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-src 'none'",
            "frame-ancestors 'none'",
        )
    )


class ResponseHeaders:
    """ASGI middleware that adds the headers to every answer, replacing those of the same name."""

    def __init__(self, app: Asgi, *, encrypted: bool = False) -> None:
        """Wrap `app`; `encrypted` where browsers come through a TLS proxy and shall stay there."""
        import streamlit

        page = Path(streamlit.__file__).parent / "static" / "index.html"
        self._app = app
        self._headers = {
            b"content-security-policy": content_security_policy(page.read_bytes()).encode(),
            b"x-frame-options": b"DENY",
            b"x-content-type-options": b"nosniff",
            b"referrer-policy": b"no-referrer",
            b"cross-origin-opener-policy": b"same-origin",
            b"cross-origin-resource-policy": b"same-origin",
            b"permissions-policy": b"camera=(), microphone=(), geolocation=(), usb=(), payment=()",
        }
        if encrypted:
            self._headers[b"strict-transport-security"] = b"max-age=31536000"

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        added = dict(self._headers)
        if not scope["path"].startswith(_MAY_BE_KEPT):
            added[b"cache-control"] = b"no-store"

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(k, v) for k, v in message["headers"] if k.lower() not in added]
                message = {**message, "headers": [*kept, *added.items()]}
            await send(message)

        await self._app(scope, receive, send_with_headers)
