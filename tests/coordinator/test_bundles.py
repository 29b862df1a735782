"""Bundles against a hospital that is played by the test: it knows the file, not the site's code."""

import io
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from flwr.app import ConfigRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from pydantic import BaseModel

from algorithms.contracts.bundle import (
    COORDINATOR,
    BundleHeader,
    BundleRefused,
    CarriedMessage,
    Direction,
)
from algorithms.contracts.enrolment import fingerprint
from algorithms.contracts.errors import DataError
from algorithms.contracts.messages import PackageReceipt, RoundState, SiteStatus
from algorithms.sealed_bundle import SealedBundle, SealedWriter, read_messages, read_objects
from coordinator.bundles import read_bundle, write_bundle
from coordinator.config import CoordinatorHome
from coordinator.enrolment import enrol, revoke
from coordinator.package_publisher import publish
from coordinator.study_keys import encryption_key
from coordinator.study_store import StudyStore
from coordinator.study_workflow import SiteProgress
from tests.coordinator.test_enrolment import Hospital
from tests.enrolled import NOW
from tests.simulated_site import STUDY, make_coordinator, tiny_package

MANIFEST, FILES = tiny_package()
PACKAGE = MANIFEST.package_id
SITE = "hospital-c"
Question = tuple[CarriedMessage, RecordDict]


class FarHospital(Hospital):
    """A hospital that no network reaches, with keys of its own."""

    def __init__(self, name: str = SITE) -> None:
        super().__init__(name)
        self.encryption = X25519PrivateKey.generate()

    def opened(self, file: Path) -> tuple[SealedBundle, list[Question]]:
        bundle = SealedBundle.open(io.BytesIO(file.read_bytes()))
        bundle.verify()
        content, questions = bundle.unseal(self.encryption), []
        for _, one in read_messages(content):
            objects = read_objects(content, one)
            record = inflate_object_from_contents(one.objects[-1][0], objects)
            assert isinstance(record, RecordDict)
            questions.append((one, record))
        return bundle, questions

    def answer(
        self,
        home: CoordinatorHome,
        asked: Path,
        answers: dict[str, BaseModel | str | RecordDict],
        **changes: Any,
    ) -> Path:
        """Answer by type of question: with a message, an error, or whatever else."""
        bundle, questions = self.opened(asked)
        fields: dict[str, Any] = {
            "study": STUDY,
            "direction": Direction.TO_COORDINATOR,
            "sender": self.name,
            "receiver": COORDINATOR,
            "sequence": bundle.header.sequence,
            "created_at": NOW,
            "expires_at": NOW + timedelta(days=30),
            "answers_sha256": bundle.sha256,
            "signing_key_hex": self.key.public_key().public_bytes_raw().hex(),
            "encryption_key_hex": encryption_key(home).public_key().public_bytes_raw().hex(),
        }
        file = asked.with_name(f"{len(list(asked.parent.iterdir()))}.answer")
        with file.open("wb") as stream:
            header = BundleHeader.model_validate(fields | changes)
            writer = SealedWriter(stream, header, lambda data: self.key.sign(data).hex())
            for question, _ in questions:
                said = answers.get(question.type, "DataError")
                writer.add(*_carried(question, said))
            writer.finish()
        return file


def _carried(
    question: CarriedMessage, said: BaseModel | str | RecordDict
) -> tuple[CarriedMessage, dict[str, bytes]]:
    if isinstance(said, str):
        return CarriedMessage(type=question.type, asked=question.asked, error=said), {}
    if isinstance(said, BaseModel):
        said = RecordDict({"message": ConfigRecord({"json": said.model_dump_json().encode()})})
    objects = {name: item.deflate() for name, item in get_all_nested_objects(said).items()}
    sizes = tuple((name, len(item)) for name, item in objects.items())
    return CarriedMessage(type=question.type, asked=question.asked, objects=sizes), objects


def status(**changes: object) -> SiteStatus:
    fields: dict[str, object] = {
        "site": SITE,
        "code_version": "0.1.0",
        "source_package_ready": False,
        "packages_held": (),
        "round_state": RoundState.NONE,
        "open_annotation_tasks": 0,
        "report_ready": False,
    }
    return SiteStatus.model_validate(fields | changes)


def receipt(*, rule: str | None = None) -> PackageReceipt:
    return PackageReceipt(
        site=SITE, package_id=PACKAGE, accepted=rule is None, refused_by_rule=rule
    )


STATUS, PART = "query.status", "train.receive_package"


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    return make_coordinator(tmp_path / "c", targets=("hospital-b", SITE), air_gapped=(SITE,))


@pytest.fixture
def store(home: CoordinatorHome) -> Iterator[StudyStore]:
    with StudyStore(home.database_url, home.config) as opened:
        yield opened


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


@pytest.fixture
def far(home: CoordinatorHome, store: StudyStore) -> FarHospital:
    hospital = FarHospital()
    enrol_again(home, store, hospital)
    return hospital


def enrol_again(home: CoordinatorHome, store: StudyStore, hospital: FarHospital) -> None:
    public = hospital.encryption.public_key().public_bytes_raw().hex()
    request = hospital.ask(encryption_public_key_hex=public)
    enrol(home, store, request, typed_fingerprint=fingerprint(request.sha256), now=NOW)


def write(home: CoordinatorHome, store: StudyStore, disk: Path, **options: Any) -> Path:
    file = disk / f"{len(list(disk.iterdir()))}.bundle"
    write_bundle(home, store, SITE, file, now=NOW, **options)
    return file


def publish_package(home: CoordinatorHome, store: StudyStore) -> None:
    publish(home, MANIFEST, FILES)
    store.add_package(MANIFEST, from_site="hospital-a")


def events(store: StudyStore, name: str) -> list[dict[str, Any]]:
    return [row.detail for row in store.events() if row.event == name]


def refusal(home: CoordinatorHome, store: StudyStore, file: Path, **options: Any) -> str:
    """Read what must be refused, and check that the event is kept and nothing else was done."""
    before, count = store.sites(), len(events(store, "bundle_refused"))
    with pytest.raises(BundleRefused) as caught:
        read_bundle(home, store, file, **({"now": NOW} | options))
    assert events(store, "bundle_refused")[count:] == [{"rule": caught.value.rule}]
    assert store.sites() == before
    return caught.value.rule


def test_a_round_by_disk_ends_like_one_online(home, store, disk, far) -> None:
    publish_package(home, store)
    asked = write(home, store, disk)
    bundle, questions = far.opened(asked)
    assert (bundle.header.sender, bundle.header.receiver) == (COORDINATOR, SITE)
    assert [one.type for one, _ in questions][-1] == STATUS  # tells what became of all else
    parts = [record for one, record in questions if one.type == PART]
    sent = b"".join(bytes(record["files"]["part"].data) for record in parts if "files" in record)
    assert sent == b"".join(FILES[name] for name in sorted(FILES))
    answers = {STATUS: status(packages_held=(PACKAGE,)), PART: receipt()}
    done = read_bundle(home, store, far.answer(home, asked, answers), now=NOW)
    assert (done.site, done.sequence) == (SITE, 1)
    assert store.progress(PACKAGE)[SITE] is SiteProgress.DELIVERED
    assert all(one.type != PART for one, _ in far.opened(write(home, store, disk))[1])


def test_a_package_is_cut_into_parts_that_fit_a_message(home, store, disk, far) -> None:
    smaller = home.config.model_copy(update={"largest_part_bytes": 1024})
    home = CoordinatorHome(home.folder, smaller)
    publish_package(home, store)
    _, questions = far.opened(write(home, store, disk))
    sizes = [
        len(bytes(record["files"]["part"].data)) for _, record in questions if "files" in record
    ]
    assert sum(sizes) == sum(map(len, FILES.values()))
    assert max(sizes) == 1024


def test_a_package_that_the_site_refuses_is_refused_by_its_rule(home, store, disk, far) -> None:
    publish_package(home, store)
    answers = {STATUS: status(), PART: receipt(rule="wrong_hash")}
    read_bundle(home, store, far.answer(home, write(home, store, disk), answers), now=NOW)
    assert store.progress(PACKAGE)[SITE] is SiteProgress.REFUSED
    assert store.sites()[2].refused_by_rule == "wrong_hash"


def test_only_the_site_itself_is_touched(home, store, disk, far) -> None:
    publish_package(home, store)
    before = [row for row in store.sites() if row.site != SITE]
    read_bundle(
        home, store, far.answer(home, write(home, store, disk), {STATUS: status()}), now=NOW
    )
    assert [row for row in store.sites() if row.site != SITE] == before


def test_a_tick_over_the_network_leaves_the_site_out(home, store) -> None:
    from coordinator.server_app import tick
    from tests.coordinator.test_tick import ScriptedSites

    sites = ScriptedSites()
    tick(home, store, sites)
    assert {site for _, site in sites.asked} == {"hospital-a", "hospital-b"}
    assert store.sites()[2].last_failure is None


# -- what is refused ---------------------------------------------------------------------------


def test_the_same_answer_twice_is_a_replay_and_so_is_another_of_its_number(
    home, store, disk, far
) -> None:
    asked = write(home, store, disk)
    file = far.answer(home, asked, {STATUS: status()})
    read_bundle(home, store, file, now=NOW)
    assert refusal(home, store, file) == "replayed"
    assert refusal(home, store, far.answer(home, asked, {STATUS: status()})) == "replayed"


def test_what_is_older_than_an_answer_taken_in_is_stale(home, store, disk, far) -> None:
    first, second, third = (write(home, store, disk) for _ in range(3))
    late = far.answer(home, first, {STATUS: status()})
    taken = far.answer(home, second, {STATUS: status()})
    read_bundle(home, store, taken, now=NOW)
    assert refusal(home, store, late) == "stale"
    read_bundle(home, store, far.answer(home, third, {STATUS: status()}), now=NOW)
    assert refusal(home, store, taken) == "replayed"


def test_an_answer_is_valid_for_its_time(home, store, disk, far) -> None:
    file = far.answer(home, write(home, store, disk), {STATUS: status()})
    assert refusal(home, store, file, now=NOW + timedelta(days=31)) == "stale"
    read_bundle(home, store, file, now=NOW + timedelta(days=30))


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"study": "another"}, "wrong_study"),
        ({"sender": "hospital-b"}, "wrong_site"),  # reached over the network
        ({"sender": "hospital-z"}, "wrong_site"),
        ({"receiver": "hospital-b"}, "wrong_site"),
        (
            {"direction": Direction.TO_SITE, "sender": COORDINATOR, "answers_sha256": None},
            "wrong_site",
        ),
        ({"sequence": 2}, "not_an_answer"),
        ({"answers_sha256": "0" * 64}, "not_an_answer"),
        ({"encryption_key_hex": "09" + "0" * 62}, "wrong_key"),
        ({"signing_key_hex": "0" * 64}, "unknown_key"),
    ],
)
def test_what_does_not_belong_here_is_refused_by_name(
    home, store, disk, far, changes, rule
) -> None:
    asked = write(home, store, disk)
    assert refusal(home, store, far.answer(home, asked, {STATUS: status()}, **changes)) == rule
    read_bundle(home, store, far.answer(home, asked, {STATUS: status()}), now=NOW)


def test_who_signs_in_the_name_of_another_key_is_refused(home, store, disk, far) -> None:
    asked, mine = write(home, store, disk), far.key.public_key().public_bytes_raw().hex()
    far.key = Ed25519PrivateKey.generate()
    assert refusal(home, store, far.answer(home, asked, {})) == "unknown_key"
    forged = far.answer(home, asked, {}, signing_key_hex=mine)
    assert refusal(home, store, forged) == "bad_signature"


def test_one_flipped_byte_is_refused(home, store, disk, far) -> None:
    file = far.answer(home, write(home, store, disk), {STATUS: status()})
    content = bytearray(file.read_bytes())
    for position in (0, 30, len(content) // 2, len(content) - 50, len(content) - 1):
        content[position] ^= 1
        file.write_bytes(content)
        assert refusal(home, store, file) == "tampered"
        content[position] ^= 1
    file.write_bytes(content)
    read_bundle(home, store, file, now=NOW)


def test_a_site_that_was_revoked_or_has_new_keys_is_not_known_by_the_old(
    home, store, disk, far
) -> None:
    asked = write(home, store, disk)
    file = far.answer(home, asked, {STATUS: status()})
    enrol_again(home, store, FarHospital())
    assert refusal(home, store, file) == "unknown_key"
    revoke(home, store, SITE, NOW)
    assert refusal(home, store, file) == "unknown_key"
    with pytest.raises(DataError, match="not enrolled"):
        write(home, store, disk)


# -- what an answer may say ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "failure"),
    [
        ("ReleaseHeld", "ReleaseHeld"),
        (receipt(), "not_a_SiteStatus"),
        (status(site="hospital-b"), "wrong_site"),
        (RecordDict(), "no_message"),
    ],
)
def test_an_answer_that_does_not_fit_is_recorded_by_its_name(
    home, store, disk, far, said, failure
) -> None:
    publish_package(home, store)
    file = far.answer(home, write(home, store, disk), {STATUS: said, PART: receipt()})
    read_bundle(home, store, file, now=NOW)
    assert store.sites()[2].last_failure == failure
    assert store.progress(PACKAGE)[SITE] is SiteProgress.PENDING


@pytest.mark.parametrize("content", [b"", b"nonsense", b"RecordDict  3\0\0{]", b"Array  1\0x"])
def test_objects_that_are_none_of_flowers_are_recorded_too(
    home, store, disk, far, content, monkeypatch
) -> None:
    name = "ab" * 32

    def nonsense(
        question: CarriedMessage, _said: object
    ) -> tuple[CarriedMessage, dict[str, bytes]]:
        objects = ((name, len(content)),)
        return question.model_copy(update={"objects": objects}), {name: content}

    monkeypatch.setattr("tests.coordinator.test_bundles._carried", nonsense)
    file = far.answer(home, write(home, store, disk), {})
    read_bundle(home, store, file, now=NOW)
    assert store.sites()[2].last_failure == "malformed_answer"


# -- writing ---------------------------------------------------------------------------------


def test_numbers_rise_even_when_a_bundle_was_lost_or_the_database_restored(
    home, store, disk, far
) -> None:
    numbers = [far.opened(write(home, store, disk))[0].header.sequence for _ in range(2)]
    numbers.append(far.opened(write(home, store, disk, after=40))[0].header.sequence)
    numbers.append(far.opened(write(home, store, disk))[0].header.sequence)
    assert numbers == [1, 2, 41, 42]
    assert [one["sequence"] for one in events(store, "bundle_written")] == numbers


@pytest.mark.parametrize(("site", "words"), [("hospital-b", "over the network"), ("x", "not in")])
def test_only_air_gapped_sites_get_bundles(home, store, disk, site, words) -> None:
    with pytest.raises(DataError, match=words):
        write_bundle(home, store, site, disk / "x", now=NOW)
    assert list(disk.iterdir()) == []


def test_a_file_that_is_there_is_never_replaced(home, store, disk, far) -> None:
    (disk / "x").write_text("mine")
    with pytest.raises(DataError, match="exists already"):
        write_bundle(home, store, SITE, disk / "x", now=NOW)
    assert (disk / "x").read_text() == "mine"
    with pytest.raises(DataError, match="no such bundle"):
        read_bundle(home, store, disk / "y", now=NOW)


def test_what_is_on_the_disk_names_no_package_and_no_message(home, store, disk, far) -> None:
    publish_package(home, store)
    content = write(home, store, disk).read_bytes()
    for word in (PACKAGE.encode(), b"receive_package", b"query.", b"RecordDict"):
        assert word not in content
