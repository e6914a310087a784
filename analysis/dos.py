"""Densities of states: of phonons from velocities, of magnons from the components of the spins across their axis.

    phonons  g(E) ∝ Σ_j m_j ∫ dt e^{iEt/ħ} ⟨v_j(0)·v_j(t)⟩          (each mode has the kinetic energy ½ k_B T)
    magnons  g(E) ∝ E Σ_j ∫ dt e^{iEt/ħ} ⟨S_j⊥(0)·S_j⊥(t)⟩         (a mode's energy E and its share of ⟨S⊥²⟩ go as k_B T/E)

at E > 0, normalised to one or to the number of modes: three for each atom, one for each moment. They are densities of modes
where these are in equilibrium with each other; the plain spectrum of the spins is given, too.
"""

import numpy as np

from spinmd.analysis.autocorrelation import affordable
from spinmd.analysis.distributions import magnetic_atoms, unit_axis
from spinmd.analysis.figures import curves, label
from spinmd.analysis.reading import WHOLE_STAGE, Window, pieces, timestep
from spinmd.analysis.results import RUN, Result
from spinmd.analysis.spectra import MEV_PER_THZ, SEGMENTS, MeanSpectrum, Slices, welch
from spinmd.analysis.sqw import spin_axis
from spinmd.errors import InputError
from spinmd.textures import frame
from spinmd.trajectory import Trajectory

ATOMS = 256  # transformed at a time


def density_of_states(
    trajectory: Trajectory, window: Window = WHOLE_STAGE, *, of: str = "velocities", element: str | None = None, axis=None,
    normalise: str = "one", segments: int = SEGMENTS, taper: str = "hann", max_energy: float | None = None, broadening: float = 0.0,
    progress: bool = False,
) -> Result:  # fmt: skip
    """g(E) of one run.

    of         "velocities": phonons, "spins": magnons
    element    only its atoms (all elements of phonons are given separately in any case)
    axis       (3,) of the spins; None: the mean magnetisation, or for antiferromagnets the axis of the sublattices
    normalise  "one", or "modes": their number for the atoms that are stored
    segments, taper  of Welch's method; taper "hann" or "none"
    max_energy meV, the highest that is kept
    broadening meV, standard deviation of a Gaussian that smooths the lines of a small supercell

    Quantities: energy (n,) meV, frequency (n,) THz, density (n,) 1/meV with errors, density_ELEMENT where there are several, which
    add up to it; of spins also spectrum (n,) 1/meV, without the factor E; mean_energy meV.
    Raises InputError for frames that are not equally spaced, too few, or without what is asked for.
    """
    if of not in ("velocities", "spins"):
        raise InputError(f"expected velocities or spins, got {of!r}", "--of")
    if normalise not in ("one", "modes"):
        raise InputError(f"expected one or modes, got {normalise!r}", "--normalise")
    if max_energy is not None and not max_energy > 0.0:
        raise InputError(f"expected a positive energy, got {max_energy:g}", "--max-energy")
    if not broadening >= 0.0:
        raise InputError(f"expected an energy of 0 or more, got {broadening:g}", "--broadening")
    part = trajectory.select(elements=element) if element else trajectory
    if of == "spins":
        part = part.select(indices=magnetic_atoms(part, element))
    part.array(of)
    part = window.frames(part, fewest=16)
    plan = welch(len(part), timestep(part), segments, taper)
    if broadening > plan.energy[-1]:
        raise InputError(
            f"frames {plan.dt * 1e3:g} fs apart hold energies up to {plan.energy[-1]:.4g} meV, and no broadening beyond that; "
            f"got {broadening:g}, take a smaller one",
            "--broadening",
        )
    if max_energy is not None and max_energy < plan.step:
        raise InputError(
            f"energies begin at {plan.step:.4g} meV in a run of this length, got {max_energy:g}; give a larger one",
            "--max-energy",
        )
    modes = part.natoms * (3 if of == "velocities" else 1)
    part, notes = affordable(part, plan.length)
    names = sorted(set(part.symbols.tolist()))
    kinds = np.array([names.index(symbol) for symbol in part.symbols])
    result = Result("dos", settings={
        **window.settings(), **plan.settings(), "of": of, "element": element, "normalise": normalise, "max_energy": max_energy,
        "broadening": broadening,
    })  # fmt: skip
    result.sources.append(str(trajectory.path))
    result.notes += notes
    scale, across = np.sqrt(part.masses)[:, None], None
    if of == "spins":
        direction, words = spin_axis(part) if axis is None else (unit_axis(axis), "")
        result.notes += [words] if words else []
        scale, across = 1.0, np.array(frame(direction)[:2]).T
    positive = plan.energy > 0.0
    energy = plan.energy[positive]
    total = MeanSpectrum(plan, (len(names), len(energy)))
    slices = Slices(plan.length, plan.hop, (part.natoms, 3 if across is None else 2))
    for _, values in pieces(part, of, progress=progress, label="density of states", megabytes=48.0):
        values = values.astype(np.float64, copy=False)
        for segment in slices.add(values * scale if across is None else values @ across):
            power = np.zeros((len(names), len(energy)))
            for first in range(0, part.natoms, ATOMS):
                chosen = slice(first, first + ATOMS)
                amplitude = plan.transform(segment[:, chosen])
                density = (amplitude.real**2 + amplitude.imag**2).sum(axis=2)
                for kind in np.unique(kinds[chosen]):
                    # of real components both signs of E are the same
                    power[kind] += density[positive][:, kinds[chosen] == kind].sum(axis=1)
            total.add(power)
            total.next()
    _add(result, plan, energy, total, names, of, 1.0 if normalise == "one" else float(modes), max_energy)
    return result


def _add(result, plan, energy, total: MeanSpectrum, names, of: str, integral: float, max_energy: float | None) -> None:
    weight = energy if of == "spins" else 1.0
    from scipy.ndimage import gaussian_filter1d

    wide = result.settings["broadening"] / plan.step

    def broadened(values):
        # reflected at zero and at the end, so that the integral stays; lines of both signs meet at zero
        return gaussian_filter1d(values, wide, axis=-1, mode="reflect") if wide > 0.0 else values

    kept = slice(None) if max_energy is None else energy <= max_energy * (1.0 + 1.0e-9)
    mean, error = total.mean, total.error
    area = (mean.sum(axis=0) * weight).sum() * plan.step
    if not area > 0.0:
        raise InputError(
            f"all {result.settings['of']} stand still in this part of the run; there is no spectrum", result.sources[0]
        )
    factor = integral * weight / area
    result.notes += plan.aliasing(energy, mean.sum(axis=0) * weight)
    result.add("energy", energy[kept], "meV", "ħω", axes=("energy",))
    result.add("frequency", energy[kept] / MEV_PER_THZ, "THz", "ω/2π", axes=("energy",))
    what = "phonons" if of == "velocities" else "magnons"
    # errors of different elements are added as if they were independent
    spread = None if error is None else broadened(np.sqrt((error**2).sum(axis=0)) * factor)[kept]
    result.add(
        "density", broadened(mean.sum(axis=0) * factor)[kept], "1/meV", f"of states of {what}", spread, ("energy",)
    )
    if len(names) > 1:
        for k, name in enumerate(names):
            spread = None if error is None else broadened(error[k] * factor)[kept]
            result.add(
                f"density_{name}", broadened(mean[k] * factor)[kept], "1/meV", f"share of {name}", spread, ("energy",)
            )
    if of == "spins":
        plain = mean.sum(axis=0)
        plain = plain / (plain.sum() * plan.step) * integral
        result.add(
            "spectrum",
            broadened(plain)[kept],
            "1/meV",
            "of the spins across their axis, without the factor E",
            axes=("energy",),
        )
    density = mean.sum(axis=0) * factor
    result.add("mean_energy", float((density * energy).sum() / density.sum()), "meV", f"of the {what}")
    result.add("resolution", plan.resolution, "meV", "half width at half maximum of a sharp line")


def draw_dos(result: Result, figure) -> None:
    """g(E), with its parts where there are several elements, and THz on top."""
    axes = figure.subplots()
    parts = [name for name in result.quantities if name.startswith("density_")]
    several = result.quantity("density").axes[:1] == (RUN,)
    curves(axes, result, "energy", "density", **({"label": "total"} if parts and not several else {}))
    if parts and not several:
        for name in parts:
            curves(axes, result, "energy", name, label=name.removeprefix("density_"))
        axes.legend()
    energy, density = result["energy"], np.atleast_2d(result["density"]).sum(axis=0)
    top = float(energy[-1])
    if not result.settings.get("max_energy"):
        share = np.cumsum(density) / density.sum()
        top = min(1.15 * float(energy[np.searchsorted(share, 0.995)]), top)
    unit = "modes/meV" if result.settings.get("normalise") == "modes" else "1/meV"
    what = "phonon" if result.settings.get("of") == "velocities" else "magnon"
    axes.set(
        xlabel=label("energy", "meV"),
        ylabel=label(f"{what} density of states", unit),
        xlim=(0.0, top),
        ylim=(0.0, None),
    )
    axes.secondary_xaxis(
        "top", functions=(lambda energy: energy / MEV_PER_THZ, lambda frequency: frequency * MEV_PER_THZ)
    ).set_xlabel(label("frequency", "THz"))
