"""Embedded-atom method, in the setfl (alloy), Finnis-Sinclair and funcfl forms.

    E = Σ_i F_a(ρ_i) + ½ Σ_{i≠j} φ_ab(r_ij),   ρ_i = Σ_j f_ab(r_ij)         a, b: elements of i and j
    F_i = Σ_j [F_a'(ρ_i) f_ab'(r) + F_b'(ρ_j) f_ba'(r) + φ_ab'(r)] (r_j − r_i)/r

Daw and Baskes, Phys. Rev. B 29, 6443 (1984); Finnis and Sinclair, Phil. Mag. A 50, 45 (1984). Tables are interpolated
by LAMMPS's piecewise cubics (PairEAM::interpolate) so that energies agree with it to rounding; forces are derivatives
of those cubics. eV, Å. Two passes over the full neighbour list, eight neighbours at a time (``spinmd.simd``).
"""

from typing import ClassVar

import numpy as np
from numba import njit, prange
from pydantic import Field

from spinmd.backend import BLOCK, aligned_zeros, block_count
from spinmd.errors import InputError
from spinmd.parameters import InputFile, Parameters
from spinmd.potentials.base import Term
from spinmd.potentials.eam_files import lammps_spline, read_eam
from spinmd.potentials.radial import cubic, cubic_slope
from spinmd.protocols import OK, Need, Status
from spinmd.simd import (
    gather_int,
    gather_rows4,
    hsum,
    load,
    offset_by,
    splat,
    to_float,
    truncate,
    vadd,
    vsqrt,
    where_less,
)


@njit(cache=True)
def embedding_place(rho, count, inverse_drho):
    """Row of the table of F at ρ, and the fraction within it; the last row beyond the table."""
    x = rho * inverse_drho
    m = min(max(int(x), 0), count - 2)
    return m, min(x - m, 1.0)


@njit(cache=True)
def embedding_value(rho, c0, c1, c2, c3, t, count, inverse_drho):
    """F(ρ) in eV and F'(ρ) from the cubic of its row; beyond the table F goes on as a straight line (as in LAMMPS)."""
    slope = cubic_slope(c1, c2, c3, t) * inverse_drho
    value = cubic(c0, c1, c2, c3, t)
    end = (count - 1) / inverse_drho
    if rho > end:
        value += slope * (rho - end)
    return value, slope


@njit(cache=True)
def embedding_law(rho, rows, first, count, inverse_drho):
    """F(ρ) in eV and F'(ρ) from the table that begins at row ``first``."""
    m, t = embedding_place(rho, count, inverse_drho)
    at = first + m
    return embedding_value(rho, rows[at, 0], rows[at, 1], rows[at, 2], rows[at, 3], t, count, inverse_drho)


@njit(cache=True)
def _table_position(r, cutoff, inverse_dr, last):
    """Row number as a float, ``last`` (a row of zeros) from the cutoff on."""
    return where_less(r, cutoff, r * inverse_dr, last)


@njit(cache=True)
def _density_of_block(
    first, last, packed, species, start, neighbours, rows, offsets, nspecies, cutoff, inverse_dr, last_row, f_rows, f_first,
    f_count, inverse_drho,
):  # fmt: skip
    """Densities, embedding energy (returned) and F'(ρ) (to column 3 of ``packed``) of atoms first..last."""
    total = 0.0
    for i in range(first, last):
        xi, yi, zi = packed[i, 0], packed[i, 1], packed[i, 2]
        si = species[i]
        own = offsets[si * nspecies : (si + 1) * nspecies]
        rho = splat(0.0)
        for k in range(start[i], start[i + 1], 8):
            lanes = load(neighbours, k)
            x, y, z, _ = gather_rows4(packed, lanes)
            dx, dy, dz = x - xi, y - yi, z - zi
            r = vsqrt(dx * dx + dy * dy + dz * dz)
            position = _table_position(r, cutoff, inverse_dr, last_row)
            m = truncate(position)
            t = position - to_float(m)
            at = m
            if nspecies > 1:
                at = vadd(m, gather_int(own, gather_int(species, lanes)))
            c0, c1, c2, c3 = gather_rows4(rows, at)
            rho = rho + cubic(c0, c1, c2, c3, t)
        value, slope = embedding_law(hsum(rho), f_rows, f_first[si], f_count, inverse_drho)
        packed[i, 3] = slope
        total += value
    return total


@njit(cache=True, parallel=True)
def _densities(
    natoms, n_ext, packed, owner, species, start, neighbours, rows, offsets, nspecies, cutoff, inverse_dr, last_row, f_rows,
    f_first, f_count, inverse_drho, block_sums, block,
):  # fmt: skip
    for b in prange(block_sums.shape[0]):
        block_sums[b, 0] = _density_of_block(
            b * block, min((b + 1) * block, natoms), packed, species, start, neighbours, rows, offsets, nspecies, cutoff,
            inverse_dr, last_row, f_rows, f_first, f_count, inverse_drho,
        )  # fmt: skip
    chunk = 4096
    for c in prange((n_ext - natoms + chunk - 1) // chunk):
        for k in range(natoms + c * chunk, min(natoms + (c + 1) * chunk, n_ext)):
            packed[k, 3] = packed[owner[k], 3]


@njit(cache=True)
def _forces_of_block(
    first, last, packed, species, start, neighbours, rows, offsets, reverse, nspecies, cutoff, inverse_dr, last_row,
    want_virial, forces, sums,
):  # fmt: skip
    """Forces of atoms first..last; sums[1] += ½ Σ φ, sums[2:8] += virial (xx yy zz xy xz yz)."""
    energy = 0.0
    wxx, wyy, wzz, wxy, wxz, wyz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(first, last):
        xi, yi, zi, slope_i = packed[i, 0], packed[i, 1], packed[i, 2], packed[i, 3]
        si = species[i]
        own = offsets[si * nspecies : (si + 1) * nspecies]
        other = reverse[si * nspecies : (si + 1) * nspecies]
        fx, fy, fz, phi_sum = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        vxx, vyy, vzz, vxy, vxz, vyz = splat(0.0), splat(0.0), splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        for k in range(start[i], start[i + 1], 8):
            lanes = load(neighbours, k)
            x, y, z, slope_j = gather_rows4(packed, lanes)
            dx, dy, dz = x - xi, y - yi, z - zi
            r = vsqrt(dx * dx + dy * dy + dz * dz)
            position = _table_position(r, cutoff, inverse_dr, last_row)
            m = truncate(position)
            t = position - to_float(m)
            at = m
            if nspecies > 1:
                kind = gather_int(species, lanes)
                at = vadd(m, gather_int(own, kind))
                at = vadd(at, at)
                back = vadd(m, gather_int(other, kind))
                _, c1, c2, c3 = gather_rows4(rows, at)
                _, d1, d2, d3 = gather_rows4(rows, vadd(back, back))
                density = slope_i * cubic_slope(c1, c2, c3, t) + slope_j * cubic_slope(d1, d2, d3, t)
            else:
                at = vadd(m, m)
                _, c1, c2, c3 = gather_rows4(rows, at)
                density = (slope_i + slope_j) * cubic_slope(c1, c2, c3, t)
            z0, z1, z2, z3 = gather_rows4(rows, offset_by(at, 1))
            inverse_r = 1.0 / r
            phi = cubic(z0, z1, z2, z3, t) * inverse_r
            pull = ((density + cubic_slope(z1, z2, z3, t) * inverse_r) * inverse_dr - phi * inverse_r) * inverse_r
            phi_sum = phi_sum + phi
            px, py, pz = pull * dx, pull * dy, pull * dz
            fx, fy, fz = fx + px, fy + py, fz + pz
            if want_virial:
                vxx, vyy, vzz = vxx + px * dx, vyy + py * dy, vzz + pz * dz
                vxy, vxz, vyz = vxy + px * dy, vxz + px * dz, vyz + py * dz
        forces[i, 0] += hsum(fx)
        forces[i, 1] += hsum(fy)
        forces[i, 2] += hsum(fz)
        energy += hsum(phi_sum)
        if want_virial:
            wxx, wyy, wzz = wxx - hsum(vxx), wyy - hsum(vyy), wzz - hsum(vzz)
            wxy, wxz, wyz = wxy - hsum(vxy), wxz - hsum(vxz), wyz - hsum(vyz)
    sums[1] = 0.5 * energy
    sums[2], sums[3], sums[4] = 0.5 * wxx, 0.5 * wyy, 0.5 * wzz
    sums[5], sums[6], sums[7] = 0.5 * wxy, 0.5 * wxz, 0.5 * wyz


@njit(cache=True, parallel=True)
def _forces(
    natoms, packed, species, start, neighbours, rows, offsets, reverse, nspecies, cutoff, inverse_dr, last_row,
    want_virial, forces, block_sums, block,
):  # fmt: skip
    for b in prange(block_sums.shape[0]):
        _forces_of_block(
            b * block, min((b + 1) * block, natoms), packed, species, start, neighbours, rows, offsets, reverse,
            nspecies, cutoff, inverse_dr, last_row, want_virial, forces, block_sums[b],
        )  # fmt: skip


class EAM(Term):
    """Embedded-atom potential from a file.

    ``EAM(file="Fe_mm.eam.fs")``; elements of the structure are found in the file by their symbols. Several funcfl
    files (one element each) are combined by ``files=[...]``. Raises InputError for a file that cannot be read or lacks
    an element.
    """

    class Parameters(Parameters):
        file: InputFile | None = Field(
            None, description="EAM file: setfl (.eam.alloy), Finnis-Sinclair (.eam.fs) or funcfl (.eam)"
        )
        files: tuple[InputFile, ...] | None = Field(
            None, description="several funcfl files, one element each, instead of file"
        )
        format: str | None = Field(None, description="setfl, fs or funcfl; default: by name and content")

    provides: ClassVar[Need] = Need.ENERGY | Need.FORCE | Need.VIRIAL
    magnetic = False
    selects: ClassVar[str] = ""
    default_name: ClassVar[str] = "eam"

    def __init__(self, parameters=None, **keywords):
        super().__init__(parameters, **keywords)
        if (self.parameters.file is None) == (self.parameters.files is None):
            raise InputError("give either file or files", f"{self.name}.file")
        self.tables = read_eam(self.parameters.file or list(self.parameters.files), self.parameters.format)
        self.cutoff = float(self.tables.cutoff)

    def prepare(self, state, backend=None):
        super().prepare(state, backend)
        tables = self.tables
        for symbol in state.symbols:
            if symbol not in tables.elements:
                where = self.parameters.file or self.parameters.files[0]
                raise InputError(f"has no {symbol}, only {', '.join(tables.elements)}; choose another file", str(where))
        index = [tables.elements.index(symbol) for symbol in state.symbols]
        n = len(index)
        length = tables.nr + 1
        rows, both = aligned_zeros((n * n * length, 4)), aligned_zeros((2 * n * n * length, 4))
        for a, ea in enumerate(index):
            for b, eb in enumerate(index):
                at = slice((a * n + b) * length, (a * n + b + 1) * length)
                rows[at] = _radial_rows(tables.density[ea, eb], tables.dr)
                both[1::2][at] = _radial_rows(tables.rphi[ea, eb], tables.dr)
        both[0::2] = rows
        pair = np.arange(n * n, dtype=np.int32).reshape(n, n)
        self._rows, self._both = rows, both  # density alone; density and r·φ in turn, in one cache line
        self._offsets = np.ascontiguousarray(pair * length, dtype=np.int32).ravel()
        self._reverse = np.ascontiguousarray(pair.T * length, dtype=np.int32).ravel()
        self._f_rows = np.concatenate([lammps_spline(tables.embedding[e], tables.drho) for e in index])
        self._f_first = np.arange(n, dtype=np.int64) * tables.nrho
        self._sums = np.zeros((block_count(state.natoms), 8))
        self._nspecies = n

    def add(self, state, pairs, out, need) -> Status:
        tables = self.tables
        natoms, n_ext = state.natoms, pairs.dummy
        shared = (self._offsets, self._nspecies, self.cutoff, 1.0 / tables.dr, float(tables.nr))
        _densities(
            natoms, n_ext, pairs.packed, pairs.owner, pairs.species, pairs.start, pairs.neighbours, self._rows, *shared,
            self._f_rows, self._f_first, tables.nrho, 1.0 / tables.drho, self._sums, BLOCK,
        )  # fmt: skip
        forces = out.forces if Need.FORCE in need else self.directions
        offsets, *rest = shared
        _forces(
            natoms, pairs.packed, pairs.species, pairs.start, pairs.neighbours, self._both, offsets,
            self._reverse, *rest, Need.VIRIAL in need, forces, self._sums, BLOCK,
        )  # fmt: skip
        sums = self._sums.sum(axis=0)
        out.energy[0] += sums[0] + sums[1]
        if Need.VIRIAL in need:
            xx, yy, zz, xy, xz, yz = sums[2:]
            out.virial += np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        return OK


def _radial_rows(values: np.ndarray, spacing: float) -> np.ndarray:
    """(n + 1, 4) rows: LAMMPS's cubics, constant beyond the last point (where LAMMPS clamps t to 1), zero in the last
    row."""
    n = len(values)
    rows = np.zeros((n + 1, 4))
    rows[:n] = lammps_spline(values, spacing)
    rows[n - 1, 1:] = 0.0
    return rows
