"""Take a DICOM file apart in one pass over its bytes: the fast, strict way in for the usual files.

pydicom walks a file element by element through a stream, which takes most of the time of reading
a series, and it reads a file that was cut off up to the cut without a word. Here the bytes lie in
memory, each element is bounded by them, and values stay raw until somebody asks, when pydicom
decodes them. What is not usual (big endian, deflated, damaged) is left to pydicom altogether.

Layout: PS3.10 chapter 7 (file), PS3.5 chapter 7 (elements, items, delimiters).
"""

import logging
import struct
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

from algorithms.contracts.errors import DataError

_PREAMBLE = 128
_META_START = _PREAMBLE + 4
_META_LAST = 0x0002FFFF
_ANY_TAG = 0xFFFFFFFF
_UNDEFINED = 0xFFFFFFFF
_PIXEL_DATA = 0x7FE00010
_CHARACTER_SET = 0x00080005
_TRANSFER_SYNTAX = 0x00020010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_DEEPEST = 16  # sequences inside sequences; the standard's own objects stay below 10
_HEAD_BYTES = 16384  # what comes before the image size in a usual file fits in
_NOT_PLAIN = {ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
_KINDS = {vr.value.encode(): (vr.value, vr in EXPLICIT_VR_LENGTH_32) for vr in VR if len(vr) == 2}
_IMPLICIT = struct.Struct("<HHL")
_EXPLICIT = struct.Struct("<HH2s")
_LENGTH = struct.Struct("<L")

Elements = dict[BaseTag, DataElement | RawDataElement]


class _Unusual(Exception):  # noqa: N818  # a way to go, not an error
    """The bytes are not the usual kind: let pydicom decide what they are."""


def read_dataset(file: Path) -> Dataset:
    """Read one whole DICOM file, pixels included, opening and walking it once.

    Raises:
        DataError: the file is no DICOM, or ends before its elements do; nothing of it is quoted.
        OSError: the file cannot be opened.
    """
    content = file.read_bytes()
    try:
        return _dataset(content, None)
    except _Unusual:
        pass
    try:
        with without_remarks():
            dataset: Dataset = pydicom.dcmread(BytesIO(content))
            whole = "SOPClassUID" in dataset and not any(map(is_cut_off, dataset.values()))
    except Exception:
        # pydicom raises whatever a broken byte leads to; its texts quote the header
        whole = False
    if not whole:
        raise DataError(f"{file} is truncated or no DICOM file: export it again")
    return dataset


@contextmanager
def without_remarks() -> Iterator[None]:
    """Silence pydicom: its warnings quote values, and those identify patients."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def read_head(file: Path, keywords: Iterable[str]) -> Dataset | None:
    """Read the elements of these keywords, and no other, from the first bytes of a usual file.

    None when they are not all there or the file is not usual: `pydicom.dcmread` has the last word.
    """
    with file.open("rb", buffering=0) as stream:
        content = stream.read(_HEAD_BYTES)
    try:
        return _dataset(content, frozenset(int(tag_of(keyword)) for keyword in keywords))
    except _Unusual:
        return None


def is_cut_off(element: DataElement | RawDataElement) -> bool:
    """Say whether a value is shorter than the file states; pydicom reads that without a word."""
    if not isinstance(element, RawDataElement) or element.length == _UNDEFINED:
        return False
    return len(element.value or b"") < element.length


@cache
def tag_of(keyword: str) -> BaseTag:
    """Return the tag of a keyword of the standard."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"{keyword} is no DICOM keyword")
    return BaseTag(tag)


def numbers(dataset: Dataset, keyword: str) -> list[float]:
    """Return the numbers of a DS element without the cost of pydicom's number classes.

    Raises:
        KeyError: the element is absent.
        TypeError, ValueError: its value is no list of numbers.
    """
    element = dataset.get_item(tag_of(keyword))
    if isinstance(element, RawDataElement) and element.VR in ("DS", None) and element.value:
        return [float(part.strip(b" \0")) for part in element.value.split(b"\\")]
    value = dataset[keyword].value
    return [float(part) for part in (value if _is_many(value) else [value])]


def whole_number(dataset: Dataset, keyword: str, default: int = 0) -> int:
    """Return the value of a US element; `default` when it is absent or empty."""
    element = _raw(dataset, keyword)
    if isinstance(element, RawDataElement) and element.VR in ("US", None):
        value = element.value or b""
        if len(value) == 2:
            return int.from_bytes(value, "little" if element.is_little_endian else "big")
    found = dataset.get(keyword)
    return default if found in (None, "") else int(found)


def plain_text(dataset: Dataset, keyword: str) -> str:
    """Return the one value of a UI or CS element; "" when it is absent."""
    element = _raw(dataset, keyword)
    if isinstance(element, RawDataElement) and element.VR in ("UI", "CS", None):
        return (element.value or b"").decode("ascii").strip(" \0")
    return str(dataset.get(keyword, "") or "").strip()


def _raw(dataset: Dataset, keyword: str) -> DataElement | RawDataElement | None:
    return dataset.get_item(tag_of(keyword))


def _is_many(value: object) -> bool:
    return hasattr(value, "__iter__") and not isinstance(value, str | bytes)


def _dataset(content: bytes, wanted: frozenset[int] | None) -> Dataset:
    """Build the dataset of a file's bytes, or the `wanted` elements of its first bytes."""
    if content[_PREAMBLE:_META_START] != b"DICM":
        raise _Unusual
    meta, start = _walk(content, _META_START, explicit=True, last=_META_LAST)
    syntax = meta.get(BaseTag(_TRANSFER_SYNTAX))
    if not isinstance(syntax, RawDataElement) or not syntax.value:
        raise _Unusual
    uid = UID(syntax.value.decode("ascii", "replace").strip(" \0"))
    if not uid.is_transfer_syntax or uid in _NOT_PLAIN:
        raise _Unusual
    implicit = uid == ImplicitVRLittleEndian
    last = _ANY_TAG if wanted is None else max(wanted)
    elements, at = _walk(content, start, explicit=not implicit, last=last, wanted=wanted)
    if wanted is not None and at >= len(content) - 8:
        raise _Unusual  # the head may end before the element does
    dataset = Dataset(elements)
    dataset.set_original_encoding(implicit, True, _encoding(elements))
    if wanted is None:
        dataset.file_meta = FileMetaDataset(meta)
        dataset.file_meta.set_original_encoding(False, True)
    return dataset


def _encoding(elements: Elements) -> list[str]:
    """Return the text encodings that the elements say they use, as pydicom names them."""
    stated = elements.get(BaseTag(_CHARACTER_SET))
    if not isinstance(stated, RawDataElement) or not stated.value:
        return [default_encoding]
    names = [part.strip(" \0") for part in stated.value.decode("ascii", "replace").split("\\")]
    return convert_encodings(names)


def _walk(
    content: bytes, at: int, *, explicit: bool, last: int, wanted: frozenset[int] | None = None
) -> tuple[Elements, int]:
    """Collect elements from `at` up to the tag `last`; return them and where they stopped."""
    elements: Elements = {}
    end = len(content)
    while at + 8 <= end:
        tag, key, kind, length, start = _element_head(content, at, explicit)
        if tag > last:
            break
        if length == _UNDEFINED:
            stop, after = _undefined_end(content, start, tag, kind, explicit)
        else:
            stop = after = start + length
        if after > end:
            raise _Unusual
        if wanted is None or tag in wanted:
            value = content[start:stop]
            elements[key] = RawDataElement(
                key, kind, length, value, start, not explicit, True, True, False
            )
        at = after
    return elements, at


def _element_head(
    content: bytes, at: int, explicit: bool
) -> tuple[int, BaseTag, str | None, int, int]:
    """Return tag (twice), kind, length and start of the value of the element at `at`."""
    if not explicit:
        group, number, length = _IMPLICIT.unpack_from(content, at)
        tag = group << 16 | number
        return tag, _key(tag), None, length, at + 8
    tag, key, kind, is_long = _explicit_head(content[at : at + 6])
    if not is_long:
        return tag, key, kind, int.from_bytes(content[at + 6 : at + 8], "little"), at + 8
    if at + 12 > len(content):
        raise _Unusual
    return tag, key, kind, _LENGTH.unpack_from(content, at + 8)[0], at + 12


# The same few heads stand in every file of a series.
@lru_cache(maxsize=4096)
def _explicit_head(head: bytes) -> tuple[int, BaseTag, str, bool]:
    """Return tag (twice), kind, and whether a length of 32 bits follows."""
    group, number, letters = _EXPLICIT.unpack(head)
    kind = _KINDS.get(letters)
    if kind is None:
        raise _Unusual
    tag = group << 16 | number
    return tag, BaseTag(tag), *kind


@lru_cache(maxsize=4096)
def _key(tag: int) -> BaseTag:
    return BaseTag(tag)


def _undefined_end(
    content: bytes, at: int, tag: int, kind: str | None, explicit: bool
) -> tuple[int, int]:
    """Return where a value of undefined length ends, and where the next element starts."""
    if tag == _PIXEL_DATA:
        return _items_end(content, at, explicit, deep=_DEEPEST)
    if kind == "SQ" or kind is None:
        return _items_end(content, at, explicit, deep=0)
    raise _Unusual


def _items_end(content: bytes, at: int, explicit: bool, deep: int) -> tuple[int, int]:
    """Walk the items of a sequence, or the fragments of encapsulated pixels."""
    while at + 8 <= len(content):
        group, number, length = _IMPLICIT.unpack_from(content, at)
        tag, at = group << 16 | number, at + 8
        if tag == _SEQUENCE_END:
            return at - 8, at
        if tag != _ITEM:
            raise _Unusual
        at = _item_end(content, at, explicit, deep + 1) if length == _UNDEFINED else at + length
    raise _Unusual


def _item_end(content: bytes, at: int, explicit: bool, deep: int) -> int:
    """Walk the elements of one item of undefined length; return where the next one starts."""
    if deep > _DEEPEST:
        raise _Unusual
    while at + 8 <= len(content):
        group, number, _ = _IMPLICIT.unpack_from(content, at)
        if group << 16 | number == _ITEM_END:
            return at + 8
        _, _, kind, length, start = _element_head(content, at, explicit)
        if length != _UNDEFINED:
            at = start + length
        elif kind in ("SQ", None):
            at = _items_end(content, start, explicit, deep)[1]
        else:
            raise _Unusual
    raise _Unusual
