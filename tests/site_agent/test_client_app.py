import subprocess
import sys
from pathlib import Path

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from algorithms.contracts.messages import RoundState, SiteStatus
from site_agent.client_app import app, site_status
from site_agent.config import SiteHome
from site_agent.database import AnnotationTaskRow, RoundRow, open_database, transaction
from site_agent.package_store import PackageRow
from tests.simulated_site import AT, PLANTED_CASE, finish_round, make_site, prepare_source_package

PACKAGE = "cd" * 32


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return make_site(tmp_path / "site", "hospital-b")


def _ask(folder: Path, message_type: str, content: RecordDict | None = None) -> Message:
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    message = Message(content or RecordDict(), 1, message_type)
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
    unasked = _ask(home.folder, "query.site_report")
    assert unasked.error.reason == "KeyError"
    no_package = _ask(home.folder, "query.source_package")
    assert no_package.error.reason == "DataError"


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

    assert not ask_about(PACKAGE).has_error()
    assert ask_about("0" * 64).error.reason == "DataError"
