"""What this site answers to the coordinator; it speaks Flower, as `site_executor` does.

Handlers are short: they read the database and files, and never train. Whatever leaves was passed
through `egress.release`; when anything fails, the name of a rule or of the exception's class is all
that leaves.
"""

import functools
import logging
import os
import traceback
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.errors import DataError
from algorithms.contracts.messages import (
    UPDATE_FILE,
    LeavingMessage,
    PlanReceipt,
    RoundState,
    SiteReportMessage,
    SiteStatus,
    SourcePackageOffer,
)
from algorithms.contracts.model_package import MANIFEST_FILE, Manifest
from algorithms.contracts.site_report import SiteReport
from site_agent import egress
from site_agent.config import SiteHome, open_home
from site_agent.database import AnnotationTaskRow, RoundRow, open_database, utc_now
from site_agent.incoming_package import forget_stored, receive_part
from site_agent.message_check import (
    FILES,
    PACKAGE,
    PART,
    PLAN,
    QUESTION,
    MessageRefused,
    check_address,
    error_reply,
    note_refusal,
    sent_bytes,
    sent_count,
    sent_files,
    sent_text,
    wrap_released,
)
from site_agent.model_update import is_update_ready, offer_update
from site_agent.package_store import active_package, packages_held
from site_agent.plan_store import (
    PlanRefused,
    approved_plan,
    plans_held,
    read_approval,
    store_plan,
)
from site_agent.study_round import reported_round

app = ClientApp()
_log = logging.getLogger(__name__)
Handler = Callable[[Message, SiteHome, Engine], RecordDict]


class NothingYet(DataError):  # noqa: N818 - a state, no mistake
    """What is asked for is not there yet: an ordinary state of a study."""


def _guarded(handler: Handler) -> Callable[[Message, Context], Message]:
    """Open the site named by the node's configuration; let only a name out on failure."""

    @functools.wraps(handler)
    def answer(message: Message, context: Context) -> Message:
        try:
            home = open_home(Path(str(context.node_config["home"])))
            engine = open_database(home.database_url)
            try:
                check_address(message, home)
                return Message(handler(message, home, engine), reply_to=message)
            except MessageRefused as refusal:
                _log.warning("%s: refused: %s", handler.__name__, refusal.rule)
                note_refusal(engine, refusal, message.metadata.message_type, utc_now())
                return error_reply(message, refusal.rule)
            finally:
                engine.dispose()
        except egress.ReleaseHeld as held:
            _log.info("%s: %s", handler.__name__, held)  # waits for a person: an ordinary state
            return error_reply(message, type(held).__name__)
        except NothingYet as waiting:
            _log.info("%s: %s", handler.__name__, waiting)
            return error_reply(message, DataError.__name__)
        except Exception as error:  # the edge of the hospital: nothing may pass it unseen
            frames = "".join(traceback.format_tb(error.__traceback__))  # places, never the text
            _log.error("%s failed with %s at\n%s", handler.__name__, type(error).__name__, frames)
            return error_reply(message, type(error).__name__)

    return answer


@app.query("status")
@_guarded
def status(_message: Message, home: SiteHome, engine: Engine) -> RecordDict:
    """Say where this site stands."""
    said = site_status(home, engine)
    forget_stored(home, said.packages_held)
    return _release(home, engine, said)


@app.train("receive_package")
@_guarded
def receive_package(message: Message, home: SiteHome, engine: Engine) -> RecordDict:
    """Take a part of a signed package, and say how far it is, or which rule refused it."""
    manifest = sent_bytes(message, PACKAGE, "manifest")
    signature = sent_bytes(message, PACKAGE, "signature")
    offset = sent_count(message, PACKAGE, "offset")
    files = sent_files(message, FILES) if FILES in message.content.array_records else {}
    content = files.get(PART, b"")
    return _release(home, engine, receive_part(home, engine, manifest, signature, offset, content))


@app.query("source_package")
@_guarded
def source_package(_message: Message, home: SiteHome, engine: Engine) -> RecordDict:
    """Hand the prepared source package to the coordinator."""
    file = home.source_package / MANIFEST_FILE
    if not file.is_file():
        raise NothingYet("no source package is prepared")
    manifest = Manifest.model_validate_json(file.read_bytes())
    files = {name: (home.source_package / Path(name).name).read_bytes() for name in manifest.files}
    offer = SourcePackageOffer(site=home.config.name, manifest=manifest)
    return _release(home, engine, offer, files)


@app.query("site_report")
@_guarded
def site_report(message: Message, home: SiteHome, engine: Engine) -> RecordDict:
    """Hand over the report about the package that the question names."""
    package_id = sent_text(message, QUESTION, "package_id")
    row = reported_round(engine, package_id)
    if row is None:
        raise NothingYet("no report is ready for this package")
    report = SiteReport.model_validate(row.report)
    return _release(home, engine, SiteReportMessage(report=report))


@app.query("model_update")
@_guarded
def model_update(message: Message, home: SiteHome, engine: Engine) -> RecordDict:
    """Hand over the update of the package that the question names."""
    package_id = sent_text(message, QUESTION, "package_id")
    plan = egress.permit_update(home, engine, package_id, now=utc_now())
    offer, content = offer_update(home, engine, plan)
    return _release(home, engine, offer, {UPDATE_FILE: content})


@app.train("receive_plan")
@_guarded
def receive_plan(message: Message, home: SiteHome, engine: Engine) -> RecordDict:
    """Keep a signed plan for a person to read, or name the rule that refused it."""
    signed = sent_bytes(message, PLAN, "signed")
    try:
        store_plan(home, engine, signed, now=utc_now())
        rule = None
    except PlanRefused as refusal:
        rule = refusal.rule
    receipt = PlanReceipt(
        site=home.config.name,
        received_sha256=sha256_hex(signed),
        accepted=rule is None,
        refused_by_rule=rule,
    )
    return _release(home, engine, receipt)


@app.query("plan_approval")
@_guarded
def plan_approval(_message: Message, home: SiteHome, engine: Engine) -> RecordDict:
    """Hand over this hospital's signature under the plan that it works by."""
    row = approved_plan(engine)
    if row is None:
        raise NothingYet("no plan is approved")
    return _release(home, engine, read_approval(row))


def site_status(home: SiteHome, engine: Engine) -> SiteStatus:
    """Gather where this site stands with its approved package."""
    current = active_package(engine)
    row = latest_round(engine, current.package_id) if current is not None else None
    state = RoundState.NONE if current is None else RoundState.RECEIVED
    plans, approved = plans_held(engine), approved_plan(engine)
    return SiteStatus(
        site=home.config.name,
        code_version=version("fedgtv"),
        source_package_ready=(home.source_package / MANIFEST_FILE).is_file(),
        packages_held=tuple(package.package_id for package in packages_held(engine)),
        current_package=current.package_id if current is not None else None,
        round_state=RoundState(row.state) if row is not None else state,
        open_annotation_tasks=_open_tasks(engine, row.round_id) if row is not None else 0,
        report_ready=current is not None and reported_round(engine, current.package_id) is not None,
        plan_held=plans[-1].plan_sha256 if plans else None,
        plan_approved=approved.plan_sha256 if approved is not None else None,
        model_update_ready=current is not None
        and is_update_ready(home, engine, current.package_id, now=utc_now()),
    )


def latest_round(engine: Engine, package_id: str) -> RoundRow | None:
    """Return the round with a package that was started last."""
    newest_first = select(RoundRow).order_by(RoundRow.started_at.desc())
    with Session(engine) as session:
        return session.scalars(newest_first.where(RoundRow.package_id == package_id)).first()


def _open_tasks(engine: Engine, round_id: str) -> int:
    mine = (AnnotationTaskRow.round_id == round_id, AnnotationTaskRow.state == "open")
    with Session(engine) as session:
        return session.scalar(select(func.count()).select_from(AnnotationTaskRow).where(*mine)) or 0


def _release(
    home: SiteHome,
    engine: Engine,
    message: LeavingMessage,
    files: Mapping[str, bytes] | None = None,
) -> RecordDict:
    """Pass a message through the door and wrap the released bytes."""
    body = egress.release(home, engine, message, files=files, now=utc_now())
    return wrap_released(body, files or {})
