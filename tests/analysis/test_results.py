"""Results of analyses: text, files, several runs together."""

import csv

import h5py
import numpy as np
import pytest

from spinmd import analysis
from spinmd.analysis import figures
from spinmd.analysis.heat_capacity import add_slope
from spinmd.analysis.results import Result, with_error
from spinmd.errors import InputError


def example(shift: float = 0.0, source: str = "a.h5") -> Result:
    result = Result("rdf", settings={"cutoff": 5.0, "pair": None}, sources=[source], notes=["short"])
    r = np.linspace(1.0, 2.0, 5)
    result.add("r", r, "Angstrom", "distance", axes=("r",))
    result.add("g", r**2 + shift, "1", "radial distribution", error=0.1, axes=("r",))
    result.add("number", 8.0 + shift, "1", "neighbours", error=0.25)
    result.add("element", "Fe", "text")
    return result


def test_file_holds_everything(tmp_path):
    one = example()
    one.write(tmp_path / "g.h5")
    back = analysis.read_result(tmp_path / "g.h5")
    assert (back.what, back.settings, back.sources, back.notes) == (
        "rdf",
        {"cutoff": 5.0, "pair": None},
        ["a.h5"],
        ["short"],
    )
    assert list(back.quantities) == ["r", "g", "number", "element"]
    for name, quantity in one.quantities.items():
        read = back.quantities[name]
        assert np.array_equal(read.values, quantity.values)
        assert (read.unit, read.meaning, read.axes) == (quantity.unit, quantity.meaning, quantity.axes)
        assert (read.error is None) == (quantity.error is None)
    assert np.array_equal(back.error("g"), np.full(5, 0.1)) and back.error("number") == 0.25 and back["element"] == "Fe"
    with h5py.File(tmp_path / "g.h5") as file:  # a plain reader finds numbers with units
        assert (
            file["quantities/g/value"].attrs["unit"] == "1" and file["quantities/r/value"].attrs["unit"] == "Angstrom"
        )


def test_csv_is_a_table_with_numbers_before_it(tmp_path):
    one = example()
    one.add("parts", np.arange(10.0).reshape(5, 2), "eV", axes=("r", "part"))
    one.add("part", [7.0, 9.0], "1", axes=("part",))
    one.write(tmp_path / "g.csv")
    lines = (tmp_path / "g.csv").read_text().splitlines()
    assert "# number = 8.0 +- 0.25 1" in lines and "# part = 7.0, 9.0 1" in lines
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert list(rows[0]) == ["r (Angstrom)", "g", "g_error", "parts_0 (eV)", "parts_1 (eV)"]
    assert [float(row["g"]) for row in rows] == pytest.approx(one["g"]) and float(rows[2]["parts_1 (eV)"]) == 5.0
    one.add("other", np.zeros(3), "1")
    with pytest.raises(InputError, match=r"write g\.h5"):
        one.write(tmp_path / "g.csv")
    with pytest.raises(InputError, match="no format"):
        one.write(tmp_path / "g.txt")


def test_foreign_and_damaged_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        analysis.read_result(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("no")
    with pytest.raises(InputError, match="damaged"):
        analysis.read_result(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1.0
    with pytest.raises(InputError, match="not the result"):
        analysis.read_result(tmp_path / "other.h5")
    example().write(tmp_path / "g.h5")
    with pytest.raises(InputError, match=r"no figure of the analysis|no attribute|no quantity"):
        analysis.plot(Result("rdg"), tmp_path / "x.png")


def test_side_by_side_and_averaged():
    runs = [example(0.0, "a.h5"), example(2.0, "b.h5"), example(4.0, "c.h5")]
    both = analysis.side_by_side(runs, {"integrator.temperature": (np.array([100.0, 200.0, 300.0]), "K")})
    assert both["g"].shape == (3, 5) and both.quantity("g").axes == ("run", "r") and both["r"].shape == (5,)
    assert np.array_equal(both["number"], [8.0, 10.0, 12.0]) and both.sources == ["a.h5", "b.h5", "c.h5"]
    assert np.array_equal(both["integrator.temperature"], [100.0, 200.0, 300.0]) and both.notes == ["short"]
    mean = analysis.averaged(runs)
    assert mean["number"] == 10.0 and mean.error("number") == pytest.approx(2.0 / np.sqrt(3.0))
    assert mean["g"] == pytest.approx(runs[1]["g"]) and mean.error("g") == pytest.approx(np.full(5, 2.0 / np.sqrt(3.0)))
    other = example(source="d.h5")
    other.add("r", np.linspace(1.0, 3.0, 5), "Angstrom", axes=("r",))
    with pytest.raises(InputError, match=r"d\.h5 has another r than a\.h5"):
        analysis.side_by_side([runs[0], other])
    with pytest.raises(InputError, match="two runs"):
        analysis.averaged(runs[:1])


def grid(kelvins=(100.0, 110.0, 130.0), couplings=(1.0, 2.0), seeds=(5, 6, 7), kind="heat-capacity"):
    """Results of a sweep T × J × seed with E = J T² + seed's shift, and what tells its points apart."""
    rows = [(kelvin, coupling, seed) for kelvin in kelvins for coupling in couplings for seed in seeds]
    results = []
    for kelvin, coupling, seed in rows:
        one = Result(kind, sources=[f"{kelvin}-{coupling}-{seed}.h5"])
        one.add("temperature", kelvin, "K", "of the bath")
        one.add("energy", 1e-6 * (coupling * kelvin**2 + 10.0 * seed), "eV", "", 1e-6)
        one.add("heat_capacity", coupling + 0.1 * seed, "k_B", "", 0.05)
        results.append(one)
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    axes = {"integrator.temperature": (columns[0], "K"), "potential.0.parameters.J": (columns[1][:, None], "eV")}
    return results, {**axes, "seed": (columns[2], "1")}


def test_average_is_over_seeds_at_each_point_of_a_sweep():
    results, axes = grid()
    mean = analysis.averaged(results, axes)
    assert "seed" not in mean and len(mean.sources) == 18
    assert np.array_equal(mean["temperature"], np.repeat([100.0, 110.0, 130.0], 2))
    assert np.array_equal(mean["potential.0.parameters.J"][:, 0], [1.0, 2.0] * 3)
    assert mean["heat_capacity"] == pytest.approx([1.6, 2.6] * 3)
    assert mean.error("heat_capacity") == pytest.approx(np.full(6, 0.1 / np.sqrt(3.0)))
    lost = [k for k in range(18) if k not in (1, 2)]  # two seeds of the first point are not finished
    mean = analysis.averaged([results[k] for k in lost], {n: (v[lost], unit) for n, (v, unit) in axes.items()})
    assert np.isnan(mean.error("energy")[0]) and np.isfinite(mean.error("energy")[1:]).all()
    assert mean.notes == ["of 1 of 6 points there is one run only, and no error"]
    with pytest.raises(InputError, match="one run at each point; sweep with --seeds"):
        analysis.averaged(*grid(seeds=(5,)))


@pytest.mark.parametrize("average", [False, True])
def test_slope_of_each_value_of_a_sweep(average):
    """E = J T²: dE/dT = 2 J T inside, for each J, from runs of the same seed or their mean."""
    results, axes = grid()
    merged = add_slope((analysis.averaged if average else analysis.side_by_side)(results, axes))
    coupling, kelvin = merged["potential.0.parameters.J"][:, 0], merged["temperature"]
    exact = np.where(kelvin == 110.0, 2.0 * kelvin, np.where(kelvin == 100.0, 210.0, 240.0)) * coupling * 1e-6
    assert merged["heat_capacity_slope"] == pytest.approx(exact / 8.617333262e-5, rel=1e-9)
    assert not merged.notes
    lone = add_slope(analysis.side_by_side(*grid(kelvins=(100.0,), seeds=(5,))))
    assert "heat_capacity_slope" not in lone and "no slope dE/dT: " in lone.notes[0]


def test_curves_of_a_sweep(tmp_path):
    """One curve, colour and label for each J; seeds are points about the line of their means."""
    from matplotlib.figure import Figure

    for average in (False, True):
        results, axes = grid()
        merged = (analysis.averaged if average else analysis.side_by_side)(results, axes)
        panel = Figure().subplots()
        figures.points(panel, merged, "heat_capacity", label="C")
        handles, words = panel.get_legend_handles_labels()
        assert words == ["C, J 1 eV", "C, J 2 eV"]
        lines = [line for line in panel.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 3]
        assert [line.get_color() for line in lines] == list(figures.COLOURS[:2]) and len(handles) == 2
        for line, coupling in zip(lines, (1.0, 2.0), strict=True):
            assert np.array_equal(line.get_xdata(), [100.0, 110.0, 130.0])
            assert line.get_ydata() == pytest.approx(np.full(3, coupling + 0.6))
    # without temperatures the sweep's own number is the abscissa, also where it is a list of one
    merged = analysis.side_by_side(*grid(kelvins=(100.0,)))
    x, words = figures.abscissa(merged)
    assert np.array_equal(np.unique(x), [1.0, 2.0]) and words == "J (eV)"
    assert [text for text, _ in figures.run_curves(merged, x)] == [""]
    # lists tell curves apart, too, and label them
    cells = np.array([[6, 6, 6], [12, 12, 12]] * 9)
    results, axes = grid()
    merged = analysis.side_by_side(results, {**axes, "structure.supercell": (cells, "1")})
    assert figures.run_labels(merged, 18)[1] == "temperature 100 K, J 1 eV, seed 6, supercell 12 12 12"
    assert len(figures.run_curves(merged, figures.abscissa(merged)[0])) == 4
    analysis.plot(merged, tmp_path / "c.png")


@pytest.mark.parametrize(
    "value, error, text",
    [
        (1043.2437, 0.71, "1043.24 ± 0.71"),
        (1043.2437, None, "1043.24"),
        (3.42e-5, 9.2e-6, "(3.42 ± 0.92)e-05"),
        (0.5, 0.0123, "0.500 ± 0.012"),
        (12345678.0, 1200.0, "(1.23457 ± 0.00012)e+07"),
        (7.0, 25.0, "7 ± 25"),
        (2.0, 0.0, "2"),
        (4.0, 1.0e-16, "4"),
        (float("nan"), 1.0, "nan"),
        ("Fe", None, "Fe"),
    ],
)
def test_numbers_are_written_with_two_digits_of_their_error(value, error, text):
    assert with_error(value, error) == text


def test_text_has_units_and_notes():
    text = example().text()
    assert "8.00 ± 0.25" in text and "5 values, 1 to 2 Angstrom" in text and text.endswith("note: short")
    with pytest.raises(InputError, match="there are r, g, number, element"):
        example()["h"]


def test_every_analysis_is_found_and_its_name_hides_nothing(root):
    """A function with the name of a module would be replaced by that module once somebody imports it."""
    modules = {path.stem for path in (root / "analysis").glob("*.py")}
    for entry in analysis.ANALYSES.values():
        assert callable(getattr(analysis, entry.function)) and callable(entry.load_draw())
        assert entry.function not in modules
    with pytest.raises(AttributeError, match="no attribute"):
        _ = analysis.nothing
