import pytest

from algorithms.contracts.errors import DataError
from algorithms.contracts.health import Check, CheckState, Concern, run_check

SECRET = "Nobody^Aurelia"


def test_what_is_found_is_told() -> None:
    assert run_check("disk", lambda: "12 GiB free") == Check("disk", CheckState.OK, "12 GiB free")


def test_a_concern_is_a_warning() -> None:
    check = run_check("disk", lambda: Concern("1 GiB free: make room"))
    assert (check.state, check.line) == (CheckState.WARNING, "1 GiB free: make room")


def fail(error: Exception) -> str:
    raise error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DataError("disk: full:\nmake room"), "disk: full: make room"),
        (PermissionError(13, "Permission denied", "/srv/x"), "PermissionError: Permission denied"),
        (KeyError(SECRET), "KeyError: a fault of fedgtv: report it"),
    ],
)
def test_what_is_raised_is_the_finding(error: Exception, line: str) -> None:
    check = run_check("disk", lambda: fail(error))
    assert check.state is CheckState.FAILED
    assert check.line.startswith(line)
    assert SECRET not in check.line
