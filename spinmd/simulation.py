"""A Simulation: state, model and integrator of a deck, and everything the commands do with them, for scripts.

    import spinmd

    with spinmd.build("fe.toml", ["run.steps=100"]) as simulation:
        simulation.run()                        # what the deck says
        simulation.state.spins[:] *= -1.0       # the arrays are the simulation's own, nothing is copied
        simulation.moved()
        simulation.run(50)                      # and 50 steps more
    print(simulation.thermo["time"], simulation.summary)

Made by ``spinmd.build``, or from the file of a run that goes on by ``spinmd.resume``; nothing here reads decks or files.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spinmd.device import described, loop, name_of, precision_of
from spinmd.device import evaluate as evaluate_on
from spinmd.errors import DivergedError, InputError
from spinmd.h5md import TrajectoryWriter
from spinmd.model import Model
from spinmd.output import parts_folder
from spinmd.protocols import HEATS, WORK, Aux, Evaluation, Need, Reporter
from spinmd.reporters import (
    FILE_COLUMNS,
    CheckpointReporter,
    ProgressReporter,
    ThermoReporter,
    TrajectoryReporter,
    joined_arrays,
    screen_interval,
    summary,
    summary_text,
)
from spinmd.run import RunResult
from spinmd.signals import deferred_interrupt
from spinmd.state import State
from spinmd.units import G_FACTOR

THERMO_INTERVAL = 10  # steps between thermo rows of a run without [output]


@dataclass
class StageRun:
    """A stage and what makes its parts: its tables, its model and its integrator (None without [integrator]).

    ``make`` gives (model, integrator) for the state as it is; a stage with its own model is made when it begins, since
    an earlier stage may re-order the atoms. It is None for a stage that has been run.
    """

    stage: Any
    make: Callable[[], tuple[Model, Any]] | None
    own_model: bool = False


COUNTERS = ("steps", "seconds", "not_converged", "field_evaluations", "rebuilds")


@dataclass
class Past:
    """What the file of a run tells of its course, for a Simulation that goes on with it.

    aux         the integrator's arrays
    stage       index of the present stage;  first_step  where it began
    steps_left  of each stage
    counters    of the whole run: steps, seconds, not_converged, field_evaluations, rebuilds (of the models before the present)
    thermo      the rows up to the checkpoint: column -> array
    row_arrays  what movers have added to these rows: name -> (rows, ...)
    limit       steps that are to be run now, over all stages; None: as many as are left
    devices     where the run has computed so far: [first step, text] each
    """

    aux: Aux
    stage: int
    first_step: int
    steps_left: list[int]
    counters: Mapping[str, float]
    thermo: Mapping[str, np.ndarray] = field(default_factory=dict)
    row_arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    limit: int | None = None
    devices: Sequence[tuple[int, str]] = ()


class Simulation:
    """State, model, integrator and output of one deck.

    deck        the Deck it was built from
    state       spinmd.state.State; after writing into its arrays call ``moved()``
    model       the terms of the energy and their neighbour lists
    integrator  of the present stage, None for a deck without [integrator]
    device      "cpu" or "cuda"; between stages state, model and aux are on the host either way, and ``evaluate`` and ``results``
                compute on the device
    aux         what the integrator keeps beside the state (noise counters, ...); None before the first run
    """

    def __init__(
        self, deck, state: State, runs: list[StageRun], *, device: str = "cpu", output: bool = True, force: bool = False,
        past: Past | None = None,
    ):  # fmt: skip
        self.deck = deck
        self.device = device
        self.state = state
        self.aux: Aux | None = None
        self._account: dict[str, np.ndarray] = {}  # heat and work of the stages before
        self._runs = runs
        self._present = 0 if past is None else past.stage
        self._steps_left = [0 if one.stage.run is None else one.stage.run.steps for one in runs]
        self._stage_start = state.clock.step
        self.model, self.integrator = runs[self._present].make()
        self._counters: dict[str, float] = dict.fromkeys(COUNTERS, 0)
        self._now = RunResult()  # of the stage that is being run
        self._fields_before = 0
        self._past = past
        self._limit = None if past is None else past.limit
        self._resuming = False
        self._output = deck.output if output else None
        self._force = force
        self._closed = False
        self._inputs: dict[str, str] = {}
        self._devices: list[list[Any]] = []  # where the run has computed so far: [first step, text] each
        self._table: ThermoReporter | None = None
        self._file: list[Reporter] = []
        self._finalizer: weakref.finalize | None = None
        if past is not None:
            self._take_over(past)

    def _take_over(self, past: Past) -> None:
        """Stand where the run stood at its checkpoint."""
        self._steps_left, self._stage_start = list(past.steps_left), past.first_step
        self._counters.update(past.counters)
        if self._steps_left[self._present] == 0 and self._present < len(self._runs) - 1:
            self.aux = past.aux
            self._next_stage()  # the checkpoint is the end of a stage
            return
        self.aux = self.integrator.init(self.state, self._seed())
        fill(self.aux, past.aux)
        self._resuming = True

    # ------------------------------------------------------------------ running

    def run(
        self,
        steps: int | None = None,
        reporters: Sequence[Reporter] = (),
        progress: bool = False,
        stop: Callable[[], bool] | None = None,
    ) -> dict[str, Any]:
        """Run and return the summary so far.

        steps      None: what is left of the deck, stage after stage, or as many as ``spinmd.resume`` was told; a number:
                   so many steps of the present stage
        reporters  further reporters (see ``spinmd.protocols.Reporter``)
        progress   thermo table and progress bar on the screen
        stop       asked before each step; True ends the run after a checkpoint; None: Ctrl-C does that, and raises
                   KeyboardInterrupt afterwards (a second Ctrl-C at once, and then the simulation cannot go on)

        Raises InputError for a deck without [integrator] or [run], DivergedError when the run diverges.
        """
        self._check_runnable(steps)
        limit, self._limit = self._limit, None
        total = sum(self._steps_left) if limit is None else limit
        total = total if steps is None else steps
        fresh = self._table is None
        self._open(progress, total)
        bar = ProgressReporter(total, self.state.natoms, first_step=self.state.clock.step, quiet=not progress)
        if progress and fresh:
            print(self._greeting(), flush=True)
        try:
            with deferred_interrupt() as caught:
                asked = stop or (lambda: bool(caught))
                if steps is not None:
                    self._run_stage(steps, [*reporters, bar], asked, last=True)
                else:
                    self._run_deck([*reporters, bar], asked, limit)
                if caught and stop is None:
                    raise KeyboardInterrupt  # after a checkpoint, at the end of a step: the simulation can go on
        finally:
            bar.close()
        if progress:
            print(summary_text(self.summary), flush=True)
            closing = getattr(self.integrator, "closing", None)
            if closing is not None and self.aux is not None:
                print(closing(self.aux), flush=True)
        return self.summary

    def _run_deck(self, reporters: list[Reporter], stop, limit: int | None) -> None:
        """What is left, stage after stage; at most ``limit`` steps."""
        while True:
            left = self._steps_left[self._present]
            steps = left if limit is None else min(left, limit)
            last = self._present == len(self._runs) - 1 or steps < left
            reason = self._run_stage(steps, reporters, stop, last)
            limit = None if limit is None else limit - steps
            if last or reason == "signal" or limit == 0:
                return
            self._next_stage()

    def _seed(self) -> int:
        own = self._runs[self._present].stage.run
        return self.deck.seed if own is None else own.seed

    def _run_stage(self, steps: int, reporters: list[Reporter], stop, last: bool) -> str:
        stage = self._runs[self._present].stage
        if self.aux is None:
            self.aux = self.integrator.init(self.state, self._seed())
            self.aux.globals.update(self._account)
        for reporter, name in zip([self._table, *self._file], ("thermo", "trajectory", "checkpoint"), strict=False):
            reporter.every = THERMO_INTERVAL if stage.output is None else getattr(stage.output, name)
        self._now = RunResult()
        self._fields_before = getattr(self.integrator, "field_evaluations", 0)
        resumed, self._resuming = self._resuming, False
        everybody = [self._table, *reporters[:-1], *self._file, reporters[-1]]
        try:
            result = loop(self.device, precision_of(stage.run))(
                self.state,
                self.model,
                self.integrator,
                self.aux,
                steps,
                everybody,
                stage=stage.name,
                last=last,
                stop=stop,
                resumed=resumed,
                result=self._now,
                limits=None if stage.run is None else stage.run.limits,
            )
        except BaseException as error:
            self._closed = True  # the state may be in the middle of a step
            saved = [r.last_step for r in self._file if isinstance(r, CheckpointReporter) and r.last_step is not None]
            if isinstance(error, DivergedError) and saved:
                error.args = (f"{error}; the checkpoint of step {saved[0]} is kept in {self._output.file}",)
            raise
        finally:
            self._steps_left, self._counters = self._left(), self._count()
            self._now = RunResult()
            self._fields_before = getattr(self.integrator, "field_evaluations", 0)
        return result.reason

    def _left(self) -> list[int]:
        """Steps left of each stage, also while one is being run."""
        left = list(self._steps_left)
        left[self._present] = max(left[self._present] - self._now.steps, 0)
        return left

    def _count(self) -> dict[str, float]:
        """The counters of the whole run, also while a stage is being run; rebuilds are those of the models before the present."""
        fields = getattr(self.integrator, "field_evaluations", 0) - self._fields_before
        return {
            "steps": self._counters["steps"] + self._now.steps,
            "seconds": self._counters["seconds"] + self._now.seconds_loop,
            "not_converged": self._counters["not_converged"] + self._now.not_converged,
            "field_evaluations": self._counters["field_evaluations"] + fields,
            "rebuilds": self._counters["rebuilds"],
        }

    def _next_stage(self) -> None:
        self._present += 1
        self._stage_start = self.state.clock.step
        one = self._runs[self._present]
        if one.own_model:
            self._counters["rebuilds"] += self.model.rebuilds
        self.model, self.integrator = one.make()
        self._fields_before = getattr(self.integrator, "field_evaluations", 0)
        kept = {} if self.aux is None else self.aux.globals
        self._account = {name: kept[name].copy() for name in (*HEATS, WORK) if name in kept}
        self.aux = None

    def _check_runnable(self, steps: int | None) -> None:
        if self._closed:
            raise InputError(
                "this simulation is closed, or failed; build another one from the deck, or resume it", "run"
            )
        if self.integrator is None:
            raise InputError("the deck has no [integrator], which a run needs", "integrator")
        if steps is None and self.deck.run is None:
            raise InputError(
                "the deck has no [run]; give the number of steps, for example run = { steps = 1000 }", "run"
            )
        if steps is not None and (isinstance(steps, bool) or int(steps) != steps or steps < 0):
            raise InputError(f"expected a whole number of steps, at least 0, got {steps!r}", "steps")
        if steps is None and self._table is None and self._past is not None and not sum(self._steps_left):
            if parts_folder(self._output.file).is_dir():
                return  # killed while its segments were being merged: no step is left, but that
            raise InputError(
                f"the run is finished: all its {self.state.clock.step} steps have been done; say how many further ones, "
                "for example --steps 1000",
                str(self._output.file),
            )

    # ------------------------------------------------------------------ output

    def _open(self, progress: bool, steps: int) -> None:
        """Make the reporters that last for the whole simulation; nothing appears on disk before their first report."""
        if self._table is None:
            arrays = joined_arrays([one.stage.integrator for one in self._runs])
            writer = None
            if self._output is not None:
                writer = TrajectoryWriter(
                    self._output,
                    FILE_COLUMNS,
                    deck=self.deck.text,
                    settings=self.deck.tables,
                    g_factor=getattr(self.deck.integrator, "g_factor", G_FACTOR),
                    force=self._force,
                    resume=self._past is not None,
                    resume_step=None if self._past is None else self.state.clock.step,
                    drop=self._closing_rows(steps),
                    arrays=arrays,
                )
                self._inputs = self.deck.fingerprints()
                writer.devices = self._devices = self._devices_so_far()
                self._file = [TrajectoryReporter(0, writer), CheckpointReporter(0, writer, self._where)]
                # a script that forgets to close still leaves one plain file; the callback must not hold the simulation
                self._finalizer = weakref.finalize(self, writer.close)
            self._table = ThermoReporter(THERMO_INTERVAL, writer=writer, arrays=arrays)
            if self._past is not None:
                self._table.restore(*self._rows_so_far("thermo" in self._closing_rows(steps)))
        interval = THERMO_INTERVAL if self.deck.output is None else self.deck.output.thermo
        self._table.screen_every = screen_interval(steps, interval) if progress else 0

    def _where(self, frame) -> dict[str, Any]:
        """What a checkpoint keeps beside the state: where in the deck the run stands, and what it has read."""
        return {
            "stage": self._present,
            "stage_name": frame.stage,
            "first_step": self._stage_start,
            "steps_left": self._left(),
            "counters": self._count(),
            "deck_name": self.deck.name,
            "folder": str(self.deck.folder.absolute()),
            "output": str(self._output.file.absolute()),
            "inputs": self._inputs,
            "devices": self._devices,
        }

    def _devices_so_far(self) -> list[list[Any]]:
        """Where the run has computed and will compute now: step and description, one for each change."""
        before = [] if self._past is None else [list(one) for one in self._past.devices]
        now = described(self.device, [precision_of(one.stage.run) for one in self._runs])
        return before if before and before[-1][1] == now else [*before, [self.state.clock.step, now]]

    def _closing_rows(self, steps: int) -> list[str]:
        """Tables whose row at the checkpoint is there only because the run ended: a run that did not stop has none."""
        step, output = self.state.clock.step, self._runs[self._present].stage.output
        if not self._resuming or steps == 0 or step == self._stage_start:
            return []
        every = {"thermo": output.thermo, "frames": output.trajectory}
        return [table for table, interval in every.items() if interval == 0 or step % interval]

    def _rows_so_far(self, without_last: bool) -> tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray], str, int]:
        """What ``ThermoReporter.restore`` wants to know of the rows that the file has."""
        table, arrays = self._past.thermo, self._past.row_arrays
        if without_last:
            kept = table["step"] < self.state.clock.step
            table, arrays = ({name: values[kept] for name, values in rows.items()} for rows in (table, arrays))
        first = self._past.first_step
        start = int(np.searchsorted(table["step"], first, side="right")) if self._past.stage else 0
        return table, arrays, self._runs[self._past.stage].stage.name, start

    def close(self) -> None:
        """Close the output file: one plain HDF5 file remains. Closing twice does nothing."""
        self._closed = True
        if self._finalizer is not None:
            self._finalizer()

    def __enter__(self) -> "Simulation":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self.close()

    # ------------------------------------------------------------------ looking

    def evaluate(self, need: Need = Need.ALL) -> Evaluation:
        """Energies, forces, fields, virial now, in the atoms' present order (``state.original_order`` sorts back)."""
        return evaluate_on(self, need)

    def results(self) -> dict[str, Any]:
        """What ``spinmd evaluate`` writes: plain numbers and lists, atoms in the original order; eV, Å, µB.

        The virial is None where a term has none. Raises InputError if a number is not finite (atoms upon each other).
        """
        try:
            evaluation = self.evaluate(Need.ALL)
        except DivergedError as error:
            raise InputError(str(error), "structure") from None
        virial = all(Need.VIRIAL in term.provides for term in self.model.terms)
        forces, fields = (self.state.original_order(a) for a in (evaluation.forces, evaluation.fields))
        return {
            "natoms": self.state.natoms,
            "energy": evaluation.energy,
            "energies": {
                name: float(energy) for name, energy in zip(evaluation.names, evaluation.energies, strict=True)
            },
            "forces": forces.tolist(),
            "fields": fields.tolist(),
            "virial": evaluation.virial.tolist() if virial else None,
        }

    def moved(self) -> None:
        """Say that arrays of the state (or its cell) were written to."""
        self.model.moved()

    @property
    def stage(self) -> str:
        """Name of the present stage."""
        return self._runs[self._present].stage.name

    @property
    def thermo(self) -> dict[str, np.ndarray]:
        """The thermo table so far: name -> (rows,) array (time in ps, conserved in eV); empty before the first run."""
        return {} if self._table is None else self._table.table()

    @property
    def row_arrays(self) -> dict[str, np.ndarray]:
        """Arrays that go with the rows of ``thermo``, where the ensemble gives any: name -> (rows, ...)."""
        return {} if self._table is None else self._table.row_arrays()

    @property
    def summary(self) -> dict[str, Any]:
        """Atoms, steps, speed and drift so far, as ``spinmd run --summary`` writes them; empty before the first run."""
        if self._table is None:
            return {}
        count = self._count()
        values = summary(
            self._table,
            atoms=self.state.natoms,
            steps=int(count["steps"]),
            device=self.device,
            device_name=name_of(self.device),
            precision="float64" if self.device == "cpu" else precision_of(self._runs[self._present].stage.run),
            threads=self.model.backend.threads,
            seconds_loop=count["seconds"],
            list_rebuilds=int(count["rebuilds"]) + self.model.rebuilds,
            output=None if self._output is None else self._output.file,
        )
        fields = count["field_evaluations"] / count["steps"] if count["steps"] else None
        return values | {"steps_not_converged": int(count["not_converged"]), "field_evaluations_per_step": fields}

    def _greeting(self) -> str:
        title = f"{self.deck.title}\n" if self.deck.title else ""
        threads = self.model.backend.threads
        place = f"{threads} thread{'s' if threads != 1 else ''}"
        if self.device != "cpu":
            precisions = dict.fromkeys(precision_of(one.stage.run) for one in self._runs)
            place = f"{name_of(self.device)}, {', '.join(precisions)}"
        terms = ", ".join(self.model.names)
        clock = self.state.clock
        since = "" if self._past is None else f"\ngoing on from step {clock.step}, {clock.time:.6g} ps"
        return f"{title}{self.state.natoms} atoms, {terms}; {place}{since}"

    def __repr__(self) -> str:
        name = self.deck.title or self.deck.name
        return f"Simulation({name!r}, {self.state.natoms} atoms, step {self.state.clock.step})"


def fill(aux: Aux, stored: Aux) -> None:
    """Put the stored arrays into those of ``aux``, in place, and add those that it has not made yet.

    Raises InputError where the mover of the checkpoint kept something else.
    """
    for mine, theirs in ((aux.per_atom, stored.per_atom), (aux.globals, stored.globals)):
        for name, array in mine.items():
            other = theirs.get(name)
            if other is None or other.shape != array.shape or other.dtype != array.dtype:
                raise InputError(
                    f"the checkpoint does not hold the integrator's {name} with the shape {array.shape}; it was written with "
                    "another version of spinmd or of a plug-in"
                )
            array[...] = other
        for name in sorted(theirs.keys() - mine.keys()):
            mine[name] = theirs[name]
