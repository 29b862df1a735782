"""Make ready what answers clicks, while people sign in: the first answer is as quick as others."""

from threading import Thread

import numpy as np


def in_background() -> None:
    """Load and compile in a thread of its own; a server that ends does not wait for it."""
    Thread(target=warm_up, name="warm-up", daemon=True).start()


def warm_up() -> None:
    """Answer a few clicks on an invented image, in 2-D and 3-D, which compiles all that is used."""
    from algorithms.interactive_network import default_network
    from algorithms.interactive_segmentation import InteractiveSegmenter

    for shape in ((48, 48), (12, 48, 48)):
        dimensions = len(shape)
        centre = np.array(shape) // 2
        away = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - centre, axis=-1)
        segmenter = InteractiveSegmenter(default_network(2 if dimensions == 2 else 3))
        segmenter.set_image((away < 9).astype(np.float32))
        step = np.zeros(dimensions, dtype=np.int64)
        step[-1] = 7
        segmenter.segment(np.stack([centre - step, centre + step]))
        segmenter.refine(background=(centre + 2 * step)[None])
