"""What ``spinmd check`` looks at: one evaluation, cutoffs, exchange, and the timestep that phonons and spins allow.

``examine(simulation)`` gives the numbers, ``report`` the text. Nothing runs and nothing is written. ``machine()`` is
for ``spinmd info``.
"""

import math
import os
import platform
import shutil
from typing import Any

import numpy as np

from spinmd.errors import DivergedError, InputError
from spinmd.output import disk_use
from spinmd.protocols import Need
from spinmd.reporters import FILE_COLUMNS
from spinmd.units import AMU, BOLTZMANN, G_FACTOR, HBAR

STEPS_PER_PERIOD = 20  # of the fastest phonon or precession; energy drift is then far below other errors of a run
SAMPLE = 2000  # atoms looked at for neighbour counts
PROBE = 1.0e-3  # Å, rms displacement of the finite differences
ITERATIONS = 20


def examine(simulation) -> dict[str, Any]:
    """Everything ``report`` prints, as plain numbers. Positions and spins are as before afterwards."""
    state, model, deck = simulation.state, simulation.model, simulation.deck
    try:
        evaluation = model.evaluate(Need.ALL)
    except DivergedError as error:
        raise InputError(str(error), "structure") from None
    found: dict[str, Any] = {"title": deck.title, "atoms": state.natoms, "warnings": []}
    symbols, counts = np.unique(state.species, return_counts=True)
    found["elements"] = {state.symbols[k]: int(n) for k, n in zip(symbols, counts, strict=True)}
    found["heights"] = [float(h) for h in heights(state.cell)]
    found["pbc"] = [bool(b) for b in state.pbc]
    found["magnetic_atoms"] = int((state.moments > 0.0).sum())
    found["magnetisation"] = [float(m) for m in state.magnetisation()]
    found["temperature"] = float(state.temperature())
    found["energies"] = {name: float(e) for name, e in zip(evaluation.names, evaluation.energies, strict=True)}
    found["largest_force"] = float(np.sqrt((evaluation.forces**2).sum(axis=1).max()))
    found["largest_field"] = float(np.sqrt((evaluation.fields**2).sum(axis=1).max()))
    output_facts(deck, state, found)
    volume = state.volume
    found["pressure"] = float((2.0 * state.kinetic_energy() + np.trace(evaluation.virial)) / (3.0 * volume))
    lattice_moves = deck.integrator is not None and deck.integrator.lattice == "moving"
    found["terms"] = [term_facts(model, state, k, found["warnings"], lattice_moves) for k in range(len(model.terms))]
    exchange_facts(model, state, found)
    timestep_facts(simulation, found)
    return found


def heights(cell: np.ndarray) -> np.ndarray:
    """(3,) distances between opposite faces of the cell, Å."""
    return 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)


# ---------------------------------------------------------------------------------------------- output


def output_facts(deck, state, found: dict[str, Any]) -> None:
    """What a run will write, and whether it fits on the disk; nothing for a deck without [run] or [output]."""
    stages = deck.stages()
    if any(stage.run is None or stage.output is None for stage in stages):
        return
    found["output"] = disk_use([s.output for s in stages], [s.run.steps for s in stages], state, len(FILE_COLUMNS))
    found["output"]["quantities"] = list(deck.output.quantities)
    found["output"]["precision"] = deck.output.precision
    folder = deck.output.file.absolute().parent
    if not folder.is_dir():
        return
    free = shutil.disk_usage(folder).free
    if 2 * found["output"]["total_bytes"] > free:
        found["warnings"].append(
            f"output: {_bytes(free)} are free in {folder}, and the run may need up to "
            f"{_bytes(2 * found['output']['total_bytes'])} (its segments and, at the end, the file merged from them); "
            "store fewer quantities or atoms, less often, or in float32"
        )


def _bytes(number: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


# ---------------------------------------------------------------------------------------------- cutoffs


def term_facts(model, state, index: int, warnings: list[str], lattice_moves: bool) -> dict[str, Any]:
    """Cutoff and mean number of neighbours in it; warns of one that passes half the cell or finds nobody."""
    term, name = model.terms[index], model.names[index]
    facts: dict[str, Any] = {"name": name, "cutoff": float(term.cutoff), "magnetic": bool(term.magnetic)}
    parameters = getattr(term, "parameters", None)
    smoothing, shift = getattr(parameters, "smoothing", None), getattr(parameters, "shift", None)
    pairs = model.pairs(index)
    if getattr(parameters, "static", False) and lattice_moves:
        warnings.append(
            f"{name}: couplings by shell or list stay what they are while atoms move and give no forces: "
            "spins and lattice do not exchange energy through this term"
        )
    if pairs is None:
        return facts
    facts["neighbours"], nearest = neighbours_within(pairs, state.natoms, term.cutoff)
    first = table_begins(parameters)
    if first is not None and nearest < first:
        warnings.append(
            f"{name}: the table begins at {first:g} Å, and atoms are as close as {nearest:.3f} Å: "
            "below its first point the coupling goes on as a straight line"
        )
    if facts["neighbours"] == 0.0:
        warnings.append(
            f"{name}: no neighbours within the cutoff of {term.cutoff:g} Å (the nearest listed is at {nearest:.3f} Å)"
        )
    narrow = [
        h for h, periodic in zip(heights(state.cell), state.pbc, strict=True) if periodic and term.cutoff > 0.5 * h
    ]
    if narrow:
        warnings.append(
            f"{name}: the cutoff of {term.cutoff:g} Å passes half the cell ({0.5 * min(narrow):.2f} Å): "
            "atoms see several images of one neighbour, which is right for energies, but finite-size effects are large"
        )
    jump = coupling_at(parameters, term.cutoff) if smoothing == 0 else None
    if jump is not None and abs(jump) > 1e-6:
        warnings.append(
            f"{name}: smoothing = 0 cuts off hard at {term.cutoff:g} Å, where {1e3 * jump:.3g} meV are left: "
            "a moving lattice does not conserve energy"
        )
    if shift is False and not smoothing:
        warnings.append(
            f"{name}: shift = false leaves a step of the energy at {term.cutoff:g} Å: "
            "a moving lattice does not conserve energy"
        )
    return facts


def table_begins(parameters) -> float | None:
    """First distance of a tabulated coupling, Å; None for other forms."""
    if getattr(parameters, "form", None) != "table":
        return None
    from spinmd.potentials.radial import read_table

    return float(read_table(parameters.file)[0, 0])


def coupling_at(parameters, distance: float) -> float | None:
    """J just inside a hard cutoff, eV; None for terms without a law of distance."""
    from spinmd.potentials.radial import RadialBase, evaluate

    if not isinstance(parameters, RadialBase) or parameters.static:
        return None
    return float(evaluate(parameters, np.array([np.nextafter(distance, 0.0)]))[0][0])


def neighbours_within(pairs, natoms: int, cutoff: float) -> tuple[float, float]:
    """Mean number of neighbours within ``cutoff`` of a sample of atoms, and the nearest distance in the list, Å."""
    atoms = np.unique(np.linspace(0, natoms - 1, min(natoms, SAMPLE)).astype(int))
    count, nearest = 0, math.inf
    for i in atoms:
        others = pairs.neighbours[pairs.start[i] : pairs.start[i + 1]]
        others = others[others != pairs.dummy]
        if len(others):
            distances = np.linalg.norm(pairs.packed[others, :3] - pairs.packed[i, :3], axis=1)
            count += int((distances < cutoff).sum())
            nearest = min(nearest, float(distances.min()))
    return count / len(atoms), nearest


# ---------------------------------------------------------------------------------------------- exchange


def exchange_facts(model, state, found: dict[str, Any]) -> None:
    """ΣJ per magnetic atom; mean-field ordering temperature, the largest eigenvalue of J_ij over 3 k_B, and its order.

    E = −½ Σ J_ij e_i·e_j: in mean field ⟨e_i⟩ = (1/3k_BT) Σ_j J_ij ⟨e_j⟩ close to the transition.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.linalg import eigsh

    found["exchange"] = []
    matrix = None
    for k, term in enumerate(model.terms):
        frozen = term.freeze(state, model.pairs(k)) if term.magnetic else None
        if frozen is None or frozen.isotropic is None:
            continue
        rows = np.repeat(np.arange(state.natoms), frozen.count)
        entries = np.concatenate([[0], np.cumsum(frozen.count)])
        at = np.repeat(frozen.start[: state.natoms] - entries[:-1], frozen.count) + np.arange(len(rows))
        one = csr_matrix((frozen.isotropic[at], (rows, frozen.neighbours[at])), shape=(state.natoms, state.natoms))
        magnetic = max(found["magnetic_atoms"], 1)
        found["exchange"].append({"name": model.names[k], "sum": float(one.sum() / magnetic)})
        matrix = one if matrix is None else matrix + one
    if matrix is None or matrix.nnz == 0:
        return
    if state.natoms <= 3:
        values, vectors = np.linalg.eigh(matrix.toarray())
        value, vector = values[-1], vectors[:, -1]
    else:
        start = np.random.default_rng(1).standard_normal(state.natoms)
        values, vectors = eigsh(matrix, k=1, which="LA", tol=1e-4, v0=start)
        value, vector = values[-1], vectors[:, -1]
    uniform = abs(vector.sum()) / (np.abs(vector).sum() + 1e-300)
    found["mean_field_temperature"] = float(max(value, 0.0) / (3.0 * BOLTZMANN))
    found["mean_field_order"] = "ferromagnetic" if uniform > 0.9 else "not ferromagnetic"


# ---------------------------------------------------------------------------------------------- timestep


def timestep_facts(simulation, found: dict[str, Any]) -> None:
    """Largest phonon and precession frequency, rad/ps, and the timestep, ps, of ``STEPS_PER_PERIOD`` steps in each."""
    integrator = simulation.deck.integrator
    limits = []
    lattice = integrator is None or getattr(integrator, "lattice", "moving") == "moving"
    spins = integrator is None or getattr(integrator, "spins", "moving") == "moving"
    if integrator is not None and integrator.ensemble in ("monte-carlo", "parallel-tempering"):  # have no time
        return
    if lattice and found["largest_force"] + sum(t["cutoff"] for t in found["terms"]) > 0.0:
        found["phonon_frequency"] = largest_phonon_frequency(simulation.model, simulation.state)
        limits.append(found["phonon_frequency"])
    if spins and found["magnetic_atoms"]:
        g_factor = getattr(integrator, "g_factor", G_FACTOR)
        found["precession_frequency"] = g_factor * found["largest_field"] / HBAR
        limits.append(found["precession_frequency"])
    fastest = max(limits, default=0.0)
    if fastest > 0.0:
        found["advised_timestep"] = 2.0 * math.pi / fastest / STEPS_PER_PERIOD
    if integrator is not None and integrator.timestep is not None:
        found["timestep"] = float(integrator.timestep)
        if fastest > 0.0 and found["timestep"] > 1.5 * found["advised_timestep"]:
            found["warnings"].append(
                f"integrator.timestep: {1e3 * found['timestep']:g} fs gives "
                f"{2.0 * math.pi / fastest / found['timestep']:.1f} steps per period of the fastest motion; "
                f"{1e3 * found['advised_timestep']:.2g} fs would give {STEPS_PER_PERIOD}"
            )


def largest_phonon_frequency(model, state) -> float:
    """Largest eigenfrequency of the dynamical matrix at these spins, rad/ps: power iteration on force differences.

    M^(−1/2) (∂²E/∂x∂x) M^(−1/2) w = ω² w. The estimate comes from below, within a few percent.
    """
    model.evaluate(Need.FORCE)  # builds and sorts the lists before positions are copied
    start = state.positions.copy()
    root = np.sqrt(state.masses * AMU)[:, None]
    w = np.random.default_rng(1).standard_normal(start.shape)
    frequency2 = 0.0
    for _ in range(ITERATIONS):
        u = w / root
        u *= PROBE / math.sqrt(float((u**2).sum()) / state.natoms)
        difference = -_forces(model, state, start + u) + _forces(model, state, start - u)
        before = frequency2
        norm2 = float((root * u * (root * u)).sum())
        w = difference / (2.0 * root)
        frequency2 = math.sqrt(float((w**2).sum()) / norm2)
        if frequency2 == 0.0 or abs(frequency2 - before) < 0.002 * frequency2:
            break
    state.positions[:] = start
    model.moved(positions=True)
    return math.sqrt(frequency2)


def _forces(model, state, positions: np.ndarray) -> np.ndarray:
    state.positions[:] = positions
    model.moved(positions=True)
    return model.evaluate(Need.FORCE).forces.copy()


# ---------------------------------------------------------------------------------------------- text


def report(found: dict[str, Any]) -> str:
    """The numbers of ``examine`` as a page for people."""
    lines: list[str] = []

    def line(heading: str, text: str) -> None:
        lines.append(f"{heading:<14}{text}")

    if found["title"]:
        lines += [found["title"], ""]
    elements = ", ".join(f"{n} {symbol}" for symbol, n in found["elements"].items())
    line("structure", f"{found['atoms']} atoms: {elements}")
    box = " × ".join(f"{h:.3f}" for h in found["heights"])
    periodic = ", ".join(axis for axis, on in zip("abc", found["pbc"], strict=True) if on) or "no direction"
    line("cell", f"{box} Å between faces, periodic along {periodic}")
    if found["magnetic_atoms"]:
        m = found["magnetisation"]
        line(
            "moments", f"{found['magnetic_atoms']} magnetic atoms, mean moment [{m[0]:.4f}, {m[1]:.4f}, {m[2]:.4f}] µB"
        )
    line("temperature", f"{found['temperature']:.1f} K of the lattice")
    for name, energy in found["energies"].items():
        line("energy", f"{name}: {energy:.6f} eV, {energy / found['atoms']:.6f} eV/atom")
    line("largest", f"force {found['largest_force']:.4g} eV/Å, field {found['largest_field']:.4g} eV/µB")
    line("pressure", f"{found['pressure'] * 160.2176634:.4g} GPa")
    for term in found.get("terms", ()):
        if "neighbours" in term:
            line("cutoff", f"{term['name']}: {term['cutoff']:g} Å, {term['neighbours']:.1f} neighbours of an atom")
    for one in found.get("exchange", ()):
        line("exchange", f"{one['name']}: ΣJ = {one['sum']:.5f} eV for each magnetic atom")
    if "mean_field_temperature" in found:
        line(
            "mean field",
            f"T_c = {found['mean_field_temperature']:.0f} K ({found['mean_field_order']}; the true one is lower)",
        )
    for key, what in (("phonon_frequency", "phonon"), ("precession_frequency", "precession")):
        if found.get(key, 0.0) > 0.0:
            period = 2.0 * math.pi / found[key]
            line("fastest", f"{what}: {found[key]:.3g} rad/ps, period {_time(period)}")
    if "timestep" in found:
        advice = f"; up to {_time(found['advised_timestep'])} is advised" if "advised_timestep" in found else ""
        line("timestep", f"{_time(found['timestep'])} in the deck{advice}")
    elif "advised_timestep" in found:
        line(
            "timestep",
            f"up to {_time(found['advised_timestep'])} is advised ({STEPS_PER_PERIOD} steps per period)",
        )
    if "output" in found:
        use = found["output"]
        atoms = f"{use['atoms']} of {found['atoms']} atoms" if use["atoms"] < found["atoms"] else "all atoms"
        line(
            "output",
            f"{use['frames']} frames of {_bytes(use['frame_bytes'])} ({', '.join(use['quantities'])} of {atoms}, "
            f"{use['precision']}) and {use['rows']} thermo rows: {_bytes(use['total_bytes'])}, less by compression",
        )
    for warning in found["warnings"]:
        line("warning", warning)
    if not found["warnings"]:
        line("result", "nothing to complain about")
    return "\n".join(lines)


def _time(picoseconds: float) -> str:
    return f"{picoseconds:.2g} ps" if picoseconds >= 1.0 else f"{1e3 * picoseconds:.3g} fs"


def machine() -> dict[str, Any]:
    """Versions and hardware, for a bug report."""
    import importlib.metadata
    import sys

    import numba

    import spinmd
    from spinmd.backend import make_backend

    facts: dict[str, Any] = {
        "spinmd": spinmd.__version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
    }
    for name in ("numba", "numpy", "h5py", "ase", "pydantic", "scipy", "torch"):
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = "not installed"
    facts["cpu"] = _processor()
    facts["cores"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts["threads"] = make_backend().threads
    facts["threading_layer"] = _threading_layer()
    facts |= _gpus()
    facts["cache"] = str(numba.config.CACHE_DIR) or "__pycache__ beside the sources"
    return facts


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(text.split(":", 1)[1].strip() for text in file if text.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _threading_layer() -> str:
    import numba

    try:
        return numba.threading_layer()
    except ValueError:  # known only once a parallel kernel has run
        return f"{numba.config.THREADING_LAYER} (chosen at the first parallel kernel)"


def _gpus() -> dict[str, str]:
    """What there is of GPUs and their software; what a broken driver does must not keep information from being printed."""
    from spinmd.device import facts

    try:
        return dict(facts())
    except Exception as error:
        return {"cuda": f"not available: the driver cannot be asked ({type(error).__name__}: {error})"}
