"""``spinmd plot`` and ``spinmd view``: a look at a run, a sweep or a result."""

from pathlib import Path
from typing import Annotated

import typer

from spinmd.commands.common import Force, Quiet, check_targets, floats, is_sweep, marked, opened, vector
from spinmd.errors import InputError


def plot(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE.h5...", help="a run or several, a sweep, or results of analyses", show_default=False
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="the figure: .png .pdf .svg [default: FILE.png]")
    ] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", metavar="A,B", help="of a sweep: columns of its table, one panel each")
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Draw a run (energies, temperatures, magnetisation, drift), a sweep against what it varies, or the result of an analysis."""
    target = output if output is not None else _beside(files[0], ".png")
    check_targets(None, target, files, force, place="--output")
    sweeps = [is_sweep(path) for path in files]
    if columns is not None and not all(sweeps):
        raise InputError("chooses columns of a sweep, and this is none", "--columns")
    if any(sweeps):
        if len(files) > 1:
            raise InputError("one sweep makes one figure; name it alone", str(files[sweeps.index(True)]))
        from spinmd.analysis.sweep_figure import plot_sweep
        from spinmd.sweeping.table import read_sweep

        plot_sweep(read_sweep(files[0]), target, None if columns is None else columns.split(","))
    elif marked(files[0], "spinmd_analysis"):
        if len(files) > 1:
            raise InputError("one result makes one figure; name it alone", str(files[0]))
        from spinmd.analysis.catalogue import plot as plot_result

        plot_result(files[0], target)
    else:
        from spinmd.analysis.overview import plot_run

        with opened(files) as runs:
            plot_run(runs.trajectories, target)
    if not quiet:
        print(f"written: {target}")


def view(
    run: Annotated[Path, typer.Argument(metavar="RUN.h5", help="the file of a run", show_default=False)],
    frame: Annotated[int, typer.Option("--frame", metavar="N", help="which one, from 0; -1 is the last")] = -1,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="the picture: .png .pdf .svg [default: RUN-frameN.png]")
    ] = None,
    camera: Annotated[
        str, typer.Option("--view", metavar="x|y|z|iso|X,Y,Z", help="from where the camera looks")
    ] = "iso",
    colour: Annotated[
        str,
        typer.Option("--colour", "--color", metavar="direction|x|y|z", help="direction of a moment, or a component"),
    ] = "direction",
    axis: Annotated[str, typer.Option("--axis", metavar="X,Y,Z", help="white along it, black against it")] = "0,0,1",
    element: Annotated[str | None, typer.Option("--element", help="only the atoms of this element")] = None,
    region: Annotated[
        list[str] | None, typer.Option("--region", metavar="z=A:B", help="only atoms with z from A to B, in Angstrom")
    ] = None,
    size: Annotated[float, typer.Option("--size", help="of the longer side, inches")] = 7.0,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Draw the spins of one frame as arrows coloured by their direction."""
    from spinmd.analysis.spin_picture import picture_of_spins

    if not 1.0 <= size <= 100.0:
        raise InputError(f"expected 1 to 100 inches, got {size:g}", "--size")
    with opened([run]) as runs:
        if len(runs.trajectories) > 1:
            raise InputError("is a sweep of several runs; name the file of one", str(run))
        trajectory = runs.trajectories[0]
        number = frame if frame >= 0 else len(trajectory) + frame
        target = output if output is not None else _beside(run, f"-frame{number}.png")
        check_targets(None, target, [run], force, place="--output")
        done = picture_of_spins(
            trajectory, target, frame, view=camera if camera.isalpha() else vector(camera, "--view"), colour=colour,
            axis=vector(axis, "--axis"), element=element, region=_ranges(region or []), size=size,
        )  # fmt: skip
    if not quiet:
        left = f", {done['hidden']} behind others left out" if done["hidden"] else ""
        many = "1 moment" if done["atoms"] == 1 else f"{done['atoms']} moments"
        print(f"frame {number}, step {done['step']}, {done['time']:g} ps: {many}{left}")
        print(f"written: {target}")


def _beside(path: Path, ending: str) -> Path:
    """The name of a figure of this file, in the same folder."""
    return (path / "sweep.png") if path.is_dir() else path.with_name(path.stem + ending)


def _ranges(texts: list[str]) -> list[list[float] | None]:
    """``z=0:5.7`` for each direction, Angstrom; InputError for anything else."""
    found: dict[str, list[float]] = {}
    for text in texts:
        name, _, limits = text.partition("=")
        ends = limits.split(":")
        if name not in ("x", "y", "z") or len(ends) != 2 or name in found:
            raise InputError(f"expected x=A:B, y=A:B or z=A:B, each once, got {text!r}", "--region")
        found[name] = [
            floats(end, "--region")[0] if end else default for end, default in zip(ends, (-1e30, 1e30), strict=True)
        ]
    return [found.get(name) for name in "xyz"]
