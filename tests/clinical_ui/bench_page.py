"""The viewer on a case with everything real behind it: what `bench_ui` drives for now.

Streamlit runs this file. It does what a page to annotate does on the server: reads and checks every
message, keeps the draft in the database, and answers clicks with the interactive model. To go when
`bench_ui` drives the site's own page.
"""

import os
from pathlib import Path

import streamlit as st

from clinical_ui.launch import HOME_VARIABLE
from clinical_ui.slice_picture import percentile_window
from clinical_ui.viewer import SelectedSlice, ViewerData, mount_viewer, mount_volume, pack_volume
from site_agent import claims, drafts, run_lengths
from site_agent.case_store import CaseStore
from site_agent.claims import WorkKey
from site_agent.config import open_home
from site_agent.segmentation import open_task
from site_agent.work_message import read_message

AUTHOR = "bench"


@st.cache_resource
def store() -> CaseStore:
    return CaseStore(open_home(Path(os.environ[HOME_VARIABLE])))


@st.cache_resource
def image(case_id: str):
    volume = store().volume(case_id)
    token = case_id.removeprefix("case-")
    return pack_volume(volume, token), token, percentile_window(volume.image)


def main() -> None:
    st.set_page_config(page_title="bench", layout="wide")
    st.html("<style>.block-container { padding: 4rem 1rem 0; max-width: none; }</style>")
    st.title("Bench")
    case_id = st.query_params["case"]
    current = store().latest_round()
    task = next(one for one in store().tasks(current.round_id) if one.case_id == case_id)
    key = WorkKey(current.round_id, case_id, "annotation")
    shape, z = store().geometry(case_id).shape_zyx, task.slice_z
    packed, token, window = image(case_id)
    mount_volume(packed, key="volume")
    claims.claim(store(), key, author=AUTHOR)
    state = st.session_state.setdefault("bench", {})

    def read(value, kind):
        return read_message(value, kind, shape_zyx=shape, editable_z=[z])

    def keep(value) -> None:
        message = read(value, "draft")
        drafts.take(store(), key, author=AUTHOR, message=message)

    def answer(value) -> None:
        message = read(value, "prompt")
        drafts.take(store(), key, author=AUTHOR, message=message)
        if "clicks" not in state:
            state["clicks"] = open_task(store(), task.id, author=AUTHOR)
        clicks, prompt = state["clicks"], message.prompt
        clicks.take(message.target[z])
        inside, outside = prompt.foreground[:, 1:], prompt.background[:, 1:]
        mask = (
            clicks.segment(inside) if prompt.kind == "segment" else clicks.refine(inside, outside)
        )
        target = message.target.copy()
        target[z] = mask
        state["answer"] = {
            "sitting": message.sitting,
            "sequence": message.sequence,
            "target": run_lengths.encode(target),
            "message": None,
        }

    @st.fragment
    def viewer() -> None:
        draft = drafts.begin(store(), key, author=AUTHOR)
        mount_viewer(
            ViewerData(
                volume=token,
                epoch=draft.epoch,
                revision=draft.revision,
                mode="contour",
                title=case_id,
                target=None if draft.target is None else run_lengths.encode(draft.target),
                slice=z,
                window=window,
                editable_z=[z],
                selected=[SelectedSlice(z, False, "bench")],
                prompts="2d",
                answer=state.get("answer"),
                testing=True,
            ),
            key="viewer",
            on_draft=keep,
            on_prompt=answer,
            on_save=lambda value: None,
        )

    viewer()


main()
