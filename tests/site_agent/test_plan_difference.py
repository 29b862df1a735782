from datetime import UTC, datetime
from typing import Any

import pytest

from algorithms.contracts.federation_plan import (
    REPORT_FIELDS,
    FederationPlan,
    ModelUpdateTerms,
    PermittedOutputs,
    method_parameters,
)
from site_agent.plan_difference import plan_difference
from tests.phantoms import tiny_manifest
from tests.simulated_site import tiny_federation_plan

PARAMETERS = method_parameters(tiny_manifest().signed_bytes())


def plan(**changes: Any) -> FederationPlan:
    return tiny_federation_plan("ab" * 32, **({"parameters": PARAMETERS} | changes))


def test_of_the_first_plan_everything_is_said() -> None:
    lines = plan_difference(plan(), None)
    text = "\n".join(lines)
    for key, value in PARAMETERS.items():
        if not isinstance(value, list | bool) and value is not None:
            assert str(value) in text, key
    for field in REPORT_FIELDS:
        assert f"may leave the hospital: field of the site report: {field}" in lines
    assert "adapted models: never leave" in lines
    assert "share of slices that doctors are asked for: 0.25" in lines
    assert "method: adaptation.budget_per_patient: yes" in lines
    assert "method: preprocessing.patch_yx: 32, 32" in lines
    assert f"expires: {plan().model_dump(mode='json')['expires_at']}" in lines


def test_between_equal_plans_there_is_nothing() -> None:
    assert plan_difference(plan(), plan(nonce="1" * 32)) == []


COHORT = plan().cohort
TERMS = ModelUpdateTerms(clip_norm=1.5, noise_multiplier=0.5, delta=1e-5)


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"plan_number": 2}, ["changed: number of the plan from 1 to 2"]),
        (
            {"expires_at": datetime(2041, 1, 1, tzinfo=UTC)},
            ["changed: expires from 2040-01-01T00:00:00Z to 2041-01-01T00:00:00Z"],
        ),
        (
            {"cohort": COHORT.model_copy(update={"minimum_patients": 9})},
            ["changed: patients: fewest to begin with from 1 to 9"],
        ),
        (
            {"cohort": COHORT.model_copy(update={"roi_names": ("GTVp", "GTVn")})},
            ["changed: patients: target from GTVp to GTVp, GTVn"],
        ),
        (
            {"permitted_outputs": PermittedOutputs(site_report_fields=REPORT_FIELDS[:-1])},
            ["gone: may leave the hospital: field of the site report: subgroups"],
        ),
        (
            {
                "permitted_outputs": PermittedOutputs(messages=("site_report", "model_update")),
                "model_updates": TERMS,
            },
            [
                "new: may leave the hospital: message: model_update",
                "new: adapted models: longest update (L2 norm): 1.5",
                "new: adapted models: noise over that length: 0.5",
                "new: adapted models: delta of the privacy guarantee: 1e-05",
                "gone: adapted models: never leave",
            ],
        ),
    ],
)
def test_a_change_is_said_in_words(changes: dict[str, Any], lines: list[str]) -> None:
    assert plan_difference(plan(**changes), plan()) == lines


def test_no_parameter_changes_unseen() -> None:
    for key, value in PARAMETERS.items():
        other = not value if isinstance(value, bool) else "another"
        (line,) = plan_difference(plan(parameters=PARAMETERS | {key: other}), plan())
        assert line.startswith("changed: "), key
        fewer = {k: v for k, v in PARAMETERS.items() if k != key}
        (line,) = plan_difference(plan(parameters=fewer), plan())
        assert line.startswith("gone: "), key
