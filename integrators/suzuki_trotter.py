"""Sequential Suzuki-Trotter sweep for spins (S): one spin after the other, forwards for h/2 and backwards for h/2.

    exp(hL) ≈ Π_{i=1..N} exp(h L_i/2) Π_{i=N..1} exp(h L_i/2),      L_i: spin i turns, all others stand still

Omelyan, Mryglod, Folk, Phys. Rev. Lett. 86, 898 (2001); Ma, Woo, Dudarev, Phys. Rev. B 78, 024434 (2008). Second
order, |S| constant. With all others standing still, the energy of spin i is −w·b − wᵀ A w + cubic terms. Where only b
is there, the spin turns about it exactly. Where terms are quadratic in the one spin (anisotropy, biquadratic), turning
it about the field of its *old* direction would lose energy steadily; here the one-spin equation is solved by the
implicit spherical midpoint to rounding, which is symplectic, so that the energy does not drift. Gilbert damping is
solved the same way. Serial: the order of the sweep is the order of the atoms.
"""

import numpy as np
from numba import njit

from spinmd.couplings import entries_of
from spinmd.integrators.spin_flow import SpinFlow
from spinmd.protocols import OK, Aux, Code, Status
from spinmd.simd import weighted_rows4
from spinmd.spin_laws import cubic_field, midpoint_map, mirror, quadratic_field, rotate
from spinmd.state import State

LOCAL_ITERATIONS = 60
LOCAL_TOLERANCE = 1.0e-30  # squared change of the one-spin midpoint


@njit(cache=True)
def _local_solution(wx, wy, wz, bx, by, bz, matrix, constants, axes, inverse_moment, alpha, gh):
    """w₁ of one spin in b and its own quadratic and cubic terms, and F at its midpoint; by fixed-point iteration."""
    mx, my, mz = wx, wy, wz
    fx, fy, fz = 0.0, 0.0, 0.0
    for _ in range(LOCAL_ITERATIONS):
        hx, hy, hz = quadratic_field(mx, my, mz, matrix)
        if constants[0] != 0.0 or constants[1] != 0.0:
            u = axes[0, 0] * mx + axes[0, 1] * my + axes[0, 2] * mz
            v = axes[1, 0] * mx + axes[1, 1] * my + axes[1, 2] * mz
            t = axes[2, 0] * mx + axes[2, 1] * my + axes[2, 2] * mz
            cu, cv, ct = cubic_field(u, v, t, constants[0], constants[1])
            hx += axes[0, 0] * cu + axes[1, 0] * cv + axes[2, 0] * ct
            hy += axes[0, 1] * cu + axes[1, 1] * cv + axes[2, 1] * ct
            hz += axes[0, 2] * cu + axes[1, 2] * cv + axes[2, 2] * ct
        fx, fy, fz = (bx + hx) * inverse_moment, (by + hy) * inverse_moment, (bz + hz) * inverse_moment
        px, py, pz = midpoint_map(wx, wy, wz, mx, my, mz, fx, fy, fz, alpha, alpha > 0.0, gh, True)
        change = (px - mx) ** 2 + (py - my) ** 2 + (pz - mz) ** 2
        mx, my, mz = px, py, pz
        if change <= LOCAL_TOLERANCE * (wx * wx + wy * wy + wz * wz):
            break
    x, y, z = mirror(wx, wy, wz, mx, my, mz)
    return x, y, z, fx, fy, fz


@njit(cache=True)
def _sweep(
    backwards, w, moments, constant, iso_start, iso_count, iso_atoms, iso, tensor_start, tensor_count, tensor_atoms, tensor,
    bi_start, bi_count, bi_atoms, biquadratic, quadratic, cubic, axes, noise, alphas, gh,
):  # fmt: skip
    """Turn every spin for gh = (g/ħ) h, in order or backwards. Empty arrays stand for absent terms. Returns Σ F·ΔS, eV, F
    without noise."""
    natoms = moments.shape[0]
    work = 0.0
    has_quadratic = quadratic.shape[0] > 0
    has_cubic = cubic.shape[0] > 0
    has_biquadratic = bi_atoms.shape[0] > 0
    has_tensor = tensor_atoms.shape[0] > 0
    noisy = noise.shape[0] > 0
    damped = alphas.shape[0] > 0
    on_site = has_quadratic or has_cubic or has_biquadratic
    matrix = np.zeros((3, 3))
    constants = np.zeros(2)
    for step in range(natoms):
        i = natoms - 1 - step if backwards else step
        moment = moments[i]
        if moment == 0.0 or (w[i, 0] == 0.0 and w[i, 1] == 0.0 and w[i, 2] == 0.0):
            continue
        alpha = alphas[i] if damped else 0.0
        wx, wy, wz = w[i, 0], w[i, 1], w[i, 2]
        bx, by, bz, _ = weighted_rows4(w, iso_atoms, iso, iso_start[i], iso_start[i] + iso_count[i])
        if constant.shape[0] > 0:
            bx, by, bz = bx + constant[i, 0], by + constant[i, 1], bz + constant[i, 2]
        if has_tensor:
            for k in range(tensor_start[i], tensor_start[i] + tensor_count[i]):
                j = tensor_atoms[k]
                x, y, z = w[j, 0], w[j, 1], w[j, 2]
                bx += tensor[k, 0] * x + tensor[k, 1] * y + tensor[k, 2] * z
                by += tensor[k, 3] * x + tensor[k, 4] * y + tensor[k, 5] * z
                bz += tensor[k, 6] * x + tensor[k, 7] * y + tensor[k, 8] * z
        if on_site:
            matrix[:, :] = 0.0
            if has_quadratic:
                matrix[:, :] = quadratic[i]
            if has_biquadratic:  # −½ Σ_ij K (w_i·w_j)² holds each pair twice: −w_iᵀ (Σ_j K w_j w_jᵀ) w_i
                for k in range(bi_start[i], bi_start[i] + bi_count[i]):
                    j = bi_atoms[k]
                    for a in range(3):
                        for c in range(3):
                            matrix[a, c] += biquadratic[k] * w[j, a] * w[j, c]
            if has_cubic:
                constants[0], constants[1] = cubic[i, 0], cubic[i, 1]
        nx, ny, nz = 0.0, 0.0, 0.0
        if noisy:
            nx, ny, nz = noise[i, 0], noise[i, 1], noise[i, 2]
            bx, by, bz = bx + moment * nx, by + moment * ny, bz + moment * nz
        if on_site or alpha != 0.0:
            x, y, z, fx, fy, fz = _local_solution(
                wx, wy, wz, bx, by, bz, matrix, constants, axes, 1.0 / moment, alpha, gh
            )
            work += moment * ((fx - nx) * (x - wx) + (fy - ny) * (y - wy) + (fz - nz) * (z - wz))
        else:
            x, y, z = rotate(wx, wy, wz, bx, by, bz, gh / moment)
        w[i, 0], w[i, 1], w[i, 2] = x, y, z
    return work


def _joined(natoms: int, terms: list, name: str):
    """start, count, atoms and values of all terms that have couplings ``name``, as one CSR."""
    having = [t for t in terms if getattr(t, name) is not None]
    shape = (0, 9) if name == "tensor" else (0,)
    if not having:
        return np.zeros(natoms, np.int64), np.zeros(natoms, np.int32), np.zeros(0, np.int32), np.zeros(shape)
    if len(having) == 1:
        return having[0].start, having[0].count, having[0].neighbours, getattr(having[0], name)
    count = sum(np.asarray(t.count, dtype=np.int64) for t in having)
    start = np.concatenate([[0], np.cumsum(count)])
    atoms = np.zeros(start[-1], np.int32)
    values = np.zeros((start[-1], *shape[1:]))
    cursor = start[:-1].copy()
    for term in having:
        source = entries_of(term.start[:natoms], term.count)
        target = entries_of(cursor, term.count)
        atoms[target] = term.neighbours[source]
        values[target] = getattr(term, name)[source]
        cursor += term.count
    return start[:-1], count.astype(np.int32), atoms, values


class SuzukiTrotter(SpinFlow):
    """S by the sequential sweep. Needs frozen couplings of every magnetic term. Arguments: see ``SpinFlow``.

    The noise of a solve is the same in both directions of the sweep.
    """

    def init(self, state: State, aux: Aux, seed: int, turns: int = 1) -> None:
        """What the bath keeps; the sweep keeps nothing else."""
        super().init(state, aux, seed, turns)
        self._w = np.zeros((state.natoms, 4))

    def flow(self, state: State, aux: Aux, model, h: float, turn: int = 0) -> Status:
        """Turn the spins for ``h`` ps in the field of the couplings at the present positions."""
        couplings = model.couplings()
        gh, alphas, noise = self.start(state, aux, h, turn)
        n = state.natoms
        moments = state.moments
        magnetic = moments > 0.0
        w = self._w
        w[:, :3] = np.divide(state.spins, moments[:, None], out=np.zeros((n, 3)), where=magnetic[:, None])
        cubics = [t for t in couplings.others if t.cubic is not None]
        if len(cubics) > 1:
            return Status(
                Code.DIVERGED, message="the sequential sweep takes one cubic anisotropy; use the midpoint solver"
            )
        cubic, axes = (cubics[0].cubic, cubics[0].axes) if cubics else (np.zeros((0, 2)), np.eye(3))
        arguments = (
            w, moments, np.zeros((0, 3)) if couplings.constant is None else couplings.constant,
            *_joined(n, couplings.isotropic, "isotropic"), *_joined(n, couplings.others, "tensor"),
            *_joined(n, couplings.others, "biquadratic"),
            np.zeros((0, 3, 3)) if couplings.quadratic is None else couplings.quadratic, cubic, axes,
            noise, alphas, 0.5 * gh,
        )  # fmt: skip
        work = _sweep(False, *arguments) + _sweep(True, *arguments)
        self.evaluations += 2
        self.solves += 1
        if self.bath.damped:
            aux.globals["spin_heat"][0] += work
        np.multiply(w[:, :3], moments[:, None], out=state.spins)
        model.moved(spins=True)
        return OK
