import sys

import pytest
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.errors import DataError
from site_agent import audit_log, cli
from site_agent.database import (
    AuditRow,
    PackageRow,
    RoundRow,
    open_database,
    transaction,
    utc_now,
)
from site_agent.model_store import (
    Comparison,
    activate,
    active_model,
    history,
    model_before,
    models,
    offer,
    read_model,
    roll_back,
)
from tests.phantoms import filled_store, make_home

pytestmark = pytest.mark.usefixtures("each_database")

BETTER = Comparison(patients=3, candidate_dsc=0.82, incumbent_dsc=0.80, margin=0.01)
WORSE = Comparison(patients=3, candidate_dsc=0.75, incumbent_dsc=0.80, margin=0.01)
UNKNOWN = Comparison(patients=0, candidate_dsc=None, incumbent_dsc=None, margin=0.01)


@pytest.fixture
def home(tmp_path):
    return make_home(tmp_path / "site")


@pytest.fixture
def engine(home):
    store = filled_store(home, 1)
    package = PackageRow(
        package_id="p" * 64,
        model_version="1.0.0",
        signed_by="k",
        state="approved",
        received_at=utc_now(),
    )
    with transaction(store.engine) as session:
        session.add(package)
    for seed in range(3):
        store.start_round("p" * 64, seed=seed)
    return store.engine


@pytest.fixture
def put_up(home, engine):
    """Offer a model whose weights are these letters; its hash is remembered by them."""

    def put_up(name: str, compared: Comparison):
        with Session(engine) as session:
            round_id = session.query(RoundRow).first().round_id
        return offer(home, engine, name.encode(), round_id, compared, actor="worker")

    return put_up


HASH = {name: sha256_hex(name.encode()) for name in "abcd"}


def in_use(engine) -> str | None:
    row = active_model(engine)
    return None if row is None else letter(row)


def letter(row) -> str:
    return next(name for name, value in HASH.items() if value == row.sha256)


@pytest.mark.parametrize(
    ("candidate", "incumbent", "passes"),
    [
        (0.80, 0.80, True),
        (0.79, 0.80, True),
        (0.7899, 0.80, False),
        (0.95, None, False),
        (None, None, False),
    ],
)
def test_the_gate_lets_through_what_is_not_worse_by_more_than_the_margin(
    candidate, incumbent, passes
) -> None:
    margin = 0.01 + 1e-9  # 0.80 - 0.01 is no double
    assert Comparison(4, candidate, incumbent, margin).passes is passes


def test_a_better_model_comes_into_use_and_a_worse_or_unknown_one_waits(
    home, engine, put_up
) -> None:
    assert in_use(engine) is None
    put_up("a", WORSE)
    put_up("b", UNKNOWN)
    assert in_use(engine) is None
    put_up("c", BETTER)
    assert in_use(engine) == "c"
    put_up("d", BETTER)
    assert in_use(engine) == "d"
    assert [read_model(home, row).read_bytes() for row in models(engine)] == [
        b"a",
        b"b",
        b"c",
        b"d",
    ]


def test_a_model_is_offered_once(home, engine, put_up) -> None:
    put_up("a", BETTER)
    roll_back(home, engine, actor="it")
    put_up("a", BETTER)  # the worker was killed and works again
    assert in_use(engine) is None


def test_rolling_back_goes_one_step_at_a_time_to_the_packages_own(home, engine, put_up) -> None:
    for name in "abc":
        put_up(name, BETTER)
    assert letter(roll_back(home, engine, actor="it")) == "b"
    assert letter(roll_back(home, engine, actor="it")) == "a"
    assert roll_back(home, engine, actor="it") is None
    assert in_use(engine) is None
    with pytest.raises(DataError, match="nothing to go back"):
        roll_back(home, engine, actor="it")


def test_rolling_back_never_returns_to_what_was_left_before(home, engine, put_up) -> None:
    """b was bad and was left; whoever leaves c goes on to a."""
    put_up("a", BETTER)
    put_up("b", BETTER)
    roll_back(home, engine, actor="it")
    put_up("c", BETTER)
    assert letter(roll_back(home, engine, actor="it")) == "a"
    activate(home, engine, HASH["c"], actor="it")
    activate(home, engine, HASH["a"], actor="it")
    assert letter(roll_back(home, engine, actor="it")) == "c"
    assert letter(roll_back(home, engine, actor="it")) == "a"
    assert roll_back(home, engine, actor="it") is None


def test_lost_or_damaged_weights_are_passed_over_and_mended_when_offered_again(
    home, engine, put_up
) -> None:
    for name in "abc":
        put_up(name, BETTER)
    files = {row.sha256: read_model(home, row) for row in models(engine)}
    files[HASH["b"]].write_bytes(b"x")
    with pytest.raises(DataError, match="missing or damaged"):
        activate(home, engine, HASH["b"], actor="dr")
    assert letter(roll_back(home, engine, actor="it")) == "a"
    put_up("b", BETTER)  # the round is worked on again
    assert files[HASH["b"]].read_bytes() == b"b"
    files[HASH["a"]].unlink()
    with pytest.raises(DataError, match="rollback"):
        read_model(home, active_model(engine))


def test_what_going_back_leads_to_is_known_before(home, engine, put_up) -> None:
    assert model_before(home, engine) is None
    for name in "abc":
        put_up(name, BETTER)
    read_model(home, models(engine)[1]).write_bytes(b"x")  # b is passed over
    while in_use(engine) is not None:
        announced = model_before(home, engine)
        went_to = roll_back(home, engine, actor="it")
        assert (announced and announced.sha256) == (went_to and went_to.sha256)
    assert [row.detail["to"] for row in history(engine)[:2]] == ["package", HASH["a"][:16]]


def test_a_person_may_activate_what_was_held_back(home, engine, put_up) -> None:
    put_up("a", BETTER)
    put_up("b", WORSE)
    assert activate(home, engine, HASH["b"][:9].upper(), actor="dr").sha256 == HASH["b"]
    assert in_use(engine) == "b"
    assert letter(roll_back(home, engine, actor="it")) == "a"
    for name, words in (("x", "no model"), ("", "several"), ("%", "no model")):
        with pytest.raises(DataError, match=words):
            activate(home, engine, name, actor="dr")


def test_every_step_is_in_the_audit_log(home, engine, put_up) -> None:
    put_up("a", BETTER)
    put_up("b", WORSE)
    activate(home, engine, HASH["b"], actor="dr")
    roll_back(home, engine, actor="it")
    with Session(engine) as session:
        rows = session.query(AuditRow).order_by(AuditRow.sequence).all()
        found = [(r.event, r.actor, r.detail) for r in rows if r.event.startswith("model_")]
        assert audit_log.verify(session) >= len(found)
    assert found == [
        ("model_offered", "worker", {"passes": True}),
        ("model_activated", "worker", {}),
        ("model_offered", "worker", {"passes": False}),
        ("model_activated", "dr", {}),
        ("model_rolled_back", "it", {"to": HASH["a"][:16]}),
    ]


def test_the_commands_list_activate_and_roll_back(
    engine, put_up, home, monkeypatch, capsys
) -> None:
    put_up("a", WORSE)

    def run(*arguments) -> str:
        monkeypatch.setattr(
            sys, "argv", ["fedgtv-site", "model", *arguments, "--home", str(home.folder)]
        )
        with pytest.raises(SystemExit):
            cli.main()
        printed = capsys.readouterr()
        return printed.out + printed.err

    listed = run("list")
    assert "the package's own" in listed
    assert "75.0 %" in listed
    assert f"{HASH['a'][:16]}: in use" in run("activate", HASH["a"][:8])
    assert "the package's own model: in use" in run("rollback")
    assert "nothing to go back from" in run("rollback")
    assert in_use(open_database(home.database_url)) is None
    read_model(home, models(engine)[0]).write_bytes(b"?")
    assert "damaged" in run("list")
