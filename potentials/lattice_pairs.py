"""Pairs of a rigid lattice and their couplings: by shell of neighbours, or from a list in a file.

Pairs are found once on ``State.reference`` (the ideal sites), in the original order of the atoms, with all periodic
images within reach: a small cell simply has several images of one atom. What becomes of them is in
``potentials.lattice_couplings``.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spinmd.errors import InputError
from spinmd.potentials.base import element_index
from spinmd.state import State
from spinmd.units import UNITS

GRID = 1e-3  # Å, on which pair vectors are compared to find the distinct ones


@dataclass(frozen=True)
class CouplingTable:
    """Ordered pairs of a lattice in CSR form, by original index.

    start       (N + 1,) int64;  neighbours (nnz,) int32
    vectors     (nnz, 3) Å, from the atom to its neighbour on the reference sites
    values      (nnz, k) the couplings, or (nnz,) the shell (from 0) of each pair
    """

    start: np.ndarray
    neighbours: np.ndarray
    vectors: np.ndarray
    values: np.ndarray

    def present(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """start (N,), count (N,), neighbours (nnz,) and the entries' indices into ``values`` for the present order of
        atoms.

        ``ids`` is State.ids. The neighbours of one atom keep their order, so that sums are bitwise independent of the
        sort.
        """
        where = np.empty(len(ids), dtype=np.int32)
        where[ids] = np.arange(len(ids), dtype=np.int32)
        count = np.diff(self.start)[ids]
        start = np.zeros(len(ids), dtype=np.int64)
        np.cumsum(count[:-1], out=start[1:])
        entries = np.repeat(self.start[:-1][ids] - start, count) + np.arange(len(self.neighbours))
        return start, count.astype(np.int32), where[self.neighbours[entries]], entries

    def with_values(self, values: np.ndarray) -> "CouplingTable":
        """The same pairs with other values."""
        return CouplingTable(self.start, self.neighbours, self.vectors, np.ascontiguousarray(values))


@dataclass(frozen=True)
class _Pairs:
    """Ordered pairs i -> j within a distance, on the reference sites in original order."""

    first: np.ndarray
    second: np.ndarray
    vectors: np.ndarray

    @property
    def distances(self) -> np.ndarray:
        return np.linalg.norm(self.vectors, axis=1)

    def select(self, keep: np.ndarray) -> "_Pairs":
        return _Pairs(self.first[keep], self.second[keep], self.vectors[keep])

    def csr(self, natoms: int, values: np.ndarray) -> CouplingTable:
        key = self.first * np.int64(natoms) + self.second
        order = np.argsort(key, kind="stable")
        key = key[order]
        if (key[1:] == key[:-1]).any():  # a small cell: several images of one atom
            x, y, z = np.round(self.vectors / GRID).astype(np.int64).T
            order = np.lexsort((z, y, x, self.second, self.first))
        start = np.zeros(natoms + 1, dtype=np.int64)
        np.cumsum(np.bincount(self.first, minlength=natoms), out=start[1:])
        return CouplingTable(
            start,
            np.ascontiguousarray(self.second[order], dtype=np.int32),
            np.ascontiguousarray(self.vectors[order]),
            np.ascontiguousarray(values[order]),
        )


class _Sites:
    """The reference sites of a state in original order, wrapped into the cell."""

    def __init__(self, state: State):
        self.natoms = state.natoms
        self.cell = state.cell.copy()
        self.pbc = state.pbc.copy()
        self.unwrapped = state.original_order(state.reference)
        self.species = state.original_order(state.species)
        self.magnetic = state.original_order(state.moments) > 0.0
        self.symbols = state.symbols
        inverse = np.linalg.inv(self.cell)
        fractional = self.unwrapped @ inverse
        fractional -= np.where(self.pbc, np.floor(fractional), 0.0)
        self.fractional = fractional
        self.positions = fractional @ self.cell
        self.heights = 1.0 / np.linalg.norm(inverse, axis=0)
        self.density = self.natoms / abs(np.linalg.det(self.cell))

    def radius_for(self, neighbours: float) -> float:
        """Å; a sphere that holds about this many atoms in a bulk of the same density."""
        return float((3.0 * neighbours / (4.0 * np.pi * self.density)) ** (1.0 / 3.0))

    def with_images(self, radius: float, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions and owners of the atoms in ``keep`` and of their periodic images within ``radius`` of the cell."""
        owner = np.flatnonzero(keep)
        fractional = self.fractional[owner]
        for axis in np.flatnonzero(self.pbc):
            margin = radius / self.heights[axis]
            reach = int(np.ceil(margin)) + 1
            parts, owners = [], []
            for shift in range(-reach, reach + 1):
                moved = fractional[:, axis] + shift
                inside = (moved >= -margin - 1e-9) & (moved <= 1.0 + margin + 1e-9)
                part = fractional[inside].copy()
                part[:, axis] += shift
                parts.append(part)
                owners.append(owner[inside])
            fractional, owner = np.concatenate(parts), np.concatenate(owners)
        return fractional @ self.cell, owner

    def pairs(self, radius: float, mask: np.ndarray, among: np.ndarray | None = None) -> _Pairs:
        """Ordered pairs of magnetic atoms within ``radius`` of elements in ``mask``; i from ``among`` if given."""
        from scipy.spatial import cKDTree

        points, owner = self.with_images(radius, self.magnetic)
        centres = np.flatnonzero(self.magnetic) if among is None else among
        if len(centres) == 0 or len(points) == 0:
            nothing = np.zeros(0, dtype=np.int64)
            return _Pairs(nothing, nothing, np.zeros((0, 3)))
        tree = cKDTree(points)
        firsts, seconds = [], []
        for some in np.array_split(centres, len(centres) // 20000 + 1):
            found = cKDTree(self.positions[some]).sparse_distance_matrix(tree, radius, output_type="ndarray")
            firsts.append(some[found["i"]])
            seconds.append(found["j"])
        first, image = np.concatenate(firsts), np.concatenate(seconds)
        vectors = points[image] - self.positions[first]
        pairs = _Pairs(first, owner[image], vectors)
        distances = pairs.distances
        same_site = (distances < GRID) & (pairs.first != pairs.second)
        if same_site.any():
            k = int(np.argmax(same_site))
            raise InputError(f"atoms {pairs.first[k]} and {pairs.second[k]} have the same reference site", "structure")
        return pairs.select((distances >= GRID) & mask[self.species[pairs.first], self.species[pairs.second]])


def find_shells(
    state: State, mask: np.ndarray, count: int, tolerance: float, cutoff: float | None = None
) -> CouplingTable:
    """All pairs of the first ``count`` shells; ``values`` is the shell of each, from 0.

    Shells are the distinct distances (Å) between magnetic atoms of the pairs of elements that ``mask`` (nspecies,
    nspecies) allows; distances that differ by less than ``tolerance`` are one shell. Raises InputError if there are
    fewer shells (or fewer within ``cutoff``), or if distances lie so densely that shells run into each other.
    """
    sites = _Sites(state)
    if not sites.magnetic.any():
        raise InputError("couplings by shell need magnetic atoms; give moments in [structure.spins]", "structure.spins")
    centres = np.flatnonzero(sites.magnetic)
    sample = centres[:: len(centres) // 200 + 1]
    extent = np.linalg.norm(np.ptp(sites.positions, axis=0)) + 1.0 if not sites.pbc.any() else np.inf
    radius = sites.radius_for(8.0 * count + 8.0)
    for among in (sample, None):  # the reach is found on a sample, the shells on all atoms
        while True:
            pairs = sites.pairs(radius, mask, among)
            edges = _shell_edges(pairs.distances, tolerance)
            complete = edges[edges[:, 1] < radius - tolerance]
            if len(complete) >= count:
                radius = float(complete[count - 1, 1]) + 2.0 * tolerance
                break
            if radius > extent or radius > sites.radius_for(400.0 * (count + 4.0)) and len(edges) == 0:
                raise InputError(f"{count} shells are given, the structure has {len(edges)} among these elements", "J")
            radius *= 1.2
    edges = complete[:count]
    wide = edges[:, 1] - edges[:, 0] > tolerance
    if wide.any():
        k = int(np.argmax(wide))
        raise InputError(
            f"shell {k + 1} is ambiguous: distances from {edges[k, 0]:.4f} to {edges[k, 1]:.4f} Å follow each other "
            f"more closely than the tolerance, {tolerance:g} Å; change it, or give the couplings in a list",
            "tolerance",
        )
    if cutoff is not None and edges[-1, 1] > cutoff:
        k = int(np.argmax(edges[:, 1] > cutoff))
        raise InputError(f"shell {k + 1} lies at {edges[k, 1]:.4f} Å, beyond the cutoff of {cutoff:g} Å", "cutoff")
    distances = pairs.distances
    inside = distances <= edges[-1, 1] + GRID
    pairs = pairs.select(inside)
    shell = np.searchsorted(edges[:, 0] - GRID, distances[inside], side="right") - 1
    return pairs.csr(sites.natoms, shell)


def _shell_edges(distances: np.ndarray, tolerance: float) -> np.ndarray:
    """(n, 2) smallest and largest distance of each group of distances without gaps wider than ``tolerance``."""
    if len(distances) == 0:
        return np.zeros((0, 2))
    # rounding first leaves few distinct values; 1e-6 Å lies above round-off and far below any tolerance
    values = np.unique(np.round(distances, 6))
    gaps = np.flatnonzero(np.diff(values) > tolerance)
    return np.column_stack((values[np.r_[0, gaps + 1]], values[np.r_[gaps, len(values) - 1]]))


@dataclass(frozen=True)
class CouplingList:
    """What a list file says. Exactly one of ``by_index`` and ``by_vector`` is filled.

    by_index   (n, 5) int64: i, j, n1, n2, n3;  by_vector (n, 3) Å with ``elements`` (n pairs of symbols)
    values     (n, k) eV;  lines (n,) line numbers
    """

    path: str
    by_index: np.ndarray | None
    by_vector: np.ndarray | None
    elements: tuple[tuple[str, str], ...]
    values: np.ndarray
    lines: np.ndarray


def read_list(path: str | Path, columns: int, unit: str = "eV") -> CouplingList:
    """A list of couplings, ``columns`` numbers each (1 scalar, 3 DMI vector, 9 tensor by rows), converted from ``unit``
    to eV.

    Lines are ``Fe Fe dx dy dz J...`` (elements, vector from the first to the second in Å) or ``i j n1 n2 n3 J...``
    (atom indices from 0, the second translated by n1 a + n2 b + n3 c); # begins a comment. Raises InputError with file
    and line.
    """
    path = str(path)
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"cannot read the list of couplings: {error.strerror or error}", path) from None
    heads, elements, values, numbers = [], [], [], []
    by_index = None
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        place = f"{path} line {number}"
        if len(words) != 5 + columns:
            raise InputError(
                f"expected {5 + columns} entries (two atoms, three numbers, then {columns} of the coupling), got {len(words)}",
                place,
            )
        indexed = words[0].lstrip("+-").isdigit()
        if by_index is None:
            by_index = indexed
        if indexed != by_index:
            raise InputError("lines with atom indices and lines with elements cannot be mixed", place)
        try:
            heads.append([int(w) for w in words[:5]] if indexed else [float(w) for w in words[2:5]])
            values.append([float(w) for w in words[5:]])
        except ValueError:
            kind = "five integers i j n1 n2 n3" if indexed else "two elements, three numbers dx dy dz"
            raise InputError(f"expected {kind} and {columns} number(s), got {line.strip()!r}", place) from None
        if not (np.isfinite(heads[-1]).all() and np.isfinite(values[-1]).all()):
            raise InputError("holds a number that is not finite", place)
        elements.append((words[0], words[1]))
        numbers.append(number)
    if not heads:
        raise InputError("the list holds no couplings", path)
    return CouplingList(
        path,
        np.array(heads, dtype=np.int64) if by_index else None,
        None if by_index else np.array(heads, dtype=np.float64),
        () if by_index else tuple(elements),
        np.array(values) * UNITS["energy"][unit],
        np.array(numbers),
    )


def reverse_values(values: np.ndarray) -> np.ndarray:
    """Couplings of j with i from those of i with j: a scalar stays, a vector changes sign, a tensor is transposed."""
    columns = values.shape[1]
    if columns == 3:
        return -values
    if columns == 9:
        return values.reshape(-1, 3, 3).transpose(0, 2, 1).reshape(-1, 9)
    return values


def apply_list(state: State, mask: np.ndarray, listed: CouplingList, tolerance: float) -> CouplingTable:
    """The pairs and couplings (nnz, k), in eV, that a list gives on the reference sites of ``state``.

    Every entry is applied to its pair and, reversed, to the opposite one; a list may hold both if they agree. Entries
    between elements that ``mask`` excludes are passed over. Raises InputError, with file and line, for atoms, elements
    or vectors that the structure does not have and for entries that contradict each other.
    """
    sites = _Sites(state)
    if listed.by_index is not None:
        return _apply_indices(sites, mask, listed)
    return _apply_vectors(sites, mask, listed, tolerance)


def _merge(keys: np.ndarray, values: np.ndarray, lines: np.ndarray, path: str):
    """One entry per distinct row of ``keys``; contradicting values are an InputError."""
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    scale = np.abs(values).max() if len(values) else 0.0
    wrong = np.abs(values - values[first][inverse]).max(axis=1) > 1e-8 * scale
    if wrong.any():
        k = int(np.argmax(wrong))
        earlier, later = sorted((lines[first[inverse[k]]], lines[k]))
        message = f"contradicts line {earlier}, which gives the same pair (or its reverse) another coupling"
        raise InputError(message, f"{path} line {later}")
    return first


def _apply_indices(sites: _Sites, mask: np.ndarray, listed: CouplingList) -> CouplingTable:
    entries = listed.by_index
    i, j, shift = entries[:, 0], entries[:, 1], entries[:, 2:]

    def refuse(wrong, message):
        if wrong.any():
            k = int(np.argmax(wrong))
            raise InputError(message(k), f"{listed.path} line {listed.lines[k]}")

    outside = (entries[:, :2] < 0) | (entries[:, :2] >= sites.natoms)
    refuse(outside.any(axis=1), lambda k: f"atom indices run from 0 to {sites.natoms - 1}, got {i[k]} and {j[k]}")
    refuse((i == j) & ~shift.any(axis=1), lambda k: f"atom {i[k]} is coupled to itself")
    open_axis = (shift != 0) & ~sites.pbc
    refuse(
        open_axis.any(axis=1),
        lambda k: f"the structure is not periodic along lattice vector {int(np.argmax(open_axis[k])) + 1}",
    )
    both = np.concatenate((entries, np.column_stack((entries[:, 1], entries[:, 0], -entries[:, 2:]))))
    values = np.concatenate((listed.values, reverse_values(listed.values)))
    kept = _merge(both, values, np.tile(listed.lines, 2), listed.path)
    both, values = both[kept], values[kept]
    vectors = sites.unwrapped[both[:, 1]] + both[:, 2:] @ sites.cell - sites.unwrapped[both[:, 0]]
    allowed = mask[sites.species[both[:, 0]], sites.species[both[:, 1]]]
    return _Pairs(both[:, 0], both[:, 1], vectors).select(allowed).csr(sites.natoms, values[allowed])


def _apply_vectors(sites: _Sites, mask: np.ndarray, listed: CouplingList, tolerance: float) -> CouplingTable:
    from scipy.spatial import cKDTree

    kinds = np.empty((len(listed.lines), 2), dtype=np.int64)
    for k, pair in enumerate(listed.elements):
        place = f"{listed.path} line {listed.lines[k]}"
        kinds[k] = [element_index(symbol, sites.symbols, place) for symbol in pair]
        if np.linalg.norm(listed.by_vector[k]) < tolerance:
            raise InputError("the vector between the two atoms is zero", place)
    kinds = np.concatenate((kinds, kinds[:, ::-1]))
    vectors = np.concatenate((listed.by_vector, -listed.by_vector))
    values = np.concatenate((listed.values, reverse_values(listed.values)))
    lines = np.tile(listed.lines, 2)
    pairs = sites.pairs(float(np.linalg.norm(vectors, axis=1).max()) + tolerance, mask)
    distinct, member = _distinct_vectors(sites, pairs)
    entry = np.full(len(distinct), -1, dtype=np.int64)  # of the list, for each distinct pair vector
    first_kind, second_kind = sites.species[pairs.first[distinct]], sites.species[pairs.second[distinct]]
    for a, b in np.unique(kinds, axis=0):
        if not mask[a, b]:
            continue
        those = np.flatnonzero((kinds[:, 0] == a) & (kinds[:, 1] == b))
        here = np.flatnonzero((first_kind == a) & (second_kind == b))
        tree = cKDTree(vectors[those])
        _refuse_contradictions(those, tree, values, lines, tolerance, listed.path)
        found = np.full(len(those), np.inf)
        if len(here):
            candidates = pairs.vectors[distinct[here]]
            found = cKDTree(candidates).query(vectors[those], distance_upper_bound=tolerance)[0]
            distance, index = tree.query(candidates, distance_upper_bound=tolerance)
            hit = np.isfinite(distance)
            entry[here[hit]] = those[index[hit]]
        if not np.isfinite(found).all():
            k = those[int(np.argmin(np.isfinite(found)))]
            x, y, z = vectors[k]
            names = f"{sites.symbols[a]} and {sites.symbols[b]}"
            raise InputError(
                f"no two magnetic atoms {names} lie ({x:g}, {y:g}, {z:g}) Å apart (tolerance {tolerance:g} Å)",
                f"{listed.path} line {lines[k]}",
            )
    chosen = entry[member]
    coupled = chosen >= 0
    return pairs.select(coupled).csr(sites.natoms, values[chosen[coupled]])


def _distinct_vectors(sites: _Sites, pairs: _Pairs) -> tuple[np.ndarray, np.ndarray]:
    """One representative of each kind of pair (elements and vector), and which of them each pair belongs to.

    A lattice has few of them, however many atoms there are.
    """
    grid = np.round(pairs.vectors / GRID).astype(np.int64)
    width = 2 * int(np.abs(grid).max(initial=0)) + 1
    key = sites.species[pairs.first].astype(np.int64) * len(sites.symbols) + sites.species[pairs.second]
    for axis in range(3):
        key = key * width + grid[:, axis] + width // 2
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    return first, inverse.reshape(-1)


def _refuse_contradictions(those, tree, values, lines, tolerance, path) -> None:
    """InputError if two entries of a list lie closer than the tolerance and differ."""
    scale = np.abs(values).max()
    for one, other in sorted(tree.query_pairs(tolerance)):
        k, m = sorted((those[one], those[other]), key=lambda entry: lines[entry])
        if np.abs(values[k] - values[m]).max() > 1e-8 * scale:
            message = f"contradicts line {lines[k]}, which gives the same pair (or its reverse) another coupling"
            raise InputError(message, f"{path} line {lines[m]}")
