"""Primitive cell of a run, paths through its Brillouin zone, and the wave vectors that a periodic supercell allows.

    cell = primitive_cell(trajectory)
    path = commensurate_path(cell, trajectory.site_cell, "G-H-N-G-P")     # points that the supercell allows
    smooth = sampled_path(cell, "G-H-N-G-P", points=200)                  # for curves that need no supercell
    path.q, path.distance, path.ticks                                     # 1/Å, 1/Å along the path, [(distance, label), ...]

Wave vectors contain the 2π: q = h b₁ + k b₂ + l b₃ with a_i·b_j = 2π δ_ij, in 1/Å. A supercell with the lattice vectors A_k allows
those with exp(i q·A_k) = 1. High-symmetry points and the path through them are those of seekpath (Hinuma et al., Comp. Mat.
Sci. 128, 140 (2017)), in the orientation of the run. What is periodic here is the chemical crystal; spins are not looked at.
"""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

import numpy as np

from spinmd.analysis.translations import folded, translations
from spinmd.errors import InputError
from spinmd.trajectory import Trajectory

TOLERANCE = 0.01  # Å: sites that differ less are the same
WHOLE = 1.0e-5  # of a turn: how exactly a wave must fit into the supercell
OCCUPIED = 0.8  # of the sites that a translation has to map on atoms where there are vacancies
MOST_SITES = 200  # of a primitive cell that the search for its symmetry takes
GAMMA = ("G", "GAMMA", "Γ")
CONVENTIONAL, PRIMITIVE = "conventional", "primitive"


@dataclass(frozen=True)
class PrimitiveCell:
    """The smallest cell that the ideal sites repeat.

    vectors      (3, 3) Å, rows; along an open direction the vector of the run's own cell
    basis        (n, 3) Å, its sites
    symbols      (n,) elements of them, "X" where they were ignored
    pbc          (3,) bool
    supercell    (3, 3) whole numbers M: the run's cell is M @ vectors
    site         (N,) which site of the primitive cell each atom of the run sits on
    occupied     part of the sites that hold an atom, below 1 with vacancies
    """

    vectors: np.ndarray
    basis: np.ndarray
    symbols: tuple[str, ...]
    pbc: np.ndarray
    supercell: np.ndarray = field(default_factory=lambda: np.eye(3, dtype=int))
    site: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))
    occupied: float = 1.0

    @property
    def reciprocal(self) -> np.ndarray:
        """(3, 3) 1/Å, rows b_i with a_i·b_j = 2π δ_ij."""
        return 2.0 * np.pi * np.linalg.inv(self.vectors).T

    @property
    def volume(self) -> float:
        """Å³"""
        return float(abs(np.linalg.det(self.vectors)))

    @property
    def boundary(self) -> float:
        """1/Å from Γ to the nearest boundary of the Brillouin zone, in a direction that is periodic."""
        images = np.array(np.meshgrid(*[(-2, -1, 0, 1, 2) if side else (0,) for side in self.pbc])).reshape(3, -1).T
        lengths = np.linalg.norm(images @ self.reciprocal, axis=1)
        return 0.5 * float(lengths[lengths > 0.0].min(initial=np.inf))

    @cached_property
    def _symmetry(self) -> dict:
        """seekpath's standard cells, and the matrices that take our vectors to them (whole numbers, exact)."""
        if not self.pbc.all():
            raise InputError(
                f"the run is open along its lattice vector {int(np.argmin(self.pbc))}, and high-symmetry points belong to "
                "crystals that are periodic in three directions; give wave vectors by hand, with zeros there, such as "
                "--path '0,0,0 0.5,0,0'",
                "--path",
            )
        if len(self.basis) > MOST_SITES:
            raise InputError(
                f"no small cell repeats the sites: {len(self.basis)} atoms are in the smallest; give wave vectors by hand, such as "
                "--path '0,0,0 0.5,0,0', or a larger tolerance",
                "--path",
            )
        import seekpath

        numbers = [sorted(set(self.symbols)).index(symbol) + 1 for symbol in self.symbols]
        structure = (self.vectors, self.basis @ np.linalg.inv(self.vectors), numbers)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about edge cases such as a = c: any of the descriptions serves
            found = seekpath.get_path(structure, symprec=TOLERANCE)
        inverse = np.linalg.inv(self.vectors)
        matrices = {
            name: np.rint(np.array(found[key]) @ np.array(found["rotation_matrix"]) @ inverse)
            for name, key in ((CONVENTIONAL, "conv_lattice"), (PRIMITIVE, "primitive_lattice"))
        }
        if abs(abs(np.linalg.det(matrices[PRIMITIVE])) - 1.0) > 1.0e-6:
            raise InputError(
                "the symmetry of the crystal is not clear within the tolerance; give wave vectors by hand, such as "
                "--path '0,0,0 0.5,0,0' with --path-units primitive",
                "--path",
            )
        to_ours = np.linalg.inv(matrices[PRIMITIVE])
        points = {name: to_ours @ np.array(place) for name, place in found["point_coords"].items()}
        return {"points": points, "path": found["path"], "group": found["spacegroup_international"], **matrices}

    @property
    def space_group(self) -> str:
        """International symbol."""
        return self._symmetry["group"]

    @property
    def high_symmetry_points(self) -> dict[str, np.ndarray]:
        """seekpath's label -> (3,) coordinates along ``reciprocal``."""
        return self._symmetry["points"]

    @property
    def standard_path(self) -> list[tuple[str, str]]:
        """seekpath's path: the labels of the ends of its segments."""
        return self._symmetry["path"]

    def standard_vectors(self, kind: str) -> np.ndarray:
        """(3, 3) Å, rows: the "conventional" (for bcc: cubic) or the standard "primitive" cell, as the run is oriented.

        Where the run is open in a direction, or no crystal, there is no standard, and both are ``vectors``.
        """
        if kind not in (CONVENTIONAL, PRIMITIVE):
            raise InputError(f"expected {CONVENTIONAL} or {PRIMITIVE}, got {kind!r}", "--path-units")
        if not self.pbc.all() or len(self.basis) > MOST_SITES:
            return self.vectors
        return self._symmetry[kind] @ self.vectors


@dataclass(frozen=True)
class BrillouinPath:
    """Wave vectors along segments of a path.

    q         (n, 3) 1/Å, Cartesian
    reduced   (n, 3) the same along the primitive cell's reciprocal vectors
    distance  (n,) 1/Å along the path; it stands still where the path jumps
    segment   (n,) number of the segment of each
    ticks     [(distance, label), ...] of the ends of segments; "H|P" where the path jumps
    ends      (segments, 2, 3) ends of the segments, 1/Å
    names     [(label, label), ...] of those
    notes     sentences for users
    """

    q: np.ndarray
    reduced: np.ndarray
    distance: np.ndarray
    segment: np.ndarray
    ticks: list[tuple[float, str]]
    ends: np.ndarray
    names: list[tuple[str, str]]
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.q)


# ---------------------------------------------------------------------- the primitive cell


def primitive_cell(
    trajectory: Trajectory, *, ignore_elements: bool = False, tolerance: float = TOLERANCE
) -> PrimitiveCell:
    """The primitive cell of a run's ideal sites (``reduced_cell`` of its sites, cell, elements)."""
    return reduced_cell(
        trajectory.sites,
        trajectory.site_cell,
        trajectory.symbols,
        trajectory.pbc,
        ignore_elements=ignore_elements,
        tolerance=tolerance,
    )


def reduced_cell(
    sites, cell, symbols: Sequence[str], pbc=(True, True, True), *, ignore_elements: bool = False, tolerance: float = TOLERANCE
) -> PrimitiveCell:  # fmt: skip
    """The smallest cell that repeats sites (N, 3) Å within a cell (3, 3) Å.

    ignore_elements  sites count, whatever element is on them: the mean lattice of an alloy
    tolerance        Å, by which translated sites may miss each other

    The three shortest independent translations that map every site on one of its element span it. Where no such translation is
    found, one that maps most of the sites is taken: a crystal with vacancies. InputError for elements mixed on one lattice.
    """
    sites, cell, pbc = np.asarray(sites, float), np.asarray(cell, float), np.asarray(pbc, bool)
    symbols = np.full(len(sites), "X") if ignore_elements else np.asarray(symbols)
    if not tolerance > 0.0:
        raise InputError(f"expected a length in Å, got {tolerance:g}", "--tolerance")
    found = _repeated(sites, cell, symbols, pbc, tolerance, 1.0)
    if len(found.basis) == len(sites) > 1 and len(set(symbols)) > 1:
        anyhow = _repeated(sites, cell, np.full(len(sites), "X"), pbc, tolerance, OCCUPIED)
        if len(anyhow.basis) < len(sites):
            raise InputError(
                f"{', '.join(sorted(set(symbols)))} are mixed on the sites of a crystal, so that no cell repeats; "
                "--ignore-elements takes the lattice of the sites",
                "primitive cell",
            )
    elif len(found.basis) == len(sites) > 1:
        return _repeated(sites, cell, symbols, pbc, tolerance, OCCUPIED)
    return found


def _repeated(sites, cell, symbols, pbc, tolerance, share) -> PrimitiveCell:
    vectors = translations(sites, cell, symbols, pbc, tolerance, share)
    multiples = np.rint(cell @ np.linalg.inv(vectors))
    vectors = np.linalg.solve(multiples, cell)  # exactly: the supercell is what is sure
    count = round(abs(np.linalg.det(multiples)))
    if count == 1:
        basis, names, site = sites, tuple(map(str, symbols)), np.arange(len(sites))
        vectors, multiples = cell, np.eye(3)
    else:
        basis, names, site = folded(sites, vectors, symbols, pbc, tolerance)
    occupied = len(sites) / (count * len(basis))
    return PrimitiveCell(vectors, basis, names, pbc, multiples.astype(int), site, occupied)


# ---------------------------------------------------------------------- paths

Segment = tuple[str, np.ndarray, str, np.ndarray]


def path_segments(cell: PrimitiveCell, path: str | None = None, units: str = CONVENTIONAL) -> list[Segment]:
    """Segments (label, q, label, q) of a path, q along the primitive cell's reciprocal vectors.

    path   None: seekpath's; labels as in "G-H-N-G-P|N-H" ("-" goes on, "|" jumps; G is Γ); or coordinates as in
           "0,0,0 1/2,1/2,0 | 0,0,1 1,1,1" (blanks go on)
    units  of coordinates: along the reciprocal vectors of the "conventional" or of the standard "primitive" cell

    InputError, at ``--path``, for labels that the crystal does not have and for what is no path.
    """
    if path is None:
        points = cell.high_symmetry_points
        return [(_shown(a), points[a], _shown(b), points[b]) for a, b in cell.standard_path]
    segments: list[Segment] = []
    for piece in path.split("|"):
        if re.search(r"\d\s*,|,\s*[-.\d]", piece):
            standard = cell.standard_vectors(units)
            stops = [_coordinates(text, standard, cell) for text in re.sub(r"\s*,\s*", ",", piece).split()]
        else:
            stops = [_labelled(text.strip(), cell) for text in re.split(r"[-\s]+", piece.strip()) if text.strip()]
        if len(stops) < 2:
            raise InputError(
                f"expected at least two points such as G-H or 0,0,0 1,0,0, got {piece.strip()!r}", "--path"
            )
        for (first, start), (second, end) in zip(stops[:-1], stops[1:], strict=True):
            if np.allclose(start, end):
                raise InputError(f"two points of the path that follow each other are the same, {first}", "--path")
            segments.append((first, start, second, end))
    return segments


def _labelled(text: str, cell: PrimitiveCell) -> tuple[str, np.ndarray]:
    points = cell.high_symmetry_points
    name = "GAMMA" if text.upper() in GAMMA else text if text in points else text.upper()
    if name not in points:
        known = ", ".join(_shown(one) for one in sorted(points))
        raise InputError(f"the crystal ({cell.space_group}) has no point {text!r}; it has {known}", "--path")
    return _shown(name), points[name]


def _shown(label: str) -> str:
    return "Γ" if label == "GAMMA" else label


def _coordinates(text: str, standard: np.ndarray, cell: PrimitiveCell) -> tuple[str, np.ndarray]:
    parts = text.split(",")
    try:
        values = np.array([float(Fraction(part)) for part in parts])
    except (ValueError, ZeroDivisionError):
        values = np.zeros(0)
    if values.shape != (3,):
        raise InputError(f"expected three numbers with commas, such as 0.5,0,0 or 1/3,1/3,0, got {text!r}", "--path")
    # h_i = q·A_i/2π for the vectors A_i of the standard cell, and A = T a with whole numbers T
    reduced = np.linalg.solve(standard @ np.linalg.inv(cell.vectors), values)
    across = ~cell.pbc & (np.abs(reduced) > 1.0e-9)
    if across.any():
        k = int(np.argmax(across))
        raise InputError(
            f"{text} has a component along lattice vector {k}, in which the run is open; give a zero there", "--path"
        )
    return (f"({' '.join(parts)})" if values.any() else "Γ"), reduced


def commensurate_path(
    cell: PrimitiveCell, supercell, path: str | None = None, *, units: str = CONVENTIONAL, snap: bool = False
) -> BrillouinPath:
    """The points of a path that a supercell (3, 3) Å allows, that is those with exp(i q·A) = 1 for its lattice vectors A.

    snap  also allowed points beside the path, at most half a spacing of allowed points away

    InputError if there are none. ``notes`` counts them.
    """
    multiples = np.rint(np.asarray(supercell, float) @ np.linalg.inv(cell.vectors))
    segments = path_segments(cell, path, units)
    chosen = [_allowed_beside(cell, multiples, s) if snap else _allowed_on(multiples, s) for s in segments]
    result = _joined(cell, segments, chosen)
    if not len(result):
        raise InputError(
            "no wave vector of the path fits into the supercell a whole number of times; take another path, or a larger "
            "supercell" + ("" if snap else ", or the nearest ones with --snap"),
            "--path",
        )
    words = "allowed wave vectors near the path" if snap else "wave vectors of the path fit into the supercell"
    each = ", ".join(f"{a}-{b} {len(points)}" for (a, _, b, _), points in zip(segments, chosen, strict=True))
    result.notes.append(f"{len(result)} {words}: {each}")
    if path is None or re.search(r"[A-Z]", path):
        missing = sorted(
            {name for a, p, b, q in segments for name, one in ((a, p), (b, q)) if not _whole(multiples @ one)}
        )
        if missing:
            result.notes.append(
                f"{', '.join(missing)} {'does' if len(missing) == 1 else 'do'} not fit into the supercell"
            )
    if path is not None and re.search(r"\d\s*,", path):
        result.notes.append(f"coordinates of the path are along the reciprocal vectors of the {units} cell")
    return result


def sampled_path(
    cell: PrimitiveCell, path: str | None = None, points: int = 200, *, units: str = CONVENTIONAL
) -> BrillouinPath:
    """About ``points`` wave vectors along the whole path, with the ends of all segments, for curves between allowed points."""
    if points < 2:
        raise InputError(f"expected at least 2, got {points}", "--points")
    segments = path_segments(cell, path, units)
    lengths = [np.linalg.norm((end - start) @ cell.reciprocal) for _, start, _, end in segments]
    chosen = [
        start + np.linspace(0.0, 1.0, max(2, 1 + round(points * length / sum(lengths))))[:, None] * (end - start)
        for (_, start, _, end), length in zip(segments, lengths, strict=True)
    ]
    return _joined(cell, segments, chosen)


def allowed_points(cell: PrimitiveCell, supercell=None) -> np.ndarray:
    """(n, 3) all different wave vectors that the supercell allows, along the primitive cell's reciprocal vectors, in [0, 1).

    n is the number of primitive cells in the supercell. Along open directions only zero.
    """
    multiples = cell.supercell if supercell is None else np.rint(np.asarray(supercell) @ np.linalg.inv(cell.vectors))
    inverse = np.linalg.inv(multiples)
    # the columns of M⁻¹ generate the group of allowed q modulo 1
    points = np.zeros((1, 3))
    for k in np.flatnonzero(cell.pbc):
        order = next(n for n in range(1, 10**6) if _whole(n * inverse[:, k]))
        points = (points[:, None] + np.arange(order)[:, None] * inverse[:, k]).reshape(-1, 3)
        points -= np.floor(points + 1.0e-9)
        points = points[np.unique(np.rint(points * 1.0e6), axis=0, return_index=True)[1]]
    return points


def _whole(values: np.ndarray) -> bool:
    return bool((np.abs(values - np.rint(values)) < WHOLE).all())


def _allowed_on(multiples: np.ndarray, segment: Segment) -> np.ndarray:
    """(n, 3) points of a segment, its ends included, at which every component of M q is whole."""
    _, start, _, end = segment
    turns, change = multiples @ start, multiples @ (end - start)
    k = int(np.argmax(np.abs(change)))
    low, high = sorted((turns[k], turns[k] + change[k]))
    along = (np.arange(np.ceil(low - WHOLE), np.floor(high + WHOLE) + 1.0) - turns[k]) / change[k]
    along = np.sort(np.clip(along, 0.0, 1.0))
    points = turns + along[:, None] * change
    good = (np.abs(points - np.rint(points)) < WHOLE).all(axis=1)
    return np.linalg.solve(multiples, np.rint(points[good]).T).T.reshape(-1, 3)


def _allowed_beside(cell: PrimitiveCell, multiples: np.ndarray, segment: Segment) -> np.ndarray:
    _, start, _, end = segment
    spacing = np.linalg.solve(multiples, np.eye(3)).T @ cell.reciprocal  # rows: steps between allowed points
    reach = 0.5 * np.linalg.norm(spacing[cell.pbc], axis=1).min()
    turns, change = multiples @ start, multiples @ (end - start)
    count = 20 * int(np.ceil(np.abs(change).max()) + 1)
    along = np.linspace(0.0, 1.0, count)
    near = np.linalg.solve(multiples, np.rint(turns + along[:, None] * change).T).T
    direction = (end - start) @ cell.reciprocal
    offset = (near - start) @ cell.reciprocal
    place = offset @ direction / (direction @ direction)
    off = np.linalg.norm(offset - place[:, None] * direction, axis=1)
    good = (off <= reach) & (place > -1.0e-6) & (place < 1.0 + 1.0e-6)
    near, place = near[good], place[good]
    first = np.unique(np.rint(near * 1.0e6), axis=0, return_index=True)[1]
    return near[first[np.argsort(place[first], kind="stable")]].reshape(-1, 3)


def _joined(cell: PrimitiveCell, segments: list[Segment], chosen: list[np.ndarray]) -> BrillouinPath:
    """One path of the points of its segments; an end that the next segment begins with counts once."""
    reciprocal = cell.reciprocal
    reduced, distance, number, ticks, ends, names = [], [], [], [], [], []
    at = 0.0
    for k, ((first, start, second, end), points) in enumerate(zip(segments, chosen, strict=True)):
        goes_on = k > 0 and np.allclose(segments[k - 1][3], start)
        if k == 0:
            ticks.append((0.0, first))
        elif not goes_on:
            ticks[-1] = (at, f"{ticks[-1][1]}|{first}")
        direction = (end - start) @ reciprocal
        length = float(np.linalg.norm(direction))
        for one in points:
            if goes_on and reduced and np.allclose(one, start) and np.allclose(reduced[-1], one):
                continue
            reduced.append(one)
            distance.append(at + float((one - start) @ reciprocal @ direction) / length)
            number.append(k)
        at += length
        ticks.append((at, second))
        ends.append((start @ reciprocal, end @ reciprocal))
        names.append((first, second))
    reduced = np.array(reduced).reshape(-1, 3)
    return BrillouinPath(
        reduced @ reciprocal, reduced, np.array(distance), np.array(number, int), ticks, np.array(ends), names
    )
