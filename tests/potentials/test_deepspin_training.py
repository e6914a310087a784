"""Training: the torch parts against finite differences and the dense reference, resume, options."""

import json

import numpy as np
import pytest
from support import deepspin_dense as dense
from support.deepspin_models import make_random_model

from spinmd.errors import InputError
from spinmd.learning.train import load_training_deck, training_systems

torch = pytest.importorskip("torch")

from spinmd.potentials.deepspin.prior import Prior, invariant_count  # noqa: E402
from spinmd.potentials.deepspin.starting_weights import new_net  # noqa: E402
from spinmd.potentials.deepspin.torch_invariants import TorchInvariants  # noqa: E402
from spinmd.potentials.deepspin.torch_network import TorchNetwork  # noqa: E402
from spinmd.potentials.deepspin.training import Trainer  # noqa: E402
from spinmd.potentials.deepspin.training_checkpoint import identity, read_checkpoint, write_checkpoint  # noqa: E402

STEP = 1e-4


def frame(magnetic, seed=1, natoms=9):
    """A triclinic cell of a few atoms; types, box (Å), coord (Å), spin (µB)."""
    rng = np.random.default_rng(seed)
    box = np.array([[5.2, 0.3, 0.0], [0.4, 5.6, 0.2], [-0.3, 0.5, 5.4]])
    grid = np.stack(np.meshgrid([0.0, 0.5], [0.0, 0.5], [0.0, 0.33, 0.67], indexing="ij"), -1).reshape(-1, 3)
    coord = (grid[rng.permutation(12)[:natoms]] + rng.normal(0.0, 0.01, (natoms, 3))) @ box
    types = np.arange(natoms) % len(magnetic)
    spin = rng.normal(size=(natoms, 3)) * np.asarray(magnetic)[types][:, None]
    return types, box, coord, spin


def central(energy, array, index):
    """Central difference of energy() by one element of an array that it reads."""
    kept, values = array[index], []
    for sign in (1, -1):
        array[index] = kept + sign * STEP
        values.append(energy())
    array[index] = kept
    return (values[0] - values[1]) / (2 * STEP)


def compare(prepared_energy, result, types, box, coord, spin, magnetic, tolerance):
    energy, forces, fields, virial = (x.detach().numpy() for x in result)
    for atom in range(3):
        for axis in range(3):
            assert forces[atom, axis] == pytest.approx(-central(prepared_energy, coord, (atom, axis)), abs=tolerance)
            if magnetic[types[atom]]:
                assert fields[atom, axis] == pytest.approx(-central(prepared_energy, spin, (atom, axis)), abs=tolerance)
            else:
                assert fields[atom, axis] == 0.0
    kept = box.copy(), coord.copy()
    values = []
    for sign in (1, -1):
        strain = np.eye(3)
        strain[0, 1] += sign * STEP
        box[:], coord[:] = kept[0] @ strain.T, kept[1] @ strain.T
        values.append(prepared_energy())
    box[:], coord[:] = kept
    assert virial[0, 1] == pytest.approx(-(values[0] - values[1]) / (2 * STEP), abs=10 * tolerance)


@pytest.mark.parametrize("magnetic", [(True,), (True, False, True)])
@pytest.mark.parametrize("time_reversal", [False, True])
def test_network_derivatives(magnetic, time_reversal):
    types, box, coord, spin = frame(magnetic)
    model = make_random_model(elements=("Fe", "O", "Ni")[: len(magnetic)], magnetic=magnetic)
    net = TorchNetwork(
        model.network, model.virtual_scale, time_reversal=time_reversal, dtype=torch.float64, nodes=400
    ).train(False)  # fmt: skip

    def energy():
        return float(net(net.prepare(box, coord, spin, types))[0].detach())

    result = net(net.prepare(box, coord, spin, types), True)
    assert abs(result[2].detach().numpy()).max() > 1e-4
    compare(energy, result, types, box, coord, spin, magnetic, 2e-7)
    if time_reversal:
        before = energy()
        spin *= -1.0
        assert energy() == pytest.approx(before, rel=1e-12)


def test_network_is_the_dense_reference_before_and_after_whitening():
    magnetic = (True, False)
    types, box, coord, spin = frame(magnetic)
    model = make_random_model(elements=("Ni", "O"), magnetic=magnetic)
    net = TorchNetwork(model.network, model.virtual_scale, time_reversal=False, dtype=torch.float64, nodes=600)
    prepared = [net.prepare(*frame(magnetic, seed)[1:], types) for seed in range(1, 4)]

    def difference():
        model.network = net.weights()
        own = float(net(prepared[0])[0].detach()) + model.shift[types].sum()
        return own - dense.energy(model, box, coord, types, spin)

    assert abs(difference()) < 1e-7
    before = model.network.fitting[0][0].weight
    net.whiten(prepared)  # the first layer now has the same numbers in other coordinates: another function
    assert abs(difference()) < 1e-7
    assert not np.allclose(before, model.network.fitting[0][0].weight)


@pytest.mark.parametrize("magnetic", [(True,), (True, False, True)])
def test_invariants_derivatives(magnetic):
    types, box, coord, spin = frame(magnetic)
    n = len(magnetic)
    settings = {
        "elements": ["Fe", "O", "Ni"][:n], "magnetic": list(magnetic), "reference_moment": [1.2] * n,
        "atomic_numbers": [26, 8, 28][:n], "shortest": np.full((n, n), 1.7).tolist(), "cutoff": 4.5, "many_body_functions": 4,
    }  # fmt: skip
    prior, rng = Prior(settings), np.random.default_rng(2)
    nets = [new_net([invariant_count(prior, a), 12, 12], "tanh", rng, output=True) for a in range(n)]
    part = TorchInvariants(prior, nets, torch.float64).train(False)
    part.whiten([part.prepare(*frame(magnetic, seed)[1:], types) for seed in range(1, 6)], 20, 0.03)

    def prepared():
        result = part.prepare(box, coord, spin, types)
        part.whitened(result)
        return result

    def energy():
        return float(part(prepared())[0].detach())

    result = part(prepared(), True)
    assert abs(result[1].detach().numpy()).max() > 1e-3
    compare(energy, result, types, box, coord, spin, magnetic, 1e-5)


# ---------------------------------------------------------------------------------------------- whole trainings


@pytest.fixture(scope="module")
def folder(tmp_path_factory, root):
    """A data set of a known Hamiltonian."""
    from spinmd.learning.dataset import make_dataset

    path = tmp_path_factory.mktemp("learning")
    make_dataset(root / "inputs" / "reference_dataset.toml", path / "data", 40, seed=3, threads=1)
    return path


def deck_of(folder, **tables):
    content = {
        "data": {"train": ["data"], "validation": 0.2, "test": 0.2},
        "prior": {"pair_functions": 6, "many_body_functions": 3, "many_body_l": 1},
        "network": {
            "components": 30, "invariant_fitting": [12], "neuron": [4, 8, 16], "axis": 4, "fitting": [16, 16], "cutoff": 4.5,
        },
        "training": {"steps": 60, "checkpoint": 20},
        "output": {"file": str(folder / "model.h5")},
    }  # fmt: skip
    for name, values in tables.items():
        content[name] = {**content[name], **values}
    return load_training_deck(content, folder=folder)[0]


def trainer_of(folder, systems=None, **tables):
    deck = deck_of(folder, **tables)
    trainer = Trainer(deck, systems or training_systems(deck, folder), progress=False)
    trainer.prepare()
    return trainer


@pytest.mark.parametrize("descriptor", ["invariants", "both"])
def test_training_improves_on_the_prior_and_keeps_frames_apart(folder, descriptor):
    trainer = trainer_of(
        folder, network={"descriptor": descriptor}, training={"steps": 150, "checkpoint": 50, "rate": 3e-3}
    )
    assert [len(trainer._frames(name)) for name in ("train", "validation", "test")] == [24, 8, 8]
    trainer.run()
    assert trainer.best < 0.99 * trainer.log[0]["score"]
    held_out = trainer.errors("test", trainer.best_weights)
    before = trainer.errors("test", [torch.zeros_like(p) for p in trainer.trained.parameters()])
    assert held_out["force_mev_per_ang"] < before["force_mev_per_ang"]


def test_network_alone_learns(folder):
    trainer = trainer_of(folder, prior={"enabled": False}, training={"steps": 120, "checkpoint": 60, "rate": 3e-3})
    assert trainer.deck.descriptor == "virtual-atoms" and trainer.prior is None
    trainer.run()
    assert trainer.log[-1]["force_mev_per_ang"] < 0.75 * trainer.log[0]["force_mev_per_ang"]
    assert trainer.model().time_reversal


def test_resume_is_exact(folder, tmp_path):
    whole = trainer_of(folder)
    whole.run()
    first = trainer_of(folder)
    first.run(checkpoint=tmp_path / "c", stop=lambda: first.step >= 45)  # stops between two checkpoints
    second = trainer_of(folder)
    second.resume(tmp_path / "c")
    assert second.step == 40
    second.run()
    for a, b in zip(whole.trained.parameters(), second.trained.parameters(), strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(a, b) for a, b in zip(whole.best_weights, second.best_weights, strict=True))
    longer = trainer_of(folder, training={"steps": 62})
    longer.resume(tmp_path / "c")
    longer.run()
    assert longer.step == 62
    (tmp_path / "c").write_bytes(b"PK" + b"x" * 100)
    with pytest.raises(InputError, match="not a readable checkpoint"):
        second.resume(tmp_path / "c")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": {"rate": 2e-3}}, r"training.rate is 0.002 here and 0.001 in .*c; restore it"),
        ({"network": {"components": 31}}, "network.components is 31 here and 30 in"),
        ({"data": {"validation": 0.3}}, "the train frames are not those of"),
        ({"training": {"steps": 10}}, "training.steps is 10, and .* is at step 20 already"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_with_what_differs(folder, tmp_path, change, message):
    deck = deck_of(folder)
    write_checkpoint(
        tmp_path / "c", {"identity": json.dumps(identity(deck, training_systems(deck, folder))), "step": 20}
    )
    assert read_checkpoint(tmp_path / "c", deck, training_systems(deck, folder))["step"] == 20
    other = deck_of(folder, **change)
    with pytest.raises(InputError, match=message):
        read_checkpoint(tmp_path / "c", other, training_systems(other, folder))


def test_frames_of_a_nearly_perfect_crystal_train_without_starting_again(folder, root, recwarn):
    """Displacements of 0.001 Å: z of vectors that cancel by symmetry must not become steep, and steps have the labels' size."""
    from spinmd.learning.dataset import make_dataset

    options = {"displacement": 1e-3, "spin_noise": 1.0, "spin_length": 1e-3, "strain": 0.0, "threads": 1}
    path = folder / "still"
    make_dataset(root / "inputs" / "reference_dataset.toml", path, 20, seed=3, **options)
    deck = {"data": {"train": ["still"]}, "prior": {"pair_functions": 2}, "training": {"steps": 120, "checkpoint": 30}}
    trainer = trainer_of(folder, **deck)
    part = trainer.trained.invariants
    assert part.output_scale < 0.1
    last = part.nets[0][-1].weight
    last.data.fill_(1.0)
    forces = part(trainer._get(trainer.systems["train"][0], 0).invariants)[1]
    steep = float(forces.detach().abs().max()) / part.output_scale
    last.data.zero_()
    assert steep < 1e3  # eV/Å for an output of some 10 eV
    trainer.run()
    assert trainer.slower == 1.0 and not [w for w in recwarn if "grew threefold" in str(w.message)]
    assert max(row["score"] for row in trainer.log) < 1.5 * trainer.log[0]["score"]


def test_no_kind_of_error_is_given_up_for_a_smaller_loss(folder):
    trainer = trainer_of(folder)
    kinds = ("energy_mev_per_atom", "force_mev_per_ang", "field_mev_per_mub")
    answers = iter([(1.0, 1.0, 1.0, 9.0), (0.9, 0.9, 1.1, 5.0), (1.3, 0.5, 0.5, 3.0), (0.9, 0.9, 1.0, 6.0)])
    trainer.errors = lambda name, weights: dict(zip((*kinds, "score"), next(answers), strict=True))
    trainer.run()
    assert trainer.best == 5.0 and trainer.best_row()["step"] == 20
    assert "step 40 had a smaller loss but raised the energy error from 1 to 1.3 meV/atom" in trainer.trade_off()


def test_a_prior_too_large_to_be_trained_along_is_mentioned(folder, monkeypatch):
    monkeypatch.setattr("spinmd.potentials.deepspin.training.ROOM", 1e5)
    with pytest.warns(UserWarning, match=r"prior.train: .* GB of memory .*keep their fitted values"):
        trainer = trainer_of(folder)
    assert trainer.trained.changes is None


def test_scale_of_the_field_labels_is_found(folder):
    deck = deck_of(folder)
    systems = training_systems(deck, folder)
    for parts in systems.values():
        for system in parts:
            system.field = 1.3 * system.field
    options = {
        "prior": {"pair_functions": 10, "many_body_functions": 5},
        "training": {"field_scale": "fit", "steps": 20, "checkpoint": 20},
    }
    trainer = trainer_of(folder, systems, **options)
    trainer.run()
    assert trainer.model().provenance["field_scale"] == pytest.approx(1.3, rel=0.03)


def test_transverse_only_does_not_see_the_part_along_the_spin(folder):
    results = []
    for along in (0.0, 0.5):
        deck = deck_of(folder)
        systems = training_systems(deck, folder)
        for parts in systems.values():
            for system in parts:
                system.field = system.field + along * system.spin
        trainer = trainer_of(folder, systems, training={"transverse_only": True, "steps": 10, "checkpoint": 10})
        trainer.run()
        results.append(trainer.log[-1]["field_mev_per_mub"])
    assert results[1] == pytest.approx(results[0], rel=1e-3)


def test_loss_is_deepmds(folder):
    """Prefactors move with the rate as p = limit + (start − limit) rate/first rate."""
    trainer = trainer_of(
        folder, network={"precision": "float64"}, training={"energy": (2.0, 40.0), "force": (5.0, 0.5), "field": (0.0, 0.0)}
    )  # fmt: skip
    system = trainer.systems["train"][0]
    prepared = trainer._get(system, 0)
    e, f, m, _ = trainer._differences(prepared)
    for part in (1.0, 0.25):
        expected = (40.0 - 38.0 * part) * e**2 / 16 + (0.5 + 4.5 * part) * (f**2).mean()
        found = trainer.loss(prepared, part * trainer.table.rate)
        assert float(found.detach()) == pytest.approx(
            float(expected.detach()) * prepared.weight / (20e-3) ** 2, rel=1e-9
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": {"stepz": 3}}, "training.stepz.*did you mean 'steps'"),
        ({"prior": {"enabled": False}, "network": {"descriptor": "invariants"}}, "needs the many-body prior"),
        ({"network": {"axis": 64}}, "axis must not exceed"),
        ({"data": {"train": ["nowhere"]}}, "nowhere"),
    ],
)
def test_wrong_decks_are_refused(folder, change, message):
    with pytest.raises(InputError, match=message):
        deck = deck_of(folder, **change)
        training_systems(deck, folder)


def test_frames_of_the_test_set_must_be_new(folder):
    with pytest.raises(InputError, match="also used in training"):
        training_systems(deck_of(folder, data={"test": ["data"], "validation": 0.0}), folder)


@pytest.mark.parametrize("few", [False, True])
def test_the_written_model_is_the_trained_one(folder, few):
    """Errors that training reports are those of the model in dynamics: two elements, few invariants (none left out) or many."""
    from spinmd.learning.evaluation import evaluate_systems
    from spinmd.potentials.deepspin.accuracy import accuracy
    from spinmd.potentials.deepspin.potential import DeepSpin

    prior = {"pair_functions": 4, "many_body_functions": 1 if few else 3, "many_body_l": 0 if few else 1}
    systems = training_systems(deck_of(folder), folder)
    for parts in systems.values():
        for system in parts:
            system.elements, system.types = ("Fe", "Co"), np.arange(system.natoms) % 2
            system.name = "two elements"
    trainer = trainer_of(folder, systems, prior=prior, training={"steps": 40, "checkpoint": 40, "rate": 5e-3})
    trainer.run()
    trainer.best_weights = [p.detach().clone() for p in trainer.average]  # also where no step was better than the start
    reported = trainer.errors("test", trainer.best_weights)
    found = accuracy(systems["test"], evaluate_systems(DeepSpin.of(trainer.model()), systems["test"]))
    assert found["energy_rmse_mev_per_atom"] == pytest.approx(reported["energy_mev_per_atom"], rel=1e-3)
    assert found["force_rmse_mev_per_ang"] == pytest.approx(reported["force_mev_per_ang"], rel=1e-3)
    assert found["field_rmse_mev_per_mub"] == pytest.approx(reported["field_mev_per_mub"], rel=1e-3)
