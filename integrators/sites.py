"""What one spin sees while all others stand still: for sequential sweeps and Monte Carlo.

    E_i(w) = −w·b − wᵀ A w + K1 (x²y² + y²z² + z²x²) + K2 x²y²z²,     A = Q_i + Σ_j K_ij w_j w_jᵀ

w = S/m of the one spin, b (eV) from isotropic and tensor couplings and constant fields, A (eV) from uniaxial anisotropy and
biquadratic couplings, x, y, z along the axes of a cubic anisotropy (of each, where there are several). (−½ Σ_ij K (w_i·w_j)² holds
each pair twice, so that K_ij enters whole.) In a small periodic cell an atom is coupled with its own images, which turn with it:
of T_ii, ½ its symmetric part belongs to A, and J_ii and K_ii give constants.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from spinmd.couplings import SpinHamiltonian, entries_of
from spinmd.simd import weighted_rows4
from spinmd.spin_laws import cubic_energy, cubic_field, quadratic_field


class Sites(NamedTuple):
    """All couplings of a Hamiltonian, one CSR for each kind; empty arrays stand for absent terms. Kernels take it as it is."""

    iso_start: np.ndarray
    iso_count: np.ndarray
    iso_atoms: np.ndarray
    isotropic: np.ndarray
    tensor_start: np.ndarray
    tensor_count: np.ndarray
    tensor_atoms: np.ndarray
    tensor: np.ndarray
    bi_start: np.ndarray
    bi_count: np.ndarray
    bi_atoms: np.ndarray
    biquadratic: np.ndarray
    constant: np.ndarray
    quadratic: np.ndarray
    cubic: np.ndarray  # (terms, N, 2)
    axes: np.ndarray  # (terms, 3, 3)

    @property
    def on_site(self) -> bool:
        """Whether E_i is more than linear in w."""
        return len(self.quadratic) > 0 or len(self.cubic) > 0 or len(self.bi_atoms) > 0


def sites_of(couplings: SpinHamiltonian) -> Sites:
    """The couplings, spin by spin."""
    n = couplings.natoms
    cubics = [term for term in couplings.others if term.cubic is not None]
    quadratic = couplings.quadratic
    isotropic, biquadratic = _joined(n, couplings.isotropic, "isotropic"), _joined(n, couplings.others, "biquadratic")
    tensor = _joined(n, couplings.others, "tensor")
    if len(own := _own_entries(*tensor[:3], tensor[3])):
        parts = 0.25 * (tensor[3][own] + tensor[3][own].reshape(-1, 3, 3).swapaxes(1, 2).reshape(-1, 9))
        quadratic = np.zeros((n, 3, 3)) if quadratic is None else quadratic.copy()
        np.add.at(quadratic, tensor[2][own], parts.reshape(-1, 3, 3))
    return Sites(
        *_without_own(isotropic),
        *_without_own(tensor),
        *_without_own(biquadratic),
        np.zeros((0, 3)) if couplings.constant is None else couplings.constant,
        np.zeros((0, 3, 3)) if quadratic is None else quadratic,
        np.stack([term.cubic for term in cubics]) if cubics else np.zeros((0, n, 2)),
        np.stack([term.axes for term in cubics]) if cubics else np.zeros((0, 3, 3)),
    )


@njit(cache=True)
def _find_own(start, count, atoms, found):
    """Entries that couple an atom with itself, to ``found`` as far as it reaches; returns how many there are."""
    number = 0
    for i in range(count.shape[0]):
        for k in range(start[i], start[i] + count[i]):
            if atoms[k] == i:
                if number < found.shape[0]:
                    found[number] = k
                number += 1
    return number


def _own_entries(start, count, atoms, values) -> np.ndarray:
    """Indices of the entries that couple an atom with its own images; padding, which couples nobody, is left out."""
    if not len(atoms):
        return np.zeros(0, np.int64)
    found = np.zeros(_find_own(start, count, atoms, np.zeros(0, np.int64)), np.int64)
    _find_own(start, count, atoms, found)
    return found[np.any(np.atleast_2d(values[found].T) != 0.0, axis=0)]


def _without_own(joined: tuple) -> tuple:
    """start, count, atoms and values, these zero where an atom is coupled with its own images."""
    own = _own_entries(*joined)
    if not len(own):
        return joined
    values = joined[3].copy()
    values[own] = 0.0
    return *joined[:3], values


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


@njit(cache=True)
def linear_field(i, w, sites):
    """b of spin i, eV."""
    begin = sites.iso_start[i]
    bx, by, bz, _ = weighted_rows4(w, sites.iso_atoms, sites.isotropic, begin, begin + sites.iso_count[i])
    if sites.constant.shape[0] > 0:
        bx, by, bz = bx + sites.constant[i, 0], by + sites.constant[i, 1], bz + sites.constant[i, 2]
    if sites.tensor_atoms.shape[0] > 0:
        tensor = sites.tensor
        for k in range(sites.tensor_start[i], sites.tensor_start[i] + sites.tensor_count[i]):
            j = sites.tensor_atoms[k]
            x, y, z = w[j, 0], w[j, 1], w[j, 2]
            bx += tensor[k, 0] * x + tensor[k, 1] * y + tensor[k, 2] * z
            by += tensor[k, 3] * x + tensor[k, 4] * y + tensor[k, 5] * z
            bz += tensor[k, 6] * x + tensor[k, 7] * y + tensor[k, 8] * z
    return bx, by, bz


@njit(cache=True)
def collect_matrix(i, w, sites, matrix):
    """A of spin i to ``matrix`` (3, 3), eV."""
    matrix[:, :] = 0.0
    if sites.quadratic.shape[0] > 0:
        matrix[:, :] = sites.quadratic[i]
    if sites.bi_atoms.shape[0] > 0:
        for k in range(sites.bi_start[i], sites.bi_start[i] + sites.bi_count[i]):
            j = sites.bi_atoms[k]
            for a in range(3):
                for c in range(3):
                    matrix[a, c] += sites.biquadratic[k] * w[j, a] * w[j, c]


@njit(cache=True)
def along_axes(x, y, z, axes):
    """Components along the rows of ``axes``."""
    return (
        axes[0, 0] * x + axes[0, 1] * y + axes[0, 2] * z,
        axes[1, 0] * x + axes[1, 1] * y + axes[1, 2] * z,
        axes[2, 0] * x + axes[2, 1] * y + axes[2, 2] * z,
    )


@njit(cache=True)
def nonlinear_field(i, x, y, z, sites, matrix):
    """−∂/∂w of all of E_i but −w·b, eV."""
    hx, hy, hz = quadratic_field(x, y, z, matrix)
    for k in range(sites.cubic.shape[0]):
        axes = sites.axes[k]
        u, v, t = along_axes(x, y, z, axes)
        cu, cv, ct = cubic_field(u, v, t, sites.cubic[k, i, 0], sites.cubic[k, i, 1])
        hx += axes[0, 0] * cu + axes[1, 0] * cv + axes[2, 0] * ct
        hy += axes[0, 1] * cu + axes[1, 1] * cv + axes[2, 1] * ct
        hz += axes[0, 2] * cu + axes[1, 2] * cv + axes[2, 2] * ct
    return hx, hy, hz


@njit(cache=True)
def nonlinear_energy(i, x, y, z, sites, matrix):
    """E_i without −w·b, eV."""
    hx, hy, hz = quadratic_field(x, y, z, matrix)
    energy = -0.5 * (x * hx + y * hy + z * hz)
    for k in range(sites.cubic.shape[0]):
        u, v, t = along_axes(x, y, z, sites.axes[k])
        energy += cubic_energy(u, v, t, sites.cubic[k, i, 0], sites.cubic[k, i, 1])
    return energy
