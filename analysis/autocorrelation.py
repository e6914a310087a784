"""Autocorrelation of velocities or spins in time.

    C(τ) = ⟨a_j(t)·a_j(t + τ)⟩ / ⟨a_j·a_j⟩,     τ_int = ∫ C dτ,     and of velocities D = ⟨v²⟩ τ_int/3 (Green and Kubo)

Every frame is an origin t. The sums over origins are products of Fourier transforms over blocks of twice the longest τ, one after
the other, so that the memory does not grow with the run; each block gives a curve of its own, and their scatter the errors.
"""

import math
from collections.abc import Iterator

import numpy as np

from spinmd.analysis.distributions import magnetic_atoms
from spinmd.analysis.figures import curves, label
from spinmd.analysis.reading import WHOLE_STAGE, Window, pieces, timestep
from spinmd.analysis.results import Result
from spinmd.analysis.spectra import Slices
from spinmd.errors import InputError
from spinmd.trajectory import Trajectory

BLOCKS = 4  # of origins, at least, unless a longer time is asked for
MEMORY = 300.0e6  # bytes of one block
ATOMS = 256  # transformed at a time


def time_autocorrelation(
    trajectory: Trajectory, window: Window = WHOLE_STAGE, *, of: str = "velocities", element: str | None = None,
    max_time: float | None = None, subtract_mean: bool = False, progress: bool = False,
) -> Result:  # fmt: skip
    """C(τ) of one run.

    of             "velocities" or "spins"
    element        only its atoms; of spins all that carry a moment
    max_time       ps, the longest τ; None: a fifth of the window
    subtract_mean  of each atom over the window: correlations of deviations (reads the file twice)

    Quantities: time (n,) ps, correlation (n,) with errors, mean_square Å²/ps² or µB², integrated_time ps, and of velocities
    diffusion Å²/ps, both up to the longest τ.
    Raises InputError for frames that are not equally spaced, too few, or without what is asked for.
    """
    if of not in ("velocities", "spins"):
        raise InputError(f"expected velocities or spins, got {of!r}", "--of")
    part = trajectory.select(elements=element) if element else trajectory
    if of == "spins":
        part = part.select(indices=magnetic_atoms(part, element))
    part.array(of)
    part = window.frames(part, fewest=8)
    dt = timestep(part)
    lags = longest_lag(len(part), dt, max_time)
    part, notes = affordable(part, 2 * lags)
    mean = _means(part, of, progress) if subtract_mean else 0.0
    source = (
        values - mean for _, values in pieces(part, of, progress=progress, label="autocorrelation", megabytes=48.0)
    )
    # of each block: sums over origins and atoms for every τ, and how many origins there were
    sums, origins = [], []
    for block, count in blocks_of_origins(source, lags, (part.natoms, 3)):
        products = lagged_products(block, count, lags)
        sums.append(products)
        origins.append(np.clip(len(block) - np.arange(lags + 1), 0, count))
    sums, origins = np.array(sums), np.array(origins, dtype=float)
    mean_square = sums[:, 0].sum() / origins[:, 0].sum() / part.natoms
    if not mean_square > 0.0:
        raise InputError(f"all {of} are zero in this part of the run; nothing correlates", str(trajectory.path))
    correlation = sums.sum(axis=0) / origins.sum(axis=0) / part.natoms / mean_square
    whole = origins[:, -1] >= 0.5 * origins[:, 0]
    each = sums[whole] / origins[whole] / part.natoms
    result = Result("autocorrelation", settings={
        **window.settings(), "of": of, "element": element, "max_time": max_time, "subtract_mean": subtract_mean,
    })  # fmt: skip
    result.sources.append(str(trajectory.path))
    result.notes += notes
    squares = "Angstrom^2/ps^2" if of == "velocities" else "muB^2"
    error = _scatter(each / each[:, :1]) if np.count_nonzero(whole) > 1 else None
    result.add("time", dt * np.arange(lags + 1), "ps", "τ", axes=("time",))
    result.add("correlation", correlation, "1", f"normalised autocorrelation of the {of}", error, ("time",))
    result.add("mean_square", mean_square, squares, f"of the {of}", _scatter(each[:, 0]))
    result.add(
        "integrated_time",
        _integral(correlation, dt),
        "ps",
        "integral of the correlation",
        _scatter(_integral(each / each[:, :1], dt)),
    )
    if of == "velocities" and not subtract_mean:
        result.add("diffusion", _integral(correlation, dt) * mean_square / 3.0, "Angstrom^2/ps",
                   "of Green and Kubo", _scatter(_integral(each, dt) / 3.0))  # fmt: skip
    if error is None:
        result.notes.append(
            "the window holds one block of the longest time only, which gives no errors; see --max-time"
        )
    elif abs(correlation[-1]) > max(0.05, 3.0 * error[-1]):
        result.notes.append(
            f"the correlation is still {correlation[-1]:.2f} at the longest time; its integral is of this part only"
        )
    return result


def _means(part: Trajectory, of: str, progress: bool) -> np.ndarray:
    total = np.zeros((part.natoms, 3))
    for _, values in pieces(part, of, progress=progress, label="means"):
        total += values.sum(axis=0, dtype=np.float64)
    return total / len(part)


def _integral(values: np.ndarray, dt: float) -> np.ndarray:
    return np.trapezoid(values, dx=dt, axis=-1)


def _scatter(values: np.ndarray) -> np.ndarray | None:
    """Standard error of the mean over blocks; None for fewer than two."""
    return np.std(values, axis=0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None


# ---------------------------------------------------------------------- what msd uses, too


def longest_lag(frames: int, dt: float, max_time: float | None) -> int:
    """In frames; InputError for times that the window does not hold."""
    if max_time is None:
        return max(4, frames // (BLOCKS + 1))
    lags = round(max_time / dt) if math.isfinite(max_time) else 0
    if not 2 <= lags < frames:
        raise InputError(
            f"expected a time between {2 * dt:.4g} and {(frames - 1) * dt:.4g} ps, got {max_time:g}", "--max-time"
        )
    return lags


def affordable(part: Trajectory, frames: int) -> tuple[Trajectory, list[str]]:
    """The trajectory with so many of its atoms that ``frames`` of them fit into the memory, and a note if not all do."""
    stride = -(-frames * part.natoms * 24 // int(MEMORY))
    if stride <= 1:
        return part, []
    fewer = part.select(indices=slice(None, None, stride))
    return fewer, [f"every {stride}th atom is looked at ({fewer.natoms} of {part.natoms}), as many as the memory holds"]


def blocks_of_origins(source, lags: int, shape: tuple[int, ...]) -> Iterator[tuple[np.ndarray, int]]:
    """(frames of a block, how many of its first frames are origins), so that every frame is an origin once.

    ``source`` gives arrays of consecutive frames. A block is a view: use it at once.
    """
    slices = Slices(2 * lags, lags, shape)
    for values in source:
        for block in slices.add(values):
            yield block, lags
    if len(slices.rest):
        yield slices.rest, len(slices.rest)


def lagged_products(block: np.ndarray, origins: int, lags: int) -> np.ndarray:
    """(lags + 1,) Σ_t Σ_j a_j(t)·a_j(t + τ) over the first ``origins`` frames t of a block (frames, N, 3)."""
    from scipy.fft import irfft, next_fast_len, rfft

    size = next_fast_len(len(block) + lags, real=True)
    total = 0.0
    for first in range(0, block.shape[1], ATOMS):
        values = block[:, first : first + ATOMS].reshape(len(block), -1)
        late = rfft(values, size, axis=0)
        early = late if origins == len(block) else rfft(values[:origins], size, axis=0)
        total = total + np.einsum("fk,fk->f", early.conj(), late)
    return irfft(total, size)[: lags + 1]


def draw_autocorrelation(result: Result, figure) -> None:
    """C(τ) with its error."""
    axes = figure.subplots()
    curves(axes, result, "time", "correlation")
    axes.axhline(0.0, color="0.6", linewidth=0.8, zorder=0)
    words = "velocity" if result.settings.get("of") == "velocities" else "spin"
    axes.set(xlabel=label("time", "ps"), ylabel=f"{words} autocorrelation", xlim=(0.0, float(result["time"][-1])))
