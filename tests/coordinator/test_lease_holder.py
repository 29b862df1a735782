import subprocess
import sys

from coordinator.lease_holder import is_gone, new_holder


def test_every_holder_is_another_and_lives() -> None:
    one, other = new_holder(), new_holder()
    assert one != other
    assert not is_gone(one)


def test_a_process_that_ended_is_gone() -> None:
    code = "from coordinator.lease_holder import new_holder; print(new_holder())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert is_gone(done.stdout.strip())


def test_a_number_that_was_used_again_is_another_process() -> None:
    machine, process, started_at, tick = new_holder().split("/")
    assert is_gone("/".join((machine, process, str(int(started_at) - 1), tick)))


def test_nothing_is_known_of_another_machine() -> None:
    assert not is_gone("another-machine/1/1/ab")
