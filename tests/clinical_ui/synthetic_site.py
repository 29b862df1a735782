"""A small hospital for tests of the pages: round heads with a round tumour, and a round under way.

Nothing is mocked: the real case store writes it, as the agent does.
"""

import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from algorithms.contracts.case import Split
from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.messages import RoundState, SiteStatus
from algorithms.contracts.volume import Geometry, Mask, MaskArray, Volume
from site_agent import egress
from site_agent.case_store import CaseStore, NewCase, SliceChoice
from site_agent.case_workflow import RoundEvent
from site_agent.config import open_home
from site_agent.database import PackageRow, ReviewRow, transaction, utc_now
from site_agent.site_setup import initialise

PACKAGE_ID = "5e" * 32
MODEL_VERSION = "2.1.0"
GEOMETRY = Geometry((12, 80, 64), (4.0, 1.0, 1.25), (-40.0, -40.0, 0.0))
PATIENTS = tuple(f"patient-{n:012x}" for n in range(1, 6))
CASES = tuple(f"case-{n:012x}" for n in range(1, 6))
SPLITS = (Split.TRAINING, Split.TRAINING, Split.VALIDATION, Split.TEST, Split.TEST)
REVIEWED_CASE, UNREVIEWED_CASE = CASES[3], CASES[4]


def ball(centre_zyx_mm: tuple[float, float, float], radius_mm: float) -> MaskArray:
    """Return a ball on the grid of every case; its centre is in mm from the grid's corner."""
    grid = np.indices(GEOMETRY.shape_zyx).T * GEOMETRY.spacing_zyx_mm
    inside: MaskArray = (np.linalg.norm(grid - np.array(centre_zyx_mm), axis=-1) <= radius_mm).T
    return inside


REFERENCE = ball((24, 45, 48), 13)
ADAPTED = ball((24, 43, 46), 12)
DIRECT = ball((24, 38, 42), 10)


def make_site(folder: Path, *, reviewed: bool = True, simulated: bool = True) -> CaseStore:
    """Make a site's home: five patients in a round with four tasks, contours and a ledger.

    `reviewed` False stops while doctors contour: two tasks are open, nothing is segmented. True
    stops while they review: one of two test cases is done. Homes of a kind are copies of one.
    """
    shutil.copytree(_home_to_copy(reviewed, simulated).name, folder)
    return CaseStore(open_home(folder))


@cache
def _home_to_copy(reviewed: bool, simulated: bool) -> TemporaryDirectory[str]:
    kept = TemporaryDirectory()  # until the process ends
    folder = Path(kept.name)
    initialise(folder, name="hospital-b", study="npc-demo", role="target", trusted_keys=[])
    home = open_home(folder)
    store = CaseStore(home)
    store.add_cases([_case(number) for number in range(5)], actor="test")
    store.assign_splits(dict(zip(PATIENTS, SPLITS, strict=True)))
    now = utc_now()
    with transaction(store.engine) as session:
        session.add(
            PackageRow(
                package_id=PACKAGE_ID,
                model_version=MODEL_VERSION,
                signed_by="0" * 16,
                state="approved",
                received_at=now,
            )
        )
    round_id = store.start_round(PACKAGE_ID, seed=0).round_id
    _tasks(store, round_id, done=4 if reviewed else 2, simulated=simulated)
    if reviewed:
        _predictions_and_review(store, round_id, simulated=simulated)
    _ledger(store)
    store.engine.dispose()  # the database is one file then
    return kept


def _case(number: int) -> NewCase:
    rng = np.random.default_rng(number)
    image = np.where(ball((24, 40, 40), 36), 400.0, 20.0) + rng.normal(0, 25, GEOMETRY.shape_zyx)
    image += np.where(REFERENCE, 350.0, 0.0)
    volume = Volume(
        image=np.rint(image).astype(np.float32),
        geometry=GEOMETRY,
        modality="MR",
        scanner={"manufacturer": "Example <MR>", "model": "One"},
    )
    contour = Contour("GTVp", Mask(REFERENCE, GEOMETRY), Provenance.REFERENCE)
    return NewCase(CASES[number], PATIENTS[number], volume, None, (contour,))


def _tasks(store: CaseStore, round_id: str, *, done: int, simulated: bool) -> None:
    choices = [
        SliceChoice(CASES[0], 6, "domain_invariant", 0.125),
        SliceChoice(CASES[1], 5, "domain_specific", 7.5),
        SliceChoice(CASES[0], 3, "domain_specific", -1.0),
        SliceChoice(CASES[2], 7, "domain_invariant", 0.25),
    ]
    store.open_tasks(round_id, choices, actor="test")
    for task in store.tasks(round_id)[:done]:
        store.complete_task(
            task.id,
            REFERENCE[task.slice_z],
            author="simulated annotator" if simulated else "Dr Example",
            provenance=Provenance.SIMULATED if simulated else Provenance.MANUAL,
            active_s=None,
        )


def _predictions_and_review(store: CaseStore, round_id: str, *, simulated: bool) -> None:
    store.advance(round_id, RoundEvent.ANNOTATION_COMPLETE, actor="test")
    for case_id in (REVIEWED_CASE, UNREVIEWED_CASE):
        for purpose, voxels in (("direct", DIRECT), ("adapted", ADAPTED)):
            contour = Contour("GTVp", Mask(voxels, GEOMETRY), Provenance.AUTOMATIC)
            store.save_contour(case_id, contour, purpose=purpose, round_id=round_id, author="model")
    store.advance(round_id, RoundEvent.PREDICTIONS_READY, actor="test")
    review = ReviewRow(
        round_id=round_id,
        case_id=REVIEWED_CASE,
        verdict="revised",
        revision_degree_percent=12.5,
        active_s=None,
        wall_s=None,
        author="simulated annotator" if simulated else "Dr Example",
        simulated=simulated,
        reviewed_at=utc_now(),
    )
    made_by = Provenance.SIMULATED if simulated else Provenance.SEMIAUTOMATIC
    store.add_review(review, Contour("GTVp", Mask(REFERENCE, GEOMETRY), made_by))


def _ledger(store: CaseStore) -> None:
    status = SiteStatus(
        site="hospital-b",
        code_version="0.1.0",
        source_package_ready=False,
        packages_held=(PACKAGE_ID,),
        current_package=PACKAGE_ID,
        round_state=RoundState.AWAITING_REVIEW,
        open_annotation_tasks=2,
        report_ready=False,
    )
    egress.release(store.home, store.engine, status, now=utc_now())
