"""``spinmd analyze sqw``, ``autocorrelation``, ``dos``, ``msd`` and ``energy-flow``: what moves, and how fast."""

from typing import TYPE_CHECKING, Annotated

import typer

from spinmd.commands.common import Asked, Element, IgnoreElements, PathOption, PathUnits, Snap, analysis, vector
from spinmd.errors import InputError

if TYPE_CHECKING:
    from spinmd.analysis.results import Result
    from spinmd.analysis.sqw_limits import Fields
    from spinmd.trajectory import Trajectory

Axis = Annotated[
    str | None,
    typer.Option("--axis", metavar="X,Y,Z", help="of the spins [default: their mean moment, or the sublattices']"),
]
Segments = Annotated[
    int, typer.Option("--segments", metavar="N", help="of Welch's method: more are smoother and coarser")
]
Taper = Annotated[str, typer.Option("--window", metavar="hann|none", help="of each segment")]
MaxEnergy = Annotated[float | None, typer.Option("--max-energy", metavar="MEV", help="the highest energy that is kept")]
MaxTime = Annotated[
    float | None, typer.Option("--max-time", metavar="PS", help="the longest time [default: a fifth of the window]")
]


@analysis("autocorrelation")
def autocorrelation_command(
    asked: Asked,
    of: Annotated[str, typer.Option("--of", metavar="velocities|spins", help="of what")] = "velocities",
    element: Element = None,
    max_time: MaxTime = None,
    subtract_mean: Annotated[
        bool, typer.Option("--subtract-mean", help="of each atom: correlations of deviations")
    ] = False,
) -> "Result":
    """Autocorrelation of velocities or spins, its integral, and diffusion."""
    from spinmd.analysis.autocorrelation import time_autocorrelation

    return asked.each(
        lambda one, within: time_autocorrelation(
            one, within, of=of, element=element, max_time=max_time, subtract_mean=subtract_mean, progress=asked.progress
        )
    )


@analysis("dos")
def dos_command(
    asked: Asked,
    of: Annotated[str, typer.Option("--of", metavar="velocities|spins", help="phonons or magnons")] = "velocities",
    element: Element = None,
    axis: Axis = None,
    normalise: Annotated[
        str, typer.Option("--normalise", metavar="one|modes", help="integral: 1, or the number of modes")
    ] = "one",
    segments: Segments = 4,
    taper: Taper = "hann",
    max_energy: MaxEnergy = None,
    broadening: Annotated[
        float, typer.Option("--broadening", metavar="MEV", help="standard deviation of a Gaussian that smooths lines")
    ] = 0.0,
) -> "Result":
    """Density of states of phonons (from velocities) or of magnons (from spins)."""
    from spinmd.analysis.dos import density_of_states

    return asked.each(
        lambda one, within: density_of_states(
            one, within, of=of, element=element, axis=vector(axis, "--axis"), normalise=normalise,
            segments=segments, taper=taper, max_energy=max_energy, broadening=broadening, progress=asked.progress,
        ))  # fmt: skip


@analysis("energy-flow", every=False)
def energy_flow_command(
    asked: Asked,
    smoothing: Annotated[
        float | None, typer.Option("--smoothing", metavar="PS", help="of rates [default: a fiftieth of the window]")
    ] = None,
) -> "Result":
    """Energy that flows between lattice, spins and baths, and the relaxation of their temperatures."""
    from spinmd.analysis.energy_flow import flow_of_energy

    return asked.each(lambda one, within: flow_of_energy(one, within, smoothing=smoothing))


@analysis("msd")
def msd_command(
    asked: Asked,
    max_time: MaxTime = None,
    element: Element = None,
    keep_drift: Annotated[bool, typer.Option("--keep-drift", help="of the centre of mass")] = False,
) -> "Result":
    """Mean square displacement; diffusion, or the amplitude of vibrations."""
    from spinmd.analysis.msd import mean_square_displacement

    return asked.each(
        lambda one, within: mean_square_displacement(
            one, within, max_time=max_time, element=element, keep_drift=keep_drift, progress=asked.progress
        )
    )


@analysis("sqw")
def sqw_command(
    asked: Asked,
    path: PathOption = None,
    path_units: PathUnits = "conventional",
    snap: Snap = False,
    of: Annotated[str, typer.Option("--of", metavar="spins|velocities", help="magnons or phonons")] = "spins",
    component: Annotated[
        str | None,
        typer.Option(
            "--component",
            help="transverse, longitudinal, total, +-, -+, chirality, zz, xx+yy; several with commas [default: transverse; of "
            "velocities total]",
        ),
    ] = None,
    axis: Axis = None,
    element: Element = None,
    mass_weighted: Annotated[
        bool, typer.Option("--mass-weighted", help="velocities times the root of the mass")
    ] = False,
    positions: Annotated[
        str, typer.Option("--positions", metavar="ideal|instantaneous", help="sites, or where the atoms are")
    ] = "ideal",
    segments: Segments = 4,
    taper: Taper = "hann",
    quantum: Annotated[bool, typer.Option("--quantum", help="with the factor of detailed balance")] = False,
    temperature: Annotated[
        float | None, typer.Option("--temperature", metavar="K", help="for --quantum [default: the run's mean]")
    ] = None,
    fit: Annotated[bool, typer.Option("--fit/--no-fit", help="positions and widths of peaks")] = True,
    branches: Annotated[int | None, typer.Option("--branches", metavar="N", help="peaks at each wave vector")] = None,
    ignore_elements: IgnoreElements = False,
    max_energy: MaxEnergy = None,
    spin_waves: Annotated[
        bool, typer.Option("--spin-waves", help="lay linear spin-wave theory of the run's Hamiltonian over the map")
    ] = False,
    state: Annotated[
        str, typer.Option("--state", metavar="NAME", help="at rest, for --spin-waves; see spinmd analyze spin-waves")
    ] = "auto",
) -> "Result":
    """Dynamical structure factor S(q, ω) of spins or of the lattice on a path, with its branches."""
    from spinmd.analysis.sqw import dynamical_structure_factor
    from spinmd.commands.analyze_spin_waves import lay_over

    if asked.output is not None and asked.output.suffix.lower() == ".csv":
        raise InputError(
            f"a map over q and energy is no table, which CSV needs; write {asked.output.stem}.h5", "--output"
        )
    if spin_waves and of != "spins":
        raise InputError("spin waves are laid over the map of spins; leave out --of velocities", "--spin-waves")

    def analyse(one, within):
        result = dynamical_structure_factor(
            one, within, path=path, path_units=path_units, snap=snap, of=of, component=component,
            axis=vector(axis, "--axis"), element=element, mass_weighted=mass_weighted, positions=positions,
            segments=segments, taper=taper, quantum=quantum, temperature=temperature, fit=fit, branches=branches,
            ignore_elements=ignore_elements, max_energy=max_energy, fields=_fields_of(one) if of == "spins" else None,
            progress=asked.progress,
        )  # fmt: skip
        return lay_over(result, one.path, state, path, path_units) if spin_waves else result

    return asked.each(analyse)


def _fields_of(trajectory: "Trajectory") -> "Fields | None":
    """spins -> g F of the run's Hamiltonian at its ideal sites; None where it cannot be built any more."""
    from spinmd.protocols import Need
    from spinmd.spin_hamiltonian import spin_crystal

    try:
        crystal = spin_crystal(trajectory.path, force=True)
    except InputError:
        return None

    def fields(spins):
        state = crystal.model.state
        state.spins[:] = spins[state.ids]
        crystal.model.moved(spins=True)
        return crystal.g * state.original_order(crystal.model.evaluate(Need.FIELD).fields)

    return fields
