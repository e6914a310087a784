"""Nets over the prior's invariants in dynamics, against torch; and the model of fcc iron that comes with spinmd."""

import re
import subprocess
import sys

import numpy as np
import pytest

from spinmd.learning.evaluation import evaluate_systems
from spinmd.model import Model
from spinmd.potentials.deepspin.accuracy import accuracy
from spinmd.potentials.deepspin.data import read_systems
from spinmd.potentials.deepspin.model import DeepSpinModel
from spinmd.potentials.deepspin.model_file import read_model
from spinmd.potentials.deepspin.potential import DeepSpin
from spinmd.potentials.deepspin.prior import Prior, invariant_count
from spinmd.potentials.deepspin.prior_design import core, design, predict
from spinmd.potentials.deepspin.starting_weights import new_net
from spinmd.state import State
from spinmd.testing import check_potential


def random_model(magnetic, seed=0, activation="tanh", resnet=False):
    """A prior with random coefficients and nets; elements Fe, O, Ni."""
    n, rng = len(magnetic), np.random.default_rng(seed)
    prior = Prior(
        {
            "elements": ["Fe", "O", "Ni"][:n], "magnetic": list(magnetic), "reference_moment": [1.2] * n,
            "atomic_numbers": [26, 8, 28][:n], "shortest": np.full((n, n), 1.4).tolist(), "cutoff": 5.0, "many_body_functions": 6,
        }
    )  # fmt: skip
    prior = prior.with_coefficients(rng.normal(0.0, 0.01, prior.count))
    nets = []
    for a in range(n):
        net = new_net(
            [invariant_count(prior, a), 13, 13, 26], activation, rng, bias=0.3, output=True, resnet=resnet, steps=resnet
        )
        net[0].weight *= 0.05
        nets.append(net)
    return DeepSpinModel(tuple(prior.elements), np.array(magnetic), np.zeros(n), rng.normal(size=n), None, prior, nets)


def frame(magnetic, kinds=None, seed=1):
    rng = np.random.default_rng(seed)
    types = np.arange(24) % (len(magnetic) if kinds is None else kinds)
    box = 1.05 * np.array([[6.2, 0.3, 0.0], [0.4, 6.6, 0.2], [-0.3, 0.5, 6.4]])
    grid = np.stack(np.meshgrid([0, 0.5], [0, 0.33, 0.67], [0, 0.25, 0.5, 0.75], indexing="ij"), -1).reshape(-1, 3)
    coord = (grid + rng.normal(0.0, 0.01, grid.shape)) @ box
    return types, box, coord, rng.normal(size=coord.shape) * np.array(magnetic)[types][:, None]


def state_of(model, types, box, coord, spin):
    symbols = [model.elements[t] for t in types]
    return State.create(box, coord, symbols, np.full(len(types), 50.0), spins=spin)


@pytest.mark.parametrize("kinds", [None, 2])
@pytest.mark.parametrize(
    ("magnetic", "activation", "resnet"),
    [((True,), "tanh", False), ((True, False, True), "gelu", True), ((True, False, True), "tanh", True)],
)
def test_energy_forces_fields_and_virial_are_those_of_training(magnetic, activation, resnet, kinds):
    """In float64 to rounding, with elements that are not in the structure too."""
    torch = pytest.importorskip("torch")
    from spinmd.potentials.deepspin.torch_invariants import TorchInvariants

    model = random_model(magnetic, activation=activation, resnet=resnet)
    types, box, coord, spin = frame(magnetic, None if kinds is None or len(magnetic) == 1 else kinds)
    part = TorchInvariants(model.prior, model.invariants, torch.float64).train(False)
    for a in range(len(magnetic)):
        size = invariant_count(model.prior, a)
        part.register_buffer(f"centre_{a}", torch.zeros(size, dtype=torch.float64))
        part.register_buffer(f"mix_{a}", torch.eye(size, dtype=torch.float64))
    energy, force, field, virial = (x.detach().numpy() for x in part(part.prepare(box, coord, spin, types), True))
    assert abs(energy) > 0.01 and abs(force).max() > 0.01 and abs(field).max() > 0.01
    rows = design(model.prior, types, box, coord, spin, virial=True)
    e, F, H = predict(model.prior, rows)
    core_energy, core_force, core_virial = core(model.prior, types, box, coord)
    state = state_of(model, types, box, coord, spin)
    found = Model(state, [DeepSpin.of(model)], threads=1).evaluate()
    assert found.energy == pytest.approx(energy + e + core_energy + model.shift[types].sum(), abs=1e-11)
    np.testing.assert_allclose(state.original_order(found.forces), force + F + core_force, atol=1e-11)
    np.testing.assert_allclose(state.original_order(found.fields), field + H, atol=1e-11)
    whole = virial + (model.prior.coefficients @ rows.virial).reshape(3, 3) + core_virial
    np.testing.assert_allclose(found.virial, whole, atol=1e-10)


def test_conformance():
    model = random_model((True, False))
    check_potential(DeepSpin.of(model), state_of(model, *frame((True, False))))


def test_threads_and_field_only_calls_give_the_same_bits():
    from spinmd.protocols import Need

    model = random_model((True, False))
    results = []
    for threads in (1, 2):
        state = state_of(model, *frame((True, False)))
        one = Model(state, [DeepSpin.of(model)], threads=threads)
        one.evaluate()
        state.spins[:] *= 0.9
        one.moved(spins=True)
        fields = one.evaluate(Need.FIELD).fields.copy()
        one.moved()
        results += [fields, one.evaluate().fields.copy()]
    assert all(np.array_equal(results[0], other) for other in results[1:])


# ---------------------------------------------------------------------------------------------- the shipped model


@pytest.fixture(scope="module")
def iron(root):
    return root / "inputs" / "models" / "fcc_iron.h5"


def test_shipped_model_keeps_its_errors(iron, shared):
    """On all frames near equilibrium (most were trained on), and of the interstitial."""
    data = shared / "data" / "fcc_fe"
    if not data.is_dir():
        pytest.skip("needs fcc_fe in ../shared/data")
    systems = [s for s in read_systems(data) if "iter-4" not in s.name]
    for names, energy, force, field in ((("_Fe_iter",), 0.25, 16.0, 3.5), (("defect",), 1.0, 65.0, 12.0)):
        chosen = [s for s in systems if any(name in s.name for name in names)]
        report = accuracy(chosen, evaluate_systems(iron, chosen))
        assert report["energy_rmse_mev_per_atom"] < energy
        assert report["force_rmse_mev_per_ang"] < force
        assert report["field_rmse_mev_per_mub"] < field


def test_shipped_model_says_where_it_comes_from(iron):
    model = read_model(iron)
    assert model.provenance["data"]["train"] and model.provenance["title"]
    assert not re.search(r"'/\w", str(model.provenance)), "absolute paths say nothing to others"
    assert 1.0 < model.seen.spin_length[0, 1] < 2.0


def test_dynamics_does_not_import_torch(root, tmp_path):
    code = (
        "import sys, spinmd\n"
        f"s = spinmd.build({str(root / 'inputs' / 'quickstart.toml')!r}, output=False)\n"
        "s.run(2)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "False"


def test_atoms_stay_apart_where_there_were_no_data(iron):
    """The core repels two atoms pushed together in the crystal, ever more strongly."""
    energies = []
    for distance in (1.4, 1.1, 0.8):
        base = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
        cells = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
        coord = (cells + base).reshape(-1, 3) * 3.55
        coord[1] = coord[0] + distance / np.sqrt(3.0)
        spin = np.array([0.0, 0.0, 1.3]) * np.where(np.round(2 * coord[:, 2:3] / 3.55).astype(int) % 4 < 2, 1, -1)
        state = State.create(7.1 * np.eye(3), coord, ["Fe"] * 32, np.full(32, 55.845), spins=spin)
        with pytest.warns(UserWarning, match="apart|closer|distance"):
            energies.append(Model(state, [DeepSpin(model=iron)], threads=1).evaluate().energy)
    assert energies[1] > energies[0] + 10.0 and energies[2] > energies[1] + 50.0
