"""The image on its way to the browser."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from algorithms.contracts.volume import Geometry, Volume
from clinical_ui.viewer.volume_bytes import index_views, pack_volume, quantise

TOKEN = "0123456789abcdef"


def volume(image: np.ndarray, **more) -> Volume:
    return Volume(
        image.astype(np.float32), Geometry(image.shape, (3.0, 0.5, 0.75), (0.0,) * 3), **more
    )


def unpack(packed: bytes) -> tuple[dict, np.ndarray]:
    body = gzip.decompress(packed)
    length = int.from_bytes(body[:4], "little")
    header = json.loads(body[4 : 4 + length])
    stored = np.frombuffer(body[4 + length :], dtype="<i2").reshape(header["shape_zyx"])
    return header, stored * header["slope"] + header["intercept"]


def test_whole_grey_values_travel_exactly():
    image = np.random.default_rng(0).integers(-1024, 3072, (4, 5, 6))
    header, grey = unpack(pack_volume(volume(image, modality="CT"), TOKEN))
    np.testing.assert_array_equal(grey, image)
    assert header["token"] == TOKEN
    assert header["modality"] == "CT"
    assert header["spacing_zyx_mm"] == [3.0, 0.5, 0.75]
    assert header["percentiles"] == pytest.approx(np.percentile(image, [1, 99]))


@given(
    arrays(
        np.float32,
        (2, 3, 4),
        elements=st.floats(-(2.0**40), 2.0**40, width=32, allow_subnormal=False),
    )
)
def test_any_grey_values_come_back_within_half_a_step(image):
    stored, slope, intercept = quantise(image)
    assert stored.dtype == np.int16
    step = (float(image.max()) - float(image.min())) / 65535
    back = stored * slope + intercept
    assert np.abs(back - image).max() <= step * 0.51 + 1e-9 * np.abs(image).max()


def test_voxels_that_are_not_finite_are_dark():
    image = np.array([[[np.nan, np.inf, -np.inf, 1.5, 3.0]]], dtype=np.float32)
    stored, slope, intercept = quantise(image)
    assert (stored * slope + intercept).ravel() == pytest.approx(
        [1.5, 1.5, 1.5, 1.5, 3.0], abs=1e-4
    )
    nothing = quantise(np.full((1, 1, 2), np.nan, dtype=np.float32))
    assert nothing[0].tolist() == [[[0, 0]]]


def test_the_same_image_gives_the_same_bytes_and_nothing_of_the_patient():
    image = np.arange(24).reshape(2, 3, 4)
    named = volume(
        image,
        series_instance_uid="1.2.826.9",
        frame_of_reference_uid="1.2.826.7",
        scanner={"manufacturer": "Acme"},
    )
    packed = pack_volume(named, TOKEN)
    assert packed == pack_volume(volume(image), TOKEN)
    header, _ = unpack(packed)
    assert set(header) == {
        "token",
        "shape_zyx",
        "spacing_zyx_mm",
        "slope",
        "intercept",
        "modality",
        "percentiles",
        "views",
    }


def test_the_views_of_an_axial_series_in_closed_form():
    axial, coronal, sagittal = index_views(volume(np.zeros((9, 8, 7))).geometry)
    assert axial == {
        "axis": 0,
        "plane": "axial",
        "rows_axis": 1,
        "columns_axis": 2,
        "flipped_rows": False,
        "flipped_columns": False,
        "edges": ["R", "L", "A", "P"],
        "row_mm": 0.5,
        "column_mm": 0.75,
    }
    # Feet are below on the screen: z counts upwards, rows downwards.
    assert (coronal["plane"], coronal["rows_axis"], coronal["columns_axis"]) == ("coronal", 0, 2)
    assert (coronal["flipped_rows"], coronal["flipped_columns"]) == (True, False)
    assert (coronal["row_mm"], coronal["column_mm"]) == (3.0, 0.75)
    assert (sagittal["plane"], sagittal["rows_axis"], sagittal["columns_axis"]) == (
        "sagittal",
        0,
        1,
    )
    assert sagittal["edges"] == ["A", "P", "S", "I"]
