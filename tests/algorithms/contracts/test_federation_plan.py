from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from algorithms.contracts.canonical_json import canonical_json
from algorithms.contracts.federation_plan import (
    REPORT_FIELDS,
    FederationPlan,
    ModelUpdateTerms,
    PermittedOutputs,
    fields_said,
    method_parameters,
)
from tests.phantoms import tiny_manifest
from tests.simulated_site import sign_plan, tiny_federation_plan, tiny_report

MANIFEST = tiny_manifest()
CONTENT = MANIFEST.signed_bytes()


def _plan(**changes: Any) -> FederationPlan:
    fields = {"study": MANIFEST.study, "parameters": method_parameters(CONTENT)}
    return tiny_federation_plan(MANIFEST.package_id, **(fields | changes))


def test_every_number_that_rules_the_method_is_a_parameter() -> None:
    parameters = method_parameters(CONTENT)
    for section in (MANIFEST.preprocessing, MANIFEST.network, MANIFEST.adaptation.stage3):
        for name in type(section).model_fields:
            assert any(key.endswith(f".{name}") for key in parameters), name
    assert parameters["adaptation.annotation_budget"] == MANIFEST.adaptation.annotation_budget
    assert parameters["preprocessing.patch_yx"] == list(MANIFEST.preprocessing.patch_yx)
    assert parameters["seed"] == MANIFEST.seed
    assert not any(key.startswith(("files", "source_", "study")) for key in parameters)


def test_a_field_that_no_version_knew_yet_is_a_parameter_too() -> None:
    written = CONTENT[:-1] + b',"zeal":{"level":3}}'
    assert method_parameters(written) == method_parameters(CONTENT) | {"zeal.level": 3}


def test_what_is_read_back_is_what_was_signed() -> None:
    plan = _plan()
    signed = sign_plan(plan)
    assert signed.read() == plan
    assert signed.read().signed_bytes().decode() == signed.plan
    assert plan.annotation_budget == 0.25


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({}, None),
        ({"study": "another"}, "wrong_parameters"),
        ({"model_version": "9.9.9"}, "wrong_parameters"),
        ({"parameters": {}}, "wrong_parameters"),
        ({"cohort": {"modality": "CT"}}, "wrong_cohort"),
        ({"cohort": {"roi_names": ("GTVn",)}}, "wrong_cohort"),
        ({"cohort": {"roi_names": ("GTVn", "GTVp")}}, None),
    ],
)
def test_a_plan_says_of_its_package_what_the_package_says(
    changes: dict[str, Any], rule: str | None
) -> None:
    if "cohort" in changes:
        changes = {"cohort": _plan().cohort.model_copy(update=changes["cohort"])}
    assert _plan(**changes).package_rule(CONTENT) == rule


def test_no_parameter_can_be_another() -> None:
    for key, value in _plan().parameters.items():
        other = not value if isinstance(value, bool) else [value]
        changed = _plan(parameters=_plan().parameters | {key: other})
        assert changed.package_rule(CONTENT) == "wrong_parameters", key
    as_number = _plan(parameters=_plan().parameters | {"adaptation.budget_per_patient": 1})
    assert as_number.package_rule(CONTENT) == "wrong_parameters"  # though 1 == True


def test_a_plan_is_valid_from_its_first_moment_and_not_in_its_last() -> None:
    plan, moment = _plan(), timedelta(microseconds=1)
    assert plan.time_rule(plan.valid_from - moment) == "plan_too_early"
    assert plan.time_rule(plan.valid_from) is None
    assert plan.time_rule(plan.expires_at - moment) is None
    assert plan.time_rule(plan.expires_at) == "plan_expired"


TERMS = ModelUpdateTerms(clip_norm=1.0, noise_multiplier=0.5, delta=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"expires_at": datetime(2020, 1, 1, tzinfo=UTC)},  # when it begins
        {"expires_at": datetime(2041, 1, 1)},  # in no time zone
        {"model_updates": TERMS},  # and no such message
        {"permitted_outputs": PermittedOutputs(messages=("site_report", "model_update"))},
        {"plan_number": 0},
        {"note": "free text"},
    ],
)
def test_a_plan_that_disagrees_with_itself_is_none(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        _plan(**changes)


def test_only_fields_that_a_report_has_can_be_permitted() -> None:
    with pytest.raises(ValidationError, match="no field 'armz'"):
        PermittedOutputs(site_report_fields=("armz",))
    outputs = PermittedOutputs(messages=("site_report", "model_update"))
    assert _plan(permitted_outputs=outputs, model_updates=TERMS).model_updates == TERMS


def test_a_field_that_says_nothing_is_not_said() -> None:
    report = tiny_report("hospital-b", "ab" * 32)
    assert fields_said(report) == set(REPORT_FIELDS) - {
        "adapted_share",
        "yardstick",
        "paired",
        "agreement",
        "subgroups",
    }
    silent = report.model_copy(update={"revision": None, "vendors": ()})
    assert fields_said(report) - fields_said(silent) == {"revision", "vendors"}
    assert canonical_json(sorted(fields_said(silent)))
