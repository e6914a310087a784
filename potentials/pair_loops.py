"""The loops over pairs of all terms whose law is in ``potentials.pair_laws``, and the base class of these terms.

Full list, no atomics: each atom sums its own force and field; energy and virial are summed over fixed blocks of atoms
and then in order, so that results are bitwise the same for any number of threads.
"""

import math

import numpy as np
from numba import njit, prange

from spinmd.backend import BLOCK, block_count
from spinmd.potentials.base import Term
from spinmd.potentials.pair_laws import (
    BIQUADRATIC,
    CHIRAL,
    SCALAR,
    TABLE,
    chiral_vector,
    dipolar_tensor,
    pair_law,
    radial_law,
)
from spinmd.protocols import OK, Need, SpinTerm, Status

_NO_ROWS = np.zeros((1, 4))


@njit(cache=True)
def by_rows(m):
    """The nine numbers of a (3, 3) array."""
    return m[0, 0], m[0, 1], m[0, 2], m[1, 0], m[1, 1], m[1, 2], m[2, 0], m[2, 1], m[2, 2]


@njit(cache=True, parallel=True)
def evaluate_pairs(
    natoms, packed, species, start, neighbours, atoms, mask, vectors, scale, law, constants, rows, inverse_spacing,
    cutoff, coupling, offset, matrix, want_force, want_field, forces, fields, sums, block,
):  # fmt: skip
    """Forces (eV/Å) and fields (eV/µB) of every atom; per block sums = energy, then the virial by rows (eV).

    ``vectors`` (N, 3) is s_i of the law, ``scale`` (N,) = ∂s_i/∂S_i; atoms with scale 0 take no part.
    """
    for b in prange(sums.shape[0]):
        numbers = by_rows(matrix)
        energy = 0.0
        xx, xy, xz, yx, yy, yz, zx, zy, zz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for i in range(b * block, min((b + 1) * block, natoms)):
            if scale[i] == 0.0:
                continue
            ax, ay, az = vectors[i, 0], vectors[i, 1], vectors[i, 2]
            fx, fy, fz, hx, hy, hz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for k in range(start[i], start[i + 1]):
                image = neighbours[k]
                dx, dy, dz = (
                    packed[image, 0] - packed[i, 0],
                    packed[image, 1] - packed[i, 1],
                    packed[image, 2] - packed[i, 2],
                )
                r2 = dx * dx + dy * dy + dz * dz
                j = atoms[k]
                if r2 >= cutoff * cutoff or scale[j] == 0.0 or not mask[species[i], species[image]]:
                    continue
                r = math.sqrt(r2)
                v, dv = radial_law(law, r, constants, rows, inverse_spacing)
                e, gx, gy, gz, tx, ty, tz = pair_law(
                    coupling, v, dv, r, dx / r, dy / r, dz / r, ax, ay, az, vectors[j, 0], vectors[j, 1], vectors[j, 2],
                    offset, numbers,
                )  # fmt: skip
                energy += e
                fx, fy, fz = fx + gx, fy + gy, fz + gz
                hx, hy, hz = hx + tx, hy + ty, hz + tz
                xx, xy, xz = xx + gx * dx, xy + gx * dy, xz + gx * dz
                yx, yy, yz = yx + gy * dx, yy + gy * dy, yz + gy * dz
                zx, zy, zz = zx + gz * dx, zy + gz * dy, zz + gz * dz
            if want_force:
                forces[i, 0] += fx
                forces[i, 1] += fy
                forces[i, 2] += fz
            if want_field:
                fields[i, 0] += hx * scale[i]
                fields[i, 1] += hy * scale[i]
                fields[i, 2] += hz * scale[i]
        s = sums[b]
        s[0] = 0.5 * energy
        s[1], s[2], s[3] = -0.5 * xx, -0.5 * xy, -0.5 * xz
        s[4], s[5], s[6] = -0.5 * yx, -0.5 * yy, -0.5 * yz
        s[7], s[8], s[9] = -0.5 * zx, -0.5 * zy, -0.5 * zz


@njit(cache=True, parallel=True)
def freeze_pairs(
    natoms, packed, species, start, neighbours, atoms, mask, scale, law, constants, rows, inverse_spacing, cutoff,
    coupling, matrix, moments, out, block,
):  # fmt: skip
    """Couplings of every entry of the list in the sense of SpinTerm, eV: ``out`` (nnz, 1) biquadratic or (nnz, 9)
    tensor by rows.

    Zero beyond the cutoff, for padding, and for atoms that take no part.
    """
    for b in prange((natoms + block - 1) // block):
        numbers = by_rows(matrix)
        for i in range(b * block, min((b + 1) * block, natoms)):
            for k in range(start[i], start[i + 1]):
                image = neighbours[k]
                dx, dy, dz = (
                    packed[image, 0] - packed[i, 0],
                    packed[image, 1] - packed[i, 1],
                    packed[image, 2] - packed[i, 2],
                )
                r2 = dx * dx + dy * dy + dz * dz
                j = atoms[k]
                out[k, :] = 0.0
                if r2 >= cutoff * cutoff or scale[i] == 0.0 or scale[j] == 0.0 or not mask[species[i], species[image]]:
                    continue
                r = math.sqrt(r2)
                v, _ = radial_law(law, r, constants, rows, inverse_spacing)
                ux, uy, uz = dx / r, dy / r, dz / r
                if coupling == BIQUADRATIC:
                    out[k, 0] = v
                elif coupling == CHIRAL:
                    x, y, z = chiral_vector(v, ux, uy, uz, numbers)
                    out[k, 1], out[k, 2], out[k, 5] = z, -y, x
                    out[k, 3], out[k, 6], out[k, 7] = -z, y, -x
                else:
                    tensor = dipolar_tensor(v * moments[i] * moments[j], ux, uy, uz)
                    out[k, 0], out[k, 1], out[k, 2] = tensor[0], tensor[1], tensor[2]
                    out[k, 3], out[k, 4], out[k, 5] = tensor[3], tensor[4], tensor[5]
                    out[k, 6], out[k, 7], out[k, 8] = tensor[6], tensor[7], tensor[8]


class PairTerm(Term):
    """A term with a radial law and a coupling law. Subclasses set, in ``__init__``, what differs from the defaults
    here.

    law, constants (6,), rows, inverse_spacing: the radial law;  coupling, offset, matrix: the coupling law;  cutoff
    """

    law = TABLE
    coupling = SCALAR
    offset = 0.0
    rows = _NO_ROWS
    inverse_spacing = 0.0

    def __init__(self, parameters=None, **keywords):
        super().__init__(parameters, **keywords)
        self.constants = np.zeros(6)
        self.matrix = np.eye(3)

    def prepare(self, state, backend=None):
        super().prepare(state, backend)
        # ∂s/∂S of the law's vectors: 1/m for unit vectors; everything takes part where spins do not matter
        self.scale = np.ones(state.natoms) if self.coupling == SCALAR else self.inverse_moments
        self._sums = np.zeros((block_count(state.natoms), 10))
        self._frozen = np.zeros((0, 1 if self.coupling == BIQUADRATIC else 9))
        self._counted = None

    def vectors(self, state):
        """(N, 3) s_i of the law."""
        return self.update_directions(state) if self.magnetic else state.spins

    def add(self, state, pairs, out, need) -> Status:
        evaluate_pairs(
            state.natoms, pairs.packed, pairs.species, pairs.start, pairs.neighbours, pairs.atoms, self.mask,
            self.vectors(state), self.scale, self.law, self.constants, self.rows, self.inverse_spacing, self.cutoff,
            self.coupling, self.offset, self.matrix, Need.FORCE in need, Need.FIELD in need and self.magnetic,
            out.forces, out.fields, self._sums, BLOCK,
        )  # fmt: skip
        sums = self._sums.sum(axis=0)
        out.energy[0] += sums[0]
        if Need.VIRIAL in need:
            out.virial += sums[1:].reshape(3, 3)
        return OK

    def freeze(self, state, pairs) -> SpinTerm | None:
        if not self.magnetic:
            return None
        if self._counted is not pairs.start:
            self._counted = pairs.start
            self._count = np.diff(pairs.start).astype(np.int32)
        size = int(pairs.start[-1])
        if len(self._frozen) < size:
            self._frozen = np.zeros((size + size // 20, self._frozen.shape[1]))
        freeze_pairs(
            state.natoms, pairs.packed, pairs.species, pairs.start, pairs.neighbours, pairs.atoms, self.mask,
            self.scale, self.law, self.constants, self.rows, self.inverse_spacing, self.cutoff, self.coupling,
            self.matrix, state.moments, self._frozen, BLOCK,
        )  # fmt: skip
        values = self._frozen[:size]
        kind = {"biquadratic": values[:, 0]} if self.coupling == BIQUADRATIC else {"tensor": values}
        return SpinTerm(start=pairs.start, count=self._count, neighbours=pairs.atoms, **kind)
