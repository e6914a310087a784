"""Prediction of the field of a spin solve from those of past solves, on the GPU; equations in ``integrators.live_midpoint``."""

import math

from numba import cuda

from spinmd.cuda.launch import array, f8, kernel
from spinmd.cuda.sums import FLOAT, THREADS
from spinmd.integrators.live_midpoint import FORGETTING, HISTORY, SMALLEST
from spinmd.spin_laws import TINY

SIZE = HISTORY + 1
SUMS = SIZE * (SIZE + 1) // 2  # numbers of a symmetric matrix
SWEEPS = 16  # of Jacobi's rotations at most; half of them usually do
POLYNOMIAL = 4  # past fields that a prediction by a polynomial takes
NOTHING = 1.0e-40  # of a matrix whose diagonal is 1: not worth a rotation
NEWEST, KNOWN = 0, 1  # of ``history``


@kernel(array(f8, 3), array(f8, 1), array(f8, 2), array(f8, 2), array(f8, 2), array(f8, 2))
def _normal_equations(fields, history, new, x, differences, sums):
    """Per block, the Gram matrix of ∇⁰F_{k−1} ... ∇ⁿ⁻¹F_{k−1} and ∇ⁿF_k, each normal to the spin; lower triangle, row by row."""
    room = cuda.shared.array((SUMS, THREADS), FLOAT)
    basis = cuda.local.array((SIZE, 3), FLOAT)
    i, t = cuda.grid(1), cuda.threadIdx.x
    if history[KNOWN] == HISTORY:
        newest = int(history[NEWEST])
        length2 = 0.0
        if i < new.shape[0]:
            length2 = x[i, 0] * x[i, 0] + x[i, 1] * x[i, 1] + x[i, 2] * x[i, 2]
        for n in range(SUMS):
            room[n, t] = 0.0
        if length2 > 0.0:
            for k in range(3):
                basis[HISTORY, k] = new[i, k]
                for j in range(HISTORY):
                    value = 0.0
                    for m in range(j + 1):
                        value += differences[j, m] * fields[(newest - m) % HISTORY, i, k]
                    basis[j, k] = value
                    basis[HISTORY, k] -= value
            n = 0
            for j in range(SIZE):
                along = (basis[j, 0] * x[i, 0] + basis[j, 1] * x[i, 1] + basis[j, 2] * x[i, 2]) / length2
                for k in range(3):
                    basis[j, k] -= along * x[i, k]
                for m in range(j + 1):
                    room[n, t] = basis[j, 0] * basis[m, 0] + basis[j, 1] * basis[m, 1] + basis[j, 2] * basis[m, 2]
                    n += 1
        cuda.syncthreads()
        for n in range(t, SUMS, THREADS):
            total = 0.0
            for k in range(THREADS):
                total += room[n, k]
            sums[cuda.blockIdx.x, n] = total


@kernel(array(f8, 2), array(f8, 1), array(f8, 2))
def _update_equations(sums, history, equations):
    """One block: the equations of the past, of less weight, and those of this solve."""
    t = cuda.threadIdx.x
    if history[KNOWN] == HISTORY and cuda.blockIdx.x == 0:
        for n in range(t, SUMS, THREADS):
            j = 0
            while (j + 1) * (j + 2) // 2 <= n:
                j += 1
            m = n - j * (j + 1) // 2
            total = 0.0
            for b in range(sums.shape[0]):
                total += sums[b, n]
            total += FORGETTING * equations[j, m]
            equations[j, m] = total
            equations[m, j] = total


@cuda.jit(device=True)
def _rotate(t, p, q, a, v):
    """One rotation of Jacobi's that makes a[p, q] vanish, by the threads of a block; the eigenvectors' columns turn along."""
    apq, app, aqq = a[p, q], a[p, p], a[q, q]
    cuda.syncthreads()
    c, s = 1.0, 0.0
    if abs(apq) > NOTHING:
        ratio = (aqq - app) / (2.0 * apq)
        tangent = 1.0 / (abs(ratio) + math.sqrt(ratio * ratio + 1.0))
        if ratio < 0.0:
            tangent = -tangent
        c = 1.0 / math.sqrt(tangent * tangent + 1.0)
        s = tangent * c
    if t < HISTORY:
        x, y = a[t, p], a[t, q]
        a[t, p], a[t, q] = c * x - s * y, s * x + c * y
        x, y = v[t, p], v[t, q]
        v[t, p], v[t, q] = c * x - s * y, s * x + c * y
    cuda.syncthreads()
    if t < HISTORY:
        x, y = a[p, t], a[q, t]
        a[p, t], a[q, t] = c * x - s * y, s * x + c * y
    cuda.syncthreads()


@kernel(array(f8, 2), array(f8, 1), array(f8, 2), array(f8, 1))
def _predict(equations, history, differences, weights):
    """One block: weights of the last, second last, ... known field in the prediction of the next one, by least squares or, with
    less than ``HISTORY`` fields, by a polynomial. Jacobi, J. reine angew. Math. 30, 51 (1846), for the eigenvalues."""
    a = cuda.shared.array((HISTORY, HISTORY), FLOAT)
    v = cuda.shared.array((HISTORY, HISTORY), FLOAT)
    scaled = cuda.shared.array(HISTORY, FLOAT)
    scale = cuda.shared.array(HISTORY, FLOAT)
    t = cuda.threadIdx.x
    known = int(history[KNOWN])
    fitted = known == HISTORY and equations[HISTORY, HISTORY] > 0.0
    if fitted:
        if t < HISTORY:
            scale[t] = math.sqrt(equations[t, t]) if equations[t, t] > 0.0 else 1.0
        cuda.syncthreads()
        if t < HISTORY:
            scaled[t] = equations[HISTORY, t] / scale[t]
            for m in range(HISTORY):
                a[t, m] = equations[t, m] / (scale[t] * scale[m])
                v[t, m] = 1.0 if t == m else 0.0
        cuda.syncthreads()
        for _ in range(SWEEPS):
            off = 0.0
            for p in range(HISTORY):
                for q in range(p):
                    off += a[p, q] * a[p, q]
            cuda.syncthreads()
            if off < 1.0e-34:
                break
            for p in range(HISTORY - 1):
                for q in range(p + 1, HISTORY):
                    _rotate(t, p, q, a, v)
    if t < HISTORY:
        most = 0.0
        for m in range(HISTORY):
            most = max(most, a[m, m]) if fitted else 0.0
        total = 0.0
        for j in range(HISTORY):
            c = 0.0
            if fitted:
                for m in range(HISTORY):
                    if a[m, m] > SMALLEST * max(most, TINY):
                        dot = 0.0
                        for k in range(HISTORY):
                            dot += v[k, m] * scaled[k]
                        c += v[j, m] * dot / a[m, m]
                c /= scale[j]
            elif j >= min(known, POLYNOMIAL):
                c = -1.0
            total += (1.0 + c) * differences[j, t]
        weights[t] = total
