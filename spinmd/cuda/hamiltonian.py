"""The frozen spin Hamiltonian on the device: what ``spinmd.couplings.SpinHamiltonian`` is on the host.

Works on w_i = S_i/m_i in rows of four (N, 4) and adds H_i = −∂E/∂w_i in eV to an ``external`` field (N, 3). One isotropic term,
the usual case, is read inside the solver's own kernel; the launches here add all others. Each of them leaves at once when the
solver has set its flag ``control[DONE]``, so that a solve is a fixed sequence of launches without a decision of the host.
"""

from collections.abc import Sequence

from numba import cuda

from spinmd.cuda.arrays import DeviceArray, zeros
from spinmd.cuda.launch import array, f8, i4, i8, kernel
from spinmd.cuda.spins import DeviceSpinTerm
from spinmd.spin_laws import cubic_field, quadratic_law

DONE = 3  # entry of a solver's ``control``: nonzero once it needs no further field
CONTROL = 16  # length of ``control``


@kernel(array(f8, 2), array(i4, 1), array(i4, 2), array(f8, 2), array(f8, 2), array(f8, 1))
def add_isotropic_field(w, count, atoms, coupling, external, control):
    """H_i += Σ_j J_ij w_j, eV."""
    i = cuda.grid(1)
    if i < count.shape[0] and control[DONE] == 0.0:
        hx, hy, hz = 0.0, 0.0, 0.0
        for k in range(count[i]):
            j, strength = atoms[k, i], coupling[k, i]
            hx += strength * w[j, 0]
            hy += strength * w[j, 1]
            hz += strength * w[j, 2]
        external[i, 0] += hx
        external[i, 1] += hy
        external[i, 2] += hz


@kernel(array(f8, 2), array(i4, 1), array(i4, 2), array(f8, 3), array(f8, 2), array(f8, 1))
def add_tensor_field(w, count, atoms, tensor, external, control):
    """H_i += Σ_j T_ij w_j, eV; ``tensor`` (9, room, N) by rows."""
    i = cuda.grid(1)
    if i < count.shape[0] and control[DONE] == 0.0:
        hx, hy, hz = 0.0, 0.0, 0.0
        for k in range(count[i]):
            j = atoms[k, i]
            x, y, z = w[j, 0], w[j, 1], w[j, 2]
            hx += tensor[0, k, i] * x + tensor[1, k, i] * y + tensor[2, k, i] * z
            hy += tensor[3, k, i] * x + tensor[4, k, i] * y + tensor[5, k, i] * z
            hz += tensor[6, k, i] * x + tensor[7, k, i] * y + tensor[8, k, i] * z
        external[i, 0] += hx
        external[i, 1] += hy
        external[i, 2] += hz


@kernel(array(f8, 2), array(i4, 1), array(i4, 2), array(f8, 2), array(f8, 2), array(f8, 1))
def add_biquadratic_field(w, count, atoms, coupling, external, control):
    """H_i += 2 Σ_j K_ij (w_i·w_j) w_j, eV."""
    i = cuda.grid(1)
    if i < count.shape[0] and control[DONE] == 0.0:
        x, y, z = w[i, 0], w[i, 1], w[i, 2]
        hx, hy, hz = 0.0, 0.0, 0.0
        for k in range(count[i]):
            j = atoms[k, i]
            u, v, t = w[j, 0], w[j, 1], w[j, 2]
            c = 2.0 * coupling[k, i] * (x * u + y * v + z * t)
            hx += c * u
            hy += c * v
            hz += c * t
        external[i, 0] += hx
        external[i, 1] += hy
        external[i, 2] += hz


@kernel(array(f8, 2), array(f8, 2), array(f8, 2), array(f8, 1))
def add_quadratic_field(w, quadratic, external, control):
    """H_i += 2 Q_i w_i, eV; ``quadratic`` (N, 9) by rows."""
    i = cuda.grid(1)
    if i < quadratic.shape[0] and control[DONE] == 0.0:
        hx, hy, hz = quadratic_law(
            w[i, 0], w[i, 1], w[i, 2], quadratic[i, 0], quadratic[i, 1], quadratic[i, 2], quadratic[i, 3], quadratic[i, 4],
            quadratic[i, 5], quadratic[i, 6], quadratic[i, 7], quadratic[i, 8],
        )  # fmt: skip
        external[i, 0] += hx
        external[i, 1] += hy
        external[i, 2] += hz


@kernel(array(f8, 2), array(f8, 2), array(f8, 2), array(f8, 2), array(f8, 1))
def add_cubic_field(w, constants, axes, external, control):
    """H_i += field of the cubic anisotropy, eV; ``constants`` (N, 2) K1, K2."""
    i = cuda.grid(1)
    if i < constants.shape[0] and control[DONE] == 0.0:
        wx, wy, wz = w[i, 0], w[i, 1], w[i, 2]
        x = axes[0, 0] * wx + axes[0, 1] * wy + axes[0, 2] * wz
        y = axes[1, 0] * wx + axes[1, 1] * wy + axes[1, 2] * wz
        z = axes[2, 0] * wx + axes[2, 1] * wy + axes[2, 2] * wz
        hx, hy, hz = cubic_field(x, y, z, constants[i, 0], constants[i, 1])
        for a in range(3):
            external[i, a] += axes[0, a] * hx + axes[1, a] * hy + axes[2, a] * hz


@kernel(array(f8, 2), array(f8, 2), array(f8, 1))
def add_constant_field(constant, external, control):
    """H_i += what does not depend on the spins, eV."""
    i = cuda.grid(1)
    if i < constant.shape[0] and control[DONE] == 0.0:
        for a in range(3):
            external[i, a] += constant[i, a]


@kernel(array(f8, 2), array(f8, 1), i8, array(f8, 2))
def _to_constant(field, moments, first, constant):
    """H = m B, eV, of a constant field B in eV/µB: in the place of what was there, or on top of it."""
    i = cuda.grid(1)
    if i < moments.shape[0]:
        for a in range(3):
            before = 0.0 if first != 0 else constant[i, a]
            constant[i, a] = before + field[i, a] * moments[i]


class DeviceHamiltonian:
    """Couplings of all terms that freeze, at the positions and the time of their last ``freeze``.

    natoms, moments  number of atoms, (N,) µB, which turn fields into H
    isotropic  the terms with isotropic couplings;  others  tensor, biquadratic and cubic ones
    quadratic  (N, 9) eV or None, summed over terms;  constant  (N, 3) H = m B in eV or None, summed over terms

    The arrays of the terms are read where they are: after new couplings in the same arrays, ``refresh`` is all that is needed.
    """

    def __init__(self, natoms: int, moments: DeviceArray, terms: Sequence[DeviceSpinTerm]):
        self.natoms, self.moments, self.terms = natoms, moments, list(terms)
        self.isotropic = [t for t in self.terms if t.isotropic is not None]
        self.others = [
            t for t in self.terms if t.tensor is not None or t.biquadratic is not None or t.cubic is not None
        ]
        self._quadratics = [t.quadratic for t in self.terms if t.quadratic is not None]
        self._fields = [t.field for t in self.terms if t.field is not None]
        self.quadratic = self._quadratics[0] if self._quadratics else None
        if len(self._quadratics) > 1:
            self.quadratic = zeros((natoms, 9))
        self.constant = zeros((natoms, 3)) if self._fields else None
        self._nothing = (zeros(0, "int32"), zeros((0, 0), "int32"), zeros((0, 0)))
        self._go_on = zeros(CONTROL)
        self.refresh()

    def refresh(self) -> None:
        """Sum over terms what solvers read as one array: ``quadratic`` and ``constant``."""
        if len(self._quadratics) > 1:
            self.quadratic.copy_from(self._quadratics[0])
            for more in self._quadratics[1:]:
                self.quadratic.tensor.add_(more.tensor)
        self.refresh_constant()

    def refresh_constant(self) -> None:
        """Take the constant fields anew from the terms."""
        for k, field in enumerate(self._fields):
            _to_constant(self.natoms, field, self.moments, int(k == 0), self.constant)

    def made_of(self, terms: Sequence[DeviceSpinTerm]) -> bool:
        """Whether these terms have the very arrays that this Hamiltonian reads."""
        return len(terms) == len(self.terms) and all(
            mine.same_arrays(other) for mine, other in zip(self.terms, terms, strict=True)
        )

    def leading(self) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
        """count (N,), atoms (room, N) and couplings (room, N), eV, of the first isotropic term, which solvers read themselves.

        Empty arrays if there is none.
        """
        if not self.isotropic:
            return self._nothing
        term = self.isotropic[0]
        return term.count, term.atoms, term.isotropic

    @property
    def only_leading(self) -> bool:
        """True if the first isotropic term and the constant field are all there is."""
        return len(self.isotropic) <= 1 and not self.others and self.quadratic is None

    @property
    def nonlinear(self) -> bool:
        """True if some field is not linear in the spins (biquadratic, cubic anisotropy)."""
        return any(t.biquadratic is not None or t.cubic is not None for t in self.others)

    def add_linear_rest(self, w: DeviceArray, external: DeviceArray, control: DeviceArray | None = None) -> None:
        """Add to ``external`` (N, 3), eV, all that is linear in ``w`` (N, 4), but the leading isotropic term.

        ``control`` (CONTROL,): nothing happens where its entry DONE is not zero; None: always.
        """
        n, control = self.natoms, self._go_on if control is None else control
        for term in self.isotropic[1:]:
            add_isotropic_field(n, w, term.count, term.atoms, term.isotropic, external, control)
        for term in self.others:
            if term.tensor is not None:
                add_tensor_field(n, w, term.count, term.atoms, term.tensor, external, control)
        if self.quadratic is not None:
            add_quadratic_field(n, w, self.quadratic, external, control)

    def add_nonlinear(self, w: DeviceArray, external: DeviceArray, control: DeviceArray | None = None) -> None:
        """Add to ``external`` (N, 3), eV, the biquadratic and cubic terms, of third order and more in ``w`` (N, 4)."""
        n, control = self.natoms, self._go_on if control is None else control
        for term in self.others:
            if term.biquadratic is not None:
                add_biquadratic_field(n, w, term.count, term.atoms, term.biquadratic, external, control)
            if term.cubic is not None:
                add_cubic_field(n, w, term.cubic, term.axes, external, control)

    def add_all(self, w: DeviceArray, external: DeviceArray, control: DeviceArray | None = None) -> None:
        """Add to ``external`` (N, 3) the whole H = −∂E/∂w at ``w`` (N, 4), eV."""
        control = self._go_on if control is None else control
        if self.isotropic:
            add_isotropic_field(self.natoms, w, *self.leading(), external, control)
        self.add_linear_rest(w, external, control)
        self.add_nonlinear(w, external, control)
        if self.constant is not None:
            add_constant_field(self.natoms, self.constant, external, control)
