"""The PACS over the classic DICOM network (PS3.7, PS3.8): C-ECHO, C-FIND, C-MOVE, C-GET, C-STORE.

Messages name AE titles, counts and status codes. What the PACS says of patients is returned to the
caller and goes nowhere else.
"""

import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext, build_context, build_role

from algorithms.contracts.errors import DataError
from site_agent.network_config import PacsConfig, Peer
from site_agent.network_tls import client_context, server_context
from site_agent.pacs import (
    FIND_LIMIT,
    Receive,
    RefusedError,
    SeriesFound,
    StudyFound,
    StudyQuery,
    checked_uid,
)
from site_agent.store_scp import (
    COMPRESSED,
    NOT_UNDERSTOOD,
    OUT_OF_RESOURCES,
    STORAGE_CLASSES,
    SUCCESS,
    UNCOMPRESSED,
    VERIFICATION,
    StoreScp,
    silence_network,
)

# The study root information models, which every archive has (PS3.4 C.6.2).
_FIND = UID("1.2.840.10008.5.1.4.1.2.2.1")
_MOVE = UID("1.2.840.10008.5.1.4.1.2.2.2")
_GET = UID("1.2.840.10008.5.1.4.1.2.2.3")
_PENDING = {0xFF00, 0xFF01}
_WARNINGS_OF_STORE = {0xB000, 0xB006, 0xB007}  # stored, with elements coerced or dropped
_PARTLY = 0xB000  # of C-MOVE and C-GET: some instances failed; the count afterwards says which
_INSTANCES_AT_ONCE = 50
_MOST_CONTEXTS = 128  # PS3.8 9.3.2.2: odd numbers from 1 to 255
_WHY_REJECTED = {  # (source, reason) of PS3.8 9.3.4
    (1, 3): "it does not know our AE title {ours}: have {ours} registered there, with this machine",
    (1, 7): "it goes by another AE title than {theirs}: correct the key ae_title",
    (3, 1): "it is busy: try again later",
    (3, 2): "it has too many connections: try again later",
}


class DimsePacs:
    """A PACS reached by DIMSE; see `site_agent.pacs.Pacs`."""

    def __init__(self, config: PacsConfig, home: Path) -> None:
        silence_network()
        self.name, self._config = config.name, config
        ways = {"auto": ("move", "get"), "move": ("move",), "get": ("get",)}
        self.ways: tuple[str, ...] = ways[config.retrieve]
        self._theirs, self._ours = config.ae_title or "", config.own_ae_title
        self._tls: ssl.SSLContext | None = None
        self._receive_tls: ssl.SSLContext | None = None
        if config.tls is not None:
            self._tls = client_context(config.tls, home)
            if config.tls.certificate_file is not None:
                self._receive_tls = server_context(config.tls, home)

    def echo(self) -> None:
        """C-ECHO."""
        with self._associate([build_context(VERIFICATION)]) as association:
            self._check(association.send_c_echo(), "the echo")

    # -- find -----------------------------------------------------------------------------------

    def find_studies(self, query: StudyQuery) -> list[StudyFound]:
        """C-FIND at study level."""
        keys = {
            "PatientID": query.patient_id,
            "PatientName": "",
            "AccessionNumber": query.accession_number,
            "StudyDate": query.study_date,
            "ModalitiesInStudy": query.modality,
            "StudyInstanceUID": query.study_uid,
            "StudyDescription": "",
        }
        return [
            StudyFound.read(partial(_text, found))
            for found in self._find("STUDY", keys, limit=FIND_LIMIT)
        ]

    def find_series(self, study_uid: str) -> list[SeriesFound]:
        """C-FIND at series level."""
        wanted = ("Modality", "SeriesDescription", "BodyPartExamined", "SeriesInstanceUID")
        keys = {"StudyInstanceUID": checked_uid(study_uid), **dict.fromkeys(wanted, "")}
        keys["NumberOfSeriesRelatedInstances"] = ""
        return [
            SeriesFound.read(study_uid, partial(_text, found))
            for found in self._find("SERIES", keys, limit=FIND_LIMIT)
        ]

    def find_instances(self, series: SeriesFound) -> frozenset[str]:
        """C-FIND at image level, which every archive offers; counts of instances are optional."""
        keys = {**_series_keys(series), "SOPInstanceUID": ""}
        found = self._find("IMAGE", keys)
        return frozenset(_text(one, "SOPInstanceUID") for one in found) - {""}

    def _find(self, level: str, keys: dict[str, str], limit: int | None = None) -> list[Dataset]:
        found: list[Dataset] = []
        with self._associate([build_context(_FIND)]) as association:
            for status, identifier in association.send_c_find(_query(level, keys), _FIND):
                if "Status" in status and status.Status in _PENDING:
                    if identifier is not None:
                        found.append(identifier)
                    if limit is not None and len(found) > limit:
                        association.abort()
                        raise DataError(
                            f"{self.name} finds more than {limit}: ask for fewer, such as one "
                            "patient or one day"
                        )
                else:
                    self._check(status, "the search")
        return found

    # -- retrieve -------------------------------------------------------------------------------

    def retrieve(
        self, way: str, series: SeriesFound, instances: Sequence[str] | None, receive: Receive
    ) -> None:
        """C-MOVE to ourselves ("move") or C-GET ("get"), the whole series or some instances."""
        retrieve = self._move if way == "move" else self._get
        if instances is None:
            retrieve(_query("SERIES", _series_keys(series)), receive)
            return
        for start in range(0, len(instances), _INSTANCES_AT_ONCE):
            query = _query("IMAGE", _series_keys(series))
            query.SOPInstanceUID = list(instances[start : start + _INSTANCES_AT_ONCE])
            retrieve(query, receive)

    def _move(self, query: Dataset, receive: Receive) -> None:
        scp = StoreScp(
            _HandOn(receive),
            ae_title=self._ours,
            host=self._config.receive_host,
            port=self._config.receive_port,
            peers=self._config.senders or self._own_senders(),
            tls=self._receive_tls,
            timeout_s=self._config.transfer_timeout_s,
        )
        try:
            scp.__enter__()
        except OSError as error:
            where = f"{self._config.receive_host}, port {self._config.receive_port}"
            raise RefusedError(
                f"C-MOVE: {where}, cannot be opened ({error.strerror}): correct the keys "
                "receive_host and receive_port"
            ) from None
        try:
            with self._associate([build_context(_MOVE)]) as association:
                for status, _ in association.send_c_move(query, self._ours, _MOVE):
                    self._check_retrieval(status, "C-MOVE")
        finally:
            scp.__exit__()

    def _get(self, query: Dataset, receive: Receive) -> None:
        contexts = [build_context(_GET)]
        for one in STORAGE_CLASSES:  # one context for each compression, so that none is undone
            contexts.append(build_context(one, list(UNCOMPRESSED)))
            contexts.extend(build_context(one, syntax) for syntax in COMPRESSED)
        roles = [build_role(one, scp_role=True) for one in STORAGE_CLASSES]

        def store(event: evt.Event) -> int:
            try:
                receive(event.encoded_dataset())
            except OSError:
                return OUT_OF_RESOURCES
            except DataError:
                return NOT_UNDERSTOOD
            return SUCCESS

        with self._associate(contexts, roles, [(evt.EVT_C_STORE, store)]) as association:
            if not _accepts(association, _GET):
                raise RefusedError("C-GET: it is not offered")
            for status, _ in association.send_c_get(query, _GET):
                self._check_retrieval(status, "C-GET")

    def _own_senders(self) -> tuple[Peer, ...]:
        """Expect what a C-MOVE sends from the PACS itself."""
        try:
            found = socket.getaddrinfo(self._config.host, None, type=socket.SOCK_STREAM)
        except OSError:
            raise DataError(
                f"the host of {self.name} has no address: correct the key host"
            ) from None
        addresses = sorted({str(entry[4][0]).partition("%")[0] for entry in found})
        return tuple(
            Peer.model_validate({"ae_title": self._theirs, "address": address})
            for address in addresses
        )

    def _check_retrieval(self, status: Dataset, what: str) -> None:
        """Pass over progress; after a refusal the next way is tried.

        An archive may refuse by aborting, as Orthanc does where C-MOVE is not allowed.
        """
        if "Status" not in status:
            raise RefusedError(f"{what}: the connection broke")
        if status.Status not in (*_PENDING, SUCCESS, _PARTLY):
            raise RefusedError(f"{what}: refused with status 0x{status.Status:04X}")

    # -- send -----------------------------------------------------------------------------------

    def send(self, files: Sequence[Path]) -> None:
        """C-STORE."""
        if not files:
            return
        kinds = [_kind(file) for file in files]
        contexts = [build_context(*kind) for kind in dict.fromkeys(kinds)]
        if len(contexts) > _MOST_CONTEXTS:
            raise DataError("too many kinds of objects at once: send fewer files")
        with self._associate(contexts) as association:
            for done, (file, kind) in enumerate(zip(files, kinds, strict=True)):
                progress = f"{done} of {len(files)} objects were stored in {self.name}"
                if not _accepts(association, *kind):
                    raise DataError(
                        f"{progress}; it does not accept {kind[0].name} as {kind[1].name}: "
                        f"{file} was not sent"
                    )
                status = association.send_c_store(file)
                if "Status" not in status:
                    raise DataError(f"{progress}, then the connection broke: send them again")
                if status.Status not in (SUCCESS, *_WARNINGS_OF_STORE):
                    raise DataError(
                        f"{progress}; it refused {file} with status 0x{status.Status:04X}: "
                        "ask its administrator, then send them again"
                    )

    # -- associations ---------------------------------------------------------------------------

    @contextmanager
    def _associate(
        self,
        contexts: list[PresentationContext],
        roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
        handlers: Sequence[tuple[evt.EventType, Callable[..., object]]] = (),
    ) -> Iterator[Association]:
        """Hold an association, released at the end or aborted by an error.

        Raises:
            RefusedError: none of the services is offered.
            DataError: the PACS is not there or does not let us in.
        """
        ae = AE(ae_title=self._ours)
        ae.acse_timeout = ae.connection_timeout = self._config.timeout_s
        ae.dimse_timeout = ae.network_timeout = self._config.transfer_timeout_s
        rejections: list[A_ASSOCIATE_RJ] = []

        def note(event: evt.Event) -> None:
            if isinstance(event.pdu, A_ASSOCIATE_RJ):
                rejections.append(event.pdu)

        association = ae.associate(
            self._config.host,
            self._config.port,
            contexts=contexts,
            ae_title=self._theirs,
            ext_neg=list(roles),
            evt_handlers=[*handlers, (evt.EVT_PDU_RECV, note)],
            tls_args=None if self._tls is None else (self._tls, self._config.host),
        )
        if not association.is_established:
            raise self._not_established(association, rejections)
        try:
            yield association
        except BaseException:
            if association.is_established:
                association.abort()
            raise
        if association.is_established:
            association.release()

    def _not_established(
        self, association: Association, rejections: Sequence[A_ASSOCIATE_RJ]
    ) -> DataError:
        # Not from `association.is_rejected`: pynetdicom 3.0 takes a rejection that is read very
        # fast for a connection that never was.
        for rejection in rejections:
            why = _WHY_REJECTED.get((rejection.source or 0, rejection.reason_diagnostic or 0))
            reason = (why or "it gives no usable reason").format(
                ours=self._ours, theirs=self._theirs
            )
            return DataError(f"{self.name} refuses the connection: {reason}")
        if association.acceptor.primitive is not None:
            return RefusedError(f"{self.name} does not offer this service")
        encrypted = " with TLS" if self._tls is not None else ""
        return DataError(
            f"{self.name} does not answer at {self._config.host}, port {self._config.port}"
            f"{encrypted}: check that it runs and the keys host, port and tls"
        )

    def _check(self, status: Dataset, what: str) -> None:
        if "Status" not in status:
            raise DataError(
                f"{self.name} did not answer, or the connection broke, during {what}: "
                "run the same command again"
            )
        if status.Status != SUCCESS:
            raise DataError(
                f"{self.name} refused {what} with status 0x{status.Status:04X}: "
                "ask its administrator what our AE title may do"
            )


class _HandOn:
    """A receiver of `StoreScp` for which associations make no difference."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive

    def received(self, association: object, content: bytes) -> None:
        """Hand on."""
        self._receive(content)

    def released(self, association: object) -> None:
        """Do nothing: the search says what is missing."""

    def broken(self, association: object) -> None:
        """Do nothing: the search says what is missing."""


def _query(level: str, keys: dict[str, str]) -> Dataset:
    query = Dataset()
    query.SpecificCharacterSet = "ISO_IR 192"
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    return query


def _series_keys(series: SeriesFound) -> dict[str, str]:
    study, one = checked_uid(series.study_uid), checked_uid(series.series_uid)
    return {"StudyInstanceUID": study, "SeriesInstanceUID": one}


def _text(found: Dataset, keyword: str) -> str:
    """Return a value as text; what is broken is as good as absent on a screen."""
    try:
        value = found.get(keyword, "")
    except Exception:  # pydicom decodes a value where it is used
        return ""
    many = not isinstance(value, str) and hasattr(value, "__iter__") and keyword != "PatientName"
    return "\\".join(str(one) for one in value) if many else str(value or "")


def _kind(file: Path) -> tuple[UID, UID]:
    """Read what a file is and how it is encoded."""
    try:
        meta = pydicom.filereader.read_file_meta_info(file)
        return meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID
    except Exception:  # whatever a broken byte leads to
        raise DataError(f"{file}: no DICOM file: give files that can be sent") from None


def _accepts(association: Association, abstract: UID, syntax: UID | None = None) -> bool:
    return any(
        context.abstract_syntax == abstract
        and (syntax is None or syntax in (context.transfer_syntax or ()))
        for context in association.accepted_contexts
    )
