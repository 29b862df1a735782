"""A console command in the process of the test: spares a second of imports each time."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch


def command_here(main: Callable[[], None], *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the `main` of a party with arguments; what it sets for its process is undone."""
    command = ["command", *map(str, arguments)]
    output, errors = io.StringIO(), io.StringIO()
    at_end = signal.getsignal(signal.SIGTERM)
    code = 0
    try:
        with (
            patch.object(sys, "argv", command),
            patch.dict(os.environ),
            redirect_stdout(output),
            redirect_stderr(errors),
        ):
            main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        signal.signal(signal.SIGTERM, at_end)
    return subprocess.CompletedProcess(command, code, output.getvalue(), errors.getvalue())
