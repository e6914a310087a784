"""``spinmd plot`` and ``spinmd view``: figures of runs, sweeps and results, made without a screen."""

import shutil

import numpy as np
import pytest

import spinmd
from spinmd import analysis
from spinmd.analysis.overview import plot_run, thinned
from spinmd.analysis.spin_picture import _camera, _draw_arrows, _visible, picture_of_spins, spin_colours
from spinmd.analysis.sweep_figure import plot_sweep
from spinmd.cli import main
from spinmd.errors import InputError

DECK = {
    "title": "a small magnet",
    "structure": {"prototype": "sc", "element": "Fe", "lattice_constant": 3.0, "supercell": [4, 4, 4],
                  "spins": {"moments": {"Fe": 2.0}, "texture": "cone", "angle": 40}},
    "potential": [{"kind": "exchange", "parameters": {"form": "shells", "J": [0.01]}}],
    "integrator": {"ensemble": "langevin", "timestep": "2 fs", "lattice": "frozen", "temperature": 50.0, "spin_damping": 0.2},
    "run": {"steps": 40, "seed": 1},
    "output": {"thermo": 2, "trajectory": 20, "checkpoint": 0},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """a.h5 and b.h5: two runs; a deck; a sweep of 2 × 2 points."""
    folder = tmp_path_factory.mktemp("glance")
    for name in ("a", "b"):
        deck = {**DECK, "output": {**DECK["output"], "file": str(folder / f"{name}.h5")}}
        with spinmd.build(spinmd.load_deck(deck), threads=1) as simulation:
            simulation.run()
    over = {"integrator.temperature": [50.0, 100.0], "integrator.spin_damping": [0.1, 0.5]}
    lines = ["[structure]", 'prototype = "sc"', 'element = "Fe"', "lattice_constant = 3.0", "supercell = [2, 2, 2]",
             "[structure.spins]", 'moments = { Fe = 2.0 }', 'texture = "random"', "[[potential]]", 'kind = "exchange"',
             'parameters = { form = "shells", J = [0.01] }', "[integrator]", 'ensemble = "langevin"', 'timestep = "2 fs"',
             'lattice = "frozen"', "temperature = 50.0", "spin_damping = 0.2", "[run]", "steps = 10", "[output]",
             'file = "s.h5"', "thermo = 2", "trajectory = 0", "checkpoint = 0"]  # fmt: skip
    (folder / "s.toml").write_text("\n".join(lines) + "\n")
    spinmd.sweep(folder / "s.toml", over, folder=folder / "S", jobs=1, progress=False)
    return folder


def is_picture(path) -> bool:
    return path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 5000


def test_plot_of_a_run_of_several_and_of_a_sweep(folder, tmp_path, capsys):
    for k, files in enumerate((["a.h5"], ["a.h5", "b.h5"], ["S"], ["S/sweep.h5"])):
        target = tmp_path / f"{k}.png"
        assert main(["plot", *(str(folder / name) for name in files), "-o", str(target)]) == 0
        assert is_picture(target)
        assert str(target) in capsys.readouterr().out
    target = tmp_path / "columns.svg"
    assert main(["plot", str(folder / "S"), "--columns", "spin_energy", "-o", str(target)]) == 0
    assert target.read_text().startswith("<?xml")
    assert main(["plot", str(folder / "S"), "--columns", "energies", "-o", str(target), "--force"]) == 2
    assert "there is no column 'energies'" in capsys.readouterr().err


def test_plot_names_its_figure_after_the_run_and_replaces_nothing(folder, capsys):
    target = folder / "b.png"
    assert main(["plot", str(folder / "b.h5"), "--quiet"]) == 0 and is_picture(target)
    assert main(["plot", str(folder / "b.h5")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["plot", str(folder / "b.h5"), "--force", "--quiet"]) == 0


def test_plot_of_a_result(folder, tmp_path):
    with spinmd.Trajectory(folder / "a.h5") as run:
        analysis.moment_distributions(run).write(tmp_path / "d.h5")
    assert main(["plot", str(tmp_path / "d.h5"), "--quiet"]) == 0 and is_picture(tmp_path / "d.png")


def test_figures_show_what_the_table_holds(folder, tmp_path, monkeypatch):
    """Axes, labels with units, and curves of a run: energies per atom in meV, temperatures, moments."""
    seen = []
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda self, path: seen.append(self))
    with spinmd.Trajectory(folder / "a.h5") as run:
        plot_run(run, tmp_path / "x.png")
        thermo = run.thermo
    energies, temperatures, moments, drift = seen[0].axes
    curves = {line.get_label(): line.get_ydata() for line in energies.lines}
    assert curves["spin"] == pytest.approx(1e3 * (thermo["spin_energy"] - thermo["spin_energy"][0]) / 64)
    assert "kinetic" not in curves  # frozen
    assert temperatures.lines[0].get_ydata() == pytest.approx(thermo["spin_temperature"])
    assert moments.lines[-1].get_ydata() == pytest.approx(thermo["magnetisation"])
    assert "meV/atom/ps" in drift.get_legend().get_texts()[0].get_text()
    assert all(axes.get_legend() is not None for axes in seen[0].axes)
    assert [axes.get_ylabel().partition("(")[2] for axes in seen[0].axes] == [
        "meV/atom)",
        "K)",
        "µB/atom)",
        "meV/atom)",
    ]
    assert all(axes.get_xlabel() == "time (ps)" for axes in seen[0].axes)
    sweep = spinmd.read_sweep(folder / "S")
    plot_sweep(sweep, tmp_path / "x.png", ["magnetisation"])
    (axes,) = seen[1].axes
    assert axes.get_xlabel() == "temperature (K)" and len(axes.containers) == 2
    line = axes.containers[1].lines[0]
    assert line.get_xdata() == pytest.approx([50.0, 100.0]) and line.get_ydata() == pytest.approx(
        sweep["magnetisation"][:, 1]
    )


def test_panels_without_content_are_left_out(tmp_path, monkeypatch):
    """Monte Carlo has no conserved quantity; energies that are constant but for rounding do not fill their panel."""
    from matplotlib.figure import Figure

    seen = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path: seen.append(self))
    deck = {**DECK, "integrator": {"ensemble": "monte-carlo", "lattice": "frozen", "temperature": 50.0}}
    deck["output"] = {**DECK["output"], "file": str(tmp_path / "mc.h5")}
    with spinmd.build(spinmd.load_deck(deck), threads=1) as simulation:
        simulation.run()
    with spinmd.Trajectory(tmp_path / "mc.h5") as run:
        plot_run(run, tmp_path / "x.png")
    shown = [axes for axes in seen[0].axes if axes.get_visible()]
    assert len(shown) == 3 and all(axes.get_xlabel() == "step" for axes in shown)
    for command in (["sqw"], ["dos", "--of", "spins"], ["autocorrelation", "--of", "spins"], ["energy-flow"]):
        assert main(["analyze", command[0], str(tmp_path / "mc.h5"), *command[1:]]) == 2, command


def test_a_run_that_is_not_finished_says_what_hides_its_rows(tmp_path, capsys):
    deck = {**DECK, "output": {**DECK["output"], "file": str(tmp_path / "part.h5")}}
    simulation = spinmd.build(spinmd.load_deck(deck), threads=1)
    seen = []

    class Look:
        every, needs = 30, spinmd.Need.NONE

        def report(self, frame):
            if frame.step == 30:
                seen.append(main(["plot", str(tmp_path / "part.h5"), "-o", str(tmp_path / "x.png")]))

        def close(self):
            pass

    simulation.run(reporters=[Look()])
    simulation.close()
    assert seen == [2] and "appear at checkpoints only" in capsys.readouterr().err


def test_frames_with_spins_alone_are_drawn_on_the_ideal_sites(tmp_path):
    deck = {**DECK, "output": {**DECK["output"], "file": str(tmp_path / "s.h5"), "quantities": ["spins"]}}
    with spinmd.build(spinmd.load_deck(deck), threads=1) as simulation:
        simulation.run()
    with spinmd.Trajectory(tmp_path / "s.h5") as run:
        done = picture_of_spins(run, tmp_path / "s.png")
    assert done["atoms"] + done["hidden"] == 64 and is_picture(tmp_path / "s.png")


def test_energies_of_a_sweep_are_per_atom(folder, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    seen = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path: seen.append(self))
    sweep = spinmd.read_sweep(folder / "S")
    plot_sweep(sweep, tmp_path / "x.png", ["spin_energy"])
    (axes,) = seen[0].axes
    assert axes.get_ylabel() == "spin energy (eV/atom)"
    assert axes.containers[0].lines[0].get_ydata() == pytest.approx(sweep["spin_energy"][:, 0] / 8)


def test_a_point_of_a_sweep_that_is_gone_is_named(folder, tmp_path, capsys):
    shutil.copytree(folder / "S", tmp_path / "S")
    gone = next(path for path in (tmp_path / "S").glob("*.h5") if path.name != "sweep.h5")
    gone.unlink()
    assert main(["analyze", "distributions", str(tmp_path / "S")]) == 2
    assert f"{gone.name} is gone, which the sweep lists as finished" in capsys.readouterr().err


def test_long_tables_are_thinned():
    x = np.arange(10_000.0)
    short, mean = thinned(x, x**2, 100)
    assert len(short) == 100 and short[0] == 49.5 and mean[0] == pytest.approx((np.arange(100.0) ** 2).mean())
    assert thinned(x[:5], x[:5])[0] is not None and len(thinned(x[:5], x[:5])[0]) == 5


def test_view(folder, tmp_path, capsys):
    for k, options in enumerate(
        ([], ["--frame", "0", "--view", "z", "--region", "z=0:1"], ["--view", "1,2,3", "--colour", "z", "--size", "3"],
         ["--axis", "1,0,0", "--element", "Fe"])
    ):  # fmt: skip
        target = tmp_path / f"{k}.png"
        assert main(["view", str(folder / "a.h5"), "-o", str(target), *options]) == 0
        assert is_picture(target)
    assert "16 moments" in capsys.readouterr().out
    assert main(["view", str(folder / "a.h5"), "--frame", "1", "--quiet"]) == 0 and is_picture(folder / "a-frame1.png")


@pytest.mark.parametrize(
    "options, words",
    [
        (["--frame", "9"], "there is no frame 9; the file has 3"),
        (["--view", "w"], "--view: expected x, y, z, iso"),
        (["--colour", "red"], "--colour: expected one of direction"),
        (["--region", "z=90:91"], "no moment lies in this part"),
        (["--region", "z:1"], "--region: expected x=A:B"),
        (["--axis", "0,0,0"], "--axis: expected three numbers, not all zero"),
        (["--element", "Co"], "holds no Co"),
        (["-o", "x.jpg"], "says no format"),
    ],
)
def test_what_view_refuses(folder, options, words, capsys):
    assert main(["view", str(folder / "a.h5"), *options]) == 2
    assert words in capsys.readouterr().err


def test_colours_tell_directions_apart():
    axes = np.concatenate([np.eye(3), -np.eye(3)])
    colours = spin_colours(2.0 * axes)
    assert colours[0] == pytest.approx(spin_colours(axes[:1])[0])  # not the length
    assert colours[0][0] > 0.8 and colours[0][1:].max() < 0.2  # red along x
    assert colours[2].min() > 0.8 and colours[5].max() < 0.2  # white along z, black against it
    assert np.abs(colours[:, None] - colours[None]).max(axis=2)[~np.eye(6, dtype=bool)].min() > 0.3
    assert spin_colours(axes, "x")[0] == pytest.approx(spin_colours(np.array([[3.0, 0, 0]]), "x")[0])


def test_the_camera_is_right_handed_and_looks_where_it_should():
    for view in ("x", "y", "z", "iso", (1, 2, 3)):
        right, up, towards = _camera(view)
        assert np.cross(right, up) == pytest.approx(towards) and up[2] >= -1e-12
    assert _camera("z") == pytest.approx(np.eye(3))


def test_hidden_moments_are_left_out():
    column = np.array([[0.0, 0.0, z] for z in range(10)])
    assert np.flatnonzero(_visible(column, 1.0)).tolist() == [7, 8, 9]


class Canvas:
    """Keeps what is drawn on it."""

    def add_collection(self, collection):
        self.collection = collection


def drawn_arrows(centres, arrows, colours):
    canvas = Canvas()
    _draw_arrows(canvas, np.array(centres, dtype=float), np.array(arrows, dtype=float), np.array(colours, dtype=float))
    return [path.vertices[:4] for path in canvas.collection.get_paths()], canvas.collection.get_facecolor()[:, :3]


@pytest.mark.parametrize("arrow", [(1.0, 0.0, 0.0), (0.0, -2.0, 0.0), (0.6, 0.8, 0.0)])
def test_an_arrow_points_along_its_moment(arrow):
    """It reaches half its length to both sides of the site, and is thickest where the head begins."""
    arrow = np.array(arrow)
    points = np.concatenate(drawn_arrows([[0, 0, 0]], [arrow], [[1, 0, 0]])[0])
    length = np.linalg.norm(arrow)
    along, across = points @ arrow[:2] / length, points @ np.array([-arrow[1], arrow[0]]) / length
    assert along.max() == pytest.approx(length / 2) and along.min() == pytest.approx(-length / 2)
    assert along[np.abs(across) > 0.9 * np.abs(across).max()] == pytest.approx((0.5 - 0.42) * length)


def test_nearer_arrows_cover_those_behind():
    facets, colours = drawn_arrows([[0, 0, 5.0], [0.1, 0, -5.0]], [[1, 0, 0], [1, 0, 0]], [[1, 0, 0], [0, 0, 1]])
    red = colours[:, 0] > 0
    assert not red[: red.argmax()].any() and red[red.argmax() :].all() and 0 < red.sum() < len(red)


def test_an_arrow_towards_the_viewer_shows_its_head_and_away_its_end():
    towards, _ = drawn_arrows([[0, 0, 0]], [[0, 0, 1]], [[1, 1, 1]])
    away, shades = drawn_arrows([[0, 0, 0]], [[0, 0, -1]], [[1, 1, 1]])
    tips = [np.abs(facet).min() < 1e-12 for facet in towards]
    assert all(tips) and len(towards) == 12
    assert not any(np.abs(facet).max(axis=1).min() < 1e-12 for facet in away) and np.ptp(shades) < 1e-12


def test_refused_pictures_leave_nothing_behind(folder, tmp_path):
    with spinmd.Trajectory(folder / "a.h5") as run, pytest.raises(InputError):
        picture_of_spins(run, tmp_path / "x.png", colour="red")
    assert not (tmp_path / "x.png").exists()
