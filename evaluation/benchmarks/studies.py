"""The studies that the demo and the benchmarks run: which hospitals, which data, which plan."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import (
    AdaptationPlan,
    NetworkSpec,
    PreprocessingRecipe,
    StudyPlan,
    TrainingSchedule,
)
from algorithms.contracts.subgroups import TStage
from evaluation.benchmarks.pack_to_dicom import list_cases, write_case
from evaluation.benchmarks.phantom_hospitals import HOSPITALS, patient_tags, write_patient

Preset = Literal["cpu", "full"]
# hospital, folder, seed -> a call for every patient, which writes `folder/<hospital>/...` as DICOM.
# Another process makes the call, so it can be pickled.
ImageWriters = Callable[[str, Path, int], Sequence[Callable[[], None]]]


@dataclass(frozen=True)
class Hospital:
    """One site of a study.

    Attributes:
        name: as sites are named everywhere.
        roi_names: what its planning system calls the target.
    """

    name: str
    roi_names: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """What is run: the source hospital, the targets, their data and the plan.

    Attributes:
        name: of the study.
        image_writers: write the patients of one hospital.
        inputs_digest: changes when what the inputs are made from changes.
        source_test_share: part of the source hospital's patients who test its model at home.
        test_share, validation_share: parts of every other hospital's patients. No validation
            patients in these studies: a choice of weights by one or two patients was worse than
            none.
        minimum_group_size: what the hospitals set for release.
        t_stages: hospital, seed -> PatientID -> invented T stage; None: nobody gives any.
    """

    name: str
    source: Hospital
    targets: tuple[Hospital, ...]
    plan: StudyPlan
    image_writers: ImageWriters
    inputs_digest: str
    source_test_share: float
    test_share: float
    validation_share: float
    minimum_group_size: int
    t_stages: Callable[[str, int], dict[str, TStage]] | None = None

    @property
    def hospitals(self) -> tuple[Hospital, ...]:
        """The source and the targets."""
        return (self.source, *self.targets)


def phantom_study(preset: Preset) -> Study:
    """Return the study on phantom hospitals: nothing but a seed is needed."""
    profiles = {profile.name: profile for profile in HOSPITALS}

    def image_writers(hospital: str, folder: Path, seed: int) -> list[Callable[[], None]]:
        profile = profiles[hospital]
        return [
            partial(write_patient, profile, index, folder / hospital, seed)
            for index in range(profile.patients)
        ]

    def t_stages(hospital: str, seed: int) -> dict[str, TStage]:
        """Invent stages, which have nothing to do with the tumours."""
        profile = profiles[hospital]
        known = _PHANTOM_STAGES.get(hospital, ("T1", "T2", "T3", "T4"))
        patients = [patient_tags(profile, i, seed).patient_id for i in range(profile.patients)]
        return {one: known[i % len(known)] for i, one in enumerate(patients)}

    hospitals = [Hospital(profile.name, (profile.roi_name,)) for profile in HOSPITALS]
    return Study(
        name="phantom",
        source=hospitals[0],
        targets=tuple(hospitals[1:]),
        plan=_PHANTOM_PLANS[preset],
        image_writers=image_writers,
        inputs_digest=sha256_hex(repr(HOSPITALS).encode()),
        source_test_share=0.3,
        test_share=0.3,
        validation_share=0.0,
        minimum_group_size=5,
        t_stages=t_stages,
    )


def sts_study(pack: Path, preset: Preset) -> Study:
    """Return the study on real soft-tissue sarcomas: T1 MR, source GE SIGNA EXCITE.

    The targets have 7 and 6 patients, so a third is tested on per seed and three seeds test every
    one of them. The source has 13; it keeps more of them to learn from. Every volume of the pack
    was cut 50 mm around its tumour: whole slices of one size let the network use where it is. The
    images are public; the minimum group size is the lowest a site may set.

    Args:
        pack: folder with `cases.csv` and one `.npz` per patient.
        preset: how long to train.

    Raises:
        DataError: when the pack has no `cases.csv`.
    """

    def image_writers(hospital: str, folder: Path, _seed: int) -> list[Callable[[], None]]:
        cases = list_cases(pack, pack="sts", sites=frozenset([hospital]))
        return [partial(write_case, case, folder, pack="sts") for case in cases]

    roi_names = ("GTV_Mass", "GTVp")
    return Study(
        name="sts",
        source=Hospital("ge-signa-excite", roi_names),
        targets=(Hospital("ge-other", roi_names), Hospital("siemens", roi_names)),
        plan=_STS_PLANS[preset],
        image_writers=image_writers,
        inputs_digest=_pack_digest(pack),
        source_test_share=0.2,
        test_share=1 / 3,
        validation_share=0.0,
        minimum_group_size=2,
    )


def _pack_digest(pack: Path) -> str:
    """Digest the table of a pack with the names and sizes of its arrays."""
    table = pack / "cases.csv"
    if not table.is_file():
        raise DataError(f"{table}: no such file: give the folder that holds the pack's cases.csv")
    sizes = sorted((file.name, file.stat().st_size) for file in pack.glob("*.npz"))
    return sha256_hex(table.read_bytes() + repr(sizes).encode())


def _schedule(
    iterations: int, learning_rate: float, *, batch_size: int = 16, augmentation: float = 1.0
) -> TrainingSchedule:
    return TrainingSchedule(
        iterations=iterations,
        batch_size=batch_size,
        learning_rate=learning_rate,
        augmentation=augmentation,
        validate_every=max(1, iterations // 6),
    )


# Some six test patients are one group and not two: of the stages of a hospital that sees them all
# nothing is told.
_PHANTOM_STAGES: dict[str, tuple[TStage, ...]] = {
    "hospital-b": ("T3", "T4"),
    "hospital-c": ("T1", "T2"),
}

_PHANTOM_PLANS: dict[Preset, StudyPlan] = {
    "cpu": StudyPlan(
        preprocessing=PreprocessingRecipe(in_plane_spacing_mm=2.5, patch_yx=(64, 64)),
        network=NetworkSpec(base_channels=8),
        # Hundreds of iterations do not learn the variety that thousands do.
        source_training=_schedule(600, 0.03, augmentation=0.4),
        adaptation=AdaptationPlan(
            stage1=_schedule(150, 0.02, augmentation=0.4),
            stage3=_schedule(75, 0.003, augmentation=0.4),
            target_trained=_schedule(300, 0.02, augmentation=0.4),
        ),
    ),
    "full": StudyPlan(
        preprocessing=PreprocessingRecipe(in_plane_spacing_mm=1.0, patch_yx=(160, 160)),
        network=NetworkSpec(base_channels=16),
        source_training=_schedule(8000, 0.03, batch_size=32),
        adaptation=AdaptationPlan(
            stage1=_schedule(3000, 0.02, batch_size=32),
            stage3=_schedule(3000, 0.003, batch_size=32),
            target_trained=_schedule(6000, 0.02, batch_size=32),
        ),
    ),
}

_STS_PLANS: dict[Preset, StudyPlan] = {
    "cpu": StudyPlan(
        preprocessing=PreprocessingRecipe(
            in_plane_spacing_mm=None, patch_yx=(64, 64), normalisation="percentile_range"
        ),
        network=NetworkSpec(base_channels=16),
        source_training=_schedule(700, 0.03),
        adaptation=AdaptationPlan(
            stage1=_schedule(120, 0.001),
            stage3=_schedule(60, 0.001),
            target_trained=_schedule(180, 0.001),
            share_folds=4,
        ),
    ),
    "full": StudyPlan(
        preprocessing=PreprocessingRecipe(
            in_plane_spacing_mm=None, patch_yx=(256, 256), normalisation="percentile_range"
        ),
        network=NetworkSpec(base_channels=16),
        source_training=_schedule(30000, 0.03, batch_size=32),
        adaptation=AdaptationPlan(
            stage1=_schedule(6000, 0.01, batch_size=32),
            stage3=_schedule(6000, 0.003, batch_size=32),
            target_trained=_schedule(12000, 0.01, batch_size=32),
            share_folds=4,
        ),
    ),
}
