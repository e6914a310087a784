"""A deck as text: reading TOML, overriding single values, and finding the line on which a value was written.

Nothing here knows what a deck means; ``spinmd.deck`` does.
"""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spinmd.errors import InputError

Place = tuple[str | int, ...]
DEEPEST = 50  # tables and lists inside one another


def dotted(path: Iterable[str | int]) -> str:
    """``("potential", 1, "kind")`` as a user writes it: ``potential.1.kind``."""
    return ".".join(str(part) for part in path)


class TomlSource:
    """TOML text with its name, its folder and the overrides applied to it.

    text       as the user wrote it
    name       for messages: the file name, or "deck"
    folder     relative paths start here
    tables     the parsed tables, overrides applied
    overridden place that an override has set -> the option that gave it, such as --set
    """

    def __init__(self, text: str, name: str, folder: Path, tables: dict | None = None):
        self.text = text
        self.name = name
        self.folder = folder
        self.overridden: dict[Place, str] = {}
        self.tables: dict[str, Any] = parse(text, name) if tables is None else tables
        self._lines: dict[Place, int] | None = None

    @classmethod
    def read(cls, source: str | Path | Mapping, folder: Path | None = None) -> "TomlSource":
        """From a file, from TOML text (anything with a line break or an ``=``) or from nested dictionaries.

        ``folder``: where relative paths of text and dictionaries start; default: the present one.
        Raises InputError for a missing or unreadable file and, with line and column, for a TOML error.
        """
        if isinstance(source, Mapping):
            return cls("", "deck", folder or Path.cwd(), tables=_plain(source))
        if isinstance(source, str) and ("\n" in source or "=" in source and not Path(source).exists()):
            return cls(source, "deck", folder or Path.cwd())
        path = Path(source).expanduser().absolute()
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise InputError("there is no such deck", str(path)) from None
        except IsADirectoryError:
            raise InputError("this is a folder; a deck is a TOML file", str(path)) from None
        except UnicodeDecodeError:
            raise InputError("this is not a text file in UTF-8; a deck is a TOML file", str(path)) from None
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror})", str(path)) from None
        return cls(text, path.name, path.parent)

    def copy(self) -> "TomlSource":
        """Another one, whose tables can be overridden without touching these."""
        other = TomlSource(self.text, self.name, self.folder, _plain(self.tables))
        other.overridden, other._lines = dict(self.overridden), self._lines
        return other

    def override(self, overrides: Iterable[str] | Mapping[str, Any], option: str = "--set") -> None:
        """Apply ``"potential.1.parameters.cutoff=5.74"`` (values as in TOML, else strings; lists count from 0).

        A mapping ``{"run.steps": 100}`` gives the values directly. Raises InputError for what cannot be placed; messages
        name the ``option`` that the values come from.
        """
        if isinstance(overrides, str):
            overrides = [overrides]
        pairs = overrides.items() if isinstance(overrides, Mapping) else (_assignment(text) for text in overrides)
        for key, value in pairs:
            self.overridden[_assign(self.tables, key, value, option)] = option

    def where(self, path: Place) -> str:
        """``"line 12"`` for a place in the deck, ``"--set"`` for an overridden one, empty where neither is known."""
        for place, option in reversed(self.overridden.items()):
            if path[: len(place)] == place:
                return option
        if self._lines is None:
            self._lines = _lines(self.text)
        for length in range(len(path), 0, -1):
            if path[:length] in self._lines:
                return f"line {self._lines[path[:length]]}"
        return next((option for place, option in self.overridden.items() if place[: len(path)] == path), "")

    def place(self, path: Place) -> str:
        """The place as an error names it: ``potential.1.kind (line 12)``."""
        where = self.where(path)
        if not path:
            return self.name
        return f"{dotted(path)} ({where})" if where else dotted(path)


def parse(text: str, name: str) -> dict[str, Any]:
    """The tables of TOML text; InputError with line and column otherwise."""
    try:
        tables = tomllib.loads(text)
        _check_depth(tables)
        return tables
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        reason, _, position = message.rpartition(" (at ")
        place = f"{name}, {position.rstrip(')')}" if reason else name
        raise InputError(f"not valid TOML: {(reason or message)[:1].lower()}{(reason or message)[1:]}", place) from None
    except RecursionError:
        raise InputError("brackets or tables are nested far too deeply for a deck", name) from None


def _check_depth(tables: dict[str, Any]) -> None:
    """RecursionError for tables deeper than any code that walks through a deck could follow."""
    level: list[Any] = [tables]
    for _ in range(DEEPEST):
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
        level = [one for one in level if isinstance(one, (dict, list))]
        if not level:
            return
    raise RecursionError


def _plain(value: Any) -> Any:
    """A deep copy with plain dictionaries and lists, as TOML gives them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value.tolist() if hasattr(value, "tolist") else value


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"cannot read {text!r}; write key=value, for example run.steps=100", "--set")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()
    return key.strip(), parsed["value"] if len(parsed) == 1 else value.strip()


def _assign(tables: dict[str, Any], key: str, value: Any, option: str) -> Place:
    """Put ``value`` at the dotted ``key``, making missing tables on the way; returns the place."""
    here: Any = tables
    place: Place = ()
    parts = key.split(".")
    for position, part in enumerate(parts):
        last = position == len(parts) - 1
        if isinstance(here, list):
            if not part.isdigit() or int(part) >= len(here):
                what = f"{dotted(place)} has {len(here)} entries, counted from 0"
                raise InputError(f"there is no entry {part!r}: {what}", f"{key} ({option})")
            step: str | int = int(part)
        elif isinstance(here, dict):
            step = part
            if not last:
                here.setdefault(part, {})
        else:
            raise InputError(f"{dotted(place)} is a value, not a table, and has nothing inside", f"{key} ({option})")
        place += (step,)
        if last:
            here[step] = value
        else:
            here = here[step]
    return place


def _lines(text: str) -> dict[Place, int]:
    """The line (from 1) on which each table and key of valid TOML text begins."""
    lines = text.splitlines()
    found: dict[Place, int] = {}
    counts: dict[Place, int] = {}
    table: Place = ()
    at = 0
    while at < len(lines):
        stripped = lines[at].strip()
        number = at + 1
        if not stripped or stripped.startswith("#"):
            at += 1
            continue
        if stripped.startswith("["):
            table = _header(stripped, counts)
            for length in range(1, len(table) + 1):
                found.setdefault(table[:length], number)
            at += 1
            continue
        # a statement ends where it parses: brackets and multi-line strings need no scanner of their own
        end = at + 1
        statement: dict = {}
        while end <= len(lines):
            try:
                statement = tomllib.loads("\n".join(lines[at:end]))
                break
            except tomllib.TOMLDecodeError:
                end += 1
        for path in _paths(statement):
            found.setdefault(table + path, number)
        at = max(end, at + 1)
    return found


def _header(line: str, counts: dict[Place, int]) -> Place:
    """The place that ``[a.b]`` or ``[[a]]`` opens; ``counts`` holds the index of the latest entry of each array."""
    array = line.startswith("[[")
    try:
        keys = next(iter(_paths(tomllib.loads(line), arrays=False)))
    except tomllib.TOMLDecodeError:
        return ()
    place: Place = ()
    for position, key in enumerate(keys):
        place += (key,)
        last = position == len(keys) - 1
        if last and array:
            counts[place] = counts.get(place, -1) + 1
        if place in counts:
            place += (counts[place],)
    return place


def _paths(value: Any, prefix: Place = (), arrays: bool = True) -> Iterable[Place]:
    """Every place inside nested tables, the deepest first."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _paths(item, (*prefix, key), arrays)
    elif isinstance(value, list) and arrays:
        for index, item in enumerate(value):
            if isinstance(item, (dict, list)):
                yield from _paths(item, (*prefix, index), arrays)
    if prefix:
        yield prefix
