"""The schema of a deck, and reading one: ``load_deck("fe.toml", ["integrator.temperature=300"])``.

A deck is strict. Everything wrong with it is reported at once, each error with its place as the user writes it, its
line and the nearest known name. Tables belong to the room that uses them (``StructureParameters``,
``IntegratorParameters``, ``OutputParameters``, each kind's ``Parameters``); nothing is built here, see
``spinmd.building``.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PrivateAttr, field_validator
from pydantic_core import PydanticCustomError

from spinmd import registry
from spinmd.complaints import InputErrors, raise_all, validate
from spinmd.divergence import Limits
from spinmd.errors import InputError
from spinmd.integrators.parameters import IntegratorParameters
from spinmd.output import OutputParameters
from spinmd.parameters import Length, Parameters
from spinmd.selection import Selection
from spinmd.structure import StructureParameters
from spinmd.toml_source import Place, TomlSource, dotted

__all__ = ["Deck", "InputErrors", "Neighbours", "PotentialTable", "Run", "Stage", "load_deck"]

Count = Annotated[int, Field(strict=True, ge=0, lt=2**63)]


class PotentialTable(Parameters):
    """One term of the energy. Terms add up."""

    kind: str = Field(description='a registered kind, or "package.module:Class"')
    parameters: Any = Field(default_factory=dict, description="the parameters of this kind")
    pairs: tuple[str, ...] | None = Field(
        None, min_length=1, description='pairs of elements a pair term acts on, ["Fe-Fe", "Fe-Co"]; default all'
    )
    elements: tuple[str, ...] | None = Field(
        None, min_length=1, description='elements an on-site term acts on, ["Fe"]; default all'
    )
    name: str | None = Field(None, min_length=1, description="name in the thermo table; default the kind")

    @field_validator("pairs")
    @classmethod
    def _two_elements(cls, pairs):
        for pair in pairs or ():
            if len(pair.split("-")) != 2 or not all(part.strip().isalnum() for part in pair.split("-")):
                raise PydanticCustomError(
                    "pair", '{pair} is not a pair of elements; write "Fe-Co"', {"pair": repr(pair)}
                )
        return pairs


class Neighbours(Parameters):
    """Neighbour lists."""

    skin: Length | None = Field(
        None,
        gt=0,
        description="how far lists reach beyond cutoffs; a list serves until an atom has moved half of it",
    )


class Run(Parameters):
    """How long, and from which seed."""

    steps: Count = Field(description="steps to run; 0 evaluates and reports the start")
    seed: Count = Field(1, description="seed of everything random in the run and in the structure")
    device: Literal["cpu", "cuda"] | None = Field(
        None, description="where to compute: cpu (the default), or cuda for an NVIDIA GPU"
    )
    precision: Literal["float64", "mixed"] = Field(
        "float64", description="on the GPU: mixed computes pairs in float32 and adds them up in float64"
    )
    threads: int | None = Field(
        None, strict=True, ge=1, description="CPU threads; default: one for every 512 atoms, at most all that there are"
    )
    limits: Limits = Field(default_factory=Limits, description="what counts as diverged; rarely to be changed")


class Stage(Parameters):
    """A part of the run. The deck's own tables run first, then each [[stage]] from the state the one before leaves.

    A [[stage]] gives only what differs from the deck's own tables (not from the stage before): tables are merged key by
    key, lists and potential are replaced. A stage with another ensemble leaves out what that has no use for, so that
    `ensemble = "nve"` ends all baths and damping. All stages write one file.
    """

    name: str = Field("", description="for the screen and the output; default: stage and its number, from 0")
    potential: tuple[PotentialTable, ...] = Field((), description="the terms of the energy, [[potential]]")
    neighbours: Neighbours = Field(default_factory=Neighbours, description="neighbour lists")
    integrator: IntegratorParameters | None = Field(None, description="what moves, and how")
    run: Run | None = Field(None, description="how long")
    output: OutputParameters | None = Field(None, description="what is written, and how often")


class Deck(Parameters):
    """A deck. ``evaluate`` and ``check`` need [structure] and [[potential]]; ``run`` also [integrator] and [run]."""

    title: str = Field("", description="a line for people")
    structure: StructureParameters = Field(description="atoms, velocities and spins at the start")
    potential: tuple[PotentialTable, ...] = Field(
        min_length=1, description="the terms of the energy, one [[potential]] each"
    )
    groups: dict[str, Selection] = Field(
        default_factory=dict,
        description='names for choices of atoms, which [integrator] may use where it takes elements: `surface = ["0:100"]`',
    )
    neighbours: Neighbours = Field(default_factory=Neighbours, description="neighbour lists")
    integrator: IntegratorParameters | None = Field(None, description="what moves, and how")
    run: Run | None = Field(None, description="how long, and from which seed")
    output: OutputParameters | None = Field(None, description="what is written, and how often; without it nothing is")
    stage: tuple[Stage, ...] = Field((), description="stages after the first, one [[stage]] each, run in order")

    _source: TomlSource = PrivateAttr()

    @property
    def seed(self) -> int:
        """The seed of structure and run."""
        return 1 if self.run is None else self.run.seed

    @property
    def text(self) -> str:
        """The TOML text as the user wrote it (empty for a deck from dictionaries)."""
        return self._source.text

    @property
    def tables(self) -> dict[str, Any]:
        """The deck as nested dictionaries with all overrides applied: what ``load_deck`` reads again."""
        return self._source.tables

    @property
    def name(self) -> str:
        """The deck's file name, or "deck"."""
        return self._source.name

    @property
    def folder(self) -> Path:
        """Paths in the deck are relative to this folder."""
        return self._source.folder

    def inputs(self) -> list[Path]:
        """The deck itself and every existing file that it names, but for the output: what a run must not write over."""

        def named(value: Any):
            if isinstance(value, str):
                path = self.folder / Path(value).expanduser()
                if len(value) < 4096 and "\n" not in value and path.is_file():
                    yield path.resolve()
            elif isinstance(value, dict):
                for key, entry in value.items():
                    if key != "output":
                        yield from named(entry)
            elif isinstance(value, list):
                for entry in value:
                    yield from named(entry)

        own = (self.folder / self.name).resolve()
        return [*([own] if own.is_file() else []), *named(self.tables)]

    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of every file that a run reads again when it goes on: those of potentials, plug-ins beside the deck included.

        Absolute path -> hexadecimal digits. The structure is not among them: a run reads it once.
        """
        return digests(self.files_of_potentials())

    def files_of_potentials(self) -> list[Path]:
        """The files that ``fingerprints`` is about, in the order of the deck."""
        paths: list[Path] = []
        for table in (*self.potential, *(table for stage in self.stage for table in stage.potential)):
            module, colon, _ = table.kind.partition(":")
            beside = self.folder.joinpath(*module.split(".")).with_suffix(".py")
            paths += [beside] if colon and beside.is_file() else []
            paths += _paths(table.parameters)
        return list(dict.fromkeys(paths))

    def writing(self, file: Path) -> "Deck":
        """The same deck with its output in ``file``."""

        def moved(output: OutputParameters | None) -> OutputParameters | None:
            return None if output is None else output.model_copy(update={"file": file})

        stages = tuple(stage.model_copy(update={"output": moved(stage.output)}) for stage in self.stage)
        return self.model_copy(update={"output": moved(self.output), "stage": stages})

    def place(self, path: str | Place) -> str:
        """A place in the deck with its line, for a message: ``integrator.timestep (line 12)``."""
        return self._source.place(_split(path) if isinstance(path, str) else path)

    def stages(self) -> list[Stage]:
        """What is run, in order: the deck's own tables first, then each [[stage]]."""
        own = Stage.model_construct(name="", **{name: getattr(self, name) for name in STAGE_TABLES})
        return [own, *self.stage]


def digests(paths: Iterable[Path]) -> dict[str, str]:
    """Absolute path -> hexadecimal SHA-256 of each file; InputError for one that cannot be read."""
    result = {}
    for path in paths:
        try:
            with path.open("rb") as file:
                result[str(path.absolute())] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror})", str(path)) from None
    return result


STAGE_TABLES = ("potential", "neighbours", "integrator", "run", "output")
TABLES: dict[str, Any] = {
    "structure": StructureParameters,
    "neighbours": Neighbours,
    "integrator": IntegratorParameters,
    "run": Run,
    "output": OutputParameters,
}


def load_deck(
    source: str | Path | Mapping | TomlSource,
    overrides: Iterable[str] | Mapping[str, Any] = (),
    *,
    folder: Path | None = None,
) -> Deck:
    """A deck from a file, from TOML text, from nested dictionaries or from what these became, with single values overridden.

    folder: where relative paths of text and dictionaries start; default: the present folder. Those of a file start beside it.
    overrides: ``["integrator.temperature=300", "potential.1.parameters.cutoff=5.74"]`` or ``{"run.steps": 100}``.
    Raises InputError (``InputErrors`` for several) with the place of everything that is wrong.
    """
    text = source.copy() if isinstance(source, TomlSource) else TomlSource.read(source, folder)
    text.override(overrides)
    return _Reader(text).deck()


def stored_deck(text: str, settings: Mapping, folder: Path, name: str = "deck") -> Deck:
    """The deck of a run that goes on, from what its file keeps: the text as written and the settings in force.

    The structure is not read again, so that its file may be gone. Raises InputError as ``load_deck`` does.
    """
    return _Reader(TomlSource(text, name, folder, tables=dict(settings)), begun=True).deck()


class _Reader:
    """Reads tables into models and collects what is wrong; ``begun``: of a run that has its structure already."""

    def __init__(self, source: TomlSource, begun: bool = False):
        self.source = source
        self.begun = begun
        self.context = {"folder": source.folder}
        self.errors: dict[Place, list[InputError]] = {}

    def deck(self) -> Deck:
        tables = self.source.tables
        values: dict[str, Any] = {}
        for name in tables:
            if name not in Deck.model_fields:
                near = registry.nearest(name, Deck.model_fields)
                hint = f"did you mean {near}?" if near else f"known here are {', '.join(Deck.model_fields)}"
                self.complain((name,), f"unknown name; {hint}")
        for name in ("structure", "potential"):
            if name not in tables:
                header = "[structure]" if name == "structure" else "[[potential]]"
                self.complain((name,), f"the deck has no {header}; every deck needs one")
        if "title" in tables:
            values["title"] = self.read(str, tables["title"], ("title",))
        for name, model in TABLES.items():
            if name in tables:
                values[name] = self.read(model, tables[name], (name,))
        if "groups" in tables:
            values["groups"] = self.groups(tables["groups"])
        if "potential" in tables:
            values["potential"] = self.potentials(tables["potential"], ("potential",))
        if "stage" in tables:
            values["stage"] = self.stages(tables, values)
        raise_all([error for errors in self.errors.values() for error in errors])
        deck = Deck.model_construct(**{**self.defaults(), **values})
        deck._source = self.source
        return deck

    def groups(self, data: Any) -> dict[str, tuple]:
        """The [groups] table."""
        if not isinstance(data, dict):
            self.complain(("groups",), 'expected a table of names, such as surface = ["0:100"]')
            return {}
        return {name: self.read(Selection, value, ("groups", name)) for name, value in data.items()}

    def defaults(self) -> dict[str, Any]:
        return {
            n: f.get_default(call_default_factory=True) for n, f in Deck.model_fields.items() if not f.is_required()
        }

    def complain(self, path: Place, message: str) -> None:
        self.errors.setdefault(path, []).append(InputError(message, self.source.place(path)))

    def read(self, model: Any, data: Any, at: Place) -> Any:
        context = self.context | {"begun": self.begun and at == ("structure",)}
        value, errors = validate(model, data, at, context=context, place=self.source.place)
        for path, error in errors:
            self.errors.setdefault(path, []).append(error)
        return value

    def potentials(self, data: Any, at: Place) -> tuple[PotentialTable, ...]:
        """The [[potential]] tables, each with the parameters of its kind."""
        if not isinstance(data, list) or not data:
            self.complain(at, f"expected one or more [[{dotted(at)}]] tables")
            return ()
        result = []
        for index, table in enumerate(data):
            here = (*at, index)
            if not isinstance(table, dict):
                self.complain(here, "expected a table")
                continue
            value = self.read(PotentialTable, table, here)
            kind = self.kind(table.get("kind"), here)
            if kind is not None:
                parameters = self.read(kind.Parameters, table.get("parameters", {}), (*here, "parameters"))
                if value is not None:
                    value = value.model_copy(update={"parameters": parameters})
            result.append(value)
        return tuple(result)

    def kind(self, name: Any, at: Place) -> type | None:
        if not isinstance(name, str):
            return None
        try:
            return registry.find(name, self.source.folder)
        except InputError as error:
            self.complain((*at, "kind"), error.message)
            return None

    def stages(self, tables: dict, base: dict[str, Any]) -> tuple[Stage, ...]:
        """The [[stage]] tables, each merged over the deck's own and read as a whole."""
        data = tables["stage"]
        if not isinstance(data, list):
            self.complain(("stage",), "expected [[stage]] tables")
            return ()
        return tuple(self.stage(table, ("stage", i), tables, base) for i, table in enumerate(data))

    def stage(self, table: Any, at: Place, tables: dict, base: dict[str, Any]) -> Stage | None:
        if not isinstance(table, dict):
            self.complain(at, "expected a table")
            return None
        values = {name: base[name] for name in STAGE_TABLES if name in base}
        for name, data in table.items():
            here = (*at, name)
            if name == "name":
                values["name"] = self.read(str, data, here)
            elif name == "structure":
                self.complain(here, "a stage goes on from the state that the one before leaves and has no structure")
            elif name not in STAGE_TABLES:
                near = registry.nearest(name, Stage.model_fields)
                self.complain(here, "unknown name" + (f"; did you mean {near}?" if near else ""))
            elif name == "potential":
                values[name] = self.potentials(data, here)
            elif not isinstance(data, dict):
                self.complain(here, "expected a table")
            else:
                values[name] = self.merged(TABLES[name], tables.get(name), data, here)
        values = {n: f.get_default(call_default_factory=True) for n, f in Stage.model_fields.items()} | values
        values["name"] = values["name"] or f"stage {at[1]}"
        return Stage.model_construct(**values)

    def merged(self, model: Any, own: Any, changes: dict, at: Place) -> Any:
        """A table of a stage: ``changes`` over the deck's own, whose errors are not repeated."""
        combined = getattr(model, "over", merge)(own, changes)
        value, errors = validate(model, combined, at, context=self.context, place=self.source.place)
        for path, error in errors:
            if (at[2], *path[len(at) :]) not in self.errors or _has(changes, path[len(at) :]):
                self.errors.setdefault(path, []).append(error)
        return value


def merge(own: Any, changes: dict) -> dict:
    """``changes`` over ``own``, table by table; anything but a table is replaced."""
    result = dict(own) if isinstance(own, dict) else {}
    for key, value in changes.items():
        result[key] = merge(result.get(key), value) if isinstance(value, dict) else value
    return result


def _paths(value: Any) -> list[Path]:
    """Every path among validated parameters."""
    if isinstance(value, Path):
        return [value]
    if isinstance(value, BaseModel):
        value = dict(value)
    if isinstance(value, dict):
        value = list(value.values())
    return [path for entry in value for path in _paths(entry)] if isinstance(value, (list, tuple)) else []


def _has(tables: Any, path: Place) -> bool:
    for part in path:
        if isinstance(tables, dict) and part in tables:
            tables = tables[part]
        else:
            return False
    return True


def _split(path: str) -> Place:
    return tuple(int(part) if part.isdigit() else part for part in path.split("."))
