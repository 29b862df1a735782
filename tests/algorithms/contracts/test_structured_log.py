import json
import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.contracts.structured_log import NOT_KEPT, JsonFormatter

SECRET = "Nobody^Aurelia"


def record(logger: str, text: str, *args: object, error: Exception | None = None):
    information = None
    if error is not None:
        try:
            raise error
        except Exception:
            information = sys.exc_info()
    return logging.LogRecord(logger, logging.ERROR, __file__, 7, text, args, information)


def told(*args, **settings) -> dict[str, object]:
    line = JsonFormatter("site hospital-b").format(record(*args, **settings))
    assert "\n" not in line
    return json.loads(line)


def test_our_own_words_are_kept() -> None:
    line = told("fedgtv.worker", "round %s: %s", "abc", "training")
    assert line["event"] == "round abc: training"
    assert (line["level"], line["party"]) == ("error", "site hospital-b")
    assert str(line["at"]).endswith("+00:00")


def test_a_librarys_words_are_not() -> None:
    line = told("pydicom", f"Invalid value for PN: {SECRET}")
    assert line["event"] == NOT_KEPT
    assert line["where"] == ["test_structured_log:7"]


@pytest.mark.parametrize("logger", ["fedgtv.worker", "pydicom"])
def test_of_an_error_only_its_kind_and_place_are_kept(logger: str) -> None:
    line = told(logger, "a step failed", error=KeyError(SECRET))
    assert line["error"] == "KeyError"
    assert SECRET not in json.dumps(line)
    assert "record" in str(line["where"])


@given(st.text())
def test_whatever_is_told_is_one_line_of_json(text: str) -> None:
    assert told("fedgtv", "%s", text)["event"] == text


PROGRAM = """
import logging
from algorithms.contracts.structured_log import log_as_json
log_as_json("coordinator")
logging.getLogger("fedgtv.x").info("begun")
logging.getLogger("urllib3").info("GET /Nobody")
logging.getLogger("urllib3").warning("GET /Nobody")
"""


def test_a_process_logs_so() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["begun", NOT_KEPT]
    assert "Nobody" not in done.stderr
