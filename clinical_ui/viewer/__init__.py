"""The contour viewer: our own Streamlit component, in two mounts on a page.

`mount_volume` sends the image and the viewer's code, once, outside any fragment; `mount_viewer`
shows it inside a fragment and hands over what the doctor does.
"""

from collections.abc import Callable
from typing import Any

import streamlit as st

from clinical_ui.viewer import assets
from clinical_ui.viewer.viewer_data import (
    IDLE_LIMIT_S,
    Mode,
    SelectedSlice,
    VerdictForm,
    ViewerData,
    ViewerLayer,
)
from clinical_ui.viewer.volume_bytes import index_views, pack_volume

__all__ = [
    "IDLE_LIMIT_S",
    "Mode",
    "SelectedSlice",
    "VerdictForm",
    "ViewerData",
    "ViewerLayer",
    "index_views",
    "mount_viewer",
    "mount_volume",
    "pack_volume",
]

Take = Callable[[object], None]


def mount_volume(packed: bytes, key: str) -> None:
    """Send an image to the browser; call it outside a fragment, with the same bytes each time.

    Args:
        packed: what `pack_volume` returned, kept between page runs.
        key: of the mount, another one than the viewer's.
    """
    _component("fedgtv_volume", assets.script())(data=packed, key=key)


def mount_viewer(
    data: ViewerData,
    key: str,
    *,
    on_draft: Take,
    on_prompt: Take,
    on_save: Take,
) -> None:
    """Show the viewer; call it inside a fragment.

    The functions run before the fragment does, as Streamlit's callbacks, so that their answer is
    in the same run. They get what the browser sent, which nobody has checked.

    Args:
        data: what to show.
        key: of the mount; a viewer under the same key keeps its slice, zoom and window.
        on_draft: takes the work so far.
        on_prompt: takes the work and the points for the model.
        on_save: takes the work and the slices that are done, or what a review ends in.
    """
    _component("fedgtv_viewer", assets.doorway())(
        data=data.as_json(),
        key=key,
        on_draft_change=lambda: _hand_over(key, "draft", on_draft),
        on_prompt_change=lambda: _hand_over(key, "prompt", on_prompt),
        on_save_change=lambda: _hand_over(key, "save", on_save),
    )


def _component(name: str, script: str) -> Any:
    # Registered on each run: a server that starts again, or a test's, begins with none.
    return st.components.v2.component(name, js=script)


def _hand_over(key: str, trigger: str, take: Take) -> None:
    message = st.session_state[key].get(trigger)
    if message is not None:
        take(message)
