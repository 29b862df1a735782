"""What a release gives away beside those that left before it: the memory of the door out.

Plain data in, the name of a rule out; `site_agent.release_memory` keeps and brings the data.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

Told = Mapping[str, Mapping[str, str]]
"""What one release is about: group of figures -> patient -> digest of that patient's figures.

A group that is part of another says so: see `subgroup_of`.
"""
Kind = tuple[tuple[bool, ...], ...]
"""For each value that a patient had, which sets of patients it is in."""
_PART = "|"
_FIGURE = "."
_SKETCH = "~"
_UNKNOWN = "unknown-"


def subgroup_of(whole: str, attribute: str, group: str) -> str:
    """Name the figures of a subgroup: a part of `whole`, which is told as well."""
    return _PART.join((whole, attribute, group))


def figure_of(group: str, figure: str) -> str:
    """Name one figure of a group: of those patients whose value nobody knows anyway.

    >>> figure_of(subgroup_of("adapted", "t_stage", "T1+2"), "dsc")
    'adapted.dsc|t_stage|T1+2'
    """
    whole, part, rest = group.partition(_PART)
    return f"{whole}{_FIGURE}{figure}{part}{rest}"


def sketch_of(figure: str) -> str:
    """Name the sketch of one figure of a group.

    >>> sketch_of(figure_of(subgroup_of("adapted", "t_stage", "T1+2"), "dsc"))
    'adapted.dsc~|t_stage|T1+2'
    """
    whole, part, rest = figure.partition(_PART)
    return f"{whole}{_SKETCH}{part}{rest}"


def differencing_rule(
    asked: Told,
    earlier: Sequence[Told],
    *,
    minimum_group_size: int,
    least_told: int | None = None,
) -> str | None:
    """Name the rule that a release breaks beside all that was released before; None if none.

    Two figures over nearly the same patients give away those by whom they differ. Groups of figures
    go together that are parts of one whole (`subgroup_of`), and the whole. Among these:

    - "few_patients_differ": all releases together cut the patients into cells: those who are in the
      same wholes. Whatever sums and means of all releases are added to or taken from one another,
      the members of a cell enter alike. So when every cell is a group, or nobody, nothing about
      fewer patients follows, however many releases are combined. Any other release is refused,
      though what follows from it may be harmless. Subgroups cut finer; of them nothing about few
      may follow (`follows_about_few`), whatever they are combined with.
    - "few_figures_changed": of the patients that a group shares with one released before, those
      whose figures changed must be a group, or nobody: of one corrected contour, the change of the
      mean tells.

    - "few_figures_differ": the same, for changes and any number of releases: a figure that changed
      is another one of the same patient. Of a single figure (`figure_of`) this alone is asked.
    - "few_in_bins_differ": of two sketches of one figure (`sketch_of`), in which some patients have
      the same value and others do not, the counts taken from one another leave those others, bin
      by bin, few as they are in one. So two sketches are about the same values or about none in
      common.

    The same report once more breaks none.

    >>> ten, nine = ({"adapted": {str(i): "" for i in range(n)}} for n in (10, 9))
    >>> differencing_rule(nine, [ten], minimum_group_size=5)
    'few_patients_differ'
    >>> differencing_rule(ten, [ten], minimum_group_size=5)

    Args:
        asked: what is about to leave.
        earlier: every release before, in any order.
        minimum_group_size: at least 1.
        least_told: of fewer patients than this no figure was given before; the minimum group size
            unless another one held then.

    Raises:
        ValueError: for a minimum group size below 1.
    """
    if minimum_group_size < 1:
        raise ValueError(f"a group has at least one patient, not {minimum_group_size}")
    before_least = minimum_group_size if least_told is None else least_told
    wholes_asked = {group.split(_PART)[0] for group in asked}
    for whole in sorted(wholes_asked, key=lambda name: (_SKETCH in name, _FIGURE in name, name)):
        # Of fewer than a group no figure was given: only how many they are.
        releases: list[Told] = [
            {
                group: members
                for group, members in told.items()
                if group.split(_PART)[0] == whole and len(members) >= least
            }
            for told, least in (
                (asked, minimum_group_size),
                *((told, before_least) for told in earlier),
            )
        ]
        if _SKETCH in whole:
            if any(_bins_tell_of_few(whole, releases[0], told) for told in releases[1:]):
                return "few_in_bins_differ"
            continue
        if any(
            is_unknown(patient) for told in releases for one in told.values() for patient in one
        ):
            # Somebody unknown may be anybody who is known: then numbers are all there is.
            releases = [_as_numbers(told) for told in releases]
        now, *before = (list(told.values()) for told in releases)
        if not now:
            continue
        released = [members for told in before for members in told]
        everybody = sorted(set().union(*now, *released))
        few_differ = _kinds_tell_of_few(_kinds((*now, *released)), minimum_group_size)
        if _FIGURE in whole:  # whose value is known anyway differs from round to round
            if few_differ:
                return "few_figures_differ"
            continue
        wholes = [told[whole] for told in releases if whole in told]
        cells = Counter(tuple(one in members for members in wholes) for one in everybody)
        parts = Counter(tuple(one in members for members in (*now, *released)) for one in everybody)
        if min(cells.values()) < minimum_group_size or follows_about_few(
            parts, minimum_group_size=minimum_group_size
        ):
            return "few_patients_differ"
        for members, known in product(now, released):
            shared = members.keys() & known.keys()
            changed = sum(members[patient] != known[patient] for patient in shared)
            if 0 < changed < minimum_group_size:
                return "few_figures_changed"
        if few_differ:
            return "few_figures_differ"
    return None


def _bins_tell_of_few(whole: str, now: Told, before: Told) -> bool:
    """Say whether the sketches of one figure in two releases, taken from one another, tell of few.

    Those of subgroups have bins that fit all patients and the other subgroups of their release. So
    where all patients are the same, it is enough that the same attributes part them alike.
    """
    new, old = (
        {group: frozenset(members.items()) for group, members in told.items()}
        for told in (now, before)
    )
    if whole in new and new[whole] == old.get(whole):
        of_new, of_old = (
            {group.rpartition(_PART)[0] for group in told if group != whole} for told in (new, old)
        )
        if not of_new or not of_old:
            return False
        return of_new != of_old or any(
            _partition(whole, attribute, new) != _partition(whole, attribute, old)
            for attribute in of_new
        )
    # Somebody unknown may be anybody.
    return any(
        bool(one & other) or any(is_unknown(patient) for patient, _ in one | other)
        for one, other in product(new.values(), old.values())
    )


def _partition(
    whole: str, attribute: str, values: Mapping[str, frozenset[tuple[str, str]]]
) -> set[frozenset[tuple[str, str]]]:
    parts = {one for group, one in values.items() if group.rpartition(_PART)[0] == attribute}
    return {*parts, values[whole].difference(*parts)} - {frozenset()}


def follows_about_few(cells: Mapping[tuple[bool, ...], int], *, minimum_group_size: int) -> bool:
    """Say whether figures about few patients may follow from figures about sets of patients.

    Sought are as many bases as a group has members, without a patient in common: sets of patients,
    one for each independent figure, whose values alone would make these figures whatever they are.
    Any sum of figures, however weighted, that is not about nobody is about somebody in each base,
    so about a group; and k independent sums are about at least k groups together.

    Bases are taken from the largest cells first. Where that finds too few, there may be enough all
    the same: this errs on the side of silence.

    >>> follows_about_few({(True, True): 9, (True, False): 1}, minimum_group_size=5)
    True
    >>> follows_about_few({(True, True): 9, (True, False): 5}, minimum_group_size=5)
    False

    Args:
        cells: which sets the patients of a cell are in -> how many they are.
        minimum_group_size: at least 1.
    """
    kinds: dict[Kind, int] = {(cell,): size for cell, size in cells.items() if any(cell)}
    return _kinds_tell_of_few(kinds, minimum_group_size)


def _kinds_tell_of_few(kinds: Mapping[Kind, int], minimum_group_size: int) -> bool:
    """Say the same of patients with several values, all of whom a basis takes or none."""
    left = dict(kinds)
    if not left:
        return False
    rank = _rank([row for kind in left for row in kind])
    for _ in range(minimum_group_size):
        basis: list[tuple[bool, ...]] = []
        chosen = []
        for kind in sorted(left, key=lambda kind: (-left[kind], kind)):
            if left[kind] and (wider := _rank([*basis, *kind])) > _rank(basis):
                basis += kind
                chosen.append(kind)
                if wider == rank:
                    break
        else:
            return True
        for kind in chosen:
            left[kind] -= 1
    return False


def _kinds(released: Sequence[Mapping[str, str]]) -> Counter[Kind]:
    """Count patients by which releases each value of theirs is in."""
    kinds: Counter[Kind] = Counter()
    for patient in set().union(*released):
        said = [members.get(patient) for members in released]
        values = {one for one in said if one is not None}
        kinds[tuple(sorted(tuple(one == value for one in said) for value in values))] += 1
    return kinds


def _as_numbers(told: Told) -> Told:
    placed: Counter[str] = Counter()
    numbers = {}
    for group, members in told.items():
        attribute = group.rpartition(_PART)[0]
        numbers[group] = unknown_members(len(members), "", first=placed[attribute])
        placed[attribute] += len(members)
    return numbers


def _rank(rows: Sequence[tuple[bool, ...]]) -> int:
    return int(np.linalg.matrix_rank(np.asarray(rows, dtype=np.float64))) if rows else 0


def is_unknown(patient: str) -> bool:
    """Say whether somebody only stands in for one of whom the number is known."""
    return patient.startswith(_UNKNOWN)


def unknown_members(patients: int, figures: str, *, first: int = 0) -> dict[str, str]:
    """Stand in for patients of whom only the number is known: as few as can be differ.

    Of two such groups the smaller is taken to lie within the larger; those of the parts of one
    whole follow one another, each after the `first` ones.

    >>> unknown_members(2, "ab")
    {'unknown-0': 'ab', 'unknown-1': 'ab'}
    """
    return {f"{_UNKNOWN}{i}": figures for i in range(first, first + patients)}
