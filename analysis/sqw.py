"""Dynamical structure factor S(q, ω) of spins, and the currents C_L(q, ω) and C_T(q, ω) of the lattice, along a path.

    S^ab(q, ω) = 1/(2πN) ∫ dt e^{iωt} ⟨S^a_{−q}(0) S^b_q(t)⟩,     S_q(t) = Σ_j S_j(t) e^{−iq·R_j}

of N magnetic atoms, in µB². It is given per meV: S(q, E) = S(q, ω)/ħ with E = ħω, so that ∫ dE S(q, E) is the static ⟨|S_q|²⟩/N.
R_j are the ideal sites; q fits into the supercell. A line at positive energy is motion as e^{−iωt}: moments that precess
right-handedly about the axis, as they do about their field, have S^{+−} there. For the lattice S is the velocity (Å/ps),
or √m times it; C_L is its part along q and C_T the mean of the two across.

The sums over atoms are matrix products of cos q·R and sin q·R with all frames of a piece; time is transformed by Welch's method
(``spectra``).
"""

import math
import re
from collections.abc import Iterator

import numpy as np

from spinmd.analysis.branches import add_branches
from spinmd.analysis.brillouin import CONVENTIONAL, BrillouinPath, PrimitiveCell, commensurate_path, primitive_cell
from spinmd.analysis.distributions import magnetic_atoms, unit_axis
from spinmd.analysis.figures import PAD, label, point_name, run_labels
from spinmd.analysis.reading import WHOLE_STAGE, Window, pieces, timestep
from spinmd.analysis.results import RUN, Result
from spinmd.analysis.spectra import MEV_PER_THZ, SEGMENTS, MeanSpectrum, Slices, Welch, welch
from spinmd.analysis.sqw_limits import Fields, beyond_frames, second_moments, shifted_energies
from spinmd.errors import InputError
from spinmd.textures import frame
from spinmd.trajectory import Trajectory
from spinmd.units import AMU, BOLTZMANN

SPINS, VELOCITIES = "spins", "velocities"
IDEAL, INSTANTANEOUS = "ideal", "instantaneous"
MEMORY = 500.0e6  # bytes of the spectra and of the segment that is being collected
PIECE = 48.0  # MB of a piece of the file: it exists three times for a moment
PHASES = 300.0e6  # bytes of cos q·R and sin q·R that are kept
SAMPLES = 32  # frames that the mean magnetisation is taken from
SIGNED = ("+-", "-+", "chirality")


def dynamical_structure_factor(
    trajectory: Trajectory, window: Window = WHOLE_STAGE, *, path: str | None = None, path_units: str = CONVENTIONAL,
    snap: bool = False, of: str = SPINS, component: str | None = None, axis=None, element: str | None = None,
    mass_weighted: bool = False, positions: str = IDEAL, segments: int = SEGMENTS, taper: str = "hann",
    quantum: bool = False, temperature: float | None = None, fit: bool = True, branches: int | None = None,
    ignore_elements: bool = False, max_energy: float | None = None, fields: Fields | None = None, progress: bool = False,
) -> Result:  # fmt: skip
    """S(q, ω) of one run along a path through the Brillouin zone.

    path, path_units, snap  see ``brillouin.commensurate_path``; None: seekpath's path
    of             "spins" or "velocities"
    component      spins: "transverse" (both components across the axis, the default), "longitudinal" (along it), "total",
                   "+-" and "-+" (S^{+−}: right-handed precession at positive energies), "chirality" (½(S^{+−} − S^{−+})),
                   Cartesian sums such as "zz" and "xx+yy"; velocities: "total" (the default), "longitudinal" and "transverse" to q,
                   Cartesian sums. Several with commas: quantities S, S_2, S_3, ...
    axis           (3,) of the spins; None: the mean magnetisation, or for antiferromagnets the axis of the sublattices
    element        only its atoms
    mass_weighted  velocities times √m: ∫ dE of the total is then 3 k_B T in eV
    positions      "ideal" sites, or the "instantaneous" positions r_j(t)
    segments, taper  of Welch's method; taper "hann" or "none"
    quantum        multiply by βE/(1 − e^{−βE}), which makes S(−E) = e^{−βE} S(E) of a classical spectrum
    temperature    K, for that; None: the mean temperature of the run's spins or lattice
    fit, branches  positions and widths of peaks, see ``branches``; None: as many as the primitive cell can have
    ignore_elements  the lattice of an alloy
    max_energy     meV, the highest that is kept; None: what the frames' spacing allows
    fields         spins (N, 3) µB -> g times fields (N, 3) eV/µB of the run's Hamiltonian, to notice waves that are folded back

    Quantities: q (nq, 3) and distance (nq,) 1/Å, reduced (nq, 3) along the primitive reciprocal vectors, label_distance
    and label (ticks,), energy (nω,) meV of both signs, frequency (nω,) THz, S (nq, nω) µB²/meV or Å²/ps²/meV, static (nq,) its
    integral, axis (3,), resolution meV; those of ``branches``.
    Raises InputError for frames that are not equally spaced, too few, or without what is asked for.
    """
    if of not in (SPINS, VELOCITIES):
        raise InputError(f"expected {SPINS} or {VELOCITIES}, got {of!r}", "--of")
    if positions not in (IDEAL, INSTANTANEOUS):
        raise InputError(f"expected {IDEAL} or {INSTANTANEOUS}, got {positions!r}", "--positions")
    if mass_weighted and of == SPINS:
        raise InputError("spins have no mass; --mass-weighted belongs to --of velocities", "--mass-weighted")
    if max_energy is not None and not max_energy > 0.0:
        raise InputError(f"expected a positive energy, got {max_energy:g}", "--max-energy")
    if branches is not None and branches < 1:
        raise InputError(f"expected at least 1, got {branches}; --no-fit leaves the peaks out", "--branches")
    if temperature is not None and not quantum:
        raise InputError(
            "a temperature belongs to the factor of detailed balance; add --quantum, or leave it out", "--temperature"
        )
    cell = primitive_cell(trajectory, ignore_elements=ignore_elements)
    along = commensurate_path(cell, trajectory.site_cell, path, units=path_units, snap=snap)
    part = trajectory.select(elements=element) if element else trajectory
    if of == SPINS:
        part = part.select(indices=magnetic_atoms(part, element))
    part.array(of)  # says so now if it is not stored
    if positions == INSTANTANEOUS:
        part.array("positions")
    part = window.frames(part, fewest=16)
    names = _names(component, of)
    longest = int(MEMORY / (len(along) * (48 + 32 * len(names))))
    plan = welch(len(part), timestep(part), segments, taper, longest)
    if max_energy is not None and max_energy > plan.energy[-1]:
        raise InputError(
            f"frames {plan.dt * 1e3:g} fs apart hold energies up to {plan.energy[-1]:.4g} meV; store them more often "
            "(output.trajectory in the deck), or leave out --max-energy",
            "--max-energy",
        )
    result = Result("sqw", settings={
        **window.settings(), **plan.settings(), "path": path, "of": of, "component": ",".join(names), "element": element,
        "positions": positions, "mass_weighted": mass_weighted, "quantum": quantum, "max_energy": max_energy,
        "highest_energy": float(plan.energy[-1]),
    })  # fmt: skip
    result.sources.append(str(trajectory.path))
    result.notes += [*along.notes, *plan.notes]
    if of == SPINS:
        direction, words = spin_axis(part) if axis is None else (unit_axis(axis), "")
        result.notes += [words] if words else []
        projections = [_spin_projections(name, direction) for name in names]
    else:
        projections = [_current_projections(name, along) for name in names]
    spectra, static = _spectra(part, along, plan, of, positions, mass_weighted, projections, progress)

    energy = plan.energy
    folded = plan.aliasing(energy, np.abs(spectra[0].mean).sum(axis=0))
    if fields is not None and of == SPINS and trajectory.natoms == trajectory.system_atoms and not folded:
        chosen = np.isin(trajectory.ids, part.ids)
        moments = second_moments(
            window.frames(trajectory), chosen, Waves(along.q, part.sites), projections[0], fields, _power
        )
        folded = beyond_frames(plan, energy, spectra[0].mean, *moments)
    result.notes += folded
    kept = slice(None) if max_energy is None else np.abs(energy) <= max_energy * (1.0 + 1.0e-9)
    factor = 1.0
    if quantum:
        kelvin = _temperature(trajectory, window, of) if temperature is None else temperature
        if not kelvin > 0.0:
            raise InputError(f"expected a positive temperature, got {kelvin:g} K", "--temperature")
        factor = _quantum(energy / (1.0e3 * BOLTZMANN * kelvin))
        result.settings["temperature"] = kelvin
        result.notes.append(
            f"S is multiplied by βE/(1 − exp(−βE)) of {kelvin:.4g} K: it has detailed balance, and its integral is no longer static"
        )
    unit = "muB^2" if of == SPINS else "eV" if mass_weighted else "Angstrom^2/ps^2"
    result.add("q", along.q, "1/Angstrom", "wave vectors", axes=("distance", "component"))
    result.add("reduced", along.reduced, "1", "along the primitive reciprocal vectors", axes=("distance", "component"))
    result.add("distance", along.distance, "1/Angstrom", "along the path", axes=("distance",))
    result.add("segment", along.segment, "1", "of the path", axes=("distance",))
    ticks, labels = zip(*along.ticks, strict=True)
    result.add("label_distance", ticks, "1/Angstrom", "of the points of the path", axes=("label_distance",))
    result.add("label", labels, "text", "names of the points of the path", axes=("label_distance",))
    result.add("energy", energy[kept], "meV", "ħω", axes=("energy",))
    result.add("frequency", energy[kept] / MEV_PER_THZ, "THz", "ω/2π", axes=("energy",))
    for k, name in enumerate(names):
        end = "" if k == 0 else f"_{k + 1}"
        error = spectra[k].error
        words = f"{name} part of S(q, E)" if of == SPINS else f"{name} current"
        spread = None if error is None else (error * factor)[:, kept]
        values = (spectra[k].mean * factor)[:, kept]
        result.add(f"S{end}", values, f"{unit}/meV", words, spread, ("distance", "energy"))
        result.add(f"static{end}", static[k], unit, f"equal-time value of the {name} part", axes=("distance",))
    if of == SPINS:
        result.add("axis", direction, "1", "of the spins", axes=("component",))
    result.add("resolution", plan.resolution, "meV", "half width at half maximum of a sharp line")
    if np.ptp(part.cells, axis=0).max() > 1.0e-6:
        result.notes.append(
            "the cell changes; wave vectors follow it, and are given in 1/Å for the first frame of the run"
        )
    if spectra[0].error is None:
        result.notes.append("one segment gives no errors; --segments 2 or more does")
    if fit and names[0] != "chirality":
        most = (
            branches if branches is not None else _most_branches(cell, np.isin(trajectory.ids, part.ids), of, names[0])
        )
        add_branches(result, along, plan, most, cell.boundary, part)
        result.notes += shifted_energies(result, trajectory) if of == SPINS and not folded else []
    return result


# ---------------------------------------------------------------------- components


def _names(component: str | None, of: str) -> list[str]:
    """The components that are asked for; InputError for unknown ones."""
    if component is None:
        return ["transverse" if of == SPINS else "total"]
    known = ("total", "transverse", "longitudinal", *(SIGNED if of == SPINS else ()))
    names = [name.strip() for name in component.split(",")]
    for name in names:
        if name not in known and not re.fullmatch(r"(xx|yy|zz)(\+(xx|yy|zz))*", name):
            raise InputError(
                f"{name!r} is no component of {of}; there are {', '.join(known)}, and sums such as zz or xx+yy",
                "--component",
            )
    return names


Projection = list[tuple[float, np.ndarray]]  # weights and complex vectors p, (3,) or (nq, 3): Σ weight |p·S_q|²


def _cartesian(name: str) -> Projection:
    return [(1.0, np.eye(3)["xyz".index(pair[0])]) for pair in name.split("+")]


def _spin_projections(name: str, axis: np.ndarray) -> Projection:
    u, v, n = frame(axis)
    right, left = u - 1j * v, u + 1j * v  # S^{+−} = |S⁻_q(ω)|²
    table = {
        "total": [(1.0, u), (1.0, v), (1.0, n)],
        "transverse": [(1.0, u), (1.0, v)],
        "longitudinal": [(1.0, n)],
        "+-": [(1.0, right)],
        "-+": [(1.0, left)],
        "chirality": [(0.5, right), (-0.5, left)],
    }
    return table[name] if name in table else _cartesian(name)


def _current_projections(name: str, along: BrillouinPath) -> Projection:
    """At q = 0 "along q" is the direction of the path there."""
    if name == "total":
        return _cartesian("xx+yy+zz")
    if name not in ("longitudinal", "transverse"):
        return _cartesian(name)
    directions = along.q.copy()
    zero = np.linalg.norm(directions, axis=1) < 1.0e-9
    directions[zero] = (along.ends[:, 1] - along.ends[:, 0])[along.segment[zero]]
    triads = np.array([frame(one) for one in directions])
    return [(1.0, triads[:, 2])] if name == "longitudinal" else [(0.5, triads[:, 0]), (0.5, triads[:, 1])]


def spin_axis(part: Trajectory) -> tuple[np.ndarray, str]:
    """Unit vector of the mean magnetisation, or of the sublattices where that nearly vanishes, and a note that says which."""
    frames = np.unique(np.linspace(0, len(part) - 1, SAMPLES).astype(int))
    mean = np.mean([part.spins[int(k)] for k in frames], axis=0, dtype=np.float64)
    total, size = mean.sum(axis=0), np.linalg.norm(mean, axis=1).sum()
    if np.linalg.norm(total) > 0.1 * size:
        direction, words = total / np.linalg.norm(total), "the mean magnetisation"
    else:
        direction, words = (
            np.linalg.eigh(mean.T @ mean)[1][:, -1],
            "the line that most moments lie along, since they cancel",
        )
        direction *= np.sign(direction[np.argmax(np.abs(direction))])
    return direction, f"the axis of the spins, ({', '.join(f'{x + 0.0:.3f}' for x in direction)}), is {words}"


def _most_branches(cell: PrimitiveCell, chosen: np.ndarray, of: str, name: str) -> int:
    """How many peaks there can be: one for each magnetic site, or one, two or three for each site of the primitive cell."""
    if of == SPINS:
        return len(np.unique(cell.site[chosen]))
    return len(cell.basis) * {"longitudinal": 1, "transverse": 2}.get(name, 3)


def _temperature(trajectory: Trajectory, window: Window, of: str) -> float:
    rows = window.rows(trajectory)
    values = rows["spin_temperature" if of == SPINS else "lattice_temperature"]
    return float(np.mean(values[np.isfinite(values)])) if np.isfinite(values).any() else math.nan


def _quantum(x: np.ndarray) -> np.ndarray:
    """x/(1 − e^{−x}), 1 at zero."""
    small = np.abs(x) < 1.0e-6
    return np.where(small, 1.0 + 0.5 * x, x / -np.expm1(-np.where(small, 1.0, np.maximum(x, -700.0))))


# ---------------------------------------------------------------------- sums over atoms and time


class Waves:
    """Σ_j e^{−iq·R_j} a_j over the atoms, for all wave vectors (nq, 3) 1/Å and all frames of a block."""

    BLOCK = 4096  # atoms of one matrix product

    def __init__(self, q: np.ndarray, sites: np.ndarray):
        self.q = q
        self._sites = [sites[k : k + self.BLOCK] for k in range(0, len(sites), self.BLOCK)]
        keep = 16.0 * len(q) * len(sites) <= PHASES
        self._phases = [self._phase(block) for block in self._sites] if keep else None

    def _phase(self, sites: np.ndarray) -> np.ndarray:
        """(2 nq, n) cos q·R and −sin q·R."""
        angle = self.q @ sites.T
        return np.concatenate([np.cos(angle), -np.sin(angle)])

    def at_sites(self, values: np.ndarray) -> np.ndarray:
        """(frames, nq, 3) complex, for values (frames, N, 3) at the ideal sites."""
        frames, total = len(values), 0.0
        for k, sites in enumerate(self._sites):
            first = k * self.BLOCK
            block = values[:, first : first + len(sites)].transpose(1, 0, 2)
            block = np.ascontiguousarray(block, dtype=np.float64).reshape(len(sites), -1)
            total = total + (self._phases[k] if self._phases else self._phase(sites)) @ block
        count = len(self.q)
        return (total[:count] + 1j * total[count:]).reshape(count, frames, 3).transpose(1, 0, 2)

    def at(self, places: np.ndarray, values: np.ndarray) -> np.ndarray:
        """The same with the positions (frames, N, 3) of each frame."""
        result = np.empty((len(values), len(self.q), 3), dtype=complex)
        for k, (place, value) in enumerate(zip(places, values, strict=True)):
            angle = self.q @ place.T
            result[k] = np.cos(angle) @ value - 1j * (np.sin(angle) @ value)
        return result


def _spectra(
    part: Trajectory, along: BrillouinPath, plan: Welch, of: str, positions: str, mass_weighted: bool, projections, progress: bool
) -> tuple[list[MeanSpectrum], list[np.ndarray]]:  # fmt: skip
    """For each projection: the mean over segments (nq, nω), and the equal-time values (nq,)."""
    natoms, count = part.natoms, len(along)
    waves = Waves(along.q, part.sites)
    scale = np.sqrt(part.masses * AMU)[:, None] if mass_weighted else None
    spectra = [MeanSpectrum(plan, (count, plan.length)) for _ in projections]
    static = [np.zeros(count) for _ in projections]
    slices = Slices(plan.length, plan.hop, (count, 3), complex)
    site_cell = part.site_cell
    share = plan.weights**2 / (natoms * plan.count * float(plan.weights @ plan.weights))
    q_block = max(1, int(20.0e6 / (48 * plan.length)))
    wanted = (of, "positions") if positions == INSTANTANEOUS else (of,)
    for piece, values, *places in pieces(part, *wanted, progress=progress, label="S(q, ω)", megabytes=PIECE):
        if scale is not None:
            values = values * scale
        if places:
            # in the frame of a changing cell the wave vectors stand still
            scaled = np.einsum(
                "fni,fij->fnj", places[0].astype(np.float64), np.linalg.solve(piece.cells, site_cell[None])
            )
            sums = waves.at(scaled, values.astype(np.float64, copy=False))
        else:
            sums = waves.at_sites(values)
        for segment in slices.add(sums):
            for first in range(0, count, q_block):
                chosen = slice(first, first + q_block)
                amplitude = plan.transform(segment[:, chosen])
                for projection, spectrum, equal in zip(projections, spectra, static, strict=True):
                    power = _power(amplitude, projection, chosen) / natoms
                    spectrum.add(power.T, chosen)
                    equal[chosen] += share @ _power(segment[:, chosen], projection, chosen)
            for spectrum in spectra:
                spectrum.next()
    return spectra, static


def _power(amplitude: np.ndarray, projection: Projection, chosen: slice) -> np.ndarray:
    """(n, nq) Σ weight |p·a|² for amplitudes (n, nq, 3)."""
    total = 0.0
    for weight, vector in projection:
        along = amplitude @ vector if vector.ndim == 1 else np.einsum("tqa,qa->tq", amplitude, vector[chosen])
        total = total + weight * (along.real**2 + along.imag**2)
    return total


# ---------------------------------------------------------------------- figure

ORDERS = 4.0  # powers of ten that the colours show
COLUMNS = 3  # panels side by side
NOTHING = "0.88"  # colour of a map where no wave vector fits into the supercell


def draw_sqw(result: Result, figure) -> None:
    """The map of S over path and energy, with branches as points and what is laid over it as lines; a panel for each run.

    Curves to lay over: quantities overlay_distance (n,) 1/Å along the path and overlay_energy (n, branches) meV.
    """
    whole = result.quantity("S")
    several = whole.axes[:1] == (RUN,)
    count = len(whole.values) if several else 1
    columns = 2 if count == 4 else min(count, COLUMNS)
    panels = figure.subplots(-(-count // columns), columns, sharex=True, sharey=True, squeeze=False).ravel()
    titles = run_labels(result, count) if several else [None]
    signed = any(name in SIGNED for name in str(result.settings.get("component", "")).split(","))
    norm, colours = _colours(
        whole.values[..., np.abs(result["energy"]) > 2.0 * _of_run(result, "resolution", 0)], signed
    )
    top = _top(result)
    for k, axes in enumerate(panels[:count]):
        image = _draw_map(axes, result, k, norm, colours)
        axes.set(ylim=(-top if signed else 0.0, top))
        axes.set_title(titles[k] or "", loc="left")
        if k % columns == 0:
            axes.set_ylabel(label("energy", "meV"))
        if k % columns == columns - 1:
            axes.secondary_yaxis(
                "right", functions=(lambda energy: energy / MEV_PER_THZ, lambda frequency: frequency * MEV_PER_THZ)
            ).set_ylabel(label("frequency", "THz"))
        axes.tick_params(labelbottom=k + columns >= count)
    for axes in panels[count:]:
        axes.set_visible(False)
    unit = whole.unit.replace("muB^2", "µB²").replace("Angstrom^2", "Å²").replace("ps^2", "ps²")
    figure.colorbar(
        image, ax=list(panels), label=label(f"{whole.meaning.replace(' part of S(q, E)', '')} S(q, E)", unit), pad=0.02
    )


def _of_run(result: Result, name: str, k: int):
    """The values of one run."""
    one = result.quantity(name)
    return one.values[k] if one.axes[:1] == (RUN,) else one.values


def _draw_map(axes, result: Result, k: int, norm, colours: str):
    distance, energy = result["distance"], result["energy"]
    ticks, names = _of_run(result, "label_distance", k), _of_run(result, "label", k)
    step = energy[1] - energy[0]
    rows = np.append(energy - 0.5 * step, energy[-1] + 0.5 * step)
    values = _of_run(result, "S", k)
    for edges, shown in _strips(distance, _of_run(result, "segment", k), ticks, names):
        image = axes.pcolormesh(edges, rows, values[shown].T, norm=norm, cmap=colours, rasterized=True)
    axes.set_facecolor(NOTHING)
    axes.grid(False)
    for place in ticks[1:-1]:
        axes.axvline(place, color="white", linewidth=0.7, alpha=0.6)
    axes.set_xticks(ticks, [point_name(name) for name in names])
    axes.tick_params(axis="x", length=0, pad=PAD)
    axes.set_xlim(ticks[0], ticks[-1])
    if "overlay_energy" in result:
        curves = axes.plot(
            _of_run(result, "overlay_distance", k), _of_run(result, "overlay_energy", k), color="#7fd4ff", linewidth=1.1
        )
        words = result.quantity("overlay_energy").meaning
        if k == 0 and words:
            curves[0].set_label(words)
            axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1, fontsize=9)  # not over the map
    if "branch_energy" in result:
        energies = _of_run(result, "branch_energy", k)
        axes.plot(
            np.repeat(distance, energies.shape[1]), energies.ravel(), "o", markersize=3.5, markerfacecolor="none",
            markeredgecolor="white", markeredgewidth=0.8,
        )  # fmt: skip
    return image


def _strips(distance, segment, ticks, names) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(edges of columns, which wave vectors) of each segment that has some; a strip ends at its ticks."""
    for k, (low, high) in enumerate(zip(ticks[:-1], ticks[1:], strict=True)):
        shown = np.flatnonzero(segment == k)
        if not len(shown):
            continue
        before = shown[0] - 1  # the end of the last segment is the beginning of this one, unless the path jumps
        if before >= 0 and "|" not in str(names[k]) and abs(distance[before] - low) < 1.0e-9 * ticks[-1]:
            shown = np.append(before, shown)
        at = distance[shown]
        half = 0.5 * float(np.diff(at).min()) if len(at) > 1 else 0.5 * (high - low)
        edges = np.concatenate([[at[0] - half], 0.5 * (at[1:] + at[:-1]), [at[-1] + half]])
        yield np.clip(edges, low, high), shown


def _top(result: Result) -> float:
    """meV, the upper end of the energy axis: a little above what is to be seen."""
    energy = result["energy"]
    if result.settings.get("max_energy"):
        return float(energy[-1])
    spectrum = np.abs(result["S"]).reshape(-1, len(energy)).sum(axis=0)
    away = np.abs(energy) > 2.0 * _of_run(result, "resolution", 0)
    weight = np.cumsum(np.where(away, spectrum + spectrum[::-1], 0.0)[energy > 0.0])
    top = energy[energy > 0.0][np.searchsorted(weight, 0.995 * weight[-1])]
    for name in ("branch_energy", "overlay_energy"):
        if name in result and np.isfinite(result[name]).any():
            top = max(float(np.nanmax(result[name])), 0.0 if name == "branch_energy" else top)
    return min(1.2 * float(top), float(energy[-1]))


def _colours(values: np.ndarray, signed: bool):
    """Logarithmic colours; for what has both signs linear around zero."""
    from matplotlib.colors import LogNorm, SymLogNorm

    high = float(np.abs(values).max()) or 1.0
    if signed and values.min() < -1.0e-6 * high:
        return SymLogNorm(1.0e-2 * high, vmin=-high, vmax=high), "RdBu_r"
    low = max(float(np.quantile(values[values > 0.0], 0.2)) if (values > 0.0).any() else 0.0, high * 10.0**-ORDERS)
    return LogNorm(min(low, 0.1 * high), high, clip=True), "magma"
