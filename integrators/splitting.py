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

from spinmd.errors import InputError
from spinmd.protocols import OK, Aux, Code, Evaluation, Status
from spinmd.state import State

HEATS = ("spin_heat", "lattice_heat")  # what baths have taken out, eV, in Aux.globals


class Splitting:
    """A composition of flows.

    sequence  letters R, V, S, O, separated by blanks or not; must be a palindrome
    dt        ps
    flows     letter -> flow object
    """

    order = 2

    def __init__(self, sequence: str, dt: float, flows: dict):
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
        self._steps = [
            (self.flows[letter], self.dt / self._counts[letter], turn)
            for letter, turn in zip(letters, turns, strict=True)
        ]
        self.moves_lattice = "R" in letters
        after_kick = frozenset(turn for k, turn in enumerate(turns) if k and letters[k - 1] + letters[k] == "VS")
        if getattr(self.spin_solver, "starts_with_field", False):
            self.spin_solver.after_kick = after_kick
            if "V" in self.flows:
                self.flows["V"].fields = bool(after_kick)

    def init(self, state: State, seed: int) -> Aux:
        """Buffers and bath variables of all flows."""
        aux = Aux()
        for letter, flow in self.flows.items():
            flow.init(state, aux, seed, self._counts[letter])
        return aux

    def step(self, state: State, aux: Aux, model) -> Status:
        """One timestep; the clock goes on by ``dt``. Not converged is passed on, anything worse ends the step."""
        status = OK
        for flow, h, turn in self._steps:
            result = flow.flow(state, aux, model, h, turn)
            if not result.ok:
                status = result
                if result.code is not Code.NOT_CONVERGED:
                    break
        state.clock.step += 1
        state.clock.time += self.dt
        return status

    def conserved(self, state: State, aux: Aux, evaluation: Evaluation) -> float:
        """Kinetic plus potential energy, plus what the baths have taken out of spins and lattice, eV."""
        heat = sum(float(aux.globals[name][0]) for name in HEATS if name in aux.globals)
        return state.kinetic_energy() + evaluation.energy + heat

    def degrees_of_freedom(self, state: State) -> int:
        """3N − 3 where the total momentum is conserved, 3N where a bath changes it; 0 for a frozen lattice, which has no
        temperature."""
        if not self.moves_lattice:
            return 0
        conserved = all(getattr(flow, "conserves_momentum", True) for flow in self.flows.values())
        return max(3 * state.natoms - 3, 1) if conserved else 3 * state.natoms

    @property
    def spin_solver(self):
        """The flow that moves the spins, or None."""
        return self.flows.get("S")

    @property
    def field_evaluations(self) -> int:
        """Evaluations of the field by the spin solver since it was made; those of the forces are not counted."""
        return 0 if self.spin_solver is None else self.spin_solver.evaluations
