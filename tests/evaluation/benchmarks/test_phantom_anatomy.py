import numpy as np
import pytest

from algorithms.contracts.volume import Geometry
from evaluation.benchmarks.phantom_anatomy import Tissue, draw_head, smooth_noise

GRID = Geometry((26, 72, 72), (5.0, 3.0, 3.0), (-106.5, -98.5, -62.5))


def test_smooth_noise_is_normalised_and_smooth() -> None:
    field = smooth_noise(np.random.default_rng(0), GRID, 20.0)
    assert field.shape == GRID.shape_zyx
    assert field.std() == pytest.approx(1.0, abs=1e-3)
    assert np.abs(np.diff(field, axis=2)).mean() < 0.25  # 3 mm steps against 20 mm features


def test_head_has_all_tissues_and_air_around_it() -> None:
    seen: set[int] = set()
    for seed in range(6):
        head = draw_head(np.random.default_rng(seed), GRID)
        seen |= set(np.unique(head.labels).tolist())
        assert not head.inside[:, 0, 0].any()
        assert (head.labels[~head.inside] == Tissue.AIR).all()
    assert seen == {int(tissue) for tissue in Tissue}


def test_tumour_is_one_piece_of_tumour_tissue_in_the_body() -> None:
    from scipy import ndimage

    for seed in range(6):
        head = draw_head(np.random.default_rng(seed), GRID)
        assert ndimage.label(head.tumour)[1] == 1
        assert (head.labels[head.tumour] == Tissue.TUMOUR).all()
        assert head.inside[head.tumour].all()
