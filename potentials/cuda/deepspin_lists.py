"""The transpose of a list on the GPU: where an atom stands in the lists of its neighbours.

What centres exert on their neighbours is written once, to the place of the pair in the centre's list, and the neighbour reads it
there: no atomic additions, and the same order of sums in every run. The transpose is made anew when the list has been, without
a word of the host.
"""

import math

from numba import cuda

from spinmd.cuda.arrays import full, zeros
from spinmd.cuda.launch import array, f8, i4, i8, kernel
from spinmd.cuda.lists import MADE


@kernel(
    array(i4, 2), array(i4, 1), array(i4, 1), array(i4, 2), array(i8, 1), array(i8, 1), array(i4, 2)
)  # fmt: skip
def _find(neighbours, count, owner, image, status, seen, reverse):
    """reverse[k, i]: the place of atom i, in the image seen from there, in the list of the atom behind its k-th neighbour; −1 where
    a pair at the very end of the reach is in one of the lists only. One thread per place."""
    t = cuda.grid(1)
    natoms = count.shape[0]
    k, i = t // natoms, t % natoms
    if k < neighbours.shape[0] and seen[0] != status[MADE] and k < count[i]:
        n = neighbours[k, i]
        j = owner[n]
        x, y, z = -image[n, 0], -image[n, 1], -image[n, 2]
        found = -1
        for m in range(count[j]):
            other = neighbours[m, j]
            if owner[other] == i and image[other, 0] == x and image[other, 1] == y and image[other, 2] == z:
                found = m
                break
        reverse[k, i] = found


@kernel(array(i8, 1), array(i8, 1))
def _remember(status, seen):
    """The transpose is that of the present list; one thread."""
    if cuda.grid(1) == 0:
        seen[0] = status[MADE]


@kernel(array(f8, 2), array(f8, 1), array(f8, 2))
def scale_spins(spins, scale, scaled):
    """Rows s S_x, s S_y, s S_z, |s S|² of each atom."""
    i = cuda.grid(1)
    if i < scale.shape[0]:
        x, y, z = spins[i, 0] * scale[i], spins[i, 1] * scale[i], spins[i, 2] * scale[i]
        scaled[i, 0], scaled[i, 1], scaled[i, 2], scaled[i, 3] = x, y, z, x * x + y * y + z * z


class Transpose:
    """``reverse`` (room, N) int32 of one list, up to date after ``update``."""

    def __init__(self):
        self.reverse = zeros((1, 1), "int32")
        self._seen = full(1, -1, "int64")

    def update(self, pairs) -> None:
        """For the present list; leaves at once where that has not been built anew."""
        if self.reverse.shape != pairs.neighbours.shape:
            self.reverse = zeros(pairs.neighbours.shape, "int32")
            self._seen.fill(-1)
        status = pairs.lists.status
        places = math.prod(pairs.neighbours.shape)
        _find(places, pairs.neighbours, pairs.count, pairs.owner, pairs.image, status, self._seen, self.reverse)
        _remember(1, status, self._seen)
