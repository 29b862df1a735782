"""Which subgroups a hospital may tell of, and their figures: rule 9 of `disclosure_control`.

All figures of an arm are about sets of its patients: everybody, and every told subgroup. Figures of
sets can be added to and taken from one another, within an attribute ("T1+2" is all less "T3+4") and
across attributes. `differencing.follows_about_few` says whether anything about few follows, counted
over all patients and over those who have a value that is not known anyway.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from algorithms.contracts.scale import FRACTION, MILLIMETRE, Scale
from algorithms.contracts.site_report import (
    ArmSummary,
    Distribution,
    Sketch,
    SubgroupArm,
    SubgroupSummary,
)
from algorithms.contracts.subgroups import SUBGROUPS, Attribute
from evaluation.differencing import follows_about_few
from evaluation.disclosure_control import (
    check_group_size,
    common_bins,
    count_in_bins,
    distribution,
)

if TYPE_CHECKING:
    from evaluation.site_summary import PatientRow

Told = Mapping[Attribute, frozenset[str]]
"""Attribute -> the groups of it that are told."""

_FIGURES: dict[str, tuple[Scale, int]] = {
    "dsc": (FRACTION, 4),
    "hd95_mm": (MILLIMETRE, 2),
    "asd_predicted_to_reference_mm": (MILLIMETRE, 2),
}


def summarise_subgroups(
    rows: Sequence["PatientRow"], arms: Sequence[ArmSummary], *, minimum_group_size: int
) -> tuple[SubgroupSummary, ...]:
    """Summarise the subgroups that may be told, the same ones in every arm.

    Args:
        rows: of the patients, all arms.
        arms: what is said about all patients of each arm.
        minimum_group_size: at least 1.
    """
    told = told_subgroups(rows, minimum_group_size=minimum_group_size)
    of_arm = {arm.arm: [row for row in rows if row.arm == arm.arm] for arm in arms}
    parts = [
        part for arm in arms for part in _arm_parts(of_arm[arm.arm], arm, told, minimum_group_size)
    ]
    return tuple(
        SubgroupSummary(attribute=attribute, group=group, arms=found)
        for attribute, groups in SUBGROUPS.items()
        for group in groups
        if (found := tuple(arm for a, g, arm in parts if (a, g) == (attribute, group)))
    )


def told_subgroups(
    rows: Sequence["PatientRow"], *, minimum_group_size: int
) -> dict[Attribute, frozenset[str]]:
    """Choose the subgroups that may be told, attribute by attribute in the order of `SUBGROUPS`.

    Of an attribute the smallest group is hidden, and again, until nothing follows about few; what
    comes first is not given up for what comes later.
    """
    check_group_size(minimum_group_size)
    told: dict[Attribute, frozenset[str]] = {}
    for attribute in SUBGROUPS:
        sizes = Counter(group for row in rows if (group := row.subgroups.get(attribute, "")))
        groups = sorted(sizes, key=lambda group: (sizes[group], group))
        while groups:
            wider: Told = {**told, attribute: frozenset(groups)}
            if not _follows_about_few(rows, wider, minimum_group_size):
                told = dict(wider)
                break
            groups.pop(0)
    return told


def _follows_about_few(rows: Sequence["PatientRow"], told: Told, minimum_group_size: int) -> bool:
    patients = Counter(row.arm for row in rows)
    cells: dict[tuple[str, str], Counter[tuple[bool, ...]]] = {}
    for row in rows:
        if patients[row.arm] < minimum_group_size:
            continue  # of such an arm no figure is given
        member = _member(row, told)
        for counted in ("patients", *(figure for figure in _FIGURES if _is_open(row, figure))):
            cells.setdefault((row.arm, counted), Counter())[member] += 1
    return any(
        follows_about_few(sizes, minimum_group_size=minimum_group_size) for sizes in cells.values()
    )


def _member(row: "PatientRow", told: Told) -> tuple[bool, ...]:
    """Say in which sets of patients somebody is: everybody, and every told subgroup."""
    return (
        True,
        *(
            row.subgroups.get(attribute) == group
            for attribute, names in told.items()
            for group in sorted(names)
        ),
    )


def _is_open(row: "PatientRow", figure: str) -> bool:
    """Say whether a patient has a value that nobody knows: the Dice of a failure is known."""
    if figure == "dsc" and row.metrics.is_failure:
        return False
    return not math.isnan(getattr(row.metrics, figure))


def _arm_parts(
    rows: Sequence["PatientRow"], arm: ArmSummary, told: Told, minimum_group_size: int
) -> Iterator[tuple[Attribute, str, SubgroupArm]]:
    """Summarise the told subgroups of one arm."""
    if arm.failures is None:
        return
    before: dict[Attribute, frozenset[str]] = {}
    for attribute, groups in told.items():
        before[attribute] = groups
        bins = {figure: _bins(rows, figure, arm, before, minimum_group_size) for figure in _FIGURES}
        for group in SUBGROUPS[attribute]:
            members = [row for row in rows if row.subgroups.get(attribute) == group]
            if group not in groups or not members:
                continue
            figures = {
                figure: _part(members, figure, bins[figure], minimum_group_size)
                for figure in _FIGURES
            }
            failures = sum(row.metrics.is_failure for row in members)
            part = SubgroupArm(arm=arm.arm, patients=len(members), failures=failures, **figures)
            yield attribute, group, part


def _part(
    members: Sequence["PatientRow"],
    figure: str,
    last_steps: tuple[int, ...] | None,
    minimum_group_size: int,
) -> Distribution:
    """Summarise a figure of a subgroup, which is counted in the given bins."""
    scale, decimals = _FIGURES[figure]
    said = distribution(
        (getattr(row.metrics, figure) for row in members),
        scale=scale,
        minimum_group_size=minimum_group_size,
        decimals=decimals,
        failed=[row.metrics.is_failure for row in members] if figure == "dsc" else None,
    )
    counted = None
    if said.sketch is not None and last_steps is not None:
        values = (getattr(row.metrics, figure) for row in members if _is_open(row, figure))
        counted = count_in_bins(values, last_steps, scale)
    return said.model_copy(update={"median": None, "q1": None, "q3": None, "sketch": counted})


def _bins(
    rows: Sequence["PatientRow"],
    figure: str,
    arm: ArmSummary,
    told: Told,
    minimum_group_size: int,
) -> tuple[int, ...] | None:
    """Return the bins for the subgroups of the last attribute, beside those of all before it.

    Sketches of two attributes are taken from one another in the bins that they share, each of which
    is a union of these.
    """
    whole: Sketch | None = getattr(arm, figure).sketch
    if whole is None:
        return None
    cells: dict[tuple[bool, ...], list[float]] = {}
    for row in rows:
        if _is_open(row, figure):
            cells.setdefault(_member(row, told), []).append(getattr(row.metrics, figure))
    scale, _ = _FIGURES[figure]
    return common_bins(whole, cells, scale, minimum_group_size=minimum_group_size)
