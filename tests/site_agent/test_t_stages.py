"""T stages: from a hospital's table to its cases, and out with them."""

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.contracts.errors import DataError
from site_agent import cli
from site_agent.database import AuditRow
from site_agent.deidentification import pseudonym
from site_agent.erasure import erase
from site_agent.t_stages import add_t_stages
from tests.phantoms import filled_store, make_home


@pytest.fixture
def home(tmp_path):
    return make_home(tmp_path / "home")


def give(home, store, tmp_path, text):
    table = tmp_path / "stages.csv"
    table.write_text(text, encoding="utf-8")
    return add_t_stages(home, store, table, actor="test")


def stages(store):
    return [case.t_stage for case in store.cases()]


def test_cases_and_patients_are_named_by_their_pseudonyms(home, tmp_path):
    store = filled_store(home, 3)
    first, second, third = store.cases()
    text = f"case;t_stage;note\n{first.case_id};T1;x\n{second.case_id}; tx ;\n"
    assert give(home, store, tmp_path, "\ufeff" + text) == 2
    assert stages(store) == ["T1", "Tx", None]
    assert give(home, store, tmp_path, f"t_stage,patient\nT4,{third.patient_id}\n") == 1
    assert give(home, store, tmp_path, f"patient,t_stage\n{first.patient_id},T2\n") == 1
    assert stages(store) == ["T2", "Tx", "T4"]


def test_a_patient_is_found_by_the_original_id_which_is_not_kept(home, tmp_path):
    store = filled_store(home, 1)
    original = "MRN-4711"
    known = pseudonym(original, home.secret("pseudonym.key"))
    with Session(store.engine) as session, session.begin():
        from site_agent.database import CaseRow

        session.scalars(select(CaseRow)).one().patient_id = known
    assert give(home, store, tmp_path, f"patient,t_stage\n{original},T3\n") == 1
    assert stages(store) == ["T3"]
    assert original.encode() not in (home.folder / "site.db").read_bytes()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("patient,t_stage\n{p0},T1\nJane Doe 1970,T2\n", "line 3: not known here"),
        ("patient,t_stage\n{p0},T1\n{p1},T5\n", "line 3: t_stage must be one of T1"),
        ("patient,t_stage\n{p0},T1\n{p0},T2\n", "line 3: another stage"),
        ("patient,t_stage\n{p0},T1\n,T2\n", "line 3: names no patient"),
        ("patient,stage\n{p0},T1\n", "needs the column 't_stage'"),
        ("patient,case,t_stage\n", "one of 'case' and 'patient'"),
        ("", "needs the column"),
    ],
)
def test_a_table_with_an_error_changes_nothing_and_is_not_repeated(home, tmp_path, text, said):
    store = filled_store(home, 2)
    names = {f"p{i}": case.patient_id for i, case in enumerate(store.cases())}
    with pytest.raises(DataError, match=said) as refused:
        give(home, store, tmp_path, text.format(**names))
    assert "Jane" not in str(refused.value)
    assert stages(store) == [None, None]


def test_stages_go_with_the_patient_and_the_audit_log_never_held_them(home, tmp_path):
    store = filled_store(home, 2)
    first, second = store.cases()
    give(home, store, tmp_path, f"case,t_stage\n{first.case_id},T3\n{second.case_id},T1\n")
    erase(home, store, [first.patient_id], actor="test")
    assert stages(store) == ["T1"]
    with Session(store.engine) as session:
        kept = select(AuditRow).where(AuditRow.event == "t_stage_set")
        assert [(row.subject, row.detail) for row in session.scalars(kept)] == [
            (first.case_id, {}),
            (second.case_id, {}),
        ]


def test_the_command_says_how_many_and_cases_lists_them(home, tmp_path, monkeypatch, capsys):
    store = filled_store(home, 1)
    (case,) = store.cases()
    table = tmp_path / "stages.csv"
    table.write_text(f"case,t_stage\n{case.case_id},T2\n", encoding="utf-8")
    for command in (["t-stages", str(table)], ["cases"]):
        monkeypatch.setattr("sys.argv", ["fedgtv-site", *command, "--home", str(home.folder)])
        with pytest.raises(SystemExit):
            cli.main()
    out = capsys.readouterr().out
    assert "T stage of 1 cases kept" in out
    (line,) = [line for line in out.splitlines() if case.case_id in line]
    assert "T2" in line
    assert len(line) <= 80
