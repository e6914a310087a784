"""From pydantic's validation errors to sentences with the place in the deck.

``InputErrors`` carries all that is wrong with a deck at once, one InputError each.
"""

import types
import typing
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core.core_schema import ErrorType

from spinmd.errors import InputError
from spinmd.parameters import written_place
from spinmd.registry import nearest

Place = tuple[str | int, ...]


class InputErrors(InputError):
    """Several errors in one deck; ``errors`` holds them, ``str()`` gives one line each."""

    def __init__(self, errors: list[InputError]):
        self.errors = errors
        super().__init__("\n".join(str(error) for error in errors))
        if len(errors) == 1:
            self.message, self.place = errors[0].message, errors[0].place


def raise_all(errors: list[InputError]) -> None:
    """Raise what was collected: nothing for none, the error itself for one."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise InputErrors(errors)


def validate(
    model: Any, data: Any, at: Place, *, context: dict, place: Callable[[Place], str]
) -> tuple[Any, list[tuple[Place, InputError]]]:
    """``data`` read as ``model``, and what is wrong with it: places and errors (then the first result is None).

    ``at`` is where ``data`` stands in the deck, ``place`` turns a place into the words of a message.
    """
    if isinstance(data, BaseModel) and isinstance(model, type) and isinstance(data, model):
        return data, []
    if isinstance(model, type) and issubclass(model, BaseModel) and not isinstance(data, dict):
        return None, [(at, InputError(f"expected a table, got {_show(data)}", place(at)))]
    try:
        return TypeAdapter(model).validate_python(data, context=context), []
    except InputError as error:  # raised by a validator that looked into a file or compared several values
        inside, where = _inside(error.place, at)
        named = place(inside) if where is None else f"{place(inside)}, {where}" if where else place(inside)
        return None, [(inside, InputError(error.message, named))]
    except ValidationError as error:
        sentences = _sentences(model, data, error)
        return None, [(at + path, InputError(message, place(at + path))) for path, message in sentences]


def _inside(place: str, at: Place) -> tuple[Place, str | None]:
    """Place of an InputError raised inside the table ``at``: its place in the deck, and its file and line if any."""
    text = ".".join(str(part) for part in at)
    if place == text or place.startswith(text + "."):
        rest = place[len(text) :].strip(".")
        return at + tuple(rest.split(".") if rest else ()), None
    if place and " " not in place and "/" not in place and place.replace(".", "").replace("_", "").isalnum():
        return at + tuple(place.split(".")), None
    return at, place


def _sentences(model: Any, data: Any, error: ValidationError) -> list[tuple[Place, str]]:
    grouped: dict[Place, list[dict]] = {}
    for item in error.errors(include_url=False):
        grouped.setdefault(written_place(item["loc"], data, item["type"] == "missing"), []).append(item)
    result = []
    for path, items in grouped.items():
        deeper = any(len(other) > len(path) and other[: len(path)] == path for other in grouped)
        of_type = [item for item in items if item["type"].endswith("_type") or item["type"] not in OF_PYDANTIC]
        if deeper and of_type == items:  # another branch of a union came further: its complaint is the useful one
            continue
        result.append((path, _sentence(model, path, items)))
    return result


OF_PYDANTIC = frozenset(
    typing.get_args(ErrorType)
)  # all others are raised by spinmd's own fields, with a full sentence
EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text in quotes",
    "list": "a list",
    "tuple": "a list",
    "dict": "a table",
    "model": "a table",
    "mapping": "a table",
    "path": "a file name",
}


def _sentence(model: Any, path: Place, items: list[dict]) -> str:
    item = items[0]
    kind, value, context = item["type"], item.get("input"), item.get("ctx") or {}
    if kind == "extra_forbidden":
        near = nearest(str(path[-1]), known_names(model, path[:-1]))
        if near:
            return f"unknown name; did you mean {near}?"
        known = known_names(model, path[:-1])
        return f"unknown name; known here are {', '.join(known)}" if known else "unknown name"
    if kind == "missing":
        return "is missing: the list is too short" if isinstance(path[-1], int) else "is required, and missing"
    for other in items:
        if other["type"] not in OF_PYDANTIC:
            return other["msg"]
    expected = list(dict.fromkeys(filter(None, (_expected(other) for other in items))))
    if expected:
        near = ""
        if isinstance(value, str):
            choices = [c for other in items for c in _choices((other.get("ctx") or {}).get("expected", ""))]
            near = nearest(value, choices)
        return f"expected {' or '.join(expected)}, got {_show(value)}" + (f"; did you mean {near}?" if near else "")
    bounds = {"greater_than": ("gt", "greater than"), "greater_than_equal": ("ge", "at least")}
    bounds |= {"less_than": ("lt", "less than"), "less_than_equal": ("le", "at most")}
    if kind in bounds:
        key, words = bounds[kind]
        return f"must be {words} {context[key]:g}, got {_show(value)}"
    if kind in ("too_short", "too_long"):
        bound = context.get("min_length") if kind == "too_short" else context.get("max_length")
        words = "at least" if kind == "too_short" else "at most"
        return f"needs {words} {bound} {'entry' if bound == 1 else 'entries'}, got {context.get('actual_length')}"
    message = item["msg"]
    for prefix in ("Value error, ", "Assertion failed, "):
        message = message.removeprefix(prefix)
    return message


def _expected(item: dict) -> str:
    kind, context = item["type"], item.get("ctx") or {}
    if kind in ("literal_error", "enum", "union_tag_invalid"):
        return "one of " + (context.get("expected") or context.get("expected_tags", "")).replace(" or ", ", ")
    if kind in ("finite_number",):
        return "a finite number"
    stem, _, what = kind.partition("_")
    if what in ("type", "parsing", "from_float", "attributes_type", "parsing_size"):
        return EXPECTED.get(stem, "")
    return ""


def _choices(expected: str) -> list[str]:
    return [word.strip().strip("'") for word in expected.replace(" or ", ", ").split(",") if word.strip()]


def _show(value: Any) -> str:
    text = repr(value)
    if isinstance(value, bool):
        text = str(value).lower()
    if isinstance(value, dict):
        text = "a table"
    return text if len(text) <= 60 else text[:57] + "..."


def known_names(model: Any, path: Place) -> list[str]:
    """The names that may stand in the table at ``path`` inside ``model``."""
    models = _models(model)
    for part in path:
        annotations = [
            m.model_fields[part].annotation for m in models if isinstance(part, str) and part in m.model_fields
        ]
        # an entry of a list or of a table with free names: the models are already those of the entries
        models = [inner for annotation in annotations for inner in _models(annotation)] if annotations else models
    names: dict[str, None] = {}
    for one in models:
        names |= dict.fromkeys(field.alias or name for name, field in one.model_fields.items())
    return list(names)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if (
        isinstance(annotation, type)
        and not isinstance(annotation, types.GenericAlias)
        and issubclass(annotation, BaseModel)
    ):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in _models(argument)]
