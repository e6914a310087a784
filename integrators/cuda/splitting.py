"""Splitting integrators on the GPU: the palindrome of a host's ``Splitting``, with device flows in its place.

A step launches kernels and returns; nothing crosses between host and device. The device has a clock of its own, which noise, ramps
and fields look at; it stands at the same moments as the host's does in a run on the CPU.
"""

import math
from functools import partial
from typing import Any

from spinmd.cuda.arrays import DeviceArray, zeros
from spinmd.cuda.state import DeviceState
from spinmd.errors import InputError
from spinmd.integrators.cuda import flows
from spinmd.integrators.cuda.solvers import device_solver
from spinmd.integrators.cuda.thermostats import DeviceThermostat
from spinmd.integrators.held import degrees_of_freedom
from spinmd.protocols import FROZEN, WORK, Aux


class DeviceSplitting:
    """The flows of ``host`` (a ``Splitting``) on the device, for ``state`` and what its ``aux`` keeps.

    Raises InputError for flows that have no device version.
    """

    def __init__(self, host: Any, state: DeviceState, aux: Aux):
        self.host, self.state = host, state
        self._frozen = flows.held_atoms(aux)
        self.flows = {letter: self._made(letter, flow, aux) for letter, flow in host.flows.items()}
        self._steps = [(self.flows[flow.letter], h, turn, moment) for flow, h, turn, moment in host._steps]
        self._follows_time = any(flow.follows_time for flow in self.flows.values())
        self._launches = self._joined()
        self._start = DeviceArray(state.time.tensor.clone())
        self._worked, self._work = float(aux.globals[WORK][0]) if WORK in aux.globals else 0.0, zeros(1)
        self._energies: list[
            DeviceArray
        ] = []  # of fields that change in time, before and after; made when there are any

    def _made(self, letter: str, flow: Any, aux: Aux) -> Any:
        state, host, kind = self.state, self.host, type(flow).__name__
        if letter == "S":
            return device_solver(flow, state, aux, host._counts[letter], rigid=not host.moves_lattice)
        if kind == "Drift":
            return flows.DeviceDrift(state, self._frozen)
        if kind == "Kick":
            return flows.DeviceKick(state, self._frozen, flow.fields)
        if kind == "Langevin":
            return flows.DeviceLangevin(flow, state, aux, self._frozen)
        if kind in ("NoseHooverChain", "VelocityRescaling"):
            held = FROZEN in aux.per_atom
            return DeviceThermostat(flow, state, aux, degrees_of_freedom(state, aux), held)
        raise InputError(
            f"the flow {kind} has no version for the GPU; compute on the CPU with --device cpu", "integrator.splitting"
        )

    def _joined(self) -> list[Any]:
        """The flows of a step that does not look at the clock; a bath between two drifts is one launch with them."""
        calls, k = [], 0
        while k < len(self._steps):
            flow, h, turn, _ = self._steps[k]
            three = [one for one, *_ in self._steps[k : k + 3]]
            if type(flow) is flows.DeviceDrift and three[2:] == [flow] and isinstance(three[1], flows.DeviceLangevin):
                _, bath_h, bath_turn, _ = self._steps[k + 1]
                calls.append(partial(three[1].flow, h=bath_h, turn=bath_turn, drift=h))
                k += 3
            else:
                calls.append(partial(flow.flow, h=h, turn=turn))
                k += 1
        return calls

    def step(self, model: Any) -> None:
        """One timestep of launches; the host's clock goes on with the device's."""
        self.launch(model)
        self.stepped()

    def stepped(self) -> None:
        """The host's clock after a step."""
        self.state.clock.step += 1
        self.state.clock.time += self.host.dt

    @property
    def plan(self) -> Any:
        """What the launches of a step depend on beside the state: while it stays the same, so do they. None: they change."""
        return self.flows["S"].plan if "S" in self.flows else 0

    def launch(self, model: Any) -> None:
        """The launches of a step, in the same order with the same arguments every time: they can be captured as a graph."""
        state, clock, dt = self.state, self.state.clock, self.host.dt
        start, passed = clock.time, 0.0
        looked_at = self._follows_time or bool(model.driven)
        if not looked_at:
            for call in self._launches:
                call(model)
        else:
            for flow, h, turn, moment in self._steps:
                if moment * dt != passed:
                    passed = moment * dt
                    self._go_to(start, passed, model)
                flow.flow(model, h, turn)
            if passed != dt:
                self._go_to(start, dt, model)
        flows.tick(1, state.ticks, self._start, state.time, dt)
        clock.time = start  # ``stepped`` takes it on, whether a step is launched or repeated as a graph

    def _go_to(self, start: float, passed: float, model: Any) -> None:
        """Set the clocks of device and host; a field that changes meanwhile does work."""
        if model.driven and not self._energies:
            self._energies = [zeros(self.state.natoms) for _ in range(2)]
        for k in range(2):
            if k == 1:
                flows.go_to(1, self._start, passed, self.state.time)
                self.state.clock.time = start + passed
            if model.driven:
                self._energies[k].fill(0.0)
                model.add_driven_energies(self._energies[k])
        if model.driven:
            before, after = self._energies
            self._work.tensor.add_((after.tensor - before.tensor).sum())

    def download(self, aux: Aux) -> None:
        """The numbers that ``aux`` of the host keeps, as they are now."""
        for flow in self.flows.values():
            flow.download(aux)
        self.download_account(aux)

    def download_histories(self, aux: Aux) -> None:
        """What it keeps of each atom."""
        if "S" in self.flows:
            self.flows["S"].download_histories(aux)

    def download_account(self, aux: Aux) -> None:
        """Heat that baths have taken and work that fields have done so far."""
        for flow in self.flows.values():
            flow.download_account(aux)
        if self._energies:
            aux.globals[WORK] = self._worked + self._work.host()

    def memory(self) -> list[DeviceArray]:
        """What a step leaves for the next one, beside the state."""
        return [self._start, self._work, *(one for flow in self.flows.values() for one in flow.memory())]

    def grow(self) -> bool:
        """True if more is launched from now on, and the steps since the last look are to be repeated."""
        return "S" in self.flows and self.flows["S"].grow()

    def unsolved(self) -> int:
        """How many solves of the spins have not converged so far; a transfer."""
        return self.flows["S"].unsolved() if "S" in self.flows else 0

    def iterations(self) -> float:
        """Mean number of field evaluations in a spin solve so far, NaN where nothing iterates; a transfer."""
        solves, evaluations = self.flows["S"].counts() if "S" in self.flows else (0, 0)
        return evaluations / solves if solves else math.nan
