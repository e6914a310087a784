"""The [integrator] table of a deck."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from spinmd.integrators.parallel_tempering import row_arrays
from spinmd.integrators.temperatures import BathNumber, BathRate, BathTemperature, LadderTemperatures, QuantumRescaling
from spinmd.parameters import Parameters, Time
from spinmd.protocols import RowArray


def _ensemble(value: Any) -> Any:
    if value in ("npt", "tspin-nve"):
        raise PydanticCustomError(
            "ensemble",
            'this version has no such ensemble; write "nve", "langevin", "nvt", "monte-carlo" or "parallel-tempering"',
        )
    return value


def _names(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


THERMOSTAT = ("thermostat", "thermostat_time")
SWEEPS = ("move", "over_relaxation")
LADDER = ("temperatures", "exchange")
WITHOUT_TIME = ("splitting", "timestep", "lattice_temperature", "lattice_friction", "spin_damping", *THERMOSTAT)
STILL = {  # what a stage that holds lattice or spins does not take over
    "lattice": ("lattice_friction", "lattice_temperature", "splitting", *THERMOSTAT),
    "spins": ("spin_damping", "spin_temperature", "spin_rescaling", "splitting"),
}
FOREIGN = {  # ensemble -> keys that a stage with it does not take over from a deck of another one
    "nve": ("temperature", "lattice_temperature", "spin_temperature", "spin_rescaling", "lattice_friction", "spin_damping",
            "splitting", *THERMOSTAT, *SWEEPS, *LADDER),
    "langevin": ("splitting", *THERMOSTAT, *SWEEPS, *LADDER),
    "nvt": ("splitting", "lattice_friction", *SWEEPS, *LADDER),
    "monte-carlo": (*WITHOUT_TIME, *LADDER),
    "parallel-tempering": (*WITHOUT_TIME, "temperature", "spin_temperature", "spin_rescaling"),
}  # fmt: skip


class IntegratorParameters(Parameters):
    """How the state moves in time."""

    ensemble: Annotated[
        Literal["nve", "langevin", "nvt", "monte-carlo", "parallel-tempering"], BeforeValidator(_ensemble)
    ] = Field(
        "nve",
        description="nve: constant energy, apart from Gilbert damping at zero temperature; langevin: stochastic baths, "
        "spin_damping for the spins and lattice_friction for the lattice; nvt: a thermostat for the lattice, and noise for the "
        "spins where spin_damping is given; monte-carlo: of the spins, a step is a sweep, without time; parallel-tempering: "
        "the same at several temperatures at once, which exchange their spins; see docs/baths.md and docs/monte_carlo.md",
    )
    timestep: Time | None = Field(
        None,
        description="length of a step; a plain number is in ps; required, but for monte-carlo and parallel-tempering",
        gt=0.0,
    )
    lattice: Literal["moving", "frozen"] = Field("moving", description="whether atoms move")
    spins: Literal["moving", "frozen"] = Field("moving", description="whether spins move")
    frozen_atoms: Names = Field((), description='elements and groups of atoms that stand still, ["substrate"]')
    fixed_spins: Names = Field((), description='elements and groups of atoms whose spins do not turn, ["Co", "edge"]')
    temperature: BathTemperature | None = Field(
        None,
        description='of all baths: 300, "300 K", a ramp such as { start = 10, end = 900 } (over the stage, or time = "5 ps"), or '
        "one of these for each element or group, { Fe = 300, Ni = 10 }",
    )
    lattice_temperature: BathTemperature | None = Field(None, description="of the lattice's bath only")
    spin_temperature: BathTemperature | None = Field(None, description="of the spins' bath only")
    spin_rescaling: QuantumRescaling | None = Field(
        None,
        description="turns the temperature of the spins' bath, or of Monte Carlo, into one at which classical spins have the "
        "magnetisation of quantum ones",
    )
    lattice_friction: BathRate = Field(
        0.0, description="langevin: γ of the lattice's bath, a number or one for each element or group; 0 means no bath"
    )
    thermostat: Literal["velocity-rescaling", "nose-hoover"] = Field(
        "velocity-rescaling",
        description="nvt: what holds the lattice's temperature; stochastic velocity rescaling, or a chain of three Nosé-Hoover "
        "thermostats",
    )
    thermostat_time: Time = Field(0.1, gt=0.0, description="nvt: time in which the kinetic energy relaxes")
    spin_solver: Literal[
        "midpoint", "spherical-midpoint", "suzuki-trotter", "depondt-mertens", "semi-implicit", "heun", "runge-kutta"
    ] = Field(
        "midpoint",
        description="midpoint: implicit, parallel, conserves the energy of frozen couplings exactly (potentials without "
        "frozen couplings get spherical-midpoint), about 3 evaluations of the field a solve; spherical-midpoint: implicit, "
        "parallel, symplectic, any potential, as many; suzuki-trotter: sequential sweep, serial, potentials with frozen "
        "couplings only, 2 sweeps; depondt-mertens, semi-implicit, heun: explicit, parallel, any potential, 2 evaluations, "
        "the energy drifts; runge-kutta: the same of fourth order with 4; see docs/spin_solvers.md",
    )
    spin_damping: BathNumber = Field(
        0.0,
        description="Gilbert's α, no unit, a number or one for each element or group; takes energy out of the spins, and gives "
        "noise back at a temperature",
    )
    g_factor: float = Field(2.0, gt=0.0, description="g of dS/dt = −(g/ħ) S × F")
    tolerance: float | None = Field(
        None,
        gt=0.0,
        le=1.0e-2,
        description="midpoint solvers: estimated root mean square error of the solution, relative to |S|; by default "
        "3e-10, 1e-8 with noise and with potentials that have no frozen couplings",
    )
    max_iterations: int = Field(
        60, ge=1, description="midpoint solvers: more iterations than this are reported as not converged"
    )
    move: Literal["heat-bath", "metropolis"] = Field(
        "heat-bath",
        description="monte-carlo, parallel-tempering: heat-bath draws each direction anew from its distribution, metropolis "
        "turns it by a random amount that is adapted to accept half of the moves",
    )
    over_relaxation: int = Field(
        1, ge=0, description="monte-carlo, parallel-tempering: sweeps of over-relaxation after each sweep"
    )
    temperatures: LadderTemperatures | None = Field(
        None,
        description="parallel-tempering: at least two, ascending, [100, 150, 225], or { start = 100, end = 1000, count = 8 } with "
        'spacing = "geometric" (the default) or "linear"',
    )
    exchange: int = Field(1, ge=1, description="parallel-tempering: sweeps between attempts to exchange neighbours")

    @property
    def row_arrays(self) -> tuple[RowArray, ...]:
        """What the mover adds to each row of the thermo table."""
        return row_arrays(len(self.temperatures)) if self.ensemble == "parallel-tempering" and self.temperatures else ()

    @classmethod
    def over(cls, own: Any, changes: dict[str, Any]) -> dict[str, Any]:
        """The table of a stage: ``changes`` over the deck's ``own`` table, value by value.

        A stage with another ensemble does not inherit what this has no use for: an nve stage after a langevin one has
        neither temperature nor damping, unless it gives them. The same for the bath of what stands still in the stage.
        """
        own = dict(own) if isinstance(own, dict) else {}
        ensemble = changes.get("ensemble")
        if isinstance(ensemble, str) and ensemble != own.get("ensemble", "nve"):
            own = {key: value for key, value in own.items() if key not in FOREIGN.get(ensemble, ())}
        for what, keys in STILL.items():
            if changes.get(what) == "frozen" and own.get(what) != "frozen":
                own = {key: value for key, value in own.items() if key not in keys}
        return own | changes

    splitting: str | None = Field(
        None,
        description='order of the elementary flows, for example "V S R S V" (the default; "V R S R V" for potentials '
        'without frozen couplings) or "R V S V R", with O for a bath of the lattice, "V S R O R S V"; a palindrome',
    )
