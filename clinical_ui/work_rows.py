"""How a piece of work looks on the worklist; as HTML, because a row is more than one line of text.

Nothing is told by colour alone, and what a person wrote is escaped.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from html import escape

from algorithms.sample_selection import DOMAIN_INVARIANT, DOMAIN_SPECIFIC
from clinical_ui import wording
from clinical_ui.work_items import ANNOTATION, Expected, Holder, State, Verdict, WorkItem
from site_agent.claims import Purpose
from site_agent.database import AnnotationTaskRow

STYLE = """
<style>
  .work-next { display: flex; flex-direction: column; gap: .1rem; }
  .work-next b { font-size: 1.05rem; }
  .work-next span, .work-legend, .work-row span { color: #46565f; font-size: .85rem; }
  .work-legend { display: flex; flex-wrap: wrap; gap: .1rem 1.4rem; }
  .work-row { display: grid; grid-template-columns: 13.5rem 1fr 10.5rem; gap: 1rem;
    align-items: center; }
  .work-row > div { display: flex; flex-direction: column; line-height: 1.35; min-width: 0; }
  .work-row b { font-size: .95rem; font-weight: 600; }
  .work-slices { display: flex; flex-wrap: wrap; gap: .3rem; list-style: none; margin: 0 !important;
    padding: 0 !important; }
  .work-slices li { display: flex; gap: .45rem; align-items: baseline; margin: 0 !important;
    padding: .12rem .5rem; border: 1px solid #c3d0d7; border-radius: 999px; font-size: .84rem;
    background: #fff; color: #1d2b33; white-space: nowrap; font-variant-numeric: tabular-nums; }
  .work-slices li.work-specific { border-color: #b45309; }
  .work-slices li.work-invariant { border-color: #1f6f8b; }
  .work-slices li.work-done { background: #e9f0ec; border-style: dashed; color: #40524a; }
  .work-specific i { color: #a14808; font-style: normal; }
  .work-invariant i { color: #1f6f8b; font-style: normal; }
  .work-slices i { font-style: normal; }
  .work-ask { font-size: .85rem; line-height: 1.3; color: #8a3b06; }
  .st-key-next_work { padding: .55rem 1rem; }
  .work-row .work-mine { color: #14532d; font-weight: 600; }
  .work-row .work-held { color: #8a3b06; font-weight: 600; }
  [class*="st-key-work_annotation_"], [class*="st-key-work_review_"] {
    border-top: 1px solid #e1e8ec; padding-top: .4rem; }
  [class*="st-key-work_annotation_"] button, [class*="st-key-work_review_"] button {
    min-height: 2.1rem; padding: .1rem .7rem; }
</style>
"""
_CLASSES = {DOMAIN_SPECIFIC: "work-specific", DOMAIN_INVARIANT: "work-invariant"}


def legend_html(roles: Collection[str]) -> str:
    """Explain the marks on the slices."""
    said = [f"{wording.short_reason(role).split()[0]} {wording.reason(role)}" for role in roles]
    words = [*sorted(said), "# rank: what the model learns most from comes first"]
    words.append("number: distance to the source, larger is stranger")
    return f'<div class="work-legend">{"".join(f"<span>{escape(w)}</span>" for w in words)}</div>'


def next_html(
    item: WorkItem | None, times: Mapping[Purpose, Expected], *, blinded: bool = False
) -> str:
    """Say what is next for who looks; with None, `blinded` tells a blinded reading from nothing."""
    if item is None and blinded:
        said, why = "Next for you: your blinded reading", "Its cases are left out of this list."
    elif item is None:
        said, why = "Nothing waits for you", "What is free or yours shows here by itself."
    elif item.purpose == ANNOTATION:
        wanted = item.open_tasks
        said = f"Next for you: annotate {wording.counted(len(wanted), 'slice')} of {item.case_id}"
        minutes = times[item.purpose].minutes(len(wanted))
        first = wanted[0]
        why = (
            f"{wording.about_minutes(minutes)} · slice "
            f"{wording.slice_number(first.slice_z, item.slices)} first, rank {first.rank + 1}, "
            f"{wording.reason(first.role)}"
        )
    elif item.state is State.TO_SIGN:
        said = f"Next for you: sign the contour of {item.case_id}"
        outdated = item.verdict is not None and item.verdict.outdated
        why = "you changed it after it was signed" if outdated else "reviewed by you, not signed"
    else:
        said = f"Next for you: review the model's contour of {item.case_id}"
        patient = "new patient" if item.new_patient else "test patient"
        why = f"{wording.about_minutes(times[item.purpose].minutes(1))} · {patient}"
    return f'<div class="work-next"><b>{escape(said)}</b><span>{escape(why)}</span></div>'


def row_html(item: WorkItem, time: Expected, *, now: datetime) -> str:
    """Return one case: what it is, what is asked for, how far it is and who holds it."""
    case = item.case
    image = f"{case.patient_id} · {case.modality}"
    middle = _slices(item) if item.purpose == ANNOTATION else _review(item)
    return (
        '<div class="work-row">'
        f"<div><b>{escape(item.case_id)}</b><span>{escape(image)}</span></div>"
        f"{middle}<div><span>{escape(_how_far(item, time))}</span>{_holder(item.holder, now)}</div>"
        "</div>"
    )


def question_html(item: WorkItem) -> str:
    """Ask whether somebody's claim is to be taken away."""
    name = "its holder" if item.holder is None else item.holder.name
    words = f"Take {item.case_id} from {name}? What was drawn so far stays stored."
    return f'<div class="work-ask">{escape(words)}</div>'


def _slices(item: WorkItem) -> str:
    chips = "".join(_slice(task) for task in item.tasks)
    return f'<ul class="work-slices" aria-label="slices of {escape(item.case_id)}">{chips}</ul>'


def _slice(task: AnnotationTaskRow) -> str:
    done = task.state == "done"
    classes = f"{_CLASSES.get(task.role, '')} {'work-done' if done else ''}".strip()
    distance = "no tumour seen" if task.score < 0 else wording.score(task.score)
    mark = "✓ " if done else ""
    by = f" by {wording.author(task.author, simulated=wording.is_simulated(task.provenance))}"
    title = f"{wording.reason(task.role)}; {'annotated' + by if done else 'to annotate'}"
    return (
        f'<li class="{classes}" title="{escape(title)}"><b>{mark}slice {task.slice_z + 1}</b>'
        f"<i>{escape(wording.short_reason(task.role))}</i>"
        f"<i>{escape(distance)}</i><i>#{task.rank + 1}</i></li>"
    )


def _review(item: WorkItem) -> str:
    kind = "new patient, came after the study's" if item.new_patient else "test patient"
    if item.verdict is not None:
        said, more = _verdict(item.verdict)
    elif item.state is State.BLINDED:
        said, more = "◌ in your blinded reading", "shown here when the reading is over"
    elif item.state is State.WAITING:
        said, more = "· not contoured yet", f"{kind}; the computer comes first"
    else:
        said, more = "○ to review", kind
    return f"<div><b>{escape(said)}</b><span>{escape(more)}</span></div>"


def _verdict(verdict: Verdict) -> tuple[str, str]:
    said = wording.verdict(verdict.verdict)
    if verdict.verdict == "revised":
        said += f", revision degree {wording.degree(verdict.degree_percent)}"
    author = wording.author(verdict.author, simulated=verdict.simulated)
    return said, f"by {author}{_signature(verdict)}"


def _signature(verdict: Verdict) -> str:
    if verdict.outdated:
        return " · signed, then revised: sign again"
    if verdict.signed:
        return " · ✍ signed"
    return "" if verdict.simulated or verdict.verdict == "rejected" else " · not signed"


def _how_far(item: WorkItem, time: Expected) -> str:
    if item.state is State.DONE:
        return "done"
    if item.state is State.TO_SIGN:
        return "waits for your signature"
    if item.state in (State.WAITING, State.BLINDED):
        return ""
    if item.purpose != ANNOTATION:
        return wording.about_minutes(time.minutes(1))
    left = len(item.open_tasks)
    return f"{left} of {len(item.tasks)} left, {wording.about_minutes(time.minutes(left))}"


def _holder(holder: Holder | None, now: datetime) -> str:
    if holder is None:
        return ""
    since = f"{wording.how_long(holder.since, now)}"
    full = escape(wording.moment(holder.since))
    if holder.mine:
        return f'<span class="work-mine" title="since {full}">● yours {since}</span>'
    return f'<span class="work-held" title="since {full}">◐ {escape(holder.name)}, {since}</span>'
