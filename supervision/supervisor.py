"""supervisord, with the pause between two starts bounded: it has no setting for that.

    python -m supervision.supervisor -n -c supervisord.conf

Its own pause grows by a second with each start that failed, for ever: after a night it would be
minutes, and what was wrong may be mended meanwhile.
"""

from typing import Any

from supervisor import supervisord
from supervisor.process import Subprocess

LONGEST_PAUSE_S = 60

_change_state = Subprocess.change_state


def _bounded(process: Any, new_state: int, expected: bool = True) -> Any:
    """Change the state of a program; one that failed adds a second to what is at most less."""
    process.backoff = min(process.backoff, LONGEST_PAUSE_S - 1)
    return _change_state(process, new_state, expected)


Subprocess.change_state = _bounded

if __name__ == "__main__":
    supervisord.main()
