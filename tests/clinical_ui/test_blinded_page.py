"""Blinded reading: what the page shows, what it stores, and that it tells nothing about the arm."""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta

import numpy as np
import pytest
import streamlit as st
from sqlalchemy import select
from sqlalchemy.orm import Session
from streamlit.testing.v1 import AppTest

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.volume import Mask, MaskArray
from clinical_ui import blinded_page
from clinical_ui.case_layers import STYLES
from clinical_ui.launch import HOME_VARIABLE
from clinical_ui.session import SIGN_IN_TOKEN
from site_agent import sign_ins
from site_agent.blinded_allocation import Allocation, seal_allocation
from site_agent.blinded_reading import ARMS, contour_to_show, open_row, start
from site_agent.blinded_results import unseal
from site_agent.case_store import CaseStore
from site_agent.click_store import mask_sha256
from site_agent.database import BlindedReadingRow, ContourRow, DraftRow, transaction, utc_now
from tests.clinical_ui.people import EVERYTHING, add_people, sign_in_token
from tests.clinical_ui.run_length_text import decode
from tests.clinical_ui.synthetic_site import (
    ADAPTED,
    CASES,
    DIRECT,
    GEOMETRY,
    PATIENTS,
    REFERENCE,
    UNREVIEWED_CASE,
)
from tests.clinical_ui.viewer_in_page import send, told

READER = EVERYTHING
Read = Callable[[], AppTest]


@pytest.fixture
def read(site, monkeypatch) -> Iterator[Read]:
    """Return a function that opens the page for the reader."""
    monkeypatch.setenv(HOME_VARIABLE, str(site.home.folder))

    add_people(site.engine)
    token = sign_in_token(site.engine, READER)

    def run() -> AppTest:
        st.cache_resource.clear()
        script = "from clinical_ui import blinded_page\nblinded_page.show()\n"
        page = AppTest.from_string(script, default_timeout=30)
        page.session_state[SIGN_IN_TOKEN] = token
        return page.run()

    yield run
    st.cache_resource.clear()


def begin(site: CaseStore, reading: str = "r1", arms: tuple[str, ...] = ARMS[:2]) -> int:
    return start(
        site, reading=reading, reader=READER, seed=3, arms=arms, actor="lead", now=utc_now()
    )


def rows(site: CaseStore) -> list[BlindedReadingRow]:
    with Session(site.engine) as session:
        ordered = select(BlindedReadingRow).order_by(
            BlindedReadingRow.reading, BlindedReadingRow.place
        )
        return list(session.scalars(ordered))


def words(page: AppTest) -> str:
    kinds = (page.markdown, page.info, page.error, page.warning, page.caption)
    return "\n".join(element.value for kind in kinds for element in kind)


def button(page: AppTest, label: str):
    return next(one for one in page.button if one.label == label)


def answer(page: AppTest, score: int, verdict: str) -> AppTest:
    page.radio[0].set_value(score).run()
    page.radio[1].set_value(verdict).run()
    return button(page, "Save and go on").click().run()


def test_nobody_s_reading_says_how_one_is_started(read) -> None:
    assert "fedgtv-site blinded start" in words(read())


def test_a_reader_judges_every_contour_and_the_seals_can_be_opened(site, read) -> None:
    assert begin(site) == 2
    page = read()
    assert not page.exception
    assert button(page, "Save and go on").disabled
    page.radio[0].set_value(4).run()
    assert button(page, "Save and go on").disabled  # one answer of two
    page.radio[1].set_value("minor changes").run()
    button(page, "Save and go on").click().run()
    assert [row.likert for row in rows(site)] == [4, None]
    assert [radio.value for radio in page.radio] == [
        None,
        None,
    ]  # nothing is filled in for the next
    answer(page, 1, "unusable")
    assert "Nothing is left to judge" in words(page)
    stored = rows(site)
    assert [(row.likert, row.verdict) for row in stored] == [(4, "minor changes"), (1, "unusable")]
    assert all(0 <= row.wall_s < 600 for row in stored)
    results = unseal(site, "r1", actor="lead", now=utc_now())
    assert {one.arm: one.likert for one in results.judgements} == {
        open_row(site, row).arm: row.likert for row in stored
    }


def test_the_next_reading_follows(site, read) -> None:
    begin(site, "r1", ARMS)
    begin(site, "r2", ARMS)
    page = read()
    answer(page, 3, "major changes")
    assert [row.likert for row in rows(site)] == [3, None]
    assert "Contour 1 of 1" in str(page.get("progress")[0].proto)
    answer(page, 5, "usable as is")
    assert [(row.reading, row.likert) for row in rows(site)] == [("r1", 3), ("r2", 5)]


def test_the_contour_is_outlined_in_one_colour_of_no_other_layer(site, read) -> None:
    assert blinded_page.COLOUR not in {style.colour for style in STYLES.values()}
    begin(site)
    data = told(read())
    assert data["volumes_shown"] is False  # other pages list it by name
    mask = contour_to_show(site, rows(site)[0])
    (layer,) = data["layers"]
    assert (layer["colour"], layer["dash"], layer["shown"]) == (list(blinded_page.COLOUR), [], True)
    np.testing.assert_array_equal(decode(layer["mask"], GEOMETRY.shape_zyx), mask)
    assert mask[data["slice"]].sum() == mask.sum(axis=(1, 2)).max()
    assert (data["mode"], data["target"], data["compare"]) == ("view", None, None)


@pytest.mark.parametrize("trigger", ["draft", "prompt", "save"])
def test_the_viewer_takes_nothing_and_the_answers_stay(site, read, trigger) -> None:
    begin(site)
    page = read()
    page.radio[0].set_value(2).run()
    send(page, trigger, {"epoch": "0" * 16, "target": "", "slices": [1]})
    assert not page.exception
    assert page.radio[0].value == 2
    assert [row.likert for row in rows(site)] == [None, None]
    with Session(site.engine) as session:
        assert list(session.scalars(select(DraftRow))) == []


def test_a_judgement_that_came_too_late_is_not_stored(site, read) -> None:
    begin(site)
    page = read()
    page.radio[0].set_value(2).run()
    page.radio[1].set_value("unusable").run()
    unseal(site, "r1", stop=True, actor="lead", now=utc_now())
    button(page, "Save and go on").click().run()
    assert not page.exception
    assert "Nothing is left to judge" in words(page)
    assert [row.likert for row in rows(site)] == [None, None]


def test_in_a_second_window_the_next_contour_follows_with_a_line(site, read) -> None:
    begin(site)
    first, second = read(), read()
    second.radio[0].set_value(1).run()
    second.radio[1].set_value("unusable").run()
    answer(first, 4, "minor changes")
    button(second, "Save and go on").click().run()
    assert not second.exception
    assert blinded_page.TOO_LATE in words(second)
    assert "Contour 2 of 2" in str(second.get("progress")[0].proto)
    assert [row.likert for row in rows(site)] == [4, None]
    answer(second, 2, "unusable")
    assert [row.likert for row in rows(site)] == [4, 2]
    assert blinded_page.TOO_LATE not in words(second)


def test_who_signed_out_elsewhere_judges_nothing_more(site, read) -> None:
    begin(site)
    page = read()
    page.radio[0].set_value(1).run()
    page.radio[1].set_value("unusable").run()
    sign_ins.end(site.engine, page.session_state[SIGN_IN_TOKEN], now=utc_now())
    button(page, "Save and go on").click().run()
    assert [one.value for one in page.title] == ["Sign in"]
    assert len(page.error) == 0
    assert [row.likert for row in rows(site)] == [None, None]


def test_the_time_of_a_contour_runs_from_its_first_showing_whatever_is_reloaded(site, read) -> None:
    begin(site)
    read()
    earlier = utc_now() - timedelta(minutes=10)
    with transaction(site.engine) as session:
        first, second = session.scalars(select(BlindedReadingRow).order_by(BlindedReadingRow.place))
        assert (first.opened_at is None, second.opened_at) == (False, None)
        first.opened_at = earlier
    answer(read(), 4, "minor changes")
    first, second = rows(site)
    assert first.opened_at == earlier
    assert 600 <= first.wall_s < 1200
    assert second.opened_at > earlier


def test_a_missing_contour_or_image_is_a_sentence(site, read) -> None:
    begin(site)
    (site.home.cases / rows(site)[0].case_id / "image.npy").rename(site.home.folder / "away.npy")
    assert blinded_page.wording.NO_IMAGE in words(read())
    with Session(site.engine) as session:
        file = session.get_one(ContourRow, open_row(site, rows(site)[0]).contour_id).file
    (site.home.folder / file).unlink()
    page = read()
    assert not page.exception
    assert "gone or changed" in words(page)


# -- nothing gives the arm away -------------------------------------------------------------------


def give_all_arms(site: CaseStore, masks: dict[str, MaskArray]) -> dict[str, ContourRow]:
    """Store a contour of each arm for the case that is read, and return their rows."""
    current = site.latest_round().round_id
    for arm, voxels in masks.items():
        contour = Contour("GTVp", Mask(voxels, GEOMETRY), Provenance.MANUAL)
        of_round = "" if arm == "reference" else current
        site.save_contour(
            UNREVIEWED_CASE, contour, purpose=arm, round_id=of_round, author=f"who drew {arm}"
        )
    with Session(site.engine) as session:
        statement = select(ContourRow).where(ContourRow.case_id == UNREVIEWED_CASE)
        return {row.purpose: row for row in session.scalars(statement.order_by(ContourRow.id))}


def allocate(site: CaseStore, arm: str, contour: ContourRow, voxels: MaskArray) -> None:
    """Let the first place show this arm of the case."""
    key = site.home.secret("crosswalk.key")
    allocation = Allocation("r1", 0, UNREVIEWED_CASE, arm, contour.id, mask_sha256(voxels))
    with transaction(site.engine) as session:
        row = session.scalars(select(BlindedReadingRow).filter_by(place=0)).one()
        row.case_id, row.allocation_sealed = UNREVIEWED_CASE, seal_allocation(allocation, key)


def everything(page: AppTest) -> list[str]:
    """Return all that is sent to the browser and all that is kept for its widgets."""
    drawn = [str(node.proto) for node in page.main if node.proto is not None]
    drawn += [str(node.proto) for node in page.sidebar if node.proto is not None]
    kept = repr(page.session_state)
    assert "likert-r1-0" in kept
    return [*drawn, kept, str(dict(page.query_params))]


def without_mask(sent: list[str]) -> list[str]:
    """Leave out the contour, and the slice with most of it, at which the viewer opens."""
    told = [re.sub(r'(\\"mask\\": \\")[^\\]+', r"\1", one) for one in sent]
    return [re.sub(r'(\\"slice\\": )\d+', r"\1", one) for one in told]


def shown_for(site: CaseStore, read: Read, masks: dict[str, MaskArray]) -> dict[str, list[str]]:
    contours = give_all_arms(site, masks)
    begin(site, arms=ARMS)
    sent = {}
    for arm in ARMS:
        allocate(site, arm, contours[arm], masks[arm])
        page = read()
        assert not page.exception
        assert len(page.radio) == 2
        sent[arm] = everything(page)
    return sent


def test_with_one_mask_the_page_is_the_same_for_every_arm(site, read) -> None:
    sent = shown_for(site, read, dict.fromkeys(ARMS, ADAPTED))
    assert sent["adapted"] == sent["reference"] == sent["reviewed"]
    assert len(sent["adapted"]) > 10
    assert sum("fedgtv_viewer" in one for one in sent["adapted"]) == 1
    assert without_mask(sent["adapted"]) != sent["adapted"]  # there was one


def test_with_different_masks_the_mask_alone_differs(site, read) -> None:
    sent = shown_for(site, read, dict(zip(ARMS, (ADAPTED, REFERENCE, DIRECT), strict=True)))
    assert sent["adapted"] != sent["reference"] != sent["reviewed"]
    blind = {arm: without_mask(one) for arm, one in sent.items()}
    assert blind["adapted"] == blind["reference"] == blind["reviewed"]


def test_the_page_names_neither_case_nor_patient_nor_arm_nor_author(site, read) -> None:
    (sent, *_) = shown_for(site, read, dict.fromkeys(ARMS, ADAPTED)).values()
    said = "\n".join(without_mask(sent)).replace(blinded_page.EXPLANATION, "")
    hidden = (*CASES, *PATIENTS, *ARMS, "GTVp", "who drew", *(s.name for s in STYLES.values()))
    assert [word for word in hidden if word in said] == []
