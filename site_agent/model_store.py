"""The models that this site's doctors taught: which one is in use, and the way back.

A round ends in a candidate. It comes into use only when it is not worse on the site's validation
patients than what is in use, or when a person says so; one command goes back to the one before.
Where no model of the site is in use, the package's own is.
"""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.errors import DataError
from site_agent import audit_log
from site_agent.config import SiteHome
from site_agent.database import SiteModelRow, transaction, utc_now

CANDIDATE, ACTIVE, RETIRED = "candidate", "active", "retired"


@dataclass(frozen=True)
class Comparison:
    """How a candidate did beside what is in use, on the same validation patients.

    Attributes:
        patients: how many there were.
        candidate_dsc: mean Dice; None without patients.
        incumbent_dsc: likewise.
        margin: how much worse it may be, a fraction.
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
    file = home.models / f"{sha256}.safetensors"
    if not file.is_file():
        home.models.mkdir(parents=True, exist_ok=True)
        part = file.with_name(file.name + ".part")
        part.write_bytes(weights)
        part.replace(file)
    with transaction(engine) as session:
        row = session.get(SiteModelRow, sha256)
        if row is not None:
            return row
        row = SiteModelRow(
            sha256=sha256,
            round_id=round_id,
            state=CANDIDATE,
            validation_patients=compared.patients,
            candidate_dsc=compared.candidate_dsc,
            incumbent_dsc=compared.incumbent_dsc,
            offered_at=utc_now(),
            activated_at=None,
        )
        session.add(row)
        _log(session, "model_offered", row, actor, passes=compared.passes)
        if compared.passes:
            _activate(session, row, actor)
        return row


def activate(engine: Engine, model: str, *, actor: str) -> SiteModelRow:
    """Bring a model into use because a person says so.

    Args:
        engine: of the site.
        model: its SHA-256, or as many of the first digits as name one model.
        actor: who says so.

    Raises:
        DataError: no model, or several, are called so.
    """
    with transaction(engine) as session:
        query = select(SiteModelRow).where(SiteModelRow.sha256.startswith(model, autoescape=True))
        found = session.scalars(query).all()
        if len(found) != 1:
            number = "several models begin" if found else "no model begins"
            raise DataError(f"{number} with '{model}': see 'fedgtv-site model list'")
        if found[0].state != ACTIVE:
            _activate(session, found[0], actor)
        return found[0]


def roll_back(engine: Engine, *, actor: str) -> SiteModelRow | None:
    """Go back to the model that was in use before; None is the package's own.

    Raises:
        DataError: the package's own is in use.
    """
    with transaction(engine) as session:
        current = _active(session)
        if current is None:
            raise DataError("the package's own model is in use: there is nothing to go back from")
        current.state = RETIRED
        _log(session, "model_rolled_back", current, actor)
        before = session.scalars(
            select(SiteModelRow)
            .where(SiteModelRow.activated_at < current.activated_at)
            .order_by(SiteModelRow.activated_at.desc())
        ).first()
        if before is not None:
            before.state = ACTIVE
        return before


def active_model(engine: Engine) -> SiteModelRow | None:
    """Return the site's model in use; None is the package's own."""
    with Session(engine) as session:
        return _active(session)


def models(engine: Engine) -> list[SiteModelRow]:
    """Return every model of the site, the oldest first."""
    order = (SiteModelRow.offered_at, SiteModelRow.sha256)
    with Session(engine) as session:
        return list(session.scalars(select(SiteModelRow).order_by(*order)))


def model_file(home: SiteHome, row: SiteModelRow) -> Path:
    """Return where a model's weights are."""
    return home.models / f"{row.sha256}.safetensors"


def _active(session: Session) -> SiteModelRow | None:
    return session.scalars(select(SiteModelRow).where(SiteModelRow.state == ACTIVE)).first()


def _activate(session: Session, row: SiteModelRow, actor: str) -> None:
    current = _active(session)
    if current is not None:
        current.state = RETIRED
    row.state, row.activated_at = ACTIVE, utc_now()
    _log(session, "model_activated", row, actor)


def _log(session: Session, event: str, row: SiteModelRow, actor: str, **detail: bool) -> None:
    audit_log.append(
        session,
        actor=actor,
        event=event,
        subject=f"model-{row.sha256[:16]}",
        detail=detail,
        at=utc_now(),
    )
