"""What the study database knows about bundles: which were written, and which answers came.

A number is given once per site and never again. An answer counts once: the same file is taken up
again only while a kill left it half done.
"""

from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from algorithms.contracts.bundle import BundleRefused, check_order, replayed
from algorithms.contracts.messages import SiteStatus
from coordinator.study_store import BundleRow, EventRow, SiteRow, StudyStore


class BundleRecords:
    """The bundles in a study database."""

    def __init__(self, store: StudyStore) -> None:
        self._engine = store.engine

    def reserve(self, site: str, *, after: int, now: datetime) -> int:
        """Return the next number of a bundle to `site`, greater than `after`; `now` is UTC."""
        with Session(self._engine) as session, session.begin():
            mine = select(func.max(BundleRow.sequence)).where(BundleRow.site == site)
            sequence = max(session.scalar(mine) or 0, after) + 1
            session.add(BundleRow(site=site, sequence=sequence, created_at=_naive(now)))
        return sequence

    def record_written(self, site: str, sequence: int, sha256: str, *, now: datetime) -> None:
        """Keep what a bundle is named by, before anybody can carry it away."""
        detail = {"sequence": sequence, "sha256": sha256}
        with Session(self._engine) as session, session.begin():
            session.get_one(BundleRow, (site, sequence)).sha256 = sha256
            session.add(EventRow(at=_naive(now), event="bundle_written", site=site, detail=detail))

    def begin_answer(
        self, site: str, sequence: int, answers_sha256: str, sha256: str, *, now: datetime
    ) -> None:
        """Take an answer in, or go on with one that was taken in and not acted on to the end.

        Raises:
            BundleRefused: "replayed", "stale" or "not_an_answer".
        """
        with Session(self._engine) as session, session.begin():
            answered = select(BundleRow).where(
                BundleRow.site == site, BundleRow.answer_sha256.is_not(None)
            )
            known = {row.sequence: row for row in session.scalars(answered)}
            check_order(sequence, sha256, {n: r.answer_sha256 or "" for n, r in known.items()})
            row = session.get(BundleRow, (site, sequence))
            if row is None or row.sha256 != answers_sha256:
                raise BundleRefused(
                    "not_an_answer", f"bundle {sequence} to {site} is not the one that it answers"
                )
            if row.answer_done:
                raise replayed(sequence)
            if row.answer_sha256 is None:
                row.answer_sha256 = sha256
                detail = {"sequence": sequence, "sha256": sha256}
                session.add(
                    EventRow(at=_naive(now), event="bundle_taken", site=site, detail=detail)
                )

    def end_answer(self, site: str, sequence: int) -> None:
        """Keep that all of an answer was acted on."""
        with Session(self._engine) as session, session.begin():
            session.get_one(BundleRow, (site, sequence)).answer_done = True

    def record_refusal(self, site: str, rule: str, *, now: datetime) -> None:
        """Keep that a bundle was refused; `site` is "" where nobody knows whose it is."""
        with Session(self._engine) as session, session.begin():
            event = EventRow(
                at=_naive(now), event="bundle_refused", site=site, detail={"rule": rule}
            )
            session.add(event)

    def last_status(self, site: str) -> SiteStatus | None:
        """Return what a site said last about where it stands."""
        with Session(self._engine) as session:
            status = session.get_one(SiteRow, site).status
        return SiteStatus.model_validate(status) if status is not None else None


def _naive(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(tzinfo=None)
