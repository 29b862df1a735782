import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.table_suppression import hidden_ranges, suppressed_table

tables = st.integers(2, 3).flatmap(
    lambda columns: st.lists(
        st.lists(st.integers(0, 12), min_size=columns, max_size=columns), min_size=2, max_size=4
    )
)


@given(tables, st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_no_hidden_count_can_be_solved_from_the_totals(counts, group):
    said = suppressed_table(counts, minimum_group_size=group)
    if said is None:
        return
    shown = list(itertools.chain.from_iterable(said))
    true = list(itertools.chain.from_iterable(counts))
    assert all(s in (None, t) for s, t in zip(shown, true, strict=True))
    assert not any(s is not None and 0 < s < group for s in shown)
    hidden = np.array([[cell is None for cell in row] for row in said])
    for low, high in hidden_ranges(np.array(counts), hidden).values():
        assert high - low >= group


def test_ranges_equal_those_of_trying_every_table():
    counts = np.array([[2, 3, 9], [4, 1, 7]])
    hidden = np.array([[True, True, False], [True, True, False]])
    possible = [
        cells
        for cells in itertools.product(range(7), repeat=4)
        if (cells[0] + cells[1], cells[2] + cells[3]) == (5, 5)
        and (cells[0] + cells[2], cells[1] + cells[3]) == (6, 4)
    ]
    assert len(possible) > 1
    ranges = hidden_ranges(counts, hidden)
    for i, cell in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        tried = [cells[i] for cells in possible]
        assert ranges[cell] == pytest.approx((min(tried), max(tried)))


def test_a_cell_alone_in_its_row_is_given_away_and_so_another_is_hidden():
    counts = np.array([[9, 2], [8, 9], [7, 6]])
    alone = counts == 2
    assert hidden_ranges(counts, alone) == {(0, 1): pytest.approx((2, 2))}
    said = suppressed_table(counts.tolist(), minimum_group_size=5)
    assert said == ((None, None), (8, 9), (None, None))


def test_a_table_that_cannot_be_guarded_stays():
    assert suppressed_table([[1, 0], [0, 1]], minimum_group_size=5) is None
    assert suppressed_table([[3]], minimum_group_size=5) is None
    assert suppressed_table([[6, 0], [0, 7]], minimum_group_size=5) == ((6, 0), (0, 7))


@pytest.mark.parametrize("bad", [[[1, 2], [3]], [[-1, 2]], [[]]])
def test_what_is_no_table_of_counts_is_refused(bad):
    with pytest.raises(ValueError):
        suppressed_table(bad, minimum_group_size=5)
