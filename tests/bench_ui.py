"""How quick the viewer is, in the browser, on the real server: `make bench-ui`.

A site is made up with an MR of 320x320x60 and a CT of 512x512x150 voxels, and a real mouse works on
both. What has a limit on the MR must keep it; the CT's figures are printed beside them.
"""

import argparse
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from algorithms.contracts.case import Split
from algorithms.contracts.volume import Geometry, Volume
from site_agent.case_store import CaseStore, NewCase, SliceChoice
from site_agent.config import open_home
from site_agent.database import PackageRow, transaction, utc_now
from site_agent.site_setup import initialise
from tests.clinical_ui.browser import Server, Window, open_window, serve
from tests.clinical_ui.people import PASSWORD, add_people

PROBE = Path(__file__).with_name("clinical_ui") / "frame_probe.js"
MODELS_ANSWER = "fedgtvViewer.state().actions.filter((one) => one[1] === 'model').length"
STEPS, MOVES, CLICKS = 40, 25, 10
QUIET_MS = 3000  # a draft goes out two seconds after the last change


@dataclass(frozen=True)
class Kind:
    """A case to measure on; `limited` says whether its figures must keep the limits."""

    name: str
    case_id: str
    modality: str
    geometry: Geometry
    limited: bool


MR = Kind(
    "MR 320x320x60",
    "case-0000000000a1",
    "MR",
    Geometry((60, 320, 320), (3.0, 0.7, 0.7), (0.0, 0.0, 0.0)),
    limited=True,
)
CT = Kind(
    "CT 512x512x150",
    "case-0000000000a2",
    "CT",
    Geometry((150, 512, 512), (2.5, 0.9, 0.9), (0.0, 0.0, 0.0)),
    limited=False,
)


@dataclass(frozen=True)
class Figure:
    """One thing that was measured; `limit` None: it has none."""

    what: str
    value: float
    unit: str
    limit: float | None

    @property
    def kept(self) -> bool:
        """Say whether the limit is kept."""
        return self.limit is None or self.value <= self.limit


LIMITS = {
    "first case ready": ("s", 3.0),
    "scroll, median": ("ms", 16.0),
    "scroll, 95th percentile": ("ms", 16.0),
    "window and level, median": ("ms", 16.0),
    "window and level, 95th percentile": ("ms", 16.0),
    "stroke of 25 moves": ("s", 1.0),
    "sent while scrolling": ("bytes", 0.0),
    "received while scrolling": ("bytes", 0.0),
    "sent while painting": ("bytes", 0.0),
    "received while painting": ("bytes", 0.0),
    "sent for a draft": ("bytes", None),
    "margin points to contour, with loading the model": ("ms", None),
    "click to mask on screen, median": ("ms", 700.0),
    "click to mask on screen, slowest": ("ms", None),
}


def make_site(folder: Path, kinds: Sequence[Kind]) -> CaseStore:
    """Fill a site's home with one patient of each kind, whose middle slice is to be annotated."""
    initialise(folder, name="bench", study="bench", role="target", trusted_keys=[])
    store = CaseStore(open_home(folder))
    patients = {kind: kind.case_id.replace("case", "patient") for kind in kinds}
    new = [NewCase(kind.case_id, patients[kind], _image(kind), None, ()) for kind in kinds]
    store.add_cases(new, actor="bench")
    store.assign_splits(dict.fromkeys(patients.values(), Split.TRAINING))
    with transaction(store.engine) as session:
        session.add(
            PackageRow(
                package_id="be" * 32,
                model_version="1.0.0",
                signed_by="0" * 16,
                state="approved",
                received_at=utc_now(),
            )
        )
    current = store.start_round("be" * 32, seed=0)
    choices = [
        SliceChoice(kind.case_id, kind.geometry.shape_zyx[0] // 2, "domain_specific", 1.0)
        for kind in kinds
    ]
    store.open_tasks(current.round_id, choices, actor="bench")
    add_people(store.engine)
    return store


def _image(kind: Kind) -> Volume:
    """Return a body with a bright tumour in the middle, noisy as a scanner's image is."""
    shape = kind.geometry.shape_zyx
    rng = np.random.default_rng(0)
    z, y, x = _grid(shape)
    grey = (-1000.0, 40.0, 90.0, 20.0) if kind.modality == "CT" else (5.0, 300.0, 620.0, 25.0)
    air, body, tumour, noise = grey
    image = np.where(y**2 + x**2 < 0.7, body, air) + rng.normal(0, noise, shape)
    image += np.where(z**2 + (y * 6) ** 2 + (x * 7) ** 2 < 1, tumour - body, 0.0)
    return Volume(np.rint(image).astype(np.float32), kind.geometry, kind.modality)


def _grid(shape: tuple[int, int, int]) -> list[np.ndarray]:
    """Return z, y and x, each from -1 to 1, as they broadcast."""
    axes = [np.linspace(-1, 1, n) for n in shape]
    return list(np.meshgrid(*axes, indexing="ij", sparse=True))


# -- what is measured -------------------------------------------------------------------------


def measure(server: Server, kind: Kind, profile: Path) -> dict[str, float]:
    """Work on a case in a fresh browser; return what `LIMITS` names."""
    with open_window(server.url, profile) as window:
        window.page.add_init_script(PROBE.read_text("utf-8"))
        found = {"first case ready": _open(window, kind)}
        found |= _scroll(window)
        found |= _window_level(window)
        found |= _paint(window, kind)
        found |= _click(window, kind)
    return found


def _open(window: Window, kind: Kind) -> float:
    """Sign in, and go from the list of work to the first case."""
    page = window.page
    page.goto(f"{window.url}/study")
    window.sign_in("annotator", PASSWORD)
    window.settle()
    began = time.perf_counter()
    page.goto(f"{window.url}/annotate?case={kind.case_id}")
    page.wait_for_function("() => window.fedgtvViewer !== undefined")
    page.evaluate("() => frameProbe.until(() => true, 0)")
    ready = time.perf_counter() - began
    page.get_by_role("button", name=re.compile("^(Start|Go on)$")).click()
    page.wait_for_function("() => fedgtvViewer.state().mode === 'contour'")
    window.settle()
    return ready


def _scroll(window: Window) -> dict[str, float]:
    middle = _middle(window)
    window.page.mouse.move(*middle)
    before = window.wire_bytes()
    cursor = _cursor_z(window)
    costs = _probed(
        window,
        "wheel",
        lambda step: window.page.mouse.wheel(0, 100 if step < STEPS // 2 else -100),
    )
    received, sent = np.subtract(window.wire_bytes(), before)
    assert _cursor_z(window) == cursor, "scrolling there and back ended somewhere else"
    return {
        "scroll, median": median(costs),
        "scroll, 95th percentile": float(np.percentile(costs, 95)),
        "sent while scrolling": float(sent),
        "received while scrolling": float(received),
    }


def _window_level(window: Window) -> dict[str, float]:
    x, y = _middle(window)
    mouse = window.page.mouse
    mouse.move(x, y)
    mouse.down(button="right")
    before = _state(window)["window"]
    costs = _probed(window, "pointermove", lambda step: mouse.move(x + 2 * step + 2, y + step + 1))
    mouse.up(button="right")
    assert _state(window)["window"] != before, "dragging changed no window"
    return {
        "window and level, median": median(costs),
        "window and level, 95th percentile": float(np.percentile(costs, 95)),
    }


def _paint(window: Window, kind: Kind) -> dict[str, float]:
    """Draw one stroke, and take it back again."""
    page, z = window.page, _asked(kind)
    page.keyboard.press("n")
    page.keyboard.press("b")
    y, x = (n // 2 for n in kind.geometry.shape_zyx[1:])
    points = [_screen(window, z, y - 20, x - 25 + 2 * step) for step in range(MOVES + 1)]
    before = window.wire_bytes()
    began = time.perf_counter()
    window.stroke(points)
    page.evaluate("() => frameProbe.until(() => fedgtvViewer.voxels() > 0, 0)")
    took = time.perf_counter() - began
    received, sent = np.subtract(window.wire_bytes(), before)
    page.wait_for_timeout(QUIET_MS)
    draft = window.wire_bytes()[1] - before[1] - sent
    assert draft > 0, "the stroke was not kept on the server"
    page.keyboard.press("Control+z")
    page.wait_for_function("() => fedgtvViewer.voxels() === 0")
    page.wait_for_timeout(QUIET_MS)
    return {
        "stroke of 25 moves": took,
        "sent while painting": float(sent),
        "received while painting": float(received),
        "sent for a draft": float(draft),
    }


def _click(window: Window, kind: Kind) -> dict[str, float]:
    """Contour by four margin points, then mend by clicks inside and outside, by turns."""
    page, z = window.page, _asked(kind)
    _, rows, columns = kind.geometry.shape_zyx
    y, x = rows // 2, columns // 2
    half_y, half_x = round(0.8 * rows / 12), round(0.8 * columns / 14)
    page.keyboard.press("1")
    for dy, dx in ((-half_y, 0), (half_y, 0), (0, -half_x), (0, half_x)):
        page.mouse.click(*_screen(window, z, y + dy, x + dx))
    contour = _answered(window, "keydown", lambda: page.keyboard.press("Enter"))
    assert page.evaluate("fedgtvViewer.voxels()") > 0, "the model drew nothing"
    waits = []
    for click in range(CLICKS):
        inside = click % 2 == 0
        page.keyboard.press("2" if inside else "3")
        away = 1.1 if inside else 0.9  # just beyond the edge, and just within it
        angle = 2 * np.pi * click / CLICKS
        at = _screen(
            window,
            z,
            y + round(away * rows / 12 * np.sin(angle)),
            x + round(away * columns / 14 * np.cos(angle)),
        )
        waits.append(_answered(window, "pointerdown", lambda at=at: page.mouse.click(*at)))
    return {
        "margin points to contour, with loading the model": contour,
        "click to mask on screen, median": median(waits),
        "click to mask on screen, slowest": max(waits),
    }


def _probed(window: Window, event: str, act: Callable[[int], Any]) -> list[float]:
    """Do something `STEPS` times, each in a frame of its own; return what each cost, in ms."""
    page = window.page
    page.evaluate("(type) => frameProbe.start(type)", event)
    for step in range(STEPS):
        act(step)
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    costs: list[float] = page.evaluate("() => frameProbe.end()")
    assert len(costs) >= STEPS // 2, f"{len(costs)} of {STEPS} steps were seen"
    return costs


def _answered(window: Window, event: str, act: Callable[[], Any]) -> float:
    """Do what asks the model; return how long it took from the event to the mask, in ms."""
    page = window.page
    page.evaluate(
        f"""(type) => {{
          const answers = () => {MODELS_ANSWER};
          const before = answers();
          window.answered = new Promise((resolve, reject) => {{
            window.addEventListener(type, (event) => {{
              frameProbe.until(() => answers() > before, event.timeStamp).then(resolve, reject);
            }}, {{ once: true, capture: true }});
          }});
        }}""",
        event,
    )
    act()
    took: float = page.evaluate("() => window.answered")
    window.settle()
    return took


def _state(window: Window) -> dict[str, Any]:
    state: dict[str, Any] = window.page.evaluate("() => fedgtvViewer.state()")
    return state


def _cursor_z(window: Window) -> int:
    return int(_state(window)["cursor"][0])


def _asked(kind: Kind) -> int:
    return kind.geometry.shape_zyx[0] // 2


def _screen(window: Window, z: int, y: int, x: int) -> tuple[float, float]:
    place = window.page.evaluate("([z, y, x]) => fedgtvViewer.screen(z, y, x)", [z, y, x])
    return place["x"], place["y"]


def _middle(window: Window) -> tuple[float, float]:
    z, y, x = _state(window)["cursor"]
    return _screen(window, z, y, x)


# -- the report -------------------------------------------------------------------------------


def figures(found: dict[str, float], *, limited: bool) -> list[Figure]:
    """Return what was measured in the order of `LIMITS`, with the limits where they hold."""
    return [
        Figure(what, found[what], unit, limit if limited else None)
        for what, (unit, limit) in LIMITS.items()
        if what in found
    ]


def table(name: str, rows: Sequence[Figure]) -> str:
    """Write the figures of one case."""
    lines = [name]
    for row in rows:
        digits = {"bytes": 0, "ms": 1, "s": 2}[row.unit]
        value = f"{row.value:.{digits}f}"
        judged = ""
        if row.limit is not None:
            judged = f"limit {row.limit:g}".ljust(12) + ("pass" if row.kept else "FAIL")
        lines.append(f"  {row.what:<49} {value:>8} {row.unit:<6} {judged}".rstrip())
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write; exit code 1 when a limit is not kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench_ui", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--only", choices=["MR", "CT"], help="measure on one of the cases")
    arguments = parser.parse_args()
    kinds = [kind for kind in (MR, CT) if arguments.only in (None, kind.modality)]
    measured: dict[str, list[Figure]] = {}
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores / 2:
        sys.stdout.write(f"busy: load {load:.1f} on {cores} cores, the figures say little\n")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = make_site(folder / "home", kinds)
        with serve(store.home.folder, folder / "server") as server:
            for kind in kinds:
                found = measure(server, kind, folder / kind.modality)
                measured[kind.name] = figures(found, limited=kind.limited)
                sys.stdout.write(table(kind.name, measured[kind.name]) + "\n")
    if arguments.json is not None:
        report = {
            "machine": {"processor": platform.machine(), "cores": cores, "load_before": load},
            "cases": {name: [asdict(row) for row in rows] for name, rows in measured.items()},
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    sys.exit(0 if all(row.kept for rows in measured.values() for row in rows) else 1)


if __name__ == "__main__":
    main()
