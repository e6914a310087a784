"""Mean square displacement, diffusion, and the amplitude of vibrations.

    MSD(τ) = ⟨|r_j(t + τ) − r_j(t)|²⟩,     D = slope/6 where it grows,     ⟨u²⟩ = plateau/2 where it does not

u is the distance of an atom from its mean place, and B = 8π²⟨u²⟩/3 the isotropic factor of Debye and Waller. Every frame is
an origin t, of unwrapped positions; the sums are those of ``autocorrelation``. The centre of mass stands still.
"""

import numpy as np

from spinmd.analysis.autocorrelation import affordable, blocks_of_origins, lagged_products, longest_lag
from spinmd.analysis.figures import curves, label
from spinmd.analysis.reading import WHOLE_STAGE, Window, pieces, timestep
from spinmd.analysis.results import RUN, Result
from spinmd.trajectory import Trajectory

GROWS = 0.5  # logarithmic slope of the last half, from which it is diffusion
FROM = 0.4  # of the longest time, where the slope is fitted from


def mean_square_displacement(
    trajectory: Trajectory, window: Window = WHOLE_STAGE, *, max_time: float | None = None, element: str | None = None,
    keep_drift: bool = False, progress: bool = False,
) -> Result:  # fmt: skip
    """MSD(τ) of one run, of all atoms and of each element.

    max_time    ps, the longest τ; None: a fifth of the window
    element     only its atoms
    keep_drift  do not take out the motion of the centre of mass (of the atoms that are stored)

    Quantities: time (n,) ps, msd (n,) Å² with errors, msd_ELEMENT where there are several; diffusion Å²/ps and
    diffusion_ELEMENT, or plateau Å², mean_square_amplitude Å² and debye_waller_B Å².
    Raises InputError for frames that are not equally spaced, too few, or without positions.
    """
    part = trajectory.select(elements=element) if element else trajectory
    part.array("positions")
    part = window.frames(part, fewest=8)
    dt = timestep(part)
    lags = longest_lag(len(part), dt, max_time)
    chosen, notes = affordable(part, 2 * lags)
    groups = {name: np.flatnonzero(chosen.symbols == name) for name in sorted(set(chosen.symbols.tolist()))}
    places = np.searchsorted(part.ids, chosen.ids)
    weights = part.masses / part.masses.sum()

    def displaced():
        first = None
        for _, positions in pieces(part, "positions", progress=progress, label="msd", megabytes=48.0):
            positions = positions.astype(np.float64, copy=False)
            first = positions[0].copy() if first is None else first
            positions = positions - first
            if not keep_drift:
                positions -= np.einsum("fnk,n->fk", positions, weights)[:, None]
            yield positions[:, places]

    sums, origins = [], []
    for block, count in blocks_of_origins(displaced(), lags, (chosen.natoms, 3)):
        sums.append([_square_displacements(block[:, atoms], count, lags) for atoms in groups.values()])
        origins.append(np.clip(len(block) - np.arange(lags + 1), 0, count))
    sums, origins = np.array(sums), np.array(origins, dtype=float)  # (blocks, groups, n), (blocks, n)
    sizes = np.array([len(atoms) for atoms in groups.values()], dtype=float)
    whole = origins[:, -1] >= 0.5 * origins[:, 0]
    result = Result(
        "msd", settings={**window.settings(), "element": element, "max_time": max_time, "keep_drift": keep_drift}
    )
    result.sources.append(str(trajectory.path))
    result.notes += notes
    time = dt * np.arange(lags + 1)
    result.add("time", time, "ps", "τ", axes=("time",))
    wanted = {"": np.arange(len(sizes))} | (
        {f"_{name}": np.array([k]) for k, name in enumerate(groups)} if len(groups) > 1 else {}
    )
    for end, members in wanted.items():
        number = sizes[members].sum()
        mean = sums[:, members].sum(axis=(0, 1)) / origins.sum(axis=0) / number
        each = sums[whole][:, members].sum(axis=1) / origins[whole] / number
        several = len(each) > 1
        spread = each.std(axis=0, ddof=1) / np.sqrt(len(each)) if several else None
        words = f"of {end[1:]}" if end else "of all atoms"
        result.add(f"msd{end}", mean, "Angstrom^2", f"mean square displacement {words}", spread, ("time",))
        _growth(result, end, time, mean, each, words)
    if not whole.sum() > 1:
        result.notes.append(
            "the window holds one block of the longest time only, which gives no errors; see --max-time"
        )
    return result


def _square_displacements(block: np.ndarray, count: int, lags: int) -> np.ndarray:
    """(lags + 1,) Σ_t Σ_j |r_j(t + τ) − r_j(t)|² over the first ``count`` frames t that have a frame at t + τ."""
    block = block - block[:1]  # of what is left the squares do not cancel
    squares = np.concatenate([[0.0], np.cumsum(np.einsum("fnk,fnk->f", block, block))])
    lag = np.arange(lags + 1)
    used = np.clip(len(block) - lag, 0, count)
    early, late = squares[used], squares[np.minimum(lag + used, len(block))] - squares[np.minimum(lag, len(block))]
    found = np.maximum(early + late - 2.0 * lagged_products(block, count, lags), 0.0)
    found[0] = 0.0  # not what rounding leaves of it
    return found


def _growth(result: Result, end: str, time, mean, each, words: str) -> None:
    """Diffusion coefficient, or the plateau of vibrations."""
    half = len(time) // 2
    exponent = np.log(mean[-1] / mean[half]) / np.log(time[-1] / time[half]) if mean[half] > 0.0 else 0.0
    late = time >= FROM * time[-1]

    def error(values):
        return np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None

    if exponent > GROWS:

        def slope(values):
            return np.polyfit(time[late], values[..., late].T, 1)[0] / 6.0

        result.add(f"diffusion{end}", slope(mean), "Angstrom^2/ps", f"coefficient {words}, slope/6", error(slope(each)))
        if not end and exponent > 1.3:
            result.notes.append(
                "displacements still grow faster than time: motion is not diffusive yet, a longer --max-time may be"
            )
        return
    plateau, scatter = mean[late].mean(), error(each[:, late].mean(axis=1))
    for name, factor, meaning in (
        ("plateau", 1.0, "of the mean square displacement"),
        ("mean_square_amplitude", 0.5, "⟨u²⟩ of the vibration about the mean places"),
        ("debye_waller_B", 4.0 * np.pi**2 / 3.0, "8π²⟨u²⟩/3"),
    ):
        result.add(
            f"{name}{end}",
            factor * plateau,
            "Angstrom^2",
            f"{meaning} {words}",
            None if scatter is None else factor * scatter,
        )


def draw_msd(result: Result, figure) -> None:
    """MSD over time: of all atoms for each run, or of each element of one run."""
    axes = figure.subplots()
    several = result.quantity("msd").axes[:1] == (RUN,)
    elements = [name for name in result.quantities if name.startswith("msd_")]
    if several or not elements:
        curves(axes, result, "time", "msd")
    else:
        for name in elements:
            curves(axes, result, "time", name, label=name.removeprefix("msd_"))
        axes.legend()
    axes.set(xlabel=label("time", "ps"), ylabel=label("mean square displacement", "Å²"), ylim=(0.0, None))
    axes.set_xlim(0.0, float(result["time"][-1]))
