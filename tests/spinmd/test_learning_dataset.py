"""Data sets of a known Hamiltonian, predictions for data, parity figures, and ``spinmd test`` from Python."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from support.systems import exchange

import spinmd
from spinmd.errors import InputError
from spinmd.evaluator import Evaluator
from spinmd.learning import evaluation
from spinmd.learning.dataset import make_dataset
from spinmd.learning.evaluation import evaluate_systems, load_potential, longest_spins
from spinmd.learning.parity import plot_parity, short_names
from spinmd.potentials.deepspin.accuracy import accuracy
from spinmd.potentials.deepspin.data import read_system, select, split, write_system
from spinmd.protocols import Need

DECK = "reference_dataset.toml"


@pytest.fixture(scope="module")
def deck(root):
    return spinmd.load_deck(root / "inputs" / DECK)


@pytest.fixture(scope="module")
def system(deck):
    """Frames that are drawn wide: turned, stretched, strained."""
    return make_dataset(deck, frames=6, spin_noise=60.0, spin_length=0.1, strain=0.02)


def terms_of(deck):
    from spinmd.building import make_term

    return [make_term(table, table.kind, deck.folder) for table in deck.potential]


# --- making ---


def test_written_and_read_again(deck, tmp_path):
    made = make_dataset(deck, tmp_path / "data", 4, seed=7)
    read = read_system(tmp_path / "data")
    for name in ("box", "coord", "spin", "energy", "force", "field", "virial"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))
    described = json.loads((tmp_path / "data" / "README.json").read_text())
    assert described["options"]["seed"] == 7 and described["options"]["frames"] == 4
    assert described["reference_moments_mub"] == {"Fe": 2.2}
    assert [table["kind"] for table in described["potential"]] == ["morse", "exchange", "biquadratic"]
    with pytest.raises(InputError, match="exists already"):
        make_dataset(deck, tmp_path / "data", 1)
    make_dataset(deck, tmp_path / "data", 1, force=True)
    assert read_system(tmp_path / "data").frames == 1


def test_frames_are_what_was_asked_for(deck):
    options = {"spin_noise": 10.0, "spin_length": 0.05, "displacement": 0.15, "strain": 0.02}
    one = make_dataset(deck, frames=60, **options)
    again = make_dataset(deck, frames=5, **options)
    np.testing.assert_array_equal(one.coord[:5], again.coord)  # a frame does not depend on their number
    assert not np.array_equal(make_dataset(deck, frames=5, seed=2, **options).coord, again.coord)
    state = spinmd.build(deck, output=False).state
    deformation = np.linalg.solve(state.cell, one.box)
    shifts = one.coord - state.reference @ deformation
    assert np.sqrt((shifts**2).sum(axis=2).mean()) == pytest.approx(0.15, rel=0.05)
    assert (deformation - np.eye(3)).std() == pytest.approx(0.02, rel=0.1)
    np.testing.assert_allclose(deformation, deformation.transpose(0, 2, 1), atol=1e-12)
    lengths = np.linalg.norm(one.spin, axis=2)
    assert 2.09 <= lengths.min() < 2.1 and 2.3 < lengths.max() <= 2.31
    cosines = np.einsum("fia,ia->fi", one.spin, state.spins) / (lengths * 2.2)
    assert np.sqrt((np.arccos(np.clip(cosines, -1, 1)) ** 2).mean()) == pytest.approx(np.radians(10.0), rel=0.05)
    random = make_dataset(deck, frames=60, spin_noise="random", spin_length=0.0)
    assert np.abs(random.spin.mean(axis=(0, 1))).max() < 0.15
    assert np.linalg.norm(random.spin, axis=2) == pytest.approx(2.2)


def test_labels_are_derivatives_of_the_energies(system, deck):
    """Forces, fields (all three components, moments held) and virial of the labels against differences of energies."""
    evaluator = Evaluator(terms_of(deck))
    h, rng = 1e-4, np.random.default_rng(0)

    def energy(frame, shift=0.0, turn=0.0, strain=0.0):
        deformation = np.eye(3) + strain
        return evaluator(
            system.box[frame] @ deformation.T, (system.coord[frame] + shift) @ deformation.T, system.symbols, Need.ENERGY,
            spins=system.spin[frame] + turn, moments=[2.2] * 16,
        ).energy  # fmt: skip

    for frame in (0, 5):
        assert energy(frame) == pytest.approx(system.energy[frame], abs=1e-10)
        way = rng.normal(size=(16, 3))
        slope = (energy(frame, shift=h * way) - energy(frame, shift=-h * way)) / (2 * h)
        assert slope == pytest.approx(-(system.force[frame] * way).sum(), rel=1e-5)
        slope = (energy(frame, turn=h * way) - energy(frame, turn=-h * way)) / (2 * h)
        assert slope == pytest.approx(-(system.field[frame] * way).sum(), rel=1e-5)
        way = rng.normal(size=(3, 3))
        slope = (energy(frame, strain=h * way) - energy(frame, strain=-h * way)) / (2 * h)
        assert slope == pytest.approx(-(system.virial[frame] * way).sum(), rel=1e-5)


@pytest.mark.parametrize(
    "options, place",
    [
        ({"frames": 0}, "--frames"),
        ({"seed": -1}, "--seed"),
        ({"displacement": -0.1}, "--displacement"),
        ({"spin_noise": 200.0}, "--spin-noise"),
        ({"spin_noise": "wild"}, "--spin-noise"),
        ({"spin_length": 1.5}, "--spin-length"),
        ({"strain": float("nan")}, "--strain"),
        ({"overrides": {"structure.pbc": [True, True, False], "structure.vacuum": 5.0}}, "structure.pbc"),
        ({"overrides": {"structure.spins.moments.Fe": 0.0}}, "potential.1"),
    ],
)
def test_wrong_options_are_refused(deck, tmp_path, options, place):
    with pytest.raises(InputError, match=place.replace(".", r"\.")):
        make_dataset(deck, tmp_path / "data", **{"frames": 2, **options})
    assert not list(tmp_path.iterdir())


# --- predicting ---


def test_the_same_potential_predicts_its_labels(system, deck):
    other = select(system, [3, 1])
    predictions = evaluate_systems(terms_of(deck), [system, other], moments={"Fe": 2.2})
    report = accuracy([system, other], predictions)
    assert max(value for name, value in report.items() if "_rmse_" in name or "_mae_" in name) < 1e-8
    assert report["frames"] == 8


def test_a_part_of_the_potential_has_errors_and_no_model_needs_the_moments(system, deck):
    predictions = evaluate_systems(terms_of(deck)[:2], [system], moments={"Fe": 2.2})
    report = accuracy([system], predictions)
    assert report["force_rmse_mev_per_ang"] > 1.0 and report["field_rmse_mev_per_mub"] > 0.1
    lattice = evaluate_systems(terms_of(deck)[0], [system])
    assert not lattice[0].field.any()
    assert longest_spins([system])["Fe"] == np.linalg.norm(system.spin, axis=2).max()
    longest = evaluate_systems(exchange(), [system])[0]
    scale = (longest_spins([system])["Fe"] / 2.2) ** 2
    given = evaluate_systems(exchange(), [system], moments={"Fe": 2.2})[0]
    np.testing.assert_allclose(longest.energy * scale, given.energy, rtol=1e-12)


def test_refusals_name_the_frame(system, deck):
    from dataclasses import replace

    bad = replace(system, name="bad", box=system.box.copy())
    bad.box[2, 2] = bad.box[2, 1]
    with pytest.raises(InputError, match="bad, frame 2, cell: the three lattice vectors do not span a volume"):
        evaluate_systems(terms_of(deck), [bad])


def test_model_files_of_others_are_refused(tmp_path):
    (tmp_path / "frozen.pth").write_bytes(b"")
    with pytest.raises(InputError, match=r"convert it first: spinmd convert frozen.pth frozen.h5"):
        load_potential(tmp_path / "frozen.pth")
    with pytest.raises(InputError, match="no such model file"):
        load_potential(tmp_path / "fe.h5")
    with pytest.raises(InputError, match="is a folder"):
        load_potential(tmp_path)


def test_report_table_and_files(system, deck, tmp_path, monkeypatch):
    """The body of ``spinmd test``, with classical terms for the model's file."""
    monkeypatch.setattr(evaluation, "load_potential", lambda path: terms_of(deck)[:2])
    training, validation = split([system], 0.34, seed=1)
    for name, part in (("a", training[0]), ("b", validation[0])):
        write_system(tmp_path / "data" / name, part)
    report, text = evaluation.test_model(
        "fe.h5", tmp_path / "data", json=tmp_path / "out.json", figure=tmp_path / "out.png"
    )
    assert json.loads((tmp_path / "out.json").read_text()) == json.loads(json.dumps(report))
    assert [one["frames"] for one in report["systems"]] == [4, 2] and report["model"] == "fe.h5"
    assert {"energy_rmse_mev_per_atom", "field_transverse_rmse_mev_per_mub"} <= set(report)
    assert "6 frames of 2 systems" in text and f"{report['torque_rmse_mev']:.4g}" in text
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="there is no folder"):
        evaluation.test_model("fe.h5", tmp_path / "data", json=tmp_path / "no" / "out.json")


def test_parity_figure_without_spins_or_virial(system, tmp_path):
    from dataclasses import replace

    plain = replace(system, virial=None, spin=0 * system.spin, field=0 * system.field, magnetic=None)
    plot_parity([plain], evaluate_systems(terms_of_lattice(), [plain]), tmp_path / "figure.svg")
    text = (tmp_path / "figure.svg").read_text()
    assert text.startswith("<?xml")
    with pytest.raises(InputError, match="cannot be written"):
        plot_parity([plain], evaluate_systems(terms_of_lattice(), [plain]), tmp_path / "figure.nonsense")


def terms_of_lattice():
    from support.systems import morse

    return morse()


def test_short_names():
    assert short_names(["x/a/train", "x/b/train"]) == ["a/train", "b/train"]
    assert short_names(["x/a", "y/b"]) == ["a", "b"]
    assert short_names(["same", "same"]) == ["same", "same"]


def test_evaluator_keeps_its_model(deck, system):
    evaluator = Evaluator(terms_of(deck))
    answers = [
        evaluator(system.box[0], system.coord[0] + shift, system.symbols, spins=system.spin[0], moments=[2.2] * 16)
        for shift in (0.0, 4 * system.box[0].sum(axis=0), 0.01)
    ]
    assert evaluator.builds == 1
    for answer in answers[1:]:
        assert answer.energy == pytest.approx(answers[0].energy, abs=1e-9)
        np.testing.assert_allclose(answer.forces, answers[0].forces, atol=1e-9)
    outside = system.coord[0] + 4 * system.box[0].sum(axis=0)
    evaluator(system.box[0], outside, system.symbols, spins=system.spin[0], moments=[2.2] * 16)
    before = evaluator.model.rebuilds
    evaluator(system.box[0], outside + 0.01, system.symbols, spins=system.spin[0], moments=[2.2] * 16)
    assert evaluator.model.rebuilds == before  # lists serve for unwrapped positions too
    evaluator(system.box[0], system.coord[0], system.symbols, spins=1.01 * system.spin[0], moments=[2.2] * 16)
    assert evaluator.builds == 2  # a spin longer than any before
    with pytest.raises(InputError, match="do not span a volume"):
        evaluator(0 * system.box[0], system.coord[0][:8], ["Fe"] * 8, spins=system.spin[0][:8])
    evaluator(system.box[0], system.coord[0], system.symbols, spins=system.spin[0], moments=[2.2] * 16)
    with pytest.raises(InputError, match=r"atom 3 \(Fe\) has a spin and its reference moment is zero"):
        evaluator(
            system.box[0], system.coord[0], system.symbols, spins=system.spin[0], moments=[2.2] * 3 + [0.0] + [2.2] * 12
        )


def test_learning_imports_no_torch(root):
    code = (
        "import sys, spinmd.learning.dataset, spinmd.learning.evaluation, spinmd.ase_calculator;"
        "print(*{'torch', 'numba.cuda', 'matplotlib'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
