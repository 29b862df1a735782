"""Says in plain words what a federation plan asks for, beside the plan that was approved before."""

from algorithms.contracts.federation_plan import FederationPlan, flat_fields

_NOT_SHOWN = {"kind", "schema_version", "nonce"}  # the nonce only keeps two plans from being equal
_WORDS = {
    "study": "study",
    "plan_number": "number of the plan",
    "package_id": "package (SHA-256 of its manifest, which names every weight)",
    "model_version": "version of the model",
    "code_version": "version of fedgtv",
    "cohort.modality": "patients: modality of their images",
    "cohort.roi_names": "patients: target",
    "cohort.minimum_patients": "patients: fewest to begin with",
    "cohort.minimum_group_size": "patients: fewest behind any figure that leaves",
    "permitted_outputs.messages": "may leave the hospital: message",
    "permitted_outputs.site_report_fields": "may leave the hospital: field of the site report",
    "model_updates": "adapted models",
    "model_updates.clip_norm": "adapted models: longest update (L2 norm)",
    "model_updates.noise_multiplier": "adapted models: noise over that length",
    "model_updates.delta": "adapted models: delta of the privacy guarantee",
    "valid_from": "valid from",
    "expires_at": "expires",
    "parameters.adaptation.annotation_budget": "share of slices that doctors are asked for",
}


def plan_difference(plan: FederationPlan, before: FederationPlan | None) -> list[str]:
    """List every field of a plan that is new, changed or gone, one line each.

    All of them where nothing was approved before.
    """
    now, then = _facts(plan), _facts(before) if before is not None else {}
    lines = []
    for key in [*now, *(key for key in then if key not in now)]:
        if key not in then:
            lines.append(f"{'new: ' if before is not None else ''}{_said(key, now[key])}")
        elif key not in now:
            lines.append(f"gone: {_said(key, then[key])}")
        elif now[key] != then[key]:
            lines.append(f"changed: {key} from {then[key]} to {now[key]}")
    return lines


def _facts(plan: FederationPlan) -> dict[str, str]:
    """Return what a plan says, in words; each entry of a list that permits something is a fact."""
    found: dict[str, str] = {}
    for key, value in flat_fields(plan.model_dump(mode="json", exclude=_NOT_SHOWN)).items():
        words = _WORDS.get(key) or f"method: {key.removeprefix('parameters.')}"
        if key.startswith("permitted_outputs.") and isinstance(value, list):
            found |= {f"{words}: {item}": "" for item in value}
        elif key == "model_updates":
            found[words] = "never leave"
        else:
            found[words] = _text(value)
    return found


def _said(key: str, value: str) -> str:
    return f"{key}: {value}" if value else key


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) if value else "none"
    if value is None:
        return "not set"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
