"""What ``--over KEY=VALUES`` says: a comma list of TOML values, in which ``100:1000:100`` stands for a range."""

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import numpy as np

from spinmd.errors import InputError
from spinmd.units import UNITS, convert

MOST_POINTS = 100_000
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"^({_NUMBER})\s*:\s*({_NUMBER})(?:\s*:\s*({_NUMBER}))?\s*([^\d\s:+.\-].*)?$")
_QUANTITY = re.compile(rf"^\s*{_NUMBER}\s*([^\d\s:+.\-].*?)\s*$")
_OPENING, _CLOSING = "[{(", "]})"


def parse_over(over: Mapping[str, Any] | Iterable[str] | str) -> dict[str, list]:
    """Key -> values, from ``["integrator.timestep=0.5 fs,1 fs", ...]`` or ``{"integrator.timestep": [0.0005, 0.001]}``.

    In a mapping a text is read as on the command line and anything else is a sequence of values. Raises InputError, at
    ``--over``, for a key given twice, a key without values, a value given twice and a range that does not end.
    """
    if isinstance(over, str):
        over = [over]
    pairs = list(over.items()) if isinstance(over, Mapping) else [_assignment(text) for text in over]
    result: dict[str, list] = {}
    for key, given in pairs:
        if key in result:
            raise InputError(f"{key} is given twice; write all its values in one --over", "--over")
        values = parse_values(given, key) if isinstance(given, str) else _plain_values(given, key)
        seen = set()
        for value in values:
            if same(value) in seen:
                raise InputError(f"{key} has the value {shown(value)} twice", "--over")
            seen.add(same(value))
        result[key] = values
    return result


def parse_values(text: str, key: str) -> list:
    """``100,200`` | ``100:1000:100`` | ``"100 K","200 K"`` | ``[0,0,1],[1,0,0]``, also mixed, as a list of values.

    Each entry is read as TOML, else it is a text; commas inside quotes and brackets belong to the entry. A range is
    start:stop:step, the stop included where a step meets it, with a unit behind if wanted (``100:300:50 K``).
    """
    values: list = []
    for entry in _split(text, key):
        found = _RANGE.match(entry)
        values += _range(found, entry, key) if found else [toml_value(entry)]
        if len(values) > MOST_POINTS:
            raise InputError(f"{entry} gives more than {MOST_POINTS} values", f"--over {key}")
    return values


def toml_value(text: str) -> Any:
    """The TOML value that ``text`` spells, else the text itself."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def same(value: Any) -> str:
    """Equal for equal values: 100 and 100.0 are, "2 fs" and 0.002 are, 1 and true are not."""
    if isinstance(value, str):
        value = _in_internal_units(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return repr(float(value)) if float(value) == value else repr(value)
    if isinstance(value, list):
        return "[" + ",".join(same(entry) for entry in value) + "]"
    return json.dumps(value, sort_keys=True, default=str)


def _in_internal_units(text: str) -> float | str:
    """The number that a quantity such as "2 fs" is in internal units, to 12 digits; any other text as it is."""
    found = _QUANTITY.match(text)
    for dimension, units in UNITS.items():
        if found and found[1].replace("μ", "µ") in units:
            try:
                return float(f"{convert(text, dimension):.12g}")
            except InputError:
                return text
    return text


def shown(value: Any) -> str:
    """A value as a user would write it, short, for messages and file names."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ",".join(shown(entry) for entry in value)
    if isinstance(value, dict):
        return ",".join(f"{name}={shown(entry)}" for name, entry in value.items())
    return str(value).lower() if isinstance(value, bool) else str(value)


def _assignment(text: str) -> tuple[str, str]:
    key, equals, values = text.partition("=")
    if not equals or not key.strip():
        raise InputError(
            f"cannot read {text!r}; write KEY=VALUES, for example integrator.timestep=0.5 fs,1 fs,2 fs", "--over"
        )
    return key.strip(), values


def _plain_values(given: Any, key: str) -> list:
    """A list, tuple, range or array of numbers, texts or lists, as TOML would give them."""
    given = np.asarray(given).tolist() if isinstance(given, np.ndarray) else given
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise InputError(f"expected a list of values, got {given!r}", f"--over {key}")
    plain = [_plain(value) for value in given]
    if not plain:
        raise InputError("has no values", f"--over {key}")
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return value


def _split(text: str, key: str) -> list[str]:
    entries, start, depth, quote = [], 0, 0, ""
    for position, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        elif character == "," and depth == 0:
            entries.append(text[start:position].strip())
            start = position + 1
    entries.append(text[start:].strip())
    if quote or depth:
        raise InputError(f"a quote or bracket is not closed in {text!r}", f"--over {key}")
    if not all(entries):
        what = "has no values" if len(entries) == 1 else f"has an empty value in {text!r}"
        raise InputError(f"{what}; write for example 100,200,300 or 100:300:100", f"--over {key}")
    return entries


def _range(found: re.Match, entry: str, key: str) -> list:
    """In decimal arithmetic, so that 0:1:0.1 gives 0.3 and not 0.30000000000000004."""
    if found[3] is None:
        raise InputError(f"a range is first:last:step, {entry} has no step", f"--over {key}")
    first, last, step = (Decimal(found[k]) for k in (1, 2, 3))
    if step == 0 or (last - first) / step < 0:
        raise InputError(f"the range {entry} never reaches its end", f"--over {key}")
    count = int((last - first) / step) + 1
    if count > MOST_POINTS:
        raise InputError(f"{entry} gives more than {MOST_POINTS} values", f"--over {key}")
    texts = [str(first + k * step) for k in range(count)]
    return [f"{text} {found[4].strip()}" for text in texts] if found[4] else [toml_value(text) for text in texts]
