"""What the host warns of or ends a run for while it goes on, the device does too, in the same words."""

import warnings

import numpy as np
import pytest
from support.deepspin_models import make_random_model
from support.devices import small_card

import spinmd
from spinmd.errors import DivergedError
from spinmd.model import Model
from spinmd.potentials.deepspin.potential import DeepSpin
from spinmd.protocols import Need
from spinmd.state import State


def deck(root):
    return {
        "structure": {"prototype": "bcc", "element": "Fe", "lattice_constant": 2.8665, "supercell": [1, 1, 1], "displacement": 0.05,
                      "temperature": 300.0, "spins": {"moments": {"Fe": 2.2}, "texture": "cone", "angle": 40}},
        "potential": [{"kind": "eam", "parameters": {"file": str(root / "inputs/potentials/Fe_mm.eam.fs")}},
                      {"kind": "exchange", "parameters": {"form": "bethe-slater", "a": 0.03, "b": 0.2, "d": 1.8, "cutoff": 3.4}}],
        "integrator": {"ensemble": "nve", "timestep": "1 fs"},
        "run": {"steps": 4, "seed": 3},
    }  # fmt: skip


def crystal():
    random = np.random.default_rng(3)
    sites = 2.87 * np.array([[0, 0, 0], [0.5, 0.5, 0.5], [1, 0, 0], [1.5, 0.5, 0.5]], float)
    spins = random.normal(size=sites.shape)
    spins *= 2.2 / np.linalg.norm(spins, axis=1)[:, None]
    cell = 2.87 * np.diag([2.0, 1.0, 1.0])
    return State.create(
        cell, sites + random.normal(scale=0.05, size=sites.shape), ["Fe", "Co"] * 2, [55.0] * 4, spins=spins
    )


def learnt(closest=1.5, sel=80):
    model = make_random_model(seen=True, sel=60)
    model.seen.min_distance[:], model.network.sel[:] = closest, sel
    return model


def heard(work) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work()
    return sorted(str(one.message) for one in caught)


@pytest.mark.parametrize("what", ["nothing", "distance", "slots", "spins", "all"])
def test_a_model_out_of_its_range_says_so_as_on_the_host(what):
    from spinmd.cuda.evaluation import evaluate_on_device
    from spinmd.potentials.cuda import device_term

    everything = what == "all"
    model = learnt(2.6 if what == "distance" or everything else 1.5, 10 if what == "slots" or everything else 80)
    states = [crystal(), crystal()]
    terms = [DeepSpin.of(model) for _ in states]
    models = [Model(state, [term], threads=1) for state, term in zip(states, terms, strict=True)]
    for state, one in zip(states, models, strict=True):
        state.clock.step = 7
        if what == "spins" or everything:
            state.spins[2] *= 0.5
            one.moved(spins=True)
    said = heard(lambda: models[0].evaluate(Need.ENERGY))
    mine = heard(lambda: evaluate_on_device(states[1], models[1], Need.ENERGY, device_term))
    assert mine == said and len(said) == {"nothing": 0, "all": 3}.get(what, 1)
    assert all("at step 7" in one or "the network was made for" in one for one in said)
    assert terms[1].out_of_range == terms[0].out_of_range
    assert heard(lambda: evaluate_on_device(states[1], models[1], Need.ENERGY, device_term)) == []  # once


def test_a_warning_costs_no_transfer_once_it_was_given():
    from spinmd.cuda.model import DeviceModel
    from spinmd.cuda.state import DeviceState
    from spinmd.potentials.cuda import device_term

    state = crystal()
    host = Model(state, [DeepSpin.of(learnt(2.6, 10))], threads=1)
    state.spins[2] *= 0.5
    model = DeviceModel(DeviceState(state), host, device_term)
    assert len(heard(model.watch)) == 3
    model.terms[0].watch(None, None)  # nothing is looked at any more


class Meddler:
    """Writes to the spins of the device, as a solver gone wrong might."""

    needs, stores = Need.NONE, False

    def __init__(self, every, change):
        self.every, self.change = every, change

    def report(self, frame):
        if frame.step:
            self.change(frame.state._state if hasattr(frame.state, "_state") else frame.state)

    def close(self):
        """Nothing is held open."""


@pytest.mark.parametrize("factor, solver", [(1.001, "midpoint"), (20.0, "heun")])
def test_spins_that_change_their_length_end_a_run_in_the_words_of_the_host(root, factor, solver):
    own = deck(root)
    own["integrator"] = {"ensemble": "nve", "timestep": "1 fs", "spin_solver": solver, "lattice": "frozen"}

    def change(state):
        spins = state.spins.tensor if hasattr(state.spins, "tensor") else state.spins
        spins[1] *= factor

    said = []
    for device in ("cpu", "cuda"):
        with spinmd.build(spinmd.load_deck(own), device=device, threads=1, output=False) as simulation:
            with pytest.raises(DivergedError) as caught:
                simulation.run(4, reporters=[Meddler(2, change)])
            said.append(str(caught.value).split(";")[0].split(": ", 1)[1])
    assert said[0] == said[1] and "the spin of atom 1 (Fe) is" in said[0]


def test_spins_that_turn_too_fast_end_a_run_in_the_words_of_the_host(root, monkeypatch):
    """A field that becomes large on the way; torques are looked at with the energy, here every second step."""
    for module in ("spinmd.divergence", "spinmd.cuda.run"):
        monkeypatch.setattr(f"{module}.EVERY", 2)
        monkeypatch.setattr(f"{module}.ENERGY_EVERY", 2)
    own = deck(root)
    field = {"form": "points", "times": [0, 0.0011, 0.0018], "fields": [[0, 0, 1], [0, 0, 1], [0, 0, 1.0e6]]}
    own["potential"] = [{"kind": "zeeman", "parameters": {"field": field}}]
    own["integrator"] = {"ensemble": "nve", "timestep": "1 fs", "spin_solver": "midpoint", "lattice": "frozen"}
    own["run"] = {"steps": 4, "seed": 3, "limits": {"energy": 1.0e9, "unsolved": 0}}
    said = []
    for device in ("cpu", "cuda"):
        with spinmd.build(spinmd.load_deck(own), device=device, threads=1, output=False) as simulation:
            with pytest.raises(DivergedError) as caught:
                simulation.run()
            said.append(str(caught.value))
    assert said[0] == said[1] and "turns by" in said[0]


def test_evaluate_is_that_of_the_host(root):
    """``simulation.evaluate`` and ``spinmd evaluate`` compute on the device that was asked for."""
    from spinmd.cuda.arrays import reset_transfers, transfers

    found = {}
    for device in ("cpu", "cuda"):
        reset_transfers()
        simulation = spinmd.build(spinmd.load_deck(deck(root)), device=device, threads=1, output=False)
        found[device] = simulation.results()
        assert (transfers.to_host > 0) == (device == "cuda")
    for name in ("energy", "forces", "fields", "virial"):
        assert np.allclose(found["cpu"][name], found["cuda"][name], rtol=1e-11, atol=1e-11), name


def test_numbers_that_are_none_are_explained_by_the_host(root, monkeypatch):
    from spinmd.cuda import evaluation
    from spinmd.protocols import Evaluation

    def broken(self, need):
        simulation.state.positions[1] = np.nan
        simulation.moved()
        return Evaluation(("eam",), np.array([np.nan]), np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((3, 3)))

    simulation = spinmd.build(spinmd.load_deck(deck(root)), device="cuda", threads=1, output=False)
    monkeypatch.setattr(evaluation.ModelView, "evaluate", broken)
    with pytest.raises(spinmd.InputError, match="atom 1"):
        simulation.results()


@pytest.mark.parametrize("command", ["run", "evaluate"])
def test_memory_that_runs_out_ends_a_command_with_one_sentence(command, root, tmp_path, monkeypatch, capsys):
    import torch

    from spinmd.cli import main
    from spinmd.cuda import model

    def full(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(model, "zeros", full)
    small_card(monkeypatch)
    line = [command, str(root / "inputs/iron_gpu.toml"), "--set", "structure.supercell=[1,1,1]"]
    assert main([*line, "--set", f"output.file='{tmp_path}/a.h5'"]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and error[0].startswith(
        "spinmd: error: structure.supercell: 2 atoms do not fit into the 1.0 GiB"
    )
    assert list(tmp_path.iterdir()) == []
