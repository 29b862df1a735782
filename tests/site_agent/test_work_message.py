"""What the viewer sends: read as it was meant, and refused wherever it was tampered with."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.contracts.errors import DataError
from site_agent import run_lengths
from site_agent.drafts import Draft
from site_agent.work_message import MOST_ACTIONS, MOST_POINTS, read_message
from tests.phantoms import ball
from tests.site_agent.viewer_window import Window, packed, runs

SHAPE = (6, 10, 9)
DRAWN = ball(SHAPE, (3, 5, 4), 2)
SECRET = "Example^Patient"


def window() -> Window:
    """Open a window on a draft, and draw in it."""
    opened = Window(Draft("e" * 16, 4, None, DRAWN, None, {}, None, 0.0), SHAPE)
    return opened.work(1500, 3).wait(700).work(900)


def read(kind="draft", editable_z=None, **changes):
    return read_message(window().value(**changes), kind, shape_zyx=SHAPE, editable_z=editable_z)


def test_what_was_sent_is_what_is_read() -> None:
    message = read("save", slices=[3, 2])
    np.testing.assert_array_equal(message.target, DRAWN)
    assert (message.epoch, message.sitting) == ("e" * 16, "a" * 16)
    assert (message.sequence, message.revision, message.elapsed_ms) == (1, 4, 3100)
    assert message.active == ((0, 1500, 3), (2200, 3100, -1))
    assert message.waiting == ((1500, 2200),)
    assert message.actions[1] == (1500, "stroke", 3, {"radius_mm": 2.5})
    assert (message.slices, message.outside, message.prompt) == ((3, 2), None, None)


def test_scribbles_and_clicks_are_read() -> None:
    outside = ball(SHAPE, (3, 1, 1), 1) & ~DRAWN
    prompt = {"kind": "refine", "foreground": [[3, 5, 4]], "background": []}
    message = read("prompt", outside=runs(outside), prompt=prompt, editable_z=(3,))
    np.testing.assert_array_equal(message.outside, outside)
    np.testing.assert_array_equal(message.prompt.foreground, [[3, 5, 4]])
    assert message.prompt.background.shape == (0, 3)


def test_json_as_it_travels_is_read() -> None:
    value = json.loads(json.dumps(window().value()))
    assert read_message(value, "draft", shape_zyx=SHAPE).elapsed_ms == 3100


CLICK = {"kind": "segment", "foreground": [[3, 5, 4]], "background": []}
TAMPERED = [
    ("draft", {"epoch": "E" * 16}, "epoch"),
    ("draft", {"epoch": "e" * 17}, "epoch"),
    ("draft", {"sitting": "../../etc"}, "sitting"),
    ("draft", {"sequence": -1}, "sequence"),
    ("draft", {"sequence": 1.0}, "sequence"),
    ("draft", {"sequence": True}, "sequence"),
    ("draft", {"revision": "4"}, "revision"),
    ("draft", {"revision": 2**40}, "revision"),
    ("draft", {"target": None}, "target"),
    ("draft", {"target": runs(np.zeros((6, 10, 8), bool))}, "do not fill"),
    ("draft", {"target": "A" * (run_lengths.text_limit(4 << 20) + 1)}, "target"),
    ("draft", {"target": packed(bytes(1 << 20))}, "too many runs"),
    ("draft", {"outside": runs(DRAWN)}, "as target and as outside"),
    ("draft", {"began_at": SECRET}, "began_at"),
    ("draft", {"began_at": "2031-13-06T07:08:09Z"}, "began_at"),
    ("draft", {"elapsed_ms": 10**12}, "elapsed_ms"),
    ("draft", {"elapsed_ms": 3000}, "in the future"),
    ("draft", {"active": [[0, 10, 9]]}, "outside the volume"),
    ("draft", {"active": [[5, 3, 0]]}, "ends before it begins"),
    ("draft", {"active": [[0, 10, 0], [9, 20, 0]]}, "overlap"),
    ("draft", {"active": [[10, 20, 0], [0, 5, 0]]}, "overlap or are out of order"),
    ("draft", {"active": [[0, 10]]}, "active"),
    ("draft", {"active": [[0, 10.5, 1]]}, "active"),
    ("draft", {"active": [[0, 0, 0]] * (MOST_ACTIONS + 1)}, "active"),
    ("draft", {"waiting": [[0, 4000]]}, "in the future"),
    ("draft", {"waiting": [[-1, 4]]}, "waiting"),
    ("draft", {"actions": [[0, "shell", -1, {}]]}, "actions"),
    ("draft", {"actions": [[0, "stroke", -1, {"said": f"{SECRET} is"}]]}, "actions"),
    ("draft", {"actions": [[0, "stroke", -1, {"x": float("nan")}]]}, "actions"),
    ("draft", {"actions": [[0, "stroke", -1, {"x": [1]}]]}, "actions"),
    ("draft", {"actions": [[0, "stroke", -1, {f"k{i}": 1 for i in range(9)}]]}, "actions"),
    ("draft", {"actions": [[0, "stroke", 6, {}]]}, "outside the volume"),
    ("draft", {"actions": [[9, "stroke", 0, {}], [8, "stroke", 0, {}]]}, "out of order"),
    ("draft", {"actions": [[9999, "stroke", 0, {}]]}, "in the future"),
    ("draft", {"actions": [[0, "stroke", 0, {}]] * (MOST_ACTIONS + 1)}, "actions"),
    (
        "draft",
        {"actions": [[0, "stroke", 0, {f"k{i}": "x" * 40 for i in range(8)}]] * 8000},
        "too long",
    ),
    ("draft", {"patient": SECRET}, "a field"),
    ("draft", {SECRET: 1}, "a field"),
    ("draft", {"prompt": CLICK}, "'prompt'"),
    ("draft", {"slices": []}, "'slices'"),
    ("save", {}, "'slices'"),
    ("save", {"slices": [6]}, "not asked for"),
    ("save", {"slices": [1, 1]}, "not asked for"),
    ("save", {"slices": [-1]}, "slices"),
    ("prompt", {}, "'prompt'"),
    ("prompt", {"prompt": {**CLICK, "kind": "erase"}}, "prompt"),
    ("prompt", {"prompt": {**CLICK, "foreground": []}}, "no click"),
    ("prompt", {"prompt": {**CLICK, "background": [[3, 1, 1]]}}, "background clicks"),
    ("prompt", {"prompt": {**CLICK, "foreground": [[3, 10, 4]]}}, "outside the volume"),
    ("prompt", {"prompt": {**CLICK, "foreground": [[3, 5]]}}, "prompt"),
    ("prompt", {"prompt": {**CLICK, "foreground": [[3, 5, 4.5]]}}, "prompt"),
    ("prompt", {"prompt": {**CLICK, "foreground": [[3, -5, 4]]}}, "prompt"),
    ("prompt", {"prompt": {**CLICK, "foreground": [[3, 5, 4]] * (MOST_POINTS + 1)}}, "prompt"),
]


@pytest.mark.parametrize(("kind", "changes", "told"), TAMPERED)
def test_what_was_tampered_with_is_refused_in_one_line(kind, changes, told) -> None:
    with pytest.raises(DataError, match=r"refused: .*: reload the page") as refused:
        read(kind, **changes)
    said = str(refused.value)
    assert told in said
    assert "\n" not in said
    assert len(said) < 160
    assert SECRET not in said


@pytest.mark.parametrize("value", [None, [], "draft", 7, {}, {"epoch": "e" * 16}])
def test_what_is_no_message_is_refused(value) -> None:
    with pytest.raises(DataError, match="refused"):
        read_message(value, "draft", shape_zyx=SHAPE)


@pytest.mark.parametrize("missing", ["target", "outside", "active", "actions", "elapsed_ms"])
def test_every_field_is_needed(missing) -> None:
    value = window().value()
    del value[missing]
    with pytest.raises(DataError, match=f"'{missing}'"):
        read_message(value, "draft", shape_zyx=SHAPE)


def test_only_asked_for_slices_are_saved_and_clicked() -> None:
    assert read("save", slices=[3], editable_z=(3, 4)).slices == (3,)
    with pytest.raises(DataError, match="not asked for"):
        read("save", slices=[2], editable_z=(3, 4))
    with pytest.raises(DataError, match="not asked for"):
        read("prompt", prompt=CLICK, editable_z=(2,))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(st.sampled_from(sorted(window().value())), JSON)
def test_nothing_in_a_field_does_anything_but_be_refused(field, content) -> None:
    try:
        message = read(**{field: content})
    except DataError as error:
        assert "\n" not in str(error)
        return
    assert message.target.shape == SHAPE
