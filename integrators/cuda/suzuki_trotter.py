"""Sequential Suzuki-Trotter sweep (S) on the GPU: the order of the atoms, and so the result, is that of the host's sweep.

A spin needs the new values of the coupled spins before it and the old values of those behind it. So spins may turn at the same
time as soon as all coupled ones before them have turned: sorted by this, they form levels, of which each is a launch. Backwards
the levels come in the opposite order. On a rigid lattice the levels are found once, on the host, when the couplings are made.
Where atoms move, or levels are thin (chains), one block of threads goes through the atoms window by window: in each round those
spins of the window turn whose coupled predecessors have turned. That needs nothing of the host and suits small systems; for
large ones on a moving lattice the midpoint is faster by far.
"""

from typing import Any

import numpy as np
from numba import cuda, njit, types

from spinmd.cuda.arrays import DeviceArray, on_device, zeros
from spinmd.cuda.launch import array, f8, i8, kernel
from spinmd.cuda.sums import THREADS
from spinmd.integrators.cuda.sites import SITES, DeviceSites, nonlinear_field, surroundings
from spinmd.integrators.cuda.spin_flow import DeviceSpinFlow
from spinmd.integrators.suzuki_trotter import LOCAL_ITERATIONS, LOCAL_TOLERANCE
from spinmd.spin_laws import midpoint_map, mirror, rotate

THIN = 64  # atoms per level on average, below which one block is faster than a launch for each level


@kernel(array(f8, 2), array(f8, 1), array(f8, 2))
def _to_directions(spins, inverse, w):
    """w = S/m."""
    i = cuda.grid(1)
    if i < w.shape[0]:
        for a in range(3):
            w[i, a] = spins[i, a] * inverse[i]


@kernel(array(f8, 2), array(f8, 1), array(f8, 2))
def _to_spins(w, moments, spins):
    """S = m w."""
    i = cuda.grid(1)
    if i < w.shape[0]:
        for a in range(3):
            spins[i, a] = w[i, a] * moments[i]


@cuda.jit(device=True)
def _turn(i, w, moments, on_site, noise, alphas, gh, heat, sites):
    """Turn spin i for gh = (g/ħ) h in the field of all others; heat (N,) += F·ΔS, eV, F without noise."""
    cubic, axes = sites[11], sites[12]
    moment = moments[i]
    alpha = 0.0
    if alphas.shape[0] > 0:
        alpha = alphas[i]
    wx, wy, wz = w[i, 0], w[i, 1], w[i, 2]
    bx, by, bz, xx, xy, xz, yy, yz, zz = surroundings(i, w, sites)
    nx, ny, nz = 0.0, 0.0, 0.0
    if noise.shape[0] > 0:
        nx, ny, nz = noise[i, 0], noise[i, 1], noise[i, 2]
        bx, by, bz = bx + moment * nx, by + moment * ny, bz + moment * nz
    if on_site != 0 or alpha != 0.0:
        inverse = 1.0 / moment
        mx, my, mz = wx, wy, wz
        fx, fy, fz = 0.0, 0.0, 0.0
        for _ in range(LOCAL_ITERATIONS):
            hx, hy, hz = nonlinear_field(i, mx, my, mz, xx, xy, xz, yy, yz, zz, cubic, axes)
            fx, fy, fz = (bx + hx) * inverse, (by + hy) * inverse, (bz + hz) * inverse
            px, py, pz = midpoint_map(wx, wy, wz, mx, my, mz, fx, fy, fz, alpha, alpha > 0.0, gh, True)
            dx, dy, dz = px - mx, py - my, pz - mz
            mx, my, mz = px, py, pz
            if dx * dx + dy * dy + dz * dz <= LOCAL_TOLERANCE * (wx * wx + wy * wy + wz * wz):
                break
        x, y, z = mirror(wx, wy, wz, mx, my, mz)
        if heat.shape[0] > 0:
            heat[i] += moment * ((fx - nx) * (x - wx) + (fy - ny) * (y - wy) + (fz - nz) * (z - wz))
    else:
        x, y, z = rotate(wx, wy, wz, bx, by, bz, gh / moment)
    w[i, 0], w[i, 1], w[i, 2] = x, y, z


@cuda.jit(device=True)
def _still(i, w, moments):
    """Whether spin i has nothing to turn."""
    return moments[i] == 0.0 or (w[i, 0] == 0.0 and w[i, 1] == 0.0 and w[i, 2] == 0.0)


TURN = (array(f8, 2), array(f8, 1), i8, array(f8, 2), array(f8, 1), f8, array(f8, 1))


@kernel(array(i8, 1), i8, i8, *TURN, *SITES)
def _turn_level(
    order, first, last, w, moments, on_site, noise, alphas, gh, heat, count, atoms, coupling, t_count, t_atoms, tensor, b_count,
    b_atoms, biquadratic, constant, quadratic, cubic, axes,
):  # fmt: skip
    """All spins of one level, the atoms order[first] ... order[last − 1]."""
    k = first + cuda.grid(1)
    if k < last:
        i = order[k]
        if not _still(i, w, moments):
            sites = (
                count, atoms, coupling, t_count, t_atoms, tensor, b_count, b_atoms, biquadratic, constant, quadratic, cubic, axes,
            )  # fmt: skip
            _turn(i, w, moments, on_site, noise, alphas, gh, heat, sites)


@cuda.jit(device=True)
def _must_wait(i, count, atoms, first, backwards, done):
    """Whether a coupled spin of the window that comes before spin i has still to turn."""
    if count.shape[0] > 0:
        for k in range(count[i]):
            j = atoms[k, i]
            before = j > i if backwards != 0 else j < i
            if before and first <= j < first + THREADS and done[j - first] == 0:
                return True
    return False


@kernel(i8, *TURN, *SITES)
def _sweep(
    backwards, w, moments, on_site, noise, alphas, gh, heat, count, atoms, coupling, t_count, t_atoms, tensor, b_count, b_atoms,
    biquadratic, constant, quadratic, cubic, axes,
):  # fmt: skip
    """One block: all spins in order, or backwards, window by window of as many atoms as there are threads."""
    done = cuda.shared.array(THREADS, types.int64)
    sites = (
        count, atoms, coupling, t_count, t_atoms, tensor, b_count, b_atoms, biquadratic, constant, quadratic, cubic, axes,
    )  # fmt: skip
    t, n = cuda.threadIdx.x, w.shape[0]
    windows = (n + THREADS - 1) // THREADS
    for step in range(windows):
        first = (windows - 1 - step if backwards != 0 else step) * THREADS
        i = first + t
        mine = 1
        if i < n and not _still(i, w, moments):
            mine = 0
        done[t] = mine
        left = cuda.syncthreads_count(1 - mine)
        while left > 0:
            ready = mine == 0 and not (
                _must_wait(i, count, atoms, first, backwards, done)
                or _must_wait(i, t_count, t_atoms, first, backwards, done)
                or _must_wait(i, b_count, b_atoms, first, backwards, done)
            )
            cuda.syncthreads()
            if ready:  # no two of these are coupled
                _turn(i, w, moments, on_site, noise, alphas, gh, heat, sites)
                mine = 1
                done[t] = 1
            left = cuda.syncthreads_count(1 - mine)


@njit(cache=True)
def _find_levels(owners, others, levels):
    """Level of each atom: one more than the highest of the coupled atoms before it. ``owners`` ascend."""
    for k in range(owners.shape[0]):
        i, j = owners[k], others[k]
        if j < i and levels[j] >= levels[i]:
            levels[i] = levels[j] + 1


class DeviceSuzukiTrotter(DeviceSpinFlow):
    """S by the sequential sweep."""

    def __init__(self, host: Any, state: Any, aux: Any, turns: int):
        super().__init__(host, state, aux, turns)
        self._w = zeros((state.natoms, 4))
        turning = state.moments.tensor.clone()
        if len(self.fixed):
            turning[self.fixed.tensor != 0] = 0.0
        self._turning = DeviceArray(turning)
        self._sites: DeviceSites | None = None
        self._order, self._ends = zeros(0, "int64"), []

    def turn_spins(self, model: Any, gh: float, turn: int) -> None:
        """A sweep forwards and one backwards."""
        couplings, state, n = model.couplings(), self.state, self.state.natoms
        if self._sites is None or self._sites.couplings is not couplings:
            self._sites = DeviceSites(couplings)
            if self.rigid:
                self._sort(self._sites.pairs(), n)
        else:
            self._sites.refresh()
        sites, w = self._sites, self._w
        common = (w, self._turning, int(sites.on_site), self.noise, self.alphas, 0.5 * gh, self.heat, *sites.arrays)
        _to_directions(n, state.spins, self.inverse, w)
        levels = list(zip([0, *self._ends], self._ends, strict=False))
        for backwards in (False, True):
            if not levels:
                _sweep(1, int(backwards), *common)
            for first, last in reversed(levels) if backwards else levels:
                _turn_level(last - first, self._order, first, last, *common)
        _to_spins(n, w, state.moments, state.spins)

    def _sort(self, pairs: np.ndarray, n: int) -> None:
        """Levels of the atoms; none where they would be thin."""
        levels = np.zeros(n, np.int64)
        _find_levels(*pairs, levels)
        number = int(levels.max(initial=0)) + 1
        self._ends = []
        if n >= THIN * number:
            self._order = on_device(np.argsort(levels, kind="stable"))
            self._ends = np.cumsum(np.bincount(levels)).tolist()
