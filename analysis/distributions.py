"""Distributions of the lengths of moments and of their angles to the mean moment, or to an axis.

    p(|S|)  per µB,      p(cos θ)  per unit of cos θ, with θ the angle of each moment to the axis; uniform (½) for random spins

Histograms are normalised to one. Angles are shown by their cosine, since the solid angle between θ and θ + dθ grows as sin θ.
"""

import numpy as np

from spinmd.analysis.figures import curves, label
from spinmd.analysis.reading import EQUILIBRIUM, Window, check_bins, pieces
from spinmd.analysis.results import Result
from spinmd.errors import InputError
from spinmd.trajectory import Trajectory

BINS = 101  # odd: moments of one length lie in the middle of a bin


def moment_distributions(
    trajectory: Trajectory, window: Window = EQUILIBRIUM, *, element: str | None = None, axis=None, bins: int = BINS,
    lengths: tuple[float, float] | None = None, progress: bool = False,
) -> Result:  # fmt: skip
    """Distributions of the lengths |S| and of the angles θ of the moments of one run.

    element  only its atoms; None: all magnetic atoms
    axis     from which θ counts, a vector; None: the mean moment of each frame
    bins     of both histograms
    lengths  µB, range of the histogram of lengths; None: what occurs in the last frame and a tenth of the largest moment more

    Quantities: length (bins,) µB, length_density (bins,) 1/µB; cosine (bins,), cosine_density (bins,); mean_length and
    length_deviation µB, mean_cosine, mean_angle (deg). Raises InputError where there are no spins or no magnetic atoms.
    """
    check_bins(bins)
    part = trajectory.select(elements=element) if element else trajectory
    part = part.select(indices=magnetic_atoms(part, element))
    part = window.frames(part)
    direction = None if axis is None else unit_axis(axis)
    if lengths is None:
        last = np.linalg.norm(part[-1].spins, axis=1)
        spare = 0.1 * part.moments.max()
        lengths = (max(float(last.min()) - spare, 0.0), float(last.max()) + spare)
    elif not 0.0 <= lengths[0] < lengths[1]:
        raise InputError(
            f"expected two lengths in µB, the smaller first, got {lengths[0]:g} and {lengths[1]:g}", "--lengths"
        )
    length_edges, cosine_edges = np.linspace(*lengths, bins + 1), np.linspace(-1.0, 1.0, bins + 1)
    counts, totals, missed = np.zeros((2, bins)), np.zeros(5), 0
    for _, spins in pieces(part, "spins", progress=progress, label="distributions"):
        spins = spins.astype(np.float64, copy=False)
        length = np.linalg.norm(spins, axis=2)
        if direction is None:
            mean = spins.mean(axis=1)
            size = np.linalg.norm(mean, axis=1, keepdims=True)
            towards = np.divide(mean, size, out=np.zeros_like(mean), where=size > 0.0)
            along = np.einsum("fnk,fk->fn", spins, towards)
        else:
            along = spins @ direction
        cosine = np.clip(np.divide(along, length, out=np.zeros_like(along), where=length > 0.0), -1.0, 1.0)
        inside = np.histogram(length, length_edges)[0]
        counts[0] += inside
        counts[1] += np.histogram(cosine, cosine_edges)[0]
        missed += length.size - int(inside.sum())
        totals += (length.size, length.sum(), (length**2).sum(), cosine.sum(), np.arccos(cosine).sum())
    number, mean, square, mean_cosine, mean_angle = totals[0], *(totals[1:] / totals[0])
    result = Result(
        "distributions", settings={**window.settings(), "element": element, "axis": _plain(axis), "bins": bins}
    )
    result.sources.append(str(trajectory.path))
    for name, edges, found, unit, words in (
        ("length", length_edges, counts[0], "muB", "of the moments"),
        (
            "cosine",
            cosine_edges,
            counts[1],
            "1",
            "of the angle to " + ("the mean moment" if axis is None else "the axis"),
        ),
    ):
        density = found / (number * np.diff(edges))
        # Poisson: the counts of one bin scatter by their root, if atoms and frames are independent
        error = np.sqrt(found) / (number * np.diff(edges))
        result.add(name, 0.5 * (edges[1:] + edges[:-1]), unit, f"{words}, centres of bins", axes=(name,))
        per = "1" if unit == "1" else f"1/{unit}"
        result.add(f"{name}_density", density, per, f"probability density of the {name}", error, (name,))
    result.add("mean_length", mean, "muB", "mean length of the moments")
    result.add("length_deviation", np.sqrt(max(square - mean**2, 0.0)), "muB", "standard deviation of the lengths")
    result.add("mean_cosine", mean_cosine, "1", "mean cosine of the angles")
    result.add("mean_angle", np.degrees(mean_angle), "deg", "mean angle")
    if missed:
        share = missed / number
        result.notes.append(
            f"{share:.2%} of the lengths lie outside of {lengths[0]:g} to {lengths[1]:g} µB; see --lengths"
        )
    return result


def magnetic_atoms(trajectory: Trajectory, element: str | None = None) -> np.ndarray:
    """Mask of the atoms that carry a moment; InputError if there is none."""
    chosen = trajectory.moments > 0.0
    if not chosen.any():
        what = f"{element} atoms carry" if element else "atoms carry"
        raise InputError(f"no {what} a magnetic moment; spin analyses need one", str(trajectory.path))
    return chosen


def unit_axis(axis, place: str = "--axis") -> np.ndarray:
    """(3,) unit vector; InputError for what is none."""
    axis = np.asarray(axis, dtype=np.float64)
    if axis.shape != (3,) or not np.isfinite(axis).all() or not axis.any():
        raise InputError(f"expected three numbers, not all zero, got {axis.tolist()}", place)
    return axis / np.linalg.norm(axis)


def _plain(axis) -> list[float] | None:
    return None if axis is None else [float(x) for x in axis]


def draw_distributions(result: Result, figure) -> None:
    """Two histograms: lengths, and cosines of the angles."""
    left, right = figure.subplots(1, 2)
    curves(left, result, "length", "length_density", drawstyle="steps-mid")
    left.set(xlabel=label("length of the moments", "muB"), ylabel=label("probability density", "1/µB"), ylim=(0, None))
    curves(right, result, "cosine", "cosine_density", drawstyle="steps-mid")
    right.axhline(0.5, color="0.5", linewidth=1, linestyle="--", zorder=0)
    right.annotate("random", (-0.98, 0.5), textcoords="offset points", xytext=(0, 3), color="0.4", fontsize=9)
    words = "the axis" if result.settings.get("axis") else "the mean moment"
    right.set_xticks([-1.0, -0.5, 0.0, 0.5, 1.0])
    right.set(xlabel=f"cos of the angle to {words}", ylabel="probability density", xlim=(-1, 1), ylim=(0, None))
