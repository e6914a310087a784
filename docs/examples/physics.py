"""Physics decks of inputs/ against what is exactly known: runs one, prints measured and exact numbers, draws the figure.

    python docs/examples/physics.py damped_precession      # writes damped_precession.png into the present folder
    python docs/examples/physics.py all --figures docs/images --runs /tmp/physics

docs/physics.md shows the figures and says what is compared. With --runs the files of the runs stay, and sweeps that are there
already are not run again. From Python, ``CASES[name](folder, changes)`` gives the numbers and a function that draws.
"""

import argparse
import resource
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from scipy.optimize import least_squares, root

import spinmd
from spinmd.analysis.binder import binder_crossing
from spinmd.textures import langevin
from spinmd.units import BOHR_MAGNETON, BOLTZMANN, HBAR, convert

matplotlib.use("Agg")  # draws into files: no screen needed
import matplotlib.pyplot as plt

DECKS = Path(__file__).resolve().parents[2] / "inputs"
GAMMA = 2.0 * BOHR_MAGNETON / HBAR  # rad/(ps T)
ANGLES = (1.0, 20.0, 45.0, 70.0, 89.0)  # degrees, between the easy axis and the field
MOMENTS = (1.0, 2.2, 5.0)  # µB
PARAMAGNET = (4.0, 8.0, 15.0, 30.0, 60.0, 120.0)  # K
RATIOS = (0.2, 0.4, 0.7, 1.0)  # D/J
IRON = (100.0, 300.0, 500.0, 700.0, 900.0, 1000.0, 1050.0, 1100.0, 1200.0, 1400.0)  # K


@dataclass
class Row:
    """One number: measured, exact, and the standard error of the measured one where it has any."""

    what: str
    measured: float
    exact: float
    unit: str = ""
    error: float = 0.0

    @property
    def deviation(self) -> float:
        return self.measured - self.exact

    def __str__(self):
        error = f" ± {self.error:.2g}" if self.error else ""
        return (
            f"{self.what:44} {self.measured:12.6g}{error:10} expected {self.exact:12.6g} {self.unit:8} "
            f"deviation {self.deviation:.2g}" + (f" ({self.deviation / self.exact:.2%})" if self.exact else "")
        )


@dataclass
class Result:
    rows: list[Row]
    draw: Callable[["plt.Figure"], None]


def run(name: str, folder: Path, changes: Mapping | None = None) -> spinmd.Trajectory:
    """Run a deck of inputs/ on one thread; its file goes to ``folder``."""
    output = {"output.file": str(folder / f"{name}.h5")}
    deck = spinmd.load_deck(DECKS / f"{name}.toml", {**(changes or {}), **output})
    with spinmd.build(deck, threads=1, force=True) as simulation:
        simulation.run()
    return spinmd.Trajectory(folder / f"{name}.h5")


def sweep(name: str, folder: Path, over: Mapping, changes: Mapping | None = None):
    """Run a deck at every point of a grid; points that ``folder`` has already are kept."""
    return spinmd.sweep(DECKS / f"{name}.toml", over, changes or {}, folder=folder / name)


def files(result, folder: Path) -> list[Path]:
    return [folder / str(name) for name in result.points["file"].ravel()]


# --- one moment in a field ---


def damped_precession(folder: Path, changes: Mapping | None = None) -> Result:
    """φ = ω t and s_z = tanh(α ω t + artanh s_z(0)), ω = γB/(1 + α²)."""
    trajectory = run("damped_precession", folder, changes)
    thermo, settings = trajectory.thermo, trajectory.settings
    alpha = settings["integrator"]["spin_damping"]
    field = convert(settings["potential"][0]["parameters"]["field"][2], "field")
    t = thermo["time"]
    s = np.stack([thermo[f"magnetisation_{axis}"] for axis in "xyz"], axis=1) / trajectory.moments[0]
    omega = GAMMA * field / (1.0 + alpha**2)
    z = np.tanh(alpha * omega * t + np.arctanh(s[0, 2]))
    phi = np.arctan2(s[0, 1], s[0, 0]) + omega * t
    exact = np.stack([np.sqrt(1 - z * z) * np.cos(phi), np.sqrt(1 - z * z) * np.sin(phi), z], axis=1)
    seen = np.hypot(s[:, 0], s[:, 1]) > 0.05
    measured = np.polyfit(t[seen], np.unwrap(np.arctan2(s[seen, 1], s[seen, 0])), 1)[0]
    rate = np.polyfit(t[seen], np.arctanh(s[seen, 2]), 1)[0]
    rows = [
        Row("angular frequency ω", measured, omega, "rad/ps"),
        Row("rate αω", rate, alpha * omega, "1/ps"),
        Row("largest deviation of a component", np.abs(s - exact).max(), 0.0),
    ]

    def draw(figure):
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        for k, axis in enumerate("xyz"):
            above.plot(t, exact[:, k], color=f"C{k}", linewidth=1)
            above.plot(t[::5], s[::5, k], "o", color=f"C{k}", markersize=3, label=f"$s_{axis}$")
            below.plot(t, 1e3 * (s[:, k] - exact[:, k]), color=f"C{k}", linewidth=1)
        above.set(ylabel="direction of the moment", title=f"one moment, B = {field:g} T, α = {alpha:g}")
        above.legend(frameon=False, loc="lower right", title="points: spinmd\nlines: exact")
        below.set(xlabel="time (ps)", ylabel="deviation (10⁻³)", xlim=(0, t[-1]))

    return Result(rows, draw)


# --- paramagnet ---


def langevin_paramagnet(
    folder: Path, changes: Mapping | None = None, moments: Iterable = MOMENTS, temperatures: Iterable = PARAMAGNET
) -> Result:
    """⟨e_z⟩ = coth x − 1/x, x = m µB B/(k_B T)."""
    moments, temperatures = np.array(moments), np.array(temperatures)
    over = {"structure.spins.moments.Fe": moments, "integrator.temperature": temperatures}
    result = sweep("langevin_paramagnet", folder, over, changes)
    field = 20.0
    mean, error = (table["magnetisation_z"] / moments[:, None] for table in (result, result.error))
    x = moments[:, None] * BOHR_MAGNETON * field / (BOLTZMANN * temperatures)
    exact = np.vectorize(langevin)(x)
    rows = [
        Row(f"⟨e_z⟩ of {m:g} µB at {t:g} K", mean[i, k], exact[i, k], "", error[i, k])
        for i, m in enumerate(moments)
        for k, t in enumerate(temperatures)
    ]

    def draw(figure):
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.2))
        grid = np.geomspace(0.6 * x.min(), 1.6 * x.max(), 200)
        above.plot(grid, [langevin(value) for value in grid], color="black", linewidth=1, label="coth x − 1/x")
        below.axhline(0.0, color="black", linewidth=1)
        for i, (m, marker) in enumerate(zip(moments, "os^", strict=True)):
            above.plot(x[i], mean[i], marker, color=f"C{i}", label=f"m = {m:g} µB")
            below.errorbar(x[i], 1e3 * (mean[i] - exact[i]), 1e3 * error[i], fmt=marker, color=f"C{i}", capsize=2)
        above.set(ylabel=r"$\langle e_z\rangle$", title=f"1000 free moments in a bath, B = {field:g} T", xscale="log")
        above.legend(frameon=False)
        below.set(xlabel=r"$x = m\,\mu_B B/(k_B T)$", ylabel="deviation (10⁻³)")

    return Result(rows, draw)


# --- Stoner and Wohlfarth ---


def stoner_wohlfarth(h: np.ndarray, psi: float) -> np.ndarray:
    """m·B/|B| along a path of fields h = B/B_K: the minimum of ½ sin²(φ − ψ) − h cos φ in which the moment is caught, ψ in rad."""
    phi, found = 0.0, []
    for value in h:
        for _ in range(20000):
            slope = 0.5 * np.sin(2.0 * (phi - psi)) + value * np.sin(phi)
            if abs(slope) < 1e-9:
                break
            phi -= slope / max(abs(np.cos(2.0 * (phi - psi)) + value * np.cos(phi)), 0.3)
        found.append(np.cos(phi))
    return np.array(found)


def hysteresis(folder: Path, changes: Mapping | None = None, angles: Iterable = ANGLES) -> Result:
    """The loop of a macrospin; it switches at B_sw = B_K (cos^⅔ψ + sin^⅔ψ)^(−3/2)."""
    angles = np.radians(np.array(angles))
    axes = [[float(np.sin(psi)), 0.0, float(np.cos(psi))] for psi in angles]
    result = sweep("hysteresis", folder, {"potential.0.parameters.axis": axes}, changes)
    loops, rows = [], []
    exact = (np.cos(angles) ** (2 / 3) + np.sin(angles) ** (2 / 3)) ** -1.5
    for psi, path, limit in zip(angles, files(result, folder / "hysteresis"), exact, strict=True):
        trajectory = spinmd.Trajectory(path)
        terms, m = trajectory.settings["potential"], trajectory.moments[0]
        anisotropy_field = 2.0 * convert(terms[0]["parameters"]["K"], "energy") / (m * BOHR_MAGNETON)
        drive = terms[1]["parameters"]["field"]
        h = np.interp(trajectory.thermo["time"], drive["times"], np.array(drive["fields"])[:, 2]) / anisotropy_field
        cosine = trajectory.thermo["magnetisation_z"] / m
        half = h.argmin()
        jump = np.abs(np.diff(cosine[:half])).argmax()
        rows.append(Row(f"B_sw/B_K at {np.degrees(psi):.0f}°", -h[jump], limit))
        loops.append((h, cosine))

    def draw(figure):
        left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
        path = np.concatenate([np.linspace(1.2, -1.2, 481), np.linspace(-1.2, 1.2, 481)])
        for k, (psi, (h, cosine)) in enumerate(zip(angles, loops, strict=True)):
            left.plot(path, stoner_wohlfarth(path, psi), color=f"C{k}", linewidth=1)
            for branch in (slice(0, h.argmin()), slice(h.argmin(), None)):
                chosen = np.abs(h[branch, None] - path[:481:24]).argmin(axis=0)
                label = f"ψ = {np.degrees(psi):.0f}°" if branch.start == 0 else None
                left.plot(h[branch][chosen], cosine[branch][chosen], "o", color=f"C{k}", markersize=3.5, label=label)
        left.set(xlabel="$B/B_K$", ylabel="moment along the field, $m_B/m$", title="points: spinmd, lines: exact")
        figure.legend(*left.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=5)
        psi = np.radians(np.linspace(0, 90, 400))
        right.plot(
            np.degrees(psi), (np.cos(psi) ** (2 / 3) + np.sin(psi) ** (2 / 3)) ** -1.5, color="black", linewidth=1
        )
        right.plot(np.degrees(angles), [row.measured for row in rows], "o", color="C3")
        right.set(xlabel="angle ψ of axis and field (°)", ylabel="switching field $B_{sw}/B_K$", ylim=(0.4, 1.05))
        right.set_xticks(range(0, 91, 15))

    return Result(rows, draw)


# --- domain wall ---


def discrete_wall(n: int, ratio: float) -> np.ndarray:
    """e_z of the wall of a chain of n spins, the ends up and down, at rest; ratio = K/J.

    No torque: sin(θ_i − θ_{i−1}) − sin(θ_{i+1} − θ_i) + (K/J) sin 2θ_i = 0.
    """
    x = np.arange(n) - 0.5 * (n - 1)
    start = 2.0 * np.arctan(np.exp(x * np.sqrt(2.0 * ratio)))
    start[0], start[-1] = 0.0, np.pi

    def torque(inner):
        theta = np.concatenate([[0.0], inner, [np.pi]])
        turn = np.sin(np.diff(theta))
        return turn[:-1] - turn[1:] + ratio * np.sin(2.0 * inner)

    inner = root(torque, start[1:-1], tol=1e-13).x
    return np.cos(np.concatenate([[0.0], inner, [np.pi]]))


def wall(x: np.ndarray, centre: float, width: float) -> np.ndarray:
    return -np.tanh((x - centre) / width)


def fitted_wall(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Centre and Δ of the profile that is nearest to z."""
    return least_squares(lambda p: wall(x, *p) - z, (x.mean(), 0.1 * np.ptp(x)), xtol=1e-12).x


def domain_wall(folder: Path, changes: Mapping | None = None) -> Result:
    """Width π √(A/K_v) = π a √(J/(2K)), and every spin of the discrete chain."""
    trajectory = run("domain_wall", folder, changes)
    settings = trajectory.settings
    exchange, anisotropy = (settings["potential"][k]["parameters"] for k in (0, 1))
    a = settings["structure"]["lattice_constant"]
    ratio = convert(anisotropy["K"], "energy") / convert(exchange["J"][0], "energy")
    delta = a / np.sqrt(2.0 * ratio)
    x = np.array(trajectory.positions[0])[:, 0]
    x -= x.mean()
    z = [np.array(trajectory.spins[k])[:, 2] / trajectory.moments[0] for k in range(len(trajectory))]
    centre, width = fitted_wall(x, z[-1])
    chain = discrete_wall(len(x), ratio)
    rows = [
        Row("width πΔ (continuum)", np.pi * width, np.pi * delta, "Å"),
        Row("width πΔ (discrete chain)", np.pi * width, np.pi * fitted_wall(x, chain)[1], "Å"),
        Row("centre", centre, 0.0, "Å"),
        Row("largest deviation of e_z (discrete chain)", np.abs(z[-1] - chain).max(), 0.0),
    ]

    def draw(figure):
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        fine = np.linspace(x[0], x[-1], 500)
        above.plot(x, z[0], color="0.75", linewidth=1, label="start")
        above.plot(fine, wall(fine, 0.0, delta), color="black", linewidth=1, label="−tanh(x/Δ)")
        above.plot(x, z[-1], "o", markersize=3.5, color="C0", label=f"spinmd, {trajectory.times[-1]:.0f} ps")
        above.axvspan(-0.5 * np.pi * delta, 0.5 * np.pi * delta, color="0.93", zorder=0)
        above.text(-0.5 * np.pi * delta + 3, -0.85, f"πΔ = {np.pi * delta:.1f} Å")
        above.set(ylabel="$e_z$", title=f"domain wall, J/K = {1.0 / ratio:g}")
        above.legend(frameon=False)
        below.plot(x, 1e3 * (z[-1] - wall(x, 0.0, delta)), label="from −tanh(x/Δ)")
        below.plot(x, 1e3 * (z[-1] - chain), label="from the discrete chain")
        below.set(xlabel="x (Å)", ylabel="deviation (10⁻³)", xlim=(-150, 150))
        below.legend(frameon=False, fontsize="small")

    return Result(rows, draw)


# --- helix ---


def dmi_spiral(folder: Path, changes: Mapping | None = None, ratios: Iterable = RATIOS) -> Result:
    """λ = 2π a/arctan(D/J), from the mean turn between neighbours."""
    ratios, exchange = np.array(ratios), 0.01
    over = {"potential.1.parameters.D": [[float(exchange * ratio)] for ratio in ratios]}
    result = sweep("dmi_spiral", folder, over, changes)
    rows, chains = [], []
    for ratio, path in zip(ratios, files(result, folder / "dmi_spiral"), strict=True):
        trajectory = spinmd.Trajectory(path)
        a = trajectory.settings["structure"]["lattice_constant"]
        x, spins = np.array(trajectory.positions[-1])[:, 0], np.array(trajectory.spins[-1])
        layers = np.unique(np.round(x / a))
        e = np.array([spins[np.round(x / a) == k].mean(axis=0) for k in layers]) / trajectory.moments[0]
        turn = np.diff(np.unwrap(np.arctan2(e[:, 2], e[:, 1])))
        chains.append(e)
        rows.append(Row(f"λ at D/J = {ratio:g}", 2 * np.pi * a / turn.mean(), 2 * np.pi * a / np.arctan(ratio), "Å"))

    def draw(figure):
        left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
        k = int(np.abs(ratios - 0.4).argmin())
        e, period = chains[k], rows[k].exact
        x = a * np.arange(len(e))
        fine = np.linspace(x[0], x[-1], 500)
        phase = np.arctan2(e[0, 2], e[0, 1])
        for part, label, function in ((1, "$e_y$", np.cos), (2, "$e_z$", np.sin)):
            left.plot(fine, function(2 * np.pi * fine / period + phase), color=f"C{part}", linewidth=1)
            left.plot(x, e[:, part], "o", color=f"C{part}", markersize=4, label=label)
        left.plot(x, e[:, 0], "o", color="0.6", markersize=3, label="$e_x$")
        left.set(xlabel="x (Å)", ylabel="mean direction of a layer", ylim=(-1.15, 1.5))
        left.set_title(f"helix at D/J = {ratios[k]:g}; points: spinmd, lines: exact", fontsize="medium")
        left.legend(frameon=False, ncols=3, loc="upper center")
        grid = np.linspace(0.12, 1.1, 200)
        right.plot(grid, 2 * np.pi * a / np.arctan(grid), color="black", linewidth=1, label="2πa/arctan(D/J)")
        right.plot(ratios, [row.measured for row in rows], "o", color="C3", label="spinmd")
        right.set(xlabel="D/J", ylabel="period λ (Å)", ylim=(0, None))
        right.legend(frameon=False)

    return Result(rows, draw)


# --- iron ---


def equilibration(folder: Path, changes: Mapping | None = None) -> Result:
    """One temperature in the end; what the lattice loses the spins gain."""
    trajectory = run("equilibration", folder, changes)
    thermo, natoms = trajectory.thermo, trajectory.natoms
    t = thermo["time"]
    free = t > 0.3  # the bath is gone, and the lattice has shared its kinetic with its potential energy
    late = t > t[-1] / 2
    lattice, spins = thermo["lattice_temperature"][late], thermo["spin_temperature"][late]
    blocks = [
        part.mean() for part in np.array_split(spins - lattice, 5)
    ]  # long ones: energy goes to and fro for picoseconds
    of_lattice = 1000.0 * (thermo["kinetic_energy"] + thermo["lattice_potential_energy"]) / natoms
    of_spins = 1000.0 * thermo["spin_energy"] / natoms
    spread = 1000.0 * np.ptp(thermo["conserved"][free]) / natoms
    gained = of_spins[late].mean() - of_spins[free][0]
    lost = of_lattice[free][0] - of_lattice[late].mean()
    rows = [
        Row(
            "T of the spins, and of the lattice", spins.mean(), lattice.mean(), "K", np.std(blocks, ddof=1) / np.sqrt(5)
        ),
        Row("energy to the spins, and from the lattice", gained, lost, "meV/atom"),
        Row("largest change of the sum", spread, 0.0, "meV/atom"),
    ]

    def draw(figure):
        above, below = figure.subplots(2, 1, sharex=True)
        block = max(len(t) // 100, 1)

        def smooth(values):
            return values[: len(values) // block * block].reshape(-1, block).mean(axis=1)

        for name, label, colour in (("lattice", "lattice", "C3"), ("spin", "spins", "C0")):
            above.plot(t, thermo[f"{name}_temperature"], color=colour, alpha=0.25, linewidth=0.7)
            above.plot(smooth(t), smooth(thermo[f"{name}_temperature"]), color=colour, label=label)
        above.set(ylabel="temperature (K)", ylim=(0, 1300), title="bcc iron, hot lattice and cold spins, NVE")
        above.legend(frameon=False)
        for values, label, colour in ((of_lattice, "lattice", "C3"), (of_spins, "spins", "C0")):
            below.plot(t[free], values[free] - values[free][0], color=colour, label=label, linewidth=1)
        below.plot(
            t[free], (of_lattice + of_spins)[free] - (of_lattice + of_spins)[free][0], color="black", label="sum"
        )
        below.set(xlabel="time (ps)", ylabel="energy gained (meV/atom)", xlim=(0, t[-1]))
        below.legend(frameon=False)

    return Result(rows, draw)


def spin_waves(cells: int, couplings: Iterable[float], energy: float) -> float:
    """1 − |m| of classical spins of bcc to second order in energy = k_B T, from the couplings of two shells, all in eV.

    Waves with ε(q) = Σ_r J_r (1 − cos q·r), in classical statistics n(q) = k_B T/ε(q): 1 − |m| = (1/N) Σ_{q≠0} n(q). Their
    interaction in first order makes J_r smaller by the factor 1 − (1/N) Σ_{q≠0} n(q) (1 − cos q·r).
    """
    half = np.pi * np.arange(2 * cells) / cells  # q a/2; this cube holds each of the N waves four times
    x, y, z = np.meshgrid(half, half, half, indexing="ij")
    turns = np.array(
        [1.0 - np.cos(x) * np.cos(y) * np.cos(z), 1.0 - (np.cos(2 * x) + np.cos(2 * y) + np.cos(2 * z)) / 3.0]
    )

    def occupation(shells):
        gaps = np.tensordot(shells * [8, 6], turns, 1)
        return energy / np.where(gaps > 1e-9, gaps, np.inf)

    couplings = np.array(couplings)
    first = occupation(couplings)
    return float(occupation(couplings * (1.0 - (first * turns).mean(axis=(1, 2, 3)))).mean())


def rigid_iron(cells: int) -> dict:
    """The deck of iron_magnetisation.toml with its exchange only, on the rigid lattice, by Monte Carlo."""
    tables = dict(spinmd.load_deck(DECKS / "iron_magnetisation.toml").tables)
    structure = {key: value for key, value in tables["structure"].items() if key != "temperature"}
    tables["structure"] = {**structure, "supercell": [cells] * 3}
    tables["potential"] = [term for term in tables["potential"] if term["kind"] == "exchange"]
    tables["integrator"] = {"ensemble": "monte-carlo", "lattice": "frozen", "temperature": 300}
    tables["run"] = {"steps": 2000 if cells > 6 else 6000, "seed": 1}
    tables["output"] = {**tables["output"], "thermo": 2}
    return tables


def lengths(result, folder: Path, temperatures: np.ndarray) -> np.ndarray:
    """(rows, temperatures) |m| in µB of a sweep over temperatures, without the first fifth of the runs."""
    chosen = [np.flatnonzero(result.axes["integrator.temperature"] == t)[0] for t in temperatures]
    columns = [spinmd.Trajectory(files(result, folder)[k]).thermo["magnetisation"] for k in chosen]
    return np.stack([m[len(m) // 5 :] for m in columns], axis=1)


def iron_magnetisation(folder: Path, changes: Mapping | None = None, temperatures: Iterable = IRON) -> Result:
    """|m|(T) of spins and lattice, beside rigid spins by Monte Carlo, spin waves and the crossing of cumulants."""
    temperatures = np.array(temperatures)
    key, moment, near = "integrator.temperature", 2.2, np.array([1040.0, 1060.0, 1080.0, 1100.0])
    coupled = sweep("iron_magnetisation", folder, {key: temperatures}, changes)
    small = spinmd.sweep(rigid_iron(6), {key: np.union1d(temperatures, near)}, folder=folder / "rigid")
    large = spinmd.sweep(rigid_iron(12), {key: near}, folder=folder / "rigid-large")
    m, error = coupled["magnetisation"] / moment, coupled.error["magnetisation"] / moment
    order = np.argsort(small.axes[key])  # a sweep that has grown has its new values at the end
    rigid_t, rigid_m = small.axes[key][order], small["magnetisation"][order] / moment
    settings = spinmd.Trajectory(files(coupled, folder / "iron_magnetisation")[0]).settings
    law, a = settings["potential"][1]["parameters"], settings["structure"]["lattice_constant"]
    shells = [law["J0"] * (1.0 - r / law["cutoff"]) ** law["power"] for r in (np.sqrt(0.75) * a, a)]
    rows_of = lengths(small, folder / "rigid", near), lengths(large, folder / "rigid-large", near)
    curie = binder_crossing(near, *rows_of, sizes=(6, 12)).temperature
    cold, cold_error = rigid_t[0], small.error["magnetisation"][order[0]] / moment
    waves = spin_waves(6, shells, BOLTZMANN * cold)
    rows = [
        Row("Curie point of the rigid lattice, and iron's", curie.value, 1043.0, "K", curie.error),
        Row(f"1 − |m|/m at {cold:g} K, rigid, and spin waves", 1 - rigid_m[0], waves, "", cold_error),
    ]
    rows += [
        Row(f"|m|/m at {t:g} K, and of the rigid lattice", m[k], rigid_m[rigid_t == t][0], "", error[k])
        for k, t in enumerate(temperatures)
    ]

    def draw(figure):
        axes = figure.subplots()
        axes.plot(rigid_t, rigid_m, ".-", color="0.6", linewidth=1, label="rigid lattice, Monte Carlo")
        grid = np.linspace(0.0, 600.0, 25)
        curve = [1.0 - spin_waves(6, shells, BOLTZMANN * value) for value in grid]
        axes.plot(grid, curve, "--", color="black", linewidth=1.5, label="spin waves, exact to $T^2$")
        axes.errorbar(temperatures, m, error, fmt="o", color="C3", capsize=2, label="spins and lattice, Langevin")
        axes.axvline(rows[0].measured, color="C0", linewidth=1)
        axes.text(rows[0].measured + 12, 0.9, f"$T_C$ = {rows[0].measured:.0f} K\n(crossing of cumulants)", color="C0")
        axes.set(xlabel="temperature (K)", ylabel="magnetisation $|m|/m$", xlim=(0, 1500), ylim=(0, 1.05))
        axes.set_title("bcc iron, 432 atoms, moments of constant length")
        axes.legend(frameon=False, loc="lower left")

    return Result(rows, draw)


SPINS = (damped_precession, langevin_paramagnet, hysteresis, domain_wall, dmi_spiral)
CASES = {function.__name__: function for function in (*SPINS, equilibration, iron_magnetisation)}


def processor_time() -> float:
    """Seconds of this process and of those that it has waited for."""
    return sum(resource.getrusage(who).ru_utime for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def make(name: str, runs: Path, figures: Path) -> None:
    start = processor_time()
    result = CASES[name](runs)
    print(f"{name}: {processor_time() - start:.0f} s of one core")
    for row in result.rows:
        print(f"  {row}")
    figure = plt.figure(figsize=(7.2, 4.6), layout="constrained")
    result.draw(figure)
    figure.savefig(figures / f"{name}.png", dpi=100)
    plt.close(figure)
    print(f"  figure: {figures / f'{name}.png'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=[*CASES, "all"])
    parser.add_argument("--figures", type=Path, default=Path("."), help="folder of the figures")
    parser.add_argument("--runs", type=Path, help="folder of the runs, which stay; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        runs = arguments.runs or Path(temporary)
        for folder in (runs, arguments.figures):
            folder.mkdir(parents=True, exist_ok=True)
        for name in CASES if arguments.case == "all" else [arguments.case]:
            try:
                make(name, runs, arguments.figures)
            except spinmd.SpinmdError as error:
                sys.exit(f"{name}: error: {error}")


if __name__ == "__main__":
    main()
