"""Rows of a prior's least squares: what each coefficient adds to energy, ∂E/∂R, ∂E/∂S and virial of one frame.

The prior is linear in its coefficients θ (apart from the core): E = θ·e, ∂E/∂R = θ·r, ∂E/∂S = θ·s, W = θ·w. All pairs
within the cutoff are found by trying every periodic image: meant for cells of up to a few hundred atoms, as they come
from first-principles calculations. Neither lists nor fits live here.
"""

import threading
from typing import NamedTuple

import numpy as np

from spinmd.backend import BLOCK  # noqa: F401  (importing it sets numba's cache folder)
from spinmd.errors import InputError
from spinmd.potentials.deepspin.prior import COMPONENTS, TERMS, Prior, core_repulsion, radial_functions

from numba import njit  # isort: skip

CHUNK = 400_000  # numbers in the derivatives of the sums of the centres that are treated together
_BUFFERS = threading.local()  # large arrays that every frame needs: fresh ones cost more than what is done in them


def _buffer(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array that the next call with the same name overwrites; this thread's own."""
    size = int(np.prod(shape))
    have = getattr(_BUFFERS, name, None)
    if have is None or have.size < size:
        have = np.empty(size)
        setattr(_BUFFERS, name, have)
    return have[:size].reshape(shape)


class Rows(NamedTuple):
    """energy (count,) eV per coefficient in eV; positions (count, 3N) 1/Å; spins (count, 3N) 1/µB; virial (count, 9) or
    None: ∂/∂θ of E, ∂E/∂R, ∂E/∂S and W = −∂E/∂ε."""

    energy: np.ndarray
    positions: np.ndarray
    spins: np.ndarray
    virial: np.ndarray | None


@njit(cache=True)
def _find_pairs(coord, box, images, cutoff, first, second, vectors):
    """Ordered pairs i, j and d = R_j − R_i within the cutoff; returns their number, which may exceed the room."""
    natoms, found, limit = len(coord), 0, cutoff * cutoff
    for i in range(natoms):
        for j in range(natoms):
            bx, by, bz = coord[j, 0] - coord[i, 0], coord[j, 1] - coord[i, 1], coord[j, 2] - coord[i, 2]
            for a in range(-images[0], images[0] + 1):
                for b in range(-images[1], images[1] + 1):
                    for c in range(-images[2], images[2] + 1):
                        x = bx + a * box[0, 0] + b * box[1, 0] + c * box[2, 0]
                        y = by + a * box[0, 1] + b * box[1, 1] + c * box[2, 1]
                        z = bz + a * box[0, 2] + b * box[1, 2] + c * box[2, 2]
                        r2 = x * x + y * y + z * z
                        if r2 < limit and (i != j or a != 0 or b != 0 or c != 0):
                            if found < len(first):
                                first[found], second[found] = i, j
                                vectors[found, 0], vectors[found, 1], vectors[found, 2] = x, y, z
                            found += 1
    return found


def find_pairs(coord, box, cutoff: float, periodic: bool = True):
    """(P,) i, (P,) j, (P, 3) d = R_j − R_i of all ordered pairs with |d| < cutoff, periodic images included; Å."""
    coord = np.ascontiguousarray(coord, dtype=np.float64).reshape(-1, 3)
    box = np.ascontiguousarray(box, dtype=np.float64).reshape(3, 3)
    images = np.zeros(3, dtype=np.int64)
    if periodic:
        inverse = np.linalg.inv(box)
        coord = coord - np.floor(coord @ inverse) @ box
        images[:] = np.ceil(cutoff * np.linalg.norm(inverse, axis=0))
    room = 64 * len(coord)
    while True:
        first, second = np.empty(room, dtype=np.int64), np.empty(room, dtype=np.int64)
        vectors = np.empty((room, 3))
        found = _find_pairs(coord, box, images, cutoff, first, second, vectors)
        if found <= room:
            return first[:found], second[:found], vectors[:found]
        room = found


def angular_functions(u: np.ndarray, r: np.ndarray, group: str) -> tuple[np.ndarray, np.ndarray]:
    """(P, components) of u = d/r for L0, L1, L2, and their derivatives (P, components, 3) with respect to d, 1/Å.

    The five components of L2 are orthonormal ones of uu − 1/3: √2 (xy, yz, zx), (x² − y²)/√2, (2z² − x² − y²)/√6.
    """
    count = len(u)
    if group == "L0":
        return np.ones((count, 1)), np.zeros((count, 1, 3))
    if group == "L1":
        value, slope = u, np.broadcast_to(np.eye(3), (count, 3, 3))
    else:
        x, y, z = u.T
        zero = np.zeros(count)
        half, sixth = np.sqrt(0.5), np.sqrt(1.0 / 6.0)
        value = np.stack(
            [2 * half * x * y, 2 * half * y * z, 2 * half * z * x, half * (x * x - y * y),
             sixth * (2 * z * z - x * x - y * y)], axis=1,
        )  # fmt: skip
        slope = 2.0 * np.stack(
            [half * np.stack([y, x, zero], 1), half * np.stack([zero, z, y], 1), half * np.stack([z, zero, x], 1),
             half * np.stack([x, -y, zero], 1), sixth * np.stack([-x, -y, 2 * z], 1)], axis=1,
        )  # fmt: skip
    along = np.einsum("pca,pa->pc", slope, u)
    return value, (slope - along[:, :, None] * u[:, None, :]) / r[:, None, None]


@njit(cache=True)
def _radial_of_pairs(r, kinds, parameters, cutoff, value, slope):
    for p in range(len(r)):
        radial_functions(r[p], parameters[kinds[p], 0], parameters[kinds[p], 1], cutoff, value[p], slope[p])


def pair_functions_of(prior: Prior, r, first_types, second_types, count: int) -> tuple[np.ndarray, np.ndarray]:
    """φ_k(r) and φ_k'(r), 1/Å, (P, count) each, of pairs at distances r (P,) of given elements (P,)."""
    value, slope = np.empty((len(r), count)), np.empty((len(r), count))
    n = len(prior.elements)
    parameters = prior.core_parameters().reshape(n * n, 4)
    _radial_of_pairs(r, first_types * n + second_types, parameters, prior.cutoff, value, slope)
    return value, slope


@njit(cache=True)
def _fill_pair_rows(
    first, second, types, u, d, phi, dphi, spins, inverse, n_of, c_of, row_of, natoms, want_virial, energy, rows
):
    """Adds the pair terms; row_of (n, n, 7): first row of a term or −1. Columns of rows: 3N of R, 3N of S, 9 of W."""
    functions = phi.shape[1]
    factor = np.empty(7)
    by_c = np.empty(7)
    by_ni = np.empty(7)
    by_nj = np.empty(7)
    for p in range(len(first)):
        i, j = first[p], second[p]
        ni, nj, c = n_of[i], n_of[j], c_of[p]
        factor[:] = (1.0, c, nj, c * c, ni * nj, nj * nj, c * nj)
        by_c[:] = (0.0, 1.0, 0.0, 2.0 * c, 0.0, 0.0, nj)
        by_ni[:] = (0.0, 0.0, 0.0, 0.0, nj, 0.0, 0.0)
        by_nj[:] = (0.0, 0.0, 1.0, 0.0, ni, 2.0 * nj, c)
        for t in range(7):
            row = row_of[types[i], types[j], t]
            if row < 0:
                continue
            for k in range(functions):
                value, slope = phi[p, k], dphi[p, k] * factor[t]
                line = rows[row + k]
                energy[row + k] += value * factor[t]
                for a in range(3):
                    pull = slope * u[p, a]
                    line[3 * j + a] += pull
                    line[3 * i + a] -= pull
                    if want_virial:
                        for b in range(3):
                            line[6 * natoms + 3 * a + b] -= pull * d[p, b]
                    if t > 0:
                        si, sj = spins[i, a], spins[j, a]
                        line[3 * (natoms + i) + a] += value * inverse[i] * (by_c[t] * sj + 2.0 * by_ni[t] * si)
                        line[3 * (natoms + j) + a] += value * inverse[j] * (by_c[t] * si + 2.0 * by_nj[t] * sj)


@njit(cache=True)
def _fill_sums(
    begin, end, first, second, centre, types, u, d, phi, dphi, angular, slope, spins, inverse, n_of, c_of, offsets,
    natoms, want_virial, x, dx,
):  # fmt: skip
    """Adds pairs begin..end to the sums x (centres, components, size) and their derivatives dx (..., columns)."""
    functions, components, factors = phi.shape[1], angular.shape[1], offsets.shape[1]
    for p in range(begin, end):
        i, j, at = first[p], second[p], centre[first[p]]
        for s in range(factors):
            offset = offsets[types[j], s]
            if offset < 0:
                continue
            f = 1.0 if s == 0 else (c_of[p] if s == 1 else n_of[j])
            for m in range(components):
                for k in range(functions):
                    value = phi[p, k] * angular[p, m]
                    x[at, m, offset + k] += value * f
                    line = dx[at, m, offset + k]
                    for a in range(3):
                        pull = f * (dphi[p, k] * u[p, a] * angular[p, m] + phi[p, k] * slope[p, m, a])
                        line[3 * j + a] += pull
                        line[3 * i + a] -= pull
                        if want_virial:
                            for b in range(3):
                                line[6 * natoms + 3 * a + b] -= pull * d[p, b]
                        if s == 1:
                            line[3 * (natoms + i) + a] += value * inverse[i] * spins[j, a]
                            line[3 * (natoms + j) + a] += value * inverse[j] * spins[i, a]
                        elif s == 2:
                            line[3 * (natoms + j) + a] += value * inverse[j] * 2.0 * spins[j, a]


@njit(cache=True)
def _fill_spin_sums(
    begin, end, first, second, centre, types, u, d, phi, dphi, spins, inverse, offsets, natoms, want_virial, x, dx
):
    """As _fill_sums, for S0: Σ φ_k ŝ_j."""
    functions = phi.shape[1]
    for p in range(begin, end):
        i, j, at = first[p], second[p], centre[first[p]]
        offset = offsets[types[j], 0]
        if offset < 0:
            continue
        for m in range(3):
            for k in range(functions):
                x[at, m, offset + k] += phi[p, k] * spins[j, m]
                line = dx[at, m, offset + k]
                line[3 * (natoms + j) + m] += phi[p, k] * inverse[j]
                for a in range(3):
                    pull = dphi[p, k] * u[p, a] * spins[j, m]
                    line[3 * j + a] += pull
                    line[3 * i + a] -= pull
                    if want_virial:
                        for b in range(3):
                            line[6 * natoms + 3 * a + b] -= pull * d[p, b]


@njit(cache=True)
def _add_products(p_of, q_of, both, rows):
    """rows[m] += both[p, q] + both[q, p]: the derivatives of x_p x_q."""
    for m in range(len(p_of)):
        p, q = p_of[m], q_of[m]
        for column in range(rows.shape[1]):
            rows[m, column] += both[p, q, column] + both[q, p, column]


def check_types(prior: Prior, types) -> np.ndarray:
    """(N,) int64 indices into the prior's elements; InputError for others."""
    types = np.asarray(types, dtype=np.int64).reshape(-1)
    if len(types) and (types.min() < 0 or types.max() >= len(prior.elements)):
        raise InputError(
            f"types run from 0 to {len(prior.elements) - 1} for {', '.join(prior.elements)}, got {types.min()} to "
            f"{types.max()}",
            "types",
        )
    return types


def design(prior: Prior, types, box, coord, spin, *, virial: bool = False, periodic: bool = True) -> Rows:
    """Rows of one frame, without the core.

    types (N,) indices into ``prior.elements``;  box (3, 3) Å;  coord (N, 3) Å;  spin (N, 3) µB
    Raises InputError for types that the prior does not know.
    """
    types = check_types(prior, types)
    spin = np.asarray(spin, dtype=np.float64).reshape(-1, 3)
    natoms, settings = len(types), prior.settings
    columns = 6 * natoms + (9 if virial else 0)
    energy, rows = np.zeros(prior.count), np.zeros((prior.count, columns))
    first, second, d = find_pairs(coord, box, prior.cutoff, periodic)
    r = np.linalg.norm(d, axis=1)
    u = d / r[:, None]
    inverse = np.where(prior.magnetic, 1.0 / np.where(prior.magnetic, prior.reference_moment, 1.0), 0.0)[types]
    scaled = spin * inverse[:, None]
    n_of = np.einsum("ia,ia->i", scaled, scaled)
    c_of = np.einsum("pa,pa->p", scaled[first], scaled[second])
    most = max(settings["pair_functions"], settings["many_body_functions"])
    phi, dphi = np.empty((len(r), most)), np.empty((len(r), most))
    n = len(prior.elements)
    kinds = types[first] * n + types[second]
    _radial_of_pairs(r, kinds, prior.core_parameters().reshape(n * n, 4), prior.cutoff, phi, dphi)
    row_of = np.full((n, n, len(TERMS)), -1, dtype=np.int64)
    for block in prior.blocks:
        if block.kind == "pair":
            row_of[block.element, block.other, TERMS.index(block.name)] = block.first
        elif block.kind == "landau":
            those = np.flatnonzero(types == block.element)
            for m in range(block.size):
                energy[block.first + m] = (n_of[those] ** (m + 1)).sum()
                slope = 2.0 * (m + 1) * n_of[those] ** m * inverse[those]
                for a in range(3):
                    rows[block.first + m, 3 * (natoms + those) + a] = slope * scaled[those, a]
    wide = settings["pair_functions"]
    _fill_pair_rows(
        first, second, types, u, d, np.ascontiguousarray(phi[:, :wide]), np.ascontiguousarray(dphi[:, :wide]), scaled,
        inverse, n_of, c_of, row_of, natoms, virial, energy, rows,
    )  # fmt: skip
    wide = settings["many_body_functions"]
    phi, dphi = np.ascontiguousarray(phi[:, :wide]), np.ascontiguousarray(dphi[:, :wide])
    start = np.searchsorted(first, np.arange(natoms + 1))
    pairs = (first, second, types, u, d, phi, dphi, scaled, inverse, n_of, c_of, start, natoms, virial)
    for block in prior.blocks:
        if block.kind == "many-body":
            _add_group(prior, block, pairs, r, energy[block.where], rows[block.where])
    ends = 3 * natoms, 6 * natoms
    return Rows(energy, rows[:, : ends[0]], rows[:, ends[0] : ends[1]], rows[:, ends[1] :] if virial else None)


def _add_group(prior, block, pairs, r, energy, rows) -> None:
    """The products of one group of the centres of one element, some centres at a time."""
    first, second, types, u, d, phi, dphi, scaled, inverse, n_of, c_of, start, natoms, virial = pairs
    offsets, size = prior.features(block.element, block.name)
    components, columns = COMPONENTS[block.name], rows.shape[1]
    p_of, q_of = prior.products(block.element, block.name)
    centres = np.flatnonzero(types == block.element)
    together = max(1, CHUNK // (components * size * columns))
    spins_alone = block.name == "S0"
    if not spins_alone:
        angular, slope = angular_functions(u, r, block.name)
    centre = np.full(natoms, -1, dtype=np.int64)
    both, product = _buffer("both", (size, size * columns)), _buffer("product", (size, size * columns))
    both[:] = 0.0
    for at in range(0, len(centres), together):
        some = centres[at : at + together]
        centre[some] = np.arange(len(some))
        x = np.zeros((len(some), components, size))
        dx = _buffer("dx", (len(some), components, size, columns))
        dx[:] = 0.0
        for i in some:
            span = (start[i], start[i + 1], first, second, centre, types, u, d, phi, dphi)
            if spins_alone:
                _fill_spin_sums(*span, scaled, inverse, offsets, natoms, virial, x, dx)
            else:
                _fill_sums(
                    *span, angular, slope, scaled, inverse, n_of, c_of, offsets, natoms, virial, x, dx
                )  # fmt: skip
        if block.name == "L0" and prior.magnetic[block.element]:
            x[:, 0, 0] = n_of[some]
            for k, i in enumerate(some):
                dx[k, 0, 0, 3 * (natoms + i) : 3 * (natoms + i) + 3] = 2.0 * inverse[i] * scaled[i]
        flat = x.reshape(-1, size)
        energy += (flat.T @ flat)[p_of, q_of]
        both += np.matmul(flat.T, dx.reshape(len(flat), -1), out=product)
    _add_products(p_of, q_of, both.reshape(size, size, columns), rows)


def core(prior: Prior, types, box, coord, *, periodic: bool = True) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy (eV), forces −∂E/∂R (N, 3) (eV/Å) and virial (3, 3) (eV) of the core of one frame."""
    types = check_types(prior, types)
    parameters = prior.core_parameters()
    forces, virial, energy = np.zeros((len(types), 3)), np.zeros((3, 3)), 0.0
    reach = float(prior.shortest.max())
    for i, j, d in zip(*find_pairs(coord, box, reach, periodic), strict=True):
        r = float(np.linalg.norm(d))
        value, slope = core_repulsion(r, *parameters[types[i], types[j]])
        energy += 0.5 * value
        forces[i] += slope * d / r
        virial -= 0.5 * slope * np.outer(d, d) / r
    return energy, forces, virial


def predict(prior: Prior, rows: Rows) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy (eV), forces (N, 3) (eV/Å) and fields (N, 3) (eV/µB) of the frame of some rows, without the core."""
    theta = prior.coefficients
    return float(theta @ rows.energy), -(theta @ rows.positions).reshape(-1, 3), -(theta @ rows.spins).reshape(-1, 3)
