"""A site whose doctors have something to do: slices to annotate, and a model's contour to review.

The clock is the test's: `AT` is when work begins.
"""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.volume import Mask, MaskArray
from site_agent import audit_log, claims
from site_agent.case_store import CaseStore, SliceChoice, TaskKind
from site_agent.claims import WorkKey
from site_agent.database import AuditRow, PackageRow, transaction
from tests.phantoms import SHAPE_ZYX, ball, make_home, tiny_case

AT = datetime(2031, 5, 6, 7, 8, 9)
PACKAGE_ID = "ab" * 32
DR_A, DR_B = "dr a", "dr b"
ASKED = (2, 4, 5)  # slices of the first case
_CASES = (tiny_case(1), tiny_case(2))
ANNOTATED, REVIEWED = (case.case_id for case in _CASES)
TUMOUR: MaskArray = _CASES[0].contours[0].mask.voxels
MODEL: MaskArray = ball(SHAPE_ZYX, (4, 15, 15), 3)
REVISED = MODEL.copy()
REVISED[3:5, 10:13, 14:17] = True


def after(seconds: float) -> datetime:
    """Return a moment after work began."""
    return AT + timedelta(seconds=seconds)


def make_site(folder: Path, kind: TaskKind = "contour") -> CaseStore:
    """Make it; nobody has claimed anything."""
    store = CaseStore(make_home(folder / "home"))
    store.add_cases(_CASES, actor="test")
    with transaction(store.engine) as session:
        session.add(
            PackageRow(
                package_id=PACKAGE_ID,
                model_version="1.0.0",
                signed_by="0" * 16,
                state="approved",
                received_at=AT,
            )
        )
    round_id = store.start_round(PACKAGE_ID, seed=0).round_id
    choices = [SliceChoice(ANNOTATED, z, "chosen", 1.0) for z in ASKED]
    store.open_tasks(round_id, choices, actor="worker", kind=kind)
    contour = Contour("GTVp", Mask(MODEL, _CASES[1].volume.geometry), Provenance.AUTOMATIC)
    store.save_contour(REVIEWED, contour, purpose="adapted", round_id=round_id, author="model")
    return store


def annotation(store: CaseStore) -> WorkKey:
    """Return the key of the first case's slices."""
    latest = store.latest_round()
    assert latest is not None
    return WorkKey(latest.round_id, ANNOTATED, "annotation")


def review(store: CaseStore) -> WorkKey:
    """Return the key of the second case's review."""
    return WorkKey(annotation(store).round_id, REVIEWED, "review")


def claimed(store: CaseStore, key: WorkKey, author: str = DR_A) -> WorkKey:
    """Claim it."""
    claims.claim(store, key, author=author)
    return key


def audit(store: CaseStore) -> list[AuditRow]:
    """Return the audit log, whose chain must hold."""
    with Session(store.engine) as session:
        audit_log.verify(session)
        return list(session.scalars(select(AuditRow).order_by(AuditRow.sequence)))


def masks(store: CaseStore, case_id: str) -> set[str]:
    """Return the masks that lie in the folder of a case, as rows name them."""
    folder = store.home.cases / case_id
    return {f"cases/{case_id}/{file.name}" for file in folder.glob("mask-*.npy")}


def slice_only(z: int, mask_yx: MaskArray) -> MaskArray:
    """Put a slice into a volume of nothing."""
    volume = np.zeros(SHAPE_ZYX, bool)
    volume[z] = mask_yx
    return volume
