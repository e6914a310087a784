"""Every vector operation against numpy, on random numbers."""

import numpy as np
from numba import njit

from spinmd import simd

RNG = np.random.default_rng(0)


@njit
def arithmetic(a, b, out):
    x, y = simd.load(a, 0), simd.load(b, 0)
    simd.store(out, 0, (x + y) * 2.0 - 1 / y)
    simd.store(out, 8, -x / (3.0 - y))
    simd.store(out, 16, simd.vsqrt(x * x) + simd.root(y * y))
    simd.store(out, 24, simd.where_less(x, y, x, 0.5))
    simd.store(out, 32, simd.larger(x, y))
    simd.store(out, 40, simd.to_float(simd.offset_by(simd.truncate(100.0 * x), 7)))
    simd.store(out, 48, simd.splat(3) + simd.splat(0.25))
    return simd.hsum(x), simd.mask_less(x, 0.3), simd.bit_count(simd.mask_less(x, y))


def test_arithmetic():
    a, b, out = RNG.uniform(0.01, 1.0, 8), RNG.uniform(0.01, 1.0, 8), np.zeros(56)
    total, mask, count = arithmetic(a, b, out)
    expected = [
        (a + b) * 2.0 - 1.0 / b,
        -a / (3.0 - b),
        a + b,
        np.where(a < b, a, 0.5),
        np.maximum(a, b),
        np.floor(100.0 * a) + 7,
        np.full(8, 3.25),
    ]
    np.testing.assert_allclose(out, np.concatenate(expected), rtol=1e-14)
    np.testing.assert_allclose(total, a.sum(), rtol=1e-14)
    assert mask == sum(1 << k for k in range(8) if a[k] < 0.3)
    assert count == np.count_nonzero(a < b)


@njit
def gathers(table, index, kinds, first, out):
    lanes = simd.load(index, first)
    x, y, z, w = simd.gather_rows4(table, lanes)
    simd.store_rows4(out, first, w, z, y, x)
    a, b, c, d = simd.load_rows4(table, first)
    simd.store_rows4(out, first + 8, a, b, c, d)
    kind = simd.gather_int(kinds, lanes)
    k, _, _, _ = simd.gather_rows4(table, simd.vadd(kind, kind))
    simd.store_rows4(out, first + 16, k, k, k, k)


def test_rows_of_four():
    table = RNG.normal(size=(50, 4))
    index = RNG.integers(0, 50, 30).astype(np.int32)
    kinds = RNG.integers(0, 25, 50).astype(np.int32)
    out = np.zeros((40, 4))
    gathers(table, index, kinds, 3, out)
    lanes = index[3:11]
    np.testing.assert_array_equal(out[3:11], table[lanes][:, ::-1])
    np.testing.assert_array_equal(out[11:19], table[3:11])
    np.testing.assert_array_equal(out[19:27], np.repeat(table[2 * kinds[lanes], 0][:, None], 4, axis=1))
    assert not out[:3].any() and not out[27:].any()


@njit
def rows_of_three(array, first, out):
    x, y, z = simd.load_rows3(array, first)
    simd.store_rows3(out, first, z, x, y)


def test_rows_of_three():
    array, out = RNG.normal(size=(12, 3)), np.zeros((12, 3))
    rows_of_three(array, 2, out)
    np.testing.assert_array_equal(out[2:10], array[2:10][:, [2, 0, 1]])
    assert not out[:2].any() and not out[10:].any()


@njit
def sums(table, index, weights, start, count, out):
    x, y, z, w = simd.weighted_rows4_of8(table, index, weights, start, count, 1)
    simd.store_rows4(out, 0, x, y, z, w)
    for i in range(10):
        out[8 + i] = simd.weighted_rows4(table, index, weights, start[i], start[i] + count[i])


def test_weighted_sums_of_any_length():
    """Lengths that are no multiples of four, zero among them."""
    table = RNG.normal(size=(40, 4))
    count = np.array([0, 1, 2, 3, 4, 5, 7, 8, 13, 0], dtype=np.int32)
    start = np.concatenate([[0], np.cumsum(count)])[:10]
    index = RNG.integers(0, 40, 60).astype(np.int32)
    weights, out = RNG.normal(size=60), np.zeros((18, 4))
    sums(table, index, weights, start, count, out)
    expected = np.array([weights[s : s + n] @ table[index[s : s + n]] for s, n in zip(start, count, strict=True)])
    np.testing.assert_allclose(out[8:], expected, atol=1e-14)
    np.testing.assert_allclose(out[:8], expected[1:9], atol=1e-14)
