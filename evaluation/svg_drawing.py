"""Plain SVG drawings: shapes and words at places in pixels, the same bytes for the same calls.

Words stay words, so a drawing can be searched, read aloud and copied. Colours are those of Okabe
and Ito, which people with any colour vision tell apart; whoever draws gives each series a shape of
its own too, for prints in grey.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

INK, SOFT, LINE, PAPER = "#1b2430", "#56606e", "#d5dae1", "#ffffff"
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#8a929d"
SHADES = ("#d6e6f2", "#92bfdf", "#4691c5", "#0b4f7d")  # light to dark, told apart in grey
LETTER_PX = 6.4  # mean width of a letter at the size of `text`

Anchor = Literal["start", "middle", "end"]
Shape = Literal["circle", "square", "diamond"]


@dataclass(frozen=True)
class Axis:
    """A straight scale from values to pixels.

    Attributes:
        low: value at `start`.
        high: value at `end`.
        start: pixels.
        end: pixels; above `start` on the page for an axis that rises.
    """

    low: float
    high: float
    start: float
    end: float

    def __post_init__(self) -> None:
        """Refuse a scale without length.

        Raises:
            ValueError: when low is not below high.
        """
        if not self.low < self.high:
            raise ValueError(f"an axis needs low < high, not {self.low} and {self.high}")

    def at(self, value: float) -> float:
        """Return the pixel of a value; one that is off the scale is put at its end.

        >>> Axis(0, 10, 100, 200).at(5), Axis(0, 10, 100, 200).at(12)
        (150.0, 200.0)
        """
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Return round values on the scale, about so many.

        >>> Axis(0, 100, 0, 1).ticks(), Axis(-0.02, 0.11, 0, 1).ticks()
        ([0.0, 20.0, 40.0, 60.0, 80.0, 100.0], [0.0, 0.05, 0.1])
        """
        step = _round_step((self.high - self.low) / about)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(i * step, 9) + 0.0 for i in range(first, last + 1)]


def spanning(
    values: Sequence[float], *, start: float, end: float, least: float, most: float | None = None
) -> Axis:
    """Make an axis that holds all values, from a round number to a round number.

    Args:
        values: what will be drawn; none gives an axis from `least` on.
        start: pixels.
        end: pixels.
        least: the axis begins here or below.
        most: the axis ends here or above; None leaves it to the values.
    """
    low, high = min([least, *values]), max([least if most is None else most, *values])
    if low == high:
        high = low + 1.0
    step = _round_step((high - low) / 5)
    return Axis(
        math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, start, end
    )


def number(value: float, digits: int = 1) -> str:
    """Write a number with a true minus sign and no negative zero.

    >>> number(-0.04), number(-1.25, 2)
    ('0.0', '−1.25')
    """
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("-", "−")


class Drawing:
    """An SVG element in the making.

    Ids get `name` in front, since drawings share a page.
    """

    def __init__(self, name: str, width: float, height: float) -> None:
        self.name, self.width, self.height = name, width, height
        self._parts: list[str] = []
        self.hatched = False

    def line(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        *,
        colour: str = INK,
        width: float = 1.0,
        dashed: bool = False,
    ) -> None:
        """Draw a straight line between two points (x, y)."""
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        (x1, y1), (x2, y2) = start, end
        self._parts.append(
            f'<line x1="{_px(x1)}" y1="{_px(y1)}" x2="{_px(x2)}" y2="{_px(y2)}" '
            f'stroke="{colour}" stroke-width="{_px(width)}"{dash}/>'
        )

    def path(
        self,
        points: Sequence[tuple[float, float]],
        *,
        colour: str,
        width: float = 1.5,
        dashed: bool = False,
    ) -> None:
        """Draw a line through points (x, y)."""
        dash = ' stroke-dasharray="5 3"' if dashed else ""
        joined = " ".join(f"{_px(x)},{_px(y)}" for x, y in points)
        self._parts.append(
            f'<polyline points="{joined}" fill="none" stroke="{colour}" '
            f'stroke-width="{_px(width)}"{dash}/>'
        )

    def box(
        self,
        left: float,
        top: float,
        width: float,
        height: float,
        *,
        fill: str = "none",
        colour: str = "none",
        hatched: bool = False,
    ) -> None:
        """Draw a rectangle; a hatched one is a figure that was suppressed or merged."""
        if hatched:
            self.hatched = True
            fill, colour = f"url(#{self.name}-hatch)", GREY
        self._parts.append(
            f'<rect x="{_px(left)}" y="{_px(top)}" width="{_px(max(width, 0))}" '
            f'height="{_px(max(height, 0))}" fill="{fill}" stroke="{colour}"/>'
        )

    def mark(self, shape: Shape, x: float, y: float, *, colour: str, radius: float = 4.5) -> None:
        """Draw a filled mark around a point."""
        if shape == "circle":
            self._parts.append(
                f'<circle cx="{_px(x)}" cy="{_px(y)}" r="{_px(radius)}" fill="{colour}"/>'
            )
        elif shape == "square":
            side = 1.8 * radius
            self.box(x - side / 2, y - side / 2, side, side, fill=colour)
        else:
            self.diamond(x - 1.25 * radius, x + 1.25 * radius, y, 1.25 * radius, colour=colour)

    def diamond(self, left: float, right: float, y: float, rise: float, *, colour: str) -> None:
        """Draw a diamond from left to right, such as an interval of a pooled figure."""
        middle = (left + right) / 2
        corners = ((left, y), (middle, y - rise), (right, y), (middle, y + rise))
        points = " ".join(f"{_px(a)},{_px(b)}" for a, b in corners)
        self._parts.append(f'<polygon points="{points}" fill="{colour}"/>')

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        anchor: Anchor = "start",
        colour: str = INK,
        size: float = 12.0,
        bold: bool = False,
        italic: bool = False,
    ) -> None:
        """Write words with their base line 4 px below y, so that y is their middle."""
        style = (' font-weight="600"' if bold else "") + (' font-style="italic"' if italic else "")
        self._parts.append(
            f'<text x="{_px(x)}" y="{_px(y + 0.34 * size)}" text-anchor="{anchor}" '
            f'font-size="{_px(size)}" fill="{colour}"{style}>{escape(words)}</text>'
        )

    def svg(self, description: str) -> Markup:
        """Return the element; `description` is what is read aloud in its place."""
        hatch = (
            f'<defs><pattern id="{self.name}-hatch" width="6" height="6" '
            'patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
            f'<rect width="6" height="6" fill="{PAPER}"/>'
            f'<line x1="0" y1="0" x2="0" y2="6" stroke="{GREY}" stroke-width="2"/></pattern></defs>'
        )
        body = "\n".join(([hatch] if self.hatched else []) + self._parts)
        head = Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" role="img" '
            'aria-label="{}" font-family="{}">'
        ).format(_px(self.width), _px(self.height), description, _FONTS)
        return Markup(f"{head}\n{body}\n</svg>")  # noqa: S704 - words were escaped one by one


_FONTS = "Helvetica Neue, Arial, Liberation Sans, DejaVu Sans, sans-serif"


def _px(value: float) -> str:
    """Write a place with two digits at most, without trailing zeros."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _round_step(about: float) -> float:
    """Return the first of 1, 2, 2.5 and 5 times a power of ten that is at least `about`."""
    power = 10.0 ** math.floor(math.log10(about))
    found = next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= about * (1 - 1e-9))
    return found * power
