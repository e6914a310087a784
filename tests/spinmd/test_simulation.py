"""Simulations from Python, the decks in inputs/ and the example script."""

import h5py
import numpy as np
import pytest

import spinmd

DECK = """\
[structure]
prototype = "bcc"
element = "Fe"
lattice_constant = 2.8665
supercell = [2, 2, 2]
displacement = 0.05
temperature = 300

[structure.spins]
moments = { Fe = 2.2 }
texture = "random"

[[potential]]
kind = "lennard-jones"
parameters = { epsilon = 0.4, sigma = 2.2, cutoff = 4.0 }

[[potential]]
kind = "exchange"
parameters = { form = "bethe-slater", a = 0.02726, b = 0.2171, d = 1.841, cutoff = 3.4 }

[integrator]
timestep = "1 fs"

[run]
steps = 20

[output]
file = "run.h5"
thermo = 5
trajectory = 10
checkpoint = 10
"""


@pytest.fixture
def deck(tmp_path, monkeypatch):
    """Writes a deck into an empty folder, which is also the present one; returns its path."""

    def write(text=DECK):
        (tmp_path / "deck.toml").write_text(text)
        return tmp_path / "deck.toml"

    monkeypatch.chdir(tmp_path)
    return write


def test_stages_run_one_after_the_other(deck, tmp_path):
    text = DECK + '\n[[stage]]\nname = "damped"\nrun = { steps = 10 }\nintegrator = { spin_damping = 0.5 }\n'
    text += '[[stage]]\nrun = { steps = 4 }\noutput = { thermo = 2 }\n[[stage.potential]]\nkind = "zeeman"\n'
    text += "parameters = { field = [0, 0, 100] }\n"
    simulation = spinmd.build(deck(text))
    summary = simulation.run()
    simulation.close()
    assert summary["steps"] == 34
    assert list(simulation.thermo["step"]) == [0, 5, 10, 15, 20, 25, 30, 32, 34]
    spin = simulation.thermo["spin_energy"]
    assert spin[6] < spin[4] - 0.01  # damping takes energy from the spins
    assert simulation.model.names == ("zeeman",)
    with h5py.File(tmp_path / "run.h5") as file:
        assert file["spinmd/thermo/step"][-1] == 34


def test_python_runs_and_shares_arrays(deck):
    with spinmd.build(deck(), ["run.steps=4"], output=False) as simulation:
        assert simulation.summary == {} and simulation.thermo == {}
        simulation.run()
        assert simulation.state.clock.step == 4 and simulation.summary["steps"] == 4
        energy = simulation.evaluate(spinmd.Need.ENERGY).energies[1]
        simulation.state.spins[:, :2] *= -1.0  # half a turn about z: exchange does not notice
        simulation.moved()
        assert simulation.evaluate(spinmd.Need.ENERGY).energies[1] == pytest.approx(energy, rel=1e-12)
        simulation.state.spins[0] *= -1.0
        simulation.moved()
        assert simulation.evaluate(spinmd.Need.ENERGY).energies[1] != pytest.approx(energy, rel=1e-3)
        simulation.run(3)
        assert simulation.state.clock.step == 7
    with pytest.raises(spinmd.InputError):
        simulation.run(1)


def test_running_in_pieces_is_bitwise_the_same(deck):
    whole, pieces = (spinmd.build(deck(), output=False) for _ in range(2))
    whole.run(10)
    pieces.run(4)
    pieces.run(6)
    for name in ("positions", "velocities", "spins"):
        assert np.array_equal(getattr(whole.state, name), getattr(pieces.state, name))


SHORT = {"run.steps": 4, "output.thermo": 2, "output.trajectory": 2, "output.checkpoint": 0}


def test_every_input_runs(root, tmp_path):
    paths = sorted((root / "inputs").glob("*.toml"))
    assert len(paths) >= 8
    for path in paths:
        deck = spinmd.load_deck(path)
        changes = {**SHORT, "output.file": str(tmp_path / (path.stem + ".h5"))}
        changes |= {f"stage.{k}.run.steps": 4 for k in range(len(deck.stage))}
        if deck.run.device == "cuda":  # too large for the CPU; tests/device runs it where kernels can run
            changes |= {"run.device": "cpu", "structure.supercell": [4, 4, 4]}
        assert path.read_text().startswith("#"), f"{path.name} does not say what it shows"
        assert (deck.output.file.parent, deck.output.file.stem) == (path.parent, path.stem)
        with spinmd.build(spinmd.load_deck(path, changes)) as simulation:
            summary = simulation.run()
        assert summary["steps"] == 4 * (1 + len(deck.stage)), path.name
        conserved = simulation.thermo["conserved"]
        if deck.integrator.ensemble in ("monte-carlo", "parallel-tempering"):  # conserve nothing
            assert np.isnan(conserved).all()
            conserved = np.zeros(2)
        assert abs(conserved[-1] - conserved[0]) < 1e-4 * summary["atoms"], path.name
        assert h5py.is_hdf5(summary["output"])


def test_overrides_of_a_loaded_deck_keep_its_folder(root):
    """Relative paths of the deck still start beside it, wherever the process is."""
    deck = spinmd.load_deck(root / "inputs" / "bcc_iron.toml")
    simulation = spinmd.build(deck, {"structure.supercell": [2, 2, 2]}, output=False)
    assert simulation.state.natoms == 16
