"""``spinmd analyze spin-waves``: energies and strengths of linear spin waves along a path, stiffness, gap and density of states.

The theory is in ``spin_wave_theory``, long waves in ``spin_wave_limits``, ground states in ``spin_wave_orders``. Couplings
come from a deck or a run through ``spinmd.spin_hamiltonian``, or from anywhere else: everything here starts from a
``SpinLattice``.
"""

import math

import numpy as np

from spinmd.analysis.brillouin import BrillouinPath
from spinmd.analysis.figures import COLOURS, PAD, label, point_name, run_labels
from spinmd.analysis.reading import check_bins
from spinmd.analysis.results import RUN, Result
from spinmd.analysis.spectra import MEV_PER_THZ
from spinmd.analysis.spin_wave_limits import density_of_states, long_waves, scalar_stiffness, zone_points
from spinmd.analysis.spin_wave_theory import MEV, SpinLattice, Waves
from spinmd.errors import InputError
from spinmd.units import BOLTZMANN

BINS = 100
MANY = 40  # waves at each wave vector that are drawn as lines
ROWS = 150  # of the map of more
FAINT = 3.0e-3  # of the strongest wave: thinner lines are not drawn as strong ones


def linear_spin_waves(
    lattice: SpinLattice, path: BrillouinPath, *, temperature: float | None = None, bins: int = BINS, reciprocal=None, progress:
    bool = False
) -> Result:  # fmt: skip
    """Spin waves of a SpinLattice at the wave vectors of a path.

    temperature  K, of the intensities in classical statistics; None: strengths alone
    bins         of the density of states
    reciprocal   (3, 3) 1/Å, for wave vectors in notes; None: the lattice's own

    Quantities: q (nq, 3) 1/Å, distance (nq,) along the path; energy (nq, modes) meV, strength (nq, modes) µB², intensity
    (nq, modes) µB² at a temperature; stiffness_tensor (3, 3) and its mean stiffness, meV Å², or velocity (3,), meV Å; gap meV;
    dos_energy, dos. A state that is no minimum has negative or growing waves (``growth``, meV) and a note. Raises InputError for
    a state that is not at rest.
    """
    if temperature is not None and not (math.isfinite(temperature) and temperature >= 0.0):
        raise InputError(f"expected a temperature in K, got {temperature:g}", "--temperature")
    check_bins(bins, fewest=10)
    waves = Waves(lattice, progress)
    modes = waves.modes(path.q)
    result = Result(
        "spin-waves", settings={"sites": lattice.count, "g": lattice.g, "temperature": temperature, "bins": bins}
    )
    along = ("point",)
    result.add("distance", path.distance, "1/Angstrom", "along the path", axes=along)
    result.add("q", path.q, "1/Angstrom", "wave vectors", axes=("point", "component"))
    result.add("segment", path.segment, "1", "of the path, from 0", axes=along)
    result.add(
        "label_distance", [tick for tick, _ in path.ticks], "1/Angstrom", "ends of segments", axes=("label_point",)
    )
    result.add("label", [name for _, name in path.ticks], "text", "their names", axes=("label_point",))
    energies = _rounded(modes.energies, waves)
    result.add("energy", energies, "meV", "ħω of the spin waves", axes=("point", "mode"))
    strength = shared_out(modes.energies, modes.strength, 1.0e-7 * MEV * waves.scale)
    strength = np.where(energies == 0.0, np.nan, strength)  # of a turn of all spins: it has none, or no bound
    result.add("strength", strength, "muB^2", "Σ_a S^aa per site and k_BT/ħω", axes=("point", "mode"))
    if temperature is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            weight = strength * BOLTZMANN * MEV * temperature / energies
        weight[~np.isfinite(weight) | (energies <= 0.0)] = np.nan  # waves without energy have no classical limit
        result.add("intensity", weight, "muB^2", "∫ Σ_a S^aa(q, ω) dω per site, classical", axes=("point", "mode"))
    if modes.growth.max() > 0.0:
        result.add("growth", modes.growth, "meV", "ħ times the rate of growth", axes=("point", "mode"))
    _add_long_waves(result, waves)
    _add_states(result, waves, modes, path.q, bins, lattice.reciprocal if reciprocal is None else reciprocal)
    return result


def shared_out(energies: np.ndarray, strength: np.ndarray, same: float) -> np.ndarray:
    """(nq, modes) strengths in which waves of one energy, within ``same`` and ascending, share theirs equally: how an eigensolver
    divides them between such waves has no meaning."""
    result = strength.copy()
    for row, values in zip(result, energies, strict=True):
        for group in np.split(np.arange(len(values)), np.flatnonzero(np.diff(values) > same) + 1):
            row[group] = row[group].mean()
    return result


def _rounded(energies: np.ndarray, waves: Waves) -> np.ndarray:
    """Energies that are zero to rounding as zero."""
    return np.where(np.abs(energies) < 1.0e-7 * MEV * waves.scale, 0.0, energies)


def _add_long_waves(result: Result, waves: Waves) -> None:
    lattice = waves.lattice
    long = long_waves(waves)
    if np.isfinite(long.gap):
        result.add("zone_centre", long.gap, "meV", "lowest energy at q = 0")
    if long.stiffness is not None:
        result.add(
            "stiffness", scalar_stiffness(long.stiffness, lattice.periodic), "meV Angstrom^2", "mean D of ħω = Δ + q·Dq"
        )
        result.add("stiffness_tensor", long.stiffness, "meV Angstrom^2", "D", axes=("component", "component"))
    if long.velocity is not None:
        result.add("velocity", long.velocity, "meV Angstrom", "c of ħω = c|q| along x, y, z", axes=("component",))
    if long.note:
        result.notes.append(long.note)


def _add_states(result: Result, waves: Waves, modes, q: np.ndarray, bins: int, reciprocal: np.ndarray) -> None:
    """Density of states, gap and stability from points of the whole zone and of the path."""
    points = zone_points(waves)
    everywhere = waves.own_modes(points)
    energies, density, width = density_of_states(everywhere.energies, bins)
    lowest = np.concatenate([everywhere.energies[:, 0], modes.energies[:, 0]])
    least = np.concatenate([everywhere.least, modes.least])
    where = np.concatenate([points, q])
    result.add("gap", max(float(_rounded(lowest, waves).min()), 0.0), "meV", "lowest energy in the Brillouin zone")
    result.add("dos_energy", energies, "meV", "of the density of states", axes=("bin",))
    result.add(
        "dos", density, "1/meV", f"states per meV and moment, broadened by {width:.3g} meV", axes=("dos_energy",)
    )
    result.add("top", float(everywhere.energies.max()), "meV", "highest energy in the Brillouin zone")
    worst = int(np.argmin(least))
    if least[worst] < -MEV * (1.0e-9 * waves.scale + waves.tolerance):
        at = ", ".join(f"{x:.4g}" for x in where[worst] @ np.linalg.inv(reciprocal))
        result.notes.append(
            f"the state is no minimum of the energy: its Hessian has the eigenvalue {least[worst]:.4g} meV at q = ({at}) along the "
            "reciprocal vectors of the primitive cell; waves there have negative energies or grow"
        )


# ---------------------------------------------------------------------- figures


def broken(distance: np.ndarray, q: np.ndarray, *values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Distances (n,) and values (n, modes) along a path with a row of NaN where it jumps, to be drawn as lines."""
    steps = np.linalg.norm(np.diff(q, axis=0), axis=1)
    jumps = np.flatnonzero(np.abs(steps - np.diff(distance)) > 1.0e-6) + 1
    lines = (np.insert(np.array(one, dtype=float), jumps, np.nan, axis=0) for one in values)
    return np.insert(distance, jumps, distance[jumps]), *lines


def visible_curves(waves: Waves, path: BrillouinPath) -> tuple[np.ndarray, np.ndarray]:
    """(n,) distances and (n, modes) energies in meV of the waves that S(q, ω) shows, to be laid over a map along the same path."""
    modes = waves.modes(path.q)
    shown = np.where(
        modes.strength > 0.1 * FAINT * np.nanmax(np.median(modes.strength, axis=0)), modes.energies, np.nan
    )
    return broken(path.distance, path.q, shown)


def draw_spin_waves(result: Result, figure) -> None:
    """Dispersion along the path, lines as strong as the waves in S(q, ω), beside the density of states; meV and THz."""
    several = result.quantity("energy").axes[:1] == (RUN,)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    top = 1.06 * float(np.nanmax(result["energy"]))
    bottom = min(0.0, 1.06 * float(np.nanmin(result["energy"])))
    ticks = _of(result, "label_distance", 0, 1)
    if several:
        for k, name in enumerate(run_labels(result, len(result["energy"]))):
            colour = COLOURS[k % len(COLOURS)]
            along, energy = broken(_of(result, "distance", k, 1), _of(result, "q", k, 2), result["energy"][k])
            along = np.interp(along, _of(result, "label_distance", k, 1), ticks)  # cells of other sizes
            left.plot(along, energy, color=colour, linewidth=1.3)[0].set_label(name)
            right.plot(result["dos"][k], _of(result, "dos_energy", k, 1), color=colour, linewidth=1.3)
        left.legend(fontsize=9)
    else:
        many = result["energy"].shape[1] > MANY
        (_strength_map if many else _strong_lines)(left, result)
        right.fill_betweenx(result["dos_energy"], result["dos"], color=COLOURS[0], alpha=0.25, linewidth=0)
        right.plot(result["dos"], result["dos_energy"], color=COLOURS[0], linewidth=1.2)
    for tick in ticks:
        left.axvline(tick, color="0.6", linewidth=0.7, zorder=0)
    left.set_xticks(ticks, [point_name(name) for name in _of(result, "label", 0, 1)])
    left.tick_params(axis="x", pad=PAD)
    left.grid(False, axis="x")
    if bottom < 0.0 or "growth" in result:
        left.set_title("the state is no minimum of the energy", loc="right", fontsize=11, color=COLOURS[5])
    elif "stiffness" in result and not several:
        left.set_title(f"stiffness {result['stiffness']:.4g} meV Å²", loc="right", fontsize=11)
    left.set(ylabel=label("energy", "meV"), xlim=(ticks[0], ticks[-1]))
    left.set_ylim(bottom, max(top, -0.06 * bottom, 1.0e-3))
    if bottom < 0.0:
        left.axhline(0.0, color="0.3", linewidth=0.8)
    right.set(xlabel="states per\nmeV and moment", xlim=(0.0, None))
    right.locator_params(axis="x", nbins=3, prune="lower")  # no 0 beside the last point of the path
    right.spines["right"].set_visible(True)
    other = right.secondary_yaxis("right", functions=(lambda e: e / MEV_PER_THZ, lambda f: f * MEV_PER_THZ))
    other.set_ylabel(label("frequency", "THz"))


def _of(result: Result, name: str, run: int, dimensions: int) -> np.ndarray:
    """The values of one run, whether they are stacked or the same for all."""
    values = result[name]
    return values[run] if values.ndim > dimensions else values


def _strength_map(axes, result: Result) -> None:
    """The strength over wave vector and energy: for disordered alloys and large cells, whose waves are too many for lines."""
    from scipy.ndimage import gaussian_filter1d

    distance, energy = result["distance"], result["energy"]
    rows = np.linspace(min(float(energy.min()), 0.0), 1.05 * float(energy.max()), ROWS + 1)
    weights = np.nan_to_num(result["strength"])
    values = np.array([np.histogram(e, rows, weights=w)[0] for e, w in zip(energy, weights, strict=True)])
    values = np.sqrt(gaussian_filter1d(values, 1.0, axis=1))
    edges = np.concatenate([distance[:1], 0.5 * (distance[1:] + distance[:-1]), distance[-1:]])
    axes.pcolormesh(
        edges, rows, values.T, cmap="Blues", vmax=np.quantile(values.max(axis=1), 0.9), rasterized=True, zorder=-1
    )


def _strong_lines(axes, result: Result) -> None:
    """Thin lines for all waves, and over them lines whose width and colour say how strong a wave is."""
    from matplotlib.collections import LineCollection
    from matplotlib.colors import LinearSegmentedColormap

    distance, energy, strength = broken(result["distance"], result["q"], result["energy"], result["strength"])
    axes.plot(distance, energy, color="0.8", linewidth=0.9, zorder=1)
    for k in range(strength.shape[1]):  # at zero energy a wave is drawn as beside it
        known = np.flatnonzero(np.isfinite(strength[:, k]))
        strength[:, k] = np.interp(np.arange(len(strength)), known, strength[known, k]) if len(known) else 0.0
    usual = np.percentile(strength.max(axis=1), 90)  # a few waves near zero energy are far stronger
    share = np.clip(strength / max(usual, 1e-300), 0.0, 1.0)
    colours = LinearSegmentedColormap.from_list("strength", ["#d8e3ef", "#7fa6d0", COLOURS[0], "#0c2f57"])
    for k in range(energy.shape[1]):
        points = np.column_stack([distance, energy[:, k]])
        segments = np.stack([points[:-1], points[1:]], axis=1)
        mean = 0.5 * (share[1:, k] + share[:-1, k])
        kept = (mean > FAINT) & np.isfinite(segments).all(axis=(1, 2))
        size = np.sqrt(mean[kept])
        axes.add_collection(
            LineCollection(
                segments[kept], linewidths=0.9 + 2.1 * size, colors=colours(size), capstyle="round", zorder=2
            )
        )
