"""The small hospital of `synthetic_site` with everything that the study page can show.

Packages are signed and verified, models offered, reports held by the real stores; of the distances,
which the worker measures, the files are written as it writes them.
"""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import update

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.case import Split
from algorithms.contracts.messages import SiteReportMessage
from algorithms.contracts.model_package import Signature
from site_agent import egress
from site_agent.case_store import CaseStore
from site_agent.config import open_home
from site_agent.database import CaseRow, PackageRow, ReviewRow, RoundRow, transaction, utc_now
from site_agent.model_store import Comparison, offer
from site_agent.package_store import store_package
from tests.clinical_ui.synthetic_site import PACKAGE_ID, make_site
from tests.phantoms import tiny_case
from tests.simulated_site import approve_plan_for, tiny_package, tiny_report

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw().hex()
STUDY = "npc-demo"
BETTER = Comparison(patients=6, candidate_dsc=0.812, incumbent_dsc=0.784, margin=0.01)
WORSE = Comparison(patients=6, candidate_dsc=0.751, incumbent_dsc=0.812, margin=0.01)
UNKNOWN = Comparison(patients=0, candidate_dsc=None, incumbent_dsc=None, margin=0.01)
FIRST_DAY = datetime(2026, 3, 2, 8, 0)


def make_study_site(folder: Path, *, later: Sequence[float] = (1.2, 0.9, 30.0)) -> CaseStore:
    """Fill a site: models, packages, a held report, 13 study cases and those that came later.

    Args:
        folder: its home.
        later: distances of the cases that came later; NaN where the model sees no target.
    """
    engine = make_site(folder, simulated=False).engine
    settings = folder / "site.toml"
    text = settings.read_text("utf-8")
    settings.write_text(text.replace("trusted_keys = []", f'trusted_keys = ["{PUBLIC}"]'), "utf-8")
    store = CaseStore(open_home(folder), engine)
    package_id = give_package(store, "2.1.0")
    with transaction(store.engine) as session:  # the round is one of a package that is there
        session.execute(update(RoundRow).values(package_id=package_id))
        session.get_one(PackageRow, package_id).state = "approved"
        session.get_one(PackageRow, PACKAGE_ID).state = "retired"
    give_package(store, "2.2.0", parent_version="2.1.0")
    offer_models(store)
    add_cases_with_distances(store, package_id, later)
    add_reviews(store)
    hold_report(store, package_id)
    return store


def give_package(store: CaseStore, version: str, **changes: object) -> str:
    """Let a signed package arrive; it waits for approval."""
    manifest, files = tiny_package(study=STUDY, model_version=version, **changes)
    content = manifest.signed_bytes()
    return store_package(store.home, store.engine, content, signature_of(content), files)


def signature_of(content: bytes) -> bytes:
    """Sign as the coordinator does."""
    key_id = sha256_hex(bytes.fromhex(PUBLIC))[:16]
    signature = Signature(key_id=key_id, signature_hex=KEY.sign(content).hex())
    return canonical_json(signature.model_dump(mode="json"))


def offer_models(store: CaseStore) -> None:
    """Let rounds end in models: one that passed, one held back, one nobody could compare."""
    latest = store.latest_round()
    assert latest is not None
    for name, compared in (("a", BETTER), ("b", WORSE), ("c", UNKNOWN)):
        weights = name.encode()
        offer(store.home, store.engine, weights, latest.round_id, compared, actor="worker")


def add_cases_with_distances(store: CaseStore, package_id: str, later: Sequence[float]) -> None:
    """Add eight more cases to the study, and those that came later; measure them all."""
    usual = list(np.random.default_rng(3).lognormal(0.0, 0.35, 13))
    old = [case.case_id for case in store.cases()]
    more = [tiny_case(100 + n) for n in range(8)]
    new = [tiny_case(200 + n) for n in range(len(later))]
    store.add_cases([*more, *new], actor="test")
    store.assign_splits({case.patient_id: Split.TRAINING for case in more})
    ids = [*old, *(case.case_id for case in (*more, *new))]
    for day, (case_id, distance) in enumerate(zip(ids, [*usual, *later], strict=True)):
        said = {"distances": [None, None if np.isnan(distance) else distance]}
        file = store.home.cases / case_id / f"distance-{package_id[:16]}.json"
        file.write_text(json.dumps(said), "utf-8")
        with transaction(store.engine) as session:
            came = FIRST_DAY + timedelta(days=day)
            session.execute(
                update(CaseRow).where(CaseRow.case_id == case_id).values(ingested_at=came)
            )


def add_reviews(store: CaseStore) -> None:
    """Add a review of every other case, by two reviewers; the last one changed much more."""
    latest = store.latest_round()
    assert latest is not None
    reviewed = {review.case_id for review in store.reviews(latest.round_id)}
    waiting = {case.case_id for case in store.cases(Split.TEST)}
    cases = [c.case_id for c in store.cases() if c.case_id not in reviewed | waiting]
    degrees = np.random.default_rng(5).gamma(4.0, 1.6, len(cases))
    degrees[-1] = 38.0
    with transaction(store.engine) as session:
        for n, (case_id, degree) in enumerate(zip(cases, degrees, strict=True)):
            session.add(
                ReviewRow(
                    round_id=latest.round_id,
                    case_id=case_id,
                    verdict="revised" if degree > 3 else "accepted",
                    revision_degree_percent=float(degree),
                    active_s=60.0 + 20.0 * degree,
                    wall_s=90.0 + 31.0 * degree,
                    author=("Dr Example", "Dr Sample")[n % 2],
                    simulated=False,
                    reviewed_at=utc_now() + timedelta(minutes=n),
                    likert=None,
                )
            )


def hold_report(store: CaseStore, package_id: str) -> int:
    """Let the coordinator ask for a report: it is held until a person lets it leave."""
    report = tiny_report("hospital-b", package_id, study=STUDY)
    approve_plan_for(store.home, store.engine, package_id, key=KEY)
    try:
        egress.release(store.home, store.engine, SiteReportMessage(report=report), now=utc_now())
    except egress.ReleaseHeld:
        return egress.list_entries(store.engine)[-1].sequence
    raise AssertionError("the site releases reports by itself")
