"""The road of one package through one hospital, in one process, with a tiny network."""

import shutil
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.adapted_share import SHARES, choose_share
from algorithms.contracts.case import Case, Split
from algorithms.contracts.contour import Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.messages import RoundState
from algorithms.contracts.model_package import MODEL_FILE, AdaptationPlan, TrainingSchedule
from algorithms.contracts.site_report import SiteReport, YardstickSummary
from algorithms.finetuning import LabelledSlice, finetune
from algorithms.inference import torch_predictor
from algorithms.networks import build_network
from algorithms.sample_selection import REPRESENTATIVE
from evaluation.overlap import dice
from site_agent import audit_log
from site_agent.adaptation import advance, budgets, finetune_in_stages, measure_and_report
from site_agent.adaptation_round import Round, open_round
from site_agent.case_store import REFERENCE, REVIEWED, CaseStore
from site_agent.case_workflow import RoundEvent
from site_agent.checkpoints import file_sha256, load_weights, save_state, save_weights
from site_agent.config import open_home
from site_agent.database import AuditRow, MeasurementRow, RoundRow, transaction
from site_agent.model_promotion import offer_for_use, segment_new_patients
from site_agent.model_store import activate, active_model, models, read_model, roll_back
from site_agent.patient_split import assign_patients
from site_agent.review import put_review, record_review
from site_agent.simulated_annotator import annotate_open_tasks, review_cases
from site_agent.worker import work
from tests.phantoms import tiny_case, tiny_plan
from tests.site_agent.tiny_road import TinyPackage, make_package, make_target

ARMS = ("direct", "adapted", "target_trained")


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> TinyPackage:
    return make_package(tmp_path_factory.mktemp("package"), tiny_plan())


@pytest.fixture(scope="module")
def states(tmp_path_factory, package) -> tuple[CaseStore, list[RoundState]]:
    """Walk the whole road once; every test below looks at where it led."""
    home, store = make_target(tmp_path_factory.mktemp("target") / "home", package)
    seen = [work(home, store)]
    assert annotate_open_tasks(store) > 0
    seen.append(work(home, store))
    assert review_cases(store) > 0
    seen.append(work(home, store))
    return store, seen


@pytest.fixture(scope="module")
def finished(states) -> CaseStore:
    return states[0]


def round_of(store: CaseStore):
    latest = store.latest_round()
    assert latest is not None
    return latest


def report_of(store: CaseStore) -> SiteReport:
    return SiteReport.model_validate(round_of(store).report)


def restarted(store: CaseStore, folder, *, without: tuple[str, ...]) -> CaseStore:
    """Copy a finished home as it was while training, without the files of some stages."""
    shutil.copytree(store.home.folder, folder)
    copy = CaseStore(open_home(folder))
    row = round_of(copy)
    with Session(copy.engine) as session, session.begin():
        session.get_one(type(row), row.round_id).state = RoundState.TRAINING.value
    for name in without:
        (copy.home.rounds / row.round_id / f"{name}.safetensors").unlink()
    return copy


# -- the whole road ---------------------------------------------------------------------------


def test_the_road_stops_where_people_are_needed(states) -> None:
    assert states[1] == [
        RoundState.AWAITING_ANNOTATION,
        RoundState.AWAITING_REVIEW,
        RoundState.REPORTED,
    ]


def test_working_on_after_the_report_changes_nothing(finished) -> None:
    before = round_of(finished)
    assert work(finished.home, finished) is RoundState.REPORTED
    after = round_of(finished)
    assert (after.report, after.changed_at) == (before.report, before.changed_at)


def test_the_budget_is_kept_in_training_and_validation_and_tests_stay_untouched(finished) -> None:
    tasks = finished.tasks(round_of(finished).round_id)
    by_split = {
        split: {case.case_id: case.shape_zyx[0] for case in finished.cases(split)}
        for split in (Split.TRAINING, Split.VALIDATION, Split.TEST)
    }
    for split in (Split.TRAINING, Split.VALIDATION):
        asked = [task for task in tasks if task.case_id in by_split[split]]
        assert len(asked) == round(0.25 * sum(by_split[split].values()))
    assert not {task.case_id for task in tasks} & set(by_split[Split.TEST])
    # Half of the training slices, and everything that chooses weights, is a fair sample.
    fair = [task.case_id for task in tasks if task.role == REPRESENTATIVE]
    trained = [task for task in tasks if task.case_id in by_split[Split.TRAINING]]
    assert len([c for c in fair if c in by_split[Split.TRAINING]]) == round(0.5 * len(trained))
    assert len(fair) - round(0.5 * len(trained)) == len(tasks) - len(trained)
    assert len({(task.case_id, task.slice_z) for task in tasks}) == len(tasks)


@pytest.mark.parametrize(
    ("minutes", "seconds", "sizes", "expected"),
    [
        (None, [60.0], [100, 20], [30, 6]),
        (10.0, [], [100, 20], [30, 6]),  # nobody has been timed yet
        (10.0, [30.0, 20.0, 900.0], [80, 20], [16, 4]),  # 20 slices of half a minute
        (10.0, [12.0], [10, 0], [10, 0]),
        (1.0, [60.0], [100, 100], [1, 0]),  # one to learn from before any to validate on
        (3.0, [60.0], [100, 100], [2, 1]),
        (1.0, [600.0], [100, 100], [1, 0]),
        (10.0, [0.0], [100, 20], [100, 20]),
    ],
)
def test_minutes_buy_as_many_slices_as_doctors_have_taken_for_one(
    minutes, seconds, sizes, expected
) -> None:
    plan = tiny_plan().adaptation.model_copy(
        update={"annotation_budget": 0.3, "annotation_minutes": minutes}
    )
    assert budgets(plan, sizes, seconds) == expected


def test_only_people_are_timed(finished, tmp_path) -> None:
    """The simulated annotator's times say nothing about doctors."""
    assert finished.annotation_seconds("contour") == []
    again = restarted(finished, tmp_path / "home", without=())
    first = again.tasks(round_of(again).round_id)[0]
    with Session(again.engine) as session, session.begin():
        task = session.get_one(type(first), first.id)
        task.provenance, task.active_s = Provenance.MANUAL.value, 14.5
    assert again.annotation_seconds("contour") == [14.5]
    assert again.annotation_seconds("scribble") == []


def test_what_the_simulated_annotator_made_says_so(finished) -> None:
    round_id = round_of(finished).round_id
    for task in finished.tasks(round_id):
        assert (task.author, task.provenance) == ("simulated annotator", "simulated_annotator")
        assert task.active_s is None
        reference = finished.contour(task.case_id, purpose=REFERENCE)
        assert reference is not None
        np.testing.assert_array_equal(finished.task_mask(task), reference.mask.voxels[task.slice_z])
    for case in finished.cases(Split.TEST):
        reviewed = finished.contour(case.case_id, purpose=REVIEWED, round_id=round_id)
        assert reviewed is not None
        assert reviewed.provenance is Provenance.SIMULATED
    report = report_of(finished)
    assert report.annotation.simulated
    assert report.revision is not None
    assert report.revision.simulated


def test_every_test_patient_is_segmented_by_every_arm_on_its_own_grid(finished) -> None:
    round_id = round_of(finished).round_id
    for case in finished.cases(Split.TEST):
        for arm in ARMS:
            found = finished.contour(case.case_id, purpose=arm, round_id=round_id)
            assert found is not None
            assert found.provenance is Provenance.AUTOMATIC
            assert found.mask.voxels.shape == case.shape_zyx
    for case in finished.cases(Split.TRAINING):
        assert finished.contour(case.case_id, purpose="adapted", round_id=round_id) is None


def test_the_report_tells_what_the_contours_say(finished) -> None:
    """Independent of the summary: Dice again from the stored contours."""
    report, round_id = report_of(finished), round_of(finished).round_id
    tests = finished.cases(Split.TEST)
    assert {arm.arm for arm in report.arms} == set(ARMS)
    for arm in report.arms:
        scores = []
        for case in tests:
            pair = (
                finished.contour(case.case_id, purpose=REFERENCE),
                finished.contour(case.case_id, purpose=arm.arm, round_id=round_id),
            )
            assert None not in pair
            scores.append(dice(*(contour.mask.voxels for contour in pair)))
        assert arm.patients == len(tests)
        assert arm.dsc.mean == pytest.approx(np.mean(scores), abs=1e-3)


def test_adaptation_helps_where_the_scanner_differs(finished) -> None:
    """The target hospital's contrast is a quarter of the source's: the tiny model must learn it."""
    scores = {arm.arm: arm.dsc.mean for arm in report_of(finished).arms}
    assert scores["adapted"] > scores["direct"] + 0.1


def test_the_report_names_what_made_it(finished, package) -> None:
    report = report_of(finished)
    weights = finished.home.rounds / round_of(finished).round_id / "stage3.safetensors"
    assert report.package_id == package.manifest.package_id
    assert report.adapted_model_sha256 == file_sha256(weights)
    assert (report.study, report.site, report.seed) == ("tiny", "hospital-b", 0)
    assert report.annotation.training_patients == 3
    assert report.annotation.training_slices == 24
    assert report.annotation.selected_slices == 6
    assert report.yardstick == YardstickSummary(reference_contour=3, reviewed_contour=0)


def test_every_arm_of_every_test_patient_is_measured_once(finished) -> None:
    with Session(finished.engine) as session:
        rows = [(r.case_id, r.arm) for r in session.scalars(select(MeasurementRow))]
        audit_log.verify(session)
    expected = {(case.case_id, arm) for case in finished.cases(Split.TEST) for arm in ARMS}
    assert len(rows) == len(expected)
    assert set(rows) == expected


def test_no_checkpoint_is_left_behind(finished) -> None:
    names = {file.name for file in (finished.home.rounds / round_of(finished).round_id).iterdir()}
    stages = ("stage1", "stage3", "target_trained", "adapted")
    assert names == {*(f"{stage}.safetensors" for stage in stages), "adapted_share.json"}


# -- being killed -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lost", [("stage1", "stage3", "target_trained"), ("stage3", "target_trained")]
)
def test_a_round_killed_between_stages_ends_in_the_same_weights(finished, tmp_path, lost) -> None:
    again = restarted(finished, tmp_path / "home", without=lost)
    finetune_in_stages(open_round(again, round_of(again)))
    round_id = round_of(finished).round_id
    for stage in lost:
        one, other = (
            file_sha256(store.home.rounds / round_id / f"{stage}.safetensors")
            for store in (finished, again)
        )
        assert one == other


def test_a_damaged_stage_is_trained_again_and_ends_in_the_same_weights(
    finished, tmp_path, caplog
) -> None:
    again = restarted(finished, tmp_path / "home", without=())
    folder = again.home.rounds / round_of(again).round_id
    before = {stage: file_sha256(folder / f"{stage}.safetensors") for stage in ("stage1", "stage3")}
    (folder / "stage1.safetensors").write_bytes(b"")  # as a power cut leaves it
    (folder / "stage3.safetensors").write_bytes(b"\x00" * 500)
    finetune_in_stages(open_round(again, round_of(again)))
    assert caplog.text.count("this stage is trained again") == 2
    assert before == {stage: file_sha256(folder / f"{stage}.safetensors") for stage in before}


def test_a_loaded_stage_computes_what_the_one_just_trained_computed(finished) -> None:
    """One in ten pixels differs by rounding between memory layouts: enough to change a label."""
    current = open_round(finished, round_of(finished))
    loaded, trained = current.source_network(), build_network(current.manifest.network)
    slices = [LabelledSlice(np.ones((32, 32), np.float32), np.ones((32, 32), np.uint8))]
    finetune(trained, slices, TrainingSchedule(iterations=1), patch_yx=(32, 32), seed=0)
    trained.load_state_dict(loaded.state_dict())
    images = np.random.default_rng(0).normal(size=(4, 32, 32)).astype(np.float32)
    np.testing.assert_array_equal(torch_predictor(loaded)(images), torch_predictor(trained)(images))


def test_every_stage_ended_in_weights_of_its_own(finished, package) -> None:
    """Without this, the tests of being killed could not fail."""
    folder = finished.home.rounds / round_of(finished).round_id
    stages = [file_sha256(file) for file in folder.glob("*.safetensors")]
    assert len({*stages, package.manifest.files["model.safetensors"].sha256}) == 4


def test_a_round_that_failed_after_annotation_goes_on(finished, tmp_path) -> None:
    again = restarted(finished, tmp_path / "home", without=())
    row = round_of(again)
    again.advance(row.round_id, RoundEvent.FAILED, actor="test")
    tasks = len(again.tasks(row.round_id))
    assert advance(open_round(again, row)) is RoundState.REPORTED
    assert len(again.tasks(row.round_id)) == tasks


# -- which model comes into use ---------------------------------------------------------------


def test_the_adapted_model_is_compared_on_the_validation_patients(finished) -> None:
    (row,) = models(finished.engine)
    assert row.sha256 == file_sha256(read_model(finished.home, row))
    assert row.validation_patients == len(finished.cases(Split.VALIDATION)) == 1
    assert row.candidate_dsc is not None
    assert row.incumbent_dsc is not None
    not_worse = row.candidate_dsc >= row.incumbent_dsc - 0.01
    assert (active_model(finished.engine) is not None) is not_worse


def test_a_model_that_unlearnt_the_target_is_held_back(finished, tmp_path) -> None:
    again = restarted(finished, tmp_path / "home", without=())
    current = open_round(again, round_of(again))
    (before,) = models(again.engine)
    activate(again.home, again.engine, before.sha256, actor="test")
    network = build_network(current.manifest.network, seed=99)
    torch.nn.init.zeros_(network.head.weight)
    network.head.bias.data = torch.tensor([5.0, -5.0])  # finds nothing anywhere
    save_weights(dict(network.state_dict()), current.folder / "adapted.safetensors")
    offer_for_use(current)
    bad = next(row for row in models(again.engine) if row.sha256 != before.sha256)
    assert bad.candidate_dsc < bad.incumbent_dsc
    in_use = active_model(again.engine)
    assert in_use is not None
    assert in_use.sha256 == before.sha256


def test_without_validation_patients_a_person_decides(package, tmp_path) -> None:
    home, store = make_target(tmp_path / "home", package, validation_share=0.0)
    work(home, store)
    annotate_open_tasks(store)
    work(home, store)
    (row,) = models(store.engine)
    assert (row.validation_patients, row.candidate_dsc) == (0, None)
    assert active_model(store.engine) is None
    report = work(home, store)  # and nothing stands in the way of going on
    assert report is RoundState.AWAITING_REVIEW


def test_a_damaged_model_in_use_leaves_the_decision_to_a_person(finished, tmp_path, caplog) -> None:
    again = restarted(finished, tmp_path / "home", without=())
    current = open_round(again, round_of(again))
    (row,) = models(again.engine)
    activate(again.home, again.engine, row.sha256, actor="test")
    read_model(again.home, row).write_bytes(b"x" * 100)
    save_weights(
        dict(build_network(current.manifest.network, seed=3).state_dict()),
        current.folder / "adapted.safetensors",
    )
    offer_for_use(current)
    new = next(m for m in models(again.engine) if m.sha256 != row.sha256)
    assert new.candidate_dsc is not None
    assert new.incumbent_dsc is None
    assert "cannot be compared" in caplog.text


def test_patients_who_come_later_are_segmented_by_the_model_in_use(finished, tmp_path) -> None:
    again = restarted(finished, tmp_path / "home", without=())
    current = open_round(again, round_of(again))
    again.add_cases([tiny_case(300, contrast=30.0)], actor="test")
    (new,) = again.cases(Split.UNASSIGNED)
    key = {"purpose": "adapted", "round_id": current.round_id}
    (row,) = models(again.engine)
    activate(again.home, again.engine, row.sha256, actor="test")
    assert segment_new_patients(current) == 1
    assert segment_new_patients(current) == 0
    assert again.contour_author(new.case_id, **key) == f"model {row.sha256[:16]}"
    adapted = again.contour(new.case_id, **key)
    roll_back(again.home, again.engine, actor="test")
    assert segment_new_patients(current) == 1
    assert again.contour_author(new.case_id, **key) == "model package"
    direct = again.contour(new.case_id, **key)
    assert adapted is not None
    assert direct is not None
    assert (adapted.mask.voxels != direct.mask.voxels).any()
    record_review(again, current.round_id, new.case_id, direct.mask, author="dr", simulated=True)
    activate(again.home, again.engine, row.sha256, actor="test")
    assert segment_new_patients(current) == 0  # what an oncologist has seen stays
    # They are not in the study: its report stays as it was.
    assert len(again.reviews(current.round_id)) == len(again.cases(Split.TEST)) + 1
    with Session(again.engine) as session, session.begin():
        row = session.get_one(RoundRow, current.round_id)
        row.state = RoundState.AWAITING_REVIEW.value
    measure_and_report(current)
    assert report_of(again).revision == report_of(finished).revision


# -- other hospitals --------------------------------------------------------------------------


def test_a_changed_package_is_not_used(package, tmp_path) -> None:
    home, store = make_target(tmp_path / "home", package)
    weights = home.packages / package.manifest.package_id / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(Exception, match="SHA-256"):
        work(home, store)
    assert store.latest_round() is None or round_of(store).state == RoundState.RECEIVED.value


def test_patients_with_several_cases_count_once(package, tmp_path) -> None:
    home, store = make_target(tmp_path / "home", package, patients=0)
    add_second_series(store)
    assert work(home, store) is RoundState.AWAITING_ANNOTATION
    annotate_open_tasks(store)
    assert work(home, store) is RoundState.AWAITING_REVIEW
    review_cases(store)
    assert work(home, store) is RoundState.REPORTED
    report, tests = report_of(store), store.cases(Split.TEST)
    assert report.annotation.training_patients == 3
    assert report.annotation.patients_with_selected_slices <= 3
    patients = {case.patient_id for case in tests}
    assert len(tests) == 2 * len(patients)
    assert {arm.patients for arm in report.arms} == {len(patients)}
    assert report.revision is not None
    assert report.revision.patients == report.revision.degree_percent.n == len(patients)


def add_second_series(store: CaseStore) -> None:
    """Give a site six patients with two series each."""
    cases = [tiny_case(200 + i) for i in range(12)]
    patients = [tiny_case(200 + i // 2).patient_id for i in range(12)]
    store.add_cases(
        [replace(c, patient_id=p) for c, p in zip(cases, patients, strict=True)], actor="test"
    )


def test_without_reference_contours_the_reviewed_contour_is_the_yardstick(package, tmp_path):
    home, store = make_target(tmp_path / "home", package, patients=0)
    cases = [tiny_case(300 + i, has_reference=False) for i in range(6)]
    store.add_cases(cases, actor="test")
    assert work(home, store) is RoundState.AWAITING_ANNOTATION
    with pytest.raises(DataError, match="cannot be simulated"):
        annotate_open_tasks(store)
    truth = {tiny_case(300 + i).case_id: tiny_case(300 + i).contours[0].mask for i in range(6)}
    for task in store.tasks(round_of(store).round_id, state="open"):
        store.complete_task(
            task.id,
            truth[task.case_id].voxels[task.slice_z],
            author="dr",
            provenance=Provenance.MANUAL,
            active_s=4.0,
        )
    assert work(home, store) is RoundState.AWAITING_REVIEW
    assert review_cases(store) == 0
    round_id = round_of(store).round_id
    for case in store.cases(Split.TEST):
        record_review(
            store,
            round_id,
            case.case_id,
            truth[case.case_id],
            author="dr",
            simulated=False,
            active_s=30.0,
        )
    assert work(home, store) is RoundState.REPORTED
    report = report_of(store)
    assert {arm.arm for arm in report.arms} == {"direct", "adapted"}
    assert report.yardstick == YardstickSummary(reference_contour=0, reviewed_contour=3)
    assert not report.annotation.simulated
    assert report.revision is not None
    assert not report.revision.simulated
    assert report.revision.active_s.mean == pytest.approx(30.0)
    for rejected in (1, 3):  # one patient, then all: there is no contour to measure them against
        reject(store, store.cases(Split.TEST)[:rejected])
        assert work(home, store) is RoundState.REPORTED
        report = report_of(store)
        assert {arm.patients for arm in report.arms} == ({2} if rejected == 1 else set())
        assert report.revision is not None
        assert report.revision.patients == 3
        with Session(store.engine) as session:
            newest = session.scalars(select(AuditRow).order_by(AuditRow.sequence.desc())).first()
        assert newest is not None
        assert newest.detail == {"cases_without_yardstick": rejected}


def reject(store: CaseStore, cases: Sequence[Case]) -> None:
    """Reject the model's contours, and have the round measured again."""
    round_id = round_of(store).round_id
    with transaction(store.engine) as session:
        for case in cases:
            put_review(session, store, round_id, case.case_id, None, author="dr", reason="other")
        session.get_one(RoundRow, round_id).state = RoundState.AWAITING_REVIEW.value


@pytest.mark.parametrize(("share_folds", "folds"), [(2, 2), (9, 2)])  # two patients are learnt from
@pytest.mark.parametrize("representative_share", [0.0, 0.01, 0.5])  # 0.01 rounds to no slice
def test_the_share_is_found_by_cross_validation_and_reported(
    package, tmp_path, monkeypatch, share_folds, folds, representative_share
) -> None:
    measured_on: list[int] = []

    def spying_choose_share(network, source, folds, **options):
        measured_on.extend(
            int(case.known.any(axis=(1, 2)).sum()) for _, cases in folds for case in cases
        )
        return choose_share(network, source, folds, **options)

    monkeypatch.setattr("site_agent.adaptation.choose_share", spying_choose_share)
    changes = {
        "adapted_share": None,
        "share_folds": share_folds,
        "representative_share": representative_share,
    }
    plan = package.manifest.adaptation.model_copy(update=changes)
    manifest = package.manifest.model_copy(update={"adaptation": plan})
    _, store = make_target(tmp_path / "home", package)
    assign_patients(store, "MR")
    current = open_round(store, store.start_round(package.manifest.package_id, seed=0))
    current = replace(current, manifest=manifest)
    advance(current)
    annotate_open_tasks(store)
    advance(current)
    review_cases(store)
    assert advance(current) is RoundState.REPORTED
    training = {case.case_id for case in store.cases(Split.TRAINING)}
    roles = [task.role for task in store.tasks(current.round_id) if task.case_id in training]
    assert (REPRESENTATIVE in roles) is (representative_share == 0.5)
    fair = roles.count(REPRESENTATIVE) or len(roles)  # without a fair sample, all there is
    assert sum(measured_on) == fair
    held_out = {file.name for file in current.folder.glob("held_out_*")}
    assert held_out == {f"held_out_{number + 1}.safetensors" for number in range(folds)}
    report = store.round(current.round_id).report
    assert report is not None
    assert report["adapted_share"] in SHARES


# -- other plans: scribbles, and other uses of slices without annotation ----------------------


def planned(package, store: CaseStore, **changes) -> Round:
    """Open a round whose plan differs from the package's."""
    plan = AdaptationPlan.model_validate(package.manifest.adaptation.model_dump() | changes)
    current = open_round(store, store.start_round(package.manifest.package_id, seed=0))
    return replace(current, manifest=package.manifest.model_copy(update={"adaptation": plan}))


class KilledError(Exception):
    """What a process dies of in these tests."""


def killing(stage: str):
    """Save as ever, and die after the second checkpointed iteration of a stage."""

    def save_and_die(state, file) -> None:
        save_state(state, file)
        if file.name.startswith(stage) and state.iteration == 2:
            raise KilledError

    return save_and_die


@pytest.mark.parametrize("stage", ["stage1", "stage3", "target_trained"])
def test_a_round_killed_inside_a_stage_ends_in_the_same_weights(
    finished, tmp_path, stage, monkeypatch
) -> None:
    lost = {
        "stage1": ("stage1", "stage3", "adapted"),
        "stage3": ("stage3", "adapted"),
        "target_trained": ("target_trained",),
    }[stage]
    again = restarted(finished, tmp_path / "home", without=lost)
    current = open_round(again, round_of(again))
    monkeypatch.setattr("site_agent.adaptation.save_state", killing(stage))
    with pytest.raises(KilledError):
        advance(current)
    assert (current.folder / f"{stage}.checkpoint.safetensors").is_file()
    monkeypatch.undo()
    assert advance(current) is RoundState.REPORTED
    before = finished.home.rounds / current.round_id
    for name in lost:
        weights = load_weights(before / f"{name}.safetensors")
        resumed = load_weights(current.folder / f"{name}.safetensors")
        assert all(torch.equal(weights[key], resumed[key]) for key in weights)


PLANS = [
    {"supervision": "scribble", "unlabelled": "pseudo_labels"},
    {"supervision": "scribble", "unlabelled": "none"},
    {"supervision": "dense", "unlabelled": "dual_task"},
    {"supervision": "dense", "unlabelled": "none"},
]


@pytest.mark.parametrize("changes", PLANS, ids=lambda c: "-".join(c.values()))
def test_every_plan_goes_the_whole_road_and_a_killed_stage_ends_in_the_same_weights(
    package, tmp_path, changes, monkeypatch
) -> None:
    _, store = make_target(tmp_path / "home", package)
    assign_patients(store, "MR")
    current = planned(package, store, **changes)
    assert advance(current) is RoundState.AWAITING_ANNOTATION
    annotate_open_tasks(store)
    kinds = {task.kind for task in store.tasks(current.round_id)}
    assert kinds == {"scribble" if changes["supervision"] == "scribble" else "contour"}
    # Killed in the middle of the last stage: its checkpoint is all that is left of it.
    last = "stage1" if changes["unlabelled"] == "none" else "stage3"
    monkeypatch.setattr("site_agent.adaptation.save_state", killing(last))
    with pytest.raises(KilledError):
        advance(current)
    assert (current.folder / f"{last}.checkpoint.safetensors").is_file()
    monkeypatch.undo()
    assert advance(current) is RoundState.AWAITING_REVIEW
    stages = {"stage1", last, "adapted", "target_trained"}
    assert {f.stem for f in current.folder.glob("*.safetensors")} == stages
    weights = load_weights(current.folder / "adapted.safetensors")
    # What is delivered is the package's network, whatever was trained beside it.
    assert weights.keys() == load_weights(current.package / MODEL_FILE).keys()
    again = restarted(store, tmp_path / "again", without=(last, "adapted"))
    advance(replace(current, store=again))
    folder = again.home.rounds / current.round_id
    other = load_weights(folder / "adapted.safetensors")
    assert all(torch.equal(weights[name], other[name]) for name in weights)
    review_cases(store)
    assert advance(current) is RoundState.REPORTED


def test_scribbles_are_learnt_from_as_they_were_drawn(package, tmp_path, monkeypatch) -> None:
    _, store = make_target(tmp_path / "home", package)
    assign_patients(store, "MR")
    current = planned(package, store, supervision="scribble")
    advance(current)
    annotate_open_tasks(store)
    seen: dict[str, list[LabelledSlice]] = {}

    def spy(_network, slices, schedule, *, supervision="dense", **options):
        seen.setdefault(supervision, []).extend(slices)
        return finetune(_network, slices, schedule, supervision=supervision, **options)

    monkeypatch.setattr("site_agent.adaptation.finetune", spy)
    advance(current)
    drawn = [item for item in seen["scribble"] if item.weight is not None and item.weight.any()]
    asked = [
        task
        for task in store.tasks(current.round_id)
        if task.case_id in {case.case_id for case in store.cases(Split.TRAINING)}
    ]
    assert len(drawn) == 2 * len(asked)  # in stage 1 and in stage 3
    assert all(0 < item.weight.mean() < 0.5 for item in drawn)
    assert any(item.has_target for item in drawn)
    assert all(item.weight is None for item in seen["dense"])  # trained on the reference contours
    bare = [item for item in seen["scribble"] if not item.weight.any()]
    assert len(bare) == len({case.case_id for case in store.cases(Split.TRAINING)}) * 8 - len(asked)
