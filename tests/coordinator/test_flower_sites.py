"""Conversations over a grid that is slow, refuses, forgets or lies; the sites are functions."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from coordinator import server_app
from coordinator.package_publisher import PublishedPackage, open_package, publish
from coordinator.server_app import FlowerSites
from coordinator.sites import Answer, Conversation, PackagePart, Question, Request, Silence
from tests.simulated_site import make_coordinator, tiny_package

MANIFEST, FILES = tiny_package()
NAMES = {1: "hospital-b", 2: "hospital-c", 3: "hospital-d"}


class ScriptedGrid:
    """Answers a message after so many polls as `delay` says; None never."""

    def __init__(
        self, delay: Callable[[str], int | None], names: Mapping[int, str] = NAMES
    ) -> None:
        self._delay, self._names, self._polls = delay, names, 0
        self._under_way: dict[str, tuple[int, Message]] = {}
        self.most_at_once = 0
        self.refuse: set[str] = set()
        self.begun = False
        self.reason = "a text with 3 words"

    def get_nodes(self) -> list[Any]:
        return [
            SimpleNamespace(node_id=number, name=name, status="online")
            for number, name in self._names.items()
            if name != "hospital-d"
        ]

    def push_messages(self, messages: list[Message]) -> list[str | None]:
        ids: list[str | None] = []
        for message in messages:
            name = self._names[message.metadata.dst_node_id]
            if name in self.refuse:
                ids.append(None)
                continue
            key = message.object_id
            message.metadata.__dict__["_message_id"] = key
            ids.append(key)
            polls = self._delay(name)
            if polls is not None:
                self._under_way[key] = (self._polls + polls, message)
        self.most_at_once = max(self.most_at_once, len(self._under_way))
        return ids

    def pull_messages(self, ids: Iterable[str]) -> list[Message]:
        self._polls += 1
        ready = [k for k in ids if k in self._under_way and self._under_way[k][0] <= self._polls]
        return [self._reply(self._under_way.pop(key)[1]) for key in ready]

    def is_arriving(self, message_id: str) -> bool:
        return self.begun

    def _reply(self, message: Message) -> Message:
        if message.metadata.message_type == Question.SITE_REPORT.value:
            return Message(Error(7, self.reason), reply_to=message)
        name = self._names[message.metadata.dst_node_id]
        content = RecordDict({"message": ConfigRecord({"json": name.encode()})})
        return Message(content, reply_to=message)


@pytest.fixture
def package(tmp_path: Path) -> PublishedPackage:
    home = make_coordinator(tmp_path / "p")
    return open_package(home, publish(home, MANIFEST, FILES))


def _sites(tmp_path: Path, grid: ScriptedGrid, *, ttl_s: float = 60.0) -> FlowerSites:
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    home = make_coordinator(tmp_path / "c")
    config = home.config.model_copy(update={"message_ttl_s": ttl_s})
    return FlowerSites(cast("Grid", grid), replace(home, config=config))


def test_each_site_is_heard_and_whoever_cannot_be_reached_is_told_apart(tmp_path: Path) -> None:
    grid = ScriptedGrid(lambda name: None if name == "hospital-c" else 1)
    sites = _sites(tmp_path, grid, ttl_s=0.2)
    answers = sites.ask(Question.STATUS, NAMES.values())
    assert isinstance(answers["hospital-b"], Answer)
    assert answers["hospital-b"].message == b"hospital-b"
    assert 0.0 < answers["hospital-b"].took_s < 60.0
    assert answers["hospital-c"] == Silence("message_expired")
    assert answers["hospital-d"] == Silence("offline")
    assert set(sites.bytes_to_site) == {"hospital-b", "hospital-c"}
    assert set(sites.bytes_from_site) == {"hospital-b"}


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("a text with 3 words", "error_7"),
        ("Müller_Hans", "error_7"),
        ("x" * 65, "error_7"),
        ("held\n", "error_7"),
        ("ReleaseHeld", "ReleaseHeld"),
    ],
)
def test_an_error_is_a_name_or_a_code_and_no_text(tmp_path: Path, reason: str, kept: str) -> None:
    grid = ScriptedGrid(lambda _name: 1)
    grid.reason = reason
    sites = _sites(tmp_path, grid)
    assert sites.ask(Question.SITE_REPORT, ["hospital-b"]) == {"hospital-b": Silence(kept)}


def test_a_push_that_is_refused_is_a_silence(tmp_path: Path) -> None:
    grid = ScriptedGrid(lambda _name: 1)
    grid.refuse = {"hospital-b"}
    answers = _sites(tmp_path, grid).ask(Question.STATUS, ["hospital-b", "hospital-c"])
    assert answers["hospital-b"] == Silence("push_refused")
    assert isinstance(answers["hospital-c"], Answer)


def test_files_that_have_begun_to_come_are_waited_for_and_words_are_not(tmp_path: Path) -> None:
    grid = ScriptedGrid(lambda _name: 5)
    sites = _sites(tmp_path, grid, ttl_s=0.0)
    package = Question.SOURCE_PACKAGE
    assert sites.ask(package, ["hospital-b"])["hospital-b"] == Silence("message_expired")
    grid.begun = True
    assert isinstance(sites.ask(package, ["hospital-b"])["hospital-b"], Answer)
    status = sites.ask(Question.STATUS, ["hospital-b"])
    assert status["hospital-b"] == Silence("message_expired")


def test_a_conversation_does_not_wait_for_another(tmp_path: Path) -> None:
    """The slow site answers its only question after the quick one has answered twenty."""
    heard: list[str] = []

    def talk(name: str, questions: int) -> Conversation:
        for _ in range(questions):
            yield Request(Question.STATUS)
            heard.append(name)

    grid = ScriptedGrid(lambda name: 30 if name == "hospital-b" else 1)
    talks = {"hospital-b": talk("hospital-b", 1), "hospital-c": talk("hospital-c", 20)}
    _sites(tmp_path, grid).converse(talks)
    assert heard == ["hospital-c"] * 20 + ["hospital-b"]


def test_files_are_asked_of_a_few_sites_at_a_time(tmp_path: Path) -> None:
    names = [f"hospital-{number}" for number in range(9)]
    grid = ScriptedGrid(lambda _name: 1, dict(enumerate(names, 11)))
    sites = _sites(tmp_path, grid)
    answers = sites.ask(Question.MODEL_UPDATE, names)
    assert {type(answer) for answer in answers.values()} == {Answer}
    assert grid.most_at_once == server_app.MOST_FILES_AT_ONCE
    sites.ask(Question.STATUS, names)
    assert grid.most_at_once == len(names)


@pytest.mark.parametrize(("slow_s", "most"), [(60.0, 1), (0.0, 2)])
def test_parts_take_turns_but_a_slow_site_keeps_no_room(
    tmp_path: Path,
    package: PublishedPackage,
    monkeypatch: pytest.MonkeyPatch,
    slow_s: float,
    most: int,
) -> None:
    """There is room for one part; after `slow_s` a part that is under way takes none."""
    monkeypatch.setattr(server_app, "MOST_UNDER_WAY_BYTES", 1000)
    monkeypatch.setattr(server_app, "SLOW_S", slow_s)
    got: dict[str, float] = {}

    def talk(name: str) -> Conversation:
        yield Request(Question.RECEIVE_PACKAGE, part=PackagePart(package, 0, 1000))
        got[name] = time.monotonic()

    grid = ScriptedGrid(lambda name: 4 if name == "hospital-b" else 1)
    names = ("hospital-b", "hospital-c")
    _sites(tmp_path, grid).converse({name: talk(name) for name in names})
    assert grid.most_at_once == most
    assert (got["hospital-b"] < got["hospital-c"]) is (most == 1)
