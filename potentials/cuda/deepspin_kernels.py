"""The network's passes on the GPU, in either precision: pairs, A, the descriptor, and the way back to ∂E/∂d. Notation of
``potentials.deepspin.kernels``.

A block of atoms of one element is in work at a time; row r of it is atom order[first + r]. The neighbours of a row within the
cutoff stand side by side in *slots*: real ones from 0 to ends[r, 0], virtual ones at +ηS to ends[r, 1], at −ηS to
ends[r, 2]. Slots hold the place k of the pair in the list (−1: the atom's own virtual atom), the row of the table, and the numbers
of the pair. Pairs are in float64, channels and their sums over neighbours in the precision of the table, and what pairs pull at
atoms is summed in float64.

Tables are (row, block of LANES channels, 6 coefficients, lane), so that LANES threads read a coefficient in one sector of memory.
One thread per row and channel makes A; LANES threads per slot make its sums over channels, added in a fixed order in shared memory.
"""

import math

from numba import cuda

from spinmd.cuda.launch import array, f8, i4, i8, kernel
from spinmd.cuda.lists import LOST
from spinmd.cuda.sums import THREADS, subtract_virial
from spinmd.potentials.cuda.deepspin_nets import in_both_precisions

LANES = 8
COEFFICIENTS = 6
ROW = LANES * COEFFICIENTS  # numbers of a block of channels in a row of the table
GROUPS = THREADS // LANES  # slots that a block of threads works on at a time


@cuda.jit(device=True)
def _fill(i, sign, own, n, base, at, packed, owner, elements, neighbours, count, shift, rows_of, closest, cutoff2, r, section,
          slots, filled, status):  # fmt: skip
    """Places of the neighbours of atom i within the cutoff to the slots from ``at`` on, and how many there are of each element;
    returns the end."""
    x, y, z = packed[i, 0], packed[i, 1], packed[i, 2]
    element = elements[i]
    for other in range(n):
        filled[r, section, other] = 0
    for k in range(count[i]):
        m = neighbours[k, i]
        j = owner[m]
        other = elements[j]
        if rows_of[base + other, element] >= 0:
            dx, dy, dz = packed[m, 0] - x, packed[m, 1] - y, packed[m, 2] - z
            if sign != 0.0:
                dx += sign * shift[j, 0]
                dy += sign * shift[j, 1]
                dz += sign * shift[j, 2]
            r2 = dx * dx + dy * dy + dz * dz
            if r2 < cutoff2:
                slots[r, at] = k
                filled[r, section, other] += 1
                at += 1
                if sign == 0.0 and r2 < closest[other, element]:
                    status[LOST] = 1
    if own != 0 and rows_of[base + element, element] >= 0 and shift[i, 3] < cutoff2:
        slots[r, at] = -1
        filled[r, section, element] += 1
        at += 1
    return at


@kernel(
    i8, i8, i8, i8, array(i4, 1), array(f8, 2), array(i4, 1), array(i4, 1), array(i4, 2), array(i4, 1), array(f8, 2),
    array(i4, 2), array(i4, 1), array(f8, 2), f8, f8, array(i4, 2), array(i4, 2), array(i4, 3), array(i8, 1),
)  # fmt: skip
def pick(
    rows, first, signs, real_ones, order, packed, owner, elements, neighbours, count, shift, rows_of, carries, closest, cutoff2,
    longest2, slots, ends, filled, status,
):  # fmt: skip
    """Slots of the real neighbours (if ``real_ones``) and of the virtual ones of each row. One thread per row."""
    r = cuda.grid(1)
    if r < rows:
        i = order[first + r]
        n = closest.shape[0]
        at = 0
        if real_ones != 0:
            at = _fill(
                i, 0.0, 0, n, 0, at, packed, owner, elements, neighbours, count, shift, rows_of, closest, cutoff2, r, 0, slots,
                filled, status,
            )  # fmt: skip
        ends[r, 0] = at
        for section in range(1, signs + 1):
            at = _fill(
                i, 3.0 - 2.0 * section, carries[elements[i]], n, n, at, packed, owner, elements, neighbours, count, shift,
                rows_of, closest, cutoff2, r, section, slots, filled, status,
            )  # fmt: skip
            ends[r, section] = at
        if not shift[i, 3] <= longest2:  # the lists do not reach its virtual atom
            status[LOST] = 1


@cuda.jit(device=True)
def table_place(x, bits, octaves):
    """Row and place t in a table of 2^bits intervals in each octave of x, the first of which begins at ½, and 1/width."""
    mantissa, octave = math.frexp(x)
    intervals = 1 << bits
    place = (2.0 * mantissa - 1.0) * intervals
    if not (0 <= octave < octaves and place < intervals):  # also of what is infinite
        return 0, 0.0, 0.0
    m = int(place)
    return octave * intervals + m, place - m, 2.0 * intervals / float(1 << octave)


def _describe_pairs(real):
    def describe_pairs(
        rows, first, capacity, signs, order, packed, owner, elements, neighbours, shift, slots, ends, rows_of, bits_of, scales,
        cutoff, smooth, protection, offset, octaves, table_rows, numbers, geometry,
    ):  # fmt: skip
        """The numbers of each slot: t, R_0, R_x, R_y, R_z, and d, a, a'/r, s'/r, dt/ds. One thread per slot."""
        thread = cuda.grid(1)
        r, p = thread // capacity, thread % capacity
        if r < rows and p < ends[r, signs]:
            i = order[first + r]
            element, n = elements[i], scales.shape[0]
            sign, base = 0.0, 0
            if p >= ends[r, 0]:
                sign, base = (1.0 if p < ends[r, 1] else -1.0), n
            k = slots[r, p]
            j = i
            dx, dy, dz = 0.0, 0.0, 0.0
            if k >= 0:
                m = neighbours[k, i]
                j = owner[m]
                dx, dy, dz = packed[m, 0] - packed[i, 0], packed[m, 1] - packed[i, 1], packed[m, 2] - packed[i, 2]
            dx += sign * shift[j, 0]
            dy += sign * shift[j, 1]
            dz += sign * shift[j, 2]
            kind = base + elements[j]
            mean, c0, c1 = scales[element, 0], scales[element, 1], scales[element, 2]
            distance = math.sqrt(dx * dx + dy * dy + dz * dz)
            inverse_r = 1.0 / distance if distance > 1e-100 else 0.0
            inverse = 1.0 / (distance + protection)
            scale = 1.0 / (cutoff - smooth)
            u = max((distance - smooth) * scale, 0.0)
            u2 = u * u
            w = 1.0 - u2 * u * (10.0 - 15.0 * u + 6.0 * u2)
            dw = -30.0 * u2 * (1.0 - 2.0 * u + u2) * scale
            s = w * inverse
            ds = (dw - s) * inverse
            a = s * inverse * c1
            da = (dw - 2.0 * s) * inverse * inverse * c1
            at, t, inverse_width = table_place(max(s, 0.0) + offset, bits_of[kind, element], octaves)
            table_rows[r, p] = rows_of[kind, element] + at
            numbers[r, p, 0], numbers[r, p, 1] = real(t), real((s - mean) * c0)
            numbers[r, p, 2], numbers[r, p, 3], numbers[r, p, 4] = real(a * dx), real(a * dy), real(a * dz)
            geometry[r, p, 0], geometry[r, p, 1], geometry[r, p, 2] = dx, dy, dz
            geometry[r, p, 3], geometry[r, p, 4], geometry[r, p, 5] = a, da * inverse_r, ds * inverse_r
            geometry[r, p, 6] = inverse_width

    return describe_pairs, (
        i8, i8, i8, i8, array(i4, 1), array(f8, 2), array(i4, 1), array(i4, 1), array(i4, 2), array(f8, 2), array(i4, 2),
        array(i4, 2), array(i4, 2), array(i4, 2), array(f8, 2), f8, f8, f8, f8, i8, array(i4, 2), array(real, 3), array(f8, 3),
    )  # fmt: skip


def _accumulate(real):
    def accumulate(
        rows,
        first,
        section,
        element,
        order,
        slots_end,
        filled,
        table_rows,
        numbers,
        table,
        constant,
        empty,
        start,
        start_at,
        a,
    ):
        """A_km of the slots of one section: Σ R_k g_m, and A_0 without what filled slots had. One thread per row and channel.

        Section 0 begins with the constant, the others with ``start`` (A of the real neighbours, of all atoms).
        """
        thread = cuda.grid(1)
        stride = constant.shape[1]
        r, m = thread // stride, thread % stride
        if r < rows:
            a0, a1, a2, a3 = real(0.0), real(0.0), real(0.0), real(0.0)
            row_length = stride * COEFFICIENTS
            column = m // LANES * ROW + m % LANES
            begin = slots_end[r, section - 1] if section > 0 else 0
            for p in range(begin, slots_end[r, section]):
                at = table_rows[r, p] * row_length + column
                t = numbers[r, p, 0]
                g = table[at + 5 * LANES]
                g = g * t + table[at + 4 * LANES]
                g = g * t + table[at + 3 * LANES]
                g = g * t + table[at + 2 * LANES]
                g = g * t + table[at + LANES]
                g = g * t + table[at]
                a0 += numbers[r, p, 1] * g
                a1 += numbers[r, p, 2] * g
                a2 += numbers[r, p, 3] * g
                a3 += numbers[r, p, 4] * g
            n = filled.shape[2]
            base = n if section > 0 else 0
            for other in range(n):
                a0 -= real(filled[r, section, other]) * empty[base + other, element, m]
            i = order[first + r]
            if section > 0:
                a0 += start[i, 0, m]
                a1 += start[i, 1, m]
                a2 += start[i, 2, m]
                a3 += start[i, 3, m]
            else:
                a0 += constant[element, m]
            row = i if start_at != 0 else r
            a[row, 0, m], a[row, 1, m], a[row, 2, m], a[row, 3, m] = a0, a1, a2, a3

    return accumulate, (
        i8, i8, i8, i8, array(i4, 1), array(i4, 2), array(i4, 3), array(i4, 2), array(real, 3), array(real, 1), array(real, 2),
        array(real, 3), array(real, 3), i8, array(real, 3),
    )  # fmt: skip


def _describe(real):
    def describe(rows, width, axis, a, d):
        """D_mb = Σ_k A_km A_kb for b < axis, at m · axis + b. One thread per number."""
        thread = cuda.grid(1)
        size = width * axis
        r, at = thread // size, thread % size
        if r < rows:
            m, b = at // axis, at % axis
            total = a[r, 0, m] * a[r, 0, b]
            for k in range(1, 4):
                total += a[r, k, m] * a[r, k, b]
            d[r, at] = total

    return describe, (i8, i8, i8, array(real, 3), array(real, 2))


def _undescribe(real):
    def undescribe(rows, width, axis, slot, share, sum_up, a, by_d, slopes):
        """∂E/∂A_km = Σ_b ∂E/∂D_mb A_kb + (m < axis) Σ_n ∂E/∂D_nm A_kn, times ``share``, to ``slopes[slot]``; with ``sum_up`` it is
        also added to (1), or begins (2), the sum over both signs in ``slopes[0]``. One thread per row and channel."""
        thread = cuda.grid(1)
        stride = a.shape[2]
        r, m = thread // stride, thread % stride
        if r < rows:
            s0, s1, s2, s3 = real(0.0), real(0.0), real(0.0), real(0.0)
            if m < width:
                for b in range(axis):
                    d = by_d[r, m * axis + b]
                    s0 += d * a[r, 0, b]
                    s1 += d * a[r, 1, b]
                    s2 += d * a[r, 2, b]
                    s3 += d * a[r, 3, b]
                if m < axis:
                    for other in range(width):
                        d = by_d[r, other * axis + m]
                        s0 += d * a[r, 0, other]
                        s1 += d * a[r, 1, other]
                        s2 += d * a[r, 2, other]
                        s3 += d * a[r, 3, other]
            part = real(share)
            s0, s1, s2, s3 = s0 * part, s1 * part, s2 * part, s3 * part
            slopes[slot, r, 0, m], slopes[slot, r, 1, m] = s0, s1
            slopes[slot, r, 2, m], slopes[slot, r, 3, m] = s2, s3
            if sum_up != 0:
                if sum_up == 1:
                    s0, s1 = slopes[0, r, 0, m] + s0, slopes[0, r, 1, m] + s1
                    s2, s3 = slopes[0, r, 2, m] + s2, slopes[0, r, 3, m] + s3
                slopes[0, r, 0, m], slopes[0, r, 1, m] = s0, s1
                slopes[0, r, 2, m], slopes[0, r, 3, m] = s2, s3

    return undescribe, (i8, i8, i8, i8, f8, i8, array(real, 3), array(real, 2), array(real, 4))


def _sum_channels(real):
    def sum_channels(rows, signs, everything, table_rows, numbers, ends, table, slopes, sums):
        """Sums over channels of each slot, with B = ∂E/∂A: Σ_m B_km g_m, k = 0, x, y, z, and Σ_m (Σ_k R_k B_km) dg_m/dt.

        One block of threads per row, LANES threads per slot; each takes every LANES-th channel. Without
        ``everything`` real neighbours are left out.
        """
        part = cuda.shared.array((5, THREADS), real)
        r, thread = cuda.blockIdx.x, cuda.threadIdx.x
        lane, group = thread % LANES, thread // LANES
        stride = slopes.shape[3]
        row_length = stride * COEFFICIENTS
        end = ends[r, signs]
        for tile in range(0 if everything != 0 else ends[r, 0], end, GROUPS):
            p = tile + group
            u0, ux, uy, uz, q = real(0.0), real(0.0), real(0.0), real(0.0), real(0.0)
            if p < end:
                slot = 0
                if signs == 2 and p >= ends[r, 0]:
                    slot = 1 if p < ends[r, 1] else 2
                at = table_rows[r, p] * row_length + lane
                t, r0, rx = numbers[r, p, 0], numbers[r, p, 1], numbers[r, p, 2]
                ry, rz = numbers[r, p, 3], numbers[r, p, 4]
                for m in range(lane, stride, LANES):
                    c5 = table[at + 5 * LANES]
                    g = c5 * t + table[at + 4 * LANES]
                    slope = c5 * t + g
                    g = g * t + table[at + 3 * LANES]
                    slope = slope * t + g
                    g = g * t + table[at + 2 * LANES]
                    slope = slope * t + g
                    g = g * t + table[at + LANES]
                    slope = slope * t + g
                    g = g * t + table[at]
                    b0, bx = slopes[slot, r, 0, m], slopes[slot, r, 1, m]
                    by, bz = slopes[slot, r, 2, m], slopes[slot, r, 3, m]
                    u0 += b0 * g
                    ux += bx * g
                    uy += by * g
                    uz += bz * g
                    q += (b0 * r0 + bx * rx + by * ry + bz * rz) * slope
                    at += ROW
            part[0, thread], part[1, thread], part[2, thread], part[3, thread], part[4, thread] = u0, ux, uy, uz, q
            cuda.syncthreads()
            if p < end and lane < 5:
                total = 0.0
                for other in range(group * LANES, (group + 1) * LANES):
                    total += float(part[lane, other])
                sums[r, p, lane] = total
            cuda.syncthreads()

    return sum_channels, (
        i8, i8, i8, array(i4, 2), array(real, 3), array(i4, 2), array(real, 1), array(real, 4), array(f8, 3),
    )  # fmt: skip


def _add_energies(real):
    def add_energies(rows, first, order, share, given, energies):
        """A share of the nets' energies to those of the atoms, eV. One thread per row."""
        r = cuda.grid(1)
        if r < rows:
            energies[order[first + r]] += share * float(given[r, 0])

    return add_energies, (i8, i8, array(i4, 1), f8, array(real, 2), array(f8, 1))


DESCRIBE_PAIRS, ACCUMULATE = in_both_precisions(_describe_pairs), in_both_precisions(_accumulate)
DESCRIBE, UNDESCRIBE = in_both_precisions(_describe), in_both_precisions(_undescribe)
SUM_CHANNELS, ADD_ENERGIES = in_both_precisions(_sum_channels), in_both_precisions(_add_energies)


@kernel(
    i8, i8, i8, i8, i8, i8, array(i4, 1), array(i4, 2), array(i4, 2), f8, array(f8, 3), array(f8, 3), array(f8, 3), array(f8, 3)
)  # fmt: skip
def pull_pairs(rows, first, capacity, signs, everything, room, order, slots, ends, c0, geometry, sums, pulls, own):
    """∂E/∂d of each slot to the pair's place in ``pulls``, section by section; of the own virtual atom to ``own``. One thread
    per slot."""
    thread = cuda.grid(1)
    r, p = thread // capacity, thread % capacity
    if r < rows and p < ends[r, signs] and (everything != 0 or p >= ends[r, 0]):
        i = order[first + r]
        section = 0
        if p >= ends[r, 0]:
            section = 1 if p < ends[r, 1] else 2
        dx, dy, dz = geometry[r, p, 0], geometry[r, p, 1], geometry[r, p, 2]
        a, da, ds = geometry[r, p, 3], geometry[r, p, 4], geometry[r, p, 5]
        u0, ux, uy, uz = sums[r, p, 0], sums[r, p, 1], sums[r, p, 2], sums[r, p, 3]
        along = (ux * dx + uy * dy + uz * dz) * da + (u0 * c0 + sums[r, p, 4] * geometry[r, p, 6]) * ds
        gx, gy, gz = a * ux + along * dx, a * uy + along * dy, a * uz + along * dz
        k = slots[r, p]
        if k >= 0:
            pulls[section * room + k, i, 0], pulls[section * room + k, i, 1] = gx, gy
            pulls[section * room + k, i, 2] = gz
        else:
            own[section - 1, i, 0], own[section - 1, i, 1], own[section - 1, i, 2] = gx, gy, gz


@kernel(
    i8, i8, i8, i8, array(f8, 1), array(f8, 1), array(f8, 2), array(i4, 1), array(i4, 2), array(i4, 1), array(i4, 2), array(f8, 3),
    array(f8, 3), array(f8, 2), array(f8, 2), array(f8, 2),
)  # fmt: skip
def gather(
    signs, want_force, want_field, want_virial, eta, moments, packed, owner, neighbours, count, reverse, pulls, own, forces,
    fields, virials,
):  # fmt: skip
    """F_i = Σ_j (g_ij − g_ji), field_i = −η_i Σ_j g^v_ji, W_i = −Σ_j g_ij ⊗ (R_j − R_i) from what stands in the places. One
    thread per atom.

    Displacements η S do not strain, and what they contribute to Σ g ⊗ d goes out again with field ⊗ S: the vectors between the
    real atoms are left.
    """
    i = cuda.grid(1)
    if i < count.shape[0]:
        room = neighbours.shape[0]
        x, y, z = packed[i, 0], packed[i, 1], packed[i, 2]
        fx, fy, fz = 0.0, 0.0, 0.0
        hx, hy, hz = 0.0, 0.0, 0.0
        vxx, vxy, vxz = 0.0, 0.0, 0.0
        vyx, vyy, vyz = 0.0, 0.0, 0.0
        vzx, vzy, vzz = 0.0, 0.0, 0.0
        everything = want_force != 0 or want_virial != 0
        for k in range(count[i]):
            n = neighbours[k, i]
            j, back = owner[n], reverse[k, i]
            if everything:
                gx, gy, gz = 0.0, 0.0, 0.0
                for section in range(signs + 1):
                    gx += pulls[section * room + k, i, 0]
                    gy += pulls[section * room + k, i, 1]
                    gz += pulls[section * room + k, i, 2]
                fx, fy, fz = fx + gx, fy + gy, fz + gz
                if want_virial != 0:
                    dx, dy, dz = packed[n, 0] - x, packed[n, 1] - y, packed[n, 2] - z
                    vxx, vxy, vxz = vxx + gx * dx, vxy + gx * dy, vxz + gx * dz
                    vyx, vyy, vyz = vyx + gy * dx, vyy + gy * dy, vyz + gy * dz
                    vzx, vzy, vzz = vzx + gz * dx, vzy + gz * dy, vzz + gz * dz
                if back >= 0:
                    fx -= pulls[back, j, 0]
                    fy -= pulls[back, j, 1]
                    fz -= pulls[back, j, 2]
            if back >= 0 and eta[i] != 0.0:
                for section in range(1, signs + 1):
                    gx = pulls[section * room + back, j, 0]
                    gy = pulls[section * room + back, j, 1]
                    gz = pulls[section * room + back, j, 2]
                    sign = 3.0 - 2.0 * section
                    fx, fy, fz = fx - gx, fy - gy, fz - gz
                    hx, hy, hz = hx + sign * gx, hy + sign * gy, hz + sign * gz
        if want_force != 0:
            forces[i, 0] += fx
            forces[i, 1] += fy
            forces[i, 2] += fz
        if want_field != 0 and eta[i] != 0.0 and moments[i] > 0.0:  # a spin that is zero for good has no field
            for section in range(signs):
                sign = 1.0 - 2.0 * section
                hx += sign * own[section, i, 0]
                hy += sign * own[section, i, 1]
                hz += sign * own[section, i, 2]
            fields[i, 0] -= eta[i] * hx
            fields[i, 1] -= eta[i] * hy
            fields[i, 2] -= eta[i] * hz
        if want_virial != 0:
            subtract_virial(virials, i, 1.0, vxx, vxy, vxz, vyx, vyy, vyz, vzx, vzy, vzz)
