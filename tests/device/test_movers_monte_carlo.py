"""Monte Carlo and parallel tempering on the device make the moves of the host."""

import numpy as np
import pytest
from support.device_movers import ON_SITE, RIGID, Both, deck


@pytest.mark.parametrize("move", ["heat-bath", "metropolis"])
@pytest.mark.parametrize("terms", [RIGID, RIGID[:1]], ids=["all couplings", "exchange"])
def test_monte_carlo(move, terms):
    heat = {"start": 100, "end": 900} if move == "metropolis" else 300
    pair = Both(
        deck(
            terms,
            ensemble="monte-carlo",
            lattice="frozen",
            temperature=heat,
            move=move,
            fixed_spins=["Co"] if len(terms) > 1 else [],
        )
    )
    before = pair.host.spins.copy()
    pair.step(4)
    assert np.abs(pair.host.spins - before).max() > 0.1
    pair.compare()


def test_parallel_tempering():
    table = deck(
        [RIGID[0], *ON_SITE], ensemble="parallel-tempering", lattice="frozen", temperatures=[200, 260, 340], exchange=2,
        move="metropolis",
    )  # fmt: skip
    pair = Both(table)
    pair.step(8)
    assert pair.aux.globals["exchanges"].sum() > 0
    pair.compare()
