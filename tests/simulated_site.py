"""Small real homes and packages for tests of the federation: no image, no training."""

import io
import math
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.numpy import save
from sqlalchemy import Engine, select, update
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.federation_plan import CohortRule, FederationPlan, SignedPlan
from algorithms.contracts.messages import RoundState
from algorithms.contracts.model_package import (
    MANIFEST_FILE,
    MODEL_FILE,
    REFERENCE_POINTS_FILE,
    AdaptationPlan,
    FileEntry,
    Manifest,
    NetworkSpec,
    PreprocessingRecipe,
    Signature,
    SourceValidation,
    TrainingSchedule,
)
from algorithms.contracts.site_report import (
    AnnotationSummary,
    ArmSummary,
    Distribution,
    RevisionSummary,
    SiteReport,
)
from algorithms.networks import build_network
from coordinator import plans
from coordinator.config import CoordinatorConfig, CoordinatorHome, write_config
from coordinator.config import open_home as open_coordinator_home
from coordinator.package_publisher import create_key, public_key_hex
from coordinator.study_store import StudyStore, create_database
from evaluation.site_summary import PatientRow
from site_agent.config import KEY_BYTES, SiteHome, open_home
from site_agent.database import (
    AuditRow,
    CaseRow,
    MeasurementRow,
    PackageRow,
    PlanRow,
    RoundRow,
    open_database,
    transaction,
)
from site_agent.database import create_database as create_site_database
from site_agent.plan_approval import sign_approval
from site_agent.plan_store import plans_held
from supervision.working_folder import write_whole
from tests.empty_database import lay_database

STUDY = "npc-gtv"
AT = datetime(2031, 5, 6, 7, 8, 9)
LEAD = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
LEAD_PUBLIC = LEAD.public_key().public_bytes_raw().hex()
PLANTED_PATIENT = "patient-0123456789ab"
PLANTED_CASE = "case-ba9876543210"
PLANTED_UID = "2.25.31415926535897932384626433832795028"
PLANTED = (PLANTED_PATIENT, PLANTED_CASE, PLANTED_UID)


def tiny_package(seed: int = 0, **changes: Any) -> tuple[Manifest, dict[str, bytes]]:
    """Make an unsigned package of random weights: a few kilobytes."""
    rng = np.random.default_rng(seed)
    network = NetworkSpec(base_channels=2, levels=2)
    weights = build_network(network, seed=seed).state_dict()
    tensors = {name: tensor.numpy() for name, tensor in weights.items()}
    points = io.BytesIO()
    np.save(points, rng.normal(size=(4, 256)).astype(np.float32))
    files = {MODEL_FILE: save(tensors), REFERENCE_POINTS_FILE: points.getvalue()}
    schedule = TrainingSchedule(iterations=1)
    fields: dict[str, Any] = {
        "study": STUDY,
        "model_version": "1.0.0",
        "preprocessing": PreprocessingRecipe(),
        "network": network,
        "adaptation": AdaptationPlan(stage1=schedule, stage3=schedule),
        "reference_point_count": 4,
        "reference_point_dimension": 256,
        "source_training_slices": 12,
        "source_validation": SourceValidation(
            validation_patients=5, validation_dsc=0.8, test_patients=5, test_dsc=None
        ),
        "seed": seed,
        "files": {n: file_entry(data) for n, data in files.items()},
    }
    return Manifest(**(fields | changes)), files


def file_entry(data: bytes) -> FileEntry:
    """Describe a file as a manifest does."""
    return FileEntry(sha256=sha256_hex(data), size_bytes=len(data))


def make_coordinator(
    folder: Path,
    *,
    targets: tuple[str, ...] = ("hospital-b",),
    air_gapped: tuple[str, ...] = (),
) -> CoordinatorHome:
    """Make a coordinator's home that records every byte it receives."""
    config = CoordinatorConfig(
        study=STUDY,
        source_site="hospital-a",
        target_sites=targets,
        air_gapped_sites=air_gapped,
        record_received=True,
    )
    write_config(folder, config)
    home = open_coordinator_home(folder)
    create_database(home.database_url)
    create_key(home.signing_key)
    return home


def make_site(folder: Path, name: str, *trusted_keys: str, auto_approve: bool = True) -> SiteHome:
    """Make a site's home with one case in its database, whose identifiers may never leave.

    It trusts `LEAD` and the keys that are named.
    """
    folder.mkdir(parents=True)
    keys = ", ".join(f'"{key}"' for key in (*trusted_keys, LEAD_PUBLIC))
    (folder / "site.toml").write_text(
        f'name = "{name}"\nstudy = "{STUDY}"\ntrusted_keys = [{keys}]\n'
        f"auto_approve = {str(auto_approve).lower()}\n",
        encoding="utf-8",
    )
    (folder / "secrets").mkdir(mode=0o700)
    write_whole(folder / "secrets" / "pseudonym.key", secrets.token_bytes(KEY_BYTES), mode=0o600)
    home = open_home(folder)
    lay_database(folder)
    create_site_database(home.database_url)  # where none was laid, on a server
    engine = open_database(home.database_url)
    with transaction(engine) as session:
        session.add(
            CaseRow(
                case_id=PLANTED_CASE,
                patient_id=PLANTED_PATIENT,
                modality="MR",
                manufacturer="PHANTOM",
                scanner_model="P1",
                split="test",
                has_reference=True,
                series={"series_instance_uid": PLANTED_UID, "study_instance_uid": ""},
                identity_sealed=None,
                ingested_at=AT,
            )
        )
    engine.dispose()
    return home


def tiny_federation_plan(package_id: str, **changes: Any) -> FederationPlan:
    """Make a plan for a package, valid whenever a test may run."""
    fields: dict[str, Any] = {
        "study": STUDY,
        "plan_number": 1,
        "package_id": package_id,
        "model_version": "1.0.0",
        "code_version": version("fedgtv"),
        "parameters": {"adaptation.annotation_budget": 0.2},
        "cohort": CohortRule(
            modality="MR", roi_names=("GTVp",), minimum_patients=1, minimum_group_size=2
        ),
        "valid_from": datetime(2020, 1, 1, tzinfo=UTC),
        "expires_at": datetime(2040, 1, 1, tzinfo=UTC),
        "nonce": "0" * 32,
    }
    return FederationPlan(**(fields | changes))


def sign_plan(plan: FederationPlan, key: Ed25519PrivateKey = LEAD) -> SignedPlan:
    """Sign a plan as the study lead does."""
    content = plan.signed_bytes()
    key_id = sha256_hex(key.public_key().public_bytes_raw())[:16]
    signature = Signature(key_id=key_id, signature_hex=key.sign(content).hex())
    return SignedPlan(plan=content.decode(), signature=signature)


def approve_plan_for(
    home: SiteHome,
    engine: Engine,
    package_id: str,
    *,
    key: Ed25519PrivateKey = LEAD,
    **changes: Any,
) -> FederationPlan:
    """Give a site a plan with both signatures; its package need not be there.

    `key` is the study lead's, which the site has to trust. Everything but the comparison with the
    package is as `plan_store` does it.
    """
    held = plans_held(engine)
    number = held[-1].plan_number + 1 if held else 1
    fields = {"study": home.config.study, "plan_number": number} | changes
    plan = tiny_federation_plan(package_id, **fields)
    signed = sign_plan(plan, key)
    approval = sign_approval(home, signed.plan_sha256, now=AT)
    with transaction(engine) as session:
        before = update(PlanRow).where(PlanRow.package_id == package_id)
        session.execute(before.values(state="retired"))
        session.add(
            PlanRow(
                plan_sha256=signed.plan_sha256,
                plan_number=plan.plan_number,
                package_id=package_id,
                plan=signed.plan,
                signature=signed.signature.model_dump_json(),
                state="approved",
                received_at=AT,
                approval=approval.model_dump_json(),
            )
        )
    return plan


def sign_study_plan(home: CoordinatorHome) -> SignedPlan:
    """Draft the plan of a study with a published package, and sign it, as the study lead does."""
    with StudyStore(home.database_url, home.config) as store:
        now = datetime.now(UTC).replace(tzinfo=None)
        draft = plans.draft_plan(
            home, store, valid_days=30, minimum_patients=1, minimum_group_size=2, now=now
        )
        return plans.sign_plan(home, store, draft, now=now)


def make_study(
    folder: Path, *targets: str, air_gapped: tuple[str, ...] = ()
) -> tuple[CoordinatorHome, dict[str, Path]]:
    """Make a coordinator, the source site "hospital-a" and the target sites, which trust it."""
    coordinator = make_coordinator(folder / "coordinator", targets=targets, air_gapped=air_gapped)
    key = public_key_hex(coordinator)
    homes = {name: folder / name for name in ("hospital-a", *targets)}
    for name, home in homes.items():
        make_site(home, name, key)
    return coordinator, homes


def prepare_source_package(home: Path, **changes: Any) -> Manifest:
    """Do what training at the source hospital ends with."""
    manifest, files = tiny_package(**changes)
    folder = home / "source-package"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / MANIFEST_FILE).write_bytes(manifest.signed_bytes())
    return manifest


def finish_round(engine: Engine, site: str, package_id: str, **changes: Any) -> SiteReport:
    """Do what adaptation and review end with: a round with a report."""
    report = tiny_report(site, package_id, **changes)
    with transaction(engine) as session:
        session.add(
            RoundRow(
                round_id=f"{package_id[:8]}{site}",
                package_id=package_id,
                case_set_sha256="0" * 64,
                seed=0,
                state=RoundState.REPORTED.value,
                report=report.model_dump(mode="json"),
                started_at=AT,
                changed_at=AT,
            )
        )
    return report


def store_round(engine: Engine, report: SiteReport, rows: Sequence[PatientRow]) -> str:
    """Put what measuring leaves into a site's database: patients, their figures, the report."""
    round_id = report.package_id[:16]
    with transaction(engine) as session:
        for name in sorted({str(row.patient) for row in rows}):
            if session.get(CaseRow, f"case-{name}") is None:
                session.add(
                    CaseRow(
                        case_id=f"case-{name}",
                        patient_id=name,
                        modality="MR",
                        manufacturer="",
                        scanner_model="",
                        split="test",
                        has_reference=True,
                        series={},
                        ingested_at=AT,
                    )
                )
        session.add(
            PackageRow(
                package_id=report.package_id,
                model_version=report.model_version,
                signed_by="",
                state="approved",
                received_at=AT,
            )
        )
        session.flush()
        session.add(
            RoundRow(
                round_id=round_id,
                package_id=report.package_id,
                case_set_sha256="",
                seed=0,
                state=RoundState.REPORTED.value,
                report=report.model_dump(mode="json"),
                started_at=AT,
                changed_at=AT,
            )
        )
        session.flush()
        session.add_all(
            MeasurementRow(
                round_id=round_id,
                case_id=f"case-{row.patient}",
                arm=row.arm,
                metrics={
                    figure: None if math.isnan(value) else value
                    for figure, value in vars(row.metrics).items()
                    if isinstance(value, float)
                },
                subgroups=dict(row.subgroups),
            )
            for row in rows
        )
    return round_id


def refusals(engine: Engine) -> list[tuple[str, dict[str, Any]]]:
    """Return what the site refused to take in or give out: the kind of message and the rule."""
    refused = select(AuditRow).where(AuditRow.event == "message_refused")
    with Session(engine) as session:
        rows = session.scalars(refused.order_by(AuditRow.sequence))
        return [(row.subject, row.detail) for row in rows]


def tiny_report(site: str, package_id: str, **changes: Any) -> SiteReport:
    """Make a report about six patients."""
    figure = Distribution(n=6, mean=0.8, sd=0.1, median=0.81, q1=0.7, q3=0.9)
    hidden = Distribution(n=2, undefined=4)
    arm = ArmSummary(
        arm="adapted",
        patients=6,
        failures=0,
        dsc=figure,
        hd95_mm=figure,
        assd_mm=hidden,
        asd_predicted_to_reference_mm=figure,
        nsd_at_1mm=figure,
    )
    fields: dict[str, Any] = {
        "study": STUDY,
        "site": site,
        "package_id": package_id,
        "model_version": "1.0.0",
        "adapted_model_sha256": "20310506" + "a" * 56,  # looks like a date, but is a hash
        "code_version": "0.1.0",
        "seed": 20310506,  # nor is a seed a date
        "vendors": ("other",),
        "minimum_group_size": 5,
        "annotation": AnnotationSummary(
            strategy="stdr",
            training_patients=8,
            training_slices=80,
            selected_slices=16,
            patients_with_selected_slices=7,
            simulated=True,
        ),
        "arms": (arm,),
        "revision": RevisionSummary(
            patients=6, degree_percent=figure, bins=(3, 2, 1, 0), active_s=figure, simulated=True
        ),
    }
    return SiteReport(**(fields | changes))
