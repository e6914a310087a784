"""Spin pair correlation against distance, and the correlation length.

    C(r)   = ⟨e_i·e_j⟩  over all pairs of sites at the distance r,  e = S/m
    C_c(r) = C(r) − ⟨|e̅|²⟩,  e̅ the mean of e in each frame: what fluctuates, zero in the mean over all pairs
    C_c(r) = A exp(−r/ξ)/r + c     (Ornstein and Zernike), or A exp(−r/ξ) + c

Distances are those of the ideal sites, the shortest among periodic images, up to half the cell. All pairs of a frame come from one
Fourier transform. Errors come from leaving out one of twenty blocks of frames at a time.
"""

import math

import numpy as np
from scipy.optimize import least_squares

from spinmd.analysis.figures import curves, label
from spinmd.analysis.moment_grid import MomentGrid
from spinmd.analysis.reading import EQUILIBRIUM, Window, check_bins, pieces
from spinmd.analysis.results import RUN, Result
from spinmd.analysis.statistics import jackknife
from spinmd.errors import InputError
from spinmd.neighbors import cell_heights
from spinmd.trajectory import Trajectory

BLOCKS = 20
SHELL = 1.0e-3  # Å: pairs whose distances differ by less are one shell
FORMS = ("ornstein-zernike", "exponential")
MEGABYTES = 32.0  # of spins at once: transforms of all pairs of sites are larger


def pair_correlation(
    trajectory: Trajectory, window: Window = EQUILIBRIUM, *, r_max: float | None = None, bins: int | None = None,
    element: str | None = None, form: str = "ornstein-zernike", progress: bool = False,
) -> Result:  # fmt: skip
    """C(r) of one run by shells of its ideal sites, and its correlation length.

    r_max    Å; None: half the smallest distance between opposite faces of the cell; up to half the largest one
    bins     of equal width instead of shells
    element  only its atoms;  form  of the fit: "ornstein-zernike" or "exponential"

    Quantities: r (shells,) Å, correlation, connected, pairs (neighbours of a site in the shell); correlation_length Å (NaN where
    nothing decays), amplitude, mean_square (⟨|e̅|²⟩). InputError without spins, and for a run that is no lattice.
    """
    if form not in FORMS:
        raise InputError(f"expected {' or '.join(FORMS)}, got {form!r}", "--form")
    if bins is not None:
        check_bins(bins)
    lattice = MomentGrid(trajectory, element)
    part = window.frames(lattice.part)
    heights = 0.5 * cell_heights(lattice.shape[:, None] * lattice.unit)
    whole, limit = float(heights.min()), float(heights.max())
    r_max = whole if r_max is None else r_max
    if not 0.0 < r_max <= limit * (1.0 + 1.0e-9):
        raise InputError(f"expected a distance up to half the cell, {limit:.4g} Å, got {r_max:g}", "--r-max")
    shells = _Shells(lattice, r_max, bins)
    blocks = np.zeros((min(BLOCKS, len(part)), len(shells.r) + 1))
    frames, at = np.zeros(len(blocks)), 0
    for piece, spins in pieces(part, "spins", progress=progress, label="spin correlation", megabytes=MEGABYTES):
        where = (at + np.arange(len(piece))) * len(blocks) // len(part)
        at += len(piece)
        for k, block in enumerate(where):
            vectors = lattice.directions(spins[k : k + 1])
            mean = vectors[0].mean(axis=0)
            blocks[block, :-1] += shells.correlate(lattice.transform(vectors)[0])
            blocks[block, -1] += mean @ mean
            frames[block] += 1
    blocks /= frames[:, None]
    value, error = jackknife(blocks, _both, frames)
    settings = {**window.settings(), "r_max": r_max, "bins": bins, "element": element, "form": form}
    result = Result("spin-correlation", settings=settings, sources=[str(trajectory.path)])
    result.add("r", shells.r, "Angstrom", "mean distance of the pairs", axes=("r",))
    n = len(shells.r)
    few = len(blocks) < 2
    result.add("correlation", value[:n], "1", "⟨e_i·e_j⟩", None if few else error[:n], ("r",))
    result.add("connected", value[n : 2 * n], "1", "⟨e_i·e_j⟩ − ⟨|e̅|²⟩", None if few else error[n : 2 * n], ("r",))
    result.add("pairs", shells.counts / lattice.natoms, "1", "neighbours of a site at this distance", axes=("r",))
    result.add("mean_square", value[-1], "1", "⟨|e̅|²⟩ of the mean direction of each frame", None if few else error[-1])
    _add_length(result, shells.r, blocks, frames, form, few)
    if trajectory.natoms != trajectory.system_atoms:
        result.notes.append(
            f"{trajectory.natoms} of {trajectory.system_atoms} atoms are stored: only these are correlated"
        )
    if r_max > whole * (1.0 + 1.0e-9):
        result.notes.append(f"shells beyond {whole:.4g} Å, half the cell's smallest height, are not complete")
    return result


def _both(mean: np.ndarray) -> np.ndarray:
    return np.concatenate([mean[:-1], mean[:-1] - mean[-1], mean[-1:]])


class _Shells:
    """Which translations of the lattice belong to which distance; r (shells,) Å and counts of ordered pairs, r = 0 left out."""

    def __init__(self, lattice: MomentGrid, r_max: float, bins: int | None):
        distance = np.linalg.norm(lattice.separations(), axis=-1)
        self.weights = lattice.pair_counts()
        inside = (distance > SHELL) & (distance <= r_max + SHELL) & (self.weights > 0.5)
        if not inside.any():
            raise InputError(f"there are no pairs within {r_max:g} Å; choose a larger one", "--r-max")
        found = distance[inside]
        if bins is None:
            order = np.sort(found)
            starts = np.concatenate([[True], np.diff(order) > SHELL])
            edges = np.concatenate([order[starts] - 0.5 * SHELL, [np.inf]])
        else:
            edges = np.linspace(0.0, r_max + SHELL, bins + 1)
        number = np.digitize(found, edges) - 1
        used, number = np.unique(number, return_inverse=True)
        self.where, self.number = np.flatnonzero(inside.ravel()), number
        weights = self.weights.ravel()[self.where]
        self.counts = np.bincount(number, weights, len(used))
        self.r = np.bincount(number, weights * found, len(used)) / self.counts

    def correlate(self, transformed: np.ndarray) -> np.ndarray:
        """(shells,) mean of e_i·e_j, from the transform (3, sites, n1, n2, n3) of one frame."""
        product = np.einsum("kaxyz,kbxyz->abxyz", transformed.conj(), transformed)
        sums = np.fft.ifftn(product, axes=(2, 3, 4)).real.ravel()[self.where]
        return np.bincount(self.number, sums, len(self.r)) / self.counts


def _add_length(result: Result, r: np.ndarray, blocks: np.ndarray, frames: np.ndarray, form: str, few: bool) -> None:
    """Fit of the decay, and ξ with the error from leaving out blocks."""
    length = amplitude = (math.nan, math.nan)
    errors = result.error("connected")
    if len(r) >= 4:
        weights = np.ones(len(r)) if errors is None else 1.0 / np.maximum(errors, 0.05 * np.median(errors) + 1.0e-9)
        value, error = jackknife(blocks, lambda mean: _fit(r, mean[:-1] - mean[-1], weights, form), frames)
        if np.isfinite(value).all() and r[0] * 0.05 < value[0] < 5.0 * r[-1]:
            length, amplitude = (value[0], error[0]), (value[1], error[1])
            result.add("background", value[2], "1", "c of the fit", None if few else error[2])
    words = "A exp(−r/ξ)/r + c" if form == FORMS[0] else "A exp(−r/ξ) + c"
    result.add("correlation_length", length[0], "Angstrom", f"ξ of the fit of {words}", None if few else length[1])
    unit = "Angstrom" if form == FORMS[0] else "1"
    result.add("amplitude", amplitude[0], unit, "A of the fit", None if few else amplitude[1])
    if not math.isfinite(length[0]):
        result.notes.append("no correlation length: the correlation does not decay within r_max, or is too noisy")
    elif length[0] > 0.5 * r[-1]:
        result.notes.append(
            "the correlation length is not small against the cell: take a larger one before trusting it"
        )


def model(r: np.ndarray, parameters, form: str) -> np.ndarray:
    """The fitted form at r; parameters ξ, A, c."""
    length, amplitude, constant = parameters
    decay = amplitude * np.exp(-r / length)
    return (decay / r if form == FORMS[0] else decay) + constant


def _fit(r: np.ndarray, values: np.ndarray, weights: np.ndarray, form: str) -> np.ndarray:
    """ξ, A, c; NaN where the fit fails."""
    first = values[0] - values[-1]
    start = [
        1.5 * r[0],
        (first if first != 0.0 else 1.0) * math.e ** (1 / 1.5) * (r[0] if form == FORMS[0] else 1.0),
        values[-1],
    ]
    fitted = least_squares(
        lambda p: weights * (model(r, p, form) - values),
        start,
        bounds=([0.02 * r[0], -np.inf, -np.inf], [20.0 * r[-1], np.inf, np.inf]),
        x_scale=np.abs(start) + 1.0e-6,
    )
    return fitted.x if fitted.success else np.full(3, math.nan)


def draw_spin_correlation(result: Result, figure) -> None:
    """C(r) and its connected part; with the fit where there is one run."""
    left, right = figure.subplots(1, 2)
    curves(left, result, "r", "correlation", marker="o", markersize=4)
    curves(right, result, "r", "connected", marker="o", markersize=4)
    if right.get_legend() is not None:
        right.get_legend().remove()
    length = result.quantity("correlation_length")
    if result.quantity("connected").axes[:1] != (RUN,) and np.isfinite(length.values):
        r = result["r"]
        grid = np.linspace(r[0], r[-1], 300)
        parameters = (result["correlation_length"], result["amplitude"], result["background"])
        error = "" if length.error is None else f" ± {float(length.error):.2g}"
        text = f"ξ = {float(length.values):.3g}{error} Å"
        right.plot(grid, model(grid, parameters, result.settings["form"]), color="C1", label=text, zorder=0)
        right.legend()
    pair = "$\\langle e_0\\cdot e_r\\rangle$"
    for axes, words in ((left, f"correlation {pair}"), (right, f"connected part {pair} − ⟨|e̅|²⟩")):
        axes.axhline(0.0, color="0.5", linewidth=1, zorder=0)
        axes.set(xlabel=label("distance", "Angstrom"), ylabel=words)
