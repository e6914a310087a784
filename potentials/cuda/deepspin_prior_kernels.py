"""The prior's passes on the GPU: sums x of each centre, features of x, the slopes ∂E/∂x, and the way back to pairs. Float64.

Notation of ``potentials.deepspin.prior``; laws of r are those of that module. x of a centre holds, for each kind (element) of
neighbour, 25 rows of eight numbers (``prior_lanes.ROW_OF``), and n_i behind them. *Features* of x are what the quadratic forms and
the nets are functions of:

    f = (n_i and the sums of L0; Σ_c x_pc x_qc, p ≤ q, of L1, L2, S0; products of L0)
    E_many = coefficient · f + net(f_1 ... f_nz),   g = coefficient + ∂net/∂f
    ∂E/∂x_pc = g_p [L0] + Σ_q (1 + δ_pq) g_pq x_qc

A row is an atom of a block of one element, atom order[first + r].
"""

import math

from numba import cuda

from spinmd.cuda.launch import array, f8, i4, i8, kernel
from spinmd.cuda.sums import subtract_virial
from spinmd.potentials.deepspin.prior import core_repulsion, cutoff_factor, scaled_distance

WIDTH = 8  # functions of a row of x, and threads that share a centre
FACTORS = 25 * WIDTH
HALF, SIXTH = math.sqrt(0.5), math.sqrt(1.0 / 6.0)


@cuda.jit(device=True)
def _tensor(ux, uy, uz):
    """uu − 1/3 in five orthonormal components."""
    r2 = 2.0 * HALF
    return (
        r2 * ux * uy,
        r2 * uy * uz,
        r2 * uz * ux,
        HALF * (ux * ux - uy * uy),
        SIXTH * (2.0 * uz * uz - ux * ux - uy * uy),
    )


@kernel(
    i8, i8, i8, i8, i8, f8, array(i4, 1), array(f8, 2), array(i4, 1), array(i4, 1), array(i4, 2), array(i4, 1), array(f8, 2),
    array(f8, 3), array(f8, 4), array(f8, 2), array(f8, 2),
)  # fmt: skip
def sum_neighbours(
    rows,
    first,
    kind,
    functions,
    kp,
    cutoff,
    order,
    packed,
    owner,
    kinds,
    neighbours,
    count,
    w,
    basis,
    pair,
    x,
    energies,
):
    """x of each row, and its pair energy in WIDTH parts. WIDTH threads per row, one for each function φ_k.

    The thread of function k adds up the 25 sums with φ_k, and the pair functions k, k + WIDTH, ...; thread 0 adds the core.
    """
    thread = cuda.grid(1)
    r, lane = thread // WIDTH, thread % WIDTH
    if r < rows:
        i = order[first + r]
        px, py, pz = packed[i, 0], packed[i, 1], packed[i, 2]
        sx, sy, sz, ni = w[i, 0], w[i, 1], w[i, 2], w[i, 3]
        energy = 0.0
        for q in range(basis.shape[1]):
            x0, x1, x2, x3, x4 = 0.0, 0.0, 0.0, 0.0, 0.0
            x5, x6, x7, x8, x9 = 0.0, 0.0, 0.0, 0.0, 0.0
            x10, x11, x12, x13, x14 = 0.0, 0.0, 0.0, 0.0, 0.0
            x15, x16, x17, x18, x19 = 0.0, 0.0, 0.0, 0.0, 0.0
            x20, x21, x22, x23, x24 = 0.0, 0.0, 0.0, 0.0, 0.0
            for m in range(count[i]):
                n = neighbours[m, i]
                j = owner[n]
                if kinds[j] != q:
                    continue
                dx, dy, dz = packed[n, 0] - px, packed[n, 1] - py, packed[n, 2] - pz
                r2 = dx * dx + dy * dy + dz * dz
                if not r2 < cutoff * cutoff:
                    continue
                distance = math.sqrt(r2)
                inverse = 1.0 / distance
                ux, uy, uz = dx * inverse, dy * inverse, dz * inverse
                ox, oy, oz, nj = w[j, 0], w[j, 1], w[j, 2], w[j, 3]
                c = sx * ox + sy * oy + sz * oz
                place, _ = scaled_distance(distance, basis[kind, q, 0], basis[kind, q, 1], cutoff)
                envelope, _ = cutoff_factor(distance, cutoff)
                phi, t0, t1 = 0.0, 1.0, place
                for f in range(max(functions, kp)):
                    if f % WIDTH == lane:
                        if f < functions:
                            phi = t0 * envelope
                        if f < kp:
                            value = pair[kind, q, f, 0] + pair[kind, q, f, 1] * c + pair[kind, q, f, 2] * nj
                            value += pair[kind, q, f, 3] * c * c + pair[kind, q, f, 4] * ni * nj
                            value += pair[kind, q, f, 5] * nj * nj + pair[kind, q, f, 6] * c * nj
                            energy += t0 * envelope * value
                    t0, t1 = t1, 2.0 * place * t1 - t0
                if lane == 0 and distance < basis[kind, q, 0] and basis[kind, q, 2] != 0.0:
                    core, _ = core_repulsion(
                        distance, basis[kind, q, 0], basis[kind, q, 1], basis[kind, q, 2], basis[kind, q, 3]
                    )
                    energy += 0.5 * core
                xy, yz, zx, xx, zz = _tensor(ux, uy, uz)
                with_c, with_n = phi * c, phi * nj
                x0 += phi
                x1 += phi * ux
                x2 += phi * uy
                x3 += phi * uz
                x4 += phi * xy
                x5 += phi * yz
                x6 += phi * zx
                x7 += phi * xx
                x8 += phi * zz
                x9 += with_c
                x10 += with_n
                x11 += with_c * ux
                x12 += with_c * uy
                x13 += with_c * uz
                x14 += with_n * ux
                x15 += with_n * uy
                x16 += with_n * uz
                x17 += with_c * xy
                x18 += with_c * yz
                x19 += with_c * zx
                x20 += with_c * xx
                x21 += with_c * zz
                x22 += phi * ox
                x23 += phi * oy
                x24 += phi * oz
            at = FACTORS * q + lane
            x[r, at], x[r, at + 8], x[r, at + 16], x[r, at + 24], x[r, at + 32] = x0, x1, x2, x3, x4
            x[r, at + 40], x[r, at + 48], x[r, at + 56], x[r, at + 64], x[r, at + 72] = x5, x6, x7, x8, x9
            x[r, at + 80], x[r, at + 88], x[r, at + 96], x[r, at + 104], x[r, at + 112] = x10, x11, x12, x13, x14
            x[r, at + 120], x[r, at + 128], x[r, at + 136], x[r, at + 144], x[r, at + 152] = x15, x16, x17, x18, x19
            x[r, at + 160], x[r, at + 168], x[r, at + 176], x[r, at + 184], x[r, at + 192] = x20, x21, x22, x23, x24
        energies[r, lane] = energy
        if lane == 0:
            x[r, FACTORS * basis.shape[1]] = ni


@kernel(i8, array(i4, 2), array(f8, 2), array(f8, 2))
def make_features(rows, products, x, features):
    """f_m = Σ_c x[p + 8 c] x[q + 8 c], or x[p] where q < 0; products[m] = p, q, components; p < 0: a sum that is not there. One
    thread per feature."""
    thread = cuda.grid(1)
    size = products.shape[0]
    r, m = thread // size, thread % size
    if r < rows:
        p, q, components = products[m, 0], products[m, 1], products[m, 2]
        total = 0.0
        if components == 0:
            total = x[r, p]
        else:
            for c in range(components):
                total += x[r, p + WIDTH * c] * x[r, q + WIDTH * c]
        features[r, m] = total


@kernel(i8, i8, array(i4, 2), array(i4, 2), array(i4, 2), array(f8, 1), array(f8, 2), array(f8, 2), array(f8, 2))
def make_slopes(rows, nz, columns, features, factors, coefficients, by_input, x, slopes):
    """∂E/∂x of one column: Σ_t g_m(t) · scale(t) · x[place(t)]. One thread per column that is there.

    columns[o] = place in x, number of terms;  features[t, o] = m;  factors[t, o] = 2 place + 1 (scale 2), 2 place (scale 1), or −1
    for 1 instead of a number of x. Terms of neighbouring columns stand side by side, for neighbouring threads.
    by_input (rows, nz)  g of the first nz features, of others g is the coefficient
    """
    thread = cuda.grid(1)
    size = columns.shape[0]
    r, o = thread // size, thread % size
    if r < rows:
        total = 0.0
        for t in range(columns[o, 1]):
            m, factor = features[t, o], factors[t, o]
            g = by_input[r, m] if m < nz else coefficients[m]
            if factor < 0:
                total += g
            else:
                total += g * (1 + factor % 2) * x[r, factor // 2]
        slopes[r, columns[o, 0]] = total


@kernel(
    i8, i8, i8, array(i4, 1), array(f8, 2), array(f8, 2), array(f8, 1), array(f8, 2), array(f8, 1), array(f8, 1)
)  # fmt: skip
def add_centres(rows, first, nets, order, pair_energies, w, landau, by_net, many, energies):
    """Energies of the rows: pairs, many-body forms (``many``), net (if ``nets``) and Landau terms. One thread per row."""
    r = cuda.grid(1)
    if r < rows:
        i = order[first + r]
        total = 0.0
        for lane in range(WIDTH):
            total += pair_energies[r, lane]
        total += many[r]
        if nets != 0:
            total += by_net[r, 0]
        n = w[i, 3]
        energies[i] += total + n * (landau[0] + n * (landau[1] + n * (landau[2] + n * landau[3])))


@kernel(
    i8, i8, i8, i8, i8, i8, i8, i8, f8, array(i4, 1), array(f8, 2), array(i4, 1), array(i4, 1), array(i4, 2), array(i4, 1),
    array(f8, 2), array(f8, 3), array(f8, 4), array(f8, 2), array(f8, 1), array(f8, 3), array(f8, 1),
)  # fmt: skip
def pull_neighbours(
    rows, first, kind, room, functions, kp, many, want_force, cutoff, order, packed, owner, kinds, neighbours, count, w, basis,
    pair, slopes, landau, pulls, by_length,
):  # fmt: skip
    """What a centre's energy does to a pair, to its place: ∂E_i/∂d, ∂E_i/∂c; −∂E_i/∂ŝ_j, and ∂E_i/∂n_i of the pair
    terms. One thread per place.

    Thread 0 of a row writes ∂E_i/∂n_i of the forms and Landau terms to ``by_length``.
    """
    thread = cuda.grid(1)
    r, k = thread // room, thread % room
    if r >= rows:
        return
    i = order[first + r]
    ni = w[i, 3]
    if k == 0:
        slope = landau[0] + ni * (2.0 * landau[1] + ni * (3.0 * landau[2] + ni * 4.0 * landau[3]))
        by_length[i] = slope + (slopes[r, FACTORS * basis.shape[1]] if many != 0 else 0.0)
    if k >= count[i]:
        return
    n = neighbours[k, i]
    j = owner[n]
    q = kinds[j]
    dx, dy, dz = packed[n, 0] - packed[i, 0], packed[n, 1] - packed[i, 1], packed[n, 2] - packed[i, 2]
    r2 = dx * dx + dy * dy + dz * dz
    if not r2 < cutoff * cutoff:
        for a in range(8):
            pulls[k, i, a] = 0.0
        return
    distance = math.sqrt(r2)
    inverse = 1.0 / distance
    ux, uy, uz = dx * inverse, dy * inverse, dz * inverse
    sx, sy, sz = w[i, 0], w[i, 1], w[i, 2]
    ox, oy, oz, nj = w[j, 0], w[j, 1], w[j, 2], w[j, 3]
    c = sx * ox + sy * oy + sz * oz
    place, scale = scaled_distance(distance, basis[kind, q, 0], basis[kind, q, 1], cutoff)
    envelope, by_r = cutoff_factor(distance, cutoff)
    scale *= envelope
    xy, yz, zx, xx, zz = _tensor(ux, uy, uz)
    radial, by_c, by_nj = 0.0, 0.0, 0.0
    ax, ay, az, hx, hy, hz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0  # ∂E/∂u of L1, ∂E/∂ŝ_j of S0
    bxy, byz, bzx, bxx, bzz = 0.0, 0.0, 0.0, 0.0, 0.0  # ∂E/∂(uu)
    v0, v1, v2, v3, v4, v5, v6, along_pair = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    c2, nn, n2, cn = c * c, ni * nj, nj * nj, c * nj
    t0, t1, d0, d1 = 1.0, place, 0.0, 1.0
    for f in range(max(functions, kp)):
        if many != 0 and f < functions:
            phi, at = t0 * envelope, FACTORS * q + f
            y9, y10 = slopes[r, at + 72], slopes[r, at + 80]
            y11, y12, y13 = slopes[r, at + 88], slopes[r, at + 96], slopes[r, at + 104]
            y14, y15, y16 = slopes[r, at + 112], slopes[r, at + 120], slopes[r, at + 128]
            y17, y18, y19 = slopes[r, at + 136], slopes[r, at + 144], slopes[r, at + 152]
            y20, y21 = slopes[r, at + 160], slopes[r, at + 168]
            y22, y23, y24 = slopes[r, at + 176], slopes[r, at + 184], slopes[r, at + 192]
            by_c_here = y9 + ux * y11 + uy * y12 + uz * y13 + xy * y17 + yz * y18 + zx * y19 + xx * y20 + zz * y21
            by_nj_here = y10 + ux * y14 + uy * y15 + uz * y16
            by_c += phi * by_c_here
            by_nj += phi * by_nj_here
            hx += phi * y22
            hy += phi * y23
            hz += phi * y24
            if want_force != 0:
                y1, y2, y3 = slopes[r, at + 8], slopes[r, at + 16], slopes[r, at + 24]
                y4, y5, y6 = slopes[r, at + 32], slopes[r, at + 40], slopes[r, at + 48]
                y7, y8 = slopes[r, at + 56], slopes[r, at + 64]
                total = slopes[r, at] + ux * y1 + uy * y2 + uz * y3 + xy * y4 + yz * y5 + zx * y6 + xx * y7 + zz * y8
                total += c * by_c_here + nj * by_nj_here + ox * y22 + oy * y23 + oz * y24
                radial += (d0 * scale + t0 * by_r) * total
                ax += phi * (y1 + c * y11 + nj * y14)
                ay += phi * (y2 + c * y12 + nj * y15)
                az += phi * (y3 + c * y13 + nj * y16)
                bxy += phi * (y4 + c * y17)
                byz += phi * (y5 + c * y18)
                bzx += phi * (y6 + c * y19)
                bxx += phi * (y7 + c * y20)
                bzz += phi * (y8 + c * y21)
        if f < kp:
            p0, p1, p2 = pair[kind, q, f, 0], pair[kind, q, f, 1], pair[kind, q, f, 2]
            p3, p4, p5, p6 = pair[kind, q, f, 3], pair[kind, q, f, 4], pair[kind, q, f, 5], pair[kind, q, f, 6]
            v0 += p0 * t0
            v1 += p1 * t0
            v2 += p2 * t0
            v3 += p3 * t0
            v4 += p4 * t0
            v5 += p5 * t0
            v6 += p6 * t0
            along_pair += d0 * (p0 + p1 * c + p2 * nj + p3 * c2 + p4 * nn + p5 * n2 + p6 * cn)
        t0, t1, d0, d1 = t1, 2.0 * place * t1 - t0, d1, 2.0 * (t1 + place * d1) - d0
    by_c += envelope * (v1 + 2.0 * v3 * c + v6 * nj)
    by_nj = 2.0 * (by_nj + envelope * (v2 + ni * v4 + 2.0 * v5 * nj + v6 * c))
    pulls[k, i, 3] = by_c
    pulls[k, i, 4] = -(by_c * sx + by_nj * ox + hx)
    pulls[k, i, 5] = -(by_c * sy + by_nj * oy + hy)
    pulls[k, i, 6] = -(by_c * sz + by_nj * oz + hz)
    pulls[k, i, 7] = envelope * v4 * nj
    if want_force != 0:
        energy = v0 + v1 * c + v2 * nj + v3 * c2 + v4 * nn + v5 * n2 + v6 * cn
        radial += along_pair * scale + energy * by_r
        if distance < basis[kind, q, 0] and basis[kind, q, 2] != 0.0:
            _, core = core_repulsion(
                distance, basis[kind, q, 0], basis[kind, q, 1], basis[kind, q, 2], basis[kind, q, 3]
            )
            radial += 0.5 * core
        root = 2.0 * HALF
        bxy, byz, bzx, bxx, bzz = root * bxy, root * byz, root * bzx, root * bxx, 2.0 * SIXTH * bzz
        ax += bxy * uy + bzx * uz + (bxx - bzz) * ux
        ay += bxy * ux + byz * uz - (bxx + bzz) * uy
        az += byz * uy + bzx * ux + 2.0 * bzz * uz
        along = radial - (ax * ux + ay * uy + az * uz) * inverse
        pulls[k, i, 0] = ax * inverse + along * ux
        pulls[k, i, 1] = ay * inverse + along * uy
        pulls[k, i, 2] = az * inverse + along * uz


@kernel(
    i8, i8, i8, array(f8, 1), array(f8, 2), array(f8, 2), array(i4, 1), array(i4, 2), array(i4, 1), array(i4, 2), array(f8, 3),
    array(f8, 1), array(f8, 2), array(f8, 2), array(f8, 2),
)  # fmt: skip
def gather_neighbours(
    want_force, want_field, want_virial, answering, packed, w, owner, neighbours, count, reverse, pulls, by_length, forces, fields,
    virials,
):  # fmt: skip
    """F_i = Σ_j (g_ij − g_ji), −∂E/∂ŝ_i from its own energy and its neighbours', W_i = −Σ_j g_ij ⊗ d_ij. One thread per atom.

    answering  1/reference moment, 0 for an atom without a moment: it takes no part in spin dynamics
    """
    i = cuda.grid(1)
    if i < count.shape[0]:
        x, y, z = packed[i, 0], packed[i, 1], packed[i, 2]
        fx, fy, fz = 0.0, 0.0, 0.0
        hx, hy, hz, by_n = 0.0, 0.0, 0.0, by_length[i]
        vxx, vyy, vzz, vxy, vxz, vyz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for k in range(count[i]):
            n = neighbours[k, i]
            j, back = owner[n], reverse[k, i]
            by_c = pulls[k, i, 3]
            hx -= by_c * w[j, 0]
            hy -= by_c * w[j, 1]
            hz -= by_c * w[j, 2]
            by_n += pulls[k, i, 7]
            if back >= 0:
                hx += pulls[back, j, 4]
                hy += pulls[back, j, 5]
                hz += pulls[back, j, 6]
            if want_force != 0 or want_virial != 0:
                gx, gy, gz = pulls[k, i, 0], pulls[k, i, 1], pulls[k, i, 2]
                fx, fy, fz = fx + gx, fy + gy, fz + gz
                if back >= 0:
                    fx -= pulls[back, j, 0]
                    fy -= pulls[back, j, 1]
                    fz -= pulls[back, j, 2]
                if want_virial != 0:
                    dx, dy, dz = packed[n, 0] - x, packed[n, 1] - y, packed[n, 2] - z
                    vxx, vyy, vzz = vxx + gx * dx, vyy + gy * dy, vzz + gz * dz
                    vxy, vxz, vyz = vxy + gx * dy, vxz + gx * dz, vyz + gy * dz
        if want_field != 0:
            fields[i, 0] += answering[i] * (hx - 2.0 * by_n * w[i, 0])
            fields[i, 1] += answering[i] * (hy - 2.0 * by_n * w[i, 1])
            fields[i, 2] += answering[i] * (hz - 2.0 * by_n * w[i, 2])
        if want_force != 0:
            forces[i, 0] += fx
            forces[i, 1] += fy
            forces[i, 2] += fz
        if want_virial != 0:
            subtract_virial(virials, i, 1.0, vxx, vxy, vxz, vxy, vyy, vyz, vxz, vyz, vzz)
