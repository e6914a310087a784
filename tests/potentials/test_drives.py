"""Fields that change in time: their values, and what is refused."""

import numpy as np
import pytest

from spinmd.deck import load_deck
from spinmd.errors import InputError
from spinmd.potentials.drives import RampField, RotatingField
from spinmd.potentials.zeeman import Zeeman

T = np.array([-3.0, 0.0, 0.25, 1.0, 2.5, 40.0])


def at(**field):
    return Zeeman(field=field).field_at


def test_a_ramp_is_straight_and_constant_outside():
    field = at(form="ramp", start=[0, 0, -2], end=["1 kT", 0, 2], time="2 ps", begin="500 fs")
    expected = np.clip((T - 0.5) / 2.0, 0, 1)
    np.testing.assert_allclose(field(T), np.stack([1000 * expected, 0 * T, -2 + 4 * expected], axis=1), atol=1e-12)


def test_points_are_joined_and_may_be_repeated():
    loop = {"form": "points", "times": [1, 2, "5 ps"], "fields": [[0, 0, 1], [0, 0, -1], [0, 0, 1]]}
    np.testing.assert_allclose(at(**loop)(T)[:, 2], [1, 1, 1, 1, -1 + 0.5 / 3 * 2, 1])
    again = at(**loop, repeat=True)
    np.testing.assert_allclose(again(T + 4.0), again(T), atol=1e-12)
    np.testing.assert_allclose(again(2.0), [0, 0, -1])


def test_sine_pulse_and_rotation_are_their_formulae():
    sine = at(form="sine", amplitude=[1, 2, 3], frequency="2 THz", phase=90, begin=0.25, offset=[0, 0, 5])
    expected = np.sin(2 * np.pi * 2.0 * (T - 0.25) + np.pi / 2)[:, None] * [1, 2, 3] + [0, 0, 5]
    np.testing.assert_allclose(sine(T), expected, atol=1e-12)
    pulse = {"form": "pulse", "amplitude": [0, 1, 0], "centre": 1.0, "width": 0.5, "frequency": 3.0, "phase": "1 rad"}
    x = T - 1.0
    carrier = np.cos(2 * np.pi * 3.0 * x + 1.0)
    np.testing.assert_allclose(at(**pulse)(T)[:, 1], np.exp(-2 * x**2) * carrier, atol=1e-12)
    np.testing.assert_allclose(at(**pulse, envelope="square")(T)[:, 1], (np.abs(x) <= 0.25) * carrier, atol=1e-12)
    x = np.where(x == 0, 1e-12, x)
    sinc = np.sin(4 * np.pi * x) / (4 * np.pi * x) * carrier
    np.testing.assert_allclose(at(**pulse, envelope="sinc")(T)[:, 1], sinc, atol=1e-10)
    turning = at(
        form="rotating", amplitude=[2, 0, 1], frequency="0.25 THz", axis=[0, 0, 7], begin=1.0, offset=[0, 0, 1]
    )
    np.testing.assert_allclose(turning(np.array([1.0, 2.0, 3.0])), [[2, 0, 2], [0, 2, 2], [-2, 0, 2]], atol=1e-12)


def test_a_file_is_read_with_comments_and_commas(tmp_path):
    file = tmp_path / "field.txt"
    file.write_text("# t B\r\n0, 0, 0, 1\r\n\n2\t0 4 -1  # turned\n", encoding="utf-8-sig")
    np.testing.assert_allclose(
        at(form="file", file=str(file))(np.array([-1, 1, 9])), [[0, 0, 1], [0, 2, 0], [0, 4, -1]]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [("0 0 0 1\n1 2 3\n", "line 2.*four numbers"), ("0 0 0 1\n0 1 1 1\n", "must ascend"), ("# nothing\n", "no row"),
     ("0 0 0 nan\n", "line 1"), ("a b c d\n", "line 1")],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_its_line(tmp_path, text, message):
    file = tmp_path / "field.txt"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        at(form="file", file=str(file))(0.0)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ('{ form = "sin", amplitude = [0, 0, 1], frequency = 1 }', "is none that there is; did you mean sine"),
        ("{ amplitude = [0, 0, 1] }", "needs a form; known are ramp, "),
        ('{ form = "sine", amplitude = [0, 0, 1], frequency = "1 kg" }', "not a unit of rate"),
        ('{ form = "sine", amplitude = [0, 0, 1], frequenzy = 1 }', "did you mean 'frequency'"),
        ('{ form = "sine", amplitude = [0, 1], frequency = 1 }', "too short"),
        ('{ form = "ramp", start = [0, 0, 0], end = [0, 0, 1], time = 0 }', "greater than 0"),
        ('{ form = "points", times = [0, 2, 1], fields = [[0,0,1],[0,0,1],[0,0,1]] }', "must ascend"),
        ('{ form = "points", times = [0, 2], fields = [[0,0,1]] }', "2 times and 1 fields"),
        ('{ form = "rotating", amplitude = [1,0,0], frequency = 1, axis = [0,0,0] }', "axis"),
        ('{ form = "file", file = "missing.txt" }', "no file"),
        ('{ form = "file", file = "deck.toml", begin = "0 ps" }', "field.begin .*unknown name"),
        ('"10 T"', "a list"),
    ],
)
def test_a_wrong_drive_in_a_deck_names_its_place(tmp_path, field, message):
    deck = tmp_path / "deck.toml"
    deck.write_text(
        '[structure]\nprototype = "sc"\nelement = "Fe"\nlattice_constant = 3\n[structure.spins]\nmoments = { Fe = 2 }\n'
        f'[[potential]]\nkind = "zeeman"\n[potential.parameters]\nfield = {field}\n',
        encoding="utf-8",
    )
    with pytest.raises(InputError, match=message) as caught:
        load_deck(deck)
    assert "potential.0.parameters.field" in str(caught.value)


def test_drives_work_from_python():
    ramp = RampField(form="ramp", start=(0, 0, 0), end=(0, 0, 1), time=1)
    np.testing.assert_allclose(ramp.at(0.5), [0, 0, 0.5])
    assert Zeeman(field=ramp).driven
    assert not Zeeman(field=[0, 0, 1]).driven
    assert RotatingField(form="rotating", amplitude=(1, 0, 0), frequency=1.0).at(np.zeros((2, 3))).shape == (2, 3, 3)
