"""What we rely on in the pinned Flower, and what a hostile coordinator gets from our sites.

One deployment, three sites: "careful" and "lenient" run the executor, "lenient" with the hostile
bundle on its list and reports that may not leave; "stock" runs Flower's own SuperNode, which shows
what the others are spared. What is relied on where a hospital is hostile (the functions that
`coordinator.superlink` replaces, and those that `coordinator.superlink_mailbox` calls) is in
`test_hostile_site.py`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.proto.control_pb2 import ListRunsRequest
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.federation_plan import REPORT_FIELDS, PermittedOutputs
from algorithms.contracts.site_report import Distribution
from algorithms.contracts.study_bundle import STUDY_BUNDLE
from coordinator.flower_transport import start_site
from coordinator.loopback_deployment import LoopbackDeployment, free_port
from coordinator.loopback_keys import write_node_key
from site_agent import egress
from site_agent.config import SiteHome, open_home
from site_agent.database import LedgerRow, PackageRow, open_database, transaction, utc_now
from tests import hostile_study
from tests.hostile_study import PATIENT, PROOF, REPORTS, attacks
from tests.simulated_site import (
    AT,
    approve_plan_for,
    finish_round,
    make_site,
    refusals,
    tiny_report,
)
from tests.site_agent.test_release_memory import FIGURES, report_on

pytestmark = [pytest.mark.journey, pytest.mark.xdist_group("flower contract")]

SITE_EXECUTOR = "site_agent.site_executor"
SUPERLINK_ID = 1


@dataclass(frozen=True)
class Attacked:
    """A deployment after the hostile run, with what came back to the coordinator."""

    deployment: LoopbackDeployment
    folder: Path
    app: Path
    bundle_sha256: str
    nodes: dict[str, int]
    answers: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    folder = tmp_path_factory.mktemp("contract")
    app = _write_hostile_app(folder / "hostile-app")
    bundle_sha256 = sha256_hex(build_fab_from_disk(app))
    for name, bundles in (("careful", ()), ("lenient", (bundle_sha256,))):
        make_site(folder / name, name)
        with (folder / name / "site.toml").open("a", encoding="utf-8") as settings:
            settings.write(f"max_message_bytes = {2**20}\nallowed_bundles = {list(bundles)}\n")
    _have_reports(open_home(folder / "lenient"))
    with LoopbackDeployment(folder / "flower") as deployment:
        nodes = {
            name: start_site(deployment, name, folder / name, site_executor=SITE_EXECUTOR)
            for name in ("careful", "lenient")
        }
        for name in ("stock", "absent"):
            (folder / name).mkdir()
            write_node_key(folder / name)
            nodes[name] = deployment.register(name, folder / name / "node.pub")
        deployment.start_supernode(folder / "stock", port=free_port())
        absent = deployment.start_supernode(folder / "absent", port=free_port())
        everybody = set(nodes.values())
        deployment.wait_for("not every site connected", lambda: deployment.online() == everybody)
        absent.terminate()
        absent.wait()
        answers = _attack(deployment, app, nodes["absent"], folder / "answers.json")
        yield Attacked(deployment, folder, app, bundle_sha256, nodes, answers)


def _have_reports(home: SiteHome) -> None:
    """Give a site four reports and plans for them; one of the reports left before."""
    site, engine = home.config.name, open_database(home.database_url)
    fields = tuple(field for field in REPORT_FIELDS if field != "vendors")
    few_fields = PermittedOutputs(site_report_fields=fields)
    for case, package in REPORTS.items():
        permitted = {"permitted_outputs": few_fields} if case == "unplanned" else {}
        approve_plan_for(home, engine, package, **permitted)
    with transaction(engine) as session:
        for package in (REPORTS["unplanned"], REPORTS["one"]):
            session.add(
                PackageRow(
                    package_id=package,
                    model_version="1.0.0",
                    signed_by="00" * 32,
                    state="stored",
                    received_at=AT,
                )
            )
    finish_round(engine, site, REPORTS["unplanned"])
    arm = tiny_report(site, REPORTS["one"]).arms[0]
    figures = dict.fromkeys(FIGURES, Distribution(n=1, mean=0.75, median=0.75))
    alone = arm.model_copy(update={"patients": 1, "failures": None} | figures)
    finish_round(engine, site, REPORTS["one"], arms=(alone,), revision=None, vendors=())
    dice = dict.fromkeys(range(12), 0.8)
    egress.release(home, engine, report_on(engine, REPORTS["report"], dice, site), now=utc_now())
    report_on(engine, REPORTS["differing"], dict(list(dice.items())[1:]), site)
    engine.dispose()


def _write_hostile_app(folder: Path) -> Path:
    folder.mkdir()
    text = STUDY_BUNDLE["pyproject.toml"].decode()
    for ours, theirs in (
        ("coordinator.server_app:app", "hostile_study:app"),
        ("site_agent.client_app:app", "hostile_study:client_app"),
        ('"LICENSE"]', '"LICENSE", "hostile_study.py"]'),
        ('coordinator-home = ""', 'absent = ""\noutput = ""'),
    ):
        assert ours in text
        text = text.replace(ours, theirs)
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    (folder / "README.md").write_bytes(STUDY_BUNDLE["README.md"])
    (folder / "LICENSE").write_bytes(STUDY_BUNDLE["LICENSE"])
    (folder / "hostile_study.py").write_bytes(Path(hostile_study.__file__).read_bytes())
    return folder


def _attack(
    deployment: LoopbackDeployment, app: Path, absent: int, output: Path
) -> dict[str, dict[str, Any]]:
    settings = f'absent="{absent}" output={json.dumps(str(output))}'
    deployment.run(app, settings, limit_s=180)
    return json.loads(output.read_text("utf-8"))  # type: ignore[no-any-return]


def test_a_stock_supernode_runs_the_code_that_it_is_sent(attacked: Attacked) -> None:
    assert (attacked.folder / "stock" / PROOF).is_file()


def test_a_stock_supernode_lets_the_text_of_an_exception_out(attacked: Attacked) -> None:
    answer = attacked.answers["stock/honest"]
    assert answer["code"] == 2
    assert PATIENT in answer["reason"]


def test_the_code_of_a_bundle_runs_at_no_site_of_ours(attacked: Attacked) -> None:
    for site in ("careful", "lenient"):
        assert not list((attacked.folder / site).rglob(PROOF))
        assert not list((attacked.folder / site).rglob("hostile_study*"))  # nor is it unpacked


def test_a_bundle_that_is_not_on_the_list_gets_no_answer(attacked: Attacked) -> None:
    answers = [a for name, a in attacked.answers.items() if name.startswith("careful/")]
    sent = len(attacks("careful"))
    assert len(answers) == sent
    assert {(a["code"], a["reason"]) for a in answers} == {(100, "unknown_bundle")}
    engine = open_database(open_home(attacked.folder / "careful").database_url)
    rule = {"rule": "unknown_bundle", "bundle_sha256": attacked.bundle_sha256}
    assert [detail for _, detail in refusals(engine)] == [rule] * sent
    assert egress.list_entries(engine) == []


@pytest.mark.parametrize(
    ("case", "rule", "kind"),
    [
        ("unknown", "unknown_message_type", "unknown"),
        ("large", "oversized_message", "query.status"),
        ("another", "another_study", "query.status"),
        ("malformed", "malformed_message", "query.site_report"),
    ],
)
def test_a_message_that_breaks_a_rule_is_refused_by_its_name(
    attacked: Attacked, case: str, rule: str, kind: str
) -> None:
    answer = attacked.answers[f"lenient/{case}"]
    assert (answer["code"], answer["reason"], answer["records"]) == (100, rule, [])
    engine = open_database(open_home(attacked.folder / "lenient").database_url)
    assert (kind, {"rule": rule}) in refusals(engine)


def test_the_installed_app_answers_in_place_of_the_bundles(attacked: Attacked) -> None:
    answer = attacked.answers["lenient/honest"]
    assert (answer["code"], answer["records"]) == (0, ["message"])
    assert answer["from"] == attacked.nodes["lenient"]
    [entry] = [e for e in _ledger(attacked) if e.kind == "site_status"]
    assert entry.state == "released"


@pytest.mark.parametrize(
    ("case", "rule"),
    [
        ("unplanned", "field_not_in_plan"),
        ("one", "minimum_group_size"),
        ("differing", "few_patients_differ"),
    ],
)
def test_a_report_that_may_not_leave_is_answered_by_the_name_of_a_class(
    attacked: Attacked, case: str, rule: str
) -> None:
    answer = attacked.answers[f"lenient/{case}"]
    assert (answer["code"], answer["reason"]) == (100, "ReleaseRefused")
    assert answer["records"] == []
    refused = [entry for entry in _ledger(attacked) if entry.state == "refused"]
    assert rule in [entry.detail["rule"] for entry in refused]
    assert {entry.kind for entry in refused} == {"site_report"}
    assert len(refused) == 3  # and no other report was


def test_what_left_before_leaves_again_and_beside_it_no_other_report(attacked: Attacked) -> None:
    assert attacked.answers["lenient/report"]["records"] == ["message"]
    left = [e for e in _ledger(attacked) if (e.kind, e.state) == ("site_report", "released")]
    assert len({entry.message_sha256 for entry in left}) == 1
    assert len(left) == 2
    home = open_home(attacked.folder / "lenient")
    assert egress.verify_ledger(home, open_database(home.database_url)) == len(_ledger(attacked))


def _ledger(attacked: Attacked) -> list[LedgerRow]:
    home = open_home(attacked.folder / "lenient")
    return egress.list_entries(open_database(home.database_url))


def test_polling_for_an_absent_site_is_answered_by_the_superlink_itself(attacked: Attacked) -> None:
    """So only sites that are online are asked, and replies are told apart by what they answer."""
    answer = attacked.answers["absent/honest"]
    assert (answer["code"], answer["from"]) == (5, SUPERLINK_ID)


def test_the_control_api_asks_for_no_credentials(attacked: Attacked) -> None:
    """So the SuperLink stays on loopback, and only its Fleet API is published."""
    with httpx.Client(verify=str(attacked.deployment.ca_certificate)) as anybody:
        listed = anybody.post(
            f"https://127.0.0.1:{attacked.deployment.port}/v1/control/list-runs",
            content=ListRunsRequest().SerializeToString(),
            headers={"content-type": PROTOBUF_MEDIA_TYPE},
        )
    assert listed.status_code == 200, listed.text


def test_a_restarted_superlink_knows_its_sites_and_they_come_back(attacked: Attacked) -> None:
    deployment = attacked.deployment
    deployment.superlink.kill()
    deployment.superlink.wait()
    deployment.start_superlink()
    absent = attacked.nodes["absent"]
    here = set(attacked.nodes.values()) - {absent}
    deployment.wait_for("not every site came back", lambda: deployment.online() == here)
    again = _attack(deployment, attacked.app, absent, attacked.folder / "again.json")
    assert again == attacked.answers
