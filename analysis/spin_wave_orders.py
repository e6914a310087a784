"""Classical ground states of couplings: single-q states after Luttinger and Tisza, and signs of collinear ones.

    E/N = −½ Σ c_q† [T(q) − B] c_q:   the state lies in the eigenvectors of the largest eigenvalue of T(q) − B over all q

where moments of all sites have the same length there. Luttinger, Tisza, Phys. Rev. 70, 954 (1946). q = 0 is a state of one
cell, q = −q (half a reciprocal lattice vector) an antiferromagnet, any other q a spiral about the axis that the eigenvector,
DMI and anisotropy leave.
"""

from dataclasses import dataclass, replace

import numpy as np

from spinmd.analysis.spin_wave_theory import SpinLattice
from spinmd.errors import InputError

COARSE = 12  # points of the search along each periodic direction
ALIGNMENTS = 4000
REST = 1.0e-11  # of the largest field
SAME = 1.0e-6  # of the largest eigenvalue: as good


@dataclass(frozen=True)
class Order:
    """A single-q order: q (3,) 1/Å, the axis about which spins turn (3,), directions (n, 3) at q·r = 0, energy per site in eV."""

    wavevector: np.ndarray
    axis: np.ndarray
    directions: np.ndarray
    energy: float


def fourier(lattice: SpinLattice, q: np.ndarray) -> np.ndarray:
    """(nq, 3n, 3n) T(q) − B of couplings that are those of the fixed frame, eV; q (nq, 3) 1/Å."""
    n = lattice.count
    q = np.atleast_2d(q)
    result = np.zeros((len(q), n, n, 3, 3), dtype=complex)
    phases = np.exp(1j * q @ lattice.vectors.T)
    pair = lattice.first * n + lattice.second
    for one in np.unique(pair):
        those = pair == one
        result[:, one // n, one % n] = np.tensordot(phases[:, those], lattice.tensors[those], axes=1)
    result[:, np.arange(n), np.arange(n)] -= lattice.onsite
    matrix = result.transpose(0, 1, 3, 2, 4).reshape(len(q), 3 * n, 3 * n)
    return 0.5 * (matrix + matrix.conj().transpose(0, 2, 1))


def best_wavevector(lattice: SpinLattice) -> np.ndarray:
    """(3,) 1/Å with the largest eigenvalue of T(q) − B; high-symmetry points win against others as good."""
    from scipy.optimize import minimize

    reciprocal = lattice.reciprocal
    free = np.flatnonzero(lattice.periodic)

    def highest(x: np.ndarray) -> float:
        fractional = np.zeros(3)
        fractional[free] = x
        return float(np.linalg.eigvalsh(fourier(lattice, fractional @ reciprocal)[0])[-1])

    count = COARSE if len(free) == 3 else 4 * COARSE
    axes = [np.arange(count) / count - 0.5 + 1.0 / count if k in free else np.zeros(1) for k in range(3)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    values = np.concatenate(
        [np.linalg.eigvalsh(fourier(lattice, part @ reciprocal))[:, -1] for part in np.array_split(points, 16)]
    )
    scale = max(float(np.abs(values).max()), 1.0e-12)
    candidates = points[np.argsort(-values, kind="stable")[:6]]
    best, best_value = np.zeros(3), highest(np.zeros(len(free)))
    for start in candidates:
        found = minimize(
            lambda x: -highest(x),
            start[free],
            method="Nelder-Mead",
            options={"xatol": 1e-9, "fatol": 1e-14 * scale, "maxiter": 2000},
        )
        for x in (start[free], found.x):
            value = highest(x)
            if value > best_value + SAME * scale or (
                value > best_value + 1e-3 * SAME * scale and x is found.x and best.any()
            ):
                best, best_value = np.zeros(3), value
                best[free] = x
    snapped = np.round(best * 24.0) / 24.0
    if np.abs(snapped - best).max() < 1.0e-4 and highest(snapped[free]) >= best_value - 1.0e-9 * scale:
        best = snapped
    return (best - np.rint(best - 1.0e-9)) @ reciprocal


def single_q(lattice: SpinLattice, wavevector=None, axis=None) -> Order:
    """The order of propagation vector ``wavevector``, 1/Å, about ``axis``.

    wavevector  None: the best
    axis        None: what the couplings leave, else q or z

    InputError where the eigenvectors make no state with moments of one length.
    """
    q = best_wavevector(lattice) if wavevector is None else np.asarray(wavevector, dtype=float)
    n = lattice.count
    values, vectors = np.linalg.eigh(fourier(lattice, q)[0])
    top = vectors[:, values > values[-1] - max(SAME * np.abs(values).max(), 1e-12)]
    collinear = np.abs(np.exp(1j * 2.0 * (lattice.cell[lattice.periodic] @ q)) - 1.0).max(initial=0.0) < 1.0e-6
    n_axis = _axis(lattice, q, axis, top, collinear)
    helper = np.eye(3)[np.argmin(np.abs(n_axis))]
    x = helper - (helper @ n_axis) * n_axis
    x /= np.linalg.norm(x)
    if collinear:  # along an easy direction if there is one
        share = np.einsum("iak,ibk->ab", top.reshape(n, 3, -1), top.conj().reshape(n, 3, -1)).real
        x = np.linalg.eigh(share)[1][:, -1] if axis is None else x
        trial = np.kron(np.eye(n), x[:, None]).astype(complex)
    else:
        trial = np.kron(np.eye(n), (x - 1j * np.cross(n_axis, x))[:, None])  # turns by +q·r
    projected = top.conj().T @ trial  # which phases of the sites lie in the best space
    amplitude = np.linalg.eigh(projected.conj().T @ projected)[1][:, -1]
    sizes = np.abs(amplitude)
    if sizes.min() < 1.0e-3 * sizes.max() or np.ptp(sizes) > 1.0e-3 * sizes.max():
        raise InputError(
            "the best wave vector gives the sites unlike lengths, so that no single-q state is found this way; give the "
            "order as the "
            "deck's texture and use --state initial",
            "--state",
        )
    phase = amplitude / sizes
    phase = phase / phase[0]
    if collinear:
        if np.abs(phase.imag).max() > 1.0e-6:
            raise InputError("the best wave vector gives no collinear state; use --state spiral", "--state")
        u = np.sign(phase.real)[:, None] * x
    else:
        u = (phase[:, None] * (x - 1j * np.cross(n_axis, x))).real
        # fourier() counts phases from the sites themselves, as rotated directions do
    return Order(q, n_axis, u, float(-0.5 * values[-1]))


def relaxed(lattice: SpinLattice) -> SpinLattice:
    """The lattice with its spins turned into their fields until torques vanish or ``ALIGNMENTS`` are over: cones of a spiral
    in a field.
    """
    step, before = 1.0, np.inf
    for _ in range(ALIGNMENTS):
        h = lattice.total_fields()
        size = np.linalg.norm(h, axis=1, keepdims=True)
        torque = float(np.linalg.norm(np.cross(lattice.directions, h), axis=1).max())
        if torque <= REST * max(float(size.max()), 1e-12):
            break
        step, before = max(0.5 * step, 0.01) if torque > before else step, torque
        u = lattice.directions + step * h / np.maximum(size, 1e-300)
        lattice = replace(lattice, directions=u / np.linalg.norm(u, axis=1, keepdims=True))
    return lattice


def _axis(lattice: SpinLattice, q: np.ndarray, axis, top: np.ndarray, collinear: bool) -> np.ndarray:
    """Unit axis of the spiral: as given, else that of a circular eigenvector (DMI, easy plane), else along q, else z."""
    if axis is not None:
        return np.asarray(axis, dtype=float) / np.linalg.norm(axis)
    if not collinear:
        c = top.reshape(lattice.count, 3, -1)
        chirality = np.zeros(3)
        for k in range(c.shape[2]):
            chirality += np.cross(c[:, :, k].real, -c[:, :, k].imag).sum(axis=0)
        if np.linalg.norm(chirality) > 1.0e-3:
            return chirality / np.linalg.norm(chirality)
        plane = np.einsum("iak,ibk->ab", c, c.conj()).real
        found, axes = np.linalg.eigh(plane)
        if found[0] < 1.0e-6 < found[1]:  # all in one plane
            return axes[:, 0]
        if np.linalg.norm(q) > 0.0:
            return q / np.linalg.norm(q)
    return np.array([0.0, 0.0, 1.0])
