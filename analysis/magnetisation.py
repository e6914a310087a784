"""Magnetisation of a run: its mean, susceptibility and Binder cumulant, of sublattices and of the staggered order, with errors.

    m(t) = (1/n) Σ_i S_i over the n magnetic atoms, µB;  M = ⟨|m|⟩,  m_red = ⟨|m|⟩ / mean reference moment
    χ    = n µ_B (⟨|m|²⟩ − ⟨|m|⟩²) / (k_B T)        µB/T per magnetic atom: of the length of m, for ordered magnets
    χ₀   = n µ_B ⟨|m|²⟩ / (3 k_B T)                 where there is no order and no field: the mean over directions
    χ_aa = n µ_B (⟨m_a²⟩ − ⟨m_a⟩²) / (k_B T)        response of one component to a field along it
    U    = 1 − ⟨|m|⁴⟩ / (3 ⟨|m|²⟩²)

The thermo table has m in every row, so these come from all rows; sublattices and staggered order need frames. Errors are those
of the bootstrap of blocks. Without a bath fluctuations are others: see the notes.
"""

from collections.abc import Sequence

import numpy as np

from spinmd.analysis.conditions import (
    bath_temperature,
    ensemble,
    finite_mean,
    has_bath,
    magnetic_count,
    mean_moment,
    mean_volume,
    negative_rows,
)
from spinmd.analysis.figures import UNITS, abscissa, label, legend, points
from spinmd.analysis.reading import EQUILIBRIUM, Window, pieces
from spinmd.analysis.results import Result, with_error
from spinmd.analysis.statistics import Blocks, too_short
from spinmd.analysis.sublattices import by_element, by_site, pattern_of
from spinmd.errors import InputError
from spinmd.trajectory import Trajectory
from spinmd.units import BOHR_MAGNETON, BOLTZMANN, ELEMENTARY_CHARGE, VACUUM_PERMEABILITY

AXES = "xyz"
SUBLATTICES = ("element", "site")
LADDER = "temperature"  # the axis of parallel tempering


def magnetic_order(
    trajectory: Trajectory, window: Window = EQUILIBRIUM, *, sublattices: str | None = None, wavevector=None,
    series: bool = True, progress: bool = False,
) -> Result:  # fmt: skip
    """Magnetisation, susceptibilities and Binder cumulant of one run, with errors.

    sublattices  "element" or "site" (atom of the deck's unit cell): their mean moments, too, from frames
    wavevector   (3,) of a staggered order, in units of the reciprocal vectors of the deck's unit cell; None: the signs that an
                 antiferromagnetic deck began with, where it did
    series       keep the moments of all rows, for the figure

    Quantities (of parallel tempering with an axis "temperature"): temperature K, magnetisation µB (⟨|m|⟩ per magnetic atom),
    magnetisation_{x,y,z}, mean_square µB², reduced, susceptibility, susceptibility_disordered, susceptibility_{xx,yy,zz} µB/T,
    susceptibility_si, binder; staggered and staggered_{reduced,susceptibility,binder}; magnetisation_NAME and reduced_NAME of
    sublattices; time ps, moment_x, ..., moment_length µB with ``series``. InputError without magnetic atoms.
    """
    if sublattices not in (None, *SUBLATTICES):
        raise InputError(f"expected {' or '.join(SUBLATTICES)}, got {sublattices!r}", "--sublattices")
    count, moment = magnetic_count(trajectory), mean_moment(trajectory)
    settings = {**window.settings(), "sublattices": sublattices, "wavevector": _plain(wavevector)}
    result = Result("magnetisation", settings=settings, sources=[str(trajectory.path)])
    chosen = window.chosen_rows(trajectory)
    thermo = trajectory.thermo
    ladder = ladder_rows(trajectory, chosen)
    if ladder is not None:
        temperatures, vectors = ladder
        result.add(LADDER, temperatures, "K", "of each replica", axes=(LADDER,))
    else:
        vectors = np.stack([thermo[f"magnetisation_{axis}"][chosen] for axis in AXES], axis=1)[:, None]
        temperatures = np.array([temperature_of(trajectory, thermo["spin_temperature"][chosen], result)])
        result.add("temperature", temperatures[0], "K", "of the bath" if has_bath(trajectory) else "mean of the spins'")
    axes = () if ladder is None else (LADDER,)
    _add_order(result, "", vectors, temperatures, count, moment, axes, "of the magnetisation")
    factor = _si_factor(count / mean_volume(trajectory))
    for name in ("susceptibility", "susceptibility_disordered"):
        one = result.quantity(name)
        error = None if one.error is None else factor * one.error
        result.add(
            f"{name}_si", factor * one.values, "1", "the same as M/H in SI, without unit: times µ0 n/V", error, axes
        )
    if not has_bath(trajectory):
        result.notes.append(
            f"{trajectory.path.name} has no bath in its last stage ({ensemble(trajectory)}): fluctuations at constant energy, and "
            "with isotropic exchange at constant total moment, are no susceptibilities"
        )
    pattern = pattern_of(trajectory, wavevector)
    groups = {None: dict, "element": by_element, "site": by_site}[sublattices]
    groups = groups(trajectory) if groups is not dict else {}
    if ladder is not None:
        if wavevector is not None or groups:
            raise InputError(
                "parallel tempering stores frames of its lowest temperature only, so that sublattices and staggered order are not "
                "known; run monte-carlo at each temperature with spinmd sweep",
                str(trajectory.path),
            )
    elif pattern is not None or groups:
        _add_from_frames(
            result, trajectory, window, pattern, groups, temperatures, wavevector is not None or groups, progress
        )
    if series and ladder is None:
        result.add("time", thermo["time"][chosen], "ps", "of the rows", axes=("time",))
        result.add("step", thermo["step"][chosen], "1", "of the rows", axes=("time",))
        for k, axis in enumerate(AXES):
            result.add(f"moment_{axis}", vectors[:, 0, k], "muB", "mean moment in each row", axes=("time",))
        result.add("moment_length", np.linalg.norm(vectors[:, 0], axis=1), "muB", "its length", axes=("time",))
    return result


def ladder_rows(trajectory: Trajectory, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Temperatures (R,) K and mean moments (rows, R, 3) µB of parallel tempering; None for another ensemble."""
    arrays = trajectory.row_arrays
    if ensemble(trajectory) != "parallel-tempering" or "magnetisation" not in arrays:
        return None
    vectors, temperatures = arrays["magnetisation"][chosen], arrays["temperature"][chosen]
    good = np.isfinite(vectors).all(axis=(1, 2)) & np.isfinite(temperatures).all(axis=1)
    if not good.any():
        raise InputError("holds no rows of parallel tempering; run longer", str(trajectory.path))
    return temperatures[good][-1], vectors[good]


def temperature_of(trajectory: Trajectory, rows: np.ndarray, result: Result) -> float:
    """K: of the bath, or else the mean spin temperature of these rows, which a note then says."""
    kelvin = bath_temperature(trajectory)
    if kelvin is None:
        kelvin = finite_mean(rows)
        stands = (
            f"the mean spin temperature, {kelvin:.4g} K, stands for it"
            if kelvin > 0.0
            else "there are no susceptibilities"
        )
        result.notes.append(f"{trajectory.path.name} has no bath of one constant temperature: {stands}")
        note = negative_rows(trajectory, rows)
        if note is not None:
            result.notes.append(note)
    return kelvin


def _add_order(result, prefix, vectors, temperatures, count, moment, axes, words) -> None:
    """Moments of ``vectors`` (rows, T, components) µB as quantities; names begin with ``prefix``."""
    estimates, blocks = [], []
    for k, kelvin in enumerate(temperatures):
        one = order_blocks(vectors[:, k], seed=k)
        blocks.append(one)
        estimates.append(one.values(lambda mean, kelvin=kelvin: _lengths(mean, count, moment, kelvin)))
        if not prefix:
            # directions wander for longer than lengths fluctuate: blocks of their own
            own = Blocks(np.column_stack([vectors[:, k], vectors[:, k] ** 2]), vectors[:, k], seed=k)
            parts = own.values(lambda mean, kelvin=kelvin: _components(mean, count, kelvin))
            estimates[-1] = tuple(map(np.concatenate, zip(estimates[-1], parts, strict=True)))
    values = np.array([value for value, _ in estimates])
    errors = np.array([error for _, error in estimates])
    components = [f"_{axis}" for axis in AXES] if not prefix else []
    names = [
        (prefix or "magnetisation", "muB", f"length {words} per magnetic atom, ⟨|m|⟩"),
        (f"{prefix}_square" if prefix else "mean_square", "muB^2", "⟨|m|²⟩"),
        (f"{prefix}_reduced" if prefix else "reduced", "1", "⟨|m|⟩ in units of the mean reference moment"),
        (f"{prefix}_susceptibility" if prefix else "susceptibility", "muB/T", "of the length, per magnetic atom"),
        (
            f"{prefix}_susceptibility_disordered" if prefix else "susceptibility_disordered",
            "muB/T",
            "with ⟨m⟩ = 0, mean over directions, per magnetic atom",
        ),
        (f"{prefix}_binder" if prefix else "binder", "1", "cumulant 1 − ⟨m⁴⟩/(3⟨m²⟩²)"),
    ]
    if components:
        names += [(f"magnetisation{c}", "muB", "component of ⟨m⟩") for c in components]
        names += [(f"susceptibility_{a}{a}", "muB/T", "response of a component to a field along it") for a in AXES]
    for k, (name, unit, meaning) in enumerate(names):
        value, error = (values[:, k], errors[:, k]) if axes else (values[0, k], errors[0, k])
        result.add(name, value, unit, meaning, error, axes)
    worst = max(blocks, key=lambda one: one.tau)
    tau = np.array([one.tau for one in blocks])
    name = f"{prefix}_correlation_time" if prefix else "correlation_time"
    result.add(name, tau if axes else tau[0], "1", f"of |m|², in {'frames' if prefix else 'rows'}", axes=axes)
    note = too_short(worst.rows, worst.tau, "frames" if prefix else "rows")
    if note is not None:
        result.notes.append(f"{result.sources[0].rpartition('/')[2]}: {note}")


def order_blocks(vectors: np.ndarray | Sequence[np.ndarray], seed: int = 0) -> Blocks:
    """Blocks of |m|, |m|² and |m|⁴, of (rows, components) or of a list of independent runs."""
    squares = [(part**2).sum(axis=1) for part in (vectors if isinstance(vectors, list) else [vectors])]
    return Blocks([np.column_stack([np.sqrt(one), one, one**2]) for one in squares], squares, seed)


def _factor(count: int, kelvin: float) -> float:
    """1/T: n µ_B/(k_B T), from µB² to µB/T per atom."""
    return count * BOHR_MAGNETON / (BOLTZMANN * kelvin) if kelvin > 0.0 else np.nan


def _lengths(mean: np.ndarray, count: int, moment: float, kelvin: float) -> np.ndarray:
    """What ``_add_order`` names first, from means as ``order_blocks`` has them."""
    length, square, fourth = mean[..., 0], mean[..., 1], mean[..., 2]
    factor = _factor(count, kelvin)
    with np.errstate(invalid="ignore", divide="ignore"):
        cumulant = 1.0 - fourth / (3.0 * square**2)
    longitudinal = factor * np.maximum(square - length**2, 0.0)
    return np.stack([length, square, length / moment, longitudinal, factor * square / 3.0, cumulant], axis=-1)


def _components(mean: np.ndarray, count: int, kelvin: float) -> np.ndarray:
    """⟨m_a⟩ and χ_aa of the three components, from their means and mean squares."""
    first, second = mean[..., :3], mean[..., 3:]
    return np.concatenate([first, _factor(count, kelvin) * np.maximum(second - first**2, 0.0)], axis=-1)


def staggered_rows(trajectory: Trajectory, window: Window, pattern: np.ndarray, progress: bool = False) -> np.ndarray:
    """(frames, 3 patterns) µB: (1/n) Σ_i p_i S_i of each pattern (patterns, N) over the n magnetic atoms that are stored."""
    weights = pattern / np.count_nonzero(trajectory.moments > 0.0)
    rows = [
        np.einsum("pn,fnk->fpk", weights, spins.astype(np.float64, copy=False)).reshape(len(spins), -1)
        for _, spins in pieces(window.frames(trajectory), "spins", progress=progress, label="staggered")
    ]
    return np.concatenate(rows)


def _add_from_frames(result, trajectory, window, pattern, groups, temperatures, asked, progress) -> None:
    """Staggered order and sublattices. Without a request, what has no frames is left out with a note."""
    if len(window.frames(trajectory)) < 2:
        if asked:
            window.frames(trajectory, fewest=2)
        result.notes.append(
            f"{trajectory.path.name} stores too few frames for the staggered magnetisation; set output.trajectory"
        )
        return
    names = list(groups)
    stacked = [*(pattern if pattern is not None else []), *(groups[name].astype(float) for name in names)]
    rows = staggered_rows(trajectory, window, np.array(stacked), progress)
    magnetic = trajectory.moments > 0.0
    stored, moment = int(np.count_nonzero(magnetic)), float(trajectory.moments[magnetic].mean())
    if pattern is not None:
        vectors = rows[:, None, : 3 * len(pattern)]
        _add_order(result, "staggered", vectors, temperatures, stored, moment, (), "of the staggered moment")
    for k, name in enumerate(names, start=0 if pattern is None else len(pattern)):
        share = np.count_nonzero(groups[name]) / stored
        blocks = order_blocks(rows[:, 3 * k : 3 * k + 3] / share)
        length = blocks.estimate(lambda mean: mean[..., 0])
        own = float(trajectory.moments[groups[name]].mean())
        result.add(f"magnetisation_{name}", length.value, "muB", f"⟨|m|⟩ per atom of {name}", length.error)
        result.add(f"reduced_{name}", length.value / own, "1", "in units of its reference moment", length.error / own)


def _si_factor(density: float) -> float:
    """Dimensionless volume susceptibility of 1 µB/T per atom at ``density`` atoms per Å³: µ0 µB n/V."""
    return VACUUM_PERMEABILITY * BOHR_MAGNETON * ELEMENTARY_CHARGE * density * 1.0e30


def _plain(values) -> list[float] | None:
    return None if values is None else [float(x) for x in values]


# ---------------------------------------------------------------------- figures


def draw_magnetisation(result: Result, figure) -> None:
    """Of one run the time series; of several, or of parallel tempering, magnetisation, susceptibility and cumulant."""
    if "time" in result and result.quantity("magnetisation").values.ndim == 0:
        _draw_series(result, figure)
        return
    if result.quantity("magnetisation").axes == (LADDER,):
        x, words = result["temperature"], label("temperature", "K")
    elif result.quantity("magnetisation").values.ndim <= 1:
        x, words = abscissa(result)
    else:
        raise InputError("several runs of parallel tempering have no common figure; see spinmd analyze curie", "--plot")
    staggered = "staggered" in result
    panels = figure.subplots(1, 3)
    parts = {"magnetisation": "⟨|m|⟩", **({"staggered": "staggered"} if staggered else {})}
    for name in result.quantities:
        if name.startswith("magnetisation_") and name[-2:] not in ("_x", "_y", "_z"):
            parts[name] = name.removeprefix("magnetisation_").replace("_", " ")
    for kind, (name, text) in enumerate(parts.items()):
        points(panels[0], result, name, x, kind=kind, label=text if len(parts) > 1 else "")
    legend(panels[0])
    points(panels[1], result, "staggered_susceptibility" if staggered else "susceptibility", x)
    points(panels[2], result, "staggered_binder" if staggered else "binder", x)
    for value, text in ((2.0 / 3.0, "ordered"), (4.0 / 9.0, "disordered")):
        panels[2].axhline(value, color="0.5", linewidth=1, linestyle="--", zorder=0)
        place = {"xytext": (0, 3), "textcoords": "offset points", "ha": "right"}
        panels[2].annotate(text, (x.max(), value), color="0.4", fontsize=9, **place)
    order = "staggered " if staggered else ""
    panels[0].set(xlabel=words, ylabel=label("magnetisation per atom", "muB"), ylim=(0, None))
    panels[1].set(xlabel=words, ylabel=f"{order}susceptibility (µB/T per atom)", ylim=(0, None))
    panels[2].set(xlabel=words, ylabel=f"{order}Binder cumulant")


def _draw_series(result: Result, figure) -> None:
    axes = figure.subplots()
    time = result["time"]
    x, words = (time, label("time", "ps")) if np.ptp(time) > 0.0 else (result["step"], "step (sweeps)")
    for k, axis in enumerate(AXES):
        axes.plot(x, result[f"moment_{axis}"], linewidth=0.9, color=f"C{k}", label=f"$m_{axis}$")
    axes.plot(x, result["moment_length"], color="0.15", label="|m|")
    value, error = result["magnetisation"], result.error("magnetisation")
    axes.axhline(value, color="0.5", linestyle="--", linewidth=1)
    unit = UNITS["muB"]
    axes.set(xlabel=words, ylabel=label("mean moment per atom", "muB"))
    axes.set_title(f"⟨|m|⟩ = ({with_error(value, error)}) {unit}", loc="left")
    axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.7, 1.0))
