"""The output file of a run: its layout, and what other readers see, also while it is being written."""

import json
import os
import runpy
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from spinmd import segments
from spinmd.h5md import read_deck
from spinmd.output import CONVENTIONS, parts_folder

run = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("analytic_run.py"))))


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """No waiting for the disk: a killed process loses nothing that it wrote. test_h5md.py checks the calls."""
    monkeypatch.setattr(segments.os, "fsync", lambda descriptor: None)


# ------------------------------------------------------------------------------------------------ layout


@pytest.mark.parametrize("close", [True, False], ids=["finished", "going on"])
def test_content_and_layout(tmp_path, close):
    path = tmp_path / "fe.h5"
    quantities = ("positions", "velocities", "spins", "forces", "fields")
    writer = run.write_run(path, close=close, quantities=quantities)
    run.assert_content(path, 100, quantities)
    with h5py.File(path, "r") as file:
        assert tuple(file["h5md"].attrs["version"]) == (1, 1)
        assert file["h5md/author"].attrs["name"] and file["h5md/creator"].attrs["name"] == "spinmd"
        box = file[f"{run.FRAMES}/box"]
        assert box.attrs["dimension"] == 3 and list(box.attrs["boundary"]) == ["periodic"] * 3
        np.testing.assert_array_equal(box["edges/value"][3], run.TRICLINIC)
        species = file[f"{run.FRAMES}/species"]
        assert h5py.check_enum_dtype(species.dtype) == {"Fe": 0, "O": 1}
        np.testing.assert_array_equal(species[:], [0, 0, 1, 0, 1])
        np.testing.assert_array_equal(file[f"{run.FRAMES}/id"][:], np.arange(run.NATOMS))
        np.testing.assert_array_equal(file[f"{run.FRAMES}/moment"][:], [2.2, 2.1, 0.0, 2.0, 0.0])
        assert file[f"{run.FRAMES}/spin/value"].attrs["unit"] == "muB"
        assert file[f"{run.FRAMES}/atomic_force/value"].attrs["unit"] == "eV Angstrom-1"
        assert file[f"{run.FRAMES}/magnetic_field/value"].attrs["unit"] == "eV muB-1"
        assert dict(file["spinmd/conventions"].attrs) == CONVENTIONS | {"g_factor": 2.0}
        assert "-(g/hbar) S x F" in file["spinmd/conventions"].attrs["precession"]
        missing = []
        file.visititems(
            lambda n, item: missing.append(n) if isinstance(item, h5py.Dataset) and "unit" not in item.attrs else None
        )
        assert missing == []
        is_virtual = file[f"{run.FRAMES}/position/value"].is_virtual
    assert is_virtual is not close
    assert read_deck(path) == ('title = "a µ"\n', {"run": {"steps": 100}})
    assert parts_folder(path).exists() is not close
    writer.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fe.h5"]
    writer.close()  # a second time does nothing
    run.assert_content(path, 100, quantities)


def test_every_dataset_of_a_merged_file_has_units_in_the_checkpoint_too(tmp_path):
    path = tmp_path / "fe.h5"
    run.write_run(path)
    seen = []
    with h5py.File(path, "r") as file:
        file["spinmd/checkpoint"].visititems(
            lambda n, i: seen.append((n, "unit" in i.attrs)) if isinstance(i, h5py.Dataset) else None
        )
    assert len(seen) > 10 and all(has for _, has in seen)


@pytest.mark.parametrize("compression", ["gzip", "lzf", "none"])
def test_precision_and_compression(tmp_path, compression):
    path = tmp_path / "fe.h5"
    run.write_run(path, precision="float32", compression=compression, quantities=["positions", "spins"])
    run.assert_content(path, 100, ("positions", "spins"), rtol=1e-6)
    with h5py.File(path, "r") as file:
        dataset = file[f"{run.FRAMES}/position/value"]
        assert dataset.dtype == np.float32
        assert dataset.compression == (None if compression == "none" else compression)
        assert "velocity" not in file[run.FRAMES]
        assert file["spinmd/thermo/energy"].dtype == np.float64


def test_large_frames_are_copied_as_compressed_chunks(tmp_path, monkeypatch):
    """A chunk per frame, as for many atoms: the merge takes the direct path and gives the same content."""
    monkeypatch.setattr(segments, "CHUNK_BYTES", 8)
    compared = []
    filters = segments._filters
    monkeypatch.setattr(segments, "_filters", lambda dataset: compared.append(dataset.name) or filters(dataset))
    path = tmp_path / "fe.h5"
    run.write_run(path)
    assert f"/{run.FRAMES}/position/value" in compared  # filters matter only there
    with h5py.File(path, "r") as file:
        assert file[f"{run.FRAMES}/position/value"].chunks == (1, run.NATOMS, 3)
    run.assert_content(path, 100)


def test_writers_take_no_lock(tmp_path):
    """HDF5's own lock on an open segment would be refused on file systems without locks, and keep readers out."""
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "fe.h5"
    writer = run.write_run(path, range(0, 33), close=False)
    writer._flush("frames")
    files = [*parts_folder(path).glob("segment*"), *parts_folder(path).glob("checkpoint*"), path]
    assert any(file.suffix == ".tmp" for file in files) and len(files) > 4
    for file in files:
        with open(file) as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    writer.close()


def test_bytes_reach_the_disk_before_names_change(tmp_path, monkeypatch):
    """fsync of a file before its rename, of its folder after it, and RUN.h5 last of each checkpoint."""
    calls = []
    replace = os.replace

    def noted(old, new):
        calls.append(("rename", Path(old).name, Path(new).name))
        replace(old, new)

    monkeypatch.setattr(segments.os, "replace", noted)
    monkeypatch.setattr(
        segments.os, "fsync", lambda fd: calls.append(("fsync", Path(os.readlink(f"/proc/self/fd/{fd}")).name))
    )
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to name an open file")
    run.write_run(tmp_path / "fe.h5", [0], close=False)
    parts = parts_folder(tmp_path / "fe.h5").name
    expected = [("fsync", tmp_path.name)]  # the name of the hidden folder
    for old, new, folder in (
        ("segment-000001.h5.tmp", "segment-000001.h5", parts),
        ("checkpoint-000002.tmp", "checkpoint-000002.h5", parts),
        ("run.tmp", "fe.h5", tmp_path.name),
    ):
        expected += [("fsync", old), ("rename", old, new), ("fsync", folder)]
    assert calls == expected


def test_long_runs_keep_few_segments(tmp_path, monkeypatch):
    monkeypatch.setattr("spinmd.h5md.COMPACT_COUNT", 3)
    path = tmp_path / "fe.h5"
    writer = run.write_run(path, range(0, 301, 5), checkpoint=10, close=False)
    with h5py.File(path, "r") as file:
        levels = [segment["level"] for segment in json.loads(file["spinmd"].attrs["segments"])]
    assert levels == [3, 1, 0]  # 31 checkpoints = 27 + 3 + 1: no row is copied more than log_3 times
    assert len(list(parts_folder(path).iterdir())) <= 3 + 12  # with what a reader may just have opened
    run.assert_content(path, 300)
    writer.close()
    run.assert_content(path, 300)


# ------------------------------------------------------------------------------------------------ other readers


def open_with_mdanalysis(path):
    import MDAnalysis

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about topology attributes that no trajectory has
        return MDAnalysis.Universe.empty(run.NATOMS, trajectory=False).load_new(str(path), format="H5MD")


@pytest.mark.parametrize("close", [True, False], ids=["finished", "going on"])
@pytest.mark.parametrize(
    ("cell", "dimensions"),
    [
        (run.ORTHOGONAL, [6.0, 7.0, 8.0, 90.0, 90.0, 90.0]),
        (run.TRICLINIC, [6.0, np.hypot(1.5, 7.0), np.sqrt(69.0), None, None, None]),
    ],
    ids=["orthogonal", "triclinic"],
)
def test_mdanalysis_reads_it(tmp_path, cell, dimensions, close):
    path = tmp_path / "fe.h5"
    quantities = ("positions", "velocities", "spins", "forces", "fields")
    writer = run.write_run(path, state=run.make_state(cell), close=close, quantities=quantities)
    if dimensions[3] is None:
        a, b, c = cell

        def angle(u, v):
            return np.degrees(np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v)))

        dimensions = [*dimensions[:3], angle(b, c), angle(a, c), angle(a, b)]
    universe = open_with_mdanalysis(path)
    assert universe.trajectory.n_frames == 11 and universe.atoms.n_atoms == run.NATOMS
    for index, ts in enumerate(universe.trajectory):
        assert ts.time == pytest.approx(0.01 * index, abs=1e-12)
        assert ts.data["step"] == 10 * index
        np.testing.assert_allclose(ts.positions, run.field_of("positions", 10 * index), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(ts.velocities, run.field_of("velocities", 10 * index), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(ts.dimensions, dimensions, rtol=1e-6)
        assert not ts.has_forces
    assert universe.trajectory.units["velocity"] == "Angstrom/ps"
    universe.trajectory.close()
    writer.close()


def test_mdanalysis_makes_its_own_topology_from_the_file(tmp_path):
    import MDAnalysis

    path = tmp_path / "fe.h5md"
    run.write_run(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        universe = MDAnalysis.Universe(str(path))
    assert universe.atoms.n_atoms == run.NATOMS and len(universe.trajectory) == 11
    universe.trajectory.close()


@pytest.mark.parametrize("pbc", [(True, True, False), (False, False, False)])
def test_mdanalysis_takes_open_directions_as_periodic(tmp_path, pbc):
    """The file states the boundaries; MDAnalysis does not read them and gives the whole box."""
    path = tmp_path / "slab.h5"
    run.write_run(path, state=run.make_state(run.ORTHOGONAL, pbc))
    with h5py.File(path, "r") as file:
        boundary = list(file[f"{run.FRAMES}/box"].attrs["boundary"])
    assert boundary == ["periodic" if p else "none" for p in pbc]
    universe = open_with_mdanalysis(path)
    np.testing.assert_allclose(universe.dimensions, [6, 7, 8, 90, 90, 90])
    np.testing.assert_allclose(universe.atoms.positions, run.field_of("positions", 0), rtol=1e-5, atol=1e-5)
    universe.trajectory.close()


def test_another_process_reads_while_the_writer_is_open(tmp_path):
    path = tmp_path / "fe.h5"
    writer = run.write_run(
        path, range(0, 48, 1), close=False
    )  # rows after the checkpoint at 40 are in the open segment
    script = """
        import sys, h5py, numpy
        with h5py.File(sys.argv[1], "r") as file:  # with the reader's own, default, locking
            positions = file["particles/trajectory/position/value"][:]
            print(positions.shape[0], int(file["spinmd/thermo/step"][-1]), numpy.isnan(positions).any())
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    answer = subprocess.run(command, capture_output=True, text=True, cwd="/", check=True).stdout.split()
    assert answer == ["5", "40", "False"]
    writer.close()
    answer = subprocess.run(command, capture_output=True, text=True, cwd="/", check=True).stdout.split()
    assert answer == ["5", "47", "False"]


def test_reader_that_opened_the_file_before_the_next_checkpoint_keeps_its_data(tmp_path, monkeypatch):
    """Segments that have been merged stay for one more publication."""
    monkeypatch.setattr("spinmd.h5md.COMPACT_COUNT", 2)
    path = tmp_path / "fe.h5"
    state = run.make_state()
    writer = run.write_run(path, [0], state=state, close=False)
    with h5py.File(path, "r") as reader:
        frame = run.frame_of(state, 20)
        writer.append_frame(frame)
        writer.checkpoint(frame)  # merges the two segments
        np.testing.assert_allclose(reader[f"{run.FRAMES}/position/value"][0], run.field_of("positions", 0), atol=1e-12)
    writer.close()
