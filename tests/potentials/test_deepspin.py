"""The DeepSPIN term against its definition (autograd), against DeePMD-kit, and by its symmetries."""

import numba
import numpy as np
import pytest
from support.deepspin_models import make_random_model, reference

from spinmd.backend import Backend
from spinmd.errors import DivergedError, InputError
from spinmd.model import Model
from spinmd.potentials.deepspin.potential import DeepSpin
from spinmd.protocols import Need
from spinmd.state import State
from spinmd.testing import check_potential, example_states

SHEAR = np.array([[1.0, 0.0, 0.0], [0.21, 1.03, 0.0], [-0.13, 0.17, 0.98]])


def crystal(repeat=(2, 2, 2), elements=("Fe", "Co"), seed=1, moments=(2.2, 1.7), a=2.87, pbc=(True, True, True)):
    """A perturbed, triclinic bcc cell whose atoms alternate between the elements; random spins."""
    random = np.random.default_rng(seed)
    corners = np.array([[x, y, z] for x in range(repeat[0]) for y in range(repeat[1]) for z in range(repeat[2])], float)
    sites = a * np.concatenate([corners, corners + 0.5]) @ SHEAR
    symbols = [elements[k % len(elements)] for k in range(len(sites))]
    spins = random.normal(size=sites.shape)
    spins *= (np.array([moments[k % len(elements)] for k in range(len(sites))]) / np.linalg.norm(spins, axis=1))[
        :, None
    ]
    positions = sites + random.normal(scale=0.08, size=sites.shape)
    cell = a * np.array(repeat, float)[:, None] * SHEAR
    return State.create(cell, positions, symbols, np.full(len(sites), 55.0), spins=spins, pbc=pbc)


def evaluate(term, state, need=Need.ALL):
    """Energy, forces, fields (original order) and virial."""
    state = state.copy()
    result = Model(state, [term], backend=Backend()).evaluate(need)
    return (
        result.energy,
        state.original_order(result.forces),
        state.original_order(result.fields),
        result.virial.copy(),
    )


def close(given, expected, tolerance):
    scale = np.abs(expected).max()
    assert np.abs(given - expected).max() <= tolerance * scale, np.abs(given - expected).max() / scale


def compare(model, state, tolerance, precision="float64"):
    energy, forces, fields, virial = evaluate(DeepSpin.of(model, precision), state)
    wanted = reference(model, state.cell, state.positions, state.elements, state.spins, state.pbc)
    assert abs(energy - wanted["energy"]) <= tolerance * np.abs(wanted["atom_energy"]).sum()
    close(forces, wanted["forces"], tolerance)
    close(fields, wanted["fields"], tolerance)
    close(virial, wanted["virial"], tolerance)


@pytest.mark.parametrize("time_reversal", [False, True])
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_definition(precision, time_reversal):
    model = make_random_model(time_reversal=time_reversal, sel=60)
    compare(model, crystal(), 1e-9 if precision == "float64" else 1e-5, precision)


@pytest.mark.parametrize(
    ("options", "state_options"),
    [
        ({"magnetic": (True, False)}, {"moments": (2.2, 0.0)}),
        ({"magnetic": (False, True)}, {"moments": (0.0, 1.1)}),  # a magnetic element after one that is not
        ({"neuron": (3, 6), "axis": 3, "fitting": (18, 18, 36)}, {}),  # shortcuts from the descriptor on
        ({"neuron": (3, 6), "axis": 3, "fitting": (36, 20)}, {}),  # a first layer of twice the descriptor's width
        ({"activation": "gelu", "neuron": (8, 16, 32), "axis": 16, "fitting": (40, 40)}, {}),
        ({"neuron": (11, 22, 44), "axis": 12}, {"repeat": (1, 1, 1)}),  # atoms see their own images
        ({}, {"pbc": (True, False, False)}),
    ],
)
def test_definition_of_other_shapes(options, state_options):
    compare(make_random_model(sel=90, **options), crystal(**state_options), 1e-9)


@pytest.mark.parametrize("time_reversal", [False, True])
def test_derivatives(time_reversal):
    model = make_random_model(time_reversal=time_reversal, sel=60, scale=10.0)
    check_potential(DeepSpin.of(model), tolerance=1e-6, atoms=2)


def test_deepmd(shared):
    from spinmd.interop.deepmd import read_deepmd

    data = np.load(shared / "reference" / "deepmd" / "nio32_perturbed.npz")
    model = read_deepmd(shared / "reference" / "deepmd" / "model_small.dp")
    state = State.create(data["cell"], data["positions"], list(data["species"]), np.full(32, 50.0), spins=data["spins"])
    energy, forces, fields, virial = evaluate(DeepSpin.of(model), state)
    assert abs(energy - float(data["energy"])) < 1e-11 * abs(float(data["energy"]))
    close(forces, data["forces"], 1e-9)
    close(fields, data["force_mag"], 1e-9)
    close(virial, data["virial"], 1e-9)


@pytest.fixture(scope="module")
def term():
    return DeepSpin.of(make_random_model(sel=60))


def test_rotation(term):
    state = crystal()
    energy, forces, fields, virial = evaluate(term, state)
    q, _ = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))
    q *= np.linalg.det(q)
    turned = State.create(
        state.cell @ q.T, state.positions @ q.T, state.elements, state.masses, spins=state.spins @ q.T
    )
    energy2, forces2, fields2, virial2 = evaluate(term, turned)
    assert abs(energy2 - energy) < 1e-12 * abs(energy)
    close(forces2, forces @ q.T, 1e-11)
    close(fields2, fields @ q.T, 1e-11)
    close(virial2, q @ virial @ q.T, 1e-11)


def test_permutation_and_translation(term):
    state = crystal()
    energy, forces, fields, virial = evaluate(term, state)
    order = np.random.default_rng(5).permutation(state.natoms)
    moved = State.create(
        state.cell, state.positions[order] + [0.3, -7.1, 1.7], [state.elements[k] for k in order],
        state.masses, spins=state.spins[order],
    )  # fmt: skip
    energy2, forces2, fields2, virial2 = evaluate(term, moved)
    assert abs(energy2 - energy) < 1e-12 * abs(energy)
    close(forces2, forces[order], 1e-11)
    close(fields2, fields[order], 1e-11)
    close(virial2, virial, 1e-11)


def test_time_reversal():
    state, opposite = crystal(), crystal()
    opposite.spins *= -1.0
    for reversal in (False, True):
        term = DeepSpin.of(make_random_model(time_reversal=reversal, sel=60))
        one, other = evaluate(term, state), evaluate(term, opposite)
        if reversal:
            assert abs(one[0] - other[0]) < 1e-13 * abs(one[0])
            close(other[1], one[1], 1e-12)
            close(other[2], -one[2], 1e-12)
        else:
            assert abs(one[0] - other[0]) > 1e-6 * abs(one[0])


def dimer(distance, spins=((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))):
    positions = [[0.0, 0.0, 0.0], [distance, 0.0, 0.0]]
    return State.create(
        np.eye(3) * 30.0,
        positions,
        ["Fe", "Fe"],
        [55.0, 55.0],
        pbc=(False, False, False),
        spins=spins,
        moments=[2.2, 2.2],
    )


def test_smooth_at_the_cutoff():
    model = make_random_model(elements=("Fe",), magnetic=(True,), scale=10.0)
    term = DeepSpin.of(model)
    cutoff = model.network.cutoff
    alone = evaluate(term, dimer(cutoff + 1.0))[0]
    excess = [evaluate(term, dimer(cutoff - d))[0] - alone for d in (1e-1, 1e-2, 1e-3, -1e-3)]
    assert abs(excess[0]) > 1e-9
    assert abs(excess[1]) < 2e-3 * abs(excess[0])  # as the third power of the distance to the cutoff
    assert abs(excess[2]) < 2e-6 * abs(excess[0])
    assert abs(excess[3]) < 1e-14
    forces = [np.abs(evaluate(term, dimer(cutoff - d))[1]).max() for d in (1e-1, 1e-3)]
    assert forces[1] < 2e-4 * forces[0]  # as the square


def test_virtual_atoms_within_the_cutoff_of_atoms_beyond():
    model = make_random_model(elements=("Fe",), magnetic=(True,), scale=10.0, cutoff=4.0, cutoff_smooth=3.0)
    state = dimer(4.2, ((0.0, 0.0, 2.2), (-2.2, 0.0, 0.0)))
    compare(model, state, 1e-9)
    assert np.abs(evaluate(DeepSpin.of(model), state)[1]).max() > 1e-6


def test_spins_that_shrink_to_nothing():
    model = make_random_model(scale=10.0, sel=60)
    term = DeepSpin.of(model)
    state = crystal()
    direction = state.spins[3] / np.linalg.norm(state.spins[3])
    energies = []
    for length in (0.0, 1e-12, 1e-6, 1e-3):
        state.spins[3] = length * direction
        values = evaluate(term, state)
        assert all(np.isfinite(v).all() for v in values)
        energies.append(values[0])
    assert abs(energies[1] - energies[0]) < 1e-11
    assert abs(energies[2] - energies[0]) < 1e-5
    compare(model, state, 1e-9)


@pytest.mark.parametrize("need", [Need.FIELD, Need.FORCE, Need.ENERGY, Need.VIRIAL])
def test_kept_positions_give_the_same_as_a_fresh_start(term, need):
    state = crystal()
    model = Model(state, [term], backend=Backend())
    model.evaluate(Need.ALL)
    random = np.random.default_rng(6)
    q, _ = np.linalg.qr(random.normal(size=(3, 3)))
    state.spins[:] = state.spins @ q.T
    model.moved(spins=True)
    kept = model.evaluate(need)
    values = kept.energy, kept.forces.copy(), kept.fields.copy(), kept.virial.copy()
    fresh = evaluate(DeepSpin.of(term.model), state)
    assert values[0] == fresh[0]
    for flag, k in ((Need.FORCE, 1), (Need.FIELD, 2), (Need.VIRIAL, 3)):
        if flag in need:
            np.testing.assert_array_equal(values[k], fresh[k])


def test_live_fields(term):
    state = crystal()
    model = Model(state, [term], backend=Backend())
    assert model.live_terms() == [0]
    fields = np.zeros((state.natoms, 3))
    model.add_live_fields(fields)
    np.testing.assert_array_equal(fields, model.evaluate(Need.FIELD).fields)


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_the_same_bits_for_any_number_of_threads(precision):
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("needs two threads")
    model = make_random_model(sel=60)
    state = crystal(repeat=(5, 5, 4))
    threads = numba.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            numba.set_num_threads(count)
            results.append(evaluate(DeepSpin.of(model, precision), state))
    finally:
        numba.set_num_threads(threads)
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_moving_atoms_through_rebuilt_lists(term):
    state = crystal(repeat=(2, 2, 2))
    model = Model(state, [term], backend=Backend())
    random = np.random.default_rng(7)
    for _ in range(6):
        state.positions += random.normal(scale=0.15, size=state.positions.shape)
        model.moved(positions=True)
        forces = model.evaluate(Need.ALL).forces.copy()
    assert model.rebuilds > 2
    close(forces, evaluate(DeepSpin.of(term.model), state)[1], 1e-12)


def test_unknown_element(term):
    with pytest.raises(InputError, match="knows Fe, Co, it has no Ni"):
        evaluate(term, crystal(elements=("Fe", "Ni")))


def test_spin_on_an_element_without_spins():
    term = DeepSpin.of(make_random_model(magnetic=(True, False)))
    with pytest.raises(InputError, match=r"atom 1 \(Co\) has a spin of 1.7 µB"):
        evaluate(term, crystal())


def test_warnings_name_atom_and_value():
    model = make_random_model(seen=True, sel=10)
    state = crystal()
    state.spins[2] *= 3.0
    with pytest.warns(UserWarning) as caught:
        evaluate(DeepSpin.of(model), state)
    messages = [str(w.message) for w in caught]
    assert any("atom 2 (Fe) has a spin of 6.6 µB, the training data had 1.5 to 2.6" in m for m in messages)
    assert any("the network was made for 10" in m for m in messages)
    assert sum("spin of" in m for m in messages) == 1
    model.seen.min_distance[:] = 2.45
    model.network.sel[:] = 60
    with pytest.warns(UserWarning, match=r"atoms \d+ and \d+ are 1\.\d+ Å apart.*is 2.45 Å"):
        evaluate(DeepSpin.of(model), crystal())


def test_atoms_far_too_close_diverge():
    model = make_random_model(seen=True, sel=60)
    state = crystal()
    instance = Model(state, [DeepSpin.of(model)], backend=Backend())
    instance.evaluate(Need.ENERGY)
    state.positions[5] = state.positions[9] + [0.3, 0.0, 0.0]
    instance.moved(positions=True)
    with pytest.raises(DivergedError, match=r"at atom (5|9): another atom is closer than half"):
        instance.evaluate(Need.ENERGY)


def test_spins_that_outgrow_the_lists(term):
    state = crystal()
    model = Model(state, [term], backend=Backend())
    model.evaluate(Need.FIELD)
    state.spins[4] *= 1.05
    model.moved(spins=True)
    model.evaluate(Need.FIELD)
    state.spins[4] *= 2.0
    model.moved(spins=True)
    with pytest.raises(DivergedError, match="at atom 4: its spin is 4.62 µB long"):
        model.evaluate(Need.FIELD)
    state.spins[4] = np.nan
    model.moved(spins=True)
    with pytest.raises(DivergedError, match="at atom 4"):
        model.evaluate(Need.FIELD)


def test_example_states_are_what_the_model_knows(term):
    assert {s for state in example_states().values() for s in state.symbols} <= set(term.model.elements)
