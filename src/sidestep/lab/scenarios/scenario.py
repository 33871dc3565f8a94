"""What a scenario is, and what comes of one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sidestep.lab.clients import Answer
from sidestep.lab.load import Load
from sidestep.lab.topology import Service

if TYPE_CHECKING:
    from sidestep.lab.machine import Machine
    from sidestep.lab.session import Lab

Client = Callable[[int], Awaitable[Answer]]


class Verdict(StrEnum):
    """What came of a scenario."""

    ALLOW = "allow"
    DENY = "deny"
    ERROR = "error"
    """It could not be carried out."""


@dataclass(frozen=True)
class Outcome:
    """What came of one scenario, in a word and in a sentence."""

    result: Verdict
    ok: bool
    detail: str


@dataclass(frozen=True)
class Scenario:
    """One thing to see."""

    name: str
    expect: Verdict
    title: str
    """Who calls whom, in words."""
    run: Callable[[Lab], Awaitable[Outcome]]


@dataclass(frozen=True)
class Call:
    """A call of the machine's application to a local address that stands for a port of a service."""

    service: Service
    port: int
    client: Client

    def __str__(self) -> str:
        return f"{self.service.name}.{self.service.namespace}:{self.port}"

    async def by(self, machine: Machine) -> Answer:
        """Makes the call on a machine."""
        return await self.client(machine.listen(self.service, self.port))


def without_failure(fine: bool, detail: str) -> Outcome:
    """The outcome of something that must not fail."""
    return Outcome(Verdict.ALLOW if fine else Verdict.DENY, fine, detail)


def with_errors(detail: str, load: Load) -> str:
    """A detail with the errors that a load has met."""
    return f"{detail} ({'; '.join(load.errors)})" if load.errors else detail


def not_refused(answer: Answer, missing: str) -> Outcome:
    """The outcome of a call that should have been refused for a certain reason, and was not, or for another."""
    if answer.ok:
        return Outcome(Verdict.ALLOW, ok=False, detail=f"{answer.status} answered, as it must not")
    return Outcome(Verdict.DENY, ok=False, detail=f"{answer.status} {answer.error}, but {missing}")
