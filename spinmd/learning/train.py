"""``spinmd train``: a deck of its own, the training (``potentials.deepspin.training``), the model file and the learning curve."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from spinmd import __version__
from spinmd.complaints import raise_all, validate
from spinmd.errors import InputError
from spinmd.learning.parity import short_names
from spinmd.potentials.deepspin.data import System, read_systems, split_evenly, write_system
from spinmd.potentials.deepspin.training_parameters import TrainingDeck
from spinmd.toml_source import TomlSource


def load_training_deck(
    source: str | Path | Mapping, overrides: Iterable[str] | Mapping[str, Any] = (), *, folder: Path | None = None
) -> tuple[TrainingDeck, Path]:
    """A training deck from a file, TOML text or nested dictionaries, and the folder its paths start from.

    Raises InputError (``InputErrors`` for several) with the place of everything that is wrong.
    """
    text = TomlSource.read(source, folder)
    text.override(overrides)
    deck, errors = validate(TrainingDeck, text.tables, (), context={"folder": text.folder}, place=text.place)
    raise_all([error for _, error in errors])
    return deck, text.folder


def training_systems(deck: TrainingDeck, folder: Path) -> dict[str, list[System]]:
    """{"train", "validation", "test"}: the systems of a deck, read and split."""

    def read(paths: Iterable[str]) -> list[System]:
        return read_systems([folder / Path(path).expanduser() for path in paths], magnetic=deck.data.magnetic)

    parts: dict[str, list[System]] = {"train": read(deck.data.train)}
    for name in ("test", "validation"):
        wanted = getattr(deck.data, name)
        if isinstance(wanted, tuple):
            parts[name] = read(wanted)
        else:
            share = wanted
            if name == "validation" and not isinstance(deck.data.test, tuple):
                share = wanted / (1.0 - deck.data.test)
            parts["train"], parts[name] = split_evenly(parts["train"], share)
    used = {_content(system): system.name for system in parts["train"] + parts["validation"]}
    for system in parts["test"]:
        if _content(system) in used:
            raise InputError(f"{system.name} is also used in training; its errors would be flattered", "data.test")
    return parts


def write_held_out(systems: dict[str, list[System]], folder: Path) -> list[Path]:
    """Write the frames of ``data.test``, which no training sees, below ``folder``, one system each; returns their folders.

    ``spinmd test MODEL FOLDER`` then gives the errors that are reported for a model of this deck. Raises InputError if the deck
    holds out nothing, or if the folder exists.
    """
    if not systems["test"]:
        raise InputError("the deck holds out no frames; give data.test a fraction or folders", "data.test")
    if folder.exists():
        raise InputError("exists already; choose another name", str(folder))
    written = []
    for name, system in zip(short_names([system.name for system in systems["test"]]), systems["test"], strict=True):
        written.append(folder / name.strip("/").replace("/", "_"))
        write_system(written[-1], system)
    return written


def _content(system: System) -> str:
    return hashlib.sha256(system.coord.tobytes() + system.spin.tobytes()).hexdigest()


def train(
    deck: TrainingDeck,
    systems: dict[str, list[System]],
    *,
    resume: bool = False,
    force: bool = False,
    progress: bool = True,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Train, and write the model, its log and its learning curve. Returns the report, also in the model's provenance.

    resume  go on from FILE.checkpoint, of a deck that asks for the same but perhaps for other steps
    force   replace a model that exists
    stop    asked before each step: the training ends there after a checkpoint, without a model

    Raises InputError before anything is written.
    """
    from spinmd.potentials.deepspin.model_file import write_model
    from spinmd.potentials.deepspin.training import Trainer
    from spinmd.potentials.deepspin.training_checkpoint import read_checkpoint

    target = Path(deck.output.file)
    beside = {name: target.with_name(target.name + suffix) for name, suffix in SUFFIXES.items()}
    _check_target(target, beside["checkpoint"], resume, force)
    if resume:
        read_checkpoint(beside["checkpoint"], deck, systems)  # refused before the prior is fitted
    trainer = Trainer(deck, systems, progress=progress)
    trainer.prepare()
    if resume:
        trainer.resume(beside["checkpoint"])
    trainer.run(beside["log"], beside["checkpoint"], stop)
    report: dict[str, Any] = {
        "output": str(target), "steps": trainer.step, "descriptor": deck.descriptor,
        "elements": list(trainer.elements), "seconds_preparation": trainer.preparation_seconds,
        "seconds_steps": trainer.seconds, "prior": trainer.prior_report,
        "frames": {name: sum(s.frames for s in parts) for name, parts in systems.items()},
        "seconds_per_step": trainer.seconds / max(trainer.step, 1),
    }  # fmt: skip
    if trainer.optimiser is not None and trainer.step < deck.training.steps:
        trainer.save(beside["checkpoint"])
        report["stopped"] = True
        return report
    model = trainer.model()
    for name in ("validation", "test"):
        if systems[name]:
            report[name] = trainer.errors(name, trainer.best_weights)
    report["field_scale"] = model.provenance["field_scale"]
    report["best_step"] = int(trainer.best_row().get("step", 0))
    report["trade_off"] = trainer.trade_off()
    model.provenance |= {
        "spinmd": __version__,
        **{k: report[k] for k in ("validation", "test", "steps") if k in report},
    }
    write_model(model, target)
    draw_learning_curve(
        trainer.log, beside["figure"], deck.title, "validation" if systems["validation"] else "training"
    )
    beside["checkpoint"].unlink(missing_ok=True)
    return report


SUFFIXES = {"log": ".log.csv", "figure": ".png", "checkpoint": ".checkpoint"}


def _check_target(target: Path, checkpoint: Path, resume: bool, force: bool) -> None:
    place = "output.file"
    if not target.absolute().parent.is_dir():
        raise InputError(f"there is no folder {target.absolute().parent}; make it first", place)
    if target.is_dir():
        raise InputError(f"{target} is a folder, a file name is expected", place)
    if target.suffix in SUFFIXES.values():
        raise InputError(f"{target.name} is the name of something else that a training writes; end it in .h5", place)
    if resume and not checkpoint.exists():
        raise InputError(f"there is no checkpoint {checkpoint} to go on from; leave --resume out", "--resume")
    if target.exists() and not (force or resume):
        raise InputError(f"{target} exists; give --force to replace it", place)
    if checkpoint.exists() and not (force or resume):
        raise InputError(
            f"{checkpoint} is left from a training that was stopped; give --resume to go on, or --force to begin anew",
            place,
        )


def draw_learning_curve(log: list[dict[str, float]], path: Path, title: str = "", frames: str = "validation") -> None:
    """Errors of the ``frames`` that choose the weights, and the loss, against the step, PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    steps = [row["step"] for row in log]
    panels = (
        ("energy_mev_per_atom", "energy", "meV/atom"), ("force_mev_per_ang", "force", "meV/Å"),
        ("field_mev_per_mub", "field", "meV/µB"), ("loss", "", ""),
    )  # fmt: skip
    figure, axes = pyplot.subplots(2, 2, figsize=(8, 5.5), sharex=True, layout="constrained")
    for axis, (name, quantity, unit) in zip(axes.flat, panels, strict=True):
        values = [row[name] for row in log]
        if name == "loss":
            axis.plot(steps[1:], values[1:], "-", color="tab:gray", lw=1.2)
            values = values[1:]
        else:
            axis.plot(steps, values, ".-", color="tab:blue", lw=1.2, ms=4)
        if len(steps) > 2 and min(values) > 0.0:
            axis.set_yscale("log")
            decades = max(values) / min(values)
            if decades < 100.0:  # else powers of ten are enough
                axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades > 5.0 else tuple(range(1, 10))))
                axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_title(
            "training loss" if name == "loss" else f"{quantity}, RMSE of {frames} frames ({unit})", fontsize=10
        )
        axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel("step")
    if title:
        figure.suptitle(title)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def sentence(report: dict[str, Any]) -> str:
    """What the screen shows at the end."""
    if report.get("stopped"):
        return f"stopped after step {report['steps']}; go on with --resume"
    lines = [
        f"model written to {report['output']} after {report['steps']} steps, with the weights of step {report['best_step']}"
    ]
    if report["best_step"] == 0 and report["steps"]:
        start = "the fitted prior alone" if report["prior"] else "the start"
        lines.append(f"  no step was better than {start}, which is the model; try a smaller training.rate or more data")
    if report["trade_off"]:
        lines.append(f"  {report['trade_off']}")
    for name in ("validation", "test"):
        if name in report:
            e = report[name]
            lines.append(
                f"  {name:10s} {report['frames'][name]} frames: energy {e['energy_mev_per_atom']:.3f} meV/atom, "
                f"force {e['force_mev_per_ang']:.1f} meV/Å, field {e['field_mev_per_mub']:.2f} meV/µB (RMSE)"
            )
    return "\n".join(lines)
