"""``spinmd analyze`` of equilibrium: magnetisation, heat capacity, temperatures, pressure, T_c, g(r), spin correlation, S(q)."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from spinmd.commands.common import Asked, Element, IgnoreElements, PathOption, PathUnits, Snap, analysis, floats, vector
from spinmd.errors import InputError

if TYPE_CHECKING:
    from spinmd.analysis.results import Result

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


@analysis("magnetisation", discard=0.2)
def magnetisation_command(
    asked: Asked,
    sublattices: Annotated[
        str | None, typer.Option("--sublattices", help="element, or site of the unit cell: their moments, too")
    ] = None,
    wavevector: Wavevector = None,
) -> "Result":
    """Magnetisation, susceptibility and Binder cumulant; of sublattices and of a staggered order."""
    from spinmd.analysis.magnetisation import magnetic_order

    q = vector(wavevector, "--wavevector")
    return asked.each(
        lambda one, within: magnetic_order(
            one, within, sublattices=sublattices, wavevector=q, series=asked.alone, progress=asked.progress
        )
    )


@analysis("heat-capacity", discard=0.2, every=False)
def heat_capacity_command(
    asked: Asked,
) -> "Result":
    """Heat capacity from fluctuations of the energy in a bath, and of a sweep from the slope dE/dT."""
    from spinmd.analysis.heat_capacity import add_slope, specific_heat

    return add_slope(asked.each(lambda one, within: specific_heat(one, within, series=asked.alone)))


@analysis("temperature", discard=0.2, every=False)
def temperature_command(
    asked: Asked,
) -> "Result":
    """Lattice and spin temperature, and how much they fluctuate."""
    from spinmd.analysis.temperature import temperatures

    return asked.each(lambda one, within: temperatures(one, within, series=asked.alone))


@analysis("pressure", discard=0.2)
def pressure_command(
    asked: Asked,
    stress: Annotated[bool, typer.Option("--stress", help="the stress tensor too, from the frames")] = False,
) -> "Result":
    """Pressure, stress, volume and lattice constants."""
    from spinmd.analysis.pressure import pressure_and_cell

    return asked.each(
        lambda one, within: pressure_and_cell(
            one, within, virial=_virial_of(one) if stress else None, series=asked.alone, progress=asked.progress
        )
    )


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


@analysis("curie", discard=0.2, average=False)
def curie_command(
    asked: Asked,
    order: Annotated[
        str | None,
        typer.Option("--order", help="magnetisation, or staggered for a Néel temperature [default: by the deck]"),
    ] = None,
    wavevector: Wavevector = None,
    corrections: Annotated[
        bool, typer.Option("--corrections", help="take the leading correction to scaling of Heisenberg magnets out")
    ] = False,
) -> "Result":
    """Curie or Néel temperature of a sweep over temperatures: Binder crossing of several sizes, fits of one."""
    from spinmd.analysis.curie import critical_temperature

    q = vector(wavevector, "--wavevector")
    return critical_temperature(
        asked.runs.trajectories,
        asked.window,
        order=order,
        wavevector=q,
        corrections=corrections,
        progress=asked.progress,
    )


@analysis("rdf", discard=0.2)
def rdf_command(
    asked: Asked,
    r_max: Annotated[
        float | None, typer.Option("--r-max", help="largest distance, Å [default: half the cell, at most 12]")
    ] = None,
    bins: Bins = 200,
) -> "Result":
    """Radial distribution function and coordination numbers, of all atoms and by pairs of elements."""
    from spinmd.analysis.rdf import radial_distribution

    return asked.each(
        lambda one, within: radial_distribution(one, within, r_max=r_max, bins=bins, progress=asked.progress)
    )


@analysis("spin-correlation", discard=0.2)
def spin_correlation_command(
    asked: Asked,
    r_max: Range = None,
    bins: Annotated[int | None, typer.Option("--bins", help="bins of equal width instead of shells")] = None,
    element: Element = None,
    form: Annotated[
        str, typer.Option("--form", help="of the fit: ornstein-zernike or exponential")
    ] = "ornstein-zernike",
) -> "Result":
    """Spin pair correlation against distance, and the correlation length."""
    from spinmd.analysis.spin_correlation import pair_correlation

    return asked.each(
        lambda one, within: pair_correlation(
            one, within, r_max=r_max, bins=bins, element=element, form=form, progress=asked.progress
        )
    )


@analysis("structure-factor", discard=0.2)
def structure_factor_command(
    asked: Asked,
    path: PathOption = None,
    plane: Annotated[
        str | None, typer.Option("--plane", metavar="'H,K,L H,K,L'", help="a map spanned by two reciprocal vectors")
    ] = None,
    extent: Annotated[float, typer.Option("--extent", help="of the map, in these vectors to both sides")] = 1.0,
    zone: Annotated[
        bool, typer.Option("--zone", help="all wave vectors of the Brillouin zone, with the sum rule")
    ] = False,
    path_units: PathUnits = "conventional",
    snap: Snap = False,
    element: Element = None,
    weights: Annotated[str, typer.Option("--weights", help="directions (S/m) or moments (µB)")] = "directions",
    positions: Annotated[str, typer.Option("--positions", help="ideal or instantaneous")] = "ideal",
    ignore_elements: IgnoreElements = False,
) -> "Result":
    """Static structure factor S(q) of the spins on a path, in a plane or in the whole zone."""
    from spinmd.analysis.structure_factor import static_structure_factor

    if sum((path is not None, plane is not None, zone)) > 1:
        raise InputError("choose one of --path, --plane and --zone", "--plane" if plane is not None else "--zone")
    if positions not in ("ideal", "instantaneous"):
        raise InputError(f"expected ideal or instantaneous, got {positions!r}", "--positions")
    return asked.each(
        lambda one, within: static_structure_factor(
            one, within, path=path, plane=_plane(plane), extent=extent, zone=zone, units=path_units, snap=snap,
            element=element, weights=weights, instantaneous=positions == "instantaneous",
            ignore_elements=ignore_elements, progress=asked.progress,
        ))  # fmt: skip


def _plane(text: str | None) -> list[list[float]] | None:
    """``1,0,0 0,1,0`` as two vectors."""
    if text is None:
        return None
    vectors = [floats(part, "--plane") for part in text.split()]
    if [len(one) for one in vectors] != [3, 3]:
        raise InputError(f"expected two vectors such as '1,0,0 0,1,0', got {text!r}", "--plane")
    return vectors
