"""What reviewers corrected becomes what the next round learns from.

A site's split never changes for who is in it: test patients stay test patients. Those who came
later were segmented by the model in use and corrected by a reviewer; from end to end, they join the
training patients. With them the case set is another one, and so is the round: it begins with the
package's model again, and learns from all that is known by then.
"""

from collections import defaultdict
from dataclasses import dataclass

from algorithms.contracts.case import Case, Split
from algorithms.contracts.errors import DataError
from algorithms.contracts.messages import RoundState
from site_agent.case_store import CaseStore
from site_agent.database import utc_now
from site_agent.package_store import load_package
from site_agent.site_lock import only_worker


@dataclass(frozen=True)
class Joined:
    """Who joined the training patients.

    Attributes:
        patients: how many.
        slices: all of theirs.
        waiting: other patients who came later, of whom some case is not reviewed yet.
    """

    patients: int
    slices: int
    waiting: int


def begin_next_round(store: CaseStore, *, actor: str) -> Joined:
    """Let the patients who were reviewed since join the training patients.

    Raises:
        DataError: when a round is under way, another worker runs, or nobody can join.
    """
    with only_worker(store.home):
        latest = store.latest_round()
        if latest is None or latest.state != RoundState.REPORTED.value:
            raise DataError(
                "the round under way is not reported yet: finish its annotations and reviews, and "
                "run 'fedgtv-site work'"
            )
        manifest, _ = load_package(store.home, latest.package_id)
        by_patient: defaultdict[str, list[Case]] = defaultdict(list)
        for case in store.cases(Split.UNASSIGNED):
            if case.modality == manifest.modality:
                by_patient[case.patient_id].append(case)
        now = utc_now()
        ready = {
            patient: cases
            for patient, cases in by_patient.items()
            if all(
                store.last_correction(case.case_id, manifest.roi_name, before=now) is not None
                for case in cases
            )
        }
        if not ready:
            raise DataError(
                f"{len(by_patient)} patients came after the study's, and none has been reviewed: "
                "ingest new patients, run 'fedgtv-site work' to segment them, and review them"
            )
        store.join_training(ready, manifest.modality, actor=actor)
    slices = sum(case.shape_zyx[0] for cases in ready.values() for case in cases)
    return Joined(len(ready), slices, len(by_patient) - len(ready))
