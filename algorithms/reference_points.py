"""Reference points: centroids of the source features, the only source data that leave home."""

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans


def fit_reference_points(
    features: NDArray[np.float32], k: int = 10, seed: int = 0
) -> NDArray[np.float32]:
    """Cluster source features by K-means and return the centroids (6-3), (6-4).

    Rows of zeros, slices without predicted foreground, are left out: they would make a reference
    point of "nothing found", and every empty slice of a target hospital would look familiar.

    Args:
        features: float32 `[n, d]` of `features.latent_features`.
        k: number of reference points; fewer when there are fewer distinct rows.
        seed: for the starting centroids.

    Returns:
        float32 `[k, d]`, ordered by falling cluster size, then lexicographically.

    Raises:
        ValueError: when no slice has predicted foreground.
    """
    found = features[np.any(features != 0, axis=1)]
    if len(found) == 0:
        raise ValueError("no slice has predicted foreground: the source model finds no target")
    count = min(k, len(np.unique(found, axis=0)))
    fit = KMeans(n_clusters=count, n_init=10, random_state=seed).fit(found.astype(np.float64))
    sizes = np.bincount(fit.labels_, minlength=count)
    keys = [*fit.cluster_centers_.T[::-1], -sizes]
    centroids: NDArray[np.float32] = fit.cluster_centers_[np.lexsort(keys)].astype(np.float32)
    return centroids
