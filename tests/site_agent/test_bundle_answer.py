"""Bundles against a coordinator that is played by the test: it knows the file and its own keys."""

import io
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from algorithms.contracts.bundle import (
    COORDINATOR,
    BundleHeader,
    BundleRefused,
    CarriedMessage,
    Direction,
)
from algorithms.contracts.errors import DataError
from algorithms.contracts.messages import SiteStatus
from algorithms.sealed_bundle import SealedBundle, SealedWriter, read_messages, read_objects
from coordinator.config import CoordinatorHome
from coordinator.package_publisher import read_signing_key
from coordinator.study_keys import encryption_key
from site_agent import audit_log, egress
from site_agent.bundle_answer import AnsweredBundle, answer_bundle
from site_agent.config import SiteHome, open_home
from site_agent.database import AuditRow, PackageRow, open_database, transaction
from site_agent.site_keys import SiteKeys
from tests.enrolled import NOW, enrol_site
from tests.simulated_site import (
    AT,
    PLANTED,
    STUDY,
    finish_round,
    make_coordinator,
    make_site,
    prepare_source_package,
    refusals,
)

SITE = "hospital-c"
ADDRESS = ConfigRecord({"study": STUDY, "site": SITE})
Asked = tuple[str, RecordDict]


def status(**address: Any) -> Asked:
    return "query.status", RecordDict({"address": ConfigRecord({**dict(ADDRESS), **address})})


def report(package_id: str) -> Asked:
    question = ConfigRecord({"package_id": package_id})
    return "query.site_report", RecordDict({"address": ADDRESS, "question": question})


class Carried:
    """A site, its coordinator's keys, and the disk between them."""

    def __init__(self, folder: Path) -> None:
        coordinator: CoordinatorHome = make_coordinator(folder / "c", targets=(SITE,))
        enrol_site(coordinator, make_site(folder / "s", SITE))
        self.home: SiteHome = open_home(folder / "s")
        self.engine: Engine = open_database(self.home.database_url)
        self.keys = SiteKeys.open(self.home)
        self.signing, self.encryption = read_signing_key(coordinator), encryption_key(coordinator)
        self.disk = folder / "disk"
        self.disk.mkdir()
        self._names = iter(range(1000))

    def file(self) -> Path:
        return self.disk / str(next(self._names))

    def write(self, *questions: Asked, sequence: int = 1, **changes: Any) -> Path:
        fields: dict[str, Any] = {
            "study": STUDY,
            "direction": Direction.TO_SITE,
            "sender": COORDINATOR,
            "receiver": SITE,
            "sequence": sequence,
            "created_at": NOW,
            "expires_at": NOW + timedelta(days=9),
            "answers_sha256": None,
            "signing_key_hex": self.signing.public_key().public_bytes_raw().hex(),
            "encryption_key_hex": self.keys.encryption_public_key_hex,
        }
        file = self.file()
        with file.open("wb") as stream:
            header = BundleHeader.model_validate(fields | changes)
            writer = SealedWriter(stream, header, lambda data: self.signing.sign(data).hex())
            for kind, content in questions or (status(),):
                objects = {n: one.deflate() for n, one in get_all_nested_objects(content).items()}
                sizes = tuple((name, len(one)) for name, one in objects.items())
                writer.add(CarriedMessage(type=kind, asked=sizes[-1][0], objects=sizes), objects)
            writer.finish()
        return file

    def answer(self, file: Path, output: Path | None = None, **options: Any) -> AnsweredBundle:
        output = output or self.file()
        defaults: dict[str, Any] = {"actor": "test", "now": NOW}
        return answer_bundle(self.home, self.engine, file, output, **(defaults | options))

    def answers(self, file: Path) -> tuple[BundleHeader, list[bytes | str]]:
        """Read an answer as the coordinator would: messages, or the names of errors."""
        bundle = SealedBundle.open(io.BytesIO(file.read_bytes()))
        bundle.verify()
        content, said = bundle.unseal(self.encryption), []
        for _, one in read_messages(content):
            if one.error is not None:
                said.append(one.error)
                continue
            record = inflate_object_from_contents(one.objects[-1][0], read_objects(content, one))
            assert isinstance(record, RecordDict)
            said.append(record["message"]["json"])
        return bundle.header, said

    def events(self, *names: str) -> list[AuditRow]:
        mine = select(AuditRow).where(AuditRow.event.in_(names)).order_by(AuditRow.sequence)
        with Session(self.engine) as session:
            audit_log.verify(session)
            return list(session.scalars(mine))

    def refusal(self, file: Path, **options: Any) -> str:
        """Answer what must be refused: it is noted, nothing is taken in, nothing leaves."""
        before = self.events("bundle_taken"), egress.list_entries(self.engine)
        output, count = self.file(), len(self.events("bundle_refused"))
        with pytest.raises(BundleRefused) as caught:
            self.answer(file, output, **options)
        noted = self.events("bundle_refused")[count:]
        assert [row.detail for row in noted] == [{"rule": caught.value.rule}]
        after = self.events("bundle_taken"), egress.list_entries(self.engine)
        assert [len(one) for one in after] == [len(one) for one in before]
        assert not output.exists()
        return caught.value.rule


@pytest.fixture
def disk(tmp_path: Path) -> Carried:
    return Carried(tmp_path)


def test_an_answer_says_whose_it_is_and_to_what(disk: Carried) -> None:
    asked, output = disk.write(status()), disk.file()
    assert disk.answer(asked, output) == AnsweredBundle(1, 1, ())
    header, said = disk.answers(output)
    assert (header.sender, header.receiver, header.sequence) == (SITE, COORDINATOR, 1)
    assert header.answers_sha256 == SealedBundle.open(io.BytesIO(asked.read_bytes())).sha256
    assert header.expires_at - header.created_at == timedelta(days=9)
    assert isinstance(said[0], bytes)
    assert SiteStatus.model_validate_json(said[0]).site == SITE
    assert [row.event for row in disk.events("bundle_taken", "bundle_answered")] == [
        "bundle_taken",
        "bundle_answered",
    ]


def test_what_is_on_the_disk_is_what_the_ledger_has(disk: Carried) -> None:
    prepare_source_package(disk.home.folder)
    output = disk.file()
    source = "query.source_package", RecordDict({"address": ADDRESS})
    disk.answer(disk.write(source, status()), output)
    _, said = disk.answers(output)
    egress.verify_ledger(disk.home, disk.engine)
    entries = egress.list_entries(disk.engine)
    kept = [egress.read_message(disk.home, disk.engine, row.sequence) for row in entries]
    assert kept == said
    assert not any(word.encode() in b"".join(kept) + output.read_bytes() for word in PLANTED)


def test_the_door_holds_here_too(disk: Carried) -> None:
    """A report without an approved plan, and one that there is not: only a name is on the disk."""
    with transaction(disk.engine) as session:
        session.add(
            PackageRow(
                package_id="cd" * 32,
                model_version="1",
                signed_by="k",
                state="approved",
                received_at=AT,
            )
        )
    finish_round(disk.engine, SITE, "cd" * 32)
    output = disk.file()
    done = disk.answer(disk.write(report("cd" * 32), report("ab" * 32), status()), output)
    assert done.errors == ("ReleaseRefused", "DataError")
    _, said = disk.answers(output)
    assert said[:2] == list(done.errors)
    assert isinstance(said[2], bytes)


@pytest.mark.parametrize(
    ("question", "rule"),
    [
        (status(site="hospital-b"), "another_site"),
        (status(study="another"), "another_study"),
        (("query.status", RecordDict()), "malformed_message"),
        (("query.everything", status()[1]), "unknown_message_type"),
        (("train.receive_package", status()[1]), "malformed_message"),
    ],
)
def test_a_question_that_may_not_come_in_runs_nothing(
    disk: Carried, question: Asked, rule: str
) -> None:
    output = disk.file()
    assert disk.answer(disk.write(question), output).errors == (rule,)
    assert disk.answers(output)[1] == [rule]
    assert [detail["rule"] for _, detail in refusals(disk.engine)] == [rule]
    assert egress.list_entries(disk.engine) == []


def test_a_question_that_is_too_large_is_not_read(disk: Carried) -> None:
    large = RecordDict({"address": ADDRESS, "x": ConfigRecord({"x": b"x" * 4096})})
    smaller = disk.home.config.model_copy(update={"max_message_bytes": 2048})
    disk.home = SiteHome(disk.home.folder, smaller)
    assert disk.answer(disk.write(("query.status", large), status())).errors == (
        "oversized_message",
    )


def test_a_handler_that_says_what_the_door_did_not_release_is_silenced(disk: Carried) -> None:
    def traitor(message: Message, _context: Context) -> Message:
        said = ConfigRecord({"json": PLANTED[0].encode()})
        return Message(RecordDict({"message": said}), reply_to=message)

    output = disk.file()
    done = disk.answer(disk.write(status()), output, client_app=traitor)
    assert done.errors == ("reply_not_released",)
    assert disk.answers(output)[1] == ["reply_not_released"]


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"study": "another"}, "wrong_study"),
        ({"receiver": "hospital-b"}, "wrong_site"),
        ({"sender": "hospital-b"}, "wrong_site"),
        (
            {"direction": Direction.TO_COORDINATOR, "answers_sha256": "0" * 64},
            "wrong_site",
        ),
        ({"signing_key_hex": "0" * 64}, "unknown_key"),
        ({"encryption_key_hex": "09" + "0" * 62}, "wrong_key"),
        ({"expires_at": NOW - timedelta(seconds=1)}, "stale"),
    ],
)
def test_what_does_not_belong_here_is_refused_by_name(disk: Carried, changes, rule) -> None:
    assert disk.refusal(disk.write(status(), **changes)) == rule
    disk.answer(disk.write(status()))


def test_who_signs_in_the_name_of_the_coordinator_is_refused(disk: Carried) -> None:
    known = disk.signing.public_key().public_bytes_raw().hex()
    disk.signing = Ed25519PrivateKey.generate()
    assert disk.refusal(disk.write(status())) == "unknown_key"
    assert disk.refusal(disk.write(status(), signing_key_hex=known)) == "bad_signature"


def test_one_flipped_byte_is_refused(disk: Carried) -> None:
    file = disk.write(status())
    content = bytearray(file.read_bytes())
    for position in (0, 30, len(content) // 2, len(content) - 50, len(content) - 1):
        content[position] ^= 1
        file.write_bytes(content)
        assert disk.refusal(file) == "tampered"
        content[position] ^= 1
    file.write_bytes(content)
    disk.answer(file)


def test_a_bundle_is_answered_once_and_its_number_is_taken(disk: Carried) -> None:
    file = disk.write(status(), sequence=3)
    disk.answer(file)
    assert disk.refusal(file) == "replayed"
    assert disk.refusal(disk.write(status(), sequence=3)) == "replayed"
    assert disk.refusal(disk.write(status(), sequence=2)) == "stale"
    disk.answer(disk.write(status(), sequence=7))
    assert disk.refusal(file) == "replayed"
    assert disk.refusal(disk.write(status(), sequence=5)) == "stale"


def test_its_own_answer_is_not_for_the_site(disk: Carried) -> None:
    output = disk.file()
    disk.answer(disk.write(status()), output)
    assert disk.refusal(output) == "wrong_site"


# -- files ------------------------------------------------------------------------------------


def test_a_file_that_is_there_is_never_replaced(disk: Carried) -> None:
    file, output = disk.write(status()), disk.file()
    output.write_text("mine")
    with pytest.raises(DataError, match="exists already"):
        disk.answer(file, output)
    assert output.read_text() == "mine"
    with pytest.raises(DataError, match="no such bundle"):
        disk.answer(disk.disk / "none")
    disk.answer(file)  # what was not answered is not a replay


def test_an_answer_of_another_bundle_is_not_taken_for_this_one(disk: Carried) -> None:
    output = disk.file()
    disk.answer(disk.write(status()), output)
    with pytest.raises(DataError, match="exists already"):
        disk.answer(disk.write(status(), sequence=2), output)


def test_a_site_that_is_not_enrolled_answers_nothing(tmp_path: Path, disk: Carried) -> None:
    home = make_site(tmp_path / "new", SITE)
    engine = open_database(home.database_url)
    with pytest.raises(DataError, match="not enrolled"):
        answer_bundle(home, engine, disk.write(), disk.file(), actor="test", now=NOW)


def test_only_the_coordinator_can_read_the_answer(disk: Carried) -> None:
    output = disk.file()
    disk.answer(disk.write(status()), output)
    bundle = SealedBundle.open(io.BytesIO(output.read_bytes()))
    public = X25519PublicKey.from_public_bytes(bytes.fromhex(bundle.header.encryption_key_hex))
    assert public == disk.encryption.public_key()
    with pytest.raises(BundleRefused, match=r"^wrong_key"):
        bundle.unseal(disk.keys.encryption)
