"""Readers of EAM files: formats, conventions, and every way of being cut short."""

import numpy as np
import pytest

from spinmd.errors import InputError
from spinmd.potentials.eam_files import lammps_spline, read_eam

FILES = ("Fe_mm.eam.fs", "CoAl.eam.alloy", "Ni_u3.eam")


@pytest.fixture(params=FILES)
def file(request, shared):
    return shared / "data" / "potentials" / request.param


def _same(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("embedding", "density", "rphi"))


def test_tables_of_known_files(shared):
    folder = shared / "data" / "potentials"
    iron = read_eam(folder / "Fe_mm.eam.fs")
    assert (iron.elements, iron.nrho, iron.nr, iron.cutoff) == (("Fe",), 10000, 10000, 5.3)
    assert iron.embedding[0, 1] == -0.1732053993
    alloy = read_eam(folder / "CoAl.eam.alloy")
    assert alloy.elements == ("Co", "Al")
    assert alloy.density.shape == (2, 2, 3000)
    np.testing.assert_array_equal(alloy.density[0, 1], alloy.density[1, 1])  # what Al causes is the same everywhere
    np.testing.assert_array_equal(alloy.rphi[0, 1], alloy.rphi[1, 0])
    nickel = read_eam(folder / "Ni_u3.eam")
    assert nickel.elements == ("Ni",)
    assert nickel.masses[0] == 58.71
    assert (nickel.nrho, nickel.nr) == (499, 499)  # one point less than in the file, as LAMMPS keeps
    assert nickel.rphi[0, 0, 0] == pytest.approx(27.2 * 0.529 * 10.0**2, rel=1e-14)  # its Z(0) is 10, the valence


def test_density_of_finnis_sinclair_is_at_the_first_element(tmp_path, write_eam_fs):
    tables = read_eam(write_eam_fs(tmp_path / "two.eam.fs"))
    # block a of the file, function b: 4 (1 + 0.5a + 0.9b + 0.3ab) at r = 0, what an atom of a causes at an atom of b
    np.testing.assert_allclose(tables.density[:, :, 0], [[4.0, 6.0], [7.6, 10.8]], rtol=1e-14)


def test_format_is_found_without_the_extension(tmp_path, write_eam_fs, shared):
    write_eam_fs(tmp_path / "two.eam.fs").rename(tmp_path / "tables")
    assert read_eam(tmp_path / "tables").density[0, 1, 0] == pytest.approx(6.0)
    for name in FILES:
        text = (shared / "data" / "potentials" / name).read_text()
        (tmp_path / "plain").write_text(text)
        assert _same(read_eam(tmp_path / "plain"), read_eam(shared / "data" / "potentials" / name))


def test_several_funcfl_files_share_one_grid(tmp_path, shared):
    first = shared / "data" / "potentials" / "Ni_u3.eam"
    lines = first.read_text().splitlines()
    copper = tmp_path / "Cu.eam"
    copper.write_text("\n".join([lines[0], "29 63.55 3.6 FCC", *lines[2:]]) + "\n")
    both, alone = read_eam([first, copper]), read_eam(first)
    assert both.elements == ("Ni", "Cu")
    np.testing.assert_array_equal(both.rphi[0, 1], alone.rphi[0, 0])
    np.testing.assert_array_equal(both.density[1, 0], alone.density[0, 0])
    with pytest.raises(InputError, match="same element"):
        read_eam([first, first])


def test_cut_at_any_place_is_an_error(file, tmp_path):
    text = file.read_text()
    end = len(text.rstrip())
    random = np.random.default_rng(3)
    cuts = [*random.integers(0, end, 60), *range(end - 24, end), *range(0, 400, 13)]
    for cut in cuts:
        (tmp_path / file.name).write_text(text[:cut])
        try:
            tables = read_eam(tmp_path / file.name)
        except InputError as error:
            assert file.name in error.place
        else:  # nothing but the dot of a last "0." may be missing
            assert text[cut:end] == "."
            assert _same(tables, read_eam(file))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2 Fe Co", "3 Fe Co", "expected 3 element symbols, found 2"),
        ("2 Fe Co", "two Fe Co", "expected the number of elements"),
        ("2 Fe Co", "2 Fe Fe", "listed twice"),
        ("1000 0.03 1500", "1000 0.03", "five numbers nrho drho nr dr cutoff"),
        ("1000 0.03 1500", "1000 -0.03 1500", "positive spacings"),
        ("1000 0.03 1500", "1001 0.03 1500", "holds 4 more"),
        ("1000 0.03 1500", "1000 0.03 1600", "the file was cut short, or is in another format"),
        ("26 55.845 2.87 bcc", "26 -55.845 2.87 bcc", "atomic number and mass of Fe"),
        ("0.000000000000000e+00", "nonsense", "which is not a number"),
        ("0.000000000000000e+00", "nan", "not a finite number"),
        ("0.000000000000000e+00", "1e200", "of any credible size"),
        ("smooth functions", "UNITS: real", "reads metal units"),
    ],
)
def test_malformed_files_say_what_is_wrong(old, new, message, tmp_path, write_eam_fs):
    path = write_eam_fs(tmp_path / "two.eam.fs")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as caught:
        read_eam(path)
    assert "two.eam.fs" in caught.value.place


def test_no_file_and_unknown_format(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        read_eam(tmp_path / "absent.eam.fs")
    with pytest.raises(InputError, match="unknown EAM format"):
        read_eam(tmp_path / "absent.eam.fs", format="meam")


def test_spline_is_exact_for_cubics():
    """Five-point differences are exact for polynomials of fourth degree, away from the ends."""
    x = 0.1 * np.arange(30)
    rows = lammps_spline(2.0 - x + 0.5 * x**2 - 0.3 * x**3, 0.1)
    t = np.linspace(0.0, 1.0, 7)
    for m in range(3, 26):
        at = x[m] + 0.1 * t
        value = rows[m, 0] + t * (rows[m, 1] + t * (rows[m, 2] + t * rows[m, 3]))
        np.testing.assert_allclose(value, 2.0 - at + 0.5 * at**2 - 0.3 * at**3, atol=1e-13)


def test_spline_at_the_ends_is_that_of_lammps():
    values = np.array([1.0, 4.0, 2.0, 7.0, 5.0, 9.0])
    rows = lammps_spline(values, 1.0)
    # PairEAM::interpolate: one-sided, central, five-point, ..., central, one-sided
    five = [(values[k - 2] - values[k + 2] + 8.0 * (values[k + 1] - values[k - 1])) / 12.0 for k in (2, 3)]
    np.testing.assert_allclose(rows[:, 1], [3.0, 0.5, *five, 1.0, 4.0], rtol=1e-15)
    np.testing.assert_allclose(rows[:, 0], values)
    np.testing.assert_allclose(rows[:-1].sum(axis=1), values[1:], rtol=1e-15)


@pytest.mark.parametrize("line", [8, 60, -30])
def test_a_line_too_many_is_refused(tmp_path, write_eam_fs, line):
    """All tables behind it would be shifted; only what is left at the end tells."""
    path = write_eam_fs(tmp_path / "two.eam.fs")
    lines = path.read_text().splitlines(keepends=True)
    widths = [len(text.split()) for text in lines]
    same = [k for k in range(6, len(lines) - 1) if widths[k] == widths[k + 1] == max(widths[6:])]
    at = same[line % len(same)]
    path.write_text("".join([*lines[:at], lines[at], *lines[at:]]))
    with pytest.raises(InputError):
        read_eam(path)
    path.write_text("".join(lines) + lines[-1])
    with pytest.raises(InputError, match="some line above is too many"):
        read_eam(path)
    path.write_text("".join(lines) + "\nfitted in 2003\n")
    read_eam(path)
