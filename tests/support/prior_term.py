"""A prior alone as a term of the energy, for tests."""

import numpy as np

from spinmd.potentials.base import Term
from spinmd.potentials.deepspin.prior import Prior
from spinmd.potentials.deepspin.prior_term import PriorPart


class PriorTerm(Term):
    """``PriorTerm(prior)``: what ``deepspin`` does with a model that has a prior only."""

    selects = ""
    default_name = "prior"

    def __init__(self, prior: Prior):
        super().__init__()
        self.prior, self.part, self.cutoff = prior, PriorPart(prior), prior.cutoff

    def prepare(self, state, backend=None):
        super().prepare(state, backend)
        index = [self.prior.elements.index(symbol) for symbol in state.symbols]
        self.part.prepare(state, np.array(index, dtype=np.int64)[state.species])

    def add(self, state, pairs, out, need):
        return self.part.add(state, pairs, out, need)
