"""Dipole-dipole interaction of the moments by direct sum inside a hard cutoff.

    E = −½ Σ_{i≠j} k/r³ [3 (S_i·u)(S_j·u) − S_i·S_j],   u = (r_j − r_i)/r,   k = µ0 µB²/4π = 5.36815e-5 eV Å³

S in µB, without g; only non-zero reference moments take part. The sum converges slowly and its limit depends on the
shape of the sample: a cutoff is an approximation, to be converged. The virial is not symmetric. Jackson, Classical
Electrodynamics, eq. 5.56.
"""

from typing import ClassVar

import numpy as np
from pydantic import Field

from spinmd.parameters import Length, Parameters
from spinmd.potentials.pair_laws import DIPOLAR, INVERSE_CUBE
from spinmd.potentials.pair_loops import PairTerm
from spinmd.units import DIPOLE


class DipoleParameters(Parameters):
    """Cutoff of the sum, Å, and the constant for comparison with other codes."""

    cutoff: Length = Field(gt=0.0, description="pairs beyond this distance are left out")
    constant: float = Field(DIPOLE, gt=0.0, description="µ0 µB²/4π, eV Å³")


class Dipole(PairTerm):
    """``Dipole(cutoff=8.0)``"""

    Parameters = DipoleParameters
    default_name: ClassVar[str] = "dipole"
    law = INVERSE_CUBE
    coupling = DIPOLAR

    def __init__(self, parameters=None, **keywords):
        super().__init__(parameters, **keywords)
        self.cutoff = self.parameters.cutoff
        self.constants[0] = self.parameters.constant

    def prepare(self, state, backend=None):
        super().prepare(state, backend)
        self.scale = np.where(state.moments > 0.0, 1.0, 0.0)

    def vectors(self, state):
        return state.spins
