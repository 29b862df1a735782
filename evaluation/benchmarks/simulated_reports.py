"""A study of many simulated patients, from their rows to the reports of their hospitals.

Nothing is segmented: rows are drawn, so that what hospitals say and what a study lead computes from
it can be tried at the size of the thesis's cohort (1,057 patients), with what goes wrong in one.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from algorithms.contracts.site_report import AnnotationSummary, SiteReport
from algorithms.contracts.subgroups import Vendor, t_stage_group, volume_group
from evaluation.case_metrics import CaseMetrics
from evaluation.site_summary import (
    ARMS,
    PatientRow,
    RaterRow,
    ReportSubject,
    RevisionRow,
    summarise_site,
)

STUDY = "simulated-cohort"
PACKAGE_ID = "5c" * 32
SITES = {"north": 420, "south": 310, "east": 204, "west": 120, "island": 3}  # 1,057 patients
MAKERS: dict[str, tuple[Vendor, ...]] = {"south": ("ge",), "west": ("ge",)}  # else siemens
RATERS = "abcd"
RATED_PATIENTS = 20
_MEAN_DICE = {"direct": 0.70, "adapted": 0.83, "target_trained": 0.85}
_GAIN_PER_ROUND = 0.006
_STAGE_UNKNOWN = 0.08
_SLICES_PER_ROUND = 4  # of every patient's 20


@dataclass(frozen=True)
class SimulatedSite:
    """What one hospital knows and does not say.

    Attributes:
        rows: one per patient and arm.
        revisions: one per patient.
        raters: one per pair of raters and rated patient.
    """

    name: str
    rows: tuple[PatientRow, ...]
    revisions: tuple[RevisionRow, ...]
    raters: tuple[RaterRow, ...]
    round_number: int = 1

    def report(self, *, minimum_group_size: int = 5) -> SiteReport:
        """Summarise as a hospital does."""
        patients = len(self.revisions)
        return summarise_site(
            self.rows,
            subject=ReportSubject(
                study=STUDY,
                site=self.name,
                package_id=PACKAGE_ID if self.round_number == 1 else f"{self.round_number:064x}",
                model_version=f"v{self.round_number}",
                adapted_model_sha256="7e" * 32,
                code_version="0.1.0",
                seed=0,
                vendors=MAKERS.get(self.name, ("siemens",)),
            ),
            annotation=AnnotationSummary(
                strategy="stdr",
                training_patients=patients,
                training_slices=20 * patients,
                selected_slices=_SLICES_PER_ROUND * patients,
                patients_with_selected_slices=patients,
                earlier_slices=_SLICES_PER_ROUND * (self.round_number - 1) * patients,
                simulated=True,
            ),
            revisions=self.revisions,
            raters=self.raters,
            minimum_group_size=minimum_group_size,
        )


def simulate_study(
    generator: Generator,
    *,
    sites: dict[str, int] | None = None,
    failures: int = 1,
    round_number: int = 1,
) -> list[SimulatedSite]:
    """Draw the patients of a study.

    Args:
        generator: draws everything.
        sites: patients of every hospital; None takes `SITES`.
        failures: patients of the first hospital whom the adapted model misses altogether.
        round_number: every round asks for as many slices more, and adaptation gains a little.
    """
    drawn = []
    for i, (name, patients) in enumerate((SITES if sites is None else sites).items()):
        shift = 0.02 * generator.standard_normal()
        missed = failures if i == 0 else 0
        gained = {"adapted": _GAIN_PER_ROUND * (round_number - 1)}
        dsc = {
            arm: np.clip(
                generator.normal(mean + shift + gained.get(arm, 0.0), 0.08, patients), 0.05, 0.99
            )
            for arm, mean in _MEAN_DICE.items()
        }
        dsc["adapted"][:missed] = 0.0
        # Drawn apart, so that the figures are those of a study without subgroups.
        volumes_ml, stages = _tumours(generator.spawn(1)[0], dsc["direct"])
        rows = [
            PatientRow(
                arm,
                _metrics(generator, value, volumes_ml[number]),
                patient=f"{name}-{number}",
                subgroups={
                    "t_stage": t_stage_group(stages[number]),
                    "volume": volume_group(volumes_ml[number]),
                    "scanner": MAKERS.get(name, ("siemens",))[0],
                },
            )
            for arm in ARMS
            for number, value in enumerate(dsc[arm].tolist())
        ]
        revisions = [
            RevisionRow(
                degree_percent=float(min(generator.gamma(3.0, 2.2), 60.0)),
                active_s=float(generator.gamma(9.0, 12.0)),
                simulated=True,
            )
            for _ in range(patients)
        ]
        raters = list(_rate(generator, min(patients, RATED_PATIENTS)))
        drawn.append(
            SimulatedSite(name, tuple(rows), tuple(revisions), tuple(raters), round_number)
        )
    return drawn


def _tumours(generator: Generator, dsc: NDArray[np.float64]) -> tuple[list[float], list[str]]:
    """Draw volumes and T stages: larger where Dice is higher, and of a higher stage."""
    size = (dsc - dsc.mean()) / max(float(dsc.std()), 1e-6) + generator.standard_normal(len(dsc))
    volumes_ml = np.exp(np.log(20.0) + 0.5 * size)
    stages = 1 + np.searchsorted((-1.0, 0.0, 1.0), size + generator.standard_normal(len(dsc)))
    unknown = generator.random(len(dsc)) < _STAGE_UNKNOWN
    return volumes_ml.tolist(), [
        "Tx" if not_said else f"T{stage}" for stage, not_said in zip(stages, unknown, strict=True)
    ]


def _rate(generator: Generator, patients: int) -> Iterator[RaterRow]:
    """Draw how the raters agree; one of them, the first, drew every patient twice."""
    pairs: Sequence[tuple[str, str]] = [("a", "a"), *combinations(RATERS, 2)]
    for first, second in pairs:
        for dsc in np.clip(generator.normal(0.86, 0.04, patients), 0.5, 0.99).tolist():
            yield RaterRow(first, second, dsc, float(generator.gamma(4.0, 1.0)))


def _metrics(generator: Generator, dsc: float, volume_ml: float) -> CaseMetrics:
    """Draw figures that go with a Dice; of a missed tumour the distances are undefined."""
    hd95_mm = float(generator.gamma(4.0, 1.0) * (1.2 - dsc) * 3) if dsc else math.nan
    nsd = float(np.clip(dsc + generator.normal(0.05, 0.05), 0.01, 1.0)) if dsc else 0.0
    return CaseMetrics(
        dsc=dsc,
        jaccard=dsc / (2 - dsc),
        hd_mm=1.5 * hd95_mm,
        hd95_mm=hd95_mm,
        asd_predicted_to_reference_mm=hd95_mm / 4,
        asd_reference_to_predicted_mm=hd95_mm / 4,
        assd_mm=hd95_mm / 4,
        nsd={1.0: nsd, 2.0: nsd},
        nsd_voxel={1.0: nsd, 2.0: nsd},
        volume_reference_ml=volume_ml,
        volume_predicted_ml=volume_ml * dsc,
    )
