"""A reader judges contours without knowing what made them; `blinded_results` opens the seals.

Which contour is shown is fixed and sealed when a reading starts, and the audit log keeps a hash of
each seal. What is written while somebody reads says nothing about it. Why so: docs/adr, "Blinded
reading".
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import MaskArray
from site_agent import audit_log
from site_agent.blinded_allocation import (
    Allocation,
    balanced_order,
    crossed_order,
    generator,
    open_allocation,
    seal_allocation,
)
from site_agent.case_store import REFERENCE, REVIEWED, CaseStore
from site_agent.click_store import mask_sha256
from site_agent.database import BlindedReadingRow, ContourRow, ReviewRow, transaction

ARMS = ("adapted", REFERENCE, REVIEWED)  # made by the AI, by hand, by the AI and then by hand
LIKERT = (1, 2, 3, 4, 5)
VERDICTS = ("usable as is", "minor changes", "major changes", "unusable")
STARTED, STOPPED = "blinded_started", "blinded_stopped"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


@dataclass(frozen=True)
class ReadingStatus:
    """How far a reading is.

    Attributes:
        judged: of `places`.
        stopped: places that were left out when it was stopped early.
    """

    reading: str
    reader: str
    places: int
    judged: int
    stopped: int

    @property
    def done(self) -> bool:
        """Say whether nothing is left to read."""
        return self.judged + self.stopped == self.places


def start(
    store: CaseStore,
    *,
    reading: str,
    reader: str,
    seed: int,
    arms: Sequence[str] = ARMS,
    crossed: bool = False,
    own_contours: bool = False,
    actor: str,
    now: datetime,
) -> int:
    """Allocate and seal a reading of the latest round's cases that have a contour of every arm.

    Args:
        store: of the site.
        reading: its name: small letters, digits and hyphens.
        reader: username of who reads.
        seed: of the order, together with the site's key.
        arms: of `ARMS`, at least two.
        crossed: every case is shown with every arm; else once, with a random one.
        own_contours: let somebody read who drew some of the contours.
        actor: who starts it.
        now: UTC.

    Returns:
        The number of contours to read.

    Raises:
        DataError: a name or arms that cannot be, a reading of this name, no fitting cases, or the
            reader drew some of the contours.
    """
    _check(reading, arms)
    key = store.home.secret("crosswalk.key")
    rng = generator(key, reading, seed)
    with transaction(store.engine) as session:
        if session.scalars(select(BlindedReadingRow).filter_by(reading=reading).limit(1)).first():
            raise DataError(f"reading {reading}: is there already: give another name")
        contours = _contours(store, session, arms)
        if not contours:
            raise DataError(
                f"no case of the latest round has a contour of each of: {', '.join(arms)}: "
                "see 'fedgtv-site status'"
            )
        drawn = {
            case for case, ways in contours.items() for c in ways.values() if c.author == reader
        }
        if drawn and not own_contours:
            raise DataError(
                f"this reader drew contours of {len(drawn)} of the {len(contours)} cases: choose "
                "somebody else, or say --own-contours"
            )
        order = (crossed_order if crossed else balanced_order)(sorted(contours), arms, rng)
        rows = []
        for place, (case_id, arm) in enumerate(order):
            contour = contours[case_id][arm]
            digest = mask_sha256(store.contour_of(contour).mask.voxels)
            allocation = Allocation(reading, place, case_id, arm, contour.id, digest)
            rows.append(
                BlindedReadingRow(
                    reading=reading,
                    place=place,
                    case_id=case_id,
                    reader=reader,
                    seed=seed,
                    allocation_sealed=seal_allocation(allocation, key),
                )
            )
        session.add_all(rows)
        audit_log.append(
            session,
            actor=actor,
            event=STARTED,
            subject=f"reading-{reading}",
            detail={
                "reader": reader,
                "seed": seed,
                "arms": list(arms),
                "crossed": crossed,
                "seals": [sha256_hex(row.allocation_sealed) for row in rows],
            },
            at=now,
        )
    return len(rows)


def readings(store: CaseStore) -> list[ReadingStatus]:
    """Return how far every reading is, by name."""
    judged = func.count(BlindedReadingRow.likert)
    closed = func.count(BlindedReadingRow.read_at)
    statement = (
        select(BlindedReadingRow.reading, BlindedReadingRow.reader, func.count(), judged, closed)
        .group_by(BlindedReadingRow.reading, BlindedReadingRow.reader)
        .order_by(BlindedReadingRow.reading)
    )
    with Session(store.engine) as session:
        return [
            ReadingStatus(name, reader, places, read, ended - read)
            for name, reader, places, read, ended in session.execute(statement).tuples()
        ]


def next_to_read(store: CaseStore, reading: str, *, reader: str) -> BlindedReadingRow | None:
    """Return the place that is read next; None when all are.

    Raises:
        DataError: there is no such reading for this reader.
    """
    with Session(store.engine) as session:
        mine = select(BlindedReadingRow).filter_by(reading=reading, reader=reader)
        if session.scalars(mine.limit(1)).first() is None:
            raise DataError(f"reading {reading}: is not yours: see 'fedgtv-site blinded status'")
        left = mine.where(BlindedReadingRow.read_at.is_(None)).order_by(BlindedReadingRow.place)
        return session.scalars(left.limit(1)).first()


def contour_to_show(store: CaseStore, row: BlindedReadingRow) -> MaskArray:
    """Return the mask `[z, y, x]` of a place, and nothing else about it.

    Raises:
        DataError: the seal cannot be opened, or the contour is not the one that was sealed.
    """
    allocation = open_row(store, row)
    with Session(store.engine) as session:
        contour = session.get(ContourRow, allocation.contour_id)
    try:
        mask = None if contour is None else store.contour_of(contour).mask.voxels
    except (OSError, ValueError):
        mask = None
    if mask is None or mask_sha256(mask) != allocation.mask_sha256:
        raise DataError(
            f"reading {row.reading}, place {row.place + 1}: its contour is gone or changed: "
            "restore a backup, or stop the reading"
        )
    return mask


def open_place(store: CaseStore, row: BlindedReadingRow, *, now: datetime) -> datetime:
    """Note that a place is shown; return when it was first, UTC, whatever was reloaded since."""
    with transaction(store.engine) as session:
        held = session.get_one(BlindedReadingRow, row.id)
        if held.opened_at is None:
            held.opened_at = now
        return held.opened_at


def record(
    store: CaseStore,
    row: BlindedReadingRow,
    *,
    reader: str,
    likert: int,
    verdict: str,
    active_s: float | None,
    wall_s: float | None,
    now: datetime,
) -> None:
    """Store a judgement; it cannot be changed, and places are read in their order.

    Args:
        store: of the site.
        row: from `next_to_read`.
        reader: username of who judged.
        likert: of `LIKERT`; 1 is unusable, 5 as I would draw it.
        verdict: of `VERDICTS`.
        active_s: how long the reader was busy with it; None where nobody measured it.
        wall_s: how long it took by the clock on the wall.
        now: UTC.

    Raises:
        DataError: read before, or stopped, or not the reader's.
        ValueError: another score, verdict or a time that cannot be.
    """
    if likert not in LIKERT or verdict not in VERDICTS:
        raise ValueError("a judgement is one of LIKERT and one of VERDICTS")
    if any(t is not None and not (0 <= t < math.inf) for t in (active_s, wall_s)):
        raise ValueError("times are seconds from 0")
    with transaction(store.engine) as session:
        left = (
            select(BlindedReadingRow)
            .where(
                BlindedReadingRow.reading == row.reading,
                BlindedReadingRow.reader == reader,
                BlindedReadingRow.read_at.is_(None),
            )
            .order_by(BlindedReadingRow.place)
            .limit(1)
        )
        held = session.scalars(left).first()
        if held is None or held.id != row.id:
            raise DataError(
                f"reading {row.reading}: place {row.place + 1} is not your next one: it was "
                "judged in another window, or the reading was stopped"
            )
        held.likert, held.verdict, held.read_at = likert, verdict, now
        held.active_s, held.wall_s = active_s, wall_s
        audit_log.append(
            session,
            actor=reader,
            event="blinded_judged",
            subject=held.case_id,
            detail={
                "reading": held.reading,
                "place": held.place,
                "likert": likert,
                "verdict": verdict,
                "active_s": active_s,
                "wall_s": wall_s,
            },
            at=now,
        )


def open_row(store: CaseStore, row: BlindedReadingRow) -> Allocation:
    """Open the seal of a place; before the end nobody but this program looks inside.

    Raises:
        DataError: it cannot be opened, or is not of this place.
    """
    key = store.home.secret("crosswalk.key")
    found = open_allocation(row.allocation_sealed, key, reading=row.reading, place=row.place)
    if found.case_id != row.case_id:
        raise DataError(f"reading {row.reading}: seals were exchanged: compare with a backup")
    return found


def _check(reading: str, arms: Sequence[str]) -> None:
    if not _NAME.fullmatch(reading):
        raise DataError(
            "a reading's name has 1 to 32 small letters, digits and hyphens: give one such as r1"
        )
    if len(set(arms)) != len(arms) or len(arms) < 2 or not set(arms) <= set(ARMS):
        raise DataError(f"a reading compares two or more different ones of: {', '.join(ARMS)}")


def _contours(
    store: CaseStore, session: Session, arms: Sequence[str]
) -> dict[str, dict[str, ContourRow]]:
    """Return the newest contour of each arm by case, for cases that have all of them."""
    latest = store.latest_round()
    if latest is None:
        return {}
    found: dict[str, dict[str, ContourRow]] = {}
    for arm in arms:
        of_round = "" if arm == REFERENCE else latest.round_id
        rows = session.scalars(
            select(ContourRow)
            .where(ContourRow.purpose == arm, ContourRow.round_id == of_round)
            .order_by(ContourRow.id)
        )
        for row in rows:  # a later one replaces the one before
            found.setdefault(row.case_id, {})[arm] = row
    if REVIEWED in arms:  # a rejected one may have a contour from a review before
        rejected = select(ReviewRow.case_id).where(
            ReviewRow.round_id == latest.round_id, ReviewRow.verdict == "rejected"
        )
        for case_id in session.scalars(rejected):
            found.pop(case_id, None)
    return {case_id: ways for case_id, ways in found.items() if len(ways) == len(arms)}
