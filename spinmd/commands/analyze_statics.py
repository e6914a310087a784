"""``spinmd analyze`` of equilibrium: magnetisation, heat capacity, temperatures, pressure, T_c, g(r), spin correlation, S(q)."""

from typing import Annotated, Any

import typer

from spinmd.commands.common import (
    Average,
    Discard,
    Every,
    Force,
    From,
    Output,
    Plot,
    Quiet,
    RunFiles,
    To,
    app,
    check_targets,
    finish,
    floats,
    opened,
    vector,
    window,
)
from spinmd.errors import InputError

Element = Annotated[str | None, typer.Option("--element", help="only the atoms of this element")]
Wavevector = Annotated[
    str | None,
    typer.Option(
        "--wavevector",
        metavar="H,K,L",
        help="of a staggered order, in reciprocal units of the deck's unit cell [default: as an antiferromagnetic deck began]",
    ),
]
Bins = Annotated[int, typer.Option("--bins", help="of the histogram")]
Range = Annotated[float | None, typer.Option("--r-max", help="largest distance, Å [default: half the cell]")]


@app.command("magnetisation")
def magnetisation_command(
    runs: RunFiles,
    output: Output = None,
    plot: Plot = None,
    start: From = None,
    stop: To = None,
    every: Every = 1,
    discard: Discard = 0.2,
    sublattices: Annotated[
        str | None, typer.Option("--sublattices", help="element, or site of the unit cell: their moments, too")
    ] = None,
    wavevector: Wavevector = None,
    average: Average = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Magnetisation, susceptibility and Binder cumulant; of sublattices and of a staggered order."""
    from spinmd.analysis.magnetisation import magnetic_order

    check_targets(output, plot, runs, force)
    within = window(start, stop, every, discard)
    q = vector(wavevector, "--wavevector")
    with opened(runs) as many:
        series = len(many.trajectories) == 1 and not many.axes
        result = many.each(
            lambda one: magnetic_order(
                one, within, sublattices=sublattices, wavevector=q, series=series, progress=not quiet
            ),
            average,
        )
    finish(result, output, plot, quiet)


@app.command("heat-capacity")
def heat_capacity_command(
    runs: RunFiles,
    output: Output = None,
    plot: Plot = None,
    start: From = None,
    stop: To = None,
    discard: Discard = 0.2,
    average: Average = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Heat capacity from fluctuations of the energy in a bath, and of a sweep from the slope dE/dT."""
    from spinmd.analysis.heat_capacity import add_slope, specific_heat

    check_targets(output, plot, runs, force)
    within = window(start, stop, 1, discard)
    with opened(runs) as many:
        series = len(many.trajectories) == 1 and not many.axes
        result = add_slope(many.each(lambda one: specific_heat(one, within, series=series), average))
    finish(result, output, plot, quiet)


@app.command("temperature")
def temperature_command(
    runs: RunFiles,
    output: Output = None,
    plot: Plot = None,
    start: From = None,
    stop: To = None,
    discard: Discard = 0.2,
    average: Average = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Lattice and spin temperature, and how much they fluctuate."""
    from spinmd.analysis.temperature import temperatures

    check_targets(output, plot, runs, force)
    within = window(start, stop, 1, discard)
    with opened(runs) as many:
        series = len(many.trajectories) == 1 and not many.axes
        result = many.each(lambda one: temperatures(one, within, series=series), average)
    finish(result, output, plot, quiet)


@app.command("pressure")
def pressure_command(
    runs: RunFiles,
    output: Output = None,
    plot: Plot = None,
    start: From = None,
    stop: To = None,
    every: Every = 1,
    discard: Discard = 0.2,
    stress: Annotated[bool, typer.Option("--stress", help="the stress tensor too, from the frames")] = False,
    average: Average = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Pressure, stress, volume and lattice constants."""
    from spinmd.analysis.pressure import pressure_and_cell

    check_targets(output, plot, runs, force)
    within = window(start, stop, every, discard)
    with opened(runs) as many:
        series = len(many.trajectories) == 1 and not many.axes
        result = many.each(
            lambda one: pressure_and_cell(
                one, within, virial=_virial_of(one) if stress else None, series=series, progress=not quiet
            ),
            average,
        )
    finish(result, output, plot, quiet)


def _virial_of(trajectory: Any):
    """(cell, positions, spins) -> (3, 3) eV, with the potentials of the run; InputError where they have no virial."""
    from spinmd.evaluator import Evaluator
    from spinmd.protocols import Need
    from spinmd.resuming import resume

    place = str(trajectory.path)
    terms = list(resume(trajectory.path, steps=1).model.terms)
    evaluator = Evaluator(terms)
    if Need.VIRIAL not in evaluator.provides:
        raise InputError("a term of its energy has no virial, so that there is no stress", place)
    symbols = trajectory.symbols.tolist()

    def virial(cell, positions, spins):
        moments = trajectory.moments if spins is not None else None
        answer = evaluator(
            cell,
            positions,
            symbols,
            Need.VIRIAL,
            spins=spins,
            moments=moments,
            pbc=trajectory.pbc,
            reference=trajectory.sites,
        )
        return answer.virial

    return virial


@app.command("curie")
def curie_command(
    runs: RunFiles,
    output: Output = None,
    plot: Plot = None,
    start: From = None,
    stop: To = None,
    every: Every = 1,
    discard: Discard = 0.2,
    order: Annotated[
        str | None,
        typer.Option("--order", help="magnetisation, or staggered for a Néel temperature [default: by the deck]"),
    ] = None,
    wavevector: Wavevector = None,
    corrections: Annotated[
        bool, typer.Option("--corrections", help="take the leading correction to scaling of Heisenberg magnets out")
    ] = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Curie or Néel temperature of a sweep over temperatures: Binder crossing of several sizes, fits of one."""
    from spinmd.analysis.curie import critical_temperature

    check_targets(output, plot, runs, force)
    within = window(start, stop, every, discard)
    q = vector(wavevector, "--wavevector")
    with opened(runs) as many:
        result = critical_temperature(
            many.trajectories, within, order=order, wavevector=q, corrections=corrections, progress=not quiet
        )
    finish(result, output, plot, quiet)


@app.command("rdf")
def rdf_command(
    runs: RunFiles,
    output: Output = None,
    plot: Plot = None,
    start: From = None,
    stop: To = None,
    every: Every = 1,
    discard: Discard = 0.2,
    r_max: Annotated[
        float | None, typer.Option("--r-max", help="largest distance, Å [default: half the cell, at most 12]")
    ] = None,
    bins: Bins = 200,
    average: Average = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Radial distribution function and coordination numbers, of all atoms and by pairs of elements."""
    from spinmd.analysis.rdf import radial_distribution

    check_targets(output, plot, runs, force)
    within = window(start, stop, every, discard)
    with opened(runs) as many:
        result = many.each(
            lambda one: radial_distribution(one, within, r_max=r_max, bins=bins, progress=not quiet), average
        )
    finish(result, output, plot, quiet)


@app.command("spin-correlation")
def spin_correlation_command(
    runs: RunFiles,
    output: Output = None,
    plot: Plot = None,
    start: From = None,
    stop: To = None,
    every: Every = 1,
    discard: Discard = 0.2,
    r_max: Range = None,
    bins: Annotated[int | None, typer.Option("--bins", help="bins of equal width instead of shells")] = None,
    element: Element = None,
    form: Annotated[
        str, typer.Option("--form", help="of the fit: ornstein-zernike or exponential")
    ] = "ornstein-zernike",
    average: Average = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Spin pair correlation against distance, and the correlation length."""
    from spinmd.analysis.spin_correlation import pair_correlation

    check_targets(output, plot, runs, force)
    within = window(start, stop, every, discard)
    with opened(runs) as many:
        result = many.each(
            lambda one: pair_correlation(
                one, within, r_max=r_max, bins=bins, element=element, form=form, progress=not quiet
            ),
            average,
        )
    finish(result, output, plot, quiet)


@app.command("structure-factor")
def structure_factor_command(
    runs: RunFiles,
    output: Output = None,
    plot: Plot = None,
    start: From = None,
    stop: To = None,
    every: Every = 1,
    discard: Discard = 0.2,
    path: Annotated[
        str | None, typer.Option("--path", help="labels G-H-N or points '0,0,0 1,0,0' [default: seekpath's path]")
    ] = None,
    plane: Annotated[
        str | None, typer.Option("--plane", metavar="'H,K,L H,K,L'", help="a map spanned by two reciprocal vectors")
    ] = None,
    extent: Annotated[float, typer.Option("--extent", help="of the map, in these vectors to both sides")] = 1.0,
    zone: Annotated[
        bool, typer.Option("--zone", help="all wave vectors of the Brillouin zone, with the sum rule")
    ] = False,
    units: Annotated[
        str, typer.Option("--path-units", help="of coordinates: conventional or primitive cell")
    ] = "conventional",
    snap: Annotated[bool, typer.Option("--snap", help="also wave vectors beside the path")] = False,
    element: Element = None,
    weights: Annotated[str, typer.Option("--weights", help="directions (S/m) or moments (µB)")] = "directions",
    positions: Annotated[str, typer.Option("--positions", help="ideal or instantaneous")] = "ideal",
    ignore_elements: Annotated[
        bool, typer.Option("--ignore-elements", help="the lattice of the sites of an alloy")
    ] = False,
    average: Average = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Static structure factor S(q) of the spins on a path, in a plane or in the whole zone."""
    from spinmd.analysis.structure_factor import static_structure_factor

    check_targets(output, plot, runs, force)
    within = window(start, stop, every, discard)
    if sum((path is not None, plane is not None, zone)) > 1:
        raise InputError("choose one of --path, --plane and --zone", "--plane" if plane is not None else "--zone")
    if positions not in ("ideal", "instantaneous"):
        raise InputError(f"expected ideal or instantaneous, got {positions!r}", "--positions")
    with opened(runs) as many:
        result = many.each(
            lambda one: static_structure_factor(
                one, within, path=path, plane=_plane(plane), extent=extent, zone=zone, units=units, snap=snap,
                element=element, weights=weights, instantaneous=positions == "instantaneous",
                ignore_elements=ignore_elements, progress=not quiet,
            ),
            average,
        )  # fmt: skip
    finish(result, output, plot, quiet)


def _plane(text: str | None) -> list[list[float]] | None:
    """``1,0,0 0,1,0`` as two vectors."""
    if text is None:
        return None
    vectors = [floats(part, "--plane") for part in text.split()]
    if [len(one) for one in vectors] != [3, 3]:
        raise InputError(f"expected two vectors such as '1,0,0 0,1,0', got {text!r}", "--plane")
    return vectors
