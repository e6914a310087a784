"""The sort of atoms in space may come whenever lists are brought up to date, also in the middle of a step: nothing may notice."""

import numpy as np
import pytest
from support.systems import bcc, exchange, model, morse

from spinmd.integrators.build import build_integrator
from spinmd.integrators.parameters import IntegratorParameters

SOLVERS = (
    "midpoint", "spherical-midpoint", "suzuki-trotter", "depondt-mertens", "semi-implicit", "heun", "runge-kutta"
)  # fmt: skip
HOT = {"ensemble": "langevin", "temperature": 300, "lattice_friction": 5.0, "spin_damping": {"Fe": 0.1}}


def spins_after(parameters, shuffled, steps=6):
    state = bcc(3, temperature=3000.0, seed=5)
    system = model(state, [morse(), exchange()])
    if shuffled:
        rng = np.random.default_rng(8)
        system.lists.needs_build = lambda state: True
        system.lists.sort_due = lambda state: True
        system.lists.sorted_order = lambda state: rng.permutation(state.natoms)
    integrator = build_integrator(IntegratorParameters(timestep="1 fs", **parameters), state, system, steps)
    aux = integrator.init(state, 1)
    system.attach(aux)
    for _ in range(steps):
        assert integrator.step(state, aux, system).ok
    return state.original_order(state.spins), state.original_order(state.unwrapped())


@pytest.mark.parametrize("hot", [False, True])
@pytest.mark.parametrize("name", SOLVERS)
def test_any_order_of_the_atoms_gives_the_same_trajectory(name, hot):
    """Suzuki and Trotter's sweep goes through the atoms in order: another order differs by the error of a step."""
    parameters = {"spin_solver": name, **(HOT if hot else {})}
    spins, positions = spins_after(parameters, shuffled=False)
    other_spins, other_positions = spins_after(parameters, shuffled=True)
    tolerance = 5e-3 if name == "suzuki-trotter" else 1e-5 if "midpoint" in name else 1e-11
    np.testing.assert_allclose(other_spins, spins, atol=tolerance)
    np.testing.assert_allclose(other_positions, positions, atol=min(tolerance, 1e-6))
