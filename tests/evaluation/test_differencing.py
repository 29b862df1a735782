import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.differencing import differencing_rule, unknown_members

groups = st.dictionaries(
    st.sampled_from("abcdefghijklmno"), st.sampled_from(["1", "2"]), max_size=15
)


@given(groups, st.integers(1, 6))
def test_the_same_once_more_leaves(members, minimum):
    asked = {"adapted": members}
    assert differencing_rule(asked, [asked, asked], minimum_group_size=minimum) is None


@given(groups, groups, st.integers(1, 6))
def test_the_order_of_two_releases_does_not_matter(one, other, minimum):
    first, second = {"adapted": one}, {"adapted": other}
    assert differencing_rule(first, [second], minimum_group_size=minimum) == differencing_rule(
        second, [first], minimum_group_size=minimum
    )


@given(groups, st.integers(2, 6))
def test_other_figures_have_nothing_to_do_with_it(members, minimum):
    asked, before = {"revision": members}, {"adapted": dict(list(members.items())[1:])}
    assert differencing_rule(asked, [before], minimum_group_size=minimum) is None


def test_a_group_more_leaves_and_one_fewer_does_not():
    ten = {"adapted": unknown_members(10, "x")}
    for patients, rule in ((14, "few_patients_differ"), (15, None), (10, None), (6, "few")):
        asked = {"adapted": unknown_members(patients, "x")}
        found = differencing_rule(asked, [ten], minimum_group_size=5)
        assert (found or "").startswith(rule or "") and bool(found) == bool(rule)


def test_disjoint_groups_and_groups_too_small_to_be_told_stand_in_no_way():
    few = {"adapted": dict.fromkeys("abc", "x")}
    more = {"adapted": dict.fromkeys("abcdefgh", "x")}
    other = {"adapted": dict.fromkeys("qrstuvw", "x")}
    assert differencing_rule(more, [few], minimum_group_size=5) is None  # of few nothing was told
    assert differencing_rule(other, [more], minimum_group_size=5) is None
    assert differencing_rule(few, [more], minimum_group_size=5) is None


def test_somebody_unknown_may_be_anybody_who_is_known():
    """After an erasure only numbers are left: they are not taken for other patients."""
    known = {"adapted": {f"p{i}": "x" for i in range(10)}}
    for patients, refused in ((9, True), (10, False), (15, False)):
        asked = {"adapted": unknown_members(patients, "y")}
        assert bool(differencing_rule(asked, [known], minimum_group_size=5)) == refused
        assert bool(differencing_rule(known, [asked], minimum_group_size=5)) == refused


def test_a_group_of_nobody_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        differencing_rule({}, [], minimum_group_size=0)
