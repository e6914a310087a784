"""Biquadratic exchange between moments at distance r, or by shell or list on a rigid lattice.

    E = −½ Σ_{i≠j} K(r_ij) [(e_i·e_j)² − c],   e_i = S_i/m_i,   c = 1 with ``offset``, else 0
    F_i = −Σ_j K'(r) [(e_i·e_j)² − c] (r_j − r_i)/r,      −∂E/∂S_i = (2/m_i) Σ_j K(r) (e_i·e_j) e_j

Each pair counts once; K > 0 favours collinear moments; eV, Å, µB. K(r) has the forms of ``potentials.radial``.
Nieves, Tranchida, Arapan, Legut, Phys. Rev. B 103, 094437 (2021), eq. 3.
"""

from typing import ClassVar

from pydantic import Field

from spinmd.parameters import Energy
from spinmd.potentials.lattice_couplings import LatticeCouplings
from spinmd.potentials.pair_laws import BIQUADRATIC
from spinmd.potentials.pair_loops import PairTerm
from spinmd.potentials.radial import RadialBase, cutoff_of, tabulate


class BiquadraticParameters(RadialBase):
    """Biquadratic K(r), and K by shell or list; eV, Å."""

    symbol: ClassVar[str] = "K"
    K0: Energy | None = Field(None, description="amplitude of polynomial and constant")
    K: tuple[Energy, ...] | None = Field(
        None, min_length=1, description="shells: couplings of the first, second, ... shell"
    )
    offset: bool = Field(False, description="energy −½ Σ K [(e_i·e_j)² − 1]: zero for collinear moments")


class Biquadratic(PairTerm):
    """Biquadratic exchange K(r), or K by shell or by list.

    ``Biquadratic(form="bethe-slater", a=0.006, b=0.03, d=1.48, cutoff=3.4, pairs=["Fe-Fe"])``
    """

    Parameters = BiquadraticParameters
    default_name: ClassVar[str] = "biquadratic"
    coupling = BIQUADRATIC

    def __init__(self, parameters=None, **keywords):
        super().__init__(parameters, **keywords)
        self.cutoff = cutoff_of(self.parameters)
        self.offset = 1.0 if self.parameters.offset else 0.0
        if not self.parameters.static:
            self.rows, self.inverse_spacing = tabulate(self.parameters)

    def prepare(self, state, backend=None):
        super().prepare(state, backend)
        if self.parameters.static:
            self._lattice = LatticeCouplings.of(self, state, "biquadratic")

    def add(self, state, pairs, out, need):
        if self.parameters.static:
            return self._lattice.add(state, out, need, self.offset)
        return super().add(state, pairs, out, need)

    def freeze(self, state, pairs):
        return self._lattice.spin_term if self.parameters.static else super().freeze(state, pairs)
