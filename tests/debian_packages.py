"""Programs of Debian that stand on the other side in a test."""

import os
from typing import NoReturn

import pytest


def absent(program: str, packages: str) -> NoReturn:
    """Leave the test out, or fail it in CI.

    `make setup` installs the packages as root on Debian, so in CI their absence is a failure. Only
    a person without root goes without these tests, as `make setup` has told them.
    """
    if os.environ.get("CI"):
        pytest.fail(f"{program} is absent although setup installs it")
    pytest.skip(f"{program} is absent: install {packages}")
