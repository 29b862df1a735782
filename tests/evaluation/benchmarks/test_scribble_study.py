import numpy as np
import pytest
import torch
from torch import nn

from algorithms.contracts.contour import NOT_ANNOTATED
from algorithms.contracts.errors import DataError
from evaluation.benchmarks import scribble_study
from evaluation.benchmarks.few_labels import run_few_labels
from evaluation.benchmarks.scribble_study import (
    SCRIBBLE_PRESETS,
    acdc_scribble_study,
    draw_scribbles,
    predict_classes,
    shrink,
    split_patients,
)
from tests.evaluation.benchmarks.few_label_packs import make_few_labels_tiny, write_scribbled


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    make_few_labels_tiny(monkeypatch)
    write_scribbled(tmp_path)
    return tmp_path


def test_every_fourth_patient_is_tested_and_nobody_is_on_both_sides() -> None:
    names = [f"patient{n:03d}" for n in range(60, 0, -1)]
    split = split_patients(names)
    assert len(split["training"]) == 45
    assert split["test"][:2] == ["patient004", "patient008"]
    assert sorted(split["training"] + split["test"]) == sorted(names)


def test_lines_survive_shrinking_and_contours_keep_their_place() -> None:
    image = np.zeros((40, 60), dtype=np.float32)
    lines = np.full(image.shape, NOT_ANNOTATED, dtype=np.uint8)
    lines[10, :] = 2
    small = shrink(image, lines, 10)
    assert (small.scribble[2] == 2).all()
    assert (np.delete(small.scribble, 2, axis=0) == NOT_ANNOTATED).all()
    label = np.zeros(image.shape, dtype=np.uint8)
    label[20:, 30:] = 3
    dense = shrink(image + label, label, 10)
    assert (dense.scribble[5:, 5:] == 3).all()
    assert dense.scribble.sum() == 25 * 3
    np.testing.assert_allclose(dense.image[5:, 5:], 3.0)


def test_batches_turn_image_and_scribble_alike() -> None:
    rng = np.random.default_rng(0)
    marks = rng.integers(0, 4, (12, 12)).astype(np.uint8)
    item = scribble_study.ScribbledSlice(marks.astype(np.float32), marks)
    draw = draw_scribbles([item] * 3, 8)
    images, scribbles = draw(np.random.default_rng(1))
    assert images.shape == (8, 1, 12, 12)
    assert torch.equal(images[:, 0].long(), scribbles)
    assert len({tuple(s.flatten().tolist()) for s in scribbles}) > 3
    again = draw(np.random.default_rng(1))
    assert torch.equal(again[0], images)


def test_predictions_lie_on_the_images_own_grid() -> None:
    class Quarter(nn.Module):
        """Class 3 where the picture is bright."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            bright = images - 0.5
            return torch.cat([-bright, 0 * bright - 9, 0 * bright - 9, bright], dim=1)

    image = np.zeros((2, 40, 48), dtype=np.float32)
    image[1, :20, 24:] = 1.0
    found = predict_classes(Quarter(), image, side=16)
    assert found.dtype == np.uint8
    assert not found[0].any()
    assert (found[1, :18, 27:] == 3).all()
    assert not found[1, 23:].any()


def test_no_test_patient_is_read_for_training(tiny, monkeypatch) -> None:
    read: list[set[str]] = []
    original = scribble_study.read_volumes

    def spy(packs, name, patients=None):
        read.append(patients)
        return original(packs, name, patients)

    monkeypatch.setattr(scribble_study, "read_volumes", spy)
    study = acdc_scribble_study(tiny, "cpu")
    assert read == [{"patient001", "patient002", "patient003"}, {"patient004"}]
    assert [case.patient for case in study.test_cases] == ["patient004"]
    assert study.test_cases[0].image.max() <= 1.0
    assert study.settings["split"]["test"] == ["patient004"]


def test_every_method_runs_and_is_measured(tiny, tmp_path) -> None:
    study = acdc_scribble_study(tiny, "cpu")
    rows = run_few_labels(study, tmp_path / "out", seeds=[0], log=lambda _: None)
    assert list(dict.fromkeys(r["method"] for r in rows)) == list(study.methods)
    assert len(study.methods) == 12
    assert len(rows) == 12 * 3
    assert {r["class"] for r in rows} == {"right ventricle", "myocardium", "left ventricle"}


def test_contours_go_to_the_upper_bound_alone(tiny) -> None:
    study = acdc_scribble_study(tiny, "cpu")
    for name, make in study.methods.items():
        _, draw = make(0)
        _, labels = draw(np.random.default_rng(0))
        missing = (labels == NOT_ANNOTATED).float().mean()
        if name == "all contours":
            assert missing == 0
        elif name == "random-walker labels":
            assert missing < 0.3
        else:
            assert missing > 0.5


def test_all_methods_begin_with_the_same_weights(tiny) -> None:
    study = acdc_scribble_study(tiny, "cpu")
    heads = []
    for make in study.methods.values():
        learner, _ = make(3)
        network = getattr(learner.network, "main", learner.network)
        heads.append(network.head.weight)
    assert all(torch.equal(head, heads[0]) for head in heads)


def test_a_pack_without_scribbles_is_refused(tmp_path) -> None:
    write_scribbled(tmp_path)
    for file in (tmp_path / "acdc").iterdir():
        with np.load(file) as stored:
            arrays = {k: stored[k] for k in ("image", "label")}
        np.savez_compressed(file, **arrays)
    with pytest.raises(DataError, match="no scribbles"):
        acdc_scribble_study(tmp_path, "cpu")


def test_the_full_preset_is_the_theses() -> None:
    full = SCRIBBLE_PRESETS["full"]
    assert (full.side, full.schedule.batch_size, full.schedule.iterations) == (256, 24, 30_000)
    assert (full.schedule.learning_rate, full.schedule.poly_power) == (0.01, 0.9)
