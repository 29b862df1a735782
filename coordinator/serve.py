"""Everything that a coordinator runs, under one supervisor."""

import shutil
import sys

from algorithms.contracts.errors import DataError
from coordinator.config import CONFIG_FILE, CoordinatorHome
from coordinator.reverse_proxy import write_configuration
from coordinator.superlink_state import forget_runs
from coordinator.ticker import superlink_client
from supervision.programs import Program
from supervision.serving import check_ports, not_served

PYTHON = (sys.executable, "-P", "-m")  # never from the working directory


def coordinator_programs(home: CoordinatorHome) -> list[Program]:
    """Write what the programs read, and return them in the order in which they start.

    Raises:
        DataError: no nginx, no certificate, a port is taken, or the home is served.
    """
    config, tls = home.config, home.tls
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        raise DataError("nginx is not installed here: install it, such as with apt install nginx")
    proxy = write_configuration(home, listen=config.listen, superlink_port=config.superlink_port)
    host, _, port = config.listen.rpartition(":")
    check_ports(
        CONFIG_FILE,
        {
            "listen": (host.strip("[]"), int(port)),
            "superlink_port": ("127.0.0.1", config.superlink_port),
            "operations_port": ("127.0.0.1", config.operations_port),
        },
    )
    with not_served(home.folder):  # nor about to be: its port may not be open yet
        forget_runs(home.flower / "state.db")
    client = superlink_client(home)
    client.write_connection()
    client.write_app()
    superlink = (
        *(*PYTHON, "coordinator.superlink"),
        *("--largest-reply-bytes", str(config.largest_reply_bytes)),
        *("--host", "127.0.0.1", "--port", str(config.superlink_port), "--enable-supernode-auth"),
        *("--ssl-certfile", str(tls / "server.crt"), "--ssl-keyfile", str(tls / "server.key")),
        *("--ssl-ca-certfile", str(tls / "ca.crt"), "--database", str(home.flower / "state.db")),
        "--disable-runtime-dependency-installation",
    )
    us = ("--home", str(home.folder))
    return [
        Program("superlink", superlink),
        Program("nginx", (nginx, "-e", "stderr", "-c", str(proxy), "-g", "daemon off;")),
        Program("ticker", (*PYTHON, "coordinator.ticker", *us)),
        Program(
            "operations",
            (*PYTHON, "coordinator.operations", *us, "--port", str(config.operations_port)),
        ),
    ]
