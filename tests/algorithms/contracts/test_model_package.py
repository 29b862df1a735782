import pytest
from pydantic import ValidationError

from algorithms.contracts.model_package import AdaptationPlan, Manifest, StudyPlan
from tests.phantoms import tiny_manifest, tiny_plan

DOCUMENT = tiny_manifest().model_dump(mode="json")
ONE_VALUE_ONLY = {
    ("schema_version",),
    ("network", "name"),
    ("network", "in_channels"),
    ("network", "out_channels"),
    ("intended_use",),
}
OTHER_VALUES = {  # where the rule below gives no permitted value
    ("modality",): "CT",
    ("preprocessing", "normalisation"): "percentile_range",
    ("preprocessing", "patch_yx", 0): 64,
    ("preprocessing", "patch_yx", 1): 64,
}
OTHER_VALUES["adaptation", "supervision"] = "scribble"
OTHER_VALUES["adaptation", "unlabelled"] = "none"
for _stage in ("stage1", "stage3", "target_trained"):
    OTHER_VALUES["adaptation", _stage, "optimiser"] = "adam"
    OTHER_VALUES["adaptation", _stage, "decay"] = "step"


def leaves(value, path=()):
    """Walk a JSON value: yield the path of every scalar."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*path, key))
    else:
        yield path


def value_at(document, path):
    for key in path:
        document = document[key]
    return document


def replaced(document, path, value):
    """Copy a JSON value with another one at `path`."""
    if not path:
        return value
    copy = document.copy()
    copy[path[0]] = replaced(copy[path[0]], path[1:], value)
    return copy


def another(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return ("0" if value[0] != "0" else "1") + value[1:]
    if value is None:
        return 1
    return value + 1 if isinstance(value, int) else value / 2 + 0.01


@pytest.mark.parametrize("path", [p for p in leaves(DOCUMENT) if p not in ONE_VALUE_ONLY], ids=str)
def test_the_id_changes_with_any_field(path) -> None:
    value = OTHER_VALUES.get(path, another(value_at(DOCUMENT, path)))
    other = Manifest.model_validate(replaced(DOCUMENT, path, value))
    assert other.package_id != tiny_manifest().package_id


@pytest.mark.parametrize("path", sorted(ONE_VALUE_ONLY), ids=str)
def test_another_schema_network_or_use_is_no_manifest_of_this_version(path) -> None:
    with pytest.raises(ValidationError):
        Manifest.model_validate(replaced(DOCUMENT, path, another(value_at(DOCUMENT, path))))


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError):
        Manifest.model_validate(DOCUMENT | {"note": "free text"})


def test_the_id_survives_writing_and_reading() -> None:
    manifest = tiny_manifest()
    assert Manifest.model_validate_json(manifest.signed_bytes()).package_id == manifest.package_id
    assert Manifest.model_validate_json(manifest.model_dump_json(indent=3)) == manifest


def test_the_intended_use_is_research() -> None:
    assert tiny_manifest().intended_use == "Research use only, not a medical device"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("preprocessing", "patch_yx"), [0, 32]),
        (("preprocessing", "patch_yx"), [-32, 32]),
        (("preprocessing", "clip_percentiles"), [99.5, 0.5]),
        (("preprocessing", "clip_percentiles"), [5.0, 5.0]),
        (("preprocessing", "clip_percentiles"), [-1.0, 99.0]),
        (("preprocessing", "clip_percentiles"), [1.0, 100.5]),
        (("source_training", "learning_rate"), 1.5),
        (("source_training", "momentum"), 1.0),
        (("adaptation", "stage1", "learning_rate"), 30.0),
        (("preprocessing", "in_plane_spacing_mm"), float("inf")),
        (("roi_name",), "GTVp_fourteen_"),  # "^AI" would not fit behind it
        (("network", "in_channels"), 3),
        (("network", "out_channels"), 3),
    ],
)
def test_a_plan_that_cannot_be_carried_out_names_its_key(path, value) -> None:
    document = replaced(tiny_plan().model_dump(mode="json"), path, value)
    with pytest.raises(ValidationError) as caught:
        StudyPlan.model_validate(document)
    assert caught.value.errors()[0]["loc"][: len(path)] == path


@pytest.mark.parametrize("patch_yx", [[30, 32], [32, 50]])
def test_a_patch_that_the_network_cannot_halve_is_no_plan(patch_yx) -> None:
    plan = tiny_plan().model_dump(mode="json")  # 3 levels: multiples of 4
    with pytest.raises(ValidationError, match="multiples of 4") as caught:
        StudyPlan.model_validate(replaced(plan, ("preprocessing", "patch_yx"), patch_yx))
    assert caught.value.errors()[0]["loc"] == ("network",)
    del plan["network"]  # the default network has 5 levels
    with pytest.raises(ValidationError, match="multiples of 16"):
        StudyPlan.model_validate(replaced(plan, ("preprocessing", "patch_yx"), [40, 48]))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("preprocessing", "patch_yx"), [30, 32]),
        (("preprocessing", "in_plane_spacing_mm"), float("inf")),
        (("roi_name",), "GTVp_fourteen_"),
    ],
)
def test_nor_is_such_a_plan_a_manifest(path, value) -> None:
    with pytest.raises(ValidationError):
        Manifest.model_validate(replaced(DOCUMENT, path, value))


def test_dual_tasks_need_contours() -> None:
    plan = tiny_plan().adaptation.model_dump() | {
        "supervision": "scribble",
        "unlabelled": "dual_task",
    }
    with pytest.raises(ValidationError, match="a scribble has no level set"):
        AdaptationPlan.model_validate(plan)


def test_a_plan_written_before_there_were_scribbles_asks_for_contours() -> None:
    plan = tiny_plan().adaptation.model_dump(exclude={"supervision", "unlabelled"})
    found = AdaptationPlan.model_validate(plan)
    assert (found.supervision, found.unlabelled) == ("dense", "pseudo_labels")


def test_dual_tasks_need_room_for_both_halves_of_a_batch() -> None:
    plan = tiny_plan().adaptation.model_dump()
    plan["stage3"]["batch_size"] = 1
    plan["unlabelled"] = "dual_task"
    with pytest.raises(ValidationError, match="at least 2"):
        AdaptationPlan.model_validate(plan)
