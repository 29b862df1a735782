"""Kills deliveries again and again, at moments drawn from a seed, until they are done.

Run as `python -m tests.journeys.delivery_kills FOLDER SEED`. Both parties run in one child
process over the embedded transport, so a kill meets either of them at any step. The child is a
fork of this process, which has everything imported: it is at work at once.
"""

import importlib
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from coordinator.config import open_home
from coordinator.embedded_transport import EmbeddedTransport

TARGET = "hospital-b"
NEEDED = ("site_agent.client_app", "algorithms.features", "algorithms.networks")


def _deliver(folder: Path) -> None:
    homes = {name: folder / name for name in ("hospital-a", TARGET)}
    with EmbeddedTransport(
        open_home(folder / "coordinator"), homes, site_app="site_agent.client_app:app"
    ) as transport:
        transport.tick()


def _child(folder: Path) -> int:
    process = os.fork()
    if process == 0:
        os.setsid()
        try:
            _deliver(folder)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return process


def _ends_well(process: int) -> bool:
    """Wait for a child; False when it was killed.

    Raises:
        SystemExit: when it failed by itself: a kill must not lead to that.
    """
    _, status = os.waitpid(process, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        sys.exit("a child failed")
    return os.WIFEXITED(status)


def main() -> None:
    """Kill in every study below the folder until it is done, and print how many kills met."""
    for name in NEEDED:
        importlib.import_module(name)
    folder, rng = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
    began = time.monotonic()
    _ends_well(_child(folder / "undisturbed"))
    whole_s = time.monotonic() - began
    kills = 0
    for study in sorted(folder.glob("killed-*")):
        done = False
        while not done:
            process = _child(study)
            time.sleep(rng.uniform(0.0, 0.6 * whole_s))
            os.kill(process, signal.SIGKILL)
            done = _ends_well(process)
            kills += not done
        _ends_well(_child(study))  # what was learned from a status: nothing is left over
    sys.stdout.write(f"{kills}\n")


if __name__ == "__main__":
    main()
