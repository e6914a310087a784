"""Heisenberg exchange between moments at distance r, or by shell or list on a rigid lattice.

    E = −½ Σ_{i≠j} J(r_ij) (e_i·e_j − c),   e_i = S_i/m_i,   c = 1 with ``offset``, else 0
    F_i = −∂E/∂R_i = −Σ_j J'(r) (e_i·e_j − c) (r_j − r_i)/r,      −∂E/∂S_i = (1/m_i) Σ_j J(r) e_j

Each pair counts once, J > 0 is ferromagnetic, moments are not in J; eV, Å, µB. J(r) is tabulated
(``potentials.radial``): the table is the function. Bethe-Slater form: Tranchida et al., J. Comput. Phys. 372, 406
(2018), eq. 6; polynomial: Ma, Woo, Dudarev, Phys. Rev. B 78, 024434 (2008), eq. 10. Eight neighbours at a time
(``spinmd.simd``).
"""

from typing import ClassVar

import numpy as np
from numba import njit, prange

from spinmd.backend import BLOCK, aligned_zeros, block_count
from spinmd.potentials.base import Term
from spinmd.potentials.lattice_couplings import LatticeCouplings
from spinmd.potentials.radial import RadialParameters, cubic, cubic_slope, cutoff_of, tabulate
from spinmd.protocols import OK, Need, SpinTerm, Status
from spinmd.simd import gather_int, gather_rows4, hsum, load, splat, store, to_float, truncate, vadd, vsqrt, where_less


@njit(cache=True, parallel=True)
def _pack(natoms, spins, inverse_moments, offset, w, block):
    """Rows (e_x, e_y, e_z, q): q = 1 for a magnetic atom if the energy has an offset, so that e_i·e_j − q_i q_j is
    the pair factor."""
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            s = inverse_moments[i]
            w[i, 0], w[i, 1], w[i, 2] = spins[i, 0] * s, spins[i, 1] * s, spins[i, 2] * s
            w[i, 3] = offset if s > 0.0 else 0.0


@njit(cache=True)
def _table(r, cutoff, inverse_spacing, last_row):
    """Row numbers and the fraction within the row; ``last_row``, a row of zeros, from the cutoff on."""
    position = where_less(r, cutoff, r * inverse_spacing, last_row)
    m = truncate(position)
    return m, position - to_float(m)


@njit(cache=True, parallel=True)
def _tabulate_pairs(
    natoms, packed, species, start, neighbours, rows, offsets, nspecies, cutoff, inverse_spacing, last_row, coupling, pull, block
):  # fmt: skip
    """J(r), eV, and −J'(r)/r, eV/Å², of every entry of the list; zero beyond the cutoff and for padding."""
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            xi, yi, zi = packed[i, 0], packed[i, 1], packed[i, 2]
            own = offsets[species[i] * nspecies : (species[i] + 1) * nspecies]
            for k in range(start[i], start[i + 1], 8):
                lanes = load(neighbours, k)
                x, y, z, _ = gather_rows4(packed, lanes)
                dx, dy, dz = x - xi, y - yi, z - zi
                r = vsqrt(dx * dx + dy * dy + dz * dz)
                m, t = _table(r, cutoff, inverse_spacing, last_row)
                if nspecies > 1:
                    m = vadd(m, gather_int(own, gather_int(species, lanes)))
                c0, c1, c2, c3 = gather_rows4(rows, m)
                store(coupling, k, cubic(c0, c1, c2, c3, t))
                store(pull, k, (-inverse_spacing) * cubic_slope(c1, c2, c3, t) / r)


@njit(cache=True)
def _evaluate_block(
    first, last, packed, start, neighbours, atoms, w, inverse_moments, coupling, pull, want_energy,
    want_force, want_field, want_virial, forces, fields, sums,
):  # fmt: skip
    """Forces and fields of atoms first..last; sums[0] = energy, sums[1:7] = virial (xx yy zz xy xz yz)."""
    energy = 0.0
    wxx, wyy, wzz, wxy, wxz, wyz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(first, last):
        if inverse_moments[i] == 0.0:
            continue
        xi, yi, zi = packed[i, 0], packed[i, 1], packed[i, 2]
        ex, ey, ez, q = w[i, 0], w[i, 1], w[i, 2], w[i, 3]
        fx, fy, fz, total = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        hx, hy, hz = splat(0.0), splat(0.0), splat(0.0)
        vxx, vyy, vzz, vxy, vxz, vyz = splat(0.0), splat(0.0), splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        for k in range(start[i], start[i + 1], 8):
            sx, sy, sz, sq = gather_rows4(w, load(atoms, k))
            factor = ex * sx + ey * sy + ez * sz - q * sq
            if want_energy:
                total = total + load(coupling, k) * factor
            if want_force:
                x, y, z, _ = gather_rows4(packed, load(neighbours, k))
                dx, dy, dz = x - xi, y - yi, z - zi
                along = load(pull, k) * factor
                px, py, pz = along * dx, along * dy, along * dz
                fx, fy, fz = fx + px, fy + py, fz + pz
                if want_virial:
                    vxx, vyy, vzz = vxx + px * dx, vyy + py * dy, vzz + pz * dz
                    vxy, vxz, vyz = vxy + px * dy, vxz + px * dz, vyz + py * dz
            if want_field:
                strength = load(coupling, k)
                hx, hy, hz = hx + strength * sx, hy + strength * sy, hz + strength * sz
        energy += hsum(total)
        if want_force:
            forces[i, 0] += hsum(fx)
            forces[i, 1] += hsum(fy)
            forces[i, 2] += hsum(fz)
            if want_virial:
                wxx, wyy, wzz = wxx - hsum(vxx), wyy - hsum(vyy), wzz - hsum(vzz)
                wxy, wxz, wyz = wxy - hsum(vxy), wxz - hsum(vxz), wyz - hsum(vyz)
        if want_field:
            fields[i, 0] += hsum(hx) * inverse_moments[i]
            fields[i, 1] += hsum(hy) * inverse_moments[i]
            fields[i, 2] += hsum(hz) * inverse_moments[i]
    sums[0] = -0.5 * energy
    sums[1], sums[2], sums[3] = 0.5 * wxx, 0.5 * wyy, 0.5 * wzz
    sums[4], sums[5], sums[6] = 0.5 * wxy, 0.5 * wxz, 0.5 * wyz


@njit(cache=True, parallel=True)
def _evaluate(
    natoms, packed, start, neighbours, atoms, w, inverse_moments, coupling, pull, want_energy,
    want_force, want_field, want_virial, forces, fields, block_sums, block,
):  # fmt: skip
    for b in prange(block_sums.shape[0]):
        _evaluate_block(
            b * block, min((b + 1) * block, natoms), packed, start, neighbours, atoms, w, inverse_moments, coupling, pull,
            want_energy, want_force, want_field, want_virial, forces, fields, block_sums[b],
        )  # fmt: skip


class Exchange(Term):
    """Isotropic exchange J(r), or J by shell or by list.

    ``Exchange(form="bethe-slater", a=0.02726, b=0.2171, d=1.841, cutoff=3.4, offset=True, pairs=["Fe-Fe"])``
    """

    Parameters = RadialParameters
    default_name: ClassVar[str] = "exchange"

    def __init__(self, parameters=None, **keywords):
        super().__init__(parameters, **keywords)
        self.cutoff = cutoff_of(self.parameters)
        if not self.parameters.static:
            self._single_rows, self._inverse_spacing = tabulate(self.parameters)

    def prepare(self, state, backend=None):
        super().prepare(state, backend)
        self._offset = 1.0 if self.parameters.offset else 0.0
        if self.parameters.static:
            self._lattice = LatticeCouplings.of(self, state)
            return
        # pairs of elements without this coupling read a table of zeros, which follows the real one
        n = len(state.symbols)
        length = len(self._single_rows)
        self._rows = aligned_zeros((2 * length, 4))
        self._rows[:length] = self._single_rows
        self._offsets = np.where(self.mask, 0, length).astype(np.int32).ravel()
        self._tables = (
            self._rows,
            self._offsets,
            n if not self.mask.all() else 1,
            self.cutoff,
            self._inverse_spacing,
            float(length - 1),
        )
        self._w = aligned_zeros((state.natoms, 4))
        self._sums = np.zeros((block_count(state.natoms), 7))
        self._coupling, self._pull = np.zeros(0), np.zeros(0)
        self._version = None

    def _refresh(self, state, pairs) -> None:
        """J and −J'/r of the list at the present positions: the one place where the table is read, for forces and for
        ``freeze``."""
        if self._version == pairs.version:
            return
        size = int(pairs.start[-1])
        if len(self._coupling) < size:
            self._coupling, self._pull = aligned_zeros(size + size // 20), aligned_zeros(size + size // 20)
        _tabulate_pairs(
            state.natoms, pairs.packed, pairs.species, pairs.start, pairs.neighbours, *self._tables, self._coupling,
            self._pull, BLOCK
        )  # fmt: skip
        self._version = pairs.version

    def add(self, state, pairs, out, need) -> Status:
        if self.parameters.static:
            return self._lattice.add(state, out, need, self._offset)
        self._refresh(state, pairs)
        _pack(state.natoms, state.spins, self.inverse_moments, self._offset, self._w, BLOCK)
        want_force = Need.FORCE in need or Need.VIRIAL in need
        forces = out.forces if Need.FORCE in need else self.directions
        _evaluate(
            state.natoms, pairs.packed, pairs.start, pairs.neighbours, pairs.atoms, self._w, self.inverse_moments,
            self._coupling, self._pull, Need.ENERGY in need, want_force, Need.FIELD in need, Need.VIRIAL in need,
            forces, out.fields, self._sums, BLOCK,
        )  # fmt: skip
        sums = self._sums.sum(axis=0)
        out.energy[0] += sums[0]
        if Need.VIRIAL in need:
            xx, yy, zz, xy, xz, yz = sums[1:]
            out.virial += np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        return OK

    def freeze(self, state, pairs) -> SpinTerm:
        if self.parameters.static:
            return self._lattice.spin_term
        self._refresh(state, pairs)
        if getattr(self, "_counted", None) is not pairs.start:
            self._counted = pairs.start
            self._count = np.diff(pairs.start).astype(np.int32)
        return SpinTerm(start=pairs.start, count=self._count, neighbours=pairs.atoms, isotropic=self._coupling)
