"""Drafts a federation plan from the published package, and signs what the study lead made of it."""

import json
import secrets
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError

from algorithms.contracts.errors import DataError
from algorithms.contracts.federation_plan import (
    CohortRule,
    FederationPlan,
    ModelUpdateTerms,
    PermittedOutputs,
    SignedPlan,
    method_parameters,
)
from algorithms.contracts.model_package import MANIFEST_FILE, Manifest
from coordinator.config import CoordinatorHome
from coordinator.package_publisher import sign
from coordinator.plan_records import PlanRecords
from coordinator.study_store import StudyStore

_NOBODY_LEARNS = "a package has to be published first: see 'fedgtv-coordinator tick'"


def draft_plan(
    home: CoordinatorHome,
    store: StudyStore,
    *,
    valid_days: int,
    minimum_patients: int,
    minimum_group_size: int,
    model_updates: ModelUpdateTerms | None = None,
    now: datetime,
) -> FederationPlan:
    """Write down what the published package asks of hospitals, as the next plan; `now` is UTC.

    Without `model_updates` no adapted model may leave.

    Raises:
        DataError: nothing is published yet.
    """
    package_id = store.current_package()
    if package_id is None:
        raise DataError(f"nothing is published yet: {_NOBODY_LEARNS}")
    content = _manifest(home, package_id)
    manifest = Manifest.model_validate_json(content)
    begin = now.replace(tzinfo=UTC, microsecond=0)
    return FederationPlan(
        study=home.config.study,
        plan_number=PlanRecords(store).newest_number() + 1,
        package_id=package_id,
        model_version=manifest.model_version,
        code_version=version("fedgtv"),
        parameters=method_parameters(content),
        cohort=CohortRule(
            modality=manifest.modality,
            roi_names=(manifest.roi_name,),
            minimum_patients=minimum_patients,
            minimum_group_size=minimum_group_size,
        ),
        permitted_outputs=PermittedOutputs(
            messages=("site_report", "model_update") if model_updates else ("site_report",)
        ),
        model_updates=model_updates,
        valid_from=begin,
        expires_at=begin + timedelta(days=valid_days),
        nonce=secrets.token_hex(16),
    )


def readable(plan: FederationPlan) -> str:
    """Write a plan for a person to read and edit, every field of it."""
    return json.dumps(plan.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def read_draft(file: Path) -> FederationPlan:
    """Read a plan that a person may have edited.

    Raises:
        DataError: naming the key that is wrong.
    """
    try:
        return FederationPlan.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{file}: no such file: make one with 'plan draft'") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        where = f"{file}: key '{key}'" if key else f"{file}"
        raise DataError(f"{where}: {first['msg']}: correct the plan") from None


def sign_plan(
    home: CoordinatorHome, store: StudyStore, plan: FederationPlan, *, now: datetime
) -> SignedPlan:
    """Sign a plan with the study's key and make it the current one; `now` is UTC.

    The same plan signed again changes nothing.

    Raises:
        DataError: it does not fit the study, its package or its time, or its number is used.
    """
    records = PlanRecords(store)
    signed_bytes = plan.signed_bytes()
    signed = SignedPlan(plan=signed_bytes.decode(), signature=sign(home, signed_bytes))
    if any(row.plan_sha256 == signed.plan_sha256 for row in records.all()):
        return signed
    _check(home, store, records, plan, now)
    records.add(plan, signed, now=now)
    return signed


def _check(
    home: CoordinatorHome,
    store: StudyStore,
    records: PlanRecords,
    plan: FederationPlan,
    now: datetime,
) -> None:
    """Refuse what every site would refuse."""
    if plan.study != home.config.study:
        raise DataError(f"study: '{plan.study}' is not this study, '{home.config.study}'")
    if plan.plan_number <= (newest := records.newest_number()):
        raise DataError(f"plan_number: {newest} is signed already: take {newest + 1}")
    if plan.package_id != store.current_package():
        raise DataError(f"package_id: not the study's package: {_NOBODY_LEARNS}, then draft anew")
    if plan.time_rule(now.replace(tzinfo=UTC)) == "plan_expired":
        raise DataError("expires_at: lies in the past: give a later one")
    if rule := plan.package_rule(_manifest(home, plan.package_id)):
        raise DataError(
            f"{rule}: parameters, model_version and cohort have to be those of the package, which "
            "only a new package changes: draft anew"
        )


def _manifest(home: CoordinatorHome, package_id: str) -> bytes:
    file = home.packages / package_id / MANIFEST_FILE
    if not file.is_file():
        raise DataError(f"{file}: the published package is gone: restore it from backup")
    return file.read_bytes()
