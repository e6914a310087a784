"""Magnetocrystalline anisotropy of single moments.

    uniaxial:  E = −K Σ_i (e_i·n)²                                                   −∂E/∂S_i = (2K/m_i) (e_i·n) n
    cubic:     E = +Σ_i [K1 (x²y² + y²z² + z²x²) + K2 x²y²z²],  (x, y, z) = e_i along the cubic axes,  e_i = S_i/m_i

K > 0 makes n an easy axis; K1 > 0 makes the cubic axes easy. eV, µB. No forces. LAMMPS's cubic term has the opposite
sign.
"""

from typing import ClassVar

import numpy as np
from numba import njit, prange
from pydantic import Field, field_validator

from spinmd.backend import BLOCK, block_count
from spinmd.errors import InputError
from spinmd.parameters import Energy, Parameters, Vector
from spinmd.potentials.base import Term
from spinmd.protocols import OK, Need, SpinTerm, Status
from spinmd.spin_laws import cubic_energy, cubic_field, uniaxial_law


class UniaxialParameters(Parameters):
    """E = −K (e·n)²"""

    K: Energy = Field(description="positive: easy axis, negative: easy plane")
    axis: Vector = Field((0.0, 0.0, 1.0), description="n, any length")

    @field_validator("axis")
    @classmethod
    def _not_zero(cls, axis):
        if not np.linalg.norm(axis) > 0.0:
            raise InputError("the axis must not be zero", "axis")
        return axis


class CubicParameters(Parameters):
    """E = K1 (x²y² + y²z² + z²x²) + K2 x²y²z²"""

    K1: Energy = Field(description="fourth order")
    K2: Energy = Field(0.0, description="sixth order")
    axes: tuple[Vector, Vector, Vector] = Field(
        ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), description="the three cubic axes, orthogonal, any length"
    )

    @field_validator("axes")
    @classmethod
    def _orthogonal(cls, axes):
        lengths = np.linalg.norm(axes, axis=1)
        if not (lengths > 0.0).all():
            raise InputError("a cubic axis must not be zero", "axes")
        unit = np.array(axes) / lengths[:, None]
        if np.abs(unit @ unit.T - np.eye(3)).max() > 1e-6:
            raise InputError("the cubic axes must be orthogonal", "axes")
        return axes


@njit(cache=True, parallel=True)
def _uniaxial(natoms, directions, inverse_moments, active, k, n, want_field, fields, sums, block):
    """sums[b] = energy of block b, eV; fields in eV/µB."""
    for b in prange(sums.shape[0]):
        energy = 0.0
        for i in range(b * block, min((b + 1) * block, natoms)):
            if not active[i]:
                continue
            e, hx, hy, hz = uniaxial_law(directions[i, 0], directions[i, 1], directions[i, 2], k, n[0], n[1], n[2])
            energy += e
            if want_field:
                fields[i, 0] += hx * inverse_moments[i]
                fields[i, 1] += hy * inverse_moments[i]
                fields[i, 2] += hz * inverse_moments[i]
        sums[b] = energy


@njit(cache=True, parallel=True)
def _cubic(natoms, directions, inverse_moments, active, k1, k2, axes, want_field, fields, sums, block):
    """sums[b] = energy of block b, eV; fields in eV/µB."""
    for b in prange(sums.shape[0]):
        energy = 0.0
        for i in range(b * block, min((b + 1) * block, natoms)):
            if not active[i]:
                continue
            ex, ey, ez = directions[i, 0], directions[i, 1], directions[i, 2]
            x = axes[0, 0] * ex + axes[0, 1] * ey + axes[0, 2] * ez
            y = axes[1, 0] * ex + axes[1, 1] * ey + axes[1, 2] * ez
            z = axes[2, 0] * ex + axes[2, 1] * ey + axes[2, 2] * ez
            energy += cubic_energy(x, y, z, k1, k2)
            if want_field:
                hx, hy, hz = cubic_field(x, y, z, k1, k2)
                for a in range(3):
                    fields[i, a] += (axes[0, a] * hx + axes[1, a] * hy + axes[2, a] * hz) * inverse_moments[i]
        sums[b] = energy


class _OnSite(Term):
    selects = "elements"

    def prepare(self, state, backend=None):
        super().prepare(state, backend)
        self.active = self.mask[state.species] & (state.moments > 0.0)
        self._sums = np.zeros(block_count(state.natoms))


class UniaxialAnisotropy(_OnSite):
    """``UniaxialAnisotropy(K="0.1 meV", axis=[0, 0, 1], elements=["Co"])``"""

    Parameters = UniaxialParameters
    default_name: ClassVar[str] = "anisotropy"

    def __init__(self, parameters=None, **keywords):
        super().__init__(parameters, **keywords)
        axis = np.array(self.parameters.axis)
        self.axis = axis / np.linalg.norm(axis)

    def prepare(self, state, backend=None):
        super().prepare(state, backend)
        tensor = self.parameters.K * np.outer(self.axis, self.axis)
        self._spin_term = SpinTerm(quadratic=self.active[:, None, None] * tensor)

    def add(self, state, pairs, out, need) -> Status:
        _uniaxial(
            state.natoms, self.update_directions(state), self.inverse_moments, self.active, self.parameters.K,
            self.axis, Need.FIELD in need, out.fields, self._sums, BLOCK,
        )  # fmt: skip
        out.energy[0] += self._sums.sum()
        return OK

    def freeze(self, state, pairs) -> SpinTerm:
        return self._spin_term


class CubicAnisotropy(_OnSite):
    """``CubicAnisotropy(K1="5 µeV", K2=0, axes=[[1, 0, 0], [0, 1, 0], [0, 0, 1]])``"""

    Parameters = CubicParameters
    default_name: ClassVar[str] = "cubic-anisotropy"

    def __init__(self, parameters=None, **keywords):
        super().__init__(parameters, **keywords)
        axes = np.array(self.parameters.axes)
        self.axes = axes / np.linalg.norm(axes, axis=1)[:, None]

    def prepare(self, state, backend=None):
        super().prepare(state, backend)
        constants = np.array([self.parameters.K1, self.parameters.K2])
        self._spin_term = SpinTerm(cubic=self.active[:, None] * constants, axes=self.axes)

    def add(self, state, pairs, out, need) -> Status:
        _cubic(
            state.natoms, self.update_directions(state), self.inverse_moments, self.active, self.parameters.K1,
            self.parameters.K2, self.axes, Need.FIELD in need, out.fields, self._sums, BLOCK,
        )  # fmt: skip
        out.energy[0] += self._sums.sum()
        return OK

    def freeze(self, state, pairs) -> SpinTerm:
        return self._spin_term
