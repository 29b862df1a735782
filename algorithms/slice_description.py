"""What a model says about slices; apart from `features`, so that reading it needs no torch."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class SliceDescription:
    """What a model says about `n` slices, without any label; rows are slices.

    Attributes:
        features: float32 `[n, 256]`, (6-2); zeros where no foreground is predicted.
        embedding: float32 `[n, c]`, the coarsest features of the encoder, averaged over the slice:
            what it looks like, whether or not the target is found.
        foreground_share: float32 `[n]`, part of the pixels that are predicted foreground.
        least_confidence: float32 `[n]`, mean over pixels of the lowest class probability: (2-14).
        margin: float32 `[n]`, mean of the best minus the second best: (2-15).
        entropy: float32 `[n]`, mean of the Shannon entropy in nats: (2-16).
    """

    features: NDArray[np.float32]
    embedding: NDArray[np.float32]
    foreground_share: NDArray[np.float32]
    least_confidence: NDArray[np.float32]
    margin: NDArray[np.float32]
    entropy: NDArray[np.float32]

    def rows(self, chosen: NDArray[np.intp]) -> "SliceDescription":
        """Return some of the slices, or all in another order."""
        return SliceDescription(*(getattr(self, field.name)[chosen] for field in fields(self)))
