"""Splitting integrators: a palindrome of elementary flows, written as a string such as "V S R S V".

A letter that comes n times acts for dt/n each time: V S R S V kicks for dt/2, turns the spins for dt/2, drifts for dt,
and back. Every flow is reversible, so is the palindrome: second order, no drift of the energy (Hairer, Lubich, Wanner,
Geometric Numerical Integration, 2006, chapters II, V and VI; for spins and lattice Omelyan, Mryglod, Folk, Phys. Rev.
Lett. 86, 898 (2001)).

V S R S V is the default because its energy drifts least: from random spins at 1 fs 7e-5 meV/atom/ps, where V R S R V
and R V S V R, with one spin solve instead of two, have +1e-3 and −9e-4 (``benchmarks/energy_drift.py``). The two spin
solves that meet between steps share one set of couplings.
"""

from spinmd.errors import InputError
from spinmd.integrators.flows import Drift, Kick
from spinmd.integrators.midpoint import Midpoint
from spinmd.integrators.parameters import IntegratorParameters
from spinmd.integrators.suzuki_trotter import SuzukiTrotter
from spinmd.protocols import OK, Aux, Code, Evaluation, Status
from spinmd.state import State


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


def default_sequence(parameters: IntegratorParameters) -> str:
    """The string used when the deck gives none."""
    if parameters.splitting is not None:
        return parameters.splitting
    lattice, spins = parameters.lattice == "moving", parameters.spins == "moving"
    if lattice and spins:
        return "V S R S V"
    if lattice:
        return "V R V"
    if spins:
        return "S"
    raise InputError('nothing moves: let lattice or spins be "moving"', "integrator")


def build_integrator(parameters: IntegratorParameters, state: State, model) -> Splitting:
    """The integrator of a deck's [integrator] table.

    Raises InputError where solver and model do not go together.
    """
    flows = {}
    if parameters.lattice == "moving":
        flows |= {"R": Drift(), "V": Kick()}
    if parameters.spins == "moving":
        common = {"damping": parameters.spin_damping, "g_factor": parameters.g_factor}
        if parameters.spin_solver != "suzuki-trotter":
            flows["S"] = Midpoint(
                **common, tolerance=parameters.tolerance, iterations=parameters.max_iterations,
                spherical=parameters.spin_solver == "spherical-midpoint",
            )  # fmt: skip
        else:
            live = model.live_terms()
            if live:
                raise InputError(
                    f'the sequential sweep needs frozen couplings, which {model.names[live[0]]} has not; use "midpoint"',
                    "integrator.spin_solver",
                )
            flows["S"] = SuzukiTrotter(**common)
    sequence = default_sequence(parameters)
    missing = [letter for letter in flows if letter not in sequence]
    if missing:
        what = {"R": "positions do not move", "V": "velocities do not change", "S": "spins do not turn"}[missing[0]]
        frozen = "spins" if missing[0] == "S" else "lattice"
        raise InputError(
            f'{sequence!r} has no {missing[0]}, so that {what}; write for example "V S R S V", or set {frozen} = "frozen"',
            "integrator.splitting",
        )
    return Splitting(sequence, parameters.timestep, flows)
