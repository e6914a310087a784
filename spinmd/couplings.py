"""The frozen spin Hamiltonian: the SpinTerms of all magnetic potentials at fixed positions, merged for the spin solvers.

Works on w_i = S_i/m_i in packed rows (N, 4); fields here are H_i = −∂E/∂w_i in eV (F_i = H_i/m_i). One isotropic term, the usual
case, is read inside the solver's own loop; further terms are added to an ``external`` field by the kernels of this file.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from spinmd.backend import BLOCK
from spinmd.protocols import SpinTerm
from spinmd.simd import weighted_rows4
from spinmd.spin_laws import cubic_field, quadratic_field

_NO_VALUES = np.zeros(0)
_NO_INDEX = np.zeros(0, dtype=np.int32)


@njit(cache=True, parallel=True)
def add_isotropic_field(natoms, w, start, count, atoms, coupling, field, block):
    """H_i += Σ_j J_ij w_j, eV."""
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            x, y, z, _ = weighted_rows4(w, atoms, coupling, start[i], start[i] + count[i])
            field[i, 0] += x
            field[i, 1] += y
            field[i, 2] += z


@njit(cache=True, parallel=True)
def add_tensor_field(natoms, w, start, count, atoms, tensor, field, block):
    """H_i += Σ_j T_ij w_j, eV; ``tensor`` (nnz, 9) row-major."""
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            hx, hy, hz = 0.0, 0.0, 0.0
            for k in range(start[i], start[i] + count[i]):
                j = atoms[k]
                x, y, z = w[j, 0], w[j, 1], w[j, 2]
                hx += tensor[k, 0] * x + tensor[k, 1] * y + tensor[k, 2] * z
                hy += tensor[k, 3] * x + tensor[k, 4] * y + tensor[k, 5] * z
                hz += tensor[k, 6] * x + tensor[k, 7] * y + tensor[k, 8] * z
            field[i, 0] += hx
            field[i, 1] += hy
            field[i, 2] += hz


@njit(cache=True, parallel=True)
def add_biquadratic_field(natoms, w, start, count, atoms, coupling, field, block):
    """H_i += 2 Σ_j K_ij (w_i·w_j) w_j, eV."""
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            x, y, z = w[i, 0], w[i, 1], w[i, 2]
            hx, hy, hz = 0.0, 0.0, 0.0
            for k in range(start[i], start[i] + count[i]):
                j = atoms[k]
                u, v, t = w[j, 0], w[j, 1], w[j, 2]
                c = 2.0 * coupling[k] * (x * u + y * v + z * t)
                hx += c * u
                hy += c * v
                hz += c * t
            field[i, 0] += hx
            field[i, 1] += hy
            field[i, 2] += hz


@njit(cache=True, parallel=True)
def add_cubic_field(natoms, w, constants, axes, field, block):
    """H_i += field of the cubic anisotropy, eV; ``constants`` (N, 2) K1, K2."""
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            x = axes[0, 0] * w[i, 0] + axes[0, 1] * w[i, 1] + axes[0, 2] * w[i, 2]
            y = axes[1, 0] * w[i, 0] + axes[1, 1] * w[i, 1] + axes[1, 2] * w[i, 2]
            z = axes[2, 0] * w[i, 0] + axes[2, 1] * w[i, 1] + axes[2, 2] * w[i, 2]
            hx, hy, hz = cubic_field(x, y, z, constants[i, 0], constants[i, 1])
            for a in range(3):
                field[i, a] += axes[0, a] * hx + axes[1, a] * hy + axes[2, a] * hz


@njit(cache=True, parallel=True)
def add_quadratic_field(natoms, w, quadratic, field, block):
    """H_i += 2 Q_i w_i, eV."""
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            hx, hy, hz = quadratic_field(w[i, 0], w[i, 1], w[i, 2], quadratic[i])
            field[i, 0] += hx
            field[i, 1] += hy
            field[i, 2] += hz


def entries_of(start: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Indices of all entries of a CSR with gaps, atom after atom: start[0], ..., start[0] + count[0] − 1, start[1], ..."""
    ends = np.cumsum(count)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(start - ends + count, count)


@dataclass
class SpinHamiltonian:
    """Couplings of all terms that freeze, at the present positions.

    isotropic  the terms with isotropic couplings;  others  tensor, biquadratic and cubic ones
    quadratic  (N, 3, 3) eV or None, summed over terms;  constant  (N, 3) H = m B in eV or None, summed over terms
    """

    natoms: int
    isotropic: list[SpinTerm]
    others: list[SpinTerm]
    quadratic: np.ndarray | None
    constant: np.ndarray | None

    @classmethod
    def merge(cls, natoms: int, moments: np.ndarray, terms: list[SpinTerm]) -> "SpinHamiltonian":
        """One Hamiltonian from the terms of all potentials; ``moments`` (N,) µB turn fields into H."""
        isotropic, others = [], []
        quadratic = None
        for term in terms:
            if term.isotropic is not None:
                isotropic.append(term)
            if term.tensor is not None or term.biquadratic is not None or term.cubic is not None:
                others.append(term)
            if term.quadratic is not None:
                quadratic = term.quadratic.copy() if quadratic is None else quadratic + term.quadratic
        result = cls(natoms, isotropic, others, quadratic, None)
        result.set_fields(moments, terms)
        return result

    def set_fields(self, moments: np.ndarray, terms: list[SpinTerm]) -> None:
        """Take the constant fields anew from the terms of all potentials."""
        self.constant = None
        for term in terms:
            if term.field is not None:
                field = term.field * moments[:, None]
                self.constant = field if self.constant is None else self.constant + field

    def leading(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """start, count, atoms and couplings of the first isotropic term, which solvers read themselves; empty arrays if none."""
        if not self.isotropic:
            zeros = np.zeros(self.natoms, dtype=np.int64)
            return zeros, zeros.astype(np.int32), _NO_INDEX, _NO_VALUES
        term = self.isotropic[0]
        return term.start, term.count, term.neighbours, term.isotropic

    @property
    def only_leading(self) -> bool:
        """True if the first isotropic term and the constant field are all there is."""
        return len(self.isotropic) <= 1 and not self.others and self.quadratic is None

    @property
    def nonlinear(self) -> bool:
        """True if some field is not linear in the spins (biquadratic, cubic anisotropy)."""
        return any(t.biquadratic is not None or t.cubic is not None for t in self.others)

    def add_linear_rest(self, w: np.ndarray, field: np.ndarray) -> None:
        """Add to ``field`` (N, 3), eV, all that is linear in ``w`` (N, 4), but the leading isotropic term."""
        n = self.natoms
        for term in self.isotropic[1:]:
            add_isotropic_field(n, w, term.start, term.count, term.neighbours, term.isotropic, field, BLOCK)
        for term in self.others:
            if term.tensor is not None:
                add_tensor_field(n, w, term.start, term.count, term.neighbours, term.tensor, field, BLOCK)
        if self.quadratic is not None:
            add_quadratic_field(n, w, self.quadratic, field, BLOCK)

    def add_nonlinear(self, w: np.ndarray, field: np.ndarray) -> None:
        """Add to ``field`` (N, 3), eV, the biquadratic and cubic terms at ``w`` (N, 4); they are of third order and more in w."""
        n = self.natoms
        for term in self.others:
            if term.biquadratic is not None:
                add_biquadratic_field(n, w, term.start, term.count, term.neighbours, term.biquadratic, field, BLOCK)
            if term.cubic is not None:
                add_cubic_field(n, w, term.cubic, term.axes, field, BLOCK)

    def field(self, w: np.ndarray) -> np.ndarray:
        """(N, 3) H = −∂E/∂w at ``w`` (N, 4), eV; a new array."""
        result = np.zeros((self.natoms, 3))
        if self.isotropic:
            add_isotropic_field(self.natoms, w, *self.leading(), result, BLOCK)
        self.add_linear_rest(w, result)
        self.add_nonlinear(w, result)
        return result if self.constant is None else result + self.constant
