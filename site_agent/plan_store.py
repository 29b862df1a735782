"""Federation plans that came in: checked step by step, kept, and signed by a person here.

A plan counts with two signatures, the study lead's and the hospital's. Both are checked whenever a
plan is asked for, on the very text that is stored, so that a changed row counts for nothing.
"""

from datetime import UTC, datetime
from importlib.metadata import version

from pydantic import ValidationError
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from algorithms.contracts.errors import DataError, ProtocolError
from algorithms.contracts.federation_plan import FederationPlan, SignedPlan, same_release
from algorithms.contracts.messages import PlanApproval
from algorithms.contracts.model_package import MANIFEST_FILE, Signature
from site_agent import audit_log
from site_agent.config import SiteHome
from site_agent.database import AuditRow, PlanRow, transaction, unreadable_row
from site_agent.package_store import PackageRefused, read_manifest, verify_key_and_signature
from site_agent.plan_approval import is_signed_here, sign_approval
from site_agent.site_keys import trusted_keys

STORED, APPROVED, REJECTED, RETIRED = "stored", "approved", "rejected", "retired"
_ASK = "ask the study lead for another plan"


class PlanRefused(ProtocolError):  # noqa: N818  # an answer more than an error
    """A plan does not count; `rule` is the short name that the coordinator may learn."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


def store_plan(home: SiteHome, engine: Engine, signed: bytes, *, now: datetime) -> str:
    """Check a plan and keep it for a person to read; the newest one again changes nothing.

    `signed` is a `SignedPlan` in JSON, `now` is UTC. A site that approves by itself signs at once,
    unless it could not keep to the plan.

    Returns:
        SHA-256 of the plan.

    Raises:
        PlanRefused: naming the rule; nothing is kept then.
    """
    try:
        parsed = SignedPlan.model_validate_json(signed)
    except ValidationError:
        raise PlanRefused("unreadable_plan", f"not a signed plan: {_ASK}") from None
    plan = _check(home, parsed, now)
    with transaction(engine) as session:
        audit_log.next_link(session, AuditRow)  # one writer at a time from here on
        newest = session.scalar(select(func.max(PlanRow.plan_number))) or 0
        row = session.get(PlanRow, parsed.plan_sha256)
        if plan.plan_number < newest or (row is None and plan.plan_number == newest):
            raise PlanRefused(
                "plan_replayed",
                f"plan {plan.plan_number}: there is a plan {newest} here already: {_ASK}",
            )
        if row is None:
            row = PlanRow(
                plan_sha256=parsed.plan_sha256,
                plan_number=plan.plan_number,
                package_id=plan.package_id,
                plan=parsed.plan,
                signature=parsed.signature.model_dump_json(),
                state=STORED,
                received_at=now,
            )
            session.add(row)
            _note(session, "plan_stored", row, actor="federation", now=now)
            if home.config.auto_approve and _keeping_rule(home, plan) is None:
                _sign(home, session, row, actor="auto_approve", now=now)
    return parsed.plan_sha256


def approve_plan(
    home: SiteHome, engine: Engine, number: int, *, actor: str, now: datetime
) -> PlanApproval:
    """Sign a plan for this hospital; the one before it for the same package is retired.

    Raises:
        DataError: there is no such plan, or it is in force already.
        PlanRefused: it is older than the one in force, or breaks a rule by now.
    """
    with transaction(engine) as session:
        row = _find(session, number)
        if row.state in (APPROVED, RETIRED):
            raise DataError(f"plan {number}: is {row.state} already: see 'fedgtv-site plan list'")
        read_plan(home, row)
        plan = _check(home, _signed(row), now)
        if broken := _keeping_rule(home, plan):
            raise PlanRefused(*broken)
        approved = approved_plan(engine, plan.package_id)
        if approved is not None and approved.plan_number > number:
            raise PlanRefused("plan_replayed", f"plan {number}: a newer one is in force: {_ASK}")
        return _sign(home, session, row, actor=actor, now=now)


def reject_plan(engine: Engine, number: int, *, actor: str, now: datetime) -> None:
    """Say that this hospital does not work by a plan, or no longer.

    Raises:
        DataError: there is no such plan, or it was rejected or retired before.
    """
    with transaction(engine) as session:
        row = _find(session, number)
        if row.state in (REJECTED, RETIRED):
            raise DataError(f"plan {number}: is {row.state} already: see 'fedgtv-site plan list'")
        row.state, row.approval = REJECTED, None
        _note(session, "plan_rejected", row, actor=actor, now=now)


def plan_in_force(
    home: SiteHome, engine: Engine, package_id: str, *, now: datetime
) -> FederationPlan:
    """Return the plan by which this hospital may work with a package now; `now` is UTC.

    Raises:
        PlanRefused: there is none with two signatures, or it is not valid now.
    """
    row = approved_plan(engine, package_id)
    if row is None:
        raise PlanRefused(
            "no_plan",
            f"package {package_id[:12]}: no plan for it is approved here: see 'fedgtv-site plan "
            "list'",
        )
    plan = read_plan(home, row)
    _check_hospital(home, row)
    _check_time_and_code(plan, now)
    if plan.time_rule(now.replace(tzinfo=UTC)) is not None:
        raise PlanRefused(
            "plan_too_early",
            f"plan {row.plan_number}: is valid from {plan.valid_from:%Y-%m-%d %H:%M}: wait until "
            "then",
        )
    return plan


def read_plan(home: SiteHome, row: PlanRow) -> FederationPlan:
    """Read a stored plan after checking that it is what the study lead signed.

    Raises:
        PlanRefused: it was changed since, or signed by a key that is not trusted any more.
    """
    signed = _signed(row)
    if signed.plan_sha256 != row.plan_sha256:
        raise _changed(row, "its text")
    plan = _read_signed(home, signed, f"plan {row.plan_number}")
    if (plan.plan_number, plan.package_id) != (row.plan_number, row.package_id):
        raise _changed(row, "its number or package")
    return plan


def plans_held(engine: Engine) -> list[PlanRow]:
    """Return every plan that came, oldest first."""
    with Session(engine) as session:
        return list(session.scalars(select(PlanRow).order_by(PlanRow.plan_number)))


def approved_plan(engine: Engine, package_id: str | None = None) -> PlanRow | None:
    """Return the newest plan that this hospital works by, for one package or any."""
    newest = select(PlanRow).where(PlanRow.state == APPROVED).order_by(PlanRow.plan_number.desc())
    if package_id is not None:
        newest = newest.where(PlanRow.package_id == package_id)
    with Session(engine) as session:
        return session.scalars(newest).first()


def last_approved(engine: Engine, number: int) -> PlanRow | None:
    """Return the plan before this one that was approved last, in force still or not."""
    signed = select(PlanRow).where(PlanRow.state.in_((APPROVED, RETIRED)))
    earlier = signed.where(PlanRow.plan_number < number).order_by(PlanRow.plan_number.desc())
    with Session(engine) as session:
        return session.scalars(earlier).first()


def find_plan(engine: Engine, number: int) -> PlanRow:
    """Return a plan by its number.

    Raises:
        DataError: there is no such plan.
    """
    with Session(engine) as session:
        return _find(session, number)


def read_approval(row: PlanRow) -> PlanApproval:
    """Read the hospital's signature under a plan.

    Raises:
        PlanRefused: there is none that can be read.
    """
    try:
        return PlanApproval.model_validate_json(row.approval or "")
    except ValidationError:
        raise PlanRefused(
            "single_signed",
            f"plan {row.plan_number}: this hospital's signature is missing or changed: restore "
            "the database from a backup, or have the study lead send a new plan",
        ) from None


def verify_plans(home: SiteHome, engine: Engine) -> int:
    """Check every stored plan, both signatures and the audit log's word on it; return how many.

    Raises:
        PlanRefused: naming the first plan that was changed, put in or taken away.
    """
    with Session(engine) as session:
        if (damaged := unreadable_row(session, PlanRow)) is not None:
            raise PlanRefused(
                "plan_changed",
                f"plan {damaged[:12]}: cannot be read any more: restore the database from a backup",
            )
    rows = {row.plan_sha256: row for row in plans_held(engine)}
    states = _audited_states(engine)
    for row in rows.values():
        read_plan(home, row)
        if row.state == APPROVED:
            _check_hospital(home, row)
        if states.get(row.plan_sha256) != row.state:
            raise _changed(row, "what people said about it, or it was put in beside the audit log,")
    if missing := sorted(set(states) - set(rows)):
        raise PlanRefused(
            "plan_changed",
            f"plan {missing[0][:12]}: the audit log names it and it is gone: restore the database "
            "from a backup",
        )
    return len(rows)


def _check(home: SiteHome, signed: SignedPlan, now: datetime) -> FederationPlan:
    """Check a plan in six steps; what a step needs was checked by the steps before it."""
    plan = _read_signed(home, signed)  # 1, 2
    if plan.study != home.config.study:  # 3
        raise PlanRefused(
            "wrong_study",
            f"plan {plan.plan_number}: made for study '{plan.study}', but this site takes part in "
            f"'{home.config.study}': {_ASK}",
        )
    _check_time_and_code(plan, now)  # 4, 5
    _check_package(home, plan)  # 6
    return plan


def _read_signed(home: SiteHome, signed: SignedPlan, name: str = "plan") -> FederationPlan:
    try:
        verify_key_and_signature(
            signed.plan.encode(), signed.signature, trusted_keys(home), name=name
        )
    except PackageRefused as refusal:
        raise PlanRefused(refusal.rule, str(refusal)) from None
    try:
        return signed.read()
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "JSON"
        raise PlanRefused(
            "unreadable_plan",
            f"{name}: not one of this version (at {where}): update fedgtv, or {_ASK}",
        ) from None


def _check_time_and_code(plan: FederationPlan, now: datetime) -> None:
    if plan.time_rule(now.replace(tzinfo=UTC)) == "plan_expired":
        raise PlanRefused(
            "plan_expired",
            f"plan {plan.plan_number}: expired on {plan.expires_at:%Y-%m-%d %H:%M}: {_ASK}",
        )
    installed = version("fedgtv")
    if not same_release(plan.code_version, installed):
        raise PlanRefused(
            "other_code",
            f"plan {plan.plan_number}: made for fedgtv {plan.code_version}, and {installed} is "
            f"installed here: install that one, or {_ASK}",
        )


def _check_package(home: SiteHome, plan: FederationPlan) -> None:
    """Refuse a plan that says something else about its package than the package itself."""
    try:
        read_manifest(home, plan.package_id)  # its hash is checked
    except DataError:
        raise PlanRefused(
            "unknown_package",
            f"plan {plan.plan_number}: its package {plan.package_id[:12]} is not stored here: "
            "import the package first",
        ) from None
    except PackageRefused as refusal:
        raise PlanRefused(refusal.rule, str(refusal)) from None
    content = (home.packages / plan.package_id / MANIFEST_FILE).read_bytes()
    if rule := plan.package_rule(content):
        raise PlanRefused(
            rule,
            f"plan {plan.plan_number}: names other parameters or another target than its package: "
            f"{_ASK}",
        )


def _keeping_rule(home: SiteHome, plan: FederationPlan) -> tuple[str, str] | None:
    """Name what keeps this site from keeping to a plan, with what to do."""
    minimum = plan.cohort.minimum_group_size
    if home.config.minimum_group_size >= minimum:
        return None
    return (
        "minimum_group_size",
        f"plan {plan.plan_number}: asks for a minimum_group_size of {minimum}: set it in "
        "site.toml, then approve the plan",
    )


def _check_hospital(home: SiteHome, row: PlanRow) -> None:
    approval = read_approval(row)
    expected = (home.config.name, home.config.study, row.plan_sha256)
    named = (approval.site, approval.study, approval.plan_sha256)
    if named != expected or not is_signed_here(home, approval):
        raise PlanRefused(
            "single_signed",
            f"plan {row.plan_number}: this hospital's signature does not fit the plan or the key "
            "in keys/signing.key: copy the key back from where you keep the keys, or reject and "
            "approve the plan again",
        )


def _sign(
    home: SiteHome, session: Session, row: PlanRow, *, actor: str, now: datetime
) -> PlanApproval:
    approval = sign_approval(home, row.plan_sha256, now=now)
    same = (PlanRow.state == APPROVED, PlanRow.package_id == row.package_id)
    for other in session.scalars(select(PlanRow).where(*same)):
        other.state = RETIRED
    row.state, row.approval = APPROVED, approval.model_dump_json()
    _note(session, "plan_approved", row, actor=actor, now=now)
    return approval


def _note(session: Session, event: str, row: PlanRow, *, actor: str, now: datetime) -> None:
    detail = {"plan_number": row.plan_number, "package_id": row.package_id}
    audit_log.append(
        session, actor=actor, event=event, subject=row.plan_sha256, detail=detail, at=now
    )


def _audited_states(engine: Engine) -> dict[str, str]:
    """Return the state of every plan that follows from what the audit log says happened."""
    states: dict[str, str] = {}
    in_force: dict[str, str] = {}  # plan by package
    ordered = select(AuditRow).where(AuditRow.event.startswith("plan_")).order_by(AuditRow.sequence)
    with Session(engine) as session:
        for entry in session.scalars(ordered):
            state = entry.event.removeprefix("plan_")
            if state == APPROVED:
                package_id = entry.detail["package_id"]
                before = in_force.get(package_id)
                if before is not None and states[before] == APPROVED:
                    states[before] = RETIRED
                in_force[package_id] = entry.subject
            states[entry.subject] = state
    return states


def _find(session: Session, number: int) -> PlanRow:
    row = session.scalars(select(PlanRow).where(PlanRow.plan_number == number)).first()
    if row is None:
        raise DataError(f"there is no plan {number} here: see 'fedgtv-site plan list'")
    return row


def _signed(row: PlanRow) -> SignedPlan:
    try:
        return SignedPlan(plan=row.plan, signature=Signature.model_validate_json(row.signature))
    except ValidationError:
        raise _changed(row, "the study lead's signature") from None


def _changed(row: PlanRow, what: str) -> PlanRefused:
    return PlanRefused(
        "plan_changed",
        f"plan {row.plan_number}: {what} was changed since it was stored: restore the database "
        "from a backup",
    )
