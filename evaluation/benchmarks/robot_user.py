"""A robot user corrects contours click by click, with our method and with its comparators."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from algorithms.click_simulation import Points, interior_margin_points, next_click
from algorithms.contracts.volume import ImageArray, MaskArray
from algorithms.graph_cut import minimum_cut
from algorithms.interactive_network import InteractiveNetwork, crop_box
from algorithms.interactive_segmentation import Fusion, InteractiveSegmenter
from evaluation.overlap import dice

Spacing = tuple[float, ...]


class ClickMethod(Protocol):
    """Something that turns clicks into a mask on the image's own grid."""

    def start(self, image: ImageArray, spacing: Spacing | None, points: Points) -> MaskArray:
        """Make the first contour from interior margin points."""

    def correct(self, point: tuple[int, ...], *, foreground: bool) -> MaskArray:
        """Correct it by one click."""


class FusionGraphCut:
    """IF-GC, local or by the pure formula."""

    def __init__(self, network: InteractiveNetwork, fusion: Fusion | None = None) -> None:
        self._segmenter = InteractiveSegmenter(network, fusion, clock=time.perf_counter)

    def start(self, image: ImageArray, spacing: Spacing | None, points: Points) -> MaskArray:
        """Run stage 1."""
        self._segmenter.set_image(image, spacing)
        return self._segmenter.segment(points)

    def correct(self, point: tuple[int, ...], *, foreground: bool) -> MaskArray:
        """Run stage 2."""
        click = np.array([point])
        if foreground:
            return self._segmenter.refine(foreground=click)
        return self._segmenter.refine(background=click)


class _OnOneCrop:
    """Keeps a crop and the clicks on it, for methods that begin anew after every click."""

    def _open(self, image: ImageArray, points: Points, network: InteractiveNetwork) -> None:
        self._image, self._network = image, network
        self._points = {True: [*map(tuple, points)], False: []}
        self._box = crop_box(points, image.shape, network.spec)

    def correct(self, point: tuple[int, ...], *, foreground: bool) -> MaskArray:
        """Add the click and begin anew."""
        self._points[foreground].append(point)
        self._box = tuple(
            slice(min(side.start, p), max(side.stop, p + 1))
            for side, p in zip(self._box, point, strict=True)
        )
        return self._solve()

    def _seeds(self, foreground: bool) -> MaskArray:
        seeds = np.zeros(self._image.shape, dtype=bool)
        for point in self._points[foreground]:
            seeds[point] = True
        return seeds[self._box]

    def _grey(self) -> ImageArray:
        crop = self._image[self._box]
        low, high = np.percentile(crop, (1, 99))
        return np.asarray((crop - low) / max(float(high - low), 1e-6), dtype=np.float32)

    def _solve(self) -> MaskArray:
        raise NotImplementedError


class PlainGraphCut(_OnOneCrop):
    """The thesis's "GC": clicks are hard constraints, and nothing is fused."""

    def __init__(self, network: InteractiveNetwork) -> None:
        self._net = network

    def start(self, image: ImageArray, spacing: Spacing | None, points: Points) -> MaskArray:
        """Take the network's probability and cut."""
        self._open(image, points, self._net)
        self._probability = np.zeros(image.shape, dtype=np.float32)
        probability, box = self._net.probability(image, points)
        self._probability[box] = probability
        return self._solve()

    def _solve(self) -> MaskArray:
        mask = np.zeros(self._image.shape, dtype=bool)
        mask[self._box] = minimum_cut(
            self._probability[self._box], self._grey(), self._seeds(True), self._seeds(False)
        )
        return mask


# Best of 130 (scikit-image's default), 1000, 5000 and 20000 where our own settings were chosen.
RANDOM_WALKER_BETA = {2: 130.0, 3: 20_000.0}


class RandomWalker(_OnOneCrop):
    """Random walker (Grady 2006) of scikit-image: clicks against the frame of the crop."""

    def __init__(self, network: InteractiveNetwork) -> None:
        self._net = network
        self._beta = RANDOM_WALKER_BETA[network.spec.dimensions]

    def start(self, image: ImageArray, spacing: Spacing | None, points: Points) -> MaskArray:
        """Walk from the first clicks."""
        self._open(image, points, self._net)
        return self._solve()

    def _solve(self) -> MaskArray:
        from skimage.segmentation import random_walker

        marks = np.where(self._seeds(False), 2, 0)
        frame = np.ones(marks.shape, dtype=bool)
        frame[(slice(1, -1),) * frame.ndim] = False
        marks[frame] = 2
        marks[self._seeds(True)] = 1
        mask = np.zeros(self._image.shape, dtype=bool)
        mode = "cg_j" if frame.ndim == 3 else "bf"
        mask[self._box] = random_walker(self._grey(), marks, beta=self._beta, mode=mode) == 1
        return mask


@dataclass(frozen=True)
class ClickCurve:
    """How one target went: index 0 is the first contour, k is after k corrections.

    Attributes:
        first_points: interior margin points of the first contour.
        dice: after each correction; the last value holds for all that would follow.
        seconds: of each step.
    """

    first_points: int
    dice: tuple[float, ...]
    seconds: tuple[float, ...]

    def dice_after(self, clicks: int) -> float:
        """Return Dice after so many corrections."""
        return self.dice[min(clicks, len(self.dice) - 1)]

    def clicks_to_reach(self, dsc: float, *, limit: int) -> int:
        """Return the number of corrections until Dice is reached, or `limit`."""
        reached = next((k for k, value in enumerate(self.dice) if value >= dsc), limit)
        return min(reached, limit)


def play(
    method: ClickMethod,
    image: ImageArray,
    reference: MaskArray,
    spacing: Spacing | None,
    *,
    rng: np.random.Generator,
    most_clicks: int,
    enough: float = 1.0,
) -> ClickCurve:
    """Segment one target with a method, then correct it until it is good or patience ends."""
    points = interior_margin_points(reference, rng=rng)
    began = time.perf_counter()
    mask = method.start(image, spacing, points)
    seconds, scores = [time.perf_counter() - began], [dice(mask, reference)]
    clicked: set[tuple[int, ...]] = {*map(tuple, points.tolist())}
    while len(scores) <= most_clicks and scores[-1] < enough:
        click = next_click(mask, reference, spacing_mm=spacing)
        if click is None or click.point in clicked:
            break  # a person would not click twice on one voxel
        clicked.add(click.point)
        began = time.perf_counter()
        mask = method.correct(click.point, foreground=click.foreground)
        seconds.append(time.perf_counter() - began)
        scores.append(dice(mask, reference))
    return ClickCurve(len(points), tuple(scores), tuple(seconds))


METHODS: dict[str, Callable[[InteractiveNetwork], ClickMethod]] = {
    "if-gc": FusionGraphCut,
    "graph-cut": PlainGraphCut,
    "random-walker": RandomWalker,
    "if-gc-pure": lambda network: FusionGraphCut(network, Fusion(local=False)),
}
