"""Steps of a run: each ends in one word and a line, whatever happens in it, and in time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmarks.results import describe

Word = Literal["ok", "FAILED", "not run", "out of time"]


class Missing(Exception):
    """A step cannot run here, and this is what it lacks."""


class OutOfTime(Exception):
    """A step was stopped, since the time of the whole run was up."""


@dataclass(frozen=True)
class Outcome:
    """What a step came to: one word, one line that says more, and its part of the summary."""

    word: Word
    detail: str
    section: str = ""  # Markdown


@dataclass(frozen=True)
class Deadline:
    """When to stop. It is `shortened` where the whole run leaves less than a step's own limit."""

    end: float
    clock: Callable[[], float] = time.time
    shortened: bool = True

    def left(self) -> float:
        """Seconds until then."""
        return self.end - self.clock()

    def within(self, limit: float, spare: float = 0) -> Deadline:
        """That of a step which may take `limit` seconds, and has to leave `spare`."""
        own, whole = self.clock() + limit, self.end - spare
        return Deadline(min(own, whole), self.clock, whole < own)


@dataclass(frozen=True)
class Step:
    """What to do, how many seconds it may take, and how many it has to leave for the next ones."""

    work: Callable[[Deadline], Outcome]
    limit: float = math.inf
    spare: float = 0


def attempt(step: Step, deadline: Deadline) -> Outcome:
    """Runs a step; whatever it raises is its outcome, and the next step goes on."""
    own = deadline.within(step.limit, step.spare)
    if own.left() <= 0:
        return Outcome("out of time", "not begun")
    try:
        return step.work(own)
    except Missing as error:
        return Outcome("not run", str(error))
    except ModuleNotFoundError as error:
        return Outcome("not run", f"the Python package {error.name} is not installed")
    except OutOfTime as error:
        return Outcome("out of time", str(error))
    except Exception as error:
        return Outcome("FAILED", describe(error))
