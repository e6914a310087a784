"""What spin waves do near q = 0, and how many there are: stiffness, velocity, gap and density of states, exactly from A(q).

Ferromagnets and ferrimagnets:  ħω = Δ + q·D q,  D (3, 3) meV Å²;  antiferromagnets and spirals:  ħω = c |q|,  c in meV Å.
Second-order perturbation theory in q of A(q) v = ħω (iJ) v, with the derivatives of A known term by term: no differences are taken.
"""

from dataclasses import dataclass

import numpy as np

from spinmd.analysis.spin_wave_theory import MEV, ZERO, Waves

POINTS = 30000.0  # wave vectors times sites of the density of states
NEAR = 1.0e-6  # of the scale: energies that differ less are one level


@dataclass(frozen=True)
class LongWaves:
    """The lowest spin wave near q = 0.

    gap         meV, at q = 0
    stiffness   (3, 3) D, meV Å²; None where the energy is no quadratic form in q
    velocity    (3,) c along the Cartesian axes, meV Å, the fastest one; None where waves are quadratic in q
    note        a sentence where neither can be given, else empty
    """

    gap: float
    stiffness: np.ndarray | None = None
    velocity: np.ndarray | None = None
    note: str = ""


def long_waves(waves: Waves) -> LongWaves:
    """Gap, and stiffness or velocity, of the lowest wave at q = 0."""
    origin = np.zeros((1, 3))
    a0 = waves.hessian(origin)[0]
    values, vectors = np.linalg.eigh(a0)
    small = ZERO * waves.scale + waves.tolerance
    if values[0] < -small:
        return LongWaves(float("nan"), note="the state is no minimum at q = 0, so that long waves have no stiffness")
    sigma = waves.metric
    null = vectors[:, values < max(small, NEAR * waves.scale)]
    if null.shape[1]:
        overlap = null.conj().T @ sigma @ null
        if np.abs(np.linalg.eigvalsh(overlap)).min() < NEAR:
            return LongWaves(0.0, velocity=_velocities(waves, a0, null))
    # v_k†(iJ)v_l = s_k δ_kl: all waves, those of negative energy too
    levels, v, signs = _pencil(a0, values, vectors, null, sigma)
    gap = float(levels[signs > 0].min())
    group = np.abs(levels - gap) < NEAR * waves.scale
    if not null.shape[1]:
        group &= signs > 0
    basis = periodic_directions(waves.lattice.cell, waves.lattice.periodic)
    size = len(basis)
    steps = [(a, b) for a in range(size) for b in range(a, size)]

    def along(direction: np.ndarray) -> float:
        return _curvature(waves, direction, levels, v, signs, group, gap)

    tensor = np.zeros((size, size))
    for a, b in steps:  # the diagonal first, since (a, a) comes before every (a, b) and (b, b) is asked for anew
        direction = basis[a] if a == b else basis[a] + basis[b]
        first = v[:, group].conj().T @ _derivative(waves, direction, 1) @ v[:, group]
        if np.abs(first).max() > 1.0e-7 * waves.scale * _length(waves):
            return LongWaves(
                MEV * gap,
                note="the lowest energy is not at q = 0 but beside it: waves of opposite q differ, as DMI does",
            )
        tensor[a, b] = tensor[b, a] = along(direction)
    pure = np.diag(tensor).copy()
    tensor = np.where(np.eye(size, dtype=bool), tensor, 0.5 * (tensor - pure[:, None] - pure[None, :]))
    check = np.arange(1.0, size + 1.0)
    if not abs(along(check @ basis) - check @ tensor @ check) < 1.0e-6 * max(float(np.abs(pure).max()), 1e-12):
        return LongWaves(MEV * gap, note="the lowest energy near q = 0 is no quadratic form in q")
    return LongWaves(MEV * gap, stiffness=MEV * basis.T @ tensor @ basis)


def periodic_directions(cell: np.ndarray, periodic: np.ndarray) -> np.ndarray:
    """(k, 3) orthonormal vectors that span the directions in which wave vectors differ: across all open lattice vectors' planes.

    q = Σ h_k b_k over periodic directions k, with the reciprocal vectors b_k.
    """
    if periodic.all():
        return np.eye(3)
    return np.linalg.qr(np.linalg.inv(cell)[:, periodic])[0].T


def scalar_stiffness(tensor: np.ndarray, periodic: np.ndarray) -> float:
    """The mean of D over the directions in which the lattice is periodic, meV Å²."""
    return float(np.trace(tensor) / max(int(periodic.sum()), 1))


def _length(waves: Waves) -> float:
    return max(float(np.linalg.norm(waves.separations, axis=1).max()), 1.0)


def _derivative(waves: Waves, direction: np.ndarray, order: int) -> np.ndarray:
    """∂A/∂λ or ∂²A/∂λ² at q = λ ``direction`` = 0, √G on both sides."""
    along = waves.separations @ direction
    return waves.hessian(np.zeros((1, 3)), (1j * along) ** order)[0]


def _pencil(a0, values, vectors, null, sigma):
    """(2n,) levels, (2n, 2n) v with v†(iJ)v = ±1, (2n,) signs of A0 v = λ (iJ) v, for A0 positive but for ``null``."""
    rest = vectors[:, null.shape[1] :]
    parts_levels, parts_v, parts_signs = [], [], []
    if null.shape[1]:
        norms, c = np.linalg.eigh(null.conj().T @ sigma @ null)
        parts_v.append(null @ c / np.sqrt(np.abs(norms)))
        parts_levels.append(np.zeros(len(norms)))
        parts_signs.append(np.sign(norms))
    # outside: w with √A0 iJ √A0 w = λ w; its null vectors are those of √A0
    root = (rest * np.sqrt(values[null.shape[1] :])) @ rest.conj().T
    levels, w = np.linalg.eigh(root @ sigma @ root)
    order = np.argsort(np.abs(levels))[null.shape[1] :]
    levels, w = levels[order], w[:, order]
    parts_v.append(sigma @ root @ w / np.sqrt(np.abs(levels)))
    parts_levels.append(levels)
    parts_signs.append(np.sign(levels))
    return np.concatenate(parts_levels), np.concatenate(parts_v, axis=1), np.concatenate(parts_signs)


def _curvature(waves, direction, levels, v, signs, group, gap) -> float:
    """½ d²ω/dλ² of the lowest wave with positive norm along ``direction``, eV Å²."""
    a1, a2 = _derivative(waves, direction, 1), _derivative(waves, direction, 2)
    own, others = v[:, group], v[:, ~group]
    mixed = others.conj().T @ a1 @ own
    weights = signs[~group] / (levels[~group] - gap)
    effective = 0.5 * own.conj().T @ a2 @ own - mixed.conj().T @ (weights[:, None] * mixed)
    sign = signs[group]
    if (sign > 0).all():
        return float(np.linalg.eigvalsh(effective)[0])
    # E c = λ s c for waves of either norm that begin at zero: λ are the eigenvalues of ±√|E| s √|E| where E has one sign
    values, vectors = np.linalg.eigh(effective)
    largest = np.abs(values).max()
    if values[0] < -1.0e-9 * largest and values[-1] > 1.0e-9 * largest:
        return float("nan")
    root = (vectors * np.sqrt(np.abs(values))) @ vectors.conj().T
    found = np.linalg.eigvalsh((root * sign) @ root)
    return float(found[len(found) - int((sign > 0).sum())] if values[-1] > 1.0e-9 * largest else -found[-1])


def _velocities(waves: Waves, a0: np.ndarray, null: np.ndarray) -> np.ndarray:
    """(3,) largest c of ħω = c q along x, y and z, meV Å.

    With v = Pc + w, P the zero modes: w = A0⁺(ħω iJ − A1) Pc, and P†[½A2 + A1 A0⁺(ħω iJ − A1) − ħω iJ A0⁺(ħω iJ − A1)]Pc = 0.
    """
    inverse = np.linalg.pinv(a0, rcond=NEAR, hermitian=True)
    sigma, size = waves.metric, null.shape[1]
    mass = null.conj().T @ sigma @ inverse @ sigma @ null
    found = np.zeros(3)
    basis = periodic_directions(waves.lattice.cell, waves.lattice.periodic)
    for k, direction in enumerate(basis.T @ basis):  # what Cartesian axes have in them
        a1, a2 = _derivative(waves, direction, 1), _derivative(waves, direction, 2)
        stiff = null.conj().T @ (0.5 * a2 - a1 @ inverse @ a1) @ null
        mixed = null.conj().T @ (a1 @ inverse @ sigma + sigma @ inverse @ a1) @ null
        overlap = null.conj().T @ sigma @ null
        if np.abs(overlap).max() > NEAR:  # some zero modes pair up to quadratic waves; the linear ones are the others
            kernel = np.linalg.svd(overlap)[2].conj().T[:, np.linalg.svd(overlap)[1] < NEAR]
            stiff, mixed, m = (kernel.conj().T @ x @ kernel for x in (stiff, mixed, mass))
        else:
            m = mass
        size = len(stiff)
        # (stiff + x mixed − x² m) c = 0 as a linear problem of twice the size
        left = np.block([[np.zeros((size, size)), np.eye(size)], [stiff, mixed]])
        right = np.block([[np.eye(size), np.zeros((size, size))], [np.zeros((size, size)), m]])
        found[k] = np.abs(np.linalg.eigvals(np.linalg.solve(right, left)).real).max()
    return MEV * found


def zone_points(waves: Waves, points: float = POINTS) -> np.ndarray:
    """(nq, 3) 1/Å, spread evenly over the Brillouin zone, after its centre.

    They are the multiples of one irrational vector (Kronecker's sequence with powers of the root of x^(d+1) = x + 1), which
    shows less structure in a density of states than a grid, whose points share energies by symmetry.
    """
    lattice = waves.lattice
    free = np.flatnonzero(lattice.periodic)
    count = max(int(points / lattice.count), 50)
    root = 2.0
    for _ in range(60):
        root = (1.0 + root) ** (1.0 / (len(free) + 1.0))
    fractional = np.zeros((count, 3))
    fractional[:, free] = np.outer(np.arange(count), root ** -np.arange(1.0, len(free) + 1.0)) % 1.0
    return fractional @ lattice.reciprocal


def density_of_states(energies: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, float]:
    """(bins,) energies in meV, (bins,) states per meV and site, and the width of the Gaussians, meV, from (nq, n) energies."""
    top, low = 1.05 * max(float(energies.max()), 0.0), 1.05 * min(float(energies.min()), 0.0)
    top = max(top, low + 1.0e-6)
    edges = np.linspace(low, top, 8 * bins + 1)
    step = edges[1] - edges[0]
    counts = np.histogram(energies, edges)[0] / (energies.size * step)
    width = 1.2 * (top - low) / bins
    x = 0.5 * (edges[1:] + edges[:-1])
    reach = int(np.ceil(5.0 * width / step))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / width) ** 2)
    below = counts[:reach][::-1] if low == 0.0 else np.zeros(reach)  # what would leave at zero is folded back
    padded = np.concatenate([below, counts, np.zeros(reach)])
    smooth = np.convolve(padded, kernel / kernel.sum(), mode="valid")
    return x.reshape(bins, 8).mean(axis=1), smooth.reshape(bins, 8).mean(axis=1), width
