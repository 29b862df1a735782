from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine, text, update

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.errors import DataError, ProtocolError
from algorithms.contracts.federation_plan import REPORT_FIELDS, CohortRule, PermittedOutputs
from algorithms.contracts.messages import (
    PackageReceipt,
    RoundState,
    SiteReportMessage,
    SiteStatus,
    SourcePackageOffer,
)
from algorithms.contracts.model_package import (
    MODEL_FILE,
    REFERENCE_POINTS_FILE,
    SourceValidation,
)
from algorithms.contracts.scale import MILLIMETRE
from algorithms.contracts.site_report import Distribution, Sketch, YardstickSummary
from site_agent import egress
from site_agent.config import SiteHome
from site_agent.database import (
    Base,
    CaseRow,
    LedgerRow,
    PlanRow,
    create_database,
    open_database,
    transaction,
)
from site_agent.deidentification import OriginalIdentity, seal
from site_agent.plan_store import plans_held, read_approval
from tests.simulated_site import (
    AT,
    PLANTED_CASE,
    PLANTED_PATIENT,
    PLANTED_UID,
    approve_plan_for,
    file_entry,
    make_site,
    tiny_package,
    tiny_report,
)

pytestmark = pytest.mark.usefixtures("each_database")
PACKAGE = "ab" * 32
STATUS = SiteStatus(
    site="hospital-b",
    code_version="0.1.0",
    source_package_ready=False,
    packages_held=(),
    round_state=RoundState.NONE,
    open_annotation_tasks=0,
    report_ready=False,
)


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return make_site(tmp_path / "site", "hospital-b")


@pytest.fixture
def engine(home: SiteHome) -> Engine:
    engine = open_database(home.database_url)
    approve_plan_for(home, engine, PACKAGE)
    return engine


def _report(**changes: Any) -> SiteReportMessage:
    return SiteReportMessage(report=tiny_report("hospital-b", PACKAGE, **changes))


def _offer(licence: str) -> SourcePackageOffer:
    """Offer a package whose licence, a field with some freedom, says something."""
    manifest = tiny_package()[0].model_copy(update={"licence": licence})
    return SourcePackageOffer(site="hospital-b", manifest=manifest)


def _refusal(home: SiteHome, engine: Engine, message: Any, **files: bytes) -> str:
    with pytest.raises(egress.ReleaseRefused) as refused:
        egress.release(home, engine, message, files=files, now=AT)
    newest = egress.list_entries(engine)[-1]
    assert (newest.state, newest.detail) == ("refused", {"rule": refused.value.rule})
    for planted in (PLANTED_CASE, PLANTED_PATIENT, PLANTED_UID):
        assert planted not in str(refused.value)
    return refused.value.rule


def test_a_release_is_canonical_json_with_a_copy_in_the_ledger(
    home: SiteHome, engine: Engine
) -> None:
    body = egress.release(home, engine, _report(), now=AT)
    assert body == canonical_json(_report().model_dump(mode="json"))
    assert (home.ledger / "000001-site_report.json").read_bytes() == body
    assert egress.verify_ledger(home, engine) == 1


@pytest.mark.parametrize(
    ("residue", "rule"),
    [
        (PLANTED_PATIENT, "residue_identifier"),
        (PLANTED_CASE, "residue_identifier"),
        (PLANTED_UID, "residue_identifier"),
        ("patient-ffffffffffff", "residue_pseudonym"),
        ("1.2.840.113619.2.5.1762583153", "residue_dicom_uid"),
        ("2.25.1234567890.1", "residue_dicom_uid"),
        ("/data/scans/hosp", "wrong_schema"),
        ("C:\\scans", "wrong_schema"),
        ("born-19700131", "residue_date"),
        ("1970-01-31", "residue_date"),
    ],
)
def test_residues_do_not_leave(home: SiteHome, engine: Engine, residue: str, rule: str) -> None:
    assert _refusal(home, engine, _offer(residue)) == rule


def test_the_folder_of_the_site_does_not_leave(home: SiteHome, engine: Engine) -> None:
    assert _refusal(home, engine, _offer(str(home.folder))) == "wrong_schema"


def test_a_vendor_as_the_scanner_wrote_it_does_not_leave(home: SiteHome, engine: Engine) -> None:
    message = _report()
    report = message.report.model_copy(update={"vendors": ("Dr Someone's scanner",)})
    message = message.model_copy(update={"report": report})
    assert _refusal(home, engine, message) == "wrong_schema"


@pytest.mark.parametrize("harmless", ["Apache-2.0", "CC-BY-4.0", "v1.12.3", "12345678901"])
def test_what_only_resembles_a_residue_leaves(
    home: SiteHome, engine: Engine, harmless: str
) -> None:
    egress.release(home, engine, _offer(harmless), now=AT)


@pytest.mark.parametrize("n", [1, 4, 5])
def test_a_figure_about_few_patients_does_not_leave(home: SiteHome, engine: Engine, n: int) -> None:
    arm = tiny_report("hospital-b", PACKAGE).arms[0]
    figure = Distribution(n=n, undefined=6 - n, median=3.0)
    message = _report(arms=(arm.model_copy(update={"hd95_mm": figure}),))
    if n < home.config.minimum_group_size:
        assert _refusal(home, engine, message) == "minimum_group_size"
    else:
        egress.release(home, engine, message, now=AT)


def test_a_bin_of_few_patients_does_not_leave(home: SiteHome, engine: Engine) -> None:
    arm = tiny_report("hospital-b", PACKAGE).arms[0]
    last = len(MILLIMETRE) - 1
    for counts, leaves in (((1, 5), False), ((6, 0), True)):
        sketch = Sketch(last_steps=(9, last), counts=counts)
        figure = arm.hd95_mm.model_copy(update={"sketch": sketch})
        message = _report(arms=(arm.model_copy(update={"hd95_mm": figure}),))
        if leaves:
            egress.release(home, engine, message, now=AT)
        else:
            assert _refusal(home, engine, message) == "minimum_group_size"


def test_a_mean_that_gives_away_the_few_who_did_not_fail_does_not_leave(
    home: SiteHome, engine: Engine
) -> None:
    arm = tiny_report("hospital-b", PACKAGE).arms[0]
    for failures, leaves in ((1, True), (2, False), (5, False), (6, True)):
        message = _report(arms=(arm.model_copy(update={"failures": failures}),))
        if leaves:
            egress.release(home, engine, message, now=AT)
        else:
            assert _refusal(home, engine, message) == "minimum_group_size"


def test_the_rule_holds_in_revisions_and_for_the_stated_minimum(
    home: SiteHome, engine: Engine
) -> None:
    revision = tiny_report("hospital-b", PACKAGE).revision
    assert revision is not None
    hidden = Distribution(n=3)
    few = revision.model_copy(  # bins about three patients
        update={"patients": 3, "bins": (2, 1, 0, 0), "degree_percent": hidden, "active_s": hidden}
    )
    assert _refusal(home, engine, _report(revision=few)) == "minimum_group_size"
    assert _refusal(home, engine, _report(minimum_group_size=2)) == "minimum_group_size"


def test_what_few_patients_were_measured_against_does_not_leave(
    home: SiteHome, engine: Engine
) -> None:
    few = YardstickSummary.model_construct(reference_contour=2, reviewed_contour=4)
    message = SiteReportMessage.model_construct(
        report=_report().report.model_copy(update={"yardstick": few})
    )
    assert _refusal(home, engine, message) == "wrong_schema"


def test_failures_and_vendors_of_few_patients_do_not_leave(home: SiteHome, engine: Engine) -> None:
    hidden = Distribution(n=4)
    figures = ("dsc", "hd95_mm", "assd_mm", "asd_predicted_to_reference_mm", "nsd_at_1mm")
    arm = tiny_report("hospital-b", PACKAGE).arms[0]
    few = arm.model_copy(update={"patients": 4, "failures": None} | dict.fromkeys(figures, hidden))
    told = few.model_copy(update={"failures": 1})
    undefined = few.model_copy(update={"hd95_mm": Distribution(n=3, undefined=1)})
    for message in (
        _report(arms=(told,), vendors=()),
        _report(arms=(undefined,), vendors=()),
        _report(arms=(few,)),
    ):
        assert _refusal(home, engine, message) == "minimum_group_size"
    egress.release(home, engine, _report(arms=(few,), vendors=()), now=AT)


def test_only_messages_of_the_agreement_leave(home: SiteHome, engine: Engine) -> None:
    class Talkative(SiteStatus):
        note: str = "free text"

    assert _refusal(home, engine, Talkative(**STATUS.model_dump())) == "unknown_message"
    assert _refusal(home, engine, tiny_report("hospital-b", PACKAGE)) == "unknown_message"
    forged = STATUS.model_copy(update={"site": "Mr X"})  # model_copy does not validate
    assert _refusal(home, engine, forged) == "wrong_schema"


def test_files_leave_only_with_an_offer_that_names_them(home: SiteHome, engine: Engine) -> None:
    manifest, files = tiny_package()
    offer = SourcePackageOffer(site="hospital-b", manifest=manifest)
    assert _refusal(home, engine, STATUS, **{MODEL_FILE: files[MODEL_FILE]}) == "files_not_allowed"
    assert _refusal(home, engine, offer, **{MODEL_FILE: b"other"}) == "unnamed_file"
    assert _refusal(home, engine, offer, **{"site.db": b"other"}) == "unnamed_file"
    egress.release(home, engine, offer, files=files, now=AT)
    copies = {f.name: f.read_bytes() for f in (home.ledger / "files").iterdir()}
    assert copies == {sha256_hex(data): data for data in files.values()}


def test_a_pseudonym_in_the_weights_does_not_leave(home: SiteHome, engine: Engine) -> None:
    manifest, files = tiny_package()
    model = files[MODEL_FILE] + PLANTED_CASE.encode()
    named = manifest.model_copy(update={"files": {MODEL_FILE: file_entry(model)}})
    offer = SourcePackageOffer(site="hospital-b", manifest=named)
    assert _refusal(home, engine, offer, **{MODEL_FILE: model}) == "residue_pseudonym"


def test_results_wait_for_a_person_where_the_site_says_so(tmp_path: Path) -> None:
    home = make_site(tmp_path / "site", "hospital-b", auto_approve=False)
    engine = open_database(home.database_url)
    approve_plan_for(home, engine, PACKAGE)
    egress.release(home, engine, STATUS, now=AT)
    for _ in range(2):  # asking again does not fill the ledger
        with pytest.raises(egress.ReleaseHeld):
            egress.release(home, engine, _report(), now=AT)
    assert [row.state for row in egress.list_entries(engine)] == ["released", "held"]

    with pytest.raises(DataError, match="not a held message"):
        egress.approve_release(engine, 1, actor="it", now=AT)
    egress.approve_release(engine, 2, actor="it", now=AT)
    with pytest.raises(DataError, match="approved already"):
        egress.approve_release(engine, 2, actor="it", now=AT)
    assert len(egress.list_entries(engine)) == 3
    assert egress.release(home, engine, _report(), now=AT)
    with pytest.raises(egress.ReleaseHeld):  # the approval was for those bytes only
        egress.release(home, engine, _report(seed=1), now=AT)
    states = [row.state for row in egress.list_entries(engine)]
    assert states == ["released", "held", "approved", "released", "held"]
    assert egress.verify_ledger(home, engine) == 5


@pytest.mark.parametrize("what", ["validation", "test"])
def test_a_package_with_a_figure_about_few_patients_does_not_leave(
    home: SiteHome, engine: Engine, what: str
) -> None:
    manifest = tiny_package()[0]
    hidden = SourceValidation(
        validation_patients=4, validation_dsc=None, test_patients=4, test_dsc=None
    )
    told = hidden.model_copy(update={f"{what}_dsc": 0.8})

    def offer(validation: SourceValidation) -> SourcePackageOffer:
        changed = manifest.model_copy(update={"source_validation": validation})
        return SourcePackageOffer(site="hospital-b", manifest=changed)

    assert _refusal(home, engine, offer(told)) == "minimum_group_size"
    egress.release(home, engine, offer(hidden), now=AT)


def test_a_person_can_read_what_waits(tmp_path: Path) -> None:
    home = make_site(tmp_path / "site", "hospital-b", auto_approve=False)
    engine = open_database(home.database_url)
    approve_plan_for(home, engine, PACKAGE)
    with pytest.raises(egress.ReleaseHeld, match="ledger show"):
        egress.release(home, engine, _report(), now=AT)
    body = canonical_json(_report().model_dump(mode="json"))
    held = home.ledger / "held" / "000001-site_report.json"
    assert egress.read_message(home, engine, 1) == held.read_bytes() == body
    egress.approve_release(engine, 1, actor="it", now=AT)
    assert egress.release(home, engine, _report(), now=AT) == body
    for number in (1, 2, 3):  # held, approved, released
        assert egress.read_message(home, engine, number) == body
    assert egress.verify_ledger(home, engine) == 3
    held.write_bytes(body + b" ")
    with pytest.raises(ProtocolError, match=r"000001-site_report\.json"):
        egress.read_message(home, engine, 1)
    with pytest.raises(ProtocolError, match=r"000001-site_report\.json"):
        egress.verify_ledger(home, engine)


def test_what_is_not_kept_cannot_be_read(home: SiteHome, engine: Engine) -> None:
    assert _refusal(home, engine, _offer("1970-01-31")) == "residue_date"
    with pytest.raises(DataError, match="entry 1 was refused"):
        egress.read_message(home, engine, 1)
    with pytest.raises(DataError, match="no ledger entry 2"):
        egress.read_message(home, engine, 2)


def test_what_a_kill_left_of_a_release_that_never_was_is_no_copy(
    home: SiteHome, engine: Engine
) -> None:
    manifest, files = tiny_package()
    offer = SourcePackageOffer(site="hospital-b", manifest=manifest)
    halves = {
        home.ledger / ".000001-site_status.json.part": b"{}",
        home.ledger / ".000001-source_package_offer.json.part": b"{",
        home.ledger / "files" / f".{manifest.files[MODEL_FILE].sha256}.part": b"\0",
    }
    (home.ledger / "files").mkdir(parents=True)
    for file, half in halves.items():
        file.write_bytes(half)
    egress.release(home, engine, offer, files=files, now=AT)
    assert egress.verify_ledger(home, engine) == 1


def test_a_copy_that_a_kill_left_unnamed_is_finished(home: SiteHome, engine: Engine) -> None:
    body = egress.release(home, engine, STATUS, now=AT)
    copy = home.ledger / "000001-site_status.json"
    copy.rename(home.ledger / f".{copy.name}.part")  # killed after the commit
    assert egress.verify_ledger(home, engine) == 1
    assert copy.read_bytes() == body


def test_a_lost_ledger_is_noticed_and_its_copies_stay(
    home: SiteHome, engine: Engine, each_database: str
) -> None:
    body = egress.release(home, engine, STATUS, now=AT)
    if each_database == "postgresql":
        Base.metadata.drop_all(engine)
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE alembic_version"))
    engine.dispose()
    for file in home.folder.glob("site.db*"):
        file.unlink()
    with pytest.raises(DataError, match=r"(missing|no tables).*: restore it from a backup"):
        open_database(home.database_url)
    create_database(home.database_url)  # somebody makes an empty one in its place
    with pytest.raises(ProtocolError, match=r"no entry names the copy 000001-site_status\.json"):
        egress.verify_ledger(home, engine)
    with pytest.raises(ProtocolError, match="another copy 000001-site_status"):
        later = STATUS.model_copy(update={"open_annotation_tasks": 3})
        egress.release(home, engine, later, now=AT)
    assert (home.ledger / "000001-site_status.json").read_bytes() == body
    assert egress.list_entries(engine) == []


def test_a_changed_ledger_or_copy_is_noticed(home: SiteHome, engine: Engine) -> None:
    egress.release(home, engine, STATUS, now=AT)
    copy = home.ledger / "000001-site_status.json"
    body = copy.read_bytes()
    copy.write_bytes(b"{}")
    with pytest.raises(ProtocolError, match="000001-site_status"):
        egress.verify_ledger(home, engine)
    copy.write_bytes(body)
    with transaction(engine) as session:
        session.execute(update(LedgerRow).values(state="refused"))
    with pytest.raises(ProtocolError, match="entry 1"):
        egress.verify_ledger(home, engine)


IDENTITY = OriginalIdentity(
    patient_id="KH77120934",
    patient_name="Mustermann^Annegret",
    patient_birth_date="19540317",
    patient_sex="F",
    study_instance_uid="1.2.826.0.1.3680043.10.4711.2",
    series_instance_uid="1.2.826.0.1.3680043.10.4711.3",
    frame_of_reference_uid="1.2.826.0.1.3680043.10.4711.1",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.4",
    sop_instance_uids=("1.2.826.0.1.3680043.10.4711.3.1",),
    accession_number="ACC5519",
)


def _seal_identity(home: SiteHome, engine: Engine, *, lose_key: bool = False) -> None:
    key = Fernet.generate_key()
    (home.folder / "secrets").mkdir(exist_ok=True)
    if not lose_key:
        (home.folder / "secrets" / "crosswalk.key").write_bytes(key)
    with transaction(engine) as session:
        session.execute(update(CaseRow).values(identity_sealed=seal(IDENTITY, key)))


@pytest.mark.parametrize(
    ("residue", "rule"),
    [
        ("KH77120934", "residue_identifier"),
        ("x-acc5519", "residue_identifier"),
        ("Mustermann", "residue_name"),
        ("annegret-mustermann", "residue_name"),
        ("17.03.1954", "residue_date"),
        ("1.2.826.0.1.3680043.10.4711.2", "residue_identifier"),
    ],
)
def test_what_the_crosswalk_knows_does_not_leave(
    home: SiteHome, engine: Engine, residue: str, rule: str
) -> None:
    egress.release(home, engine, STATUS, now=AT)
    if rule != "residue_identifier" or "." not in residue:
        egress.release(home, engine, _offer(residue.replace(".", "-")), now=AT)  # unknown as yet
    _seal_identity(home, engine)
    assert _refusal(home, engine, _offer(residue)) == rule
    egress.release(home, engine, STATUS, now=AT)  # all else leaves as before


@pytest.mark.parametrize(
    ("hidden", "rule"),
    [
        (b"KH77120934", "residue_identifier"),
        ("Annegret".encode("utf-16-le"), "residue_name"),
        (b"1.3.12.2.1107.5.2.19", "residue_dicom_uid"),
        (b"/srv/someone/training", "residue_path"),
    ],
)
def test_what_the_crosswalk_knows_does_not_leave_in_a_file(
    home: SiteHome, engine: Engine, hidden: bytes, rule: str
) -> None:
    _seal_identity(home, engine)
    manifest, files = tiny_package()
    points = files[REFERENCE_POINTS_FILE] + b"\0\0" + hidden + b"\0"
    named = manifest.model_copy(update={"files": {REFERENCE_POINTS_FILE: file_entry(points)}})
    offer = SourcePackageOffer(site="hospital-b", manifest=named)
    assert _refusal(home, engine, offer, **{REFERENCE_POINTS_FILE: points}) == rule


def test_nothing_leaves_while_the_identities_cannot_be_opened(
    home: SiteHome, engine: Engine
) -> None:
    _seal_identity(home, engine, lose_key=True)
    assert _refusal(home, engine, STATUS) == "crosswalk_closed"
    (home.folder / "secrets" / "crosswalk.key").write_bytes(Fernet.generate_key())
    assert _refusal(home, engine, STATUS) == "crosswalk_closed"


def test_what_is_refused_again_and_again_is_one_entry_until_something_changes(
    home: SiteHome, engine: Engine
) -> None:
    offer = _offer("x-acc5519")
    _seal_identity(home, engine)
    for _ in range(3):  # the coordinator asks at every tick
        with pytest.raises(egress.ReleaseRefused, match="identif"):
            egress.release(home, engine, offer, now=AT)
        egress.release(home, engine, STATUS, now=AT)
    assert _refusal(home, engine, _offer("KH77120934")) == "residue_identifier"
    assert _refusal(home, engine, offer) == "residue_identifier"
    refused = [row for row in egress.list_entries(engine) if row.state == "refused"]
    assert len(refused) == 3
    assert refused[0].message_sha256 == refused[2].message_sha256 != refused[1].message_sha256
    egress.verify_ledger(home, engine)


# -- the plan that two people signed ---------------------------------------------------------------


@pytest.fixture
def unplanned(tmp_path: Path) -> tuple[SiteHome, Engine]:
    home = make_site(tmp_path / "unplanned", "hospital-b")
    return home, open_database(home.database_url)


def test_results_do_not_leave_without_a_plan_and_all_else_does(
    unplanned: tuple[SiteHome, Engine],
) -> None:
    home, engine = unplanned
    approve_plan_for(home, engine, "cd" * 32)  # of another package
    assert _refusal(home, engine, _report()) == "no_plan"
    receipt = PackageReceipt(site="hospital-b", package_id=PACKAGE, accepted=True)
    approval = read_approval(plans_held(engine)[0])
    for message in (STATUS, receipt, approval, _offer("Apache-2.0")):
        assert egress.release(home, engine, message, now=AT)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"expires_at": AT.replace(tzinfo=UTC)}, "plan_expired"),
        ({"valid_from": AT.replace(tzinfo=UTC) + timedelta(seconds=1)}, "plan_too_early"),
        ({"code_version": "9.9.9"}, "other_code"),
        ({"permitted_outputs": PermittedOutputs(messages=())}, "output_not_in_plan"),
        (
            {"permitted_outputs": PermittedOutputs(site_report_fields=REPORT_FIELDS[1:])},
            "field_not_in_plan",
        ),
        (
            {
                "cohort": CohortRule(
                    modality="MR", roi_names=("GTVp",), minimum_patients=1, minimum_group_size=6
                )
            },
            "minimum_group_size",
        ),
    ],
)
def test_what_the_plan_does_not_permit_does_not_leave(
    unplanned: tuple[SiteHome, Engine], changes: dict[str, Any], rule: str
) -> None:
    home, engine = unplanned
    approve_plan_for(home, engine, PACKAGE, **changes)
    assert _refusal(home, engine, _report()) == rule


def test_a_field_that_the_plan_leaves_out_may_be_silent(
    unplanned: tuple[SiteHome, Engine],
) -> None:
    home, engine = unplanned
    fields = tuple(field for field in REPORT_FIELDS if field not in ("revision", "vendors"))
    outputs = PermittedOutputs(site_report_fields=fields)
    approve_plan_for(home, engine, PACKAGE, permitted_outputs=outputs)
    assert _refusal(home, engine, _report(revision=None)) == "field_not_in_plan"
    egress.release(home, engine, _report(revision=None, vendors=()), now=AT)


def test_a_plan_signed_by_one_is_none(unplanned: tuple[SiteHome, Engine]) -> None:
    home, engine = unplanned
    approve_plan_for(home, engine, PACKAGE)
    egress.release(home, engine, _report(), now=AT)
    with transaction(engine) as session:
        session.execute(update(PlanRow).values(approval=None))
    assert _refusal(home, engine, _report()) == "single_signed"
    approve_plan_for(home, engine, PACKAGE, key=Ed25519PrivateKey.generate())
    assert _refusal(home, engine, _report()) == "unknown_key"
