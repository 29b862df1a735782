"""Collects the sites' model updates, checked before they are kept; no tensor is loaded into torch.

Only this party sees single updates. They are deleted once they are averaged.
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.errors import ProtocolError
from algorithms.contracts.federation_plan import SignedPlan
from algorithms.contracts.messages import UPDATE_FILE, ModelUpdateOffer, SiteStatus
from algorithms.contracts.model_package import MODEL_FILE
from algorithms.federated_averaging import Tensors, gaussian_epsilon
from algorithms.update_file import float_tensors, read_update
from coordinator.config import CoordinatorHome
from coordinator.plan_records import PlanRecords
from coordinator.sites import (
    Answer,
    Conversation,
    Question,
    Request,
    Silence,
    Sites,
    parse_answer,
)
from coordinator.study_store import EventRow, ModelUpdateRow, StudyStore


class UpdateRecords:
    """The model updates in a study database."""

    def __init__(self, store: StudyStore) -> None:
        self._engine = store.engine

    def all(self, package_id: str | None = None) -> list[ModelUpdateRow]:
        """Return the updates of one package or all, in order of site."""
        rows = select(ModelUpdateRow).order_by(ModelUpdateRow.package_id, ModelUpdateRow.site)
        if package_id is not None:
            rows = rows.where(ModelUpdateRow.package_id == package_id)
        with Session(self._engine) as session:
            return list(session.scalars(rows))

    def add(self, offer: ModelUpdateOffer) -> None:
        """Keep that an update, whose bytes are kept already, came; one per site and package."""
        now = datetime.now(UTC).replace(tzinfo=None)
        with Session(self._engine) as session, session.begin():
            session.merge(
                ModelUpdateRow(
                    site=offer.site,
                    package_id=offer.package_id,
                    offer=offer.model_dump(mode="json"),
                    received_at=now,
                )
            )
            detail = {"sha256": offer.files[UPDATE_FILE].sha256, "epsilon": offer.epsilon}
            session.add(EventRow(at=now, event="update_received", site=offer.site, detail=detail))

    def mark_averaged(self, sites: Sequence[str], package_id: str, into: str) -> None:
        """Keep which package the updates of `sites` for another went into."""
        with Session(self._engine) as session, session.begin():
            for site in sites:
                session.get_one(ModelUpdateRow, (site, package_id)).averaged_into = into


def collect_updates(
    home: CoordinatorHome, store: StudyStore, sites: Sites, statuses: Mapping[str, SiteStatus]
) -> None:
    """Fetch the update of every reachable site that has reported and has one ready.

    What is refused is not kept: the site is asked again by the next tick.
    """
    forget_averaged(home, store)
    package_id = store.current_package()
    plan = PlanRecords(store).current(package_id)
    if package_id is None or plan is None:
        return
    signed = SignedPlan.model_validate_json(plan.signed)
    if signed.read().model_updates is None:
        return
    records = UpdateRecords(store)
    known = {row.site for row in records.all(package_id) if _is_here(home, row)}
    patients = {r.site: r.annotation.training_patients for r in store.reports(package_id)}
    ready = [
        s for s in patients if s in statuses and _has_one(statuses[s], package_id, plan.plan_sha256)
    ]

    def fetch(site: str) -> Conversation:
        """Keep an update as soon as it is here: together they may be more than memory holds."""
        answer = yield Request(Question.MODEL_UPDATE, package_id)
        try:
            offer, content = check_update(home, answer, site, signed, patients[site])
        except ProtocolError as error:
            store.record_failure(site, str(error))
            return
        _write(update_file(home, site, package_id), content)
        records.add(offer)

    sites.converse({site: fetch(site) for site in sorted(set(ready) - known)})


def check_update(
    home: CoordinatorHome, answer: Answer | Silence, site: str, signed: SignedPlan, patients: int
) -> tuple[ModelUpdateOffer, bytes]:
    """Refuse an update that is not one by the plan, or would spoil the average.

    Args:
        home: of the coordinator, with the package.
        answer: what came.
        site: who was asked.
        signed: the plan that it has to go by.
        patients: how many the site's report said it learnt from: no update counts for more.

    Raises:
        ProtocolError: naming the rule, without a word of the site's.
    """
    offer, plan = parse_answer(answer, ModelUpdateOffer), signed.read()
    files = answer.files if isinstance(answer, Answer) else {}
    if offer.site != site:
        raise ProtocolError("wrong_site")
    if offer.package_id != plan.package_id:
        raise ProtocolError("wrong_package")
    if offer.plan_sha256 != signed.plan_sha256:
        raise ProtocolError("wrong_plan")
    terms = plan.model_updates
    if terms is None or offer.model_dump(include=set(terms.model_dump())) != terms.model_dump():
        raise ProtocolError("wrong_terms")
    promised = gaussian_epsilon(offer.noise_multiplier, offer.delta)
    said = math.inf if offer.epsilon is None else offer.epsilon
    if not math.isclose(said, promised, rel_tol=1e-6, abs_tol=1e-6):
        raise ProtocolError("wrong_epsilon")
    if offer.training_patients != patients or patients < plan.cohort.minimum_group_size:
        raise ProtocolError("wrong_patients")
    content = files.get(UPDATE_FILE, b"")
    if set(files) != {UPDATE_FILE} or sha256_hex(content) != offer.files[UPDATE_FILE].sha256:
        raise ProtocolError("wrong_hash")
    read_kept(home, offer, content)
    return offer, content


def read_kept(home: CoordinatorHome, offer: ModelUpdateOffer, content: bytes) -> Tensors:
    """Read the tensors of an update, checked against the package's and the terms it names.

    Raises:
        ProtocolError: naming the rule.
    """
    base = float_tensors((home.packages / offer.package_id / MODEL_FILE).read_bytes())
    return read_update(
        content, base, clip_norm=offer.clip_norm, noise_multiplier=offer.noise_multiplier
    )


def forget_averaged(home: CoordinatorHome, store: StudyStore) -> None:
    """Delete the updates of every package but the study's current one; their hashes are kept."""
    current = store.current_package()
    for package_id in {row.package_id for row in UpdateRecords(store).all()} - {current}:
        shutil.rmtree(home.updates / package_id, ignore_errors=True)


def update_file(home: CoordinatorHome, site: str, package_id: str) -> Path:
    """Return where the bytes of an update are kept."""
    return home.updates / package_id / f"{site}.safetensors"


def _is_here(home: CoordinatorHome, row: ModelUpdateRow) -> bool:
    """Say whether nobody has to be asked again: no backup holds the bytes of an update."""
    return bool(row.averaged_into) or update_file(home, row.site, row.package_id).is_file()


def _has_one(status: SiteStatus, package_id: str, plan_sha256: str) -> bool:
    said = (status.current_package, status.plan_approved)
    return status.model_update_ready and said == (package_id, plan_sha256)


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = file.with_name(f".{file.name}.part")
    part.write_bytes(content)
    part.replace(file)
