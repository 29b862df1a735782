"""A page with nothing but the viewer, and a server behind it that keeps everything in memory.

Streamlit runs this file. Query parameters choose the case: mode, prompts, shape ("z,y,x"), asked
(slices "4,6"), compare, idle (s), elsewhere (a second page). The model's contour is a ball around
the points. What the browser sends is kept in the folder that an environment variable names, over
restarts too.
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import streamlit as st

from algorithms.contracts.volume import Geometry, Volume
from clinical_ui.case_layers import Layer
from clinical_ui.orientation import percentile_window
from clinical_ui.viewer import (
    SelectedSlice,
    ViewerData,
    ViewerLayer,
    mount_viewer,
    mount_volume,
    pack_volume,
)
from site_agent.click_store import mask_sha256
from tests.clinical_ui.run_length_text import decode, encode

SPACING = (3.0, 1.0, 1.0)
BALL_MM = 8.0
FOLDER_VARIABLE = "FEDGTV_VIEWER_PAGE_FOLDER"


@dataclass
class Draft:
    """What the server holds of one piece of work."""

    epoch: str
    target: np.ndarray
    outside: np.ndarray | None = None
    revision: int = 0
    messages: list = field(default_factory=list)
    stored: dict | None = None
    answer: dict | None = None
    refused: dict | None = None
    saved: set = field(default_factory=set)
    saves: int = 0


def ball(shape, centre, radius_mm):
    """Return the voxels within a distance of one of them."""
    mask = np.zeros(shape, dtype=bool)
    reach = [int(radius_mm / mm) + 1 for mm in SPACING]
    box = tuple(
        slice(max(0, int(c) - r), int(c) + r + 2) for c, r in zip(centre, reach, strict=True)
    )
    grid = np.ogrid[
        tuple(slice(part.start, min(part.stop, n)) for part, n in zip(box, shape, strict=True))
    ]
    away = sum(((grid[i] - centre[i]) * SPACING[i]) ** 2 for i in range(3))
    mask[box] = away <= radius_mm**2
    return mask


@st.cache_resource
def phantom(shape: tuple[int, int, int], modality: str) -> tuple[bytes, tuple[float, float], str]:
    """Return an image with a bright ball, packed, its window and token."""
    rng = np.random.default_rng(0)
    z, y, x = (axis.astype(np.float32) for axis in np.indices(shape, sparse=True))
    body = ((y / shape[1] - 0.5) ** 2 + (x / shape[2] - 0.5) ** 2) < 0.2
    image = 60.0 * body + 40.0 * np.cos(x / 9) * np.sin(y / 11) * body + 0.0 * z
    image = image + rng.normal(0, 6, shape).astype(np.float32)
    image[ball(shape, [n // 2 for n in shape], 18.0)] += 70.0
    geometry = Geometry(shape, SPACING, (0.0, 0.0, 0.0))
    volume = Volume(np.rint(image).astype(np.float32), geometry, modality)
    token = digest((shape, modality))
    return pack_volume(volume, token), percentile_window(volume.image), token


@st.cache_resource
def drafts() -> dict:
    """Return every draft, shared between sessions as a database is."""
    return {}


def draft_of(key: tuple, shape: tuple[int, int, int], start: np.ndarray) -> Draft:
    if key not in drafts():
        draft = Draft(digest(key), start.copy())
        for file in sorted(folder().glob(f"{draft.epoch}-*.json")):
            take(draft, json.loads(file.read_text()), "draft", keep=False)
        drafts()[key] = draft
    return drafts()[key]


def digest(value) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def folder() -> Path:
    return Path(os.environ[FOLDER_VARIABLE])


def take(draft: Draft, message: dict, kind: str, *, keep: bool = True) -> bool:
    """Keep a message, as the server would; says whether it was taken."""
    named = {"sitting": message["sitting"], "sequence": message["sequence"]}
    sittings = [m["sitting"] for m in draft.messages]
    draft.answer = draft.refused = None
    stale = message["sitting"] in sittings and sittings[-1] != message["sitting"]
    if message["epoch"] != draft.epoch or stale:
        draft.refused = {**named, "message": "This case was opened in another window."}
        return False
    shape = draft.target.shape
    draft.target = decode(message["target"], shape)
    if message["outside"] is not None:
        draft.outside = decode(message["outside"], shape)
    draft.revision += 1
    draft.messages.append(message)
    if keep:
        file = folder() / f"{draft.epoch}-{draft.revision:04}.json"
        file.write_text(json.dumps({**message, "trigger": kind}))
    sha256 = mask_sha256(draft.target)
    draft.stored = {**named, "revision": draft.revision, "sha256": sha256, "kind": kind}
    return True


def prompted(draft: Draft, message: dict) -> None:
    """Answer clicks: a ball more, or a ball less."""
    if not take(draft, message, "draft"):
        return
    prompt = message["prompt"]
    mask = draft.target.copy()
    if prompt["kind"] == "segment":
        mask |= ball(mask.shape, np.mean(prompt["foreground"], axis=0), BALL_MM)
    for point in prompt["foreground"] if prompt["kind"] == "refine" else []:
        mask |= ball(mask.shape, point, BALL_MM / 2)
    for point in prompt["background"]:
        mask &= ~ball(mask.shape, point, BALL_MM / 2)
    draft.answer = {
        "sitting": message["sitting"],
        "sequence": message["sequence"],
        "target": encode(mask),
        "message": None,
    }


def saved(draft: Draft, message: dict) -> None:
    """Keep what was saved and begin a new draft from it."""
    if take(draft, message, "save"):
        draft.saved |= set(message["slices"])
        draft.saves += 1
        draft.epoch = digest((draft.epoch, draft.saves))


def main() -> None:
    """Draw the page."""
    st.set_page_config(page_title="viewer", layout="wide")
    st.html("<style>.block-container { padding: 4rem 1rem 0; max-width: none; }</style>")
    query = st.query_params
    shape = tuple(int(n) for n in query.get("shape", "16,96,80").split(","))
    asked = [int(n) for n in query.get("asked", "").split(",") if n]
    modality = query.get("modality", "MR")
    packed, window, token = phantom(shape, modality)
    model = ball(shape, [n // 2 for n in shape], 20.0)
    compare = query.get("compare") == "1"
    start = model if compare else np.zeros(shape, dtype=bool)
    draft = draft_of(tuple(sorted(query.to_dict().items())), shape, start)
    if query.get("elsewhere") and st.sidebar.checkbox("Elsewhere"):
        st.write("Another page")
        return
    mount_volume(packed, key="volume")

    @st.fragment
    def viewer() -> None:
        started = query.get("mode") != "view" or st.session_state.get("started", False)
        mount_viewer(
            ViewerData(
                volume=token,
                epoch=draft.epoch,
                revision=draft.revision,
                mode=query.get("mode", "contour") if started else "view",
                title=query.get("title", "Case demo"),
                target=encode(draft.target),
                outside=None if draft.outside is None else encode(draft.outside),
                slice=asked[0] if asked else shape[0] // 2,
                window=window,
                editable_z=asked or None,
                selected=[SelectedSlice(z, z in draft.saved, "domain-specific") for z in asked],
                layers=[ViewerLayer.of(Layer.ADAPTED, encode(model))] if compare else [],
                compare=Layer.ADAPTED.value if compare else None,
                prompts=query.get("prompts", "2d" if asked else "3d"),
                answer=draft.answer,
                stored=draft.stored,
                refused=draft.refused,
                idle_limit_s=float(query.get("idle", "30")),
                testing=True,
            ),
            key="viewer",
            on_draft=lambda message: take(draft, message, "draft") and None,
            on_prompt=lambda message: prompted(draft, message),
            on_save=lambda message: saved(draft, message),
        )

    viewer()


if __name__ == "__main__":  # as which Streamlit runs it
    main()
