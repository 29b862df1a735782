"""A C-STORE service class provider: takes what allowed peers send, and nothing from others.

Both the listener and a C-MOVE receive through it. What is received is handed on as the bytes of a
DICOM file, undecoded.
"""

import logging
import ssl
from collections.abc import Callable, Sequence
from typing import Protocol, Self

from pydicom.uid import (
    JPEG2000,
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
    RTStructureSetStorage,
    SegmentationStorage,
)
from pynetdicom import AE, evt
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.transport import ThreadedAssociationServer

from algorithms.contracts.errors import DataError
from site_agent.network_config import Peer

SUCCESS, OUT_OF_RESOURCES, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xC000  # PS3.4 B.2.3
VERIFICATION = UID("1.2.840.10008.1.1")
STORAGE_CLASSES = (
    MRImageStorage, EnhancedMRImageStorage, CTImageStorage, EnhancedCTImageStorage,
    PositronEmissionTomographyImageStorage, EnhancedPETImageStorage, RTStructureSetStorage,
    SegmentationStorage,
)  # fmt: skip
UNCOMPRESSED = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
COMPRESSED = [
    JPEGLosslessSV1, JPEGLossless, JPEGLSLossless, JPEG2000Lossless, RLELossless, JPEG2000,
    JPEGLSNearLossless, JPEGExtended12Bit, JPEGBaseline8Bit,
]  # fmt: skip
_MAXIMUM_ASSOCIATIONS = 16


def silence_network() -> None:
    """Keep pynetdicom from logging: at its lower levels it prints whole data sets."""
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)


def storage_contexts() -> list[PresentationContext]:
    """List what is accepted: images that can be decoded, structure sets and segmentations."""
    syntaxes = [*UNCOMPRESSED, *COMPRESSED]
    return [build_context(one, list(syntaxes)) for one in STORAGE_CLASSES]


class Receiver(Protocol):
    """Who is told about what comes in, from the threads of the associations."""

    def received(self, association: object, content: bytes) -> None:
        """Keep one DICOM file: DataError when it is none, OSError when there is no room."""

    def released(self, association: object) -> None:
        """Learn that an association ended as it should: its sender sent all it meant to."""

    def broken(self, association: object) -> None:
        """Learn that a connection is gone; `released` may still follow for the same one."""


class StoreScp:
    """Listens while it is entered.

    Args:
        peers: who may associate; caller's AE title and address must be of one and the same.
        refused: is told in one line who was turned away.
    """

    def __init__(
        self,
        receiver: Receiver,
        *,
        ae_title: str,
        host: str,
        port: int,
        peers: Sequence[Peer],
        tls: ssl.SSLContext | None = None,
        timeout_s: float = 60.0,
        refused: Callable[[str], None] = lambda line: None,
    ) -> None:
        silence_network()
        self._receiver, self._peers, self._refused = receiver, tuple(peers), refused
        self._where, self._tls = (host, port), tls
        self._ae = AE(ae_title=ae_title)
        self._ae.require_called_aet = True
        self._ae.maximum_associations = _MAXIMUM_ASSOCIATIONS
        self._ae.acse_timeout = self._ae.dimse_timeout = self._ae.network_timeout = timeout_s
        self._ae.supported_contexts = [build_context(VERIFICATION), *storage_contexts()]
        self._server: ThreadedAssociationServer | None = None

    def __enter__(self) -> Self:
        """Open the port.

        Raises:
            OSError: it is taken, or the address is not this machine's.
        """
        self._server = self._ae.start_server(
            self._where,
            block=False,
            ssl_context=self._tls,
            evt_handlers=[
                (evt.EVT_REQUESTED, self._check_caller),
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_RELEASED, lambda event: self._receiver.released(event.assoc)),
                (evt.EVT_CONN_CLOSE, lambda event: self._receiver.broken(event.assoc)),
            ],
        )
        return self

    def __exit__(self, *_: object) -> None:
        """Close the port and what is open."""
        self._ae.shutdown()

    def _check_caller(self, event: evt.Event) -> None:
        """Turn away whoever is no peer (PS3.8 9.3.4: 1, 1, 3 and 1, 1, 7)."""
        request = event.assoc.requestor.primitive
        address = str(event.assoc.requestor.address)
        calling = str(request.calling_ae_title).strip() if request is not None else ""
        called = str(request.called_ae_title).strip() if request is not None else ""
        if not any(peer.is_at(calling, address) for peer in self._peers):
            _reject(event, 0x03)
            self._refused(f"refused {calling!r} at {address}: it is none of the peers")
        elif called != self._ae.ae_title:
            _reject(event, 0x07)
            self._refused(f"refused {calling!r} at {address}: it called {called!r}, not us")

    def _store(self, event: evt.Event) -> int:
        try:
            self._receiver.received(event.assoc, event.encoded_dataset())
        except OSError:
            return OUT_OF_RESOURCES
        except DataError:
            return NOT_UNDERSTOOD
        return SUCCESS


def _reject(event: evt.Event, reason: int) -> None:
    event.assoc.acse.send_reject(0x01, 0x01, reason)
    event.assoc.kill()  # which waits until the rejection is out, before the connection is closed
