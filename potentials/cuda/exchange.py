"""Exchange on the GPU: J(r) on the moving list, or J by shell or list on the rigid lattice."""

import math
from functools import partial

import numpy as np
from numba import cuda

from spinmd.cuda.arrays import on_device, zeros
from spinmd.cuda.launch import REALS, array, f8, i4, i8, in_both, kernel
from spinmd.cuda.spins import DeviceSpinTerm
from spinmd.cuda.sums import subtract_virial
from spinmd.potentials.cuda.lattice import DeviceLattice
from spinmd.potentials.radial import cubic, cubic_slope
from spinmd.protocols import Need


def _make_tabulate(real):
    @kernel(
        array(f8, 2), array(i4, 1), array(i4, 1), array(i4, 2), array(i4, 1), array(real, 2), array(i4, 1), i8, real, real,
        array(f8, 2), array(i4, 2),
    )  # fmt: skip
    def _tabulate(
        packed, owner, species, neighbours, count, rows, offsets, nspecies, cutoff, inverse_spacing, coupling, atoms
    ):
        """J(r), eV, and the atom behind every entry of the list."""
        i = cuda.grid(1)
        if i < count.shape[0]:
            x, y, z = packed[i, 0], packed[i, 1], packed[i, 2]
            own = species[i] * nspecies
            for k in range(count[i]):
                j = neighbours[k, i]
                dx, dy, dz = real(packed[j, 0] - x), real(packed[j, 1] - y), real(packed[j, 2] - z)
                r = math.sqrt(dx * dx + dy * dy + dz * dz)
                value = 0.0
                if r < cutoff:
                    p = r * inverse_spacing
                    m = int(p)
                    kind = species[j] if nspecies > 1 else 0
                    at = m + offsets[own + kind]
                    value = cubic(rows[at, 0], rows[at, 1], rows[at, 2], rows[at, 3], p - real(m))
                coupling[k, i] = value
                atoms[k, i] = owner[j]

    return _tabulate


def _make_evaluate(real, virial):
    @kernel(
        array(f8, 2), array(f8, 1), array(i4, 1), array(i4, 1), array(i4, 2), array(i4, 1), array(real, 2), array(i4, 1), i8,
        real, real, array(f8, 2), f8, i8, i8, i8, array(f8, 2), array(f8, 2), array(f8, 1), array(f8, 2),
    )  # fmt: skip
    def _evaluate(
        spins, inverse_moments, owner, species, neighbours, count, rows, offsets, nspecies, cutoff, inverse_spacing, packed, offset,
        want_energy, want_force, want_field, forces, fields, energies, virials,
    ):  # fmt: skip
        """Energies, forces, fields and virials of the pairs of each atom."""
        i = cuda.grid(1)
        if i < count.shape[0] and inverse_moments[i] != 0.0:
            x, y, z = packed[i, 0], packed[i, 1], packed[i, 2]
            s = inverse_moments[i]
            ex, ey, ez = spins[i, 0] * s, spins[i, 1] * s, spins[i, 2] * s
            own = species[i] * nspecies
            fx, fy, fz, total = 0.0, 0.0, 0.0, 0.0
            hx, hy, hz = 0.0, 0.0, 0.0
            vxx, vyy, vzz, vxy, vxz, vyz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for k in range(count[i]):
                j = neighbours[k, i]
                dx, dy, dz = real(packed[j, 0] - x), real(packed[j, 1] - y), real(packed[j, 2] - z)
                r = math.sqrt(dx * dx + dy * dy + dz * dz)
                if r < cutoff:
                    a = owner[j]
                    q = inverse_moments[a]
                    sx, sy, sz = spins[a, 0] * q, spins[a, 1] * q, spins[a, 2] * q
                    factor = ex * sx + ey * sy + ez * sz
                    if q > 0.0:
                        factor -= offset
                    p = r * inverse_spacing
                    m = int(p)
                    t = p - real(m)
                    kind = species[j] if nspecies > 1 else 0
                    at = m + offsets[own + kind]
                    c1, c2, c3 = rows[at, 1], rows[at, 2], rows[at, 3]
                    strength = cubic(rows[at, 0], c1, c2, c3, t)
                    total += strength * factor
                    if want_force != 0:
                        along = -inverse_spacing * cubic_slope(c1, c2, c3, t) / r * factor
                        px, py, pz = along * dx, along * dy, along * dz
                        fx += px
                        fy += py
                        fz += pz
                        if virial:
                            vxx += px * dx
                            vyy += py * dy
                            vzz += pz * dz
                            vxy += px * dy
                            vxz += px * dz
                            vyz += py * dz
                    if want_field != 0:
                        hx += strength * sx
                        hy += strength * sy
                        hz += strength * sz
            if want_energy != 0:
                energies[i] -= 0.5 * total
            if want_force != 0:
                forces[i, 0] += fx
                forces[i, 1] += fy
                forces[i, 2] += fz
            if virial:
                subtract_virial(virials, i, 0.5, vxx, vxy, vxz, vxy, vyy, vyz, vxz, vyz, vzz)
            if want_field != 0:
                fields[i, 0] += hx * s
                fields[i, 1] += hy * s
                fields[i, 2] += hz * s

    return _evaluate


_TABULATE = in_both(_make_tabulate)
_EVALUATE = {
    virial: in_both(partial(_make_evaluate, virial=virial), "with virials" * virial) for virial in (False, True)
}


class DeviceExchange:
    """``term``: a prepared ``spinmd.potentials.exchange.Exchange`` with J(r)."""

    kind = "exchange"
    magnetic = True

    def __init__(self, term, state):
        self._precision = state.precision
        self._rows, self._offsets = on_device(term._rows.astype(REALS[state.precision])), on_device(term._offsets)
        _, _, self._nspecies, self._cutoff, self._inverse_spacing, _ = term._tables
        if self._nspecies == 1:
            self._offsets = on_device(np.zeros(len(state.symbols) ** 2, np.int32))
        self._inverse = on_device(term.inverse_moments)
        self._offset = term._offset
        self._coupling = self._atoms = None

    def add(self, state, pairs, out, need) -> None:
        want_force = Need.FORCE in need or Need.VIRIAL in need
        _EVALUATE[Need.VIRIAL in need][self._precision](
            state.natoms, state.spins, self._inverse, pairs.owner, pairs.species, pairs.neighbours, pairs.count, self._rows,
            self._offsets, self._nspecies, self._cutoff, self._inverse_spacing, pairs.packed, self._offset,
            int(Need.ENERGY in need), int(want_force), int(Need.FIELD in need), out.forces, out.fields,
            out.energies, out.virials,
        )  # fmt: skip

    def freeze(self, state, pairs) -> DeviceSpinTerm:
        if self._coupling is None or self._coupling.shape != pairs.neighbours.shape:
            self._coupling, self._atoms = zeros(pairs.neighbours.shape), zeros(pairs.neighbours.shape, "int32")
        _TABULATE[self._precision](
            state.natoms, pairs.packed, pairs.owner, pairs.species, pairs.neighbours, pairs.count, self._rows, self._offsets,
            self._nspecies, self._cutoff, self._inverse_spacing, self._coupling, self._atoms,
        )  # fmt: skip
        return DeviceSpinTerm(pairs.count, self._atoms, isotropic=self._coupling)


def exchange_term(term, state):
    """The device's version of a prepared Exchange: on the moving list, or on the rigid lattice."""
    if term.parameters.static:
        return DeviceLattice(term._lattice, "exchange", term._offset)
    return DeviceExchange(term, state)
