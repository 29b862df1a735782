"""Open the seals of a blinded reading when it is over, and compare what made the contours.

The figures are about single cases and stay in the hospital.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import combinations
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.errors import DataError
from evaluation.cohort_statistics import (
    MedianIqr,
    compare_paired,
    compare_subgroups,
    holm,
    median_iqr,
)
from site_agent import audit_log
from site_agent.blinded_reading import STARTED, STOPPED, VERDICTS, open_row
from site_agent.case_store import CaseStore
from site_agent.database import AuditRow, BlindedReadingRow, transaction

ARM_NAMES = {"adapted": "AI", "reference": "manual", "reviewed": "AI, revised"}


@dataclass(frozen=True)
class Judgement:
    """What was said about one contour, and what had made it; None where it was not read."""

    place: int
    case_id: str
    arm: str
    likert: int | None
    verdict: str | None
    active_s: float | None
    wall_s: float | None
    read_at: datetime | None


@dataclass(frozen=True)
class ArmSummary:
    """What was said about the contours of one arm.

    Attributes:
        shown: contours that were allocated.
        likert: of those that were judged.
        as_is, with_minor_changes: share of the judged that is usable so; NaN without any.
    """

    arm: str
    shown: int
    likert: MedianIqr
    as_is: float
    with_minor_changes: float


@dataclass(frozen=True)
class ArmComparison:
    """Likert scores of two arms.

    Attributes:
        test: "Wilcoxon" on the same cases, "Mann-Whitney" on different ones, "" without an answer.
        difference: mean of `second - first` on the same cases; NaN on different ones.
        p: two-sided; NaN when nothing can be said.
        p_holm: adjusted for the number of pairs of arms.
    """

    first: str
    second: str
    test: str
    difference: float
    p: float
    p_holm: float


@dataclass(frozen=True)
class Results:
    """A reading with its seals open.

    Attributes:
        crossed: every case was shown with every arm.
        left_out: contours that were not read because it was stopped.
    """

    reading: str
    reader: str
    crossed: bool
    left_out: int
    judgements: tuple[Judgement, ...]
    arms: tuple[ArmSummary, ...]
    comparisons: tuple[ArmComparison, ...]


def unseal(
    store: CaseStore, reading: str, *, stop: bool = False, actor: str, now: datetime
) -> Results:
    """Open a reading that is over; `stop` ends one that is not, for good.

    Raises:
        DataError: there is no such reading, it is not over, or a seal is not the one it began with.
    """
    with transaction(store.engine) as session:
        statement = select(BlindedReadingRow).filter_by(reading=reading)
        rows = list(session.scalars(statement.order_by(BlindedReadingRow.place)))
        if not rows:
            raise DataError(f"reading {reading}: unknown: see 'fedgtv-site blinded status'")
        left = [row for row in rows if row.read_at is None]
        if left and not stop:
            raise DataError(
                f"reading {reading}: {len(left)} of {len(rows)} contours are still to be judged: "
                "wait, or end it now with --stop"
            )
        crossed = _check_seals(session, reading, rows)
        judgements = tuple(_judgement(store, row) for row in rows)
        for row in left:
            row.read_at = now
        subject = f"reading-{reading}"
        if left:
            audit_log.append(
                session,
                actor=actor,
                event=STOPPED,
                subject=subject,
                detail={"left_out": len(left)},
                at=now,
            )
        audit_log.append(
            session, actor=actor, event="blinded_unsealed", subject=subject, detail={}, at=now
        )
    return Results(
        reading=reading,
        reader=rows[0].reader,
        crossed=crossed,
        left_out=sum(one.likert is None for one in judgements),
        judgements=judgements,
        arms=summarise(judgements),
        comparisons=compare(judgements, crossed=crossed, seed=rows[0].seed),
    )


def summarise(judgements: Sequence[Judgement]) -> tuple[ArmSummary, ...]:
    """Return what was said about each arm, by its name."""
    found = []
    for arm in sorted({one.arm for one in judgements}):
        said = [one for one in judgements if one.arm == arm]
        verdicts = [one.verdict for one in said if one.verdict is not None]
        shares = [
            sum(verdict in good for verdict in verdicts) / len(verdicts) if verdicts else math.nan
            for good in (VERDICTS[:1], VERDICTS[:2])
        ]
        likert = median_iqr([_score(one) for one in said])
        found.append(ArmSummary(arm, len(said), likert, *shares))
    return tuple(found)


def compare(
    judgements: Sequence[Judgement], *, crossed: bool, seed: int
) -> tuple[ArmComparison, ...]:
    """Compare the Likert scores of every two arms, adjusted together by Holm.

    On the same cases by the signed-rank test, where both were judged; on different ones by the
    Mann-Whitney test.
    """
    pairs = list(combinations(sorted({one.arm for one in judgements}), 2))
    if not crossed:
        names = {
            f"{a} / {b}": [one.arm if one.arm in (a, b) else "" for one in judgements]
            for a, b in pairs
        }
        tests = compare_subgroups([_score(one) for one in judgements], names)
        return tuple(
            ArmComparison(a, b, test.test, math.nan, test.p, test.p_holm)
            for (a, b), test in zip(pairs, tests, strict=True)
        )
    scores = {(one.case_id, one.arm): _score(one) for one in judgements}
    cases = sorted({one.case_id for one in judgements})
    paired = [
        compare_paired(
            *([scores.get((c, arm), math.nan) for c in cases] for arm in pair), seed=seed
        )
        for pair in pairs
    ]
    adjusted = holm([one.wilcoxon_p for one in paired])
    return tuple(
        ArmComparison(
            a,
            b,
            "" if math.isnan(one.wilcoxon_p) else "Wilcoxon",
            one.difference.value,
            one.wilcoxon_p,
            p_holm,
        )
        for (a, b), one, p_holm in zip(pairs, paired, adjusted, strict=True)
    )


def write_csv(results: Results, file: Path) -> None:
    """Write one line per contour, readable to its owner alone.

    Raises:
        DataError: `file` is there already.
    """
    columns = [field.name for field in fields(Judgement)]
    try:
        file.touch(0o600, exist_ok=False)
    except FileExistsError:
        raise DataError(f"{file}: is there already: give the name of a new file") from None
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(["reading", "reader", *columns])
        for one in results.judgements:
            writer.writerow(
                [results.reading, results.reader, *(getattr(one, column) for column in columns)]
            )


def _check_seals(session: Session, reading: str, rows: Sequence[BlindedReadingRow]) -> bool:
    """Compare the seals with what the audit log kept at the start; return whether it is crossed."""
    entry = session.scalars(
        select(AuditRow)
        .where(AuditRow.event == STARTED, AuditRow.subject == f"reading-{reading}")
        .order_by(AuditRow.sequence.desc())
        .limit(1)
    ).first()
    seals = [] if entry is None else entry.detail["seals"]
    for row in rows:
        if row.place >= len(seals) or sha256_hex(row.allocation_sealed) != seals[row.place]:
            raise DataError(
                f"reading {reading}, place {row.place + 1}: not the seal that it began with: "
                "compare with a backup"
            )
    return bool(entry is not None and entry.detail["crossed"])


def _judgement(store: CaseStore, row: BlindedReadingRow) -> Judgement:
    return Judgement(
        place=row.place,
        case_id=row.case_id,
        arm=open_row(store, row).arm,
        likert=row.likert,
        verdict=row.verdict,
        active_s=row.active_s,
        wall_s=row.wall_s,
        read_at=None if row.likert is None else row.read_at,
    )


def _score(judgement: Judgement) -> float:
    return math.nan if judgement.likert is None else float(judgement.likert)
