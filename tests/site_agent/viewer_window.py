"""A window of the viewer as the server meets it: what it draws, notes and sends."""

import base64
import gzip
from itertools import groupby
from typing import Any

import numpy as np

from algorithms.contracts.volume import MaskArray
from site_agent.drafts import Draft
from site_agent.work_message import Kind, WorkMessage, read_message


def runs(mask: MaskArray) -> str:
    """Write a mask as the viewer does; apart from the code under test."""
    counts = [] if mask.size and not mask.flat[0] else [0]
    counts += [len(list(equal)) for _, equal in groupby(mask.ravel().tolist())]
    return packed(np.array(counts, "<u4").tobytes())


def packed(data: bytes) -> str:
    """Zip and write as base64."""
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()


class Window:
    """One load of the viewer; its clock stands still unless it is told that time passes."""

    def __init__(self, draft: Draft, shape_zyx: tuple[int, int, int], sitting: str = "a") -> None:
        self.epoch, self.revision = draft.epoch, draft.revision
        self.shape = shape_zyx
        self.sitting = sitting * 16
        self.sequence = 0
        self.now_ms = 0
        self.active: list[list[int]] = []
        self.waiting: list[list[int]] = []
        self.actions: list[list[Any]] = [[0, "open", -1, {}]]
        nothing = np.zeros(shape_zyx, bool)
        self.target = nothing if draft.target is None else draft.target.copy()
        self.outside: MaskArray | None = None

    def work(self, ms: int, z: int = -1, action: str = "stroke") -> "Window":
        """Draw for some time, for a slice."""
        self.active.append([self.now_ms, self.now_ms + ms, z])
        self.now_ms += ms
        self.actions.append([self.now_ms, action, z, {"radius_mm": 2.5}])
        return self

    def wait(self, ms: int) -> "Window":
        """Wait for the model."""
        self.waiting.append([self.now_ms, self.now_ms + ms])
        return self.idle(ms)

    def idle(self, ms: int) -> "Window":
        """Let time pass."""
        self.now_ms += ms
        return self

    def value(self, **changes: Any) -> dict[str, Any]:
        """Return what the next trigger carries, and count it."""
        self.sequence += 1
        return {
            "epoch": self.epoch,
            "sitting": self.sitting,
            "sequence": self.sequence,
            "revision": self.revision,
            "target": runs(self.target),
            "outside": None if self.outside is None else runs(self.outside),
            "began_at": "2031-05-06T07:08:09.123Z",
            "elapsed_ms": self.now_ms,
            "active": [list(interval) for interval in self.active],
            "waiting": [list(span) for span in self.waiting],
            "actions": [list(action) for action in self.actions],
            **changes,
        }

    def message(self, kind: Kind = "draft", **changes: Any) -> WorkMessage:
        """Return the next message, as read by the server."""
        return read_message(self.value(**changes), kind, shape_zyx=self.shape)

    def save(self, *slices: int) -> WorkMessage:
        """Return the message of the save button."""
        return self.message("save", slices=list(slices))
