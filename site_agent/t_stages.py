"""T stages, which no DICOM tag holds: a hospital gives them as a table."""

import csv
from pathlib import Path

from algorithms.contracts.errors import DataError
from algorithms.contracts.subgroups import T_STAGES, TStage
from site_agent.case_store import CaseStore
from site_agent.config import SiteHome
from site_agent.deidentification import pseudonym

_NAMES = ("case", "patient")
_STAGE = "t_stage"
_BY_WORD: dict[str, TStage] = {stage.casefold(): stage for stage in T_STAGES}


def add_t_stages(home: SiteHome, store: CaseStore, table: Path, *, actor: str) -> int:
    """Keep the T stages of a CSV table with their cases, all of it or nothing; return how many.

    The table has the column `t_stage` (T1 to T4 or Tx, in any case) and one of `case` (as
    'fedgtv-site cases' lists it) and `patient` (pseudonym or original id; all cases of the patient
    are meant). Commas or semicolons part the columns. What is given again replaces what was there.

    Raises:
        DataError: naming the line, never what stands in it.
    """
    of_case: dict[str, TStage] = {}
    known: dict[str, list[str]] = {}
    for case in store.cases():
        known.setdefault(case.case_id, []).append(case.case_id)
        known.setdefault(case.patient_id, []).append(case.case_id)
    for line, name, word in _read(table):
        stage = _BY_WORD.get(word.strip().casefold())
        if stage is None:
            raise DataError(f"{table}, line {line}: {_STAGE} must be one of {', '.join(T_STAGES)}")
        found = known.get(name) or known.get(pseudonym(name, home.secret("pseudonym.key")))
        if found is None:
            raise DataError(f"{table}, line {line}: not known here: see 'fedgtv-site cases'")
        for case_id in found:
            if of_case.setdefault(case_id, stage) != stage:
                raise DataError(f"{table}, line {line}: another stage than in a line before it")
    store.set_t_stages(of_case, actor=actor)
    return len(of_case)


def _read(table: Path) -> list[tuple[int, str, str]]:
    """Return line, name of a case or patient, and stage."""
    try:
        text = table.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise DataError(f"{table}: cannot be read: give a CSV file in UTF-8") from None
    heading = text.partition("\n")[0]
    reader = csv.DictReader(text.splitlines(), delimiter=";" if ";" in heading else ",")
    columns = reader.fieldnames or []
    names = [name for name in _NAMES if name in columns]
    if len(names) != 1 or _STAGE not in columns:
        raise DataError(f"{table}: needs the column '{_STAGE}' and one of 'case' and 'patient'")
    rows = [(reader.line_num, (row[names[0]] or "").strip(), row[_STAGE] or "") for row in reader]
    if nameless := [line for line, name, _ in rows if not name]:
        raise DataError(f"{table}, line {nameless[0]}: names no {names[0]}")
    return rows
