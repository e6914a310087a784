"""``spinmd analyze distributions`` and ``topology``."""

from typing import TYPE_CHECKING, Annotated

import typer

from spinmd.commands.common import Asked, Element, analysis, floats, vector
from spinmd.errors import InputError

if TYPE_CHECKING:
    from spinmd.analysis.results import Result


@analysis("distributions", discard=0.2)
def distributions_command(
    asked: Asked,
    element: Element = None,
    axis: Annotated[
        str | None, typer.Option("--axis", metavar="X,Y,Z", help="of the angles [default: the mean moment]")
    ] = None,
    bins: Annotated[int, typer.Option("--bins", help="of the histograms")] = 101,
    lengths: Annotated[
        str | None, typer.Option("--lengths", metavar="A,B", help="range of the lengths, µB [default: what occurs]")
    ] = None,
) -> "Result":
    """Distributions of the lengths of the moments and of their angles."""
    from spinmd.analysis.distributions import moment_distributions

    limits = None if lengths is None else floats(lengths, "--lengths")
    if limits is not None and len(limits) != 2:
        raise InputError(f"expected two numbers such as 1.5,3, got {lengths!r}", "--lengths")
    return asked.each(
        lambda one, within: moment_distributions(
            one, within, element=element, axis=vector(axis, "--axis"), bins=bins,
            lengths=None if limits is None else tuple(limits), progress=asked.progress,
        ))  # fmt: skip


@analysis("topology")
def topology_command(
    asked: Asked,
    normal: Annotated[str, typer.Option("--normal", metavar="X,Y,Z", help="of the layers")] = "0,0,1",
    element: Element = None,
) -> "Result":
    """Topological charge of each layer (skyrmion number), over time."""
    from spinmd.analysis.topology import topological_charge

    direction = vector(normal, "--normal")
    return asked.each(
        lambda one, within: topological_charge(one, within, normal=direction, element=element, progress=asked.progress)
    )
