"""The neighbour list as the network's kernels want it: rows sorted by element, magnetic elements first, and its
transpose.

Row i holds the neighbours of atom i that are real entries (no padding), element by element, so that those with a
virtual atom come first. The transpose says in which places an atom is somebody's neighbour: forces that centres exert
on their neighbours are written once per place and gathered by the neighbour, without atomic operations and in a fixed
order.
"""

from typing import NamedTuple

import numpy as np
from numba import njit, prange

from spinmd.backend import BLOCK, block_count


class SortedList(NamedTuple):
    """A neighbour list sorted by kind of neighbour; kinds are the elements of the state, magnetic ones first.

    start       (N + 1,) int64, rows of ``neighbours``;  neighbours  int32 indices into ``packed``;  atoms  their owners
    sections    (N, kinds + 1) int64: neighbours of kind q of atom i are start[i] + sections[i, q] ... sections[i, q + 1]
    places      int64, the transpose: atom j is the neighbour in places[place_start[j] : place_start[j + 1]]
    magnetic_start   (N + 1,): rows of virtual places, one for each magnetic neighbour and one for the own virtual atom
    magnetic_places  the transpose in terms of virtual places, without the own ones
    """

    start: np.ndarray
    neighbours: np.ndarray
    atoms: np.ndarray
    sections: np.ndarray
    place_start: np.ndarray
    places: np.ndarray
    magnetic_start: np.ndarray
    magnetic_place_start: np.ndarray
    magnetic_places: np.ndarray


@njit(cache=True, parallel=True)
def _count(natoms, start, neighbours, owner, dummy, kind, nkinds, sections, blocks, block):
    """sections[i, q + 1] becomes the number of neighbours of kinds up to q."""
    for b in prange(blocks):
        for i in range(b * block, min((b + 1) * block, natoms)):
            sections[i, :] = 0
            for k in range(start[i], start[i + 1]):
                n = neighbours[k]
                if n != dummy:
                    sections[i, kind[owner[n]] + 1] += 1
            for q in range(nkinds):
                sections[i, q + 1] += sections[i, q]


@njit(cache=True, parallel=True)
def _fill(natoms, start, neighbours, owner, dummy, kind, nkinds, sections, own_start, own, atoms, blocks, block):
    for b in prange(blocks):
        place = np.zeros(nkinds, dtype=np.int64)
        for i in range(b * block, min((b + 1) * block, natoms)):
            for q in range(nkinds):
                place[q] = own_start[i] + sections[i, q]
            for k in range(start[i], start[i + 1]):
                n = neighbours[k]
                if n != dummy:
                    j = owner[n]
                    at = place[kind[j]]
                    own[at] = n
                    atoms[at] = j
                    place[kind[j]] = at + 1


@njit(cache=True)
def _transpose(natoms, first, last, atoms, shift, place_start, places):
    """Places k + shift[i], first[i] ≤ k < last[i], by atom; place_start counts first and then holds the starts."""
    place_start[:] = 0
    for i in range(natoms):
        for k in range(first[i], last[i]):
            place_start[atoms[k] + 1] += 1
    for j in range(natoms):
        place_start[j + 1] += place_start[j]
    for i in range(natoms):
        for k in range(first[i], last[i]):
            j = atoms[k]
            places[place_start[j]] = k + shift[i]
            place_start[j] += 1
    for j in range(natoms, 0, -1):
        place_start[j] = place_start[j - 1]
    place_start[0] = 0


def sort_list(pairs, natoms: int, kind: np.ndarray, nkinds: int, magnetic_kinds: int) -> SortedList:
    """The SortedList of a Pairs; ``kind`` (N,) int64 numbers the elements of the atoms, the magnetic ones first."""
    blocks = block_count(natoms)
    sections = np.zeros((natoms, nkinds + 1), dtype=np.int64)
    _count(natoms, pairs.start, pairs.neighbours, pairs.owner, pairs.dummy, kind, nkinds, sections, blocks, BLOCK)
    start = np.zeros(natoms + 1, dtype=np.int64)
    np.cumsum(sections[:, nkinds], out=start[1:])
    total = int(start[-1])
    own, atoms = np.zeros(total + 8, dtype=np.int32), np.zeros(total + 8, dtype=np.int32)
    _fill(
        natoms, pairs.start, pairs.neighbours, pairs.owner, pairs.dummy, kind, nkinds, sections, start, own, atoms, blocks,
        BLOCK,
    )  # fmt: skip
    place_start, places = np.zeros(natoms + 1, dtype=np.int64), np.zeros(total, dtype=np.int32)
    nothing = np.zeros(natoms, dtype=np.int64)
    _transpose(natoms, start[:-1], start[1:], atoms, nothing, place_start, places)
    count = sections[:, magnetic_kinds]
    magnetic_start = np.zeros(natoms + 1, dtype=np.int64)
    np.cumsum(count + 1, out=magnetic_start[1:])
    magnetic_place_start = np.zeros(natoms + 1, dtype=np.int64)
    magnetic_places = np.zeros(int(count.sum()), dtype=np.int32)
    shift = magnetic_start[:-1] - start[:-1]
    _transpose(natoms, start[:-1], start[:-1] + count, atoms, shift, magnetic_place_start, magnetic_places)
    return SortedList(
        start, own, atoms, sections, place_start, places, magnetic_start, magnetic_place_start, magnetic_places
    )
