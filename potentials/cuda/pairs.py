"""The loops over pairs on the GPU of all terms whose law is in ``potentials.pair_laws``.

These are Lennard-Jones, Morse, biquadratic exchange, DMI and dipole. One thread per atom and a full list: each atom sums its own
force and field and half of each of its pairs. A kernel is made for each coupling, so that those of plain pair potentials know
nothing of spins.
"""

import math

import numpy as np
from numba import cuda

from spinmd.cuda.arrays import on_device, zeros
from spinmd.cuda.launch import Kernel, array, f8, i4, i8, kernel
from spinmd.cuda.spins import DeviceSpinTerm
from spinmd.cuda.sums import subtract_virial
from spinmd.potentials.cuda.lattice import DeviceLattice
from spinmd.potentials.pair_laws import (
    BIQUADRATIC,
    CHIRAL,
    DIPOLAR,
    SCALAR,
    TABLE,
    chiral_vector,
    dipolar_tensor,
    formula,
    pair_law,
)
from spinmd.potentials.radial import cubic, cubic_slope
from spinmd.protocols import Need

_PAIRS = (array(f8, 2), array(i4, 1), array(i4, 1), array(i4, 2), array(i4, 1), array(i4, 1), i8)
_LAW = (i8, array(f8, 1), array(f8, 2), f8, f8)
_NAMES = {SCALAR: "scalar", BIQUADRATIC: "biquadratic", CHIRAL: "chiral", DIPOLAR: "dipolar"}


def _evaluation(coupling: int, tabulated: bool) -> Kernel:
    """The kernel of energies, forces, fields and virials of one coupling; ``tabulated``: v(r) is a table, else a formula."""
    spinning = coupling != SCALAR

    def evaluate(
        packed, owner, species, neighbours, count, mask, nspecies, law, constants, rows, inverse_spacing, cutoff, spins, scale,
        offset, matrix, want_energy, want_force, want_field, want_virial, energies, forces, fields, virials,
    ):  # fmt: skip
        """Per atom: ½ Σ E_ij (eV), force (eV/Å), field (eV/µB) and −½ Σ g d by rows (eV).

        s_i = ``scale`` S_i of the law; atoms with scale 0 take no part.
        mask (nspecies²,): the pairs of elements that the term acts on;  matrix (3, 3) of the chiral coupling
        """
        i = cuda.grid(1)
        if i < count.shape[0] and (not spinning or scale[i] != 0.0):
            x, y, z = packed[i, 0], packed[i, 1], packed[i, 2]
            own = species[i] * nspecies
            ax, ay, az, q = 0.0, 0.0, 0.0, 0.0
            bx, by, bz = 0.0, 0.0, 0.0
            if spinning:
                q = scale[i]
                ax, ay, az = spins[i, 0] * q, spins[i, 1] * q, spins[i, 2] * q
            numbers = (
                matrix[0, 0], matrix[0, 1], matrix[0, 2], matrix[1, 0], matrix[1, 1], matrix[1, 2], matrix[2, 0], matrix[2, 1],
                matrix[2, 2],
            )  # fmt: skip
            energy = 0.0
            fx, fy, fz, hx, hy, hz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            xx, xy, xz, yx, yy, yz, zx, zy, zz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for k in range(count[i]):
                image = neighbours[k, i]
                dx, dy, dz = packed[image, 0] - x, packed[image, 1] - y, packed[image, 2] - z
                r2 = dx * dx + dy * dy + dz * dz
                if r2 < cutoff * cutoff and mask[own + species[image]] != 0:
                    part = True
                    if spinning:
                        j = owner[image]
                        p = scale[j]
                        part = p != 0.0
                        bx, by, bz = spins[j, 0] * p, spins[j, 1] * p, spins[j, 2] * p
                    if part:
                        r = math.sqrt(r2)
                        if tabulated:
                            place = r * inverse_spacing
                            m = min(int(place), rows.shape[0] - 1)
                            t = place - m
                            c1, c2, c3 = rows[m, 1], rows[m, 2], rows[m, 3]
                            v, dv = cubic(rows[m, 0], c1, c2, c3, t), inverse_spacing * cubic_slope(c1, c2, c3, t)
                        else:
                            v, dv = formula(
                                law, r, constants[0], constants[1], constants[2], constants[3], constants[4], constants[5]
                            )  # fmt: skip
                        e, gx, gy, gz, tx, ty, tz = pair_law(
                            coupling, v, dv, r, dx / r, dy / r, dz / r, ax, ay, az, bx, by, bz, offset, numbers
                        )
                        energy += e
                        fx, fy, fz = fx + gx, fy + gy, fz + gz
                        hx, hy, hz = hx + tx, hy + ty, hz + tz
                        xx, xy, xz = xx + gx * dx, xy + gx * dy, xz + gx * dz
                        yx, yy, yz = yx + gy * dx, yy + gy * dy, yz + gy * dz
                        zx, zy, zz = zx + gz * dx, zy + gz * dy, zz + gz * dz
            if want_energy != 0:
                energies[i] += 0.5 * energy
            if want_force != 0:
                forces[i, 0] += fx
                forces[i, 1] += fy
                forces[i, 2] += fz
            if want_field != 0 and spinning:
                fields[i, 0] += hx * q
                fields[i, 1] += hy * q
                fields[i, 2] += hz * q
            if want_virial != 0:
                subtract_virial(virials, i, 0.5, xx, xy, xz, yx, yy, yz, zx, zy, zz)

    evaluate.__qualname__ = f"evaluate_{_NAMES[coupling]}"
    return kernel(
        *_PAIRS, *_LAW, array(f8, 2), array(f8, 1), f8, array(f8, 2), i8, i8, i8, i8, array(f8, 1), array(f8, 2), array(f8, 2),
        array(f8, 2),
    )(evaluate)  # fmt: skip


@kernel(*_PAIRS, array(f8, 1), array(f8, 2), f8, f8, array(i4, 2), array(f8, 2))
def _freeze_biquadratic(
    packed, owner, species, neighbours, count, mask, nspecies, scale, rows, inverse_spacing, cutoff, atoms, coupling
):
    """K(r), eV, and the atom behind every entry of the list; zero beyond the cutoff and for atoms that take no part."""
    i = cuda.grid(1)
    if i < count.shape[0]:
        x, y, z = packed[i, 0], packed[i, 1], packed[i, 2]
        own = species[i] * nspecies
        for k in range(count[i]):
            image = neighbours[k, i]
            j = owner[image]
            dx, dy, dz = packed[image, 0] - x, packed[image, 1] - y, packed[image, 2] - z
            r2 = dx * dx + dy * dy + dz * dz
            value = 0.0
            if r2 < cutoff * cutoff and mask[own + species[image]] != 0 and scale[i] != 0.0 and scale[j] != 0.0:
                place = math.sqrt(r2) * inverse_spacing
                m = min(int(place), rows.shape[0] - 1)
                value = cubic(rows[m, 0], rows[m, 1], rows[m, 2], rows[m, 3], place - m)
            atoms[k, i] = j
            coupling[k, i] = value


def _freezing(coupling: int) -> Kernel:
    """The kernel of the tensors of a coupling that is bilinear in the spins."""
    chiral = coupling == CHIRAL

    def freeze(
        packed, owner, species, neighbours, count, mask, nspecies, law, constants, rows, inverse_spacing, cutoff, scale, moments,
        matrix, atoms, tensor,
    ):  # fmt: skip
        """T_ij, eV, by rows in ``tensor`` (9, room, N), and the atom behind every entry; zero where there is no coupling."""
        i = cuda.grid(1)
        if i < count.shape[0]:
            x, y, z = packed[i, 0], packed[i, 1], packed[i, 2]
            own = species[i] * nspecies
            numbers = (
                matrix[0, 0], matrix[0, 1], matrix[0, 2], matrix[1, 0], matrix[1, 1], matrix[1, 2], matrix[2, 0], matrix[2, 1],
                matrix[2, 2],
            )  # fmt: skip
            for k in range(count[i]):
                image = neighbours[k, i]
                j = owner[image]
                atoms[k, i] = j
                dx, dy, dz = packed[image, 0] - x, packed[image, 1] - y, packed[image, 2] - z
                r2 = dx * dx + dy * dy + dz * dz
                if r2 < cutoff * cutoff and mask[own + species[image]] != 0 and scale[i] != 0.0 and scale[j] != 0.0:
                    r = math.sqrt(r2)
                    ux, uy, uz = dx / r, dy / r, dz / r
                    if chiral:
                        place = r * inverse_spacing
                        m = min(int(place), rows.shape[0] - 1)
                        v = cubic(rows[m, 0], rows[m, 1], rows[m, 2], rows[m, 3], place - m)
                        wx, wy, wz = chiral_vector(v, ux, uy, uz, numbers)
                        values = (0.0, wz, -wy, -wz, 0.0, wx, wy, -wx, 0.0)
                    else:
                        v, _ = formula(
                            law, r, constants[0], constants[1], constants[2], constants[3], constants[4], constants[5]
                        )
                        values = dipolar_tensor(v * moments[i] * moments[j], ux, uy, uz)
                    for a in range(9):
                        tensor[a, k, i] = values[a]
                else:
                    for a in range(9):
                        tensor[a, k, i] = 0.0

    freeze.__qualname__ = f"freeze_{_NAMES[coupling]}"
    return kernel(*_PAIRS, *_LAW, array(f8, 1), array(f8, 1), array(f8, 2), array(i4, 2), array(f8, 3))(freeze)


_EVALUATE = {
    SCALAR: _evaluation(SCALAR, False),
    BIQUADRATIC: _evaluation(BIQUADRATIC, True),
    CHIRAL: _evaluation(CHIRAL, True),
    DIPOLAR: _evaluation(DIPOLAR, False),
}
_FREEZE = {CHIRAL: _freezing(CHIRAL), DIPOLAR: _freezing(DIPOLAR)}


class DevicePairs:
    """``term``: a prepared ``PairTerm`` of the host with v(r): a table for biquadratic and chiral couplings, else a formula."""

    def __init__(self, term, state):
        self.kind, self.magnetic = term.default_name, term.magnetic
        tabulated = term.coupling in (BIQUADRATIC, CHIRAL)
        assert (term.law == TABLE) == tabulated
        self._coupling, self._offset = term.coupling, term.offset
        self._scale, self._matrix = on_device(term.scale), on_device(term.matrix)
        self._mask, self._nspecies = on_device(term.mask.astype(np.int32).ravel()), len(term.mask)
        self._rows, self._constants = on_device(term.rows), on_device(term.constants)
        self._law = (term.law, self._constants, self._rows, term.inverse_spacing, term.cutoff)
        self._atoms = self._values = None

    def _pairs(self, pairs) -> tuple:
        return (pairs.packed, pairs.owner, pairs.species, pairs.neighbours, pairs.count, self._mask, self._nspecies)

    def add(self, state, pairs, out, need) -> None:
        _EVALUATE[self._coupling](
            state.natoms, *self._pairs(pairs), *self._law, state.spins, self._scale, self._offset, self._matrix,
            int(Need.ENERGY in need), int(Need.FORCE in need), int(Need.FIELD in need), int(Need.VIRIAL in need), out.energies,
            out.forces, out.fields, out.virials,
        )  # fmt: skip

    def freeze(self, state, pairs) -> DeviceSpinTerm | None:
        if not self.magnetic:
            return None
        room = pairs.neighbours.shape
        if self._atoms is None or self._atoms.shape != room:
            self._atoms = zeros(room, "int32")
            self._values = zeros(room if self._coupling == BIQUADRATIC else (9, *room))
        if self._coupling == BIQUADRATIC:
            _, _, rows, inverse_spacing, cutoff = self._law
            _freeze_biquadratic(
                state.natoms, *self._pairs(pairs), self._scale, rows, inverse_spacing, cutoff, self._atoms, self._values
            )  # fmt: skip
            return DeviceSpinTerm(pairs.count, self._atoms, biquadratic=self._values)
        _FREEZE[self._coupling](
            state.natoms, *self._pairs(pairs), *self._law, self._scale, state.moments, self._matrix, self._atoms, self._values
        )  # fmt: skip
        return DeviceSpinTerm(pairs.count, self._atoms, tensor=self._values)


def pair_term(term, state):
    """The device's version of a prepared PairTerm: on the moving list, or on the rigid lattice."""
    if getattr(term.parameters, "static", False):
        return DeviceLattice(term._lattice, term.default_name, term.offset)
    return DevicePairs(term, state)
