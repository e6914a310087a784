"""The command line: ``spinmd run | resume | sweep | analyze | plot | view | evaluate | check | train | test | convert | ...``.

Each command is a few lines over the Python interface. Commands import heavy modules: ``spinmd --help`` is quick.
Exit codes: 0 done, 2 the input is wrong, 3 the run diverged, the disk refused or a point of a sweep failed, 130 and 143
stopped by a signal after a checkpoint.
"""

import errno
import json
import os
import signal
import sys
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from spinmd.commands.analyze import app as analyses
from spinmd.commands.glance import plot, view
from spinmd.errors import DiskError, InputError, PointsFailedError, SpinmdError, StoppedError
from spinmd.signals import caught_signals

# the base of all complaints about a command line; typer has its own copy of click in some versions, and not in others
CommandLineError = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

LONGEST = 2000  # characters of a message: a damaged deck may hold names of any length

app = typer.Typer(
    name="spinmd",
    help="Coupled spin-lattice dynamics of magnetic materials, from an input deck (TOML).",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

DeckFile = Annotated[Path, typer.Argument(help="the input deck, a TOML file", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="override a value, e.g. run.steps=100 or potential.1.parameters.cutoff=5.74"
    ),
]
Device = Annotated[str | None, typer.Option("--device", metavar="cpu|cuda", help="where to compute [default: cpu]")]
Threads = Annotated[
    int | None, typer.Option("--threads", metavar="N", help="CPU threads [default: the deck's, else all]")
]
Summary = Annotated[Path | None, typer.Option("--summary", help="write the closing summary to this JSON file")]
Quiet = Annotated[bool, typer.Option("--quiet", help="nothing on the screen but errors")]


@app.command()
def run(
    deck: DeckFile,
    overrides: Overrides = None,
    device: Device = None,
    threads: Threads = None,
    summary: Summary = None,
    force: Annotated[bool, typer.Option("--force", help="replace the output file if it exists")] = False,
    quiet: Quiet = False,
) -> None:
    """Run the dynamics that a deck describes."""
    from spinmd.building import build
    from spinmd.deck import load_deck

    read = load_deck(deck, overrides or ())
    check_writable(summary, "--summary", [*read.inputs(), *([read.output.file] if read.output else [])])
    if read.run is None:
        raise InputError("the deck has no [run]; give the number of steps, for example run = { steps = 1000 }", "run")
    if read.integrator is None:
        raise InputError("the deck has no [integrator], which a run needs", "integrator")
    drive(build(read, device=device, threads=threads, force=force), summary, quiet)


@app.command()
def resume(
    file: Annotated[Path, typer.Argument(metavar="RUN.h5", help="the file of a run", show_default=False)],
    steps: Annotated[
        int | None,
        typer.Option("--steps", metavar="N", help="take N further steps [default: what the deck has left]"),
    ] = None,
    device: Device = None,
    threads: Threads = None,
    summary: Summary = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="where the deck's relative paths start now")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="go on although files of potentials have changed since the run began")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a run from the last checkpoint in its file, bit for bit as if it had never stopped."""
    from spinmd.resuming import resume

    check_writable(summary, "--summary", [file])
    simulation = resume(file, steps, device=device, threads=threads, force=force, folder=folder)
    check_writable(summary, "--summary", simulation.deck.inputs())
    drive(simulation, summary, quiet)


@app.command()
def sweep(
    deck: DeckFile,
    over: Annotated[
        list[str] | None,
        typer.Option(
            "--over",
            metavar="KEY=VALUES",
            help="vary a value: 100,200,400 or 100:400:100 (first:last:step); several --over make a grid",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", metavar="N", help="points at a time [default: so many that all cores are busy; one on a GPU]"
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", metavar="M", help="runs per point, seeds counted up from run.seed")
    ] = 1,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FOLDER", help="of all files [default: DECK-sweep, beside it]"),
    ] = None,
    overrides: Overrides = None,
    device: Device = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", metavar="N", help="CPU threads of each point [default: the deck's, else 1]"),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", metavar="ADDRESS", help="run on the Dask cluster of this scheduler")
    ] = None,
    discard: Annotated[
        float, typer.Option("--discard", help="part of the last stage that averages leave out at its beginning")
    ] = 0.2,
    force: Annotated[bool, typer.Option("--force", help="replace the sweep in the folder, begin anew")] = False,
    quiet: Quiet = False,
) -> None:
    """Run a deck at every point of a grid of values; the same command again goes on with what is missing."""
    from spinmd.device import check_device
    from spinmd.sweeping.driver import sweep
    from spinmd.sweeping.point import kill_all

    changes = list(overrides or ())
    if device is not None:
        changes.append(f'run.device="{check_device(device, here=scheduler is None)}"')
    with caught_signals(second=kill_all) as caught:
        result = sweep(
            deck, over or (), changes, seeds=seeds, folder=output, jobs=jobs, threads=threads,
            scheduler=scheduler, discard=discard, force=force, progress=not quiet, stop=lambda: bool(caught),
        )  # fmt: skip
    if caught:
        name = signal.Signals(caught[0]).name
        raise StoppedError(f"stopped by {name}; the same command goes on with {result.path.parent}", caught[0])
    if result.failed:
        raise PointsFailedError(result.failures())
    if not quiet:
        print(f"written: {result.path}")


app.add_typer(analyses, name="analyze")
app.command()(plot)
app.command()(view)


@app.command()
def evaluate(
    deck: DeckFile,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON file [default: the screen]")] = None,
    overrides: Overrides = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Energy, forces, fields and virial of the deck's structure, in the original order of the atoms, as JSON."""
    from spinmd.building import build
    from spinmd.deck import load_deck
    from spinmd.segments import write_json

    read = load_deck(deck, overrides or ())
    check_writable(output, "--output", read.inputs())
    simulation = build(read, device=device, threads=threads, output=False)
    results = simulation.results()
    if output is None:
        print(json.dumps(results))
    else:
        write_json(output, results)


@app.command()
def check(
    deck: DeckFile,
    overrides: Overrides = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Read and build a deck, evaluate it once, and advise on timestep and cutoffs. Runs and writes nothing."""
    from spinmd.building import build
    from spinmd.checking import examine, report
    from spinmd.deck import load_deck
    from spinmd.device import problems

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        simulation = build(load_deck(deck, overrides or ()), device=device, threads=threads, force=True, here=False)
        found = examine(simulation)
    if simulation.device == "cuda":
        place = "run.device" if device is None else "--device"
        found["warnings"] += [f"{place}: {one} (the deck was checked on the CPU)" for one in problems()]
    found["warnings"] += list(dict.fromkeys(str(one.message) for one in heard))
    print(report(found))


@app.command()
def train(
    deck: Annotated[Path, typer.Argument(help="the training deck, a TOML file", show_default=False)],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the checkpoint of a stopped training")] = False,
    summary: Annotated[Path | None, typer.Option("--summary", help="write the report to this JSON file")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace the model if it exists, begin anew")] = False,
    held_out: Annotated[
        Path | None, typer.Option("--held-out", help="write the frames of data.test to this folder and train nothing")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train a DeepSPIN model on labelled frames; writes the model, its log and its learning curve."""
    from spinmd.learning import train as training
    from spinmd.segments import write_json

    read, folder = training.load_training_deck(deck, overrides or ())
    if held_out is not None:
        systems = training.training_systems(read, folder)
        written = training.write_held_out(systems, held_out)
        if not quiet:
            print(f"{sum(system.frames for system in systems['test'])} frames of {len(written)} systems in {held_out}")
        return
    check_writable(summary, "--summary", [deck, read.output.file])
    systems = training.training_systems(read, folder)
    with caught_signals() as caught:
        report = training.train(
            read, systems, resume=resume, force=force, progress=not quiet, stop=lambda: bool(caught)
        )  # fmt: skip
    if summary is not None:
        write_json(summary, report)
    if caught and report.get("stopped"):
        raise StoppedError(f"{signal.Signals(caught[0]).name}: {training.sentence(report)}", caught[0])
    if not quiet:
        print(training.sentence(report))


@app.command()
def test(
    model: Annotated[Path, typer.Argument(help="a model file", show_default=False)],
    data: Annotated[list[str], typer.Argument(help="folders of labelled frames, or patterns", show_default=False)],
    as_json: Annotated[Path | None, typer.Option("--json", help="write all errors to this JSON file")] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="write parity figures to this file (PNG, PDF, SVG)")
    ] = None,
    threads: Threads = None,
) -> None:
    """Errors of a model on labelled frames: energy, force, field, transverse field and torque."""
    from spinmd.learning.evaluation import test_model

    check_writable(as_json, "--json", [model])
    check_writable(plot, "--plot", [model])
    _, text = test_model(model, data, json=as_json, figure=plot, progress=sys.stderr.isatty(), threads=threads)
    print(text)


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="a run's file, or a model of spinmd or DeePMD-kit (.dp .yaml .pt .pth)")
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="of a run .extxyz .traj .vasp ...; of a model .h5 or .dp (DeePMD-kit)")
    ],
    every: Annotated[int, typer.Option("--every", metavar="N", help="every N-th frame of a run")] = 1,
    frames: Annotated[
        str | None, typer.Option("--frames", metavar="A:B:C", help="frames of a run, as in Python; -1 is the last")
    ] = None,
    wrap: Annotated[bool, typer.Option("--wrap", help="positions inside the cell instead of unwrapped")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace OUT if it exists")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="nothing on the screen but errors")] = False,
) -> None:
    """Convert a trajectory to extended XYZ or another format of ASE's, or a model from or to DeePMD-kit."""
    from spinmd.interop.conversion import convert

    done = convert(source, target, every=every, frames=frames, wrap=wrap, force=force, progress=not quiet)
    if not quiet:
        print(done)


@app.command()
def dataset(
    deck: DeckFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="folder of the data set", show_default=False)],
    frames: Annotated[int, typer.Option("--frames", help="number of frames")] = 100,
    seed: Annotated[int, typer.Option("--seed", help="of all random numbers")] = 1,
    displacement: Annotated[float, typer.Option("--displacement", help="rms displacement of the atoms, Å")] = 0.1,
    spin_noise: Annotated[str, typer.Option("--spin-noise", help="degrees, or random for any direction")] = "20",
    spin_length: Annotated[float, typer.Option("--spin-length", help="spread of spin lengths, a fraction")] = 0.05,
    strain: Annotated[float, typer.Option("--strain", help="spread of the strain, a fraction")] = 0.01,
    overrides: Overrides = None,
    force: Annotated[bool, typer.Option("--force", help="replace the data set if it exists")] = False,
    threads: Threads = None,
) -> None:
    """Random frames of a deck's structure, labelled with the deck's potential, in DeePMD-kit's spin layout."""
    from spinmd.learning.dataset import make_dataset

    try:
        noise: float | str = spin_noise if spin_noise == "random" else float(spin_noise)
    except ValueError:
        raise InputError(f"expected a number of degrees or random, got {spin_noise!r}", "--spin-noise") from None
    made = make_dataset(
        deck, output, frames, overrides=overrides or (), seed=seed, displacement=displacement, spin_noise=noise,
        spin_length=spin_length, strain=strain, force=force, progress=sys.stderr.isatty(), threads=threads,
    )  # fmt: skip
    print(f"{made.frames} frames of {made.natoms} atoms written to {output}")


@app.command()
def schema(
    as_json: Annotated[bool, typer.Option("--json", help="as JSON schemas")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="as Markdown (the default)")] = False,
    training: Annotated[bool, typer.Option("--training", help="of the deck of spinmd train")] = False,
) -> None:
    """The reference of the deck: every table, every kind of potential, every parameter."""
    from spinmd.schema import document, markdown, training_document, training_markdown

    if as_json and as_markdown:
        raise InputError("give --json or --markdown, not both", "schema")
    if as_json:
        print(json.dumps(training_document() if training else document(), indent=2, default=str))
    else:
        print(training_markdown() if training else markdown())


@app.command()
def info(as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False) -> None:
    """Versions, processor, threads, GPUs and the cache folder, for a bug report."""
    from spinmd.checking import machine

    facts = machine()
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        width = max(len(name) for name in facts)
        for name, value in facts.items():
            print(f"{name:<{width}}  {value}")


# ---------------------------------------------------------------------------------------------- helpers


def drive(simulation: Any, summary: Path | None, quiet: bool) -> None:
    """Run a simulation to its end or to the first signal; StoppedError, after a checkpoint, for the latter."""
    from spinmd.segments import write_json

    heeded: list[bool] = []  # a signal after the last step, while the file is closed, stops nothing

    def stop() -> bool:
        heeded.extend([True] * bool(caught))
        return bool(caught)

    with caught_signals() as caught:
        try:
            simulation.run(progress=not quiet, stop=stop)
        finally:
            simulation.close()
            # where the disk has refused before, its sentence is the one that counts
            if summary is not None and simulation.summary and not isinstance(sys.exc_info()[1], DiskError):
                write_json(summary, simulation.summary)
    if simulation.summary.get("steps_not_converged"):
        missed = simulation.summary["steps_not_converged"]
        print(
            f"spinmd: warning: the spin solver did not converge in {missed} steps; try a shorter timestep",
            file=sys.stderr,
        )
    if heeded:
        name = signal.Signals(caught[0]).name
        output = simulation.summary.get("output")
        where = f"; go on with spinmd resume {output}" if output else ""
        raise StoppedError(f"stopped by {name} after step {simulation.state.clock.step}{where}", caught[0])


def check_writable(path: Path | None, place: str, inputs: Iterable[Path] = ()) -> None:
    """InputError if JSON cannot be written at ``path`` or would replace something else; nothing is written."""
    if path is None:
        return
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; make it first", place)
    if path.is_dir():
        raise InputError(f"{path} is a folder, a file name is expected", place)
    for other in inputs:
        if path.resolve() == Path(other).resolve():
            raise InputError(
                f"{path} is the deck, a file that it reads, or the run's output; choose another name", place
            )
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise InputError(f"{path} cannot be written: permission denied", place)


def print_error(error: Exception) -> None:
    """One line per error on stderr."""
    with suppress(OSError):  # a log on the disk that is full
        for one in getattr(error, "errors", [error]):
            text = " ".join(str(one).split("\n"))
            short = text if len(text) < LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
            print("spinmd: error: " + short, file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    warnings.showwarning = lambda message, *_: print(f"spinmd: warning: {message}", file=sys.stderr)
    try:
        result = app(args=arguments or ["--help"], prog_name="spinmd", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except StoppedError as error:
        print(f"spinmd: {error}", file=sys.stderr)
        return error.exit_code
    except SpinmdError as error:
        print_error(error)
        return error.exit_code
    except CommandLineError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # spinmd analyze alone: its commands, as if asked with --help
            print(error.format_message())
            return 2
        print(f"spinmd: error: {error.format_message()}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(
            f"spinmd: error: structure.supercell: not enough memory ({error}); make the supercell smaller",
            file=sys.stderr,
        )
        return 2
    except BrokenPipeError:  # the reader of a pipe, head or less, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
            raise
        # what runs write says so itself: this is the log that the screen goes to
        print_error(DiskError(f"cannot write the output of this command: {os.strerror(error.errno)}; make room first"))
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DiskError.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130


if __name__ == "__main__":
    sys.exit(main())
