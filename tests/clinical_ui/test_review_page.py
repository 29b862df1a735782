"""A case with its contours."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from clinical_ui import wording
from clinical_ui.case_layers import STYLES, Layer
from tests.clinical_ui.synthetic_site import (
    CASES,
    PATIENTS,
    REVIEWED_CASE,
    UNREVIEWED_CASE,
    make_site,
)


def html(page) -> str:
    return "\n".join(element.proto.body for element in page.get("html"))


def picture(page) -> np.ndarray:
    data = re.search(r"data:image/png;base64,([^\"]+)", html(page))
    assert data is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data[1]))))


def drawn(page) -> set[Layer]:
    """Return the contours whose colour is on the picture."""
    pixels = picture(page)
    return {k for k, style in STYLES.items() if (pixels == style.colour).all(axis=2).sum() > 20}


def texts(page) -> str:
    kinds = (page.markdown, page.info, page.warning, page.caption)
    return "\n".join(element.value for kind in kinds for element in kind)


def press(page, label: str):
    return next(button for button in page.button if button.label == label).click().run()


def test_a_reviewed_case_shows_model_and_reviewer(site, run_page):
    page = run_page(site, "case", case=REVIEWED_CASE)
    assert not page.exception
    assert drawn(page) == {Layer.ADAPTED, Layer.REVIEWED}
    assert "Slice 7 / 12, axial, 1.25 x 1.00 mm, slices 4.00 mm apart" in texts(page)
    shown = html(page)
    assert "12.5 % (&gt;10-15 %)" in shown
    assert "revised by simulated annotator (demo)" in shown
    assert PATIENTS[3] in shown


def test_the_words_for_those_who_do_not_see_the_picture(site, run_page):
    page = run_page(site, "case", case=REVIEWED_CASE)
    assert (
        f'alt="axial slice 7 / 12 of {REVIEWED_CASE}; contours: AI adapted (yellow, solid), '
        'Reviewed (red, dashed)"'
    ) in html(page)


def test_the_edges_name_the_patient_s_sides(site, run_page):
    page = run_page(site, "case", case=REVIEWED_CASE)
    assert re.findall(r"<span style=[^>]*>(\w+)</span>", html(page)) == ["R", "L", "A", "P"]


def test_every_contour_can_be_switched_on_and_off(site, run_page):
    page = run_page(site, "case", case=UNREVIEWED_CASE)
    assert drawn(page) == {Layer.ADAPTED}
    page.checkbox(key="layer_reference").check().run()
    page.checkbox(key="layer_direct").check().run()
    assert drawn(page) == {Layer.DIRECT, Layer.ADAPTED, Layer.REFERENCE}
    for layer in (Layer.DIRECT, Layer.ADAPTED, Layer.REFERENCE):
        page.checkbox(key=f"layer_{layer.value}").uncheck().run()
    assert drawn(page) == set()
    assert page.checkbox(key="layer_reviewed").disabled


def test_volumes_are_in_ml(site, run_page):
    page = run_page(site, "case", case=UNREVIEWED_CASE)
    voxels = site.contour(UNREVIEWED_CASE, purpose=Layer.REFERENCE).mask.voxels.sum()
    volume = f"{voxels * 4.0 * 1.0 * 1.25 / 1000:.1f} ml"
    assert volume not in html(page)  # the reference is hidden at first, and so is its size
    page.checkbox(key="layer_reference").check().run()
    assert volume in html(page)


def test_moving_through_the_slices(site, run_page):
    page = run_page(site, "case", case=REVIEWED_CASE, slice="3")
    assert page.slider[0].value == 3
    assert press(page, "Next ▶").slider[0].value == 4
    assert press(page, "◀ Prev").slider[0].value == 3
    assert press(page, "Largest contour").slider[0].value == 7
    page.slider[0].set_value(12).run()
    assert "Slice 12 / 12" in texts(page)
    assert next(b for b in page.button if b.label == "Next ▶").disabled
    assert drawn(page) == set()


def test_the_largest_change_is_one_click_away(site, run_page):
    page = run_page(site, "case", case=REVIEWED_CASE, slice="1")
    changed = press(page, "Largest change").slider[0].value - 1
    contours = [
        site.contour(REVIEWED_CASE, purpose=purpose, round_id=site.latest_round().round_id)
        for purpose in ("adapted", "reviewed")
    ]
    per_slice = (contours[0].mask.voxels != contours[1].mask.voxels).sum(axis=(1, 2))
    assert per_slice[changed] == per_slice.max() > 0


def test_another_case_opens_where_it_was_left(site, run_page):
    page = run_page(site, "case", case=REVIEWED_CASE, slice="2")
    page.selectbox[0].set_value(UNREVIEWED_CASE).run()
    assert page.slider[0].value == 7
    page.selectbox[0].set_value(REVIEWED_CASE).run()
    assert page.slider[0].value == 2
    assert page.query_params["case"] in (REVIEWED_CASE, [REVIEWED_CASE])


def test_an_annotated_slice_says_why_and_by_whom(site, run_page):
    page = run_page(site, "case", case=CASES[0], slice="7")
    assert Layer.ANNOTATION in drawn(page)
    assert "rank 1 (domain-invariant: typical of the source)" in texts(page)
    assert f"Contoured by {wording.SIMULATED}" in texts(page)


def test_an_open_slice_says_so_and_hides_the_reference(tmp_path, run_page):
    site = make_site(tmp_path / "home", reviewed=False)
    page = run_page(site, "case", case=CASES[0], slice="4")
    assert "Still to annotate" in texts(page)
    assert drawn(page) == set()


@pytest.mark.parametrize("query", [{"case": "case-ffffffffffff"}, {"slice": "x"}, {"slice": "999"}])
def test_a_wrong_address_shows_a_case_all_the_same(site, run_page, query):
    page = run_page(site, "case", **query)
    assert not page.exception
    assert page.selectbox[0].value == CASES[0]


def test_a_missing_image_is_a_sentence(site, run_page):
    (site.home.cases / REVIEWED_CASE / "image.npy").unlink()
    page = run_page(site, "case", case=REVIEWED_CASE)
    assert not page.exception
    assert wording.NO_IMAGE in texts(page)
    assert "12.5 %" in html(page)


def test_a_missing_contour_is_named_and_the_rest_is_shown(site, run_page):
    for file in (site.home.cases / UNREVIEWED_CASE).glob("mask-*.npy"):
        file.unlink()
    page = run_page(site, "case", case=UNREVIEWED_CASE)
    assert not page.exception
    assert "cannot be read" in html(page)
    assert drawn(page) == set()


def test_markup_in_a_scanner_name_stays_text(site, run_page):
    page = run_page(site, "case", case=REVIEWED_CASE)
    assert "Example &lt;MR&gt; One" in html(page)
    assert "<MR>" not in html(page)
