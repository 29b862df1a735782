"""Look for what is left of a patient in bytes: known names, ids, dates; look-alikes; paths.

One scanner for two users: the door out, as the last check on what leaves, and the tests of
everything that is stored after de-identification. It answers with the names of rules and never
quotes what it found, so that its answer may be logged.

What is encrypted is not looked into. Zip (so .npz) and gzip are opened.
"""

import codecs
import gzip
import io
import re
import zipfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

OWN_UID_ROOTS = ("2.25.", "1.2.840.10008.")  # our keyed substitutes, and DICOM's own
LOOK_ALIKES = ("pseudonym", "dicom_uid", "path", "date")

_SHORTEST_ID = 4  # a shorter one occurs in every text
_SHORTEST_NAME = 4  # of a part of a name alone; whole names may be shorter
_SURE_LENGTH = 8  # an identifier this long is one wherever it stands
_MOST_UNPACKED = 2**30

_HASH = re.compile(r"[0-9a-f]{16,128}")
_HASH_INSIDE = re.compile(r"(?<![0-9a-f])(?=[0-9]*[a-f])[0-9a-f]{16,128}(?![0-9a-f])")
_UID = re.compile(r"(?<![\d.])[0-2]\.\d+(?:\.\d+){2,}")
_PSEUDONYM = re.compile(r"(?:patient|case)-[0-9a-f]{12}")
_PATH = re.compile(r"(?:/[\w.~-]+){2,}|[A-Za-z]:\\|\\\\\w")
_ROOTED_PATH = re.compile(
    r"/(?:home|root|Users|mnt|media|data|var|srv|opt|tmp|export)/[\w.~-]+"
    r"|[A-Za-z]:\\(?:Users|Windows|ProgramData|Program Files|Documents and Settings)\\"
)
_DATE = re.compile(r"(?<!\d)(?:19|20)\d\d(-?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])(?!\d)")
_WORD = re.compile(r"[^\W\d_]+")
_RUN = re.compile(rb"[\x20-\x7e]{6,}")
_WIDE_RUNS = tuple(  # UTF-16 and UTF-32, both byte orders
    re.compile(rb"(?:%b){4,}" % one)
    for one in (
        rb"[\x20-\x7e]\0",
        rb"\0[\x20-\x7e]",
        rb"[\x20-\x7e]\0\0\0",
        rb"\0\0\0[\x20-\x7e]",
    )
)
_BYTE_ORDER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class Known:
    """What is known about patients and must not be found.

    Attributes:
        names: DICOM person names ("Family^Given") or names as people write them.
        identifiers: patient ids, accession numbers, UIDs, folders; compared without capitals.
        dates: birth and study dates, YYYYMMDD.
    """

    names: frozenset[str] = frozenset()
    identifiers: frozenset[str] = frozenset()
    dates: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        """Say nothing about the patients, so that a stray log line cannot either."""
        return f"Known(<{len(self.names)} names, {len(self.identifiers)} identifiers>)"


def text_residue(
    text: str,
    look_alikes: Collection[str] = LOOK_ALIKES,
    *,
    uid_roots: tuple[str, ...] = (),
    rooted_paths: bool = False,
) -> str | None:
    """Name what `text` looks like that may not leave: a pseudonym, UID, path or date; or None.

    Args:
        text: one value or a whole document.
        look_alikes: the rules to apply, of `LOOK_ALIKES`.
        uid_roots: UIDs that start so are nobody's.
        rooted_paths: take as a path only what starts at a usual root, as among random letters.

    >>> text_residue("born 1954-03-17"), text_residue("2.25.1.2.3", uid_roots=OWN_UID_ROOTS)
    ('date', None)
    """
    if _HASH.fullmatch(text):
        return None
    if "pseudonym" in look_alikes and _PSEUDONYM.search(text):
        return "pseudonym"
    if "dicom_uid" in look_alikes and any(not uid.startswith(uid_roots) for uid in _uids(text)):
        return "dicom_uid"
    if "path" in look_alikes and (_ROOTED_PATH if rooted_paths else _PATH).search(text):
        return "path"
    if "date" in look_alikes and _DATE.search(_HASH_INSIDE.sub(" ", text)):
        return "date"
    return None


def known_residue(text: str, known: Known, *, own_words: Collection[str] = ()) -> str | None:
    """Name which kind of known fact stands in `text`: an identifier, a name or a date; or None.

    A name is found as a whole in either order, and by each part of at least four letters; a part
    among `own_words` (of a schema, of the site's name) is nobody's.

    >>> known_residue("seen: Annegret M.", Known(names=frozenset({"Mustermann^Annegret"})))
    'name'
    """
    folded = text.casefold()
    if _holds_identifier(text, folded, known.identifiers):
        return "identifier"
    words = _WORD.findall(folded)
    own = {word.casefold() for word in own_words}
    line = f" {' '.join(words)} "
    single, seen = set(words) - own, set(words)
    for name in known.names:
        parts = _WORD.findall(name.casefold())
        if any(len(part) >= _SHORTEST_NAME and part in single for part in parts):
            return "name"
        if len(parts) > 1 and seen.issuperset(parts[:2]):
            orders = (parts[:2], parts[1::-1])
            if any(f" {' '.join(order)} " in line for order in orders):
                return "name"
    if any(re.search(rf"(?<!\d){re.escape(form)}(?!\d)", text) for form in _forms(known.dates)):
        return "date"
    return None


def residues(
    data: bytes,
    known: Known,
    look_alikes: Collection[str] = LOOK_ALIKES,
    *,
    uid_roots: tuple[str, ...] = OWN_UID_ROOTS,
    own_words: Collection[str] = (),
) -> list[str]:
    """Name the rules that bytes of any kind break: text in UTF-8, UTF-16 or Latin-1, or binary.

    Of binary data the runs of printable characters are looked at. Among random ones only a path
    from a usual root counts, and among wide ones (UTF-16, UTF-32) only what is known.

    >>> residues(b"/srv/scans/kh-77 of 19540317", Known(identifiers=frozenset({"KH-77"})))
    ['date', 'identifier', 'path']
    """
    found: set[str] = set()
    for content in _unpacked(data):
        if find_residue(content, _not_ascii(known)):
            found.add("name")
        whole = _text_or_none(content)
        narrow = _narrow_runs(content) if whole is None else whole
        wide = _wide_runs(content) if whole is None else ""
        hits = {known_residue(text, known, own_words=own_words) for text in (narrow, wide)}
        hits |= {
            text_residue(narrow, {rule}, uid_roots=uid_roots, rooted_paths=whole is None)
            for rule in look_alikes
        }
        found |= {hit for hit in hits if hit is not None}
    return sorted(found)


def scan_folder(
    folder: Path,
    known: Known,
    look_alikes: Collection[str] = ("dicom_uid",),
    *,
    uid_roots: tuple[str, ...] = OWN_UID_ROOTS,
) -> dict[str, list[str]]:
    """Scan every file below `folder`, and its name; return the rules broken by relative name."""
    broken = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        rules = set(residues(name.encode(), known, (), uid_roots=uid_roots))
        if file.is_file():
            rules |= set(residues(file.read_bytes(), known, look_alikes, uid_roots=uid_roots))
        if rules:
            broken[name] = sorted(rules)
    return broken


def find_residue(data: bytes, planted: Iterable[str]) -> list[str]:
    """List which of the known identifying strings occur in `data`, for tests that planted them.

    Searched as UTF-8, UTF-16 (both byte orders) and Latin-1, ASCII letters in either case. What is
    compressed or encrypted is not looked into: decompress first.

    >>> find_residue("Frau DOE".encode("utf-16-le"), ["Doe", "Roe"])
    ['Doe']
    """
    haystack = data.lower()
    return [
        text
        for text in planted
        if text.strip() and any(form in haystack for form in _encoded_forms(text))
    ]


def _encoded_forms(text: str) -> set[bytes]:
    forms = set()
    for encoding in ("utf-8", "utf-16-le", "utf-16-be", "latin-1"):
        for spelling in (text, text.lower(), text.upper()):  # bytes.lower() knows only ASCII
            try:
                forms.add(spelling.encode(encoding).lower())
            except UnicodeEncodeError:  # a name Latin-1 cannot write cannot occur in Latin-1
                continue
    return forms


def _not_ascii(known: Known) -> set[str]:
    """Return the parts of names that no run of ASCII letters can hold."""
    parts = {part for name in known.names for part in _WORD.findall(name)}
    return {part for part in parts if len(part) >= _SHORTEST_NAME and not part.isascii()}


def _uids(text: str) -> Iterator[str]:
    return (match.group() for match in _UID.finditer(text))


def _holds_identifier(text: str, folded: str, identifiers: Collection[str]) -> bool:
    """UIDs are looked up among those in the text: a site knows a hundred thousand."""
    if any(uid in identifiers for uid in _uids(text)):
        return True
    for identifier in identifiers:
        wanted = identifier.strip().casefold()
        if len(wanted) < _SHORTEST_ID or wanted not in folded or _UID.fullmatch(wanted):
            continue
        if len(wanted) >= _SURE_LENGTH or re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", folded):
            return True
    return False


def _forms(dates: Iterable[str]) -> Iterator[str]:
    """Write dates as DICOM, ISO, and people do."""
    for date in dates:
        if re.fullmatch(r"\d{8}", date):
            year, month, day = date[:4], date[4:6], date[6:]
            yield date
            yield from (f"{year}{mark}{month}{mark}{day}" for mark in "-./")
            yield from (f"{day}{mark}{month}{mark}{year}" for mark in "-./")
            yield f"{month}/{day}/{year}"


def _text_or_none(content: bytes) -> str | None:
    """Decode bytes that are text as a whole."""
    try:
        if content.startswith(_BYTE_ORDER_MARKS):
            return content.decode("utf-16")
        return content.decode("utf-8") if b"\0" not in content else None
    except UnicodeDecodeError:
        return None


def _narrow_runs(content: bytes) -> str:
    return "\n".join(match.decode("ascii") for match in _RUN.findall(content))


def _wide_runs(content: bytes) -> str:
    """Collect runs of characters of two or four bytes.

    Dark pixels look like such digits and points, so nothing but what is known is looked for here.
    """
    runs = (match for pattern in _WIDE_RUNS for match in pattern.findall(content))
    return "\n".join(match.replace(b"\0", b"").decode("ascii") for match in runs)


def _unpacked(data: bytes) -> Iterator[bytes]:
    """Yield the bytes, and what a zip or gzip file holds, up to a bound."""
    yield data
    if data.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                for name in archive.namelist():
                    with archive.open(name) as member:
                        yield member.read(_MOST_UNPACKED)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError):
            return
    elif data.startswith(b"\x1f\x8b"):
        try:
            with gzip.open(io.BytesIO(data)) as stream:
                yield stream.read(_MOST_UNPACKED)
        except (OSError, EOFError):
            return
