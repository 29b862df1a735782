"""One invented head and neck with a nasopharyngeal tumour, drawn as tissues on a scanner's grid.

Not an atlas: ellipsoids, slabs and smooth noise, placed so that the tumour has the neighbours that
make it hard to segment (mucosa, lymph nodes, muscles, marrow, parapharyngeal fat, airway).

Head coordinates are mm, origin in the nasopharyngeal airway: u to the patient's left, v posterior,
w superior. Research use only, not a medical device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from algorithms.contracts.volume import Geometry, ImageArray, MaskArray

Labels = NDArray[np.uint8]
Triple = tuple[float, float, float]
TUMOUR_VOLUME_ML = (10.5, 38.0)  # limits of the true tumour, before anybody draws it


class Tissue(IntEnum):
    """What fills a voxel; later names are painted over earlier ones only by `draw_head`'s order."""

    AIR = 0
    SKIN = 1
    FAT = 2
    MUSCLE = 3
    CORTICAL_BONE = 4
    MARROW = 5
    GREY_MATTER = 6
    WHITE_MATTER = 7
    CSF = 8
    MUCOSA = 9
    GLAND = 10
    NODE = 11
    VESSEL = 12
    SINUS_FLUID = 13
    VITREOUS = 14
    TUMOUR = 15


@dataclass(frozen=True, eq=False)
class Head:
    """A drawn patient.

    Attributes:
        labels: uint8 `[z, y, x]`, values of `Tissue`.
        tumour: the true tumour, before any hospital's way of contouring.
        inside: the body, without the air outside it.
    """

    labels: Labels
    tumour: MaskArray
    inside: MaskArray


def smooth_noise(
    rng: np.random.Generator, geometry: Geometry, length_mm: float | Triple
) -> ImageArray:
    """Draw a smooth random field `[z, y, x]` of mean near 0 and standard deviation 1.

    Cubic B-splines over random coefficients on a grid of `length_mm` (one number, or z, y, x).
    """
    lengths = np.broadcast_to(np.asarray(length_mm, dtype=float), (3,))
    weights = [
        _spline_weights(n, spacing / length, rng.random())
        for n, spacing, length in zip(
            geometry.shape_zyx, geometry.spacing_zyx_mm, lengths, strict=True
        )
    ]
    field = rng.standard_normal([w.shape[1] for w in weights]).astype(np.float32)
    for axis, weight in enumerate(weights):
        field = np.moveaxis(np.tensordot(weight, field, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(field / max(float(field.std()), 1e-6), dtype=np.float32)


def _spline_weights(n: int, step: float, shift: float) -> ImageArray:
    position = np.arange(n)[:, None] * step + shift + 1.0
    knots = np.arange(int(np.ceil(position[-1, 0])) + 3)[None, :]
    t = np.abs(position - knots)
    inner, outer = 2 / 3 - t**2 + t**3 / 2, np.clip(2 - t, 0, None) ** 3 / 6
    weights: ImageArray = np.where(t < 1, inner, outer).astype(np.float32)
    return weights


class _Canvas:
    """Head coordinates of every voxel of one patient, and the brushes that paint on them."""

    def __init__(self, rng: np.random.Generator, geometry: Geometry) -> None:
        self.labels = np.zeros(geometry.shape_zyx, dtype=np.uint8)
        self.u, self.v, self.w = _head_coordinates(rng, geometry)
        # per array axis: the mean head coordinate along it, and how far any voxel strays from that
        lines = (self.w.mean(axis=(1, 2)), self.v.mean(axis=(0, 2)), self.u.mean(axis=(0, 1)))
        full = (lines[0][:, None, None], lines[1][None, :, None], lines[2])
        strays = [np.abs(c - f).max() for c, f in zip((self.w, self.v, self.u), full, strict=True)]
        self._lines = list(zip(lines, strays, strict=True))

    def box(self, centre: Triple, semi: Triple) -> tuple[slice, slice, slice]:
        """Return the index box that surely holds an ellipsoid, so that brushes stay fast."""
        sides = []
        for (line, stray), middle, half in zip(self._lines, centre[::-1], semi[::-1], strict=True):
            near = np.flatnonzero(np.abs(line - middle) <= half + stray)
            sides.append(slice(near[0], near[-1] + 1) if near.size else slice(0, 0))
        return sides[0], sides[1], sides[2]

    def ellipsoid(self, tissue: Tissue, centre: Triple, semi: Triple, power: float = 2.0) -> None:
        """Paint |du/a|^p + |dv/b|^p + |dw/c|^p <= 1; p = 2 is an ellipsoid, 6 nearly a box."""
        box = self.box(centre, semi)
        inside = radius(self.u[box], self.v[box], self.w[box], centre, semi, power) <= 1.0
        self.labels[box][inside] = tissue

    def pair(self, tissue: Tissue, centre: Triple, semi: Triple, power: float = 2.0) -> None:
        """Paint a structure that the left and the right side have."""
        self.ellipsoid(tissue, centre, semi, power)
        self.ellipsoid(tissue, (-centre[0], centre[1], centre[2]), semi, power)


def radius(
    u: ImageArray, v: ImageArray, w: ImageArray, centre: Triple, semi: Triple, power: float = 2.0
) -> ImageArray:
    """Return the p-th power of a scaled distance: 0 at `centre`, 1 on the surface."""
    total = np.zeros(np.broadcast_shapes(u.shape, v.shape, w.shape), dtype=np.float32)
    for coordinate, middle, half in zip((u, v, w), centre, semi, strict=True):
        scaled = (coordinate - np.float32(middle)) * np.float32(1.0 / half)
        total += scaled * scaled if power == 2.0 else np.abs(scaled) ** np.float32(power)
    return total


def _head_coordinates(
    rng: np.random.Generator, geometry: Geometry
) -> tuple[ImageArray, ImageArray, ImageArray]:
    """Place a head of random size, tilt and shape at the LPS origin and return its (u, v, w)."""
    angles = np.deg2rad(rng.normal(0.0, (4.0, 2.0, 4.0)))
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[[a, a, b, b], [a, b, a, b]] = (
            np.cos(angle),
            -np.sin(angle),
            np.sin(angle),
            np.cos(angle),
        )
        rotation = rotation @ turn
    size = np.clip(rng.normal(1.0, 0.05), 0.88, 1.12) * np.clip(
        rng.normal(1.0, 0.03, 3), 0.93, 1.07
    )
    shift = rng.normal(0.0, (3.0, 4.0, 4.0))
    to_head = rotation / size[:, None]
    origin = to_head @ (np.asarray(geometry.origin_xyz_mm) - shift)
    steps = to_head @ (np.asarray(geometry.axes_xyz).T * np.asarray(geometry.spacing_zyx_mm[::-1]))
    x, y, z = (np.arange(n, dtype=np.float32) for n in geometry.shape_zyx[::-1])
    coordinates = []
    for row in range(3):
        along = [np.float32(step) for step in steps[row]]
        linear = np.float32(origin[row]) + (
            (z * along[2])[:, None, None] + (y * along[1])[None, :, None] + (x * along[0])
        )
        warp = smooth_noise(rng, geometry, 45.0) * np.float32(2.0)
        coordinates.append((linear + warp).astype(np.float32))
    return coordinates[0], coordinates[1], coordinates[2]


def draw_head(rng: np.random.Generator, geometry: Geometry) -> Head:
    """Draw one random patient on `geometry`, whose LPS origin must lie near the nasopharynx."""
    canvas = _Canvas(rng, geometry)
    inside = _draw_body(rng, canvas, geometry)
    _draw_cranium(rng, canvas, geometry, inside)
    _draw_neck(rng, canvas)
    _draw_face(rng, canvas)
    _draw_pharynx(rng, canvas)
    canvas.labels[~inside] = Tissue.AIR
    tumour = _grow_tumour(rng, canvas, geometry, inside)
    canvas.labels[tumour] = Tissue.TUMOUR
    return Head(labels=canvas.labels, tumour=tumour, inside=inside)


def _draw_body(rng: np.random.Generator, canvas: _Canvas, geometry: Geometry) -> MaskArray:
    """Paint skin, a shell of fat and muscles with fat between them; return the body."""
    heights = np.array([-95.0, -60.0, -35.0, -10.0, 20.0, 60.0, 90.0, 112.0])
    half_width = np.array([60.0, 58.0, 64.0, 72.0, 76.0, 77.0, 62.0, 10.0])
    front = np.array([-50.0, -76.0, -86.0, -92.0, -86.0, -76.0, -55.0, -10.0])
    back = np.array([78.0, 78.0, 84.0, 96.0, 106.0, 108.0, 92.0, 30.0])
    widths, fronts, backs = (
        np.interp(canvas.w, heights, line).astype(np.float32) for line in (half_width, front, back)
    )
    middle, half = (fronts + backs) / 2, (backs - fronts) / 2
    distance = np.sqrt((canvas.u / widths) ** 2 + ((canvas.v - middle) / half) ** 2)
    nose = radius(canvas.u, canvas.v, canvas.w, (0, -90, 0), (13, 18, 22)) <= 1.0
    depth_mm = (1.0 - distance) * np.minimum(widths, half)
    inside: MaskArray = (depth_mm > 0) | nose
    canvas.labels[inside] = Tissue.SKIN
    canvas.labels[depth_mm > 2.5] = Tissue.FAT
    planes = np.abs(smooth_noise(rng, geometry, (30.0, 14.0, 14.0))) < 0.09
    canvas.labels[(depth_mm > 8.0) & ~planes] = Tissue.MUSCLE
    return inside


def _draw_cranium(
    rng: np.random.Generator, canvas: _Canvas, geometry: Geometry, inside: MaskArray
) -> None:
    """Paint skull, brain with folded grey matter, cerebellum, brain stem and ventricles."""
    compartments: Sequence[tuple[Triple, Triple]] = (
        ((0.0, 18.0, 52.0), (64.0, 80.0, 54.0)),
        ((0.0, 52.0, 12.0), (54.0, 42.0, 32.0)),
    )
    folds = smooth_noise(rng, geometry, 7.0)
    for shell, tissue in (
        (1.11, Tissue.CORTICAL_BONE),
        (1.085, Tissue.MARROW),
        (1.035, Tissue.CORTICAL_BONE),
    ):
        for centre, semi in compartments:
            canvas.ellipsoid(tissue, centre, (semi[0] * shell, semi[1] * shell, semi[2] * shell))
    for centre, semi in compartments:
        box = canvas.box(centre, semi)
        depth = radius(canvas.u[box], canvas.v[box], canvas.w[box], centre, semi)
        labels, fold = canvas.labels[box], folds[box]
        labels[depth <= 1.0] = Tissue.CSF
        labels[depth + 0.05 * fold <= 0.95] = Tissue.GREY_MATTER
        labels[depth + 0.22 * np.abs(fold) <= 0.72] = Tissue.WHITE_MATTER
    canvas.pair(Tissue.CSF, (9.0, 10.0, 58.0), (5.0, 26.0, 8.0))
    canvas.ellipsoid(Tissue.CSF, (0.0, 34.0, 10.0), (15.0, 15.0, 26.0))
    canvas.ellipsoid(Tissue.WHITE_MATTER, (0.0, 33.0, 8.0), (12.0, 12.0, 30.0))
    canvas.ellipsoid(Tissue.CSF, (0.0, 48.0, 10.0), (5.0, 5.0, 9.0))


def _draw_neck(rng: np.random.Generator, canvas: _Canvas) -> None:
    """Paint clivus, vertebrae with cord, prevertebral and nuchal muscles, vessels and nodes."""
    canvas.ellipsoid(Tissue.CORTICAL_BONE, (0.0, 17.0, 12.0), (13.0, 7.0, 22.0), 4.0)
    canvas.ellipsoid(Tissue.MARROW, (0.0, 17.0, 12.0), (11.0, 5.0, 20.0), 4.0)
    canvas.ellipsoid(Tissue.FAT, (0.0, 62.0, -62.0), (38.0, 20.0, 34.0))
    for u, v, semi in (
        (11.0, 58.0, 9.0),
        (26.0, 50.0, 12.0),
        (32.0, 68.0, 10.0),
        (12.0, 74.0, 9.0),
    ):
        canvas.pair(Tissue.MUSCLE, (u, v, -62.0), (semi, semi * 0.8, 36.0))
    for w in (-18.0, -36.0, -54.0, -72.0):
        canvas.ellipsoid(Tissue.CORTICAL_BONE, (0.0, 25.0, w), (17.0, 10.0, 8.0), 4.0)
        canvas.ellipsoid(Tissue.MARROW, (0.0, 25.0, w), (14.5, 8.0, 6.5), 4.0)
        canvas.pair(Tissue.CORTICAL_BONE, (21.0, 32.0, w), (8.0, 6.0, 6.0))
        canvas.pair(Tissue.MARROW, (21.0, 32.0, w), (6.0, 4.0, 4.5))
        canvas.ellipsoid(Tissue.CORTICAL_BONE, (0.0, 53.0, w), (5.0, 9.0, 5.0))
    canvas.ellipsoid(Tissue.CSF, (0.0, 40.0, -50.0), (11.0, 8.0, 50.0))
    canvas.ellipsoid(Tissue.WHITE_MATTER, (0.0, 40.0, -50.0), (6.5, 5.0, 52.0))
    canvas.pair(Tissue.MUSCLE, (9.0, 12.0, -40.0), (8.0, 5.0, 40.0))
    for _ in range(int(rng.integers(1, 5))):  # lymph nodes look like tumour; they are not GTVp
        side = rng.choice([-1.0, 1.0])
        centre = (
            float(side * rng.uniform(34, 44)),
            float(rng.uniform(10, 32)),
            float(rng.uniform(-58, -30)),
        )
        size = float(rng.uniform(4.0, 9.0))
        canvas.ellipsoid(Tissue.FAT, centre, (size + 2.0, size + 2.0, size + 3.0))
        canvas.ellipsoid(Tissue.NODE, centre, (size, size, size * 1.2))


def _draw_face(rng: np.random.Generator, canvas: _Canvas) -> None:
    """Paint jaws, chewing muscles, glands, orbits, sinuses, nasal cavity, tongue and palate."""
    canvas.pair(Tissue.FAT, (50.0, -42.0, -12.0), (14.0, 26.0, 30.0))
    canvas.pair(Tissue.MUSCLE, (56.0, -22.0, -22.0), (7.0, 17.0, 26.0))
    canvas.pair(Tissue.CORTICAL_BONE, (47.0, -16.0, -20.0), (5.0, 13.0, 30.0))
    canvas.pair(Tissue.MARROW, (47.0, -16.0, -20.0), (2.6, 10.0, 27.0))
    canvas.pair(Tissue.MUSCLE, (36.0, -14.0, -6.0), (9.0, 15.0, 16.0))
    canvas.pair(Tissue.GLAND, (57.0, 8.0, -18.0), (11.0, 15.0, 23.0))
    canvas.pair(Tissue.MUSCLE, (50.0, 32.0, -42.0), (8.0, 11.0, 30.0))
    canvas.pair(Tissue.MARROW, (54.0, 30.0, 0.0), (13.0, 15.0, 14.0))
    canvas.pair(Tissue.AIR, (54.0, 30.0, 2.0), (6.0, 8.0, 8.0))
    canvas.pair(Tissue.FAT, (31.0, -58.0, 32.0), (18.0, 24.0, 17.0))
    canvas.pair(Tissue.VITREOUS, (31.0, -66.0, 32.0), (12.0, 12.0, 12.0))
    canvas.pair(Tissue.MUSCLE, (21.0, -46.0, 32.0), (2.5, 14.0, 5.0))
    canvas.ellipsoid(Tissue.FAT, (0.0, -50.0, 2.0), (50.0, 30.0, 20.0), 4.0)
    canvas.pair(Tissue.CORTICAL_BONE, (30.0, -48.0, 0.0), (16.5, 21.5, 20.5))
    canvas.ellipsoid(Tissue.CORTICAL_BONE, (0.0, -48.0, 4.0), (16.0, 37.0, 20.0), 4.0)
    for side in (-1.0, 1.0):
        sinus = (side * 30.0, -48.0, 0.0)
        canvas.ellipsoid(Tissue.MUCOSA, sinus, (15.0, 20.0, 19.0))
        thickening = float(rng.uniform(1.5, 5.0))
        content = Tissue.SINUS_FLUID if rng.random() < 0.25 else Tissue.AIR
        canvas.ellipsoid(content, sinus, (15.0 - thickening, 20.0 - thickening, 19.0 - thickening))
    canvas.ellipsoid(Tissue.MUCOSA, (0.0, -10.0, 30.0), (15.0, 15.0, 10.0))
    content = Tissue.SINUS_FLUID if rng.random() < 0.2 else Tissue.AIR
    canvas.ellipsoid(content, (0.0, -10.0, 30.0), (13.0, 13.0, 8.5))
    canvas.ellipsoid(Tissue.AIR, (0.0, -48.0, 4.0), (14.5, 36.0, 18.0), 4.0)
    _draw_turbinates(rng, canvas)
    canvas.ellipsoid(Tissue.CORTICAL_BONE, (0.0, -52.0, -19.0), (27.0, 27.0, 3.5), 4.0)
    canvas.ellipsoid(Tissue.CORTICAL_BONE, (0.0, -52.0, -29.0), (33.0, 30.0, 9.0), 3.0)
    canvas.ellipsoid(Tissue.MARROW, (0.0, -52.0, -29.0), (31.0, 28.0, 7.0), 3.0)
    canvas.ellipsoid(Tissue.MUSCLE, (0.0, -40.0, -44.0), (26.0, 33.0, 24.0))
    canvas.ellipsoid(Tissue.FAT, (0.0, -42.0, -40.0), (3.0, 24.0, 12.0))
    canvas.ellipsoid(Tissue.MARROW, (0.0, -70.0, -56.0), (26.0, 7.0, 12.0), 4.0)


def _draw_turbinates(rng: np.random.Generator, canvas: _Canvas) -> None:
    for side in (-1.0, 1.0):
        swelling = float(rng.uniform(0.8, 1.35))  # inflamed mucosa is as bright as tumour
        for w, length in ((-8.0, 27.0), (5.0, 22.0), (16.0, 14.0)):
            semi = (4.2 * swelling, length, 4.6 * swelling)
            canvas.ellipsoid(Tissue.MUCOSA, (side * 8.0, -46.0, w), semi)
    deviation = float(rng.normal(0.0, 1.5))
    canvas.ellipsoid(Tissue.MUCOSA, (deviation, -48.0, 4.0), (1.8, 34.0, 18.0), 4.0)


def _draw_pharynx(rng: np.random.Generator, canvas: _Canvas) -> None:
    """Paint airway with its mucosa, soft palate, parapharyngeal fat, pterygoids and vessels."""
    canvas.pair(Tissue.FAT, (24.0, 2.0, -14.0), (6.0, 11.0, 26.0))
    canvas.pair(Tissue.MUSCLE, (25.0, -18.0, -12.0), (6.0, 11.0, 14.0))
    thickness = float(rng.uniform(2.0, 4.5))
    canvas.ellipsoid(
        Tissue.MUCOSA, (0.0, -6.0, 0.0), (14.0 + thickness, 9.0 + thickness, 16.0 + thickness)
    )
    canvas.ellipsoid(Tissue.MUCOSA, (0.0, -5.0, -42.0), (13.0 + thickness, 8.0 + thickness, 40.0))
    canvas.ellipsoid(Tissue.AIR, (0.0, -8.0, 0.0), (13.0, 8.0, 15.0))
    canvas.ellipsoid(Tissue.AIR, (0.0, -5.0, -44.0), (11.0, 6.0, 36.0))
    canvas.ellipsoid(Tissue.MUSCLE, (0.0, -17.0, -22.0), (14.0, 9.0, 4.0))
    canvas.pair(Tissue.VESSEL, (27.0, 17.0, -35.0), (3.2, 3.2, 62.0))
    canvas.pair(Tissue.VESSEL, (35.0, 20.0, -38.0), (4.4, 4.4, 56.0))
    if rng.random() < 0.5:  # a retropharyngeal node beside the tumour
        side = float(rng.choice([-1.0, 1.0]))
        canvas.ellipsoid(Tissue.NODE, (side * 19.0, 12.0, -14.0), (4.0, 4.0, 6.0))


def _grow_tumour(
    rng: np.random.Generator, canvas: _Canvas, geometry: Geometry, inside: MaskArray
) -> MaskArray:
    """Grow an irregular tumour of a drawn volume from the nasopharyngeal wall."""
    volume_ml = float(np.clip(rng.lognormal(np.log(20.0), 0.5), *TUMOUR_VOLUME_ML))
    side = float(rng.choice([-1.0, 1.0]))
    scale = (volume_ml / 20.0) ** (1 / 3)
    field = np.full(geometry.shape_zyx, np.inf, dtype=np.float32)
    for blob in range(int(rng.integers(3, 7))):
        if blob == 0:  # the fossa of Rosenmueller, where most of them start
            centre = (side * 11.0, 4.0, float(rng.normal(0.0, 3.0)))
            semi = (13.0, 10.0, 14.0)
        else:
            reach = scale * rng.normal(0.0, (9.0, 6.0, 10.0))
            centre = (side * 8.0 + float(reach[0]), 2.0 + float(reach[1]), float(reach[2]))
            low, high = (5.0, 5.0, 6.0), (13.0, 10.0, 14.0)
            semi_array = scale * rng.uniform(low, high)
            semi = (float(semi_array[0]), float(semi_array[1]), float(semi_array[2]))
        distance = np.sqrt(radius(canvas.u, canvas.v, canvas.w, centre, semi)) - 1.0
        np.minimum(field, distance * np.float32(np.mean(semi) / 10.0), out=field)
    field += np.float32(0.16) * smooth_noise(rng, geometry, 11.0)
    lumen = (
        radius(canvas.u, canvas.v, canvas.w, (-side * 4.0, -10.0, -10.0), (6.0, 6.0, 30.0)) <= 1.0
    )
    forbidden = (Tissue.GREY_MATTER, Tissue.WHITE_MATTER, Tissue.CSF, Tissue.VESSEL, Tissue.NODE)
    field[~inside | lumen | np.isin(canvas.labels, forbidden)] = np.inf
    voxels = round(volume_ml / geometry.voxel_volume_ml)
    threshold = np.partition(field.ravel(), voxels)[voxels]
    pieces, _ = ndimage.label(field < threshold)
    largest = int(np.argmax(np.bincount(pieces.ravel())[1:])) + 1
    tumour: MaskArray = pieces == largest
    return tumour
