"""Neighbour lists: cell list -> full Verlet lists in CSR, one per cutoff class, any cell, any boundary.

Periodic images within reach are *ghost* atoms: extra entries of the packed position array that follow their owners. A cell smaller
than the cutoff simply has several ghosts of one atom; kernels know nothing of periodicity. The lists hold all pairs within
cutoff + skin and are rebuilt when an atom has moved so far, or the cell has deformed so much, that a pair might be missed.

Kernels of this file are in ``cell_list.py``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spinmd.backend import BLOCK, aligned_zeros, block_count
from spinmd.cell_list import (
    bin_positions,
    count_ghosts,
    count_pairs,
    fill_ghosts,
    fill_pairs,
    filter_count,
    filter_fill,
    morton_codes,
    update_packed,
    wrap_positions,
)
from spinmd.errors import InputError
from spinmd.state import State

DEFAULT_SKIN = 0.45  # Å
FAR = 1.0e6  # Å, where the dummy entry sits; its square times a stiff table must not overflow
SORT_FROM = 2048  # atoms; smaller systems fit into the cache in any order, and keep the user's
SORT_EVERY = 50  # list builds between two sorts


@dataclass
class PairList:
    """The full list of one cutoff class; the fields are those of ``protocols.Pairs``, plus ``species`` (n_ext,) int32."""

    cutoff: float
    packed: np.ndarray
    owner: np.ndarray
    species: np.ndarray
    start: np.ndarray
    neighbours: np.ndarray
    dummy: int
    natoms: int
    _changes: np.ndarray
    _atoms: np.ndarray | None = None

    @property
    def version(self) -> int:
        """Grows whenever ``packed`` or the list changes: what a term keeps per pair is good as long as this stays the same."""
        return int(self._changes[0])

    @property
    def atoms(self) -> np.ndarray:
        """(len(neighbours),) int32: the owners of the neighbours, for what does not depend on the periodic image."""
        if self._atoms is None:
            self._atoms = np.take(self.owner, self.neighbours[: self.start[-1]])
        return self._atoms

    @property
    def pair_count(self) -> int:
        """Ordered pairs within cutoff + skin, without padding."""
        return int(np.count_nonzero(self.neighbours[: self.start[-1]] != self.dummy))


def cell_heights(cell: np.ndarray) -> np.ndarray:
    """(3,) distances between opposite faces of a cell whose rows are lattice vectors, Å."""
    return 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)


class NeighbourLists:
    """All lists of a simulation.

    radii  one list radius (cutoff plus a term's margin, Å) per cutoff class;  skin Å
    ``update(state)`` must be called whenever positions or cell have changed; it rebuilds where needed.
    """

    def __init__(self, state: State, radii, skin: float = DEFAULT_SKIN):
        self.radii = sorted({float(r) for r in radii}, reverse=True)
        if skin < 0.0 or not np.isfinite(skin):
            raise InputError(f"must be zero or positive, got {skin}", "neighbours.skin")
        self.skin = float(skin)
        self.builds = 0
        self._changes = np.zeros(1, dtype=np.int64)
        self.lists: dict[float, PairList] = {}
        self._built_positions = np.zeros_like(state.positions)
        self._built_cell = np.zeros((3, 3))
        self._block_max = np.zeros(block_count(state.natoms))
        self._packed = np.zeros((0, 4))
        self._owner = np.zeros(0, dtype=np.int32)
        self._species = np.zeros(0, dtype=np.int32)
        self._image = np.zeros((0, 3), dtype=np.int32)
        self._n_ext = 0
        self._buffers: dict[float, np.ndarray] = {}

    # ------------------------------------------------------------------ rebuild rule

    def _allowance(self, cell: np.ndarray) -> float:
        """How far any atom may move (relative to the deforming cell) before a pair could be missed, Å.

        A pair not in the list was at least R = cutoff + skin apart; with F the deformation since the build it is now at least
        s_min(F) R − 2u apart, u the largest displacement beyond the deformation. It is safe while that exceeds the cutoff.
        """
        if np.array_equal(cell, self._built_cell):
            return 0.5 * self.skin
        deformation = np.linalg.solve(self._built_cell, cell)
        smallest = np.linalg.svd(deformation, compute_uv=False)[-1]
        return 0.5 * (smallest * (self.radii[0] + self.skin) - self.radii[0])

    def needs_build(self, state: State) -> bool:
        """Bring ghosts up to date with positions and cell; True if the lists must be built anew (also if positions are NaN)."""
        self._changes += 1
        allowance = self._allowance(state.cell)
        if allowance < 0.0:
            return True
        same_cell = np.array_equal(state.cell, self._built_cell)
        transform = np.eye(3) if same_cell else np.linalg.solve(self._built_cell, state.cell)
        update_packed(
            state.positions, state.cell, self._built_positions, transform, self._owner, self._image,
            self._n_ext, self._packed, self._block_max, BLOCK,
        )  # fmt: skip
        return not float(self._block_max.max()) <= allowance * allowance

    def update(self, state: State) -> bool:
        """Bring ghosts up to date, and rebuild the lists if needed. True if they were rebuilt."""
        if not self.radii or (self.builds and not self.needs_build(state)):
            return False
        self.build(state)
        return True

    # ------------------------------------------------------------------ building

    def sort_due(self, state: State) -> bool:
        """True when the next build should be preceded by a sort in space."""
        return state.natoms >= SORT_FROM and self.builds % SORT_EVERY == 0

    def sorted_order(self, state: State) -> np.ndarray:
        """Order of the atoms along a Morton curve through bins of half the largest radius, stable within a bin."""
        wrap_positions(state.positions, state.images, state.cell, np.linalg.inv(state.cell), state.pbc)
        size = 0.5 * (self.radii[0] if self.radii else 5.0)
        codes = morton_codes(state.positions, state.positions.min(axis=0), size)
        return np.argsort(codes, kind="stable")

    def build(self, state: State) -> None:
        """Build all lists from the present positions, which are wrapped into the cell (``state.images`` keeps count)."""
        wrap_positions(state.positions, state.images, state.cell, np.linalg.inv(state.cell), state.pbc)
        self._build_at(state, state.positions, state.cell)
        self.builds += 1

    def _build_at(self, state: State, positions: np.ndarray, cell: np.ndarray) -> None:
        """Lists of the atoms of ``state`` at ``positions``, which are wrapped, in ``cell``."""
        self._changes += 1
        reach = self.radii[0] + self.skin
        inverse = np.linalg.inv(cell)
        margins = np.where(state.pbc, reach / cell_heights(cell), -1.0)
        counts = np.zeros(state.natoms + 1, dtype=np.int64)
        images = state.natoms * (float(np.prod(1.0 + 2.0 * np.maximum(margins, 0.0))) - 1.0)  # on average
        if images < 2.0**31:  # far more would not even be counted right
            count_ghosts(positions, inverse, margins, counts)
            images = int(counts[-1])
        if state.natoms + images >= 2**31 - 64:
            raise InputError(
                f"a cutoff of {self.radii[0]:g} Å and a skin of {self.skin:g} Å need {images:.3g} periodic images; "
                "choose a larger cell or a smaller skin",
                "neighbours.skin" if self.skin > self.radii[0] else "structure",
            )
        n_ext = state.natoms + images
        self._reserve(n_ext + 1)
        self._n_ext = n_ext
        self._owner[: state.natoms] = np.arange(state.natoms, dtype=np.int32)
        self._image[: state.natoms] = 0
        fill_ghosts(positions, inverse, margins, counts, self._owner, self._image)
        self._packed[n_ext] = (FAR, FAR, FAR, 0.0)
        self._owner[n_ext] = 0
        self._built_positions[:] = positions
        self._built_cell[:] = cell
        update_packed(
            positions, cell, self._built_positions, np.eye(3), self._owner, self._image, n_ext, self._packed,
            self._block_max, BLOCK,
        )  # fmt: skip
        np.take(state.species, self._owner[: n_ext + 1], out=self._species[: n_ext + 1])
        self._build_lists(state.natoms, n_ext, reach)

    def _reserve(self, entries: int) -> None:
        if len(self._packed) < entries:
            size = entries + entries // 20
            self._packed = aligned_zeros((size, 4))
            self._owner = np.zeros(size, dtype=np.int32)
            self._species = np.zeros(size, dtype=np.int32)
            self._image = np.zeros((size, 3), dtype=np.int32)

    def _build_lists(self, natoms: int, n_ext: int, reach: float) -> None:
        packed, dummy = self._packed, n_ext
        low = packed[:n_ext, :3].min(axis=0)
        extent = packed[:n_ext, :3].max(axis=0) - low
        size = 0.5 * reach
        shape = np.maximum((extent / size).astype(np.int64) + 1, 1)
        while shape.prod() > 4 * n_ext + 64:  # sparse: larger bins, at bounded memory
            size *= 1.25
            shape = np.maximum((extent / size).astype(np.int64) + 1, 1)
        bin_start, order, ordered = bin_positions(packed, n_ext, low, 1.0 / size, shape)
        start = np.zeros(natoms + 1, dtype=np.int64)
        count_pairs(natoms, packed, reach, low, 1.0 / size, shape, bin_start, order, ordered, start, BLOCK)
        longest = int(start.max())
        np.cumsum(start, out=start)
        neighbours = self._list_buffer(self.radii[0], int(start[-1]))
        fill_pairs(
            natoms,
            packed,
            reach,
            low,
            1.0 / size,
            shape,
            bin_start,
            order,
            ordered,
            start,
            neighbours,
            dummy,
            longest,
            BLOCK,
        )
        self._publish(self.radii[0], natoms, start, neighbours, dummy)
        for radius in self.radii[1:]:
            wide = self.lists[self.radii[0]]
            start = np.zeros(natoms + 1, dtype=np.int64)
            filter_count(natoms, packed, radius + self.skin, wide.start, wide.neighbours, start, BLOCK)
            longest = int(start.max())
            np.cumsum(start, out=start)
            neighbours = self._list_buffer(radius, int(start[-1]))
            filter_fill(
                natoms,
                packed,
                radius + self.skin,
                wide.start,
                wide.neighbours,
                start,
                neighbours,
                dummy,
                longest,
                BLOCK,
            )
            self._publish(radius, natoms, start, neighbours, dummy)

    def _list_buffer(self, radius: float, size: int) -> np.ndarray:
        buffer = self._buffers.get(radius)
        if buffer is None or len(buffer) < size:
            self._buffers.pop(radius, None)
            self.lists.pop(radius, None)  # free the old one before the new one is made
            buffer = np.empty(size + size // 20 + 8, dtype=np.int32)
            self._buffers[radius] = buffer
        return buffer

    def _publish(self, radius, natoms, start, neighbours, dummy) -> None:
        self.lists[radius] = PairList(
            radius, self._packed, self._owner, self._species, start, neighbours, dummy, natoms, self._changes
        )

    # ------------------------------------------------------------------ use

    def pairs(self, radius: float) -> PairList:
        """The list of the class with this radius."""
        return self.lists[float(radius)]

    def history(self) -> dict[str, np.ndarray]:
        """What a restart needs to rebuild exactly the present lists: positions and cell at the last build, number of builds."""
        return {
            "positions": self._built_positions.copy(),
            "cell": self._built_cell.copy(),
            "builds": np.array(self.builds, dtype=np.int64),
        }

    def restore(self, state: State, history: Mapping[str, np.ndarray]) -> None:
        """Build the lists of ``history`` for the same atoms in the same order; nothing is wrapped or counted again.

        The ghosts are where they were at that build until ``needs_build`` brings them up to date.
        """
        self.builds = int(history["builds"])
        if self.builds and self.radii:
            self._build_at(state, history["positions"], history["cell"])
