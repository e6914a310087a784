"""What --over says: lists, ranges, units, brackets; and every way to write it wrong."""

import numpy as np
import pytest

from spinmd.errors import InputError
from spinmd.sweeping.values import parse_over, parse_values, same


@pytest.mark.parametrize(
    "text, values",
    [
        ("100,200, 300", [100, 200, 300]),
        ("0.5 fs,1 fs", ["0.5 fs", "1 fs"]),
        ('"100 K","a,b"', ["100 K", "a,b"]),
        ("[0, 0, 1],[1,0,0]", [[0, 0, 1], [1, 0, 0]]),
        ("true,false", [True, False]),
        ("{ Fe = 2.2 },{ Fe = 2.5, Ni = 0.6 }", [{"Fe": 2.2}, {"Fe": 2.5, "Ni": 0.6}]),
        ("package.module:Class,eam", ["package.module:Class", "eam"]),
        ("100:1000:300", [100, 400, 700, 1000]),
        ("100:999:300", [100, 400, 700]),
        ("300:100:-100", [300, 200, 100]),
        ("-1:1:1", [-1, 0, 1]),
        ("0:0.3:0.1", [0.0, 0.1, 0.2, 0.3]),  # decimal: 3 × 0.1 is 0.3
        ("1e-3:3e-3:1e-3", [0.001, 0.002, 0.003]),
        ("100:200:50 K", ["100 K", "150 K", "200 K"]),
        ("5,10:30:10,1000", [5, 10, 20, 30, 1000]),
        ("7:7:1", [7]),
    ],
)
def test_values(text, values):
    read = parse_values(text, "a.b")
    assert read == values
    assert [type(value) for value in read] == [type(value) for value in values]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "has no values"),
        ("1,,2", "has an empty value"),
        ("1,", "has an empty value"),
        ("1:10", "a range is first:last:step"),
        ("1:10:0", "never reaches its end"),
        ("1:10:-1", "never reaches its end"),
        ("0:1:1e-9", "more than 100000 values"),
        ("[1, 2", "not closed"),
        ("'a", "not closed"),
    ],
)
def test_wrong_values(text, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_values(text, "a.b")
    assert caught.value.place == "--over a.b"


def test_keys_of_command_line_and_of_python():
    assert parse_over(["a.b=1,2", " c = x=y "]) == {"a.b": [1, 2], "c": ["x=y"]}
    assert parse_over("a=1:3:1") == {"a": [1, 2, 3]}
    given = {"a": np.array([1.5, 2.5]), "b": "0:1:0.5", "c": (True,), "d": range(2), "e": [np.int64(3), (1, 2)]}
    read = parse_over(given)
    assert read == {"a": [1.5, 2.5], "b": [0.0, 0.5, 1.0], "c": [True], "d": [0, 1], "e": [3, [1, 2]]}
    assert type(read["e"][0]) is int


@pytest.mark.parametrize(
    "over, message",
    [
        (["a"], "write KEY=VALUES"),
        (["=1"], "write KEY=VALUES"),
        (["a=1", "a=2"], "a is given twice"),
        (["a=1,2,1.0"], "a has the value 1.0 twice"),
        (["a=1:3:1,2"], "a has the value 2 twice"),
        (["a=2 fs,0.002"], "a has the value 0.002 twice"),
        (["a=0.3fs,300 as"], "a has the value 300 as twice"),
        ({"a": 3}, "expected a list"),
        ({"a": []}, "has no values"),
    ],
)
def test_wrong_keys(over, message):
    with pytest.raises(InputError, match=message):
        parse_over(over)


def test_equal_values_are_equal_whatever_their_type():
    assert same(1) == same(1.0) and same([1, "a"]) == same([1.0, "a"])
    assert len({same(value) for value in (1, True, "1", [1], 1.5, 10**20, 10**20 + 1)}) == 7
