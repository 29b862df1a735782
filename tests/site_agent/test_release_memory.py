"""The door remembers whom reports were about: n and n - 1 patients never both leave."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, select, text, update
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.errors import DataError, ProtocolError
from algorithms.contracts.messages import SiteReportMessage
from algorithms.contracts.site_report import Distribution
from site_agent import egress
from site_agent.client_app import site_status
from site_agent.config import SiteHome
from site_agent.database import (
    CaseRow,
    LedgerRow,
    MeasurementRow,
    PackageRow,
    ReleaseMemoryRow,
    RoundRow,
    open_database,
    transaction,
)
from site_agent.ledger_export import LEDGER_FILE, export_ledger, verify_export
from site_agent.release_memory import figures_by, packed, told_by, unpacked
from site_agent.site_keys import SiteKeys
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


def memories(engine: Engine) -> list[dict[str, Any]]:
    with Session(engine) as session:
        return list(session.scalars(select(ReleaseMemoryRow.memory)))


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
    (memory,) = memories(engine)
    assert len(unpacked(memory)["adapted"]) == 12
    assert "patient-" not in str(memory)
    assert entry.detail == {"memory_sha256": sha256_hex(canonical_json(memory))}
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
        session.execute(delete(ReleaseMemoryRow))
        session.execute(update(LedgerRow).values(detail={}))
    second = report_on(engine, "cd" * 32, dict.fromkeys(range(11), 0.8))
    assert refused(home, engine, second) == "few_patients_differ"


@pytest.mark.parametrize("kept", [("told",), ("told", "figures")])
def test_a_memory_that_the_entry_itself_holds_still_counts(
    home: SiteHome, engine: Engine, kept: tuple[str, ...]
) -> None:
    """Its digests are not keyed; of patients who were measured anew nothing can be told again."""
    first = report_on(engine, "ab" * 32, dict.fromkeys(range(12), 0.8))
    with Session(engine) as session:
        plain = {
            "told": told_by(session, first.report),
            "figures": figures_by(session, first.report),
        }
    egress.release(home, engine, first, now=AT)
    with transaction(engine) as session:
        session.execute(delete(ReleaseMemoryRow))
        session.execute(update(LedgerRow).values(detail={part: plain[part] for part in kept}))
        if "figures" in kept:
            session.execute(delete(MeasurementRow))
    second = report_on(engine, "cd" * 32, dict.fromkeys(range(1, 13), 0.8))
    assert refused(home, engine, second) == "few_patients_differ"
    egress.release(home, engine, first, now=AT)


@pytest.mark.parametrize(
    "damage",
    [
        delete(ReleaseMemoryRow),
        update(ReleaseMemoryRow).values(memory={}),
        update(ReleaseMemoryRow).values(sequence=2),
        update(ReleaseMemoryRow).values(memory=text("'{'")),
    ],
    ids=["missing", "changed", "another's", "unreadable"],
)
def test_a_damaged_memory_is_named_and_no_report_leaves(
    home: SiteHome, engine: Engine, damage: Any
) -> None:
    message = report_on(engine, "ab" * 32, dict.fromkeys(range(12), 0.8))
    egress.release(home, engine, message, now=AT)
    egress.release(home, engine, site_status(home, engine), now=AT)
    assert egress.verify_ledger(home, engine) == 2
    with transaction(engine) as session:
        session.execute(damage)
    with pytest.raises(ProtocolError, match="ledger: the memory of entry 1 is missing, changed"):
        egress.verify_ledger(home, engine)
    if "{" not in str(damage):
        with pytest.raises(ProtocolError, match="the memory of entry 1"):
            egress.release(home, engine, message, now=AT)


def test_a_memory_too_many_is_named(home: SiteHome, engine: Engine) -> None:
    egress.release(home, engine, site_status(home, engine), now=AT)
    with transaction(engine) as session:
        session.add(ReleaseMemoryRow(sequence=1, memory={}))
    with pytest.raises(ProtocolError, match=r"the memory of entry 1 is .* not its own"):
        egress.verify_ledger(home, engine)


def test_an_auditor_gets_the_hash_of_a_memory_and_nothing_of_it(
    home: SiteHome, engine: Engine, tmp_path: Path
) -> None:
    message = report_on(engine, "ab" * 32, dict.fromkeys(range(12), 0.8))
    egress.release(home, engine, message, now=AT)
    export_ledger(home, engine, tmp_path / "out")
    assert verify_export(tmp_path / "out", SiteKeys.open(home).signing_public_key_hex) == 1
    entry = json.loads((tmp_path / "out" / LEDGER_FILE).read_bytes())
    assert entry["detail"].keys() == {"memory_sha256"}
    exported = b"".join(f.read_bytes() for f in (tmp_path / "out").rglob("*") if f.is_file())
    (memory,) = memories(engine)
    for patient, figures in memory["adapted"]["members"]:
        assert patient.encode() not in exported
        assert figures.encode() not in exported


def test_a_stolen_memory_cannot_be_guessed_at(home: SiteHome, engine: Engine) -> None:
    """Whoever tries all patients and all figures finds none of them without the site's secret."""
    message = report_on(engine, "ab" * 32, dict.fromkeys(range(12), 0.8))
    egress.release(home, engine, message, now=AT)
    with Session(engine) as session:
        tried = told_by(session, message.report)["adapted"]
    (memory,) = memories(engine)
    held = unpacked(memory)["adapted"]
    assert len(tried) == len(held) == 12
    assert not tried.keys() & held.keys()
    assert not set(tried.values()) & set(held.values())
    assert not held.keys() & set(held.values())


def test_a_site_without_its_secret_releases_no_report(home: SiteHome, engine: Engine) -> None:
    message = report_on(engine, "ab" * 32, dict.fromkeys(range(12), 0.8))
    (home.folder / "secrets" / "pseudonym.key").unlink()
    with pytest.raises(DataError, match="copy it back from where you keep the keys"):
        egress.release(home, engine, message, now=AT)
    assert not egress.list_entries(engine)


DIGESTS = st.text("0123456789abcdef", min_size=2, max_size=2)
GROUPS = st.sampled_from(["adapted", "adapted.dsc", "adapted.dsc|t_stage|T1+2", "direct|a|b.c"])


@given(st.dictionaries(GROUPS, st.dictionaries(DIGESTS, DIGESTS, max_size=9)))
def test_what_is_packed_is_read_as_it_was(told: dict[str, dict[str, str]]) -> None:
    memory = json.loads(json.dumps(packed(told)))
    assert unpacked(memory) == told


def test_a_memory_is_small(home: SiteHome, engine: Engine) -> None:
    """Each patient is written once for an arm, whatever figures and subgroups there are."""
    members = {f"{i:016x}": f"{i:016x}" for i in range(60)}
    groups = [f"adapted.{figure}|t_stage|T{i}" for figure in FIGURES for i in range(8)]
    assert len(canonical_json(packed(dict.fromkeys(groups, members)))) < 60 * 45 + 40 * 60
