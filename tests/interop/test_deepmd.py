"""Both directions against the real DeePMD-kit: its files read by us, ours run by it, the same numbers from both."""

import numpy as np
import pytest
from support import deepspin_dense
from support.deepmd_files import assert_same, exclude, tiny
from support.deepspin_models import random_net

from spinmd.interop.deepmd import convert, read_deepmd, write_deepmd
from spinmd.model import Model
from spinmd.potentials.deepspin.model_file import read_model, write_model
from spinmd.potentials.deepspin.potential import DeepSpin
from spinmd.protocols import Need
from spinmd.state import State

pytestmark = pytest.mark.interop

EXACT = 1.0e-10  # relative, float64: what the project promises
TABLES = (
    1.0e-9  # relative, forces and fields of the potential: its tables are good to 1e-11 of a channel, not of a force
)
SINGLE = 2.0e-5  # relative, float32: DeePMD adds up some hundred terms in single precision


def configuration(elements, magnetic, seed=1, atoms=8):
    """Cell, positions, types, spins: a distorted simple cubic crystal in a triclinic cell."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), -1).reshape(-1, 3)[:atoms] / 2.0
    cell = np.array([[5.2, 0.0, 0.0], [0.4, 5.4, 0.0], [-0.3, 0.2, 5.6]])
    positions = grid @ cell + random.normal(scale=0.12, size=(atoms, 3))
    types = np.arange(atoms) % len(elements)
    spins = random.normal(scale=1.3, size=(atoms, 3)) * np.array(magnetic)[types][:, None]
    return cell, positions, types, spins


def ours(path, cell, positions, types, spins, elements):
    """Energy, forces, fields and virial from the potential that dynamics uses."""
    state = State.create(cell, positions, [elements[t] for t in types], np.full(len(types), 50.0), spins=spins)
    result = Model(state, [DeepSpin(model=str(path))], threads=1).evaluate(Need.ALL)
    back = np.argsort(state.ids)
    return result.energy, result.forces[back], result.fields[back], result.virial


def compare(theirs, model, system, path, tolerance):
    """DeePMD's answer with the dense reference and with the potential."""
    energies = deepspin_dense.atom_energies(model, *system)
    np.testing.assert_allclose(energies, theirs["atom_energy"], rtol=tolerance)
    assert energies.sum() == pytest.approx(float(theirs["energy"]), rel=tolerance)
    loose = max(1.0e-7, 10.0 * tolerance)  # what central differences leave
    for function, other, places in (
        (deepspin_dense.force, "forces", ((0, 0), (5, 2))),
        (deepspin_dense.field, "force_mag", ((1, 1), (4, 0))),
        (deepspin_dense.virial, "virial", ((0, 0), (2, 1))),
    ):
        for place in places:
            scale = np.abs(theirs[other]).max()
            assert function(model, *system, *place) == pytest.approx(theirs[other][place], abs=loose * scale), other
    energy, forces, fields, virial = ours(path, *system, model.elements)
    assert energy == pytest.approx(float(theirs["energy"]), rel=tolerance)
    for mine, other in ((forces, "forces"), (fields, "force_mag"), (virial, "virial")):
        scale = np.abs(theirs[other]).max()
        np.testing.assert_allclose(mine, theirs[other], rtol=0.0, atol=max(tolerance, TABLES) * scale, err_msg=other)
    assert np.abs(theirs["force_mag"]).max() > 1e-4


# --- its files, read by us ---

TRAINED = {
    "plain": {},
    "float32, one side, steps, gelu": {
        "descriptor": {
            "type_one_side": True,
            "precision": "float32",
            "resnet_dt": True,
            "activation_function": "gelu",
            "env_protection": 0.02,
        },
        "fitting_net": {"activation_function": "silu", "resnet_dt": False, "precision": "float32"},
        "spin": {"use_spin": [True, True], "virtual_scale": [0.31, 0.2]},
    },
    "excluded pair, softplus, widths that stay": {
        "pair_exclude_types": [[1, 1]],
        "descriptor": {"neuron": [5, 5, 10], "activation_function": "softplus"},
        "spin": {"virtual_scale": 0.3, "use_spin": ["Ni"]},
    },
}


def training_data(folder, magnetic):
    """Ten frames in DeePMD's spin layout with made-up labels."""
    random = np.random.default_rng(5)
    frames = [configuration(("Ni", "O"), magnetic, seed) for seed in range(10)]
    (folder / "set.000").mkdir(parents=True)
    np.savetxt(folder / "type.raw", frames[0][2], fmt="%d")
    (folder / "type_map.raw").write_text("Ni\nO\n")
    masked = np.array(magnetic)[frames[0][2]][None, :, None]
    columns = {
        "box": np.array([f[0] for f in frames]),
        "coord": np.array([f[1] for f in frames]),
        "spin": np.array([f[3] for f in frames]),
        "energy": random.normal(-30.0, 0.1, (10, 1)),
        "force": random.normal(size=(10, 8, 3)),
        "force_mag": random.normal(size=(10, 8, 3)) * masked,
    }
    for name, values in columns.items():
        np.save(folder / "set.000" / f"{name}.npy", values.reshape(10, -1))


@pytest.fixture(scope="module", params=TRAINED)
def trained(request, deepmd, tmp_path_factory):
    """A folder with all four kinds of files of one model, and the changes to its definition."""
    folder = tmp_path_factory.mktemp("trained")
    changes = TRAINED[request.param]
    spin = {"use_spin": [True, False], "virtual_scale": [0.314], **changes.get("spin", {})}
    magnetic = [spin["use_spin"] == [True, True] or name == "Ni" for name in ("Ni", "O")]
    training_data(folder / "data", magnetic)
    descriptor = {"type": "se_e2_a", "sel": [40, 45], "rcut_smth": 3.0, "rcut": 4.4, "neuron": [4, 8], "axis_neuron": 3}
    model = {
        "type_map": ["Ni", "O"],
        "descriptor": {**descriptor, **changes.get("descriptor", {})},
        "fitting_net": {"neuron": [7, 7], "resnet_dt": True, **changes.get("fitting_net", {})},
        "spin": spin,
        "pair_exclude_types": changes.get("pair_exclude_types", []),
    }
    loss = {"type": "ener_spin", "start_pref_e": 0.02, "limit_pref_e": 1, "start_pref_fr": 1000, "limit_pref_fr": 1}
    settings = {
        "model": model,
        "learning_rate": {"type": "exp", "decay_steps": 5, "start_lr": 0.001, "stop_lr": 1e-5},
        "loss": {**loss, "start_pref_fm": 1000, "limit_pref_fm": 1},
        "training": {
            "training_data": {"systems": [str(folder / "data")], "batch_size": 1},
            "numb_steps": 5,
            "seed": 1,
            "disp_freq": 5,
            "save_freq": 5,
        },
    }
    deepmd.train(settings, folder)
    for suffix in ("dp", "yaml"):
        deepmd.dp("convert-backend", "model.ckpt-5.pt", f"model.{suffix}", folder=folder)
    return folder, magnetic


def test_four_kinds_of_files_hold_one_model(trained):
    folder, _ = trained
    frozen = read_deepmd(folder / "frozen.pth")
    for name in ("model.ckpt-5.pt", "model.dp", "model.yaml"):
        assert_same(read_deepmd(folder / name), frozen)


def test_what_deepmd_trained(trained, deepmd):
    """Its frozen model and our reading of it give the same numbers, and so does the way there and back again."""
    folder, magnetic = trained
    system = configuration(("Ni", "O"), magnetic, seed=77)
    theirs = deepmd.evaluate(folder / "frozen.pth", *system)
    convert(folder / "frozen.pth", folder / "model.h5", force=True)
    model = read_model(folder / "model.h5")
    tolerance = EXACT if model.network.precision == "float64" else SINGLE
    compare(theirs, model, system, folder / "model.h5", tolerance)
    convert(folder / "model.h5", folder / "back.dp", force=True)
    deepmd.dp("convert-backend", "back.dp", "back.pth", folder=folder)
    again = deepmd.evaluate(folder / "back.pth", *system)
    for key, value in theirs.items():
        np.testing.assert_allclose(again[key], value, rtol=1e-12, atol=1e-12 * np.abs(value).max(), err_msg=key)
    assert_same(read_deepmd(folder / "back.pth"), model)


# --- our models, run by it ---


def several_sel():
    model = tiny(elements=("Fe", "Co"), magnetic=(True, True), neuron=(4, 8, 16), axis=4, fitting=(9, 9, 9))
    model.network.sel = np.array([31, 47])
    model.virtual_scale = np.array([0.31, 0.17])
    return model


def no_placeholder_nets():
    model = tiny(elements=("Mg", "Ni", "O"), magnetic=(False, True, False), neuron=(5, 5), axis=5, fitting=(6,), sel=50)
    model.network.silent = {}
    return model


def mixed_activations():
    model = tiny(sel=50)
    random = np.random.default_rng(8)
    names = ("gelu", "silu", "sigmoid", "linear", "softplus", "tanh")
    for (t, c), name in zip(model.network.embedding, names, strict=True):
        model.network.embedding[t, c] = random_net(random, (1, 3, 6), activation=name)
    model.network.fitting[1][1].step = random.normal(size=5)
    model.network.fitting[0][0].bias = None
    model.network.fitting[0][0].activation = "relu"
    return model


OURS = {
    "two magnetic elements, sel and scales that differ": several_sel,
    "three elements, one magnetic": no_placeholder_nets,
    "an activation function of its own for each net": mixed_activations,
    "an excluded pair": lambda: exclude(tiny(magnetic=(True, True), sel=50), 0, 1),
}


@pytest.mark.parametrize("make", OURS.values(), ids=OURS)
def test_deepmd_runs_what_we_write(make, deepmd, tmp_path):
    model = make()
    write_deepmd(model, tmp_path / "model.dp")
    write_model(model, tmp_path / "model.h5")
    deepmd.dp("convert-backend", "model.dp", "model.pth", folder=tmp_path)
    system = configuration(model.elements, model.magnetic)
    compare(deepmd.evaluate(tmp_path / "model.pth", *system), model, system, tmp_path / "model.h5", EXACT)
    assert_same(read_deepmd(tmp_path / "model.pth"), read_deepmd(tmp_path / "model.dp"))
