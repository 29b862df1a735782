"""The pause before a program that ends at once is started again: it grows, up to a minute."""

import time
from pathlib import Path

import pytest
from supervisor.process import Subprocess
from supervisor.states import ProcessStates

from supervision.programs import Program, supervisor_configuration
from supervision.supervisor import LONGEST_PAUSE_S
from tests.supervision.test_programs import read_by_supervisord


@pytest.fixture
def process(tmp_path: Path) -> Subprocess:
    """Return what supervisord makes of a program, as its loop knows it."""
    text = supervisor_configuration(tmp_path, [Program("worker", ("/bin/false",))], {})
    options = read_by_supervisord(text, tmp_path)
    (group,) = options.process_group_configs
    return group.process_configs[0].make_process()


def test_a_program_that_never_starts_is_tried_again_every_minute(process: Subprocess) -> None:
    pauses_s = []
    for _ in range(1000):  # a weekend
        process.change_state(ProcessStates.STARTING)
        before = time.time()
        process.change_state(ProcessStates.BACKOFF)
        assert before <= process.delay - process.backoff <= time.time()
        assert process.backoff <= process.config.startretries  # or it would be given up
        pauses_s.append(process.backoff)
    assert pauses_s[:5] == [1, 2, 3, 4, 5]
    assert max(pauses_s) == pauses_s[-1] == LONGEST_PAUSE_S
