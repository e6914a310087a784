"""Temperature of spins from their configuration, with sums made on the device; equations as in ``spinmd.spin_temperature``.

For reports, not for steps: whole-array operations of torch, and a few numbers that cross to the host.
"""

from collections.abc import Callable

import torch
from numba import cuda

from spinmd.cuda.arrays import DeviceArray, zeros
from spinmd.cuda.hamiltonian import DeviceHamiltonian
from spinmd.cuda.launch import array, f8, i8, kernel
from spinmd.rng import PROBE_CHANNEL, normal4
from spinmd.spin_temperature import PROBE_SEED, PROBE_STEP
from spinmd.units import BOLTZMANN


@kernel(array(f8, 2), array(i8, 1), i8, i8, array(i8, 1), array(f8, 2))
def _probe(spins, ids, seed, channel, ticks, probe):
    """v_i = S_i × g_i with the normal numbers of the host's counters."""
    i = cuda.grid(1)
    if i < spins.shape[0]:
        x, y, z, _ = normal4(seed, channel, ticks[0], ids[i])
        probe[i, 0] = spins[i, 1] * z - spins[i, 2] * y
        probe[i, 1] = spins[i, 2] * x - spins[i, 0] * z
        probe[i, 2] = spins[i, 0] * y - spins[i, 1] * x


def spin_temperature(
    state, fields: DeviceArray, couplings: DeviceHamiltonian, live_curvature: float = 0.0, free: torch.Tensor | None = None
) -> float:  # fmt: skip
    """k_B T = Σ|S×F|² / Σ(2 S·F + |S|² tr H_ii − S·H_ii·S), K; nan if the denominator vanishes.

    ``fields`` (N, 3) eV/µB at the state's spins; ``free`` (N,) bool: the spins that count, None for all.
    """
    spins, f = state.spins.tensor, fields.tensor
    counted = torch.ones_like(spins[:, 0]) if free is None else free.to(spins.dtype)
    torque2 = counted * torch.linalg.cross(spins, f).square().sum(dim=1)
    below = 2.0 * counted * (spins * f).sum(dim=1)
    moments = state.moments.tensor
    w = torch.where(moments[:, None] > 0.0, spins / moments[:, None], 0.0)
    above, denominator = torch.stack([torque2.sum(), below.sum() + on_site_curvature(w, couplings, counted)]).tolist()
    denominator += live_curvature
    return above / (denominator * BOLTZMANN) if denominator != 0.0 else float("nan")


def on_site_curvature(w: torch.Tensor, couplings: DeviceHamiltonian, counted: torch.Tensor) -> torch.Tensor:
    """Σ_i c_i (|w|² tr A_i − w·A_i·w), A_i = ∂²E/∂w_i∂w_i, eV, one number; ``w`` (N, 3) = S/m, ``counted`` (N,) = c."""
    total = torch.zeros((), dtype=w.dtype, device=w.device)
    w2 = w.square().sum(dim=1)
    if couplings.quadratic is not None:  # A = −2Q
        q = couplings.quadratic.tensor
        along = torch.einsum("ia,iab,ib->i", w, q.view(-1, 3, 3), w)
        total -= 2.0 * (counted * (w2 * (q[:, 0] + q[:, 4] + q[:, 8]) - along)).sum()
    for term in couplings.others:
        if term.biquadratic is not None:  # A = −2 Σ_j K_ij w_j w_jᵀ; a column of the list at a time
            for k in range(term.atoms.shape[0]):
                other = w[term.atoms.tensor[k].long()]
                strength = torch.where(k < term.count.tensor, term.biquadratic.tensor[k], 0.0) * counted
                across = w2 * other.square().sum(dim=1) - (w * other).sum(dim=1).square()
                total -= 2.0 * (strength * across).sum()
        if term.cubic is not None:
            total += (counted * _cubic_curvature(w, term.cubic.tensor, term.axes.tensor)).sum()
    return total


def _cubic_curvature(w: torch.Tensor, constants: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    """(N,) |w|² tr A − w·A·w of the cubic anisotropy, eV; in squares x, y, z of the components along the axes."""
    x, y, z = (w @ axes.T).square().T
    k1, k2 = constants.T
    xx = 2.0 * (k1 * (y + z) + k2 * y * z)
    yy = 2.0 * (k1 * (z + x) + k2 * z * x)
    zz = 2.0 * (k1 * (x + y) + k2 * x * y)
    mixed = 8.0 * (x * y * (k1 + k2 * z) + y * z * (k1 + k2 * x) + z * x * (k1 + k2 * y))
    return (x + y + z) * (xx + yy + zz) - (x * xx + y * yy + z * zz + mixed)


def sampled_curvature(state, add_fields: Callable[[DeviceArray], None], free: torch.Tensor | None = None) -> float:
    """Σ_i (|S_i|² tr H_ii − S_i·H_ii·S_i), eV, of terms of which only the fields are known; the host's probes and estimate."""
    n = state.natoms
    probe, fields = zeros((n, 3)), zeros((n, 3))
    _probe(n, state.spins, state.ids, PROBE_SEED, PROBE_CHANNEL, state.ticks, probe)
    if free is not None:
        probe.tensor[~free] = 0.0
    spins, sums = state.spins.tensor.clone(), []
    for sign in (1.0, -1.0):
        state.spins.tensor.copy_(spins + sign * PROBE_STEP * probe.tensor)
        fields.fill(0.0)
        add_fields(fields)
        sums.append((fields.tensor * probe.tensor).sum())
    state.spins.tensor.copy_(spins)
    return -float(sums[0] - sums[1]) / (2.0 * PROBE_STEP)
