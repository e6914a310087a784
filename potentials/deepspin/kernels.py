"""Pairs of one atom: the neighbours within the cutoff, their environment, A, and forces from ∂E/∂A.

Neighbours are picked from the list and what is needed of them is stored in columns (``neighbours``), A is accumulated
over channels (``accumulate``), and ``pair_forces`` turns the sums over channels of the way back into ∂E/∂d of every
pair. ``kernels_blocks`` drives this. All arithmetic of pairs is in float64; channels and nets have the precision of
the table.

    s = w/ρ,  R_0 = (s − mean) c_0,  R_x = (w/ρ²) c_1 d_x,  ρ = r + protection,  c = 1/(std · 2 Σ sel)
    ∂E/∂d = a u + [(u·d) a' + (c_0 u_0 + q) s'] d/r,   a = c_1 w/ρ²,  B = ∂E/∂A
    u_k = Σ_m B_km g_m,  q = Σ_m (Σ_k R_k B_km) dg_m/ds

Empty slots are not looped over: A_0 of centre c holds Σ_t sel_t R_e g_t(R_e), and each neighbour of type t takes R_e
g_t(R_e) away, so that it enters at the cutoff with nothing.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from spinmd.potentials.deepspin.kernels_channels import (
    COEFFICIENTS,
    accumulate_1,
    accumulate_2,
    accumulate_3,
    accumulate_4,
)
from spinmd.simd import (
    bit_count,
    gather_int,
    gather_rows4,
    hsum,
    larger,
    load,
    mask_less,
    offset_by,
    splat,
    vsqrt,
    where_less,
)
from spinmd.simd_extra import lane_numbers, octave_position, scatter_rows4, store_as

NUMBERS = 5  # t, R_0, R_x, R_y, R_z
GEOMETRY = 7  # d, a, a'/r, s'/r, dt/ds
SET_LANES = np.array(  # the numbers of the bits that are set in 0 ... 255, in rows of eight
    [([lane for lane in range(8) if bits >> lane & 1] + [0] * 8)[:8] for bits in range(256)], dtype=np.int32
).ravel()
FIRST_EXPONENT = -1  # the first octave of the tables begins at 2^-1


class Descriptor(NamedTuple):
    """What turns neighbours into A; types are 0 ... 2n − 1, n elements.

    table     flat coefficients;  row_length of a row, blocks of lanes, stride = blocks · lanes channels
    rows      (2n, n) first row of the table of a type and centre, −1 where a pair does not interact;  bits  (2n, n) its k
    constant  (n · stride,) A_0 without neighbours;  empty  (2n · n · stride,) R_e g(R_e) of one slot
    mean, c0, c1  (n,);  cutoff, smooth, protection  Å;  offset  s + offset = x of the tables
    """

    table: np.ndarray
    row_length: int
    blocks: int
    lanes: int
    stride: int
    rows: np.ndarray
    bits: np.ndarray
    constant: np.ndarray
    empty: np.ndarray
    mean: np.ndarray
    c0: np.ndarray
    c1: np.ndarray
    cutoff: float
    smooth: float
    protection: float
    offset: float


class Atoms(NamedTuple):
    """Atoms in blocks of one element.

    order     (N,) atoms sorted by element;  block_start, block_end (n_blocks,) places in ``order``;  block_element (n_blocks,)
    elements  (kinds,) element of the model of each kind;  magnetic_kinds  how many of them are magnetic
    carries   (n elements,) bool: has virtual atoms;  closest (n, n) Å², a pair closer than this has gone wrong
    """

    order: np.ndarray
    block_start: np.ndarray
    block_end: np.ndarray
    block_element: np.ndarray
    elements: np.ndarray
    magnetic_kinds: int
    carries: np.ndarray
    closest: np.ndarray


class Work(NamedTuple):
    """Arrays that an evaluation fills.

    real      (N · 4 · stride,) A of the real neighbours alone, good while positions stay
    energies  (N,) eV, without the model's shift;  centre (N, 4) eV/Å, forces on the centres by their own energy
    pulls     (places + 8, 4) ∂E/∂d of real neighbours;  virtual_pulls (signs, virtual places + 8, 4)
    virials   (n_blocks, 9);  bad (n_blocks,) an atom too close to another, or −1
    block_energies  (n_blocks,) eV
    and for each worker: numbers, geometry, rows, places and ends (of the pairs of a block), a, slopes, scratch, sums
    """

    real: np.ndarray
    energies: np.ndarray
    centre: np.ndarray
    pulls: np.ndarray
    virtual_pulls: np.ndarray
    virials: np.ndarray
    bad: np.ndarray
    block_energies: np.ndarray
    numbers: np.ndarray
    geometry: np.ndarray
    rows: np.ndarray
    places: np.ndarray
    a: np.ndarray
    slopes: np.ndarray
    scratch: np.ndarray
    sums: np.ndarray
    ends: np.ndarray


@njit(cache=True)
def _inside(first, count, base, neighbours, atoms, packed, shift, sign, x, y, z, limit, close, chosen, at):
    """Append the places of neighbours within the cutoff to ``chosen``; where that ends, and whether one is too close."""
    too_close = 0
    for k in range(0, count, 8):
        nx, ny, nz, _ = gather_rows4(packed, load(neighbours, first + k))
        if sign != 0.0:
            sx, sy, sz, _ = gather_rows4(shift, load(atoms, first + k))
            nx, ny, nz = nx + sign * sx, ny + sign * sy, nz + sign * sz
        dx, dy, dz = nx - x, ny - y, nz - z
        r2 = dx * dx + dy * dy + dz * dz
        lanes = mask_less(r2, limit)
        close_ones = mask_less(r2, close)
        if count - k < 8:  # what comes behind the section is somebody else's
            lanes &= (1 << (count - k)) - 1
            close_ones &= (1 << (count - k)) - 1
        too_close |= close_ones
        store_as(chosen, at, offset_by(load(SET_LANES, 8 * lanes), base + k))
        at += bit_count(lanes)
    return at, too_close


@njit(cache=True)
def _store_pairs(
    dx, dy, dz, at, capacity, net, mean, c0, c1, row, bits, numbers, numbers_at, geometry, geometry_at, rows, rows_at
):
    """Environment and place in the table of eight neighbours at d, to place ``at`` of the columns."""
    r = vsqrt(dx * dx + dy * dy + dz * dz)
    inverse_r = where_less(1e-100, r, 1.0 / larger(r, 1e-100), 0.0)
    inverse = 1.0 / (r + net.protection)
    scale = 1.0 / (net.cutoff - net.smooth)
    u = larger((r - net.smooth) * scale, 0.0)
    u2 = u * u
    w = 1.0 - u2 * u * (10.0 - 15.0 * u + 6.0 * u2)
    dw = -30.0 * u2 * (1.0 - 2.0 * u + u2) * scale
    s = w * inverse
    ds = (dw - s) * inverse
    a = s * inverse * c1
    da = (dw - 2.0 * s) * inverse * inverse * c1
    m, t, inverse_width = octave_position(larger(s, 0.0) + net.offset, bits, FIRST_EXPONENT)
    store_as(rows, rows_at + at, offset_by(m, row))
    n = numbers_at + at
    store_as(numbers, n, t)
    store_as(numbers, n + capacity, (s - mean) * c0)
    store_as(numbers, n + 2 * capacity, a * dx)
    store_as(numbers, n + 3 * capacity, a * dy)
    store_as(numbers, n + 4 * capacity, a * dz)
    g = geometry_at + at
    store_as(geometry, g, dx)
    store_as(geometry, g + capacity, dy)
    store_as(geometry, g + 2 * capacity, dz)
    store_as(geometry, g + 3 * capacity, a)
    store_as(geometry, g + 4 * capacity, da * inverse_r)
    store_as(geometry, g + 5 * capacity, ds * inverse_r)
    store_as(geometry, g + 6 * capacity, inverse_width)


@njit(cache=True)
def accumulate(begin, count, capacity, net, work_numbers, numbers_at, rows, rows_at, a, a_at):
    """A += Σ R ⊗ g over ``count`` neighbours from ``begin`` on; up to four blocks of channels at a time."""
    block = 0
    while block < net.blocks:
        left = net.blocks - block
        n = 4 if left == 4 or left > 6 else min(left, 3)
        at = block * COEFFICIENTS * net.lanes
        given, place = numbers_at + begin, a_at + block * net.lanes
        if n == 4:
            accumulate_4(
                net.table,
                rows,
                rows_at + begin,
                net.row_length,
                at,
                work_numbers,
                given,
                capacity,
                count,
                a,
                place,
                net.stride,
            )
        elif n == 3:
            accumulate_3(
                net.table,
                rows,
                rows_at + begin,
                net.row_length,
                at,
                work_numbers,
                given,
                capacity,
                count,
                a,
                place,
                net.stride,
            )
        elif n == 2:
            accumulate_2(
                net.table,
                rows,
                rows_at + begin,
                net.row_length,
                at,
                work_numbers,
                given,
                capacity,
                count,
                a,
                place,
                net.stride,
            )
        else:
            accumulate_1(
                net.table,
                rows,
                rows_at + begin,
                net.row_length,
                at,
                work_numbers,
                given,
                capacity,
                count,
                a,
                place,
                net.stride,
            )
        block += n


@njit(cache=True)
def neighbours(
    i, element, sign, own, kinds, begin, capacity, net, atoms, pairs, packed, shift, places, places_at, numbers, numbers_at,
    geometry, geometry_at, rows, rows_at, a, a_at,
):  # fmt: skip
    """Pick and store the neighbours of atom i from ``begin`` on; returns the end, and whether one is too close.

    sign 0: real neighbours of all kinds;  ±1: virtual atoms of the magnetic kinds, and the atom's own (``own``) as the last one.
    A_0 loses what the filled slots had (if a_at ≥ 0).
    """
    n = len(atoms.carries)
    x, y, z = packed[i, 0], packed[i, 1], packed[i, 2]
    mean, c0, c1 = net.mean[element], net.c0[element], net.c1[element]
    limit = net.cutoff * net.cutoff
    base = pairs.start[i] if sign == 0.0 else pairs.magnetic_start[i]
    at, too_close = begin, 0
    for kind in range(kinds):
        other = atoms.elements[kind]
        kind_type = other if sign == 0.0 else other + n
        row = net.rows[kind_type, element]
        if row < 0:
            continue
        low, high = pairs.sections[i, kind], pairs.sections[i, kind + 1]
        close = atoms.closest[other, element] if sign == 0.0 else -1.0
        first = at
        at, close_ones = _inside(
            pairs.start[i] + low, high - low, base + low, pairs.neighbours, pairs.atoms, packed, shift, sign, x, y, z, limit,
            close, places, places_at + at,
        )  # fmt: skip
        at -= places_at
        too_close |= close_ones
        if at == first:
            continue
        back = pairs.start[i] - base
        for k in range(at, at + 8):  # whole vectors are worked on: fill up with the last one
            places[places_at + k] = places[places_at + at - 1]
        for k in range(first, at, 8):
            chosen = offset_by(load(places, places_at + k), back)
            nx, ny, nz, _ = gather_rows4(packed, gather_int(pairs.neighbours, chosen))
            if sign != 0.0:
                sx, sy, sz, _ = gather_rows4(shift, gather_int(pairs.atoms, chosen))
                nx, ny, nz = nx + sign * sx, ny + sign * sy, nz + sign * sz
            _store_pairs(
                nx - x, ny - y, nz - z, k, capacity, net, mean, c0, c1, row, net.bits[kind_type, element], numbers,
                numbers_at, geometry, geometry_at, rows, rows_at,
            )  # fmt: skip
        if a_at >= 0:
            _take_empty(at - first, kind_type * n + element, net, a, a_at)
    if own and net.rows[element + n, element] >= 0:
        row, bits = net.rows[element + n, element], net.bits[element + n, element]
        sx, sy, sz = sign * shift[i, 0], sign * shift[i, 1], sign * shift[i, 2]
        if sx * sx + sy * sy + sz * sz < limit:
            for k in range(at, at + 8):
                places[places_at + k] = pairs.magnetic_start[i + 1] - 1
            _store_pairs(
                splat(sx), splat(sy), splat(sz), at, capacity, net, mean, c0, c1, row, bits, numbers, numbers_at, geometry,
                geometry_at, rows, rows_at,
            )  # fmt: skip
            at += 1
            if a_at >= 0:
                _take_empty(1, (element + n) * n + element, net, a, a_at)
    return at, too_close


@njit(cache=True)
def _take_empty(count, pair, net, a, a_at):
    """A_0 −= count · R_e g(R_e)."""
    for m in range(net.stride):
        a[a_at + m] -= count * net.empty[pair * net.stride + m]


@njit(cache=True)
def pair_forces(
    begin, end, capacity, c0, geometry, geometry_at, sums, places, places_at, spare, pulls, want_virial, virial
):
    """∂E/∂d of stored neighbours to the rows ``places`` of ``pulls``; returns their sum. virial −= Σ ∂E/∂d ⊗ d."""
    fx, fy, fz = splat(0.0), splat(0.0), splat(0.0)
    wxx, wxy, wxz = splat(0.0), splat(0.0), splat(0.0)
    wyx, wyy, wyz = splat(0.0), splat(0.0), splat(0.0)
    wzx, wzy, wzz = splat(0.0), splat(0.0), splat(0.0)
    for k in range(end, (end - begin + 7) // 8 * 8 + begin):
        places[places_at + k] = spare  # lanes behind the end write where nobody reads
    for k in range(begin, end, 8):
        g = geometry_at + k
        dx, dy, dz = load(geometry, g), load(geometry, g + capacity), load(geometry, g + 2 * capacity)
        a, da, ds = load(geometry, g + 3 * capacity), load(geometry, g + 4 * capacity), load(geometry, g + 5 * capacity)
        inverse_width = load(geometry, g + 6 * capacity)
        u0, ux, uy, uz = (
            load(sums, k),
            load(sums, capacity + k),
            load(sums, 2 * capacity + k),
            load(sums, 3 * capacity + k),
        )
        q = load(sums, 4 * capacity + k)
        along = (ux * dx + uy * dy + uz * dz) * da + (u0 * c0 + q * inverse_width) * ds
        gx, gy, gz = a * ux + along * dx, a * uy + along * dy, a * uz + along * dz
        scatter_rows4(pulls, load(places, places_at + k), gx, gy, gz, splat(0.0))
        if k + 8 > end:
            lane = lane_numbers(float(k))
            last = float(end) - 0.5
            gx, gy, gz = (
                where_less(lane, last, gx, 0.0),
                where_less(lane, last, gy, 0.0),
                where_less(lane, last, gz, 0.0),
            )
            if want_virial:
                dx, dy, dz = (
                    where_less(lane, last, dx, 0.0),
                    where_less(lane, last, dy, 0.0),
                    where_less(lane, last, dz, 0.0),
                )
        fx, fy, fz = fx + gx, fy + gy, fz + gz
        if want_virial:
            wxx, wxy, wxz = wxx + gx * dx, wxy + gx * dy, wxz + gx * dz
            wyx, wyy, wyz = wyx + gy * dx, wyy + gy * dy, wyz + gy * dz
            wzx, wzy, wzz = wzx + gz * dx, wzy + gz * dy, wzz + gz * dz
    if want_virial:
        virial[0] -= hsum(wxx)
        virial[1] -= hsum(wxy)
        virial[2] -= hsum(wxz)
        virial[3] -= hsum(wyx)
        virial[4] -= hsum(wyy)
        virial[5] -= hsum(wyz)
        virial[6] -= hsum(wzx)
        virial[7] -= hsum(wzy)
        virial[8] -= hsum(wzz)
    return hsum(fx), hsum(fy), hsum(fz)
