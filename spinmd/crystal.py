"""Unit cells: prototypes, files through ASE, their repetition, and the search for atoms that lie on one another.

Rows are lattice vectors; Å, ps, amu, µB. What a deck may ask of a structure is in ``spinmd.structure``.
Messages count atoms from 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spinmd.errors import InputError

# fractional coordinates in the conventional cubic cell, grouped by element
_FCC = [(0.0, 0.0, 0.0), (0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0)]
PROTOTYPES = {
    "sc": [[(0.0, 0.0, 0.0)]],
    "bcc": [[(0.0, 0.0, 0.0), (0.5, 0.5, 0.5)]],
    "fcc": [_FCC],
    "hcp": [[(0.0, 0.0, 0.0), (1.0 / 3.0, 2.0 / 3.0, 0.5)]],
    "diamond": [_FCC + [(x + 0.25, y + 0.25, z + 0.25) for x, y, z in _FCC]],
    "rocksalt": [_FCC, [((x + 0.5) % 1.0, y, z) for x, y, z in _FCC]],
    "B2": [[(0.0, 0.0, 0.0)], [(0.5, 0.5, 0.5)]],
    "perovskite": [[(0.0, 0.0, 0.0)], [(0.5, 0.5, 0.5)], _FCC[1:]],
}
_HCP_ORTHOGONAL = [[(0.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.0, 1.0 / 3.0, 0.5), (0.5, 5.0 / 6.0, 0.5)]]


@dataclass
class UnitCell:
    """What is repeated: cell (3, 3) Å and arrays with one row per atom, velocities in Å/ps, magmoms in µB.

    A run's file also has reference moments (µB), reference sites (Å) and images; see ``State``.
    """

    cell: np.ndarray
    pbc: np.ndarray
    positions: np.ndarray
    symbols: list[str]
    masses: np.ndarray | None = None
    velocities: np.ndarray | None = None
    magmoms: np.ndarray | None = None
    moments: np.ndarray | None = None
    reference: np.ndarray | None = None
    images: np.ndarray | None = None


def prototype_cell(
    prototype: str, elements, a: float, c_over_a: float | None = None, orthogonal: bool = False
) -> UnitCell:
    """The conventional cell of a prototype with edge ``a`` (Å); hcp: ``c_over_a`` is √(8/3) by default."""
    groups = PROTOTYPES[prototype]
    cell = a * np.eye(3)
    if prototype == "hcp":
        c = a * (math.sqrt(8.0 / 3.0) if c_over_a is None else c_over_a)
        height = a * math.sqrt(3.0)
        if orthogonal:
            groups, cell = _HCP_ORTHOGONAL, np.diag([a, height, c])
        else:
            cell = np.array([[a, 0.0, 0.0], [-0.5 * a, 0.5 * height, 0.0], [0.0, 0.0, c]])
    symbols = [element for element, group in zip(elements, groups, strict=True) for _ in group]
    positions = np.array([site for group in groups for site in group]) @ cell
    return UnitCell(cell, np.ones(3, dtype=bool), positions, symbols)


def read_unit_cell(path: Path, format: str | None = None, index: int | None = None) -> UnitCell:
    """One frame of a file that ASE reads; the magmoms of a calculation come before initial magmoms.

    ASE's velocities, in √(eV/amu), become Å/ps. Raises InputError at ``structure.file`` for what is unreadable
    or not finite.
    """
    from ase import units
    from ase.data import chemical_symbols
    from ase.io import read

    place = "structure.file"
    try:
        atoms = read(path, index=-1 if index is None else index, format=format)
    except Exception as error:  # ASE's readers raise anything: KeyError, ValueError, StopIteration, AssertionError ...
        if isinstance(error, (StopIteration, IndexError)) and index not in (None, 0, -1):
            raise InputError(f"{path.name} has no frame {index}; frames count from 0", "structure.index") from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"ASE cannot read {path.name}{f' as {format}' if format else ''} ({reason}); check file, format and index",
            place,
        ) from None
    if len(atoms) == 0:
        raise InputError(f"{path.name} holds no atoms", place)
    symbols = [chemical_symbols[number] for number in atoms.numbers]

    def checked(array, what):
        array = np.array(array, dtype=np.float64)
        bad = ~np.isfinite(array.reshape(len(atoms), -1)).all(axis=1)
        if bad.any():
            atom = int(np.argmax(bad))
            raise InputError(f"{path.name}: the {what} of atom {atom} ({symbols[atom]}) is not a finite number", place)
        return array

    if "X" in symbols:
        raise InputError(f"{path.name}: atom {symbols.index('X')} has no element that spinmd knows", place)
    unit = UnitCell(
        np.array(atoms.cell, dtype=np.float64), np.array(atoms.pbc), checked(atoms.positions, "position"), symbols
    )
    if atoms.has("masses"):
        unit.masses = checked(atoms.get_masses(), "mass")
        if (unit.masses <= 0.0).any():
            atom = int(np.argmin(unit.masses))
            raise InputError(
                f"{path.name}: atom {atom} ({symbols[atom]}) has mass {unit.masses[atom]:g} amu; masses must be "
                f"positive",
                place,
            )
    if atoms.has("momenta"):
        unit.velocities = checked(atoms.get_velocities(), "velocity") * (1000.0 * units.fs)
    magmoms = atoms.calc.results.get("magmoms") if atoms.calc is not None else None
    if magmoms is None and atoms.has("initial_magmoms"):
        magmoms = atoms.get_initial_magnetic_moments()
    if magmoms is not None:
        unit.magmoms = checked(magmoms, "magnetic moment")
        if unit.magmoms.shape not in ((len(atoms),), (len(atoms), 3)):
            raise InputError(
                f"{path.name}: magmoms have shape {unit.magmoms.shape}, expected one number or three per atom", place
            )
    return unit


def repeat(basis: np.ndarray, cell: np.ndarray, repeats: tuple[int, int, int]) -> np.ndarray:
    """(n_a n_b n_c n_basis, 3) positions of the supercell, the last index (basis) fastest."""
    a, b, c = (np.arange(n)[:, None] * vector for n, vector in zip(repeats, cell, strict=True))
    result = np.empty((*repeats, *basis.shape))
    result[:] = a[:, None, None, None, :]
    result += b[:, None, None, :]
    result += c[:, None, :]
    result += basis
    return result.reshape(-1, 3)


def refuse_overlaps(positions, cell, pbc, limit: float, symbol_of: Callable[[int], str], place: str) -> None:
    """Raise InputError, naming the pair, if two atoms or an atom and a periodic image are closer than ``limit`` Å."""
    pair = closest_pair(positions, cell, pbc, limit) if limit > 0.0 else None
    if pair is None:
        return
    i, j, distance = pair
    other = "its own periodic image" if i == j else f"atom {j} ({symbol_of(j)})"
    raise InputError(
        f"atom {i} ({symbol_of(i)}) and {other} are {distance:.3g} Å apart, closer than minimum_distance = "
        f"{limit:g} Å; move or remove one of them, or check lattice constant and units",
        place,
    )


def closest_pair(positions, cell, pbc, limit: float) -> tuple[int, int, float] | None:
    """Two atoms i <= j (i = j: an atom and its image) nearer than ``limit`` Å and their distance, or None.

    Of several pairs it is the nearest of the first block of atoms that has any. Atoms are wrapped, and copies of those
    within ``limit`` of a periodic face are added beyond the opposite one: O(N log N).
    """
    inverse = np.linalg.inv(cell)
    fractional = positions @ inverse
    fractional[:, pbc] -= np.floor(fractional[:, pbc])
    wrapped = fractional @ cell
    images, owner, reach = fractional, np.arange(len(positions)), limit * np.linalg.norm(inverse, axis=0)
    for k in np.flatnonzero(pbc):
        copies, owners = [images], [owner]
        for shift in range(-math.ceil(reach[k]), math.ceil(reach[k]) + 1):
            moved = images[:, k] + shift
            near = (moved > -reach[k]) & (moved < 1.0 + reach[k]) & (shift != 0)
            copies.append(images[near])
            copies[-1][:, k] += shift
            owners.append(owner[near])
        images, owner = np.concatenate(copies), np.concatenate(owners)
    images = images @ cell
    return _nearest_within(wrapped, images, owner, limit)


def _nearest_within(atoms, images, owner, limit):
    """The search of ``closest_pair``: image k is atom k itself for the first N."""
    natoms, first, size = len(atoms), 0, 1000
    small = natoms * len(images) <= 250_000
    if not small:
        from scipy.spatial import cKDTree  # its import takes longer than the search of a small cell by brute force

        tree = cKDTree(images, balanced_tree=False, compact_nodes=False)
    while first < natoms:
        block = atoms[first : first + size]
        own = np.arange(first, first + len(block))[:, None]
        if small:
            distances = np.linalg.norm(block[:, None, :] - images, axis=2)
            candidates = np.broadcast_to(np.arange(len(images)), distances.shape)
        else:
            distances, candidates = tree.query(block, k=2, distance_upper_bound=limit)
        distances = np.where((candidates == own) | ~(distances < limit), np.inf, distances)
        k = np.unravel_index(np.argmin(distances), distances.shape)
        if np.isfinite(distances[k]):
            i, j = first + int(k[0]), int(owner[candidates[k]])
            return min(i, j), max(i, j), float(distances[k])
        # small blocks first: where atoms are piled up by the thousand, each search is slow and the first finds a pair
        first, size = first + size, min(4 * size, 100_000)
    return None
