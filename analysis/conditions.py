"""Under which conditions a run was made, as its deck says: ensemble and bath of its last stage, unit cell, atoms.

Analyses need them to know the temperature that fluctuations are divided by, and to refuse what an ensemble does not allow.
"""

import math
from typing import Any

import numpy as np

from spinmd.errors import InputError
from spinmd.trajectory import Trajectory
from spinmd.units import convert

SAMPLERS = ("monte-carlo", "parallel-tempering")


def integrator_settings(trajectory: Trajectory) -> dict[str, Any]:
    """The [integrator] table of the last stage that the run has come to: the deck's own, and what the stage changes."""
    settings = trajectory.settings
    own = dict(settings.get("integrator", {}))
    stage = stage_number(trajectory)
    if stage == 0:
        return own
    return {**own, **settings["stage"][stage - 1].get("integrator", {})}


def stage_number(trajectory: Trajectory) -> int:
    """Which stage of the deck the run has come to; 0 is the deck's own part."""
    place = trajectory.checkpoint.meta.get("extra")
    return int(place.get("stage", 0)) if isinstance(place, dict) else 0


def ensemble(trajectory: Trajectory) -> str:
    """Of the last stage: nve, langevin, ..."""
    return str(integrator_settings(trajectory).get("ensemble", "nve"))


def lattice_moves(trajectory: Trajectory) -> bool:
    """Whether atoms move in the last stage."""
    settings = integrator_settings(trajectory)
    return settings.get("ensemble") not in SAMPLERS and settings.get("lattice", "moving") == "moving"


def spins_move(trajectory: Trajectory) -> bool:
    """Whether spins move in the last stage."""
    magnetic = bool((trajectory.checkpoint.state.moments > 0.0).any())
    return magnetic and integrator_settings(trajectory).get("spins", "moving") == "moving"


def has_bath(trajectory: Trajectory) -> bool:
    """Whether the last stage samples a temperature: Monte Carlo, or a bath of the lattice or of the spins that do move."""
    settings = integrator_settings(trajectory)
    kind = settings.get("ensemble", "nve")
    if kind in SAMPLERS:
        return True
    if bath_temperature(trajectory) is None:
        return False
    if kind == "nvt":
        return lattice_moves(trajectory)
    lattice = lattice_moves(trajectory) and _positive(settings.get("lattice_friction", 0.0))
    return kind == "langevin" and (lattice or (spins_move(trajectory) and _positive(settings.get("spin_damping", 0.0))))


def _positive(value: Any) -> bool:
    """Whether a rate or damping, a number or one for each element or group, is above zero anywhere."""
    values = value.values() if isinstance(value, dict) else [value]
    return any(convert(one, "rate") > 0.0 for one in values if isinstance(one, (int, float, str)))


def bath_temperature(trajectory: Trajectory, of: str = "spins") -> float | None:
    """K, of the bath of the last stage; None without one, and where it changes in time or differs between atoms.

    of  "spins" or "lattice": whose bath counts where the deck gives two. With spin_rescaling it is the temperature of the classical
        bath, at which the spins fluctuate
    """
    settings = integrator_settings(trajectory)
    if settings.get("ensemble", "nve") == "nve":
        return None
    own = settings.get("spin_temperature" if of == "spins" else "lattice_temperature")
    value = own if own is not None else settings.get("temperature")
    if isinstance(value, dict) or value is None:
        return None
    kelvin = convert(value, "temperature")
    rescaling = settings.get("spin_rescaling")
    if of == "spins" and isinstance(rescaling, dict):
        critical, exponent = convert(rescaling["critical_temperature"], "temperature"), float(rescaling["exponent"])
        kelvin = critical * (kelvin / critical) ** exponent if kelvin < critical else kelvin
    return kelvin


def negative_rows(trajectory: Trajectory, kelvins: np.ndarray) -> str | None:
    """A sentence where spin temperatures (rows,) K are below zero; else None."""
    count = int(np.count_nonzero(kelvins < 0.0))
    if not count:
        return None
    where = f"{count} of {len(kelvins)} rows" if len(kelvins) > 1 else "its only row"
    return (
        f"{trajectory.path.name}: the spin temperature is negative in {where}, where the spins have more energy than in "
        "equilibrium at any temperature, and the mean is none of a bath; let them relax first, and look at later times"
    )


def field_applied(trajectory: Trajectory) -> bool:
    """Whether the deck has a term that favours a direction: a field or an anisotropy."""
    kinds = {str(term.get("kind")) for term in trajectory.settings.get("potential", [])}
    return bool(kinds & {"zeeman", "anisotropy", "cubic-anisotropy", "dipole"})


def degrees_of_freedom(trajectory: Trajectory) -> int | None:
    """n_dof of the thermo table's lattice temperature, 2K/(n_dof k_B); None where the lattice has none."""
    from spinmd.units import BOLTZMANN

    thermo = trajectory.thermo
    kinetic, kelvin = thermo["kinetic_energy"], thermo["lattice_temperature"]
    good = np.isfinite(kelvin) & (kelvin > 0.0)
    if not good.any():
        return None
    return round(float(np.median(2.0 * kinetic[good] / (BOLTZMANN * kelvin[good]))))


def magnetic_count(trajectory: Trajectory) -> int:
    """Magnetic atoms of the whole run, over which the thermo table's magnetisation is the mean; InputError if there is none."""
    count = int(np.count_nonzero(trajectory.checkpoint.state.moments > 0.0))
    if not count:
        raise InputError("no atoms carry a magnetic moment; this analysis needs spins", str(trajectory.path))
    return count


def mean_moment(trajectory: Trajectory) -> float:
    """µB, mean reference moment of the magnetic atoms of the whole run."""
    moments = trajectory.checkpoint.state.moments
    return float(moments[moments > 0.0].mean())


def mean_volume(trajectory: Trajectory) -> float:
    """Å³, of all frames."""
    return float(np.abs(np.linalg.det(trajectory.cells)).mean())


def supercell(trajectory: Trajectory) -> np.ndarray:
    """(3,) how many unit cells of the deck's structure there are along each lattice vector."""
    return np.array(trajectory.settings.get("structure", {}).get("supercell", (1, 1, 1)), dtype=np.int64)


def unit_cell(trajectory: Trajectory) -> np.ndarray:
    """(3, 3) Å, the deck's unit cell (prototype or file, before ``supercell``) at the first frame; rows are lattice vectors.

    InputError where vacuum was added, so that the cell is no whole number of unit cells.
    """
    structure = trajectory.settings.get("structure", {})
    if structure.get("vacuum") is not None and not trajectory.pbc.all():
        raise InputError(
            "the cell has vacuum along a direction that is not periodic, so that its unit cell is not known; give pbc = true there",
            str(trajectory.path),
        )
    return trajectory.site_cell / supercell(trajectory)[:, None]


def constant(values: np.ndarray) -> bool:
    """Whether all finite values are the same, to rounding."""
    values = values[np.isfinite(values)]
    return not len(values) or float(np.ptp(values)) <= 1.0e-9 * max(float(np.abs(values).max()), 1.0e-300)


def finite_mean(values: np.ndarray) -> float:
    """Mean of what is finite; NaN of nothing."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan
