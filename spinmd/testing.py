"""Conformance kits for potentials and integrators: exact derivatives of one energy, convergence of the stated order.

``check_potential(MyPotential(...))`` runs over orthogonal, triclinic, small and two-element cells and compares forces,
fields and virial with finite differences of the energy, frozen couplings with the live term, a cell with its supercell,
and what is computed alone with what is computed together. ``check_integrator`` measures the order against fine steps.
Meant for the tests of anybody who writes either.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numba
import numpy as np

from spinmd.backend import Backend
from spinmd.model import Model
from spinmd.protocols import Integrator, Need, Potential, SpinTerm
from spinmd.state import State

STEP = 1.0e-3  # Å and µB; strains are a fifth of it
TOLERANCE = 1.0e-6  # of the largest component; tabulated potentials have jumps in high derivatives
SMALLEST = 1.0e-6  # eV, eV/Å, eV/µB: what is smaller everywhere counts as zero, relative deviations refer to this
COMPONENTS = "xyz"


@dataclass
class CheckReport:
    """What was measured: (cell, quantity) -> largest deviation, relative to the largest component; or the order."""

    potential: str
    deviations: dict[tuple[str, str], float] = field(default_factory=dict)

    def __str__(self) -> str:
        rows = [f"  {cell:<14} {what:<34} {deviation:.1e}" for (cell, what), deviation in self.deviations.items()]
        return "\n".join([f"{self.potential}: measured", *rows])


def check_potential(
    potential: Potential,
    state: State | None = None,
    *,
    step: float = STEP,
    tolerance: float = TOLERANCE,
    needs: Need | None = None,
    elements: Sequence[str] = ("Fe", "Co"),
    lattice_constant: float = 2.87,
    atoms: int = 4,
    translation: bool = True,
    supercell: bool = True,
    seed: int = 1,
) -> CheckReport:
    """Compare everything that ``potential`` gives with finite differences of its energy; a CheckReport if all agrees.

    state        the configuration to check at; None: the four of ``example_states(elements, lattice_constant)``
    step         Å and µB, of the differences (fourth order, three step lengths; the best one counts, so that a pair
                 that happens to cross a cutoff does no harm)
    tolerance    relative to the largest component
    needs        what to check; None: what the potential provides
    atoms        number of atoms whose forces and fields are checked, chosen at random
    translation  the energy does not change if all atoms move together: forces must add up to zero
    supercell    the energy of a 2 × 1 × 1 supercell (periodic states of up to 16 atoms) is twice that of the cell

    Raises AssertionError that names what deviates, where and by how much.
    """
    states = example_states(elements, lattice_constant, seed) if state is None else {"given": state}
    report = CheckReport(getattr(potential, "name", type(potential).__name__))
    threads = numba.get_num_threads()
    numba.set_num_threads(1)  # cells are small: threads would cost time and change nothing
    try:
        _check_states(potential, states, report, needs, step, tolerance, atoms, translation, supercell, seed)
    finally:
        numba.set_num_threads(threads)
    return report


def _check_states(potential, states, report, needs, step, tolerance, atoms, translation, supercell, seed) -> None:
    for name, one in states.items():
        provided = potential.provides | Need.ENERGY
        if not potential.magnetic:
            provided &= ~Need.FIELD
        check = _Check(
            potential, one, name, report, provided if needs is None else needs & provided, step, tolerance, atoms, seed
        )
        check.derivatives()
        check.parts_alone()
        check.spins_matter()
        if translation and Need.FORCE in check.needs:
            check.total_force()
        if potential.magnetic and Need.FIELD in check.needs:
            check.frozen()
        if supercell and one.natoms <= 16 and one.pbc[0]:
            check.supercell()


def example_states(
    elements: Sequence[str] = ("Fe", "Co"), lattice_constant: float = 2.87, seed: int = 1
) -> dict[str, State]:
    """Perturbed bcc cells with random spins: orthogonal (open along z), triclinic, small, and of two elements.

    In the last the atoms alternate between ``elements[0]`` and ``elements[-1]``, and one atom is not magnetic. Spins
    are somewhat longer or shorter than the reference moments.
    """
    a = lattice_constant
    shear = np.array([[1.0, 0.0, 0.0], [0.21, 1.03, 0.0], [-0.13, 0.17, 0.98]])
    return {
        "orthogonal": _perturbed(a, (3, 2, 2), np.eye(3), elements[:1], seed, pbc=(True, True, False)),
        "triclinic": _perturbed(a, (2, 2, 2), shear, elements[:1], seed + 1),
        "small": _perturbed(a, (1, 1, 1), shear, elements[:1], seed + 2),
        "two elements": _perturbed(a, (2, 2, 1), shear, (elements[0], elements[-1]), seed + 3, one_without_moment=True),
    }


def _perturbed(a, repeat, deformation, elements, seed, pbc=(True, True, True), one_without_moment=False) -> State:
    random = np.random.default_rng(seed)
    corners = np.array([[x, y, z] for x in range(repeat[0]) for y in range(repeat[1]) for z in range(repeat[2])], float)
    sites = a * np.concatenate([corners, corners + 0.5]) @ deformation
    natoms = len(sites)
    symbols = [elements[0] if k < natoms // 2 else elements[-1] for k in range(natoms)]
    moments = np.where(np.array(symbols) == elements[0], 2.2, 1.7)
    if one_without_moment:
        moments[1] = 0.0
    spins = random.normal(size=(natoms, 3))
    spins *= (moments * random.uniform(0.9, 1.1, natoms) / np.linalg.norm(spins, axis=1))[:, None]
    return State.create(
        a * np.array(repeat, float)[:, None] * deformation,
        sites + random.normal(scale=0.03 * a, size=sites.shape),
        symbols,
        np.full(natoms, 55.0),
        pbc=pbc,
        spins=spins,
        moments=moments,
        reference=sites,
    )


def check_integrator(
    make: Callable[[float], Integrator],
    terms: Sequence[Potential],
    state: State | None = None,
    *,
    timestep: float,
    steps: int = 8,
    order: int | None = None,
    tolerance: float = 0.25,
    spin_lengths: bool = True,
    conserves: bool = True,
) -> CheckReport:
    """Measure the order of convergence of an integrator without noise, and what it should conserve; a CheckReport if
    all holds.

    make          ``make(dt)`` gives the integrator for a timestep dt in ps
    terms         potentials of the energy;  state  where to start; None: a perturbed cell of iron with thermal
                  velocities
    timestep      ps, the longest of the four that are compared (each half of the one before)
    steps         number of the longest steps; the reference takes 16 times as many and extrapolates
    order         None: what the integrator says;  tolerance  how much lower the measured order may be
    spin_lengths  the lengths of the spins must stay;  conserves  the conserved quantity must converge with the same
                  order

    Raises AssertionError that says what was measured.
    """
    if state is None:
        state = _perturbed(2.87, (2, 2, 2), np.eye(3), ("Fe",), 1)
        state.velocities[:] = np.random.default_rng(2).normal(scale=3.0, size=state.velocities.shape)
    integrator = make(timestep)
    order = integrator.order if order is None else order
    name = type(integrator).__name__
    ends = [_integrate(make(timestep / 2**k), terms, state.copy(), steps * 2**k, name) for k in range(5)]
    best = {key: ends[4][key] + (ends[4][key] - ends[3][key]) / (2.0**order - 1.0) for key in ends[0]}
    report = CheckReport(name)
    checked = {"positions", "velocities", "spins"} | ({"conserved"} if conserves else set())
    for key in sorted(checked):
        start = ends[0]["start"] if key == "conserved" else getattr(state, key)
        best_value = start if key == "conserved" else best[key]
        errors = [np.abs(end[key] - best_value).max() for end in ends[:4]]
        # round-off of the energy, or of a quantity that this integrator does not move
        if errors[0] < 1e-11 * max(np.abs(start).max(), SMALLEST):
            continue
        slope = -np.polyfit(np.arange(4), np.log2(np.maximum(errors, 1e-300)), 1)[0]
        report.deviations["order", key] = float(slope)
        if not slope > order - tolerance:
            listed = ", ".join(f"{error:.2g}" for error in errors)
            raise AssertionError(
                f"{name}: the error of the {key} falls as dt^{slope:.2f}, expected order {order} (errors {listed} for "
                f"timesteps from {timestep:g} ps, each half of the one before)"
            )
    if spin_lengths:
        before, after = (np.linalg.norm(spins, axis=1) for spins in (state.spins, ends[0]["spins"]))
        deviation = float(np.abs(after - before).max())
        report.deviations["conserved", "spin lengths, µB"] = deviation
        if not deviation < 1e-9:
            raise AssertionError(f"{name}: the lengths of the spins change by {deviation:.2g} µB in {steps} steps")
    return report


def _integrate(integrator, terms, state, steps, name) -> dict[str, np.ndarray]:
    """Where ``steps`` steps lead, in the original order of the atoms; the conserved quantity at start and end, eV."""
    model = Model(state, terms, backend=Backend())
    aux = integrator.init(state, 0)
    model.attach(aux)
    start = integrator.conserved(state, aux, model.evaluate(Need.ENERGY))
    began = state.clock.step, state.clock.time
    for step in range(steps):
        status = integrator.step(state, aux, model)
        if not status.ok:
            raise AssertionError(f"{name}: step {step + 1} ended with {status.code.name.lower()} {status.message}")
    elapsed = state.clock.time - began[1]
    if state.clock.step - began[0] != steps or abs(elapsed - steps * integrator.dt) > 1e-9 * abs(elapsed):
        moved = f"{state.clock.step - began[0]} steps and {elapsed:g} ps"
        raise AssertionError(f"{name}: {steps} steps of {integrator.dt:g} ps moved the clock by {moved}")
    return {
        "positions": state.original_order(state.unwrapped()),
        "velocities": state.original_order(state.velocities),
        "spins": state.original_order(state.spins),
        "conserved": np.array(integrator.conserved(state, aux, model.evaluate(Need.ENERGY))),
        "start": np.array(start),
    }


class _Check:
    """One potential at one configuration; arrays here are in the original order of the atoms."""

    def __init__(self, potential, state, cell, report, needs, step, tolerance, atoms, seed):
        self.potential, self.cell_name, self.report, self.needs = potential, cell, report, needs
        self.step, self.tolerance = step, tolerance
        self.state = state.copy()
        self.positions = self.state.original_order(self.state.positions)
        self.spins = self.state.original_order(self.state.spins)
        self.moments = self.state.original_order(self.state.moments)
        self.cell = self.state.cell.copy()
        self.model = Model(self.state, [potential], backend=Backend())
        self.random = np.random.default_rng(seed)
        self.chosen = np.sort(self.random.permutation(self.state.natoms)[:atoms])
        result = self.evaluate(needs)
        self.energy = result.energy
        self.forces = self.state.original_order(result.forces).copy()
        self.fields = self.state.original_order(result.fields).copy()
        self.virial = result.virial.copy()
        for name, flag in (("forces", Need.FORCE), ("fields", Need.FIELD), ("virial", Need.VIRIAL)):
            if flag in needs and not np.isfinite(getattr(self, name)).all():
                self.fail(f"the {name} hold values that are not finite")
        if not np.isfinite(self.energy):
            self.fail(f"the energy is {self.energy}")
        # what round-off leaves of an energy that is a sum of many terms
        self.noise = 1e-14 * max(abs(self.energy), 1e-3 * np.abs(self.virial).max(), 1e-4)

    def fail(self, message: str):
        raise AssertionError(f"{self.report.potential}, {self.cell_name} cell: {message}")

    def note(self, what: str, deviation: float) -> None:
        key = (self.cell_name, what)
        self.report.deviations[key] = max(deviation, self.report.deviations.get(key, 0.0))

    def evaluate(self, need, positions=None, spins=None, deformation=None):
        """The Evaluation at the configuration with some of its parts replaced."""
        state = self.state
        positions = self.positions if positions is None else positions
        cell = self.cell
        if deformation is not None:
            positions, cell = positions @ deformation.T, cell @ deformation.T
        state.positions[:] = positions[state.ids]
        state.spins[:] = (self.spins if spins is None else spins)[state.ids]
        state.cell[:] = cell
        self.model.moved(positions=True, spins=True, cell=True)
        return self.model.evaluate(need)

    def _slope(self, configuration, step) -> float:
        """Derivative of the energy, central differences of fourth order; ``configuration(x)`` goes to evaluate."""
        near, far = (
            self.evaluate(Need.ENERGY, **configuration(k * step)).energy
            - self.evaluate(Need.ENERGY, **configuration(-k * step)).energy
            for k in (1.0, 2.0)
        )
        return (8.0 * near - far) / (12.0 * step)

    def _compare(self, what, where, given, configuration, step, scale) -> None:
        best = np.inf
        for length in (step, 0.21 * step, 0.037 * step):
            expected = -self._slope(configuration, length)
            allowed = self.tolerance * scale + 4.0 * self.noise / length
            deviation = abs(given - expected) / allowed
            if deviation < best:
                best, closest = deviation, expected
            if best < 1.0:
                break
        self.note(what, best * self.tolerance)
        if not best < 1.0:
            self.fail(
                f"{what} {where} is {given:.12g}, finite differences of the energy give {closest:.12g}: "
                f"they differ by {abs(given - closest):.2g}, the largest component is {scale:.3g} "
                f"(tolerance {self.tolerance:g} of it)"
            )

    def derivatives(self) -> None:
        """Forces, fields and virial against finite differences."""
        force_scale, field_scale, virial_scale = (np.abs(x).max() for x in (self.forces, self.fields, self.virial))
        for atom in self.chosen:
            for axis in range(3):
                unit = np.zeros((self.state.natoms, 3))
                unit[atom, axis] = 1.0
                where = f"on atom {atom}, component {COMPONENTS[axis]},"
                if Need.FORCE in self.needs:
                    moved = lambda x, unit=unit: {"positions": self.positions + x * unit}  # noqa: E731
                    self._compare("the force", where, self.forces[atom, axis], moved, self.step, force_scale)
                if Need.FIELD in self.needs and self.moments[atom] > 0.0:
                    turned = lambda x, unit=unit: {"spins": self.spins + x * unit}  # noqa: E731
                    self._compare("the field", where, self.fields[atom, axis], turned, self.step, field_scale)
        if Need.FIELD in self.needs and self.fields[self.moments == 0.0].any():
            self.fail("there is a field on an atom without a moment")
        if Need.VIRIAL in self.needs:
            for a in range(3):
                for b in range(3):
                    unit = np.zeros((3, 3))
                    unit[a, b] = 1.0
                    strained = lambda x, unit=unit: {"deformation": np.eye(3) + x * unit}  # noqa: E731
                    where = f"component {COMPONENTS[a]}{COMPONENTS[b]}"
                    self._compare("the virial", where, self.virial[a, b], strained, 0.2 * self.step, virial_scale)

    def parts_alone(self) -> None:
        """Each quantity asked for alone is what it is with the others."""
        for flag, name in (
            (Need.ENERGY, "energy"),
            (Need.FORCE, "forces"),
            (Need.FIELD, "fields"),
            (Need.VIRIAL, "virial"),
        ):
            if flag not in self.needs:
                continue
            value = getattr(self.evaluate(flag), name)
            if name in ("forces", "fields"):
                value = self.state.original_order(value)
            whole = getattr(self, name)
            deviation = np.abs(value - whole).max() / max(np.abs(whole).max(), SMALLEST)
            self.note(f"{name} alone", float(deviation))
            if not deviation < 1e-11:
                self.fail(
                    f"the {name} asked for alone differ from those asked for together by {deviation:.2g} (relative)"
                )

    def spins_matter(self) -> None:
        """A potential that says it is not magnetic does not depend on the spins."""
        if self.potential.magnetic:
            return
        energy = self.evaluate(Need.ENERGY, spins=-0.5 * self.spins).energy
        if energy != self.energy:
            self.fail(f"magnetic is False, but the energy changes by {energy - self.energy:.2g} eV with the spins")

    def total_force(self) -> None:
        """Forces add up to zero."""
        total = np.abs(self.forces.sum(axis=0)).max()
        allowed = 1e-12 * self.state.natoms * max(np.abs(self.forces).max(), self.noise)
        self.note("the sum of the forces", total / max(np.abs(self.forces).max(), SMALLEST))
        if total > allowed:
            self.fail(f"the forces add up to {total:.3g} eV/Å; an energy that only knows relative positions gives zero")

    def frozen(self) -> None:
        """Frozen couplings give the fields of the live term, and its energy differences."""
        other = self.random.permutation(self.spins, axis=1) * (-0.9)
        live = []
        for spins in (self.spins, other):
            result = self.evaluate(Need.ENERGY | Need.FIELD, spins=spins)
            live.append((result.energy, result.fields.copy()))
        self.evaluate(Need.ENERGY)
        term = self.potential.freeze(self.state, self.model.pairs(0))
        if term is None:
            return
        energies = []
        for spins, (_, fields) in zip((self.spins, other), live, strict=True):
            energy, given = frozen_energy_and_fields(term, self.state, spins[self.state.ids])
            energies.append(energy)
            deviation = np.abs(given - fields).max() / max(np.abs(fields).max(), SMALLEST)
            self.note("the field of the frozen couplings", float(deviation))
            if not deviation < 1e-10:
                atom = int(self.state.ids[np.argmax(np.abs(given - fields).max(axis=1))])
                self.fail(
                    f"the frozen couplings give another field, worst on atom {atom}, by {deviation:.2g} (relative)"
                )
        difference = (energies[1] - energies[0]) - (live[1][0] - live[0][0])
        scale = max(abs(energies[1]), abs(energies[0]), abs(live[0][0]), SMALLEST)
        self.note("the energy of the frozen couplings", abs(difference) / scale)
        if not abs(difference) < 1e-10 * scale:
            self.fail(
                f"between two sets of spins the frozen energy changes by {difference:.3g} eV more than the live one"
            )

    def supercell(self) -> None:
        """The energy of two cells side by side is twice that of one."""
        state, n = self.state, self.state.natoms
        self.evaluate(Need.ENERGY)
        back = np.argsort(state.ids)
        twice = State.create(
            state.cell * np.array([2.0, 1.0, 1.0])[:, None],
            np.concatenate([state.positions[back], state.positions[back] + state.cell[0]]),
            [state.symbols[s] for s in state.species[back]] * 2,
            np.tile(state.masses[back], 2),
            pbc=state.pbc,
            spins=np.tile(state.spins[back], (2, 1)),
            moments=np.tile(state.moments[back], 2),
            reference=np.concatenate([state.reference[back], state.reference[back] + state.cell[0]]),
        )
        energy = Model(twice, [self.potential], backend=self.model.backend).evaluate(Need.ENERGY).energy
        deviation = abs(energy - 2.0 * self.energy) / max(abs(self.energy), SMALLEST)
        self.note("the energy of a supercell", deviation)
        self.potential.prepare(state, self.model.backend)
        if not deviation < 1e-10 and abs(energy - 2.0 * self.energy) > 1e-13 * n:
            self.fail(
                f"a 2 × 1 × 1 supercell has the energy {energy:.12g} eV, two cells have {2.0 * self.energy:.12g} eV"
            )


def frozen_energy_and_fields(term: SpinTerm, state: State, spins: np.ndarray) -> tuple[float, np.ndarray]:
    """Energy (eV) and −∂E/∂S (N, 3) (eV/µB) of frozen couplings, plainly from the definition of SpinTerm."""
    inverse = np.divide(1.0, state.moments, out=np.zeros(state.natoms), where=state.moments > 0.0)
    e = spins * inverse[:, None]
    energy, h = 0.0, np.zeros_like(e)
    if term.start is not None:
        count = np.asarray(term.count)
        i = np.repeat(np.arange(state.natoms), count)
        entries = np.concatenate([np.arange(s, s + c) for s, c in zip(term.start[: state.natoms], count, strict=True)])
        j = term.neighbours[entries]
        for name in ("isotropic", "tensor", "biquadratic"):
            values = getattr(term, name)
            if values is None:
                continue
            values = values[entries]
            dots = np.einsum("ka,ka->k", e[i], e[j])
            if name == "isotropic":
                pulls, energies = values[:, None] * e[j], values * dots
            elif name == "tensor":
                pulls = np.einsum("kab,kb->ka", values.reshape(-1, 3, 3), e[j])
                energies = np.einsum("ka,ka->k", e[i], pulls)
            else:
                pulls, energies = 2.0 * (values * dots)[:, None] * e[j], values * dots**2
            energy -= 0.5 * energies.sum()
            np.add.at(h, i, pulls)
    if term.quadratic is not None:
        pulls = np.einsum("iab,ib->ia", term.quadratic, e)
        energy -= np.einsum("ia,ia->", e, pulls)
        h += 2.0 * pulls
    if term.cubic is not None:
        k1, k2 = term.cubic.T
        squares = (e @ term.axes.T) ** 2
        x, y, z = squares.T
        energy += (k1 * (x * y + y * z + z * x) + k2 * x * y * z).sum()
        slopes = np.column_stack([k1 * (y + z) + k2 * y * z, k1 * (z + x) + k2 * z * x, k1 * (x + y) + k2 * x * y])
        h -= (2.0 * (e @ term.axes.T) * slopes) @ term.axes
    fields = h * inverse[:, None]
    if term.field is not None:
        energy -= np.einsum("ia,ia->", spins, term.field)
        fields = fields + term.field
    return float(energy), fields
