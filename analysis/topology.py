"""Topological charge of magnetic layers: the number of times that the spins wrap the sphere.

    Q = 1/(4π) ∫ e·(∂e/∂x × ∂e/∂y) dx dy

On a lattice: the plane is cut into triangles, and Q is the sum of the signed solid angles that the three spins of each span,

    tan(Ω/2) = e₁·(e₂ × e₃)/(1 + e₁·e₂ + e₂·e₃ + e₃·e₁),   Q = Σ Ω/(4π),   −2π < Ω < 2π

(Berg and Lüscher, Nucl. Phys. B 190, 412 (1981); Ω: Oosterom and Strackee, IEEE Trans. Biomed. Eng. 30, 125 (1983)). Corners
count anticlockwise, seen against ``normal``. Q is a whole number wherever the layer is periodic, or its rim uniform. A skyrmion
whose centre points down in a background that points up has Q = −1 for normal = up, whatever its helicity; an antiskyrmion +1.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from spinmd.analysis.distributions import magnetic_atoms, unit_axis
from spinmd.analysis.figures import curves, label
from spinmd.analysis.reading import WHOLE_STAGE, Window, pieces
from spinmd.analysis.results import Result
from spinmd.errors import InputError
from spinmd.trajectory import Trajectory

LAYER_TOLERANCE = 0.3  # Å: heights of one layer follow each other in smaller steps
JITTER = 1.0e-5  # in distances between neighbours: decides between the two diagonals of a square, in all images alike
LONGEST_EDGE = 2.5  # in typical distances: longer ones bridge holes and bays of an open rim
MARGIN = 4.0  # in typical distances: how far images reach around a periodic layer
THINNEST = 1.0e-3  # triangles at open rims with less of the typical area come of the jitter
NEAR_FLAT = (
    1.0e-9  # of 1 + e·e + ...: spins of one triangle so close to a great circle have a solid angle of either sign
)


@dataclass(frozen=True)
class Layer:
    """A layer of sites: ``atoms`` (indices), ``height`` along the normal (Å), ``triangles`` (n, 3) of indices into ``atoms``."""

    atoms: np.ndarray
    height: float
    triangles: np.ndarray


def topological_charge(
    trajectory: Trajectory, window: Window = WHOLE_STAGE, *, normal=(0.0, 0.0, 1.0), element: str | None = None,
    progress: bool = False,
) -> Result:  # fmt: skip
    """Topological charge of each layer of one run over time.

    normal   of the layers, a vector; it must be normal to the periodic directions that lie in the layers
    element  only its atoms; None: all magnetic atoms

    Layers and triangles are those of the ideal sites, so that the motion of atoms does not matter. Quantities: time (frames,) ps;
    height (layers,) Å; charge (frames, layers); total (frames,) summed over layers, of which ``mean_charge`` is the mean per layer.
    Raises InputError where there are no spins, or no layer has three sites.
    """
    part = trajectory.select(elements=element) if element else trajectory
    part = part.select(indices=magnetic_atoms(part, element))
    layers = find_layers(part.sites, part.site_cell, part.pbc, normal)
    frames = window.frames(part)
    charges = np.empty((len(frames), len(layers)))
    ambiguous, row = 0, 0
    for _, spins in pieces(frames, "spins", progress=progress, label="topology"):
        unit = spins / np.maximum(np.linalg.norm(spins, axis=2, keepdims=True), 1.0e-300)
        for k, layer in enumerate(layers):
            angles, unclear = solid_angles(unit[:, layer.atoms].astype(np.float64), layer.triangles)
            charges[row : row + len(spins), k] = angles.sum(axis=1) / (4.0 * np.pi)
            ambiguous += unclear
        row += len(spins)
    result = Result(
        "topology", settings={**window.settings(), "normal": [float(x) for x in normal], "element": element}
    )
    result.sources.append(str(trajectory.path))
    result.add("time", frames.times, "ps", "", axes=("time",))
    result.add(
        "height", [layer.height for layer in layers], "Angstrom", "of the layers along the normal", axes=("height",)
    )
    result.add("charge", charges, "1", "topological charge of each layer", axes=("time", "height"))
    result.add("total", charges.sum(axis=1), "1", "summed over the layers", axes=("time",))
    result.add("last_charge", charges[-1].mean(), "1", "of the last frame, mean of the layers")
    result.add("mean_charge", charges.mean(), "1", "mean of layers and frames")
    if ambiguous:
        result.notes.append(
            f"{ambiguous} triangles have spins on a great circle, whose solid angle has no sign: the charge is uncertain by a "
            "whole number there"
        )
    off = np.abs(charges - np.rint(charges)).max()
    if off > 1.0e-6:
        result.notes.append(
            f"the charge is up to {off:.2g} away from a whole number: the rim of an open layer is not uniform"
        )
    return result


def solid_angles(unit: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, int]:
    """(frames, triangles) signed solid angles of (frames, atoms, 3) unit vectors, and how many of them are ambiguous."""
    a, b, c = (unit[:, triangles[:, k]] for k in range(3))
    triple = np.einsum("ftk,ftk->ft", a, np.cross(b, c))
    dots = 1.0 + sum(np.einsum("ftk,ftk->ft", u, v) for u, v in ((a, b), (b, c), (c, a)))
    unclear = int(np.count_nonzero((np.abs(triple) < NEAR_FLAT) & (dots < NEAR_FLAT)))
    return 2.0 * np.arctan2(triple, dots), unclear


def find_layers(sites: np.ndarray, cell: np.ndarray, pbc: np.ndarray, normal=(0.0, 0.0, 1.0)) -> list[Layer]:
    """The layers of (N, 3) sites, Å, along ``normal``, each cut into triangles; InputError where there is none.

    Two of the cell's vectors may span the layers; they need not be orthogonal. A periodic direction that is neither within the
    layers nor leads from one to the next is refused.
    """
    up = unit_axis(normal, "--normal")
    along = np.abs(cell @ up)
    within = along < 1.0e-6 * np.linalg.norm(cell, axis=1)
    periodic = cell[within & pbc]
    if len(periodic) > 2 or (np.count_nonzero(~within) > 1 and pbc[~within].any()):
        raise InputError(
            "the layers must contain two of the cell's vectors; choose a direction normal to two of them", "--normal"
        )
    heights = sites @ up
    outside = cell[~within]
    if len(outside) == 1 and pbc[~within].all():
        period = float(outside[0] @ up)
        heights = (heights / period) % 1.0 * abs(period)
        # a layer at the boundary may have atoms on both sides of it
        heights = np.where(heights > abs(period) - LAYER_TOLERANCE, heights - abs(period), heights)
    order = np.argsort(heights, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(heights[order]) > LAYER_TOLERANCE) + 1)
    plane = _plane(up, periodic)
    layers = []
    for atoms in groups:
        triangles = _triangles(sites[atoms] @ plane.T, periodic @ plane.T) if len(atoms) > 2 else np.zeros((0, 3), int)
        if len(triangles):
            layers.append(Layer(atoms, float(heights[atoms].mean()), triangles))
    if not layers:
        raise InputError(
            "no layer of magnetic sites normal to this direction can be cut into triangles; choose another", "--normal"
        )
    return layers


def _plane(up: np.ndarray, periodic: np.ndarray) -> np.ndarray:
    """(2, 3) orthonormal directions of the layer, so that first × second = ``up``."""
    first = periodic[0] if len(periodic) else np.eye(3)[np.argmin(np.abs(up))]
    first = first - up * (first @ up)
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(up, first)])


def _triangles(points: np.ndarray, periods: np.ndarray) -> np.ndarray:
    """(n, 3) corners, anticlockwise, of the Delaunay triangles of (m, 2) points with up to two periods (p, 2).

    A periodic layer is cut together with its images in a margin around it; of each triangle and its images that one counts whose
    centre lies in the cell. The jitter moves all images of a point alike, so that their triangles agree, and no centre lies on the
    boundary.
    """
    from scipy.spatial import Delaunay, QhullError

    spacing = np.sqrt(_area(points, periods) / len(points))
    points = points + JITTER * spacing * np.random.default_rng(0).uniform(-1.0, 1.0, points.shape)
    images, atoms = points, np.arange(len(points))
    # coordinates along the periods, in periods
    dual = np.linalg.pinv(periods) if len(periods) else np.zeros((2, 0))
    for k, period in enumerate(periods):
        images = images - np.floor(images @ dual[:, k])[:, None] * period
    for k, period in enumerate(periods):
        margin = MARGIN * spacing * np.linalg.norm(dual[:, k])
        along = images @ dual[:, k]
        shifted = [(images, atoms)]
        for n in range(1, int(np.ceil(margin)) + 1):
            for sign, near in ((n, along < margin - n + 1.0), (-n, along > n - margin)):
                shifted.append((images[near] + sign * period, atoms[near]))
        images, atoms = (np.concatenate(parts) for parts in zip(*shifted, strict=True))
    try:
        corners = Delaunay(images).simplices
    except QhullError:  # all on one line
        return np.zeros((0, 3), dtype=int)
    a, b, c = (images[corners[:, k]] for k in range(3))
    doubled = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    corners = np.where((doubled > 0.0)[:, None], corners, corners[:, ::-1])
    centres = (a + b + c) / 3.0 @ dual
    kept = ((centres >= 0.0) & (centres < 1.0)).all(axis=1)
    if len(periods) < 2:
        edges = [np.linalg.norm(v, axis=1) for v in (a - b, b - c, c - a)]
        kept &= (np.max(edges, axis=0) < LONGEST_EDGE * spacing) & (np.abs(doubled) > THINNEST * spacing**2)
    return atoms[corners[kept]]


def _area(points: np.ndarray, periods: np.ndarray) -> float:
    if len(periods) == 2:
        return abs(float(np.linalg.det(periods)))
    if len(periods) == 1:
        length = np.linalg.norm(periods[0])
        across = np.array([-periods[0][1], periods[0][0]]) / length
        return max(float(length * np.ptp(points @ across)), 1.0e-6)
    return max(float(np.prod(np.ptp(points, axis=0))), 1.0e-6)


def draw_topology(result: Result, figure: Any) -> None:
    """Charge over time: the layers' mean, and each layer where there are few."""
    axes = figure.subplots()
    charge = result.quantity("charge")
    if charge.axes[0] == "run" or charge.values.shape[-1] > 8:
        curves(axes, result, "time", "total")
        axes.set_ylabel("topological charge, all layers")
    else:
        for k, height in enumerate(result["height"]):
            # layers of one charge lie on each other: the first are the thickest
            width = 1.5 + 1.6 * (charge.values.shape[-1] - 1 - k)
            axes.plot(
                result["time"],
                charge.values[:, k],
                ".-",
                linewidth=width,
                markersize=3.0 + 2.0 * width,
                label=f"layer at {height:.4g} Å",
            )
        axes.set_ylabel("topological charge Q")
        if charge.values.shape[-1] > 1:
            axes.legend()
    axes.set_xlabel(label("time", "ps"))
    low, high = axes.get_ylim()
    if high - low < 0.5:
        axes.set_ylim(np.floor(low - 0.5), np.ceil(high + 0.5))
