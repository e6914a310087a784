"""``spinmd analyze spin-waves``: linear spin-wave theory of the Hamiltonian of a deck or a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spinmd.commands.common import (
    Force,
    Output,
    PathOption,
    PathUnits,
    Plot,
    Quiet,
    app,
    check_targets,
    expanded,
    finish,
    number,
    vector,
)
from spinmd.errors import InputError

if TYPE_CHECKING:
    from spinmd.analysis.brillouin import BrillouinPath, PrimitiveCell
    from spinmd.analysis.results import Result

Sources = Annotated[
    list[Path],
    typer.Argument(
        metavar="DECK|RUN.h5...", help="a deck, or the file of a run (sweep.h5: of its runs)", show_default=False
    ),
]
State = Annotated[
    str,
    typer.Option(
        "--state",
        metavar="NAME",
        help="auto, ferromagnetic, antiferromagnetic, spiral, initial or last: the state at rest",
    ),
]


OVERLAY = 400  # wave vectors of curves over a map


@app.command("spin-waves")
def spin_waves_command(
    sources: Sources,
    output: Output = None,
    plot: Plot = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a value of the deck")
    ] = None,
    state: State = "auto",
    direction: Annotated[
        str | None, typer.Option("--direction", metavar="X,Y,Z", help="of --state ferromagnetic [default: the deck's]")
    ] = None,
    wavevector: Annotated[
        str | None,
        typer.Option(
            "--wavevector",
            metavar="H,K,L",
            help="of --state spiral, along the primitive reciprocal vectors [default: the best]",
        ),
    ] = None,
    axis: Annotated[
        str | None,
        typer.Option("--axis", metavar="X,Y,Z", help="about which a spiral turns [default: as couplings want it]"),
    ] = None,
    path: PathOption = None,
    path_units: PathUnits = "conventional",
    points: Annotated[int, typer.Option("--points", metavar="N", help="wave vectors along the path")] = 300,
    temperature: Annotated[
        str | None, typer.Option("--temperature", metavar="T", help="K or with a unit: classical intensities too")
    ] = None,
    reach: Annotated[
        float | None,
        typer.Option(
            "--range", metavar="R", help="Å, of couplings of potentials like deepspin [default: twice the cutoff]"
        ),
    ] = None,
    bins: Annotated[int, typer.Option("--bins", help="of the density of states")] = 100,
    folder: Annotated[Path | None, typer.Option("--folder", help="where a run's deck has its files now")] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Spin waves of the Hamiltonian of a deck or a run: energies along a path, stiffness, gap, density of states."""
    from spinmd.analysis.results import side_by_side
    from spinmd.units import convert

    check_targets(output, plot, sources, force)
    kelvin = None if temperature is None else convert(number(temperature), "temperature", "--temperature")
    options = {
        "direction": vector(direction, "--direction"),
        "wavevector": vector(wavevector, "--wavevector"),
        "axis": vector(axis, "--axis"),
    }
    for name in ("direction", "axis"):
        if options[name] is not None and not any(options[name]):
            raise InputError("expected a direction, three numbers that are not all zero", f"--{name}")
    files, axes = expanded(sources)
    results = [
        waves_of(
            file, overrides or (), state=state, path=path, path_units=path_units, points=points, temperature=kelvin,
            live_range=reach, bins=bins, folder=folder, force=force, progress=not quiet, **options,
        )
        for file in files
    ]  # fmt: skip
    finish(results[0] if len(results) == 1 and not axes else side_by_side(results, axes), output, plot, quiet)


def waves_of(
    source: Path, overrides=(), *, state: str = "auto", path: str | None = None, path_units: str = "conventional",
    points: int = 300, temperature: float | None = None, bins: int = 100, folder: Path | None = None, force: bool = False,
    progress: bool = False, **options,
) -> "Result":  # fmt: skip
    """The Result of one deck or run; ``options`` are those of ``SpinCrystal.spin_lattice``."""
    from spinmd.analysis.spin_waves import linear_spin_waves
    from spinmd.spin_hamiltonian import spin_crystal

    found = spin_crystal(source, overrides, force=force, folder=folder).spin_lattice(state, **options)
    route = smooth_path(found.crystal, path, points, path_units)
    result = linear_spin_waves(
        found.lattice, route, temperature=temperature, bins=bins, reciprocal=found.crystal.reciprocal, progress=progress
    )
    result.sources.append(str(source))
    result.settings |= {"state": found.state, "path": path}
    result.notes = found.notes + route.notes + result.notes
    return result


def lay_over(
    result: "Result", run: Path, state: str = "auto", path: str | None = None, path_units: str = "conventional"
) -> "Result":
    """Add the spin waves of a run's Hamiltonian to the Result of ``sqw`` of this run, as curves along the same path."""
    from spinmd.analysis.brillouin import sampled_path
    from spinmd.analysis.spin_wave_theory import Waves
    from spinmd.analysis.spin_waves import visible_curves
    from spinmd.analysis.sqw_limits import folded_theory
    from spinmd.spin_hamiltonian import spin_crystal

    found = spin_crystal(run, force=True).spin_lattice(state)
    distance, energy = visible_curves(
        Waves(found.lattice), sampled_path(found.crystal, path, OVERLAY, units=path_units)
    )
    result.add("overlay_distance", distance, "1/Angstrom", "along the path", axes=("overlay_distance",))
    result.add("overlay_energy", energy, "meV", "linear spin-wave theory", axes=("overlay_distance", "mode"))
    result.notes += found.notes
    result.notes += folded_theory(result, result.settings["highest_energy"])
    return result


def smooth_path(
    crystal: "PrimitiveCell", path: str | None, points: int, units: str = "conventional"
) -> "BrillouinPath":
    """The path that is asked for; where nothing is and the structure is a chain or a film, one along its reciprocal vectors."""
    from spinmd.analysis.brillouin import sampled_path

    if path is None and not crystal.pbc.all():
        ends = [[0.0] * 3]
        for k in [k for k in range(3) if crystal.pbc[k]]:
            ends.append(list(ends[-1]))
            ends[-1][k] = 0.5
        stops = ends if len(ends) == 2 else [*ends, ends[0]]
        path = " ".join(",".join(f"{x:g}" for x in stop) for stop in stops)
    return sampled_path(crystal, path, points, units=units)
