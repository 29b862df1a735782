import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.federation_plan import method_parameters
from algorithms.contracts.messages import PlanApproval, PlanReceipt, RoundState, SiteStatus
from site_agent import egress
from site_agent.client_app import app, site_status
from site_agent.config import SiteHome
from site_agent.database import AnnotationTaskRow, RoundRow, open_database, transaction
from site_agent.message_check import checked_reply
from site_agent.model_update import offer_update, prepare_update
from site_agent.package_store import PackageRow
from site_agent.plan_approval import is_signed_here
from tests.simulated_site import (
    AT,
    PLANTED_CASE,
    STUDY,
    approve_plan_for,
    finish_round,
    make_site,
    prepare_source_package,
    refusals,
    sign_plan,
    tiny_federation_plan,
    tiny_package,
)
from tests.simulated_update import PACKAGE as UPDATED
from tests.simulated_update import adapt, permit

PACKAGE = "cd" * 32


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return make_site(tmp_path / "site", "hospital-b")


def _ask(
    folder: Path,
    message_type: str,
    content: RecordDict | None = None,
    *,
    study: str = STUDY,
    site: str = "hospital-b",
) -> Message:
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    content = content or RecordDict()
    content["address"] = ConfigRecord({"study": study, "site": site})
    message = Message(content, 1, message_type)
    context = Context(
        run_id=1, node_id=1, node_config={"home": str(folder)}, state=RecordDict(), run_config={}
    )
    return app(message, context)


def test_the_app_does_not_import_what_reads_images() -> None:
    code = (
        "import sys, site_agent.client_app;"
        "print([m for m in ('torch', 'pydicom', 'SimpleITK', 'streamlit') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_status_of_a_new_site(home: SiteHome) -> None:
    reply = _ask(home.folder, "query.status")
    body = reply.content.config_records["message"]["json"]
    assert isinstance(body, bytes)
    status = SiteStatus.model_validate_json(body)
    assert status.round_state is RoundState.NONE
    assert not status.source_package_ready
    assert (home.ledger / "000001-site_status.json").read_bytes() == body


def test_status_counts_open_tasks_of_the_approved_package(home: SiteHome) -> None:
    engine = open_database(home.database_url)
    with transaction(engine) as session:
        session.add(
            PackageRow(
                package_id=PACKAGE,
                model_version="1",
                signed_by="k",
                state="approved",
                received_at=AT,
            )
        )
    assert site_status(home, engine).round_state is RoundState.RECEIVED
    with transaction(engine) as session:
        session.add(
            RoundRow(
                round_id="r",
                package_id=PACKAGE,
                case_set_sha256="",
                seed=0,
                state=RoundState.AWAITING_ANNOTATION.value,
                report=None,
                started_at=AT,
                changed_at=AT,
            )
        )
        session.flush()
        for z, state in enumerate(("open", "open", "done")):
            session.add(
                AnnotationTaskRow(
                    round_id="r",
                    case_id=PLANTED_CASE,
                    slice_z=z,
                    rank=z,
                    role="chosen",
                    score=0.0,
                    kind="contour",
                    state=state,
                )
            )
    status = site_status(home, engine)
    assert (status.round_state, status.open_annotation_tasks) == (
        RoundState.AWAITING_ANNOTATION,
        2,
    )
    assert not status.report_ready


def test_only_a_class_name_leaves_when_a_handler_fails(home: SiteHome, tmp_path: Path) -> None:
    nowhere = _ask(tmp_path / PLANTED_CASE, "query.status")
    assert nowhere.has_error()
    assert nowhere.error.reason == "DataError"
    no_package = _ask(home.folder, "query.source_package")
    assert no_package.error.reason == "DataError"


@pytest.mark.parametrize(
    ("message_type", "content", "address", "rule"),
    [
        ("query.status", {}, {"study": "another"}, "another_study"),
        ("query.status", {}, {"site": "hospital-c"}, "another_site"),
        ("query.site_report", {}, {}, "malformed_message"),
        ("query.site_report", {"question": {"package_id": 7}}, {}, "malformed_message"),
        ("train.receive_package", {"package": {"manifest": "text"}}, {}, "malformed_message"),
        (
            "train.receive_package",
            {"package": {"manifest": b"{}", "signature": b"{}"}},
            {},
            "malformed_message",
        ),
    ],
)
def test_a_message_that_does_not_fit_is_refused_and_noted(
    home: SiteHome,
    message_type: str,
    content: dict[str, dict[str, Any]],
    address: dict[str, str],
    rule: str,
) -> None:
    records = RecordDict({name: ConfigRecord(values) for name, values in content.items()})
    reply = _ask(home.folder, message_type, records, **address)
    assert reply.error.reason == rule
    assert refusals(open_database(home.database_url)) == [(message_type, {"rule": rule})]
    assert egress.list_entries(open_database(home.database_url)) == []  # nothing ran


def test_a_message_without_an_address_is_refused(home: SiteHome) -> None:
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    context = Context(1, 1, {"home": str(home.folder)}, RecordDict(), {})
    reply = app(Message(RecordDict(), 1, "query.status"), context)
    assert reply.error.reason == "malformed_message"


def test_an_unsigned_package_is_an_answer_with_a_rule(home: SiteHome) -> None:
    content = RecordDict(
        {
            "package": ConfigRecord({"manifest": b"{}", "signature": b"{}", "offset": 0}),
            "files": ArrayRecord(),
        }
    )
    reply = _ask(home.folder, "train.receive_package", content)
    body = reply.content.config_records["message"]["json"]
    assert b'"refused_by_rule":"bad_signature"' in bytes(body)  # type: ignore[arg-type]


def test_the_source_package_travels_as_raw_bytes(home: SiteHome) -> None:
    prepare_source_package(home.folder)
    reply = _ask(home.folder, "query.source_package")
    for name, array in reply.content.array_records["files"].items():
        assert (array.dtype, tuple(array.shape)) == ("uint8", (len(array.data),))
        assert bytes(array.data) == (home.source_package / name).read_bytes()


def test_a_report_is_about_the_package_asked_for(home: SiteHome) -> None:
    engine = open_database(home.database_url)
    with transaction(engine) as session:
        session.add(
            PackageRow(
                package_id=PACKAGE, model_version="1", signed_by="k", state="stored", received_at=AT
            )
        )
    finish_round(engine, "hospital-b", PACKAGE)

    def ask_about(package_id: str) -> Message:
        question = RecordDict({"question": ConfigRecord({"package_id": package_id})})
        return _ask(home.folder, "query.site_report", question)

    assert ask_about(PACKAGE).error.reason == "ReleaseRefused"
    approve_plan_for(home, engine, PACKAGE)
    assert not ask_about(PACKAGE).has_error()
    assert ask_about("0" * 64).error.reason == "DataError"


# -- plans ----------------------------------------------------------------------------------------


def _receipt(home: SiteHome, signed: bytes) -> PlanReceipt:
    content = RecordDict({"plan": ConfigRecord({"signed": signed})})
    body = _ask(home.folder, "train.receive_plan", content).content.config_records["message"]
    return PlanReceipt.model_validate_json(body["json"])  # type: ignore[arg-type]


def test_a_plan_is_kept_or_refused_by_name_and_the_approval_handed_over(
    home: SiteHome, caplog: pytest.LogCaptureFixture
) -> None:
    manifest, _ = tiny_package()
    content = manifest.signed_bytes()
    plan = tiny_federation_plan(manifest.package_id, parameters=method_parameters(content))
    signed = sign_plan(plan).model_dump_json().encode()
    early = _receipt(home, signed)
    assert (early.accepted, early.refused_by_rule) == (False, "unknown_package")
    assert _ask(home.folder, "query.plan_approval").error.reason == "DataError"
    assert "ERROR" not in caplog.text  # it is an ordinary state

    folder = home.packages / manifest.package_id
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(content)
    receipt = _receipt(home, signed)
    assert (receipt.accepted, receipt.received_sha256) == (True, sha256_hex(signed))
    engine = open_database(home.database_url)
    status = site_status(home, engine)
    assert status.plan_held == status.plan_approved == sha256_hex(plan.signed_bytes())
    reply = _ask(home.folder, "query.plan_approval")
    body = reply.content.config_records["message"]["json"]
    approval = PlanApproval.model_validate_json(body)  # type: ignore[arg-type]
    assert approval.plan_sha256 == status.plan_approved
    assert is_signed_here(home, approval)


def test_a_plan_that_is_no_bytes_is_refused(home: SiteHome) -> None:
    content = RecordDict({"plan": ConfigRecord({"signed": "text"})})
    assert _ask(home.folder, "train.receive_plan", content).error.reason == "malformed_message"


def test_a_model_update_goes_back_as_the_ledger_has_it(home: SiteHome) -> None:
    engine = open_database(home.database_url)
    adapt(home, engine)
    question = RecordDict({"question": ConfigRecord({"package_id": UPDATED})})
    reply = _ask(home.folder, "query.model_update", question)
    assert reply.error.reason == "ReleaseRefused"
    refused = egress.list_entries(engine)[-1]
    assert (refused.kind, refused.detail) == ("model_update", {"rule": "no_plan"})
    plan = permit(home, engine)
    assert _ask(home.folder, "query.model_update", question).error.reason == "DataError"
    prepare_update(home, engine, plan)
    reply = _ask(home.folder, "query.model_update", question)
    again = _ask(home.folder, "query.model_update", question)
    assert again.content == reply.content
    checked = checked_reply(reply, Message(RecordDict(), 1, "query.model_update"), engine)
    assert checked.content == reply.content
    (content,) = (bytes(array.data) for array in reply.content.array_records["files"].values())
    assert content == offer_update(home, engine, plan)[1]
