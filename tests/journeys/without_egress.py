"""Serves a coordinator and a hospital in a network namespace that leads nowhere, and counts.

    unshare --net python -m tests.journeys.without_egress FOLDER

There is nothing but the loopback interface. Whoever tries to reach another address, to ask for a
name too, fails for want of a route, and the kernel counts that, for every process of the namespace.
"""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from site_agent.coordinator_contact import last_asked_at
from tests.served import Served, make_served_study, wait

LONG_ENOUGH_S = 20.0  # telemetry and update checks come at the start


def attempts() -> int:
    """Return how often any process here tried to reach another machine."""
    lines = Path("/proc/net/snmp").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("Ip:"))
    six = dict(line.split() for line in Path("/proc/net/snmp6").read_text().splitlines())
    return int(dict(zip(names, values, strict=True))["OutNoRoutes"]) + int(six["Ip6OutNoRoutes"])


def main() -> None:
    """Print, as JSON, what was counted: while all served, and after three attempts on purpose."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    home, sites = make_served_study(Path(sys.argv[1]), "hospital-b", pages_at=("hospital-b",))
    site = sites["hospital-b"]
    parties = [Served("fedgtv-coordinator", home.folder), Served("fedgtv-site", site.folder)]
    try:
        for party in parties:
            party.start()
        wait(lambda: last_asked_at(site) is not None, "the site was not asked")
        wait(lambda: _answers(site.config.ui_port), "the pages do not answer")
        time.sleep(LONG_ENOUGH_S)
        programs = sorted(
            name
            for party in parties
            for name in ("superlink", "nginx", "ticker", "supernode", "executor", "worker", "ui")
            if party.process(name) is not None
        )
        serving = attempts()
    finally:
        for party in parties:
            party.end()
    counted = [serving]
    for call_out in (
        lambda: socket.create_connection(("192.0.2.7", 443)),
        lambda: socket.create_connection(("2001:db8::7", 443)),
        lambda: socket.getaddrinfo("telemetry.example.org", 443),
    ):
        with suppress(OSError):
            call_out()
        counted.append(attempts())
    sys.stdout.write(json.dumps({"programs": programs, "attempts": counted}) + "\n")


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    main()
