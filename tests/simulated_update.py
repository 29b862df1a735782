"""Model updates of tiny packages, and sites that have one to give: no image, no training."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save
from sqlalchemy import Engine

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.federation_plan import (
    FederationPlan,
    ModelUpdateTerms,
    PermittedOutputs,
)
from algorithms.contracts.messages import UPDATE_FILE, ModelUpdateOffer
from algorithms.contracts.model_package import MODEL_FILE
from algorithms.federated_averaging import clip_update
from algorithms.update_file import float_tensors, write_update
from site_agent.config import SiteHome
from site_agent.database import PackageRow, transaction
from site_agent.model_update import promised_epsilon
from tests.simulated_site import AT, approve_plan_for, file_entry, finish_round, tiny_package

MANIFEST, FILES = tiny_package()
PACKAGE = MANIFEST.package_id
WEIGHTS = FILES[MODEL_FILE]
TERMS = ModelUpdateTerms(clip_norm=1.0, noise_multiplier=0.0, delta=1e-5)
OUTPUTS = PermittedOutputs(messages=("site_report", "model_update"))


def tiny_update(seed: int = 0, norm: float = 1.0) -> dict[str, NDArray[np.float32]]:
    """Draw an update of the tiny package, as long as `norm`."""
    rng = np.random.default_rng(seed)
    base = float_tensors(WEIGHTS)
    drawn = {name: rng.normal(size=one.shape).astype(np.float32) for name, one in base.items()}
    return clip_update(drawn, norm)


def tiny_offer(
    content: bytes,
    plan_sha256: str,
    site: str = "hospital-b",
    terms: ModelUpdateTerms = TERMS,
    **changes: Any,
) -> ModelUpdateOffer:
    """Offer an update as a site does whose report is `tiny_report`."""
    fields: dict[str, Any] = {
        "site": site,
        "package_id": PACKAGE,
        "plan_sha256": plan_sha256,
        "training_patients": 8,
        "epsilon": promised_epsilon(terms),
        "files": {UPDATE_FILE: file_entry(content)},
        **terms.model_dump(),
    }
    return ModelUpdateOffer(**(fields | changes))


def adapt(
    home: SiteHome, engine: Engine, norm: float = 3.0, number: float = 0.0
) -> dict[str, NDArray[np.float32]]:
    """Do what a reported round of the tiny package ends with, and return what it changed.

    One `number` is added to a weight.
    """
    file = home.packages / PACKAGE / MODEL_FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(WEIGHTS)
    with transaction(engine) as session:
        session.add(
            PackageRow(
                package_id=PACKAGE,
                model_version="1.0.0",
                signed_by="k",
                state="approved",
                received_at=AT,
            )
        )
    changed = tiny_update(7, norm)
    next(iter(changed.values())).flat[0] += number
    before = load(WEIGHTS)
    adapted = save(before | {name: before[name] + one for name, one in changed.items()})
    home.models.mkdir(exist_ok=True)
    (home.models / f"{sha256_hex(adapted)}.safetensors").write_bytes(adapted)
    finish_round(engine, home.config.name, PACKAGE, adapted_model_sha256=sha256_hex(adapted))
    return changed


def permit(
    home: SiteHome, engine: Engine, terms: ModelUpdateTerms = TERMS, **changes: Any
) -> FederationPlan:
    """Give a site a plan with both signatures that lets an update go."""
    permitted = {"permitted_outputs": OUTPUTS, "model_updates": terms}
    return approve_plan_for(home, engine, PACKAGE, **(permitted | changes))


def bytes_of(update: dict[str, NDArray[np.float32]]) -> bytes:
    """Write an update, as a site does."""
    return write_update(update)
