"""Optimisers of DeepSPIN's training against each other: same frames, same start, same time on one core.

    python benchmarks/deepspin_optimisers.py DATA [--seconds 100] [--only NAME ...] [--seed 1] [--json out.json]

DATA is a folder of systems in DeePMD's spin layout (fcc_fe in docs/deepspin.md). A tenth of the frames is held out, 4 % choose
the best weights, as in inputs/training/fcc_iron.toml. The prior is fitted once and shared. Time is the processor time of this
process, so that other programs disturb little; the rate falls with the time that is used, validations are not counted.
Prints errors of the held-out frames as they come, and a table for the documentation.
"""

import argparse
import json
import math
import time
import warnings
from pathlib import Path

import torch

from spinmd.learning.train import load_training_deck, training_systems
from spinmd.potentials.deepspin.optimisers import BETAS, Matrices
from spinmd.potentials.deepspin.training import Trainer

SHARE = 0.1  # of the time between two validations


def orthogonal(state, gradient):
    """Momentum, its singular values set to about one (Jordan et al., Muon, 2024), with the rms of a step of Adam."""
    mean = state.setdefault("mean", torch.zeros_like(gradient)).mul_(0.95).add_(gradient)
    x = gradient + 0.95 * mean
    wide = x.shape[0] > x.shape[1]
    x = (x.T if wide else x) / (x.norm() + 1e-12)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return 0.2 * max(gradient.shape) ** 0.5 * (x.T if wide else x)


def groups_of(trainer):
    return [{"params": g["params"], "factor": g["factor"]} for g in trainer._optimiser().param_groups]


def of(kind, **keywords):
    return lambda trainer: kind(groups_of(trainer), **keywords)


# name: (optimiser of a trainer, or None for the one that the deck names; changes of [training])
METHODS = {
    "Adam, cosine, averaged weights (default)": (None, {}),
    "Adam, exponential": (None, {"schedule": "exponential"}),
    "Adam, last weights": (None, {"average": False}),
    "Adam, rate 3e-3": (None, {"rate": 3e-3}),
    "AdamW, weight decay 0.01": (of(torch.optim.AdamW, betas=BETAS, weight_decay=0.01), {}),
    "NAdam": (of(torch.optim.NAdam, betas=BETAS), {}),
    "Muon for matrices": (of(Matrices, matrix_step=orthogonal, lr=1e-3), {}),
    "SOAP": (None, {"optimiser": "soap"}),
    "SOAP, rate 3e-3": (None, {"optimiser": "soap", "rate": 3e-3}),
}


def run(trainer, start, method, changes: dict, seconds: float) -> dict:
    """Train from ``start`` for ``seconds`` of processor time; errors of the held-out frames."""
    trainer.table = trainer.deck.training.model_copy(update={"steps": 1_000_000, **changes})
    trainer._load(start)
    trainer.log, trainer.best, trainer.best_weights = [], math.inf, [p.clone() for p in start]
    trainer.average, trainer._orders = [p.clone() for p in start], {}
    parameters = list(trainer.trained.parameters())
    optimiser = trainer._optimiser() if method is None else method(trainer)
    step, used, due = 0, 0.0, 0.0
    trainer.trained.train(True)
    while True:
        if used >= due or used >= seconds:
            trainer.step = step
            trainer._validate(0.0, None, used)
            due += SHARE * seconds
            if used >= seconds:
                break
        began = time.process_time()
        rate = trainer.rate(int(min(used / seconds, 1.0) * trainer.table.steps)) * min(1.0, (step + 1) / 100)
        for group in optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        trainer.trained.zero_grad()
        for item in trainer._batch(step):
            (trainer.loss(trainer._get(*item), rate) / trainer.table.batch).backward()
        torch.nn.utils.clip_grad_norm_([p for p in parameters if p.requires_grad], 100.0)
        optimiser.step()
        step += 1
        keep = min(0.998, step / (step + 10.0)) if trainer.table.average else 0.0
        with torch.no_grad():
            for mean, parameter in zip(trainer.average, parameters, strict=True):
                mean.lerp_(parameter, 1.0 - keep)
        used += time.process_time() - began
    return {
        "steps": step, "seconds_per_step": used / step, "validation_score": trainer.best,
        **{k: float(v) for k, v in trainer.errors("test", trainer.best_weights).items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seconds", type=float, default=100.0, help="processor time of each")
    parser.add_argument("--only", nargs="*", default=list(METHODS), help="names or beginnings of names")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    deck, folder = load_training_deck(
        {
            "data": {"train": [str(arguments.data.resolve())], "validation": 0.04, "test": 0.1},
            "training": {"seed": arguments.seed},
            "output": {"file": "unused.h5"},
        },
        folder=Path.cwd(),
    )
    trainer = Trainer(deck, training_systems(deck, folder), progress=False)
    trainer.prepare()
    start = [p.detach().clone() for p in trainer.trained.parameters()]
    report = {"prior alone": trainer.errors("test", start)}
    for name, (method, changes) in METHODS.items():
        if any(name.startswith(wanted) for wanted in arguments.only):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                report[name] = run(trainer, start, method, changes, arguments.seconds)
            print(name, json.dumps(report[name]), flush=True)
    print(
        "\n| method | steps | ms a step | energy, meV/atom | force, meV/Å | field, meV/µB | loss |\n|---|---|---|---|---|---|---|"
    )
    for name, row in report.items():
        numbers = (row.get("steps"), 1e3 * row["seconds_per_step"]) if "steps" in row else ("", 0.0)
        print(
            f"| {name} | {numbers[0]} | {numbers[1]:.1f} | {row['energy_mev_per_atom']:.3f} | {row['force_mev_per_ang']:.1f} | "
            f"{row['field_mev_per_mub']:.2f} | {row['score']:.2f} |"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
