"""fedgtv-site: what hospital IT runs."""

import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from algorithms.contracts.errors import DataError, expected_errors_are_one_line
from site_agent.account_cli import account_app
from site_agent.blinded_cli import blinded_app
from site_agent.bundle_cli import bundle_app
from site_agent.config import SiteHome, open_home
from site_agent.enrolment_cli import certificate_line, enrol
from site_agent.operations_cli import add_operations_commands
from site_agent.pacs_cli import listen, pacs_app
from site_agent.plan_cli import plan_app
from site_agent.signature_cli import add_signature_commands
from site_agent.storage_commands import add_commands

if TYPE_CHECKING:
    from algorithms.contracts.model_package import StudyPlan
    from site_agent.case_store import CaseStore

app = typer.Typer(
    help="A hospital's agent: images in, contours back, only approved aggregates out. "
    "Research use only, not a medical device.\n\nExample: fedgtv-site ingest --home SITE IMAGES",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
package_app = typer.Typer(
    help="Look at model packages.\n\nExample: fedgtv-site package verify --home SITE PACKAGE",
    no_args_is_help=True,
)
ledger_app = typer.Typer(
    help="See what left this hospital.\n\nExample: fedgtv-site ledger list --home SITE",
    no_args_is_help=True,
)
model_app = typer.Typer(
    help="See the models this site's doctors taught, and which is in use.\n\n"
    "Example: fedgtv-site model list --home SITE",
    no_args_is_help=True,
)
app.add_typer(package_app, name="package")
app.add_typer(plan_app, name="plan")
app.add_typer(model_app, name="model")
app.add_typer(ledger_app, name="ledger")
app.add_typer(pacs_app, name="pacs")
app.add_typer(account_app, name="account")
app.add_typer(blinded_app, name="blinded")
app.add_typer(bundle_app, name="bundle")

LONG_COMMANDS = {"work", "train-source"}
_PROCESS_SETTINGS = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}

Home = Annotated[Path, typer.Option("--home", help="The site's home directory.")]
console = Console(markup=False, emoji=False)  # a path may hold brackets


@app.command()
def init(
    home: Home,
    name: Annotated[str, typer.Option(help="How the study knows this hospital.")],
    study: Annotated[str, typer.Option(help="The study it takes part in.")],
    role: Annotated[str, typer.Option(help="'source' or 'target'.")] = "target",
    trusted_key: Annotated[
        list[str], typer.Option(help="The coordinator's public key (64 hexadecimal digits).")
    ] = [],  # noqa: B006 - typer copies it
) -> None:
    """Make a site's home directory: configuration, secrets and database.

    Example: fedgtv-site init --home hospital-b --name hospital-b --study npc --trusted-key KEY
    """
    from site_agent.site_setup import initialise

    initialise(home, name=name, study=study, role=role, trusted_keys=trusted_key)
    console.print(f"{home}: ready. Settings are in {home / 'site.toml'}")


@app.command()
def ingest(
    folder: Annotated[Path, typer.Argument(help="DICOM series with RTSTRUCT, or NIfTI pairs.")],
    home: Home,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the case ids and the time taken.")
    ] = False,
) -> None:
    """Read, de-identify and store images with their contours; all of a folder or nothing.

    Example: fedgtv-site ingest --home hospital-b EXPORT_FOLDER
    """
    import json
    import time
    from dataclasses import asdict

    from site_agent.ingest import take_in

    site, store = _open(home)
    began, began_cpu = time.perf_counter(), time.process_time()
    intake = take_in(site, store, folder, actor="fedgtv-site ingest")
    if json_output:
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
        print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, **asdict(intake)}))
        return
    console.print(f"{site.config.name}: {len(intake.new)} new cases, {len(store.cases())} in all")
    if intake.contoured or intake.unchanged:
        added, unchanged = len(intake.contoured), len(intake.unchanged)
        console.print(f"held already: {added} got their contour now, {unchanged} unchanged")


@app.command("check-dicom")
def check_dicom(
    folder: Annotated[Path, typer.Argument(help="Folder of DICOM series.")],
    json_output: Annotated[
        bool, typer.Option("--json", help="Print rows and the time taken.")
    ] = False,
) -> None:
    """Read every image series of a folder and say which ones ingest would refuse, and why.

    Nothing is stored. Exit code 1 when a series is refused.

    Example: fedgtv-site check-dicom EXPORT_FOLDER
    """
    import json
    import time
    from dataclasses import asdict

    from site_agent.dicom_check import check_folder

    began, began_cpu = time.perf_counter(), time.process_time()
    rows = check_folder(folder)
    took = {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - began_cpu,
    }
    if json_output:
        print(json.dumps({**took, "series": [asdict(row) for row in rows]}))
    for row in rows if not json_output else []:
        if row.shape_zyx is None or row.spacing_zyx_mm is None:
            console.print(f"{row.modality}, {row.files} files: {row.refusal}", soft_wrap=True)
            continue
        slices, rows_, columns = row.shape_zyx
        spacing = " x ".join(f"{mm:.2f}" for mm in row.spacing_zyx_mm)
        size = f"{slices} slices of {rows_} x {columns}"
        console.print(f"{row.modality}, {row.files} files: reads as {size}, {spacing} mm (z y x)")
    if any(row.refusal for row in rows):
        raise typer.Exit(1)


@app.command("train-source")
def train_source(
    plan: Annotated[Path, typer.Option(help="The study plan (JSON).")], home: Home
) -> None:
    """Train the source model on this hospital's contours and prepare its package.

    Example: fedgtv-site train-source --home hospital-a --plan plan.json
    """
    site, store = _open(home)
    study_plan = _read_plan(plan)  # before what takes seconds to import

    from site_agent.segmentation import use_threads
    from site_agent.site_lock import only_worker
    from site_agent.source_package import train_source as run

    use_threads(site.config.threads)
    with only_worker(site):
        manifest = run(site, store, study_plan)
    score = manifest.source_validation
    known = score.test_dsc is not None  # a figure about too few patients is not in a package
    dsc = f"{score.test_dsc:.3f}" if known else "not given"
    console.print(
        f"{site.config.name}: model {manifest.model_version}, Dice {dsc} on "
        f"{score.test_patients} test patients at home; package in {site.source_package}"
    )


def _read_plan(plan: Path) -> "StudyPlan":
    from pydantic import ValidationError

    from algorithms.contracts.model_package import StudyPlan

    if not plan.is_file():
        raise DataError(f"{plan}: no such plan: give the study lead's plan file")
    try:
        return StudyPlan.model_validate_json(plan.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])  # none when it is no JSON object
        where = f"{plan}: key '{key}'" if key else f"{plan}"
        raise DataError(f"{where}: {first['msg']}: correct the plan") from error


@app.command()
def work(home: Home) -> None:
    """Take the approved package as far as it goes without people; run again to resume.

    Example: fedgtv-site work --home hospital-b
    """
    from algorithms.contracts.messages import RoundState
    from site_agent.worker import work as run

    site, store = _open(home)
    state = run(site, store)
    said = state.value.replace("_", " ")
    if state is RoundState.NONE and site.config.role == "target":
        said += ": approve a model first, see 'fedgtv-site package list'"
    console.print(f"{site.config.name}: {said}")


@app.command("next-round")
def next_round(home: Home) -> None:
    """Let patients who were segmented and reviewed since the study join what is learnt from.

    The next `work` begins a round with them. The study's report stays that of the first round.

    Example: fedgtv-site next-round --home hospital-b
    """
    from site_agent.next_round import begin_next_round

    _, store = _open(home)
    joined = begin_next_round(store, actor="fedgtv-site next-round")
    console.print(
        f"{joined.patients} patients with {joined.slices} slices joined the training patients"
        + (f"; {joined.waiting} wait for review" if joined.waiting else "")
        + ": run 'fedgtv-site work' to begin the next round"
    )


@app.command("simulate-doctors")
def simulate_doctors(home: Home) -> None:
    """Answer open annotation and review tasks from held-back reference contours (demos only).

    Example: fedgtv-site simulate-doctors --home hospital-b
    """
    from site_agent.simulated_annotator import AUTHOR, annotate_open_tasks, review_cases

    site, store = _open(home)
    annotated, reviewed = annotate_open_tasks(store), review_cases(store)
    console.print(
        f"{site.config.name}: {AUTHOR}: {annotated} slices annotated, {reviewed} cases reviewed"
    )


@app.command("t-stages")
def t_stages(
    table: Annotated[
        Path, typer.Argument(help="CSV: t_stage (T1 to T4, Tx), and case or patient.")
    ],
    home: Home,
) -> None:
    """Keep T stages with their cases, for subgroups in the report; all of a table or nothing.

    A patient may be named by pseudonym or by the original id, which is not stored.

    Example: fedgtv-site t-stages --home hospital-b stages.csv
    """
    from site_agent.t_stages import add_t_stages

    site, store = _open(home)
    count = add_t_stages(site, store, table, actor="fedgtv-site t-stages")
    console.print(f"{site.config.name}: T stage of {count} cases kept")


@app.command("rater-contours")
def rater_contours(
    folder: Annotated[Path, typer.Argument(help="Structure sets of one rater.")],
    home: Home,
    rater: Annotated[str, typer.Option(help="The letter that the study gave to the doctor.")],
) -> None:
    """Keep what a doctor drew alone on images held here, to report how far doctors agree.

    A second contour of the same case is the doctor's second sitting.

    Example: fedgtv-site rater-contours --home hospital-b --rater a EXPORT_FOLDER
    """
    from site_agent.rater_contours import add_rater_contours

    site, store = _open(home)
    kept = add_rater_contours(site, store, folder, rater=rater, actor="fedgtv-site rater-contours")
    console.print(f"{site.config.name}: {kept} contours of rater {rater} kept")


@app.command()
def cases(home: Home) -> None:
    """List the cases by their pseudonyms.

    Example: fedgtv-site cases --home hospital-b
    """
    _, store = _open(home)
    table = Table(padding=0)  # ids are whole in 80 columns
    for heading in ("case", "patient"):
        table.add_column(heading, overflow="fold")
    for heading in ("split", "image", "slices", "contour", "T"):
        table.add_column(heading)
    for case in store.cases():
        reference = "yes" if case.has_reference else "no"
        slices = str(case.shape_zyx[0])
        said = (case.split.value, case.modality, slices, reference, case.t_stage or "")
        table.add_row(case.case_id, case.patient_id, *said)
    console.print(table)


@app.command()
def status(home: Home) -> None:
    """Show how many cases there are, the plan, the round and open tasks.

    Example: fedgtv-site status --home hospital-b
    """
    from site_agent.plan_store import approved_plan, plans_held

    site, store = _open(home)
    table = Table(title=f"{site.config.name} in study {site.config.study}", show_header=False)
    for split, count in sorted(store.counts().items()):
        table.add_row(f"cases: {split}", str(count))
    plan = approved_plan(store.engine)
    in_force = f"{plan.plan_number}, approved" if plan is not None else "none approved"
    table.add_row("plan", f"{in_force}; {len(plans_held(store.engine))} came")
    latest = store.latest_round()
    if latest is None:
        table.add_row("round", "none yet")
    else:
        table.add_row("round", f"{latest.round_id}: {latest.state.replace('_', ' ')}")
        tasks = store.tasks(latest.round_id)
        done = sum(task.state == "done" for task in tasks)
        table.add_row("annotation", f"{done} of {len(tasks)} slices")
        table.add_row("reviews", str(len(store.reviews(latest.round_id))))
    table.add_row("certificate", certificate_line(site))
    console.print(table)


@app.command("export-rtstruct")
def export_rtstruct(
    case: Annotated[str, typer.Argument(help="Case id, as 'cases' and the pages show it.")],
    output: Annotated[Path, typer.Option(help="File to write.")],
    home: Home,
) -> None:
    """Write a case's newest contour as RTSTRUCT under its original identity, for the PACS.

    Example: fedgtv-site export-rtstruct --home hospital-b case-0123456789ab --output rs.dcm
    """
    from site_agent.pacs_export import export_rtstruct as export

    site, store = _open(home)
    name = export(site, store, case, output, actor="fedgtv-site export-rtstruct")
    console.print(f"{output}: {name}, UNAPPROVED. Research use only, not a medical device")


@app.command("export-seg")
def export_seg(
    case: Annotated[str, typer.Argument(help="Case id, as 'cases' and the pages show it.")],
    output: Annotated[Path, typer.Option(help="File to write.")],
    home: Home,
) -> None:
    """Write a case's newest contour as DICOM SEG under its original identity, for viewers.

    Example: fedgtv-site export-seg --home hospital-b case-0123456789ab --output seg.dcm
    """
    from site_agent.pacs_export import export_segmentation as export

    site, store = _open(home)
    name = export(site, store, case, output, actor="fedgtv-site export-seg")
    console.print(f"{output}: {name}. Research use only, not a medical device")


@app.command()
def returned(
    source: Annotated[Path, typer.Argument(help="An RTSTRUCT, or a folder of such.")],
    home: Home,
    case: Annotated[str, typer.Option(help="Its case, where several are possible.")] = "",
    roi: Annotated[
        str, typer.Option(help="The region's name in the file, where that is not clear.")
    ] = "",
) -> None:
    """Take contours back that a planning system edited, as the final word on their cases.

    Example: fedgtv-site returned --home hospital-b RS.edited.dcm
    """
    from site_agent.returned_contour import take_back

    site, store = _open(home)
    who = "fedgtv-site returned"
    for one in take_back(site, store, source, case_id=case, roi_name=roi, actor=who):
        news = "" if one.new else ", held already"
        console.print(f"{one.case_id}: {one.revision_degree_percent:.1f} % revised{news}")


@app.command()
def ui(home: Home, port: Annotated[int, typer.Option(help="On 127.0.0.1.")] = 8501) -> None:
    """Serve this site's clinical pages on this machine, until Ctrl-C.

    Example: fedgtv-site ui --home hospital-b --port 8501
    """
    import subprocess

    site = open_home(home)
    command = [sys.executable, "-m", "clinical_ui", "--home", str(site.folder)]
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(subprocess.call([*command, "--port", str(port)]))


@package_app.command("verify")
def package_verify(
    folder: Annotated[Path, typer.Argument(help="The package's folder.")], home: Home
) -> None:
    """Check a package's signature and every byte of its files against this site's trusted keys.

    Example: fedgtv-site package verify --home hospital-b PACKAGE_FOLDER
    """
    from algorithms.contracts.model_package import Manifest
    from site_agent.package_store import verify_folder
    from site_agent.site_keys import trusted_keys

    site = open_home(home)
    content, _, _ = verify_folder(folder, trusted_keys(site), study=site.config.study)
    manifest = Manifest.model_validate_json(content)
    console.print(f"{folder}: genuine: {manifest.model_version} of study {manifest.study}")


@package_app.command("import")
def package_import(
    folder: Annotated[Path, typer.Argument(help="The package's folder.")], home: Home
) -> None:
    """Verify a package that came on a disk and store it; it still has to be approved.

    Example: fedgtv-site package import --home hospital-b PACKAGE_FOLDER
    """
    from site_agent.package_store import packages_held, store_package, verify_folder
    from site_agent.site_keys import trusted_keys

    site, store = _open(home)
    package = verify_folder(folder, trusted_keys(site), study=site.config.study)
    package_id = store_package(site, store.engine, *package)
    (state,) = (row.state for row in packages_held(store.engine) if row.package_id == package_id)
    next_step = "; approve it with 'fedgtv-site package approve'" if state == "stored" else ""
    console.print(f"{package_id}: {state}{next_step}")


@package_app.command("list")
def package_list(home: Home) -> None:
    """List the packages this site holds.

    Example: fedgtv-site package list --home hospital-b
    """
    from site_agent.package_store import packages_held

    _, store = _open(home)
    table = Table(padding=0)
    table.add_column("package", overflow="fold")
    for heading in ("version", "state", "received (UTC)"):
        table.add_column(heading)
    for row in packages_held(store.engine):
        received = row.received_at.isoformat(timespec="seconds")
        table.add_row(row.package_id, row.model_version, row.state, received)
    Console(width=max(console.width, 128)).print(table)  # people copy the id: it stays in one line


@package_app.command("approve")
def package_approve(
    package_id: Annotated[str, typer.Argument(help="As 'package import' printed it.")],
    home: Home,
) -> None:
    """Let a stored package be used; the next 'work' starts its adaptation.

    Example: fedgtv-site package approve --home hospital-b PACKAGE_ID
    """
    from site_agent.package_store import approve

    _, store = _open(home)
    approve(store.engine, package_id, actor="fedgtv-site package approve")
    console.print(f"{package_id}: approved")


@model_app.command("list")
def model_list(home: Home) -> None:
    """List the models of this site, and how they did on its validation patients.

    Example: fedgtv-site model list --home hospital-b
    """
    from site_agent.model_store import active_model, is_whole, models

    site, store = _open(home)
    active = active_model(store.engine)
    table = Table(padding=0)
    for heading in ("model", "state", "validation patients", "Dice", "of what was in use"):
        table.add_column(heading)
    table.add_row("the package's own", "in use" if active is None else "", "", "", "")
    for row in models(store.engine):
        state = "in use" if active is not None and row.sha256 == active.sha256 else ""
        state = state if is_whole(site, row) else f"{state} damaged".strip()
        scores = (row.candidate_dsc, row.incumbent_dsc)
        dice = ("-" if score is None else f"{100 * score:.1f} %" for score in scores)
        table.add_row(row.sha256[:16], state, str(row.validation_patients), *dice)
    console.print(table)


@model_app.command("activate")
def model_activate(
    model: Annotated[str, typer.Argument(help="As 'model list' shows it.")], home: Home
) -> None:
    """Bring a model into use that the comparison held back, or that was in use before.

    Example: fedgtv-site model activate --home hospital-b MODEL
    """
    from site_agent.model_store import activate

    site, store = _open(home)
    row = activate(site, store.engine, model, actor="fedgtv-site model activate")
    console.print(f"{row.sha256[:16]}: in use")


@model_app.command("rollback")
def model_rollback(home: Home) -> None:
    """Go back to the model that was in use before.

    Example: fedgtv-site model rollback --home hospital-b
    """
    from site_agent.model_store import roll_back

    site, store = _open(home)
    before = roll_back(site, store.engine, actor="fedgtv-site model rollback")
    now = "the package's own model" if before is None else before.sha256[:16]
    console.print(f"{now}: in use")


@ledger_app.command("list")
def ledger_list(home: Home) -> None:
    """List everything that left this hospital, was held or was refused.

    Example: fedgtv-site ledger list --home hospital-b
    """
    from site_agent.egress import list_entries
    from site_agent.model_update import promise_in_words, promise_so_far

    _, store = _open(home)
    entries = list_entries(store.engine)
    table = Table("no.", "time (UTC)", "message", "bytes", "state", "SHA-256", padding=0)
    for entry in entries:
        table.add_row(
            str(entry.sequence),
            entry.at,
            entry.kind,
            str(entry.size_bytes),
            entry.state,
            entry.message_sha256[:12],
        )
    console.print(table)
    approved = {entry.detail["approves"] for entry in entries if entry.state == "approved"}
    waiting = {entry.sequence for entry in entries if entry.state == "held"} - approved
    if waiting:
        numbers = ", ".join(map(str, sorted(waiting)))
        console.print(
            f"waiting for a person: {numbers}. Read it with 'fedgtv-site ledger show', then let it "
            "leave with 'fedgtv-site ledger approve'"
        )
    promise = promise_so_far(entries)
    if promise.updates:
        console.print(promise_in_words(promise), soft_wrap=True)


@ledger_app.command("show")
def ledger_show(
    entry: Annotated[int, typer.Argument(help="Number of an entry that left or is held.")],
    home: Home,
) -> None:
    """Print a message that left or is held, every field of it.

    Example: fedgtv-site ledger show --home hospital-b 7
    """
    import json

    from site_agent.egress import read_message
    from site_agent.model_update import Promise, promise_in_words

    site, store = _open(home)
    message = json.loads(read_message(site, store.engine, entry))
    print(json.dumps(message, indent=2))
    if message["kind"] == "model_update":
        promise = Promise(1, message["epsilon"], message["delta"])
        print(promise_in_words(promise), file=sys.stderr)


@ledger_app.command("approve")
def ledger_approve(
    entry: Annotated[int, typer.Argument(help="Number of a held entry.")], home: Home
) -> None:
    """Let a held message leave; the coordinator gets it when it asks next.

    Read it first: 'fedgtv-site ledger show' prints it.

    Example: fedgtv-site ledger approve --home hospital-b 7
    """
    from site_agent.database import utc_now
    from site_agent.egress import approve_release

    _, store = _open(home)
    approve_release(store.engine, entry, actor="fedgtv-site ledger approve", now=utc_now())
    console.print(f"entry {entry}: approved; 'fedgtv-site ledger show {entry}' prints what leaves")


@ledger_app.command("verify")
def ledger_verify(home: Home) -> None:
    """Check that no entry of the ledger, and no copy beside it, was changed, removed or added.

    Example: fedgtv-site ledger verify --home hospital-b
    """
    from site_agent.egress import verify_ledger

    site, store = _open(home)
    console.print(f"{verify_ledger(site, store.engine)} entries, unbroken")


@ledger_app.command("export")
def ledger_export(
    home: Home,
    output: Annotated[Path, typer.Option(help="New folder.")],
) -> None:
    """Write the whole ledger and every message of it into a folder, signed, for an auditor.

    Example: fedgtv-site ledger export --home hospital-b --output ledger-2031-05
    """
    from site_agent.ledger_export import export_ledger
    from site_agent.site_keys import SiteKeys

    site, store = _open(home)
    count = export_ledger(site, store.engine, output)
    key = SiteKeys.open(site).signing_public_key_hex
    console.print(f"{output}: {count} entries, signed; checked by 'fedgtv-site ledger check --key'")
    print(f"the hospital's public key: {key}")


@ledger_app.command("check")
def ledger_check(
    folder: Annotated[Path, typer.Argument(help="An exported ledger.")],
    key: Annotated[str, typer.Option(help="The hospital's public key, 64 hexadecimal digits.")],
) -> None:
    """Check an exported ledger; needs no site, only the hospital's public key.

    Example: fedgtv-site ledger check ledger-2031-05 --key 0123...
    """
    from site_agent.ledger_export import verify_export

    console.print(f"{folder}: {verify_export(folder, key)} entries, unbroken and signed")


app.command()(listen)
app.command()(enrol)
add_commands(app)
add_signature_commands(app)
add_operations_commands(app)


def _open(home: Path) -> tuple[SiteHome, "CaseStore"]:
    from site_agent.case_store import CaseStore

    site = open_home(home)
    return site, CaseStore(site)


def _restart_for_training() -> None:
    """Start long commands again with process settings that suit training; results are identical.

    Training frees and takes the same large blocks at every step; by default each is given back to
    the system and faulted in again. And threads that wait by spinning make a shared machine several
    times slower. Libraries read these settings only when a process starts.
    """
    if sys.platform == "linux" and set(sys.argv[1:2]) & LONG_COMMANDS:
        missing = {k: v for k, v in _PROCESS_SETTINGS.items() if k not in os.environ}
        if missing:
            os.environ.update(missing)
            os.execv(sys.executable, [sys.executable, *sys.argv])  # noqa: S606 - ourselves


def main() -> None:
    """Run the command; an expected error is one line and exit code 2."""
    _restart_for_training()
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    with expected_errors_are_one_line():
        app()
