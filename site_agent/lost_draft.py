"""Throw away a draft whose files cannot be read: nothing else can be done with it on the pages."""

from site_agent import audit_log, claims, drafts
from site_agent.case_store import CaseStore
from site_agent.claims import WorkKey
from site_agent.database import transaction, utc_now


def throw_away(store: CaseStore, key: WorkKey, *, author: str) -> None:
    """Claim the case and remove the author's draft, with its files and its time.

    Raises:
        DataError: somebody else has the case.
    """
    claims.claim(store, key, author=author)
    with transaction(store.engine) as session:
        claims.hold(session, key, author)
        row = drafts.find(session, key, author)
        if row is None:
            return
        files = drafts.files_of(row)
        session.delete(row)
        audit_log.append(
            session,
            actor=author,
            event="draft_thrown_away",
            subject=key.case_id,
            detail={"round": key.round_id, "purpose": key.purpose, "why": "it cannot be read"},
            at=utc_now(),
        )
    store.remove_superseded(files)
