import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.case import Split
from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import MANIFEST_FILE, Manifest, StudyPlan
from algorithms.contracts.volume import Mask
from algorithms.networks import build_network
from algorithms.reference_points import fit_reference_points
from site_agent.case_store import CaseStore
from site_agent.config import open_home
from site_agent.patient_split import assign_patients
from site_agent.source_package import train_source
from tests.phantoms import filled_store, make_home, tiny_case, tiny_plan
from tests.site_agent.tiny_road import SHARES, TinyPackage, make_package


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> TinyPackage:
    return make_package(tmp_path_factory.mktemp("package"), tiny_plan())


# -- who is learnt from -----------------------------------------------------------------------


def test_patients_are_split_once_and_later_ones_are_only_segmented(tmp_path) -> None:
    home = make_home(tmp_path, **SHARES)
    store = filled_store(home)
    assign_patients(store, "MR")
    splits = {case.case_id: case.split for case in store.cases()}
    assert Split.UNASSIGNED not in splits.values()
    store.add_cases([tiny_case(50)], actor="test")
    assign_patients(store, "MR")
    assert {case.case_id: case.split for case in store.cases()} == splits | {
        tiny_case(50).case_id: Split.UNASSIGNED
    }


def test_only_patients_with_contours_take_part_where_there_are_any(tmp_path) -> None:
    store = filled_store(make_home(tmp_path, **SHARES))
    store.add_cases([tiny_case(60, has_reference=False)], actor="test")
    assign_patients(store, "MR")
    assert store.counts() == {"test": 3, "training": 2, "unassigned": 1, "validation": 1}


def test_without_any_contour_everybody_takes_part(tmp_path) -> None:
    store = CaseStore(make_home(tmp_path, **SHARES))
    store.add_cases([tiny_case(i, has_reference=False) for i in range(6)], actor="test")
    assign_patients(store, "MR")
    assert "unassigned" not in store.counts()


# -- the package ------------------------------------------------------------------------------


def test_the_manifest_fits_its_files(package) -> None:
    manifest, folder = package.manifest, package.source.source_package
    assert Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes()) == manifest
    for name, entry in manifest.files.items():
        content = (folder / name).read_bytes()
        assert (entry.sha256, entry.size_bytes) == (sha256_hex(content), len(content))
    assert {file.name for file in folder.iterdir()} == {*manifest.files, MANIFEST_FILE}
    points = np.load(folder / "reference_points.npy", allow_pickle=False)
    assert points.shape == (manifest.reference_point_count, manifest.reference_point_dimension)
    assert points.dtype == np.float32
    assert points.any(axis=1).all()


def test_the_manifest_names_the_plan_and_what_was_measured_at_home(package) -> None:
    manifest, plan = package.manifest, package.plan
    assert (manifest.adaptation, manifest.network) == (plan.adaptation, plan.network)
    assert manifest.preprocessing == plan.preprocessing
    assert (manifest.study, manifest.seed) == ("tiny", 0)
    assert manifest.source_training_slices == 4 * 8
    validation = manifest.source_validation
    assert (validation.validation_patients, validation.test_patients) == (1, 3)
    assert validation.validation_dsc is None  # one patient, and at least two are asked for
    assert validation.test_dsc is not None
    assert validation.test_dsc > 0.8


def test_the_same_images_and_seed_give_the_same_package(package, tmp_path) -> None:
    again = make_package(tmp_path, tiny_plan())
    assert again.manifest.package_id == package.manifest.package_id


def test_a_finished_package_is_returned_as_it_is(package) -> None:
    file = package.source.source_package / "model.safetensors"
    before = file.stat().st_mtime_ns
    assert train_source(package.source, CaseStore(package.source), package.plan) == package.manifest
    assert file.stat().st_mtime_ns == before


def test_figures_about_few_patients_stay_at_home_even_when_the_minimum_is_raised_later(
    package, tmp_path
) -> None:
    shutil.copytree(package.source.folder, tmp_path / "copy")
    settings = tmp_path / "copy" / "site.toml"
    text = settings.read_text("utf-8")
    assert "minimum_group_size = 2" in text
    settings.write_text(text.replace("minimum_group_size = 2", "minimum_group_size = 4"), "utf-8")
    home = open_home(tmp_path / "copy")
    manifest = train_source(home, CaseStore(home), package.plan)
    validation = manifest.source_validation
    assert (validation.test_patients, validation.test_dsc) == (3, None)
    assert manifest.files == package.manifest.files  # nothing was trained anew


def test_two_series_of_a_patient_count_once(tmp_path) -> None:
    home = make_home(tmp_path, role="source", **SHARES | {"minimum_group_size": 4})
    store = filled_store(home, 8)
    twice = [replace(tiny_case(70 + i), patient_id=tiny_case(i).patient_id) for i in range(8)]
    store.add_cases(twice, actor="test")
    validation = train_source(home, store, tiny_plan()).source_validation
    assert (validation.validation_patients, validation.test_patients) == (1, 3)
    assert (validation.validation_dsc, validation.test_dsc) == (None, None)


def test_a_damaged_package_is_made_whole(tmp_path) -> None:
    home = make_home(tmp_path, role="source", **SHARES)
    store, plan = filled_store(home, 8), tiny_plan()
    manifest = train_source(home, store, plan)
    published = home.source_package / "model.safetensors"
    (kept,) = (home.folder / "source-training").rglob("package/model.safetensors")
    whole = published.read_bytes()
    for damaged in ((published,), (kept,), (published, kept)):
        for file in damaged:
            file.write_bytes(whole[:100])
        assert train_source(home, store, plan) == manifest
        assert published.read_bytes() == kept.read_bytes() == whole


def test_a_series_without_contours_beside_one_with_them_is_left_out(tmp_path, caplog) -> None:
    home = make_home(tmp_path, role="source", **SHARES)
    store = filled_store(home, 8)
    beside = [
        replace(tiny_case(70 + i, has_reference=False), patient_id=tiny_case(i).patient_id)
        for i in range(8)
    ]
    store.add_cases(beside, actor="test")
    manifest = train_source(home, store, tiny_plan())
    assert manifest.source_training_slices == 4 * 8
    assert manifest.source_validation.validation_patients == 1
    assert "4 training cases without reference contour are left out" in caplog.text


def test_every_plan_has_its_own_package(tmp_path) -> None:
    home = make_home(tmp_path, role="source", **SHARES)
    store, plan = filled_store(home, 8), tiny_plan()
    other = plan.model_copy(update={"model_version": "2.0.0"})
    for asked in (plan, other, plan):
        manifest = train_source(home, store, asked)
        published = (home.source_package / MANIFEST_FILE).read_bytes()
        assert manifest.model_version == asked.model_version
        assert Manifest.model_validate_json(published) == manifest


def test_no_patient_and_no_path_is_in_the_package(package) -> None:
    contents = b"".join(f.read_bytes() for f in package.source.source_package.iterdir())
    for secret in ("patient-", "case-", "hospital-a", str(package.source.folder)):
        assert secret.encode() not in contents


def test_weights_reference_points_and_counts_are_all_that_leaves(package) -> None:
    """The list of what a source hospital gives away: whoever adds to it has to say so here."""
    manifest, folder = package.manifest, package.source.source_package
    assert set(manifest.files) == {"model.safetensors", "reference_points.npy"}
    weights = load_file(folder / "model.safetensors")
    network = build_network(manifest.network)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == shapes
    points = np.load(folder / "reference_points.npy", allow_pickle=False)
    assert points.shape == (manifest.reference_point_count, 256)
    of_the_plan = {*StudyPlan.model_fields} - {"source_training", "reference_points"}
    of_the_site = {"study", "seed", "source_training_slices", "source_validation"}
    of_the_files = {"files", "reference_point_count", "reference_point_dimension"}
    fixed = {"schema_version", "parent_version", "licence", "intended_use"}
    assert {*Manifest.model_fields} == of_the_plan | of_the_site | of_the_files | fixed


def test_every_reference_point_stands_for_slices_of_three_patients(tmp_path, monkeypatch) -> None:
    asked: list[set[str]] = []

    def spy(features, k, seed, *, patients):
        asked.append(set(patients))
        assert len(patients) == len(features)
        return fit_reference_points(features, k, seed, patients=patients)

    monkeypatch.setattr("site_agent.source_package.fit_reference_points", spy)
    home = make_home(tmp_path, role="source", **SHARES)
    train_source(home, filled_store(home, 8), tiny_plan())
    (patients,) = asked
    assert len(patients) == 4


# -- what can be wrong ------------------------------------------------------------------------


def test_a_target_hospital_trains_no_source_model(tmp_path) -> None:
    home = make_home(tmp_path, role="target", **SHARES)
    with pytest.raises(DataError, match="only a source hospital"):
        train_source(home, filled_store(home), tiny_plan())


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"model_version": "1.2.3.4"}, "model_version"),  # reads like a UID
        ({"model_version": "v20260102"}, "model_version"),  # reads like a date
        ({"model_version": "patient-000000000001"}, "model_version"),
    ],
)
def test_a_plan_that_the_door_would_stop_is_found_before_training(tmp_path, change, key) -> None:
    home = make_home(tmp_path, role="source", **SHARES)
    with pytest.raises(DataError, match=f"key '{key}'"):
        train_source(home, filled_store(home), tiny_plan().model_copy(update=change))
    assert not (home.folder / "source-training").exists()


def test_an_unknown_selection_strategy_is_found_before_training(tmp_path) -> None:
    home, plan = make_home(tmp_path, role="source", **SHARES), tiny_plan()
    adaptation = plan.adaptation.model_copy(update={"selection_strategy": "best"})
    with pytest.raises(DataError, match="'best' is unknown: one of aada"):
        train_source(
            home, filled_store(home, 8), plan.model_copy(update={"adaptation": adaptation})
        )
    assert not (home.folder / "source-training").exists()


def test_too_few_patients_or_contours_are_refused(tmp_path) -> None:
    few = make_home(tmp_path / "few", role="source", **SHARES)
    with pytest.raises(DataError, match="ingest at least 3"):
        train_source(few, filled_store(few, 2), tiny_plan())
    bare = make_home(tmp_path / "bare", role="source", **SHARES)
    store = CaseStore(bare)
    store.add_cases([tiny_case(i, has_reference=False) for i in range(6)], actor="test")
    with pytest.raises(DataError, match="has no reference contour"):
        train_source(bare, store, tiny_plan())


def test_two_patients_to_train_with_make_no_package(tmp_path) -> None:
    home = make_home(tmp_path, role="source", **SHARES)
    with pytest.raises(DataError, match="2 patients to train with: a package needs 3"):
        train_source(home, filled_store(home, 6), tiny_plan())


def test_a_source_model_that_finds_nothing_is_no_package(tmp_path) -> None:
    home = make_home(tmp_path, role="source", **SHARES)
    plan = tiny_plan()
    lazy = plan.source_training.model_copy(update={"iterations": 1, "learning_rate": 1e-6})
    with pytest.raises(DataError, match="finds no target"):
        train_source(home, filled_store(home, 8), plan.model_copy(update={"source_training": lazy}))
    assert not home.source_package.exists()


def test_test_patients_without_any_target_leave_their_dice_open(tmp_path) -> None:
    home = make_home(tmp_path, role="source", **SHARES)
    probe = filled_store(make_home(tmp_path / "probe", role="source", **SHARES), 8)
    assign_patients(probe, "MR")
    tests = {case.case_id for case in probe.cases(Split.TEST)}
    store = CaseStore(home)
    store.add_cases(
        [
            without_target(tiny_case(i)) if tiny_case(i).case_id in tests else tiny_case(i)
            for i in range(8)
        ],
        actor="test",
    )
    validation = train_source(home, store, tiny_plan()).source_validation
    assert (validation.test_patients, validation.test_dsc) == (3, None)


def without_target(case):
    """Take the ball out of a tiny case: nothing but a gradient, and an empty contour."""
    shape = case.volume.image.shape
    gradient = np.broadcast_to(4 * np.arange(shape[-1], dtype=np.float32), shape)
    volume = replace(case.volume, image=gradient.copy())
    mask = Mask(np.zeros(volume.image.shape, bool), volume.geometry)
    return replace(case, volume=volume, contours=(Contour("GTVp", mask, Provenance.REFERENCE),))
