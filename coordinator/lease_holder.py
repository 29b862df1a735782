"""Who holds a lease: one tick of one process, told apart from every other on every machine.

A lease ends by itself after a time. That of a process that is known to be gone ends at once, so
that a coordinator that was killed and started again goes on without waiting.
"""

import os
import socket
import uuid
from pathlib import Path


def new_holder() -> str:
    """Name a new holder in this process."""
    me = os.getpid()
    return f"{socket.gethostname()}/{me}/{_started_at(me)}/{uuid.uuid4().hex}"


def is_gone(holder: str) -> bool:
    """Say whether the process of a holder ran on this machine and has ended."""
    machine, process, started_at, _ = holder.split("/")
    return machine == socket.gethostname() and _started_at(int(process)) != started_at


def _started_at(process: int) -> str:
    """Return when a process began, in ticks since the machine did: its number may be used again."""
    try:
        text = Path(f"/proc/{process}/stat").read_text("ascii", "replace")
    except OSError:
        return "never"
    fields = text.rpartition(")")[2].split()  # behind the name, which may hold anything
    return "never" if fields[0] == "Z" else fields[19]
