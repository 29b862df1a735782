"""Reference points: centroids of the source features, the only source data that leave home."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

FEWEST_SLICES, FEWEST_PATIENTS = 5, 3  # that a point which leaves a hospital stands for


def fit_reference_points(
    features: NDArray[np.float32],
    k: int = 10,
    seed: int = 0,
    *,
    patients: Sequence[str] | None = None,
) -> NDArray[np.float32]:
    """Cluster source features by K-means and return the centroids (6-3), (6-4).

    Rows of zeros, slices without predicted foreground, are left out: they would make a reference
    point of "nothing found", and every empty slice of a target hospital would look familiar.

    A centroid of few slices, or of one patient's, describes somebody. Given `patients`, a cluster
    of fewer than five slices or three patients is merged with the nearest one, the smallest first.

    Args:
        features: float32 `[n, d]` of `features.latent_features`.
        k: number of reference points; fewer when there are fewer distinct rows.
        seed: for the starting centroids.
        patients: whose slice each row is; None where the points stay at home.

    Returns:
        float32 `[k, d]`, ordered by falling cluster size, then lexicographically.

    Raises:
        ValueError: when no slice has predicted foreground, or all that have are too few slices or
            patients for one point.
    """
    has = np.any(features != 0, axis=1)
    found = features[has].astype(np.float64)
    if len(found) == 0:
        raise ValueError("no slice has predicted foreground: the source model finds no target")
    count = min(k, len(np.unique(found, axis=0)))
    fit = KMeans(n_clusters=count, n_init=10, random_state=seed).fit(found)
    cluster = fit.labels_
    if patients is not None:
        cluster = _merged(found, cluster, np.asarray(patients)[has])
    groups = [found[cluster == c] for c in np.unique(cluster)]
    centres = np.stack([group.mean(axis=0) for group in groups])
    keys = [*centres.T[::-1], [-len(group) for group in groups]]
    centroids: NDArray[np.float32] = centres[np.lexsort(keys)].astype(np.float32)
    return centroids


def _merged(
    found: NDArray[np.float64], cluster: NDArray[np.int32], whose: NDArray[np.str_]
) -> NDArray[np.int32]:
    """Merge clusters until each stands for enough slices and patients."""
    cluster = cluster.copy()
    while True:
        names = np.unique(cluster)
        centres = np.stack([found[cluster == c].mean(axis=0) for c in names])
        small = [
            (int((cluster == c).sum()), int(i))
            for i, c in enumerate(names)
            if (cluster == c).sum() < FEWEST_SLICES
            or len(np.unique(whose[cluster == c])) < FEWEST_PATIENTS
        ]
        if not small:
            return cluster
        if len(names) == 1:
            raise ValueError(
                f"the source model finds the target on fewer than {FEWEST_SLICES} slices or "
                f"{FEWEST_PATIENTS} patients: a reference point would describe one of them"
            )
        _, smallest = min(small)
        distance = np.square(centres - centres[smallest]).sum(axis=1)
        distance[smallest] = np.inf
        cluster[cluster == names[smallest]] = names[int(np.argmin(distance))]
