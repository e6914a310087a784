"""The points of a sweep, their names and settings; the table's arrays. Nothing runs."""

import json

import h5py
import numpy as np
import pytest

import spinmd
from spinmd.errors import InputError
from spinmd.sweeping.plan import adopt, common, first_difference, key_labels, make_plan, manifest
from spinmd.sweeping.table import axis_arrays, over_seeds, write_table

DECK = {
    "structure": {
        "prototype": "bcc",
        "element": "Fe",
        "lattice_constant": 2.87,
        "spins": {"moments": {"Fe": 2.2}, "texture": "random"},
    },
    "potential": [{"kind": "zeeman", "parameters": {"field": [0, 0, 10]}}],
    "integrator": {"timestep": "1 fs", "lattice": "frozen"},
    "run": {"steps": 30, "seed": 7},
    "stage": [{"run": {"steps": 20, "seed": 100}}, {"run": {"steps": 5}}],
}
OVER = {
    "integrator.timestep": ["1 fs", 0.002],
    "structure.prototype": ["bcc", "fcc", "sc"],
}


def named(plan, found=None, folder=None):
    adopt(plan, found, folder)
    return [point.name for point in plan.points]


def test_order_names_and_seeds():
    plan = make_plan(DECK, OVER, seeds=2)
    names = named(plan)
    assert plan.shape == (2, 3, 2) and len(names) == 12
    assert names[:3] == [
        "timestep=1-fs_prototype=bcc_seed=7", "timestep=1-fs_prototype=bcc_seed=8", "timestep=1-fs_prototype=fcc_seed=7",
    ]  # fmt: skip
    assert names[-1] == "timestep=0.002_prototype=sc_seed=8"
    last = plan.points[-1]
    assert last.index == (1, 2, 1) and (last.total, last.first) == (55, 50)
    assert last.tables["integrator"]["timestep"] == 0.002 and last.tables["run"]["seed"] == 8
    assert [stage["run"].get("seed") for stage in last.tables["stage"]] == [101, None]
    assert plan.points[0].tables["stage"][0]["run"]["seed"] == 100


def test_a_second_command_may_spell_and_order_differently():
    """The points are those of the first command, whatever the order of --over and the units of the values."""
    first = make_plan(DECK, OVER)
    named(first)
    found = json.loads(json.dumps(manifest(first)))
    other = {"structure.prototype": ["sc", "fcc"], "integrator.timestep": [0.001, "3 fs", "2 fs"]}
    plan = make_plan(DECK, other)
    names = named(plan, found)
    assert names == [
        "timestep=1-fs_prototype=sc_seed=7", "timestep=3-fs_prototype=sc_seed=7", "timestep=0.002_prototype=sc_seed=7",
        "timestep=1-fs_prototype=fcc_seed=7", "timestep=3-fs_prototype=fcc_seed=7", "timestep=0.002_prototype=fcc_seed=7",
    ]  # fmt: skip
    assert plan.shape == (3, 3, 1)


def test_names_are_safe_and_unique():
    plan = make_plan(DECK, {"title": ["a b", "a/b", "../x", "ä", "x" * 500, "x" * 500 + "y"]})
    names = named(plan)
    assert len({name.lower() for name in names}) == 6
    assert names[:3] == ["title=a-b_seed=7", "title=a-b_seed=7-2", "title=..-x_seed=7"]
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789=_-.") and len(name) < 130 for name in names)
    assert named(make_plan(DECK, {"run.seed": [1, 2]})) == ["seed=1", "seed=2"]
    assert named(make_plan(DECK, seeds=2)) == ["seed=7", "seed=8"]
    labels = key_labels(["a.b.cutoff", "a.c.cutoff", "x.0.y.2"])
    assert labels == {"a.b.cutoff": "b.cutoff", "a.c.cutoff": "c.cutoff", "x.0.y.2": "y.2"}


def test_every_wrong_point_is_named_once():
    with pytest.raises(InputError) as caught:
        make_plan(DECK, {"integrator.timestep": [0.001, -1, "x"], "run.steps": [10, 0.5, 20]})
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert sum("integrator.timestep (--over)" in line for line in lines) == 2
    with pytest.raises(InputError, match=r"the grid has 1000000 points"):
        make_plan(DECK, {"run.steps": range(1, 1001), "integrator.g_factor": np.linspace(1, 2, 1000)})
    for missing in ("run", "integrator"):
        with pytest.raises(InputError, match=rf"the deck has no \[{missing}\]"):
            make_plan(
                {key: value for key, value in DECK.items() if key != missing and key != "stage"}, {"title": ["a"]}
            )


def test_a_key_of_the_grid_may_be_absent_from_the_deck():
    deck = {**DECK, "integrator": {"lattice": "frozen"}}
    plan = make_plan(deck, {"integrator.timestep": ["1 fs"]})
    assert plan.points[0].tables["integrator"] == {"lattice": "frozen", "timestep": "1 fs"}
    assert "timestep" not in plan.settings["integrator"]


def test_first_difference():
    base = {"a": {"b": [1, {"c": 2}]}, "d": "x"}
    assert first_difference(base, json.loads(json.dumps(base))) == ""
    assert first_difference(base, {"a": {"b": [1.0, {"c": 2}]}, "d": "x"}) == ""
    assert first_difference(base, {"a": {"b": [1, {"c": 3}]}, "d": "y"}) == "a.b.1.c"
    assert first_difference(base, {"a": {"b": [1]}, "d": "x"}) == "a.b"
    assert first_difference(base, {**base, "e": 1}) == "e"
    one, other = {"run": {"threads": 2, "steps": 5}}, {"run": {"steps": 5, "seed": 1}, "output": {"file": "x.h5"}}
    assert first_difference(common(one, ()), common({**other, "output": {}}, ())) in ("", "output")
    assert common(other, ["run.steps"]) == {"run": {"seed": 1}, "output": {}}


def test_values_are_added_behind_and_names_stay(tmp_path):
    first = make_plan(DECK, {"integrator.timestep": ["1 fs", "2 fs"]})
    names = named(first)
    found = json.loads(json.dumps(manifest(first)))
    found["points"][0]["name"] = "given-by-hand"
    second = make_plan(DECK, {"integrator.timestep": ["3 fs", "1 fs"]}, seeds=2)
    assert named(second, found, tmp_path) == [
        "timestep=3-fs_seed=7",
        "timestep=3-fs_seed=8",
        "given-by-hand",
        "timestep=1-fs_seed=8",
    ]
    assert second.values == {"integrator.timestep": ["1 fs", "2 fs", "3 fs"]} and second.shape == (3, 2)
    assert [entry["name"] for entry in second.kept] == [names[1]]
    assert [entry["index"] for entry in manifest(second)["points"]] == [[0, 0], [0, 1], [1, 0], [2, 0], [2, 1]]
    values, unit = axis_arrays(second)["integrator.timestep"]
    assert unit == "ps" and values.tolist() == [0.001, 0.002, 0.003]


def test_values_as_the_deck_reads_them():
    over = {
        "integrator.timestep": ["1 fs", 0.002],
        "structure.spins.texture": ["random", "ferromagnetic"],
        "potential.0.parameters.field": [[0, 0, "5 T"], ["1 kT", 0, 0]],
        "structure.supercell": [[1, 1, 1], [2, 2, 2]],
        "structure.spins.moments.Fe": [2, 2.5],
        "integrator.spin_damping": [0, 0.5],
    }
    axes = {key: (values.tolist(), unit) for key, (values, unit) in axis_arrays(make_plan(DECK, over)).items()}
    assert axes["integrator.timestep"] == ([0.001, 0.002], "ps")
    assert axes["structure.spins.texture"] == (["random", "ferromagnetic"], "text")
    assert axes["potential.0.parameters.field"] == ([[0.0, 0.0, 5.0], [1000.0, 0.0, 0.0]], "T")
    assert axes["structure.supercell"] == ([[1, 1, 1], [2, 2, 2]], "1")
    assert axes["structure.spins.moments.Fe"] == ([2.0, 2.5], "µB")
    assert axes["integrator.spin_damping"] == ([0.0, 0.5], "1")


def test_average_over_seeds():
    nan = np.nan
    means = np.array([[1.0, 3.0], [5.0, nan], [nan, nan], [2.0, 2.0]])
    errors = np.array([[0.1, 0.1], [0.4, nan], [nan, nan], [0.3, 0.4]])
    mean, error = over_seeds(means, errors)
    np.testing.assert_allclose(mean, [2.0, 5.0, nan, 2.0])
    np.testing.assert_allclose(error, [1.0, 0.4, nan, 0.25])


def test_a_changed_file_is_another_sweep(tmp_path):
    """A potential's file between two commands: its points would be averaged with those of the old one."""
    table = tmp_path / "J.dat"
    table.write_text("0.5 0.0\n2.0 0.01\n2.5 0.01\n4.0 0.0\n")
    exchange = {"kind": "exchange", "parameters": {"form": "table", "file": str(table), "cutoff": 4.0}}
    deck = {**DECK, "potential": [exchange]}
    first = make_plan(deck, {"run.steps": [1, 2]})
    named(first)
    found = json.loads(json.dumps(manifest(first)))
    assert list(found["inputs"]) == [str(table)]
    named(make_plan(deck, {"run.steps": [3]}), found, tmp_path)
    table.write_text("0.5 0.0\n2.0 0.02\n2.5 0.01\n4.0 0.0\n")
    with pytest.raises(InputError, match="J.dat has changed since the sweep"):
        named(make_plan(deck, {"run.steps": [3]}), found, tmp_path)


def test_a_foreign_or_damaged_table(tmp_path):
    plan = make_plan(DECK, OVER)
    named(plan)
    record = {"status": "waiting", "message": "", "exit_code": -1, "seed": 7, "steps": 0, "seconds": 0.0, "name": "x"}
    write_table(plan, axis_arrays(plan), tmp_path, {(0, 0, 0): record}, 0.2)
    path = tmp_path / "sweep.h5"
    result = spinmd.read_sweep(tmp_path)
    assert result.points["status"].ravel().tolist() == ["waiting"] + ["absent"] * 5 and not result.finished
    with h5py.File(path, "r+") as file:
        file.attrs["spinmd_sweep"] = 99
    with pytest.raises(InputError, match="written by a newer spinmd"):
        spinmd.read_sweep(path)
    for content in (b"", b"no HDF5", path.read_bytes()[:2000]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is damaged, or not the sweep.h5"):
            spinmd.read_sweep(path)
    with h5py.File(path, "w") as file:
        file["other"] = 1
    with pytest.raises(InputError, match="is damaged, or not the sweep.h5"):
        spinmd.read_sweep(path)
    with pytest.raises(InputError, match="there is no such file"):
        spinmd.read_sweep(tmp_path / "nowhere")
