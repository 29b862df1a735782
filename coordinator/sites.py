"""How the coordinator speaks to sites: questions, answers and silence, whatever carries them."""

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from algorithms.contracts.errors import ProtocolError
from coordinator.package_publisher import SignedPackage

Leaving = TypeVar("Leaving", bound=BaseModel)


class Question(StrEnum):
    """What can be asked of a site; the values are the message types on the wire."""

    STATUS = "query.status"
    RECEIVE_PACKAGE = "train.receive_package"
    SOURCE_PACKAGE = "query.source_package"
    SITE_REPORT = "query.site_report"
    RECEIVE_PLAN = "train.receive_plan"
    PLAN_APPROVAL = "query.plan_approval"


@dataclass(frozen=True)
class Answer:
    """What a site said: the bytes of one message, and files beside it."""

    message: bytes
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Silence:
    """No answer: `reason` is a class name or an error code, never a text."""

    reason: str


class Sites(Protocol):
    """The sites that can be reached now."""

    def online(self) -> tuple[str, ...]:
        """Return the names of the sites that are connected."""

    def ask(
        self,
        question: Question,
        sites: Collection[str],
        *,
        package: SignedPackage | None = None,
        package_id: str | None = None,
        signed_plan: bytes | None = None,
    ) -> dict[str, Answer | Silence]:
        """Ask several sites at once; every one of them is in the result."""


def parse_answer(answer: Answer | Silence, model: type[Leaving]) -> Leaving:
    """Read an answer as the one kind of message that fits the question.

    Raises:
        ProtocolError: with a short reason when there is none, or it does not fit the schema.
    """
    if isinstance(answer, Silence):
        raise ProtocolError(answer.reason)
    try:
        return model.model_validate_json(answer.message)
    except ValidationError:
        raise ProtocolError(f"not_a_{model.__name__}") from None
