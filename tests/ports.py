"""Ports of this machine for the servers that tests start."""

import os
import random
import socket

_OWN_PORTS = (10_000, 32_000)  # below what Linux gives out
_CHANCE = random.Random(os.getpid())  # two test runs side by side draw different ones
_GIVEN: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Return ports that nobody uses, and that the system gives to nobody who asks for any port.

    Ports that the system chose may be another program's before ours has opened them (again).
    """
    ports: list[int] = []
    while len(ports) < count:
        port = _CHANCE.randrange(*_OWN_PORTS)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        if port not in _GIVEN:
            _GIVEN.add(port)
            ports.append(port)
    return ports
