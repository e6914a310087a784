"""Critical temperatures of classical magnets by parallel tempering and Binder crossings, against published values.

Heisenberg model, E = −½ Σ_{i≠j} J e_i·e_j: k_B T_c/J = 1.4429 on the simple cubic and 2.0542 on the bcc lattice (Chen, Ferrenberg,
Landau, Phys. Rev. B 48, 3249 (1993)), 3.1776 on fcc. What the longer runs gave is in docs/monte_carlo.md.
"""

import numpy as np
import pytest

import spinmd
from spinmd.analysis.binder import binder_crossing
from spinmd.units import BOLTZMANN

J = 0.010  # eV
# lattice -> k_B T_c/J, and cells along an edge of the smaller and the larger system
LATTICES = {"sc": (1.4429, (8, 16)), "bcc": (2.0542, (6, 12)), "fcc": (3.1776, (5, 10))}


def lengths(prototype, cells, couplings, temperatures, steps, skipped, moment=2.0, over_relaxation=3):
    """(rows, temperatures) |m| in µB of a run of parallel tempering, one row a sweep, and its exchange acceptance."""
    deck = {
        "structure": {
            "prototype": prototype, "element": "Fe", "lattice_constant": 2.87, "supercell": [cells] * 3,
            "spins": {"moments": {"Fe": moment}, "texture": "random"},
        },
        "potential": [{"kind": "exchange", "parameters": {"form": "shells", "J": couplings}}],
        "integrator": {
            "ensemble": "parallel-tempering", "lattice": "frozen", "temperatures": list(temperatures),
            "over_relaxation": over_relaxation,
        },
        "run": {"steps": steps, "seed": cells, "threads": 1},
    }  # fmt: skip
    simulation = spinmd.build(deck, output=False)
    rows = []
    every = Rows(rows)
    simulation.run(reporters=[every])
    return np.array(rows[skipped:]), simulation.row_arrays["exchange_acceptance"][-1]


class Rows:
    """A reporter that keeps |m| at each temperature after every sweep, without a thermo row."""

    every, stores = 1, False
    needs = spinmd.Need.NONE

    def __init__(self, rows):
        self.rows = rows

    def report(self, frame):
        if frame.reason == "step" and frame.step:
            self.rows.append(np.linalg.norm(frame.aux.globals["replica_magnetisations"], axis=1))


def crossing(prototype, sizes, couplings, temperatures, steps, skipped, corrected=False, **more):
    """T_c in K from two sizes, printed; ``corrected``: with the leading correction to scaling."""
    runs = [lengths(prototype, cells, couplings, temperatures, steps, skipped, **more) for cells in sizes]
    result = binder_crossing(temperatures, runs[0][0], runs[1][0], sizes=sizes if corrected else None)
    print(
        f"\n{prototype} {sizes}: T_c = {result.temperature} K, U = {result.cumulant}, exchanges {runs[1][1].round(2)}"
    )
    assert (runs[1][1] > 0.05).all()
    return result.temperature


def test_simple_cubic_shortly():
    """Small systems, a few seconds: within 2 %."""
    exact = 1.4429 * J / BOLTZMANN
    found = crossing("sc", (4, 8), [J], exact * np.linspace(0.95, 1.06, 5), 1300, 100, over_relaxation=1)
    assert found.error < 0.008 * exact
    assert abs(found.value / exact - 1.0) < 0.02


@pytest.mark.physics
@pytest.mark.parametrize("prototype", LATTICES)
def test_heisenberg_model(prototype):
    """T_c within half a percent, some two minutes on one core for each lattice."""
    ratio, sizes = LATTICES[prototype]
    exact = ratio * J / BOLTZMANN
    found = crossing(prototype, sizes, [J], exact * np.linspace(0.98, 1.02, 5), 4000, 300)
    print(f"k_B T_c/J = {found.value * BOLTZMANN / J:.4f} ± {found.error * BOLTZMANN / J:.4f}, expected {ratio}")
    assert found.error < 0.002 * exact
    assert abs(found.value / exact - 1.0) < 0.005


@pytest.mark.physics
def test_iron_of_uppasd(shared):
    """UppASD's table of bcc iron in four shells: 920 ± 8 K. UppASD counts each pair twice, so that J is twice its number."""
    table = np.loadtxt(shared / "data/jij_tables/uppasd/examples/SimpleSystems/bccFe/jfile")
    table = table[np.argsort(np.linalg.norm(table[:, 2:5], axis=1))][:4]  # the fifth and further are 1e-10 of the first
    couplings = [f"{2.0 * value:.15g} mRy" for value in table[:, 5]]
    # couplings of both signs make large corrections to scaling: plain crossings are 912 (6³, 12³) and 913 K (8³, 16³)
    found = crossing(
        "bcc", (8, 16), couplings, np.linspace(900.0, 936.0, 5), 2500, 300, True, moment=2.23, over_relaxation=2
    )
    assert found.error < 3.0
    assert abs(found.value - 920.0) < 8.0
