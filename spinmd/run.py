"""The loop of a run: steps, and reporters when they are due. Knows the contracts only."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spinmd.divergence import Guard, Limits
from spinmd.errors import DivergedError
from spinmd.protocols import Aux, Code, Frame, Reporter
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
    limits: Limits | None = None,
) -> RunResult:  # fmt: skip
    """Take ``steps`` steps, and report at the start, every ``reporter.every`` steps of the run's clock, and at the end.

    last  False if another stage follows: the closing report's reason is then "stage", else "end".
    stop  asked before every step; True ends the run with a report of reason "signal".
    resumed  the run goes on from its checkpoint: the first report's reason is "resume" instead of "step".
    result  where to count, for reporters that want to know; it is what is returned.
    limits  of what does not count as diverged yet; None: the defaults.
    Raises DivergedError (reporters see reason "diverged" first), and InputError if the very first state is hopeless.
    """
    result = RunResult() if result is None else result
    model.attach(aux)
    guard = Guard(state, aux, model, integrator, limits)
    guard.begin()  # the first lists and forces, before the clock starts
    _report(reporters, state, model, integrator, aux, "resume" if resumed else "step", stage)
    begin = time.perf_counter()
    reason = "end" if last else "stage"
    within_step = False
    try:
        if steps > 0:
            guard.first_step()
        while result.steps < steps:
            if stop is not None and stop():
                reason = "signal"
                break
            within_step = True
            status = integrator.step(state, aux, model)
            within_step = False
            result.steps += 1
            result.not_converged += status.code is Code.NOT_CONVERGED
            guard.judge(status)
            model.update_lists()
            if result.steps < steps:
                due = [r for r in reporters if r.every > 0 and state.clock.step % r.every == 0]
                if guard.due() or any(getattr(r, "stores", True) for r in due):
                    guard.check(r.needs for r in due)  # nothing is stored of a state that is worth nothing
                if due:
                    result.seconds_loop = time.perf_counter() - begin
                    _report(due, state, model, integrator, aux, "step", stage)
        if result.steps:
            guard.check(r.needs for r in reporters)
        result.seconds_loop, result.reason = time.perf_counter() - begin, reason
        _report(reporters, state, model, integrator, aux, reason, stage)
    except DivergedError as error:
        explained = guard.explained(error, within_step)
        frame = Frame(state, aux, model, integrator, "diverged", stage)
        for reporter in reporters:
            reporter.report(frame)
        raise explained from None
    return result


def _report(reporters, state, model, integrator, aux, reason, stage) -> None:
    frame = Frame(state, aux, model, integrator, reason, stage)
    for reporter in reporters:
        reporter.report(frame)
