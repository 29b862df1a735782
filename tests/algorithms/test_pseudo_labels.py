import numpy as np

from algorithms.pseudo_labels import pseudo_label

PROBABILITY = np.array([[0.0, 0.2, 0.5], [0.51, 0.8, 1.0]], np.float32)


def predictor(slices):
    """Answer every slice with the same probabilities."""
    return np.stack([PROBABILITY] * len(slices))


def test_pixels_above_one_half_are_labelled_and_all_count() -> None:
    images = [np.full((2, 3), i, np.float32) for i in range(3)]
    labelled = pseudo_label(predictor, images)
    assert [item.image is image for item, image in zip(labelled, images, strict=True)] == [True] * 3
    for item in labelled:
        np.testing.assert_array_equal(item.label, [[0, 0, 0], [1, 1, 1]])
        assert item.label.dtype == np.uint8
        assert (item.weight == 1).all()


def test_unsure_pixels_carry_no_loss() -> None:
    (item,) = pseudo_label(predictor, [np.zeros((2, 3), np.float32)], min_confidence=0.5)
    np.testing.assert_array_equal(item.weight, [[1, 1, 0], [0, 1, 1]])  # |2p - 1| >= 0.5
    assert item.weight.dtype == np.float32


def test_slices_of_different_size_are_labelled() -> None:
    def half(slices):
        return np.where(slices > 0, 0.9, 0.1).astype(np.float32)

    images = [np.ones((4, 6), np.float32), -np.ones((3, 3), np.float32)]
    full, empty = pseudo_label(half, images)
    assert full.label.shape == (4, 6)
    assert full.label.all()
    assert not empty.label.any()


def test_nothing_to_label_gives_nothing() -> None:
    assert pseudo_label(predictor, []) == []
