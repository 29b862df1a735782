import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from algorithms.contracts.messages import PackageReceipt, SourcePackageOffer
from algorithms.contracts.model_package import MODEL_FILE
from algorithms.contracts.unfolded_size import MOST_WORDS_BYTES
from site_agent import egress
from site_agent.config import SiteHome
from site_agent.database import open_database
from site_agent.message_check import (
    MessageRefused,
    checked_reply,
    put_together,
    sent_files,
    wrap_released,
)
from tests.hostile_supernode import object_id, wire_object
from tests.simulated_site import AT, make_site, tiny_package

RECEIPT = PackageReceipt(site="hospital-b", package_id="ab" * 32, accepted=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> SiteHome:
    return make_site(tmp_path_factory.mktemp("check") / "site", "hospital-b")


@pytest.fixture(scope="module")
def engine(home: SiteHome) -> Iterator[Engine]:
    engine = open_database(home.database_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def question() -> Message:
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    return Message(RecordDict(), 7, "query.status")


def test_a_reply_is_made_anew_from_what_was_released(
    home: SiteHome, engine: Engine, question: Message
) -> None:
    body = egress.release(home, engine, RECEIPT, now=AT)
    other = Message(RecordDict(), 8, "query.status", group_id="smuggled")
    reply = checked_reply(Message(wrap_released(body, {}), reply_to=other), question, engine)
    assert reply.content == wrap_released(body, {})
    assert (reply.metadata.src_node_id, reply.metadata.group_id) == (7, "")


def test_what_is_held_or_refused_is_not_released(
    tmp_path: Path, engine: Engine, question: Message
) -> None:
    careful = make_site(tmp_path / "careful", "hospital-b", auto_approve=False)
    held_engine = open_database(careful.database_url)
    manifest, files = tiny_package()
    offer = SourcePackageOffer(site="hospital-b", manifest=manifest)
    with pytest.raises(egress.ReleaseHeld):
        egress.release(careful, held_engine, offer, files=files, now=AT)
    [entry] = egress.list_entries(held_engine)
    body = egress.read_message(careful, held_engine, entry.sequence)
    with pytest.raises(MessageRefused, match="reply_not_released"):
        checked_reply(Message(wrap_released(body, files), reply_to=question), question, held_engine)


def test_files_go_only_beside_the_message_they_were_released_with(
    home: SiteHome, engine: Engine, question: Message
) -> None:
    manifest, files = tiny_package()
    offer = SourcePackageOffer(site="hospital-b", manifest=manifest)
    body = egress.release(home, engine, offer, files=files, now=AT)
    receipt = egress.release(home, engine, RECEIPT, now=AT)
    renamed = {f"{name}.old": data for name, data in files.items()}
    changed = files | {MODEL_FILE: files[MODEL_FILE] + b"\0"}
    fewer = {MODEL_FILE: files[MODEL_FILE]}
    for what, beside in ((receipt, files), (body, renamed), (body, changed), (body, fewer)):
        reply = Message(wrap_released(what, beside), reply_to=question)
        with pytest.raises(MessageRefused, match="reply_not_released"):
            checked_reply(reply, question, engine)
    whole = Message(wrap_released(body, files), reply_to=question)
    assert checked_reply(whole, question, engine).content == whole.content


@pytest.mark.parametrize(
    "array",
    [
        Array("patient", (3,), "raw", b"abc"),  # in the type's name
        Array("uint8", (1, 9, 7, 3), "raw", b"abc"),  # in the shape
        Array("uint8", (3,), "numpy.ndarray", b"abc"),
    ],
)
def test_nothing_hides_in_the_description_of_a_file(
    home: SiteHome, engine: Engine, question: Message, array: Array
) -> None:
    manifest, files = tiny_package()
    offer = SourcePackageOffer(site="hospital-b", manifest=manifest)
    body = egress.release(home, engine, offer, files=files, now=AT)
    content = wrap_released(body, files)
    data = files[MODEL_FILE]
    hiding = Array(array.dtype, array.shape, array.stype, data)
    content["files"] = ArrayRecord({**content.array_records["files"], MODEL_FILE: hiding})
    with pytest.raises(MessageRefused):
        checked_reply(Message(content, reply_to=question), question, engine)


@given(st.text())
def test_only_a_name_passes_as_the_reason_of_an_error(
    engine: Engine, question: Message, reason: str
) -> None:
    is_name = bool(reason) and len(reason) <= 60
    is_name &= all(c == "_" or (c.isascii() and c.isalpha()) for c in reason)
    reply = Message(Error(3, reason), reply_to=question)
    if is_name:
        assert checked_reply(reply, question, engine).error == Error(100, reason)
    else:
        with pytest.raises(MessageRefused, match="reply_error_text"):
            checked_reply(reply, question, engine)


def test_files_are_raw_bytes_and_nothing_to_unpack(question: Message) -> None:
    packed = ArrayRecord({"model": Array("float32", (1,), "numpy.ndarray", b"\x93NUMPY")})
    for record in (packed, ConfigRecord({"model": b"x"})):
        message = Message(RecordDict({"files": record}), reply_to=question)
        with pytest.raises(MessageRefused, match="malformed_message"):
            sent_files(message, "files")


@pytest.mark.parametrize(("times", "rule"), [(2, None), (9, "oversized_message")])
def test_an_array_that_names_one_chunk_many_times_is_as_large_as_it_becomes(
    times: int, rule: str | None
) -> None:
    chunk = wire_object("ArrayChunk", bytes(1000))
    shape = {"dtype": "uint8", "shape": [1], "stype": "raw", "arraychunk_ids": [0] * times}
    array = wire_object("Array", json.dumps(shape).encode(), [object_id(chunk)])
    parts = {object_id(part): part for part in (chunk, array)}
    if rule is None:
        assert put_together(object_id(array), parts, Array, limit_bytes=5000).data == bytes(2000)
        return
    with pytest.raises(MessageRefused, match=rule):
        put_together(object_id(array), parts, Array, limit_bytes=5000)


def test_words_are_few_however_much_arrays_may_bring() -> None:
    """A list of numbers takes thirty times as much memory as on the wire."""
    numbers = wire_object("MetricRecord", bytes(MOST_WORDS_BYTES))
    with pytest.raises(MessageRefused, match="oversized_message"):
        put_together(object_id(numbers), {object_id(numbers): numbers}, Array, limit_bytes=2**30)


@pytest.mark.parametrize("content", [b"", b"Array", b"Array x 2\0{}", b"\xff a 1\0b"])
def test_parts_that_are_none_are_malformed(content: bytes) -> None:
    parts = {object_id(content): content}
    with pytest.raises(MessageRefused, match="malformed_message"):
        put_together(object_id(content), parts, Array, limit_bytes=5000)
