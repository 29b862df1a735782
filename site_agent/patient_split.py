"""Which patients a site learns from, chooses models with and tests on."""

import math
from collections.abc import Sequence

import numpy as np

from algorithms.contracts.case import Split
from algorithms.contracts.errors import DataError
from site_agent.case_store import CaseStore


def split_patients(
    patient_ids: Sequence[str], *, seed: int, test_share: float, validation_share: float
) -> dict[str, Split]:
    """Split patients into test, validation and training.

    All seeds share one shuffled order; each takes the next window of it as its test set, so that
    consecutive seeds test on different patients until all have been tested once.

    >>> splits = [split_patients("abcdef", seed=s, test_share=1/3, validation_share=1/6)
    ...           for s in range(3)]
    >>> sorted(p for split in splits for p, part in split.items() if part is Split.TEST)
    ['a', 'b', 'c', 'd', 'e', 'f']

    Raises:
        DataError: with fewer than three patients.
    """
    count = len(patient_ids)
    if count < 3:
        raise DataError(f"{count} patients with contours: ingest at least 3, better 10 or more")
    tests = max(1, math.ceil(count * test_share - 1e-9))
    validations = round(count * validation_share)
    if tests + validations >= count:
        raise DataError(f"{count} patients leave none to train on: lower test_share")
    order = np.random.default_rng(0).permutation(count)
    ordered = [sorted(patient_ids)[i] for i in np.roll(order, -seed * tests)]
    parts = [Split.TEST] * tests + [Split.VALIDATION] * validations
    parts += [Split.TRAINING] * (count - len(parts))
    return dict(zip(ordered, parts, strict=True))


def assign_patients(store: CaseStore, modality: str) -> None:
    """Split the site's patients once; what comes later or is of another modality takes no part.

    Raises:
        DataError: no case is of `modality`, or the site was split for another one before.
    """
    assigned = {case.modality for case in store.cases() if case.split is not Split.UNASSIGNED}
    if others := assigned - {modality}:
        raise DataError(
            f"the model is for {modality}, but this site takes part with {min(others)} cases: "
            "start a home of its own for the other modality"
        )
    if assigned:
        return
    config = store.home.config
    cases = [case for case in store.cases() if case.modality == modality]
    if not cases:
        raise DataError(
            f"the model is for {modality}, and no case here is: ingest {modality} series, or ask "
            "the study lead for the right package"
        )
    with_reference = sorted({case.patient_id for case in cases if case.has_reference})
    splits = split_patients(
        with_reference or sorted({case.patient_id for case in cases}),
        seed=config.seed,
        test_share=config.test_share,
        validation_share=config.validation_share,
    )
    store.assign_splits(splits, modality)
