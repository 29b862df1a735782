import numpy as np
import pytest
import torch
from torch import nn

from algorithms.contracts.errors import DataError
from evaluation.benchmarks.dual_task_study import (
    ATRIUM_PRESETS,
    AtriumCase,
    AtriumPreset,
    draw_crops,
    la_dual_task_study,
    predict_atrium,
    split_names,
)
from evaluation.benchmarks.few_labels import run_few_labels
from tests.evaluation.benchmarks.few_label_packs import make_few_labels_tiny, write_atria


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    make_few_labels_tiny(monkeypatch)
    write_atria(tmp_path)
    return tmp_path


def case(value: float, labelled: bool = True, shape=(10, 12, 14)) -> AtriumCase:
    image = np.full(shape, value, dtype=np.float32)
    image += np.arange(image.size).reshape(shape) / image.size
    if not labelled:
        return AtriumCase(image)
    label = (image > value + 0.5).astype(np.uint8)
    return AtriumCase(image, label, image - value - 0.5)


def test_eight_are_labelled_eight_are_not_and_the_rest_is_tested() -> None:
    names = [f"V{n:02d}" for n in range(24)]
    split = split_names(names[::-1])
    assert split == {"labelled": names[:8], "unlabelled": names[8:16], "test": names[16:]}


def test_half_of_a_batch_is_labelled_and_comes_first() -> None:
    draw = draw_crops([case(0.0), case(10.0)], [case(100.0, False)], 4, (4, 6, 6))
    images, labels, level_sets = draw(np.random.default_rng(0))
    assert images.shape == (4, 1, 4, 6, 6)
    assert labels.shape == level_sets.shape == (2, 1, 4, 6, 6)
    assert (images[:2] < 50).all()
    assert (images[2:] >= 100).all()
    # Cut at the same place, turned alike: the level set is the image, shifted.
    shift = images[:2] - level_sets
    for part in shift:
        torch.testing.assert_close(part, part.flatten()[0].expand_as(part), atol=1e-5, rtol=0)
    assert torch.equal(labels > 0, level_sets > 0)


def test_without_unlabelled_cases_all_are_labelled() -> None:
    images, labels, _ = draw_crops([case(0.0)], (), 4, (4, 6, 6))(np.random.default_rng(0))
    assert len(images) == len(labels) == 4


def test_a_volume_smaller_than_the_crop_is_continued_outwards() -> None:
    images, *_ = draw_crops([case(5.0, shape=(3, 4, 4))], (), 2, (4, 6, 6))(
        np.random.default_rng(0)
    )
    assert images.shape == (2, 1, 4, 6, 6)
    assert (images >= 5).all()


def test_labels_of_the_unlabelled_are_hidden(tiny) -> None:
    study = la_dual_task_study(tiny, "cpu")
    for name, make in study.methods.items():
        _, draw = make(0)
        images, labels, _ = draw(np.random.default_rng(0))
        assert len(images) == 4
        assert len(labels) == (4 if name == "all contours" else 2)


def test_every_method_runs_and_is_measured(tiny, tmp_path) -> None:
    study = la_dual_task_study(tiny, "cpu")
    assert study.settings["split"]["test"] == ["V16", "V17"]
    rows = run_few_labels(study, tmp_path / "out", seeds=[0], log=lambda _: None)
    assert list(dict.fromkeys(r["method"] for r in rows)) == list(study.methods)
    assert len(rows) == 10 * 2


class Bright(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


@pytest.mark.parametrize("coarser", [1, 2])
def test_predictions_lie_on_the_images_own_grid(coarser) -> None:
    image = np.full((11, 21, 23), -1.0, dtype=np.float32)
    image[4:, :10, 12:] = 1.0
    preset = AtriumPreset(
        coarser=coarser,
        crop_zyx=(4, 8, 8),
        stride_zyx=(2, 4, 4),
        base_channels=2,
        convolutions=(1, 1),
        normalisation="batch",
        dropout=0.0,
        asked=2,
        schedule=ATRIUM_PRESETS["cpu"].schedule,
    )
    found = predict_atrium(Bright(), image, preset=preset)
    assert found.shape == image.shape
    if coarser == 1:
        np.testing.assert_array_equal(found, image > 0)
    else:
        assert (found != (image > 0)).mean() < 0.05
        assert found[-1, 0, -1] == 1  # what fills no coarse voxel at the far end


def test_too_few_volumes_are_refused(tmp_path) -> None:
    write_atria(tmp_path, volumes=16)
    with pytest.raises(DataError, match="fewer than 17"):
        la_dual_task_study(tmp_path, "cpu")


def test_the_full_preset_is_the_theses() -> None:
    full = ATRIUM_PRESETS["full"]
    assert (full.dropout, full.normalisation) == (0.5, "batch")
    assert (full.crop_zyx, full.stride_zyx) == ((80, 112, 112), (4, 18, 18))
    schedule = full.schedule
    assert (schedule.iterations, schedule.batch_size, schedule.decay_every) == (6000, 4, 2500)
