"""Which cases somebody must not learn more of, because a blinded reading asks for their judgement.

Apart from `blinded_reading`, which reads contours: claims and worklists only ask whether.
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.contracts.errors import DataError
from site_agent.database import BlindedReadingRow


def blinded_cases(session: Session, reader: str) -> frozenset[str]:
    """Return the cases of the readings of a reader that are neither finished nor stopped.

    Also those judged already: the same case may come again with another contour.
    """
    mine = BlindedReadingRow.reader == reader
    under_way = select(BlindedReadingRow.reading).where(mine, BlindedReadingRow.read_at.is_(None))
    cases = select(BlindedReadingRow.case_id).where(mine, BlindedReadingRow.reading.in_(under_way))
    return frozenset(session.scalars(cases))


def refuse_blinded(session: Session, case_id: str, reader: str) -> None:
    """Make sure that a reader may see who and what made the contours of a case.

    Raises:
        DataError: it is in a blinded reading of theirs.
    """
    if case_id in blinded_cases(session, reader):
        raise DataError(
            f"{case_id}: is in your blinded reading: judge it on the Blinded page first"
        )
