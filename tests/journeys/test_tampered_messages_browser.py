"""A browser that lies: what a real page sent is changed on its way to the server.

Whoever owns the browser can send anything over the page's own websocket. Nothing of it may be
stored, all of it is refused, told and logged, and an honest message is taken right afterwards.
"""

import base64
import gzip
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg

from site_agent import claims, drafts
from site_agent.case_store import CaseStore
from site_agent.click_store import mask_sha256
from tests.clinical_ui.browser import Server, open_window, open_windows, serve
from tests.clinical_ui.people import EVERYTHING, add_people
from tests.clinical_ui.run_length_text import decode, encode
from tests.clinical_ui.viewer_hands import WAIT_MS, Hands
from tests.phantoms import SHAPE_ZYX
from tests.site_agent.doctors_site import ASKED, annotation, audit, make_site, review

pytestmark = pytest.mark.journey

Z, NOT_ASKED = ASKED[0], 3
PLANTED = "Nobody^Aurelia"
TOO_BIG_BYTES = 26 << 20  # Streamlit takes 25 MB
KEEP_SOCKETS = """
  globalThis.sockets = [];
  globalThis.WebSocket = class extends WebSocket {
    constructor(...how) { super(...how); sockets.push(this); }
  };
"""

Message = dict[str, Any]


@dataclass
class Hospital:
    """A site whose first doctor has begun on both cases, and its server."""

    store: CaseStore
    server: Server
    other_epoch: str  # of the draft on the other case


@pytest.fixture(scope="module")
def hospital(tmp_path_factory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("tampered")
    store = make_site(folder)
    add_people(store.engine)
    claims.claim(store, review(store), author=EVERYTHING)
    other = drafts.begin(store, review(store), author=EVERYTHING)
    with serve(store.home.folder, folder / "run") as server:
        yield Hospital(store, server, other.epoch)


class Between:
    """What sits between a page and its server, and changes what the viewer sends."""

    def __init__(self, page: Any) -> None:
        self.change: Callable[[Message], None] | None = None
        page.route_web_socket(lambda url: "_stcore/stream" in url, self._route)

    def _route(self, socket: Any) -> None:
        server = socket.connect_to_server()
        socket.on_message(lambda sent: server.send(self._changed(sent)))

    def _changed(self, sent: bytes) -> bytes:
        """Return what goes on to the server: changed once, if something of the viewer is in it."""
        envelope = BackMsg.FromString(sent)
        for widget in envelope.rerun_script.widget_states.widgets:
            if self.change is not None and widget.WhichOneof("value") == "json_trigger_value":
                triggers = json.loads(widget.json_trigger_value)
                for trigger in triggers:
                    self.change(trigger["value"])
                self.change = None
                widget.json_trigger_value = json.dumps(triggers)
        return envelope.SerializeToString()


def set_to(**fields: Any) -> Callable[[Message], None]:
    return lambda message: message.update(fields)


def draw_elsewhere(message: Message) -> None:
    """Draw on a slice that was not asked for."""
    mask = decode(message["target"], SHAPE_ZYX)
    mask[NOT_ASKED, 4:9] = True
    message["target"] = encode(mask)


def work_more_than_time_passed(message: Message) -> None:
    message["elapsed_ms"] = 3_600_000
    message["active"] = [[0, 3_600_000, Z]]


def name_a_patient(message: Message) -> None:
    message["actions"].append([message["elapsed_ms"], "stroke", Z, {"note": PLANTED}])


BOMB = base64.b64encode(gzip.compress(bytes(64 << 20))).decode()
CHANGES: dict[str, tuple[Callable[[Message], None], str]] = {
    "wrong length": (set_to(target=encode(np.zeros((8, 32, 31), bool))), "do not fill the volume"),
    "huge when unpacked": (set_to(target=BOMB), "too many runs"),
    "a patient's name": (name_a_patient, "'actions'"),
    "another slice": (draw_elsewhere, "not asked for"),
    "stale revision": (set_to(revision=0), "another window"),
    "more work than time": (work_more_than_time_passed, "more time"),
}


@pytest.fixture
def doctor(hospital, tmp_path) -> Iterator[Hands]:
    with open_window(hospital.server.url, tmp_path / "profile") as window:
        yield Hands(window, SHAPE_ZYX)


def refusals(store: CaseStore) -> list[str]:
    return [row.detail["why"] for row in audit(store) if row.event == "payload_refused"]


def test_what_was_changed_on_its_way_is_refused_told_and_logged(hospital, doctor) -> None:
    store, key = hospital.store, annotation(hospital.store)
    between = Between(doctor.page)
    doctor.open(key, EVERYTHING)
    doctor.begin()
    for y in (4, 28):
        draw_honestly(hospital, doctor, y, "b")
    changes = {**CHANGES, "another case": (set_to(epoch=hospital.other_epoch), "begun anew")}
    sitting = doctor.state()["sitting"]
    for name, (change, why) in changes.items():
        logged = len(refusals(store))
        between.change = change
        doctor.stroke(Z, [(16, 6), (16, 24)], "b")
        refused = next_refusal(doctor, store, logged)
        assert why in refused, name
        assert PLANTED not in refused
        doctor.page.get_by_text(refused).first.wait_for()
        doctor.wait("fedgtvViewer.state().trouble !== ''")  # draws on after having been told
        draw_honestly(hospital, doctor, 16, "e")
    assert doctor.state()["sitting"] == sitting  # and nothing of what can be undone was lost
    assert len(doctor.state()["undo"]) == 2 + 2 * len(changes)

    logged = len(refusals(store))
    between.change = lambda message: message["prompt"].update(foreground=[[Z, 400, 10]])
    doctor.click(Z, 16, 16, "2")
    assert "outside the volume" in next_refusal(doctor, store, logged)
    doctor.wait("fedgtvViewer.state().lock === ''")
    between.change = set_to(slices=[NOT_ASKED])
    doctor.page.keyboard.press("d")
    doctor.button("Save 1 done slice").click()
    assert "not asked for" in next_refusal(doctor, store, logged + 1)
    doctor.wait("fedgtvViewer.state().lock === ''")
    assert [task.state for task in store.tasks(key.round_id)] == ["open"] * len(ASKED)
    assert PLANTED not in hospital.server.log.read_text()
    assert PLANTED not in json.dumps([row.detail for row in audit(store)])

    shown, epoch = doctor.mask(), doctor.state()["epoch"]
    doctor.button("Save 1 done slice").click()
    doctor.wait(f"fedgtvViewer.state().epoch !== '{epoch}'")
    (done,) = [task for task in store.tasks(key.round_id) if task.state == "done"]
    np.testing.assert_array_equal(store.task_mask(done), shown[Z])


def next_refusal(doctor: Hands, store: CaseStore, known: int) -> str:
    """Wait until the audit log has one refusal more; return what it says."""
    deadline = time.monotonic() + WAIT_MS / 1000
    while len(refusals(store)) == known:
        assert time.monotonic() < deadline, "nothing was refused"
        doctor.page.wait_for_timeout(100)
    return refusals(store)[known]


def draw_honestly(hospital: Hospital, doctor: Hands, y: int, tool: str) -> None:
    """Draw a line; what is on screen then is what is stored."""
    doctor.stroke(Z, [(y, 6), (y, 24)], tool)
    doctor.wait_stored()
    assert stored(hospital) == doctor.checksum()


def stored(hospital: Hospital) -> str:
    draft = drafts.restore(hospital.store, annotation(hospital.store), author=EVERYTHING)
    assert draft is not None
    assert draft.target is not None
    return mask_sha256(draft.target)


def test_too_big_a_message_ends_its_own_connection_only(hospital, tmp_path) -> None:
    store = hospital.store
    with open_windows(hospital.server.url, [tmp_path / "a", tmp_path / "b"]) as windows:
        liar, bystander = (Hands(window, SHAPE_ZYX) for window in windows)
        for hands, key in ((liar, annotation(store)), (bystander, review(store))):
            hands.page.add_init_script(KEEP_SOCKETS)
            hands.open(key, EVERYTHING)
        if liar.state()["lock"]:
            liar.begin()
        z = liar.state()["cursor"][0]
        liar.stroke(z, [(26, 6), (26, 24)])
        drawn = liar.checksum()
        liar.page.evaluate("size => sockets.at(-1).send(new Uint8Array(size))", TOO_BIG_BYTES)
        liar.wait("sockets.length > 1 && sockets.at(-1).readyState === WebSocket.OPEN")
        liar.wait_stored()
        assert liar.checksum() == drawn == stored(hospital)
        assert liar.page.evaluate("sockets[0].readyState === WebSocket.CLOSED")

        bystander.stroke(bystander.state()["cursor"][0], [(26, 6), (26, 24)])
        bystander.wait_stored()
        assert bystander.page.evaluate("sockets.length") == 1
