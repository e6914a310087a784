"""Static structure factor S(q) of the spins at wave vectors that the periodic cell allows: a path, a plane, the whole zone.

    S^aa(q) = (1/N) ⟨|Σ_j e_j^a exp(−i q·r_j)|²⟩,   S = S^xx + S^yy + S^zz,   e = S/m

Independent spins in random directions have S^aa(q) = ⟨e²⟩/3 at every q; the mean of S(q) over the whole zone is ⟨e²⟩ for one
atom per primitive cell. r_j are the ideal sites, or the positions of each frame. Sums over atoms are matrix products exp(−i
q·r) e, in pieces of wave vectors and frames. Bragg peaks of order are part of it: S(q) there grows with N.
"""

import numpy as np

from spinmd.analysis.brillouin import (
    CONVENTIONAL,
    PrimitiveCell,
    allowed_points,
    commensurate_path,
    primitive_cell,
)
from spinmd.analysis.distributions import magnetic_atoms
from spinmd.analysis.figures import curves, label, point_name
from spinmd.analysis.reading import EQUILIBRIUM, Window, pieces
from spinmd.analysis.results import RUN, Result
from spinmd.errors import InputError
from spinmd.trajectory import Trajectory

BLOCKS = 20
PHASES = 4_000_000  # complex numbers in a piece of exp(−i q·r): 64 MB
MEGABYTES = 64.0
WEIGHTS = ("directions", "moments")


def static_structure_factor(
    trajectory: Trajectory, window: Window = EQUILIBRIUM, *, path: str | None = None, plane=None, extent: float = 1.0,
    zone: bool = False, units: str = CONVENTIONAL, snap: bool = False, element: str | None = None,
    weights: str = "directions", instantaneous: bool = False, ignore_elements: bool = False, progress: bool = False,
) -> Result:  # fmt: skip
    """S(q) of one run.

    path     labels "G-H-N-G-P" or coordinates "0,0,0 1,0,0" as in ``brillouin.path_segments``; None: seekpath's path
    plane    instead of a path: two vectors (2, 3) along the reciprocal vectors of ``units``, from which a map is made
    extent   of the map: −extent to extent times these vectors
    zone     instead of a path: every allowed q of the Brillouin zone, with the sum rule
    units    "conventional" or "primitive" cell, for coordinates;  snap: see ``commensurate_path``
    element  only its spins;  weights "directions" (e = S/m) or "moments" (S in µB)
    instantaneous    r of each frame instead of the ideal sites
    ignore_elements  the lattice of the sites of an alloy

    Quantities: structure_factor, and its parts xx, yy, zz, with errors, over distance (n,) 1/Å (with q (n, 3) 1/Å) on a path,
    over u and v in a plane, over q in the zone (with zone_mean); mean_square ⟨e²⟩. InputError without spins or a periodic cell.
    """
    if weights not in WEIGHTS:
        raise InputError(f"expected {' or '.join(WEIGHTS)}, got {weights!r}", "--weights")
    cell = primitive_cell(trajectory, ignore_elements=ignore_elements)
    if not cell.pbc.all():
        k = int(np.argmin(cell.pbc))
        raise InputError(f"the cell is open along {'abc'[k]}, and S(q) needs a periodic one", str(trajectory.path))
    part = trajectory.select(elements=element) if element else trajectory
    part = window.frames(part.select(indices=magnetic_atoms(part, element)))
    settings = {
        **window.settings(), "element": element, "weights": weights, "instantaneous": instantaneous, "units": units,
    }  # fmt: skip
    result = Result("structure-factor", settings=settings, sources=[str(trajectory.path)])
    if zone:
        q = _shortest(allowed_points(cell) @ cell.reciprocal, cell.reciprocal)
        result.add("q", q, "1/Angstrom", "wave vectors of the zone", axes=("q",))
        axes, shape = ("q",), (len(q),)
    elif plane is not None:
        q, axes, shape = _plane(result, cell, plane, extent, units)
    else:
        found = commensurate_path(cell, trajectory.site_cell, path, units=units, snap=snap)
        q, axes, shape = found.q, ("distance",), (len(found.q),)
        result.add("distance", found.distance, "1/Angstrom", "along the path", axes=("distance",))
        result.add("q", q, "1/Angstrom", "wave vectors of the path", axes=("q",))
        settings["ticks"] = [[float(at), name] for at, name in found.ticks]
        result.notes += found.notes
    blocks, frames, mean_square = _averages(part, q, weights, instantaneous, progress)
    unit = "1" if weights == "directions" else "muB^2"
    mean = np.einsum("b,bkq->kq", frames / frames.sum(), blocks)
    few = len(blocks) < 2
    error = None if few else blocks.std(axis=0, ddof=1) / np.sqrt(len(blocks))
    total = blocks.sum(axis=1)
    total_error = None if few else (total.std(axis=0, ddof=1) / np.sqrt(len(blocks))).reshape(shape)
    words = "static structure factor of the spins"
    result.add("structure_factor", mean.sum(axis=0).reshape(shape), unit, words, total_error, axes)
    for k, name in enumerate(("xx", "yy", "zz")):
        own = None if few else error[k].reshape(shape)
        result.add(name, mean[k].reshape(shape), unit, f"its part {name}", own, axes)
    result.add("mean_square", mean_square, unit, "⟨e²⟩, mean over atoms and frames")
    if zone:
        result.add("zone_mean", float(mean.sum(axis=0).mean()), unit, "mean of S(q) over the zone")
        if len(cell.basis) > 1:
            result.notes.append(
                f"the primitive cell has {len(cell.basis)} sites: the mean of S(q) over one zone is not ⟨e²⟩"
            )
    if instantaneous:
        result.notes.append("with the positions of each frame; wave vectors are those of the first frame's cell")
    if trajectory.natoms != trajectory.system_atoms:
        result.notes.append(f"{trajectory.natoms} of {trajectory.system_atoms} atoms are stored: S(q) is of these")
    if few:
        result.notes.append("one frame: no errors")
    return result


def _shortest(q: np.ndarray, reciprocal: np.ndarray) -> np.ndarray:
    """(n, 3) the shortest of the equivalent wave vectors: those of the first Brillouin zone."""
    shifts = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3) @ reciprocal
    candidates = q[:, None] + shifts
    nearest = np.argmin(np.einsum("qsk,qsk->qs", candidates, candidates).round(9), axis=1)
    return candidates[np.arange(len(q)), nearest]


def _plane(result: Result, cell: PrimitiveCell, plane, extent: float, units: str) -> tuple:
    """Wave vectors (nu nv, 3) 1/Å of a plane, in which u and v are steps that the supercell allows."""
    vectors = np.asarray(plane, dtype=np.float64)
    if vectors.shape != (2, 3) or np.linalg.matrix_rank(vectors) < 2:
        raise InputError("expected two different directions such as 1,0,0 0,1,0", "--plane")
    if not extent > 0.0:
        raise InputError(f"expected a number above zero, got {extent:g}", "--extent")
    to_primitive = np.linalg.inv(cell.standard_vectors(units) @ np.linalg.inv(cell.vectors)).T
    reduced = vectors @ to_primitive
    steps = []
    for name, one in zip("uv", reduced, strict=True):
        turns = cell.supercell @ one
        if np.abs(turns - np.rint(turns)).max() > 1.0e-5 or not np.rint(turns).any():
            raise InputError(
                f"direction {name} does not fit into the supercell a whole number of times; take a multiple of it",
                "--plane",
            )
        steps.append(int(np.gcd.reduce(np.abs(np.rint(turns)).astype(int))))
    scales = [np.arange(-int(extent * n + 1e-9), int(extent * n + 1e-9) + 1) / n for n in steps]
    for name, scale, one in zip("uv", scales, vectors, strict=True):
        words = f"in units of ({' '.join(f'{x:g}' for x in one)})"
        result.add(name, scale, "1", words, axes=(name,))
    result.settings["plane"] = vectors.tolist()
    u, v = np.meshgrid(*scales, indexing="ij")
    q = (u.ravel()[:, None] * reduced[0] + v.ravel()[:, None] * reduced[1]) @ cell.reciprocal
    return q, ("u", "v"), u.shape


def _averages(part, q, weights, instantaneous, progress) -> tuple[np.ndarray, np.ndarray, float]:
    """(blocks, 3, n) S^aa(q) of blocks of frames, (blocks,) how many these are, and ⟨e²⟩."""
    blocks = np.zeros((min(BLOCKS, len(part)), 3, len(q)))
    frames = np.zeros(len(blocks))
    scale = 1.0 / part.moments if weights == "directions" else np.ones(part.natoms)
    names = ("spins", "positions") if instantaneous else ("spins",)
    at, square = 0, 0.0
    for piece, spins, *positions in pieces(part, *names, progress=progress, label="S(q)", megabytes=MEGABYTES):
        vectors = spins.astype(np.float64, copy=False) * scale[:, None]
        square += float(np.einsum("fnk,fnk->", vectors, vectors))
        count = len(piece)
        where = (at + np.arange(count)) * len(blocks) // len(part)
        np.add.at(frames, where, 1.0)
        at += count
        # atoms in rows, frames and components in columns: one product for all
        columns = None if instantaneous else vectors.transpose(1, 0, 2).reshape(part.natoms, -1)
        step = max(1, PHASES // part.natoms)
        for first in range(0, len(q), step):
            some = slice(first, first + step)
            if instantaneous:
                sums = np.stack(
                    [np.exp(-1j * (q[some] @ positions[0][k].T)) @ vectors[k] for k in range(count)], axis=1
                )
            else:
                sums = (np.exp(-1j * (q[some] @ part.sites.T)) @ columns).reshape(-1, count, 3)
            powers = (sums.real**2 + sums.imag**2).transpose(1, 2, 0) / part.natoms
            np.add.at(blocks[:, :, some], where, powers)
    return blocks / frames[:, None, None], frames, square / (len(part) * part.natoms)


def _with_gaps(result: Result, ticks) -> Result:
    """The same curves, with a gap where the path jumps (a label such as "X|R")."""
    distance = result["distance"]
    starts = []
    for at, name in ticks:
        if "|" in name:
            here = np.flatnonzero(np.abs(distance - at) < 1.0e-9)
            starts.append(int(here[-1]) if len(here) > 1 else int(np.searchsorted(distance, at + 1.0e-9)))
    gapped = Result(result.what, dict(result.quantities), result.settings, result.sources)
    for name in ("distance", "structure_factor"):
        one = result.quantity(name)
        values = np.insert(one.values, starts, np.nan, axis=-1)
        error = None if one.error is None else np.insert(one.error, starts, np.nan, axis=-1)
        gapped.add(name, values, one.unit, one.meaning, error, one.axes)
    return gapped


def draw_structure_factor(result: Result, figure) -> None:
    """S(q) along the path, as a map of the plane, or against |q| in the zone."""
    axes = figure.subplots()
    quantity = result.quantity("structure_factor")
    unit = "" if quantity.unit == "1" else " (µB²)"
    if quantity.axes[:1] == (RUN,) and quantity.axes[-1] != "distance":
        raise InputError("several runs share a figure along a path only; draw each alone", "--plot")
    if quantity.axes[-2:] == ("u", "v"):
        from matplotlib.colors import LogNorm

        values = quantity.values
        wide = values.max() > 30.0 * np.median(values)
        mesh = axes.pcolormesh(
            result["u"],
            result["v"],
            values.T,
            norm=LogNorm(max(values.min(), 1e-3 * values.max())) if wide else None,
            shading="nearest",
        )
        figure.colorbar(mesh, ax=axes, label=f"S(q){unit}")
        words = [f"({' '.join(f'{x:g}' for x in one)})" for one in result.settings["plane"]]
        axes.set(xlabel=f"u along {words[0]}", ylabel=f"v along {words[1]}", aspect="equal")
        axes.grid(False)
        return
    if quantity.axes[-1] == "q":
        length = np.linalg.norm(result["q"], axis=1)
        axes.errorbar(length, quantity.values, quantity.error, fmt="o", markersize=3, capsize=0, linewidth=0.8)
        axes.axhline(result["mean_square"], color="0.5", linestyle="--", linewidth=1)
        if 0.0 < 30.0 * np.median(quantity.values) < quantity.values.max():
            axes.set_yscale("log")
        axes.set(xlabel=label("|q|", "1/Angstrom"), ylabel=f"S(q){unit}")
        return
    ticks = result.settings["ticks"]
    curves(axes, _with_gaps(result, ticks), "distance", "structure_factor", marker="o", markersize=3.5)
    axes.set_xticks([at for at, _ in ticks], [point_name(name) for _, name in ticks])
    for at, _ in ticks:
        axes.axvline(at, color="0.6", linewidth=0.8, zorder=0)
    values = quantity.values
    if values.min() > 0.0 and values.max() > 30.0 * np.median(values):
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, None)
    axes.set(xlabel="wave vector", ylabel=f"S(q){unit}", xlim=(ticks[0][0], ticks[-1][0]))
