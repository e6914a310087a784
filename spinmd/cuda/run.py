"""The loop of a run on the device: the signature, reports and errors of ``spinmd.run.run``, with state and model on the GPU.

Between stages everything lives on the host: ``run_on_device`` takes a host's state, model, integrator and aux, and brings state
and aux back at its end. Within it the host sees what reporters ask for, and every ``EVERY`` steps a few numbers that say whether
the run is well: whether lists have outgrown their buffers, solves have not converged, numbers are finite and small enough. After
an overflow it goes back to the last look, makes room, and repeats those steps. Where something looks wrong, state and aux come
over and the host's ``Guard`` says what it is.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from spinmd.cuda.arrays import DeviceArray, on_device, parts
from spinmd.cuda.graph import LARGEST, WARM, StepGraph, agrees
from spinmd.cuda.launch import own_stream
from spinmd.cuda.lists import BUILDS, LOST, OVERFLOW
from spinmd.cuda.model import DeviceModel
from spinmd.cuda.runtime import memory_explained, simulated
from spinmd.cuda.state import ON_DEVICE, DeviceState
from spinmd.cuda.views import HistoriesView, ModelView, StateView
from spinmd.divergence import ENERGY_EVERY, EVERY, GROWTH, LENGTHENING, Guard, Limits
from spinmd.errors import DivergedError
from spinmd.protocols import Aux, Frame, Need, Reporter
from spinmd.run import RunResult
from spinmd.state import State
from spinmd.units import AMU, BOLTZMANN, HBAR


def run_on_device(
    state: State, model: Any, integrator: Any, aux: Aux, steps: int, reporters: Sequence[Reporter] = (), *, stage: str = "",
    last: bool = True, stop: Callable[[], bool] | None = None, resumed: bool = False, result: RunResult | None = None,
    limits: Limits | None = None, device_term: Callable[..., Any], device_mover: Callable[..., Any],
    precision: str = "float64",
) -> RunResult:  # fmt: skip
    """``spinmd.run.run`` on the GPU; arguments and errors are the same.

    device_term   (term, state) -> the term on the device;  device_mover  (integrator, state, aux) -> the integrator there
    precision     "float64", or "mixed": float32 for the arithmetic of pairs, float64 for sums and everything else
    """
    with memory_explained(state.natoms, model), own_stream():
        run = DeviceRun(state, model, integrator, aux, limits, device_term, device_mover, precision)
        return run.go(steps, reporters, stage, last, stop, resumed, RunResult() if result is None else result)


class DeviceRun:
    """State, model and integrator of a stage on the device, and those of the host that they came from."""

    def __init__(self, state, model, integrator, aux, limits, device_term, device_mover, precision):
        model.attach(aux)
        if not model.builds:
            model.sort_in_space()
        self.host, self.limits = (state, aux, model, integrator), limits or Limits()
        self.state = DeviceState(state, precision)
        self.model = DeviceModel(self.state, model, device_term)
        if model.builds:
            self.model.lists.restore(model.list_history())
        self.mover = device_mover(integrator, self.state, aux)
        self.view = ModelView(self.model, model)
        self.guard = Guard(StateView(self.state), aux, self.view, integrator, limits)
        self.snapshot = _Snapshot(self.state, self.model, self.mover)
        self.unsolved, self._unsolved_steps = 0, 0
        self._conserved = math.nan
        self._squares: DeviceArray | None = None  # |S|² at the start, in the present order
        self._graphs: dict[Any, StepGraph] = {}  # by the plan of the mover's launches
        self._single = 0  # steps of single launches since the start, or since room was made
        self.graphs = not simulated() and state.natoms <= LARGEST  # off where a graph could not be captured

    @property
    def captured(self) -> bool:
        """Whether steps are one graph."""
        return self.mover.plan in self._graphs

    @staticmethod
    def running() -> Any:
        """What steps outside of ``go`` are to be taken in: the stream of a run."""
        return own_stream()

    def step(self) -> None:
        """A step: as one graph where that is possible."""
        plan = self.mover.plan
        if plan not in self._graphs and self.graphs and self._single >= WARM and plan is not None:
            self._capture(plan)
        graph = self._graphs.get(plan)
        if graph is None:
            self.mover.step(self.model)
            self._single += 1
        else:
            self.model.before_replay()
            graph.replay()
            self.mover.stepped()
            self.model.stepped()

    def _capture(self, plan: Any) -> None:
        """Capture a step, and keep it if it gives what single launches give."""
        before = None

        def back() -> None:
            before.restore()
            self.model.evaluate(Need.FORCE)
            self.model.before_replay()

        try:
            before = self.snapshot.beside()
            self.model.begin_capture()
            graph = StepGraph(lambda: self.mover.launch(self.model))
            self.model.end_capture()
            back()
            self.graphs = agrees(graph, lambda: self.mover.step(self.model), back, before.live)
            if self.graphs:
                self._graphs[plan] = graph
        except Exception:
            # Errors of torch, numba and the driver have no class in common. Single launches do the same, more slowly, and have
            # errors of their own if it was something else.
            self.graphs = False
            if before is not None:
                back()
        if not self.graphs:
            self._graphs.clear()

    def go(self, steps, reporters, stage, last, stop, resumed, result) -> RunResult:
        """``steps`` steps, with reports."""
        self.begin()
        self._report(reporters, "resume" if resumed else "step", stage)
        begin, reason = time.perf_counter(), "end" if last else "stage"
        clock = self.state.clock
        try:
            if steps > 0:
                self.guard.first_step()
                self._look()
            while result.steps < steps:
                if stop is not None and stop():
                    reason = "signal"
                    break
                self.step()
                result.steps += 1
                due = (
                    [r for r in reporters if r.every > 0 and clock.step % r.every == 0] if result.steps < steps else []
                )
                if due or clock.step % EVERY == 0 or result.steps == steps:
                    if not self._room():
                        result.steps -= self.snapshot.restore()
                        continue
                    self._look()
                    if due:
                        _wait()
                        result.seconds_loop = time.perf_counter() - begin
                        self._report(due, "step", stage)
        except DivergedError as error:
            state, aux, model, integrator = self.host
            self._bring_back()
            model.acceleration_limit = math.inf
            guard = Guard(state, aux, model, integrator, self.limits)
            guard._last = self.snapshot.last_good(state.ids)
            explained = guard.explained(error)
            frame = Frame(state, aux, model, integrator, "diverged", stage)
            for reporter in reporters:
                reporter.report(frame)
            raise explained from None
        if reason == "signal" and not self._room():
            result.steps -= self.snapshot.restore()
        _wait()
        result.seconds_loop, result.reason, result.not_converged = time.perf_counter() - begin, reason, self.unsolved
        self._report(reporters, reason, stage)
        self._bring_back()
        return result

    def begin(self) -> None:
        """Lists with enough room, the first forces, and a look at them."""
        self.model.evaluate(Need.FORCE | Need.FIELD | Need.ENERGY)
        while not self._room():
            self.model.moved()
            self.model.evaluate(Need.FORCE | Need.FIELD | Need.ENERGY)
        self.guard.begin()
        self.snapshot.take()
        self._conserved = self._energy()

    def _report(self, due: Sequence[Reporter], reason: str, stage: str) -> None:
        _, aux, _, integrator = self.host
        self.mover.download(aux)
        seen = Aux(HistoriesView(aux.per_atom, lambda: self.mover.download_histories(aux)), aux.globals)
        frame = Frame(StateView(self.state), seen, self.view, integrator, reason, stage)
        for reporter in due:
            reporter.report(frame)

    # ------------------------------------------------------------------ looking

    def _room(self) -> bool:
        """False where lists have outgrown their buffers, or solves needed more iterations than a step launches: there is room then,
        or there will be more of them, and the steps since the last snapshot are to be repeated."""
        lists = self.model.lists
        status = lists.status.host() if lists.radii else None
        if status is None or not status[OVERFLOW]:
            if status is not None and status[LOST]:
                self._blame()
            if not self.mover.grow():
                return True
        else:
            lists.grow(status)
            self.model.grown()
        self._graphs.clear()  # they would write to the old buffers, or launch too little
        self._single = 0
        return False

    def _look(self) -> None:
        """Whether the run is well, by a few sums on the device; DivergedError, in the host's words, where it is not."""
        state, dt = self.state, self.guard.dt
        numbers = []
        for part in parts(state.natoms):
            masses = state.masses.tensor[part]
            v2 = state.velocities.tensor[part].square().sum(dim=1)
            a2 = self.model.forces.tensor[part].square().sum(dim=1) / (masses * AMU).square() if dt > 0.0 else v2
            positions, spins = (one.tensor[part].abs().sum() for one in (state.positions, state.spins))
            numbers.append(torch.stack([v2.max(), a2.max(), (masses * v2).sum(), positions, spins]))
        rows = torch.stack(numbers).tolist()  # one transfer
        fine = all(math.isfinite(number) for row in rows for number in row)
        if fine and dt > 0.0:
            v2, a2 = (max(row[k] for row in rows) for k in range(2))
            temperature = AMU * sum(row[2] for row in rows) / (3.0 * state.natoms * BOLTZMANN)
            reach = self.limits.displacement
            fine = temperature <= self.limits.temperature and math.sqrt(v2) * dt <= reach
            fine = fine and math.sqrt(a2) * dt * dt <= reach
        if not fine or self._spins_are_off():
            self._blame()
        self.model.watch()
        if state.clock.step % ENERGY_EVERY == 0:
            self._look_at_torques()
            now = self._energy()
            if abs(now - self._conserved) / state.natoms > self.limits.energy:
                raise DivergedError(
                    f"the conserved quantity changed by {(now - self._conserved) / state.natoms:.3g} eV per atom in the last "
                    f"{ENERGY_EVERY} steps (run.limits.energy is {self.limits.energy:g} eV)"
                )
            self._conserved = now
        self._look_at_solves()
        self.snapshot.take()

    def _spins_are_off(self) -> bool:
        """Whether a spin is longer or shorter than it was at the start, by more than the host's guard allows; one transfer."""
        guard = self.guard
        if guard._longest == 0.0:
            return False
        if self._squares is None:
            self._squares = on_device(guard._squares[self.state.ids.host()])
        most = []
        for part in parts(self.state.natoms):
            now, before = self.state.spins.tensor[part].square().sum(dim=1), self._squares.tensor[part]
            if guard.fixed_length:
                most.append(((now - before).abs() - 2.0 * LENGTHENING * before).max())
            else:
                most.append((now - GROWTH**2 * guard._longest).max())
        return not float(torch.stack(most).max()) <= 0.0

    def _look_at_torques(self) -> None:
        """DivergedError, in the host's words, for a spin that turns by more than half a turn in a step."""
        guard = self.guard
        if not guard._turning():
            return
        self.model.evaluate(Need.FIELD | Need.ENERGY)  # the energy is asked for next
        angles = []
        for part in parts(self.state.natoms):
            spins = self.state.spins.tensor[part]
            torques = torch.linalg.cross(spins, self.model.fields.tensor[part]).square().sum(dim=1)
            angles.append((torques / spins.square().sum(dim=1).clamp(min=1.0e-300)).max())
        angle = guard.g_factor / HBAR * guard.spin_dt * math.sqrt(float(torch.stack(angles).max()))
        if angle > math.pi:  # of fixed spins, too: the host knows which
            guard.state = StateView(self.state)
            guard._look_at_torques(self.model.fields.host())

    def _look_at_solves(self) -> None:
        """More and more steps in a row whose spins were not solved end a run, as on the host."""
        before, self.unsolved = self.unsolved, self.mover.unsolved()
        since = self.state.clock.step - self.snapshot.step
        self._unsolved_steps = self._unsolved_steps + since if since and self.unsolved - before >= since else 0
        if 0 < self.limits.unsolved <= self._unsolved_steps:
            raise DivergedError(
                f"the spin solver has not converged in {self._unsolved_steps} steps in a row; shorten the timestep or allow "
                "a larger integrator.tolerance",
                advice=False,
            )

    def _energy(self) -> float:
        """The conserved quantity, eV; NaN for an integrator without one."""
        _, aux, _, integrator = self.host
        conserved = getattr(integrator, "conserved", None)
        if conserved is None:
            return math.nan
        self.mover.download_account(aux)
        return float(conserved(StateView(self.state), aux, self.view.evaluate(Need.ENERGY)))

    def _blame(self) -> None:
        """Bring everything to the host and let its Guard say what is wrong."""
        state, aux, model, integrator = self.host
        self._bring_back()
        guard = Guard(state, aux, model, integrator, self.limits)
        guard._squares, guard._longest = self.guard._squares, self.guard._longest
        guard._look()
        model.acceleration_limit = self.limits.displacement / self.guard.dt**2 if self.guard.dt > 0.0 else math.inf
        model.evaluate(Need.FORCE | Need.FIELD | Need.ENERGY)
        raise DivergedError(
            "a number on the GPU is not finite or too large, and the host finds it small; repeat the run"
        )

    def _bring_back(self) -> None:
        """State and aux to the host."""
        state, aux, model, _ = self.host
        for name in ON_DEVICE:
            getattr(state, name)[:] = getattr(self.state, name).host()
        state.clock.step, state.clock.time = self.state.clock.step, self.state.clock.time
        self.mover.download(aux)
        self.mover.download_histories(aux)
        model.taken_from(self.view.list_history())


class _Snapshot:
    """State, accumulators and solver histories on the device at the last look: where a run goes back to after an overflow."""

    def __init__(self, state: DeviceState, model: DeviceModel, mover: Any):
        self.state, self.model = state, model
        self._mover = mover
        self.live = [getattr(state, name) for name in ("positions", "velocities", "spins", "images", "ticks", "time")]
        self.live += mover.memory()
        if model.lists.radii:
            self.live += [model.lists.built, DeviceArray(model.lists.status.tensor[BUILDS : BUILDS + 1])]
        self._kept = [one.tensor.clone() for one in self.live]
        self.step, self._time = state.clock.step, state.clock.time

    def beside(self) -> "_Snapshot":
        """Another one, of now."""
        return _Snapshot(self.state, self.model, self._mover)

    def last_good(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Positions and spins at the last look on the host, for ``Guard``, which names terms there; ``ids``: the atoms' order."""
        kept = {"positions": self._kept[0], "spins": self._kept[2]}
        return {"ids": ids} | {name: tensor.cpu().numpy() for name, tensor in kept.items()}

    def take(self) -> None:
        """Keep what is now."""
        for one, kept in zip(self.live, self._kept, strict=True):
            kept.copy_(one.tensor)
        self.step, self._time = self.state.clock.step, self.state.clock.time

    def restore(self) -> int:
        """Go back; returns the number of steps that are to be done again. Lists are built anew where they were built last."""
        lost = self.state.clock.step - self.step
        for one, kept in zip(self.live, self._kept, strict=True):
            one.tensor.copy_(kept)
        self.state.clock.step, self.state.clock.time = self.step, self._time
        self.model.lists.rebuild_at_last()
        self.model.moved()
        return lost


def _wait() -> None:
    """Wait for the device."""
    if not simulated():
        torch.cuda.synchronize()
