"""Runs the long steps outside the federation and the pages, one worker at a time per site."""

import logging

from algorithms.contracts.errors import DataError
from algorithms.contracts.federation_plan import FederationPlan
from algorithms.contracts.messages import RoundState
from site_agent.adaptation import advance
from site_agent.adaptation_round import ACTOR, Round, open_round
from site_agent.case_store import CaseStore
from site_agent.case_workflow import TRANSITIONS, RoundEvent
from site_agent.config import SiteHome
from site_agent.database import utc_now
from site_agent.drift import measure_distances
from site_agent.live_progress import clear_progress
from site_agent.model_promotion import segment_new_patients
from site_agent.model_update import prepare_update
from site_agent.package_store import active_package, load_package
from site_agent.patient_split import assign_patients
from site_agent.plan_store import plan_in_force
from site_agent.segmentation import use_threads
from site_agent.site_lock import only_worker

log = logging.getLogger("fedgtv.worker")


def work(home: SiteHome, store: CaseStore) -> RoundState:
    """Take the active package as far as it goes without people.

    Returns:
        Where the round stands: waiting for annotation or review, or reported; NONE without an
        approved package.

    Raises:
        DataError: when another worker runs, no case has the modality of the package, or fewer
            patients are here than the plan asks for.
        PlanRefused: when no plan with two signatures is in force for the package.
    """
    use_threads(home.config.threads)
    with only_worker(home):
        clear_progress(home)  # of one that was killed
        package = active_package(store.engine)
        if package is None:
            return RoundState.NONE
        plan = plan_in_force(home, store.engine, package.package_id, now=utc_now())
        manifest, _ = load_package(home, package.package_id)
        _check_cohort(store, plan)
        assign_patients(store, manifest.modality)
        row = store.start_round(package.package_id, seed=home.config.seed)
        current = open_round(store, row)
        try:
            state = advance(current)
            if state in (RoundState.AWAITING_REVIEW, RoundState.REPORTED):
                segment_new_patients(current)
            measure_distances(current)
            prepare_update(home, store.engine, plan)
        except Exception as error:
            _mark_failed(current, type(error).__name__)
            raise
        log.info("round %s: %s", row.round_id, state.value)
        return state


def _check_cohort(store: CaseStore, plan: FederationPlan) -> None:
    """Refuse to begin with fewer patients than the plan asks for; of none, the split speaks."""
    cohort = plan.cohort
    patients = {c.patient_id for c in store.cases() if c.modality == cohort.modality}
    if 0 < len(patients) < cohort.minimum_patients:
        raise DataError(
            f"plan {plan.plan_number}: asks for {cohort.minimum_patients} patients with "
            f"{cohort.modality}, and here are {len(patients)}: ingest more"
        )


def _mark_failed(current: Round, error: str) -> None:
    """Show people that a step failed; the next `work` takes it up again."""
    state = RoundState(current.store.round(current.round_id).state)
    if (state, RoundEvent.FAILED) in TRANSITIONS:
        detail = {"error": error}
        current.store.advance(current.round_id, RoundEvent.FAILED, actor=ACTOR, detail=detail)
