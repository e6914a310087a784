"""From a deck to objects that run: the only place that knows every room.

``build`` refuses what does not go together (an element that the structure lacks, a sequential spin sweep with a
potential whose couplings cannot be frozen, ...) with a sentence that says what to do instead, before anything is
written.
"""

import inspect
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spinmd import registry
from spinmd.backend import BLOCK, Backend, available_threads, make_backend
from spinmd.complaints import raise_all
from spinmd.deck import Deck, PotentialTable, Stage, load_deck
from spinmd.device import check_device, check_terms, precision_of
from spinmd.errors import InputError
from spinmd.integrators.build import build_integrator
from spinmd.integrators.temperatures import RAMP_KEYS
from spinmd.model import Model
from spinmd.output import check_output, check_stages
from spinmd.reporters import joined_arrays
from spinmd.selection import selected
from spinmd.simulation import Past, Simulation, StageRun
from spinmd.state import State
from spinmd.structure import build_structure
from spinmd.toml_source import Place, dotted


def build(
    deck: Deck | str | Path | Mapping,
    overrides: Iterable[str] | Mapping[str, Any] = (),
    *,
    device: str | None = None,
    threads: int | None = None,
    force: bool = False,
    output: bool = True,
    here: bool = True,
) -> Simulation:
    """A Simulation from a deck (or what ``load_deck`` takes), ready to run.

    device   "cpu" or "cuda", overriding run.device
    threads  CPU threads, overriding run.threads; None: as the deck says, else one for every 512 atoms, at most all
    force    let the run replace an output file that exists
    output   False: write nothing, whatever [output] says
    here     False: the run is for another machine, so that a GPU it asks for need not be on this one

    Raises InputError, with places in the deck, for everything that does not fit; nothing has been written then.
    """
    if not isinstance(deck, Deck):
        deck = load_deck(deck, overrides)
    elif overrides:
        deck = load_deck(deck.tables, overrides, folder=deck.folder)
    device = asked_device(deck, device, here)
    threads = asked_threads(deck, threads)
    if output:
        check_outputs(deck, force)
    with _Located(deck, ("structure",)):
        state = build_structure(deck.structure, deck.seed)
    if output and deck.output is not None:
        with _Located(deck, ()):
            deck.output.chosen(state)
    return assemble(deck, state, threads, device=device, output=output, force=force)


def assemble(
    deck: Deck, state: State, threads: int | None = None, *, device: str = "cpu", output: bool = True, force: bool = False,
    past: Past | None = None, history: Mapping[str, np.ndarray] | None = None,
) -> Simulation:  # fmt: skip
    """A Simulation of a state that is there: models and integrators of all stages that are still to run.

    ``past`` and ``history``: what the checkpoint of a run tells of its course and of its neighbour lists; None for a new
    run. Raises InputError for what does not fit.
    """
    threads = threads or few_threads(state.natoms)
    stages = deck.stages()
    groups = make_groups(deck, state)
    owns = [
        k == 0 or not (one.potential is stages[k - 1].potential and one.neighbours is stages[k - 1].neighbours)
        for k, one in enumerate(stages)
    ]
    with _Located(deck, ()):
        joined_arrays([stage.integrator for stage in stages])
    present = 0 if past is None else past.stage
    first = max(k for k in range(present + 1) if owns[k])  # the stage whose model the present one uses
    runs: list[StageRun] = []
    maker = None
    for index, stage in enumerate(stages):
        at: Place = () if index == 0 else ("stage", index - 1)
        if owns[index] and index >= first:
            # a later stage is tried on a copy, since making a model may re-order the atoms of its state
            mine = index == first
            maker = _ModelMaker(deck, stage, state if mine else state.copy(), at, threads, history if mine else None)
        with _Located(deck, at):
            make = _StageMaker(deck, stage, maker, state, at, groups) if index >= present else None
            runs.append(StageRun(stage, make, owns[index]))
        if device != "cpu" and index >= present:
            check_stage_on_device(deck, stage, maker.model, at)
    return Simulation(deck, state, runs, device=device, output=output, force=force, past=past)


def make_groups(deck: Deck, state: State) -> dict[str, np.ndarray]:
    """The masks (N,), original order, of the deck's [groups]; InputError for names that mean something else already."""
    for name in deck.groups:
        if name in state.symbols or name in RAMP_KEYS:
            what = "an element of the structure" if name in state.symbols else "a key of a temperature ramp"
            raise InputError(f"{name} is {what}; choose another name", deck.place(("groups", name)))
    return {name: selected(entries, state, deck.place(("groups", name))) for name, entries in deck.groups.items()}


class _ModelMaker:
    """Makes the model of a stage: at build to see that it can be made, and again where it was only tried on a copy."""

    def __init__(
        self, deck: Deck, stage: Stage, state: State, at: Place, threads: int | None,
        history: Mapping[str, np.ndarray] | None = None,
    ):  # fmt: skip
        self.deck, self.stage, self.at, self.threads = deck, stage, at, threads
        self.model = self.make(state, history)

    def make(self, state: State, history: Mapping[str, np.ndarray] | None = None) -> Model:
        own = self.at if self.stage.potential is not self.deck.potential else ()
        terms = build_terms(self.deck, self.stage, state, own)
        check_moments(self.deck, state, terms, own)
        backend = make_threads(self.deck, self.threads)
        with _Located(self.deck, self.at):
            return Model(state, terms, skin=self.stage.neighbours.skin, backend=backend, history=history)

    def on(self, state: State) -> Model:
        if self.model.state is not state:
            self.model = self.make(state)
        return self.model


class _StageMaker:
    """Makes model and integrator of a stage on the state as it is; making it, at build, finds what does not fit."""

    def __init__(self, deck: Deck, stage: Stage, models: _ModelMaker, state: State, at: Place, groups: dict):
        self.deck, self.stage, self.models, self.state, self.at = deck, stage, models, state, at
        self.groups = groups
        if stage.integrator is not None:
            self.integrator(models.model)

    def __call__(self) -> tuple[Model, Any]:
        model = self.models.on(self.state)
        return model, None if self.stage.integrator is None else self.integrator(model)

    def integrator(self, model: Model) -> Any:
        check_pairing(self.deck, self.stage, model, self.at)
        with _Located(self.deck, (*self.at, "integrator")):
            steps = None if self.stage.run is None else self.stage.run.steps
            return build_integrator(self.stage.integrator, model.state, model, steps, self.groups)


def check_outputs(deck: Deck, force: bool) -> None:
    """InputError if the run could not write its file, or if a stage wants another one. Writes nothing."""
    stages = deck.stages()
    if deck.output is None:
        for index, stage in enumerate(stages[1:]):
            if stage.output is not None:
                raise InputError(
                    "all stages write one file; give [output] in the deck itself",
                    deck.place(("stage", index, "output")),
                )
        return
    with _Located(deck, ()):
        if deck.output.file.resolve() in deck.inputs():
            raise InputError(f"the run reads {deck.output.file}; give the output another name", "output.file")
        check_output(deck.output, force)
        check_stages([stage.output for stage in stages])


def asked_device(deck: Deck, device: str | None, here: bool = True, resuming: bool = False) -> str:
    """``device``, else that of the deck, else "cpu"; InputError for one that is not there, with what to install.

    here      False: the run is for another machine
    resuming  a run in mixed precision may go on on the CPU, in float64: a warning
    """
    asked = deck.run.device if device is None and deck.run is not None else device
    found = check_device(asked, deck.place(("run", "device")) if device is None else "--device", here)
    for index, stage in enumerate(deck.stages()):
        at: Place = () if index == 0 else ("stage", index - 1)
        if stage.run is None:
            continue
        if deck.run is not None and stage.run.device != deck.run.device:
            raise InputError(
                "all stages compute on one device; give it in the deck's own [run]", deck.place((*at, "run", "device"))
            )
        if found == "cpu" and stage.run.precision != "float64":
            if not resuming:
                raise InputError(
                    "mixed precision is for the GPU; leave it out on the CPU, or compute on the GPU with --device cuda",
                    deck.place((*at, "run", "precision")),
                )
            warnings.warn("the run was in mixed precision; on the CPU it goes on in float64", stacklevel=3)
            break
    return found


def check_stage_on_device(deck: Deck, stage: Stage, model: Model, at: Place) -> None:
    """InputError where a term of a stage cannot be computed on the GPU, or not in the precision that is asked for."""
    own = at if stage.potential is not deck.potential else ()
    for index, term in enumerate(model.terms):
        with _Located(deck, (*own, "potential", index)):
            check_terms([term], "float64")
    with _Located(deck, at):
        check_terms(model.terms, precision_of(stage.run))


def asked_threads(deck: Deck, threads: int | None) -> int | None:
    """``threads``, else those of the deck, else None; InputError unless it is a number of threads."""
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise InputError(f"expected a whole number of threads, at least 1, got {threads!r}", "--threads")
    return deck.run.threads if threads is None and deck.run is not None else threads


def few_threads(natoms: int) -> int:
    """Threads that a system of this size can use: each should have two blocks of atoms. More of them would wait for each other,
    which costs far more than it gives where another program has one of the cores. Results do not depend on it."""
    return max(1, min(available_threads(), natoms // (2 * BLOCK)))


def make_threads(deck: Deck, threads: int | None) -> Backend:
    """The CPU with a number of threads; an error names run.threads or --threads, whoever asked."""
    try:
        return make_backend(threads)
    except InputError as error:
        asked = deck.run is not None and deck.run.threads == threads
        raise InputError(error.message, "run.threads" if asked else "--threads") from None


# ---------------------------------------------------------------------------------------------- terms


def build_terms(deck: Deck, stage: Stage, state: State, at: Place = ()) -> list:
    """The potentials of a stage, prepared for the state; InputError, for all terms at once, where one does not fit."""
    errors: list[InputError] = []
    names = term_names(deck, stage.potential, at, errors)
    terms = []
    for index, (table, name) in enumerate(zip(stage.potential, names, strict=True)):
        here = (*at, "potential", index)
        problems = foreign_elements(deck, table, state, here)
        if problems:
            errors += problems
            continue
        try:
            with _Located(deck, here):
                terms.append(make_term(table, name, deck.folder))
                check_contract(terms[-1], table.kind)
                terms[-1].prepare(state, None)
        except InputError as error:
            errors.append(error)
    raise_all(errors)
    return terms


def make_term(table: PotentialTable, name: str, folder: Path | None = None):
    """One potential from its table. A kind without ``pairs`` or ``elements`` in its signature refuses them."""
    kind = registry.find(table.kind, folder)
    given = {"pairs": table.pairs, "elements": table.elements, "name": name}
    signature = inspect.signature(kind)
    free = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())
    keywords = {}
    for key, value in given.items():
        if key in signature.parameters or free:
            keywords[key] = value
        elif value is not None and key != "name":
            raise InputError(f"the kind {table.kind!r} cannot be restricted by {key}", key)
    return kind(table.parameters, **keywords)


def check_contract(term: Any, kind: str) -> None:
    """InputError for a potential whose instances lack what the engine reads from them."""
    missing = [name for name in ("cutoff", "provides", "name", "magnetic") if not hasattr(term, name)]
    if missing:
        raise InputError(
            f"potentials of kind {kind!r} lack {', '.join(missing)}, which every potential must have", "kind"
        )
    if not (np.isfinite(term.cutoff) and term.cutoff >= 0.0):
        raise InputError(f"the cutoff is {term.cutoff}; it must be zero or a positive number of Å", "parameters.cutoff")


def term_names(deck: Deck, tables: tuple[PotentialTable, ...], at: Place, errors: list[InputError]) -> list[str]:
    """One name per term, unique: the given one, else the kind (numbered from the second on)."""
    names: list[str] = []
    given = Counter(table.name for table in tables if table.name)
    for index, table in enumerate(tables):
        if table.name:
            if given[table.name] > 1 and table.name in names:
                errors.append(
                    InputError(
                        f"two potentials are named {table.name!r}", deck.place((*at, "potential", index, "name"))
                    )
                )
            names.append(table.name)
            continue
        base = table.kind.rpartition(":")[2].lower() if ":" in table.kind else table.kind
        name, number = base, 1
        while name in names or name in given:
            number += 1
            name = f"{base}-{number}"
        names.append(name)
    return names


def foreign_elements(deck: Deck, table: PotentialTable, state: State, at: Place) -> list[InputError]:
    """Errors for elements in ``pairs`` and ``elements`` that the structure does not have."""
    errors = []
    for key in ("pairs", "elements"):
        for text in getattr(table, key) or ():
            for symbol in text.split("-") if key == "pairs" else (text,):
                if symbol.strip() not in state.symbols:
                    message = f"{text!r} names {symbol.strip()}, and the structure has only {', '.join(state.symbols)}"
                    errors.append(InputError(message, deck.place((*at, key))))
                    break
    return errors


# ---------------------------------------------------------------------------------------------- pairings


def check_moments(deck: Deck, state: State, terms: list, at: Place) -> None:
    """InputError where the energy depends on spins and no atom has any."""
    magnetic = [term.name for term in terms if term.magnetic]
    if magnetic and not (state.moments > 0.0).any():
        raise InputError(
            f"the term {magnetic[0]} acts on spins, and no atom has a magnetic moment; give structure.spins.moments, "
            f"for example {{ {state.symbols[0]} = 2.2 }}",
            deck.place((*at, "potential", [term.magnetic for term in terms].index(True))),
        )


def check_pairing(deck: Deck, stage: Stage, model: Model, at: Place) -> None:
    """Refuse spin solvers and terms that do not go together, before the first step."""
    live = [model.names[k] for k in model.live_terms()]
    if moves(stage.integrator, "spins") and live and stage.integrator.spin_solver == "suzuki-trotter":
        place = deck.place((*at, "integrator", "spin_solver"))
        raise InputError(
            f"the sequential sweep needs couplings that stay fixed while spins turn, and {live[0]} has none; "
            'use spin_solver = "midpoint"',
            place,
        )


def moves(integrator: Any, what: str) -> bool:
    """Whether [integrator] moves the "lattice" or the "spins"."""
    return getattr(integrator, what, "moving") == "moving"


# ---------------------------------------------------------------------------------------------- places


class _Located:
    """Gives an InputError raised inside its place in the deck, unless it already has one."""

    def __init__(self, deck: Deck, at: Place):
        self.deck = deck
        self.at = at

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, traceback) -> bool:
        if not isinstance(error, InputError) or hasattr(error, "errors"):
            return False
        raise InputError(error.message, self.named(error.place)) from None

    def named(self, place: str) -> str:
        """``place`` as raised by a room (relative to its own table, or a file and a line) in the words of the deck."""
        own = dotted(self.at)
        here = self.deck.place(self.at) if self.at else ""
        if not place or place == own:
            return here or place
        if place.startswith("-"):  # an option of the command line
            return place
        if "/" in place or " " in place:  # a file, perhaps with a line
            return f"{here}, {place}" if here else place
        if place.startswith(own + ".") or place.split(".")[0] in type(self.deck).model_fields:
            return self.deck.place(place)
        first, _, rest = place.partition(".")
        if "potential" in self.at and rest and first not in ("parameters", "pairs", "elements"):
            place = f"parameters.{rest}"  # a term speaks of itself by its name
        elif "potential" in self.at and first not in PotentialTable.model_fields:
            place = f"parameters.{place}"
        return self.deck.place(f"{own}.{place}" if own else place)
