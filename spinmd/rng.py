"""Counter-based noise: a Gaussian is a function of (seed, channel, step, atom, component) and of nothing else.

No generator has a state that could be lost: the noise of a step does not depend on the number of threads, on the order of
the atoms, on the device or on whether the run was stopped before. The integers are those of Philox4x32-10 (Salmon, Moraes,
Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11), with the counter

    (atom, step mod 2³², step div 2³², channel)

and the seed as key. Four 32-bit integers become four Gaussians by the method of Box and Muller, Ann. Math. Stat. 29, 610
(1958): r = √(−2 ln u), g = r cos 2πa, r sin 2πa, with u of 40 bits (|g| reaches 7.4) and a of 24 bits. Logarithm, sine and cosine
are polynomials without branches, exact to 2e-16, so that compilers make vectors of them and every device gets the same numbers.
"""

import math

import numpy as np
from llvmlite import ir
from numba import int64, njit, prange, types, uint64
from numba.extending import intrinsic

import spinmd.backend  # noqa: F401  (the cache folder, before kernels are defined)

# channels: one for every instance of a flow that draws numbers, CHANNEL_... + its turn in the step
LATTICE_CHANNEL = 1 << 16
SPIN_CHANNEL = 2 << 16
MONTE_CARLO_CHANNEL = 3 << 16
GLOBAL_CHANNEL = 4 << 16  # numbers of the whole system: the "atom" counts them
PROBE_CHANNEL = 5 << 16
EXCHANGE_CHANNEL = 6 << 16  # of replicas: the "atom" counts pairs of temperatures

_LN2 = 0.6931471805599453


@intrinsic
def _bits_of(typingctx, value):
    """The 64 bits of a double."""

    def codegen(context, builder, sig, args):
        return builder.bitcast(args[0], ir.IntType(64))

    return types.int64(types.float64), codegen


@intrinsic
def _from_bits(typingctx, value):
    """The double with these 64 bits."""

    def codegen(context, builder, sig, args):
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), codegen


@njit(cache=True, error_model="numpy")
def philox(c0, c1, c2, c3, k0, k1):
    """Four random 32-bit integers (as uint64) from a counter of four and a key of two."""
    mask = uint64(0xFFFFFFFF)
    for _ in range(10):
        p0 = uint64(0xD2511F53) * c0
        p1 = uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> uint64(32)) ^ c1 ^ k0, p1 & mask, (p0 >> uint64(32)) ^ c3 ^ k1, p0 & mask
        k0 = (k0 + uint64(0x9E3779B9)) & mask
        k1 = (k1 + uint64(0xBB67AE85)) & mask
    return c0, c1, c2, c3


@njit(cache=True, error_model="numpy")
def random_integers(seed, channel, step, atom):
    """Four random integers below 2³², int64, of one atom, step and channel; ``seed`` any int64."""
    mask = int64(0xFFFFFFFF)
    a, b, c, d = philox(
        uint64(atom & mask), uint64(step & mask), uint64((step >> 32) & mask), uint64(channel & mask),
        uint64(seed & mask), uint64((seed >> 32) & mask),
    )  # fmt: skip
    return int64(a), int64(b), int64(c), int64(d)


@njit(cache=True, error_model="numpy")
def log_of(u):
    """ln u of a normal positive double: u = 2ᵉ m with m near 1, ln m = 2 artanh((m − 1)/(m + 1))."""
    bits = _bits_of(u)
    exponent = (bits - int64(0x3FE6A09E667F3BCD)) >> int64(52)
    m = _from_bits(bits - (exponent << int64(52)))
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    p = 1 / 13 + z * (1 / 15 + z * (1 / 17 + z * (1 / 19 + z * (1 / 21))))
    p = z * (1 / 3 + z * (1 / 5 + z * (1 / 7 + z * (1 / 9 + z * (1 / 11 + z * p)))))
    return exponent * _LN2 + (2.0 * s + 2.0 * s * p)


@njit(cache=True, error_model="numpy")
def cos_sin_turn(a):
    """cos and sin of 2π a/2²⁴, a an integer from 0 to 2²⁴ − 1."""
    quarter = (a + int64(1 << 21)) >> int64(22)
    t = (a - (quarter << int64(22))) * (2.0 * math.pi / (1 << 24))  # within ±π/4
    z = t * t
    s = -1 / 39916800 + z * (1 / 6227020800 - z * (1 / 1307674368000))
    s = t + t * z * (-1 / 6 + z * (1 / 120 + z * (-1 / 5040 + z * (1 / 362880 + z * s))))
    c = -1 / 3628800 + z * (1 / 479001600 + z * (-1 / 87178291200 + z * (1 / 20922789888000)))
    c = 1.0 + z * (-0.5 + z * (1 / 24 + z * (-1 / 720 + z * (1 / 40320 + z * c))))
    odd = (quarter & int64(1)) != 0
    x = s if odd else c
    y = c if odd else s
    x = -x if ((quarter + int64(1)) & int64(2)) != 0 else x
    y = -y if (quarter & int64(2)) != 0 else y
    return x, y


@njit(cache=True, error_model="numpy")
def radius_of(high, low):
    """√(−2 ln u) with u = (2⁸ high + low mod 2⁸ + ½)/2⁴⁰."""
    return math.sqrt(-2.0 * log_of((high * int64(256) + (low & int64(255)) + 0.5) * (1.0 / (1 << 40))))


@njit(cache=True, error_model="numpy")
def uniform_of(high, low):
    """A number strictly between 0 and 1 from two integers below 2³²; 53 bits."""
    return ((high << int64(20)) + (low >> int64(12)) + 0.5) * (1.0 / (1 << 52))


@njit(cache=True, error_model="numpy")
def normal4(seed, channel, step, atom):
    """Four independent Gaussians of mean 0 and variance 1."""
    a, b, c, d = random_integers(seed, channel, step, atom)
    r, q = radius_of(a, b), radius_of(c, d)
    x, y = cos_sin_turn(b >> int64(8))
    z, t = cos_sin_turn(d >> int64(8))
    return r * x, r * y, q * z, q * t


@njit(cache=True, error_model="numpy")
def gamma(shape, seed, channel, step):
    """A number with the density x^(shape − 1) e^(−x)/Γ(shape), shape at least 1.

    Marsaglia, Tsang, ACM Trans. Math. Softw. 26, 363 (2000). The "atoms" 1, 2, ... of the channel are its attempts, of which
    more than 95 in 100 succeed.
    """
    d = shape - 1.0 / 3.0
    attempt = int64(0)
    while True:
        attempt += int64(1)
        a, b, high, low = random_integers(seed, channel, step, attempt)
        cosine, _ = cos_sin_turn(b >> int64(8))
        x = radius_of(a, b) * cosine
        v = 1.0 + x / math.sqrt(9.0 * d)
        v = v * v * v
        if v > 0.0 and log_of(uniform_of(high, low)) < 0.5 * x * x + d - d * v + d * log_of(v):
            return d * v


@njit(cache=True, parallel=True, error_model="numpy")
def fill_normals(natoms, ids, seed, channel, step, out, block):
    """Three Gaussians per atom to ``out`` (N, 3): the first three of ``normal4``, a block at a time so that the loops vectorise."""
    for b in prange((natoms + block - 1) // block):
        first = b * block
        count = min(block, natoms - first)
        integers = np.empty((4, block), np.int64)
        radii = np.empty((2, block))
        x, y, z = np.empty(block), np.empty(block), np.empty(block)
        for i in range(count):
            r = random_integers(seed, channel, step, ids[first + i])
            integers[0, i], integers[1, i], integers[2, i], integers[3, i] = r[0], r[1], r[2], r[3]
        for i in range(count):
            radii[0, i] = radius_of(integers[0, i], integers[1, i])
        for i in range(count):
            radii[1, i] = radius_of(integers[2, i], integers[3, i])
        for i in range(count):
            p, q = cos_sin_turn(integers[1, i] >> int64(8))
            x[i] = radii[0, i] * p
            y[i] = radii[0, i] * q
        for i in range(count):
            p, q = cos_sin_turn(integers[3, i] >> int64(8))
            z[i] = radii[1, i] * p
        for i in range(count):
            out[first + i, 0], out[first + i, 1], out[first + i, 2] = x[i], y[i], z[i]
