"""What the study's round changed in the package's weights, made fit to leave: clipped and noised.

An update is made once and kept. Whoever asks again gets the very same bytes: fresh noise each time
would average out. Whether it may leave is decided by `egress`, not here.
"""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy.special import ndtri
from sqlalchemy import Engine

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.errors import DataError
from algorithms.contracts.federation_plan import FederationPlan, ModelUpdateTerms
from algorithms.contracts.messages import UPDATE_FILE, ModelUpdateOffer
from algorithms.contracts.model_package import MODEL_FILE, FileEntry
from algorithms.contracts.site_report import SiteReport
from algorithms.federated_averaging import (
    add_noise,
    clip_update,
    gaussian_epsilon,
    total_epsilon,
)
from algorithms.update_file import float_tensors, write_update
from site_agent.config import SiteHome
from site_agent.database import LedgerRow
from site_agent.plan_store import PlanRefused, approved_plan, plan_in_force
from site_agent.study_round import reported_round

NOTE_FILE = "update.json"
LITTLE_WORTH = 10.0  # it lets odds rise 22,000 times


class _Note(BaseModel):
    """What is known of a kept update; without it the file does not count."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    adapted_model_sha256: str
    training_patients: int
    clip_norm: float
    noise_multiplier: float
    update: FileEntry


@dataclass(frozen=True)
class Promise:
    """What all updates that left promise together to everybody whose images made them.

    Attributes:
        updates: how many different ones left.
        epsilon, delta: None where one of them was without noise: then nothing is promised.
    """

    updates: int
    epsilon: float | None
    delta: float | None


def prepare_update(home: SiteHome, engine: Engine, plan: FederationPlan) -> None:
    """Make the update that a plan asks for, if it does and none is kept that was made so.

    The package's files were verified before. Without a reported round there is nothing to do.

    Raises:
        DataError: the adapted weights are gone, damaged, or not finite.
    """
    row, terms = reported_round(engine, plan.package_id), plan.model_updates
    if row is None or terms is None:
        return
    report = SiteReport.model_validate(row.report)
    folder = _folder(home, plan.package_id, terms)
    if _kept(folder, report) is not None:
        return
    base = float_tensors((home.packages / plan.package_id / MODEL_FILE).read_bytes())
    adapted = float_tensors(_adapted_weights(home, report))
    try:
        update = clip_update({n: adapted[n] - one for n, one in base.items()}, terms.clip_norm)
    except ValueError:
        raise DataError("the adapted weights are not finite: no update is made of them") from None
    content = write_update(
        add_noise(update, terms.noise_multiplier, terms.clip_norm, system_normal)
    )
    note = _Note(
        adapted_model_sha256=report.adapted_model_sha256,
        training_patients=report.annotation.training_patients,
        clip_norm=terms.clip_norm,
        noise_multiplier=terms.noise_multiplier,
        update=FileEntry(sha256=sha256_hex(content), size_bytes=len(content)),
    )
    _write(folder / UPDATE_FILE, content)
    _write(folder / NOTE_FILE, canonical_json(note.model_dump(mode="json")))


def is_update_ready(home: SiteHome, engine: Engine, package_id: str, *, now: datetime) -> bool:
    """Say whether there is an update by the terms of the plan in force; `now` is UTC."""
    try:
        plan = plan_in_force(home, engine, package_id, now=now)
    except PlanRefused:
        return False
    row = reported_round(engine, package_id)
    if row is None or plan.model_updates is None:
        return False
    folder = _folder(home, package_id, plan.model_updates)
    return _kept(folder, SiteReport.model_validate(row.report)) is not None


def offer_update(
    home: SiteHome, engine: Engine, plan: FederationPlan
) -> tuple[ModelUpdateOffer, bytes]:
    """Return the kept update by the terms of the plan in force, as it is offered.

    Raises:
        DataError: there is none.
    """
    row, signed = reported_round(engine, plan.package_id), approved_plan(engine, plan.package_id)
    terms = plan.model_updates
    if row is None or signed is None or terms is None:
        raise DataError("no model update is ready for this package")
    folder = _folder(home, plan.package_id, terms)
    note = _kept(folder, SiteReport.model_validate(row.report))
    if note is None:
        raise DataError("no model update is ready for this package: run 'fedgtv-site work'")
    offer = ModelUpdateOffer(
        site=home.config.name,
        package_id=plan.package_id,
        plan_sha256=signed.plan_sha256,
        training_patients=note.training_patients,
        epsilon=promised_epsilon(terms),
        files={UPDATE_FILE: note.update},
        **terms.model_dump(),
    )
    return offer, (folder / UPDATE_FILE).read_bytes()


def promised_epsilon(terms: ModelUpdateTerms) -> float | None:
    """Return what one update by these terms promises at their delta; None is nothing."""
    return _finite(gaussian_epsilon(terms.noise_multiplier, terms.delta))


def promise_so_far(entries: Iterable[LedgerRow]) -> Promise:
    """Add up what the updates that left promise; one that left twice counts once.

    It holds for each person among the hospital's patients, and for all of them at once. The site
    reports are no part of it.
    """
    left = {
        entry.detail["files"][UPDATE_FILE]["sha256"]: entry.detail["model_update"]
        for entry in entries
        if entry.kind == "model_update" and entry.state == "released"
    }
    if not left:
        return Promise(0, None, None)
    delta = min(float(one["delta"]) for one in left.values())
    total = total_epsilon([float(one["noise_multiplier"]) for one in left.values()], delta)
    epsilon = _finite(total)
    return Promise(len(left), epsilon, delta if epsilon is not None else None)


def promise_in_words(promise: Promise) -> str:
    """Say what a promise is worth, for a person who decides about it."""
    updates = "one model update" if promise.updates == 1 else f"{promise.updates} model updates"
    if promise.epsilon is None:
        return (
            f"{updates}: no privacy is promised, because there was no noise, or next to none: what "
            "a patient's images did to the weights may be read from them"
        )
    little = ", which protects little" if promise.epsilon > LITTLE_WORTH else ""
    return (
        f"{updates}: epsilon {promise.epsilon:.3g} at delta {promise.delta:.0e}{little}: whatever "
        "somebody guesses about this hospital's patients, all of them or one, the weights raise "
        f"its odds by e^{promise.epsilon:.3g} at most; what the reports say is not counted"
    )


def system_normal(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Draw standard normal numbers from the system's entropy, which nobody can compute again.

    What numpy's generators draw can be, by whoever knows enough of it: one tensor that training
    left as it was shows the bare noise.
    """
    drawn = np.frombuffer(os.urandom(8 * math.prod(shape)), np.uint64) >> np.uint64(11)
    normal: NDArray[np.float64] = ndtri((drawn + 0.5) * 2.0**-53)
    return normal.reshape(shape)


def _finite(epsilon: float) -> float | None:
    return epsilon if math.isfinite(epsilon) else None


def _folder(home: SiteHome, package_id: str, terms: ModelUpdateTerms) -> Path:
    made_with = canonical_json(terms.model_dump(include={"clip_norm", "noise_multiplier"}))
    return home.updates / package_id / sha256_hex(made_with)[:16]


def _kept(folder: Path, report: SiteReport) -> _Note | None:
    """Return the note of an update that is there, whole, and of the model that was reported."""
    try:
        note = _Note.model_validate_json((folder / NOTE_FILE).read_bytes())
        whole = sha256_hex((folder / UPDATE_FILE).read_bytes()) == note.update.sha256
    except (FileNotFoundError, ValidationError):
        return None
    return note if whole and note.adapted_model_sha256 == report.adapted_model_sha256 else None


def _adapted_weights(home: SiteHome, report: SiteReport) -> bytes:
    file = home.models / f"{report.adapted_model_sha256}.safetensors"
    content = file.read_bytes() if file.is_file() else b""
    if sha256_hex(content) != report.adapted_model_sha256:
        raise DataError(
            f"{file}: the adapted weights are missing or damaged: restore them from a backup"
        )
    return content


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.part")
    with part.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    part.replace(file)
