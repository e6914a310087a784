"""The loop of a run: steps, and reporters when they are due. Knows the contracts only."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spinmd.errors import DivergedError
from spinmd.protocols import Aux, Code, Frame, Need, Reporter
from spinmd.state import State


@dataclass
class RunResult:
    """What a run came to; counts go on while it runs, and are right in every report.

    seconds_loop  s from the first step to the last, reports on the way included;  reason  "end", "stage" or "signal"
    """

    seconds_loop: float = 0.0
    steps: int = 0
    reason: str = ""
    not_converged: int = 0


def run(
    state: State, model, integrator, aux: Aux, steps: int, reporters: Sequence[Reporter] = (), *, stage: str = "",
    last: bool = True, stop: Callable[[], bool] | None = None, resumed: bool = False, result: RunResult | None = None,
) -> RunResult:  # fmt: skip
    """Take ``steps`` steps, and report at the start, every ``reporter.every`` steps of the run's clock, and at the end.

    last  False if another stage follows: the closing report's reason is then "stage", else "end".
    stop  asked before every step; True ends the run with a report of reason "signal".
    resumed  the run goes on from its checkpoint: the first report's reason is "resume" instead of "step".
    result  where to count, for reporters that want to know; it is what is returned.
    Raises DivergedError (reporters see reason "diverged" first) when a number is not finite any more.
    """
    result = RunResult() if result is None else result
    model.attach(aux)
    model.evaluate(Need.FORCE)  # the first lists and forces, before the clock starts
    _report(reporters, state, model, integrator, aux, "resume" if resumed else "step", stage)
    begin = time.perf_counter()
    reason = "end" if last else "stage"
    try:
        while result.steps < steps:
            if stop is not None and stop():
                reason = "signal"
                break
            status = integrator.step(state, aux, model)
            result.steps += 1
            if not status.ok:
                if status.code is not Code.NOT_CONVERGED:
                    raise DivergedError(f"step {state.clock.step}: {status.message or status.code.name.lower()}")
                result.not_converged += 1
            model.update_lists()
            if result.steps < steps:
                due = [r for r in reporters if r.every > 0 and state.clock.step % r.every == 0]
                if due:
                    result.seconds_loop = time.perf_counter() - begin
                    _report(due, state, model, integrator, aux, "step", stage)
        result.seconds_loop, result.reason = time.perf_counter() - begin, reason
        _report(reporters, state, model, integrator, aux, reason, stage)
    except DivergedError:
        frame = Frame(state, aux, model, integrator, "diverged", stage)
        for reporter in reporters:
            reporter.report(frame)
        raise
    return result


def _report(reporters, state, model, integrator, aux, reason, stage) -> None:
    frame = Frame(state, aux, model, integrator, reason, stage)
    for reporter in reporters:
        reporter.report(frame)
