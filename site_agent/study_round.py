"""Which round with a package is the study's: what is reported and averaged comes from it."""

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from algorithms.contracts.messages import RoundState
from site_agent.database import RoundRow


def reported_round(engine: Engine, package_id: str) -> RoundRow | None:
    """Return the first round with a package that was reported: the study's.

    Rounds after it, which learn from patients who came later, are the site's own.
    """
    oldest_first = select(RoundRow).order_by(RoundRow.started_at)
    mine = (RoundRow.package_id == package_id, RoundRow.state == RoundState.REPORTED.value)
    with Session(engine) as session:
        return session.scalars(oldest_first.where(*mine)).first()
