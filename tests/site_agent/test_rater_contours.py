"""What several doctors drew on the same images, from structure sets to the site's summary."""

from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.contracts.errors import DataError
from evaluation.benchmarks.dicom_writer import study_uids, write_rtstruct
from evaluation.site_summary import summarise_site
from site_agent.case_store import CaseStore
from site_agent.database import ContourRow
from site_agent.erasure import erase
from site_agent.ingest import ingest
from site_agent.rater_contours import add_rater_contours, measure_raters, rater_rows
from tests.evaluation.report_builders import annotation, rows, subject
from tests.phantoms import make_home, tiny_volume
from tests.site_agent.test_ingest import tags, write_patient

PATIENTS = (1, 2, 3)


@pytest.fixture
def site(tmp_path):
    home = make_home(tmp_path / "home")
    for number in PATIENTS:
        write_patient(tmp_path / "export" / f"P{number}", number)
    store = CaseStore(home)
    ingest(home, store, tmp_path / "export", actor="test")
    yield home, store
    store.engine.dispose()


def moved(mask, voxels):
    return np.roll(mask, voxels, axis=2)


def export_of_rater(folder, voxels, patients=PATIENTS, **changes):
    """Write what a doctor drew: the reference, some voxels to the side."""
    for number in patients:
        volume, mask = tiny_volume(10 * number)
        write_rtstruct(
            folder / f"{number}.dcm",
            {"gtv": moved(mask, voxels)},
            volume.geometry,
            patient=replace(tags(number), **changes),
            uids=study_uids(f"tiny {number} 0", volume.geometry.shape_zyx[0]),
        )
    return folder


def add(site, folder, rater):
    home, store = site
    return add_rater_contours(home, store, folder, rater=rater, actor="test")


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_every_pair_is_measured_and_one_person_twice(site, tmp_path):
    assert add(site, export_of_rater(tmp_path / "a1", 0), "a") == 3
    assert add(site, export_of_rater(tmp_path / "b", 2, (1, 2)), "b") == 2
    assert add(site, export_of_rater(tmp_path / "a2", 1, (3,)), "a") == 1
    _, store = site
    found = {(row.first, row.second): [] for row in rater_rows(measure_raters(store))}
    for row in rater_rows(measure_raters(store)):
        found[row.first, row.second].append(row.dsc)
    masks = [tiny_volume(10 * number)[1] for number in PATIENTS]
    assert sorted(found) == [("a", "a"), ("a", "b")]
    assert sorted(found["a", "b"]) == pytest.approx(
        sorted(dice(mask, moved(mask, 2)) for mask in masks[:2]), abs=0.02
    )
    assert found["a", "a"] == pytest.approx([dice(masks[2], moved(masks[2], 1))], abs=0.02)


def test_nothing_is_said_where_nobody_or_one_doctor_drew(site, tmp_path):
    _, store = site
    assert rater_rows(measure_raters(store)) == []
    add(site, export_of_rater(tmp_path / "a", 0), "a")
    made = summarise_site(
        rows("adapted", [0.8] * 3),
        subject=subject(),
        annotation=annotation(),
        raters=rater_rows(measure_raters(store)),
        minimum_group_size=2,
    )
    assert made.agreement == ()


def test_the_same_again_changes_nothing_and_a_third_sitting_is_refused_whole(site, tmp_path):
    first = export_of_rater(tmp_path / "first", 0)
    assert add(site, first, "a") == 3
    assert add(site, first, "a") == 0
    assert add(site, export_of_rater(tmp_path / "second", 1, (2,)), "a") == 1
    with pytest.raises(DataError, match="twice already"):
        add(site, export_of_rater(tmp_path / "third", 2), "a")
    _, store = site
    with Session(store.engine) as session:
        kept = session.scalars(select(ContourRow).where(ContourRow.purpose == "rater-a"))
        assert len(list(kept)) == 4


def test_structure_sets_of_nobody_held_here_are_refused(site, tmp_path):
    with pytest.raises(DataError, match="images are not held"):
        add(site, export_of_rater(tmp_path / "a", 0, (4,)), "a")
    with pytest.raises(DataError, match="birth date"):
        add(site, export_of_rater(tmp_path / "b", 0, (1,), birth_date="19010101"), "a")
    with pytest.raises(DataError, match="no structure set"):
        add(site, tmp_path / "nothing", "a")
    for letter in ("", "A", "ab", "é", "Dr X"):
        with pytest.raises(DataError, match="letter a to z"):
            add(site, tmp_path / "a", letter)


def test_raters_contours_go_with_the_patient_and_are_no_reference(site, tmp_path):
    home, store = site
    add(site, export_of_rater(tmp_path / "a", 2), "a")
    add(site, export_of_rater(tmp_path / "b", 1), "b")
    case = store.cases()[0]
    reference = store.contour(case.case_id, purpose="reference")
    assert reference.provenance.value == "reference"
    assert len(measure_raters(store)) == 3
    erase(home, store, [case.patient_id], actor="test")
    assert len(measure_raters(store)) == 2
