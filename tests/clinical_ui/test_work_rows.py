"""How work looks: everything in words, and nothing that a person wrote becomes markup."""

from dataclasses import replace
from datetime import timedelta
from html import unescape

import pytest

from algorithms.contracts.case import Split
from clinical_ui.work_items import (
    Expected,
    Holder,
    State,
    Verdict,
    annotation_work,
    review_work,
)
from clinical_ui.work_rows import legend_html, next_html, row_html
from tests.clinical_ui.test_work_items import ME, NOON, case, claimed, listed, task

TIME = Expected(60.0, 0)
TIMES = {"annotation": TIME, "review": Expected(300.0, 0)}


def annotation(*, claims=()):
    tasks = [task(1, 5, 2), task(1, 8, 0, role="domain_invariant", done=True), task(1, 2, 4)]
    tasks[2].score = -1.0
    return annotation_work(listed([case(1)], tasks=tasks, claims=claims), looks=ME)[0]


def reviewed(verdict: str, **more):
    work = listed([case(1, Split.TEST)], state="reported")
    what = {"author": "Dr Other", "simulated": False, "signed": False, "outdated": False} | more
    return replace(
        review_work(work, looks=ME)[0], state=State.DONE, verdict=Verdict(verdict, 7.0, **what)
    )


def test_a_slice_says_where_why_how_far_and_whether():
    row = row_html(annotation(), TIME, now=NOON)
    assert "slice 6</b><i>◆ specific</i><i>1</i><i>#3</i>" in row
    assert "✓ slice 9</b><i>■ invariant</i>" in row
    assert "<i>no tumour seen</i><i>#5</i>" in row
    assert "2 of 3 left, about 2 min" in row


@pytest.mark.parametrize(("author", "words"), [(ME, "yours for 5 min"), ("other", "Dr Other, for")])
def test_who_holds_it_and_for_how_long(author, words):
    row = row_html(annotation(claims=[claimed(1, author)]), TIME, now=NOON + timedelta(minutes=5))
    assert words in row
    assert "since 2026-03-01 12:00 UTC" in row


def test_what_people_are_called_is_no_markup():
    held = replace(annotation(), holder=Holder("<img src=x onerror=alert(1)>", NOON, False))
    assert "<img" not in row_html(held, TIME, now=NOON)
    assert "<img" not in row_html(reviewed("revised", author="<img src=x>"), TIME, now=NOON)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (reviewed("accepted"), ["✓ accepted", "by Dr Other · not signed"]),
        (
            reviewed("revised", signed=True),
            ["✎ revised, revision degree 7.0 % (>5-10 %)", "✍ signed"],
        ),
        (reviewed("revised", outdated=True), ["signed, then revised: sign again"]),
        (reviewed("rejected"), ["✕ rejected"]),
    ],
)
def test_a_review_says_what_came_of_it(item, words):
    row = unescape(row_html(item, TIME, now=NOON))
    assert [word for word in words if word not in row] == []


def test_what_cannot_be_signed_is_not_called_unsigned():
    assert "not signed" not in row_html(reviewed("rejected"), TIME, now=NOON)
    assert "not signed" not in row_html(reviewed("revised", simulated=True), TIME, now=NOON)


def test_the_next_piece_is_named_with_its_time_and_reason():
    said = next_html(annotation(), TIMES)
    assert "annotate 2 slices of case-000000000001" in said
    assert "about 2 min · slice 6 / 12 first, rank 3, domain-specific: new at this" in said
    assert "Nothing waits for you" in next_html(None, TIMES)
    assert "Next for you: your blinded reading" in next_html(None, TIMES, blinded=True)
    to_sign = replace(reviewed("revised", outdated=True), state=State.TO_SIGN)
    assert "sign the contour of case-000000000001" in next_html(to_sign, TIMES, blinded=True)
    assert "changed it after it was signed" in next_html(to_sign, TIMES)


def test_the_legend_explains_the_marks_that_are_there_only():
    legend = legend_html({"domain_invariant"})
    assert "■ domain-invariant: typical of the source" in legend
    assert "◆" not in legend
