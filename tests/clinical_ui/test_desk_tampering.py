"""Whatever a browser sends instead of a viewer's message is refused, noted, and changes nothing."""

import base64
import gzip
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.orm import Session

from clinical_ui.desk import Desk
from site_agent import claims, drafts
from site_agent.case_store import CaseStore
from site_agent.claims import WorkKey
from site_agent.database import AuditRow, Base
from site_agent.work_message import Kind
from tests.clinical_ui.run_length_text import decode, encode
from tests.site_agent import doctors_site
from tests.site_agent.doctors_site import ANNOTATED, ASKED, DR_A, REVIEWED, TUMOUR, audit, masks
from tests.site_agent.viewer_window import Window

SHAPE = TUMOUR.shape
PROMPT = {"kind": "segment", "foreground": [[2, 15, 15]], "background": []}
EXTRA: dict[Kind, dict[str, Any]] = {
    "draft": {},
    "prompt": {"prompt": PROMPT},
    "save": {"slices": [2]},
}
KINDS: tuple[Kind, ...] = ("draft", "prompt", "save")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> CaseStore:
    """Return a site on which one doctor is at work on two cases."""
    store = doctors_site.make_site(tmp_path_factory.mktemp("desk"))
    for key in (doctors_site.annotation(store), doctors_site.review(store)):
        claims.claim(store, key, author=DR_A)
        drafts.begin(store, key, author=DR_A)
    return store


@pytest.fixture(scope="module")
def desk(store) -> Desk:
    """Return the desk of the asked-for slices; a first message has come."""
    desk = Desk(store, doctors_site.annotation(store), DR_A)
    desk.take(window(desk).value())
    assert desk.stored is not None
    return desk


def window(desk: Desk, sequence: int = 0) -> Window:
    window = Window(drafts.restore(desk.store, desk.key, author=DR_A), desk.shape_zyx)
    window.sequence = sequence
    return window


def message(desk: Desk, kind: Kind, **changes: Any) -> dict[str, Any]:
    """Return the message that would come next."""
    held = drafts.restore(desk.store, desk.key, author=DR_A)
    sequence = held.sittings["a" * 16]["sequence"]
    return window(desk, sequence).value(**{**EXTRA[kind], **changes})


def send(desk: Desk, kind: Kind, value: object) -> None:
    {"draft": desk.take, "prompt": desk.prompt, "save": desk.save}[kind](value)


def everything(store: CaseStore) -> dict[str, list[str]]:
    """Return all that is stored but the audit log."""
    tables = [t for t in Base.metadata.sorted_tables if t.name != AuditRow.__tablename__]
    with store.engine.connect() as connection:
        rows = {t.name: sorted(map(repr, connection.execute(t.select()))) for t in tables}
    return {**rows, "files": sorted(masks(store, ANNOTATED) | masks(store, REVIEWED))}


def logged(store: CaseStore) -> list[AuditRow]:
    with Session(store.engine) as session:
        return list(session.scalars(select(AuditRow).where(AuditRow.event == "payload_refused")))


def assert_refused(desk: Desk, kind: Kind, value: object) -> None:
    before, noted = everything(desk.store), len(logged(desk.store))
    send(desk, kind, value)
    assert desk.refused is not None
    assert desk.stored is desk.answer is None
    assert everything(desk.store) == before
    new = logged(desk.store)[noted:]
    assert [(row.actor, row.subject) for row in new] == [(DR_A, desk.key.case_id)]
    assert new[0].detail["why"] == desk.refused["message"]


def packed(counts: np.ndarray) -> str:
    return base64.b64encode(gzip.compress(counts.astype("<u4").tobytes())).decode()


def elsewhere() -> str:
    """Return a contour that has voxels on a slice that nobody asked for."""
    drawn = np.zeros(SHAPE, bool)
    drawn[3, 10:12, 10:12] = True
    return encode(drawn)


SIZE = int(np.prod(SHAPE))
DEEP: Any = []
for _ in range(5000):
    DEEP = [DEEP]
TAMPERED = {
    "too short": {"target": packed(np.array([SIZE - 1]))},
    "too long": {"target": packed(np.array([SIZE, 1]))},
    "of another grid": {"target": encode(np.zeros((4, 32, 32), bool))},
    "a sum that overflows": {"target": packed(np.array([2**32 - 1, 2**32 - 1, SIZE + 2]))},
    "huge once unpacked": {"target": packed(np.zeros(1 << 22))},
    "huge": {"target": "A" * (1 << 23)},
    "no base64": {"target": "%%%"},
    "cut off": {"target": encode(TUMOUR)[:-8]},
    "no text": {"target": ["A"]},
    "on a slice not asked for": {"target": elsewhere()},
    "outside, where contours are asked for": {"outside": encode(np.zeros(SHAPE, bool))},
    "an epoch that never was": {"epoch": "0123456789abcdef"},
    "an epoch that is no name": {"epoch": "' or 1=1 --"},
    "no sitting": {"sitting": None},
    "a surrogate": {"sitting": "\ud800" * 16},
    "before the first message": {"sequence": -1},
    "a revision to come": {"revision": 99},
    "no number": {"elapsed_ms": float("nan")},
    "endless": {"elapsed_ms": float("inf")},
    "true in place of a number": {"sequence": True},
    "work in the future": {"active": [[0, 10**9, 2]]},
    "work on no slice": {"active": [[0, 0, 77]]},
    "work that overlaps": {"elapsed_ms": 9, "active": [[0, 8, 2], [5, 9, 2]]},
    "more work than time": {"elapsed_ms": 86_400_000, "active": [[0, 86_400_000, 2]]},
    "an action without a name": {"actions": [[0, "shell", -1, {}]]},
    "a sentence": {"actions": [[0, "stroke", -1, {"note": "Mrs Miller, born 1950"}]]},
    "deep": {"actions": DEEP},
    "one field too many": {"admin": True},
    "another time": {"began_at": "yesterday"},
}
TAMPERED_PROMPTS = {
    "a point outside": {"foreground": [[2, 32, 0]]},
    "a point before the first voxel": {"foreground": [[2, -1, 0]]},
    "a point on a slice not asked for": {"foreground": [[3, 15, 15]]},
    "a point between voxels": {"foreground": [[2, 1.5, 0]]},
    "a point that is no number": {"foreground": [[2, float("nan"), 0]]},
    "a flat point": {"foreground": [[15, 15]]},
    "no point": {"foreground": []},
    "too many points": {"foreground": [[2, 15, 15]] * 257},
    "another question": {"kind": "train"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", TAMPERED)
def test_a_tampered_message_is_refused(desk, kind, what) -> None:
    assert_refused(desk, kind, {**message(desk, kind), **TAMPERED[what]})


@pytest.mark.parametrize("what", TAMPERED_PROMPTS)
def test_tampered_clicks_are_refused(desk, what) -> None:
    assert_refused(
        desk, "prompt", message(desk, "prompt", prompt={**PROMPT, **TAMPERED_PROMPTS[what]})
    )


@pytest.mark.parametrize(
    "slices", [[3], [2, 2], [-1], [99], ["2"], [2.5], [float("nan")], [], None]
)
def test_slices_that_cannot_be_saved_are_refused(desk, slices) -> None:
    assert_refused(desk, "save", message(desk, "save", slices=slices))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "value", [None, "x", 7, float("nan"), [], [{}], {}, {"epoch": {}}, b"x", True]
)
def test_what_is_no_message_is_refused(desk, kind, value) -> None:
    assert_refused(desk, kind, value)
    assert desk.refused["sitting"] == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_a_message_of_another_kind_is_refused(desk, kind, other) -> None:
    if kind != other:
        assert_refused(desk, kind, message(desk, other))


@pytest.mark.parametrize("kind", KINDS)
def test_the_work_on_another_case_is_refused(store, desk, kind) -> None:
    other = drafts.restore(store, doctors_site.review(store), author=DR_A)
    assert_refused(desk, kind, message(desk, kind, epoch=other.epoch))


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_that_has_not_seen_what_was_drawn_since_is_refused(desk, kind) -> None:
    assert_refused(desk, kind, message(desk, kind, sitting="c" * 16, sequence=1, revision=0))


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_claimed_nothing_is_refused(store, desk, kind) -> None:
    stranger = Desk(store, desk.key, doctors_site.DR_B)
    before = everything(store)
    send(stranger, kind, message(desk, kind))
    assert stranger.refused is not None
    assert everything(store) == before
    assert logged(store)[-1].actor == doctors_site.DR_B


@pytest.mark.parametrize("changes", [{"likert": 6}, {"verdict": "perfect"}, {"reason": "a b c"}])
def test_a_verdict_that_is_none_is_refused(store, changes) -> None:
    desk = Desk(store, doctors_site.review(store), DR_A)
    value = window(desk).value(**{"slices": [], "verdict": "accept", "likert": 3, **changes})
    assert_refused(desk, "save", value)


def test_another_round_is_no_place_to_write_to(store) -> None:
    key = WorkKey("no such round", ANNOTATED, "annotation")
    desk = Desk(store, key, DR_A)
    here = Desk(store, doctors_site.annotation(store), DR_A)
    assert_refused(desk, "draft", message(here, "draft"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = sorted(
    Window(drafts.Draft("0" * 16, 0, None, None, None, {}, doctors_site.AT, 0.0), SHAPE).value(
        prompt=PROMPT, slices=[], verdict="accept", likert=1, reason=""
    )
)


@given(kind=st.sampled_from(KINDS), field=st.sampled_from(FIELDS), junk=JSON)
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_message_with_one_field_of_anything_is_taken_as_it_is_or_refused(
    desk, kind, field, junk
) -> None:
    """Nothing raises, and what is stored is what was sent: nothing in between."""
    value = {**message(desk, kind), field: junk}
    before = everything(desk.store)
    noted = len(logged(desk.store))
    if kind != "draft":
        value["epoch"] = "0" * 16  # or slices would be done, and the model asked each time
    send(desk, kind, value)
    assert (desk.stored is None) == (desk.refused is not None)
    if desk.refused is not None:
        assert everything(desk.store) == before
        assert len(logged(desk.store)) == noted + 1
        return
    held = drafts.restore(desk.store, desk.key, author=DR_A)
    drawn = np.zeros(SHAPE, bool) if held.target is None else held.target
    np.testing.assert_array_equal(drawn, decode(value["target"], SHAPE))


def test_none_of_it_broke_the_work(store, desk) -> None:
    """A real message is taken after all that, and the log's chain holds over all refusals."""
    value = message(desk, "draft")
    value["target"] = encode(
        np.where(np.isin(np.arange(len(TUMOUR)), ASKED)[:, None, None], TUMOUR, False)
    )
    desk.take(value)
    assert desk.refused is None
    assert audit(store)
