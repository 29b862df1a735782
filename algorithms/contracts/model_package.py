"""The model package: what a source hospital hands to the others, and the parameters that rule it.

A package is a directory: `manifest.json`, `model.safetensors`, `reference_points.npy` (K x D
float32) and `signature.json` (Ed25519 over the bytes of `manifest.json`). The manifest lists the
SHA-256 and size of every other file, so one signature covers all. There is no pickle in it.
"""

from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from algorithms.contracts.canonical_json import canonical_json, sha256_hex

MANIFEST_FILE = "manifest.json"
SIGNATURE_FILE = "signature.json"
MODEL_FILE = "model.safetensors"
REFERENCE_POINTS_FILE = "reference_points.npy"
PACKAGE_FILES = (MODEL_FILE, REFERENCE_POINTS_FILE)


class _Noun(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NetworkSpec(_Noun):
    """Which network, and its arguments."""

    name: Literal["unet2d"] = "unet2d"
    in_channels: Literal[1] = 1
    out_channels: Literal[2] = 2  # background and target
    base_channels: int = Field(default=16, ge=2, le=256)
    levels: int = Field(default=5, ge=2, le=6)


class PreprocessingRecipe(_Noun):
    """How an image becomes network input (6.2.3: axial slices, zero mean, unit variance).

    Attributes:
        in_plane_spacing_mm: pixel size after resampling; slices are not resampled along z. None
            resizes every whole slice to `patch_yx` pixels (6.2.3: 256 x 256), so that the network
            always sees all of it and where in the field of view it is.
        patch_yx: size of a training patch in pixels; whole slices are used for inference, mirrored
            outwards where they are smaller.
        normalisation: "z_score" gives the body zero mean and unit variance (6.2.3);
            "percentile_range" maps the clip percentiles to -2 and 2, which does not depend on how
            much of an image is bright fat.
        foreground_percentile: the volume is normalised by the mean and standard deviation of the
            voxels brighter than this percentile, so that air does not set the scale.
        clip_percentiles: grey values outside are clipped first.
    """

    in_plane_spacing_mm: Annotated[float, Field(gt=0)] | None = 2.0
    patch_yx: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] = (96, 96)
    foreground_percentile: float = Field(default=20.0, ge=0, lt=100)
    clip_percentiles: tuple[float, float] = (0.5, 99.5)
    normalisation: Literal["z_score", "percentile_range"] = "z_score"

    @field_validator("clip_percentiles")
    @classmethod
    def _are_a_range(cls, percentiles: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= percentiles[0] < percentiles[1] <= 100:
            raise ValueError("two percentiles, 0 <= low < high <= 100")
        return percentiles


class TrainingSchedule(_Noun):
    """One training run (6.2.3: SGD, momentum, decaying rate; best validation model is kept).

    Attributes:
        optimiser: "sgd", or "adam" (which takes no momentum).
        decay: of the rate, see `algorithms.training.learning_rate`.
        decay_from: iteration from which "step" and "exponential" count.
        decay_every: iterations in which they multiply the rate by `decay_factor`.
        most_gradient: longer gradients are shortened to this norm.
        target_share: so much of every batch is drawn from slices with target, the rest from all.
            0 draws evenly, as printed; most slices show no target, and short trainings then learn
            little about it.
        augmentation: strength of the random changes, see `algorithms.augmentation`; short trainings
            do better with less.
    """

    iterations: int = Field(gt=0)
    batch_size: int = Field(default=16, gt=0)
    learning_rate: float = Field(default=0.03, gt=0, le=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0, le=1)
    optimiser: Literal["sgd", "adam"] = "sgd"
    decay: Literal["polynomial", "step", "exponential"] = "polynomial"
    poly_power: float = Field(default=0.9, ge=0, le=10)
    decay_from: int = Field(default=0, ge=0)
    decay_every: int = Field(default=2500, gt=0)
    decay_factor: float = Field(default=0.1, gt=0, le=1)
    most_gradient: float = Field(default=5.0, gt=0)
    target_share: float = Field(default=0.5, ge=0, le=1)
    augmentation: float = Field(default=1.0, ge=0, le=1)
    validate_every: int = Field(default=50, gt=0)


Supervision = Literal["dense", "scribble"]


class AdaptationPlan(_Noun):
    """Every method parameter a site needs; signed with the package, so a result names them.

    Attributes:
        annotation_budget: share of a site's training slices that doctors are asked for.
        annotation_minutes: what a site's doctors are asked for instead, where the site has logged
            how long its doctors take for a slice (their median).
        selection_strategy: a name in the registry of `algorithms.sample_selection`.
        budget_per_patient: every patient is asked for the budget's share of their own slices. False
            ranks all slices of the site together, as printed (6-6); with few patients one of them
            then fills a whole half.
        representative_share: part of the budget of the training patients that is spaced evenly
            through each of them (through all their slices where they are ranked together), a fair
            sample to find `adapted_share` on; the strategy chooses the rest. 0 as printed.
        supervision: what doctors draw: "dense" contours, or a "scribble" on every class, from which
            the stages learn by dynamically mixed pseudo labels (4-4).
        unlabelled: what the slices without annotation are used for. "pseudo_labels": stage 2 labels
            them by the model of stage 1 (with scribbles (4-2) does, anew in every step);
            "dual_task": they are the unlabelled half of (5-7), which needs contours; "none": there
            are no stages 2 and 3.
        stage1: fine-tuning on the annotated slices (6-7).
        stage3: fine-tuning on annotated slices and the others; not run with `unlabelled` "none".
        target_trained: comparator "trained on all target labels", for studies that hold all
            reference contours; None where a study does not ask for it.
        adapted_share: how far the delivered weights go from the source model (0) to the end of
            stage 3 (1); None lets the site find it by cross-validation over its own annotated
            patients (`algorithms.adapted_share.choose_share`).
        share_folds: into how many parts the annotated patients are put for it; at most one per
            patient.
        promotion_margin: the adapted model comes into use at the site only if its mean Dice on the
            site's validation patients is at most this much below that of the model in use.
        pseudo_label_min_confidence: pixels of stage 2 whose probability is nearer to one half carry
            no loss.
    """

    annotation_budget: float = Field(default=0.2, gt=0, le=1)
    annotation_minutes: float | None = Field(default=None, gt=0)
    selection_strategy: str = Field(default="stdr", pattern=r"^[a-z0-9_]{1,32}$")
    budget_per_patient: bool = True
    representative_share: float = Field(default=0.5, ge=0, le=1)
    supervision: Supervision = "dense"
    unlabelled: Literal["pseudo_labels", "dual_task", "none"] = "pseudo_labels"
    stage1: TrainingSchedule
    stage3: TrainingSchedule
    target_trained: TrainingSchedule | None = None
    adapted_share: float | None = Field(default=None, ge=0, le=1)
    share_folds: int = Field(default=2, ge=2)
    promotion_margin: float = Field(default=0.01, ge=0, le=1)
    pseudo_label_min_confidence: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _dual_tasks_need_contours(self) -> Self:
        if self.unlabelled == "dual_task" and self.supervision == "scribble":
            raise ValueError(
                "unlabelled = 'dual_task' needs supervision = 'dense': a scribble has no level set"
            )
        if self.unlabelled == "dual_task" and self.stage3.batch_size < 2:
            raise ValueError(
                "unlabelled = 'dual_task' needs a batch_size of stage3 of at least 2: half of a "
                "batch is unlabelled"
            )
        return self


# TG-263 and DICOM end at 16 characters; three are for the "^AI" of an exported model's contour.
RoiName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_^~+-]{1,13}$")]


def _fits_the_patch(network: NetworkSpec, info: ValidationInfo) -> NetworkSpec:
    stride = 2 ** (network.levels - 1)
    recipe = info.data.get("preprocessing")  # absent when it is wrong itself
    if recipe is not None and any(side % stride for side in recipe.patch_yx):
        raise ValueError(
            f"{network.levels} levels need preprocessing.patch_yx in multiples of {stride}"
        )
    return network


Network = Annotated[NetworkSpec, AfterValidator(_fits_the_patch)]  # after `preprocessing`


class StudyPlan(_Noun):
    """What the study lead asks of the source hospital.

    All but `source_training` ends up in the signed manifest: what a target site has to follow.
    """

    model_version: str = Field(default="1.0.0", pattern=r"^[a-z0-9][a-z0-9.+-]{0,39}$")
    roi_name: RoiName = "GTVp"
    modality: str = Field(default="MR", pattern=r"^[A-Z]{2,4}$")
    preprocessing: PreprocessingRecipe = PreprocessingRecipe()
    network: Network = Field(default=NetworkSpec(), validate_default=True)
    source_training: TrainingSchedule
    adaptation: AdaptationPlan
    reference_points: int = Field(default=10, gt=0)


class FileEntry(_Noun):
    """A file of the package."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)


class SourceValidation(_Noun):
    """What the source hospital measured on its own held-out patients (mean over patients)."""

    validation_patients: int
    validation_dsc: float | None
    test_patients: int
    test_dsc: float | None


class Manifest(_Noun):
    """What a package says about itself; the signature covers the bytes it was written as."""

    schema_version: Literal[1] = 1
    study: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    model_version: str = Field(pattern=r"^[a-z0-9][a-z0-9.+-]{0,39}$")
    parent_version: str | None = None
    roi_name: RoiName = "GTVp"
    modality: str = Field(default="MR", pattern=r"^[A-Z]{2,4}$")
    preprocessing: PreprocessingRecipe
    network: Network
    adaptation: AdaptationPlan
    reference_point_count: int = Field(gt=0)
    reference_point_dimension: int = Field(gt=0)
    source_training_slices: int = Field(gt=0)
    source_validation: SourceValidation
    seed: int
    licence: str = Field(default="Apache-2.0", pattern=r"^[A-Za-z0-9.+-]{1,40}$")  # SPDX
    intended_use: Literal["Research use only, not a medical device"] = (
        "Research use only, not a medical device"
    )
    files: dict[str, FileEntry]

    def signed_bytes(self) -> bytes:
        """Return the canonical JSON that the coordinator writes and signs.

        Only for a manifest that was just made: one that was read may have been written by another
        version, which knew other fields, and is known by the bytes that came.
        """
        return canonical_json(self.model_dump(mode="json"))

    @property
    def package_id(self) -> str:
        """Name a package that was just made: SHA-256 of its manifest, 64 hexadecimal digits."""
        return sha256_hex(self.signed_bytes())


class Signature(_Noun):
    """Ed25519 signature over the bytes of `manifest.json`.

    Attributes:
        key_id: first 16 hexadecimal digits of the SHA-256 of the raw public key.
        signature_hex: 64 bytes.
    """

    algorithm: Literal["ed25519"] = "ed25519"
    key_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    signature_hex: str = Field(pattern=r"^[0-9a-f]{128}$")
