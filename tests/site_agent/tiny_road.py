"""A source hospital's tiny package, signed, and target homes that trust it."""

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from algorithms.contracts.federation_plan import CohortRule, method_parameters
from algorithms.contracts.model_package import Manifest, StudyPlan
from site_agent.case_store import CaseStore
from site_agent.config import SiteHome
from site_agent.database import utc_now
from site_agent.package_store import approve, store_package, verify_folder
from site_agent.plan_store import approve_plan, store_plan
from site_agent.source_package import train_source
from tests.phantoms import STUDY, filled_store, make_home, public_hex, sign_folder
from tests.simulated_site import sign_plan, tiny_federation_plan

SHARES = {"test_share": 0.34, "validation_share": 0.17, "minimum_group_size": 2}


@dataclass(frozen=True)
class TinyPackage:
    """A signed package and the source hospital that made it."""

    source: SiteHome
    plan: StudyPlan
    manifest: Manifest
    folder: Path
    key: Ed25519PrivateKey


def make_package(folder: Path, plan: StudyPlan) -> TinyPackage:
    """Train at a source hospital of eight patients and sign what it prepared."""
    key = Ed25519PrivateKey.generate()
    source = make_home(folder / "source", "hospital-a", "source", **SHARES)
    manifest = train_source(source, filled_store(source, 8), plan)
    signed = sign_folder(source.source_package, folder / "signed", key)
    return TinyPackage(source, plan, manifest, signed, key)


def make_target(folder: Path, package: TinyPackage, *, patients: int = 6, **settings):
    """Make a target hospital with other patients; its package is stored and approved."""
    home = make_home(folder, trusted_key=public_hex(package.key), **SHARES | settings)
    store = filled_store(home, patients, first_seed=100, contrast=30.0)
    install(home, store, package)
    return home, store


def install(home: SiteHome, store: CaseStore, package: TinyPackage) -> None:
    """Import and approve a package, and the plan for it."""
    parts = verify_folder(package.folder, home.config.trusted_keys, study=STUDY)
    package_id = store_package(home, store.engine, *parts)
    approve(store.engine, package_id, actor="test")
    plan = tiny_federation_plan(
        package_id,
        study=STUDY,
        parameters=method_parameters(parts[0]),
        cohort=cohort_of(parts[0]),
    )
    signed = sign_plan(plan, package.key).model_dump_json().encode()
    store_plan(home, store.engine, signed, now=utc_now())
    approve_plan(home, store.engine, plan.plan_number, actor="test", now=utc_now())


def cohort_of(manifest: bytes) -> CohortRule:
    """Let a plan be for what its package is for."""
    said = Manifest.model_validate_json(manifest)
    return CohortRule(
        modality=said.modality,
        roi_names=(said.roi_name,),
        minimum_patients=2,
        minimum_group_size=2,
    )
