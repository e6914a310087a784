"""Which frames and rows of a run an analysis looks at; from a run of two stages."""

import numpy as np
import pytest

import spinmd
from spinmd.analysis.reading import Window, pieces, timestep
from spinmd.errors import InputError


@pytest.fixture(scope="module")
def two_stages(tmp_path_factory):
    """20 steps of 1 fs, then 50; frames every 5, rows every 2, in one file."""
    path = tmp_path_factory.mktemp("run") / "two.h5"
    deck = {
        "structure": {"prototype": "sc", "element": "Fe", "lattice_constant": 3.0, "supercell": [3, 3, 3],
                      "spins": {"moments": {"Fe": 2.0}, "texture": "cone", "angle": 20}},
        "potential": [{"kind": "exchange", "parameters": {"form": "shells", "J": [0.01]}}],
        "integrator": {"ensemble": "nve", "timestep": "1 fs", "lattice": "frozen"},
        "run": {"steps": 20, "seed": 1},
        "output": {"file": str(path), "thermo": 2, "trajectory": 5, "checkpoint": 0},
        "stage": [{"name": "measure", "run": {"steps": 50}}],
    }  # fmt: skip
    with spinmd.build(spinmd.load_deck(deck), threads=1) as simulation:
        simulation.run()
    with spinmd.Trajectory(path) as trajectory:
        yield trajectory


def test_the_last_stage_is_looked_at(two_stages):
    assert two_stages.last_stage == (20, 70)
    assert Window().frames(two_stages).steps.tolist() == list(range(25, 71, 5))
    assert Window().rows(two_stages)["step"].tolist() == list(range(22, 71, 2))
    assert Window(discard=0.2).frames(two_stages).steps.tolist() == list(range(30, 71, 5))
    assert Window(discard=0.2).rows(two_stages)["step"][0] == 30
    assert Window(discard=0.2).rows(two_stages).units["spin_energy"] == "eV"


def test_times_choose_any_part(two_stages):
    assert Window(start=0.0).frames(two_stages).steps.tolist() == list(range(0, 71, 5))
    assert Window(start=0.01, stop=0.03).frames(two_stages).steps.tolist() == [10, 15, 20, 25, 30]
    assert Window(start=0.0, every=4).frames(two_stages).steps.tolist() == [0, 20, 40, 60]
    assert Window(start=0.01, stop=0.03).rows(two_stages)["step"].tolist() == list(range(10, 31, 2))
    assert Window(start=0.01, stop=0.03).settings() == {"start": 0.01, "stop": 0.03, "every": 1, "discard": 0.0}


@pytest.mark.parametrize(
    "window, place",
    [
        ({"discard": 1.0}, "--discard"),
        ({"discard": -0.1}, "--discard"),
        ({"every": 0}, "--every"),
        ({"start": 2.0, "stop": 1.0}, "--from"),
    ],
)
def test_windows_that_cannot_be(window, place):
    with pytest.raises(InputError) as caught:
        Window(**window)
    assert caught.value.place == place


def test_too_few_frames_are_said(two_stages):
    with pytest.raises(
        InputError, match=r"no frames where this analysis needs 1: the file has 15 frames, 0 to 0\.07 ps"
    ):
        Window(start=1.0).frames(two_stages)
    with pytest.raises(InputError, match=r"2 frames where this analysis needs 3"):
        Window(start=0.06, stop=0.066).frames(two_stages, fewest=3)
    with pytest.raises(InputError, match=r"1 row of the thermo table where this analysis needs 2"):
        Window(start=0.06, stop=0.061).rows(two_stages, fewest=2)


def test_pieces_cover_all_frames_once(two_stages):
    whole = two_stages.spins[...]
    for megabytes in (1.0e-3, 2.0e-3, 100.0):
        parts = list(pieces(two_stages, "spins", megabytes=megabytes))
        assert np.array_equal(np.concatenate([spins for _, spins in parts]), whole)
        assert np.array_equal(np.concatenate([part.times for part, _ in parts]), two_stages.times)
    assert len(list(pieces(two_stages, "spins", megabytes=1.0e-3))) > 1


def test_equal_intervals(two_stages):
    assert timestep(two_stages) == pytest.approx(0.005)
    with pytest.raises(InputError, match=r"0\.005 to 0\.01 ps apart"):
        timestep(two_stages[[0, 1, 2, 4]])
    with pytest.raises(InputError, match="at least two"):
        timestep(two_stages[:1])


def test_sites_are_ideal_and_in_the_original_order(two_stages):
    grid = 3.0 * np.array([(i, j, k) for i in range(3) for j in range(3) for k in range(3)], dtype=float)
    assert two_stages.sites == pytest.approx(grid) and two_stages.site_cell == pytest.approx(9.0 * np.eye(3))
    assert two_stages.select(indices=[5, 2]).sites == pytest.approx(grid[[5, 2]])
