"""A Simulation: state, model and integrator of a deck, and everything the commands do with them, for scripts.

    import spinmd

    with spinmd.build("fe.toml", ["run.steps=100"]) as simulation:
        simulation.run()                        # what the deck says
        simulation.state.spins[:] *= -1.0       # the arrays are the simulation's own, nothing is copied
        simulation.moved()
        simulation.run(50)                      # and 50 steps more
    print(simulation.thermo["time"], simulation.summary)

Made by ``spinmd.build``; nothing here reads decks.
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spinmd.errors import InputError
from spinmd.h5md import TrajectoryWriter
from spinmd.model import Model
from spinmd.protocols import Aux, Evaluation, Need, Reporter
from spinmd.reporters import (
    FILE_COLUMNS,
    CheckpointReporter,
    ProgressReporter,
    ThermoReporter,
    TrajectoryReporter,
    screen_interval,
    summary,
    summary_text,
)
from spinmd.run import run
from spinmd.state import State
from spinmd.units import G_FACTOR

THERMO_INTERVAL = 10  # steps between thermo rows of a run without [output]


@dataclass
class StageRun:
    """A stage and what makes its parts: its tables, its model and its integrator (None without [integrator]).

    ``make`` gives (model, integrator) for the state as it is; a stage with its own model is made when it begins, since
    an earlier stage may re-order the atoms.
    """

    stage: Any
    make: Callable[[], tuple[Model, Any]]
    own_model: bool = False


class Simulation:
    """State, model, integrator and output of one deck.

    deck        the Deck it was built from
    state       spinmd.state.State; after writing into its arrays call ``moved()``
    model       the terms of the energy and their neighbour lists
    integrator  of the present stage, None for a deck without [integrator]
    aux         what the integrator keeps beside the state (noise counters, ...); None before the first run
    """

    def __init__(self, deck, state: State, runs: list[StageRun], *, output: bool = True, force: bool = False):
        self.deck = deck
        self.state = state
        self.aux: Aux | None = None
        self._runs = runs
        self._present = 0
        self._steps_left = [0 if one.stage.run is None else one.stage.run.steps for one in runs]
        self.model, self.integrator = runs[0].make()
        self._rebuilds = 0  # of the models of earlier stages
        self._seconds = 0.0
        self._steps = 0
        self._not_converged = 0
        self._field_evaluations = 0
        self._output = deck.output if output else None
        self._force = force
        self._closed = False
        self._table: ThermoReporter | None = None
        self._file: list[Reporter] = []
        self._finalizer: weakref.finalize | None = None

    # ------------------------------------------------------------------ running

    def run(
        self,
        steps: int | None = None,
        reporters: Sequence[Reporter] = (),
        progress: bool = False,
        stop: Callable[[], bool] | None = None,
    ) -> dict[str, Any]:
        """Run and return the summary so far.

        steps      None: what is left of the deck, stage after stage; a number: so many steps of the present stage
        reporters  further reporters (see ``spinmd.protocols.Reporter``)
        progress   thermo table and progress bar on the screen
        stop       asked before each step; True ends the run after a checkpoint

        Raises InputError for a deck without [integrator] or [run], DivergedError when the run diverges.
        """
        self._check_runnable(steps)
        self._open(progress, sum(self._steps_left) if steps is None else steps)
        bar = ProgressReporter(
            sum(self._steps_left) if steps is None else steps,
            self.state.natoms,
            first_step=self.state.clock.step,
            quiet=not progress,
        )
        if progress and self._steps == 0:
            print(self._greeting(), flush=True)
        try:
            if steps is not None:
                self._run_stage(steps, [*reporters, bar], stop, last=True)
            else:
                self._run_deck([*reporters, bar], stop)
        finally:
            bar.close()
        if progress:
            print(summary_text(self.summary), flush=True)
        return self.summary

    def _run_deck(self, reporters: list[Reporter], stop) -> None:
        while True:
            last = self._present == len(self._runs) - 1
            reason = self._run_stage(self._steps_left[self._present], reporters, stop, last)
            if last or reason == "signal":
                return
            self._next_stage()

    def _run_stage(self, steps: int, reporters: list[Reporter], stop, last: bool) -> str:
        stage = self._runs[self._present].stage
        if self.aux is None:
            self.aux = self.integrator.init(self.state, self.deck.seed if stage.run is None else stage.run.seed)
        for reporter, name in zip([self._table, *self._file], ("thermo", "trajectory", "checkpoint"), strict=False):
            reporter.every = THERMO_INTERVAL if stage.output is None else getattr(stage.output, name)
        first = self.state.clock.step
        fields = getattr(self.integrator, "field_evaluations", 0)
        everybody = [self._table, *reporters[:-1], *self._file, reporters[-1]]
        try:
            result = run(
                self.state,
                self.model,
                self.integrator,
                self.aux,
                steps,
                everybody,
                stage=stage.name,
                last=last,
                stop=stop,
            )
            self._seconds += result.seconds_loop
            self._not_converged += result.not_converged
        finally:
            done = self.state.clock.step - first
            self._steps += done
            self._field_evaluations += getattr(self.integrator, "field_evaluations", 0) - fields
            self._steps_left[self._present] = max(self._steps_left[self._present] - done, 0)
        return result.reason

    def _next_stage(self) -> None:
        self._present += 1
        one = self._runs[self._present]
        if one.own_model:
            self._rebuilds += self.model.rebuilds
        self.model, self.integrator = one.make()
        self.aux = None

    def _check_runnable(self, steps: int | None) -> None:
        if self._closed:
            raise InputError("this simulation is closed; build another one from the deck", "run")
        if self.integrator is None:
            raise InputError("the deck has no [integrator], which a run needs", "integrator")
        if steps is None and self.deck.run is None:
            raise InputError(
                "the deck has no [run]; give the number of steps, for example run = { steps = 1000 }", "run"
            )
        if steps is not None and (isinstance(steps, bool) or int(steps) != steps or steps < 0):
            raise InputError(f"expected a whole number of steps, at least 0, got {steps!r}", "steps")

    # ------------------------------------------------------------------ output

    def _open(self, progress: bool, steps: int) -> None:
        """Make the reporters that last for the whole simulation; nothing appears on disk before their first report."""
        if self._table is None:
            writer = None
            if self._output is not None:
                writer = TrajectoryWriter(
                    self._output,
                    FILE_COLUMNS,
                    deck=self.deck.text,
                    settings=self.deck.tables,
                    g_factor=getattr(self.deck.integrator, "g_factor", G_FACTOR),
                    force=self._force,
                )
                self._file = [TrajectoryReporter(0, writer), CheckpointReporter(0, writer, self._where)]
                # a script that forgets to close still leaves one plain file; the callback must not hold the simulation
                self._finalizer = weakref.finalize(self, writer.close)
            self._table = ThermoReporter(THERMO_INTERVAL, writer=writer)
        interval = THERMO_INTERVAL if self.deck.output is None else self.deck.output.thermo
        self._table.screen_every = screen_interval(steps, interval) if progress else 0

    def _where(self, frame) -> dict[str, Any]:
        """What a checkpoint keeps beside the state: where in the deck the run stands."""
        return {"stage": self._present, "stage_name": frame.stage}

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
        return self.model.evaluate(need)

    def results(self) -> dict[str, Any]:
        """What ``spinmd evaluate`` writes: plain numbers and lists, atoms in the original order; eV, Å, µB.

        The virial is None where a term has none. Raises InputError if a number is not finite (atoms upon each other).
        """
        evaluation = self.model.evaluate(Need.ALL)
        virial = all(Need.VIRIAL in term.provides for term in self.model.terms)
        forces, fields = (self.state.original_order(a) for a in (evaluation.forces, evaluation.fields))
        for name, array in (("energies", evaluation.energies), ("forces", forces), ("fields", fields)):
            if not np.isfinite(array).all():
                raise InputError(f"{name} are not finite; atoms may be much too close to each other", "structure")
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
    def summary(self) -> dict[str, Any]:
        """Atoms, steps, speed and drift so far, as ``spinmd run --summary`` writes them; empty before the first run."""
        if self._table is None:
            return {}
        values = summary(
            self._table,
            atoms=self.state.natoms,
            steps=self._steps,
            device=self.model.backend.device,
            threads=self.model.backend.threads,
            seconds_loop=self._seconds,
            list_rebuilds=self._rebuilds + self.model.rebuilds,
            output=None if self._output is None else self._output.file,
        )
        fields = self._field_evaluations / self._steps if self._steps else None
        return values | {"steps_not_converged": self._not_converged, "field_evaluations_per_step": fields}

    def _greeting(self) -> str:
        title = f"{self.deck.title}\n" if self.deck.title else ""
        threads = self.model.backend.threads
        terms = ", ".join(self.model.names)
        return f"{title}{self.state.natoms} atoms, {terms}; {threads} thread{'s' if threads != 1 else ''}"

    def __repr__(self) -> str:
        name = self.deck.title or self.deck.name
        return f"Simulation({name!r}, {self.state.natoms} atoms, step {self.state.clock.step})"
