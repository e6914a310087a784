"""From the [integrator] table of a deck to a mover: which flows, in which order, with which baths."""

from collections.abc import Mapping

import numpy as np

from spinmd.errors import InputError
from spinmd.integrators.baths import SpinBath, mask_of, per_atom
from spinmd.integrators.depondt_mertens import DepondtMertens
from spinmd.integrators.flows import Drift, Kick
from spinmd.integrators.held import Held
from spinmd.integrators.heun import Heun
from spinmd.integrators.langevin import Langevin
from spinmd.integrators.live_midpoint import LiveMidpoint
from spinmd.integrators.midpoint import Midpoint
from spinmd.integrators.monte_carlo import MonteCarlo
from spinmd.integrators.parallel_tempering import ParallelTempering
from spinmd.integrators.parameters import IntegratorParameters
from spinmd.integrators.runge_kutta import RungeKutta
from spinmd.integrators.semi_implicit import SemiImplicit
from spinmd.integrators.splitting import Splitting
from spinmd.integrators.suzuki_trotter import SuzukiTrotter
from spinmd.integrators.temperatures import any_positive, temperatures
from spinmd.integrators.thermostats import NoseHooverChain, VelocityRescaling
from spinmd.protocols import FIXED, FROZEN
from spinmd.state import State

TOLERANCE = 3.0e-10  # of implicit solvers with frozen couplings, where an iteration costs little
LOOSE_TOLERANCE = (
    1.0e-8  # where an iteration costs more, and with noise; no drift that can be measured (docs/spin_solvers.md)
)
EXPLICIT = {"depondt-mertens": DepondtMertens, "semi-implicit": SemiImplicit, "heun": Heun, "runge-kutta": RungeKutta}
TEMPERATURES = ("temperature", "lattice_temperature", "spin_temperature")
Groups = Mapping[str, np.ndarray]  # name -> (N,) bool, in the original order of the atoms


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
    heat = temperatures(given, duration, place, parameters.spin_rescaling) if noisy else None
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
    usual = LOOSE_TOLERANCE if live or bath.noisy else TOLERANCE
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
    given = [key for key in (*TEMPERATURES, "spin_rescaling") if getattr(parameters, key) is not None]
    friction = any_positive(parameters.lattice_friction)
    if friction and parameters.ensemble != "langevin":
        raise InputError(
            'friction needs ensemble = "langevin"; write that, or leave it out; write that, or leave it out',
            "integrator.lattice_friction",
        )
    check_idle(parameters)
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
    if parameters.spin_rescaling is not None and not act["spins"]:
        raise InputError("no bath acts on the spins: give spin_damping, or leave this out", "integrator.spin_rescaling")
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


def check_idle(parameters: IntegratorParameters) -> None:
    """InputError for what the deck gives and nothing would read: a thermostat without nvt, a bath of what stands still."""
    given = parameters.model_fields_set
    for keys, ensembles in (
        (("thermostat", "thermostat_time"), ("nvt",)),
        (("move", "over_relaxation"), ("monte-carlo", "parallel-tempering")),
        (("exchange",), ("parallel-tempering",)),
    ):
        for key in keys:
            if key in given and parameters.ensemble not in ensembles:
                raise InputError(
                    f'the ensemble "{parameters.ensemble}" has no use for it; leave it out, or write ensemble = "{ensembles[0]}"',
                    f"integrator.{key}",
                )
    for what, key in (("lattice", "lattice_friction"), ("spins", "spin_damping")):
        if getattr(parameters, what) == "frozen" and any_positive(getattr(parameters, key)):
            raise InputError(
                f'{what} = "frozen" leaves nothing for it to act on; leave it out, or set it to 0', f"integrator.{key}"
            )


def check_names(parameters: IntegratorParameters, state: State, groups: Groups) -> None:
    """InputError for a name that is neither an element of the structure nor a group."""
    for key in (*TEMPERATURES, "lattice_friction", "spin_damping"):
        value = getattr(parameters, key)
        for name in value if isinstance(value, dict) else ():
            mask_of(name, state, groups, f"integrator.{key}")


def check_reach(parameters: IntegratorParameters, state: State, groups: Groups) -> None:
    """InputError for a bath of which no atom has both the strength and the temperature."""
    for what, acts in acting(parameters).items():
        strength = "spin_damping" if what == "spins" else "lattice_friction"
        own = "spin_temperature" if what == "spins" else "lattice_temperature"
        key = own if getattr(parameters, own) is not None else "temperature"
        value, heat = getattr(parameters, strength), getattr(parameters, key)
        if not acts or not isinstance(value, dict) or heat is None:
            continue
        warm = temperatures(heat, None, f"integrator.{key}").kinds(state, groups) >= 0
        if not (warm & (per_atom(value, state, groups, f"integrator.{strength}") > 0.0)).any():
            raise InputError(
                f"no atom has both {strength} and {key}; name the same elements or groups in the two",
                f"integrator.{key}",
            )


def build_integrator(
    parameters: IntegratorParameters, state: State, model, steps: int | None = None, groups: Groups | None = None
) -> Splitting | MonteCarlo | ParallelTempering:
    """The mover of a deck's [integrator] table, for a stage of ``steps`` steps (None: not known).

    Raises InputError where solver, baths and model do not go together.
    """
    if parameters.ensemble == "parallel-tempering":
        return build_parallel_tempering(parameters, state, model, groups or {})
    if parameters.temperatures is not None:
        raise InputError(
            'only ensemble = "parallel-tempering" has several temperatures; give temperature', "integrator.temperatures"
        )
    if parameters.ensemble == "monte-carlo":
        return build_monte_carlo(parameters, state, model, steps, groups or {})
    if parameters.timestep is None:
        raise InputError('give the length of a step, for example timestep = "1 fs"', "integrator.timestep")
    check_baths(parameters)
    check_names(parameters, state, groups or {})
    check_reach(parameters, state, groups or {})
    duration = None if steps is None else steps * parameters.timestep
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
    if (
        missing and sequence.strip() and all(letter in "RVSO " for letter in sequence)
    ):  # else Splitting says what is wrong
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
    return Splitting(sequence, parameters.timestep, flows, build_held(parameters, state, groups or {}))


def build_held(parameters: IntegratorParameters, state: State, groups: Groups) -> Held:
    """What the deck holds; InputError for unknown names, and where nothing is left to move."""
    for key, what in ((FROZEN, "lattice"), (FIXED, "spins")):
        if getattr(parameters, key) and getattr(parameters, what) == "frozen":
            raise InputError(f'{what} = "frozen" holds all of them already; leave this out', f"integrator.{key}")
    held = Held(parameters.frozen_atoms, parameters.fixed_spins, groups)
    held.masks(state)
    return held


def build_monte_carlo(
    parameters: IntegratorParameters, state: State, model, steps: int | None, groups: Groups
) -> MonteCarlo:
    """The mover of ensemble = "monte-carlo"; InputError for what it cannot do."""
    check_sweeps(parameters, model)
    given = parameters.spin_temperature if parameters.spin_temperature is not None else parameters.temperature
    if given is None:
        raise InputError("Monte Carlo needs a temperature, for example temperature = 300", "integrator.temperature")
    heat = temperatures(given, steps, "integrator.temperature", parameters.spin_rescaling)
    if heat.names != [""]:
        raise InputError("Monte Carlo has one temperature for all spins", "integrator.temperature")
    held = build_held(parameters, state, groups)
    return MonteCarlo(heat, parameters.move, parameters.over_relaxation, held=held)


def build_parallel_tempering(
    parameters: IntegratorParameters, state: State, model, groups: Groups
) -> ParallelTempering:
    """The mover of ensemble = "parallel-tempering"; InputError for what it cannot do."""
    check_sweeps(parameters, model)
    for key in ("temperature", "spin_temperature"):
        if getattr(parameters, key) is not None:
            raise InputError(
                "parallel tempering has several temperatures; give temperatures = [...] instead", f"integrator.{key}"
            )
    if parameters.spin_rescaling is not None:
        raise InputError(
            "parallel tempering samples its temperatures as they are; leave this out", "integrator.spin_rescaling"
        )
    if parameters.temperatures is None:
        raise InputError(
            "parallel tempering needs temperatures, for example { start = 100, end = 1000, count = 8 }",
            "integrator.temperatures",
        )
    held = build_held(parameters, state, groups)
    return ParallelTempering(
        parameters.temperatures, parameters.exchange, parameters.move, parameters.over_relaxation, held=held
    )


def check_sweeps(parameters: IntegratorParameters, model) -> None:
    """InputError for what Monte Carlo cannot do, at one temperature or at several."""
    live = model.live_terms()
    if live:
        raise InputError(
            f"Monte Carlo moves one spin at a time and needs frozen couplings, which {model.names[live[0]]} has not; "
            'use ensemble = "langevin"',
            "integrator.ensemble",
        )
    if model.driven:
        raise InputError(
            f"Monte Carlo has no time, in which {model.driven[0]} could change; give constant fields, one [[stage]] each",
            "integrator.ensemble",
        )
    if parameters.lattice == "moving":
        raise InputError('Monte Carlo moves the spins only; write lattice = "frozen"', "integrator.lattice")
    if parameters.spins != "moving":
        raise InputError('nothing moves: let spins be "moving"', "integrator.spins")
    foreign = [key for key in ("lattice_temperature", "splitting", "timestep") if getattr(parameters, key) is not None]
    foreign += [key for key in ("lattice_friction", "spin_damping") if any_positive(getattr(parameters, key))]
    if foreign:
        raise InputError("Monte Carlo has no such thing; leave it out", f"integrator.{foreign[0]}")
