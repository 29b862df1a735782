"""A site in the middle of its work, with real DICOM patients and something in every table."""

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.case import Split
from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import failure_line
from algorithms.contracts.messages import RoundState, SiteStatus
from algorithms.contracts.volume import Mask
from site_agent import audit_log, click_store, egress
from site_agent.case_store import CaseStore, SliceChoice
from site_agent.config import SiteHome
from site_agent.database import (
    AccountRow,
    AuditRow,
    Base,
    BlindedReadingRow,
    ClaimRow,
    ClickStepRow,
    ContourRow,
    ContourSaveRow,
    DraftRow,
    ExportRow,
    LedgerRow,
    MeasurementRow,
    PackageRow,
    PlanRow,
    ReleaseMemoryRow,
    SignatureRow,
    SignInRow,
    transaction,
    utc_now,
)
from site_agent.ingest import ingest
from site_agent.model_store import Comparison, offer
from site_agent.pacs_export import export_rtstruct
from site_agent.release_memory import packed
from site_agent.review import record_review
from tests.simulated_site import AT
from tests.site_agent.test_ingest import write_patient

PACKAGE_ID = "ab" * 32


def fill(home: SiteHome, exports: Path, patients: tuple[int, ...] = (1, 2, 3)) -> CaseStore:
    """Take patients in and do with them whatever leaves a row or a file."""
    for number in patients:
        write_patient(exports / f"P{number}", number)
    store = CaseStore(home)
    ingest(home, store, exports, actor="test")
    cases = store.cases()
    store.assign_splits({case.patient_id: Split.TRAINING for case in cases})
    with transaction(store.engine) as session:
        session.add(
            PackageRow(
                package_id=PACKAGE_ID,
                model_version="1.0.0",
                signed_by="0" * 16,
                state="approved",
                received_at=AT,
            )
        )
        session.add(
            PlanRow(
                plan_sha256="4" * 64,
                plan_number=1,
                package_id=PACKAGE_ID,
                plan="{}",
                signature="{}",
                state="stored",
                received_at=AT,
            )
        )
    round_id = store.start_round(PACKAGE_ID, seed=0).round_id
    choices = [SliceChoice(case.case_id, z, "chosen", 0.5) for case in cases for z in (3, 4)]
    store.open_tasks(round_id, choices, actor="worker")
    for task in store.tasks(round_id)[::2]:
        click(store, task.case_id, task.id, round_id)
        mask = np.zeros(store.geometry(task.case_id).shape_zyx[1:], bool)
        mask[4:9, 5 : 9 + task.id] = True
        store.complete_task(task.id, mask, author="dr", provenance=Provenance.MANUAL, active_s=12.5)
    for case in cases:
        segment_and_review(store, case.case_id, round_id)
        output = exports.parent / "out" / f"{case.case_id}.dcm"
        export_rtstruct(home, store, case.case_id, output, actor="dr")
        use_pages(store, case.case_id, round_id)
    sign_in(store)
    better = Comparison(patients=3, candidate_dsc=0.8, incumbent_dsc=0.7, margin=0.0)
    offer(home, store.engine, b"weights", round_id, better, actor="worker")
    for folder in (home.rounds / round_id, home.packages / PACKAGE_ID, home.source_package):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(folder.name.encode())
    release(home, store, 0)
    remember(store)
    return store


def click(store: CaseStore, case_id: str, task_id: int, round_id: str) -> None:
    """Open a click session and write one step of it."""
    row = click_store.begin(
        store,
        case_id=case_id,
        task_id=task_id,
        round_id=round_id,
        author="dr",
        start=None,
        settings={"network_sha256": "0" * 64},
    )
    click_store.add_step(
        store,
        ClickStepRow(
            session_id=row.session_id,
            sequence=0,
            kind="segment",
            foreground=[[1, 2]],
            background=[],
            seconds=0.25,
            mask_sha256="0" * 64,
            author="dr",
            at=utc_now(),
        ),
    )


def segment_and_review(store: CaseStore, case_id: str, round_id: str) -> None:
    """Store a model's contour, a review and a measurement."""
    geometry = store.geometry(case_id)
    voxels = np.zeros(geometry.shape_zyx, bool)
    voxels[2:5, 3:9, 4:9] = True
    contour = Contour("GTVp", Mask(voxels, geometry), Provenance.AUTOMATIC)
    store.save_contour(case_id, contour, purpose="adapted", round_id=round_id, author="model")
    revised = voxels.copy()
    revised[1, 3:5, 4:6] = True
    record_review(store, round_id, case_id, Mask(revised, geometry), author="dr", simulated=False)
    with transaction(store.engine) as session:
        row = MeasurementRow(
            round_id=round_id, case_id=case_id, arm="adapted", metrics={"dsc": 0.75, "hd95": None}
        )
        store.replace_measurements(session, [row])


def use_pages(store: CaseStore, case_id: str, round_id: str) -> None:
    """Leave what a doctor leaves on the pages: a claim, a draft, evidence, a signature, a reading.

    They name the contour that was reviewed, so that there is no file more.
    """
    key = {"round_id": round_id, "case_id": case_id}
    work = {**key, "purpose": "review", "author": "dr"}
    with transaction(store.engine) as session:
        reviewed = session.scalars(
            select(ContourRow).filter_by(case_id=case_id, purpose="reviewed")
        ).one()
        export = session.scalars(select(ExportRow).filter_by(case_id=case_id)).one()
        session.add_all(
            [
                ClaimRow(**work, claimed_at=AT),
                DraftRow(
                    **work,
                    epoch="0" * 16,
                    sitting="1" * 16,
                    revision=3,
                    file=reviewed.file,
                    sittings={},
                    begun_at=AT,
                    saved_at=AT,
                ),
                ContourSaveRow(
                    **work,
                    file=reviewed.file,
                    mask_sha256="2" * 64,
                    sittings={},
                    active_s=12.5,
                    model_wait_s=0.5,
                    wall_s=20.0,
                    slice_degrees_percent={"1": 100.0},
                    saved_at=AT,
                ),
                SignatureRow(
                    **key,
                    username="dr",
                    person_name="Example^Dr",
                    meaning="I approve this contour",
                    method="password",
                    mask_sha256="2" * 64,
                    signed_at=AT,
                    export_id=export.id,
                ),
                BlindedReadingRow(
                    reading="first",
                    place=export.id,
                    case_id=case_id,
                    reader="dr",
                    seed=0,
                    allocation_sealed=b"sealed",
                ),
            ]
        )


def sign_in(store: CaseStore) -> None:
    """Leave an account that is signed in; it is no patient's."""
    with transaction(store.engine) as session:
        session.add(
            AccountRow(
                username="dr",
                display_name="Dr Example",
                person_name="Example^Dr",
                roles=["reviewer"],
                disabled=False,
                failures=0,
                created_at=AT,
            )
        )
        session.flush()
        session.add(
            SignInRow(token_sha256="3" * 64, username="dr", signed_in_at=AT, last_seen_at=AT)
        )


def release(home: SiteHome, store: CaseStore, number: int) -> None:
    """Let a message leave."""
    message = SiteStatus(
        site=home.config.name,
        code_version="0.1.0",
        source_package_ready=False,
        packages_held=(),
        round_state=RoundState.NONE,
        open_annotation_tasks=number,
        report_ready=False,
    )
    egress.release(home, store.engine, message, now=AT)


def remember(store: CaseStore) -> None:
    """Put a memory beside the only entry of the ledger, as if it were a report's."""
    memory = packed({"adapted": {"0" * 16: "1" * 16}})
    with transaction(store.engine) as session:
        entry = session.scalars(select(LedgerRow)).one()
        entry.detail = {egress.MEMORY: sha256_hex(canonical_json(memory))}
        fields = {c.key: getattr(entry, c.key) for c in LedgerRow.__table__.columns}
        entry.sha256 = audit_log.entry_sha256({k: v for k, v in fields.items() if k != "sha256"})
        session.add(ReleaseMemoryRow(sequence=entry.sequence, memory=memory))


def rows(store: CaseStore) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table."""
    with Session(store.engine) as session:
        return {
            table.name: sorted(map(tuple, session.execute(select(table))), key=repr)
            for table in Base.metadata.sorted_tables
        }


def audited(store: CaseStore) -> list[tuple[str, str]]:
    """Return event and subject of every audit entry."""
    with Session(store.engine) as session:
        ordered = select(AuditRow).order_by(AuditRow.sequence)
        return [(row.event, row.subject) for row in session.scalars(ordered)]


def files(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def told_on_a_full_disk(act: Callable[[], object]) -> str:
    """Run `act` in a process that may write no file beyond 4 KiB; return what a person is told."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
            act()
        except Exception as error:
            os.write(writer, (failure_line(error) or repr(error)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as told:
        text = told.read()
    os.waitpid(child, 0)
    return text


def killed_at(step: int, act: Callable[[], object]) -> bool:
    """Run `act` in a process that dies just before its n-th change of a file; say if it did.

    The interpreter's own audit events name each opening, renaming and removal.
    """
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9), "the process failed by itself"
        return code == 9
    try:
        left = step

        def count(event: str, _arguments: object) -> None:
            nonlocal left
            if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"):
                left -= 1
                if left < 0:
                    os._exit(9)

        sys.addaudithook(count)
        act()
        os._exit(0)
    finally:
        os._exit(1)
