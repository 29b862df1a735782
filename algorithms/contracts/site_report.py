"""What one hospital says about its results: aggregates over patients, never a patient.

Every figure has bounds: a report that no hospital can have measured is refused where it arrives,
and does not stand in the way of the study's report later.
"""

from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from algorithms.contracts.scale import (
    FRACTION,
    FRACTION_DIFFERENCE,
    MILLIMETRE,
    PERCENT,
    SECOND,
    Scale,
)
from algorithms.contracts.subgroups import SUBGROUPS, Attribute, Vendor

ADVISED_GROUP_SIZE = 5
_MOST = 10**9  # of anything that is counted
Count = Annotated[int, Field(ge=0, le=_MOST)]


class _Noun(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Sketch(_Noun):
    """How many patients lie in which stretch of a public scale (`algorithms.contracts.scale`).

    Stretches are named by the number of their last step, so that no end of one can be a patient's
    value. They cover the whole scale: where the lowest and the highest patient lie is not said.

    Attributes:
        last_steps: last step of every bin, rising up to the last step of the scale.
        counts: patients in every bin: none, or a group.
    """

    last_steps: tuple[Count, ...] = Field(min_length=1, max_length=1000)
    counts: tuple[Count, ...] = Field(min_length=1, max_length=1000)

    @property
    def patients(self) -> int:
        """Return how many patients it counts."""
        return sum(self.counts)

    @model_validator(mode="after")
    def _covers_a_scale_once(self) -> Self:
        if len(self.last_steps) != len(self.counts):
            raise ValueError("a sketch has one count per bin")
        pairs = zip(self.last_steps, self.last_steps[1:], strict=False)
        if any(later <= earlier for earlier, later in pairs):
            raise ValueError("the bins of a sketch must rise")
        return self


class Distribution(_Noun):
    """A figure over the `n` patients for which it is defined; None when suppressed (`n` too small).

    Attributes:
        n: patients with a defined value.
        undefined: patients without one (an empty contour has no distance); always shown.
        median: the middle of the step of the public scale in which it lies, like the quartiles: by
            itself it is the value of one patient.
        sketch: patients counted on the public scale; None where suppressed and in reports of
            versions that did not count them. Those whose value other figures give away are not in
            it: failures in Dice and NSD, contours drawn anew (100 %) in the revision degree.
    """

    n: Count
    undefined: Count = 0
    mean: float | None = None
    sd: float | None = None
    median: float | None = None
    q1: float | None = None
    q3: float | None = None
    sketch: Sketch | None = None

    def check_values(self, scale: Scale, *, highest: float, lowest: float = 0.0) -> Self:
        """Check that every value lies in [lowest, highest] and that the sketch is of this scale.

        The SD may be as large as half of that range, and more in a sample: it is let pass up to the
        whole.

        Raises:
            ValueError: when one does not.
        """
        values = (self.mean, self.median, self.q1, self.q3)
        if any(value is not None and not lowest <= value <= highest for value in values):
            raise ValueError(f"every value must be from {lowest:g} to {highest:g}")
        if self.sd is not None and not 0 <= self.sd <= highest - lowest:
            raise ValueError(f"an SD must be from 0 to {highest - lowest:g}")
        if self.sketch is not None:
            if self.sketch.last_steps[-1] != len(scale) - 1:
                raise ValueError(f"a sketch must cover the {len(scale)} steps of its scale")
            if self.sketch.patients > self.n:
                raise ValueError("more patients in a sketch than have a value")
        return self


def _check_patients(patients: int, figures: tuple[Distribution, ...]) -> None:
    if any(figure.n + figure.undefined > patients for figure in figures):
        raise ValueError("a figure is about more patients than there are")


def _on(scale: Scale, highest: float, lowest: float = 0.0) -> AfterValidator:
    return AfterValidator(lambda d: d.check_values(scale, highest=highest, lowest=lowest))


Fractions = Annotated[Distribution, _on(FRACTION, 1)]
FractionDifferences = Annotated[Distribution, _on(FRACTION_DIFFERENCE, 1, -1)]
Percents = Annotated[Distribution, _on(PERCENT, 100)]
Millimetres = Annotated[Distribution, _on(MILLIMETRE, 1e6)]
Seconds = Annotated[Distribution, _on(SECOND, 1e9)]

ArmName = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,32}$")]
RaterName = Annotated[str, Field(pattern=r"^[a-z]$")]


class ArmSummary(_Noun):
    """One way of segmenting the test patients: "direct", "adapted" or "target_trained".

    Attributes:
        failures: patients whose prediction missed the tumour altogether (Dice 0); they count as
            Dice 0 in `dsc`. Where a mask is empty the distances are undefined and counted so.
            None when there are fewer patients than the minimum group size; every distribution then
            has all patients as `n` and does not say which values are undefined.
    """

    arm: ArmName
    patients: Count
    failures: Count | None
    dsc: Fractions
    hd95_mm: Millimetres
    assd_mm: Millimetres
    asd_predicted_to_reference_mm: Millimetres
    nsd_at_1mm: Fractions

    @model_validator(mode="after")
    def _is_about_its_patients(self) -> Self:
        distances = (self.hd95_mm, self.assd_mm, self.asd_predicted_to_reference_mm)
        _check_patients(self.patients, (self.dsc, self.nsd_at_1mm, *distances))
        if self.failures is not None and self.failures > self.patients:
            raise ValueError("more failures than patients")
        for figure in (self.dsc, self.nsd_at_1mm):
            counted = None if figure.sketch is None else figure.sketch.patients
            if counted is not None and counted != figure.n - (self.failures or 0):
                raise ValueError("a sketch counts every patient but the failures")
        return self


class SubgroupArm(_Noun):
    """One way of segmenting, on the patients of one subgroup; all of them are a group, or more.

    Attributes:
        failures: of them; they count as Dice 0.
        dsc: without median and quartiles, like the distances: the study computes them from the
            sketches, whose bins are bins of the arm's own sketch, put together.
    """

    arm: ArmName
    patients: Count
    failures: Count
    dsc: Fractions
    hd95_mm: Millimetres
    asd_predicted_to_reference_mm: Millimetres

    @model_validator(mode="after")
    def _is_about_its_patients(self) -> Self:
        _check_patients(self.patients, _figures(self))
        if self.failures > self.patients:
            raise ValueError("more failures than patients")
        return self


class SubgroupSummary(_Noun):
    """The patients of one subgroup, in every arm.

    Subgroups that are too small, or whose figures would follow from those of others, are not there;
    nor is whoever's group is not known.

    Attributes:
        group: one of `SUBGROUPS`.
    """

    attribute: Attribute
    group: str = Field(max_length=40)
    arms: tuple[SubgroupArm, ...]

    @model_validator(mode="after")
    def _is_a_public_word(self) -> Self:
        if self.group not in SUBGROUPS[self.attribute]:
            raise ValueError("a subgroup must be one that every study knows")
        if len({arm.arm for arm in self.arms}) != len(self.arms):
            raise ValueError("an arm twice in a subgroup")
        return self


class PairedSummary(_Noun):
    """How far the Dice of the same patients differ between two arms: second minus first.

    Attributes:
        difference: the sketch leaves out patients who failed in either arm; how many these are is
            the difference between `n` and the patients it counts.
    """

    first: ArmName
    second: ArmName
    difference: FractionDifferences


class RaterAgreement(_Noun):
    """How far two people agree about the same patients; one name twice is one person, twice.

    Attributes:
        first: a letter that the study gave.
        second: another one, or the same.
    """

    first: RaterName
    second: RaterName
    patients: Count
    dsc: Fractions
    hd95_mm: Millimetres

    @model_validator(mode="after")
    def _is_about_its_patients(self) -> Self:
        _check_patients(self.patients, (self.dsc, self.hd95_mm))
        return self


class RevisionSummary(_Noun):
    """How much oncologists changed the model's contours (6.3.3).

    Attributes:
        degree_percent: 100 * (1 - Dice(model, revised)).
        bins: patients in 0-5, >5-10, >10-15 and >15 %.
        simulated: True when the reviewer was the demo's simulated annotator.
    """

    patients: Count
    degree_percent: Percents
    bins: tuple[Count, Count, Count, Count] | None
    active_s: Seconds
    simulated: bool

    @model_validator(mode="after")
    def _is_about_its_patients(self) -> Self:
        _check_patients(self.patients, (self.degree_percent, self.active_s))
        if self.bins is not None and sum(self.bins) > self.patients:
            raise ValueError("more patients in the bins than there are")
        return self


class AnnotationSummary(_Noun):
    """What the adaptation cost the doctors.

    Attributes:
        earlier_slices: slices that rounds before had made known, which were learnt from too.
    """

    strategy: str = Field(pattern=r"^[a-z0-9_]{1,32}$")
    training_patients: Count
    training_slices: Count
    selected_slices: Count
    patients_with_selected_slices: Count
    earlier_slices: Count = 0
    simulated: bool


class YardstickSummary(_Noun):
    """What the arms were measured against, as numbers of test patients.

    Both are None where one of them would be about a group that is too small: beside the number of
    test patients, either gives the other away.

    Attributes:
        reference_contour: patients whose contours came in with the images.
        reviewed_contour: patients measured, in one case at least, against the contour that a
            reviewer left. It was edited from the adapted model's, which it therefore favours.
    """

    reference_contour: Count | None
    reviewed_contour: Count | None


class SiteReport(_Noun):
    """Everything a hospital reports about one package: the only result that leaves it.

    Attributes:
        adapted_share: how far the adapted weights went from the source model (0) to the end of
            stage 3 (1).
        yardstick: None in reports of versions that did not say it.
        paired: what the same patients gained or lost between two arms.
        agreement: how far the raters of this hospital agree.
        subgroups: in the order of `SUBGROUPS`.
    """

    study: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    site: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    package_id: str = Field(pattern=r"^[0-9a-f]{64}$")
    model_version: str = Field(pattern=r"^[a-z0-9][a-z0-9.+-]{0,39}$")
    adapted_model_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    code_version: str = Field(pattern=r"^[0-9A-Za-z.+-]{1,40}$")
    seed: int = Field(ge=0, lt=2**63)
    vendors: tuple[Vendor, ...] = ()
    minimum_group_size: int = Field(ge=1, le=_MOST)
    adapted_share: float | None = Field(default=None, ge=0, le=1)
    annotation: AnnotationSummary
    arms: tuple[ArmSummary, ...]
    yardstick: YardstickSummary | None = None
    revision: RevisionSummary | None = None
    paired: tuple[PairedSummary, ...] = ()
    agreement: tuple[RaterAgreement, ...] = ()
    subgroups: tuple[SubgroupSummary, ...] = ()

    @model_validator(mode="after")
    def _parts_its_patients_into_groups(self) -> Self:
        order = [(attribute, group) for attribute, groups in SUBGROUPS.items() for group in groups]
        told = [(one.attribute, one.group) for one in self.subgroups]
        if told != [one for one in order if one in told]:
            raise ValueError("subgroups are told once each, in their order")
        if tells_of_a_small_subgroup(self, self.minimum_group_size):
            raise ValueError("subgroups tell of fewer patients than the minimum group size")
        return self

    @model_validator(mode="after")
    def _tells_no_small_group_by_its_yardstick(self) -> Self:
        if self.yardstick is None:
            return self
        counts = (self.yardstick.reference_contour, self.yardstick.reviewed_contour)
        given = [count for count in counts if count is not None]
        if len(given) == 1 or any(0 < count < self.minimum_group_size for count in given):
            raise ValueError("a yardstick tells of fewer patients than the minimum group size")
        return self


def small_group_concern(minimum_group_size: int) -> str | None:
    """Say what a minimum group size gives away that is allowed, but not advised; None if none.

    >>> small_group_concern(3).partition(":")[0]
    'minimum_group_size 3'
    >>> small_group_concern(5)
    """
    if minimum_group_size >= ADVISED_GROUP_SIZE:
        return None
    return (
        f"minimum_group_size {minimum_group_size}: figures about so few can be solved for single "
        f"patients, give it {ADVISED_GROUP_SIZE} or more"
    )


def tells_of_a_small_subgroup(report: SiteReport, minimum_group_size: int) -> bool:
    """Say whether a subgroup, or what the others leave of an arm, is about too few patients.

    For each attribute and arm: patients, those whose Dice is not known from their failure, and
    those who have a distance have to be a group or nobody, in every subgroup and in the rest. A
    subgroup itself is somebody. A report whose subgroups do not add up tells something, too.
    """
    arms = {arm.arm: arm for arm in report.arms}
    for attribute in SUBGROUPS:
        of_arm: dict[str, list[SubgroupArm]] = {}
        for subgroup in report.subgroups:
            for part in subgroup.arms if subgroup.attribute == attribute else ():
                of_arm.setdefault(part.arm, []).append(part)
        for name, parts in of_arm.items():
            if name not in arms or any(part.patients < minimum_group_size for part in parts):
                return True
            whole = _sizes(arms[name])
            sizes = [_sizes(part) for part in parts]
            rest = [
                total - sum(column)
                for total, column in zip(whole, zip(*sizes, strict=True), strict=True)
            ]
            if any(0 < size < minimum_group_size for row in (*sizes, rest) for size in row):
                return True
            if any(size < 0 for row in (*sizes, rest) for size in row):
                return True
            if any(
                _cuts_small(whole_figure, of_parts, minimum_group_size)
                for whole_figure, of_parts in zip(
                    _figures(arms[name]), zip(*map(_figures, parts), strict=True), strict=True
                )
            ):
                return True
    return False


def _figures(arm: ArmSummary | SubgroupArm) -> tuple[Distribution, ...]:
    return (arm.dsc, arm.hd95_mm, arm.asd_predicted_to_reference_mm)


def _cuts_small(
    whole: Distribution, parts: tuple[Distribution, ...], minimum_group_size: int
) -> bool:
    """Say whether the sketches of subgroups, put over that of all, cut off few patients."""
    sketches = [part.sketch for part in parts if part.sketch is not None]
    if not sketches:
        return False
    last_steps = sketches[0].last_steps
    if whole.sketch is None or any(one.last_steps != last_steps for one in sketches):
        return True
    if not set(last_steps) <= set(whole.sketch.last_steps):
        return True
    inside = dict.fromkeys(last_steps, 0)
    for step, count in zip(whole.sketch.last_steps, whole.sketch.counts, strict=True):
        inside[next(last for last in last_steps if last >= step)] += count
    columns = zip(*(one.counts for one in sketches), strict=True)
    rest = [total - sum(told) for total, told in zip(inside.values(), columns, strict=True)]
    return any(size < 0 or 0 < size < minimum_group_size for size in rest)


def _sizes(arm: ArmSummary | SubgroupArm) -> tuple[int, ...]:
    """Count patients, those with a Dice that is not known to be 0, and those with a distance."""
    dsc, *distances = _figures(arm)
    return (arm.patients, dsc.n - (arm.failures or 0), *(distance.n for distance in distances))


def distributions(value: object) -> Iterator[Distribution]:
    """Return every distribution that a report, or a part of one, holds."""
    if isinstance(value, Distribution):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from distributions(getattr(value, name))
    elif isinstance(value, tuple):
        for item in value:
            yield from distributions(item)
