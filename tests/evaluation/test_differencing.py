import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.contracts.scale import FRACTION
from evaluation.differencing import differencing_rule, sketch_of, subgroup_of, unknown_members
from evaluation.disclosure_control import common_bins, count_in_bins, sketch

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


WHOLE = sketch_of("adapted.dsc")
DICE = st.sampled_from([0.3, 0.5, 0.51, 0.7, 0.71, 0.9])


@st.composite
def rounds(draw):
    """Two rounds of one hospital: patients come, go, change their value or their stage."""
    first = draw(st.dictionaries(st.integers(0, 15), DICE, min_size=4))
    second = dict(first)
    for patient in draw(st.sets(st.sampled_from(sorted(first)))):
        second.pop(patient)
    second |= draw(st.dictionaries(st.integers(16, 31), DICE))
    anew = draw(st.sampled_from(["none", "some", "all"]))
    for patient in sorted(second):
        if anew == "all" or (anew == "some" and draw(st.booleans())):
            second[patient] += 0.005
    early = draw(st.sets(st.integers(0, 31)))
    moved = draw(st.sets(st.integers(0, 31), max_size=8) | st.just(set()))
    return (first, early), (second, early ^ moved)


def sketched(values, early, minimum):
    """Count a round as a site does: everybody, and two stages where both are groups."""
    if len(values) < minimum:
        return {}
    whole = sketch(values.values(), FRACTION, minimum_group_size=minimum)
    made = {WHOLE: (values, whole)}
    stages = [{p: v for p, v in values.items() if (p in early) == is_early} for is_early in (1, 0)]
    if all(len(one) >= minimum for one in stages):
        cells = {
            (True, is_early, not is_early): list(one.values())
            for is_early, one in zip((True, False), stages, strict=True)
        }
        last_steps = common_bins(whole, cells, FRACTION, minimum_group_size=minimum)
        for name, one in zip(("T1+2", "T3+4"), stages, strict=True):
            counted = count_in_bins(one.values(), last_steps, FRACTION)
            made[subgroup_of(WHOLE, "t_stage", name)] = (one, counted)
    return made


@given(rounds(), st.integers(2, 5))
def test_no_two_sketches_that_leave_tell_of_few_when_taken_from_one_another(made, minimum):
    before, now = (sketched(*one, minimum) for one in made)
    told = [
        {name: {str(p): str(v) for p, v in values.items()} for name, (values, _) in one.items()}
        for one in (before, now)
    ]
    if differencing_rule(told[1], told[:1], minimum_group_size=minimum) is not None:
        return
    for values, counts in before.values():
        for others, other_counts in now.values():
            same = set(counts.last_steps) & set(other_counts.last_steps)
            only = [set(values.items()) - set(others.items())]
            only.append(set(others.items()) - set(values.items()))
            for one in only:
                left = count_in_bins([v for _, v in one], sorted(same), FRACTION).counts
                assert not any(0 < count < minimum for count in left)


def test_the_same_values_or_none_in_common_is_what_two_sketches_may_be_about():
    ten = {WHOLE: {f"p{i}": "1" for i in range(10)}}
    more = {WHOLE: {f"p{i}": "1" for i in range(15)}}
    five_anew = {WHOLE: {f"p{i}": "2" if i < 5 else "1" for i in range(10)}}
    anew = {WHOLE: {f"p{i}": "2" for i in range(15)}}
    for asked, rule in ((ten, None), (more, "bins"), (five_anew, "bins"), (anew, None)):
        found = differencing_rule(asked, [ten], minimum_group_size=5)
        assert found == (rule and "few_in_bins_differ")
        assert differencing_rule(ten, [asked], minimum_group_size=5) == found


def test_of_somebody_unknown_nobody_knows_whether_the_value_is_another():
    known, unknown = (
        {WHOLE: m} for m in ({f"p{i}": "1" for i in range(9)}, unknown_members(9, ""))
    )
    assert differencing_rule(unknown, [known], minimum_group_size=5) == "few_in_bins_differ"
    assert differencing_rule(unknown, [unknown], minimum_group_size=5) is None
