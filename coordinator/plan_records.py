"""What the study database knows about federation plans: what was signed, and what sites answered.

The plan with the highest number is the current one; a plan is never changed or taken back, a new
one takes its place.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from algorithms.contracts.federation_plan import FederationPlan, SignedPlan
from algorithms.contracts.messages import PlanApproval
from coordinator.study_store import DeliveryRow, EventRow, PlanAnswerRow, SignedPlanRow, StudyStore


@dataclass(frozen=True)
class PlanAnswer:
    """What one site said about a plan; neither when it was asked and nobody has decided yet."""

    approval: PlanApproval | None
    refused_by_rule: str | None


class PlanRecords:
    """The plans in a study database."""

    def __init__(self, store: StudyStore) -> None:
        self._engine = store.engine

    def add(self, plan: FederationPlan, signed: SignedPlan, *, now: datetime) -> None:
        """Keep a signed plan; `now` is UTC."""
        with Session(self._engine) as session, session.begin():
            session.add(
                SignedPlanRow(
                    plan_number=plan.plan_number,
                    plan_sha256=signed.plan_sha256,
                    package_id=plan.package_id,
                    signed=signed.model_dump_json(),
                    signed_at=now,
                )
            )
            detail = {"plan_number": plan.plan_number, "plan_sha256": signed.plan_sha256}
            session.add(EventRow(at=now, event="plan_signed", site="", detail=detail))

    def newest_number(self) -> int:
        """Return the highest number of a plan, 0 before the first."""
        with Session(self._engine) as session:
            return session.scalar(select(func.max(SignedPlanRow.plan_number))) or 0

    def all(self) -> list[SignedPlanRow]:
        """Return every plan, oldest first."""
        with Session(self._engine) as session:
            ordered = select(SignedPlanRow).order_by(SignedPlanRow.plan_number)
            return list(session.scalars(ordered))

    def current(self, package_id: str | None) -> SignedPlanRow | None:
        """Return the newest plan, if it is for this package."""
        rows = self.all()
        return rows[-1] if rows and rows[-1].package_id == package_id else None

    def answers(self, plan_sha256: str) -> dict[str, PlanAnswer]:
        """Return what sites said about a plan, by site."""
        mine = select(PlanAnswerRow).where(PlanAnswerRow.plan_sha256 == plan_sha256)
        with Session(self._engine) as session:
            return {row.site: _answer(row) for row in session.scalars(mine)}

    def is_agreed(self, package_id: str | None) -> bool:
        """Say whether every site that is to have the package has answered its current plan."""
        plan = self.current(package_id)
        if plan is None:
            return False
        due = select(DeliveryRow.site).where(DeliveryRow.package_id == package_id)
        with Session(self._engine) as session:
            return set(session.scalars(due)) <= set(self.answers(plan.plan_sha256))

    def first_key(self, site: str) -> str | None:
        """Return the key of the first approval of a site, None before there is one."""
        mine = select(PlanAnswerRow).where(
            PlanAnswerRow.site == site, PlanAnswerRow.approval.is_not(None)
        )
        with Session(self._engine) as session:
            row = session.scalars(mine.order_by(PlanAnswerRow.answered_at)).first()
        approval = _answer(row).approval if row is not None else None
        return approval.public_key_hex if approval is not None else None

    def record_refusal(self, site: str, plan_sha256: str, rule: str, *, now: datetime) -> None:
        """Keep that a site refused a plan; it is not sent it again until a person says so."""
        detail = {"plan_sha256": plan_sha256, "rule": rule}
        self._answer(site, plan_sha256, "plan_refused", detail, now, rule=rule)

    def record_approval(self, approval: PlanApproval, *, now: datetime) -> None:
        """Keep a hospital's signature, which was checked."""
        detail = {"plan_sha256": approval.plan_sha256}
        text = approval.model_dump_json()
        self._answer(
            approval.site, approval.plan_sha256, "plan_approved", detail, now, approval=text
        )

    def forget_refusal(self, site: str, plan_sha256: str) -> None:
        """Send a plan to a site once more; what it has signed stays."""
        with Session(self._engine) as session, session.begin():
            row = session.get(PlanAnswerRow, (site, plan_sha256))
            if row is not None and row.approval is None:
                session.delete(row)

    def _answer(
        self,
        site: str,
        plan_sha256: str,
        event: str,
        detail: dict[str, str],
        now: datetime,
        *,
        rule: str | None = None,
        approval: str | None = None,
    ) -> None:
        with Session(self._engine) as session, session.begin():
            session.merge(
                PlanAnswerRow(
                    site=site,
                    plan_sha256=plan_sha256,
                    refused_by_rule=rule,
                    approval=approval,
                    answered_at=now,
                )
            )
            session.add(EventRow(at=now, event=event, site=site, detail=detail))


def _answer(row: PlanAnswerRow) -> PlanAnswer:
    approval = row.approval and PlanApproval.model_validate_json(row.approval)
    return PlanAnswer(approval or None, row.refused_by_rule)
