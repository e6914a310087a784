"""Linear spin-wave theory of classical moments: arrays in, modes out. Potentials and files are elsewhere.

    E = −½ Σ_ij u_iᵀ T_ij u_j + ½ Σ_i u_iᵀ B_i u_i − Σ_i u_i·C_i,      dS_i/dt = −(g/ħ) S_i × F_i,   F_i = −∂E/∂S_i,  S_i = m_i u_i

with unit vectors u, couplings T (exchange J 1, DMI T_ab = ε_abc D_c, any tensor; T_ji = T_ijᵀ, each pair counts once),
on-site Hessians B (uniaxial anisotropy −K (u·n)²: B = −2K nnᵀ) and constant fields C = m × field, all in eV. Any smooth energy
has this form to second order about a state. There u_i = √(1 − a²) z_i + a_x x_i + a_y y_i, and for plane waves
a_i = û_i exp(i q·r_i − iωt)

    ħω û = i G J A(q) û,   A_ij(q) = δ_ij (z_i·H_i + B_i) − Σ_d T_ij(d) e^{iq·d},   H_i = −∂E/∂u_i

with G = g/m_i, J = ((0, −1), (1, 0)), and B and T in the local frames. A(q) is the Hessian of the energy; where it is positive,
energies are real: with A' = √G A √G the Hermitian matrix √A' iJ √A' has the eigenvalues ħω. Colpa, Physica A 93, 327 (1978);
Toth, Lake, J. Phys.: Condens. Matter 27, 166002 (2015). In classical statistics ⟨û û†⟩ = k_B T A(q)⁻¹, which the modes share
out among their frequencies.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from spinmd.errors import InputError

ZERO = 1.0e-9  # of the largest eigenvalue: what is smaller is zero to rounding
TORQUE = 1.0e-6  # of the largest field: a larger torque is no rest
MEV = 1.0e3
PIECE = 2.0e7  # numbers of the matrices that are made at once


@dataclass(frozen=True)
class SpinLattice:
    """Moments on a lattice at rest, and the energy to second order about this state. Eight arrays and three labels.

    cell        (3, 3) Å, rows are lattice vectors;  periodic (3,) bool
    positions   (n, 3) Å of the sites of the (magnetic) cell;  symbols (n,) their elements
    moments     (n,) |S|, µB;  directions (n, 3) unit vectors u
    first, second  (p,) sites i and j of each coupling, both directions of each pair listed;  vectors (p, 3) Å from i to j
    tensors     (p, 3, 3) T_ij, eV;  onsite (n, 3, 3) B, eV;  fields (n, 3) C, eV
    g           of dS/dt = −(g/ħ) S × F
    wavevector, axis   of a spiral: q·r in rad with q (3,) 1/Å, and the axis about which the moments turn; ``directions`` and
                ``tensors`` are then those of the rotating frame. None: the cell is repeated as it is
    tolerance   eV, the error of the couplings: smaller negative eigenvalues of A are zero
    """

    cell: np.ndarray
    positions: np.ndarray
    moments: np.ndarray
    directions: np.ndarray
    first: np.ndarray
    second: np.ndarray
    vectors: np.ndarray
    tensors: np.ndarray
    onsite: np.ndarray
    fields: np.ndarray
    g: float = 2.0
    periodic: np.ndarray = None
    symbols: tuple[str, ...] = ()
    wavevector: np.ndarray | None = None
    axis: np.ndarray | None = None
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if self.periodic is None:
            object.__setattr__(self, "periodic", np.ones(3, dtype=bool))
        lengths = np.linalg.norm(self.directions, axis=1)
        if not len(self.moments) or not (np.asarray(self.moments) > 0.0).all():
            raise InputError("spin waves need sites with a moment", "moments")
        if np.abs(lengths - 1.0).max() > 1.0e-6:
            raise InputError(
                f"direction of site {int(np.argmax(np.abs(lengths - 1.0)))} is no unit vector", "directions"
            )

    @property
    def count(self) -> int:
        """Number of sites."""
        return len(self.moments)

    @property
    def reciprocal(self) -> np.ndarray:
        """(3, 3) 1/Å, rows are reciprocal lattice vectors with 2π."""
        return 2.0 * np.pi * np.linalg.inv(self.cell).T

    def total_fields(self) -> np.ndarray:
        """(n, 3) H = −∂E/∂u, eV."""
        u = self.directions
        result = self.fields - np.einsum("iab,ib->ia", self.onsite, u)
        np.add.at(result, self.first, np.einsum("pab,pb->pa", self.tensors, u[self.second]))
        return result

    def check(self) -> None:
        """InputError naming the site whose torque does not vanish."""
        h = self.total_fields()
        torque = np.linalg.norm(np.cross(self.directions, h), axis=1)
        scale = max(float(np.linalg.norm(h, axis=1).max()), 1.0e-12)
        worst = int(np.argmax(torque))
        if torque[worst] > TORQUE * scale + self.tolerance:
            name = f" ({self.symbols[worst]})" if self.symbols else ""
            raise InputError(
                f"the state is not at rest: the torque on site {worst}{name} of the magnetic cell is "
                f"{MEV * torque[worst]:.3g} meV, its "
                f"field {MEV * np.linalg.norm(h[worst]):.3g} meV; relax the spins first, or name the ground state with --state",
                "--state",
            )


@dataclass(frozen=True)
class Modes:
    """Spin waves at some q; modes are sorted by energy.

    energies   (nq, k) ħω, meV; negative for a wave that lowers the energy
    growth     (nq, k) meV, ħ times the rate at which a wave grows: zero in a stable state
    strength   (nq, k) µB², weight of the wave in Σ_a S^aa(q, +ω) per site and k_B T/ħω: that of one quantum
    least      (nq,) meV, the smallest eigenvalue of √G A(q) √G; negative where the state is no minimum
    """

    energies: np.ndarray
    growth: np.ndarray
    strength: np.ndarray
    least: np.ndarray


class Waves:
    """The modes of a SpinLattice at any q. Makes what does not depend on q once. InputError for a state that is not at rest."""

    def __init__(self, lattice: SpinLattice, progress: bool = False):
        import scipy.sparse

        lattice.check()
        self.lattice, self.progress = lattice, progress
        n, p = lattice.count, len(lattice.first)
        frames = local_frames(lattice.directions)
        self.transverse = frames[:, :, :2]  # columns x and y
        roots = np.sqrt(lattice.g / lattice.moments)
        self.roots = np.repeat(roots, 2)
        t = np.einsum(
            "pai,pab,pbj->pij", self.transverse[lattice.first], lattice.tensors, self.transverse[lattice.second]
        )
        t *= -(roots[lattice.first] * roots[lattice.second])[:, None, None]
        along = np.einsum("ia,ia->i", lattice.directions, lattice.total_fields())
        site = np.einsum("iax,iab,iby->ixy", self.transverse, lattice.onsite, self.transverse)
        site += along[:, None, None] * np.eye(2)
        site *= (roots**2)[:, None, None]
        # rows: couplings, then the sites (d = 0); columns: entries of the 2n × 2n matrix
        i = np.concatenate([lattice.first, np.arange(n)])
        j = np.concatenate([lattice.second, np.arange(n)])
        blocks = np.concatenate([t, site])
        rows = np.repeat(np.arange(p + n), 4)
        alpha, beta = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
        columns = ((2 * i[:, None] + alpha) * (2 * n) + 2 * j[:, None] + beta).ravel()
        self._blocks = scipy.sparse.csr_array((blocks.reshape(-1), (rows, columns)), shape=(p + n, 4 * n * n))
        self.separations = np.concatenate([lattice.vectors, np.zeros((n, 3))])
        self.scale = float(np.abs(np.linalg.eigvalsh(self.hessian(np.zeros((1, 3)))[0])).max())
        self.scale = max(self.scale, float(np.abs(site).max()), 1.0e-12)
        self.metric = np.kron(np.eye(n), np.array([[0.0, -1.0j], [1.0j, 0.0]]))  # iJ

    def hessian(self, q: np.ndarray, factors: np.ndarray | None = None) -> np.ndarray:
        """(nq, 2n, 2n) √G A(q) √G in eV for q (nq, 3) in 1/Å; ``factors`` (p + n,) multiply the couplings (for derivatives)."""
        phases = np.exp(1j * (np.asarray(q) @ self.separations.T))
        if factors is not None:
            phases = phases * factors
        size = 2 * self.lattice.count
        matrix = (self._blocks.T @ phases.T).T.reshape(-1, size, size)
        return 0.5 * (matrix + matrix.conj().transpose(0, 2, 1))

    def pieces(self, q: np.ndarray) -> Iterator[slice]:
        """Parts of the q-points whose matrices are made at once."""
        step = max(1, int(PIECE / (16 * self.lattice.count**2 + len(self.separations))))
        with tqdm(total=len(q), unit=" q", desc="spin waves", disable=not self.progress, leave=False) as bar:
            for first in range(0, len(q), step):
                yield slice(first, first + step)
                bar.update(min(step, len(q) - first))

    def modes(self, q: np.ndarray) -> Modes:
        """Modes at q (nq, 3) in 1/Å. Of a spiral: those at q and, seen through its turning frame, at q ∓ Q: three times as many."""
        q = np.atleast_2d(np.asarray(q, dtype=np.float64))
        if self.lattice.wavevector is None:
            return self._sorted([self._modes(q, None)])
        wave, axis = self.lattice.wavevector, self.lattice.axis
        along = np.outer(axis, axis).astype(complex)
        cross = np.array([[0.0, -axis[2], axis[1]], [axis[2], 0.0, -axis[0]], [-axis[1], axis[0], 0.0]])
        turning = 0.5 * (np.eye(3) - along)
        # R(Q·r) = nnᵀ + ½(1 − nnᵀ − i[n]×) e^{iQ·r} + ½(1 − nnᵀ + i[n]×) e^{−iQ·r}
        parts = ((0.0, along), (-1.0, turning - 0.5j * cross), (1.0, turning + 0.5j * cross))
        return self._sorted([self._modes(q + sign * wave, projection) for sign, projection in parts])

    def own_modes(self, q: np.ndarray) -> Modes:
        """Each wave once, (nq, n): of a spiral those at q of the turning frame, whose strength is seen along the axis."""
        projection = None if self.lattice.axis is None else np.outer(self.lattice.axis, self.lattice.axis)
        return self._modes(np.atleast_2d(np.asarray(q, dtype=np.float64)), projection)

    @staticmethod
    def _sorted(parts: list[Modes]) -> Modes:
        joined = {
            name: np.concatenate([getattr(m, name) for m in parts], axis=1)
            for name in ("energies", "growth", "strength")
        }
        order = np.argsort(joined["energies"], axis=1, kind="stable")
        joined = {name: np.take_along_axis(values, order, axis=1) for name, values in joined.items()}
        return Modes(**joined, least=np.min([m.least for m in parts], axis=0))

    def _modes(self, q: np.ndarray, projection: np.ndarray | None) -> Modes:
        n = self.lattice.count
        energies, growth, strength = (np.zeros((len(q), n)) for _ in range(3))
        least = np.zeros(len(q))
        for part in self.pieces(q):
            matrices = self.hessian(q[part])
            values, vectors = np.linalg.eigh(matrices)
            least[part] = values[:, 0]
            whole = values[:, 0] >= -(ZERO * self.scale + self.tolerance)
            rows = np.arange(*part.indices(len(q)))
            if whole.any():
                found, amplitudes = self._stable(values[whole], vectors[whole])
                energies[rows[whole]] = found
                strength[rows[whole]] = self._strength(amplitudes, projection)
            for k in np.flatnonzero(~whole):
                found, rate, amplitudes = self._unstable(matrices[k])
                energies[rows[k]], growth[rows[k]] = found, rate
                strength[rows[k]] = self._strength(amplitudes[None], projection)[0]
        return Modes(MEV * energies, MEV * growth, strength, MEV * least)

    @property
    def tolerance(self) -> float:
        """eV, of eigenvalues of √G A √G."""
        return self.lattice.tolerance * self.lattice.g / float(self.lattice.moments.min())

    def _stable(self, values, vectors):
        """(nq, n) energies, eV, and (nq, 2n, n) √G⁻¹û of one quantum each, û†û at k_B T = ħω, from the eigenvalues of √G A √G."""
        n = self.lattice.count
        root = (vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]) @ vectors.conj().transpose(0, 2, 1)
        energies, w = np.linalg.eigh(root @ self.metric @ root)
        energies, w = energies[:, n:], w[:, :, n:]
        quantum = np.sqrt(np.maximum(energies, ZERO * self.scale))
        return energies, self.metric @ (root @ w) / quantum[:, None, :]

    def _unstable(self, matrix):
        """(n,) energies and rates, eV, (2n, n) √G⁻¹û, by the general eigenvalue problem at one q.

        Of each pair of waves the one with positive norm v†(iJ)v, or the one that grows, which has no strength (NaN).
        """
        n = self.lattice.count
        found, v = np.linalg.eig(self.metric @ matrix)
        norms = np.einsum("ak,ab,bk->k", v.conj(), self.metric, v).real
        norms[np.abs(norms) < 1.0e-6] = 0.0
        chosen = np.lexsort((-found.imag, -norms))[:n]
        chosen = chosen[np.argsort(found[chosen].real, kind="stable")]
        size = np.where(norms[chosen] > 0.0, norms[chosen], np.nan)
        return found[chosen].real, np.maximum(found[chosen].imag, 0.0), v[:, chosen] / np.sqrt(size)

    def patterns(self, q) -> tuple[np.ndarray, np.ndarray]:
        """(n,) energies in meV and (n, 3, n) patterns û at one q (3,): u_i = z_i + Re Σ_k c_k û_ik exp(i q·r_i − iω_k t).

        Each has the amplitude of one quantum, k_B T = ħω in classical statistics. Of a spiral in its turning frame. InputError
        where the state is no minimum.
        """
        values, vectors = np.linalg.eigh(self.hessian(np.reshape(q, (1, 3))))
        if values[0, 0] < -(ZERO * self.scale + self.tolerance):
            raise InputError("the state is no minimum of the energy at this wave vector", "q")
        energies, amplitudes = self._stable(values, vectors)
        return MEV * energies[0], self._cartesian(amplitudes)[0]

    def _cartesian(self, amplitudes: np.ndarray) -> np.ndarray:
        """(nq, n, 3, k) û of waves with √G⁻¹û (nq, 2n, k)."""
        local = (self.roots[:, None] * amplitudes).reshape(len(amplitudes), self.lattice.count, 2, -1)
        return np.einsum("iax,qixk->qiak", self.transverse, local)

    def _strength(self, amplitudes: np.ndarray, projection: np.ndarray | None) -> np.ndarray:
        """(nq, k) Σ_a |S^a_q|² per site of waves with √G⁻¹û (nq, 2n, k), µB²."""
        lattice = self.lattice
        total = np.einsum("i,qiak->qak", lattice.moments, self._cartesian(amplitudes))
        if projection is not None:
            total = projection @ total
        return np.sum(np.abs(total) ** 2, axis=1) / lattice.count


def local_frames(directions: np.ndarray) -> np.ndarray:
    """(n, 3, 3) right-handed frames, columns x, y, z with z along the directions."""
    z = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    helper = np.eye(3)[np.argmin(np.abs(z), axis=1)]
    x = helper - np.einsum("ia,ia->i", helper, z)[:, None] * z
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return np.stack([x, np.cross(z, x), z], axis=2)


def turned(lattice: SpinLattice, wavevector, axis) -> SpinLattice:
    """The lattice of a single-q spiral u_i(r) = R(axis, wavevector·r) u_i in the rotating frame, in which it is uniform.

    wavevector (3,) 1/Å;  axis (3,). ``lattice.tensors`` are those of the fixed frame. InputError where couplings, anisotropy or
    fields are not unchanged by a turn about the axis, since then the state is no single-q spiral.
    """
    axis = np.asarray(axis, dtype=np.float64)
    axis = axis / np.linalg.norm(axis)
    wavevector = np.asarray(wavevector, dtype=np.float64)
    largest = max(float(np.abs(lattice.tensors).max(initial=0.0)), 1.0e-12)
    quarter, eighth = rotation(axis, np.array([0.5 * np.pi]))[0], rotation(axis, np.array([0.25 * np.pi]))[0]
    for name, values in (("couplings", lattice.tensors), ("anisotropy", lattice.onsite)):
        for turn in (quarter, eighth):
            if np.abs(turn @ values @ turn.T - values).max(initial=0.0) > 1.0e-8 * largest + lattice.tolerance:
                raise InputError(
                    f"the {name} change if all spins are turned about {_text(axis)}, so that a spiral about it is not "
                    f"uniform in a frame "
                    "that turns with it; treat it as a commensurate state of a magnetic cell: give it as the deck's texture "
                    "and use "
                    "--state initial",
                    "--state",
                )
    if np.abs(np.cross(lattice.fields, axis)).max(initial=0.0) > 1.0e-8 * largest:
        raise InputError(
            f"a field that is not along {_text(axis)} deforms the spiral; treat it as a state of a magnetic cell: give it as the "
            "deck's texture and use --state initial",
            "--state",
        )
    turns = rotation(axis, lattice.vectors @ wavevector)
    # r_j − r_i is the vector of the pair, so that sites keep the directions that they have at phase q·r = 0
    return replace(lattice, tensors=lattice.tensors @ turns, wavevector=wavevector, axis=axis)


def rotation(axis: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """(k, 3, 3) rotations about a unit vector by angles (k,) in rad."""
    cross = np.array([[0.0, -axis[2], axis[1]], [axis[2], 0.0, -axis[0]], [-axis[1], axis[0], 0.0]])
    c, s = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
    along = np.outer(axis, axis)
    return along + c * (np.eye(3) - along) + s * cross


def _text(vector: np.ndarray) -> str:
    return "(" + ", ".join(f"{x:.4g}" for x in vector) + ")"
