"""``spinmd dataset``, ``train``, ``test`` and ``convert``, from labels to errors, and what they refuse."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from spinmd.cli import main
from spinmd.errors import InputError
from spinmd.learning.train import load_training_deck
from spinmd.potentials.deepspin.data import read_system
from spinmd.potentials.deepspin.model_file import read_model
from spinmd.schema import training_document, training_markdown

pytest.importorskip("torch")

DECK = """\
title = "small"

[data]
train = ["data"]
validation = 0.2
test = 0.2

[prior]
pair_functions = 6
many_body_functions = 3
many_body_l = 1

[network]
components = 20
invariant_fitting = [8]
neuron = [2, 4]
axis = 2
fitting = [8, 8]
cutoff = 4.5

[training]
steps = 60
checkpoint = 20

[output]
file = "fe.h5"
"""
# what DeePMD-kit can read: the network of virtual atoms alone
ALONE = ["--set", "prior.enabled=false", "--set", "network.time_reversal=false", "--set", "training.steps=10"]
BESIDE = ["fe.h5", "fe.h5.log.csv", "fe.h5.png"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, root):
    """A folder with frames, a deck, a model with a prior (fe.h5) and a network alone (net.h5), all made by commands."""
    folder = tmp_path_factory.mktemp("learning")
    (folder / "train.toml").write_text(DECK)
    frames = ["dataset", str(root / "inputs" / "reference_dataset.toml"), "-o", str(folder / "data"), "--frames", "20"]
    assert main([*frames, "--seed", "3", "--threads", "1"]) == 0
    deck = str(folder / "train.toml")
    assert main(["train", deck, "--quiet", "--summary", str(folder / "summary.json")]) == 0
    assert main(["train", deck, "--quiet", *ALONE, "--set", "output.file=net.h5"]) == 0
    return folder


@pytest.fixture
def workplace(trained, tmp_path, monkeypatch) -> Path:
    """An empty folder, which is also the present one, with the frames and the deck of ``trained`` and no model."""
    (tmp_path / "data").symlink_to(trained / "data")
    (tmp_path / "train.toml").write_text(DECK)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def numbers(path: Path) -> dict[str, np.ndarray]:
    """Every array of numbers in an HDF5 file."""
    found = {}

    def keep(name, item):
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu":
            found[name] = item[()]

    with h5py.File(path) as file:
        file.visititems(keep)
    return found


def log_of(folder: Path) -> list[dict[str, str]]:
    """The rows of the learning curve, but for the time they took."""
    with open(folder / "fe.h5.log.csv", newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def refused(arguments: list[str], capsys) -> str:
    """The one sentence with which a command is refused."""
    capsys.readouterr()
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert error.startswith("spinmd: error: ") and error.count("\n") == 1, error
    assert out == ""
    return error


# --- dataset, train ---


def test_dataset_writes_frames_that_training_reads(trained, root, capsys):
    system = read_system(trained / "data")
    assert (system.frames, system.natoms, system.symbols) == (20, 16, ["Fe"] * 16)
    before = (trained / "data" / "README.json").read_bytes()
    again = ["dataset", str(root / "inputs" / "reference_dataset.toml"), "-o", str(trained / "data")]
    assert "exists already" in refused(again, capsys)
    assert "--spin-noise" in refused([*again, "--spin-noise", "some"], capsys)
    assert (trained / "data" / "README.json").read_bytes() == before


def test_train_writes_model_log_and_learning_curve(trained):
    wanted = ["data", "train.toml", "summary.json", *BESIDE, *(name.replace("fe", "net") for name in BESIDE)]
    assert names(trained) == sorted(wanted)
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["frames"] == {"train": 12, "validation": 4, "test": 4} and summary["steps"] == 60
    assert summary["output"] == str(trained / "fe.h5") and summary["descriptor"] == "invariants"
    assert [int(row["step"]) for row in log_of(trained)] == [0, 20, 40, 60]
    assert (trained / "fe.h5.png").read_bytes().startswith(b"\x89PNG")
    model = read_model(trained / "fe.h5")
    assert model.prior is not None and model.provenance["test"] == summary["test"]
    alone = read_model(trained / "net.h5")
    assert alone.prior is None and alone.network is not None and not alone.time_reversal


def test_a_training_stopped_by_sigterm_goes_on_as_if_it_had_not(trained, workplace, monkeypatch, capsys):
    from spinmd.potentials.deepspin.training import Trainer

    rate = Trainer.rate

    def kill(self, step):
        if step == 15:  # between two checkpoints, the start and step 20
            signal.raise_signal(signal.SIGTERM)
        return rate(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "rate", kill)
        assert main(["train", "train.toml", "--quiet", "--summary", "summary.json"]) == 143
    error = capsys.readouterr().err
    assert error == "spinmd: SIGTERM: stopped after step 16; go on with --resume\n"
    assert names(workplace) == ["data", "fe.h5.checkpoint", "fe.h5.log.csv", "summary.json", "train.toml"]
    assert json.loads((workplace / "summary.json").read_text())["stopped"] is True

    assert "--resume" in refused(["train", "train.toml", "--quiet"], capsys)
    other = ["train", "train.toml", "--quiet", "--resume", "--set", "training.seed=2"]
    with monkeypatch.context() as patch:  # before anything is fitted
        patch.setattr(Trainer, "prepare", lambda self: pytest.fail("the prior was fitted first"))
        assert "training.seed is 2 here and 1 in" in refused(other, capsys)
    assert (workplace / "fe.h5.checkpoint").exists() and not (workplace / "fe.h5").exists()

    assert main(["train", "train.toml", "--resume"]) == 0
    assert "after 60 steps" in capsys.readouterr().out
    assert names(workplace) == sorted(["data", "summary.json", "train.toml", *BESIDE])
    assert log_of(workplace) == log_of(trained)
    best = read_model(workplace / "fe.h5").provenance["best_validation"]
    assert best["step"] > 16  # else the model would not depend on what was resumed
    whole, resumed = numbers(trained / "fe.h5"), numbers(workplace / "fe.h5")
    assert len(whole) > 5 and whole.keys() == resumed.keys()
    for name in whole:
        np.testing.assert_array_equal(whole[name], resumed[name], err_msg=name)


def test_held_out_frames_give_the_reported_errors(trained, workplace, capsys):
    assert main(["train", "train.toml", "--held-out", "apart"]) == 0
    assert capsys.readouterr().out == "4 frames of 1 systems in apart\n"
    assert names(workplace) == ["apart", "data", "train.toml"]
    assert main(["test", str(trained / "fe.h5"), "apart", "--json", "errors.json", "--threads", "1"]) == 0
    found = json.loads((workplace / "errors.json").read_text())
    reported = json.loads((trained / "summary.json").read_text())["test"]
    assert found["frames"] == 4
    assert found["force_rmse_mev_per_ang"] == pytest.approx(reported["force_mev_per_ang"], rel=1e-3)
    assert "exists already" in refused(["train", "train.toml", "--held-out", "apart"], capsys)
    without = ["train", "train.toml", "--held-out", "other", "--set", "data.test=0.0"]
    assert "data.test" in refused(without, capsys)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("steps = 60", "stepz = 60", ["training.stepz (line 22)", "did you mean 'steps'?"]),
        ("[network]", "[netwrok]", ["netwrok (line 13)", "did you mean 'network'?"]),
        ("axis = 2", "axis = 64", ["network", "axis must not exceed the last width of neuron"]),
        ('["data"]', '["nowhere"]', ["nowhere", "there is no such folder"]),
        ('"fe.h5"', '"models/fe.h5"', ["output.file", "there is no folder"]),
    ],
)
def test_a_wrong_training_deck_gives_one_sentence_and_writes_nothing(old, new, words, workplace, capsys):
    assert DECK.count(old) == 1
    Path("train.toml").write_text(DECK.replace(old, new))
    error = refused(["train", "train.toml", "--quiet"], capsys)
    assert all(word in error for word in words), error
    assert names(workplace) == ["data", "train.toml"]


def test_a_model_is_replaced_with_force_only(workplace, capsys):
    Path("fe.h5").write_bytes(b"precious")
    arguments = ["train", "train.toml", "--quiet", "--set", "training.steps=1"]
    assert "fe.h5 exists; give --force" in refused(arguments, capsys)
    assert Path("fe.h5").read_bytes() == b"precious"
    assert main([*arguments, "--force"]) == 0
    assert read_model(workplace / "fe.h5").provenance["steps"] == 1


def test_resume_needs_a_checkpoint(workplace, capsys):
    assert "no checkpoint" in refused(["train", "train.toml", "--quiet", "--resume"], capsys)


# --- test ---


def test_test_reports_errors_as_text_json_and_figure(trained, workplace, capsys):
    model = str(trained / "fe.h5")
    capsys.readouterr()
    assert main(["test", model, "data", "--json", "out.json", "--plot", "parity.png", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "20 frames" in out and "transverse field" in out and "meV/µB" in out
    report = json.loads(Path("out.json").read_text())
    wanted = "frames energy_rmse_mev_per_atom force_rmse_mev_per_ang field_rmse_mev_per_mub"
    assert set(report) >= {*wanted.split(), "field_transverse_rmse_mev_per_mub"} and report["frames"] == 20
    for name in ("force_rmse_mev_per_ang", "field_rmse_mev_per_mub"):  # it has learned something
        assert 0.0 < report[name] < 0.2 * report[name.replace("rmse", "label_rms")], name
    assert Path("parity.png").read_bytes().startswith(b"\x89PNG")


def test_test_agrees_with_the_errors_that_training_reports(trained, workplace):
    """Two code paths: training computes in torch, in float32; ``spinmd test`` with the kernels that dynamics uses."""
    from spinmd.learning.train import training_systems
    from spinmd.potentials.deepspin.data import write_system

    deck, folder = load_training_deck(trained / "train.toml")
    (held_out,) = training_systems(deck, folder)["test"]
    write_system("held_out", held_out)
    assert main(["test", str(trained / "fe.h5"), "held_out", "--json", "out.json", "--threads", "1"]) == 0
    found, said = json.loads(Path("out.json").read_text()), json.loads((trained / "summary.json").read_text())["test"]
    assert found["energy_rmse_mev_per_atom"] == pytest.approx(said["energy_mev_per_atom"], rel=1e-4)
    assert found["force_rmse_mev_per_ang"] == pytest.approx(said["force_mev_per_ang"], rel=1e-4)
    assert found["field_rmse_mev_per_mub"] == pytest.approx(said["field_mev_per_mub"], rel=1e-4)


def test_test_refuses_what_is_no_model_and_no_data(trained, workplace, capsys):
    model = str(trained / "fe.h5")
    Path("graph.pth").write_bytes(b"PK\x03\x04")
    assert "spinmd convert graph.pth graph.h5" in refused(["test", "graph.pth", "data"], capsys)
    assert "no such model file" in refused(["test", "nowhere.h5", "data"], capsys)
    assert "nowhere" in refused(["test", model, "nowhere"], capsys)
    assert "--plot" in refused(["test", model, "data", "--plot", "nowhere/parity.png"], capsys)
    before = Path(model).read_bytes()
    assert "--json" in refused(["test", model, "data", "--json", model], capsys)
    assert Path(model).read_bytes() == before
    Path("noise.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert "noise.h5" in refused(["test", "noise.h5", "data"], capsys)


# --- convert ---


def test_convert_there_and_back_keeps_the_errors(trained, workplace, capsys):
    model = str(trained / "net.h5")
    assert main(["convert", model, "net.dp"]) == 0
    assert "DeepSPIN model of Fe (magnetic)" in capsys.readouterr().out
    assert "spinmd convert net.dp net.h5" in refused(["test", "net.dp", "data"], capsys)
    assert main(["convert", "net.dp", "back.h5"]) == 0
    reports = []
    for path in (model, "back.h5"):
        assert main(["test", path, "data", "--json", "out.json", "--threads", "1"]) == 0
        reports.append(json.loads(Path("out.json").read_text()))
    for name in ("energy_rmse_mev_per_atom", "force_rmse_mev_per_ang", "field_rmse_mev_per_mub"):
        assert reports[1][name] == pytest.approx(reports[0][name], rel=1e-10)


def test_convert_refuses(trained, workplace, capsys):
    assert "the model has no network" in refused(["convert", str(trained / "fe.h5"), "fe.dp"], capsys)
    Path("there.dp").write_bytes(b"precious")
    assert "--force" in refused(["convert", str(trained / "net.h5"), "there.dp"], capsys)
    assert Path("there.dp").read_bytes() == b"precious"
    assert "dp convert-backend" in refused(["convert", str(trained / "net.h5"), "net.pth"], capsys)
    assert names(workplace) == ["data", "there.dp", "train.toml"]


# --- the reference, the example ---


def test_schema_of_the_training_deck(capsys):
    assert main(["schema", "--training"]) == 0
    assert capsys.readouterr().out.strip() == training_markdown().strip()
    assert main(["schema", "--training", "--json"]) == 0
    tables = json.loads(capsys.readouterr().out)["training"]["$defs"]
    assert "rate" in tables["TrainingTable"]["properties"]
    assert "--json or --markdown" in refused(["schema", "--training", "--json", "--markdown"], capsys)


def test_the_reference_names_every_table_and_parameter(tmp_path):
    from spinmd.potentials.deepspin.training_parameters import TrainingDeck

    text, schema = training_markdown(), training_document()["training"]
    for name, field in TrainingDeck.model_fields.items():
        assert name in schema["properties"]
        if name == "title":
            continue
        section = text[text.index(f"## `[{name}]`") :].split("\n## ")[0]
        for parameter, inner in field.annotation.model_fields.items():
            (row,) = [line for line in section.splitlines() if line.startswith(f"| `{parameter}` |")]
            assert inner.description.split(",")[0].replace("|", "\\|") in row
    with pytest.raises(InputError, match="did you mean 'rate'"):
        load_training_deck(DECK + "[training.ratte]\n", folder=tmp_path)


def test_the_example_of_fcc_iron_runs_with_any_model_of_iron(trained, workplace, root):
    script = root / "docs" / "examples" / "fcc_iron_energy.py"
    command = [sys.executable, str(script), str(trained / "fe.h5"), "--figure", "short.png"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("energy (meV/atom) against") == 3 and "lowest, AFMD, double layer" in done.stdout
    assert Path("short.png").read_bytes().startswith(b"\x89PNG")
