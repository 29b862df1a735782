"""Raters' contours in folders: how far they agree, as tables and rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import FloatArray, MaskArray
from evaluation.agreement import (
    RaterAgreement,
    agreement_table,
    fleiss_kappa,
    icc_2_1,
    icc_3_1,
    mean_and_sd,
    rater_agreement,
)
from evaluation.mask_files import read_together
from evaluation.overlap import volume_ml
from evaluation.scoring import find_grids, mask_files, spacing_of

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class FolderAgreement:
    """What folders of contours say about their raters.

    Attributes:
        cases: by name, in the order of the last axis of everything.
        pairs: Dice and HD95.
        volumes_ml: float64 `[raters, cases]`, of the first sitting.
        second_volumes_ml: of the second; empty without one.
        kappa: Fleiss' kappa of the voxels per case, over the box that holds every contour of the
            case; it depends on how much of that box is background, Dice does not. NaN where all
            voxels have one answer.
    """

    cases: tuple[str, ...]
    pairs: RaterAgreement
    volumes_ml: FloatArray
    second_volumes_ml: FloatArray
    kappa: FloatArray

    def rows(self) -> list[Row]:
        """Return one row per pair of raters and case, each pair once."""
        repeated = self.pairs.repeated
        return [
            {
                "rater": one,
                "other": f"{other}, second sitting" if repeated else other,
                "case": case,
                "dsc": float(self.pairs.dsc[i, j, k]),
                "hd95_mm": float(self.pairs.hd95_mm[i, j, k]),
            }
            for i, one in enumerate(self.pairs.rows)
            for j, other in enumerate(self.pairs.columns)
            if repeated or i < j
            for k, case in enumerate(self.cases)
        ]

    def summary(self) -> Row:
        """Return the matrices and the coefficients."""
        dsc, dsc_sd = mean_and_sd(self.pairs.dsc)
        hd95, hd95_sd = mean_and_sd(self.pairs.hd95_mm)
        return {
            "raters": list(self.pairs.rows),
            "repeated": self.pairs.repeated,
            "dsc": {"mean": dsc.tolist(), "sd": dsc_sd.tolist()},
            "hd95_mm": {"mean": hd95.tolist(), "sd": hd95_sd.tolist()},
            "failures": self.pairs.failures().tolist(),
            "undefined_hd95": self.pairs.undefined().tolist(),
            "volume_icc": self.volume_icc(),
            "voxel_kappa": self.kappa.tolist(),
        }

    def volume_icc(self) -> Row:
        """Return ICC(2,1) and ICC(3,1) of the volumes: between raters, or per rater repeated."""
        if not self.pairs.repeated:
            tables = {"between raters": self.volumes_ml.T}
        else:
            tables = {
                name: np.stack([one, other], axis=1)
                for name, one, other in zip(
                    self.pairs.rows, self.volumes_ml, self.second_volumes_ml, strict=True
                )
            }
        if len(self.cases) < 2 or not np.isfinite(self.volumes_ml).all():
            return {}
        return {
            name: {"icc_2_1": vars(icc_2_1(table)), "icc_3_1": vars(icc_3_1(table))}
            for name, table in tables.items()
        }


def agreement_of_folders(
    raters: Sequence[Path],
    second: Sequence[Path] = (),
    *,
    spacing_zyx_mm: Sequence[float] | None = None,
    label: int | None = None,
    roi: str | None = None,
    grid: Path | None = None,
) -> FolderAgreement:
    """Measure agreement between folders of masks that have the same file names.

    Args:
        raters: one folder each; the folder's name is the rater's.
        second: the folders of their second sitting, in the same order; none: between raters.
        spacing_zyx_mm: where the files do not say it.
        label: compare this one; None: everything above 0 is one region.
        roi: the region to read from RTSTRUCTs.
        grid: folder of the images on which RTSTRUCTs were drawn: `scoring.find_grids`.

    Raises:
        DataError: too few folders, other cases in one of them, or files that do not fit together.
    """
    if second and len(second) != len(raters):
        raise DataError(f"{len(raters)} raters, {len(second)} second sittings: give one each")
    if not second and len(raters) < 2:
        raise DataError("agreement needs the folders of two raters, or --second for one")
    names = [folder.resolve().name for folder in raters]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in raters]
    if len({folder.resolve() for folder in raters}) < len(raters):
        raise DataError("one folder is given twice: every rater needs one of their own")
    folders = [*raters, *second]
    files = [mask_files(folder) for folder in folders]
    for folder, found in zip(folders, files, strict=True):
        if found.keys() != files[0].keys():
            case = sorted(found.keys() ^ files[0].keys())[0]
            raise DataError(
                f"{folders[0]} and {folder} differ in case {case}: every rater needs every case "
                "(an empty mask where nothing was drawn)"
            )
    cases = tuple(files[0])
    grids = find_grids(grid, cases) if grid else {}
    masks: list[list[MaskArray]] = [[] for _ in folders]
    spacings: list[Sequence[float]] = []
    for case in cases:
        paths = [found[case] for found in files]
        contents = read_together(paths, label=label, roi=roi, grid=grids.get(case))
        spacings.append(spacing_of(contents, spacing_zyx_mm, f"case {case}"))
        regions = [one.labels == label if label else one.labels > 0 for one in contents]
        for row, region in zip(masks, _cut_out(regions), strict=True):
            row.append(region)
    first = dict(zip(names, masks[: len(raters)], strict=True))
    later = dict(zip(names, masks[len(raters) :], strict=True)) if second else None
    pairs = rater_agreement(first, spacings, second=later)
    volumes = np.array(
        [[volume_ml(m, s) for m, s in zip(row, spacings, strict=True)] for row in masks]
    )
    return FolderAgreement(
        cases,
        pairs,
        volumes[: len(raters)],
        volumes[len(raters) :],
        np.array([_voxel_kappa([row[k] for row in masks]) for k in range(len(cases))]),
    )


def _cut_out(masks: Sequence[MaskArray]) -> list[MaskArray]:
    """Keep of masks the box that holds all contours: nothing that is measured lies outside."""
    drawn = np.argwhere(np.logical_or.reduce(masks))
    if not len(drawn):
        return [mask[(slice(1),) * mask.ndim].copy() for mask in masks]
    box = tuple(slice(a, b + 1) for a, b in zip(drawn.min(axis=0), drawn.max(axis=0), strict=True))
    return [mask[box].copy() for mask in masks]


def _voxel_kappa(masks: Sequence[MaskArray]) -> float:
    if not any(mask.any() for mask in masks):
        return float("nan")
    return fleiss_kappa([mask.ravel().tolist() for mask in masks])


def agreement_report(found: FolderAgreement) -> str:
    """Show table, coefficients and what was left out."""
    title = "repeated by the same rater" if found.pairs.repeated else "between raters"
    lines = [
        f"Dice in % and HD95 in mm {title}, mean ± SD of {len(found.cases)} cases",
        "",
        agreement_table(found.pairs),
        "",
    ]
    coefficients = found.volume_icc()
    for name, values in coefficients.items():
        told = ", ".join(
            f"{kind} {_coefficient(values[key])}"
            for kind, key in (("ICC(2,1)", "icc_2_1"), ("ICC(3,1)", "icc_3_1"))
        )
        lines.append(f"Volume, {name}: {told}")
    if not coefficients:
        lines.append("Volume: no intraclass correlation, which needs two cases of known volume")
    kappa, spread = (float(figure) for figure in mean_and_sd(found.kappa))
    told = "-" if math.isnan(kappa) else f"{kappa:.3f}"
    told += "" if math.isnan(spread) else f" ± {spread:.3f}"
    if left_out := int(np.isnan(found.kappa).sum()):
        told += f" ({left_out} undefined, where all of the box has one answer)"
    lines.append(f"Fleiss' kappa of the voxels in the box of all contours: {told}")
    return "\n".join(lines)


def _coefficient(found: Mapping[str, float]) -> str:
    if math.isnan(found["value"]):
        return "- (the cases do not differ)"
    if math.isnan(found["low"]):
        return f"{found['value']:.3f} (interval unknown)"
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
