"""The executor against the Runtime API of a real SuperNode; the coordinator is simulated."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.cli.build import build_fab_from_disk, build_fab_from_files
from flwr.supercore.constant import TaskType
from sqlalchemy import Engine

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.messages import SiteStatus
from algorithms.contracts.study_bundle import STUDY_BUNDLE
from site_agent import egress
from site_agent.client_app import app
from site_agent.config import SiteHome, open_home
from site_agent.database import open_database
from site_agent.site_executor import SiteExecutor, main, study_bundle_sha256
from tests.simulated_site import PLANTED_CASE, STUDY, make_site, prepare_source_package, refusals
from tests.simulated_supernode import SimulatedSuperNode

BUNDLE, _ = build_fab_from_files(STUDY_BUNDLE)
SECRET = b"what the SuperNode was started with"


@pytest.fixture(scope="module")
def supernode() -> Iterator[SimulatedSuperNode]:
    with SimulatedSuperNode(SECRET) as node:
        yield node


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return make_site(tmp_path / "site", "hospital-b")


@pytest.fixture
def engine(home: SiteHome) -> Iterator[Engine]:
    engine = open_database(home.database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def executor(home: SiteHome, engine: Engine, supernode: SimulatedSuperNode) -> SiteExecutor:
    return SiteExecutor(home, engine, supernode.address, secret=SECRET)


def _addressed(*, size_bytes: int = 0) -> RecordDict:
    content = RecordDict({"address": ConfigRecord({"study": STUDY, "site": "hospital-b"})})
    if size_bytes:
        data = bytes(size_bytes)
        content["files"] = ArrayRecord({"large": Array("uint8", (size_bytes,), "raw", data)})
    return content


def _answer(executor: SiteExecutor, supernode: SimulatedSuperNode, run_id: int) -> Message:
    assert executor.answer_next()
    assert supernode.finished(run_id)
    reply = supernode.reply(run_id)
    assert reply is not None
    return reply


def test_the_installed_app_answers_with_what_the_ledger_released(
    home: SiteHome, executor: SiteExecutor, supernode: SimulatedSuperNode
) -> None:
    assert not executor.answer_next()  # nothing to do
    run_id = supernode.deliver(_addressed(), "query.status", bundle=BUNDLE)
    body = _answer(executor, supernode, run_id).content.config_records["message"]["json"]
    assert SiteStatus.model_validate_json(bytes(body)).site == "hospital-b"  # type: ignore[arg-type]
    assert (home.ledger / "000001-site_status.json").read_bytes() == body


def test_files_go_back_beside_their_message(
    home: SiteHome, executor: SiteExecutor, supernode: SimulatedSuperNode
) -> None:
    manifest = prepare_source_package(home.folder)
    run_id = supernode.deliver(_addressed(), "query.source_package", bundle=BUNDLE)
    files = _answer(executor, supernode, run_id).content.array_records["files"]
    hashes = {name: sha256_hex(bytes(array.data)) for name, array in files.items()}
    assert hashes == {name: entry.sha256 for name, entry in manifest.files.items()}


@pytest.mark.parametrize(
    ("message_type", "delivery", "rule"),
    [
        ("query.status", {"bundle": b"code"}, "unknown_bundle"),
        ("query.shell", {}, "unknown_message_type"),
        ("train", {}, "unknown_message_type"),
        ("query.status", {"node_id": 8}, "another_node"),
        ("query.status", {"without_message": True}, "malformed_message"),
    ],
)
def test_a_refused_message_runs_nothing_and_is_noted_by_its_rule(
    engine: Engine,
    executor: SiteExecutor,
    supernode: SimulatedSuperNode,
    message_type: str,
    delivery: dict[str, object],
    rule: str,
) -> None:
    before = supernode.held_parts()
    run_id = supernode.deliver(
        _addressed(),
        message_type,
        **({"bundle": BUNDLE} | delivery),  # type: ignore[arg-type]
    )
    reply = _answer(executor, supernode, run_id)
    assert (reply.error.code, reply.error.reason) == (100, rule)
    assert supernode.held_parts() == before + 1  # the reply; what was refused is forgotten
    assert egress.list_entries(engine) == []
    [(kind, detail)] = refusals(engine)
    assert kind == (message_type if message_type == "query.status" else "unknown")
    sent = {"bundle_sha256": sha256_hex(b"code")} if rule == "unknown_bundle" else {}
    assert detail == {"rule": rule} | sent


@pytest.mark.parametrize(("over_bytes", "refused"), [(-2000, False), (1, True)])
def test_the_size_of_a_message_is_limited(
    home: SiteHome, engine: Engine, supernode: SimulatedSuperNode, over_bytes: int, refused: bool
) -> None:
    limit_bytes = 2**20
    with (home.folder / "site.toml").open("a", encoding="utf-8") as settings:
        settings.write(f"max_message_bytes = {limit_bytes}\n")
    executor = SiteExecutor(open_home(home.folder), engine, supernode.address, secret=SECRET)
    content = _addressed(size_bytes=limit_bytes + over_bytes)
    run_id = supernode.deliver(content, "query.status", bundle=BUNDLE)
    reply = _answer(executor, supernode, run_id)
    assert reply.has_error() == refused
    assert refusals(engine) == [("query.status", {"rule": "oversized_message"})] * refused


def test_a_bundle_that_the_site_allowed_is_not_run_either(
    home: SiteHome, engine: Engine, supernode: SimulatedSuperNode
) -> None:
    with (home.folder / "site.toml").open("a", encoding="utf-8") as settings:
        settings.write(f'allowed_bundles = ["{sha256_hex(b"code")}"]\n')
    executor = SiteExecutor(open_home(home.folder), engine, supernode.address, secret=SECRET)
    run_id = supernode.deliver(_addressed(), "query.status", bundle=b"code")
    assert not _answer(executor, supernode, run_id).has_error()


def test_a_task_for_code_of_the_bundle_is_left_alone(
    executor: SiteExecutor, supernode: SimulatedSuperNode
) -> None:
    supernode.deliver(_addressed(), "query", bundle=BUNDLE, task_type=TaskType.AGENT_APP)
    assert not executor.answer_next()


def test_a_message_whose_delivery_broke_off_holds_nothing_up(
    executor: SiteExecutor, supernode: SimulatedSuperNode
) -> None:
    lost = supernode.deliver(_addressed(), "query.status", bundle=BUNDLE)
    supernode.state.delete_messages()
    run_id = supernode.deliver(_addressed(), "query.status", bundle=BUNDLE)
    assert executor.answer_next()
    assert supernode.reply(lost) is None and not supernode.finished(lost)
    assert not _answer(executor, supernode, run_id).has_error()


def _smuggles(reply: Message) -> Message:
    body = reply.content.config_records["message"]["json"]
    other = {"json": body, "note": PLANTED_CASE}
    return Message(RecordDict({"message": ConfigRecord(other)}), reply_to=reply)


def _adds_an_array(reply: Message) -> Message:
    extra = ArrayRecord({"image": Array("uint8", (4,), "raw", b"mask")})
    return Message(RecordDict({**reply.content, "files": extra}), reply_to=reply)


def _adds_a_record(reply: Message) -> Message:
    note = ConfigRecord({"note": PLANTED_CASE})
    return Message(RecordDict({**reply.content, "note": note}), reply_to=reply)


def _changes_the_body(reply: Message) -> Message:
    body = ConfigRecord({"json": b'{"site":"%s"}' % PLANTED_CASE.encode()})
    return Message(RecordDict({"message": body}), reply_to=reply)


def _explains(reply: Message) -> Message:
    return Message(Error(1, f"patient {PLANTED_CASE}"), reply_to=reply)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (_smuggles, "reply_not_released"),
        (_adds_an_array, "reply_not_released"),
        (_adds_a_record, "reply_not_released"),
        (_changes_the_body, "reply_not_released"),
        (_explains, "reply_error_text"),
    ],
)
def test_what_the_ledger_did_not_release_does_not_go_back(
    home: SiteHome, engine: Engine, supernode: SimulatedSuperNode, change, rule: str
) -> None:
    def hostile(message: Message, context: Context) -> Message:
        return change(app(message, context))

    executor = SiteExecutor(home, engine, supernode.address, secret=SECRET, client_app=hostile)
    run_id = supernode.deliver(_addressed(), "query.status", bundle=BUNDLE)
    reply = _answer(executor, supernode, run_id)
    assert reply.error.reason == rule
    assert PLANTED_CASE not in str(reply)
    assert refusals(engine) == [("query.status", {"rule": rule})]


def test_of_an_exception_only_its_class_goes_back(
    home: SiteHome,
    engine: Engine,
    supernode: SimulatedSuperNode,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(message: Message, context: Context) -> Message:
        raise LookupError(PLANTED_CASE)

    executor = SiteExecutor(home, engine, supernode.address, secret=SECRET, client_app=fails)
    run_id = supernode.deliver(_addressed(), "query.status", bundle=BUNDLE)
    reply = _answer(executor, supernode, run_id)
    assert (reply.error.code, reply.error.reason) == (100, "LookupError")
    assert PLANTED_CASE not in caplog.text
    assert "LookupError" in caplog.text


def test_who_does_not_know_the_secret_takes_no_task(
    home: SiteHome, engine: Engine, supernode: SimulatedSuperNode
) -> None:
    for secret in (None, b"guessed"):
        other = SiteExecutor(home, engine, supernode.address, secret=secret)
        with pytest.raises(httpx.HTTPStatusError):
            other.answer_next()


def test_both_parties_build_the_same_bundle(tmp_path: Path) -> None:
    for name, content in STUDY_BUNDLE.items():
        (tmp_path / name).write_bytes(content)
    assert sha256_hex(build_fab_from_disk(tmp_path)) == study_bundle_sha256()  # as `flwr run` does


def test_a_wrong_home_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = str(tmp_path)
    monkeypatch.setattr(sys, "argv", ["executor", "--supernode", "127.0.0.1:9", "--home", home])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_flower_neither_reports_home_nor_asks_for_updates() -> None:
    code = (
        "import os; os.environ.pop('FLWR_TELEMETRY_ENABLED', 0); "
        "os.environ.pop('FLWR_DISABLE_UPDATE_CHECK', 0); import site_agent.site_executor; "
        "from flwr.supercore import telemetry, update_check; "
        "print(telemetry.FLWR_TELEMETRY_ENABLED, "
        "os.environ[update_check.FLWR_DISABLE_UPDATE_CHECK])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1"]
