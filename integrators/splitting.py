"""Splitting integrators: a palindrome of elementary flows, written as a string such as "V S R S V".

A letter that comes n times acts for dt/n each time: V S R S V kicks for dt/2, turns the spins for dt/2, drifts for dt,
and back. Every flow is reversible, so is the palindrome: second order, no drift of the energy (Hairer, Lubich, Wanner,
Geometric Numerical Integration, 2006, chapters II, V and VI; for spins and lattice Omelyan, Mryglod, Folk, Phys. Rev.
Lett. 86, 898 (2001)).

V S R S V is the default because its energy drifts least: from random spins at 1 fs 7e-5 meV/atom/ps, where V R S R V
and R V S V R, with one spin solve instead of two, have +1e-3 and −9e-4 (``benchmarks/energy_drift.py``). The two spin
solves that meet between steps share one set of couplings. With potentials that have no frozen couplings V R S R V is the
default: it costs half the evaluations of the field, and its drift is as small as can be told (``docs/spin_solvers.md``).
"""

import numpy as np

from spinmd.errors import InputError
from spinmd.integrators.held import Held, degrees_of_freedom, fixed_spins, frozen_atoms
from spinmd.protocols import HEATS, OK, WORK, Aux, Code, Evaluation, Status
from spinmd.state import State


class Splitting:
    """A composition of flows.

    sequence  letters R, V, S, O, separated by blanks or not; must be a palindrome
    dt        ps
    flows     letter -> flow object
    held      atoms and spins that do not move

    The clock goes on with the drift R, in equal parts; without R a flow happens in the middle of its own time. A field that
    changes in time is thereby constant in each flow, and the step stays symmetric and of second order.
    """

    order = 2

    def __init__(self, sequence: str, dt: float, flows: dict, held: Held | None = None):
        letters = sequence.replace(" ", "")
        place = "integrator.splitting"
        if not letters:
            raise InputError('needs at least one letter, for example "V S R S V"', place)
        for letter in letters:
            if letter not in flows:
                raise InputError(f"{letter!r} is not one of the flows {', '.join(flows)} that this run has", place)
        if letters != letters[::-1]:
            raise InputError(
                f'{sequence!r} reads differently backwards; a palindrome such as "V S R S V" is of second order', place
            )
        if not dt > 0.0:
            raise InputError(f"must be positive, got {dt} ps", "integrator.timestep")
        self.sequence = " ".join(letters)
        self.dt = float(dt)
        self.flows = {letter: flows[letter] for letter in dict.fromkeys(letters)}
        self._counts = {letter: letters.count(letter) for letter in self.flows}
        turns = [letters[:k].count(letter) for k, letter in enumerate(letters)]
        self.held = held or Held()
        self.moves_lattice = "R" in letters
        self._steps = [
            (self.flows[letter], self.dt / self._counts[letter], turn, self._moment(letters, k))
            for k, (letter, turn) in enumerate(zip(letters, turns, strict=True))
        ]
        after_kick = frozenset(turn for k, turn in enumerate(turns) if k and letters[k - 1] + letters[k] == "VS")
        if getattr(self.spin_solver, "starts_with_field", False):
            self.spin_solver.after_kick = after_kick
            if "V" in self.flows:
                self.flows["V"].fields = bool(after_kick)

    @staticmethod
    def _moment(letters: str, k: int) -> float:
        """The share of the step that has passed when the k-th flow happens."""
        if "R" in letters:
            return letters[:k].count("R") / letters.count("R")
        return (k + 0.5) / len(letters)

    def init(self, state: State, seed: int) -> Aux:
        """Buffers and bath variables of all flows; atoms that are held come to rest."""
        aux = Aux()
        self.held.begin(state, aux)
        for letter, flow in self.flows.items():
            flow.init(state, aux, seed, self._counts[letter])
        return aux

    def step(self, state: State, aux: Aux, model) -> Status:
        """One timestep; the clock goes on by ``dt``. Not converged is passed on, anything worse ends the step."""
        status = OK
        start = state.clock.time
        driven = bool(model.driven)
        for flow, h, turn, moment in self._steps:
            self._go_to(start + moment * self.dt, state, aux, model, driven)
            if flow is self.spin_solver:
                result = self._solve_spins(state, aux, model, h, turn)
            else:
                result = flow.flow(state, aux, model, h, turn)
            if not result.ok:
                status = result
                if result.code is not Code.NOT_CONVERGED:
                    break
        self._go_to(start + self.dt, state, aux, model, driven)
        state.clock.step += 1
        return status

    def _go_to(self, time: float, state: State, aux: Aux, model, driven: bool) -> None:
        """Set the clock; a field that changes meanwhile does work."""
        if driven:
            work = aux.globals.setdefault(WORK, np.zeros(1))
            work[0] += model.time_passes(time)
        else:
            state.clock.time = time

    def _solve_spins(self, state: State, aux: Aux, model, h: float, turn: int) -> Status:
        """S; fixed spins stay bitwise what they are. Lists come first: bringing them up to date may re-order the atoms."""
        model.update_lists()
        fixed = np.flatnonzero(fixed_spins(aux))
        kept = state.spins[fixed]
        status = self.spin_solver.flow(state, aux, model, h, turn)
        state.spins[fixed] = kept
        return status

    def conserved(self, state: State, aux: Aux, evaluation: Evaluation) -> float:
        """Kinetic plus potential energy, plus what the baths have taken out, minus the work of fields that change in time, eV."""
        heat = sum(float(aux.globals[name][0]) for name in HEATS if name in aux.globals)
        work = float(aux.globals[WORK][0]) if WORK in aux.globals else 0.0
        return state.kinetic_energy() + evaluation.energy + heat - work

    def degrees_of_freedom(self, state: State, aux: Aux | None = None) -> int:
        """3N − 3 where the total momentum is conserved, 3N where a bath or atoms that are held change it (less theirs); 0 for a
        frozen lattice, which has no temperature."""
        if not self.moves_lattice:
            return 0
        aux = Aux(self.held.masks(state)) if aux is None else aux
        held = len(frozen_atoms(aux)) > 0
        return degrees_of_freedom(state, aux) if held or self.conserves_momentum(aux) else 3 * state.natoms

    def conserves_momentum(self, aux: Aux) -> bool:
        """Whether the total momentum stays what it is: no bath and no frozen atoms push the others."""
        pushed = any(not getattr(flow, "conserves_momentum", True) for flow in self.flows.values())
        return not pushed and not len(frozen_atoms(aux))

    @property
    def spin_solver(self):
        """The flow that moves the spins, or None."""
        return self.flows.get("S")

    @property
    def field_evaluations(self) -> int:
        """Evaluations of the field by the spin solver since it was made; those of the forces are not counted."""
        return 0 if self.spin_solver is None else self.spin_solver.evaluations
