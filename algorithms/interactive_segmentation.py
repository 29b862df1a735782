"""MIDeepSeg: a contour from a few clicks, and its correction by more clicks (chapter 3).

Stage 1: the network turns interior margin points into a first contour (`interactive_network`).
Stage 2, information-fusion graph cut (IF-GC): clicks on errors are fused with the probability by
their geodesic distance (`fuse`), and a minimum cut makes the contour.

What a correction may change. The pure intensity geodesic finds flat ways round every edge in 3-D,
so that one click outvotes the network everywhere. Here a click reaches as far as it says itself:
people click into the middle of an error, so the error reaches about as far as the contour is away.
Way length is charged in these units (`Fusion.length_weight`). What lies beyond `Fusion.reach`, or
changes without hanging together with the click, keeps its label. The pure formula is
`Fusion(local=False)`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit, logit

from algorithms.click_simulation import Points
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import ImageArray, MaskArray
from algorithms.geodesic import geodesic_distance
from algorithms.graph_cut import Neighbourhood, minimum_cut
from algorithms.interactive_network import Box, InteractiveNetwork, normalise, resize, seeds_in

_MOST_COARSE_VOXELS = 150_000  # of a crop's coarser grid: a tenth of a second
_MOST_REACHED_VOXELS = {2: 50_000, 3: 700_000}  # by one click, so that none is slow
_LAST_PULL = math.log(4.0)  # by (3-5), what is sure by two thirds keeps its label from here on


@dataclass(frozen=True)
class Fusion:
    """How clicks and probability are weighed against each other.

    Attributes:
        local: charge length by the distance to the contour and keep the rest; False is the pure
            formula over the whole crop.
        length_weight: cost of a way as long as the contour is away from the click.
        intensity_weight: cost of a change of grey value by one standard deviation of the crop.
        reach: what costs more keeps its label.
        least_reach_voxels: the contour counts as this far away at least,
        most_reach_share: and as this share of the crop's extent at most. Where a target is missing
            in a whole slice, the contour is as far away as the next slice, whatever its size.
        pairwise_weight: lambda of (3-8).
        neighbourhood: of that cut. Where grey values say nothing, a cut between face neighbours
            likes the faces of a box; "full" makes round ones, with about a sixth of lambda in 3-D.
        intensity_sigma: sigma of (3-10), of the crop's grey-value range.
        temperature: divides the network's logits, since networks are too sure of themselves.
        first_pairwise_weight: lambda of a cut of the first contour; 0 takes it as it is.
        contour_doubt: at its edge a given contour has probability 1 - contour_doubt / 2 inside; the
            doubt fades away from it, over the greatest distance that a click can say.
        engine: of the minimum cut.
    """

    local: bool = True
    length_weight: float = 0.4
    intensity_weight: float = 0.3
    reach: float = 3.0
    least_reach_voxels: float = 1.0
    most_reach_share: float = 0.2
    pairwise_weight: float = 1.0
    neighbourhood: Neighbourhood = "face"
    intensity_sigma: float = 0.1
    temperature: float = 1.0
    first_pairwise_weight: float = 0.0
    contour_doubt: float = 0.0
    engine: Literal["auto", "pymaxflow", "scipy"] = "auto"

    def __post_init__(self) -> None:
        """Refuse what is no setting.

        Raises:
            ValueError: a length, reach, sigma or temperature that is not positive and finite, a
                negative weight, a doubt outside [0, 1), an unknown neighbourhood or engine.
        """
        positive = (
            self.length_weight,
            self.reach,
            self.least_reach_voxels,
            self.most_reach_share,
            self.intensity_sigma,
            self.temperature,
        )
        weights = (self.intensity_weight, self.pairwise_weight, self.first_pairwise_weight)
        # Compared so that NaN and infinity fail.
        fits = all(0 < value < math.inf for value in positive)
        fits &= all(0 <= value < math.inf for value in weights) and 0 <= self.contour_doubt < 1
        fits &= self.neighbourhood in ("full", "face")
        if not fits or self.engine not in ("auto", "pymaxflow", "scipy"):
            raise ValueError(
                f"{self}: lengths, reach, sigma and temperature are positive and finite, weights "
                "not negative, doubt below 1, the neighbourhood is 'full' or 'face', and the "
                "engine is 'auto', 'pymaxflow' or 'scipy'"
            )


def default_fusion(dimensions: int) -> Fusion:
    """Return the settings for 2-D or 3-D, where the network knows less and edges help it."""
    if dimensions == 2:
        return Fusion()
    return Fusion(
        least_reach_voxels=1.5,
        most_reach_share=0.1,
        temperature=2.0,
        pairwise_weight=1.0 / 6.0,
        neighbourhood="full",
        first_pairwise_weight=4.0,
        contour_doubt=0.5,
    )


def fuse(
    foreground_probability: NDArray[np.floating],
    foreground_distance: NDArray[np.floating] | None,
    background_distance: NDArray[np.floating] | None,
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Fuse a probability with the geodesic distances of clicks: (3-3)..(3-7).

    Ef = e^-Df / (e^-Df + e^-Db), Eb = 1 - Ef, a = e^-min(Df, Db)
    Rf = (1 - a) Pf + a Ef, Rb = (1 - a) (1 - Pf) + a Eb = 1 - Rf

    Args:
        foreground_probability: Pf in [0, 1], any shape.
        foreground_distance: Df to the nearest foreground click, same shape; None without any,
            which counts as infinitely far.
        background_distance: Db, likewise.

    Returns:
        Rf and Rb.

    >>> fuse(np.array([0.5]), np.array([0.0]), None)[0].tolist()
    [1.0]
    """
    none = np.full_like(foreground_probability, np.inf)
    df = none if foreground_distance is None else foreground_distance
    db = none if background_distance is None else background_distance
    nearer = np.minimum(df, db)
    alpha = np.exp(-nearer)
    # e^-Df / (e^-Df + e^-Db), without overflow and without inf - inf where no click is near.
    with np.errstate(invalid="ignore", over="ignore"):
        ef = np.where(np.isinf(nearer), 0.5, 1.0 / (1.0 + np.exp(df - db)))
    rf = (1.0 - alpha) * foreground_probability + alpha * ef
    rb = (1.0 - alpha) * (1.0 - foreground_probability) + alpha * (1.0 - ef)
    return rf.astype(foreground_probability.dtype), rb.astype(foreground_probability.dtype)


@dataclass(frozen=True)
class Step:
    """One step of a doctor, and what it took.

    Attributes:
        kind: "segment", "contour" (given, not made here) or "refine".
        foreground: clicked voxels inside the target.
        background: clicked voxels outside.
        seconds: from the clicks to the mask on the original grid, by the segmenter's clock.
    """

    kind: Literal["segment", "contour", "refine"]
    foreground: Points
    background: Points
    seconds: float


@dataclass(frozen=True, eq=False)
class _Before:
    """What a step changed, for the way back: copies of all layers inside a window."""

    window: Box
    layers: tuple[NDArray[np.generic], ...]
    box: Box | None


class InteractiveSegmenter:
    """Segments targets in one image by clicks: set the image once, then click.

    Args:
        network: for stage 1; None when only given contours are corrected.
        fusion: see `Fusion`; None means `default_fusion` of the image's dimensions.
        clock: gives seconds, such as `time.perf_counter`; without it no time is known (NaN).
    """

    def __init__(
        self,
        network: InteractiveNetwork | None = None,
        fusion: Fusion | None = None,
        *,
        clock: Callable[[], float] = lambda: math.nan,
    ) -> None:
        self.network = network
        self._fusion = fusion
        self.fusion = fusion or Fusion()
        self._clock = clock
        self._image: ImageArray | None = None
        self.steps: list[Step] = []

    def set_image(
        self, image: NDArray[np.floating], spacing_mm: tuple[float, ...] | None = None
    ) -> None:
        """Take an image `[y, x]` or `[z, y, x]` and forget the last one, unless it is refused.

        Raises:
            ValueError: shape or spacing that does not fit.
            DataError: a value is not finite.
        """
        if image.ndim not in (2, 3) or image.size == 0:
            raise ValueError(f"an image is [y, x] or [z, y, x] and not empty, not {image.shape}")
        spacing = (1.0,) * image.ndim if spacing_mm is None else tuple(spacing_mm)
        if len(spacing) != image.ndim or not all(np.isfinite(s) and s > 0 for s in spacing):
            raise ValueError(f"spacing {spacing} for {image.ndim} axes: a positive number for each")
        values = np.asarray(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise DataError(
                "the image holds values that are not finite (NaN or infinite): export it again"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            grey = normalise(values / (np.abs(values).max() or 1.0))  # any unit will do
        self._image = grey
        self.fusion = self._fusion or default_fusion(grey.ndim)
        self._spacing = spacing
        # The radius of the disc or ball that holds as many voxels.
        unit_ball = math.pi if image.ndim == 2 else math.pi * 4 / 3
        most = _MOST_REACHED_VOXELS[image.ndim] * math.prod(spacing)
        self._farthest_mm: float = (most / unit_ball) ** (1 / image.ndim)
        self.clear()

    def clear(self) -> MaskArray:
        """Forget all steps and begin with nothing, on the same image."""
        image = self._need_image()
        self._probability = np.zeros(image.shape, dtype=np.float32)
        self._distances = {
            True: np.full(image.shape, np.inf, dtype=np.float32),
            False: np.full(image.shape, np.inf, dtype=np.float32),
        }
        self._clicked = {True: np.zeros(image.shape, bool), False: np.zeros(image.shape, bool)}
        self._mask = np.zeros(image.shape, dtype=bool)
        self._box: Box | None = None
        self._history: list[_Before] = []
        self.steps = []
        return self.mask

    @property
    def mask(self) -> MaskArray:
        """The contour so far, on the image's own grid."""
        self._need_image()
        return self._mask.copy()

    def segment(self, points: Points) -> MaskArray:
        """Stage 1: segment the target that these interior margin points lie in.

        A second call adds a second target to the first.

        Args:
            points: voxel indices `[n, 2]` or `[n, 3]` in the array's axis order.

        Returns:
            All targets, on the image's own grid.

        Raises:
            DataError: no point, or one outside the image.
        """
        began = self._clock()
        image = self._need_image()
        if self.network is None or self.network.spec.dimensions != image.ndim:
            raise ValueError(f"stage 1 needs a network for {image.ndim} dimensions")
        clicks = self._points(points)
        if not len(clicks):
            raise DataError("click at least one point inside the target, near its edge")
        self._refuse_contradiction(clicks, foreground=True)
        probability, box = self.network.probability(image, clicks)
        probability = _softened(probability, self.fusion.temperature)
        if self.fusion.first_pairwise_weight > 0:
            probability = self._cut_first(probability, clicks, box)
        self._remember(box)
        try:
            self._box = _union(self._box, box)
            self._clicked[True][tuple(clicks.T)] = True
            inside = clicks - [side.start for side in box]
            found = probability > 0.5
            found[tuple(inside.T)] = True
            found = _pieces_with(found, inside)
            probability = _agreeing(probability, found)
            self._probability[box] = np.maximum(self._probability[box], probability)
            self._mask[box] |= found & ~self._clicked[False][box]
            if any(step.kind == "refine" for step in self.steps):  # what was corrected stays so
                none = np.empty((0, image.ndim), dtype=np.int64)
                self._spread({True: none, False: none}, box)
                self._cut(box)
        except BaseException:  # also when a person interrupts: half a step is none
            self._take_back()
            raise
        return self._done("segment", clicks, clicks[:0], began)

    def set_contour(self, mask: MaskArray) -> MaskArray:
        """Start from a contour that something else made; earlier steps here are forgotten."""
        began = self._clock()
        image = self._need_image()
        if mask.shape != image.shape or mask.dtype != bool:
            raise ValueError(f"contour {mask.dtype} {mask.shape} for an image of {image.shape}")
        self.clear()
        self._mask = mask.copy()
        self._probability = mask.astype(np.float32)
        places = np.argwhere(mask)
        if len(places):
            self._box = _grown(places, image.shape)
            self._doubt(self._box)
        none = np.empty((0, image.ndim), dtype=np.int64)
        self.steps.append(Step("contour", none, none, self._clock() - began))
        return self.mask

    def refine(
        self, foreground: Points | None = None, background: Points | None = None
    ) -> MaskArray:
        """Stage 2: correct the contour by clicks on errors.

        Args:
            foreground: voxels that belong to the target and are outside the contour.
            background: voxels that do not and are inside.

        Returns:
            All targets, on the image's own grid.

        Raises:
            DataError: no click, one outside the image, or one that contradicts another.
        """
        began = self._clock()
        image = self._need_image()
        none = np.empty((0, image.ndim), dtype=np.int64)
        clicks = {
            True: none if foreground is None else self._points(foreground),
            False: none if background is None else self._points(background),
        }
        if not len(clicks[True]) + len(clicks[False]):
            raise DataError("click on what is missing, or on what is too much")
        if {*map(tuple, clicks[True])} & {*map(tuple, clicks[False])}:
            raise DataError(
                "one voxel was clicked as target and as background: take one click back"
            )
        for kind in (True, False):
            self._refuse_contradiction(clicks[kind], foreground=kind)
        everywhere = np.concatenate([clicks[True], clicks[False]])
        if self.fusion.local:
            windows = [self._window(p, self._contour_mm(p)) for p in everywhere]
            window = windows[0]
            for other in windows[1:]:
                window = _union(window, other)
        else:
            window = _union(self._box, _grown(everywhere, image.shape))
        self._remember(window)
        try:
            self._spread(clicks, window)
            for kind in (True, False):
                self._clicked[kind][tuple(clicks[kind].T)] = True
            self._box = _union(self._box, _grown(everywhere, image.shape))
            self._cut(window)
            if self.fusion.local:
                self._keep_elsewhere(window, everywhere)
        except BaseException:  # also when a person interrupts: half a click is none
            self._take_back()
            raise
        return self._done("refine", clicks[True], clicks[False], began)

    def undo(self) -> MaskArray:
        """Take the last step back; without one, nothing happens."""
        self._need_image()
        if self._history:
            self._take_back()
            self.steps.pop()
        return self.mask

    def _cut_first(self, probability: ImageArray, clicks: Points, box: Box) -> ImageArray:
        """Move the first contour onto edges; a large crop is cut on a coarser grid."""
        shape = _coarse(probability.shape)
        grey = resize(self._need_image()[box], shape)
        low, high = np.percentile(grey, (1, 99))
        coarse = resize(probability, shape)
        found = minimum_cut(
            coarse,
            (grey - low) / max(float(high - low), 1e-6),
            seeds_in(clicks, box, shape),
            None,
            spacing_mm=self._relative_spacing(),
            pairwise_weight=self.fusion.first_pairwise_weight,
            intensity_sigma=self.fusion.intensity_sigma,
            engine=self.fusion.engine,
        )
        return resize(_agreeing(coarse, found), probability.shape)

    def _doubt(self, box: Box) -> None:
        """Doubt a given contour at its edge, and less the farther a voxel is away from it."""
        probability = self._probability[box]
        label = self._mask[box]
        edge = ndimage.binary_dilation(label) & ~ndimage.binary_erosion(label, border_value=1)
        places = np.argwhere(edge)
        if not self.fusion.contour_doubt or not len(places):
            return
        size, shape = np.array(label.shape), _coarse(label.shape)
        elsewhere = np.ones(shape, dtype=bool)
        elsewhere[tuple((places * shape // size).T)] = False
        away_mm = ndimage.distance_transform_edt(
            elsewhere, sampling=np.array(self._spacing) * size / shape
        )
        doubt = self.fusion.contour_doubt * np.exp(-away_mm / self._largest_unit_mm())
        probability += (0.5 - probability) * resize(doubt, label.shape)

    # -- what a click does ------------------------------------------------------------------

    def _spread(self, clicks: dict[bool, Points], window: Box) -> None:
        """Bring the distances to the clicks up to date inside the window."""
        low, deviation = self._grey_level()
        grey = (self._need_image()[window] - low) / deviation
        start = np.array([side.start for side in window])
        for kind, points in clicks.items():
            distance = self._distances[kind]
            if not self.fusion.local:
                seeds = self._corrections(kind)[window]
                seeds[tuple((points - start).T)] = True
                distance[window] = geodesic_distance(grey, seeds)
                continue
            for point in points:
                contour_mm = self._contour_mm(point)
                own = self._window(point, contour_mm)
                inner = tuple(
                    slice(side.start - s, side.stop - s) for side, s in zip(own, start, strict=True)
                )
                seed = np.zeros([side.stop - side.start for side in own], dtype=bool)
                seed[tuple(point - [side.start for side in own])] = True
                nearer = geodesic_distance(
                    grey[inner] * np.float32(self.fusion.intensity_weight),
                    seed,
                    spacing_mm=self._spacing,
                    length_weight_per_mm=self.fusion.length_weight / contour_mm,
                    maximum=self._reach(contour_mm),
                )
                distance[own] = np.minimum(distance[own], nearer)

    def _corrections(self, foreground: bool) -> MaskArray:
        """Mark all correction clicks of a kind: the network has read the first points already."""
        marks = np.zeros(self._mask.shape, dtype=bool)
        for step in self.steps:
            if step.kind == "refine":
                marks[tuple((step.foreground if foreground else step.background).T)] = True
        return marks

    def _cut(self, window: Box) -> None:
        """Cut again inside a window, where a click reaches."""
        near_foreground, near_background = (
            self._distances[True][window],
            self._distances[False][window],
        )
        fused, _ = fuse(self._probability[window], near_foreground, near_background)
        reached = np.isfinite(near_foreground) | np.isfinite(near_background)
        seeds = {kind: self._clicked[kind][window] for kind in (True, False)}
        if self.fusion.local:
            fused = np.where(reached, fused, self._mask[window].astype(np.float32))
        low, high = self._grey_range()
        self._mask[window] = minimum_cut(
            np.clip(fused, 0.0, 1.0),
            (self._need_image()[window] - low) / max(high - low, 1e-6),
            seeds[True],
            seeds[False],
            spacing_mm=self._relative_spacing(),
            pairwise_weight=self.fusion.pairwise_weight,
            intensity_sigma=self.fusion.intensity_sigma,
            neighbourhood=self.fusion.neighbourhood,
            region=reached if self.fusion.local else None,
            engine=self.fusion.engine,
        )

    def _keep_elsewhere(self, window: Box, clicks: Points) -> None:
        """Give back what a correction changed without hanging together with its clicks.

        A cut also smooths a doubtful contour where no click says anything.
        """
        before = self._history[-1].layers[0]
        changed = self._mask[window] != before
        inside = clicks - [side.start for side in window]
        changed[tuple(inside.T)] = True
        self._mask[window] = np.where(_pieces_with(changed, inside), self._mask[window], before)

    def _contour_mm(self, point: Points) -> float:
        """Distance from a click to the nearest voxel of the other label, in mm, within limits."""
        label = bool(self._mask[tuple(point)])
        spacing = np.array(self._spacing)
        least = self.fusion.least_reach_voxels * float(spacing.min())
        most = self._largest_unit_mm()
        reach = 4
        while True:
            box = _box(point - reach, point + reach, self._mask.shape)
            others = np.argwhere(self._mask[box] != label)
            found = np.inf
            if len(others):
                steps_mm = (others + [side.start for side in box] - point) * spacing
                found = float(np.sqrt(np.square(steps_mm).sum(axis=1).min()))
            # Nearer ones cannot lie outside the box.
            if found <= reach * spacing.min() or reach * spacing.min() >= most:
                if np.isinf(found) and (self._mask == label).all():
                    return least  # no contour says how large the error is
                return max(min(found, most), least)
            reach *= 2

    def _largest_unit_mm(self) -> float:
        """Return the distance to the contour that a click says at most.

        A click ends at `_farthest_mm`, where it must have nothing more to say.
        """
        most: float = self._farthest_mm * self.fusion.length_weight / _LAST_PULL
        if self._box is None:
            return most
        spacing = np.array(self._spacing)
        crop_mm = float(np.prod([s.stop - s.start for s in self._box] * spacing))
        extent_mm = float(crop_mm ** (1 / spacing.size))
        return min(most, self.fusion.most_reach_share * extent_mm)

    def _window(self, point: Points, contour_mm: float) -> Box:
        """Return how far a click can reach along the axes."""
        farthest_mm = self._reach(contour_mm) / self.fusion.length_weight * contour_mm
        reach = np.ceil(farthest_mm / np.array(self._spacing))
        return _box(point - reach, point + reach, self._mask.shape)

    def _reach(self, contour_mm: float) -> float:
        """Return the geodesic distance at which a click ends, nowhere beyond `_farthest_mm`.

        So it ends in something round, which no window cuts off.
        """
        return min(self.fusion.reach, self.fusion.length_weight * self._farthest_mm / contour_mm)

    # -- bookkeeping ------------------------------------------------------------------------

    def _need_image(self) -> ImageArray:
        if self._image is None:
            raise ValueError("set_image comes first")
        return self._image

    def _points(self, points: Points) -> Points:
        image = self._need_image()
        clicks = np.asarray(points)
        if clicks.size == 0:
            return np.empty((0, image.ndim), dtype=np.int64)
        if clicks.ndim != 2 or clicks.shape[1] != image.ndim or clicks.dtype.kind not in "iu":
            raise ValueError(
                f"clicks are whole voxel indices [n, {image.ndim}], not {clicks.dtype} "
                f"{list(clicks.shape)}"
            )
        outside = ((clicks < 0) | (clicks >= image.shape)).any(axis=1)
        if outside.any():
            where = tuple(int(c) for c in clicks[outside][0])
            raise DataError(f"the click {where} lies outside the image of {image.shape} voxels")
        return clicks.astype(np.int64)

    def _refuse_contradiction(self, clicks: Points, *, foreground: bool) -> None:
        if self._clicked[not foreground][tuple(clicks.T)].any():
            raise DataError(
                "this voxel was clicked the other way round before: undo that click, or click "
                "beside it"
            )

    def _layers(self) -> tuple[NDArray[np.generic], ...]:
        return (
            self._mask,
            self._probability,
            *self._distances.values(),
            *self._clicked.values(),
        )

    def _remember(self, window: Box) -> None:
        layers = tuple(layer[window].copy() for layer in self._layers())
        self._history.append(_Before(window, layers, self._box))

    def _take_back(self) -> None:
        before = self._history.pop()
        for layer, values in zip(self._layers(), before.layers, strict=True):
            layer[before.window] = values
        self._box = before.box

    def _done(
        self,
        kind: Literal["segment", "refine"],
        foreground: Points,
        background: Points,
        began: float,
    ) -> MaskArray:
        mask = self.mask
        self.steps.append(Step(kind, foreground, background, self._clock() - began))
        return mask

    def _grey_level(self) -> tuple[float, float]:
        crop = self._crop()
        return float(crop.mean()), max(float(crop.std()), 1e-6)

    def _grey_range(self) -> tuple[float, float]:
        low, high = np.percentile(self._crop().ravel()[::7], (1, 99))
        return float(low), float(high)

    def _crop(self) -> ImageArray:
        image = self._need_image()
        return image if self._box is None else image[self._box]

    def _relative_spacing(self) -> tuple[float, ...]:
        """Spacing by its smallest: lambda of (3-8) then means the same on fine and coarse grids."""
        smallest = min(self._spacing)
        return tuple(s / smallest for s in self._spacing)


def _coarse(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a grid over the same crop that is coarse enough to be fast."""
    coarser = max(math.prod(shape) / _MOST_COARSE_VOXELS, 1.0) ** (1 / len(shape))
    return tuple(max(int(n / coarser), 1) for n in shape)


def _softened(probability: ImageArray, temperature: float) -> ImageArray:
    """Divide the logits by a temperature."""
    if temperature == 1.0:
        return probability
    return np.asarray(expit(logit(np.clip(probability, 1e-6, 1 - 1e-6)) / temperature))


def _agreeing(probability: ImageArray, found: MaskArray) -> ImageArray:
    """Mirror the probability where the contour decides otherwise.

    What was cut away must not come back with the first correction.
    """
    return np.where(found == (probability > 0.5), probability, 1.0 - probability)


def _pieces_with(mask: MaskArray, points: Points) -> MaskArray:
    """Keep the connected pieces that hold a point."""
    pieces, _ = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    return np.isin(pieces, np.unique(pieces[tuple(points.T)]))


def _grown(places: Points, shape: tuple[int, ...]) -> Box:
    """Return the box of some voxels, grown by a quarter and by 3 voxels at least."""
    low, high = places.min(axis=0), places.max(axis=0)
    grow = np.maximum((high - low + 1) // 4, 3)
    return _box(low - grow, high + grow, shape)


def _box(low: NDArray[np.number], high: NDArray[np.number], shape: tuple[int, ...]) -> Box:
    """Return the box from `low` to `high`, both inside it, cut at the image's edge."""
    return tuple(
        slice(max(int(a), 0), min(int(b) + 1, n)) for a, b, n in zip(low, high, shape, strict=True)
    )


def _union(one: Box | None, other: Box) -> Box:
    if one is None:
        return other
    return tuple(
        slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True)
    )
