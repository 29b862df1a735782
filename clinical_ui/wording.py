"""Every word that a doctor reads: states, reasons, authors and numbers in plain language."""

import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime

from algorithms.contracts.case import Split
from algorithms.contracts.contour import Provenance
from algorithms.contracts.messages import RoundState
from algorithms.sample_selection import DOMAIN_INVARIANT, DOMAIN_SPECIFIC, REPRESENTATIVE
from evaluation.revision import REVISION_BIN_LABELS, revision_bin
from site_agent.signing import SignatureState, Standing

RESEARCH_ONLY = "Research use only, not a medical device"
SIMULATED = "simulated annotator (demo)"
SIMULATED_NOTICE = (
    "Some contours here were made by the **simulated annotator (demo)**, not by a person. "
    "They are no clinical result."
)
NO_SUCH_PAGE = "There is no page at this address."
NO_CASES = (
    "There are no cases yet. Hospital IT takes images in with `fedgtv-site ingest`; "
    "reload this page afterwards."
)
NO_ROUND = (
    "No model of the study has been approved here yet, so there is nothing to annotate or to "
    "review. Cases can be looked at on the Review page."
)
NO_ROUND_AT_SOURCE = (
    "This hospital trains the first model of the study from its own contours: there is nothing "
    "to annotate or to review. Cases can be looked at on the Review page."
)
NO_IMAGE = (
    "The image of this case cannot be read. Ask hospital IT to restore it from backup or to "
    "take the series in again; the contours are still in the database."
)
NO_DRAFT = (
    "What you drew on this case and did not save cannot be read. Ask hospital IT to restore it "
    "from a backup, or begin anew."
)
YOURS_WITHOUT_IMAGE = "● Yours; without its image nothing can be drawn."
NOT_STORED = (
    "the hospital's server cannot store anything just now: tell hospital IT, and leave this tab "
    "open, which keeps what you drew"
)
NOTHING_TO_ANNOTATE = (
    "There is nothing to annotate: no slices have been chosen yet. The worklist says what comes "
    "next."
)
THROW_AWAY = "Throw away what is not saved"
SIGNED_BEFORE = (
    "It was signed before: that signature counts no more, and what was sent or handed over must be "
    "withdrawn."
)
BLINDED = (
    "This case is in your blinded reading. What made its contours, and who, shows here when the "
    "reading is over."
)
BLINDED_LEFT_OUT = "Cases in your blinded reading are left out."
NOT_SEGMENTED = "· The model has not contoured this case; you can look at it."
SPLITS = {
    Split.TRAINING: "training",
    Split.VALIDATION: "validation",
    Split.TEST: "test",
    Split.UNASSIGNED: "new patient",
}
# How a review may end, beside a contour: value and words.
REJECTIONS = (
    ("wrong_target", "Another structure"),
    ("missed_target", "The tumour was missed"),
    ("needs_redrawing", "Faster drawn anew"),
    ("image_unusable", "Image unusable"),
    ("no_target", "There is no tumour"),
    ("other", "Another reason"),
)
SCORES = (
    ("1", "1  unusable"),
    ("2", "2  mostly wrong"),
    ("3", "3  wrong in places"),
    ("4", "4  wrong in details"),
    ("5", "5  as I would draw it"),
)
NO_ACCOUNTS = (
    "Nobody may sign in here yet. Hospital IT adds people with `fedgtv-site account add`; "
    "reload this page afterwards."
)
DEMO_SIGN_IN = (
    "This is a demonstration. The password of its account stands in the terminal in which the "
    "pages were started."
)
ROLES = {
    "annotator": "annotator: contours slices",
    "reviewer": "reviewer: reviews and signs contours",
    "it": "hospital IT: accounts, models, ledger",
    "lead": "study lead: sees the study and the ledger",
}
_WHOSE = {
    "annotator": "annotators",
    "reviewer": "reviewers",
    "it": "hospital IT",
    "lead": "study leads",
}

_ROUND_STATES = {
    RoundState.NONE: "No model of the study is in use here yet.",
    RoundState.RECEIVED: "A model has arrived; the site is choosing the slices to annotate.",
    RoundState.AWAITING_ANNOTATION: "The model waits for doctors: please annotate these slices.",
    RoundState.TRAINING: "The model is learning from the annotated slices.",
    RoundState.AWAITING_REVIEW: "The model has segmented the test patients: please review them.",
    RoundState.REPORTED: "All cases are reviewed and the site report is ready.",
    RoundState.FAILED: "The last step failed and will be tried again: please tell hospital IT.",
}

# The way of a round: state, what happens in it, and who does it.
ROUND_STEPS = (
    (RoundState.RECEIVED, "Choose the slices to annotate", "computer"),
    (RoundState.AWAITING_ANNOTATION, "Annotate the chosen slices", "doctors"),
    (RoundState.TRAINING, "Adapt the model and segment the test patients", "computer"),
    (RoundState.AWAITING_REVIEW, "Review the model's contours", "oncologists"),
    (RoundState.REPORTED, "Report aggregate figures to the study", "computer"),
)

_REASONS = {
    DOMAIN_INVARIANT: "domain-invariant: typical of the source",
    DOMAIN_SPECIFIC: "domain-specific: new at this hospital",
    REPRESENTATIVE: "representative: one of evenly spaced slices",
}
# In short, each with a shape of its own: told apart without colours.
_SHORT_REASONS = {
    DOMAIN_INVARIANT: "■ invariant",
    DOMAIN_SPECIFIC: "◆ specific",
    REPRESENTATIVE: "● spread",
}
_VERDICTS = {
    "accepted": "✓ accepted",
    "revised": "✎ revised",
    "rejected": "✕ rejected",
}
_LEDGER_KINDS = {
    "site_status": "Status: how far the round is",
    "package_receipt": "Receipt for a model package",
    "plan_receipt": "Receipt for a plan",
    "plan_approval": "Approval of a plan",
    "source_package_offer": "Source model package",
    "site_report": "Site report: aggregate figures",
    "model_update": "Model update: what training here changed",
}
_LEDGER_STATES = {
    "released": "↗ left the hospital",
    "held": "◷ waits for approval",
    "approved": "✓ approved to leave",
    "refused": "✕ refused, did not leave",
}


def round_state(state: RoundState, *, waiting_for: int) -> str:
    """Say where a round is, when `waiting_for` slices or cases still wait for a doctor.

    >>> round_state(RoundState.AWAITING_REVIEW, waiting_for=0)
    'Everything asked for is done; the computer goes on by itself.'
    """
    with_doctors = (RoundState.AWAITING_ANNOTATION, RoundState.AWAITING_REVIEW)
    if state in with_doctors and not waiting_for:
        return "Everything asked for is done; the computer goes on by itself."
    return _ROUND_STATES[state]


def role_names(roles: Iterable[str]) -> str:
    """List somebody's roles.

    >>> role_names({"it", "annotator"})
    'annotator, IT'
    """
    return ", ".join("IT" if role == "it" else role for role in ROLES if role in set(roles))


def whose(roles: Iterable[str]) -> str:
    """Say for whom something is.

    >>> whose(["reviewer"]), whose(["it", "annotator", "lead"])
    ('reviewers', 'annotators, hospital IT and study leads')
    """
    *others, last = (words for role, words in _WHOSE.items() if role in set(roles))
    return f"{', '.join(others)} and {last}" if others else last


def sentence(message: str) -> str:
    """Write what went wrong as a sentence; a name that it begins with keeps its letters.

    A first word with anything but letters in it is a name, as is one before a colon.

    >>> sentence("the password is wrong"), sentence("hospital: is taken")
    ('The password is wrong.', 'hospital: is taken.')
    >>> sentence("case-ab12, slice 3: is done"), sentence("case-ab12 is taken")
    ('case-ab12, slice 3: is done.', 'case-ab12 is taken.')
    """
    word = message.partition(" ")[0]
    is_name = word.endswith(":") or not word.rstrip(",.;").isalpha()
    first = message[:1] if is_name else message[:1].upper()
    return f"{first}{message[1:].rstrip('.')}."


def reason(role: str) -> str:
    """Say why a slice was selected.

    >>> reason("domain_specific")
    'domain-specific: new at this hospital'
    """
    return _REASONS.get(role, "chosen")


def short_reason(role: str) -> str:
    """Say why a slice was selected, in a word.

    >>> short_reason("domain_specific")
    '◆ specific'
    """
    return _SHORT_REASONS.get(role, "○ chosen")


def verdict(name: str) -> str:
    """Say what came of a review.

    >>> verdict("revised")
    '✎ revised'
    """
    return _VERDICTS.get(name, name)


def unreadable(contours: Iterable[str]) -> str:
    """Say which contours cannot be shown.

    >>> unreadable(["Reference"])
    'Cannot be read, ask hospital IT: Reference'
    """
    return f"Cannot be read, ask hospital IT: {', '.join(contours)}"


def rejection(reason: str) -> str:
    """Say why a contour was rejected.

    >>> rejection("missed_target")
    'the tumour was missed'
    """
    return dict(REJECTIONS).get(reason, "another reason").lower()


def signature(state: SignatureState, *, is_dicom: bool = True) -> str:
    """Say whether a contour is signed; only a case that came as DICOM is sent."""
    row = state.signature
    if row is None:
        return "Not signed."
    if state.standing is Standing.OUTDATED:
        return "Signed, then changed: sign again."
    if not is_dicom:
        return f"Signed {moment(row.signed_at)}."
    where = "in the PACS" if row.sent_at is not None else "not sent yet"
    return f"Signed {moment(row.signed_at)}, {where}."


def duration(seconds: float | None) -> str:
    """Write a time that was measured.

    >>> duration(75.4), duration(None)
    ('1 min 15 s', 'not measured')
    """
    if seconds is None:
        return "not measured"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def counted(number: int, noun: str) -> str:
    """Write how many of something there are.

    >>> counted(1, "case"), counted(0, "new patient")
    ('1 case', '0 new patients')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def about_minutes(minutes: float) -> str:
    """Write an expected time; it is no promise.

    >>> about_minutes(0.3), about_minutes(12.4), about_minutes(135)
    ('under 1 min', 'about 12 min', 'about 2 h 15 min')
    """
    whole = round(minutes)
    if whole < 1:
        return "under 1 min"
    hours, rest = divmod(whole, 60)
    return f"about {hours} h {rest} min" if hours else f"about {whole} min"


def how_long(since: datetime, now: datetime) -> str:
    """Write how long something has been so; both UTC.

    >>> how_long(datetime(2026, 3, 1, 9, 0), datetime(2026, 3, 1, 11, 10))
    'for 2 h'
    """
    minutes = int((now - since).total_seconds() // 60)
    if minutes < 1:
        return "since just now"
    if minutes < 60:
        return f"for {minutes} min"
    hours = minutes // 60
    if hours < 48:
        return f"for {hours} h"
    return f"for {hours // 24} days"


def score(value: float) -> str:
    """Write the distance to the source; below zero it is undefined, as the model saw no tumour.

    >>> score(1.25), score(-1.0)
    ('1.25', 'none: the model sees no tumour')
    """
    return "none: the model sees no tumour" if value < 0 or math.isnan(value) else f"{value:.3g}"


def author(username: str | None, names: Mapping[str, str] | None = None, *, simulated: bool) -> str:
    """Name who made a contour, as `names` calls people; the demo's stand-in is always called that.

    >>> author("a", {"a": "Dr A"}, simulated=False), author("x", {}, simulated=True)
    ('Dr A', 'simulated annotator (demo)')
    >>> author("gone", {}, simulated=False), author(None, simulated=False)
    ('gone', '')
    """
    if simulated:
        return SIMULATED
    return (names or {}).get(username or "", username or "")


def works_on_it(holder: str, names: Mapping[str, str]) -> str:
    """Say that somebody else has a case, in Markdown.

    >>> works_on_it("a", {"a": "Dr A"})
    '◆ Dr A works on it. You can look.'
    """
    return f"◆ {verbatim(names.get(holder, holder))} works on it. You can look."


def verbatim(text: str) -> str:
    r"""Keep a name or label from being read as Markdown, in which tables are written.

    >>> verbatim(">5-10 %"), verbatim("dr_a")
    ('\\>5-10 %', 'dr\\_a')
    """
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~$:])", r"\\\1", text)


def person(dicom_name: str) -> str:
    """Write the name of a person as people say it, from the parts that DICOM writes.

    >>> person("Doe^Jane^A^Dr"), person("Doe")
    ('Dr Jane A Doe', 'Doe')
    """
    family, given, middle, prefix, suffix = (*dicom_name.split("^"), "", "", "", "", "")[:5]
    return " ".join(part for part in (prefix, given, middle, family, suffix) if part)


def is_simulated(provenance: str | None) -> bool:
    """Say whether a contour comes from the demo's stand-in."""
    return provenance == Provenance.SIMULATED.value


def slice_number(slice_z: int, slices: int) -> str:
    """Write a slice index as doctors count: from 1.

    >>> slice_number(0, 24)
    '1 / 24'
    """
    return f"{slice_z + 1} / {slices}"


def degree(percent: float) -> str:
    """Write a revision degree with its bin.

    >>> degree(7.25)
    '7.2 % (>5-10 %)'
    """
    return f"{percent:.1f} % ({REVISION_BIN_LABELS[revision_bin(percent)]})"


def spacing(spacing_zyx_mm: tuple[float, float, float]) -> str:
    """Write pixel size and slice distance.

    >>> spacing((3.0, 0.75, 0.75))
    '0.75 x 0.75 mm, slices 3.00 mm apart'
    """
    z, y, x = spacing_zyx_mm
    return f"{x:.2f} x {y:.2f} mm, slices {z:.2f} mm apart"


def millilitres(volume_ml: float | None) -> str:
    """Write a volume; None when there is no contour.

    >>> millilitres(12.345), millilitres(None)
    ('12.3 ml', 'none')
    """
    return "none" if volume_ml is None else f"{volume_ml:.1f} ml"


def ledger_kind(kind: str) -> str:
    """Say what kind of message a ledger entry is about."""
    return _LEDGER_KINDS.get(kind, "Unknown message")


def ledger_state(state: str) -> str:
    """Say what became of a message."""
    return _LEDGER_STATES.get(state, state)


def size(size_bytes: int) -> str:
    """Write a size in bytes.

    >>> size(812), size(20480)
    ('812 B', '20.0 kB')
    """
    if size_bytes < 1024:
        return f"{size_bytes} B"
    kilobytes = size_bytes / 1024
    return f"{kilobytes:.1f} kB" if kilobytes < 1024 else f"{kilobytes / 1024:.1f} MB"


def moment(at: datetime | str) -> str:
    """Write a UTC time to the minute.

    >>> moment("2026-03-01T09:30:12.5")
    '2026-03-01 09:30 UTC'
    """
    time = datetime.fromisoformat(at) if isinstance(at, str) else at
    return f"{time:%Y-%m-%d %H:%M} UTC"
