"""Dzyaloshinskii-Moriya interaction between moments at distance r, or by shell or list on a rigid lattice.

    E = −½ Σ_{i≠j} D_ij·(e_i × e_j),   e_i = S_i/m_i,   D_ij = −D_ji
    direction = "bond":         D_ij = D(r) u,       u = (r_j − r_i)/r
    direction = "interfacial":  D_ij = D(r) n × u,   n the normal

−∂E/∂S_i = (1/m_i) Σ_j e_j × D_ij; forces come from D(r) and from the direction of the bond; the virial is not
symmetric. eV, Å, µB. LAMMPS's spin/dmi is "interfacial" with D(r) = −|D|/|dir| and its magneto-electric term with
+|E|/|dir|, n along dir, hard cutoff. Moriya, Phys. Rev. 120, 91 (1960).
"""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from spinmd.errors import InputError
from spinmd.parameters import Energy, Vector
from spinmd.potentials.lattice_couplings import LatticeCouplings, list_table, shells_table, table_of
from spinmd.potentials.pair_laws import CHIRAL
from spinmd.potentials.pair_loops import PairTerm
from spinmd.potentials.radial import RadialBase, cutoff_of, tabulate


class DMIParameters(RadialBase):
    """D(r), and D by shell, along a rule; or full vectors by list. eV, Å."""

    symbol: ClassVar[str] = "D"
    D0: Energy | None = Field(None, description="amplitude of polynomial and constant")
    D: tuple[Energy, ...] | None = Field(
        None, min_length=1, description="shells: couplings of the first, second, ... shell"
    )
    direction: Literal["bond", "interfacial"] = Field("bond", description="D along the bond u, or along normal × u")
    normal: Vector | None = Field(None, description="interfacial: the normal n, any length")

    @model_validator(mode="after")
    def _direction(self):
        if self.form == "list" and "direction" in self.model_fields_set:
            raise InputError("a list gives whole vectors, direction has no meaning for it", "direction")
        if self.direction == "interfacial" and self.normal is None:
            raise InputError("direction = 'interfacial' needs a normal such as [0, 0, 1]", "normal")
        if self.direction != "interfacial" and self.normal is not None:
            raise InputError("a normal has a meaning for direction = 'interfacial' only", "normal")
        if self.normal is not None and not np.linalg.norm(self.normal) > 0.0:
            raise InputError("the normal must not be zero", "normal")
        return self


def cross_matrix(n) -> np.ndarray:
    """[n]×, with [n]× u = n × u."""
    return np.array([[0.0, -n[2], n[1]], [n[2], 0.0, -n[0]], [-n[1], n[0], 0.0]])


def antisymmetric(vectors: np.ndarray) -> np.ndarray:
    """(n, 9) tensors T_ab = ε_abc D_c by rows of (n, 3) vectors: e_iᵀ T e_j = D·(e_i × e_j)."""
    x, y, z = vectors.T
    zero = np.zeros(len(vectors))
    return np.column_stack((zero, z, -y, -z, zero, x, y, -x, zero))


class DMI(PairTerm):
    """``DMI(form="constant", D0="1 meV", cutoff=3.0, direction="interfacial", normal=[0, 0, 1])``"""

    Parameters = DMIParameters
    default_name: ClassVar[str] = "dmi"
    coupling = CHIRAL

    def __init__(self, parameters=None, **keywords):
        super().__init__(parameters, **keywords)
        p = self.parameters
        self.cutoff = cutoff_of(p)
        if p.direction == "interfacial":
            self.matrix = cross_matrix(np.array(p.normal) / np.linalg.norm(p.normal))
        if not p.static:
            self.rows, self.inverse_spacing = tabulate(p)

    def prepare(self, state, backend=None):
        super().prepare(state, backend)
        if self.parameters.static:
            table = table_of(self, state, lambda: self._find(state))
            self._lattice = LatticeCouplings(table, state, self.inverse_moments, "tensor")

    def _find(self, state):
        p = self.parameters
        if p.form == "list":
            table = list_table(p, state, self.mask, 3)
            return table.with_values(antisymmetric(table.values))
        table = shells_table(p, p.D, state, self.mask)
        units = table.vectors / np.linalg.norm(table.vectors, axis=1)[:, None]
        return table.with_values(antisymmetric(np.array(p.D)[table.values][:, None] * (units @ self.matrix.T)))

    def add(self, state, pairs, out, need):
        if self.parameters.static:
            return self._lattice.add(state, out, need)
        return super().add(state, pairs, out, need)

    def freeze(self, state, pairs):
        return self._lattice.spin_term if self.parameters.static else super().freeze(state, pairs)
