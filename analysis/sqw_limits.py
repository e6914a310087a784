"""What the frames and the time step of a run do to the energies of its waves: folded back, shifted.

The second moment of a spectrum is known from single configurations, ∫ dE E² S(q, E) = ⟨|ħ dS_q/dt|²⟩/N with
ħ dS/dt = −g S × F. Where its root lies beyond the highest energy that frames hold, or the spectrum has
lost a good part of it, waves are folded back.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from spinmd.analysis.conditions import integrator_settings, lattice_moves
from spinmd.analysis.results import Result
from spinmd.analysis.spectra import HBAR_MEV, Welch
from spinmd.trajectory import Trajectory
from spinmd.units import convert

MOST_FRAMES, ATOMS = 16, 1_000_000  # that the torques are computed for, in all
LOST = 0.6  # of the second moment: less in the spectrum, and some is folded back
WORTH_A_NOTE = 0.005  # of an energy
EMPTY = 1.0e-9

Fields = Callable[[np.ndarray], np.ndarray]


def second_moments(
    frames: Trajectory, chosen: np.ndarray, waves: Any, projection: list, fields: Fields, power: Callable
) -> tuple[np.ndarray, np.ndarray]:
    """(nq,) ⟨|p·S_q|²⟩ and ⟨|p·ħ dS_q/dt|²⟩ in (meV)², each over N, of some frames that have all atoms.

    chosen  which atoms count;  fields  spins (N, 3) µB -> g F (N, 3) eV/µB;  power  of amplitudes and a projection
    """
    count = int(np.clip(ATOMS // frames.natoms, 1, MOST_FRAMES))
    static = moment = 0.0
    places = np.unique(np.linspace(0, len(frames) - 1, count).astype(int))
    for k in places:
        spins = np.asarray(frames.spins[int(k)], dtype=np.float64)
        rates = -1.0e3 * np.cross(spins, fields(spins))
        sums = waves.at_sites(np.stack([spins[chosen], rates[chosen]]))
        both = power(sums, [(abs(weight), vector) for weight, vector in projection], slice(None)) / len(chosen)
        static, moment = static + both[0] / len(places), moment + both[1] / len(places)
    return static, moment


def beyond_frames(
    plan: Welch, energy: np.ndarray, spectrum: np.ndarray, static: np.ndarray, moment: np.ndarray
) -> list[str]:
    """A note if waves are faster than the frames; spectrum (nq, nω), the others from ``second_moments``."""
    top = float(plan.energy.max())
    kept = static > EMPTY * static.max(initial=0.0)
    if not kept.any():
        return []
    reached = float(np.sqrt((moment[kept] / static[kept]).max()))
    found = float((np.abs(spectrum) @ energy**2).sum() * plan.step)
    if reached <= top and found >= LOST * float(moment.sum()):
        return []
    how = f"up to {reached:.4g} meV" if reached > top else "part of them"
    return [
        f"waves are faster than frames {1.0e3 * plan.dt:.4g} fs apart can show, {how}, by the torques of this run: what lies "
        f"beyond {top:.4g} meV is folded back to wrong energies; store frames more often (output.trajectory in the deck)"
    ]


def folded_theory(result: Result, top: float) -> list[str]:
    """A note if spin-wave theory goes beyond the highest energy of the frames."""
    highest = float(np.nanmax(result["overlay_energy"]))
    if highest <= top or any("folded back" in note for note in result.notes):
        return []
    return [
        f"spin waves of the theory reach {highest:.4g} meV, and frames hold energies up to {top:.4g} meV: what lies beyond is "
        "folded back to wrong energies; store frames more often (output.trajectory in the deck)"
    ]


def midpoint_step(trajectory: Trajectory) -> float | None:
    """ps of one solve of the spins in the last stage if a midpoint solver makes it, else None."""
    settings = integrator_settings(trajectory)
    solver, step = settings.get("spin_solver", "midpoint"), settings.get("timestep")
    if solver not in ("midpoint", "spherical-midpoint") or step is None:
        return None
    letters = settings.get("splitting")
    if letters is None:
        live = any(term.get("kind") == "deepspin" for term in trajectory.settings.get("potential", []))
        letters = "SS" if lattice_moves(trajectory) and not live else "S"
    return convert(step, "time") / max(str(letters).count("S"), 1)


def shifted_energies(result: Result, trajectory: Trajectory) -> list[str]:
    """A note if the midpoint rule shows the highest branch of spins too low by more than half a percent: tan(E h/2ħ) = E₀ h/2ħ."""
    step = midpoint_step(trajectory)
    if step is None or "branch_energy" not in result or not np.isfinite(result["branch_energy"]).any():
        return []
    highest = float(np.nanmax(result["branch_energy"]))
    half = 0.5 * step / HBAR_MEV
    if not highest * half < 1.5:
        return []
    exact = np.tan(highest * half) / half
    if exact < (1.0 + WORTH_A_NOTE) * highest:
        return []
    return [
        f"the midpoint solver's step of {1.0e3 * step:.3g} fs shows waves too low, the highest branch at {highest:.4g} instead of "
        f'{exact:.4g} meV; take a shorter timestep, or spin_solver = "runge-kutta"'
    ]
