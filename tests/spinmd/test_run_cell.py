"""A run's file as the structure of another deck: the last checkpoint, or a stored frame."""

import h5py
import numpy as np
import pytest

import spinmd
from spinmd.checkpoint import read_checkpoint
from spinmd.cli import main
from spinmd.structure import StructureParameters, build_structure

DECK = """\
[structure]
prototype = "B2"
elements = ["Ni", "Fe"]
lattice_constant = 3.3
supercell = [3, 3, 3]
displacement = 0.2
temperature = 3000
strain = [[0.0, 0.1, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
masses = { Fe = 57.5 }

[structure.spins]
moments = { Fe = 2.2 }
reference_moments = { Fe = 2.0 }
texture = "random"

[[potential]]
kind = "morse"
parameters = { depth = 0.4, alpha = 1.4, r0 = 2.9, cutoff = 4.0 }

[[potential]]
kind = "exchange"
parameters = { form = "shells", J = [0.01] }
pairs = ["Fe-Fe"]

[integrator]
timestep = "1 fs"

[run]
steps = 12

[output]
file = "run.h5"
trajectory = 5
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run whose atoms were sorted, in a hot, sheared crystal; its file and the simulation."""
    folder = tmp_path_factory.mktemp("run_cell")
    patch = pytest.MonkeyPatch()
    patch.setattr("spinmd.neighbors.SORT_FROM", 1)
    with spinmd.build(DECK, {"output.file": str(folder / "run.h5")}) as simulation:
        simulation.run()
    patch.undo()
    assert not np.array_equal(simulation.state.ids, np.arange(54)) and simulation.state.images.any()
    return folder / "run.h5", simulation


def start(path, seed=0, **keys):
    return build_structure(StructureParameters(file=path, **keys), seed)


def original(state, name):
    return state.original_order(getattr(state, name))


PARTS = ("positions", "velocities", "spins", "moments", "masses", "reference", "images")


def test_the_checkpoint_is_taken_as_it_is_in_the_original_order(done):
    path, simulation = done
    state, before = start(path), simulation.state
    for name in PARTS:
        np.testing.assert_array_equal(getattr(state, name), original(before, name), err_msg=name)
    np.testing.assert_array_equal(state.cell, before.cell)
    assert list(state.elements) == [before.symbols[k] for k in original(before, "species")]
    assert state.clock.step == 0 and state.clock.time == 0.0 and list(state.ids) == list(range(54))
    assert set(np.round(state.moments, 12)) == {0.0, 2.0} and set(state.masses[state.moments > 0]) == {57.5}


def test_the_energy_in_another_deck_is_that_of_the_run(done, tmp_path):
    """Couplings by shell are found on the reference sites, which the atoms have left: they must come along."""
    path, simulation = done
    text = f"[structure]\nfile = {str(path)!r}\n" + DECK[DECK.index("[[potential]]") :]
    other = spinmd.build(text, {"output.file": str(tmp_path / "next.h5"), "run.steps": 2})
    expected = simulation.evaluate(spinmd.Need.ENERGY).energies
    np.testing.assert_allclose(other.evaluate(spinmd.Need.ENERGY).energies, expected, rtol=1e-12)
    with other:
        other.run()
    with h5py.File(tmp_path / "next.h5") as mine, h5py.File(path) as theirs:
        for name in ("position", "velocity", "spin"):  # unwrapped: the path goes on where it was
            where = f"particles/trajectory/{name}/value"
            np.testing.assert_array_equal(mine[where][0], theirs[where][-1])


def test_what_the_deck_gives_comes_before_what_the_file_has(done):
    path, simulation = done
    before = simulation.state
    state = start(path, temperature=500.0)
    assert state.temperature() == pytest.approx(500.0) and not np.array_equal(
        state.velocities, original(before, "velocities")
    )
    np.testing.assert_array_equal(state.spins, original(before, "spins"))
    state = start(path, spins={"texture": "ferromagnetic"})
    lengths = np.linalg.norm(original(before, "spins"), axis=1)
    np.testing.assert_allclose(state.spins, lengths[:, None] * [0.0, 0.0, 1.0], atol=1e-12)
    np.testing.assert_array_equal(state.moments, original(before, "moments"))
    state = start(path, spins={"moments": {"Fe": 1.0}})
    np.testing.assert_allclose(np.linalg.norm(state.spins, axis=1), np.where(lengths > 0, 1.0, 0.0), atol=1e-12)
    np.testing.assert_array_equal(state.moments, np.where(lengths > 0, 1.0, 0.0))
    state = start(path, spins={"reference_moments": {"Fe": 1.5}}, masses={"Ni": 60.0})
    assert set(np.round(state.moments, 12)) == {0.0, 1.5} and set(state.masses) == {57.5, 60.0}
    state = start(path, displacement=0.1)
    moved = state.positions - original(before, "positions")
    assert np.sqrt((moved**2).sum(axis=1).mean()) == pytest.approx(0.1, rel=0.3)
    np.testing.assert_array_equal(state.reference, original(before, "reference"))


def test_repeated_strained_and_with_vacancies(done):
    """Displacements from the sites stay what they were, also of atoms that crossed the boundary."""
    path, simulation = done
    before = simulation.state
    away = original(before, "positions") + original(before, "images") @ before.cell - original(before, "reference")
    state = start(path, supercell=[2, 1, 1])
    assert state.natoms == 108
    np.testing.assert_allclose(state.unwrapped() - state.reference, np.tile(away, (2, 1)), atol=1e-12)
    np.testing.assert_array_equal(state.spins[54:], original(before, "spins"))
    state = start(path, strain=[0.01, 0.0, 0.0])
    np.testing.assert_allclose(state.cell, before.cell * [1.01, 1.0, 1.0], rtol=1e-14)
    np.testing.assert_allclose(state.unwrapped() - state.reference, away * [1.01, 1.0, 1.0], atol=1e-12)
    state = start(path, vacancies=4)
    assert state.natoms == 50 and len(state.images) == len(state.reference) == 50
    state = start(path, pbc=[True, True, False], vacuum=5.0)
    assert original(before, "images")[:, 2].any() and not state.images[:, 2].any()
    np.testing.assert_allclose(state.unwrapped() - state.reference, away, atol=1e-12)
    heights = state.positions[:, 2]
    assert heights.min() == pytest.approx(5.0) and state.cell[2, 2] == pytest.approx(np.ptp(heights) + 10.0)


def test_a_stored_frame(done, tmp_path):
    path, _ = done
    with h5py.File(path) as file:
        frames = {name: file[f"particles/trajectory/{name}/value"][:] for name in ("position", "velocity", "spin")}
    assert len(frames["spin"]) == 4
    for index in (0, 2, -1):
        state = start(path, index=index)
        np.testing.assert_array_equal(state.positions, frames["position"][index])
        np.testing.assert_array_equal(state.velocities, frames["velocity"][index])
        np.testing.assert_array_equal(state.spins, frames["spin"][index])
        assert not state.images.any() and set(np.round(state.moments, 12)) == {0.0, 2.0}
    with pytest.raises(spinmd.InputError, match=r"run.h5 has no frame 4; it has 4, counted from 0"):
        start(path, index=4)
    only = tmp_path / "only.h5"
    with spinmd.build(DECK, {"output.file": str(only), "run.steps": 0, "output.quantities": ["positions"]}) as other:
        other.run()
    with pytest.raises(spinmd.InputError, match="only.h5 stores no velocities in its frames; give temperature, or"):
        start(only, index=0)
    with pytest.raises(spinmd.InputError, match="only.h5 stores no spins in its frames; give spins.moments"):
        start(only, index=0, temperature=0.0)
    state = start(only, index=0, temperature=0.0, spins={"moments": {"Fe": 2.2}, "texture": "random"})
    assert not state.velocities.any() and state.spins.any()
    assert start(only).velocities.any()  # the checkpoint has everything


def test_files_that_are_no_run(done, tmp_path, capsys):
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["x"] = 1.0
    deck = tmp_path / "deck.toml"
    deck.write_text('[structure]\nfile = "other.h5"\n' + DECK[DECK.index("[[potential]]") :])
    assert main(["check", str(deck)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "other.h5: is not a file that spinmd wrote" in error and "structure" in error
    other.write_bytes(done[0].read_bytes()[:3000])
    assert main(["check", str(deck)]) == 2
    assert "is not an HDF5 file, or is damaged" in capsys.readouterr().err
    deck.write_text(deck.read_text().replace("other.h5", str(done[0])))
    assert main(["run", str(deck), "--set", f"output.file={done[0]}", "--force"]) == 2
    assert "the run reads" in capsys.readouterr().err
    assert read_checkpoint(done[0])[3]["step"] == 12
