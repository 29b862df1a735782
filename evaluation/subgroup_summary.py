"""Which subgroups a hospital may tell of, and their figures: rule 9 of `disclosure_control`.

All figures of an arm are sums over sets of its patients: everybody, and every told subgroup. Such
sets can be added to and taken from one another, within an attribute ("T1+2" is all less "T3+4") and
across attributes. They cut the patients into cells: those who are in the same sets. The members of
a cell enter every combination alike. So a subgroup is told only where all cells stay groups or
nobody, counted over all patients and over those who have a value that is not known anyway.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from algorithms.contracts.scale import FRACTION, MILLIMETRE, Scale
from algorithms.contracts.site_report import (
    ArmSummary,
    Distribution,
    SubgroupArm,
    SubgroupSummary,
)
from algorithms.contracts.subgroups import SUBGROUPS, Attribute
from evaluation.disclosure_control import check_group_size, common_bins, count_in_bins, distribution

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

    Of an attribute the smallest group is hidden, and again, until all cells are groups or nobody;
    what comes first is not given up for what comes later.
    """
    check_group_size(minimum_group_size)
    told: dict[Attribute, frozenset[str]] = {}
    for attribute in SUBGROUPS:
        sizes = Counter(group for row in rows if (group := row.subgroups.get(attribute, "")))
        groups = sorted(sizes, key=lambda group: (sizes[group], group))
        while groups:
            wider: Told = {**told, attribute: frozenset(groups)}
            if not _cuts_few(rows, wider, minimum_group_size):
                told = dict(wider)
                break
            groups.pop(0)
    return told


def cell_of(row: "PatientRow", told: Told) -> tuple[str, ...]:
    """Name the cell of a patient: the told group of each attribute, or "" for the rest."""
    groups = (row.subgroups.get(attribute, "") for attribute in told)
    return tuple(
        group if group in names else "" for group, names in zip(groups, told.values(), strict=True)
    )


def _cuts_few(rows: Sequence["PatientRow"], told: Told, minimum_group_size: int) -> bool:
    patients = Counter(row.arm for row in rows)
    cells: dict[tuple[str, ...], Counter[tuple[str, ...]]] = {}
    for row in rows:
        if patients[row.arm] < minimum_group_size:
            continue  # of such an arm no figure is given
        for counted in ("patients", *(figure for figure in _FIGURES if _is_open(row, figure))):
            cells.setdefault((row.arm, counted), Counter())[cell_of(row, told)] += 1
    return any(size < minimum_group_size for sizes in cells.values() for size in sizes.values())


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
    last_steps: dict[str, tuple[int, ...]] = {}
    for figure, (scale, _) in _FIGURES.items():
        whole: Distribution = getattr(arm, figure)
        if whole.sketch is not None:
            cells: dict[tuple[str, ...], list[float]] = {}
            for row in rows:
                if _is_open(row, figure):
                    cells.setdefault(cell_of(row, told), []).append(getattr(row.metrics, figure))
            last_steps[figure] = common_bins(
                whole.sketch, list(cells.values()), scale, minimum_group_size=minimum_group_size
            )

    def over(members: Sequence["PatientRow"], figure: str) -> Distribution:
        scale, decimals = _FIGURES[figure]
        values = [getattr(row.metrics, figure) for row in members]
        said = distribution(
            values,
            scale=scale,
            minimum_group_size=minimum_group_size,
            decimals=decimals,
            failed=[row.metrics.is_failure for row in members] if figure == "dsc" else None,
        )
        counted = None
        if said.sketch is not None:
            unknown = [v for v, row in zip(values, members, strict=True) if _is_open(row, figure)]
            counted = count_in_bins(unknown, last_steps[figure], scale)
        return said.model_copy(update=dict.fromkeys(("median", "q1", "q3")) | {"sketch": counted})

    for attribute, groups in told.items():
        for group in SUBGROUPS[attribute]:
            members = [row for row in rows if row.subgroups.get(attribute) == group]
            if group not in groups or not members:
                continue
            yield (
                attribute,
                group,
                SubgroupArm(
                    arm=arm.arm,
                    patients=len(members),
                    failures=sum(row.metrics.is_failure for row in members),
                    dsc=over(members, "dsc"),
                    hd95_mm=over(members, "hd95_mm"),
                    asd_predicted_to_reference_mm=over(members, "asd_predicted_to_reference_mm"),
                ),
            )
