"""The viewer's pure modules in a browser, against numpy, scipy and the server's own functions."""

import base64
import gzip
import json

import numpy as np
import pytest
from scipy import ndimage

from algorithms.contracts.volume import Geometry, Volume
from clinical_ui.viewer import assets, index_views, pack_volume
from site_agent.click_store import mask_sha256
from tests.browser import chromium
from tests.clinical_ui.run_length_text import decode, encode

SHAPES = [(1, 1, 1), (1, 3, 5), (4, 6, 5), (3, 9, 16)]


@pytest.fixture(scope="module")
def js():
    """Return a function that runs JavaScript with the viewer's modules as `m`."""
    with chromium() as browser:
        page = browser.new_page()
        # Hashing needs a page that counts as secure, as this machine's own address does.
        page.route("**/*", lambda route: route.fulfill(content_type="text/html", body="<p>"))
        page.goto("http://127.0.0.1/")
        page.evaluate(
            """async (script) => {
              const place = URL.createObjectURL(new Blob([script], {type: "text/javascript"}));
              window.m = (await import(place)).modules;
              window.bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            }""",
            assets.script(),
        )
        yield lambda body, **values: page.evaluate(
            f"async (values) => {{ const {{ {', '.join(values)} }} = values; {body} }}", values
        )


def flat(mask: np.ndarray) -> list[int]:
    return mask.astype(int).ravel().tolist()


def blobs(shape, seed, share=0.5):
    """Return a mask with regions of several sizes, holes and empty slices."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 1.0)
    mask = smooth > np.quantile(smooth, share)
    mask[rng.random(shape[0]) < 0.3] = False
    return mask


# -- run lengths and hashes ------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 1.0])
def test_a_mask_travels_both_ways_and_has_the_servers_hash(js, shape, share):
    mask = np.random.default_rng(1).random(shape) < share
    body = """
      const mask = new m.mask.Mask(shape, Uint8Array.from(voxels));
      const runs = await m.run_lengths.unpackRuns(text);
      const there = m.run_lengths.decodeRuns(runs, mask.voxels.length);
      return {
        sent: await m.run_lengths.packRuns(mask.runs()),
        kept: Array.from(m.run_lengths.fromText(m.run_lengths.toText(mask.runs()))),
        runs: Array.from(mask.runs()),
        there: Array.from(there), counts: Array.from(mask.counts), total: mask.total,
        sha256: await m.mask.maskSha256(mask),
      };"""
    got = js(body, shape=list(shape), voxels=flat(mask), text=encode(mask))
    np.testing.assert_array_equal(decode(got["sent"], shape), mask)
    assert got["kept"] == got["runs"]
    assert got["there"] == flat(mask)
    assert got["counts"] == mask.sum(axis=(1, 2)).tolist()
    assert got["total"] == mask.sum()
    assert got["sha256"] == mask_sha256(mask)


@pytest.mark.parametrize("runs", [[], [5], [3, 2, 2], [4, 4, 1]])
def test_run_lengths_that_do_not_fill_the_volume_are_refused(js, runs):
    body = """
      try { m.run_lengths.decodeRuns(Uint32Array.from(runs), 8); }
      catch (error) { return error.message; }"""
    assert "run lengths" in js(body, runs=runs)


# -- the image -------------------------------------------------------------------------------------


def test_the_image_arrives_with_its_grey_values_and_windows(js):
    rng = np.random.default_rng(2)
    image = rng.normal(50, 400, (3, 7, 5)).astype(np.float32)
    packed = pack_volume(Volume(image, Geometry((3, 7, 5), (2.0, 1.0, 1.0), (0.0,) * 3)), "a" * 16)
    body = """
      const volume = await m.volume.readVolume(bytes(packed));
      const grey = [];
      for (let z = 0; z < 3; z += 1)
        for (let y = 0; y < 7; y += 1)
          for (let x = 0; x < 5; x += 1) grey.push(volume.grey([z, y, x]));
      const table = m.volume.lightTable(volume.header, [-100, 300]);
      return {
        grey, light: Array.from(volume.voxels, (v) => table[v + 32768]),
        median: volume.percentile(0.5), token: volume.header.token,
        again: await m.volume.readVolume(bytes(packed), () => true),
      };"""
    got = js(body, packed=base64.b64encode(packed).decode())
    step = float(image.max() - image.min()) / 65535
    np.testing.assert_allclose(np.reshape(got["grey"], image.shape), image, atol=step)
    light = np.clip((image.ravel() + 100) / 400, 0, 1) * 255
    np.testing.assert_allclose(got["light"], light, atol=0.51)
    assert got["median"] == pytest.approx(np.median(image), abs=2 * step)
    assert got["token"] == "a" * 16
    assert got["again"] is None  # a volume that is there already is not read twice


@pytest.mark.parametrize("change", [-2, 2])
def test_an_image_of_the_wrong_length_is_refused(js, change):
    image = np.zeros((2, 3, 4), dtype=np.float32)
    packed = pack_volume(Volume(image, Geometry((2, 3, 4), (1.0,) * 3, (0.0,) * 3)), "b" * 16)
    body = gzip.decompress(packed)
    body = body[:change] if change < 0 else body + b"\0" * change
    text = base64.b64encode(gzip.compress(body, mtime=0)).decode()
    said = js(
        "try { await m.volume.readVolume(bytes(text)); } catch (e) { return e.message; }", text=text
    )
    assert "than it says" in said


def test_ct_windows_are_the_usual_ones(js):
    got = js(
        """const presets = m.volume.presets({ header: { modality: "CT" } });
           return presets.map((one) => [one.name, one.window]);"""
    )
    assert got == [
        ["Soft tissue", [-160, 240]],
        ["Lung", [-1350, 150]],
        ["Liver", [15, 165]],
        ["Bone", [-770, 1730]],
        ["Brain", [0, 80]],
    ]


# -- planes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (1, -1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_plane_shows_what_the_server_turns(js, signs, order):
    axes = np.eye(3)[list(order)] * np.array(signs)[:, None]
    geometry = Geometry((3, 4, 5), (3.0, 2.0, 1.0), (0.0,) * 3, tuple(map(tuple, axes.tolist())))
    stored = np.arange(60).reshape(3, 4, 5)
    views = index_views(geometry)
    body = """
      return views.map((view, axis) => {
        const plane = m.plane.planeOf(view, shape, 1);
        const seen = Array.from(m.plane.copyPlane(plane, Uint8Array.from(voxels)));
        const voxel = m.plane.voxelOf(view, shape, 1, 1, 2);
        return { seen, rows: plane.rows, voxel, back: m.plane.pixelOf(view, shape, voxel) };
      });"""
    for axis, got in enumerate(js(body, views=views, shape=[3, 4, 5], voxels=flat(stored))):
        view = views[axis]
        turned = np.take(stored, 1, axis=axis)
        if view["rows_axis"] > view["columns_axis"]:
            turned = turned.T
        turned = turned[
            :: -1 if view["flipped_rows"] else 1, :: -1 if view["flipped_columns"] else 1
        ]
        np.testing.assert_array_equal(np.reshape(got["seen"], (got["rows"], -1)), turned)
        assert stored[tuple(got["voxel"])] == turned[1, 2]
        assert got["back"] == [1, 2]


# -- shapes ----------------------------------------------------------------------------------------

STROKE = """
  const plane = { rows, columns, rowMm, columnMm };
  const hit = new Uint8Array(rows * columns);
  for (let i = 0; i + 1 < places.length; i += 1)
    m.shapes.visitStroke(plane, places[i], places[i + 1], radius,
      (r, c) => { hit[r * columns + c] = 1; });
  return Array.from(hit);"""


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 1.5)])
@pytest.mark.parametrize("radius", [2.0, 4.3])
def test_a_stroke_covers_what_lies_within_its_radius_in_mm(js, spacing, radius):
    places = [[5.2, 4.0], [20.0, 11.5]]
    rows, columns = 30, 24
    hit = js(
        STROKE,
        rows=rows,
        columns=columns,
        rowMm=spacing[0],
        columnMm=spacing[1],
        places=places,
        radius=radius,
    )
    at = np.moveaxis(np.indices((rows, columns)), 0, -1) * spacing
    start, end = np.array(places) * spacing
    along = np.clip(((at - start) @ (end - start)) / ((end - start) @ (end - start)), 0, 1)
    away = np.linalg.norm(at - start - along[..., None] * (end - start), axis=-1)
    np.testing.assert_array_equal(np.reshape(hit, (rows, columns)), away <= radius)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("radius", [0.1, 0.5, 2.0])
def test_a_fast_stroke_leaves_no_gap(js, seed, radius):
    rng = np.random.default_rng(seed)
    spacing = rng.choice([0.4, 1.0, 5.0], 2)
    places = rng.uniform(2, 37, (6, 2)).tolist()
    hit = js(
        STROKE,
        rows=40,
        columns=40,
        rowMm=spacing[0],
        columnMm=spacing[1],
        places=places,
        radius=radius,
    )
    mask = np.reshape(hit, (40, 40))
    assert ndimage.label(mask, np.ones((3, 3)))[1] == 1
    for row, column in places:
        assert mask[round(row), round(column)]


@pytest.mark.parametrize("seed", range(4))
def test_a_lasso_takes_the_pixels_whose_centre_lies_inside(js, seed):
    from matplotlib.path import Path as Polygon

    corners = np.random.default_rng(seed).uniform(-3, 33, (7, 2))  # crosses itself and the border
    body = """
      const hit = new Uint8Array(900);
      const plane = { rows: 30, columns: 30 };
      m.shapes.visitPolygon(plane, corners, (r, c) => { hit[r * 30 + c] ^= 1; });
      return Array.from(hit);"""
    hit = np.reshape(js(body, corners=corners.tolist()), (30, 30)).astype(bool)
    at = np.moveaxis(np.indices((30, 30)), 0, -1).reshape(-1, 2)
    inside = np.zeros(900, dtype=bool)
    for i in range(1, 6):  # even-odd: every triangle of a fan turns its pixels over
        inside ^= Polygon(corners[[0, i, i + 1]]).contains_points(at)
    np.testing.assert_array_equal(hit, inside.reshape(30, 30))


@pytest.mark.parametrize("seed", range(3))
def test_filling_takes_the_region_that_hangs_together(js, seed):
    mask = blobs((1, 20, 25), seed, 0.6)[0] if seed else np.zeros((20, 25), dtype=bool)
    row, column = 9, 12
    got = js(
        "return m.shapes.connected({ rows: 20, columns: 25 }, Uint8Array.from(pixels), 9, 12);",
        pixels=flat(mask),
    )
    labels, _ = ndimage.label(mask == mask[row, column])
    region = labels == labels[row, column]
    assert sorted(got["pixels"]) == np.flatnonzero(region).tolist()
    border = np.ones_like(region)
    border[1:-1, 1:-1] = False
    assert got["open"] == (region & border).any()


def test_the_ball_is_round_in_mm(js):
    body = """
      const hit = new Uint8Array(shape[0] * shape[1] * shape[2]);
      m.shapes.visitBall(shape, spacing, start, start, radius,
        (z, y, x) => { hit[(z * shape[1] + y) * shape[2] + x] = 1; });
      return Array.from(hit);"""
    shape, spacing, centre, radius = (7, 20, 20), (3.0, 1.0, 0.8), (3, 10, 9), 6.2
    hit = js(body, shape=list(shape), spacing=list(spacing), start=list(centre), radius=radius)
    away = (np.moveaxis(np.indices(shape), 0, -1) - centre) * spacing
    np.testing.assert_array_equal(
        np.reshape(hit, shape), np.linalg.norm(away, axis=-1) <= radius + 1e-9
    )


# -- outlines --------------------------------------------------------------------------------------

OUTLINES = """
  const loops = m.contour_lines.outlines(Uint8Array.from(pixels), rows, columns);
  return loops.map((loop) => Array.from(loop));"""


@pytest.mark.parametrize("seed", range(5))
def test_every_region_and_hole_has_one_closed_line_near_its_edge(js, seed):
    mask = blobs((1, 24, 30), seed + 10, 0.7)[0]
    mask[0, :4] = True  # reaches the border
    loops = js(OUTLINES, pixels=flat(mask), rows=24, columns=30)
    regions = ndimage.label(mask)[1]  # diagonal neighbours are apart
    holes = ndimage.label(~np.pad(mask, 1), np.ones((3, 3)))[1] - 1
    assert len(loops) == regions + holes
    area = 0.0
    edge = ndimage.distance_transform_edt(np.pad(mask, 1))
    beyond = ndimage.distance_transform_edt(~np.pad(mask, 1))
    for loop in loops:
        row, column = np.reshape(loop, (-1, 2)).T
        area += np.sum(row * np.roll(column, -1) - column * np.roll(row, -1)) / 2
        # Within half a pixel (and its diagonal) of both an inside and an outside pixel.
        near = np.rint([row + 1, column + 1]).astype(int)
        assert (np.maximum(edge, beyond)[tuple(near)] <= np.sqrt(2)).all()
    assert abs(area) == pytest.approx(mask.sum(), rel=0.25)


def test_a_discs_outline_is_a_circle(js):
    rows = np.indices((60, 60)) - 29.5
    mask = np.hypot(*rows) <= 20
    (loop,) = js(OUTLINES, pixels=flat(mask), rows=60, columns=60)
    away = np.hypot(*(np.reshape(loop, (-1, 2)).T - 29.5))
    assert away.min() > 19.4
    assert away.max() < 20.6
    steps = np.diff(np.reshape(loop, (-1, 2)), axis=0)
    turn = np.abs(np.diff(np.unwrap(np.arctan2(*steps.T))))
    assert np.degrees(turn).max() < 35  # marching squares alone turns by 45 and 90 degrees


def test_nothing_drawn_has_no_line(js):
    assert js(OUTLINES, pixels=[0] * 12, rows=3, columns=4) == []
    assert len(js(OUTLINES, pixels=[1] * 12, rows=3, columns=4)) == 1


# -- interpolation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 1.9)])
@pytest.mark.parametrize("seed", range(3))
def test_slices_between_are_the_mixture_of_signed_distances(js, seed, spacing):
    first, second = (blobs((1, 17, 22), seed + 20 * i, 0.7)[0] for i in (1, 2))
    first[8, 8] = second[8, 9] = True
    got = js(
        """return m.interpolation.interpolate(Uint8Array.from(first), Uint8Array.from(second),
             17, 22, spacing[0], spacing[1], 3).map((mask) => Array.from(mask));""",
        first=flat(first),
        second=flat(second),
        spacing=list(spacing),
    )

    def signed(mask):
        inside = ndimage.distance_transform_edt(mask, sampling=spacing)
        return inside - ndimage.distance_transform_edt(~mask, sampling=spacing)

    for i, mask in enumerate(got, start=1):
        mixed = (1 - i / 4) * signed(first) + i / 4 * signed(second)
        clear = np.abs(mixed) > 1e-9  # exact ties may fall either way
        np.testing.assert_array_equal(np.reshape(mask, (17, 22))[clear], (mixed > 0)[clear])


@pytest.mark.parametrize(
    ("drawn", "at", "gaps"),
    [
        ([2, 6], 4, [[2, 6]]),
        ([2, 6], 6, [[2, 6]]),
        ([2, 6, 9], 6, [[2, 6], [6, 9]]),
        ([2, 3], 2, []),
        ([2, 6], 8, []),
        ([], 3, []),
        ([0, 4, 5, 9], 7, [[5, 9]]),
    ],
)
def test_the_gap_around_the_slice_is_filled(js, drawn, at, gaps):
    body = "return m.interpolation.gapsAt((z) => drawn.includes(z), 10, at);"
    assert js(body, drawn=drawn, at=at) == gaps


# -- undo ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_any_way_through_undo_and_redo_comes_back_to_each_mask(js, seed):
    body = """
      let state = seed + 1;
      const random = () => { state = (state * 48271) % 2147483647; return state / 2147483647; };
      const shape = [3, 5, 7];
      const masks = { target: new m.mask.Mask(shape), outside: new m.mask.Mask(shape) };
      const history = new m.mask.History(masks);
      const now = () => JSON.stringify([...masks.target.voxels, ...masks.outside.voxels]);
      const known = [now()];
      let at = 0;
      for (let step = 0; step < 200; step += 1) {
        const choice = random();
        if (choice < 0.4) {
          const edit = new m.mask.Edit(masks, "stroke", 0);
          for (let i = 0; i < 9; i += 1)
            edit.put(random() < 0.7 ? "target" : "outside",
              Math.floor(random() * 105), random() < 0.6 ? 1 : 0);
          if (!history.record(edit)) continue;
          at += 1;
          known.length = at;
          known.push(now());
        } else if (choice < 0.75) {
          if (history.undo()) at -= 1;
          else if (at !== 0) return `undo gave up at ${at}`;
        } else if (history.redo()) at += 1;
        else if (at !== known.length - 1) return `redo gave up at ${at}`;
        if (now() !== known[at]) return `step ${step} differs`;
        const fresh = new m.mask.Mask(shape, masks.target.voxels.slice());
        if (String(fresh.counts) !== String(masks.target.counts)) return "counts differ";
      }
      return known.length > 5 ? "same" : "too short";"""
    assert js(body, seed=seed) == "same"


def test_an_edit_leaves_slices_alone_that_were_not_asked_for(js):
    body = """
      const masks = { target: new m.mask.Mask([3, 2, 2]), outside: new m.mask.Mask([3, 2, 2]) };
      const edit = new m.mask.Edit(masks, "brush3d", 1, (z) => z === 1);
      for (let i = 0; i < 12; i += 1) edit.put("target", i, 1);
      return [Array.from(masks.target.counts), edit.refused, edit.size];"""
    assert js(body) == [[0, 4, 0], True, 4]


# -- active time -----------------------------------------------------------------------------------


def clock(js, *events: tuple) -> dict:
    """Return what the clock says after events (second, call, arguments); the idle limit is 30 s."""
    body = """
      let now = 5000;
      const clock = new m.clock.ActiveClock(() => now, 30000);
      const said = [];
      for (const [second, call, ...rest] of events) {
        now = 5000 + second * 1000;
        said.push(clock[call](...rest) ?? null);
      }
      const [active, waits] = [clock.intervals(), clock.waits()];
      return { active, waits, said, activeMs: clock.activeMs() };"""
    got = js(body, events=[list(event) for event in events])
    got["active"] = [[start / 1000, end / 1000, z] for start, end, z in got["active"]]
    got["waits"] = [[start / 1000, end / 1000] for start, end in got["waits"]]
    return got


def test_gaps_over_the_idle_limit_are_not_active(js):
    got = clock(
        js, (0, "activity"), (10, "activity"), (40, "activity"), (71, "activity"), (75, "activity")
    )
    assert got["active"] == [[0, 40, -1], [71, 75, -1]]
    assert got["activeMs"] == 44_000


def test_what_was_reported_only_grows(js):
    events = [(0, "activity"), (20, "intervals"), (25, "activity"), (30, "intervals")]
    said = clock(js, *events, (90, "endIfIdle"), (91, "intervals"))["said"]
    assert said == [None, [], None, [[0, 25_000, -1]], True, [[0, 25_000, -1]]]


def test_hidden_blurred_and_paused_time_does_not_count_however_they_overlap(js):
    got = clock(
        js,
        (0, "activity"),
        (5, "block", "blurred"),
        (6, "block", "hidden"),
        (7, "activity"),
        (8, "unblock", "blurred"),
        (9, "activity"),
        (10, "unblock", "hidden"),
        (12, "activity"),
        (13, "block", "paused"),
        (20, "activity"),
        (21, "unblock", "paused"),
        (24, "settle"),
    )
    assert got["active"] == [[0, 5, -1], [10, 13, -1], [21, 24, -1]]


def test_waiting_for_the_model_is_counted_apart(js):
    got = clock(
        js,
        (0, "activity"),
        (4, "block", "waiting"),
        (5, "activity"),
        (9, "unblock", "waiting"),
        (11, "activity"),
    )
    assert got["active"] == [[0, 4, -1], [9, 11, -1]]
    assert got["waits"] == [[4, 9]]


def test_time_is_counted_for_the_slice_that_is_worked_on(js):
    got = clock(
        js, (0, "workOn", 3), (0, "activity"), (5, "workOn", 7), (9, "workOn", 7), (12, "activity")
    )
    assert got["active"] == [[0, 5, 3], [5, 12, 7]]


def test_leaving_idle_does_not_count_the_gap(js):
    got = clock(js, (0, "activity"), (3, "activity"), (60, "block", "hidden"))
    assert got["active"] == [[0, 3, -1]]


@pytest.mark.parametrize("seed", range(5))
def test_intervals_are_ordered_and_never_overlap(js, seed):
    rng = np.random.default_rng(seed)
    calls = [["activity"], ["settle"], ["endIfIdle"], ["workOn", 1], ["workOn", 2]]
    calls += [[way, why] for way in ("block", "unblock") for why in ("hidden", "waiting", "paused")]
    times = np.cumsum(rng.exponential(9, 120)).round(3)
    events = [(float(t), *calls[rng.integers(len(calls))]) for t in times]
    got = clock(js, *events)
    edges = np.array([interval[:2] for interval in got["active"]])
    assert len(edges) > 3
    assert (np.diff(edges.ravel()) >= 0).all()
    assert edges.max() <= times[-1] + 0.001
    for start, end in got["waits"]:
        assert ((edges[:, 1] <= start) | (edges[:, 0] >= end)).all()
    assert json.dumps(got["active"])  # plain numbers


# -- what an earlier page could not send ----------------------------------------------------------


def test_a_sitting_that_ended_earlier_is_sent_with_how_long_ago_it_began(js):
    began_s_ago, worked_ms = 60, 1500
    sent = js(
        """
        const began_at = new Date(Date.now() - 1000 * ago).toISOString();
        const times = { began_at, elapsed_ms: worked, active: [[0, worked, -1]], waiting: [] };
        const kept = { ...times, actions: [], epoch: "e", sitting: "a".repeat(16), sequence: 3 };
        const target = m.run_lengths.toText(new Uint32Array([6]));
        const text = JSON.stringify({ ...kept, revision: 2, target, outside: null, earlier: [] });
        sessionStorage.setItem(m.courier.storageKey("e"), text);
        const arrived = new Promise((resolve) => {
          new m.courier.Courier({ epoch: "e", revision: 2, mayDraft: () => false,
            isAtWork: () => true, isActive: () => false, changed: () => {}, snapshot: () => null,
            send(kind, message) { this.close?.(); resolve(message); } });
        });
        const message = await arrived;
        sessionStorage.clear();
        return message;
        """,
        ago=began_s_ago,
        worked=worked_ms,
    )
    assert (sent["sitting"], sent["sequence"]) == ("a" * 16, 4)
    assert sent["active"] == [[0, worked_ms, -1]]
    assert began_s_ago * 1000 <= sent["elapsed_ms"] < began_s_ago * 1000 + 30_000
