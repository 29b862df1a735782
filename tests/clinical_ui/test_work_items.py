"""Which work is listed, in which order, for whom; without a database."""

from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.contracts.case import Case, Split
from clinical_ui.work_items import (
    ASSUMED_S,
    ENOUGH_TIMED,
    Show,
    State,
    annotation_work,
    expected,
    matching,
    next_work,
    ordered,
    review_work,
)
from site_agent.database import AnnotationTaskRow, ClaimRow, ReviewRow, RoundRow
from site_agent.worklist import Worklist

NOON = datetime(2026, 3, 1, 12)
ME, OTHER = "me", "other"


def case(number: int, split: Split = Split.TRAINING, modality: str = "MR") -> Case:
    return Case(
        case_id=f"case-{number:012x}",
        patient_id=f"patient-{number + 100:012x}",
        modality=modality,
        manufacturer="",
        scanner_model="",
        shape_zyx=(12, 8, 8),
        spacing_zyx_mm=(3.0, 1.0, 1.0),
        split=split,
        has_reference=False,
    )


def task(number: int, slice_z: int, rank: int, *, role="domain_specific", done=False):
    return AnnotationTaskRow(
        case_id=case(number).case_id,
        slice_z=slice_z,
        rank=rank,
        role=role,
        score=1.0,
        state="done" if done else "open",
        kind="contour",
    )


def claimed(number: int, author: str, purpose: str = "annotation") -> ClaimRow:
    return ClaimRow(
        round_id="r",
        case_id=case(number).case_id,
        purpose=purpose,
        author=author,
        claimed_at=NOON,
    )


def review(number: int, verdict: str = "revised", author: str = OTHER, **more) -> ReviewRow:
    return ReviewRow(
        case_id=case(number).case_id,
        verdict=verdict,
        revision_degree_percent=7.0,
        author=author,
        simulated=more.get("simulated", False),
        reviewed_at=NOON,
    )


def listed(cases, *, state="awaiting_annotation", tasks=(), reviews=(), claims=(), **more):
    return Worklist(
        round=RoundRow(round_id="r", state=state),
        cases=tuple(cases),
        tasks=tuple(tasks),
        reviews=tuple(reviews),
        holders={(claim.case_id, claim.purpose): claim for claim in claims},
        segmented=more.get("segmented", frozenset()),
        signatures=more.get("signatures", {}),
        superseded=more.get("superseded", frozenset()),
        names={OTHER: "Dr Other"},
        blinded=more.get("blinded", frozenset()),
        slice_s=(),
        review_s=(),
    )


def numbers(items) -> list[int]:
    return [int(item.case_id.removeprefix("case-"), 16) for item in items]


def test_mine_then_free_by_rank_then_others_then_done():
    work = annotation_work(
        listed(
            [case(n) for n in range(1, 6)],
            tasks=[
                task(1, 3, 0, done=True),
                task(2, 3, 1),
                task(3, 3, 4),
                task(4, 3, 3),
                task(5, 3, 2),
            ],
            claims=[claimed(2, OTHER), claimed(3, ME)],
        ),
        looks=ME,
    )
    assert numbers(work) == [3, 5, 4, 2, 1]
    assert numbers([next_work(work)]) == [3]
    assert work[3].holder.name == "Dr Other"
    assert work[4].state is State.DONE


def test_a_case_is_done_when_all_its_slices_are():
    tasks = [task(1, 6, 0, done=True), task(1, 2, 5), task(1, 9, 3)]
    (item,) = annotation_work(listed([case(1)], tasks=tasks), looks=ME)
    assert item.state is State.OPEN
    assert [one.slice_z for one in item.tasks] == [2, 6, 9]  # as they lie in the patient
    assert [one.slice_z for one in item.open_tasks] == [9, 2]  # the most wanted first


def test_a_finished_case_is_nobodys_even_if_the_claim_is_still_there():
    (item,) = annotation_work(
        listed([case(1)], tasks=[task(1, 6, 0, done=True)], claims=[claimed(1, OTHER)]), looks=ME
    )
    assert item.holder is None


def test_claims_of_one_purpose_say_nothing_about_the_other():
    cases = [case(1), case(2, Split.TEST)]
    everything = listed(
        cases, tasks=[task(1, 3, 0)], claims=[claimed(1, OTHER, "review"), claimed(2, OTHER)]
    )
    assert annotation_work(everything, looks=ME)[0].holder is None
    assert review_work(everything, looks=ME)[0].holder is None


def test_what_all_others_hold_leaves_nothing_next():
    work = annotation_work(
        listed([case(1)], tasks=[task(1, 3, 0)], claims=[claimed(1, OTHER)]), looks=ME
    )
    assert next_work(work) is None


@pytest.mark.parametrize(
    ("round_state", "segmented", "state"),
    [
        ("training", False, State.WAITING),
        ("training", True, State.WAITING),  # it may still be segmented anew
        ("awaiting_review", True, State.OPEN),
        ("reported", True, State.OPEN),
        ("reported", False, State.WAITING),
    ],
)
def test_a_case_waits_until_the_model_has_segmented_it(round_state, segmented, state):
    found = frozenset([case(1).case_id]) if segmented else frozenset()
    work = listed([case(1, Split.TEST)], state=round_state, segmented=found)
    assert review_work(work, looks=ME)[0].state is state


def test_new_patients_are_reviewed_after_the_test_patients_and_only_of_the_studys_modality():
    cases = [
        case(1, Split.UNASSIGNED),
        case(2, Split.TEST),
        case(3, Split.UNASSIGNED, "CT"),
        case(4),
    ]
    everyone = frozenset(one.case_id for one in cases)
    work = review_work(listed(cases, state="reported", segmented=everyone), looks=ME)
    assert numbers(work) == [2, 1]
    assert [item.new_patient for item in work] == [False, True]


@pytest.mark.parametrize("holder", [None, OTHER, ME])
def test_who_reads_a_case_blinded_is_told_nothing_of_its_review(holder):
    claims = [] if holder is None else [claimed(1, holder, "review")]
    work = listed(
        [case(1, Split.TEST), case(2, Split.TEST)],
        state="reported",
        reviews=[review(1), review(2)],
        claims=claims,
        segmented=frozenset({case(1).case_id}),
        signatures={case(1).case_id: True},
        blinded=frozenset({case(1).case_id}),
    )
    first, second = review_work(work, looks=ME)
    assert (first.state, first.verdict, second.state) == (State.BLINDED, None, State.DONE)
    assert first.mine is (holder == ME)  # it can be released
    assert not first.with_others
    assert next_work([first]) is None


@pytest.mark.parametrize(
    ("counts", "signed", "outdated"),
    [(None, False, False), (True, True, False), (False, False, True)],
)
def test_a_signature_counts_or_is_outdated(counts, signed, outdated):
    signatures = {} if counts is None else {case(1).case_id: counts}
    work = listed(
        [case(1, Split.TEST)], state="reported", reviews=[review(1)], signatures=signatures
    )
    (item,) = review_work(work, looks=ME)
    assert item.state is State.DONE
    assert (item.verdict.signed, item.verdict.outdated) == (signed, outdated)
    assert item.verdict.author == "Dr Other"


@pytest.mark.parametrize(
    ("more", "state"),
    [
        ({}, State.TO_SIGN),
        ({"signatures": {case(1).case_id: False}}, State.TO_SIGN),  # revised after it was signed
        ({"signatures": {case(1).case_id: True}}, State.DONE),
        ({"superseded": frozenset({case(1).case_id})}, State.DONE),  # to be reviewed again first
        ({"blinded": frozenset({case(1).case_id})}, State.BLINDED),
        ({"reviews": [review(1, "rejected", ME)]}, State.DONE),
        ({"reviews": [review(1)]}, State.DONE),  # somebody else signs
        ({"reviews": [review(1, author=ME, simulated=True)]}, State.DONE),
    ],
)
def test_what_i_reviewed_waits_for_my_signature(more, state):
    (item,) = review_work(
        listed(
            [case(1, Split.TEST)], **{"state": "reported", "reviews": [review(1, author=ME)]} | more
        ),
        looks=ME,
    )
    assert item.state is state
    assert (next_work([item]) is item) == (state is State.TO_SIGN)
    assert matching([item], Show.TO_DO) == ([] if state is State.DONE else [item])


def test_a_review_that_i_began_again_is_to_do():
    again = listed(
        [case(1, Split.TEST), case(2, Split.TEST)],
        state="reported",
        reviews=[review(1, author=ME), review(2, author=ME)],
        claims=[claimed(2, ME, "review")],
    )
    work = review_work(again, looks=ME)
    assert [(item.state, item.verdict is None) for item in work] == [
        (State.OPEN, False),
        (State.TO_SIGN, False),
    ]
    assert numbers([next_work(work)]) == [2]
    theirs = review_work(again, looks=OTHER)
    assert {item.state for item in theirs} == {State.DONE}


def test_signing_comes_after_work_that_is_open_in_either_list():
    everything = listed(
        [case(1), case(2, Split.TEST)],
        state="reported",
        tasks=[task(1, 3, 0)],
        reviews=[review(2, author=ME)],
    )
    slices, reviews = annotation_work(everything, looks=ME), review_work(everything, looks=ME)
    assert numbers([next_work(reviews, slices)]) == [1]
    assert numbers([next_work(reviews)]) == [2]


def test_the_expected_time_is_measured_once_enough_were_timed():
    assert expected([1.0] * (ENOUGH_TIMED - 1), "scribble").each_s == ASSUMED_S["scribble"]
    measured = expected([10.0, 20.0, 30.0, 40.0, 1000.0], "contour")
    assert (measured.each_s, measured.timed) == (30.0, 5)
    assert measured.minutes(4) == 2.0


def sample_work():
    cases = [case(n) for n in range(1, 5)]
    tasks = [
        task(1, 1, 0, role="domain_invariant"),
        task(1, 2, 1),
        task(2, 1, 2),
        task(3, 1, 3, role="domain_invariant"),
        task(4, 1, 4, done=True),
    ]
    return annotation_work(
        listed(cases, tasks=tasks, claims=[claimed(1, ME), claimed(2, OTHER)]), looks=ME
    )


@pytest.mark.parametrize(
    ("show", "found"),
    [
        (Show.TO_DO, [1, 3, 2]),
        (Show.MINE, [1]),
        (Show.FREE, [3]),
        (Show.OTHERS, [2]),
        (Show.DONE, [4]),
        (Show.ALL, [1, 3, 2, 4]),
    ],
)
def test_filters_by_state_and_holder(show, found):
    assert numbers(matching(sample_work(), show)) == found


def test_filters_by_reason_and_pseudonym():
    work = sample_work()
    assert numbers(matching(work, Show.ALL, role="domain_invariant")) == [1, 3]
    assert numbers(matching(work, Show.ALL, text=" CASE-000000000003 ")) == [3]
    assert numbers(matching(work, Show.ALL, text="patient-000000000066")) == [2]
    assert matching(work, Show.ALL, text="nobody") == []


@given(
    st.lists(st.tuples(st.sampled_from([None, ME, OTHER]), st.booleans()), max_size=8).flatmap(
        lambda drawn: st.permutations(range(len(drawn))).map(lambda order: (drawn, order))
    )
)
def test_the_order_does_not_depend_on_how_the_work_was_found(drawn_and_order):
    drawn, order = drawn_and_order
    tasks = [task(n, 1, n, done=done) for n, (_, done) in enumerate(drawn)]
    claims = [claimed(n, author) for n, (author, _) in enumerate(drawn) if author]
    work = annotation_work(
        listed([case(n) for n in range(len(drawn))], tasks=tasks, claims=claims), looks=ME
    )
    assert ordered([work[place] for place in order]) == work
    # Every piece of work is in exactly one of these.
    counts = {show: len(matching(work, show)) for show in Show}
    assert counts[Show.TO_DO] + counts[Show.DONE] == counts[Show.ALL] == len(drawn)
    assert counts[Show.MINE] + counts[Show.FREE] + counts[Show.OTHERS] == counts[Show.TO_DO]


def test_an_item_is_a_value():
    first, again = sample_work()[0], sample_work()[0]
    assert replace(first, tasks=()) == replace(again, tasks=())
