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
from spinmd.integrators.depondt_mertens import DepondtMertens
from spinmd.integrators.flows import Drift, Kick
from spinmd.integrators.heun import Heun
from spinmd.integrators.live_midpoint import LiveMidpoint
from spinmd.integrators.midpoint import Midpoint
from spinmd.integrators.parameters import IntegratorParameters
from spinmd.integrators.suzuki_trotter import SuzukiTrotter
from spinmd.protocols import OK, Aux, Code, Evaluation, Status
from spinmd.state import State

TOLERANCE = 3.0e-10  # of implicit solvers with frozen couplings, where an iteration costs little
LIVE_TOLERANCE = 1.0e-8  # with live potentials; no drift that can be measured either (docs/spin_solvers.md)


class Splitting:
    """A composition of flows.

    sequence  letters R, V, S, separated by blanks or not; must be a palindrome
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
        """Kinetic plus potential energy, plus what Gilbert damping has taken out of the spins, eV."""
        heat = float(aux.globals["spin_heat"][0]) if "spin_heat" in aux.globals else 0.0
        return state.kinetic_energy() + evaluation.energy + heat

    def degrees_of_freedom(self, state: State) -> int:
        """3N − 3, since the total momentum is conserved; 0 for a frozen lattice, which has no temperature."""
        return max(3 * state.natoms - 3, 1) if self.moves_lattice else 0

    @property
    def spin_solver(self):
        """The flow that moves the spins, or None."""
        return self.flows.get("S")

    @property
    def field_evaluations(self) -> int:
        """Evaluations of the field by the spin solver since it was made; those of the forces are not counted."""
        return 0 if self.spin_solver is None else self.spin_solver.evaluations


def default_sequence(parameters: IntegratorParameters, live: bool = False) -> str:
    """The string used when the deck gives none; ``live``: some potential has no frozen couplings."""
    if parameters.splitting is not None:
        return parameters.splitting
    lattice, spins = parameters.lattice == "moving", parameters.spins == "moving"
    if lattice and spins:
        return "V R S R V" if live else "V S R S V"
    if lattice:
        return "V R V"
    if spins:
        return "S"
    raise InputError('nothing moves: let lattice or spins be "moving"', "integrator")


def build_spin_solver(parameters: IntegratorParameters, model):
    """The flow S of a deck's [integrator] table; InputError where solver and model do not go together."""
    common = {"damping": parameters.spin_damping, "g_factor": parameters.g_factor}
    live = model.live_terms()
    kind = parameters.spin_solver
    if kind == "depondt-mertens":
        return DepondtMertens(**common)
    if kind == "heun":
        return Heun(**common)
    if kind == "suzuki-trotter":
        if live:
            raise InputError(
                f'the sequential sweep needs frozen couplings, which {model.names[live[0]]} has not; use "midpoint"',
                "integrator.spin_solver",
            )
        return SuzukiTrotter(**common)
    tolerance = parameters.tolerance or (LIVE_TOLERANCE if live else TOLERANCE)
    common |= {"tolerance": tolerance, "iterations": parameters.max_iterations}
    if live:
        return LiveMidpoint(**common)
    return Midpoint(**common, spherical=kind == "spherical-midpoint")


def build_integrator(parameters: IntegratorParameters, state: State, model) -> Splitting:
    """The integrator of a deck's [integrator] table.

    Raises InputError where solver and model do not go together.
    """
    flows = {}
    if parameters.lattice == "moving":
        flows |= {"R": Drift(), "V": Kick()}
    if parameters.spins == "moving":
        flows["S"] = build_spin_solver(parameters, model)
    sequence = default_sequence(parameters, "S" in flows and bool(model.live_terms()))
    missing = [letter for letter in flows if letter not in sequence]
    if missing:
        what = {"R": "positions do not move", "V": "velocities do not change", "S": "spins do not turn"}[missing[0]]
        frozen = "spins" if missing[0] == "S" else "lattice"
        raise InputError(
            f'{sequence!r} has no {missing[0]}, so that {what}; write for example "V S R S V", or set {frozen} = "frozen"',
            "integrator.splitting",
        )
    return Splitting(sequence, parameters.timestep, flows)
