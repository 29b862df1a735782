"""A blinded reading from its start to the opened seals."""

import csv
import json
import math
import stat
from collections import Counter
from datetime import datetime, timedelta

import numpy as np
import pytest
from scipy import stats
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import Mask
from site_agent import audit_log
from site_agent.blinded_reading import (
    ARMS,
    contour_to_show,
    next_to_read,
    open_row,
    readings,
    record,
    start,
)
from site_agent.blinded_results import (
    Judgement,
    compare,
    summarise,
    unseal,
    write_csv,
)
from site_agent.case_store import CaseStore
from site_agent.database import AuditRow, BlindedReadingRow, ContourRow, ReviewRow, transaction
from site_agent.erasure import erase
from tests.phantoms import filled_store, make_home
from tests.site_agent.test_cli import run as run
from tests.site_agent.test_cli import start_round

CASES = 6
READER, NOW = "rita", datetime(2031, 5, 6, 7, 8, 9)


@pytest.fixture
def store(tmp_path) -> CaseStore:
    """Make a site with cases that have a contour of each arm, all different."""
    store = filled_store(make_home(tmp_path / "home"), CASES)
    round_id = start_round(store)
    for case in store.cases():
        reference = store.contour(case.case_id, purpose="reference").mask
        for shift, (purpose, author) in enumerate((("adapted", "model"), ("reviewed", "olga")), 1):
            mask = Mask(np.roll(reference.voxels, shift, axis=2), reference.geometry)
            contour = Contour("GTVp", mask, Provenance.SEMIAUTOMATIC)
            store.save_contour(
                case.case_id, contour, purpose=purpose, round_id=round_id, author=author
            )
    return store


def begin(store: CaseStore, reading: str = "r1", **changed) -> int:
    wanted = {"reader": READER, "seed": 7, "actor": "lead", "now": NOW, **changed}
    return start(store, reading=reading, **wanted)


def rows(store: CaseStore, reading: str = "r1") -> list[BlindedReadingRow]:
    with Session(store.engine) as session:
        ordered = select(BlindedReadingRow).order_by(BlindedReadingRow.place)
        return list(session.scalars(ordered.filter_by(reading=reading)))


def judge(store: CaseStore, likert: int = 4, verdict: str = "minor changes") -> BlindedReadingRow:
    row = next_to_read(store, "r1", reader=READER)
    record(
        store, row, reader=READER, likert=likert, verdict=verdict, active_s=3.5, wall_s=9.0, now=NOW
    )
    return row


def judge_all(store: CaseStore) -> None:
    while next_to_read(store, "r1", reader=READER) is not None:
        judge(store)


def contour_of(store: CaseStore, case_id: str, arm: str) -> np.ndarray:
    round_id = "" if arm == "reference" else store.latest_round().round_id
    return store.contour(case_id, purpose=arm, round_id=round_id).mask.voxels


def test_every_case_is_shown_once_with_the_contour_that_was_sealed(store) -> None:
    assert begin(store) == CASES
    shown = Counter()
    for row in rows(store):
        arm = open_row(store, row).arm
        shown[arm] += 1
        np.testing.assert_array_equal(
            contour_to_show(store, row), contour_of(store, row.case_id, arm)
        )
    assert shown == dict.fromkeys(ARMS, CASES // 3)
    assert sorted(row.case_id for row in rows(store)) == [case.case_id for case in store.cases()]


def test_crossed_every_case_is_shown_with_every_arm(store) -> None:
    assert begin(store, crossed=True, arms=("adapted", "reference")) == 2 * CASES
    shown = {(row.case_id, open_row(store, row).arm) for row in rows(store)}
    assert len(shown) == 2 * CASES


def test_the_same_seed_gives_the_same_reading_at_this_site_alone(store, tmp_path) -> None:
    begin(store)
    begin(store, "r2", seed=7)
    other = make_home(tmp_path / "other").secret("crosswalk.key")

    def order(reading: str) -> list[tuple[str, str]]:
        return [(row.case_id, open_row(store, row).arm) for row in rows(store, reading)]

    first = order("r1")
    assert first != order("r2")
    with transaction(store.engine) as session:
        session.query(BlindedReadingRow).delete()
    begin(store)
    assert order("r1") == first
    with transaction(store.engine) as session:
        session.query(BlindedReadingRow).delete()
    (store.home.folder / "secrets" / "crosswalk.key").write_bytes(other)
    begin(store)
    assert order("r1") != first


def test_nothing_that_is_stored_tells_the_arm_before_the_end(store) -> None:
    """All columns but the seal, and all audit entries, are those of a reading of other arms."""
    begin(store, arms=("adapted", "reference"))
    first = rows(store)
    lengths = {len(row.allocation_sealed) for row in first}
    assert len(lengths) == 1
    by_arm: dict[str, set[str]] = {}
    for row in first:
        told = {
            column.key: str(getattr(row, column.key))
            for column in BlindedReadingRow.__table__.columns
            if column.key not in ("id", "place", "case_id", "allocation_sealed")
        }
        by_arm.setdefault(open_row(store, row).arm, set()).add(json.dumps(told, sort_keys=True))
    assert by_arm["adapted"] == by_arm["reference"]
    judge(store)
    judge(store)
    with Session(store.engine) as session:
        audit_log.verify(session)
        said = list(session.scalars(select(AuditRow).where(AuditRow.event == "blinded_judged")))
    assert len(said) == 2
    assert not [arm for entry in said for arm in ARMS if arm in json.dumps(entry.detail)]


def test_what_is_saved_later_is_not_shown(store) -> None:
    begin(store)
    before = [contour_to_show(store, row) for row in rows(store)]
    round_id = store.latest_round().round_id
    for case in store.cases():
        for purpose in ARMS:
            contour = store.contour(case.case_id, purpose="reference")
            empty = Contour(
                "GTVp", Mask(np.zeros_like(contour.mask.voxels), contour.mask.geometry),
                Provenance.MANUAL,
            )  # fmt: skip
            of_round = "" if purpose == "reference" else round_id
            store.save_contour(
                case.case_id, empty, purpose=purpose, round_id=of_round, author="olga"
            )
    after = [contour_to_show(store, row) for row in rows(store)]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("damage", ["file", "row"])
def test_a_contour_that_is_gone_or_changed_is_told(store, damage) -> None:
    begin(store)
    row = rows(store)[0]
    with transaction(store.engine) as session:
        contour = session.get_one(ContourRow, open_row(store, row).contour_id)
        if damage == "file":
            voxels = np.zeros(store.geometry(row.case_id).shape_zyx, bool)
            np.save(store.home.folder / contour.file, np.packbits(voxels))
        else:
            session.delete(contour)
    with pytest.raises(DataError, match="gone or changed") as caught:
        contour_to_show(store, row)
    assert not [arm for arm in ARMS if arm in str(caught.value)]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"reading": "r1"}, "is there already"),
        ({"reading": "R 1"}, "small letters"),
        ({"arms": ("adapted",)}, "two or more"),
        ({"arms": ("adapted", "adapted")}, "two or more"),
        ({"arms": ("adapted", "direct")}, "two or more"),
        ({"reader": "olga"}, "drew contours of 6 of the 6 cases"),
    ],
)
def test_a_reading_that_cannot_be_is_refused_and_nothing_is_written(store, changed, words) -> None:
    begin(store)
    with pytest.raises(DataError, match=words):
        begin(store, **{"reading": "r2", **changed})
    assert rows(store, "r2") == []
    assert len(rows(store)) == CASES


def test_own_contours_are_read_when_that_is_said(store) -> None:
    assert begin(store, reader="olga", own_contours=True) == CASES


def test_only_cases_with_every_wanted_contour_are_read(store) -> None:
    with transaction(store.engine) as session:
        for row in session.scalars(select(ContourRow).where(ContourRow.purpose == "reviewed")):
            if row.case_id != "case-000000000000":
                session.delete(row)
    assert begin(store) == 1
    assert begin(store, "r2", arms=("adapted", "reference")) == CASES
    with transaction(store.engine) as session:
        for row in session.scalars(select(ContourRow).where(ContourRow.purpose == "reviewed")):
            session.delete(row)
    with pytest.raises(DataError, match="no case of the latest round"):
        begin(store, "r3")


def test_a_rejected_case_has_no_reviewed_contour(store) -> None:
    """Whatever a review before the rejection left."""
    with transaction(store.engine) as session:
        session.add(
            ReviewRow(
                round_id=store.latest_round().round_id,
                case_id="case-000000000000",
                verdict="rejected",
                revision_degree_percent=100.0,
                author="olga",
                simulated=False,
                reviewed_at=NOW,
            )
        )
    assert begin(store) == CASES - 1
    assert "case-000000000000" not in {row.case_id for row in rows(store)}
    assert begin(store, "r2", arms=("adapted", "reference")) == CASES


# -- judging ------------------------------------------------------------------------------------


def test_places_are_judged_in_order_and_once(store) -> None:
    begin(store)
    first = judge(store, 5, "usable as is")
    stored = rows(store)[0]
    assert (stored.id, stored.likert, stored.verdict) == (first.id, 5, "usable as is")
    assert (stored.active_s, stored.wall_s, stored.read_at) == (3.5, 9.0, NOW)
    arguments = {"likert": 1, "verdict": "unusable", "active_s": None, "wall_s": None, "now": NOW}
    for row, reader in ((first, READER), (rows(store)[2], READER), (rows(store)[1], "olga")):
        with pytest.raises(DataError, match="not your next one"):
            record(store, row, reader=reader, **arguments)
    assert [row.likert for row in rows(store)] == [5] + [None] * (CASES - 1)
    assert next_to_read(store, "r1", reader=READER).place == 1
    (progress,) = readings(store)
    assert (progress.places, progress.judged, progress.stopped, progress.done) == (6, 1, 0, False)


@pytest.mark.parametrize(
    "changed",
    [{"likert": 0}, {"likert": 6}, {"verdict": "fine"}, {"active_s": -1.0}, {"wall_s": math.nan}],
)
def test_a_judgement_that_cannot_be_is_refused(store, changed) -> None:
    begin(store)
    wanted = {"likert": 3, "verdict": "unusable", "active_s": 1.0, "wall_s": 1.0, **changed}
    with pytest.raises(ValueError, match=r"judgement|times"):
        record(store, rows(store)[0], reader=READER, now=NOW, **wanted)
    assert rows(store)[0].read_at is None


def test_another_reader_s_reading_is_closed(store) -> None:
    begin(store)
    for reading, reader in (("r1", "olga"), ("r9", READER)):
        with pytest.raises(DataError, match="is not yours"):
            next_to_read(store, reading, reader=reader)


# -- opening the seals --------------------------------------------------------------------------


@pytest.mark.usefixtures("each_database")
def test_the_seals_stay_closed_until_all_is_judged(store) -> None:
    begin(store)
    for _ in range(CASES - 1):
        judge(store)
        with pytest.raises(DataError, match="still to be judged"):
            unseal(store, "r1", actor="lead", now=NOW)
    judge(store)
    assert next_to_read(store, "r1", reader=READER) is None
    results = unseal(store, "r1", actor="lead", now=NOW)
    assert [one.arm for one in results.judgements] == [open_row(store, r).arm for r in rows(store)]
    assert (results.left_out, results.crossed, results.reader) == (0, False, READER)
    assert all(one.likert.count == 2 for one in results.arms)


def test_stopping_is_logged_and_ends_the_reading(store) -> None:
    begin(store)
    row = judge(store)
    later = NOW + timedelta(days=1)
    results = unseal(store, "r1", stop=True, actor="lead", now=later)
    assert results.left_out == CASES - 1
    assert sum(one.likert.count for one in results.arms) == 1
    assert next_to_read(store, "r1", reader=READER) is None
    with pytest.raises(DataError, match="stopped"):
        record(
            store, rows(store)[1], reader=READER, likert=3, verdict="unusable",
            active_s=None, wall_s=None, now=later,
        )  # fmt: skip
    again = unseal(store, "r1", actor="lead", now=later)
    assert (again.judgements, again.left_out) == (results.judgements, results.left_out)
    assert rows(store)[row.place].read_at == NOW
    (progress,) = readings(store)
    assert (progress.judged, progress.stopped, progress.done) == (1, CASES - 1, True)
    with Session(store.engine) as session:
        events = list(session.scalars(select(AuditRow.event).order_by(AuditRow.sequence)))
    assert events[-3:] == ["blinded_stopped", "blinded_unsealed", "blinded_unsealed"]


def exchange(store: CaseStore) -> None:
    one, other = rows(store)[:2]
    with transaction(store.engine) as session:
        for row, sealed in ((one, other.allocation_sealed), (other, one.allocation_sealed)):
            session.execute(
                update(BlindedReadingRow)
                .where(BlindedReadingRow.id == row.id)
                .values(allocation_sealed=sealed)
            )


def test_seals_that_were_exchanged_are_found(store) -> None:
    begin(store)
    exchange(store)
    with pytest.raises(DataError, match="exchanged"):
        contour_to_show(store, rows(store)[0])
    with pytest.raises(DataError, match="not the seal that it began with"):
        unseal(store, "r1", stop=True, actor="lead", now=NOW)
    assert all(row.read_at is None for row in rows(store))  # nothing was ended


def test_an_erased_patient_leaves_a_gap_and_the_reading_goes_on(store) -> None:
    begin(store)
    gone = rows(store)[2]
    erase(store.home, store, [store.case(gone.case_id).patient_id], actor="it")
    judge_all(store)
    results = unseal(store, "r1", actor="lead", now=NOW)
    assert [one.place for one in results.judgements] == [0, 1, 3, 4, 5]


# -- figures, on judgements that were made up -----------------------------------------------------


def judged(case: int, arm: str, likert: int | None, verdict: str = "minor changes") -> Judgement:
    said = None if likert is None else verdict
    return Judgement(case, f"case-{case}", arm, likert, said, None, None, None)


def test_an_arm_is_summarised_over_what_was_judged() -> None:
    verdicts = ("usable as is", "usable as is", "minor changes", "major changes")
    said = [judged(n, "adapted", n + 2, verdict) for n, verdict in enumerate(verdicts)]
    adapted, reference = summarise(
        [*said, judged(9, "adapted", None), judged(8, "reference", None)]
    )
    assert (adapted.arm, adapted.shown, adapted.likert.count) == ("adapted", 5, 4)
    assert (adapted.likert.median, adapted.likert.q1, adapted.likert.q3) == (3.5, 2.75, 4.25)
    assert (adapted.as_is, adapted.with_minor_changes) == (0.5, 0.75)
    assert (reference.shown, reference.likert.count) == (1, 0)
    assert math.isnan(reference.as_is)


def test_different_cases_are_compared_unpaired() -> None:
    rng = np.random.default_rng(1)
    scores = {"adapted": rng.integers(1, 4, 9), "reference": rng.integers(3, 6, 8)}
    said = [judged(n, arm, int(v)) for arm, values in scores.items() for n, v in enumerate(values)]
    (one,) = compare(said, crossed=False, seed=0)
    assert (one.first, one.second, one.test) == ("adapted", "reference", "Mann-Whitney")
    assert one.p == pytest.approx(stats.mannwhitneyu(*scores.values()).pvalue)
    assert one.p_holm == one.p
    assert math.isnan(one.difference)


def test_the_same_cases_are_compared_paired_where_both_were_judged() -> None:
    adapted = [2, 3, 4, 2, 3, 1, None]
    reference = [4, 4, 5, 5, 3, 5, 5]
    said = [judged(n, "adapted", v) for n, v in enumerate(adapted)]
    said += [judged(n, "reference", v) for n, v in enumerate(reference)]
    (one,) = compare(said[::-1], crossed=True, seed=0)
    differences = np.subtract(reference[:6], adapted[:6])
    assert one.test == "Wilcoxon"
    assert one.difference == pytest.approx(differences.mean())
    expected = stats.wilcoxon(differences, zero_method="wilcox").pvalue
    assert one.p == pytest.approx(expected)


def test_three_arms_are_adjusted_by_holm() -> None:
    said = [judged(n, arm, v) for n in range(12) for arm, v in zip(ARMS, (2, 4, 5), strict=True)]
    found = compare(said, crossed=False, seed=0)
    assert [(one.first, one.second) for one in found] == [
        ("adapted", "reference"),
        ("adapted", "reviewed"),
        ("reference", "reviewed"),
    ]
    # Every two arms differ in the same way, completely: three equal p values.
    assert len({round(one.p, 12) for one in found}) == 1
    assert found[0].p < 1e-4
    assert [one.p_holm for one in found] == pytest.approx([3 * found[0].p] * 3)


@pytest.mark.parametrize("crossed", [False, True])
def test_equal_scores_and_no_scores_are_no_difference(crossed) -> None:
    for score in (3, None):
        said = [judged(n, arm, score) for n in range(4) for arm in ARMS[:2]]
        (one,) = compare(said, crossed=crossed, seed=0)
        assert one.test == ""
        assert math.isnan(one.p)


# -- the commands -------------------------------------------------------------------------------


def test_a_reading_by_commands(run, store, tmp_path) -> None:
    at_home = ("--home", store.home.folder, "--reading", "r1")
    code, out, _ = run("blinded", "start", *at_home, "--reader", READER, "--seed", "3")
    assert code == 0
    assert "6 contours are sealed for rita" in out
    assert "no account is called rita yet" in out
    assert not [arm for arm in ("adapted", "reviewed") if arm in out]
    assert "0 of 6" in run("blinded", "status", "--home", store.home.folder)[1]
    code, _, errors = run("blinded", "unseal", *at_home)
    assert (code, errors.count("\n")) == (2, 1)
    judge_all(store)
    assert "over" in run("blinded", "status", "--home", store.home.folder)[1]
    code, out, _ = run("blinded", "unseal", *at_home, "--csv", tmp_path / "r1.csv")
    assert code == 0
    assert all(name in out for name in ("AI", "manual", "AI, revised", "2 of 2", "4 (4 to 4)"))
    assert "Research use only" in out
    assert stat.S_IMODE((tmp_path / "r1.csv").stat().st_mode) == 0o600
    with (tmp_path / "r1.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    results = unseal(store, "r1", actor="lead", now=NOW)
    assert [(line["case_id"], line["arm"]) for line in lines] == [
        (one.case_id, one.arm) for one in results.judgements
    ]
    assert {line["likert"] for line in lines} == {"4"}
    with pytest.raises(DataError, match="is there already"):
        write_csv(results, tmp_path / "r1.csv")


def test_stopping_by_command(run, store) -> None:
    begin(store, crossed=True)
    judge(store)
    at_home = ("--home", store.home.folder, "--reading", "r1")
    code, out, _ = run("blinded", "unseal", *at_home, "--stop")
    assert code == 0
    assert "too little to compare" in out
    assert "stopped" in run("blinded", "status", "--home", store.home.folder)[1]
