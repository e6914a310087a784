"""``spinmd analyze distributions`` and ``topology``."""

from typing import Annotated

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


@app.command("distributions")
def distributions_command(
    runs: RunFiles,
    output: Output = None,
    plot: Plot = None,
    start: From = None,
    stop: To = None,
    every: Every = 1,
    discard: Discard = 0.2,
    element: Element = None,
    axis: Annotated[
        str | None, typer.Option("--axis", metavar="X,Y,Z", help="of the angles [default: the mean moment]")
    ] = None,
    bins: Annotated[int, typer.Option("--bins", help="of the histograms")] = 101,
    lengths: Annotated[
        str | None, typer.Option("--lengths", metavar="A,B", help="range of the lengths, µB [default: what occurs]")
    ] = None,
    average: Average = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Distributions of the lengths of the moments and of their angles."""
    from spinmd.analysis.distributions import moment_distributions

    check_targets(output, plot, runs, force)
    within = window(start, stop, every, discard)
    limits = None if lengths is None else floats(lengths, "--lengths")
    if limits is not None and len(limits) != 2:
        raise InputError(f"expected two numbers such as 1.5,3, got {lengths!r}", "--lengths")
    with opened(runs) as many:
        result = many.each(
            lambda one: moment_distributions(
                one, within, element=element, axis=vector(axis, "--axis"), bins=bins,
                lengths=None if limits is None else tuple(limits), progress=not quiet,
            ),
            average,
        )  # fmt: skip
    finish(result, output, plot, quiet)


@app.command("topology")
def topology_command(
    runs: RunFiles,
    output: Output = None,
    plot: Plot = None,
    start: From = None,
    stop: To = None,
    every: Every = 1,
    normal: Annotated[str, typer.Option("--normal", metavar="X,Y,Z", help="of the layers")] = "0,0,1",
    element: Element = None,
    average: Average = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Topological charge of each layer (skyrmion number), over time."""
    from spinmd.analysis.topology import topological_charge

    check_targets(output, plot, runs, force)
    within = window(start, stop, every)
    direction = vector(normal, "--normal")
    with opened(runs) as many:
        result = many.each(
            lambda one: topological_charge(one, within, normal=direction, element=element, progress=not quiet), average
        )
    finish(result, output, plot, quiet)
