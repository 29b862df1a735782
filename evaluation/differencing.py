"""What a release gives away beside those that left before it: the memory of the door out.

Plain data in, the name of a rule out; `site_agent.release_memory` keeps and brings the data.
"""

from collections.abc import Mapping, Sequence

Told = Mapping[str, Mapping[str, str]]
"""What one release is about: group of figures -> patient -> digest of that patient's figures."""


def differencing_rule(
    asked: Told, earlier: Sequence[Told], *, minimum_group_size: int
) -> str | None:
    """Name the rule that a release breaks beside all that was released before; None if none.

    Two figures over nearly the same patients give away those by whom they differ. For each group of
    figures:

    - "few_patients_differ": all releases together cut the patients into cells: those who are in the
      same ones. Whatever sums and means of all releases are added to or taken from one another,
      the members of a cell enter alike. So when every cell is a group, or nobody, nothing about
      fewer patients follows, however many releases are combined. Any other release is refused,
      though what follows from it may be harmless.
    - "few_figures_changed": of the patients that two releases share, those whose figures changed
      must be a group, or nobody: of one corrected contour, the change of the mean tells.

    The same report once more breaks neither.

    >>> ten, nine = ({"adapted": {str(i): "" for i in range(n)}} for n in (10, 9))
    >>> differencing_rule(nine, [ten], minimum_group_size=5)
    'few_patients_differ'
    >>> differencing_rule(ten, [ten], minimum_group_size=5)

    Args:
        asked: what is about to leave.
        earlier: every release before, in any order.
        minimum_group_size: at least 1.

    Raises:
        ValueError: for a minimum group size below 1.
    """
    if minimum_group_size < 1:
        raise ValueError(f"a group has at least one patient, not {minimum_group_size}")
    for group, members in asked.items():
        # Of fewer than a group no figure was given: only how many they are.
        before = [g for told in earlier if len(g := told.get(group, {})) >= minimum_group_size]
        if len(members) < minimum_group_size:
            continue
        cells: dict[tuple[bool, ...], int] = {}
        for patient in set(members).union(*before):
            cell = tuple(patient in release for release in (members, *before))
            cells[cell] = cells.get(cell, 0) + 1
        if min(cells.values()) < minimum_group_size and len(cells) > 1:
            return "few_patients_differ"
        for release in before:
            shared = members.keys() & release.keys()
            changed = sum(members[patient] != release[patient] for patient in shared)
            if 0 < changed < minimum_group_size:
                return "few_figures_changed"
    return None


def unknown_members(patients: int, figures: str) -> dict[str, str]:
    """Stand in for patients of whom only the number is known: as few as can be differ.

    Of two such groups the smaller is taken to lie within the larger.

    >>> unknown_members(2, "ab")
    {'unknown-0': 'ab', 'unknown-1': 'ab'}
    """
    return {f"unknown-{i}": figures for i in range(patients)}
