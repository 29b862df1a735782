"""Looks whether what was signed and what came is still what it was: plans, signatures, reports."""

from collections.abc import Iterator
from typing import TypeVar

from cryptography.exceptions import InvalidSignature
from pydantic import ValidationError
from sqlalchemy import inspect, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.errors import DataError, ProtocolError
from algorithms.contracts.federation_plan import SignedPlan
from algorithms.contracts.messages import PlanApproval
from algorithms.contracts.model_package import Signature
from coordinator.config import CoordinatorHome
from coordinator.package_publisher import read_signing_key
from coordinator.plan_delivery import check_approval
from coordinator.study_store import Base, PlanAnswerRow, ReportRow, SignedPlanRow, StudyStore

RowT = TypeVar("RowT", bound=Base)


def check_records(home: CoordinatorHome, store: StudyStore) -> str:
    """Check every plan, every hospital's signature under one, and every report; say how many.

    Raises:
        DataError: naming the first that was changed.
    """
    with Session(store.engine) as session:
        plans = [_check_plan(home, row) for row in _rows(session, SignedPlanRow)]
        answers = list(_rows(session, PlanAnswerRow))
        for answer in answers:
            _check_answer(home, store, answer, plans)
        reports = [_check_report(row) for row in _rows(session, ReportRow)]
    approvals = sum(answer.approval is not None for answer in answers)
    return f"{len(plans)} plans, {approvals} signatures under them and {len(reports)} reports"


def is_signed(home: CoordinatorHome, content: bytes, signature: Signature) -> bool:
    """Say whether a signature is the study's over these bytes."""
    key = read_signing_key(home).public_key()
    try:
        key.verify(bytes.fromhex(signature.signature_hex), content)
    except InvalidSignature:
        return False
    return signature.key_id == sha256_hex(key.public_bytes_raw())[:16]


def _check_plan(home: CoordinatorHome, row: SignedPlanRow) -> str:
    changed = _changed(f"plan {row.plan_number}")
    try:
        signed = SignedPlan.model_validate_json(row.signed)
        plan = signed.read()
    except ValidationError:
        raise changed from None
    said = (row.plan_sha256, row.plan_number, row.package_id)
    if said != (signed.plan_sha256, plan.plan_number, plan.package_id):
        raise changed
    if not is_signed(home, signed.plan.encode(), signed.signature):
        raise changed
    return row.plan_sha256


def _check_answer(
    home: CoordinatorHome, store: StudyStore, row: PlanAnswerRow, plans: list[str]
) -> None:
    changed = _changed(f"what {row.site} said about plan {row.plan_sha256[:12]}")
    if row.plan_sha256 not in plans:
        raise changed
    if row.approval is None:
        return
    certified = {key.signing_public_key_hex for key in store.site_keys() if key.site == row.site}
    try:
        approval = PlanApproval.model_validate_json(row.approval)
        if certified and approval.public_key_hex not in certified:
            raise changed
        key = approval.public_key_hex
        check_approval(approval, row.site, home.config.study, row.plan_sha256, key)
    except (ValidationError, ProtocolError):
        raise changed from None


def _check_report(row: ReportRow) -> str:
    said = (row.report.get("site"), row.report.get("package_id"))
    if said != (row.site, row.package_id) or sha256_hex(canonical_json(row.report)) != row.sha256:
        raise _changed(f"the report of {row.site}")
    return row.site


def _rows(session: Session, table: type[RowT]) -> Iterator[RowT]:
    """Yield every row; one whose bytes cannot even be read is named by its key."""
    columns = inspect(table).primary_key
    try:
        keys = session.execute(select(*columns).order_by(*columns)).all()
    except (ValueError, DBAPIError):
        raise _changed(f"{table.__tablename__}: one of them") from None
    for key in keys:
        try:
            yield session.get_one(table, tuple(key))
        except (ValueError, DBAPIError):
            named = ", ".join(str(value)[:12] for value in key)
            raise _changed(f"{table.__tablename__}: {named}") from None


def _changed(what: str) -> DataError:
    return DataError(
        f"{what}: was changed in the study's database: restore it from a backup, and find out who"
    )
