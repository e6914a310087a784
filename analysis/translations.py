"""Translations that map a set of sites on itself, and its sites folded into the cell that they span.

Small searches over plain arrays; what a crystal, its Brillouin zone and its paths are is in ``spinmd.analysis.brillouin``.
"""

import numpy as np


def translations(sites, cell, symbols, pbc, tolerance, share) -> np.ndarray:
    """(3, 3) Å, rows: the shortest independent translations; along open directions the cell's own vectors."""
    from scipy.spatial import cKDTree

    fractional = sites @ np.linalg.inv(cell)
    fractional -= np.where(pbc, np.floor(fractional), 0.0)
    fractional[(fractional >= 1.0) & pbc] = 0.0
    names, kinds = np.unique(symbols, return_inverse=True)
    # a fourth coordinate keeps elements apart
    tree = cKDTree(np.column_stack([fractional, 10.0 * kinds]), boxsize=[*np.where(pbc, 1.0, 0.0), 0.0])
    reach = tolerance * np.linalg.norm(np.linalg.inv(cell), axis=0).max() * 2.0
    rarest = np.flatnonzero(kinds == np.argmin(np.bincount(kinds)))
    shifts = fractional[rarest] - fractional[rarest[0]]
    shifts -= np.where(pbc, np.rint(shifts), 0.0)
    images = np.array(np.meshgrid(*[(-1, 0, 1) if side else (0,) for side in pbc])).reshape(3, -1).T
    shifts = (shifts[:, None] + images).reshape(-1, 3)
    vectors = shifts @ cell
    length = np.linalg.norm(vectors, axis=1)
    flat = np.abs(vectors - np.where(pbc, shifts, 0.0) @ cell).max(axis=1) < tolerance
    usable = np.flatnonzero(flat & (length > 2.0 * tolerance) & (length < length[flat].max() + 1.0))
    # of equally long ones those with positive components first, so that the choice does not depend on the order of atoms
    order = np.lexsort((*(-np.rint(vectors[usable] / tolerance)).T[::-1], np.rint(length[usable] / tolerance)))
    kept: list[np.ndarray] = []
    own = [cell[k] for k in np.flatnonzero(~pbc)]
    few = np.linspace(0, len(sites) - 1, min(len(sites), 60)).astype(int)
    for k in usable[order]:
        if not _independent([*own, *kept, vectors[k]]):
            continue
        if all(
            _maps(tree, fractional, kinds, shifts[k], part, cell, pbc, reach, tolerance, share)
            for part in (few, slice(None))
        ):
            kept.append(vectors[k])
        if len(kept) + len(own) == 3:
            break
    else:
        return cell
    result = np.empty((3, 3))
    result[~pbc] = cell[~pbc]
    result[pbc] = kept
    if np.linalg.det(result) * np.linalg.det(cell) < 0.0:
        result[np.flatnonzero(pbc)[-1]] *= -1.0
    return result


def _independent(vectors) -> bool:
    sizes = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.linalg.svd(np.array(vectors) / sizes, compute_uv=False)[-1] > 1.0e-3


def _maps(tree, fractional, kinds, shift, part, cell, pbc, reach, tolerance, share) -> bool:
    """Whether the shift takes (most of) these sites to sites of the same element."""
    moved = fractional[part] + shift
    moved -= np.where(pbc, np.floor(moved), 0.0)
    moved[(moved >= 1.0) & pbc] = 0.0
    _, nearest = tree.query(np.column_stack([moved, 10.0 * kinds[part]]), distance_upper_bound=reach)
    hit = nearest < len(fractional)
    missed = moved[hit] - fractional[nearest[hit]]
    missed -= np.where(pbc, np.rint(missed), 0.0)
    good = np.count_nonzero(np.linalg.norm(missed @ cell, axis=1) < tolerance)
    return good == len(moved) if share == 1.0 else good >= share * len(moved)


def folded(sites, vectors, symbols, pbc, tolerance) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    """Sites of the primitive cell, their elements, and the one of each atom."""
    fractional = sites @ np.linalg.inv(vectors)
    site = np.full(len(sites), -1)
    basis, names = [], []
    while (site < 0).any():
        first = int(np.argmax(site < 0))
        offset = fractional - fractional[first]
        offset -= np.where(pbc, np.rint(offset), 0.0)
        same = (np.linalg.norm(offset @ vectors, axis=1) < 2.0 * tolerance) & (site < 0)
        site[same] = len(basis)
        place = fractional[first] + offset[same].mean(axis=0)
        place -= np.where(pbc, np.floor(place + 1.0e-9), 0.0)
        basis.append(place @ vectors)
        kinds, counts = np.unique(symbols[same], return_counts=True)
        names.append(str(kinds[np.argmax(counts)]))
    return np.array(basis), tuple(names), site
