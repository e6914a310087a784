"""The embedded-atom method on the GPU: two passes over the list; laws and tables are those of ``spinmd.potentials.eam``."""

import math
from functools import partial

from numba import cuda

from spinmd.cuda.arrays import on_device
from spinmd.cuda.launch import REALS, array, f8, i4, i8, in_both, kernel
from spinmd.cuda.sums import subtract_virial
from spinmd.potentials.eam import embedding_place, embedding_value
from spinmd.potentials.radial import cubic, cubic_slope
from spinmd.protocols import Need


def _make_densities(real):
    @kernel(
        array(f8, 2), array(i4, 1), array(i4, 2), array(i4, 1), array(real, 2), array(i4, 1), i8, real, real, array(f8, 2),
        array(i8, 1), i8, f8, i8, array(f8, 1),
    )  # fmt: skip
    def _densities(
        packed, species, neighbours, count, rows, offsets, nspecies, cutoff, inverse_dr, f_rows, f_first, f_count, inverse_drho,
        want_energy, energies,
    ):  # fmt: skip
        """ρ of each atom; its embedding energy, and F'(ρ) to column 3 of ``packed``."""
        i = cuda.grid(1)
        if i < count.shape[0]:
            x, y, z = packed[i, 0], packed[i, 1], packed[i, 2]
            own = species[i] * nspecies
            rho = 0.0
            for k in range(count[i]):
                j = neighbours[k, i]
                dx, dy, dz = real(packed[j, 0] - x), real(packed[j, 1] - y), real(packed[j, 2] - z)
                r = math.sqrt(dx * dx + dy * dy + dz * dz)
                if r < cutoff:
                    p = r * inverse_dr
                    m = int(p)
                    kind = species[j] if nspecies > 1 else 0
                    at = m + offsets[own + kind]
                    rho += cubic(rows[at, 0], rows[at, 1], rows[at, 2], rows[at, 3], p - real(m))
            m, t = embedding_place(rho, f_count, inverse_drho)
            at = f_first[species[i]] + m
            value, slope = embedding_value(
                rho, f_rows[at, 0], f_rows[at, 1], f_rows[at, 2], f_rows[at, 3], t, f_count, inverse_drho
            )
            packed[i, 3] = slope
            if want_energy != 0:
                energies[i] += value

    return _densities


@kernel(array(f8, 2), array(i4, 1), array(i8, 1), i8)
def _spread(packed, owner, ends, natoms):
    """F'(ρ) of the atoms to their images."""
    k = natoms + cuda.grid(1)
    if k < natoms + ends[natoms - 1] and k < packed.shape[0]:
        packed[k, 3] = packed[owner[k], 3]


def _make_forces(real, virial):
    @kernel(
        array(f8, 2), array(i4, 1), array(i4, 2), array(i4, 1), array(real, 2), array(i4, 1), array(i4, 1), i8, real, real, i8,
        array(f8, 2), array(f8, 1), array(f8, 2),
    )  # fmt: skip
    def _forces(
        packed, species, neighbours, count, both, offsets, reverse, nspecies, cutoff, inverse_dr, want_energy, forces, energies,
        virials,
    ):  # fmt: skip
        """Forces, half of each pair's φ, and virials, which cost registers."""
        i = cuda.grid(1)
        if i < count.shape[0]:
            x, y, z, slope_i = packed[i, 0], packed[i, 1], packed[i, 2], real(packed[i, 3])
            own = species[i] * nspecies
            fx, fy, fz, phi_sum = 0.0, 0.0, 0.0, 0.0
            vxx, vyy, vzz, vxy, vxz, vyz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for k in range(count[i]):
                j = neighbours[k, i]
                dx, dy, dz = real(packed[j, 0] - x), real(packed[j, 1] - y), real(packed[j, 2] - z)
                r = math.sqrt(dx * dx + dy * dy + dz * dz)
                if r < cutoff:
                    p = r * inverse_dr
                    m = int(p)
                    t = p - real(m)
                    kind = species[j] if nspecies > 1 else 0
                    at = 2 * (m + offsets[own + kind])
                    back = 2 * (m + reverse[own + kind])
                    other = mine = cubic_slope(both[at, 1], both[at, 2], both[at, 3], t)
                    if back != at:  # neighbours of another element
                        other = cubic_slope(both[back, 1], both[back, 2], both[back, 3], t)
                    density = slope_i * mine + real(packed[j, 3]) * other
                    z0, z1, z2, z3 = both[at + 1, 0], both[at + 1, 1], both[at + 1, 2], both[at + 1, 3]
                    inverse_r = real(1.0) / r
                    phi = cubic(z0, z1, z2, z3, t) * inverse_r
                    pull = (
                        (density + cubic_slope(z1, z2, z3, t) * inverse_r) * inverse_dr - phi * inverse_r
                    ) * inverse_r
                    phi_sum += phi
                    px, py, pz = pull * dx, pull * dy, pull * dz
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
            forces[i, 0] += fx
            forces[i, 1] += fy
            forces[i, 2] += fz
            if want_energy != 0:
                energies[i] += 0.5 * phi_sum
            if virial:
                subtract_virial(virials, i, 0.5, vxx, vxy, vxz, vxy, vyy, vyz, vxz, vyz, vzz)

    return _forces


_DENSITIES = in_both(_make_densities)
_FORCES = {virial: in_both(partial(_make_forces, virial=virial), "with virials" * virial) for virial in (False, True)}


class DeviceEAM:
    """``term``: a prepared ``spinmd.potentials.eam.EAM``, whose tables go to the device."""

    kind = "eam"
    magnetic = False

    def __init__(self, term, state):
        tables = term.tables
        self._precision, real = state.precision, REALS[state.precision]
        self._rows, self._both = on_device(term._rows.astype(real)), on_device(term._both.astype(real))
        self._offsets, self._reverse = on_device(term._offsets), on_device(term._reverse)
        self._f_rows, self._f_first = on_device(term._f_rows), on_device(term._f_first)
        # a file's cutoff may end a little behind its tables, and rows there are those of another pair of elements
        self._nspecies, self._cutoff = term._nspecies, min(term.cutoff, tables.nr * tables.dr)
        self._inverse_dr, self._inverse_drho, self._f_count = 1.0 / tables.dr, 1.0 / tables.drho, tables.nrho

    def add(self, state, pairs, out, need) -> None:
        n = state.natoms
        want_energy = int(Need.ENERGY in need)
        lists = pairs.lists
        _DENSITIES[self._precision](
            n, pairs.packed, pairs.species, pairs.neighbours, pairs.count, self._rows, self._offsets, self._nspecies,
            self._cutoff, self._inverse_dr, self._f_rows, self._f_first, self._f_count, self._inverse_drho, want_energy,
            out.energies,
        )  # fmt: skip
        _spread(len(pairs.packed) - n, pairs.packed, pairs.owner, lists.ends, n)
        _FORCES[Need.VIRIAL in need][self._precision](
            n, pairs.packed, pairs.species, pairs.neighbours, pairs.count, self._both, self._offsets, self._reverse,
            self._nspecies, self._cutoff, self._inverse_dr, want_energy, out.forces, out.energies, out.virials,
        )  # fmt: skip

    def freeze(self, state, pairs):
        return None
