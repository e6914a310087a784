"""The [integrator] table of a deck."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from spinmd.parameters import Parameters, Time


def _only_nve(value: Any) -> Any:
    if value in ("nvt", "npt", "langevin", "tspin-nve", "monte-carlo"):
        raise PydanticCustomError("ensemble", 'this version runs at constant energy only; write ensemble = "nve"')
    return value


class IntegratorParameters(Parameters):
    """How the state moves in time."""

    ensemble: Annotated[Literal["nve"], BeforeValidator(_only_nve)] = Field(
        "nve", description="nve: constant energy, apart from Gilbert damping"
    )
    timestep: Time = Field(description="length of a step; a plain number is in ps", gt=0.0)
    lattice: Literal["moving", "frozen"] = Field("moving", description="whether atoms move")
    spins: Literal["moving", "frozen"] = Field("moving", description="whether spins move")
    spin_solver: Literal["midpoint", "spherical-midpoint", "suzuki-trotter", "depondt-mertens", "heun"] = Field(
        "midpoint",
        description="midpoint: implicit, parallel, conserves the energy of frozen couplings exactly (potentials without "
        "frozen couplings get spherical-midpoint), about 3 evaluations of the field a solve; spherical-midpoint: implicit, "
        "parallel, symplectic, any potential, as many; suzuki-trotter: sequential sweep, serial, potentials with frozen "
        "couplings only, 2 sweeps; depondt-mertens, heun: explicit, parallel, any potential, 2 evaluations, the energy "
        "drifts; see docs/spin_solvers.md",
    )
    spin_damping: float = Field(0.0, ge=0.0, description="Gilbert's α, no unit; takes energy out of the spins")
    g_factor: float = Field(2.0, gt=0.0, description="g of dS/dt = −(g/ħ) S × F")
    tolerance: float | None = Field(
        None,
        gt=0.0,
        le=1.0e-2,
        description="midpoint solvers: estimated root mean square error of the solution, relative to |S|; by default "
        "3e-10, and 1e-8 with potentials that have no frozen couplings",
    )
    max_iterations: int = Field(
        60, ge=1, description="midpoint solvers: more iterations than this are reported as not converged"
    )
    splitting: str | None = Field(
        None,
        description='order of the elementary flows, for example "V S R S V" (the default; "V R S R V" for potentials '
        'without frozen couplings) or "R V S V R"; a palindrome',
    )
