"""Exchange with a full 3×3 tensor on a rigid lattice, by list or by shell.

    E = −½ Σ_{i≠j} e_iᵀ T_ij e_j,   T_ji = T_ijᵀ,   e_i = S_i/m_i;      −∂E/∂S_i = (1/m_i) Σ_j T_ij e_j

The isotropic part of T is exchange, the antisymmetric one DMI (T_ab = ε_abc D_c), the symmetric traceless one
anisotropic exchange. eV, µB.
"""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from spinmd.errors import InputError
from spinmd.parameters import Energy, InputFile, Length, Parameters
from spinmd.potentials.base import Term
from spinmd.potentials.lattice_couplings import LatticeCouplings, list_table, shells_table, table_of
from spinmd.units import UNITS


class TensorParameters(Parameters):
    """A list of tensors (9 numbers by rows), or per shell an isotropic part and one along the bond, J 1 + B u uᵀ."""

    form: Literal["list", "shells"] = Field(description="list: a file of tensors; shells: isotropic and bond")
    file: InputFile | None = Field(None, description="list: lines of two atoms, three numbers and the tensor by rows")
    unit: str = Field("eV", description="unit of energy in the file")
    isotropic: tuple[Energy, ...] | None = Field(
        None, min_length=1, description="shells: J of the first, second, ... shell"
    )
    bond: tuple[Energy, ...] | None = Field(None, min_length=1, description="shells: B of the first, second, ... shell")
    cutoff: Length | None = Field(None, gt=0.0, description="shells: none may lie beyond this distance")
    tolerance: Length = Field(0.05, gt=0.0, description="distances and vectors that differ less are the same")

    @model_validator(mode="after")
    def _only_what_the_form_uses(self):
        if self.form == "list":
            needed, foreign = ("file",), ("isotropic", "bond", "cutoff")
        else:
            needed, foreign = ("isotropic",), ("file",)
        for name in needed:
            if getattr(self, name) is None:
                raise InputError(f"form = {self.form!r} needs {name}", name)
        for name in foreign:
            if getattr(self, name) is not None:
                raise InputError(f"form = {self.form!r} has no parameter {name}", name)
        if self.bond is not None and len(self.bond) != len(self.isotropic):
            raise InputError(f"isotropic has {len(self.isotropic)} shells, bond has {len(self.bond)}", "bond")
        if self.unit not in UNITS["energy"]:
            raise InputError(f"unknown unit of energy {self.unit!r}; use one of {', '.join(UNITS['energy'])}", "unit")
        return self


class TensorExchange(Term):
    """``TensorExchange(form="list", file="tensors.dat", unit="meV")``"""

    Parameters = TensorParameters
    default_name: ClassVar[str] = "tensor-exchange"

    def prepare(self, state, backend=None):
        super().prepare(state, backend)
        table = table_of(self, state, lambda: self._find(state))
        self._lattice = LatticeCouplings(table, state, self.inverse_moments, "tensor")

    def _find(self, state):
        p = self.parameters
        if p.form == "list":
            return list_table(p, state, self.mask, 9)
        table = shells_table(p, p.isotropic, state, self.mask)
        units = table.vectors / np.linalg.norm(table.vectors, axis=1)[:, None]
        bond = np.zeros(len(p.isotropic)) if p.bond is None else np.array(p.bond)
        tensor = np.array(p.isotropic)[table.values][:, None, None] * np.eye(3)
        tensor = tensor + bond[table.values][:, None, None] * units[:, :, None] * units[:, None, :]
        return table.with_values(tensor.reshape(-1, 9))

    def add(self, state, pairs, out, need):
        return self._lattice.add(state, out, need)

    def freeze(self, state, pairs):
        return self._lattice.spin_term
