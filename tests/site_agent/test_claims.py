"""Claims: one doctor at a time, also when two ask at the same moment."""

import os

import pytest

from algorithms.contracts.errors import DataError
from site_agent.blinded_reading import start
from site_agent.blinded_results import unseal
from site_agent.case_store import CaseStore
from site_agent.claims import WorkKey, claim, hold, holders, release
from site_agent.database import transaction
from tests.site_agent.doctors_site import (
    AT,
    DR_A,
    DR_B,
    annotation,
    audit,
    make_site,
    review,
)
from tests.site_agent.people import add

pytestmark = pytest.mark.usefixtures("each_database")


@pytest.fixture
def store(tmp_path) -> CaseStore:
    return make_site(tmp_path)


def may_write(store: CaseStore, key: WorkKey, author: str) -> bool:
    try:
        with transaction(store.engine) as session:
            hold(session, key, author)
    except DataError:
        return False
    return True


def test_a_case_belongs_to_who_claimed_it_until_it_is_released(store) -> None:
    key = annotation(store)
    assert not may_write(store, key, DR_A)
    claim(store, key, author=DR_A)
    claim(store, key, author=DR_A)
    assert may_write(store, key, DR_A)
    assert not may_write(store, key, DR_B)
    with pytest.raises(DataError, match="dr a works on it: take another case"):
        claim(store, key, author=DR_B)
    with pytest.raises(DataError, match="dr a works on it"):
        release(store, key, author=DR_B)
    release(store, key, author=DR_A)
    release(store, key, author=DR_A)
    assert holders(store, key.round_id) == {}
    claim(store, key, author=DR_B)
    assert may_write(store, key, DR_B)
    said = [(row.event, row.actor, row.subject) for row in audit(store)[-3:]]
    assert said == [
        ("work_claimed", DR_A, key.case_id),
        ("work_released", DR_A, key.case_id),
        ("work_claimed", DR_B, key.case_id),
    ]


def test_a_lead_takes_a_case_from_somebody_and_the_log_says_from_whom(store) -> None:
    key = annotation(store)
    claim(store, key, author=DR_A)
    release(store, key, author="lead", force=True)
    assert holders(store, key.round_id) == {}
    last = audit(store)[-1]
    assert (last.actor, last.detail["holder"]) == ("lead", DR_A)


def test_nobody_reviews_what_they_read_blinded_until_the_reading_is_over(store) -> None:
    key = review(store)
    claim(store, key, author=DR_A)
    arms = ("adapted", "reference")
    start(store, reading="r1", reader=DR_A, seed=1, arms=arms, actor="lead", now=AT)
    assert not may_write(store, key, DR_A)  # though claimed before
    with pytest.raises(DataError, match="is in your blinded reading"):
        claim(store, key, author=DR_A)
    claim(store, annotation(store), author=DR_A)
    release(store, key, author=DR_A)
    claim(store, key, author=DR_B)
    release(store, key, author=DR_B)
    unseal(store, "r1", stop=True, actor="lead", now=AT)
    claim(store, key, author=DR_A)
    assert may_write(store, key, DR_A)


def test_who_has_a_case_is_named_as_colleagues_know_the_person(store) -> None:
    add(store.engine, "berta", display_name="Dr Berta Example")
    key = annotation(store)
    claim(store, key, author="berta")
    with pytest.raises(DataError, match="Dr Berta Example works on it"):
        claim(store, key, author=DR_A)


def test_purposes_are_claimed_apart(store) -> None:
    annotating, reviewing = annotation(store), review(store)
    claim(store, annotating, author=DR_A)
    claim(store, reviewing, author=DR_B)
    held = holders(store, annotating.round_id)
    assert {key: row.author for key, row in held.items()} == {
        (annotating.case_id, "annotation"): DR_A,
        (reviewing.case_id, "review"): DR_B,
    }


def test_what_is_in_no_round_cannot_be_claimed(store) -> None:
    key = annotation(store)
    for unknown in (WorkKey("0" * 16, key.case_id, "review"), WorkKey(key.round_id, "x", "review")):
        with pytest.raises(DataError, match="is not in this round: take one from the worklist"):
            claim(store, unknown, author=DR_A)


def test_of_many_who_ask_at_once_one_gets_it(store) -> None:
    key, children = annotation(store), []
    store.engine.dispose()
    reader, writer = os.pipe()  # all start when it is closed
    for number in range(4):
        child = os.fork()
        if child == 0:
            code = 9
            try:
                os.close(writer)
                again = CaseStore(store.home)
                os.read(reader, 1)
                try:
                    claim(again, key, author=f"dr {number}")
                    code = 0
                except DataError:
                    code = 1
            finally:
                os._exit(code)
        children.append(child)
    os.close(writer)
    os.close(reader)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(codes) == [0, 1, 1, 1]
    (row,) = holders(CaseStore(store.home), key.round_id).values()
    assert row.author == f"dr {codes.index(0)}"
    assert [entry.event for entry in audit(store)].count("work_claimed") == 1
