"""The PACS over DICOMweb (PS3.18): QIDO-RS to find, WADO-RS to fetch, STOW-RS to send.

A thin layer over urllib: no proxy, no redirect, only the configured place, and no text of the
server in a message. The standard puts UIDs and search keys into the URLs that the PACS itself
sees; none of them appears in a message.
"""

import base64
import http.client
import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlencode

from algorithms.contracts.errors import DataError
from site_agent.network_config import PacsConfig
from site_agent.network_tls import client_context, first_line
from site_agent.pacs import (
    FIND_LIMIT,
    Receive,
    SeriesFound,
    StudyFound,
    StudyQuery,
    checked_uid,
)

_TAGS = {
    "AccessionNumber": "00080050",
    "BodyPartExamined": "00180015",
    "FailedSOPSequence": "00081198",
    "FailureReason": "00081197",
    "ModalitiesInStudy": "00080061",
    "Modality": "00080060",
    "NumberOfSeriesRelatedInstances": "00201209",
    "PatientID": "00100020",
    "PatientName": "00100010",
    "ReferencedSOPSequence": "00081199",
    "SOPInstanceUID": "00080018",
    "SeriesDescription": "0008103E",
    "SeriesInstanceUID": "0020000E",
    "StudyDate": "00080020",
    "StudyDescription": "00081030",
    "StudyInstanceUID": "0020000D",
}
_JSON = "application/dicom+json"
_ANY_SYNTAX = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_PAGE = 1000  # instances asked for at once
_LARGEST_ANSWER = 64 * 2**20  # bytes of a search
_WHY = {
    401: "it wants another login: correct user and password_file, or token_file",
    403: "our login may not do this: ask its administrator",
    404: "it has nothing there: check the key url, and find the study again",
    409: "it stored none of the objects: ask its administrator",
}


def _token(file: Path) -> str:
    """Read a bearer token; a header of HTTP holds no other letters.

    Raises:
        DataError: it is missing, or holds others.
    """
    token = first_line(file)
    if not token.isascii() or not token.isprintable():
        raise DataError(
            f"{file}: the token holds what is no printable ASCII: write the token alone into the "
            "first line"
        )
    return token


class DicomWebPacs:
    """A PACS reached by DICOMweb; see `site_agent.pacs.Pacs`."""

    def __init__(self, config: PacsConfig, home: Path) -> None:
        self.name = config.name
        self.ways: tuple[str, ...] = ("wado",)
        self._url, self._timeout_s = config.url.rstrip("/"), config.transfer_timeout_s
        self._headers: dict[str, str] = {}
        if config.password_file is not None:
            login = f"{config.user}:{first_line(home / config.password_file)}"
            basic = base64.b64encode(login.encode()).decode("ascii")
            self._headers["Authorization"] = f"Basic {basic}"
        elif config.token_file is not None:
            self._headers["Authorization"] = f"Bearer {_token(home / config.token_file)}"
        tls = config.tls and client_context(config.tls, home)
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(context=tls or None),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
        ):
            self._opener.add_handler(handler)

    def echo(self) -> None:
        """Search for one study: DICOMweb knows no echo."""
        self._search("studies", {"limit": "1"})

    # -- find -----------------------------------------------------------------------------------

    def find_studies(self, query: StudyQuery) -> list[StudyFound]:
        """QIDO-RS for studies."""
        keys = {
            "PatientID": query.patient_id,
            "AccessionNumber": query.accession_number,
            "StudyDate": query.study_date,
            "ModalitiesInStudy": query.modality,
            "StudyInstanceUID": query.study_uid,
        }
        asked = {key: value for key, value in keys.items() if value}
        return [
            StudyFound.read(partial(_text, found))
            for found in self._search_few("studies", {**asked, "includefield": "StudyDescription"})
        ]

    def find_series(self, study_uid: str) -> list[SeriesFound]:
        """QIDO-RS for the series of a study."""
        path = f"studies/{checked_uid(study_uid)}/series"
        return [
            SeriesFound.read(study_uid, partial(_text, found))
            for found in self._search_few(path, {"includefield": "BodyPartExamined"})
        ]

    def find_instances(self, series: SeriesFound) -> frozenset[str]:
        """QIDO-RS for the instances of a series, page by page."""
        found: set[str] = set()
        while True:
            page = self._search(
                f"{_series_path(series)}/instances",
                {"limit": str(_PAGE), "offset": str(len(found))},
            )
            new = {_text(one, "SOPInstanceUID") for one in page} - found - {""}
            found |= new
            if not new or len(page) < _PAGE:
                return frozenset(found)

    def _search_few(self, path: str, keys: Mapping[str, str]) -> list[dict[str, Any]]:
        found = self._search(path, {**keys, "limit": str(FIND_LIMIT + 1)})
        if len(found) > FIND_LIMIT:
            raise DataError(
                f"{self.name} finds more than {FIND_LIMIT}: ask for fewer, such as one patient or "
                "one day"
            )
        return found

    def _search(self, path: str, keys: Mapping[str, str]) -> list[dict[str, Any]]:
        what = "the search"
        # Wildcards stand as they are: RFC 3986 allows it, and some servers take %2A for a letter.
        query = urlencode(keys, safe="*?", quote_via=quote)
        with self._open(f"{path}?{query}", what, {"Accept": _JSON}) as answer:
            content = self._read(answer, what, limit=_LARGEST_ANSWER)
        if not content.strip():
            return []  # 204: nothing was found
        return self._objects(content, what)

    # -- retrieve -------------------------------------------------------------------------------

    def retrieve(
        self, way: str, series: SeriesFound, instances: Sequence[str] | None, receive: Receive
    ) -> None:
        """WADO-RS, one instance at a time, in the encoding in which it is stored."""
        what = "a transfer"
        for uid in sorted(self.find_instances(series)) if instances is None else instances:
            path = f"{_series_path(series)}/instances/{checked_uid(uid)}"
            with self._open(path, what, {"Accept": _ANY_SYNTAX}) as answer:
                kind = answer.headers.get("Content-Type", "")
                boundary = answer.headers.get_param("boundary")
                content = self._read(answer, what)
            if not kind.lower().startswith("multipart/related") or not isinstance(boundary, str):
                raise DataError(f"{self.name} sent something else than DICOM: check the key url")
            parts = list(_parts(content, boundary.encode("latin-1")))
            if not parts:
                raise self._broke_off(what)
            for part in parts:
                receive(part)

    # -- send -----------------------------------------------------------------------------------

    def send(self, files: Sequence[Path]) -> None:
        """STOW-RS, one object at a time, so that a large number needs no memory."""
        for done, file in enumerate(files):
            progress = f"{done} of {len(files)} objects were stored in {self.name}"
            try:
                answer = self._store(file)
            except DataError as error:
                raise DataError(f"{progress}: {file}: {error}") from None
            stored = [one for reply in answer for one in _items(reply, "ReferencedSOPSequence")]
            failed = [one for reply in answer for one in _items(reply, "FailedSOPSequence")]
            if failed or not stored:
                code = _text(failed[0], "FailureReason") if failed else ""
                reason = f" with status 0x{int(code):04X}" if code.isdigit() else ""
                raise DataError(
                    f"{progress}; it refused {file}{reason}: ask its administrator, then send "
                    "them again"
                )

    def _store(self, file: Path) -> list[dict[str, Any]]:
        boundary = secrets.token_hex(16)
        body = b"".join(
            (
                f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode("ascii"),
                file.read_bytes(),
                f"\r\n--{boundary}--\r\n".encode("ascii"),
            )
        )
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        what = "an object"
        headers = {"Accept": _JSON, "Content-Type": kind}
        with self._open("studies", what, headers, body) as answer:
            return self._objects(self._read(answer, what, limit=_LARGEST_ANSWER), what)

    # -- HTTP -----------------------------------------------------------------------------------

    def _open(
        self, path: str, what: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> http.client.HTTPResponse:
        request = urllib.request.Request(  # noqa: S310 - the configuration allows http(s) only
            f"{self._url}/{path}", data=body, headers={**self._headers, **headers}
        )
        try:
            answer = self._opener.open(request, timeout=self._timeout_s)
        except urllib.error.HTTPError as error:
            error.close()
            why = _WHY.get(error.code, "ask its administrator")
            raise DataError(f"{self.name} refused {what} with HTTP {error.code}: {why}") from None
        except (OSError, http.client.HTTPException):
            raise DataError(
                f"{self.name} does not answer: check that it runs, and the keys url and tls"
            ) from None
        return cast(http.client.HTTPResponse, answer)

    def _read(
        self, answer: http.client.HTTPResponse, what: str, *, limit: int | None = None
    ) -> bytes:
        try:
            content = answer.read() if limit is None else answer.read(limit + 1)
        except (OSError, http.client.HTTPException):
            raise self._broke_off(what) from None
        if limit is not None and len(content) > limit:
            raise DataError(f"{self.name} answers with more than is possible: check the key url")
        return content

    def _objects(self, content: bytes, what: str) -> list[dict[str, Any]]:
        """Read DICOM JSON (PS3.18 F): an object or a list of them."""
        try:
            read = json.loads(content)
        except ValueError:
            raise DataError(f"{self.name} answers {what} with no JSON: check the key url") from None
        return [
            one for one in (read if isinstance(read, list) else [read]) if isinstance(one, dict)
        ]

    def _broke_off(self, what: str) -> DataError:
        return DataError(f"{self.name} broke off during {what}: run the same command to go on")


def _parts(content: bytes, boundary: bytes) -> Iterator[bytes]:
    r"""Split multipart/related (RFC 2046 5.1.1); nothing when it was cut off.

    >>> list(_parts(b"--b\r\nContent-Type: x\r\n\r\none\r\n--b--", b"b"))
    [b'one']
    """
    content = b"\r\n" + content
    delimiter = b"\r\n--" + boundary
    if content.rfind(delimiter + b"--") < 0:
        return
    start = content.find(delimiter)
    while not content.startswith(delimiter + b"--", start):
        head = content.find(b"\r\n\r\n", start)
        end = content.find(delimiter, head)
        if head < 0 or end < 0:
            return
        yield content[head + 4 : end]
        start = end


def _values(found: Mapping[str, Any], keyword: str) -> list[Any]:
    element = found.get(_TAGS[keyword])
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def _items(found: Mapping[str, Any], keyword: str) -> list[dict[str, Any]]:
    return [one for one in _values(found, keyword) if isinstance(one, dict)]


def _text(found: Mapping[str, Any], keyword: str) -> str:
    """Return a value as text; of a person's name the alphabetic form."""
    values = _values(found, keyword)
    names = (one.get("Alphabetic", "") if isinstance(one, dict) else one for one in values)
    return "\\".join(str(one) for one in names if one is not None)


def _series_path(series: SeriesFound) -> str:
    return f"studies/{checked_uid(series.study_uid)}/series/{checked_uid(series.series_uid)}"
