"""Whom a report is about, so that the door can tell what it gives away beside earlier ones.

Nothing of this leaves: it is kept in a table of its own in the site's database, and the ledger's
entry of the release holds its SHA-256. Patients and their figures are there as digests under a key
of the site, so that whoever has a copy of the database alone cannot try which patient or which
figures give them.
"""

import hashlib
import hmac
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.site_report import (
    ArmSummary,
    Distribution,
    PairedSummary,
    RaterAgreement,
    RevisionSummary,
    SiteReport,
    SubgroupArm,
)
from algorithms.contracts.subgroups import SUBGROUPS
from evaluation.differencing import (
    Told,
    differencing_rule,
    figure_of,
    is_unknown,
    sketch_of,
    subgroup_of,
    unknown_members,
)
from site_agent.config import SiteHome
from site_agent.database import CaseRow, MeasurementRow, ReviewRow, RoundRow

REVISION = "revision"
_DIGITS = 16
_WHOLE = re.compile(r"(?=[.|])")
_FIGURES = ("dsc", "hd95_mm", "assd_mm", "asd_predicted_to_reference_mm", "nsd_at_1mm")
_KNOWN_OF_FAILURES = ("dsc", "nsd_at_1mm")
_LEFT_OUT = (*_KNOWN_OF_FAILURES, "degree_percent")  # of a sketch: those whose value is known

_Part = ArmSummary | SubgroupArm | RaterAgreement | RevisionSummary
_Said = TypeVar("_Said", ArmSummary, SubgroupArm, RaterAgreement, RevisionSummary, PairedSummary)


class _Group(NamedTuple):
    """What a report says of some patients: how many they are, and what.

    Attributes:
        patients: those in whom something is said that is not known anyway.
        attribute: of a subgroup.
        among: the group of which they are those with such a value.
        of: how many that group is where the report does not say how many values are known anyway:
            `patients` are then the most who can be meant; else 0.
    """

    name: str
    patients: int
    attribute: str
    figures: Any
    among: str
    of: int = 0


def agreement_of(first: str, second: str) -> str:
    """Name the figures of how far two raters agree, who are letters."""
    return f"agreement {first} {second}"


def told_by(session: Session, report: SiteReport) -> dict[str, dict[str, str]]:
    """Return whom the figures of a report are about, group by group, and a digest of their figures.

    The members are those who were measured and reviewed in the round that made the report, in the
    subgroups that they were in then. Where the database does not know them all, only their number
    counts.
    """
    return _told(_groups(report), _known(session, report))


def figures_by(session: Session, report: SiteReport) -> dict[str, dict[str, str]]:
    """Return whom each figure of a report is about: those whose value is not known anyway.

    Five patients more are a group, but not their mean Dice when four of them failed.
    """
    return _told(_figure_groups(report), _known(session, report))


def sketches_in(report: SiteReport, figures: Told) -> dict[str, dict[str, str]]:
    """Return whom each sketch of a report is about, of whom `figures` says whose value each is."""
    counted: dict[str, dict[str, str]] = {}
    for whole, attribute, group, part in _parts(report):
        for figure in _sketched(part):
            name = figure_of(_named(whole, attribute, group), figure)
            said = getattr(part, figure)
            unknown = unknown_members(said.n, _digest(said.model_dump(mode="json")))
            counted[sketch_of(name)] = dict(figures.get(name, unknown))
    for pair in report.paired:
        if (sketch := pair.difference.sketch) is not None:
            first, second = (
                figures.get(figure_of(arm, "dsc"), {}) for arm in (pair.first, pair.second)
            )
            both = {one: first[one] + second[one] for one in first.keys() & second.keys()}
            if len(both) != sketch.patients:
                digest = _digest(pair.difference.model_dump(mode="json"))
                both = unknown_members(sketch.patients, digest)
            counted[sketch_of(figure_of(_whole(pair), "difference"))] = both
    return counted


def _sketched(part: BaseModel) -> Iterator[str]:
    """Yield the figures of which patients are counted."""
    for figure in type(part).model_fields:
        said = getattr(part, figure)
        if isinstance(said, Distribution) and said.sketch is not None:
            yield figure
    if isinstance(part, RevisionSummary) and part.bins and part.degree_percent.sketch is None:
        yield "degree_percent"


def _known(session: Session, report: SiteReport) -> Told:
    said = report.model_dump(mode="json")
    rounds = session.scalars(select(RoundRow).where(RoundRow.package_id == report.package_id))
    made_by = [row.round_id for row in rounds if row.report is not None and _same(row.report, said)]
    return _members(session, made_by[0]) if made_by else {}


def memory_key(home: SiteHome) -> bytes:
    """Derive the key of the digests from the site's secret for pseudonyms.

    Raises:
        DataError: the secret is missing.
    """
    return hmac.digest(home.secret("pseudonym.key"), b"fedgtv release memory", "sha256")


def keyed(told: Told, key: bytes) -> dict[str, dict[str, str]]:
    """Put digests under a key: those of patients and those of figures, each in their own way."""

    def digest(kind: str, plain: str) -> str:
        return hmac.new(key, f"{kind}:{plain}".encode(), hashlib.sha256).hexdigest()[:_DIGITS]

    return {
        group: {
            patient if is_unknown(patient) else digest("patient", patient): digest("figures", one)
            for patient, one in members.items()
        }
        for group, members in told.items()
    }


def packed(told: Told) -> dict[str, Any]:
    """Write down a memory: every patient of a whole once, and for each group who of them it is.

    Groups of one whole mostly hold the same patients with the same figures.

    >>> memory = {"adapted": {"ann": "1f", "bob": "2f"}, "adapted.dsc": {"bob": "2f"}}
    >>> packed(memory)
    {'adapted': {'members': [['ann', '1f'], ['bob', '2f']], 'groups': {'': '3', '.dsc': '2'}}}
    >>> unpacked(packed(memory)) == memory
    True
    """
    wholes: defaultdict[str, list[str]] = defaultdict(list)
    for group in told:
        wholes[_WHOLE.split(group)[0]].append(group)
    memory = {}
    for whole, groups in sorted(wholes.items()):
        members = sorted({member for group in groups for member in told[group].items()})
        place = {member: 1 << i for i, member in enumerate(members)}
        memory[whole] = {
            "members": [list(member) for member in members],
            "groups": {
                group.removeprefix(whole): f"{sum(place[one] for one in told[group].items()):x}"
                for group in sorted(groups)
            },
        }
    return memory


def unpacked(memory: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Read what `packed` wrote."""
    return {
        whole + group: {
            patient: figures
            for i, (patient, figures) in enumerate(held["members"])
            if int(mask, 16) >> i & 1
        }
        for whole, held in memory.items()
        for group, mask in held["groups"].items()
    }


def beside_earlier(
    session: Session, round_id: str, report: SiteReport, earlier: Sequence[Told], key: bytes
) -> SiteReport:
    """Leave out of a report what earlier ones do not allow: subgroups, pairs of raters, sketches.

    With a sketch goes what is read from it, medians and quartiles; mean and SD stay.
    Without them a report may still be refused at the door; with them it could be, although it need
    not.

    Args:
        session: in which the round's measurements are stored.
        round_id: that made the report.
        report: about to be stored.
        earlier: whom every report that left is about.
        key: of the digests in there.
    """
    beside = _Beside(_members(session, round_id), earlier, key)
    kept = report.model_copy(update={"subgroups": (), "agreement": ()})
    for pair in report.agreement:
        kept = beside.with_more(kept, "agreement", (pair,))
    broken = beside.broken_sketches(kept)
    kept = kept.model_copy(
        update={
            "arms": tuple(_bare(arm, broken) for arm in kept.arms),
            "paired": tuple(_bare(pair, broken) for pair in kept.paired),
            "agreement": tuple(_bare(pair, broken) for pair in kept.agreement),
            "revision": None if kept.revision is None else _bare(kept.revision, broken),
        }
    )
    for attribute in SUBGROUPS:
        more = tuple(one for one in report.subgroups if one.attribute == attribute)
        kept = beside.with_more(kept, "subgroups", more)
    broken = beside.broken_sketches(kept)
    subgroups = tuple(
        one.model_copy(update={"arms": tuple(_bare(arm, broken) for arm in one.arms)})
        for one in kept.subgroups
    )
    return kept.model_copy(update={"subgroups": subgroups})


@dataclass(frozen=True)
class _Beside:
    """What a round's report may say beside earlier ones.

    Attributes:
        members: of the round, group by group.
        earlier: whom every report that left is about.
        key: of the digests in there.
    """

    members: Told
    earlier: Sequence[Told]
    key: bytes

    def with_more(self, report: SiteReport, field: str, more: tuple[BaseModel, ...]) -> SiteReport:
        """Add to a field of a report what may be said, sketches aside; else leave it as it is."""
        wider = report.model_copy(update={field: (*getattr(report, field), *more)})
        return wider if self._rule(self._told(wider), report) is None else report

    def broken_sketches(self, report: SiteReport) -> frozenset[str]:
        """Name the figures whose sketches may not leave beside earlier ones."""
        of_whole: defaultdict[str, dict[str, Mapping[str, str]]] = defaultdict(dict)
        for name, counted in sketches_in(report, self._told(report)).items():
            of_whole[name.partition("|")[0]][name] = counted
        return frozenset(whole for whole, said in of_whole.items() if self._rule(said, report))

    def _told(self, report: SiteReport) -> Told:
        return _told({**_groups(report), **_figure_groups(report)}, self.members)

    def _rule(self, told: Told, report: SiteReport) -> str | None:
        return differencing_rule(
            keyed(told, self.key),
            self.earlier,
            minimum_group_size=report.minimum_group_size,
            least_told=1,
        )


def _bare(part: _Said, broken: frozenset[str]) -> _Said:
    """Leave out the sketches of figures that are named, and what is read from them."""
    figures = [f for f in _sketched(part) if sketch_of(figure_of(_whole(part), f)) in broken]
    nothing = dict.fromkeys(("sketch", "median", "q1", "q3"))
    update: dict[str, Any] = {f: getattr(part, f).model_copy(update=nothing) for f in figures}
    if "degree_percent" in figures:
        update["bins"] = None
    return part.model_copy(update=update)


def _whole(part: _Part | PairedSummary) -> str:
    """Name the patients of whom this is said, or said of some."""
    if isinstance(part, RevisionSummary):
        return REVISION
    if isinstance(part, RaterAgreement):
        return agreement_of(part.first, part.second)
    if isinstance(part, PairedSummary):
        return f"{part.first} {part.second}"
    return part.arm


def _told(said: Mapping[str, Sequence[_Group]], known: Told) -> dict[str, dict[str, str]]:
    """Return group -> members: the known ones where their number is the report's, of all parts."""
    told: dict[str, dict[str, str]] = {}
    for groups in said.values():
        # Where no value is kept but nobody is without one, they are all of the larger group.
        for named in ([group.name for group in groups], [group.among for group in groups]):
            members = [known.get(name, {}) for name in named]
            if all(
                len(one) == group.patients
                or (0 < len(one) < group.patients and group.of == len(known.get(group.among, {})))
                for one, group in zip(members, groups, strict=True)
            ):
                told |= {group.name: dict(m) for group, m in zip(groups, members, strict=True)}
                break
        else:
            placed: Counter[str] = Counter()
            # One digest for all: a patient's figures are the same in every part of the whole.
            digest = _digest([group.figures for group in groups])
            for group in groups:
                first = placed[group.attribute]
                told[group.name] = unknown_members(group.patients, digest, first=first)
                placed[group.attribute] += group.patients
    return told


def _parts(report: SiteReport) -> Iterator[tuple[str, str, str, _Part]]:
    """Yield what a report says of its patients: whole, attribute, group, figures.

    Of fewer than a group nothing is said but their number.
    """
    least = report.minimum_group_size
    for arm in report.arms:
        if arm.patients >= least:
            yield _whole(arm), "", "", arm
    for subgroup in report.subgroups:
        for part in subgroup.arms:
            yield _whole(part), subgroup.attribute, subgroup.group, part
    for pair in report.agreement:
        if pair.patients >= least:
            yield _whole(pair), "", "", pair
    if report.revision is not None and report.revision.patients >= least:
        yield _whole(report.revision), "", "", report.revision


def _named(whole: str, attribute: str, group: str) -> str:
    return subgroup_of(whole, attribute, group) if attribute else whole


def _groups(report: SiteReport) -> dict[str, list[_Group]]:
    """Return whole -> its groups of patients."""
    groups: defaultdict[str, list[_Group]] = defaultdict(list)
    for whole, attribute, group, part in _parts(report):
        name = _named(whole, attribute, group)
        figures = part.model_dump(mode="json")
        groups[whole].append(_Group(name, part.patients, attribute, figures, name))
    return groups


def _figure_groups(report: SiteReport) -> dict[str, list[_Group]]:
    """Return whole and figure -> its groups of patients whose value is not known anyway."""
    groups: defaultdict[str, list[_Group]] = defaultdict(list)
    for whole, attribute, group, part in _parts(report):
        for figure in type(part).model_fields:
            said = getattr(part, figure)
            if not isinstance(said, Distribution) or (
                said.mean is None and figure not in _sketched(part)
            ):
                continue
            failures = getattr(part, "failures", None) if figure in _KNOWN_OF_FAILURES else None
            open_ = said.n - (failures or 0) if said.sketch is None else said.sketch.patients
            among = _named(whole, attribute, group)
            name = figure_of(among, figure)
            figures = said.model_dump(mode="json")
            known_anyway = figure in _LEFT_OUT and failures is None and said.sketch is None
            of = part.patients if known_anyway else 0
            one = _Group(name, open_, attribute, figures, among, of)
            groups[figure_of(whole, figure)].append(one)
    return groups


def _same(stored: dict[str, Any], said: dict[str, Any]) -> bool:
    """Say whether a stored report, of this version or an older one, is the one that is said."""
    return SiteReport.model_validate(stored).model_dump(mode="json") == said


def _members(session: Session, round_id: str) -> dict[str, dict[str, str]]:
    """Gather group -> patient -> digest of the figures of all their cases."""
    figures: defaultdict[tuple[str, str], list[Any]] = defaultdict(list)
    measured = (
        select(
            MeasurementRow.arm,
            CaseRow.patient_id,
            MeasurementRow.metrics,
            MeasurementRow.subgroups,
        )
        .join(CaseRow, CaseRow.case_id == MeasurementRow.case_id)
        .where(MeasurementRow.round_id == round_id)
        .order_by(MeasurementRow.case_id)
    )
    for arm, patient, metrics, subgroups in session.execute(measured):
        figures[arm, patient].append(metrics)
        for attribute, group in subgroups.items():
            figures[subgroup_of(arm, attribute, group), patient].append(metrics)
    reviewed = (
        select(CaseRow.patient_id, ReviewRow.revision_degree_percent, ReviewRow.active_s)
        .join(CaseRow, CaseRow.case_id == ReviewRow.case_id)
        .where(ReviewRow.round_id == round_id, CaseRow.split == "test")
        .order_by(ReviewRow.case_id)
    )
    for patient, degree, active_s in session.execute(reviewed):
        figures[REVISION, patient].append([degree, active_s])
    known: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for (group, patient), values in figures.items():
        one = sha256_hex(patient.encode())[:_DIGITS]
        known[group][one] = _digest(values)
        # What one patient's figures were: two that are equal by chance are not the same figure.
        for figure in _open_figures(group, values):
            known[figure_of(group, figure)][one] = known[group][one]
    return dict(known)


def _open_figures(group: str, cases: Sequence[Any]) -> Iterator[str]:
    """Yield the figures of a patient that nobody knows from what else is told."""
    if group == REVISION:
        if any(degree < 100.0 for degree, _ in cases):
            yield "degree_percent"
        if any(active_s is not None for _, active_s in cases):
            yield "active_s"
        return
    for figure in _FIGURES:
        values = [case.get(figure) for case in cases]
        if figure in _KNOWN_OF_FAILURES:  # the same patients: those who were not missed
            values = [case.get("dsc") or None for case in cases]
        if any(value is not None for value in values):
            yield figure


def _digest(figures: object) -> str:
    return sha256_hex(canonical_json(figures))[:_DIGITS]
