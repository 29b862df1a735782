"""The road of one package through one hospital: steps 4 to 10 and 12 of the way of a case.

    received -> select slices -> (doctors annotate) -> stage 1, 2, 3 -> segment
             -> (oncologists review) -> measure -> reported

Every step is idempotent and keyed by (package, case set, seed): what is finished is a file or a
row, what was under way continues from its checkpoint. So a killed round resumes and ends in the
same weights.
"""

import json
import logging
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from statistics import fmean, median

import numpy as np
from sqlalchemy.orm import Session

from algorithms.adapted_share import choose_share, interpolate_weights
from algorithms.contracts.canonical_json import canonical_json
from algorithms.contracts.case import Case, Split
from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.federation_plan import planned_part
from algorithms.contracts.messages import RoundState
from algorithms.contracts.model_package import (
    MODEL_FILE,
    REFERENCE_POINTS_FILE,
    AdaptationPlan,
    Supervision,
    TrainingSchedule,
)
from algorithms.contracts.site_report import AnnotationSummary, SiteReport
from algorithms.contracts.subgroups import Attribute, t_stage_group, vendor_of, volume_group
from algorithms.contracts.volume import ImageArray
from algorithms.features import describe_slices
from algorithms.finetuning import (
    LabelledSlice,
    ValidationCase,
    bare_slice,
    finetune,
    mean_dice,
)
from algorithms.inference import torch_predictor
from algorithms.networks import UNet2d, build_network
from algorithms.pseudo_labels import pseudo_label
from algorithms.sample_selection import REPRESENTATIVE, select
from evaluation.case_metrics import CaseMetrics, measure_case
from evaluation.site_summary import (
    PatientRow,
    RaterRow,
    ReportSubject,
    RevisionRow,
    average_cases,
    summarise_site,
)
from site_agent.adaptation_round import (
    ACTOR,
    ADAPTED,
    DIRECT,
    TARGET_TRAINED,
    TASK_KINDS,
    KnownLabels,
    Round,
    annotated_slices,
    known_cases,
    known_labels,
    prepared,
)
from site_agent.case_store import REFERENCE, REVIEWED, SliceChoice
from site_agent.case_workflow import RoundEvent
from site_agent.checkpoints import file_sha256, load_state, load_weights, save_state, save_weights
from site_agent.database import MeasurementRow, ReviewRow, RoundRow
from site_agent.egress import told_earlier
from site_agent.learning_data import fully_labelled
from site_agent.model_promotion import offer_for_use
from site_agent.plan_store import approved_plan, read_plan
from site_agent.progress import progress_bar
from site_agent.rater_contours import measure_raters, rater_rows
from site_agent.release_memory import agreement_of, beside_earlier, memory_key
from site_agent.segmentation import segment

log = logging.getLogger("fedgtv.adaptation")

SHARE_FILE = "adapted_share.json"
SEGMENTING = "segmenting test patients"


def advance(current: Round) -> RoundState:
    """Take a round as far as it goes without people, and return where it stands."""
    state = RoundState(current.store.round(current.round_id).state)
    if state is RoundState.FAILED:
        selected = bool(current.store.tasks(current.round_id))
        again = RoundEvent.TRAINING_RESUMED if selected else RoundEvent.SELECTION_RETRIED
        state = current.store.advance(current.round_id, again, actor=ACTOR)
    if state is RoundState.RECEIVED:
        state = select_slices(current)
    if state is RoundState.AWAITING_ANNOTATION and not _open_tasks(current):
        state = current.store.advance(current.round_id, RoundEvent.ANNOTATION_COMPLETE, actor=ACTOR)
    if state is RoundState.TRAINING:
        finetune_in_stages(current)
        state = segment_test_patients(current)
    if state is RoundState.AWAITING_REVIEW and _all_reviewed(current):
        state = measure_and_report(current)
    return state


# -- steps 4 and 5 --------------------------------------------------------------------------


def select_slices(current: Round) -> RoundState:
    """Choose the slices doctors are asked for: the budget's share of each split's slices.

    Slices of training patients are learnt from; those of validation patients choose the best
    weights and are all spaced evenly. Both count towards the budget. Slices that are known from
    rounds before are not asked about again, and the budget is a share of the others.
    """
    choices: list[SliceChoice] = []
    if not current.store.tasks(current.round_id):  # a round that is tried again has its tasks
        network = current.source_network()
        points = np.load(current.package / REFERENCE_POINTS_FILE, allow_pickle=False)
        plan = current.manifest.adaptation
        representative = {Split.TRAINING: plan.representative_share, Split.VALIDATION: 1.0}
        known = known_labels(current)
        unknown = {
            split: [
                (case.case_id, z, image)
                for case in prepared(current, split)
                for z, image in enumerate(case.slices)
                if (case.case_id, z) not in known
            ]
            for split in representative
        }
        sizes = [len(slices) for slices in unknown.values()]
        seconds = current.store.annotation_seconds(TASK_KINDS[plan.supervision])
        for split, budget in zip(unknown, budgets(plan, sizes, seconds), strict=True):
            share = representative[split]
            choices += _choose(current, network, points, unknown[split], budget, share)
    kind = TASK_KINDS[current.manifest.adaptation.supervision]
    current.store.open_tasks(current.round_id, choices, actor=ACTOR, kind=kind)
    return RoundState(current.store.round(current.round_id).state)


def budgets(plan: AdaptationPlan, sizes: Sequence[int], seconds: Sequence[float]) -> list[int]:
    """Return how many slices doctors are asked for, in every part of the patients.

    Args:
        plan: names a share of the slices, and perhaps minutes.
        sizes: slices of each part; that to learn from comes first, and is asked for one at least.
        seconds: how long this site's doctors took for a slice so far; without them the plan's share
            holds.
    """
    if plan.annotation_minutes is None or not seconds:
        return [round(plan.annotation_budget * size) for size in sizes]
    affordable = int(60.0 * plan.annotation_minutes / max(median(seconds), 1e-3))
    total = min(max(affordable, 1), sum(sizes))
    first = min(max(round(total * sizes[0] / max(sum(sizes), 1)), 1), sizes[0])
    rest = [min(round((total - first) * size / max(sum(sizes[1:]), 1)), size) for size in sizes[1:]]
    return [first, *rest]


def _choose(
    current: Round,
    network: UNet2d,
    reference_points: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    slices: Sequence[tuple[str, int, ImageArray]],
    budget: int,
    representative_share: float,
) -> list[SliceChoice]:
    plan = current.manifest.adaptation
    if budget == 0:
        return []
    patient_of = {case.case_id: case.patient_id for case in current.store.cases()}
    patch_yx = current.manifest.preprocessing.patch_yx
    described = describe_slices(network, [image for *_, image in slices], patch_yx=patch_yx)
    selection = select(
        described.features,
        reference_points,
        budget,
        strategy=plan.selection_strategy,
        patients=[patient_of[case_id] for case_id, *_ in slices]
        if plan.budget_per_patient
        else None,
        representative=round(representative_share * budget),
        described=described,
        rng=np.random.default_rng(current.seed),
    )
    return [
        SliceChoice(*slices[index][:2], role, -1.0 if math.isnan(score) else score)
        for index, role, score in zip(selection.ids, selection.roles, selection.scores, strict=True)
    ]


# -- steps 7 to 9 ---------------------------------------------------------------------------


def finetune_in_stages(current: Round) -> None:
    """Stage 1 on annotated slices, stage 2 pseudo labels, stage 3 on both (6-7).

    What doctors drew, and what becomes of the other slices, is the plan's `supervision` and
    `unlabelled`.
    """
    plan, recipe = current.manifest.adaptation, current.manifest.preprocessing
    training, labels = prepared(current, Split.TRAINING), known_labels(current)
    annotated, others = annotated_slices(current, labels, training)
    if not annotated:
        raise DataError(
            "no slice of a training patient was annotated: raise annotation_budget, or "
            "annotation_minutes where the plan names them"
        )
    network = current.source_network()
    last, bare = "stage1", [bare_slice(image) for image in others]
    validation = known_cases(current, labels, prepared(current, Split.VALIDATION))
    stage = partial(_stage, current, validation, supervision=plan.supervision)
    stage("stage1", network, annotated, plan.stage1)
    if plan.unlabelled != "none":
        last = "stage3"
        if plan.unlabelled == "dual_task":
            stage(last, network, annotated, plan.stage3, dual_task=bare)
        elif plan.supervision == "scribble":
            stage(last, network, annotated + bare, plan.stage3)
        else:
            pseudo_labelled = pseudo_label(
                torch_predictor(network, patch_yx=recipe.patch_yx),
                others,
                min_confidence=plan.pseudo_label_min_confidence,
            )
            stage(last, network, annotated + pseudo_labelled, plan.stage3)
    share = adapted_share(current, labels)
    (current.folder / SHARE_FILE).write_bytes(canonical_json(share))
    adapted = interpolate_weights(
        load_weights(current.package / MODEL_FILE),
        load_weights(current.folder / f"{last}.safetensors"),
        share,
    )
    save_weights(adapted, current.folder / f"{ADAPTED}.safetensors")
    offer_for_use(current)
    if plan.target_trained is not None and _all_have_references(current):
        labelled = fully_labelled(current.store, training, recipe)
        whole = current.source_network()
        _stage(current, validation, TARGET_TRAINED, whole, labelled, plan.target_trained)


def adapted_share(current: Round, labels: KnownLabels) -> float:
    """Return the plan's share, or find it by cross-validation over annotated patients.

    Each part of the training patients is held out once from a stage-1 run of half the length, and
    is measured on its representative slices: those that a strategy chose are where the source model
    does worst (or best) by design, and would favour whatever differs from it. Where nobody learnt
    from has a representative slice, all annotated ones count.
    """
    plan, recipe = current.manifest.adaptation, current.manifest.preprocessing
    if plan.adapted_share is not None:
        return plan.adapted_share
    training = prepared(current, Split.TRAINING)
    patients = sorted({case.patient_id for case in current.store.cases(Split.TRAINING)})
    of_case = {case.case_id: case.patient_id for case in current.store.cases(Split.TRAINING)}
    folds = []
    fair = known_cases(current, labels, training, role=REPRESENTATIVE)
    role = REPRESENTATIVE if fair else None
    validation = known_cases(current, labels, prepared(current, Split.VALIDATION))
    count = min(plan.share_folds, len(patients))
    for number in range(count):
        held_out = set(patients[number::count])
        seen = [case for case in training if of_case[case.case_id] not in held_out]
        annotated, _ = annotated_slices(current, labels, seen)
        if not annotated:
            continue
        network = current.source_network()
        half = plan.stage1.model_copy(update={"iterations": -(-plan.stage1.iterations // 2)})
        name = f"held_out_{number + 1}"
        _stage(current, validation, name, network, annotated, half, supervision=plan.supervision)
        unseen = [case for case in training if of_case[case.case_id] in held_out]
        weights = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
        folds.append((weights, known_cases(current, labels, unseen, role=role)))
    source = load_weights(current.package / MODEL_FILE)
    return choose_share(current.source_network(), source, folds, patch_yx=recipe.patch_yx)


def _stage(
    current: Round,
    validation: Sequence[ValidationCase],
    name: str,
    network: UNet2d,
    slices: Sequence[LabelledSlice],
    schedule: TrainingSchedule,
    *,
    supervision: Supervision = "dense",
    dual_task: Sequence[LabelledSlice] = (),
) -> None:
    """Train `network` in place, or load what this stage ended in before."""
    finished = current.folder / f"{name}.safetensors"
    if finished.is_file():
        try:
            network.load_state_dict(load_weights(finished))
            return
        except DataError:
            log.warning("%s: damaged: this stage is trained again", finished)
    checkpoint = current.folder / f"{name}.checkpoint.safetensors"
    with progress_bar(name, current.store.home) as progress:
        finetune(
            network,
            slices,
            schedule,
            patch_yx=current.manifest.preprocessing.patch_yx,
            seed=current.seed,
            supervision=supervision,
            dual_task=dual_task,
            validate=mean_dice(validation, patch_yx=current.manifest.preprocessing.patch_yx),
            state=load_state(checkpoint),
            save=lambda state: save_state(state, checkpoint),
            progress=progress,
            start_is_candidate=True,
        )
    save_weights({k: v.cpu() for k, v in network.state_dict().items()}, finished)
    checkpoint.unlink(missing_ok=True)


# -- step 10 --------------------------------------------------------------------------------


def segment_test_patients(current: Round) -> RoundState:
    """Segment the test patients on their own grids with every model of this round."""
    weights = {
        DIRECT: current.package / MODEL_FILE,
        ADAPTED: current.folder / f"{ADAPTED}.safetensors",
        TARGET_TRAINED: current.folder / f"{TARGET_TRAINED}.safetensors",
    }
    cases = current.store.cases(Split.TEST)
    network = build_network(current.manifest.network)
    arms = [arm for arm, file in weights.items() if file.is_file()]
    with progress_bar(SEGMENTING, current.store.home) as progress:
        for number, arm in enumerate(arms):
            network.load_state_dict(load_weights(weights[arm]))
            for place, case in enumerate(cases, start=number * len(cases) + 1):
                _segment_once(current, case.case_id, arm, network)
                progress(place, len(arms) * len(cases), -1.0)
    return current.store.advance(
        current.round_id, RoundEvent.PREDICTIONS_READY, actor=ACTOR, detail={"cases": len(cases)}
    )


def _segment_once(current: Round, case_id: str, arm: str, network: UNet2d) -> None:
    store, round_id = current.store, current.round_id
    if store.contour(case_id, purpose=arm, round_id=round_id) is not None:
        return
    mask = segment(store, case_id, network, current.manifest.preprocessing)
    contour = Contour(current.manifest.roi_name, mask, Provenance.AUTOMATIC)
    author = f"model {arm}"
    store.save_contour(case_id, contour, purpose=arm, round_id=round_id, author=author)


# -- steps 12 and 13 ------------------------------------------------------------------------


def measure_and_report(current: Round) -> RoundState:
    """Measure every arm against the reference, or the reviewed contour where there is none.

    The reviewed contour was edited from the adapted model's and favours it: the report says how
    many patients were measured against either. A case that was rejected, and came in without a
    reference, has no yardstick: no arm is measured on it, its revision degree of 100 % is in the
    report, and the audit log says how many there are.

    Every case is measured; the report is about patients. Someone with several cases is one row per
    arm, the average of the figures of their cases (NaN left out), and a failure only when every
    case is.
    """
    measured: defaultdict[tuple[str, str], list[CaseMetrics]] = defaultdict(list)
    cases: defaultdict[str, dict[Case, float]] = defaultdict(dict)  # patient -> volumes in ml
    measurements = []
    against_reviewed = set()  # patients
    without_yardstick = 0
    for case in current.store.cases(Split.TEST):
        reference = current.store.contour(case.case_id, purpose=REFERENCE)
        if reference is None:
            reference = current.store.contour(
                case.case_id, purpose=REVIEWED, round_id=current.round_id
            )
            if reference is None:
                without_yardstick += 1
                continue
            against_reviewed.add(case.patient_id)
        for arm in (DIRECT, ADAPTED, TARGET_TRAINED):
            found = current.store.contour(case.case_id, purpose=arm, round_id=current.round_id)
            if found is None:
                continue
            metrics = measure_case(
                reference.mask.voxels,
                found.mask.voxels,
                spacing_zyx_mm=case.spacing_zyx_mm,
            )
            measured[case.patient_id, arm].append(metrics)
            cases[case.patient_id][case] = metrics.volume_reference_ml
            measurements.append((case, arm, metrics))
    between_raters = measure_raters(current.store)
    subgroups = {patient: _subgroups(volumes) for patient, volumes in cases.items()}
    report = _summarise(
        current,
        [
            PatientRow(
                arm,
                average_cases(of_patient),
                patient in against_reviewed,
                patient,
                subgroups[patient],
            )
            for (patient, arm), of_patient in measured.items()
        ],
        rater_rows(between_raters),
    )
    measurement_rows = [
        MeasurementRow(
            round_id=current.round_id,
            case_id=case.case_id,
            arm=arm,
            metrics=_json_metrics(metrics),
            subgroups=subgroups[case.patient_id],
        )
        for case, arm, metrics in measurements
    ]
    measurement_rows += [
        MeasurementRow(
            round_id=current.round_id,
            case_id=case.case_id,
            arm=agreement_of(first, second),
            metrics=_json_metrics(metrics),
        )
        for case, first, second, metrics in between_raters
    ]

    def store_report(session: Session, row: RoundRow) -> None:
        current.store.replace_measurements(session, measurement_rows)
        home = current.store.home
        earlier = told_earlier(home, session)
        kept = beside_earlier(session, row.round_id, report, earlier, memory_key(home))
        row.report = kept.model_dump(mode="json")

    return current.store.advance(
        current.round_id,
        RoundEvent.REVIEW_COMPLETE,
        actor=ACTOR,
        detail={"cases_without_yardstick": without_yardstick},
        also=store_report,
    )


def _subgroups(volumes_ml: Mapping[Case, float]) -> dict[Attribute, str]:
    """Return the subgroups of a patient by their measured cases; where those differ, in none."""
    of_cases: dict[Attribute, set[str]] = {
        "t_stage": {t_stage_group(case.t_stage or "") for case in volumes_ml},
        "volume": {volume_group(fmean(volumes_ml.values()))},
        "scanner": {vendor_of(case.manufacturer) for case in volumes_ml},
    }
    return {
        attribute: group
        for attribute, groups in of_cases.items()
        if len(groups) == 1 and (group := min(groups))
    }


def _summarise(
    current: Round, rows: Sequence[PatientRow], raters: Sequence[RaterRow]
) -> SiteReport:
    config = current.store.home.config
    test = current.store.cases(Split.TEST)
    report = summarise_site(
        rows,
        subject=ReportSubject(
            study=config.study,
            site=config.name,
            package_id=current.store.round(current.round_id).package_id,
            model_version=current.manifest.model_version,
            adapted_model_sha256=file_sha256(current.folder / f"{ADAPTED}.safetensors"),
            code_version=version("fedgtv"),
            seed=current.seed,
            vendors=tuple(sorted({vendor_of(case.manufacturer) for case in test})),
        ),
        annotation=_annotation_summary(current),
        revisions=_revisions(current),
        raters=raters,
        minimum_group_size=config.minimum_group_size,
    )
    share = json.loads((current.folder / SHARE_FILE).read_bytes())
    report = report.model_copy(update={"adapted_share": share})
    signed = approved_plan(current.store.engine, report.package_id)
    if signed is None:  # then nothing leaves
        return report
    plan = read_plan(current.store.home, signed)
    return planned_part(report, plan.permitted_outputs.site_report_fields)


def _revisions(current: Round) -> list[RevisionRow]:
    """Return one row per reviewed test patient: the average over the reviews of their cases.

    Patients who came after the study's were segmented by what is in use, and are not in the study.
    """
    patient_of = {case.case_id: case.patient_id for case in current.store.cases(Split.TEST)}
    reviews: defaultdict[str, list[ReviewRow]] = defaultdict(list)
    for review in current.store.reviews(current.round_id):
        if review.case_id in patient_of:
            reviews[patient_of[review.case_id]].append(review)
    rows = []
    for of_patient in reviews.values():
        times_s = [review.active_s for review in of_patient if review.active_s is not None]
        rows.append(
            RevisionRow(
                degree_percent=fmean(review.revision_degree_percent for review in of_patient),
                active_s=fmean(times_s) if times_s else math.nan,
                simulated=any(review.simulated for review in of_patient),
            )
        )
    return rows


def _annotation_summary(current: Round) -> AnnotationSummary:
    asked = [*current.store.cases(Split.TRAINING), *current.store.cases(Split.VALIDATION)]
    tasks = current.store.tasks(current.round_id)
    patient_of = {case.case_id: case.patient_id for case in asked}
    known = known_labels(current)
    own = {(task.case_id, task.slice_z) for task in tasks}
    return AnnotationSummary(
        strategy=current.manifest.adaptation.selection_strategy,
        training_patients=len({case.patient_id for case in asked}),
        training_slices=sum(case.shape_zyx[0] for case in asked),
        selected_slices=len(tasks),
        patients_with_selected_slices=len({patient_of[task.case_id] for task in tasks}),
        earlier_slices=len(known.keys() - own),
        simulated=any(said.simulated for said in known.values()),
    )


def _json_metrics(metrics: CaseMetrics) -> dict[str, object]:
    """Write metrics as JSON: undefined figures are null."""

    def value(figure: float) -> float | None:
        return None if math.isnan(figure) else figure

    return {
        name: {str(k): value(v) for k, v in figure.items()}
        if isinstance(figure, dict)
        else value(figure)
        for name, figure in vars(metrics).items()
    }


def _open_tasks(current: Round) -> int:
    return len(current.store.tasks(current.round_id, state="open"))


def _all_reviewed(current: Round) -> bool:
    reviewed = {review.case_id for review in current.store.reviews(current.round_id)}
    return all(case.case_id in reviewed for case in current.store.cases(Split.TEST))


def _all_have_references(current: Round) -> bool:
    return all(case.has_reference for case in current.store.cases(Split.TRAINING))
