"""What became of the cases of one language."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from clients.conformance.cases import Case
from clients.conformance.driver import Driver, DriverError
from clients.conformance.languages import Language
from clients.conformance.runner import PATIENCE, Run, Servers, StepFailed

SHORT_PATIENCE: Final = 1.5  # of a case that is expected to fail


class Verdict(StrEnum):
    """How a case ended."""

    PASSED = "passed"
    FAILED = "failed"
    EXPLAINED = "explained"  # it failed, and explained.toml says why
    STALE = "explained, but passes"  # the explanation has to go


@dataclass(frozen=True)
class Result:
    """What became of one case.

    Attributes:
        case: the case.
        verdict: how it ended.
        text: what it did not find, or the reason why it cannot pass.
        seconds: how long it took.
    """

    case: Case
    verdict: Verdict
    text: str
    seconds: float

    @property
    def good(self) -> bool:
        """Whether nothing has to be done about it."""
        return self.verdict in (Verdict.PASSED, Verdict.EXPLAINED)


async def run_cases(
    language: Language,
    cases: Sequence[Case],
    servers: Servers,
    tell: Callable[[Result], None] = lambda result: None,
    patience: float = PATIENCE,
) -> list[Result]:
    """Run cases with one language's driver, which is started again where a case failed.

    Args:
        language: the language; it is prepared and built.
        cases: what to run.
        servers: what is running.
        tell: called with each result as it comes.
        patience: seconds that a step waits for what it expects.

    Raises:
        DriverError: the driver cannot be started.
    """
    results: list[Result] = []
    driver: Driver | None = None
    # Cases with the same real server follow each other, so that few servers run at once.
    for case in sorted(cases, key=lambda case: (case.server, case.args)):
        if driver is None:
            driver = await language.start()
        began = time.monotonic()
        reason = language.explained.get(case.key)
        text, crashed = await _run(case, driver, servers, patience if reason is None else min(patience, SHORT_PATIENCE))
        seconds = time.monotonic() - began
        if text:
            log = driver.log
            await driver.stop()
            driver = None
            text += f"\nthe driver wrote:\n{log}" if log else ""
        if reason is None or crashed:
            verdict = Verdict.FAILED if text else Verdict.PASSED
        else:
            verdict, text = (Verdict.EXPLAINED, reason) if text else (Verdict.STALE, reason)
        results.append(Result(case, verdict, text, seconds))
        tell(results[-1])
    if driver is not None:
        await driver.stop()
    places = {case.key: place for place, case in enumerate(cases)}
    return sorted(results, key=lambda result: places[result.case.key])


async def _run(case: Case, driver: Driver, servers: Servers, patience: float) -> tuple[str, bool]:
    """Run one case; return what went wrong, and whether the driver itself broke, which no explanation covers."""
    try:
        await Run(case, driver, servers, patience).run()
        await driver.call("reset")
    except StepFailed as error:
        return str(error), driver.ended
    except DriverError as error:
        return str(error), True
    return "", False
