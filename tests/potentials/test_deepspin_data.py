"""Data in DeePMD's spin layout: round trips, every check against planted errors, splits; and the measures of accuracy."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from spinmd.errors import InputError
from spinmd.potentials.deepspin import accuracy as measures
from spinmd.potentials.deepspin.accuracy import Predictions, accuracy, table
from spinmd.potentials.deepspin.data import (
    System,
    elements_of,
    read_system,
    read_systems,
    select,
    split,
    system_folders,
    write_system,
)
from spinmd.potentials.deepspin.data_checks import overlap

FRAMES, NI = 7, 4
ARRAYS = ("box", "coord", "spin", "energy", "force", "field", "virial")


def make_system(seed=0, frames=FRAMES, virial=True) -> System:
    """Rocksalt NiO, 8 atoms, a little disordered, with spins on Ni and labels that mean nothing."""
    rng = np.random.default_rng(seed)
    sites = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) * 2.1
    cell = np.array([[4.2, 0.0, 0.0], [0.3, 4.2, 0.0], [0.0, -0.2, 4.2]])
    spin = rng.normal(size=(frames, 8, 3))
    spin *= rng.uniform(1.0, 1.4, (frames, 8, 1)) / np.linalg.norm(spin, axis=2, keepdims=True)
    field = rng.normal(0.0, 0.02, (frames, 8, 3))
    spin[:, NI:], field[:, NI:] = 0.0, 0.0
    return System(
        ("Ni", "O"),
        np.repeat([0, 1], 4),
        np.tile(cell, (frames, 1, 1)),
        sites + rng.normal(0.0, 0.05, (frames, 8, 3)),
        spin,
        -40.0 + rng.normal(0.0, 0.1, frames),
        rng.normal(0.0, 0.5, (frames, 8, 3)),
        field,
        virial=rng.normal(0.0, 1.0, (frames, 3, 3)) if virial else None,
    )


@pytest.fixture
def folder(tmp_path):
    """A data set on disk in two sets."""
    write_system(tmp_path / "nio", make_system(), frames_per_set=4)
    return tmp_path / "nio"


@pytest.fixture(autouse=True)
def no_unexpected_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def change(path, index, value):
    """Put a value into an array on disk."""
    array = np.load(path)
    array[index] = value
    np.save(path, array)


# --- reading and writing ---


def test_round_trip(folder):
    wrote, read = make_system(), read_system(folder)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(read, name), getattr(wrote, name))
    assert (read.elements, read.symbols) == (("Ni", "O"), ["Ni"] * NI + ["O"] * 4)
    assert read.frames == FRAMES and read.natoms == 8 and read.name == str(folder)
    assert read.magnetic.tolist() == [True] * NI + [False] * 4 and read.magnetic_elements == ("Ni",)
    assert sorted(path.name for path in folder.glob("set.*")) == ["set.000", "set.001"]


def test_single_precision_and_columns_are_read(folder):
    for path in folder.glob("set.*/*.npy"):
        np.save(path, np.load(path).astype(np.float32))
    for path in folder.glob("set.*/energy.npy"):
        np.save(path, np.load(path)[:, None])
    read = read_system(folder)
    assert {getattr(read, name).dtype for name in ARRAYS} == {np.dtype(np.float64)}
    np.testing.assert_allclose(read.coord, make_system().coord, rtol=1e-6)
    assert read.energy.shape == (FRAMES,)


def test_without_virial_and_without_periodicity(folder):
    for path in folder.glob("set.*/virial.npy"):
        path.unlink()
    assert read_system(folder).virial is None
    for path in folder.glob("set.*/box.npy"):
        path.unlink()
    (folder / "nopbc").touch()
    read = read_system(folder)
    assert not read.periodic
    assert (np.linalg.det(read.box) > 20.0**3).all()
    write_system(folder.parent / "again", read)
    assert not read_system(folder.parent / "again").periodic


def test_left_handed_boxes_are_fine(folder):
    for path in folder.glob("set.*/box.npy"):
        np.save(path, np.load(path).reshape(-1, 3, 3)[:, [1, 0, 2]].reshape(-1, 9))
    assert (np.linalg.det(read_system(folder).box) < 0.0).all()


def test_public_data(shared):
    abacus = read_system(shared / "data" / "fe16_abacus")
    assert abacus.virial.shape == (2, 3, 3) and abacus.energy.shape == (2,) and abacus.natoms == 16
    systems = read_systems(shared / "data" / "fcc_fe")
    assert [system.frames for system in systems] == [88, 100, 50, 49, 73]
    assert [system.natoms for system in systems] == [33, 32, 32, 32, 32]
    oxide = read_systems(str(shared / "data" / "nio" / "data_*"), magnetic=["Ni"])
    assert [system.frames for system in oxide] == [60, 60, 31]
    assert elements_of(systems + oxide) == ("Fe", "Ni", "O")


def test_folders_parents_and_patterns(tmp_path):
    for name in ("b/two", "a", "b/one"):
        write_system(tmp_path / name, make_system())
    below = system_folders(tmp_path)
    assert below == [tmp_path / "a", tmp_path / "b" / "one", tmp_path / "b" / "two"]
    assert system_folders(tmp_path / "b" / "t*") == [tmp_path / "b" / "two"]
    assert [system.name for system in read_systems([tmp_path / "b", tmp_path])] == [
        str(tmp_path / name) for name in ("b/one", "b/two", "a")
    ]
    with pytest.raises(InputError, match="no folder fits"):
        read_systems(tmp_path / "c*")
    with pytest.raises(InputError, match="holds no system"):
        read_systems(tmp_path / "a" / "set.000")


def test_writing_does_not_replace_unasked(folder):
    other = make_system(seed=3, frames=2)
    with pytest.raises(InputError, match="exists already"):
        write_system(folder, other)
    with pytest.raises(InputError, match="exists already"):
        write_system(folder.parent, other, force=True)  # not a system
    assert read_system(folder).frames == FRAMES
    write_system(folder, other, force=True)
    np.testing.assert_array_equal(read_system(folder).energy, other.energy)
    assert [path.name for path in folder.parent.iterdir()] == ["nio"]


# --- what is wrong is said ---

BROKEN = {
    "no folder": (lambda f: f.rename(f.parent / "x"), "no such folder"),
    "no type_map": (lambda f: (f / "type_map.raw").unlink(), r"type_map.raw: this file is missing"),
    "element twice": (lambda f: (f / "type_map.raw").write_text("Ni\nNi\n"), "names Ni twice"),
    "no types": (lambda f: (f / "type.raw").unlink(), r"type.raw: this file is missing"),
    "empty types": (lambda f: (f / "type.raw").write_text(""), r"is empty"),
    "unknown type": (lambda f: (f / "type.raw").write_text("0 0 0 0 1 1 1 2"), "atom 7 has type 2"),
    "type not a number": (lambda f: (f / "type.raw").write_text("0 0 0 0 1 1 1 O"), "atom 7 has type O"),
    "atom missing": (lambda f: (f / "type.raw").write_text("0 0 0 0 1 1 1"), "24 numbers .* 7 atoms .* need 21"),
    "no sets": (lambda f: [p.rename(f / ("old" + p.name)) for p in f.glob("set.*")], "no folder set"),
    "mixed types": (lambda f: (f / "set.000" / "real_atom_types.npy").touch(), "mixed types"),
    "no fields": (lambda f: (f / "set.001" / "force_mag.npy").unlink(), r"force_mag.npy: .* −∂E/∂S"),
    "no spins": (lambda f: (f / "set.001" / "spin.npy").unlink(), "moments of the atoms"),
    "no box": (lambda f: (f / "set.000" / "box.npy").unlink(), "nopbc"),
    "virial in one set": (lambda f: (f / "set.001" / "virial.npy").unlink(), "only set.000 of 2 sets"),
    "frames differ": (lambda f: np.save(f / "set.000" / "force.npy", np.zeros((3, 24))), "3 frames where .* has 4"),
    "box of six": (lambda f: np.save(f / "set.000" / "box.npy", np.zeros((4, 6))), "6 numbers in a frame, expected 9"),
    "energy per atom": (lambda f: np.save(f / "set.000" / "energy.npy", np.zeros((4, 8))), "one energy per frame"),
    "not numpy": (lambda f: (f / "set.000" / "coord.npy").write_text("1 2 3"), "cannot be read as a numpy array"),
    "pickle": (lambda f: np.save(f / "set.000" / "coord.npy", np.array([{}]), allow_pickle=True), "cannot be read"),
    "complex": (lambda f: np.save(f / "set.000" / "spin.npy", np.zeros((4, 24), complex)), "real numbers"),
    "nan force": (
        lambda f: change(f / "set.001" / "force.npy", (1, 16), np.nan),
        r"nio, force.npy, frame 5, atom 5 \(O\): holds nan",
    ),
    "nan box": (lambda f: change(f / "set.000" / "box.npy", (2, 0), np.nan), r"box.npy, frame 2: holds nan"),
    "inf energy": (lambda f: change(f / "set.000" / "energy.npy", 3, np.inf), r"energy.npy, frame 3: holds inf"),
    "nan virial": (lambda f: change(f / "set.000" / "virial.npy", (3, 0), np.nan), r"virial.npy, frame 3: holds nan"),
    "box in nm": (lambda f: change(f / "set.000" / "box.npy", 1, 0.42 * np.eye(3).ravel()), "frame 1: .*0.42 Å.* nm"),
    "flat box": (
        lambda f: change(f / "set.000" / "box.npy", (1, slice(6, 9)), [4.2, 0, 0]),
        r"frame 1: .* do not span a volume",
    ),
    "overlap": (
        lambda f: change(f / "set.001" / "coord.npy", (0, slice(3, 6)), [4.2, 0.05, 0.0]),
        r"coord.npy, frame 4, atom \d",
    ),
    "long spin": (lambda f: change(f / "set.000" / "spin.npy", (2, 3), 25.0), r"frame 2, atom 1 \(Ni\): .* µB long"),
    "large force": (lambda f: change(f / "set.000" / "force.npy", (2, 3), 5e3), r"frame 2, atom 1 \(Ni\): .*5000 eV/Å"),
    "large field": (lambda f: change(f / "set.000" / "force_mag.npy", (2, 3), 5e2), r"atom 1 \(Ni\): .*500 eV/µB"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_data_is_refused(folder, case):
    spoil, message = BROKEN[case]
    spoil(folder)
    with pytest.raises(InputError, match=message):
        read_system(folder)


def test_spins_on_elements_said_to_be_without(folder):
    assert read_system(folder, magnetic=["Ni"]).magnetic_elements == ("Ni",)
    with pytest.raises(InputError, match=r"spin.npy, frame 0, atom 0 \(Ni\): .*not among the magnetic elements \(O\)"):
        read_system(folder, magnetic=["O"])


def test_fields_without_spins_are_mentioned(folder):
    change(folder / "set.001" / "force_mag.npy", (2, 12), 0.03)
    with pytest.warns(UserWarning, match=r"frame 6, atom 4 \(O\) has a magnetic force of 0.03 eV/µB"):
        read = read_system(folder)
    assert not read.field[:, ~read.magnetic].any()
    change(folder / "set.001" / "force_mag.npy", (2, 12), 0.0)
    change(folder / "set.000" / "spin.npy", (1, slice(6, 9)), 0.0)
    with pytest.warns(UserWarning, match=r"frame 1, atom 2 \(Ni\) .* a spin of zero \(1 such atoms\)"):
        read_system(folder)


def test_units_that_look_wrong_are_mentioned(folder):
    change(folder / "set.000" / "energy.npy", 1, -9e5)
    with pytest.warns(UserWarning, match=r"frame 1 has -112500 eV per atom"):
        read_system(folder)
    change(folder / "set.000" / "energy.npy", 1, -40.0)
    for path in folder.glob("set.*/spin.npy"):
        spin = np.load(path).reshape(-1, 8, 3)
        lengths = np.linalg.norm(spin, axis=2, keepdims=True)
        np.save(path, (spin / np.where(lengths > 0, lengths, 1.0)).reshape(len(spin), -1))
    with pytest.warns(UserWarning, match="every spin is 1 µB long"):
        read_system(folder)


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("flat", [True, False])
def test_overlaps_are_those_of_all_pairs(periodic, flat):
    """Against every pair and 27 images; ``flat``: all atoms in one lattice plane."""
    rng = np.random.default_rng(5)
    cell = np.array([[5.0, 0.4, 0.0], [-1.0, 6.0, 0.2], [0.3, 0.0, 4.0]])
    fractions = rng.uniform(0.0, 1.0, (20, 30, 3))
    if flat:
        fractions[:, :, 0] = 0.7
    coord, box = fractions @ cell, np.tile(cell, (20, 1, 1))
    images = (
        np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3) @ cell if periodic else [[0.0] * 3]
    )
    difference = coord[:, None, :, None] - coord[:, :, None, None] + np.array(images)
    distance = np.linalg.norm(difference, axis=-1).min(axis=-1)
    distance[:, np.arange(30), np.arange(30)] = np.inf
    for frame in range(20):
        closest = distance[frame].min()
        found = overlap(coord[frame : frame + 1], box[:1] if periodic else None, 0.4)
        if closest < 0.4:
            assert found[3] == pytest.approx(closest, abs=1e-12)
            assert distance[frame][found[1], found[2]] == closest
        else:
            assert found is None
    assert overlap(coord, box if periodic else None, 0.4)[3] == pytest.approx(distance.min(), abs=1e-12)


# --- choosing ---


def test_select():
    system = make_system()
    np.testing.assert_array_equal(select(system, [5, 2]).energy, system.energy[[5, 2]])
    np.testing.assert_array_equal(select(system, slice(1, 3)).virial, system.virial[1:3])
    assert select(make_system(virial=False), [0]).virial is None
    system.spin[0] = 0.0
    assert select(system, [0]).magnetic_elements == ("Ni",)


def test_split():
    systems = [make_system(seed, frames) for seed, frames in enumerate((40, 10, 3))]
    training, validation = split(systems, 0.2, seed=4)
    assert sum(s.frames for s in validation) == 11 and sum(s.frames for s in training) == 42
    energies = np.sort(np.concatenate([s.energy for s in training + validation]))
    np.testing.assert_array_equal(energies, np.sort(np.concatenate([s.energy for s in systems])))
    again = split(systems, 0.2, seed=4)
    np.testing.assert_array_equal(again[1][0].energy, validation[0].energy)
    assert not np.array_equal(split(systems, 0.2, seed=5)[1][0].energy, validation[0].energy)
    assert [s.frames for s in split(systems, 0.0, seed=1)[0]] == [40, 10, 3] and split(systems, 0.0, seed=1)[1] == []
    assert [s.frames for s in split(systems[2:], 0.01, seed=1)[1]] == [1]
    for fraction in (1.0, -0.1, float("nan")):
        with pytest.raises(InputError, match="fraction"):
            split(systems, fraction, seed=1)
    with pytest.raises(InputError, match="too few"):
        split([select(systems[0], [0])], 0.5, seed=1)


def test_elements_in_another_order():
    moved = make_system().with_elements(("Fe", "O", "Ni"))
    assert moved.symbols == make_system().symbols and moved.types.tolist() == [2] * 4 + [1] * 4
    with pytest.raises(InputError, match="holds O, which is not among Fe, Ni"):
        make_system().with_elements(("Fe", "Ni"))


# --- accuracy ---


def predictions_of(system, **changes) -> Predictions:
    values = {name: getattr(system, name).copy() for name in ("energy", "force", "field")}
    values["virial"] = None if system.virial is None else system.virial.copy()
    return Predictions(**(values | changes))


def test_perfect_predictions_have_no_error():
    report = accuracy([make_system()], [predictions_of(make_system())])
    errors = [value for name, value in report.items() if "rmse" in name or "mae" in name]
    assert len(errors) == 16 and max(errors) < 1e-12
    assert report["frames"] == FRAMES and report["force_label_rms_mev_per_ang"] == pytest.approx(
        1e3 * np.sqrt((make_system().force ** 2).mean())
    )


def test_known_errors():
    one, two = make_system(0), make_system(1, frames=3, virial=False)
    rng = np.random.default_rng(2)
    along = rng.normal(0.0, 0.01, (FRAMES, 8, 1)) * one.spin  # along the spins
    across = np.cross(one.spin, rng.normal(0.0, 0.01, (FRAMES, 8, 3)))
    nonsense = np.where(one.magnetic[:, None], 0.0, 7.0)  # on atoms that do not count
    shifted = predictions_of(one, energy=one.energy + 0.08, field=one.field + along + across + nonsense)
    shifted.virial[:, 0, 1] += 0.8
    force = two.force.copy()
    force[:, 0, 0] += 0.24
    report = accuracy([one, two], [shifted, predictions_of(two, energy=two.energy - 0.16, force=force)])
    assert report["energy_rmse_mev_per_atom"] == pytest.approx(np.sqrt((7 * 10**2 + 3 * 20**2) / 10))
    assert report["energy_mae_mev_per_atom"] == pytest.approx(13.0)
    assert report["energy_offset_mev_per_atom"] == pytest.approx(1.0)
    assert report["energy_one_offset_rmse_mev_per_atom"] == pytest.approx(np.sqrt(190 - 1))
    assert report["energy_offset_per_system_rmse_mev_per_atom"] == pytest.approx(0.0, abs=1e-9)
    assert report["force_rmse_mev_per_ang"] == pytest.approx(240 * np.sqrt(3 / 240))
    assert report["force_mae_mev_per_ang"] == pytest.approx(240 * 3 / 240)
    count = 12 * FRAMES + 12 * 3
    np.testing.assert_allclose(report["field_rmse_mev_per_mub"], 1e3 * np.sqrt(((along + across) ** 2).sum() / count))
    np.testing.assert_allclose(report["field_transverse_rmse_mev_per_mub"], 1e3 * np.sqrt((across**2).sum() / count))
    torque = np.cross(one.spin, across)
    np.testing.assert_allclose(report["torque_rmse_mev"], 1e3 * np.sqrt((torque**2).sum() / count))
    assert report["virial_rmse_mev_per_atom"] == pytest.approx(100.0 / 3.0)
    assert [part["frames"] for part in report["systems"]] == [7, 3]
    assert report["systems"][1]["force_rmse_mev_per_ang"] == pytest.approx(240 * np.sqrt(1 / 24))
    assert "virial_rmse_mev_per_atom" not in report["systems"][1]
    by_element = report["elements"]
    assert list(by_element) == list(dict.fromkeys(one.elements[t] for t in one.types))
    first = two.elements[two.types[0]]  # the atom with the wrong force
    alike = 10 * np.count_nonzero(one.types == one.types[0])
    assert by_element[first]["force_rmse_mev_per_ang"] == pytest.approx(240 * np.sqrt(3 / (3 * alike)))
    bare = next(one.elements[t] for t in one.types[~one.magnetic])
    assert by_element[bare]["field_rmse_mev_per_mub"] is None and by_element[bare]["force_rmse_mev_per_ang"] >= 0.0
    text = table(report)
    assert f"\n{bare} " in text and "force, meV/Å" in text
    assert "10 frames of 2 systems" in text and f"{report['force_rmse_mev_per_ang']:.4g}" in text


def test_nothing_magnetic_to_compare():
    system = make_system()
    system = replace(system, spin=0 * system.spin, field=0 * system.field, magnetic=None)
    report = accuracy([system], [predictions_of(system)])
    assert report["field_rmse_mev_per_mub"] is None and report["torque_rmse_mev"] is None
    assert table(report)


def test_keys_of_the_report_name_units():
    assert set(measures.UNITS) <= set(measures.TITLES)
    report = accuracy([make_system()], [predictions_of(make_system())])
    for key in (
        "frames", "energy_rmse_mev_per_atom", "force_rmse_mev_per_ang", "field_rmse_mev_per_mub",
        "field_transverse_rmse_mev_per_mub",
    ):  # fmt: skip
        assert key in report
