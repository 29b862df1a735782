"""The words of the study page: steps, models, packages, limits and times."""

import math
from collections.abc import Mapping
from datetime import datetime

from algorithms.contracts.messages import RoundState
from clinical_ui import wording
from evaluation.control_chart import FEWEST, ControlChart, Place
from site_agent.model_store import Comparison

CONTINUE_COMMAND = "fedgtv-site work"
OWN_MODEL = "the package's own model"

_STEPS = {
    "stage1": "Learning from the annotated slices",
    "stage3": "Learning from annotated and other slices",
    "target_trained": "Training a model on all contours of this hospital, for comparison",
    "segmenting test patients": "Segmenting the test patients",
    "segmenting new patients": "Segmenting new patients",
    "measuring distances to the source": "Measuring how far the cases are from the source",
    "training the source model": "Training the source model",
    "reading series": "Taking images in",
}
_PLACES: dict[Place, str] = {
    "inside": "within the limits",
    "above": "▲ above the limits",
    "below": "▼ below the limits",
    "undefined": "✕ no figure",
    "unknown": "too few to judge",
}
_MODEL_EVENTS = {
    "model_offered": "came out of a round",
    "model_activated": "brought into use",
    "model_rolled_back": "taken out of use",
}


def step(what: str) -> str:
    """Say what the worker does.

    >>> step("stage1"), step("held_out_2")
    ('Learning from the annotated slices', 'Finding how far to follow the new contours, part 2')
    """
    if what.startswith("held_out_"):
        return f"Finding how far to follow the new contours, part {what.removeprefix('held_out_')}"
    return _STEPS.get(what, what.capitalize())


def duration(seconds: float) -> str:
    """Write how long something takes or took, as people say it.

    >>> duration(42.0), duration(100.0), duration(7300.0), duration(math.nan)
    ('42 s', '2 min', '2 h 2 min', 'not known')
    """
    if math.isnan(seconds):
        return "not known"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def clock(seconds: float) -> str:
    """Write a measured time to the second.

    >>> clock(42.4), clock(160.0), clock(3723.0)
    ('42 s', '2 min 40 s', '1 h 2 min 3 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{hours} h"] * bool(hours) + [f"{minutes} min"] * bool(hours or minutes)
    return " ".join([*parts, f"{rest} s"])


def percent(share: float | None) -> str:
    """Write a Dice; None was not measured.

    >>> percent(0.8123), percent(None)
    ('81.2 %', 'not measured')
    """
    return "not measured" if share is None else f"{100 * share:.1f} %"


def gate(compared: Comparison) -> str:
    """Say what the comparison with the model in use came to, and why a person decides.

    >>> gate(Comparison(3, 0.75, 0.80, 0.01))
    'Held back: 5.0 points worse than what was in use, margin 1.0. A person decides.'
    """
    if compared.candidate_dsc is None:
        return "Nobody knows how it does: no validation patient shows the target. A person decides."
    if compared.incumbent_dsc is None:
        return "What was in use could not be compared with it. A person decides."
    gain = 100 * (compared.candidate_dsc - compared.incumbent_dsc)
    points = f"{abs(gain):.1f} points {'better' if gain >= 0 else 'worse'} than what was in use"
    margin = f"{100 * compared.margin:.1f}"
    if compared.passes:
        return f"Passed: {points}" + ("." if gain >= 0 else f", within the margin of {margin}.")
    return f"Held back: {points}, margin {margin}. A person decides."


def model_event(event: str, detail: Mapping[str, object]) -> str:
    """Say what was done with a model.

    >>> model_event("model_offered", {"passes": False})
    'came out of a round, held back'
    """
    said = _MODEL_EVENTS.get(event, event)
    if "passes" in detail:
        return f"{said}, {'passed' if detail['passes'] else 'held back'}"
    if "to" in detail:
        to = OWN_MODEL if detail["to"] == "package" else f"model {detail['to']}"
        return f"{said}: back to {to}"
    return said


def round_state(state: RoundState, *, waiting_for: int) -> str:
    """Say where the round is; what comes next is told beside it.

    >>> round_state(RoundState.AWAITING_REVIEW, waiting_for=0)
    'Everything asked for is done.'
    """
    with_doctors = (RoundState.AWAITING_ANNOTATION, RoundState.AWAITING_REVIEW)
    if state in with_doctors and not waiting_for:
        return "Everything asked for is done."
    return wording.round_state(state, waiting_for=waiting_for)


def place(where: Place) -> str:
    """Say where a point lies on a control chart."""
    return _PLACES[where]


def too_few(chart: ControlChart, noun: str) -> str:
    """Say that nobody can judge yet.

    >>> too_few(ControlChart(1.0, 0.0, 2.0, 3), "review")
    'Too few to judge: 3 reviews so far, and limits need at least 8.'
    """
    so_far = wording.counted(chart.baseline, noun)
    return f"Too few to judge: {so_far} so far, and limits need at least {FEWEST}."


def continues(state: RoundState) -> str:
    """Say what the computer does next, when nothing waits for people.

    >>> continues(RoundState.AWAITING_REVIEW)
    'All reviews are done. Next, the computer measures the models and prepares the site report.'
    """
    return {
        RoundState.NONE: "A package is approved. Next, the computer chooses slices to annotate.",
        RoundState.RECEIVED: "Next, the computer chooses the slices to annotate.",
        RoundState.AWAITING_ANNOTATION: "All slices are annotated. Next, the model learns from "
        "them and segments the test patients.",
        RoundState.TRAINING: "The model has not finished learning. The computer goes on where it "
        "stopped.",
        RoundState.AWAITING_REVIEW: "All reviews are done. Next, the computer measures the models "
        "and prepares the site report.",
        RoundState.REPORTED: "The approved package begins another round.",
        RoundState.FAILED: "The last step failed. The computer tries it again where it stopped.",
    }[state]


def since(began: datetime, now: datetime) -> str:
    """Say since when something runs.

    >>> since(datetime(2026, 3, 1, 9, 0), datetime(2026, 3, 1, 9, 5))
    'since 2026-03-01 09:00 UTC, for 5 min'
    """
    return f"since {wording.moment(began)}, for {duration((now - began).total_seconds())}"
