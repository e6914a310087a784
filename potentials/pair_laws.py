"""Laws of pair terms as scalar functions: the radial part, and how it couples two atoms.

A pair term is E = ½ Σ_{i≠j} E_ij. A radial law gives v(r) and v'(r); a coupling law turns them into the energy E_ij of
an ordered pair, g = ∂E_ij/∂d with d = r_j − r_i (so that the force on i is Σ_j g) and h = −∂E_ij/∂s_i, where s is e =
S/m, or S for the dipole interaction. Loops over pairs are in ``potentials.pair_loops``. eV, Å.
"""

import math

from numba import njit

import spinmd.backend  # noqa: F401  (sets numba's cache folder before kernels are defined)
from spinmd.potentials.radial import smooth_end, smooth_end_slope, table_slope, table_value

# radial laws
TABLE, LENNARD_JONES, MORSE, INVERSE_CUBE = 0, 1, 2, 3
# couplings
SCALAR, BIQUADRATIC, CHIRAL, DIPOLAR = 0, 1, 2, 3


@njit(cache=True)
def lennard_jones(r, epsilon, sigma):
    """4ε[(σ/r)¹² − (σ/r)⁶] and its derivative."""
    s6 = (sigma / r) ** 6
    return 4.0 * epsilon * s6 * (s6 - 1.0), -24.0 * epsilon * s6 * (2.0 * s6 - 1.0) / r


@njit(cache=True)
def morse(r, depth, alpha, r0):
    """D[e^(−2α(r − r0)) − 2e^(−α(r − r0))] and its derivative; α in 1/Å."""
    x = math.exp(-alpha * (r - r0))
    return depth * x * (x - 2.0), -2.0 * depth * alpha * x * (x - 1.0)


@njit(cache=True)
def radial_law(law, r, constants, rows, inverse_spacing):
    """v(r) and v'(r). ``constants`` (6,) are those of ``formula``; ``rows`` and ``inverse_spacing`` of a table."""
    if law == TABLE:
        return table_value(rows, inverse_spacing, r), table_slope(rows, inverse_spacing, r)
    return formula(law, r, constants[0], constants[1], constants[2], constants[3], constants[4], constants[5])


@njit(cache=True)
def formula(law, r, a, b, c, shift, cutoff, smoothing):
    """v(r) and v'(r) of a law that is no table.

    a, b, c  constants of the law;  shift, subtracted;  cutoff and the width of the smooth end before it
    """
    if law == INVERSE_CUBE:
        value = a / (r * r * r)
        return value, -3.0 * value / r
    if law == LENNARD_JONES:
        value, slope = lennard_jones(r, a, b)
    else:
        value, slope = morse(r, a, b, c)
    value -= shift
    if smoothing > 0.0:
        end = smooth_end(r, cutoff, smoothing)
        slope = slope * end + value * smooth_end_slope(r, cutoff, smoothing)
        value *= end
    return value, slope


@njit(cache=True)
def biquadratic(v, dv, ux, uy, uz, ax, ay, az, bx, by, bz, offset):
    """E = −v [(a·b)² − c] with c = ``offset``; u = d/r, a and b the two unit vectors."""
    c = ax * bx + ay * by + az * bz
    energy = -v * (c * c - offset)
    g = -dv * (c * c - offset)
    h = 2.0 * v * c
    return energy, g * ux, g * uy, g * uz, h * bx, h * by, h * bz


@njit(cache=True)
def chiral(v, dv, r, ux, uy, uz, ax, ay, az, bx, by, bz, matrix):
    """E = −D·(a × b), D = v M u (Dzyaloshinskii-Moriya): M is 1 for D along the bond, [n]× for D = v n × u.

    ``matrix`` is M by rows, a tuple of nine numbers.
    """
    cx, cy, cz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    # w = Mᵀ (a × b), so that E = −v u·w
    wx = matrix[0] * cx + matrix[3] * cy + matrix[6] * cz
    wy = matrix[1] * cx + matrix[4] * cy + matrix[7] * cz
    wz = matrix[2] * cx + matrix[5] * cy + matrix[8] * cz
    along = ux * wx + uy * wy + uz * wz
    radial = -dv * along + v * along / r
    across = -v / r
    # −∂E/∂a = b × D
    x, y, z = chiral_vector(v, ux, uy, uz, matrix)
    return (
        -v * along,
        radial * ux + across * wx,
        radial * uy + across * wy,
        radial * uz + across * wz,
        by * z - bz * y,
        bz * x - bx * z,
        bx * y - by * x,
    )


@njit(cache=True)
def chiral_vector(v, ux, uy, uz, matrix):
    """D = v M u, eV; M by rows."""
    return (
        v * (matrix[0] * ux + matrix[1] * uy + matrix[2] * uz),
        v * (matrix[3] * ux + matrix[4] * uy + matrix[5] * uz),
        v * (matrix[6] * ux + matrix[7] * uy + matrix[8] * uz),
    )


@njit(cache=True)
def dipolar_tensor(w, ux, uy, uz):
    """w (3 u uᵀ − 1) by rows, eV: e_iᵀ T e_j is minus the dipole energy of a pair, w = k m_i m_j/r³."""
    return (
        w * (3.0 * ux * ux - 1.0), w * 3.0 * ux * uy, w * 3.0 * ux * uz,
        w * 3.0 * uy * ux, w * (3.0 * uy * uy - 1.0), w * 3.0 * uy * uz,
        w * 3.0 * uz * ux, w * 3.0 * uz * uy, w * (3.0 * uz * uz - 1.0),
    )  # fmt: skip


@njit(cache=True)
def dipolar(v, dv, r, ux, uy, uz, ax, ay, az, bx, by, bz):
    """E = −v [3 (a·u)(b·u) − a·b], a and b moments in µB, v = k/r³ in eV/µB²."""
    p = ax * ux + ay * uy + az * uz
    q = bx * ux + by * uy + bz * uz
    bracket = 3.0 * p * q - (ax * bx + ay * by + az * bz)
    radial = -dv * bracket + 6.0 * v * p * q / r
    across = -3.0 * v / r
    return (
        -v * bracket,
        radial * ux + across * (q * ax + p * bx),
        radial * uy + across * (q * ay + p * by),
        radial * uz + across * (q * az + p * bz),
        v * (3.0 * q * ux - bx),
        v * (3.0 * q * uy - by),
        v * (3.0 * q * uz - bz),
    )


@njit(cache=True)
def pair_law(coupling, v, dv, r, ux, uy, uz, ax, ay, az, bx, by, bz, offset, matrix):
    """(E, g, h) of one ordered pair: energy, three components of ∂E/∂d, three of −∂E/∂s_i."""
    if coupling == SCALAR:
        return v, dv * ux, dv * uy, dv * uz, 0.0, 0.0, 0.0
    if coupling == BIQUADRATIC:
        return biquadratic(v, dv, ux, uy, uz, ax, ay, az, bx, by, bz, offset)
    if coupling == CHIRAL:
        return chiral(v, dv, r, ux, uy, uz, ax, ay, az, bx, by, bz, matrix)
    return dipolar(v, dv, r, ux, uy, uz, ax, ay, az, bx, by, bz)
