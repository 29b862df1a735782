"""A robot user corrects contours click by click, with our method and with its comparators."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from scipy import ndimage

from algorithms.click_simulation import Points, interior_margin_points, next_click
from algorithms.contracts.volume import ImageArray, MaskArray
from algorithms.graph_cut import minimum_cut
from algorithms.interactive_network import InteractiveNetwork, crop_box, resize
from algorithms.interactive_segmentation import Fusion, InteractiveSegmenter, default_fusion
from evaluation.overlap import dice

Spacing = tuple[float, ...]


class ClickMethod(Protocol):
    """Something that turns clicks into a mask on the image's own grid."""

    def start(self, image: ImageArray, spacing: Spacing | None, points: Points) -> MaskArray:
        """Make the first contour from interior margin points."""

    def correct(self, point: tuple[int, ...], *, foreground: bool) -> MaskArray:
        """Correct it by one click."""


def pure_fusion(dimensions: int) -> Fusion:
    """Return the pure formula, cut between face neighbours: a whole crop has too many others."""
    return replace(
        default_fusion(dimensions), local=False, pairwise_weight=1.0, neighbourhood="face"
    )


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

    def _open(
        self,
        image: ImageArray,
        spacing: Spacing | None,
        points: Points,
        network: InteractiveNetwork,
    ) -> None:
        self._image, self._network = image, network
        self._spacing = _in_pixels(spacing)
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
        self._open(image, spacing, points, self._net)
        self._probability = np.zeros(image.shape, dtype=np.float32)
        probability, box = self._net.probability(image, points)
        self._probability[box] = probability
        return self._solve()

    def _solve(self) -> MaskArray:
        mask = np.zeros(self._image.shape, dtype=bool)
        mask[self._box] = minimum_cut(
            self._probability[self._box],
            self._grey(),
            self._seeds(True),
            self._seeds(False),
            spacing_mm=self._spacing,
        )
        return mask


# Best of 130 (scikit-image's default), 1000, 5000 and 20000 where our own settings were chosen.
RANDOM_WALKER_BETA = {2: 130.0, 3: 20_000.0}


_MOST_WALKED_VOXELS = 300_000  # larger crops are walked on a coarser grid: seconds, not minutes


class RandomWalker(_OnOneCrop):
    """Random walker (Grady 2006) of scikit-image: clicks against the frame of the crop."""

    def __init__(self, network: InteractiveNetwork) -> None:
        self._net = network
        self._beta = RANDOM_WALKER_BETA[network.spec.dimensions]

    def start(self, image: ImageArray, spacing: Spacing | None, points: Points) -> MaskArray:
        """Walk from the first clicks."""
        self._open(image, spacing, points, self._net)
        return self._solve()

    def _solve(self) -> MaskArray:
        from skimage.segmentation import random_walker

        marks = np.where(self._seeds(False), 2, 0)
        marks[self._frame()] = 2
        marks[self._seeds(True)] = 1
        grey, sizes, spacing = self._grey(), marks.shape, self._spacing or (1.0,) * marks.ndim
        coarser = max((marks.size / _MOST_WALKED_VOXELS) ** (1 / marks.ndim), 1.0)
        if coarser > 1.0:
            shape = tuple(max(int(n / coarser), 1) for n in sizes)
            grey = resize(grey, shape)
            places = np.argwhere(marks)
            moved = np.zeros(shape, dtype=marks.dtype)
            at = (places * np.array(shape) // np.array(sizes)).T
            kinds = marks[tuple(places.T)]
            for kind in (2, 1):  # the first clicks stay where both meet
                moved[tuple(at[:, kinds == kind])] = kind
            marks = moved
        mode = "cg_j" if marks.ndim == 3 else "bf"
        with warnings.catch_warnings():  # of its solver, about what is not installed
            warnings.simplefilter("ignore")
            walked = random_walker(grey, marks, beta=self._beta, mode=mode, spacing=spacing)
        mask = np.zeros(self._image.shape, dtype=bool)
        mask[self._box] = resize((walked == 1).astype(np.float32), sizes) >= 0.5
        return mask

    def _frame(self) -> MaskArray:
        """Mark the faces of the crop, but not where the image ends: the target may go on there."""
        frame = np.zeros([side.stop - side.start for side in self._box], dtype=bool)
        for axis, (side, n) in enumerate(zip(self._box, self._image.shape, strict=True)):
            along = np.moveaxis(frame, axis, 0)
            along[0] |= side.start > 0
            along[-1] |= side.stop < n
        return frame if frame.any() else ~ndimage.binary_erosion(~frame)


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


def _in_pixels(spacing_mm: Spacing | None) -> Spacing | None:
    """Return spacing by its smallest: the robot aims at pixels, whatever their size."""
    return spacing_mm and tuple(s / min(spacing_mm) for s in spacing_mm)


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
    points = interior_margin_points(reference, rng=rng, spacing_mm=_in_pixels(spacing))
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
    "if-gc-pure": lambda network: FusionGraphCut(network, pure_fusion(network.spec.dimensions)),
}
