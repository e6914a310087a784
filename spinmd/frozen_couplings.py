"""The couplings of the terms of a model that freeze, between single atoms with true vectors, and their expansion about a state.

Everything is in eV between unit vectors u, whatever the lengths of the moments, and in the original order of the atoms.
"""

from collections.abc import Iterator

import numpy as np

from spinmd.errors import InputError
from spinmd.model import Model
from spinmd.protocols import SpinTerm

PIECE = 4000  # atoms whose couplings are looked at together

Entries = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class FrozenCouplings:
    """What the magnetic terms of a model couple at its present positions.

    lengths     (N,) |S|, µB;  references (N,) m of e = S/m;  magnetic (N,) bool
    terms       [(SpinTerm, vectors (nnz, 3) from atom to neighbour of its entries, or None without pairs), ...]
    nonlinear   whether some term is not quadratic in the spins (biquadratic, cubic anisotropy)

    Raises InputError for a term that does not tell where the neighbours of its couplings are.
    """

    def __init__(self, model: Model, lengths: np.ndarray, references: np.ndarray, magnetic: np.ndarray):
        self.magnetic = magnetic
        self.lengths = np.where(magnetic, lengths, 0.0)
        self.scales = np.where(magnetic, lengths / np.where(magnetic, references, 1.0), 0.0)
        model.update_lists()
        self.ids = model.state.ids.copy()
        self._where = np.argsort(self.ids)  # present index of each original one
        self.terms: list[tuple[SpinTerm, np.ndarray | None]] = []
        for k, term in enumerate(model.terms):
            pairs = model.pairs(k)
            frozen = term.freeze(model.state, pairs) if term.magnetic else None
            if frozen is not None:
                self.terms.append((frozen, _vectors(term, frozen, pairs)))
        self.nonlinear = any(term.biquadratic is not None or term.cubic is not None for term, _ in self.terms)

    def entries(self, atoms: np.ndarray) -> Iterator[Entries]:
        """For each term with pairs, of these atoms: i, j, vectors (p, 3) Å, tensors (p, 3, 3) and biquadratic couplings (p,)."""
        for term, vectors in self.terms:
            if vectors is None:
                continue
            rows = self._where[atoms]
            starts, counts = np.asarray(term.start)[rows], np.asarray(term.count)[rows]
            ends = np.cumsum(counts)
            entries = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + counts, counts)
            i, j = np.repeat(atoms, counts), self.ids[term.neighbours[entries]]
            both = self.scales[i] * self.scales[j]
            tensors, quartic = np.zeros((len(entries), 3, 3)), np.zeros(len(entries))
            if term.isotropic is not None:
                tensors += term.isotropic[entries][:, None, None] * np.eye(3)
            if term.tensor is not None:
                tensors += term.tensor[entries].reshape(-1, 3, 3)
            if term.biquadratic is not None:
                quartic += term.biquadratic[entries]
            tensors, quartic = tensors * both[:, None, None], quartic * both**2
            kept = (np.abs(tensors).max(axis=(1, 2), initial=0.0) > 0.0) | (quartic != 0.0)
            yield i[kept], j[kept], vectors[entries][kept], tensors[kept], quartic[kept]

    def single_site(self) -> tuple[np.ndarray, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        """(N, 3, 3) Hessians and (N, 3) fields of quadratic and constant terms; of cubic ones [(K1 K2 (N, 2), axes), ...]."""
        n, s = len(self.lengths), self.scales
        onsite, fields, cubic = np.zeros((n, 3, 3)), np.zeros((n, 3)), []
        for term, _ in self.terms:
            if term.quadratic is not None:
                onsite -= 2.0 * (s**2)[:, None, None] * term.quadratic[self._where]
            if term.field is not None:
                fields += self.lengths[:, None] * term.field[self._where]
            if term.cubic is not None:
                cubic.append((term.cubic[self._where] * np.stack([s**4, s**6], axis=1), term.axes))
        return onsite, fields, cubic

    def signature(self) -> np.ndarray:
        """(N, k) sums over the couplings of each atom, eV and eV Å: a list may couple atoms differently that look alike."""
        n = len(self.lengths)
        result = np.zeros((n, 33))
        for start in range(0, n, PIECE):
            for i, _, vectors, tensors, quartic in self.entries(np.arange(start, min(start + PIECE, n))):
                own = tensors.reshape(-1, 9)
                size = (np.abs(own).sum(axis=1) + np.abs(quartic))[:, None]
                squares = np.einsum("pa,pb->pab", vectors, vectors).reshape(-1, 9)[:, [0, 1, 2, 4, 5, 8]]
                np.add.at(result[:, :19], i, np.hstack([own, quartic[:, None], size * vectors, size * squares]))
        onsite, fields, cubic = self.single_site()
        result[:, 19:28], result[:, 28:31] = onsite.reshape(n, 9), fields
        for constants, _ in cubic:
            result[:, 31:33] += constants
        return result

    def expansion(self, atoms: np.ndarray, u: np.ndarray):
        """The energy of the couplings of these atoms to second order about directions u (N, 3), as a ``SpinLattice`` has it.

        i, j (p,) original indices; vectors (p, 3); tensors (p, 3, 3); onsite (n, 3, 3) and fields (n, 3) of the atoms.
        """
        onsite, fields, cubic = self.single_site()
        onsite, fields, own = onsite[atoms], fields[atoms], u[atoms]
        for constants, axes in cubic:
            gradient, hessian = cubic_expansion(own, constants[atoms], axes)
            onsite = onsite + hessian
            fields = fields + np.einsum("iab,ib->ia", hessian, own) - gradient
        parts = [(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 3)), np.zeros((0, 3, 3)))]
        number = np.full(len(self.lengths), -1)
        number[atoms] = np.arange(len(atoms))
        for i, j, vectors, tensors, quartic in self.entries(atoms):
            a, b = u[i], u[j]
            cosine, k = np.einsum("pa,pa->p", a, b), quartic[:, None, None]
            # −K (a·b)² about the state: ∂²/∂a∂b, ∂²/∂a², and what is left of the gradient
            tensors = tensors + 2.0 * k * (cosine[:, None, None] * np.eye(3) + np.einsum("pa,pb->pab", b, a))
            np.add.at(onsite, number[i], -2.0 * k * np.einsum("pa,pb->pab", b, b))
            np.add.at(fields, number[i], -4.0 * (quartic * cosine)[:, None] * b)
            parts.append((i, j, vectors, tensors))
        i, j, vectors, tensors = (np.concatenate(part) for part in zip(*parts, strict=True))
        return i, j, vectors, tensors, onsite, fields


def _vectors(term, frozen: SpinTerm, pairs) -> np.ndarray | None:
    """(nnz, 3) Å from atom to neighbour for the entries of a frozen term; None for one without pairs."""
    if frozen.start is None:
        return None
    told = term.coupling_vectors() if hasattr(term, "coupling_vectors") else None
    if told is not None:
        return told
    if pairs is not None and frozen.start is pairs.start:
        centres = np.repeat(np.arange(len(frozen.count)), np.diff(pairs.start))
        return pairs.packed[pairs.neighbours[: pairs.start[-1]], :3] - pairs.packed[centres, :3]
    raise InputError(
        f"{term.name} does not tell where the neighbours of its couplings are; give the potential a method coupling_vectors()",
        "potential",
    )


def cubic_expansion(u: np.ndarray, constants: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) gradient and (n, 3, 3) Hessian of K1 (x²y² + y²z² + z²x²) + K2 x²y²z² at u (n, 3), eV."""
    x = u @ axes.T
    k1, k2 = constants.T
    squares = x**2
    gradient, hessian = np.zeros((len(u), 3)), np.zeros((len(u), 3, 3))
    for a in range(3):
        b, c = (a + 1) % 3, (a + 2) % 3
        inner = k1 * (squares[:, b] + squares[:, c]) + k2 * squares[:, b] * squares[:, c]
        gradient[:, a] = 2.0 * x[:, a] * inner
        hessian[:, a, a] = 2.0 * inner
        hessian[:, a, b] = hessian[:, b, a] = 4.0 * x[:, a] * x[:, b] * (k1 + k2 * squares[:, c])
    return gradient @ axes, np.einsum("ka,nkl,lb->nab", axes, hessian, axes)
