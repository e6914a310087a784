"""Radial distribution function g(r) and coordination numbers, of all atoms and of each pair of elements; any periodic cell.

    g_ab(r) = V/(N_a N_b) ⟨Σ_{i∈a} Σ_{j∈b, j≠i} δ(r − r_ij)⟩ / (4π r²),     n_ab(r) = (N_b/V) ∫₀^r g_ab 4π r² dr

All periodic images count, so that r may pass half the cell; there an atom's own images belong to what it sees. Bins have their
exact volumes, and n(r) counts neighbours of b around an atom of a at the upper edges of the bins. Neighbours come from the
engine's own lists, which frames use again while atoms have moved less than half the skin.
"""

import numpy as np

from spinmd.analysis.figures import curves, label
from spinmd.analysis.reading import EQUILIBRIUM, Window, check_bins, pieces
from spinmd.analysis.results import RUN, Result
from spinmd.errors import InputError
from spinmd.neighbors import NeighbourLists, cell_heights
from spinmd.state import State
from spinmd.trajectory import Trajectory

BINS = 200
BLOCKS = 10  # of frames, whose scatter gives the errors
PAIRS_AT_ONCE = 200_000  # so that what is made of them stays in the cache
SKIN = 0.6  # Å
LARGEST = 12.0  # Å, of the default
MOST_PAIRS = 4.0e8  # of a list: 1.6 GB


def radial_distribution(
    trajectory: Trajectory, window: Window = EQUILIBRIUM, *, r_max: float | None = None, bins: int = BINS,
    progress: bool = False,
) -> Result:  # fmt: skip
    """g(r) and coordination numbers of one run, from the positions of its frames.

    r_max  Å; None: half the smallest distance between opposite faces of the cell, at most 12 Å
    bins   of equal width from 0 to r_max

    Quantities: r (bins,) Å, centres; r_edge (bins,) Å, upper edges; g (bins,) of all atoms, and for each pair of elements g_A_B;
    neighbours (bins,) and neighbours_A_B: atoms (of B) within r_edge of an atom (of A); first_peak, first_minimum Å and
    first_shell, neighbours up to that minimum. Errors from the scatter of ten blocks of frames. Raises InputError without
    positions.
    """
    part = window.frames(trajectory)
    check_bins(bins)
    heights = np.array([cell_heights(cell) for cell in part.cells])
    periodic = part.pbc
    if r_max is None:
        half = 0.5 * heights[:, periodic].min() if periodic.any() else LARGEST
        r_max = float(min(half, LARGEST))
    if not r_max > 0.0:
        raise InputError(f"expected a distance above zero, got {r_max:g}", "--r-max")
    density = part.natoms / np.abs(np.linalg.det(part.cells)).min()
    if part.natoms * density * 4.2 * r_max**3 > MOST_PAIRS:
        raise InputError(f"{part.natoms} atoms have too many pairs within {r_max:g} Å; choose a smaller one", "--r-max")
    elements = list(dict.fromkeys(part.symbols.tolist()))
    counter = _Counter(part, r_max, bins, elements)
    blocks = np.zeros((min(BLOCKS, len(part)), counter.pairs, bins))
    volumes, frames = np.zeros(len(blocks)), np.zeros(len(blocks))
    at = 0
    for piece, positions in pieces(part, "positions", progress=progress, label="rdf"):
        for k, cell in enumerate(piece.cells):
            block = at * len(blocks) // len(part)
            blocks[block] += counter.count(cell, positions[k])
            volumes[block] += abs(np.linalg.det(cell))
            frames[block] += 1
            at += 1
    settings = {**window.settings(), "r_max": r_max, "bins": bins, "elements": elements, "frames": len(part)}
    result = Result("rdf", settings=settings, sources=[str(trajectory.path)])
    edges = np.linspace(0.0, r_max, bins + 1)
    result.add("r", 0.5 * (edges[1:] + edges[:-1]), "Angstrom", "centres of the bins", axes=("r",))
    result.add("r_edge", edges[1:], "Angstrom", "upper edges of the bins", axes=("r_edge",))
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
    count = np.array([np.count_nonzero(part.symbols == name) for name in elements])
    matrix = blocks.reshape(len(blocks), len(elements), len(elements), bins)
    _add(result, "", matrix.sum(axis=(1, 2)), volumes, frames, part.natoms, part.natoms, shells)
    if len(elements) > 1:
        for a, first in enumerate(elements):
            for b, second in enumerate(elements):
                _add(result, f"_{first}_{second}", matrix[:, a, b], volumes, frames, count[a], count[b], shells, b >= a)
    _add_first_shell(result)
    if not periodic.all():
        result.notes.append(
            "the cell is not periodic in all directions: g(r) is relative to the mean density of the whole cell, vacuum included, "
            "and falls off at the surface"
        )
    if trajectory.natoms != trajectory.system_atoms:
        result.notes.append(f"{trajectory.natoms} of {trajectory.system_atoms} atoms are stored: g(r) is of these")
    if len(part) < 2:
        result.notes.append("one frame: no errors")
    return result


class _Counter:
    """Counts pairs by distance and elements in one frame after the other."""

    def __init__(self, part: Trajectory, r_max: float, bins: int, elements: list[str]):
        self.r_max, self.bins, self.pairs = r_max, bins, len(elements) ** 2
        self.elements = np.array([elements.index(name) for name in part.symbols.tolist()])
        self.pbc, self.state, self.lists = part.pbc, None, None

    def count(self, cell: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """(pairs of elements, bins) ordered pairs within r_max."""
        positions = np.ascontiguousarray(positions, dtype=np.float64)
        n = len(positions)
        if self.state is None:
            self.state = State.create(cell, positions, ["X"] * n, np.ones(n), pbc=self.pbc)
            self.lists = NeighbourLists(self.state, [self.r_max], SKIN)
        else:
            self.state.cell[:] = cell
            self.state.positions[:] = (
                positions - self.state.images @ cell
            )  # where the lists wrapped them to: no rebuild
        self.lists.update(self.state)
        pairs = self.lists.pairs(self.r_max)
        coordinates = np.ascontiguousarray(pairs.packed[:, :3].T)
        kinds, species = int(np.sqrt(self.pairs)), self.elements
        found = np.zeros(self.pairs * (self.bins + 1), dtype=np.int64)
        size = max(1, n * PAIRS_AT_ONCE // max(int(pairs.start[-1]), 1))
        for first in range(0, n, size):
            last = min(first + size, n)
            entries = pairs.neighbours[pairs.start[first] : pairs.start[last]]
            counts = np.diff(pairs.start[first : last + 1])
            square = np.zeros(len(entries))
            for line in coordinates:
                apart = line.take(entries)
                apart -= np.repeat(line[first:last], counts)
                apart *= apart
                square += apart
            # what lies on an edge to rounding belongs below it, as the ideal shells of a crystal may; dummies are far away
            place = (np.sqrt(square) * (self.bins / self.r_max) - 1.0e-9).astype(np.int64)
            np.minimum(place, self.bins, out=place)
            if kinds > 1:
                both = np.repeat(species[first:last] * kinds, counts) + species[pairs.owner.take(entries)]
                place += both * (self.bins + 1)
            found += np.bincount(place, minlength=len(found))
        return found.reshape(self.pairs, self.bins + 1)[:, : self.bins]


def _add(result, suffix, blocks, volumes, frames, first, second, shells, with_g=True) -> None:
    """g and neighbours of one pair of elements; ``blocks`` (blocks, bins) counts."""
    per_atom = blocks / (frames[:, None] * first)
    g = per_atom * (volumes / frames)[:, None] / (second * shells)
    running = np.cumsum(per_atom, axis=1)
    words = suffix.strip("_").replace("_", "-") or "all atoms"
    of = f"of {suffix.rpartition('_')[2]} around one of {suffix.split('_')[1]}" if suffix else "around an atom"
    if with_g:
        result.add(f"g{suffix}", *_mean(g, frames), f"radial distribution function, {words}", _error(g), ("r",))
    result.add(
        f"neighbours{suffix}", *_mean(running, frames), f"atoms {of} within r_edge", _error(running), ("r_edge",)
    )


def _mean(values: np.ndarray, frames: np.ndarray) -> tuple[np.ndarray, str]:
    return frames @ values / frames.sum(), "1"


def _error(values: np.ndarray) -> np.ndarray | None:
    return values.std(axis=0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None


def _add_first_shell(result: Result) -> None:
    """Position of the first maximum of g, of the minimum behind it, and the neighbours up to there."""
    r, g, edge = result["r"], result["g"], result["r_edge"]
    top = 0.5 * g.max() if len(g) else 0.0
    above = np.flatnonzero(g >= max(top, 1.0))
    if not len(above):
        return
    start = above[0]
    # the first maximum: up to where g has fallen below a half of its largest value since then
    peak = value = start
    for k in range(start, len(g)):
        if g[k] > g[peak]:
            peak = k
        elif g[k] < 0.5 * g[peak]:
            break
    behind = g[peak:]
    rising = np.flatnonzero(behind[1:] > np.minimum.accumulate(behind)[:-1] + 0.1 * behind[0])
    stop = peak + (int(rising[0]) + 1 if len(rising) else len(behind) - 1)
    lowest = np.flatnonzero(g[peak : stop + 1] <= g[peak : stop + 1].min() + 1.0e-12) + peak
    value = int(lowest[len(lowest) // 2])
    result.add("first_peak", r[peak], "Angstrom", "centre of the bin of the first maximum of g(r)")
    if value >= len(r) - 1:
        result.notes.append("there is no minimum behind the first maximum: no first shell; choose a larger --r-max")
        return
    result.add("first_minimum", edge[value], "Angstrom", "upper edge of the bin of the minimum behind it")
    error = result.error("neighbours")
    shell = result["neighbours"][value]
    result.add("first_shell", shell, "1", "atoms up to that minimum", None if error is None else error[value])


def draw_rdf(result: Result, figure) -> None:
    """g(r) and the running coordination number; of several elements one curve for each pair."""
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    several = result.quantity("g").axes[:1] == (RUN,)
    pairs = sorted(name for name in result.quantities if name.startswith("g_"))
    if several or not pairs:
        curves(upper, result, "r", "g")
        curves(lower, result, "r_edge", "neighbours")
        if lower.get_legend() is not None:
            lower.get_legend().remove()
    else:
        curves(upper, result, "r", "g", label="all", color="0.25")
        curves(lower, result, "r_edge", "neighbours", label="all", color="0.25")
        for name in pairs:
            curves(upper, result, "r", name, label=name[2:].replace("_", "-"))
            curves(lower, result, "r_edge", f"neighbours{name[1:]}", label=name[2:].replace("_", "-"))
        upper.legend()
    upper.axhline(1.0, color="0.5", linewidth=1, linestyle="--", zorder=0)
    upper.set(ylabel="g(r)", ylim=(0, None))
    lower.set(
        xlabel=label("distance", "Angstrom"),
        ylabel="neighbours within r",
        ylim=(0, None),
        xlim=(0, result["r_edge"][-1]),
    )
