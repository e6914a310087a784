"""Energy, forces and fields of a prior: one walk over the neighbours of each atom, then each atom gathers what others exert on it.

For a centre i: the neighbours within the cutoff are picked, sorted by element, in blocks of eight; φ_k, the spin factors
and the pair terms of every block; the sums x (``prior_lanes``); the slopes y = 2 Q x = ∂E/∂x; and from them, for every pair,
p = ∂E_i/∂d and −∂E_i/∂ŝ_j, written to the pair's row of ``rows``. An atom j finds the rows in which it is the neighbour
through the transposed list: no atomic operations, and the same order of additions for any number of threads. Notation of
``potentials.deepspin.prior``; Å, eV, spins in units of the reference moments.
"""

from typing import NamedTuple

import numpy as np

from spinmd.backend import BLOCK  # noqa: F401  (importing it sets numba's cache folder)
from spinmd.potentials.deepspin.invariant_kernels import invariant_slopes
from spinmd.potentials.deepspin.prior import core_repulsion, cutoff_factor, scaled_distance
from spinmd.potentials.deepspin.prior_lanes import (
    ROWS,
    back_all,
    back_lattice,
    back_spins,
    form_1,
    form_3,
    form_5,
    sums_all,
    sums_lattice,
    sums_spins,
    turn,
)
from spinmd.simd import (
    gather_int,
    gather_rows4,
    hsum,
    load,
    mask_less,
    offset_by,
    splat,
    store,
    to_float,
    vadd,
    vsqrt,
    where_less,
)
from spinmd.simd_extra import scatter_rows4

from numba import njit, prange  # isort: skip

# functions of one atom or block allocate nothing: counting references to their arrays would take most of the time
inner = njit(cache=True, _nrt=False)
HALF, SIXTH = np.sqrt(0.5), np.sqrt(1.0 / 6.0)
FACTORS = ROWS * 8  # numbers in the factors, and in the sums, of one block
PAIR = 4  # of a block's pair terms: ∂/∂r, ∂/∂c, ∂/∂n_i, ∂/∂n_j


class Tables(NamedTuple):
    """The prior in terms of the kinds (elements) of a state, nk of them.

    basis      (nk, nk, 4) r1, core_width, charge and length of the core, as ``Prior.core_parameters``;  reach Å, largest r1
    pair       (nk · nk · kp · 8,) coefficients of the seven pair terms, kp functions
    landau     (nk, 4);  forms: 2 Q of the groups L0, L1, L2, S0 from forms[form_at[kind, group]] on, of the blocks that
               begin at group_places[group_start[group] : group_start[group + 1]] of x
    length     (nk, nk · 3 · 8) 2 Q of n_i with the other sums of L0
    """

    cutoff: float
    reach: float
    functions: int
    kp: int
    basis: np.ndarray
    pair: np.ndarray
    landau: np.ndarray
    forms: np.ndarray
    form_at: np.ndarray
    group_places: np.ndarray
    group_start: np.ndarray
    length: np.ndarray
    magnetic: np.ndarray


class Neighbours(NamedTuple):
    """The sorted list (``kernels_lists.SortedList``) and what was picked from it.

    first   (N + 1,) int64: where the picked neighbours of an atom begin, a multiple of 8
    blocks  (N, nk + 1) int64: blocks of eight of kind q are blocks[i, q] ... blocks[i, q + 1]
    places  int32 rows of the list, the number of rows for padding;  geometry (4, ...) flat u_x, u_y, u_z, r of each
    inside  uint8 per row of the list: within the cutoff;  found (N,): so many of an atom's ``transposed`` rows are, and
            stand first (``sift``; rows of the others are never written or read)
    """

    start: np.ndarray
    neighbours: np.ndarray
    atoms: np.ndarray
    sections: np.ndarray
    place_start: np.ndarray
    transposed: np.ndarray
    first: np.ndarray
    blocks: np.ndarray
    places: np.ndarray
    geometry: np.ndarray
    inside: np.ndarray
    found: np.ndarray


class Scratch(NamedTuple):
    """Of one block of atoms each: φ, φ', turned φ (64 numbers per block of neighbours), factors, pair terms, slopes y, sums
    of the way back, a centre's results (16; the first eight are for anything), and what the nets over the invariants need."""

    phi: np.ndarray
    dphi: np.ndarray
    turned: np.ndarray
    factors: np.ndarray
    pair: np.ndarray
    slopes: np.ndarray
    h: np.ndarray
    own: np.ndarray
    net: np.ndarray


@inner
def _pick(i, packed, cutoff, near):
    """Neighbours of atom i within the cutoff, kind by kind, and their geometry."""
    x, y, z = packed[i, 0], packed[i, 1], packed[i, 2]
    total, limit = near.start[-1], cutoff * cutoff
    size = near.places.shape[0]
    at = near.first[i]
    near.blocks[i, 0] = 0
    for q in range(near.sections.shape[1] - 1):
        begin, end = near.start[i] + near.sections[i, q], near.start[i] + near.sections[i, q + 1]
        for k in range(begin, end, 8):
            a, b, c, _ = gather_rows4(packed, load(near.neighbours, k))
            a, b, c = a - x, b - y, c - z
            mask = mask_less(a * a + b * b + c * c, limit)
            for lane in range(min(8, end - k)):  # without branches, as in cell_list
                inside = (mask >> lane) & 1
                near.places[at] = k + lane
                near.inside[k + lane] = inside
                at += inside
        while (at - near.first[i]) % 8:
            near.places[at] = total
            at += 1
        near.blocks[i, q + 1] = (at - near.first[i]) // 8
    for k in range(near.first[i], at, 8):
        places = load(near.places, k)
        a, b, c, _ = gather_rows4(packed, gather_int(near.neighbours, places))
        a, b, c = a - x, b - y, c - z
        r = vsqrt(where_less(to_float(places), total, a * a + b * b + c * c, 4.0 * limit))
        store(near.geometry, k, a / r)
        store(near.geometry, size + k, b / r)
        store(near.geometry, 2 * size + k, c / r)
        store(near.geometry, 3 * size + k, r)


@inner
def _core(r, begin, basis, energies, slopes):
    """Half the core of eight neighbours; 1 if any of them is within it."""
    if mask_less(r, basis[0]) == 0 or basis[2] == 0.0:
        return 0
    store(energies, begin, r)
    for lane in range(begin, begin + 8):
        value, slope = core_repulsion(energies[lane], basis[0], basis[1], basis[2], basis[3])
        energies[lane], slopes[lane] = 0.5 * value, 0.5 * slope
    return 1


@inner
def _block(block, k, tables, basis, pair_at, spins_of, size, near, w, sx, sy, sz, ni, want_slopes, work):
    """φ, factors and pair terms of one block of neighbours; returns their pair energies."""
    g = near.geometry
    ux, uy, uz, r = load(g, k), load(g, size + k), load(g, 2 * size + k), load(g, 3 * size + k)
    f = FACTORS * block
    store(work.factors, f, splat(1.0))
    store(work.factors, f + 8, ux)
    store(work.factors, f + 16, uy)
    store(work.factors, f + 24, uz)
    xy, yz, zx = (2.0 * HALF) * ux * uy, (2.0 * HALF) * uy * uz, (2.0 * HALF) * uz * ux
    xx, zz = HALF * (ux * ux - uy * uy), SIXTH * (2.0 * uz * uz - ux * ux - uy * uy)
    store(work.factors, f + 32, xy)
    store(work.factors, f + 40, yz)
    store(work.factors, f + 48, zx)
    store(work.factors, f + 56, xx)
    store(work.factors, f + 64, zz)
    c, n = splat(0.0), splat(0.0)
    if spins_of:
        a, b, d, n = gather_rows4(w, gather_int(near.atoms, load(near.places, k)))
        c = sx * a + sy * b + sz * d
        store(work.factors, f + 72, c)
        store(work.factors, f + 80, n)
        store(work.factors, f + 88, c * ux)
        store(work.factors, f + 96, c * uy)
        store(work.factors, f + 104, c * uz)
        store(work.factors, f + 112, n * ux)
        store(work.factors, f + 120, n * uy)
        store(work.factors, f + 128, n * uz)
        store(work.factors, f + 136, c * xy)
        store(work.factors, f + 144, c * yz)
        store(work.factors, f + 152, c * zx)
        store(work.factors, f + 160, c * xx)
        store(work.factors, f + 168, c * zz)
        store(work.factors, f + 176, a)
        store(work.factors, f + 184, b)
        store(work.factors, f + 192, d)
    x, dx = scaled_distance(r, basis[0], basis[1], tables.cutoff)
    fc, dfc = cutoff_factor(r, tables.cutoff)
    dx = dx * fc
    t0, t1, d0, d1 = splat(1.0), x, splat(0.0), splat(1.0)
    v0, v1, v2, v3 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    v4, v5, v6, slope = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    c2, nn, n2, cn = c * c, ni * n, n * n, c * n
    at = 64 * block
    for m in range(max(tables.kp, tables.functions)):
        if m < tables.functions:
            store(work.phi, at + 8 * m, t0 * fc)
            if want_slopes:
                store(work.dphi, at + 8 * m, d0 * dx + t0 * dfc)
        if m < tables.kp:
            p = pair_at + 8 * m
            v0 = v0 + tables.pair[p] * t0
            total = splat(tables.pair[p])
            if spins_of:
                v1 = v1 + tables.pair[p + 1] * t0
                v2 = v2 + tables.pair[p + 2] * t0
                v3 = v3 + tables.pair[p + 3] * t0
                v4 = v4 + tables.pair[p + 4] * t0
                v5 = v5 + tables.pair[p + 5] * t0
                v6 = v6 + tables.pair[p + 6] * t0
                if want_slopes:
                    total = total + tables.pair[p + 1] * c + tables.pair[p + 2] * n + tables.pair[p + 3] * c2
                    total = total + tables.pair[p + 4] * nn + tables.pair[p + 5] * n2 + tables.pair[p + 6] * cn
            if want_slopes:
                slope = slope + d0 * total
        t0, t1, d0, d1 = t1, 2.0 * x * t1 - t0, d1, 2.0 * (t1 + x * d1) - d0
    turn(work.phi, at, work.turned, at)
    energy = v0 + v1 * c + v2 * n + v3 * c2 + v4 * nn + v5 * n2 + v6 * cn
    slope = slope * dx + energy * dfc
    energy = energy * fc
    if _core(r, 0, basis, work.own, work.h):
        energy = energy + load(work.own, 0)
        slope = slope + load(work.h, 0)
    p = 8 * PAIR * block
    store(work.pair, p, slope)
    if spins_of:
        store(work.pair, p + 8, fc * (v1 + 2.0 * v3 * c + v6 * n))
        store(work.pair, p + 16, fc * (v4 * n))
        store(work.pair, p + 24, fc * (v2 + ni * v4 + 2.0 * v5 * n + v6 * c))
    return energy


@inner
def _slopes(kind, ni, tables, nets, x, x_at, work):
    """y = ∂E/∂x of one centre to ``work.slopes``; returns its many-body energy and ∂E/∂n_i."""
    for group in range(4):
        begin, end = tables.group_start[group], tables.group_start[group + 1]
        if end == begin:
            continue
        at = tables.form_at[kind, group]
        if group == 0:
            form_1(tables.forms, at, tables.group_places, begin, end - begin, x, x_at, work.slopes, 0)
        elif group == 2:
            form_5(tables.forms, at, tables.group_places, begin, end - begin, x, x_at, work.slopes, 0)
        else:
            form_3(tables.forms, at, tables.group_places, begin, end - begin, x, x_at, work.slopes, 0)
    total = splat(0.0)
    for q in range(0, FACTORS * tables.magnetic.shape[0], 8):
        total = total + load(x, x_at + q) * load(work.slopes, q)
    energy, slope = 0.5 * hsum(total), 0.0
    if tables.magnetic[kind]:
        total = splat(0.0)
        for k in range(tables.group_start[1]):
            place, row = tables.group_places[k], load(tables.length[kind], 8 * k)
            total = total + load(x, x_at + place) * row
            store(work.slopes, place, load(work.slopes, place) + ni * row)
        slope = hsum(total)
        energy += ni * slope
    if nets.depth.shape[0] > 0:
        more, by_n = invariant_slopes(kind, ni, nets, x, x_at, work.slopes, work.net)
        energy, slope = energy + more, slope + by_n
    return energy, slope


@inner
def _angular(f, h, work, from_spins):
    """∂E/∂u_a at fixed r of a block, not yet projected, from the sums of the way back."""
    u = work.factors
    ux, uy, uz, c, n = load(u, f + 8), load(u, f + 16), load(u, f + 24), load(u, f + 72), load(u, f + 80)
    ax, ay, az = load(h, 8), load(h, 16), load(h, 24)
    xy, yz, zx, xx, zz = load(h, 32), load(h, 40), load(h, 48), load(h, 56), load(h, 64)
    if from_spins:
        ax, ay, az = ax + c * load(h, 88), ay + c * load(h, 96), az + c * load(h, 104)
        ax, ay, az = ax + n * load(h, 112), ay + n * load(h, 120), az + n * load(h, 128)
        xy, yz, zx = xy + c * load(h, 136), yz + c * load(h, 144), zx + c * load(h, 152)
        xx, zz = xx + c * load(h, 160), zz + c * load(h, 168)
    xy, yz, zx = (2.0 * HALF) * xy, (2.0 * HALF) * yz, (2.0 * HALF) * zx
    xx, zz = (2.0 * HALF) * xx, (2.0 * SIXTH) * zz
    ax = ax + xy * uy + zx * uz + (xx - zz) * ux
    ay = ay + xy * ux + yz * uz - (xx + zz) * uy
    az = az + yz * uy + zx * ux + 2.0 * zz * uz
    return ax, ay, az


@inner
def _centre(
    i, kind, tables, nets, near, w, x, fresh, many, want_energy, want_force, want_way_back, want_virial, packed, rows4,
    work, sums,
):  # fmt: skip
    """All of one centre. work.own[8:]: energy, force (3), −∂E/∂ŝ_i (3); the virial is added to sums[1:]."""
    own = work.own
    nk = tables.magnetic.shape[0]
    size = near.places.shape[0]
    sx, sy, sz, ni = w[i, 0], w[i, 1], w[i, 2], w[i, 3]
    if fresh:
        _pick(i, packed, tables.cutoff, near)
    first, x_at = near.first[i], FACTORS * nk * i
    energy, by_n = 0.0, 0.0
    for q in range(nk):
        spins_of = tables.magnetic[q]
        if not (fresh or want_force or want_energy or spins_of):
            continue
        total = splat(0.0)
        begin, end = near.blocks[i, q], near.blocks[i, q + 1]
        pair_at = 8 * tables.kp * (kind * nk + q)
        for b in range(begin, end):
            total = total + _block(
                b, first + 8 * b, tables, tables.basis[kind, q], pair_at, spins_of, size, near, w, sx, sy, sz, ni,
                want_force, work,
            )  # fmt: skip
        energy += hsum(total)
        if many:
            if fresh and spins_of:
                sums_all(work.factors, FACTORS * begin, work.turned, 64 * begin, end - begin, x, x_at + FACTORS * q)
            elif fresh:
                sums_lattice(work.factors, FACTORS * begin, work.turned, 64 * begin, end - begin, x, x_at + FACTORS * q)
            elif spins_of:
                sums_spins(work.factors, FACTORS * begin, work.turned, 64 * begin, end - begin, x, x_at + FACTORS * q)
    if many:
        more, by_n = _slopes(kind, ni, tables, nets, x, x_at, work)
        energy += more
    if tables.magnetic[kind]:
        landau = tables.landau[kind]
        a, b, c, d = landau[0], landau[1], landau[2], landau[3]
        energy += ni * (a + ni * (b + ni * (c + ni * d)))
        by_n += a + ni * (2.0 * b + ni * (3.0 * c + ni * 4.0 * d))
    own[8] = energy
    if not want_way_back:
        return
    fx, fy, fz, hx, hy, hz = splat(0.0), splat(0.0), splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    vxx, vyy, vzz, vxy, vxz, vyz = splat(0.0), splat(0.0), splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    by_pairs, zero = splat(0.0), splat(0.0)
    for q in range(nk):
        spins_of = tables.magnetic[q]
        if not (spins_of or want_force):
            continue
        for b in range(near.blocks[i, q], near.blocks[i, q + 1]):
            f, k, h, radial = FACTORS * b, first + 8 * b, work.h, zero
            u = work.factors
            if many and want_force and spins_of:
                radial = back_all(work.slopes, FACTORS * q, u, f, work.phi, work.dphi, 64 * b, h)
            elif many and want_force:
                radial = back_lattice(work.slopes, FACTORS * q, u, f, work.phi, work.dphi, 64 * b, h)
            elif many:
                back_spins(work.slopes, FACTORS * q, u, f, work.phi, work.dphi, 64 * b, h)
            elif spins_of:
                for m in range(0, FACTORS, 8):
                    store(h, m, zero)
            places = load(near.places, k)
            twice = vadd(places, places)
            ux, uy, uz, p = load(u, f + 8), load(u, f + 16), load(u, f + 24), 8 * PAIR * b
            if want_force:
                r = load(near.geometry, 3 * size + k)
                px, py, pz = zero, zero, zero
                if many:
                    px, py, pz = _angular(f, h, work, spins_of)
                along = px * ux + py * uy + pz * uz
                inverse = 1.0 / r
                along = radial + load(work.pair, p) - along * inverse
                px, py, pz = px * inverse + along * ux, py * inverse + along * uy, pz * inverse + along * uz
                scatter_rows4(rows4, twice, -px, -py, -pz, zero)
                fx, fy, fz = fx + px, fy + py, fz + pz
                if want_virial:
                    dx, dy, dz = r * ux, r * uy, r * uz
                    vxx, vyy, vzz = vxx + px * dx, vyy + py * dy, vzz + pz * dz
                    vxy, vxz, vyz = vxy + px * dy, vxz + px * dz, vyz + py * dz
            if spins_of:
                by_c = load(work.pair, p + 8) + load(h, 72) + ux * load(h, 88) + uy * load(h, 96) + uz * load(h, 104)
                by_c = by_c + load(u, f + 32) * load(h, 136) + load(u, f + 40) * load(h, 144)
                by_c = by_c + load(u, f + 48) * load(h, 152) + load(u, f + 56) * load(h, 160)
                by_c = by_c + load(u, f + 64) * load(h, 168)
                by_nj = load(work.pair, p + 24) + load(h, 80) + ux * load(h, 112) + uy * load(h, 120)
                by_nj = 2.0 * (by_nj + uz * load(h, 128))
                by_pairs = by_pairs + load(work.pair, p + 16)
                ox, oy, oz = load(u, f + 176), load(u, f + 184), load(u, f + 192)
                scatter_rows4(
                    rows4, offset_by(twice, 1), -(by_c * sx + by_nj * ox + load(h, 176)),
                    -(by_c * sy + by_nj * oy + load(h, 184)), -(by_c * sz + by_nj * oz + load(h, 192)), zero,
                )  # fmt: skip
                hx, hy, hz = hx - by_c * ox, hy - by_c * oy, hz - by_c * oz
            elif want_force:
                scatter_rows4(rows4, offset_by(twice, 1), zero, zero, zero, zero)
    by_n = 2.0 * (by_n + hsum(by_pairs))
    own[9], own[10], own[11] = hsum(fx), hsum(fy), hsum(fz)
    own[12], own[13], own[14] = hsum(hx) - by_n * sx, hsum(hy) - by_n * sy, hsum(hz) - by_n * sz
    if want_virial:
        sums[1] -= hsum(vxx)
        sums[2] -= hsum(vyy)
        sums[3] -= hsum(vzz)
        sums[4] -= hsum(vxy)
        sums[5] -= hsum(vxz)
        sums[6] -= hsum(vyz)


@inner
def _walk_block(
    b, first, last, kinds, tables, nets, near, w, x, fresh, many, want_energy, want_force, want_way_back, want_virial, packed,
    rows4, work, energies, centre, sums,
):  # fmt: skip
    mine = Scratch(
        work.phi[b], work.dphi[b], work.turned[b], work.factors[b], work.pair[b], work.slopes[b], work.h[b], work.own[b],
        work.net[b],
    )  # fmt: skip
    own, mine_sums, total = work.own[b], sums[b], 0.0
    for k in range(7):
        mine_sums[k] = 0.0
    for i in range(first, last):
        _centre(
            i, kinds[i], tables, nets, near, w, x, fresh, many, want_energy, want_force, want_way_back, want_virial, packed,
            rows4, mine, mine_sums,
        )  # fmt: skip
        energies[i] = own[8]
        total += own[8]
        for a in range(3):
            centre[i, a], centre[i, 4 + a] = own[9 + a], own[12 + a]
    mine_sums[0] = total


@njit(cache=True, parallel=True)
def walk(
    natoms, kinds, tables, nets, near, w, x, fresh, many, want_energy, want_force, want_way_back, want_virial, packed,
    rows4, work, energies, centre, sums, block,
):  # fmt: skip
    """Energies (N,), force and −∂E/∂ŝ of each atom's own part to ``centre`` (N, 8), rows of all pairs; sums (blocks, 7):
    energy and virial (xx yy zz xy xz yz) of each block of atoms."""
    for b in prange(sums.shape[0]):
        _walk_block(
            b, b * block, min((b + 1) * block, natoms), kinds, tables, nets, near, w, x, fresh, many, want_energy, want_force,
            want_way_back, want_virial, packed, rows4, work, energies, centre, sums,
        )  # fmt: skip


@inner
def _sift(begin, end, inside, all_rows, transposed):
    at = begin
    for k in range(begin, end):
        transposed[at] = all_rows[k]
        at += np.int64(inside[all_rows[k]])
    return at - begin


@njit(cache=True, parallel=True)
def sift(natoms, place_start, inside, all_rows, transposed, found, blocks, block):
    """Copies those of ``all_rows``, the transposed list, that are within the cutoff to ``transposed``, in order."""
    # arrays one by one: numba drops a parallel loop that writes to members of tuples only
    for b in prange(blocks):
        for i in range(b * block, min((b + 1) * block, natoms)):
            found[i] = _sift(place_start[i], place_start[i + 1], inside, all_rows, transposed)


@njit(cache=True, parallel=True)
def gather(natoms, near, rows, centre, inverse, want_force, want_field, forces, fields, blocks, block):
    """Adds to each atom its own part and the rows of the pairs in which it is the neighbour."""
    for b in prange(blocks):
        for i in range(b * block, min((b + 1) * block, natoms)):
            one, two = load(centre, 8 * i), splat(0.0)
            begin, end = near.place_start[i], near.place_start[i] + near.found[i]
            for k in range(begin, end - 1, 2):
                one = one + load(rows, np.int64(8) * near.transposed[k])
                two = two + load(rows, np.int64(8) * near.transposed[k + 1])
            if (end - begin) % 2:
                one = one + load(rows, np.int64(8) * near.transposed[end - 1])
            store(centre, 8 * i, one + two)
            for a in range(3):
                if want_force:
                    forces[i, a] += centre[8 * i + a]
                if want_field:
                    fields[i, a] += inverse[i] * centre[8 * i + 4 + a]


@njit(cache=True, parallel=True)
def scale_spins(natoms, spins, inverse, w, block):
    """Rows ŝ_x, ŝ_y, ŝ_z, n = |ŝ|²."""
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            x, y, z = spins[i, 0] * inverse[i], spins[i, 1] * inverse[i], spins[i, 2] * inverse[i]
            w[i, 0], w[i, 1], w[i, 2], w[i, 3] = x, y, z, x * x + y * y + z * z
