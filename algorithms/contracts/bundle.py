"""A round on a disk: what a bundle says of itself, what is in it, and why one is refused.

A bundle carries messages between a coordinator and a hospital that no network joins. Whatever
carries it may read the header, and nothing else.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from algorithms.contracts.canonical_json import canonical_json
from algorithms.contracts.enrolment import KeyHex, Name
from algorithms.contracts.errors import ProtocolError

COORDINATOR = "coordinator"  # as sender and receiver; sites have their own names
VALID_DAYS = 30
MOST_HEADER_BYTES = 4096
MOST_DESCRIPTION_BYTES = 64 * 2**10  # of one message in it
MOST_MESSAGES = 100_000

ObjectBytes = Annotated[int, Field(ge=0, le=2**40)]


class BundleRefused(ProtocolError):  # noqa: N818  # a decision more than an error
    """A bundle broke a rule; nothing of it was done. `rule` is the short name."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"{rule}: {message}")
        self.rule, self._message = rule, message

    def of(self, file: str) -> "BundleRefused":
        """Return the same refusal with the name of the file, for who has several."""
        return BundleRefused(self.rule, f"{file}: {self._message}")


class Direction(StrEnum):
    """Which way a bundle goes."""

    TO_SITE = "to_site"
    TO_COORDINATOR = "to_coordinator"


class BundleHeader(BaseModel):
    """What is written on the outside, and signed with the rest.

    Attributes:
        format: of the file.
        study, sender, receiver, direction: one of the two parties is `COORDINATOR`.
        sequence: counts the bundles to one site; an answer has the number of what it answers.
        created_at, expires_at: UTC.
        answers_sha256: of the bundle that this one answers; None on the way to a site.
        signing_key_hex: Ed25519 key that the sender signed with.
        encryption_key_hex: X25519 key of the receiver that it is sealed to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    study: Name
    direction: Direction
    sender: Name
    receiver: Name
    sequence: int = Field(ge=1, lt=2**53)
    created_at: AwareDatetime
    expires_at: AwareDatetime
    answers_sha256: KeyHex | None
    signing_key_hex: KeyHex
    encryption_key_hex: KeyHex

    @model_validator(mode="after")
    def _answers_go_to_the_coordinator(self) -> Self:
        if (self.answers_sha256 is None) != (self.direction is Direction.TO_SITE):
            raise ValueError("a bundle to a site answers nothing, one to the coordinator does")
        return self

    @property
    def site(self) -> str:
        """The hospital that it goes to or comes from."""
        return self.receiver if self.direction is Direction.TO_SITE else self.sender

    def to_bytes(self) -> bytes:
        """Return what stands in the file: canonical JSON."""
        return canonical_json(self.model_dump(mode="json"))


class CarriedMessage(BaseModel):
    """One message in a bundle: a question, or the answer to one; its objects follow as bytes.

    Attributes:
        type: of the question, as on the network.
        asked: name of the question's content, by which an answer finds its question.
        error: why there is no answer, the name of a class or a rule; None when there is content.
        objects: the content as the network carries it, each object by its name and size; the last
            is the whole. Empty beside an error.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str = Field(pattern=r"^[a-z_]{1,20}\.[a-z_]{1,60}$")
    asked: KeyHex
    error: str | None = Field(default=None, pattern=r"^[A-Za-z_]{1,60}$")
    objects: tuple[tuple[KeyHex, ObjectBytes], ...] = ()

    @model_validator(mode="after")
    def _is_content_or_error(self) -> Self:
        if (self.error is None) != bool(self.objects):
            raise ValueError("a message has content or an error")
        return self

    @property
    def size_bytes(self) -> int:
        """Size of its objects."""
        return sum(size for _, size in self.objects)


def check_order(sequence: int, sha256: str, taken_in: Mapping[int, str]) -> None:
    """Refuse what comes after something newer, or has a number that another bundle had.

    The newest itself is let through once more: a kill may have left it half done.

    Args:
        sequence: number of the bundle that came.
        sha256: that names it.
        taken_in: SHA-256 by number of those that came before, from the same party.

    Raises:
        BundleRefused: "replayed" or "stale".
    """
    newest = max(taken_in, default=0)
    if sequence == newest and taken_in[newest] != sha256:
        raise replayed(sequence)
    if sequence < newest:
        if sequence in taken_in:
            raise replayed(sequence)
        raise BundleRefused("stale", f"bundle {sequence} is older than {newest}, taken in already")


def check_expiry(header: BundleHeader, now: AwareDatetime) -> None:
    """Refuse what is too old; `now` is UTC with its zone.

    Raises:
        BundleRefused: "stale".
    """
    if now > header.expires_at:
        raise BundleRefused(
            "stale",
            f"it was valid until {header.expires_at:%Y-%m-%d %H:%M} UTC: have a new one written",
        )


def replayed(sequence: int) -> BundleRefused:
    """Return the refusal of a number that was taken in already."""
    return BundleRefused("replayed", f"a bundle {sequence} was taken in already")
