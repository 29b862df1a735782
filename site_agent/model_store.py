"""The models that this site's doctors taught: which one is in use, and the way back.

A round ends in a candidate. It comes into use only when it is not worse on the site's validation
patients than what is in use, or when a person says so; one command goes back to the one before.
What is in use segments patients who come after the study's. Where no model of the site is, the
package's own is.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.errors import DataError
from site_agent import audit_log
from site_agent.config import SiteHome
from site_agent.database import (
    AuditRow,
    ModelActivationRow,
    SiteModelRow,
    transaction,
    utc_now,
)

OWN = "package"  # what the audit log calls the package's own model


@dataclass(frozen=True)
class Comparison:
    """How a candidate did beside what is in use, on the same validation patients.

    Attributes:
        patients: how many there were.
        candidate_dsc: mean Dice; None without patients.
        incumbent_dsc: likewise; None too where what is in use cannot be compared.
        margin: how much worse the candidate may be, a fraction.
    """

    patients: int
    candidate_dsc: float | None
    incumbent_dsc: float | None
    margin: float

    @property
    def passes(self) -> bool:
        """Say whether the candidate may be used; without patients nobody knows."""
        if self.candidate_dsc is None or self.incumbent_dsc is None:
            return False
        return self.candidate_dsc >= self.incumbent_dsc - self.margin


def offer(
    home: SiteHome,
    engine: Engine,
    weights: bytes,
    round_id: str,
    compared: Comparison,
    *,
    actor: str,
) -> SiteModelRow:
    """Keep the model of a round, and bring it into use if it passes; once per model.

    Args:
        home: where the weights are kept, whatever becomes of the round.
        engine: of the site.
        weights: bytes of a safetensors file.
        round_id: that the model came from.
        compared: how it did.
        actor: who offers it.
    """
    sha256 = sha256_hex(weights)
    _write(home.models / f"{sha256}.safetensors", weights)
    with transaction(engine) as session:
        row = session.get(SiteModelRow, sha256)
        if row is not None:
            return row
        row = SiteModelRow(
            sha256=sha256,
            round_id=round_id,
            validation_patients=compared.patients,
            candidate_dsc=compared.candidate_dsc,
            incumbent_dsc=compared.incumbent_dsc,
            offered_at=utc_now(),
        )
        session.add(row)
        _log(session, "model_offered", sha256, actor, passes=compared.passes)
        if compared.passes:
            _activate(session, row, actor)
        return row


def activate(home: SiteHome, engine: Engine, model: str, *, actor: str) -> SiteModelRow:
    """Bring a model into use because a person says so.

    Args:
        home: of the site.
        engine: of the site.
        model: its SHA-256, or as many of the first digits as name one model.
        actor: who says so.

    Raises:
        DataError: no model, or several, are called so, or its weights are lost.
    """
    with transaction(engine) as session:
        query = select(SiteModelRow).where(
            SiteModelRow.sha256.startswith(model.lower(), autoescape=True)
        )
        found = session.scalars(query).all()
        if len(found) != 1:
            number = "several models begin" if found else "no model begins"
            raise DataError(f"{number} with '{model}': see 'fedgtv-site model list'")
        read_model(home, found[0])
        current = _active(session)
        if current is None or current.sha256 != found[0].sha256:
            _activate(session, found[0], actor)
        return found[0]


def roll_back(home: SiteHome, engine: Engine, *, actor: str) -> SiteModelRow | None:
    """Go back to the model that was in use before; None is the package's own.

    A model whose weights are lost is passed over.

    Raises:
        DataError: the package's own is in use.
    """
    with transaction(engine) as session:
        newest = _newest(session)
        if newest is None:
            raise DataError("the package's own model is in use: there is nothing to go back from")
        left = newest.sha256
        session.delete(newest)
        session.flush()
        while (before := _active(session)) is not None and not is_whole(home, before):
            session.delete(_newest(session))
            session.flush()
        to = OWN if before is None else before.sha256[:16]
        _log(session, "model_rolled_back", left, actor, to=to)
        return before


def model_before(home: SiteHome, engine: Engine) -> SiteModelRow | None:
    """Return the model that `roll_back` would go to; None is the package's own."""
    newest_first = select(ModelActivationRow).order_by(ModelActivationRow.id.desc()).offset(1)
    with Session(engine) as session:
        for activation in session.scalars(newest_first):
            before = session.get_one(SiteModelRow, activation.sha256)
            if is_whole(home, before):
                return before
    return None


def history(engine: Engine) -> list[AuditRow]:
    """Return what was done with models, and by whom; the newest first."""
    done = AuditRow.event.in_(("model_offered", "model_activated", "model_rolled_back"))
    with Session(engine) as session:
        order = AuditRow.sequence.desc()
        return list(session.scalars(select(AuditRow).where(done).order_by(order)))


def active_model(engine: Engine) -> SiteModelRow | None:
    """Return the site's model in use; None is the package's own."""
    with Session(engine) as session:
        return _active(session)


def models(engine: Engine) -> list[SiteModelRow]:
    """Return every model of the site, the oldest first."""
    order = (SiteModelRow.offered_at, SiteModelRow.sha256)
    with Session(engine) as session:
        return list(session.scalars(select(SiteModelRow).order_by(*order)))


def read_model(home: SiteHome, row: SiteModelRow) -> Path:
    """Return the file of a model's weights; their hash is checked.

    Raises:
        DataError: it is missing or damaged.
    """
    if not is_whole(home, row):
        raise DataError(
            f"model {row.sha256[:16]}: its weights are missing or damaged: restore "
            f"{_file(home, row)} from a backup, or go back with 'fedgtv-site model rollback'"
        )
    return _file(home, row)


def is_whole(home: SiteHome, row: SiteModelRow) -> bool:
    """Say whether a model's weights are there, every byte."""
    file = _file(home, row)
    return file.is_file() and sha256_hex(file.read_bytes()) == row.sha256


def _file(home: SiteHome, row: SiteModelRow) -> Path:
    return home.models / f"{row.sha256}.safetensors"


def _write(file: Path, content: bytes) -> None:
    """Write a file, whole or not at all; one that is there and is the same stays."""
    if file.is_file() and file.read_bytes() == content:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    with part.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())  # or a power cut leaves the name with no content
    part.replace(file)


def _newest(session: Session) -> ModelActivationRow | None:
    order = ModelActivationRow.id.desc()
    return session.scalars(select(ModelActivationRow).order_by(order).limit(1)).first()


def _active(session: Session) -> SiteModelRow | None:
    newest = _newest(session)
    return None if newest is None else session.get_one(SiteModelRow, newest.sha256)


def _activate(session: Session, row: SiteModelRow, actor: str) -> None:
    session.flush()
    session.add(ModelActivationRow(sha256=row.sha256, at=utc_now()))
    _log(session, "model_activated", row.sha256, actor)


def _log(session: Session, event: str, sha256: str, actor: str, **detail: bool | str) -> None:
    audit_log.append(
        session,
        actor=actor,
        event=event,
        subject=f"model-{sha256[:16]}",
        detail=detail,
        at=utc_now(),
    )
