"""How the coordinator speaks to sites: questions, answers and silence, whatever carries them."""

from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from algorithms.contracts.errors import ProtocolError
from algorithms.contracts.unfolded_size import MOST_WORDS_BYTES
from coordinator.package_publisher import PublishedPackage

Leaving = TypeVar("Leaving", bound=BaseModel)

TOO_LARGE = "reply_too_large"
LONGEST_ARRIVAL_S = 600.0  # of files that have begun to come while their question lived


class Question(StrEnum):
    """What can be asked of a site; the values are the message types on the wire."""

    STATUS = "query.status"
    RECEIVE_PACKAGE = "train.receive_package"
    SOURCE_PACKAGE = "query.source_package"
    SITE_REPORT = "query.site_report"
    MODEL_UPDATE = "query.model_update"
    RECEIVE_PLAN = "train.receive_plan"
    PLAN_APPROVAL = "query.plan_approval"


BRING_FILES = (Question.SOURCE_PACKAGE, Question.MODEL_UPDATE)


def most_reply_bytes(question: str, largest_reply_bytes: int) -> int:
    """Return how large a reply to a type of message may be.

    >>> [most_reply_bytes(f"query.{what}", 2**30) >> 20 for what in ("status", "source_package")]
    [4, 1024]
    """
    return largest_reply_bytes if question in BRING_FILES else MOST_WORDS_BYTES


@dataclass(frozen=True)
class PackagePart:
    """A part of a package's stream; it is read from disk when it is sent."""

    package: PublishedPackage
    offset: int
    size_bytes: int  # 0: the manifest alone


@dataclass(frozen=True)
class Request:
    """A question and what goes with it."""

    question: Question
    package_id: str | None = None
    part: PackagePart | None = None
    signed_plan: bytes | None = None


@dataclass(frozen=True)
class Answer:
    """What a site said: the bytes of one message, and files beside it.

    Attributes:
        took_s: from sending the question to having the answer; 0 where nobody measured.
    """

    message: bytes
    files: dict[str, bytes] = field(default_factory=dict)
    took_s: float = 0.0


@dataclass(frozen=True)
class Silence:
    """No answer: `reason` is a class name or an error code, never a text."""

    reason: str


IN_BUNDLE = Silence("in_bundle")  # the question goes by disk: nothing of it is answered today

# What is asked of one site, one request after another, each with the answer to the one before.
Conversation = Generator[Request, Answer | Silence, None]


class Sites(Protocol):
    """The sites that can be reached now."""

    def online(self) -> tuple[str, ...]:
        """Return the names of the sites that are connected."""

    def converse(self, conversations: Mapping[str, Conversation]) -> None:
        """Hold one conversation with each site until all have ended; none waits for another."""

    def ask(
        self,
        question: Question,
        sites: Collection[str],
        *,
        package_id: str | None = None,
        signed_plan: bytes | None = None,
    ) -> dict[str, Answer | Silence]:
        """Ask several sites at once; every one of them is in the result."""
        answers: dict[str, Answer | Silence] = {}

        def once(site: str) -> Conversation:
            answers[site] = yield Request(question, package_id, signed_plan=signed_plan)

        self.converse({site: once(site) for site in sites})
        return answers


def parse_answer(answer: Answer | Silence, model: type[Leaving]) -> Leaving:
    """Read an answer as the one kind of message that fits the question.

    Raises:
        ProtocolError: with a short reason when there is none, or it does not fit the schema.
    """
    if isinstance(answer, Silence):
        raise ProtocolError(answer.reason)
    if len(answer.message) > MOST_WORDS_BYTES:  # also where files may come with it
        raise ProtocolError(TOO_LARGE)
    try:
        return model.model_validate_json(answer.message)
    except ValidationError:
        raise ProtocolError(f"not_a_{model.__name__}") from None
