"""Starts the worker whenever there is something to do, for as long as the site serves.

    python -m site_agent.worker_loop --home HOME

It looks into the database every few seconds; the worker, which loads much more, is a process of its
own that ends with its work. The worker's lock keeps it the only one, whoever starts it.
"""

import argparse
import logging
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from algorithms.contracts.case import Split
from algorithms.contracts.errors import expected_errors_are_one_line
from algorithms.contracts.messages import RoundState
from algorithms.contracts.structured_log import log_as_json
from site_agent import start_worker
from site_agent.case_store import CaseStore
from site_agent.config import SiteHome, open_home
from site_agent.database import utc_now
from site_agent.model_store import active_model
from site_agent.package_store import active_package
from site_agent.plan_store import PlanRefused, plan_in_force
from site_agent.site_lock import is_working

LOOK_S = 5.0
LONGEST_PAUSE_S = 600.0

_log = logging.getLogger("site_agent.worker_loop")


@dataclass(frozen=True)
class Standing:
    """Where a site stands, as far as it decides whether the worker has something to do.

    Attributes:
        package_id, round_id: the active package, for which a plan is in force, and its round.
        state: of that round; None before there is one with the package.
        people_are_done: with what the state waits for.
        cases: how many there are by split: new patients are segmented and measured.
        model: the site's own in use; another one segments them anew.
    """

    package_id: str
    round_id: str
    state: RoundState | None
    people_are_done: bool
    cases: tuple[tuple[str, int], ...]
    model: str

    @property
    def waits_for_people(self) -> bool:
        """Say whether the round goes on without the worker."""
        if self.state in (RoundState.AWAITING_ANNOTATION, RoundState.AWAITING_REVIEW):
            return not self.people_are_done
        return self.state is RoundState.REPORTED


def read_standing(store: CaseStore) -> Standing | None:
    """Read where a site stands; None without an approved package and a plan in force for it."""
    package = active_package(store.engine)
    if package is None:
        return None
    try:
        plan_in_force(store.home, store.engine, package.package_id, now=utc_now())
    except PlanRefused:
        return None
    row, model = store.latest_round(), active_model(store.engine)
    mine = row if row is not None and row.package_id == package.package_id else None
    return Standing(
        package_id=package.package_id,
        round_id="" if mine is None else mine.round_id,
        state=None if mine is None else RoundState(mine.state),
        people_are_done=mine is not None and _people_are_done(store, mine.round_id, mine.state),
        cases=tuple(sorted(store.counts().items())),
        model="" if model is None else model.sha256,
    )


def _people_are_done(store: CaseStore, round_id: str, state: str) -> bool:
    if state == RoundState.AWAITING_ANNOTATION:
        return not store.tasks(round_id, state="open")
    if state == RoundState.AWAITING_REVIEW:
        reviewed = {review.case_id for review in store.reviews(round_id)}
        return all(case.case_id in reviewed for case in store.cases(Split.TEST))
    return True


class WorkerLoop:
    """Decides when the worker is started.

    After a worker that left nothing to do it is not started again before something changed; after
    one that failed, or left something, with a pause that doubles.

    Args:
        home, store: of the site.
        command: of the worker.
    """

    def __init__(self, home: SiteHome, store: CaseStore, command: Sequence[str]) -> None:
        self._home, self._store, self._command = home, store, command
        self._settled: Standing | None = None
        self._tried: Standing | None = None
        self._pause_s = 0.0
        self._not_before_s = 0.0

    def look(self, now_s: float) -> bool:
        """Run the worker if there is something to do; say whether it ran.

        Args:
            now_s: of a clock that never goes back.
        """
        standing = read_standing(self._store)
        if standing is None or standing == self._settled or is_working(self._home):
            return False
        if standing != self._tried:
            self._pause_s = self._not_before_s = 0.0
        if now_s < self._not_before_s:
            return False
        with start_worker.open_log(self._home) as printed:
            code = subprocess.call(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
            )
        after = read_standing(self._store)
        is_settled = code == 0 and after is not None and after.waits_for_people
        self._settled = after if is_settled else None
        self._tried = after
        self._pause_s = min(max(2 * self._pause_s, LOOK_S), LONGEST_PAUSE_S)
        self._not_before_s = now_s + self._pause_s
        _log.log(
            logging.INFO if code == 0 else logging.WARNING,
            "the worker ended with code %d, the round is: %s",
            code,
            after.state if after is not None else None,
        )
        return True


def main() -> None:
    """Run the loop; an expected error is one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m site_agent.worker_loop")
    parser.add_argument("--home", type=Path, required=True)
    with expected_errors_are_one_line():
        home = open_home(parser.parse_args().home)
        log_as_json(f"site {home.config.name}")
        loop = WorkerLoop(home, CaseStore(home), start_worker.command(home))
        while True:
            loop.look(time.monotonic())
            time.sleep(LOOK_S)


if __name__ == "__main__":
    main()
