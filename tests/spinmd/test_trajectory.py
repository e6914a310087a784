"""``spinmd.Trajectory``: frames, parts and lazy arrays of a run's file, finished, going on, or damaged."""

import os
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import spinmd
from spinmd import segments, stored_arrays
from spinmd.errors import InputError
from spinmd.integrity import MARK
from spinmd.output import parts_folder

run = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("analytic_run.py"))))
QUANTITIES = ("positions", "velocities", "spins", "forces", "fields")


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """No waiting for the disk: test_h5md.py checks the calls."""
    monkeypatch.setattr(segments.os, "fsync", lambda descriptor: None)


def expected(name, steps=range(0, 101, 10)) -> np.ndarray:
    return np.array([run.field_of(name, step) for step in steps])


# ------------------------------------------------------------------------------------------------ content


@pytest.mark.parametrize("close", [True, False], ids=["finished", "going on"])
def test_everything_that_a_run_stored(tmp_path, close):
    path = tmp_path / "fe.h5"
    writer = run.write_run(path, close=close, quantities=QUANTITIES)
    with spinmd.Trajectory(path) as trajectory:
        assert len(trajectory) == 11 and trajectory.natoms == 5 and trajectory.quantities == QUANTITIES
        assert trajectory.running is (not close)
        for name in QUANTITIES:
            array = getattr(trajectory, name)
            assert (array.shape, array.dtype, array.ndim, len(array)) == ((11, 5, 3), np.float64, 3, 11)
            np.testing.assert_allclose(np.asarray(array), expected(name), atol=1e-12)
        assert trajectory.spins.unit == "muB" and trajectory.units["fields"] == "eV muB-1"
        np.testing.assert_array_equal(trajectory.steps, np.arange(0, 101, 10))
        np.testing.assert_allclose(trajectory.times, 0.001 * trajectory.steps)
        assert trajectory.cells.shape == (11, 3, 3) and (trajectory.cells[4] == run.TRICLINIC).all()
        assert list(trajectory.symbols) == ["Fe", "Fe", "O", "Fe", "O"] and trajectory.elements == ("Fe", "O")
        np.testing.assert_array_equal(trajectory.species, [0, 0, 1, 0, 1])
        np.testing.assert_array_equal(trajectory.masses, [55.8, 55.9, 16.0, 55.7, 16.1])
        np.testing.assert_array_equal(trajectory.moments, [2.2, 2.1, 0.0, 2.0, 0.0])
        np.testing.assert_array_equal(trajectory.ids, np.arange(5))
        np.testing.assert_array_equal(trajectory.pbc, [True] * 3)
        np.testing.assert_array_equal(trajectory.thermo["step"], np.arange(0, 101, 5))
        assert trajectory.thermo.units == dict(run.COLUMNS)
        assert trajectory.deck == 'title = "a µ"\n' and trajectory.settings == {"run": {"steps": 100}}
        assert trajectory.conventions["g_factor"] == 2.0 and "exchange" in trajectory.conventions
        state, _, history, meta = trajectory.checkpoint
        assert trajectory.checkpoint.state.clock.step == meta["step"] == 100
        assert history["builds"] == 7 and state.natoms == 5
        assert "11 frames of 5 atoms, steps 0 to 100" in repr(trajectory)
    writer.close()


def test_frames(tmp_path):
    path = tmp_path / "fe.h5"
    run.write_run(path, quantities=QUANTITIES)
    trajectory = spinmd.Trajectory(path)
    for index, frame in enumerate(trajectory):
        assert (frame.index, frame.step, frame.natoms) == (index, 10 * index, 5)
        assert frame.time == pytest.approx(0.01 * index)
        assert frame.thermo == {"step": frame.step, "time": pytest.approx(frame.time), "energy": -(frame.step**2.0)}
        for name in QUANTITIES:
            np.testing.assert_allclose(getattr(frame, name), run.field_of(name, frame.step), atol=1e-12)
    assert index == 10 and trajectory[-1].step == 100 and trajectory[np.int64(3)].step == 30
    assert frame.positions is frame.positions  # read once
    trajectory.close()
    trajectory.close()
    with pytest.raises(InputError, match="is closed"):
        trajectory.spins[0]


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True)])
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_wrapped_positions(tmp_path, pbc, precision):
    path = tmp_path / "fe.h5"
    run.write_run(path, state=run.make_state(pbc=pbc), precision=precision)
    with spinmd.Trajectory(path) as trajectory:
        wrapped, positions = trajectory.wrapped[...], trajectory.positions[...]
        np.testing.assert_array_equal(trajectory[4].wrapped, wrapped[4])
        np.testing.assert_array_equal(trajectory.wrapped[2:9:3, [4, 0], 1], wrapped[2:9:3, [4, 0], 1])
    assert wrapped.dtype == precision
    inverse = np.linalg.inv(run.TRICLINIC)
    inside, shift = wrapped @ inverse, (positions - wrapped) @ inverse
    assert (inside[..., np.array(pbc)] > -1e-6).all() and (inside[..., np.array(pbc)] < 1 + 1e-6).all()
    np.testing.assert_allclose(shift, np.round(shift), atol=1e-6)
    assert (np.abs(shift[..., 0]) > 0.5).any()  # the atoms do leave the cell
    assert (np.abs(shift[..., 1]) > 0.5).any() == pbc[1]


# ------------------------------------------------------------------------------------------------ indexing


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments.os, "fsync", lambda descriptor: None)
        path = tmp_path_factory.mktemp("stored") / "fe.h5"
        run.write_run(path)
    with spinmd.Trajectory(path) as trajectory:
        yield trajectory, trajectory.spins[...]


def keys(length):
    number = st.integers(-length, length - 1)
    bound = st.none() | st.integers(-length - 3, length + 3)
    part = st.builds(slice, bound, bound, st.none() | st.integers(-4, 4).filter(bool))
    return number, part, st.lists(number, max_size=6), st.lists(st.booleans(), min_size=length, max_size=length)


@st.composite
def subscripts(draw):
    """One of the axes at most has a list or a mask; beside it only slices, where numpy keeps the order of the axes."""
    lengths = (11, 5, 3)
    axes = draw(st.integers(1, 3))
    fancy = draw(st.integers(-1, axes - 1))
    chosen = []
    for axis in range(axes):
        number, part, many, mask = keys(lengths[axis])
        plain = part if fancy >= 0 else number | part
        chosen.append(draw((many | mask).map(np.array) if axis == fancy else plain))
    if draw(st.booleans()) and axes == 1:
        chosen.insert(0, Ellipsis) if draw(st.booleans()) and fancy < 0 else chosen.append(Ellipsis)
    return tuple(chosen)


@settings(max_examples=150, deadline=None)
@given(key=subscripts())
def test_indexing_is_that_of_numpy(stored, key):
    trajectory, whole = stored
    if key[0] is Ellipsis and isinstance(key[1], (int, np.integer)) and not -3 <= key[1] < 3:
        key = (Ellipsis, 0)
    key = tuple(one.astype(int) if isinstance(one, np.ndarray) and not one.size else one for one in key)
    for limit in (10**9, 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stored_arrays, "PIECE_BYTES", limit)
            np.testing.assert_array_equal(trajectory.spins[key], whole[key])


def test_wrong_indices_are_index_errors(stored):
    trajectory, _ = stored
    for key in (11, -12, "a", 1.5, None, (0, 5), (0, 0, 3), (0, 0, 0, 0), [True] * 10, ([0], [0]), [[0]], [0.5]):
        with pytest.raises(IndexError):
            trajectory.spins[key]
    for key in (11, "spins"):
        with pytest.raises(IndexError):
            trajectory[key]
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(trajectory.spins, copy=False)
    assert np.asarray(trajectory.spins, dtype=np.float32).dtype == np.float32


def test_parts_of_frames_and_atoms(stored):
    trajectory, whole = stored
    part = trajectory[2:10:3]
    assert len(part) == 3 and list(part.steps) == [20, 50, 80] and part.natoms == 5
    np.testing.assert_array_equal(part.spins[...], whole[2:10:3])
    assert part[-1].step == 80 and [frame.index for frame in part] == [2, 5, 8]
    np.testing.assert_array_equal(part[::-1].spins[...], whole[8:1:-3])
    np.testing.assert_array_equal(trajectory[[7, 1]].spins[1], whole[1])
    np.testing.assert_allclose(trajectory[trajectory.times > 0.075].times, [0.08, 0.09, 0.1])

    oxygen = trajectory.select(elements="O")
    assert list(oxygen.symbols) == ["O", "O"] and list(oxygen.ids) == [2, 4] and list(oxygen.masses) == [16.0, 16.1]
    np.testing.assert_array_equal(oxygen.spins[3:, 1], whole[3:, 4])
    np.testing.assert_array_equal(oxygen[3].spins, whole[3, [2, 4]])
    both = trajectory.select(indices=slice(None, None, -1)).select(elements=["O", "Fe"], indices=[0, 3])
    assert list(both.ids) == [4, 1]
    np.testing.assert_array_equal(both[:4].spins[::2], whole[:4:2, [4, 1]])
    assert list(trajectory.select(indices=3).ids) == [3] and trajectory.select(indices=[]).spins[0].shape == (0, 3)
    assert list(trajectory.select(indices=trajectory.moments > 2.05).ids) == [0, 1]
    with pytest.raises(InputError, match="holds no Co, only Fe, O"):
        trajectory.select(elements="Co")
    with pytest.raises(IndexError, match="no atom 5"):
        trajectory.select(indices=[5])


def test_a_long_file_in_pieces_of_bounded_memory(stored, monkeypatch):
    trajectory, whole = stored
    spins, steps = [], []
    for part, one, two in trajectory.chunks("spins", "positions", megabytes=3 * 2 * 120e-6):
        assert len(part) <= 3 and one.nbytes + two.nbytes <= 3 * 2 * 120 and two.shape == (len(part), 5, 3)
        spins.append(one)
        steps += list(part.steps)
    np.testing.assert_array_equal(np.concatenate(spins), whole)
    assert steps == list(trajectory.steps) and len(spins) == 4
    atoms = list(trajectory.select(elements="Fe").chunks("spins", along="atoms", megabytes=2 * 11 * 24e-6))
    assert [list(part.ids) for part, _ in atoms] == [[0, 1], [3]]
    np.testing.assert_array_equal(atoms[1][1], whole[:, [3]])
    assert len(list(trajectory.chunks("spins", megabytes=1e-9))) == 11  # never less than a frame
    for wrong in ({"megabytes": 0}, {"along": "time"}, {"megabytes": float("nan")}):
        with pytest.raises(InputError):
            trajectory.chunks("spins", **wrong)
    with pytest.raises(InputError, match="no quantity 'spin'"):
        trajectory.chunks("spin")


def test_only_what_is_asked_for_is_read(stored, monkeypatch):
    trajectory, _ = stored
    sizes = []
    read = stored_arrays.RunFile.read

    def counted(self, name, *selection):
        values = read(self, name, *selection)
        sizes.append(values.size)
        return values

    monkeypatch.setattr(stored_arrays.RunFile, "read", counted)
    part = trajectory[3:6].select(elements="Fe")
    assert part.spins.shape == (3, 3, 3) and sizes == []
    part.spins[1]
    assert sizes == [4 * 3]  # one frame, atoms 0 to 3
    sizes.clear()
    trajectory.spins[:, 4]
    assert sizes == [11 * 3]
    monkeypatch.setattr(stored_arrays, "PIECE_BYTES", 200)
    sizes.clear()
    part.spins[...]
    assert max(sizes) <= 200 / 8 and sum(sizes) == 3 * 4 * 3


# ------------------------------------------------------------------------------------------------ while a run goes on


def test_following_a_run_to_its_end(tmp_path, monkeypatch):
    """Segments are merged and removed under the reader's feet; no row may turn into a fill value."""
    monkeypatch.setattr("spinmd.h5md.COMPACT_COUNT", 2)
    path, state = tmp_path / "fe.h5", run.make_state()
    writer = run.write_run(path, [0], state=state, close=False)
    trajectory = spinmd.Trajectory(path)
    first = trajectory.spins
    assert len(trajectory) == 1 and trajectory.running
    for step in range(10, 101, 10):
        frame = run.frame_of(state, step)
        writer.append_frame(frame)
        writer.append_thermo(frame, {"step": step, "time": frame.time, "energy": 0.0})
        writer.checkpoint(frame)
        if step % 20 == 0:
            np.testing.assert_allclose(trajectory.spins[...], expected("spins", trajectory.steps), atol=1e-12)
            assert trajectory.refresh() == 2 and trajectory.refresh() == 0
            np.testing.assert_allclose(trajectory.spins[...], expected("spins", range(0, step + 1, 10)), atol=1e-12)
            assert trajectory.thermo["step"][-1] == step
    segments_then = trajectory._source._segments
    writer.close()
    assert segments_then and not any(segment.exists() for segment in segments_then)
    np.testing.assert_allclose(trajectory.spins[-1], run.field_of("spins", 100), atol=1e-12)
    np.testing.assert_allclose(first[...], expected("spins", [0]), atol=1e-12)
    assert trajectory.refresh() == 0 and len(trajectory) == 11 and not trajectory.running
    with pytest.raises(InputError, match="refresh the whole"):
        trajectory[1:].refresh()
    trajectory.close()


def test_another_run_in_its_place_is_noticed(tmp_path):
    path = tmp_path / "fe.h5"
    run.write_run(path)
    trajectory = spinmd.Trajectory(path)
    run.write_run(path, range(0, 41, 5), force=True)
    assert trajectory.spins[-1].shape == (5, 3)  # the old file is open, and whole
    with pytest.raises(InputError, match="replaced by another run"):
        trajectory.refresh()


def test_a_killed_run_is_read_where_its_folder_is(tmp_path):
    path, copy = tmp_path / "fe.h5", tmp_path / "elsewhere"
    writer = run.write_run(path, range(0, 48), close=False)
    copy.mkdir()
    shutil.copy(path, copy / "fe.h5")
    with pytest.raises(InputError, match="hidden folder"):
        spinmd.Trajectory(copy / "fe.h5")
    shutil.copytree(parts_folder(path), copy / parts_folder(path).name)
    writer.close()
    with spinmd.Trajectory(copy / "fe.h5") as trajectory:
        np.testing.assert_allclose(trajectory.spins[...], expected("spins", range(0, 41, 10)), atol=1e-12)
        assert not trajectory.running


@pytest.mark.parametrize("close", [True, False], ids=["finished", "going on"])
def test_others_in_the_same_process_have_the_file_open(tmp_path, close):
    """HDF5 refuses to open a file twice with different settings of locks: plain readers, the reader here, the writer."""
    path, state = tmp_path / "fe.h5", run.make_state()
    writer = run.write_run(path, range(0, 41, 5), state=state, close=close)
    with spinmd.Trajectory(path) as trajectory, h5py.File(path, "r") as plain:
        assert plain[f"{run.FRAMES}/spin/value"].shape == trajectory.spins.shape
        np.testing.assert_array_equal(plain[f"{run.FRAMES}/spin/value"][2], trajectory.spins[2])
        assert trajectory.checkpoint.meta["step"] == 40
        writer.close()
    run.assert_content(path, 40)
    with h5py.File(path, "r", locking=False), spinmd.Trajectory(path) as trajectory:
        assert trajectory.spins[0].shape == (5, 3)


# ------------------------------------------------------------------------------------------------ what is wrong


def test_what_is_not_stored_is_named_with_what_is(tmp_path):
    path = tmp_path / "fe.h5"
    run.write_run(path, quantities=["spins"])
    with spinmd.Trajectory(path) as trajectory:
        for ask in (lambda: trajectory.forces, lambda: trajectory[0].forces, lambda: trajectory.chunks("forces")):
            with pytest.raises(InputError, match=r'holds spins, and no forces; .*quantities = \[\.\.\., "forces"\]'):
                ask()
        with pytest.raises(InputError, match="no positions"):
            trajectory[0].array("wrapped")
        with pytest.raises(InputError, match="no positions"):
            trajectory[0].atoms()


def newer(file):
    file["spinmd"].attrs["layout_version"] = 2


def without_frames(file):
    del file["particles"]


def without_masses(file):
    del file["particles/trajectory/mass"]


def fewer_masses(file):
    del file["particles/trajectory/mass"]
    file["particles/trajectory/mass"] = [55.8]


def flat_spins(file):
    del file["particles/trajectory/spin/value"]
    file["particles/trajectory/spin/value"] = np.zeros((11, 15))


def steps_go_back(file):
    file["particles/trajectory/box/edges/step"][3] = 7


def no_elements(file):
    values = file["particles/trajectory/species"][:].astype("i4")
    del file["particles/trajectory/species"]
    file["particles/trajectory/species"] = values


def strange_element(file):
    species = file["particles/trajectory/species"]
    species[:] = np.array([0, 0, -1, 0, 1]).astype(species.dtype)


def open_on_one_side(file):
    file["particles/trajectory/box"].attrs["boundary"] = ["periodic"]


@pytest.mark.parametrize(
    "damage, words",
    [
        (newer, "layout version 2, of a newer spinmd; update spinmd"),
        (without_frames, "damaged or cut short|holds no trajectory"),
        (without_masses, "damaged or cut short"),
        (fewer_masses, "do not fit together"),
        (flat_spins, "spins have shape"),
        (steps_go_back, "do not increase"),
        (no_elements, "elements or boundaries"),
        (strange_element, "none of the elements"),
        (open_on_one_side, "elements or boundaries"),
    ],
)
def test_a_file_that_cannot_be_right_is_refused(stored, tmp_path, damage, words):
    path = Path(shutil.copy(stored[0].path, tmp_path / "fe.h5"))
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(InputError, match=words) as caught:
        spinmd.Trajectory(path)
    assert caught.value.place == str(path) and "\n" not in str(caught.value)


def test_foreign_files_and_truncations(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("notes.h5").write_text("not HDF5")
    h5py.File("foreign.h5", "w").close()
    for name, words in (
        ("no.h5", "no such file"),
        ("notes.h5", "not an HDF5 file"),
        ("foreign.h5", "not a file that spinmd"),
        (".", "is a folder"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            spinmd.Trajectory(name)
        assert caught.value.place == name
    run.write_run(tmp_path / "fe.h5")
    whole = Path("fe.h5").read_bytes()
    for part in np.linspace(0, len(whole) - 1, 30).astype(int):
        Path("fe.h5").write_bytes(whole[:part])
        with pytest.raises(InputError):
            spinmd.Trajectory("fe.h5")


def test_a_segment_cut_short_is_no_row_of_fill_values(tmp_path):
    path = tmp_path / "fe.h5"
    writer = run.write_run(path, close=False)
    segment = sorted(parts_folder(path).glob("segment-*.h5"))[2]
    os.truncate(segment, segment.stat().st_size // 2)
    with pytest.raises(InputError, match=f"{segment.name}, which is damaged"):
        spinmd.Trajectory(path)
    writer.publish()  # the writer knows nothing of it


def test_a_damaged_chunk_is_one_sentence(tmp_path):
    path = tmp_path / "fe.h5"
    run.write_run(path)
    with h5py.File(path, "r") as file:
        info = file[f"{run.FRAMES}/spin/value"].id.get_chunk_info(0)
    with open(path, "r+b") as file:
        file.seek(info.byte_offset + 20)
        file.write(b"\xff" * 20)
    with pytest.raises(InputError, match="damaged"):
        spinmd.Trajectory(path)
    # as a file that is too large for a checksum of the whole
    path.write_bytes(path.read_bytes().rpartition(MARK)[0])
    with spinmd.Trajectory(path) as trajectory:
        assert trajectory.positions[0].shape == (5, 3)
        with pytest.raises(InputError, match="damaged or cut short"):
            trajectory.spins[0]


@pytest.mark.parametrize("shape", [(), (3,), (21, 2)])
def test_a_thermo_column_that_does_not_fit_is_damage(tmp_path, shape):
    """Edited by another program: a sentence, whoever reads it."""
    path = tmp_path / "fe.h5"
    run.write_run(path)
    with h5py.File(path, "r+") as file:
        name = next(name for name in file["spinmd/thermo"] if name != "step")
        del file[f"spinmd/thermo/{name}"]
        file[f"spinmd/thermo/{name}"] = np.zeros(shape)
        file.attrs.pop(MARK, None)
    with pytest.raises(InputError, match="thermo table is damaged|damaged"), spinmd.Trajectory(path) as trajectory:
        print(trajectory[-1].energy)


def test_cells_that_are_none_are_damage(tmp_path):
    path = tmp_path / "fe.h5"
    run.write_run(path)
    with h5py.File(path, "r+") as file:
        file["particles/trajectory/box/edges/value"][...] = 0.0
        file.attrs.pop(MARK, None)
    with pytest.raises(InputError, match="damaged"), spinmd.Trajectory(path) as trajectory:
        print(trajectory.wrapped[0])
