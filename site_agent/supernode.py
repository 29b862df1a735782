"""Starts Flower's SuperNode so that it shows this hospital's certificate, and to the study only.

    python -m site_agent.supernode --home HOME --port PORT

Flower 1.41 speaks to the SuperLink with httpx and has no option for a client certificate: it hands
the authorities' certificates to one client class. Here that class gets a context with our
certificate in their place; the rest is `flower-supernode`. httpx asks the hospital's proxy for a
tunnel where `https_proxy` or the environment names one.

No ClientApp runs in it: `site_agent.site_executor` asks it for messages on the loopback interface.
"""

import argparse
import os
import ssl
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supernode import fleet_http_connection
from flwr.supernode.cli import flower_supernode
from flwr.supernode.fleet_http_client import FleetHttpClient

from algorithms.contracts.errors import DataError, failure_line
from site_agent.config import SiteHome, open_home
from site_agent.site_keys import CA_CERTIFICATE, NODE_KEY, read_enrolment, tls_context


def start(home: SiteHome, port: int, secret_file: str | None = None) -> None:
    """Run a SuperNode until it is ended, or refused.

    Args:
        home: of the site; it is enrolled.
        port: on 127.0.0.1, where the site executor asks for messages.
        secret_file: holds what the executor proves itself with, as `--secret-file` there.

    Raises:
        DataError: the site is not enrolled, or its keys are damaged.
    """
    enrolment = read_enrolment(home)
    if enrolment is None:
        raise DataError(f"{home.keys}: not enrolled: run 'fedgtv-site enrol'")
    show_certificate(tls_context(home))
    if home.config.https_proxy:
        os.environ["https_proxy"] = home.config.https_proxy  # httpx prefers it in lower case
    folder = home.folder / "flower"
    folder.mkdir(mode=0o700, exist_ok=True)
    os.environ.setdefault("FLWR_HOME", str(folder / "flwr-home"))
    sys.argv = [
        "flower-supernode",
        *("--superlink", enrolment.coordinator_address),
        *("--root-certificates", str(home.keys / CA_CERTIFICATE)),
        *("--auth-supernode-private-key", str(home.keys / NODE_KEY)),
        *("--isolation", "process", "--host", "127.0.0.1", "--port", str(port)),
        *(() if secret_file is None else ("--superexec-auth-secret-file", secret_file)),
    ]
    flower_supernode()


def show_certificate(context: ssl.SSLContext) -> None:
    """Let every connection of this process to a SuperLink's Fleet API use `context`."""

    class CertifiedClient(FleetHttpClient):
        @classmethod
        def from_server_address(
            cls,
            server_address: str,
            insecure: bool,
            root_certificates: bytes | str | None,
            interceptors: Sequence[ProtobufClientInterceptor],
            **others: Any,
        ) -> Self:
            return cls(
                f"https://{server_address}", interceptors=interceptors, verify=context, **others
            )

    fleet_http_connection.FleetHttpClient = CertifiedClient  # type: ignore[attr-defined]


def main() -> None:
    """Run the command; an expected error is one line and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1")
    parser.add_argument("--secret-file", help="as of the site executor")
    given = parser.parse_args()
    try:
        start(open_home(given.home), given.port, given.secret_file)
        print("error: the connection ended: see the lines above", file=sys.stderr)  # noqa: T201
    except Exception as error:  # the edge of the process
        if line := failure_line(error):
            print(f"error: {line}", file=sys.stderr)  # noqa: T201 - a command's answer
            sys.exit(2)
        traceback.print_exc()
    # After a refusal Flower's API server, a thread, would live on: a process that looks well to
    # its supervisor and is offline. A polite end does not come here.
    sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    main()
