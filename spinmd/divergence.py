"""Whether a run still means anything: not-a-number, lost atoms, runaway of temperature or energy, a spin solve that never ends.

``Model.evaluate`` finds numbers that are not finite, and forces that no timestep can follow, where they arise. A ``Guard``
looks at what the mover moves: positions, velocities and spins every ``EVERY`` steps and before anything is stored, the
conserved quantity every ``ENERGY_EVERY`` steps. Both cost far less than a step. A run that fails ends with a DivergedError
that names step, atom and term. The limits are wide: heating, melting, a quench from random spins pass.
"""

import math
from collections.abc import Iterable

import numpy as np
from pydantic import Field

from spinmd.errors import DivergedError, InputError
from spinmd.model import Model, named
from spinmd.parameters import Energy, Length, Parameters, Temperature
from spinmd.protocols import FIXED, Aux, Code, Evaluation, Need, Status
from spinmd.state import State
from spinmd.units import AMU, BOLTZMANN, HBAR

EVERY = 50  # steps between two looks at the state; both intervals count on the run's clock
ENERGY_EVERY = 100  # steps between two looks at the energy, which costs an evaluation unless a thermo row is due
LENGTHENING = 1.0e-4  # relative change of |S| that a solver which keeps |S| cannot make
GROWTH = 10.0  # by which factor |S| may grow beyond the longest one at the start, with any other solver


class Limits(Parameters):
    """What a run may do before it counts as diverged and is stopped with exit code 3; the last checkpoint stays."""

    temperature: Temperature = Field(1.0e5, gt=0, description="highest lattice temperature, 2K/(3N k_B)")
    displacement: Length = Field(1.0, gt=0, description="farthest that an atom may move in one step")
    energy: Energy = Field(
        0.5, gt=0, description=f"largest change of the conserved quantity per atom within {ENERGY_EVERY} steps"
    )
    unsolved: int = Field(
        100, strict=True, ge=0, description="steps in a row that the spin solver may miss its tolerance; 0: any number"
    )


class Guard:
    """Watches one run; made before its first step.

    state, aux, model, integrator  those of the run; an integrator without ``dt`` or ``conserved`` is watched for the rest
    """

    def __init__(self, state: State, aux: Aux, model, integrator, limits: Limits | None = None):
        self.state, self.aux, self.model, self.integrator = state, aux, model, integrator
        self.limits = limits or Limits()
        moves = getattr(integrator, "moves_lattice", True)
        self.dt = float(getattr(integrator, "dt", 0.0)) if moves else 0.0
        solver = getattr(integrator, "spin_solver", None)
        self.spin_dt = float(getattr(integrator, "dt", 0.0))
        self.g_factor = float(getattr(getattr(solver, "bath", None), "g_factor", 0.0))
        self.fixed_length = bool(getattr(solver, "keeps_length", False))
        self._squares = np.zeros(state.natoms)  # |S|² at the start, by original index
        self._longest = 0.0
        self._last: dict[str, np.ndarray] = {}  # the state at the last look that found nothing
        self._conserved = math.nan
        self._energies: np.ndarray | None = None
        self._unsolved = 0
        self._spins_fail = False  # what failed is the spin solver: look at fields, not at forces

    def begin(self) -> None:
        """The first lists, forces and energies, and a look at them.

        Raises InputError where a run that has not made a step begins with something that is not a number, or far too hot;
        DivergedError where it has.
        """
        state, model = self.state, self.model
        model.acceleration_limit = math.inf
        try:
            self._look_at_numbers()
            self._look_at_temperature()
            evaluation = model.evaluate(Need.FORCE | Need.ENERGY)
            self._squares[state.ids] = squares(state.spins)
            self._longest = float(self._squares.max())
            self._look_at_numbers()
            self._remember(evaluation)
        except DivergedError as error:
            if state.clock.step > 0:
                raise self.explained(error) from None
            raise InputError(f"the run cannot start: {error}", error.place or "structure") from None

    def first_step(self) -> None:
        """Raise DivergedError where the first step would already lead anywhere: the timestep, or atoms far too close."""
        model = self.model
        if self.dt > 0.0:
            self._look_at_displacements()
            model.acceleration_limit = self.limits.displacement / self.dt / self.dt
            if isinstance(model, Model):
                model.check_forces()
        if self._turning():
            self._look_at_torques(model.evaluate(Need.FIELD).fields)

    # ------------------------------------------------------------------ looking

    def _turning(self) -> bool:
        return self.g_factor > 0.0 and bool((self.state.moments > 0.0).any())

    def judge(self, status: Status) -> None:
        """Raise DivergedError for the Status of a step that failed, or of too many in a row that were not solved."""
        if status.ok:
            self._unsolved = 0
        elif status.code is Code.NOT_CONVERGED:
            self._unsolved += 1
            if self._unsolved == self.limits.unsolved:
                self._spins_fail = True
                raise DivergedError(
                    f"the spin solver has not converged in {self._unsolved} steps in a row ({status.message}); "
                    "shorten the timestep or allow a larger integrator.tolerance",
                    advice=False,
                )
        else:
            self._spins_fail = not status.term
            raise DivergedError(
                f"{status.term + ' failed: ' if status.term else ''}{status.message or status.code.name.lower()}",
                atom=status.atom, term=status.term,
            )  # fmt: skip

    def due(self) -> bool:
        """Whether it is time to look at the state."""
        return self.state.clock.step % EVERY == 0

    def check(self, needs: Iterable[Need] = ()) -> None:
        """Look at the state, and at the energy if it is time; ``needs`` of whoever evaluates next, to do it once.

        Raises DivergedError.
        """
        self._look()
        if self.state.clock.step % ENERGY_EVERY == 0:
            need = Need.ENERGY | (Need.FIELD if self._turning() else Need.NONE)
            for other in needs:
                need |= other
            if not all(Need.VIRIAL in term.provides for term in getattr(self.model, "terms", ())):
                need &= ~Need.VIRIAL
            evaluation = self.model.evaluate(need)
            if Need.FIELD in need and self._turning():
                self._look_at_torques(evaluation.fields)
            self._look_at_energy(evaluation)
            self._remember(evaluation)

    def _look(self) -> None:
        self._look_at_numbers()
        self._look_at_temperature()
        self._look_at_displacements()
        self._look_at_spins()
        for name in ("positions", "spins", "ids"):
            self._last[name] = getattr(self.state, name).copy()

    def _look_at_numbers(self) -> None:
        state = self.state
        for name, what in (("positions", "position"), ("velocities", "velocity"), ("spins", "spin")):
            array = getattr(state, name)
            if not math.isfinite(np.einsum("ij,ij->", array, array)):
                atom = int(np.argmax(~np.isfinite(array).all(axis=1)))
                raise DivergedError(f"the {what} of {named(state, atom)} is not a number", atom=int(state.ids[atom]))

    def _look_at_temperature(self) -> None:
        state, limit = self.state, self.limits.temperature
        if not self.dt > 0.0:
            return
        speeds = squares(state.velocities)
        temperature = AMU * float(state.masses @ speeds) / (3.0 * state.natoms * BOLTZMANN)
        if temperature > limit:
            atom = int(np.argmax(speeds))
            raise DivergedError(
                f"the lattice is at {temperature:.3g} K (run.limits.temperature is {limit:g} K), "
                f"and {named(state, atom)} is the fastest atom",
                atom=int(state.ids[atom]), place="structure.temperature",
            )  # fmt: skip

    def _look_at_displacements(self) -> None:
        if not self.dt > 0.0:
            return
        state = self.state
        speeds = squares(state.velocities)
        atom = int(np.argmax(speeds))
        step = math.sqrt(speeds[atom]) * self.dt
        if step > self.limits.displacement:
            raise DivergedError(
                f"{named(state, atom)} moves {step:.3g} Å in one step of {1e3 * self.dt:.3g} fs",
                atom=int(state.ids[atom]),
            )

    def _look_at_spins(self) -> None:
        if self._longest == 0.0:
            return
        state = self.state
        now, before = squares(state.spins), self._squares[state.ids]
        if self.fixed_length:
            excess = np.abs(now - before) - 2.0 * LENGTHENING * before
        else:
            excess = now - GROWTH**2 * self._longest
        atom = int(np.argmax(excess))
        if excess[atom] > 0.0:
            raise DivergedError(
                f"the spin of {named(state, atom)} is {math.sqrt(now[atom]):.6g} µB long, "
                f"at the start it was {math.sqrt(before[atom]):.6g} µB",
                atom=int(state.ids[atom]),
            )  # fmt: skip

    def _look_at_torques(self, fields: np.ndarray) -> None:
        """A spin that turns by more than half a turn in one step goes anywhere."""
        state = self.state
        lengths = np.sqrt(squares(state.spins))
        torques = np.sqrt(squares(np.cross(state.spins, fields)))
        if FIXED in self.aux.per_atom:
            torques[self.aux.per_atom[FIXED] != 0] = 0.0
        rates = self.g_factor / HBAR * np.divide(torques, lengths, out=np.zeros_like(torques), where=lengths > 0.0)
        atom = int(np.argmax(rates))
        if rates[atom] * self.spin_dt > math.pi:
            raise DivergedError(
                f"the spin of {named(state, atom)} turns by {rates[atom] * self.spin_dt / (2.0 * math.pi):.3g} turns in one "
                f"step of {1e3 * self.spin_dt:.3g} fs; take a timestep below {500.0 * math.pi / rates[atom]:.2g} fs",
                atom=int(state.ids[atom]), advice=False,
            )  # fmt: skip

    def _conserved_now(self, evaluation: Evaluation) -> float:
        conserved = getattr(self.integrator, "conserved", None)
        return math.nan if conserved is None else float(conserved(self.state, self.aux, evaluation))

    def _remember(self, evaluation: Evaluation) -> None:
        self._conserved = self._conserved_now(evaluation)
        self._energies = evaluation.energies.copy()

    def _look_at_energy(self, evaluation: Evaluation) -> None:
        now, natoms = self._conserved_now(evaluation), self.state.natoms
        jump = (now - self._conserved) / natoms
        if abs(jump) > self.limits.energy:
            changes = np.abs(evaluation.energies - self._energies)
            term = int(np.argmax(changes)) if len(changes) else -1
            atom = int(np.argmax(squares(self.state.velocities)))
            part = ""
            if term >= 0:
                part = f"; most of it from {evaluation.names[term]}, {changes[term] / natoms:.3g} eV per atom"
            raise DivergedError(
                f"the conserved quantity changed by {jump:.3g} eV per atom in the last {ENERGY_EVERY} steps "
                f"(run.limits.energy is {self.limits.energy:g} eV){part}; the fastest atom is {named(self.state, atom)}",
                atom=int(self.state.ids[atom]),
                term=evaluation.names[term] if term >= 0 else "",
            )  # fmt: skip

    # ------------------------------------------------------------------ explaining

    def explained(self, error: DivergedError, within_step: bool = False) -> DivergedError:
        """``error`` with the step, the atom, the term and a remedy; ``within_step``: the clock has not gone on yet."""
        step = self.state.clock.step + (1 if within_step else 0)
        message = str(error)
        atom, term = error.atom, error.term
        if not term:
            atom, term, what = self._blame(atom)
            message += "" if what.removeprefix("; ") in message else what  # a term may fail again as it did
        if error.advice:
            left = [note for t in getattr(self.model, "terms", ()) if (note := getattr(t, "out_of_range", ""))]
            if left:
                message += (
                    f"; the model had left the range of its training data ({left[0]}), where it means nothing: "
                    "train it on such configurations or start from milder ones"
                )
            elif self.dt > 0.0 or getattr(self.integrator, "dt", 0.0):
                message += "; try a shorter timestep"
        return DivergedError(f"step {step}: {message}", atom=atom, term=term, step=step)

    def _blame(self, original: int) -> tuple[int, str, str]:
        """Original index of the atom, the term that acts on it most, and a clause that says so.

        Evaluated on a copy of the state; where that is not finite any more, on the state at the last look.
        """
        model = self.model
        if not isinstance(model, Model) or not self._last or not model.terms:
            return original, "", ""
        state = self.state.copy()
        finite = np.isfinite(state.spins).all(axis=1) & (np.abs(state.positions) < model.farthest()).all(axis=1)
        if original < 0 and not finite.all():
            original = int(state.ids[np.argmin(finite)])
        earlier = not finite.all()
        if earlier:
            back = np.argsort(self._last["ids"])[state.ids]
            state.positions[:], state.spins[:] = self._last["positions"][back], self._last["spins"][back]
        try:
            trial = Model(state, model.terms, skin=model.lists.skin, backend=model.backend)
            need = Need.FIELD if self._spins_fail or not getattr(self.integrator, "moves_lattice", True) else Need.FORCE
            return _strongest(trial, need, original, earlier)
        except DivergedError as error:
            return (error.atom if original < 0 else original), error.term, f"; {error}"
        finally:
            for term in model.terms:
                term.prepare(self.state, model.backend)
            model.moved()


def _strongest(model: Model, need: Need, original: int, earlier: bool) -> tuple[int, str, str]:
    """The term with the largest force (or field) on an atom, by its original index; on any atom if the index is negative."""
    state = model.state
    what, unit = ("field", "eV/µB") if need is Need.FIELD else ("force", "eV/Å")
    best, term, at = -1.0, "", 0
    for name, forces, fields in model.by_term(need):
        sizes = np.sqrt(squares(fields if need is Need.FIELD else forces))
        if not np.isfinite(sizes).all():
            i = int(np.argmin(np.isfinite(sizes)))
            return int(state.ids[i]), name, f"; the {what} of {name} on {named(state, i)} is not a number"
        i = int(np.argmax(sizes)) if original < 0 else int(np.flatnonzero(state.ids == original)[0])
        if sizes[i] > best:
            best, term, at = float(sizes[i]), name, i
    if not best > 0.0:
        return original, "", ""
    when = f", at most {EVERY} steps before," if earlier else ""
    return (
        int(state.ids[at]),
        term,
        f"; the largest {what} on {named(state, at)}{when} is that of {term}, {best:.3g} {unit}",
    )


def squares(vectors: np.ndarray) -> np.ndarray:
    """(N,) squared lengths of (N, 3) vectors."""
    return np.einsum("ij,ij->i", vectors, vectors)
