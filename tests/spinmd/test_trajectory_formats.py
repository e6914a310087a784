"""A run's file in other programs: as Atoms of ASE, as extended XYZ that ASE and OVITO read, and what is refused."""

import gc
import runpy
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from ase import units
from ase.io import read
from pydantic import ValidationError

import spinmd
from spinmd import segments
from spinmd.cli import main
from spinmd.crystal import read_unit_cell
from spinmd.errors import InputError
from spinmd.h5md import TrajectoryWriter
from spinmd.interop.conversion import convert
from spinmd.output import OutputParameters, disk_use

run = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("analytic_run.py"))))
QUANTITIES = ("positions", "velocities", "spins", "forces", "fields")
ENERGIES = (*run.COLUMNS, ("lattice_potential_energy", "eV"), ("spin_energy", "eV"))


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """No waiting for the disk: test_h5md.py checks the calls."""
    monkeypatch.setattr(segments.os, "fsync", lambda descriptor: None)


@pytest.fixture
def whole(tmp_path, made) -> Path:
    """Eleven frames with everything, and energies: −1 eV per step of the lattice, 0.5 eV of the spins."""
    return Path(shutil.copy(made / "fe.h5", tmp_path / "fe.h5"))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with fe.h5, and with spins.h5, which holds spins only."""
    folder, state = tmp_path_factory.mktemp("made"), run.make_state()
    path = folder / "fe.h5"
    writer = TrajectoryWriter(run.parameters_for(path, quantities=QUANTITIES), ENERGIES)
    for step in range(0, 101, 10):
        frame = run.frame_of(state, step)
        row = {"step": step, "time": frame.time, "energy": 0.0}
        writer.append_thermo(frame, row | {"lattice_potential_energy": -1.0 * step, "spin_energy": 0.5})
        writer.append_frame(frame)
    writer.checkpoint(frame)
    writer.close()
    run.write_run(folder / "spins.h5", quantities=["spins"])
    return folder


def same(atoms, step, ids=slice(None), atol=1e-7, fields=True):
    """Everything of the analytic run at this step, in ASE's units."""
    np.testing.assert_allclose(atoms.positions, run.field_of("positions", step)[ids], atol=atol)
    np.testing.assert_allclose(atoms.cell, run.TRICLINIC, atol=atol)
    assert atoms.pbc.all() and atoms.info["step"] == step and atoms.info["time"] == pytest.approx(0.001 * step)
    assert list(atoms.symbols) == list(np.array(["Fe", "Fe", "O", "Fe", "O"])[ids])
    velocities = run.field_of("velocities", step)[ids]  # Å/ps
    np.testing.assert_allclose(atoms.get_velocities() * 1000.0 * units.fs, velocities, atol=atol)
    np.testing.assert_allclose(atoms.get_initial_magnetic_moments(), run.field_of("spins", step)[ids], atol=atol)
    np.testing.assert_allclose(atoms.get_masses(), np.array([55.8, 55.9, 16.0, 55.7, 16.1])[ids], atol=atol)
    np.testing.assert_allclose(atoms.get_forces(), run.field_of("forces", step)[ids], atol=atol)
    if fields:
        np.testing.assert_allclose(atoms.arrays["magnetic_forces"], run.field_of("fields", step)[ids], atol=atol)


# ------------------------------------------------------------------------------------------------ ASE


def test_a_frame_as_atoms(whole):
    with spinmd.Trajectory(whole) as trajectory:
        atoms = trajectory[3].atoms()
        same(atoms, 30, atol=1e-12)
        np.testing.assert_array_equal(atoms.get_magnetic_moments(), trajectory.spins[3])
        assert atoms.get_potential_energy() == trajectory[3].energy == -29.5
        kinetic = 0.5 * spinmd.units.AMU * (trajectory.masses[:, None] * trajectory.velocities[3] ** 2).sum()
        assert atoms.get_kinetic_energy() == pytest.approx(kinetic, rel=1e-6)  # ASE has older constants
        np.testing.assert_allclose(trajectory[3].atoms(wrap=True).positions, trajectory.wrapped[3])
        part = trajectory.select(elements="O")[3].atoms()
        same(part, 30, [2, 4], atol=1e-12)
        assert list(part.arrays["id"]) == [2, 4]
        assert "energy" not in part.calc.results  # it is that of all atoms


def test_extended_xyz_is_read_by_ase(whole, tmp_path, capsys):
    assert main(["convert", str(whole), str(tmp_path / "fe.extxyz")]) == 0
    assert capsys.readouterr().out.strip().endswith("11 frames of 5 atoms")
    frames = read(tmp_path / "fe.extxyz", index=":")
    assert len(frames) == 11
    for index, atoms in enumerate(frames):
        same(atoms, 10 * index)
        assert atoms.get_potential_energy() == pytest.approx(0.5 - 10 * index)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fe.extxyz", "fe.h5"]


def test_the_last_frame_starts_another_run(whole, tmp_path):
    convert(whole, tmp_path / "last.extxyz", frames="-1", wrap=True)
    unit = read_unit_cell(tmp_path / "last.extxyz")
    np.testing.assert_allclose(unit.velocities, run.field_of("velocities", 100), atol=1e-6)
    np.testing.assert_allclose(unit.magmoms, run.field_of("spins", 100), atol=1e-7)
    inside = unit.positions @ np.linalg.inv(unit.cell)
    assert (inside > -1e-7).all() and (inside < 1 + 1e-7).all()


@pytest.mark.parametrize(
    "options, steps",
    [
        (["--every", "4"], [0, 40, 80]),
        (["--frames", "2:9:3"], [20, 50, 80]),
        (["--frames", "::-5"], [100, 50, 0]),
        (["--frames", "2:", "--every", "5"], [20, 70]),
        (["--frames", "-1"], [100]),
        (["--frames", "3"], [30]),
    ],
)
def test_chosen_frames(whole, tmp_path, options, steps):
    for name in ("few.xyz", "few.traj"):
        assert main(["convert", str(whole), str(tmp_path / name), *options, "--quiet"]) == 0
        frames = read(tmp_path / name, index=":")
        assert [atoms.info["step"] for atoms in frames] == steps
        same(frames[-1], steps[-1], fields=name == "few.xyz")  # ASE's .traj keeps the arrays that ASE knows


def test_formats_of_one_frame(whole, tmp_path):
    for name in ("fe.vasp", "POSCAR", "fe.cif", "fe.xsf"):
        convert(whole, tmp_path / name, frames="4")
        atoms = read(tmp_path / name)
        difference = (atoms.get_scaled_positions() - run_scaled(whole, 4, atoms.symbols)) % 1.0
        np.testing.assert_allclose(np.minimum(difference, 1 - difference), 0.0, atol=1e-6)


def run_scaled(path, index, symbols):
    with spinmd.Trajectory(path) as trajectory:
        atoms = trajectory[index].atoms()
    if list(symbols) != list(atoms.symbols):  # POSCAR groups the elements
        atoms = atoms[[0, 1, 3, 2, 4]]
    return atoms.get_scaled_positions()


# ------------------------------------------------------------------------------------------------ OVITO


@pytest.mark.parametrize("close", [True, False], ids=["finished", "going on"])
def test_extended_xyz_is_read_by_ovito(tmp_path, close):
    """Positions, cell, velocities in file units, and spins as vector properties; during a run and after it."""
    pytest.importorskip("ovito", exc_type=ImportError, reason="needs OVITO and the system libraries that it loads")
    from ovito.io import import_file

    path = tmp_path / "fe.h5"
    writer = run.write_run(path, close=close, quantities=QUANTITIES)
    convert(path, tmp_path / "fe.extxyz")
    pipeline = import_file(str(tmp_path / "fe.extxyz"))
    assert pipeline.source.num_frames == 11
    for index in (0, 7, 10):
        data = pipeline.compute(index)
        step = 10 * index
        np.testing.assert_allclose(data.particles.positions, run.field_of("positions", step), atol=1e-6)
        np.testing.assert_allclose(np.asarray(data.cell)[:, :3].T, run.TRICLINIC, atol=1e-6)  # its columns are vectors
        assert tuple(data.cell.pbc) == (True,) * 3 and data.attributes["step"] == step
        types = data.particles.particle_types
        assert [types.type_by_id(number).name for number in types] == ["Fe", "Fe", "O", "Fe", "O"]
        spins = run.field_of("spins", step)
        for name in ("Dipole Orientation", "initial_magmoms"):
            assert data.particles[name].shape == (5, 3)
            np.testing.assert_allclose(data.particles[name], spins, atol=1e-6)
        assert data.particles["Dipole Orientation"].vis is not None  # arrows
        assert data.particles["initial_magmoms"].vis is None
        np.testing.assert_allclose(data.particles.forces, run.field_of("forces", step), atol=1e-6)
        np.testing.assert_allclose(data.particles["magnetic_forces"], run.field_of("fields", step), atol=1e-6)
    writer.close()


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["fe.h5", "fe.vasp"], "OUT fe.vasp: this format takes one frame, and 11 are chosen; say --frames -1"),
        (["fe.h5", "fe.h6"], "OUT fe.h6: a trajectory of spinmd becomes extended XYZ"),
        (["fe.h5", "fe.dp"], "OUT fe.dp: a trajectory of spinmd becomes extended XYZ"),
        (["fe.h5", "fe.db", "--frames", "0"], "OUT fe.db: a trajectory of spinmd becomes"),
        (["fe.h5", "there.xyz"], "OUT there.xyz: the file exists; name another one or say --force"),
        (["fe.h5", "no/fe.xyz"], "OUT no/fe.xyz: its folder does not exist"),
        (["fe.h5", "folder.xyz"], "OUT folder.xyz: this is a folder"),
        (["fe.h5", "link.xyz", "--force"], "OUT link.xyz: source and target are the same file"),
        (["fe.h5", "a.xyz", "--frames", "5:2"], "--frames: no frames are chosen of the 11 in fe.h5"),
        (["fe.h5", "a.xyz", "--frames", "1:2:0"], "--frames: expected a:b:c"),
        (["fe.h5", "a.xyz", "--frames", "first"], "--frames: expected a:b:c"),
        (["fe.h5", "a.xyz", "--frames", "11"], "--frames: there is no frame 11; there are 11, counted from 0"),
        (["fe.h5", "a.xyz", "--every", "0"], "--every: expected a whole number of frames"),
        (["no.h5", "a.xyz"], "no.h5: there is no such file"),
        (["cut.h5", "a.xyz"], "cut.h5: is not an HDF5 file, or is damaged"),
        (["there.xyz", "a.extxyz"], "there.xyz: is not an HDF5 file"),
        (["spins.h5", "a.xyz"], 'spins.h5: holds spins, and no positions; to store them, give quantities = [..., "pos'),
        (["there.xyz", "a.h5"], "there.xyz: this is not a model of DeePMD-kit"),
        (["there.xyz", "a.h5", "--every", "2"], "there.xyz: --every, --frames and --wrap are for trajectories"),
    ],
)
def test_convert_refuses(whole, made, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    Path("there.xyz").write_text("precious")
    Path("folder.xyz").mkdir()
    Path("link.xyz").symlink_to("fe.h5")
    Path("cut.h5").write_bytes(whole.read_bytes()[:5000])
    shutil.copy(made / "spins.h5", tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert main(["convert", *arguments]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and error.startswith(f"spinmd: error: {words}"), error
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_disk_that_refuses_leaves_nothing(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ase.io.extxyz.write_extxyz", full)
    assert main(["convert", "fe.h5", "fe.xyz"]) == 2
    assert "OUT fe.xyz: cannot be written: No space left" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["fe.h5"]


# ------------------------------------------------------------------------------------------------ a choice of atoms


@pytest.mark.parametrize(
    "atoms, ids",
    [
        ("Fe", [0, 1, 3]),
        (["O"], [2, 4]),
        (3, [3]),
        ([4, 0], [0, 4]),
        (["1:4"], [1, 2, 3]),
        ("::2", [0, 2, 4]),
        (["O", -2, "0:1"], [0, 2, 3, 4]),
        (["Fe", "O"], [0, 1, 2, 3, 4]),
    ],
)
def test_frames_of_some_atoms(tmp_path, atoms, ids):
    """Whatever order the run keeps its atoms in; the checkpoint is of all."""
    path, state = tmp_path / "fe.h5", run.make_state()
    state.permute(np.array([2, 0, 1, 4, 3]))
    assert [state.symbols[k] for k in state.species] != ["Fe", "Fe", "O", "Fe", "O"]
    run.write_run(path, state=state, atoms=atoms, quantities=QUANTITIES)
    with spinmd.Trajectory(path) as trajectory:
        assert list(trajectory.ids) == ids and trajectory.system_atoms == 5
        assert list(trajectory.symbols) == list(np.array(["Fe", "Fe", "O", "Fe", "O"])[ids])
        np.testing.assert_array_equal(trajectory.masses, np.array([55.8, 55.9, 16.0, 55.7, 16.1])[ids])
        np.testing.assert_array_equal(trajectory.moments, np.array([2.2, 2.1, 0.0, 2.0, 0.0])[ids])
        for name in QUANTITIES:
            for frame in trajectory:
                np.testing.assert_allclose(frame.array(name), run.field_of(name, frame.step)[ids], atol=1e-12)
        assert trajectory.checkpoint.state.natoms == 5
    convert(path, tmp_path / "fe.extxyz", frames="2")
    again = read(tmp_path / "fe.extxyz")
    same(again, 20, ids)
    assert ("id" in again.arrays) == (len(ids) < 5) and (len(ids) == 5 or list(again.arrays["id"]) == ids)


def test_mdanalysis_reads_some_atoms(tmp_path):
    import MDAnalysis

    path = tmp_path / "fe.h5"
    run.write_run(path, atoms="Fe", precision="float32", compression="none")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        universe = MDAnalysis.Universe.empty(3, trajectory=False).load_new(str(path), format="H5MD")
    for ts in universe.trajectory:
        np.testing.assert_allclose(ts.positions, run.field_of("positions", ts.data["step"])[[0, 1, 3]], atol=1e-5)
    universe.trajectory.close()


@pytest.mark.parametrize(
    "atoms, words",
    [
        ("Co", "the structure has no Co, only Fe, O"),
        ([5], "there is no atom 5: the structure has 5 atoms, counted from 0"),
        ([-6], "there is no atom -6"),
        ("0:9", "the range '0:9' goes beyond the atoms: the structure has 5 atoms"),
        ("3:3", "the range '3:3' holds no atom"),
    ],
)
def test_atoms_that_the_structure_has_not(tmp_path, atoms, words):
    with pytest.raises(InputError, match=words) as caught:
        run.write_run(tmp_path / "fe.h5", atoms=atoms)
    assert caught.value.place == "output.atoms"
    gc.collect()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("atoms", [[], "1:2:0", "Fe-O", 1.5, True, [["Fe"]], {"Fe": 1}, "", "1:2:3:4"])
def test_atoms_that_nobody_can_mean(atoms):
    with pytest.raises(ValidationError, match="elements|list is empty"):
        OutputParameters(file="fe.h5", atoms=atoms)


def test_a_resumed_run_stores_the_same_atoms(tmp_path):
    path = tmp_path / "fe.h5"
    run.write_run(path, range(0, 41, 5), atoms="O")
    state = spinmd.Trajectory(path).checkpoint.state
    with pytest.raises(InputError, match="holds other atoms than this run stores"):
        run.write_run(path, range(40, 61, 5), state=state, resume=True, atoms=[0, 1])
    run.write_run(path, range(40, 61, 5), state=state, resume=True, atoms="O")
    with spinmd.Trajectory(path) as trajectory:
        np.testing.assert_allclose(trajectory.spins[-1], run.field_of("spins", 60)[[2, 4]], atol=1e-12)
        assert list(trajectory.steps) == list(range(0, 61, 10))


def test_space_on_the_disk(tmp_path):
    """Frames and rows counted one by one, and bytes as a file without compression has them."""
    path, state = tmp_path / "fe.h5", run.make_state()
    output = run.parameters_for(path, atoms="Fe", precision="float32", trajectory=7, thermo=5, compression="none")
    later = output.model_copy(update={"trajectory": 0, "thermo": 4})
    state.clock.step = 3
    use = disk_use([output, later], [20, 9], state, columns=3)
    assert use["frames"] == len({3, 7, 14, 21, 23, 32}) and use["rows"] == len({3, 5, 10, 15, 20, 23, 24, 28, 32})
    assert disk_use([output], [0], state, 3)["frames"] == 1
    run.write_run(path, atoms="Fe", precision="float32", compression="none")
    with h5py.File(path, "r") as file:
        frames = file[run.FRAMES]
        sizes = [frames[f"{name}/value"][0].nbytes for name in ("position", "velocity", "spin")]
    assert use["atoms"] == 3 and use["frame_bytes"] == sum(sizes) + 72 + 16


# ------------------------------------------------------------------------------------------------ from a deck

DECK = """
[structure]
prototype = "bcc"
element = "Fe"
lattice_constant = 2.8665
supercell = [2, 2, 2]
temperature = 300

[structure.spins]
moments = { Fe = 2.2 }
texture = "random"

[[potential]]
kind = "zeeman"
parameters = { field = [0, 0, 10] }

[integrator]
timestep = "1 fs"

[run]
steps = 20

[output]
file = "run.h5"
trajectory = 5
quantities = ["positions", "velocities", "spins", "forces", "fields"]
atoms = ["0:16:3"]
"""


def test_a_deck_with_a_choice_of_atoms(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("deck.toml").write_text(DECK)
    assert main(["check", "deck.toml"]) == 0
    text = capsys.readouterr().out
    assert "5 frames of 808 bytes (positions, velocities, spins, forces, fields of 6 of 16 atoms, float64)" in text
    assert main(["run", "deck.toml", "--quiet"]) == 0
    with spinmd.Trajectory("run.h5") as trajectory:
        assert list(trajectory.ids) == [0, 3, 6, 9, 12, 15] and list(trajectory.steps) == [0, 5, 10, 15, 20]
        np.testing.assert_allclose(trajectory.fields[-1], np.tile([0, 0, 10 * 5.7883817982e-5], (6, 1)), atol=1e-12)
        state = trajectory.checkpoint.state
        np.testing.assert_array_equal(trajectory.spins[-1], state.original_order(state.spins)[::3])
        row = trajectory[-1].thermo
        assert trajectory[-1].energy == pytest.approx(row["total_energy"] - row["kinetic_energy"])
        assert trajectory.settings["output"]["atoms"] == ["0:16:3"]
    capsys.readouterr()
    for value, words in (('["Co"]', "no Co, only Fe"), ("[99]", "no atom 99"), ("[]", "list is empty")):
        assert main(["run", "deck.toml", "--force", "--set", f"output.atoms={value}"]) == 2
        error = capsys.readouterr().err
        assert "output.atoms" in error and words in error and error.count("\n") == 1, error


def test_a_run_that_the_disk_has_no_room_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("deck.toml").write_text(DECK)
    monkeypatch.setattr("spinmd.checking.shutil.disk_usage", lambda folder: SimpleNamespace(free=5000))
    assert main(["check", "deck.toml"]) == 0
    assert "output: 5 kB are free in" in capsys.readouterr().out
