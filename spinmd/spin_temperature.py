"""Temperature of spins from their configuration: how strongly they are torqued against how stiffly they are held."""

from collections.abc import Callable

import numpy as np

from spinmd.backend import BLOCK
from spinmd.couplings import SpinHamiltonian, entries_of
from spinmd.rng import PROBE_CHANNEL, fill_normals
from spinmd.state import State
from spinmd.units import BOLTZMANN

PROBE_STEP = 1.0e-3  # relative to |S|
PROBE_SEED = 20221


def spin_temperature(
    state: State, fields: np.ndarray, couplings: SpinHamiltonian, live_curvature: float = 0.0, free: np.ndarray | None = None
) -> float:  # fmt: skip
    """k_B T = Σ|S×F|² / Σ(2 S·F + |S|² tr H_ii − S·H_ii·S), H_ii = ∂²E/∂S_i∂S_i, in K; nan if the denominator vanishes.

    ``fields`` (N, 3) eV/µB at the state's spins; ``free`` (N,) bool: the spins that count, None for all. Pair
    terms linear in each spin have H_ii = 0; uniaxial, cubic and biquadratic terms do not. An average over time needs numerator
    and denominator averaged apart; this is the value of one configuration.
    """
    spins = state.spins if free is None else np.where(free[:, None], state.spins, 0.0)
    torque2 = float((np.cross(spins, fields) ** 2).sum())
    denominator = 2.0 * float(np.einsum("ia,ia->", spins, fields))
    magnetic = state.moments > 0.0
    inverse = np.divide(1.0, state.moments, out=np.zeros_like(state.moments), where=magnetic)
    w = state.spins * inverse[:, None]
    denominator += on_site_curvature(w, couplings, free) + live_curvature
    if denominator == 0.0:
        return float("nan")
    return torque2 / (denominator * BOLTZMANN)


def sampled_curvature(state: State, add_fields: Callable[[np.ndarray], None], free: np.ndarray | None = None) -> float:
    """Σ_i (|S_i|² tr H_ii − S_i·H_ii·S_i), eV, over the ``free`` atoms, of terms of which only the fields are known.

    Two evaluations of the fields, ``add_fields(array)``: with random v_i across S_i, ⟨v_i v_iᵀ⟩ = |S|² − S Sᵀ and
    ⟨v_i v_jᵀ⟩ = 0 for i ≠ j, the mean of Σ_ij v_i·H_ij·v_j is the sum (Hutchinson's estimate of a trace). The v belong to
    the step of the run, so that a run can be repeated; averages over time and over many atoms are right, one value scatters.
    """
    spins, normals = state.spins.copy(), np.empty_like(state.spins)
    fill_normals(state.natoms, state.ids, PROBE_SEED, PROBE_CHANNEL, state.clock.step, normals, BLOCK)
    probe = np.cross(spins, normals)
    if free is not None:
        probe[~free] = 0.0
    sums = []
    for sign in (1.0, -1.0):
        state.spins[:] = spins + sign * PROBE_STEP * probe
        fields = np.zeros_like(spins)
        add_fields(fields)
        sums.append(float(np.einsum("ia,ia->", fields, probe)))
    state.spins[:] = spins
    return -(sums[0] - sums[1]) / (2.0 * PROBE_STEP)


def on_site_curvature(w: np.ndarray, couplings: SpinHamiltonian, free: np.ndarray | None = None) -> float:
    """Σ_i (|w|² tr A_i − w·A_i·w) over the ``free`` atoms, A_i = ∂²E/∂w_i∂w_i, eV; ``w`` (N, 3) = S/m. The moments cancel."""
    total = 0.0
    counted = np.ones(len(w)) if free is None else free.astype(float)
    w2 = np.einsum("ia,ia->i", w, w)
    if couplings.quadratic is not None:  # A = −2Q
        trace = np.einsum("iaa->i", couplings.quadratic)
        along = np.einsum("ia,iab,ib->i", w, couplings.quadratic, w)
        total -= 2.0 * float(np.sum(counted * (w2 * trace - along)))
    for term in couplings.others:
        if term.biquadratic is not None:  # A = −2 Σ_j K_ij w_j w_jᵀ
            atom = np.repeat(np.arange(len(w)), term.count)
            entries = entries_of(term.start[: len(w)], term.count)
            other = w[term.neighbours[entries]]
            strength = term.biquadratic[entries]
            dot = np.einsum("ka,ka->k", w[atom], other)
            strength = strength * counted[atom]
            total -= 2.0 * float(np.sum(strength * (w2[atom] * np.einsum("ka,ka->k", other, other) - dot**2)))
        if term.cubic is not None:
            x, y, z = (term.axes @ w.T) ** 2
            k1, k2 = term.cubic[:, 0], term.cubic[:, 1]
            xx = 2.0 * (k1 * (y + z) + k2 * y * z)  # ∂²E/∂x² and so on, squares of components
            yy = 2.0 * (k1 * (z + x) + k2 * z * x)
            zz = 2.0 * (k1 * (x + y) + k2 * x * y)
            # 2 c_a c_b ∂²E/∂a∂b in terms of squares: c_a c_b · 4 c_a c_b (K1 + K2 c_c²)
            mixed = 8.0 * (x * y * (k1 + k2 * z) + y * z * (k1 + k2 * x) + z * x * (k1 + k2 * y))
            total += float(np.sum(counted * ((x + y + z) * (xx + yy + zz) - (x * xx + y * yy + z * zz + mixed))))
    return total
