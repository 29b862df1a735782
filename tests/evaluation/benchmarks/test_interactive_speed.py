import importlib.util
import itertools
import sys

import numpy as np
import pytest

from algorithms.geodesic import geodesic_distance
from evaluation.benchmarks import interactive_speed as speed
from evaluation.benchmarks import shape_phantoms
from tests.evaluation.benchmarks.test_interactive_networks import ball, write_case, write_packs

TINY = {2: (24, 24), 3: (8, 12, 12)}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "SHAPES", TINY)
    monkeypatch.setattr(shape_phantoms, "SHAPES", {2: (48, 48), 3: (16, 28, 28)})


def floyd_warshall(image: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Shortest ways between all pixels, by the book."""
    places = list(np.ndindex(image.shape))
    way = np.full((len(places),) * 2, np.inf)
    for (i, a), (j, b) in itertools.product(enumerate(places), repeat=2):
        if max(abs(p - q) for p, q in zip(a, b, strict=True)) <= 1:
            way[i, j] = abs(float(image[a]) - float(image[b]))
    for k in range(len(places)):
        way = np.minimum(way, way[:, k : k + 1] + way[k : k + 1])
    return way[seeds.ravel()].min(axis=0).reshape(image.shape)


def some_seeds(shape: tuple[int, ...], count: int, rng: np.random.Generator) -> np.ndarray:
    seeds = np.zeros(shape, dtype=bool)
    seeds.flat[rng.choice(seeds.size, count, replace=False)] = True
    return seeds


# -- the reference ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 5), (4, 5), (7, 3), (3, 2, 4), (1, 3, 3)])
@pytest.mark.parametrize("levels", [2, 1000])
def test_dijkstra_against_all_ways(shape, levels) -> None:
    rng = np.random.default_rng([levels, *shape])
    image = rng.integers(0, levels, shape).astype(np.float32) / 10
    for count in (1, 2):
        seeds = some_seeds(shape, count, rng)
        found = speed.dijkstra(image, seeds)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, floyd_warshall(image, seeds), atol=1e-12)


def test_a_way_round_a_wall_by_hand() -> None:
    image = np.array([[0, 9, 0], [0, 9, 0], [1, 2, 1]], dtype=np.float32)
    seeds = np.zeros((3, 3), dtype=bool)
    seeds[0, 0] = True
    expected = [[0, 9, 4], [0, 9, 4], [1, 2, 3]]
    np.testing.assert_allclose(speed.dijkstra(image, seeds), expected, atol=1e-12)


def test_a_flat_image_is_near_everywhere() -> None:
    seeds = np.zeros((5, 6), dtype=bool)
    seeds[0, 0] = True
    np.testing.assert_allclose(
        speed.dijkstra(np.ones((5, 6), dtype=np.float32), seeds), 0, atol=1e-12
    )


# -- images -----------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [2, 3])
def test_phantoms_where_there_are_no_packs(axes) -> None:
    images = speed.speed_images(None, axes, 2)
    assert len(images) == 2
    for image, mask in images:
        assert image.shape == mask.shape == TINY[axes]
        assert (image.dtype, mask.dtype) == (np.float32, np.bool_)
        assert mask.any()
        assert abs(float(image.mean())) < 1e-4
        assert float(image.std()) == pytest.approx(1.0, abs=1e-3)
    again = speed.speed_images(None, axes, 2)
    np.testing.assert_array_equal(images[1][0], again[1][0])
    assert not np.array_equal(images[0][0], images[1][0])


@pytest.mark.parametrize("axes", [2, 3])
def test_real_images_come_from_both_packs_in_turn(tmp_path, axes) -> None:
    small, large = ball((4, 32, 32), 5.0), ball((4, 32, 32), 11.0)
    large[2:, 0:4, 0:4] = True  # slice 2 is the largest, and the first of these
    for patient in ("p1", "p2"):
        write_case(tmp_path, "sts", patient, small)
        write_case(tmp_path, "la", patient, large)
    images = speed.speed_images(tmp_path, axes, 3)
    shares = [float(mask.mean()) for _, mask in images]
    expected = [float((m if axes == 3 else m[2]).mean()) for m in (small, large, small)]
    assert shares == pytest.approx(expected, abs=0.05)
    assert len(speed.speed_images(tmp_path, axes, 99)) == 4
    if axes == 2:
        assert images[1][1][0, 0]


# -- geodesic distance ------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [2, 3])
def test_each_installed_engine_is_timed(axes) -> None:
    rows = speed.geodesic_rows(speed.speed_images(None, axes, 2), 2)
    expected = {"scipy Dijkstra": 2, "exact": 4}
    if importlib.util.find_spec("GeodisTK"):
        expected["geodistk raster, 4 passes"] = 4
    if importlib.util.find_spec("FastGeodis"):
        expected |= {f"fastgeodis raster, {n} passes": 4 for n in (2, 4, 8, 16, 32)}
    engines = [r["engine"] for r in rows]
    assert {engine: engines.count(engine) for engine in engines} == expected
    for row in rows:
        assert row["what"] == f"geodesic {axes}-D"
        assert row["image"] in (0, 1)
        assert row["seconds"] >= 0
        if row["engine"] == "exact":
            assert row["largest_error"] <= 1e-5
        elif "fastgeodis" in row["engine"]:
            assert row["largest_error"] >= 0
        elif row["engine"] == "scipy Dijkstra":
            assert row["largest_error"] == 0


def test_engines_that_are_not_installed_are_left_out(monkeypatch) -> None:
    for engine in ("GeodisTK", "FastGeodis"):
        monkeypatch.setitem(sys.modules, engine, None)
    rows = speed.geodesic_rows(speed.speed_images(None, 2, 1), 1)
    assert [r["engine"] for r in rows] == ["scipy Dijkstra", "exact"]


def test_a_wrong_engine_would_show(monkeypatch) -> None:
    monkeypatch.setattr(
        speed, "geodesic_distance", lambda *a, **more: geodesic_distance(*a, **more) + 0.5
    )
    rows = speed.geodesic_rows(speed.speed_images(None, 2, 1), 1)
    (exact,) = [r for r in rows if r["engine"] == "exact"]
    assert exact["largest_error"] == pytest.approx(0.5, abs=1e-4)


# -- clicks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [2, 3])
def test_clicks_are_timed_by_kind(axes) -> None:
    # Noise hides the target, so that there is something to correct.
    shape = TINY[axes]
    rng = np.random.default_rng(0)
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(n // 4, 3 * n // 4) for n in shape)] = True
    mask[tuple(slice(n // 4, n // 2) for n in shape)] = False
    rows = speed.click_rows([(rng.standard_normal(shape, dtype=np.float32), mask)], 4)
    kinds = {(r["what"], r["engine"]) for r in rows}
    assert kinds == {
        (f"first contour {axes}-D", "if-gc"),
        (f"first contour {axes}-D", "if-gc-pure"),
        (f"correction {axes}-D", "if-gc"),
        (f"correction {axes}-D", "if-gc-pure"),
        (f"added click {axes}-D", "from the last result"),
        (f"added click {axes}-D", "afresh"),
    }
    for engine in ("if-gc", "if-gc-pure"):
        of_engine = [r["what"] for r in rows if r["engine"] == engine]
        assert of_engine[0].startswith("first contour")
        assert all(what.startswith("correction") for what in of_engine[1:])
        assert len(of_engine) <= 1 + 4
    added = [r["engine"] for r in rows if r["what"].startswith("added")]
    assert added == ["from the last result", "afresh"] * (len(added) // 2)
    assert all(r["image"] == 0 and r["seconds"] >= 0 for r in rows)


def test_the_whole_way_is_on_the_images_own_grids(tmp_path) -> None:
    write_packs(tmp_path, "sts", "la", patients=("p1",))
    rows = speed.whole_way_rows(tmp_path, 5)
    assert [(r["what"], r["image"], r["engine"]) for r in rows] == [
        ("click to mask 3-D, own grid", i, "if-gc, 4 x 32 x 32") for i in (0, 1)
    ]
    assert all(r["seconds"] >= 0 for r in rows)


def test_a_run_has_rows_of_each_kind(tmp_path) -> None:
    write_packs(tmp_path, "sts", "la", patients=("p1",))
    rows = speed.run_speed(tmp_path, images=1, repeats=1, clicks=1)
    kinds = {r["what"] for r in rows}
    assert kinds >= {
        "geodesic 2-D",
        "geodesic 3-D",
        "first contour 2-D",
        "first contour 3-D",
        "click to mask 3-D, own grid",
    }
    lines = speed.speed_table(rows).splitlines()
    assert len({line.count("|") for line in lines}) == 1


# -- the table --------------------------------------------------------------------------------


def test_medians_beside_the_first_of_their_kind() -> None:
    def row(what: str, engine: str, seconds: float, *error: float) -> dict:
        more = {"largest_error": error[0]} if error else {}
        return {"what": what, "image": 0, "engine": engine, "seconds": seconds} | more

    table = speed.speed_table(
        [
            row("geodesic 2-D", "scipy Dijkstra", 4.0, 0.0),
            row("geodesic 2-D", "exact", 1.0, 1e-7),
            row("geodesic 2-D", "geodistk", 0.5, None),
            row("geodesic 2-D", "exact", 9.0, 2e-6),
            row("geodesic 2-D", "exact", 2.0, 3e-7),
            row("geodesic 2-D", "geodistk", 1.5, None),
            row("correction 2-D", "if-gc", 0.2),
            row("correction 2-D", "if-gc-pure", 0.3),
            row("own grid", "if-gc, 4 x 5 x 6", 1.0),
            row("own grid", "if-gc, 7 x 8 x 9", 2.0),
        ]
    )
    assert table.splitlines() == [
        "| what | engine | median seconds | times | largest error |",
        "| --- | --- | --- | --- | --- |",
        "| geodesic 2-D | exact | 2.0000 | 1.0 | 2.0e-06 |",
        "| geodesic 2-D | scipy Dijkstra | 4.0000 | 2.0 | 0.0e+00 |",
        "| geodesic 2-D | geodistk | 1.0000 | 0.5 | - |",
        "| correction 2-D | if-gc | 0.2000 | 1.0 | - |",
        "| correction 2-D | if-gc-pure | 0.3000 | 1.5 | - |",
        "| own grid | if-gc | 1.5000 | 1.0 | - |",
    ]
