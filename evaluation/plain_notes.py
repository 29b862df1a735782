"""What a reader of the study's report must know about each hospital, in plain sentences."""

from algorithms.contracts.site_report import ArmSummary, SiteReport
from evaluation.aggregate_report import PackageResult

_ARM_WORDS = {
    "direct": "with the package's model as it came",
    "adapted": "with the adapted model",
    "target_trained": "with the model trained on the hospital's own contours",
}


def plain_notes(package: PackageResult) -> tuple[str, ...]:
    """Say who is missing, what was suppressed and why, and who failed; hospital by hospital.

    Nothing to say gives no sentence. The sentences follow from the reports alone.
    """
    notes = [
        f"{site}: no report on this package has arrived; its patients are in no figure."
        for site in package.missing_sites
    ]
    for site in package.sites:
        notes += [f"{site.report.site}: {note}" for note in _notes_on(site.report)]
    return tuple(notes)


def _notes_on(report: SiteReport) -> list[str]:
    minimum = report.minimum_group_size
    if not report.arms:
        return ["no patient was tested."]
    tested = max(arm.patients for arm in report.arms)
    if tested < minimum:
        return [
            f"{_patients(tested)} tested, fewer than its minimum group of {minimum}: they are "
            "counted, no figure about them is given, and the pooled figures are without them."
        ]
    notes = []
    for arm in report.arms:
        notes += _notes_on_arm(arm, minimum)
    if report.revision is not None and report.revision.patients < minimum:
        notes.append(
            f"{_patients(report.revision.patients)} reviewed, fewer than its minimum group of "
            f"{minimum}: no figure about the review is given."
        )
    return notes


def _notes_on_arm(arm: ArmSummary, minimum: int) -> list[str]:
    if arm.failures is None:
        return [
            f"only {_patients(arm.patients)} tested {_words(arm)}, fewer than its minimum group of "
            f"{minimum}: no figure about them is given."
        ]
    if not arm.failures:
        return []
    failed = (
        f"{arm.failures} of {_patients(arm.patients)} failed {_words(arm)} (tumour missed, Dice 0)"
    )
    if arm.dsc.mean is None:
        return [
            f"{failed}; the others are fewer than its minimum group of {minimum}, so no mean Dice "
            "is given."
        ]
    undefined = arm.hd95_mm.undefined
    distances = f"; {_patients(undefined)} without a distance" if undefined else ""
    return [f"{failed}: counted as 0 in the mean Dice{distances}."]


def _words(arm: ArmSummary) -> str:
    return _ARM_WORDS.get(arm.arm, f"in the arm {arm.arm}")


def _patients(number: int) -> str:
    return f"{number} patient{'' if number == 1 else 's'}"
