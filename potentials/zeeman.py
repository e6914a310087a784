"""Zeeman energy of the moments in a constant field.

    E = −µB Σ_i S_i·B,      −∂E/∂S_i = µB B

S in µB, B in tesla, µB = 5.788e-5 eV/T; the moment already contains g. (LAMMPS multiplies by g = 2 once more.)
"""

from typing import ClassVar

import numpy as np
from pydantic import Field

from spinmd.parameters import MagneticField, Parameters
from spinmd.potentials.base import Term
from spinmd.protocols import OK, Need, SpinTerm, Status
from spinmd.units import BOHR_MAGNETON


class ZeemanParameters(Parameters):
    """E = −µB S·B"""

    field: tuple[MagneticField, MagneticField, MagneticField] = Field(description="B")


class Zeeman(Term):
    """``Zeeman(field=[0, 0, "10 T"])``"""

    Parameters = ZeemanParameters
    default_name: ClassVar[str] = "zeeman"
    selects = "elements"

    def prepare(self, state, backend=None):
        super().prepare(state, backend)
        active = self.mask[state.species] & (state.moments > 0.0)
        # (N, 3) eV/µB, zero where the term does not act
        self._field = active[:, None] * (BOHR_MAGNETON * np.array(self.parameters.field))
        self._spin_term = SpinTerm(field=self._field)

    def add(self, state, pairs, out, need) -> Status:
        np.multiply(state.spins, self._field, out=self.directions)
        out.energy[0] -= self.directions.sum()
        if Need.FIELD in need:
            out.fields += self._field
        return OK

    def freeze(self, state, pairs) -> SpinTerm:
        return self._spin_term
