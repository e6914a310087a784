"""Neighbour lists that rebuild themselves on the device: no decision on the host, so that a step can be one graph.

The rule, the ghosts and the skin are those of ``spinmd.neighbors``. Lists are stored column by column: the k-th neighbour of atom i
is ``neighbours[k, i]``, an index into ``packed``, for k < ``count[i]``, so that the threads of a warp read consecutive numbers.
Every kernel of the build leaves at once unless ``status[BUILD]`` is set, which the look at the displacements does. Bins hold
their atoms in the order of their indices, so that lists, and with them all sums, are the same from run to run.

What does not fit into its buffer sets ``status[OVERFLOW]`` and leaves how much room it needs; the host sees it at its next look,
goes back to its last snapshot, makes larger buffers and repeats the steps.
"""

import math

import numpy as np
import torch
from numba import cuda

from spinmd.cuda.arrays import DeviceArray, full, on_device, zeros
from spinmd.cuda.launch import array, f8, i4, i8, kernel
from spinmd.errors import InputError
from spinmd.neighbors import DEFAULT_SKIN, FAR, cell_heights

# entries of ``status``
BUILD, OVERFLOW, BUILDS, LOST = 0, 1, 2, 3
MADE = 4  # counts the builds here; unlike BUILDS, which goes on from the history of a run, it never goes back
NEEDED_GHOSTS, NEEDED_NEIGHBOURS = 5, 6  # the second for the widest class, others after it
SPARE, EXTRA = 1.15, 4  # room beyond the mean of a uniform system; where it is too little, lists grow
MANY, TIGHT = (
    1_000_000,
    (1.06, 2),
)  # so many atoms have less to spare: memory counts, and a crystal needs less than the mean
SPARE_GHOSTS = 1.25
OUTSIDE = 1.0e12  # Å, from where an atom is in no bin; a place in bins is still an integer there
FIRST = 1.0  # what the first buffers have of that room


@kernel(array(f8, 2), array(f8, 2), f8, array(i8, 1))
def _look(positions, built, allowance2, status):
    """Whether an atom has moved so far that a pair might be missed; also where a position is not a number."""
    i = cuda.grid(1)
    if i < positions.shape[0]:
        dx = positions[i, 0] - built[i, 0]
        dy = positions[i, 1] - built[i, 1]
        dz = positions[i, 2] - built[i, 2]
        d2 = dx * dx + dy * dy + dz * dz
        if not d2 <= allowance2:
            status[BUILD] = 1
            if not d2 < FAR * FAR:
                status[LOST] = 1


@cuda.jit(device=True)
def _has_images(s, margin):
    """Whether to look for images: along periodic directions, of atoms that are in the cell. Others are lost, or not a number."""
    return margin >= 0.0 and abs(s) < 2.0


@cuda.jit(device=True)
def _first_image(s, margin):
    return int(math.ceil(-margin - s)) if _has_images(s, margin) else 0


@cuda.jit(device=True)
def _last_image(s, margin):
    return int(math.floor(1.0 + margin - s)) if _has_images(s, margin) else 0


@cuda.jit(device=True)
def _fractional(positions, i, inverse, a):
    return positions[i, 0] * inverse[0, a] + positions[i, 1] * inverse[1, a] + positions[i, 2] * inverse[2, a]


@kernel(
    array(f8, 2), array(i4, 2), array(f8, 2), array(f8, 2), array(i8, 1), array(f8, 2), array(f8, 1), array(i8, 1), array(i8, 1),
    array(i8, 1),
)  # fmt: skip
def _wrap(positions, images, cell, inverse, pbc, built, margins, ghosts, bins, status):
    """Into the cell along periodic directions; ``images`` counts the lattice vectors taken off. The build is at these positions.
    Then the number of images of each atom within reach of the cell; all bins are empty."""
    i = cuda.grid(1)
    if i < bins.shape[0] and status[BUILD] != 0:
        bins[i] = 0
    if i < positions.shape[0] and status[BUILD] != 0:
        for a in range(3):
            if pbc[a] != 0:
                s = _fractional(positions, i, inverse, a)
                if abs(s) < 1.0e9:  # what is farther, or not a number, is lost
                    n = int(math.floor(s))
                    if n != 0:
                        for b in range(3):
                            positions[i, b] -= n * cell[a, b]
                        images[i, a] += n
        for b in range(3):
            built[i, b] = positions[i, b]
        n = 1
        for a in range(3):
            s = _fractional(positions, i, inverse, a)
            n *= _last_image(s, margins[a]) - _first_image(s, margins[a]) + 1
        ghosts[i] = n - 1


@kernel(
    array(f8, 2), array(f8, 2), array(f8, 1), array(i8, 1), array(i4, 1), array(i4, 2), array(i4, 1), array(i4, 1), array(i8, 1)
)  # fmt: skip
def _fill_ghosts(positions, inverse, margins, ends, owner, image, species, kinds, status):
    """Owner, image numbers and species of every entry; atoms first, then the ghosts of atom 0, 1, ..."""
    i = cuda.grid(1)
    natoms = positions.shape[0]
    if i < natoms and status[BUILD] != 0:
        k = natoms + (ends[i - 1] if i > 0 else 0)
        last = natoms + ends[i]
        if i == natoms - 1:
            status[NEEDED_GHOSTS] = ends[i]
            if last > owner.shape[0]:
                status[OVERFLOW] = 1
        if last <= owner.shape[0]:
            owner[i] = i
            species[i] = kinds[i]
            s0 = _fractional(positions, i, inverse, 0)
            s1 = _fractional(positions, i, inverse, 1)
            s2 = _fractional(positions, i, inverse, 2)
            for nx in range(_first_image(s0, margins[0]), _last_image(s0, margins[0]) + 1):
                for ny in range(_first_image(s1, margins[1]), _last_image(s1, margins[1]) + 1):
                    for nz in range(_first_image(s2, margins[2]), _last_image(s2, margins[2]) + 1):
                        if nx != 0 or ny != 0 or nz != 0:
                            owner[k] = i
                            species[k] = kinds[i]
                            image[k, 0] = nx
                            image[k, 1] = ny
                            image[k, 2] = nz
                            k += 1


@cuda.jit(device=True)
def _entries(ends, natoms, capacity):
    """How many entries of ``packed`` there are: atoms and ghosts, none if they do not fit."""
    n = natoms + ends[natoms - 1]
    return n if n <= capacity else natoms


@kernel(array(f8, 2), array(f8, 2), array(i4, 1), array(i4, 2), array(i8, 1), array(f8, 2))
def update_packed(positions, cell, owner, image, ends, packed):
    """Positions of atoms and images to the rows of ``packed``; every step, before anything reads them."""
    k = cuda.grid(1)
    natoms = positions.shape[0]
    if k < _entries(ends, natoms, owner.shape[0]):
        if k < natoms:
            for a in range(3):
                packed[k, a] = positions[k, a]
        else:
            i = owner[k]
            nx, ny, nz = image[k, 0], image[k, 1], image[k, 2]
            for a in range(3):
                packed[k, a] = positions[i, a] + (nx * cell[0, a] + ny * cell[1, a] + nz * cell[2, a])


@cuda.jit(device=True)
def _bin(x, low, inverse_size, n):
    return min(max(int((x - low) * inverse_size), 0), n - 1)


@cuda.jit(device=True)
def _somewhere(packed, k):
    """Whether an entry is at a place that bins can hold: numbers, and not too large ones."""
    return abs(packed[k, 0]) + abs(packed[k, 1]) + abs(packed[k, 2]) < OUTSIDE


@cuda.jit(device=True)
def _bin_of(packed, k, box, shape):
    bx = _bin(packed[k, 0], box[0], box[3], shape[0])
    by = _bin(packed[k, 1], box[1], box[3], shape[1])
    bz = _bin(packed[k, 2], box[2], box[3], shape[2])
    return (bz * shape[1] + by) * shape[0] + bx


@kernel(array(f8, 2), i8, array(i8, 1), array(f8, 1), array(i8, 1), array(i8, 1), array(i8, 1))
def _count_bins(packed, natoms, ends, box, shape, counts, status):
    """How many entries each bin has."""
    k = cuda.grid(1)
    if status[BUILD] != 0 and k < _entries(ends, natoms, packed.shape[0]) and _somewhere(packed, k):
        cuda.atomic.add(counts, _bin_of(packed, k, box, shape), 1)


@kernel(
    array(f8, 2), i8, array(i8, 1), array(f8, 1), array(i8, 1), array(i8, 1), array(i8, 1), array(i4, 1), array(i8, 1)
)
def _fill_bins(packed, natoms, ends, box, shape, counts, bin_ends, order, status):
    """Entries of each bin, in any order; ``counts`` goes back to zero."""
    k = cuda.grid(1)
    if status[BUILD] != 0 and k < _entries(ends, natoms, packed.shape[0]) and _somewhere(packed, k):
        b = _bin_of(packed, k, box, shape)
        left = cuda.atomic.sub(counts, b, 1)
        order[bin_ends[b] - left] = k


@kernel(array(i8, 1), array(i4, 1), array(i8, 1))
def _sort_bins(bin_ends, order, status):
    """Entries of a bin by index: what atomics have left in any order is the same in every run."""
    b = cuda.grid(1)
    if b < bin_ends.shape[0] and status[BUILD] != 0:
        first = bin_ends[b - 1] if b > 0 else 0
        for k in range(first + 1, bin_ends[b]):
            value = order[k]
            j = k - 1
            while j >= first and order[j] > value:
                order[j + 1] = order[j]
                j -= 1
            order[j + 1] = value


@kernel(
    array(f8, 2), i8, f8, array(f8, 1), array(i8, 1), array(i8, 1), array(i4, 1), array(i4, 2), array(i4, 1), i8, array(i8, 1)
)  # fmt: skip
def _search(packed, natoms, reach, box, shape, bin_ends, order, neighbours, count, slot, status):
    """All entries within ``reach`` of each atom, from the bins around it."""
    i = cuda.grid(1)
    if i < natoms and status[BUILD] != 0 and not _somewhere(packed, i):
        count[i] = 0
    elif i < natoms and status[BUILD] != 0:
        x, y, z = packed[i, 0], packed[i, 1], packed[i, 2]
        reach2 = reach * reach
        room = neighbours.shape[0]
        n = 0
        x0, x1 = _bin(x - reach, box[0], box[3], shape[0]), _bin(x + reach, box[0], box[3], shape[0])
        y0, y1 = _bin(y - reach, box[1], box[3], shape[1]), _bin(y + reach, box[1], box[3], shape[1])
        z0, z1 = _bin(z - reach, box[2], box[3], shape[2]), _bin(z + reach, box[2], box[3], shape[2])
        for bz in range(z0, z1 + 1):
            for by in range(y0, y1 + 1):
                row = (bz * shape[1] + by) * shape[0]
                first = bin_ends[row + x0 - 1] if row + x0 > 0 else 0
                for k in range(first, bin_ends[row + x1]):
                    j = order[k]
                    dx, dy, dz = packed[j, 0] - x, packed[j, 1] - y, packed[j, 2] - z
                    if dx * dx + dy * dy + dz * dz < reach2 and j != i:
                        if n < room:
                            neighbours[n, i] = j
                        n += 1
        count[i] = min(n, room)
        if n > room:
            status[OVERFLOW] = 1
        if n > status[NEEDED_NEIGHBOURS + slot]:  # most atoms need not stand in line at one number
            cuda.atomic.max(status, NEEDED_NEIGHBOURS + slot, n)


@kernel(array(f8, 2), i8, f8, array(i4, 2), array(i4, 1), array(i4, 2), array(i4, 1), i8, array(i8, 1))
def _filter(packed, natoms, reach, wide, wide_count, neighbours, count, slot, status):
    """The list of a shorter radius from that of the widest."""
    i = cuda.grid(1)
    if i < natoms and status[BUILD] != 0:
        x, y, z = packed[i, 0], packed[i, 1], packed[i, 2]
        n = 0
        for k in range(wide_count[i]):
            j = wide[k, i]
            dx, dy, dz = packed[j, 0] - x, packed[j, 1] - y, packed[j, 2] - z
            if dx * dx + dy * dy + dz * dz < reach * reach:
                if n < neighbours.shape[0]:
                    neighbours[n, i] = j
                n += 1
        count[i] = min(n, neighbours.shape[0])
        if n > neighbours.shape[0]:
            status[OVERFLOW] = 1
        if n > status[NEEDED_NEIGHBOURS + slot]:
            cuda.atomic.max(status, NEEDED_NEIGHBOURS + slot, n)


@kernel(array(i8, 1))
def _built(status):
    """The build is done; one thread."""
    if cuda.grid(1) == 0:
        if status[BUILD] != 0:
            status[BUILD] = 0
            status[BUILDS] += 1
            status[MADE] += 1


class DeviceList:
    """The list of one cutoff class: ``neighbours`` (room, N) int32 and ``count`` (N,) int32; the rest is shared by all classes."""

    def __init__(self, radius: float, natoms: int, room: int, lists: "DeviceLists"):
        self.radius = radius
        self.neighbours = zeros((room, natoms), "int32")
        self.count = zeros(natoms, "int32")
        self.lists = lists

    @property
    def packed(self) -> DeviceArray:
        """(n_ext, 4) float64: x, y, z of atoms and images; column 3 is free for use."""
        return self.lists.packed

    @property
    def owner(self) -> DeviceArray:
        """(n_ext,) int32, the atom of which an entry is an image."""
        return self.lists.owner

    @property
    def species(self) -> DeviceArray:
        """(n_ext,) int32."""
        return self.lists.species

    @property
    def image(self) -> DeviceArray:
        """(n_ext, 3) int32, which image of its owner an entry is."""
        return self.lists._image

    @property
    def version(self) -> int:
        """Counts the updates for new positions: what depends on positions alone is good while it stays."""
        return self.lists.version


class DeviceLists:
    """All lists of a run on the device.

    state   a DeviceState;  radii Å, one per cutoff class;  skin Å
    """

    def __init__(self, state, radii, skin: float = DEFAULT_SKIN):
        self.radii = sorted({float(r) for r in radii}, reverse=True)
        self.skin, self.state = float(skin), state
        n = state.natoms
        self.status = zeros(NEEDED_NEIGHBOURS + len(self.radii), "int64")
        self.version = 0
        self.built = full((n, 3), 1.0e5)  # so that the first look finds that everything has moved
        self._ghosts, self.ends = zeros(n, "int64"), zeros(n, "int64")
        self._fit()

    def _fit(self) -> None:
        """Buffers for the present cell and positions, from a count on the host side of what the first build needs."""
        state, n = self.state, self.state.natoms
        if not self.radii:
            return
        cell, pbc = state.cell, state.pbc
        reach = self.radii[0] + self.skin
        self._inverse = on_device(np.linalg.inv(cell))
        margins = np.where(pbc, reach / cell_heights(cell), -1.0)
        self._margins, self._pbc, self._cell = on_device(margins), on_device(pbc.astype(np.int64)), on_device(cell)
        images = n * (float(np.prod(1.0 + 2.0 * np.maximum(margins, 0.0))) - 1.0)
        # one layer of atoms more or less at each face
        ghosts = int(FIRST * (SPARE_GHOSTS * images + 64 + 4.0 * n ** (2.0 / 3.0)))
        if n + ghosts >= 2**31 - 64:
            raise InputError(
                f"a cutoff of {self.radii[0]:g} Å and a skin of {self.skin:g} Å need {images:.3g} periodic images; choose a larger "
                "cell or a smaller skin",
                "structure",
            )
        self._reserve(n + ghosts)
        self._make_bins(cell, pbc, reach)
        volume = abs(float(np.linalg.det(cell)))
        density = n / max(volume, 1.0e-9) if pbc.all() else 0.12
        spare, extra = TIGHT if n >= MANY else (SPARE, EXTRA)
        room = [int(FIRST * (spare * density * 4.18879 * (r + self.skin) ** 3 + extra)) for r in self.radii]
        self.lists = {r: DeviceList(r, n, k, self) for r, k in zip(self.radii, room, strict=True)}

    def _reserve(self, entries: int) -> None:
        self.packed, self.owner = zeros((entries, 4)), zeros(entries, "int32")
        self.species, self._image = zeros(entries, "int32"), zeros((entries, 3), "int32")
        self._order = zeros(entries, "int32")

    def _make_bins(self, cell: np.ndarray, pbc: np.ndarray, reach: float) -> None:
        """Bins of half the reach over the cell and its margins; along open directions, over the atoms with room to move."""
        corners = np.array(list(np.ndindex(2, 2, 2)), dtype=float) @ cell
        low, high = corners.min(axis=0) - reach, corners.max(axis=0) + reach
        size = 0.5 * reach
        shape = np.maximum(((high - low) / size).astype(np.int64) + 1, 1)
        while shape.prod() > 4 * len(self.owner) + 64:
            size *= 1.25
            shape = np.maximum(((high - low) / size).astype(np.int64) + 1, 1)
        self._box, self._shape = on_device(np.array([*low, 1.0 / size])), on_device(shape)
        self._bins, self._bin_ends = zeros(int(shape.prod()), "int64"), zeros(int(shape.prod()), "int64")

    def grow(self, status: np.ndarray) -> bool:
        """Larger buffers after an overflow, from the status that the host has read; True if something grew."""
        if not status[OVERFLOW]:
            return False
        n = self.state.natoms
        if n + status[NEEDED_GHOSTS] > len(self.owner):
            self._reserve(int(n + SPARE_GHOSTS * status[NEEDED_GHOSTS]) + 64)
        for slot, radius in enumerate(self.radii):
            room = self.lists[radius].neighbours.shape[0]
            if status[NEEDED_NEIGHBOURS + slot] > room:
                self.lists[radius] = DeviceList(radius, n, int(SPARE * status[NEEDED_NEIGHBOURS + slot]) + 4, self)
        self.status.tensor[OVERFLOW] = 0
        self.status.tensor[LOST] = 0  # by forces of lists that were too short, as like as not: those steps are repeated
        self.status.tensor[NEEDED_NEIGHBOURS:] = 0
        self.status.tensor[BUILDS] -= 1  # the one that did not fit
        self.demand()
        return True

    def restore(self, history) -> None:
        """Lists as they were built in ``history`` (positions, cell, builds), though atoms have moved since."""
        if self.radii and int(history["builds"]):
            self.built.set(history["positions"])
            self.status.tensor[BUILDS] = int(history["builds"])
            self.rebuild_at_last()

    def rebuild_at_last(self) -> None:
        """Build the lists of the positions of the last build again, wrapped as they were, and leave positions and images alone.

        It counts as the same build.
        """
        if not self.radii:
            return
        state = self.state
        present, images = state.positions.tensor.clone(), state.images.tensor.clone()
        state.positions.copy_from(self.built)
        self.demand()
        self.update()
        self.status.tensor[BUILDS] -= 1
        state.positions.tensor.copy_(present)
        state.images.tensor.copy_(images)

    def demand(self) -> None:
        """Build at the next update, whatever has moved."""
        self.status.tensor[BUILD] = 1

    def update(self) -> None:
        """Bring the images up to date, and rebuild the lists where needed; no word of it reaches the host."""
        if not self.radii:
            return
        state, n, entries = self.state, self.state.natoms, len(self.owner)
        status, positions, ends = self.status, state.positions, self.ends
        self.version += 1
        _look(n, positions, self.built, (0.5 * self.skin) ** 2, status)
        _wrap(
            max(n, len(self._bins)), positions, state.images, self._cell, self._inverse, self._pbc, self.built, self._margins,
            self._ghosts, self._bins, status,
        )  # fmt: skip
        torch.cumsum(self._ghosts.tensor, 0, out=ends.tensor)
        _fill_ghosts(
            n,
            positions,
            self._inverse,
            self._margins,
            ends,
            self.owner,
            self._image,
            self.species,
            state.species,
            status,
        )
        update_packed(entries, positions, self._cell, self.owner, self._image, ends, self.packed)
        _count_bins(entries, self.packed, n, ends, self._box, self._shape, self._bins, status)
        torch.cumsum(self._bins.tensor, 0, out=self._bin_ends.tensor)
        _fill_bins(
            entries, self.packed, n, ends, self._box, self._shape, self._bins, self._bin_ends, self._order, status
        )
        _sort_bins(len(self._bins), self._bin_ends, self._order, status)
        for slot, radius in enumerate(self.radii):
            one, wide = self.lists[radius], self.lists[self.radii[0]]
            if slot == 0:
                _search(
                    n, self.packed, n, radius + self.skin, self._box, self._shape, self._bin_ends, self._order,
                    one.neighbours, one.count, slot, status,
                )  # fmt: skip
            else:
                _filter(
                    n,
                    self.packed,
                    n,
                    radius + self.skin,
                    wide.neighbours,
                    wide.count,
                    one.neighbours,
                    one.count,
                    slot,
                    status,
                )
        _built(1, status)
