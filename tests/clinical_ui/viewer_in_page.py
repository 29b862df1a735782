"""The viewer as a page without a browser has it: what it is told, and messages as it sends them."""

import json
from typing import Any

from streamlit.components.v2.bidi_component.main import _make_trigger_id
from streamlit.proto.WidgetStates_pb2 import WidgetState
from streamlit.testing.v1 import AppTest


def told(page: AppTest) -> dict[str, Any]:
    """Return what the page tells its viewer."""
    return json.loads(_mounted(page, "fedgtv_viewer").json)


def image(page: AppTest) -> bytes:
    """Return the bytes of the image that the page sends."""
    return bytes(_mounted(page, "fedgtv_volume").bytes)


def has_viewer(page: AppTest) -> bool:
    return bool(page.get("bidi_component"))


def send(page: AppTest, trigger: str, value: object) -> AppTest:
    """Let the viewer send something; the page runs with it, as Streamlit lets it."""
    name = _make_trigger_id(_mounted(page, "fedgtv_viewer").id, "events")
    payload = json.dumps([{"event": trigger, "value": value}])
    states = page._tree.get_widget_states()
    states.widgets.append(WidgetState(id=name, json_trigger_value=payload))
    return page._run(states)


def _mounted(page: AppTest, component: str) -> Any:
    found = [e.proto for e in page.get("bidi_component") if e.proto.component_name == component]
    assert len(found) == 1
    return found[0]
