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
from spinmd.integrators.baths import SpinBath
from spinmd.integrators.depondt_mertens import DepondtMertens
from spinmd.integrators.flows import Drift, Kick
from spinmd.integrators.heun import Heun
from spinmd.integrators.langevin import Langevin
from spinmd.integrators.live_midpoint import LiveMidpoint
from spinmd.integrators.midpoint import Midpoint
from spinmd.integrators.parameters import IntegratorParameters
from spinmd.integrators.runge_kutta import RungeKutta
from spinmd.integrators.semi_implicit import SemiImplicit
from spinmd.integrators.suzuki_trotter import SuzukiTrotter
from spinmd.integrators.temperatures import any_positive, temperatures
from spinmd.integrators.thermostats import NoseHooverChain, VelocityRescaling
from spinmd.protocols import OK, Aux, Code, Evaluation, Status
from spinmd.state import State

TOLERANCE = 3.0e-10  # of implicit solvers with frozen couplings, where an iteration costs little
NOISY_TOLERANCE = 1.0e-6  # with noise: far below what the noise itself changes in a step
LIVE_TOLERANCE = 1.0e-8  # with live potentials; no drift that can be measured either (docs/spin_solvers.md)


EXPLICIT = {"depondt-mertens": DepondtMertens, "semi-implicit": SemiImplicit, "heun": Heun, "runge-kutta": RungeKutta}
TEMPERATURES = ("temperature", "lattice_temperature", "spin_temperature")
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


def default_sequence(parameters: IntegratorParameters, live: bool = False, bath: bool = False) -> str:
    """The string used when the deck gives none; ``live``: some potential has no frozen couplings; ``bath``: the lattice has one."""
    if parameters.splitting is not None:
        return parameters.splitting
    lattice, spins = parameters.lattice == "moving", parameters.spins == "moving"
    if not lattice and not spins:
        raise InputError('nothing moves: let lattice or spins be "moving"', "integrator")
    if lattice and spins and live:
        return "V R O S O R V" if bath else "V R S R V"
    if lattice and spins:
        return "V S R O R S V" if bath else "V S R S V"
    if lattice:
        return "V R O R V" if bath else "V R V"
    return "S"


def build_spin_bath(parameters: IntegratorParameters, duration: float | None, groups) -> SpinBath:
    """Damping and noise of the spins, from a deck's [integrator] table for a stage of ``duration`` ps."""
    given = parameters.spin_temperature if parameters.spin_temperature is not None else parameters.temperature
    place = "integrator.temperature" if parameters.spin_temperature is None else "integrator.spin_temperature"
    noisy = parameters.ensemble != "nve" and given is not None and any_positive(parameters.spin_damping)
    heat = temperatures(given, duration, place) if noisy else None
    return SpinBath(parameters.spin_damping, heat, parameters.g_factor, groups)


def build_spin_solver(parameters: IntegratorParameters, model, duration: float | None = None, groups=None):
    """The flow S of a deck's [integrator] table; InputError where solver and model do not go together."""
    live = model.live_terms()
    kind = parameters.spin_solver
    bath = build_spin_bath(parameters, duration, groups)
    if kind in EXPLICIT:
        return EXPLICIT[kind](bath=bath)
    if kind == "suzuki-trotter":
        if live:
            raise InputError(
                f'the sequential sweep needs frozen couplings, which {model.names[live[0]]} has not; use "midpoint"',
                "integrator.spin_solver",
            )
        return SuzukiTrotter(bath=bath)
    usual = NOISY_TOLERANCE if bath.noisy else LIVE_TOLERANCE if live else TOLERANCE
    settings = {"tolerance": parameters.tolerance or usual, "iterations": parameters.max_iterations, "bath": bath}
    if live:
        return LiveMidpoint(**settings)
    # with noise the energy is not conserved anyway, and the spherical form has the smaller error in the distribution
    return Midpoint(**settings, spherical=kind == "spherical-midpoint" or bath.noisy)


def build_lattice_bath(parameters: IntegratorParameters, duration: float | None, groups):
    """The flow O of a deck's [integrator] table, or None."""
    if not acting(parameters)["lattice"]:
        return None
    given = parameters.lattice_temperature if parameters.lattice_temperature is not None else parameters.temperature
    place = "integrator.temperature" if parameters.lattice_temperature is None else "integrator.lattice_temperature"
    heat = temperatures(given, duration, place)
    if parameters.ensemble == "langevin":
        return Langevin(parameters.lattice_friction, heat, groups)
    if len(heat.ramps) > 1 or heat.names != [""]:
        raise InputError(
            'a thermostat of the whole lattice has one temperature; use ensemble = "langevin" for several', place
        )
    kind = NoseHooverChain if parameters.thermostat == "nose-hoover" else VelocityRescaling
    return kind(heat.ramps[0], parameters.thermostat_time)


def acting(parameters: IntegratorParameters) -> dict[str, bool]:
    """Whether a bath acts on the lattice, and on the spins."""
    lattice = parameters.ensemble == "nvt" or any_positive(parameters.lattice_friction)
    return {
        "lattice": parameters.ensemble != "nve" and lattice and parameters.lattice == "moving",
        "spins": parameters.ensemble != "nve"
        and any_positive(parameters.spin_damping)
        and parameters.spins == "moving",
    }


def check_baths(parameters: IntegratorParameters) -> None:
    """InputError for temperatures that nothing would follow, and for baths without a temperature."""
    given = [key for key in TEMPERATURES if getattr(parameters, key) is not None]
    friction = any_positive(parameters.lattice_friction)
    if friction and parameters.ensemble != "langevin":
        raise InputError('friction needs ensemble = "langevin"', "integrator.lattice_friction")
    if parameters.ensemble == "nve":
        if given:
            raise InputError(
                'the ensemble "nve" has no bath; write ensemble = "langevin", or give the temperature of the start in '
                "[structure]",
                f"integrator.{given[0]}",
            )
        return
    if parameters.ensemble == "nvt" and parameters.lattice == "frozen":
        raise InputError(
            'nvt is for a lattice that moves; with lattice = "frozen" write ensemble = "langevin" and a spin_damping',
            "integrator.ensemble",
        )
    act = acting(parameters)
    if not any(act.values()):
        raise InputError(
            "no bath acts: give lattice_friction (1/ps) for the lattice, spin_damping for the spins, or both",
            "integrator",
        )
    for what, acts in act.items():
        own = "lattice_temperature" if what == "lattice" else "spin_temperature"
        if acts and getattr(parameters, own) is None and parameters.temperature is None:
            raise InputError(
                f"the bath of the {what} needs a temperature, for example temperature = 300", "integrator.temperature"
            )
        if not acts and getattr(parameters, own) is not None:
            key = "lattice_friction" if what == "lattice" else "spin_damping"
            raise InputError(f"no bath acts on the {what}: give {key}, or leave this out", f"integrator.{own}")


def build_integrator(
    parameters: IntegratorParameters, state: State, model, duration: float | None = None, groups=None
) -> Splitting:
    """The integrator of a deck's [integrator] table, for a stage of ``duration`` ps.

    groups  name -> (N,) bool, original order. Raises InputError where solver, baths and model do not go together.
    """
    check_baths(parameters)
    flows = {}
    if parameters.lattice == "moving":
        flows |= {"R": Drift(), "V": Kick()}
    if parameters.spins == "moving":
        flows["S"] = build_spin_solver(parameters, model, duration, groups)
    bath = build_lattice_bath(parameters, duration, groups)
    if bath is not None:
        flows["O"] = bath
    sequence = default_sequence(parameters, "S" in flows and bool(model.live_terms()), bath is not None)
    missing = [letter for letter in flows if letter not in sequence]
    if missing:
        what, remedy = {
            "R": ("positions do not move", 'set lattice = "frozen"'),
            "V": ("velocities do not change", 'set lattice = "frozen"'),
            "S": ("spins do not turn", 'set spins = "frozen"'),
            "O": ("the bath of the lattice does not act", "leave lattice_friction out"),
        }[missing[0]]
        example = "V S R O R S V" if bath is not None else "V S R S V"
        raise InputError(
            f'{sequence!r} has no {missing[0]}, so that {what}; write for example "{example}", or {remedy}',
            "integrator.splitting",
        )
    return Splitting(sequence, parameters.timestep, flows)
