"""The viewer's mount as Streamlit makes it, takes it away and makes it anew, in a plain page."""

import base64
import json
from dataclasses import replace

import pytest

from clinical_ui.viewer import ViewerData, assets, pack_volume
from tests.browser import chromium
from tests.phantoms import tiny_volume

TOKEN = "0" * 16
EPOCH = "a" * 16
SIGN_OF_LIFE_MS = 60_000
SETUP = """async ({script, packed}) => {
  const place = URL.createObjectURL(new Blob([script], {type: "text/javascript"}));
  const mountVolume = (await import(place)).default;
  const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  const hidden = document.createElement("div");
  document.body.append(hidden);
  mountVolume({data: bytes, parentElement: hidden});
  const room = globalThis[Symbol.for("fedgtv.viewer")];
  window.sent = [];
  window.cleanUps = {};
  window.mount = (name, data) => {
    const parentElement = document.createElement("div");
    document.body.append(parentElement);
    const setTriggerValue = (kind) => sent.push([name, kind]);
    const cleanUp = room.mount({data, parentElement, setTriggerValue});
    cleanUps[name] = () => { cleanUp(); parentElement.remove(); };
  };
}"""


def work(epoch: str = EPOCH, **changes: object) -> dict[str, object]:
    data = ViewerData(
        volume=TOKEN, epoch=epoch, revision=0, mode="contour", title="case-1", target=None,
        outside=None, slice=2, window=(0.0, 100.0), testing=True,
    )  # fmt: skip
    return replace(data, **changes).as_json()


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser):
    volume, _ = tiny_volume(1)
    page = browser.new_page()  # with storage and clock of its own
    page.route("**/*", lambda route: route.fulfill(content_type="text/html", body="<p>"))
    page.goto("http://127.0.0.1/")
    packed = base64.b64encode(pack_volume(volume, TOKEN)).decode()
    page.evaluate(SETUP, {"script": assets.script(), "packed": packed})
    yield page
    page.close()


def mount(page, name: str, data: dict[str, object]) -> None:
    page.evaluate("([name, data]) => mount(name, data)", [name, data])


def wait(page, what: str) -> None:
    page.wait_for_function(
        f"() => window.fedgtvViewer && ({what})", timeout=SIGN_OF_LIFE_MS, polling=20
    )


def open_first(page) -> None:
    mount(page, "first", work())
    wait(page, "fedgtvViewer.state().mode === 'contour'")


def stroke(page, y: int) -> None:
    for at, step in (((y, 8), "down"), ((y, 20), "up")):
        place = page.evaluate(f"fedgtvViewer.screen(2, {at[0]}, {at[1]})")
        page.mouse.move(place["x"], place["y"])
        if step == "down":
            page.keyboard.press("b")
        getattr(page.mouse, step)()
    wait(page, "fedgtvViewer.voxels() > 0")


def state(page) -> dict[str, object]:
    told = page.evaluate("fedgtvViewer.state()")
    return {key: told[key] for key in ("sitting", "undo", "cursor", "radiusMm", "epoch")}


def drawn(page) -> str:
    return page.evaluate("fedgtvViewer.checksum()")


@pytest.mark.parametrize("order", ["gone first", "new first"])
def test_mounted_anew_in_the_middle_of_the_work_nothing_is_lost(page, order: str) -> None:
    open_first(page)
    stroke(page, 10)
    before, mask = state(page), drawn(page)
    assert before["undo"] == ["stroke"]
    steps = ["cleanUps.first()", None]
    for step in steps if order == "gone first" else reversed(steps):
        if step is None:
            mount(page, "second", work())
        else:
            page.evaluate(step)
    wait(page, "true")
    assert (state(page), drawn(page)) == (before, mask)
    assert page.evaluate("document.querySelectorAll('.viewer').length") == 1
    stroke(page, 24)
    assert state(page)["undo"] == ["stroke", "stroke"]
    page.wait_for_function("() => sent.length > 0", timeout=SIGN_OF_LIFE_MS)
    assert page.evaluate("sent.at(-1)") == ["second", "draft"]


def test_time_between_two_mounts_is_not_worked(page) -> None:
    open_first(page)
    stroke(page, 10)
    worked_s = page.evaluate(
        """(data) => {
          const before = fedgtvViewer.activeSeconds();
          cleanUps.first();
          const end = performance.now() + 600;
          while (performance.now() < end) {}
          mount("second", data);
          return fedgtvViewer.activeSeconds() - before;
        }""",
        work(),
    )
    assert 0 <= worked_s < 0.3


def test_what_was_left_is_kept_for_who_comes_back_later(page) -> None:
    open_first(page)
    stroke(page, 10)
    sitting, mask = state(page)["sitting"], drawn(page)
    page.evaluate("cleanUps.first()")
    page.wait_for_function("() => !document.querySelector('.viewer')")
    page.wait_for_timeout(1200)  # longer than a mount takes to come again
    mount(page, "second", work())
    wait(page, "fedgtvViewer.state().mode === 'contour'")
    assert state(page)["sitting"] != sitting
    assert state(page)["undo"] == []
    assert drawn(page) == mask  # out of this tab's memory
    kept = json.loads(page.evaluate(f"sessionStorage.getItem('fedgtv:{EPOCH}')"))
    assert sitting in {kept["sitting"], *(one["sitting"] for one in kept.get("earlier", []))}


def test_other_work_begins_anew(page) -> None:
    open_first(page)
    stroke(page, 10)
    sitting = state(page)["sitting"]
    page.evaluate("cleanUps.first()")
    mount(page, "second", work("b" * 16))
    wait(page, f"fedgtvViewer.state().epoch === '{'b' * 16}'")
    assert state(page)["sitting"] != sitting
    assert page.evaluate("fedgtvViewer.voxels()") == 0
    assert page.evaluate("document.querySelectorAll('.viewer').length") == 1
