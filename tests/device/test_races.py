"""Nothing depends on the order in which threads and blocks run: on a GPU that would be a race."""

import numpy as np
import pytest
from numba import cuda
from support import simulator
from support.device_movers import EXCHANGE, MORSE, ON_SITE, OPEN, RIGID, deck
from support.device_terms import TERMS, on_both
from support.devices import both

from spinmd.protocols import Need

NOISE = {"ensemble": "langevin", "spin_damping": 0.1, "lattice_friction": 5.0, "temperature": 200}
BATH = {"ensemble": "nvt", "temperature": 600, "spins": "frozen"}
MANY = {"supercell": [3, 2, 1]}  # more than one block of the simulator
MOVERS = {
    "every coupling": deck(RIGID, MANY, lattice="frozen"),
    "spherical": deck(RIGID[:1], MANY, lattice="frozen", spin_solver="spherical-midpoint", spin_damping=0.1),
    "suzuki-trotter": deck([MORSE, EXCHANGE], OPEN, spin_solver="suzuki-trotter"),
    "suzuki-trotter, every coupling": deck(RIGID, lattice="frozen", spin_solver="suzuki-trotter"),
    "depondt-mertens": deck(RIGID[:1], MANY, lattice="frozen", spin_solver="depondt-mertens"),
    "semi-implicit": deck(RIGID[:1], MANY, lattice="frozen", spin_solver="semi-implicit"),
    "heun": deck(RIGID[:1], MANY, lattice="frozen", spin_solver="heun"),
    "runge-kutta": deck(RIGID[:1], MANY, lattice="frozen", spin_solver="runge-kutta"),
    "langevin, lists": deck([MORSE, EXCHANGE], **NOISE),
    "rescaling": deck([MORSE], MANY | OPEN, **BATH),
    "nose-hoover": deck([MORSE], MANY | OPEN, thermostat="nose-hoover", **BATH),
    "monte-carlo": deck([RIGID[0], *ON_SITE], MANY, ensemble="monte-carlo", lattice="frozen", temperature=300, move="metropolis"),
    "parallel-tempering": deck(
        [RIGID[0], *ON_SITE], ensemble="parallel-tempering", lattice="frozen", temperatures=[200, 260, 340], exchange=2,
        move="heat-bath",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def needs_the_simulator(device):
    if device != "simulator":
        pytest.skip("the order of threads can be turned round in the simulator only")


def moved(table: dict) -> list[np.ndarray]:
    """State and what the mover keeps after two steps on the device."""
    from spinmd.integrators.cuda import device_mover

    simulation, state, model = both(table)
    aux = simulation.integrator.init(simulation.state, 11)
    simulation.model.attach(aux)
    mover = device_mover(simulation.integrator, state, aux)
    for _ in range(2):
        mover.step(model)
    mover.download(aux)
    mover.download_histories(aux)
    return [
        *(getattr(state, name).host() for name in ("positions", "velocities", "spins")),
        *(np.copy(one) for one in (*aux.per_atom.values(), *aux.globals.values())),
        *(one.host() for one in mover.memory()),
    ]


@pytest.mark.parametrize("name", MOVERS)
def test_movers(name):
    forward = moved(MOVERS[name])
    with simulator.reversed_order():
        backward = moved(MOVERS[name])
    for k, (one, other) in enumerate(zip(forward, backward, strict=True)):
        assert np.array_equal(one, other, equal_nan=True), (k, one.shape)


@pytest.mark.parametrize("name", [name for name in TERMS if "," not in name])
def test_terms(name):
    results = []
    for turned in (False, True):
        term = TERMS[name]()
        need = Need.ENERGY | Need.FORCE | Need.FIELD
        need |= Need.VIRIAL if Need.VIRIAL in term.provides else Need.NONE

        def evaluate(term=term, need=need):
            _, _, model = on_both([term])
            model.evaluate(need)
            return [model.total_energies(), model.forces.host(), model.fields.host(), model.virials.host()]

        if turned:
            with simulator.reversed_order():
                results.append(evaluate())
        else:
            results.append(evaluate())
    for one, other in zip(*results, strict=True):
        assert np.array_equal(one, other)


def test_a_race_would_be_seen():
    """A kernel whose threads read what others write."""

    from spinmd.cuda.arrays import on_device
    from spinmd.cuda.launch import KERNELS, array, f8, kernel

    @kernel(array(f8, 1))
    def shift(values):
        i = cuda.grid(1)
        if i + 1 < values.shape[0]:
            values[i] = values[i + 1]

    KERNELS.pop(shift.name)
    forward, backward = on_device(np.arange(40.0)), on_device(np.arange(40.0))
    shift(40, forward)
    with simulator.reversed_order():
        shift(40, backward)
    assert not np.array_equal(forward.host(), backward.host())
