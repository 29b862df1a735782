"""The door remembers whom reports were about: n and n - 1 patients never both leave."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, update

from algorithms.contracts.messages import SiteReportMessage
from algorithms.contracts.site_report import Distribution
from site_agent import egress
from site_agent.config import SiteHome
from site_agent.database import (
    CaseRow,
    LedgerRow,
    MeasurementRow,
    PackageRow,
    RoundRow,
    open_database,
    transaction,
)
from tests.simulated_site import AT, approve_plan_for, make_site, tiny_report

FIGURE = {"mean": 0.8, "sd": 0.1, "median": 0.81}
FIGURES = ("dsc", "hd95_mm", "assd_mm", "asd_predicted_to_reference_mm", "nsd_at_1mm")


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return make_site(tmp_path / "site", "hospital-b")


@pytest.fixture
def engine(home: SiteHome) -> Engine:
    engine = open_database(home.database_url)
    for package in ("ab" * 32, "cd" * 32):
        approve_plan_for(home, engine, package)
    return engine


def report_on(
    engine: Engine, package: str, dice: dict[int, float], site: str = "hospital-b"
) -> SiteReportMessage:
    """Leave in the database what measuring these patients leaves, and return the report."""
    patients = len(dice)
    figure = Distribution(n=patients, **FIGURE)
    arm = tiny_report(site, package).arms[0]
    arm = arm.model_copy(update={"patients": patients} | dict.fromkeys(FIGURES, figure))
    report = tiny_report(site, package, arms=(arm,), revision=None)
    with transaction(engine) as session:
        session.add(
            PackageRow(
                package_id=package,
                model_version="1.0.0",
                signed_by="00" * 32,
                state="stored",
                received_at=AT,
            )
        )
        for number in dice:
            session.merge(
                CaseRow(
                    case_id=f"case-{number:012x}",
                    patient_id=f"patient-{number:012x}",
                    modality="MR",
                    manufacturer="PHANTOM",
                    scanner_model="P1",
                    split="test",
                    has_reference=True,
                    series={},
                    identity_sealed=None,
                    ingested_at=AT,
                )
            )
        session.add(
            RoundRow(
                round_id=package[:8],
                package_id=package,
                case_set_sha256="0" * 64,
                seed=0,
                state="reported",
                report=report.model_dump(mode="json"),
                started_at=AT,
                changed_at=AT,
            )
        )
        session.flush()
        for number, dsc in dice.items():
            session.add(
                MeasurementRow(
                    round_id=package[:8],
                    case_id=f"case-{number:012x}",
                    arm="adapted",
                    metrics={"dsc": dsc},
                )
            )
    return SiteReportMessage(report=report)


def refused(home: SiteHome, engine: Engine, message: SiteReportMessage) -> str:
    with pytest.raises(egress.ReleaseRefused) as refusal:
        egress.release(home, engine, message, now=AT + timedelta(days=1))
    newest = egress.list_entries(engine)[-1]
    assert (newest.state, newest.detail) == ("refused", {"rule": refusal.value.rule})
    return refusal.value.rule


@pytest.mark.parametrize(
    ("later", "rule"),
    [
        (range(12), None),
        (range(11), "few_patients_differ"),
        (range(1, 13), "few_patients_differ"),
        (range(16), "few_patients_differ"),
        (range(17), None),
        (range(7), None),
        (range(20, 30), None),
    ],
)
def test_what_differs_by_a_few_patients_does_not_leave(
    home: SiteHome, engine: Engine, later: range, rule: str | None
) -> None:
    first = report_on(engine, "ab" * 32, dict.fromkeys(range(12), 0.8))
    egress.release(home, engine, first, now=AT)
    second = report_on(engine, "cd" * 32, dict.fromkeys(later, 0.7))
    if rule is None:
        egress.release(home, engine, second, now=AT)
    else:
        assert refused(home, engine, second) == rule
    assert egress.release(home, engine, first, now=AT)  # what left may leave again
    egress.verify_ledger(home, engine)


def test_what_one_corrected_contour_changed_does_not_leave(home: SiteHome, engine: Engine) -> None:
    dice = dict.fromkeys(range(12), 0.8)
    egress.release(home, engine, report_on(engine, "ab" * 32, dice), now=AT)
    corrected = report_on(engine, "cd" * 32, dice | {4: 0.9})
    assert refused(home, engine, corrected) == "few_figures_changed"


def test_the_ledger_holds_no_pseudonym_and_what_leaves_no_memory(
    home: SiteHome, engine: Engine
) -> None:
    message = report_on(engine, "ab" * 32, dict.fromkeys(range(12), 0.8))
    body = egress.release(home, engine, message, now=AT)
    (entry,) = egress.list_entries(engine)
    assert [len(members) for members in entry.detail["told"].values()] == [12]
    assert "patient-" not in str(entry.detail)
    assert b"told" not in body
    assert SiteReportMessage.model_validate_json(body) == message


def test_where_the_members_are_not_known_their_number_counts(
    home: SiteHome, engine: Engine
) -> None:
    first = report_on(engine, "ab" * 32, dict.fromkeys(range(12), 0.8))
    second = report_on(engine, "cd" * 32, dict.fromkeys(range(11), 0.8))
    with transaction(engine) as session:
        session.execute(delete(MeasurementRow))
    egress.release(home, engine, first, now=AT)
    assert refused(home, engine, second) == "few_patients_differ"


def test_a_report_that_left_before_there_was_a_memory_is_remembered(
    home: SiteHome, engine: Engine
) -> None:
    first = report_on(engine, "ab" * 32, dict.fromkeys(range(12), 0.8))
    egress.release(home, engine, first, now=AT)
    with transaction(engine) as session:  # as an older version wrote it
        session.execute(update(LedgerRow).values(detail={}))
    second = report_on(engine, "cd" * 32, dict.fromkeys(range(11), 0.8))
    assert refused(home, engine, second) == "few_patients_differ"
