import io
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from algorithms.contracts.errors import DataError
from site_agent.network_config import Rule
from site_agent.spool import Spool, newest_time
from site_agent.spooled_series import SpooledSeries, belonging_together, fits, read_spooled, refusal
from tests.site_agent.dicom_builder import PLANTED, ROOT, slices

KEY = b"0123456789abcdef"


def encoded(image: Dataset) -> bytes:
    """Write an image as the network hands it over: a DICOM file."""
    buffer = io.BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture
def spool(tmp_path) -> Spool:
    return Spool(tmp_path / "spool" / "listener", KEY)


@pytest.fixture
def images() -> list[bytes]:
    return [encoded(image) for image in slices()]


def test_what_arrives_is_whole_private_and_named_without_the_patient(spool, images, tmp_path):
    folders = {spool.keep(image) for image in images}
    (folder,) = folders
    assert spool.series() == [folder]
    assert sorted(file.read_bytes() for file in folder.iterdir()) == sorted(images)
    for path in (tmp_path / "spool").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        assert not any(word in str(path) for word in (*PLANTED, ROOT))


def test_the_folder_is_named_like_the_case(spool, images) -> None:
    from site_agent.deidentification import pseudonym
    from tests.site_agent.dicom_builder import SERIES_UID

    assert spool.keep(images[0]).name == pseudonym(SERIES_UID, KEY, prefix="case")


def test_an_image_sent_twice_is_held_once(spool, images) -> None:
    for image in (*images, *images[:2]):
        spool.keep(image)
    assert len(spool.arrived(spool.series()[0].name)) == len(images)


def test_what_was_not_asked_for_is_not_kept(spool, images) -> None:
    with pytest.raises(DataError, match="not asked for"):
        spool.keep(images[0], only={"image-000000000000.dcm"})
    assert spool.series() == []


@pytest.mark.parametrize("damage", ["empty", "cut", "other uid", "text"])
def test_what_is_no_instance_is_refused_and_leaves_nothing(spool, images, damage) -> None:
    image = {
        "empty": b"",
        "cut": images[0][:200],
        "other uid": images[0].replace(b"4711.3.1", b"4711.3.9", 1),
        "text": b"Mustermann^Annegret" * 20,
    }[damage]
    with pytest.raises(DataError) as caught:
        spool.keep(image)
    assert not any(word in str(caught.value) for word in PLANTED)
    assert list(spool.incoming.iterdir()) == []


def test_a_full_disk_refuses_and_leaves_no_half_image(tmp_path, images) -> None:
    spool = Spool(tmp_path / "spool" / "one", KEY, keep_free_bytes=2**62)
    with pytest.raises(OSError, match="space"):
        spool.keep(images[0])
    assert [file for file in spool.incoming.rglob("*") if file.is_file()] == []


def test_a_restart_finds_what_was_being_taken_in_and_drops_halves(spool, images, tmp_path) -> None:
    for image in images:
        folder = spool.keep(image)
    group = spool.gather([folder])
    assert spool.series() == []
    late = spool.keep(images[0])
    (late / ".part-0011").write_bytes(images[1][:100])
    again = Spool(tmp_path / "spool" / "listener", KEY)
    again.restore()
    assert not group.exists()
    assert sorted(f.read_bytes() for f in again.series()[0].iterdir()) == sorted(images)


@pytest.mark.parametrize("back", ["put back", "refused before"])
def test_of_an_image_that_was_sent_twice_the_newer_stays(spool, back) -> None:
    (image, *_) = slices()
    folder = spool.keep(encoded(image))
    group = spool.gather([folder])
    image.PixelData = bytes(len(image.PixelData))
    spool.keep(encoded(image))
    if back == "put back":
        spool.put_back(group)
    else:
        spool.refuse(group, "no")
        spool.put_back(spool.gather([folder]))
    assert [file.read_bytes() for file in folder.iterdir()] == [encoded(image)]


def test_what_was_refused_comes_along_when_the_rest_is_sent(spool, images) -> None:
    for image in images[:3]:
        folder = spool.keep(image)
    spool.refuse(spool.gather([folder]), "a slice is missing")
    note = spool.refused / f"{folder.name}.txt"
    assert note.read_text() == "a slice is missing\n"
    assert len(list((spool.refused / folder.name).iterdir())) == 3
    for image in images[3:]:
        spool.keep(image)
    group = spool.gather([folder])
    assert sorted(f.read_bytes() for f in (group / folder.name).iterdir()) == sorted(images)
    assert list(spool.refused.iterdir()) == []


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["keep", "gather", "back", "refuse", "restart"]), max_size=30))
def test_no_image_is_ever_lost_whatever_happens_in_which_order(tmp_path_factory, steps) -> None:
    """An image that was acknowledged lies in exactly one place until its series is taken in."""
    folder = tmp_path_factory.mktemp("spool") / "one"
    spool, images = Spool(folder, KEY), [encoded(image) for image in slices()]
    kept: set[bytes] = set()
    groups: list[Path] = []
    for step in steps:
        if step == "keep":
            image = images[len(kept) % len(images)]
            spool.keep(image)
            kept.add(image)
        elif step == "gather" and spool.series() and not groups:
            groups.append(spool.gather(spool.series()))
        elif step == "back" and groups:
            spool.put_back(groups.pop())
        elif step == "refuse" and groups:
            spool.refuse(groups.pop(), "no")
        elif step == "restart":
            groups.clear()
            spool = Spool(folder, KEY)
            spool.restore()
        assert {file.read_bytes() for file in folder.rglob("*.dcm")} == kept


# -- what the series are ------------------------------------------------------------------------


def series(name: str, modality: str = "MR", frame: str = "", on=(), within=()) -> SpooledSeries:
    return SpooledSeries(
        Path(name), 1, 0.0, modality, "", "", name, frame, frozenset(on), frozenset(within)
    )


def test_a_structure_set_joins_the_series_it_names_else_those_of_its_frame() -> None:
    t1, t2, ct = series("t1", frame="F"), series("t2", frame="F"), series("ct", "CT", "G")
    named = series("rs1", "RTSTRUCT", on={"t1"}, within={"F"})
    framed = series("rs2", "RTSTRUCT", on={"gone"}, within={"G"})
    alone = series("rs3", "RTSTRUCT", within={"H"})
    groups = belonging_together([t1, named, t2, framed, ct, alone])
    found = {frozenset(str(one.folder) for one in group) for group in groups}
    assert found == {
        frozenset({"t1", "rs1"}),
        frozenset({"t2"}),
        frozenset({"ct", "rs2"}),
        frozenset({"rs3"}),
    }


def test_a_structure_set_of_a_shared_frame_that_names_nothing_keeps_both_with_it() -> None:
    """Which of the two it belongs to is for the ingest to say, or to refuse."""
    t1, t2 = series("t1", frame="F"), series("t2", frame="F")
    (group,) = belonging_together([t1, t2, series("rs", "RTSTRUCT", within={"F"})])
    assert {str(one.folder) for one in group} == {"t1", "t2", "rs"}


def test_a_series_says_what_rules_ask_for(spool) -> None:
    for image in slices():
        image.SeriesDescription, image.BodyPartExamined = " T1 TSE tra ", "HEADNECK"
        folder = spool.keep(encoded(image))
    found = read_spooled(folder)
    assert (found.images, found.modality, found.body_part) == (6, "MR", "HEADNECK")
    assert found.newest_s == newest_time(folder) > 0
    assert not any(word in repr(found) for word in (*PLANTED, "T1", ROOT))
    assert fits(Rule(modality="mr", description="t1*tra", body_part="head*"), found)
    assert fits(Rule(), found)
    for other in ({"modality": "CT"}, {"description": "t2*"}, {"body_part": "head"}):
        assert not fits(Rule(**other), found)


def test_a_damaged_series_is_named_by_its_pseudonym(spool, images) -> None:
    folder = spool.keep(images[0])
    (file,) = folder.iterdir()
    file.write_bytes(b"Mustermann")
    with pytest.raises(DataError, match=folder.name) as caught:
        read_spooled(folder)
    assert "Mustermann" not in str(caught.value)


def test_an_unexpected_failure_is_told_without_its_text() -> None:
    assert refusal(DataError("a slice\nis missing")) == "a slice is missing"
    assert "Mustermann" not in refusal(KeyError("Mustermann"))
    assert "KeyError" in refusal(KeyError("Mustermann"))
