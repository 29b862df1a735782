"""Brings the current plan to the target hospitals, and their signatures under it back."""

from collections.abc import Mapping
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.errors import ProtocolError
from algorithms.contracts.messages import PlanApproval, PlanReceipt, SiteStatus
from coordinator.config import CoordinatorHome
from coordinator.plan_records import PlanRecords
from coordinator.sites import Question, Sites, parse_answer
from coordinator.study_store import SignedPlanRow, StudyStore
from coordinator.study_workflow import SiteProgress

# A plan is checked against its package, which comes first.
_HOLDS_PACKAGE = (SiteProgress.DELIVERED, SiteProgress.REPORTED)


def deliver_plan(
    home: CoordinatorHome, store: StudyStore, sites: Sites, statuses: Mapping[str, SiteStatus]
) -> None:
    """Send the current plan where it is missing, and fetch the signatures of who approved it."""
    package_id, records = store.current_package(), PlanRecords(store)
    plan = records.current(package_id)
    if package_id is None or plan is None:
        return
    progress, answers = store.progress(package_id), records.answers(plan.plan_sha256)
    ready = [s for s in progress if s in statuses and progress[s] in _HOLDS_PACKAGE]
    refusing = {site for site, answer in answers.items() if answer.refused_by_rule is not None}
    lacking = [s for s in ready if statuses[s].plan_held != plan.plan_sha256]
    _send(store, records, sites, plan, [s for s in lacking if s not in refusing])
    known = {site for site, answer in answers.items() if answer.approval is not None}
    approved = [s for s in ready if statuses[s].plan_approved == plan.plan_sha256]
    unknown = [s for s in approved if s not in known]
    _fetch_approvals(home, store, records, sites, plan, unknown)


def trusted_key(store: StudyStore, records: PlanRecords, approval: PlanApproval) -> str:
    """Return the public key that a site's approvals have to be signed with.

    It is the one that a person compared when the site was enrolled. Sites that never were can only
    be on this machine, in the embedded or the loopback deployment: theirs is the first that came.
    """
    enrolled = store.site_key(approval.site)
    if enrolled is not None:
        return enrolled.signing_public_key_hex
    return records.first_key(approval.site) or approval.public_key_hex


def check_approval(approval: PlanApproval, site: str, study: str, plan: str, key_hex: str) -> None:
    """Refuse a signature that is not this site's under this plan.

    Raises:
        ProtocolError: naming the rule.
    """
    if approval.site != site:
        raise ProtocolError("wrong_site")
    if (approval.study, approval.plan_sha256) != (study, plan):
        raise ProtocolError("wrong_plan")
    if approval.public_key_hex != key_hex:
        raise ProtocolError("unknown_site_key")
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key_hex)).verify(
            bytes.fromhex(approval.signature_hex), approval.signed_bytes()
        )
    except InvalidSignature:
        raise ProtocolError("bad_approval_signature") from None


def _send(
    store: StudyStore, records: PlanRecords, sites: Sites, plan: SignedPlanRow, lacking: list[str]
) -> None:
    if not lacking:
        return
    signed = plan.signed.encode()
    answers = sites.ask(Question.RECEIVE_PLAN, lacking, signed_plan=signed)
    for site, answer in answers.items():
        try:
            receipt = parse_answer(answer, PlanReceipt)
            if (receipt.site, receipt.received_sha256) != (site, sha256_hex(signed)):
                raise ProtocolError("wrong_receipt")
        except ProtocolError as error:
            store.record_failure(site, str(error))
            continue
        if not receipt.accepted:
            rule = receipt.refused_by_rule or "refused"
            records.record_refusal(site, plan.plan_sha256, rule, now=_now())


def _fetch_approvals(
    home: CoordinatorHome,
    store: StudyStore,
    records: PlanRecords,
    sites: Sites,
    plan: SignedPlanRow,
    approved: list[str],
) -> None:
    if not approved:
        return
    for site, answer in sites.ask(Question.PLAN_APPROVAL, approved).items():
        try:
            approval = parse_answer(answer, PlanApproval)
            key = trusted_key(store, records, approval)
            check_approval(approval, site, home.config.study, plan.plan_sha256, key)
        except ProtocolError as error:
            store.record_failure(site, str(error))
            continue
        records.record_approval(approval, now=_now())


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
