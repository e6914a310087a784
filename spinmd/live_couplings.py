"""Couplings of potentials that do not freeze, by turning one moment at a time: second derivatives of their energy at fixed lengths.

    −∂²E/∂u_i∂u_j · x  ≈  [H_i(u_j turned by +δ towards x) − H_i(turned by −δ)]/(2 sin δ),   H = −∂E/∂u

for the two directions x across each moment of the magnetic cell, in a supercell of it, to fourth order in δ (two angles).
Wave vectors that the supercell allows are exact; elsewhere a coupling belongs to the nearest image of its atom, in equal
parts to several as near.
"""

import math
from dataclasses import replace

import numpy as np

from spinmd.analysis.spin_wave_theory import SpinLattice, local_frames
from spinmd.errors import InputError
from spinmd.state import State

ANGLE = 0.02  # rad
RANGES = 2.0  # cutoffs: the energy of an atom couples any two of its neighbours
MOST_ATOMS = 6000
NEAR = 1.0e-4  # Å: images that are as far
FAINT = 1.0e-3  # of the largest coupling: larger ones at the edge of the supercell say that it is too small


def live_couplings(crystal, lattice: SpinLattice, cell: State, fields: np.ndarray, reach: float | None):
    """``lattice`` with the couplings of the live terms added, and sentences for users.

    crystal  what makes models (``model_of``);  cell  the magnetic cell as a State, all of its atoms;  fields (n, 3) eV of all terms
    reach    Å, half the smallest height of the supercell; None: twice the cutoff of the live terms
    """
    model = crystal.model
    cutoff = max(model.terms[k].cutoff for k in model.live_terms())
    reach = RANGES * cutoff if reach is None else float(reach)
    if not reach > 0.0:
        raise InputError(f"expected a length in Å, got {reach:g}", "--range")
    heights = 1.0 / np.linalg.norm(np.linalg.inv(cell.cell), axis=0)
    repeats = np.where(cell.pbc, np.ceil(2.0 * reach / heights - 1.0e-9), 1).astype(int)
    count = cell.natoms * int(repeats.prod())
    if count > MOST_ATOMS:
        raise InputError(
            f"couplings within {reach:.3g} Å need a supercell of {count} atoms, {MOST_ATOMS} are the most; give a shorter --range",
            "--range",
        )
    big = repeated(cell, repeats)
    large = crystal.model_of(big)
    magnetic = np.flatnonzero((cell.moments > 0.0) & (np.linalg.norm(cell.spins, axis=1) > 0.0))
    responses = _responses(large, big, magnetic)  # (n, 2, N, 3) −∂H/∂a, eV
    frames = local_frames(lattice.directions)
    lengths = np.linalg.norm(cell.spins[magnetic], axis=1)
    parts = [(lattice.first, lattice.second, lattice.vectors, lattice.tensors)]
    onsite = lattice.onsite.copy()
    number = np.full(cell.natoms, -1)
    number[magnetic] = np.arange(len(magnetic))
    largest, edge = 0.0, 0.0
    cells = np.stack(np.meshgrid(*[np.arange(r) for r in repeats], indexing="ij"), axis=-1).reshape(-1, 3)
    positions = (cell.positions[None] + (cells @ cell.cell)[:, None]).reshape(-1, 3)
    owners = np.tile(number, len(cells))
    for i, atom in enumerate(magnetic):
        response = np.einsum("ax,xjb->jab", frames[i][:, :2], responses[i])  # T_ij: rows at i, columns at j
        onsite[i] -= 0.5 * (response[atom] + response[atom].T)
        others = np.flatnonzero((owners >= 0) & (np.arange(count) != atom))
        sizes = np.abs(response[others]).max(axis=(1, 2))
        vectors, index, shared = nearest_images(
            positions[others] - positions[atom], cell.cell * repeats[:, None], cell.pbc
        )
        weights = 1.0 / shared[index]
        parts.append(
            (np.full(len(index), i), owners[others][index], vectors, response[others][index] * weights[:, None, None])
        )
        largest = max(largest, float(sizes.max(initial=0.0)))
        edge = max(edge, float(sizes[shared > 1].max(initial=0.0)))
    first, second, vectors, tensors = (np.concatenate(p) for p in zip(*parts, strict=True))
    notes = [
        f"couplings of {model.names[model.live_terms()[0]]} are second derivatives by turning moments of "
        f"{', '.join(sorted({f'{x:.3g}' for x in lengths}))} µB by ±{ANGLE:g} rad in a supercell of {count} atoms"
    ]
    if edge > FAINT * largest:
        notes.append(
            f"couplings at the edge of this supercell are still {edge / largest:.1%} of the largest: between the wave "
            f"vectors that it "
            "allows energies are interpolated; a larger --range says how well"
        )
    error = ANGLE**4 * largest
    found = replace(
        lattice, first=first, second=second, vectors=vectors, tensors=tensors, onsite=onsite, tolerance=max(error, 1e-9)
    )
    # what the state feels is known exactly: constant fields make up for it
    return replace(found, fields=found.fields + fields - found.total_fields()), notes


def repeated(cell: State, repeats) -> State:
    """The State of a supercell: cell after cell, the last direction fastest, atoms in the order of the cell."""
    shifts = np.stack(np.meshgrid(*[np.arange(r) for r in repeats], indexing="ij"), axis=-1).reshape(-1, 3) @ cell.cell
    count = len(shifts)
    positions = (cell.positions[None] + shifts[:, None]).reshape(-1, 3)
    return State.create(
        cell.cell * np.asarray(repeats)[:, None], positions, cell.elements * count, np.tile(cell.masses, count), pbc=cell.pbc,
        spins=np.tile(cell.spins, (count, 1)), moments=np.tile(cell.moments, count), reference=positions,
    )  # fmt: skip


def nearest_images(vectors: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shortest images of ``vectors`` (n, 3): (m, 3) all of them, (m,) the vector each belongs to, (n,) how many it has."""
    fractional = vectors @ np.linalg.inv(cell)
    fractional -= np.where(pbc, np.rint(fractional), 0.0)
    shifts = np.stack(np.meshgrid(*[(-1, 0, 1) if side else (0,) for side in pbc], indexing="ij"), axis=-1).reshape(
        -1, 3
    )
    images = (fractional[:, None] + shifts) @ cell
    lengths = np.linalg.norm(images, axis=2)
    near = lengths < lengths.min(axis=1, keepdims=True) + NEAR
    index, which = np.nonzero(near)
    return images[index, which], index, near.sum(axis=1)


def _responses(model, state: State, magnetic: np.ndarray) -> np.ndarray:
    """(n, 2, N, 3) ∂H/∂a, eV, of the live terms: H = −∂E/∂u of all atoms, a across each of the ``magnetic`` ones."""
    where = np.argsort(state.ids)
    rest = state.original_order(state.spins)
    lengths = np.linalg.norm(rest, axis=1)
    model.update_lists()
    where = np.argsort(state.ids)

    def fields(spin: np.ndarray, atom: int) -> np.ndarray:
        state.spins[where[atom]] = spin
        model.moved(spins=True)
        found = np.zeros((state.natoms, 3))
        model.add_live_fields(found)
        state.spins[where[atom]] = rest[atom]
        return state.original_order(found) * lengths[:, None]

    result = np.zeros((len(magnetic), 2, state.natoms, 3))
    frames = local_frames(rest[magnetic])
    for k, atom in enumerate(magnetic):
        for x in range(2):
            slopes = []
            for angle in (ANGLE, 2.0 * ANGLE):
                c, s = math.cos(angle) * frames[k, :, 2], math.sin(angle) * frames[k, :, x]
                up, down = fields(lengths[atom] * (c + s), atom), fields(lengths[atom] * (c - s), atom)
                slopes.append((up - down) / (2.0 * math.sin(angle)))
            one, two = slopes
            ratio = (math.sin(2.0 * ANGLE) / math.sin(ANGLE)) ** 2
            result[k, x] = (ratio * one - two) / (ratio - 1.0)
    return result
