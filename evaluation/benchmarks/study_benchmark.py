"""The whole road over several seeds: mean and spread of what adaptation gains."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.benchmarks.studies import Study
from evaluation.benchmarks.study_road import Road, TransportName, run_study
from evaluation.benchmarks.study_table import ARMS, site_rows


def benchmark_study(
    study: Study, folder: Path, *, seeds: int, transport: TransportName = "embedded"
) -> list[dict[str, Any]]:
    """Run a study with seeds 0..n-1 and return a row per seed and target site."""
    rows = []
    for seed in range(seeds):
        report = run_study(Road(study, folder / f"seed-{seed}", seed, transport))
        rows += site_rows(report)
    return rows


def summarise_seeds(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return mean and spread over seeds per site, and over all sites, weighted by patients.

    The spread is the sample standard deviation of the seeds' means. What a report suppressed takes
    no part; a figure of which everything was suppressed is None.
    """
    sites = list(dict.fromkeys(row["site"] for row in rows))
    summary = [_summary(site, [r for r in rows if r["site"] == site]) for site in sites]
    summary.append(_summary("all sites", rows))
    return summary


def _summary(site: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {"site": site, "seeds": len(_seeds(rows))}
    for arm in ARMS:
        per_seed = [_pooled([r for r in rows if r["seed"] == seed], arm) for seed in _seeds(rows)]
        means = [mean for mean in per_seed if mean is not None]
        result[f"{arm}_dsc_mean"] = _mean(means)
        result[f"{arm}_dsc_sd"] = round(float(np.std(means, ddof=1)), 4) if len(means) > 1 else None
        failures = [row.get(f"{arm}_failures", 0) for row in rows]
        result[f"{arm}_failures"] = None if None in failures else sum(failures)
        result[f"{arm}_patients"] = sum(row.get(f"{arm}_patients", 0) for row in rows)
    gains = [_difference(row, "adapted_dsc", "direct_dsc") for row in rows]
    result["adapted_minus_direct_per_run"] = gains
    drops = [_difference(row, "source_dsc_at_home", "direct_dsc") for row in rows]
    result["lost_from_home_dsc_mean"] = _mean([drop for drop in drops if drop is not None])
    return result


def _pooled(rows: Sequence[dict[str, Any]], arm: str) -> float | None:
    """Mean Dice over the patients of one seed; a missed tumour counts as 0."""
    known = [row for row in rows if row.get(f"{arm}_dsc") is not None]
    if not known:
        return None
    patients = [row[f"{arm}_patients"] for row in known]
    return float(np.average([row[f"{arm}_dsc"] for row in known], weights=patients))


def _difference(row: dict[str, Any], one: str, other: str) -> float | None:
    if row[one] is None or row[other] is None:
        return None
    return round(float(row[one] - row[other]), 4)


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


def _seeds(rows: Sequence[dict[str, Any]]) -> list[int]:
    return sorted({row["seed"] for row in rows})
