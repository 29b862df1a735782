"""What the viewer sends, read with distrust: every field is bounded, and nothing else is let in.

A message is cumulative: it holds the whole contour, and all times and actions of its sitting. So
one that is lost is made up for by the next, and one that comes twice changes nothing. Whether it
fits the draft that it is for, `drafts` says.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import MaskArray
from site_agent import run_lengths
from site_agent.revision_clock import Interval, Span

MOST_ACTIONS = 20_000
MOST_ACTION_BYTES = 2 << 20
MOST_POINTS = 256  # of one step
_MOST_MS = 31 * 24 * 3600 * 1000
_MOST_TEXT = run_lengths.text_limit(4 * run_lengths.MOST_RUNS)

Kind = Literal["draft", "prompt", "save"]
ActionName = Literal[
    "open",
    "start",
    "stroke",
    "erase",
    "lasso",
    "lasso_erase",
    "fill",
    "brush3d",
    "scribble",
    "margin_point",
    "foreground_click",
    "background_click",
    "model",
    "undo",
    "redo",
    "interpolate",
    "clear_slice",
    "draft",
    "save",
    "pause",
    "resume",
    "hide",
    "blur",
    "focus",
    "idle",
    "jump",
    "discard",
]

_Name = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
_Count = Annotated[int, Field(strict=True, ge=0, lt=1 << 31)]
_Ms = Annotated[int, Field(strict=True, ge=0, le=_MOST_MS)]
_Slice = Annotated[int, Field(strict=True, ge=-1, lt=1 << 16)]
_Runs = Annotated[str, Field(max_length=_MOST_TEXT)]
_Key = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,24}$")]
# Nothing that could hold a sentence about a patient.
_Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:+-]{0,40}$")]
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Detail = Annotated[
    dict[_Key, bool | Annotated[int, Field(strict=True)] | _Number | _Word], Field(max_length=8)
]
_Index = Annotated[int, Field(strict=True, ge=0, lt=1 << 16)]
_Points = Annotated[list[tuple[_Index, _Index, _Index]], Field(max_length=MOST_POINTS)]
_Moment = Annotated[
    str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z$")
]


class _Prompt(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: Literal["segment", "refine"]
    foreground: _Points
    background: _Points


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid")

    epoch: _Name
    sitting: _Name
    sequence: _Count
    revision: _Count
    target: _Runs
    outside: _Runs | None
    began_at: _Moment
    elapsed_ms: _Ms
    active: Annotated[list[tuple[_Ms, _Ms, _Slice]], Field(max_length=MOST_ACTIONS)]
    waiting: Annotated[list[tuple[_Ms, _Ms]], Field(max_length=MOST_ACTIONS)]
    actions: Annotated[
        list[tuple[_Ms, ActionName, _Slice, _Detail]], Field(max_length=MOST_ACTIONS)
    ]
    prompt: _Prompt | None = None
    slices: Annotated[list[_Index], Field(max_length=1 << 12)] | None = None


@dataclass(frozen=True, eq=False)
class Prompt:
    """Clicks for the model.

    Attributes:
        kind: a new target ("segment"), or correction of what is there.
        foreground: whole voxel indices `[n, 3]` (z, y, x), inside the target.
        background: outside of it, likewise.
    """

    kind: Literal["segment", "refine"]
    foreground: NDArray[np.int64]
    background: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class WorkMessage:
    """One message of the viewer, whose every part is what it should be.

    Attributes:
        epoch: names the draft that was begun.
        sitting: names the load of the viewer.
        sequence: counts the messages of a sitting.
        revision: of the draft, as the browser knows it.
        target: bool `[z, y, x]`, the contour.
        outside: bool `[z, y, x]`, what a scribble says is not the target; None without scribbles.
        began_at: of the sitting, by the browser's wall clock; only for the record.
        elapsed_ms: since the sitting began.
        active: when the doctor worked, and on which asked-for slice.
        waiting: when the model was awaited.
        actions: when, what, on which slice, and details.
        prompt: of a "prompt".
        slices: of a "save", those that are done.
    """

    epoch: str
    sitting: str
    sequence: int
    revision: int
    target: MaskArray
    outside: MaskArray | None
    began_at: str
    elapsed_ms: int
    active: tuple[Interval, ...]
    waiting: tuple[Span, ...]
    actions: tuple[tuple[int, str, int, dict[str, Any]], ...]
    prompt: Prompt | None = None
    slices: tuple[int, ...] = ()


def read_message(
    value: object,
    kind: Kind,
    *,
    shape_zyx: tuple[int, int, int],
    editable_z: Collection[int] | None = None,
) -> WorkMessage:
    """Read what came with a trigger of the viewer.

    Args:
        value: as it came.
        kind: of the trigger.
        shape_zyx: of the case.
        editable_z: slices that may be drawn on; None means all.

    Raises:
        DataError: it is not what a viewer sends for such a case.
    """
    fields = _read_fields(value)
    if (fields.prompt is None) == (kind == "prompt"):
        raise _refused("'prompt' is missing, or too much")
    if (fields.slices is None) == (kind == "save"):
        raise _refused("'slices' is missing, or too much")
    depth = shape_zyx[0]
    _check_moment(fields.began_at)
    _check_spans("active", [(start, stop) for start, stop, _ in fields.active], fields.elapsed_ms)
    _check_spans("waiting", fields.waiting, fields.elapsed_ms)
    _check_actions(fields)
    if any(z >= depth for *_, z in fields.active) or any(
        z >= depth for _, _, z, _ in fields.actions
    ):
        raise _refused("a slice lies outside the volume")
    slices = tuple(fields.slices or ())
    allowed = range(depth) if editable_z is None else editable_z
    if len(set(slices)) != len(slices) or not set(slices) <= set(allowed):
        raise _refused("'slices' holds one that is not asked for")
    target = run_lengths.decode(fields.target, shape_zyx)
    outside = None
    if fields.outside is not None:
        outside = run_lengths.decode(fields.outside, shape_zyx)
        if (outside & target).any():
            raise _refused("a voxel is marked as target and as outside")
    return WorkMessage(
        epoch=fields.epoch,
        sitting=fields.sitting,
        sequence=fields.sequence,
        revision=fields.revision,
        target=target,
        outside=outside,
        began_at=fields.began_at,
        elapsed_ms=fields.elapsed_ms,
        active=tuple(fields.active),
        waiting=tuple(fields.waiting),
        actions=tuple(fields.actions),
        prompt=None if fields.prompt is None else _prompt(fields.prompt, shape_zyx, allowed),
        slices=slices,
    )


def _read_fields(value: object) -> _Fields:
    try:
        return _Fields.model_validate(value)
    except ValidationError as error:
        # The name of the field only: its content is what somebody sent.
        first = error.errors(include_input=False, include_url=False)[0]
        known = set(_Fields.model_fields)
        where = next((str(part) for part in first["loc"] if part in known), "a field")
        raise _refused(f"'{where}' is not what a viewer sends") from None


def _check_moment(text: str) -> None:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise _refused("'began_at' is no time") from None


def _check_spans(name: str, spans: Sequence[Span], elapsed_ms: int) -> None:
    if any(start > stop for start, stop in spans):
        raise _refused(f"'{name}' has an interval that ends before it begins")
    if any(later[0] < earlier[1] for earlier, later in pairwise(spans)):
        raise _refused(f"'{name}' has intervals that overlap or are out of order")
    if spans and spans[-1][1] > elapsed_ms:
        raise _refused(f"'{name}' has an interval that ends in the future")


def _check_actions(fields: _Fields) -> None:
    times = [action[0] for action in fields.actions]
    if times != sorted(times) or (times and times[-1] > fields.elapsed_ms):
        raise _refused("'actions' are out of order, or in the future")
    if len(json.dumps(fields.actions)) > MOST_ACTION_BYTES:
        raise _refused("'actions' are too long")


def _prompt(prompt: _Prompt, shape_zyx: tuple[int, int, int], allowed: Collection[int]) -> Prompt:
    def points(clicked: Sequence[tuple[int, int, int]]) -> NDArray[np.int64]:
        return np.array(clicked, dtype=np.int64).reshape(-1, 3)

    clicked = points([*prompt.foreground, *prompt.background])
    if not len(clicked):
        raise _refused("'prompt' holds no click")
    if (clicked >= shape_zyx).any():
        raise _refused("a click lies outside the volume")
    if not set(clicked[:, 0].tolist()) <= set(allowed):
        raise _refused("a click lies on a slice that is not asked for")
    if prompt.kind == "segment" and prompt.background:
        raise _refused("'prompt' has background clicks for a new target")
    return Prompt(prompt.kind, points(prompt.foreground), points(prompt.background))


def _refused(why: str) -> DataError:
    return DataError(f"what the browser sent was refused: {why}: reload the page")
