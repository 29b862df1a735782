"""Reporting checklists, and which of their items a study report answers by itself.

Wordings are ours and short: the guidelines' own texts rule. An item names the evidence that
answers it; whether a report holds that evidence is asked of the report (`EVIDENCE`). What remains
to be said beside it is named, too. An item without evidence is for the study's authors.

Numbers are those of CLAIM 2024 (Tejani et al., Radiol Artif Intell 2024), TRIPOD+AI (Collins et
al., BMJ 2024) and DECIDE-AI (Vasey et al., BMJ 2022). Metrics Reloaded (Maier-Hein et al., Nat
Methods 2024) is a way to choose metrics, not a numbered checklist: its questions are lettered by
us.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from evaluation.aggregate_report import PackageResult, StudyReport


class ItemState(StrEnum):
    """How far the report answers an item."""

    ANSWERED = "answered"
    IN_PART = "in part"
    OPEN = "open"


@dataclass(frozen=True)
class Evidence:
    """A place of the report."""

    anchor: str
    label: str


@dataclass(frozen=True)
class Item:
    """An item of a checklist.

    Attributes:
        number: as in the guideline.
        words: ours.
        evidence: a key of `EVIDENCE`; empty where no report of ours answers it.
        remains: what the authors still have to say where the evidence is there.
    """

    number: str
    words: str
    evidence: str = ""
    remains: str = ""


@dataclass(frozen=True)
class Checklist:
    """A guideline and its items in order."""

    name: str
    reference: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Answer:
    """An item, and where the report answers it."""

    item: Item
    state: ItemState
    evidence: Evidence | None


def answer(checklist: Checklist, report: StudyReport) -> tuple[Answer, ...]:
    """Say of every item of a checklist how far a report answers it."""
    answers = []
    for item in checklist.items:
        found = EVIDENCE[item.evidence](report) if item.evidence else None
        state = ItemState.OPEN
        if found is not None:
            state = ItemState.IN_PART if item.remains else ItemState.ANSWERED
        answers.append(Answer(item, state, found))
    return tuple(answers)


# --- evidence ------------------------------------------------------------------------------------

Rule = Callable[[StudyReport], Evidence | None]


def package_anchor(place: int, kind: str) -> str:
    """Name a part of a package's section: the one name for the page and the links to it."""
    return f"p{place}-{kind}"


def _first(kind: str, label: str, holds: Callable[[PackageResult], bool]) -> Rule:
    """Point at the first package of which something holds."""

    def rule(report: StudyReport) -> Evidence | None:
        places = (i for i, package in enumerate(report.packages) if holds(package))
        place = next(places, None)
        return None if place is None else Evidence(package_anchor(place, kind), label)

    return rule


def _whole(anchor: str, label: str, holds: Callable[[StudyReport], bool]) -> Rule:
    return lambda report: Evidence(anchor, label) if holds(report) else None


def _has_figures(package: PackageResult) -> bool:
    return any(arm.dsc.mean is not None for arm in package.pooled)


def _has_interval(package: PackageResult) -> bool:
    return any(pair.all_patients is not None for pair in package.paired)


def _compares_subgroups(package: PackageResult) -> bool:
    return any(one.tests for one in package.subgroups)


def _compares_hospitals(package: PackageResult) -> bool:
    return any(pair.sites_differ is not None for pair in package.paired)


def _counts_failures(package: PackageResult) -> bool:
    arms = [arm for site in package.sites for arm in site.report.arms]
    return any(arm.failures is not None for arm in arms)


def _has_raters(package: PackageResult, *, same: bool | None = None) -> bool:
    return any(
        one.dsc.mean is not None and (same is None or (one.first == one.second) is same)
        for one in package.agreement
    )


def _names_yardstick(package: PackageResult) -> bool:
    tested = [site.report for site in package.sites if site.report.arms]
    return bool(tested) and all(report.yardstick is not None for report in tested)


def _was_reviewed(package: PackageResult) -> bool:
    """Say whether people, not simulated ones, reviewed, and something may be said of it."""
    reviews = [site.report.revision for site in package.sites if site.report.revision]
    return any(not r.simulated and r.degree_percent.mean is not None for r in reviews)


def _has_lineage(report: StudyReport) -> bool:
    known = {one.package_id for one in report.record.lineage}
    return all(package.package_id in known for package in report.packages)


def _was_tested_at_home(report: StudyReport) -> bool:
    return _has_lineage(report) and all(
        one.manifest.source_validation.test_dsc is not None for one in report.record.lineage
    )


def _was_tested_elsewhere(report: StudyReport) -> bool:
    """Say whether every model was tested in hospitals that did not train it."""
    origins = {one.package_id: one.from_site for one in report.record.lineage}
    return all(
        (origin := origins.get(package.package_id)) is not None
        and _has_figures(package)
        and origin not in {site.report.site for site in package.sites}
        for package in report.packages
    )


def _modifies(report: StudyReport) -> bool:
    return len({package.model_version for package in report.packages}) > 1


EVIDENCE: dict[str, Rule] = {
    "lineage": _whole("lineage", "Model lineage", _has_lineage),
    "at home": _whole("lineage", "Source hospital's own test", _was_tested_at_home),
    "elsewhere": _whole(
        "lineage", "Models and the hospitals that trained them", _was_tested_elsewhere
    ),
    "versions": _whole("lineage", "Model versions", _modifies),
    "definitions": _whole("definitions", "Methods and definitions", lambda _: True),
    "suppression": _whole("definitions", "Empty contours and suppression", lambda _: True),
    "releases": _whole("releases", "What each hospital released", lambda _: True),
    "figures": _first("performance", "Segmentation of the test patients", _has_figures),
    "yardstick": _first("performance", "Yardstick per hospital", _names_yardstick),
    "interval": _first("tests", "Paired tests", _has_interval),
    "hospitals": _first("tests", "Differences between hospitals", _compares_hospitals),
    "failures": _first("failed", "Failures", _counts_failures),
    "raters": _first("raters", "Rater agreement", _has_raters),
    "both raters": _first(
        "raters",
        "Rater agreement",
        lambda package: _has_raters(package, same=True) and _has_raters(package, same=False),
    ),
    "scanners": _first(
        "provenance",
        "Scanner makers",
        lambda package: any(site.report.vendors for site in package.sites),
    ),
    "subgroups": _first("groups", "Subgroups", _compares_subgroups),
    "review": _first("review", "Review by oncologists", _was_reviewed),
    "cost": _first("cost", "What adaptation cost", lambda package: bool(package.sites)),
    "provenance": _first("provenance", "Provenance per hospital", lambda p: bool(p.sites)),
}

# --- the lists -----------------------------------------------------------------------------------

CLAIM = Checklist(
    "CLAIM 2024",
    "Checklist for Artificial Intelligence in Medical Imaging, update 2024",
    (
        Item("1", "Title names the kind of AI"),
        Item("2", "Abstract: design, methods, results, conclusions"),
        Item("3", "Background and intended role"),
        Item("4", "Aims and hypotheses"),
        Item("5", "Prospective or retrospective"),
        Item("6", "Goal of the study"),
        Item("7", "Data sources", "provenance", "where and when patients were found"),
        Item("8", "Who was included and excluded"),
        Item("9", "Preprocessing of the images", "lineage"),
        Item("10", "Choice of parts of the data", "cost", "which patients became training or test"),
        Item("11", "De-identification"),
        Item("12", "Missing data", "suppression", "how patients with missing images were handled"),
        Item("13", "Acquisition protocol", "scanners", "sequences and their parameters"),
        Item(
            "14", "What the reference standard is", "yardstick", "how reference contours were made"
        ),
        Item("15", "Why this reference standard"),
        Item("16", "Who annotated the reference"),
        Item("17", "Annotation of the test set", "yardstick", "who drew it, and with what"),
        Item("18", "Agreement within and between raters", "both raters"),
        Item("19", "How data were split"),
        Item("20", "At which level parts are disjoint"),
        Item("21", "Intended sample size"),
        Item("22", "The model in detail", "lineage", "layers, as the code of the named version"),
        Item("23", "Software and versions", "provenance", "versions of the libraries beneath"),
        Item("24", "Initial parameters", "lineage", "start of the source model's training"),
        Item("25", "Training in detail", "lineage", "training of the source model"),
        Item("26", "How the final model was chosen"),
        Item("27", "Ensembles"),
        Item("28", "Performance metrics", "definitions"),
        Item("29", "Significance and uncertainty", "interval"),
        Item("30", "Robustness or sensitivity", "hospitals", "analyses beyond hospitals"),
        Item("31", "Explanations of the model"),
        Item("32", "Evaluation on internal data", "at home", "its uncertainty"),
        Item("33", "Testing on external data", "elsewhere"),
        Item("34", "Trial registration"),
        Item("35", "Patients included and excluded", "figures", "exclusions and why"),
        Item("36", "Who the patients were, per part"),
        Item("37", "Performance with uncertainty", "interval"),
        Item("38", "Estimates with their precision", "interval"),
        Item("39", "Analysis of failures", "failures", "what the missed tumours have in common"),
        Item("40", "Limitations"),
        Item("41", "What it means for practice"),
        Item("42", "Full protocol or more details"),
        Item("43", "Availability of software, model, data", "lineage", "where to get them"),
        Item("44", "Funding"),
    ),
)

TRIPOD_AI = Checklist(
    "TRIPOD+AI",
    "Transparent reporting of prediction models that use regression or machine learning, 2024",
    (
        Item("1", "Title"),
        Item("2", "Abstract"),
        Item("3a", "Health-care context and earlier models"),
        Item("3b", "Population and purpose in the care pathway"),
        Item("3c", "Known inequalities in health"),
        Item("4", "Objectives"),
        Item("5a", "Data sources", "provenance", "why these, and how representative"),
        Item("5b", "Dates of the data"),
        Item("6a", "Setting and centres", "figures", "kind and place of the hospitals"),
        Item("6b", "Eligibility"),
        Item("6c", "Treatments"),
        Item("7", "Preparation of the data", "lineage"),
        Item(
            "8a", "Outcome: what, and how assessed", "yardstick", "how reference contours were made"
        ),
        Item("8b", "Who assessed the outcome"),
        Item("8c", "Blinding of the assessment"),
        Item("9a", "Choice of predictors"),
        Item("9b", "Definition of predictors", "lineage", "sequences of the images"),
        Item("9c", "Who assessed the predictors"),
        Item("10", "Sample size"),
        Item("11", "Missing data", "suppression", "missing images"),
        Item("12a", "How data were used and split"),
        Item("12b", "Handling of predictors", "lineage"),
        Item("12c", "Model, and how it was built and tuned", "lineage", "choice of its settings"),
        Item("12d", "Differences between clusters", "hospitals"),
        Item("12e", "Performance measures", "definitions"),
        Item("12f", "Updating of the model", "lineage"),
        Item(
            "12g", "How predictions were computed", "lineage", "inference on the images' own grid"
        ),
        Item("13", "Class imbalance"),
        Item("14", "Fairness"),
        Item("15", "Output of the model", "lineage", "how users see it"),
        Item("16", "Training against evaluation data", "scanners", "setting, eligibility, outcome"),
        Item("17", "Ethical approval"),
        Item("18a", "Funding"),
        Item("18b", "Conflicts of interest"),
        Item("18c", "Protocol"),
        Item("18d", "Registration"),
        Item("18e", "Data sharing", "releases", "data that stayed in the hospitals"),
        Item("18f", "Code sharing", "provenance", "where the code of this version lies"),
        Item("19", "Patients and public"),
        Item("20a", "Flow of participants", "figures", "those who were left out"),
        Item("20b", "Characteristics of participants"),
        Item("20c", "Characteristics: development against evaluation"),
        Item("21", "Participants in each analysis", "figures"),
        Item("22", "The model in full, to be used by others", "lineage", "how to get its weights"),
        Item(
            "23a",
            "Performance with intervals, groups too",
            "interval",
            "groups by other than T stage, volume and scanner",
        ),
        Item("23b", "Differences between clusters", "hospitals"),
        Item("24", "Results of updating", "interval"),
        Item("25", "Interpretation"),
        Item("26", "Limitations"),
        Item("27a", "Poor or missing input in use"),
        Item("27b", "What users must do and know"),
        Item("27c", "Next steps"),
    ),
)

DECIDE_AI = Checklist(
    "DECIDE-AI",
    "Early clinical evaluation of decision support driven by AI, 2022",
    (
        Item("1", "Title"),
        Item("I", "Abstract"),
        Item("2a", "Condition, practice and patients"),
        Item("2b", "Users, place in the pathway, hoped-for effect"),
        Item("II", "Objectives"),
        Item("III", "Protocol, registration, ethics"),
        Item("3a", "How patients were recruited"),
        Item("3b", "How users were recruited"),
        Item("3c", "How users learnt the system"),
        Item("4a", "System, version, algorithm", "lineage", "the patients it was trained on"),
        Item("4b", "Input data", "lineage", "acquisition, and input of low quality"),
        Item("4c", "Output, and how users see it"),
        Item("5a", "Setting of the evaluation"),
        Item("5b", "Workflow in which it was used"),
        Item("IV", "Outcomes", "definitions", "which was primary"),
        Item("6a", "How errors were defined and found", "definitions", "malfunctions"),
        Item("6b", "How risks to patients were found"),
        Item("7", "Human factors: methods"),
        Item("V", "Analysis", "interval", "what was planned beforehand"),
        Item("8", "Ethics in the design"),
        Item("VI", "Involvement of patients"),
        Item("9a", "Patients' characteristics"),
        Item("9b", "Users' characteristics"),
        Item("10a", "Use of the system, and adherence", "review", "who used it, and how often not"),
        Item("10b", "Changes of the workflow"),
        Item("VII", "Main results", "figures"),
        Item("VIII", "Subgroups", "subgroups", "groups by other than T stage, volume and scanner"),
        Item("11", "Modifications during the study", "versions", "why"),
        Item("12", "Agreement of users with the system", "review", "reasons for disagreement"),
        Item("13a", "Errors and malfunctions", "failures", "malfunctions"),
        Item("13b", "Risks and harm to patients"),
        Item("14a", "Usability"),
        Item("14b", "Users' learning curves"),
        Item("15", "Does it support the intended use"),
        Item("16", "What errors mean for safety"),
        Item("IX", "Strengths and limitations"),
        Item("17", "Availability of data and code", "provenance", "where they lie"),
        Item("X", "Conflicts of interest"),
    ),
)

METRICS_RELOADED = Checklist(
    "Metrics Reloaded",
    "Choosing metrics by the fingerprint of a problem, 2024; letters are ours",
    (
        Item("a", "Category of the problem: semantic segmentation", "definitions"),
        Item("b", "Overlap metric, per patient: Dice", "definitions"),
        Item("c", "Boundary metric with a stated tolerance: NSD at 1 mm", "definitions"),
        Item("d", "Distance metric that one voxel cannot rule: HD95 beside ASSD", "definitions"),
        Item("e", "Why boundaries, volume or centre matter here"),
        Item("f", "Size of targets against voxels, and how it varies"),
        Item("g", "Agreement of raters, to choose the tolerance by", "raters", "the choice itself"),
        Item("h", "Empty references and predictions: rule and counts", "suppression"),
        Item("i", "Aggregation: per patient first, failures counted", "failures"),
        Item("j", "Hospitals as clusters", "hospitals"),
        Item("k", "Spread and uncertainty, not means alone", "interval"),
        Item("l", "Implementation of the metrics named", "provenance"),
    ),
)

CHECKLISTS = (CLAIM, TRIPOD_AI, DECIDE_AI, METRICS_RELOADED)
