"""Training of a DeepSPIN model: prior by least squares, then prior and nets together by Adam. Needs torch.

``Trainer`` holds one training: ``prepare`` (data, prior, tensors), ``run`` (steps; resumable to the bit), ``model`` (the result).
"""

import json
import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from spinmd.errors import InputError
from spinmd.potentials.deepspin.data import System, elements_of
from spinmd.potentials.deepspin.model import DeepSpinModel, SeenRange
from spinmd.potentials.deepspin.output_scale import output_scale
from spinmd.potentials.deepspin.prior_design import core, design, predict
from spinmd.potentials.deepspin.prior_fit import element_types, fit_prior, sigmas, training_settings
from spinmd.potentials.deepspin.starting_weights import starting_invariants, starting_network
from spinmd.potentials.deepspin.torch_invariants import TorchInvariants
from spinmd.potentials.deepspin.torch_network import TorchNetwork
from spinmd.potentials.deepspin.training_checkpoint import identity, read_checkpoint, write_checkpoint
from spinmd.potentials.deepspin.training_log import write_log
from spinmd.potentials.deepspin.training_parameters import TrainingDeck
from spinmd.potentials.deepspin.training_parts import Frame, Trained

ROOM = 6e9  # bytes of prepared frames that are kept; beyond it they are prepared anew for each step
WHITENING_FRAMES = 400
KINDS = {"energy_mev_per_atom": "meV/atom", "force_mev_per_ang": "meV/Å", "field_mev_per_mub": "meV/µB"}
GIVEN_UP = 1.2  # no kind of error may exceed this times that of the fitted prior, however small the loss is
FORCE_SIGMA = 20e-3  # eV/Å: scale of the loss, so that a loss of one is an error of this size


class Trainer:
    """One training.

    deck        the parameters;  systems  {"train": [...], "validation": [...], "test": [...]} of ``data.System``
    Raises InputError for data that do not fit each other or the deck.
    """

    def __init__(self, deck: TrainingDeck, systems: dict[str, list[System]], *, progress: bool = True):
        self.deck, self.systems, self.progress = deck, systems, progress
        self.table = deck.training
        self.dtype = torch.float64 if deck.network.precision == "float64" else torch.float32
        torch.set_num_threads(self.table.threads)
        self.elements = elements_of(systems["train"])
        for name in ("validation", "test"):
            for system in systems[name]:
                element_types(system, self.elements)
        self.settings = training_settings(
            systems["train"], **(deck.prior.settings if deck.prior.enabled else {"cutoff": 5.0})
        )
        self.settings["elements"] = list(self.elements)
        self.magnetic = np.array(self.settings["magnetic"])
        if not self.magnetic.any():
            raise InputError("no atom of the training data carries a spin; DeepSPIN needs spins", "data.train")
        self.log: list[dict[str, float]] = []
        self.step, self.best, self.seconds, self.slower = 0, math.inf, 0.0, 1.0

    # ------------------------------------------------------------------ preparation

    def prepare(self) -> None:
        """Fit the prior, make the starting weights, prepare the frames."""
        deck, train = self.deck, self.systems["train"]
        began = time.perf_counter()
        self.prior, self.scale, self.prior_report = None, 1.0, {}
        if deck.prior.enabled:
            fit = fit_prior(
                self.settings, train, sigmas(train, deck.prior.robust), field_scale=self.table.field_scale,
                transverse_only=self.table.transverse_only, progress=self.progress,
            )  # fmt: skip
            self.prior, self.shift, self.scale, self.prior_report = (
                fit.prior,
                np.asarray(fit.shift),
                fit.field_scale,
                fit.report,
            )
        else:
            counts = np.concatenate(
                [
                    np.tile(np.bincount(element_types(s, self.elements), minlength=len(self.elements)), (s.frames, 1))
                    for s in train
                ]
            )
            self.shift = np.linalg.lstsq(counts.astype(float), np.concatenate([s.energy for s in train]), rcond=None)[0]
            if self.table.field_scale != "fit":
                self.scale = float(self.table.field_scale)
        rng = np.random.default_rng(self.table.seed)
        network = invariants = None
        eta = self.virtual_scale()
        if deck.descriptor in ("virtual-atoms", "both"):
            start = starting_network(
                deck.network, self.elements, self.magnetic, eta, train, rng, quiet=deck.prior.enabled
            )
            network = TorchNetwork(start, eta, time_reversal=deck.network.time_reversal, dtype=self.dtype)
        if deck.descriptor in ("invariants", "both"):
            nets = starting_invariants(deck.network, self.prior, rng)
            invariants = TorchInvariants(self.prior, nets, self.dtype)
        self.whole_factor = self._coordinates() if self._trains_prior() else None
        self.trained = Trained(
            network, invariants, self.whole_factor.shape[1] if self.whole_factor is not None else 0, self.dtype
        )
        self._prepare_frames()
        if self.prior is not None:  # nets that begin at zero
            for module in (invariants, network):
                if module is not None:
                    module.output_scale = output_scale(self, module)
        self.average = [p.detach().clone() for p in self.trained.parameters()]
        self.best_weights = [p.clone() for p in self.average]
        self.optimiser = self._optimiser()
        self.preparation_seconds = time.perf_counter() - began

    def virtual_scale(self) -> np.ndarray:
        """(n,) η, Å/µB, zero for non-magnetic elements."""
        given = self.deck.network.virtual_scale
        for symbol in given if isinstance(given, dict) else ():
            if symbol not in self.elements:
                raise InputError(f"the data have no {symbol}, only {', '.join(self.elements)}", "network.virtual_scale")
        eta = [given.get(e, 0.3) if isinstance(given, dict) else given for e in self.elements]
        return np.where(self.magnetic, eta, 0.0)

    def _trains_prior(self) -> bool:
        """Whether the prior's coefficients are trained: their rows must fit into memory."""
        if self.prior is None or not self.deck.prior.train or self.deck.descriptor == "none":
            return False
        rows = sum(s.frames * (6 * s.natoms + 1) for name in ("train", "validation") for s in self.systems[name])
        size = rows * self.prior.count * (8 if self.dtype == torch.float64 else 4)
        if size >= 0.5 * ROOM:
            warnings.warn(
                f"prior.train: training the {self.prior.count} coefficients of the prior along with the network would take "
                f"{size / 1e9:.1f} GB of memory (at most {0.5 * ROOM / 1e9:.1f} are used), so they keep their fitted values; "
                "fewer frames, prior.many_body_functions or prior.pair_functions make room",
                stacklevel=2,
            )
            return False
        return True

    def _coordinates(self) -> np.ndarray:
        """(count, count) T: coefficients = fitted ones + T δ, such that the least-squares loss is |δ|² apart from the nets.

        T = L⁻ᵀ of the Cholesky factor L of the normal matrix: Adam sees a prior without dependent directions.
        """
        gram = np.zeros((self.prior.count, self.prior.count))
        for system in self.systems["train"]:
            types = element_types(system, self.elements)
            for f in range(0, system.frames, max(1, system.frames // 40)):
                rows = design(
                    self.prior, types, system.box[f], system.coord[f], system.spin[f], periodic=system.periodic
                )
                for part, sigma in (
                    (rows.positions, FORCE_SIGMA),
                    (rows.spins, 5e-3),
                    (rows.energy[:, None], 0.3e-3 * system.natoms**0.5),
                ):
                    part = part / sigma
                    gram += part @ part.T
        scale = np.sqrt(np.maximum(np.diag(gram), 1e-30))
        gram = gram / scale[:, None] / scale + 1e-7 * np.eye(len(gram))
        return np.linalg.inv(np.linalg.cholesky(gram)).T / scale[:, None]

    def _frames(self, name: str):
        return [(system, f) for system in self.systems[name] for f in range(system.frames)]

    def _prepare_frames(self) -> None:
        trained = self.trained
        first = [self._frame(*item, whiten=False) for item in self._frames("train")[:1]]
        size = _bytes(first[0])
        self.kept = size * (len(self._frames("train")) + len(self._frames("validation"))) < ROOM
        sample = self._frames("train")
        sample = sample[:: max(1, len(sample) // WHITENING_FRAMES)]
        if trained.network is not None or trained.invariants is not None:
            some = [self._frame(*item, whiten=False) for item in sample]
            if trained.network is not None:
                trained.network.whiten([frame.network for frame in some])
            if trained.invariants is not None:
                trained.invariants.whiten([frame.invariants for frame in some], self.deck.network.components, 3e-2)
        self.prepared = {}
        if self.kept:
            for name in ("train", "validation"):
                for item in tqdm(
                    self._frames(name), desc=f"prepare {name}", unit="frame", disable=not self.progress, leave=False
                ):
                    self.prepared[id(item[0]), item[1]] = self._frame(*item)

    def _get(self, system: System, f: int) -> Frame:
        return self.prepared[id(system), f] if self.kept else self._frame(system, f)

    def _frame(self, system: System, f: int, whiten: bool = True) -> Frame:
        types = element_types(system, self.elements)
        geometry = (system.box[f], system.coord[f], system.spin[f], types)
        energy = system.energy[f] - self.shift[types].sum()
        force, virial, rows = system.force[f].copy(), None if system.virial is None else system.virial[f].copy(), None
        base_field = np.zeros_like(force)
        if self.prior is not None:
            found = design(self.prior, types, *geometry[:3], virial=virial is not None, periodic=system.periodic)
            e, F, H = predict(self.prior, found)
            core_energy, core_force, core_virial = core(self.prior, types, *geometry[:2], periodic=system.periodic)
            energy, force, base_field = energy - e - core_energy, force - F - core_force, H
            if virial is not None:
                virial = virial - (self.prior.coefficients @ found.virial).reshape(3, 3) - core_virial
            if self.whole_factor is not None:
                T = self.whole_factor
                rows = (found.energy[None] @ T, -(found.positions.T @ T), -(found.spins.T @ T))
        f32 = lambda array: torch.tensor(np.asarray(array), dtype=self.dtype)  # noqa: E731
        magnetic = self.magnetic[types] & (system.spin[f] != 0.0).any(axis=1)
        along = None
        if self.table.transverse_only:
            length = np.linalg.norm(system.spin[f], axis=1, keepdims=True)
            along = f32(system.spin[f] / np.where(length > 0.0, length, 1.0))
        rms2 = 3.0 * float((system.force[f] ** 2).mean())
        robust = self.deck.prior.robust
        trained = self.trained
        invariants = network = None
        if trained.invariants is not None:
            invariants = trained.invariants.prepare(*geometry)
            if whiten:
                trained.invariants.whitened(invariants)
        if trained.network is not None:
            network = trained.network.prepare(*geometry)
        return Frame(
            system.natoms, 1.0 / (1.0 + rms2 / robust**2) if robust else 1.0, f32(energy), f32(force), f32(system.field[f]),
            None if virial is None else f32(virial), torch.tensor(magnetic[:, None], dtype=self.dtype), along, f32(base_field),
            None if rows is None else tuple(f32(part) for part in rows), invariants, network,
        )  # fmt: skip

    # ------------------------------------------------------------------ steps

    def _optimiser(self):
        slow = [p for name, p in self.trained.named_parameters() if name not in ("changes", "log_scale")]
        groups = [{"params": slow, "factor": 1.0}] if slow else []
        if self.trained.changes is not None:
            groups.append({"params": [self.trained.changes], "factor": self.table.prior_rate})
        if self.table.field_scale == "fit":
            groups.append({"params": [self.trained.log_scale], "factor": 1.0})
        else:  # a gradient that no step uses up would grow and count in the clipping
            self.trained.log_scale.requires_grad_(False)
        return torch.optim.Adam(groups, lr=self.table.rate, betas=(0.9, 0.99)) if groups else None

    def rate(self, step: int) -> float:
        """Learning rate of a step; a linear start over 100 steps."""
        t, last, fraction = self.table.rate, self.table.last_rate, step / max(self.table.steps, 1)
        if self.table.schedule == "cosine":
            value = last + (t - last) * 0.5 * (1.0 + math.cos(math.pi * fraction))
        else:
            value = t * (last / t) ** fraction
        return value * min(1.0, (step + 1) / 100) * self.slower

    def _differences(self, frame: Frame):
        virial = frame.virial is not None and max(self.table.virial) > 0.0
        energy, force, field, w = self.trained(frame, virial)
        field = (field + frame.base_field) * (self.scale * torch.exp(self.trained.log_scale)) - frame.field
        field = field * frame.magnetic
        if frame.along is not None:
            field = field - (field * frame.along).sum(1, keepdim=True) * frame.along
        return energy - frame.energy, force - frame.force, field, None if w is None else w - frame.virial

    def loss(self, frame: Frame, rate: float) -> torch.Tensor:
        """Loss of one frame at a learning rate; about one where forces are off by 20 meV/Å."""
        part = rate / self.table.rate
        p = {
            name: limit + (start - limit) * part
            for name in ("energy", "force", "field", "virial")
            for start, limit in [getattr(self.table, name)]
        }
        energy, force, field, virial = self._differences(frame)
        total = p["energy"] * energy**2 / frame.natoms + p["force"] * (force**2).mean()
        total = total + p["field"] * (field**2).sum() / (3.0 * frame.magnetic.sum().clamp(min=1.0))
        if virial is not None:
            total = total + p["virial"] * (virial**2).sum() / frame.natoms
        return total * (frame.weight / FORCE_SIGMA**2)

    def _batch(self, step: int) -> list[tuple[System, int]]:
        """The frames of a step: epochs of fresh permutations, a function of seed and step alone."""
        frames, batch = self._frames("train"), self.table.batch
        chosen = []
        for k in range(step * batch, (step + 1) * batch):
            epoch, at = divmod(k, len(frames))
            if epoch not in self._orders:
                self._orders = {epoch: np.random.default_rng([self.table.seed, epoch]).permutation(len(frames))} | (
                    {epoch - 1: self._orders[epoch - 1]} if epoch - 1 in self._orders else {}
                )
            chosen.append(frames[self._orders[epoch][at]])
        return chosen

    def run(self, log_file: Path | None = None, checkpoint: Path | None = None, stop=lambda: False) -> None:
        """Steps until the end, or until ``stop()``; validates and saves every ``checkpoint`` steps."""
        self._orders: dict[int, np.ndarray] = {}
        steps, every = self.table.steps if self.optimiser else 0, self.table.checkpoint
        parameters = list(self.trained.parameters())
        moving = [p for p in parameters if p.requires_grad]
        self.trained.train(True)
        bar = tqdm(total=steps, initial=self.step, desc="train", unit="step", disable=not self.progress)
        began, before, running = time.perf_counter(), self.seconds, getattr(self, "running", 0.0)
        if self.step == 0 and not self.log:
            self._validate(0.0, log_file, before)
        while self.step < steps and not stop():
            rate = self.rate(self.step)
            for group in self.optimiser.param_groups:
                group["lr"] = rate * group["factor"]
            self.trained.zero_grad()
            total = 0.0
            for item in self._batch(self.step):
                loss = self.loss(self._get(*item), rate) / self.table.batch
                loss.backward()
                total += float(loss.detach())
            if not math.isfinite(total):
                raise InputError("the loss is not a number any more; try a smaller training.rate", f"step {self.step}")
            torch.nn.utils.clip_grad_norm_(moving, 100.0)
            self.optimiser.step()
            self.step += 1
            running = total if self.step == 1 else 0.99 * running + 0.01 * total
            keep = min(0.998, self.step / (self.step + 10.0)) if self.table.average else 0.0
            with torch.no_grad():
                for mean, parameter in zip(self.average, parameters, strict=True):
                    mean.lerp_(parameter, 1.0 - keep)
            bar.update()
            if self.step % every == 0 or self.step == steps:
                self.seconds = before + time.perf_counter() - began
                row = self._validate(running, log_file, self.seconds)
                values = [row[name] for name in KINDS]
                bar.set_postfix_str("{:.2f} meV/atom {:.1f} meV/Å {:.2f} meV/µB".format(*values))
                self.running = running
                if row["score"] > 3.0 * self.log[0]["score"] and self.step < steps:
                    self._begin_again(parameters)
                if checkpoint is not None:
                    self.save(checkpoint)
        # a stop may be between two checkpoints
        self.running, self.seconds = running, before + time.perf_counter() - began
        bar.close()

    def _begin_again(self, parameters) -> None:
        """The steps were too long for these data: go on from the best weights at a tenth of the rate."""
        self.slower *= 0.1
        warnings.warn(
            f"training: the errors grew threefold by step {self.step}; going on from the best weights at a tenth of the rate "
            f"({self.rate(self.step):.1g})",
            stacklevel=2,
        )
        self._load(self.best_weights)
        self.average = [p.detach().clone() for p in parameters]
        self.optimiser = self._optimiser()

    def _validate(self, running: float, log_file: Path | None, seconds: float) -> dict[str, float]:
        errors = self.errors("validation" if self._frames("validation") else "train", self.average)
        row = {"step": self.step, "rate": self.rate(self.step), "loss": running, **errors, "seconds": round(seconds, 2)}
        self.log.append(row)
        if row["score"] < self.best and not self.worse_than_prior(row):
            self.best = row["score"]
            self.best_weights = [p.clone() for p in self.average]
        if log_file is not None:
            write_log(log_file, self.log)
        return row

    def worse_than_prior(self, row: dict[str, float]) -> list[str]:
        """The kinds of errors of a validation that are clearly above those of the fitted prior (the first validation)."""
        if self.prior is None:
            return []
        return [name for name in KINDS if row[name] > GIVEN_UP * self.log[0][name]]

    def best_row(self) -> dict[str, float]:
        """The validation whose weights are the model's; empty before the first."""
        return min(
            (row for row in self.log if not self.worse_than_prior(row)), key=lambda row: row["score"], default={}
        )

    def trade_off(self) -> str:
        """What a smaller loss than the model's would have cost, in words; empty if there is none."""
        row = min(self.log, key=lambda row: row["score"], default={})
        if not row or not self.worse_than_prior(row):
            return ""
        costs = [
            f"the {name.split('_')[0]} error from {self.log[0][name]:.3g} to {row[name]:.3g} {KINDS[name]}"
            for name in self.worse_than_prior(row)
        ]
        return (
            f"step {row['step']} had a smaller loss but raised {' and '.join(costs)}: the labels disagree, or one kind outweighs "
            'the others; see training.field_scale ("fit"), training.energy, training.force and training.field'
        )

    def errors(self, name: str, weights) -> dict[str, float]:
        """Errors of a set with given weights (meV/atom, meV/Å, meV/µB), and the score that chooses: the mean loss."""
        present = [p.detach().clone() for p in self.trained.parameters()]
        self._load(weights)
        self.trained.train(False)
        sums, count = np.zeros(3), np.zeros(3)
        score = total = 0.0
        for item in self._frames(name):
            frame = self._get(*item) if name != "test" else self._frame(*item)
            energy, force, field, _ = (
                None if d is None else d.detach().double().numpy() for d in self._differences(frame)
            )
            sums += [(energy / frame.natoms) ** 2, (force**2).sum(), (field**2).sum()]
            count += [1, force.size, 3 * float(frame.magnetic.sum())]
            score += frame.weight * (
                self.table.energy[1] * energy**2 / frame.natoms
                + self.table.force[1] * (force**2).mean()
                + self.table.field[1] * (field**2).mean()
            )
            total += frame.weight
        self.trained.train(True)
        self._load(present)
        rms = 1e3 * np.sqrt(sums / np.maximum(count, 1))
        return {
            "energy_mev_per_atom": rms[0], "force_mev_per_ang": rms[1], "field_mev_per_mub": rms[2],
            "score": float(score / max(total, 1e-30)) / FORCE_SIGMA**2,
        }  # fmt: skip

    def _load(self, weights) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.trained.parameters(), weights, strict=True):
                parameter.copy_(value)

    # ------------------------------------------------------------------ checkpoint and result

    def save(self, path: Path) -> None:
        """Write the state of the training atomically."""
        content = {
            "identity": json.dumps(identity(self.deck, self.systems)), "slower": self.slower, "step": self.step, "best": self.best,
            "seconds": self.seconds, "running": self.running,
            "weights": [p.detach() for p in self.trained.parameters()], "average": self.average, "best_weights": self.best_weights,
            "optimiser": self.optimiser.state_dict(), "log": json.dumps(self.log),
        }  # fmt: skip
        write_checkpoint(path, content)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint. Raises InputError for a file that is none, or of another deck or other data."""
        content = read_checkpoint(path, self.deck, self.systems)
        self.step, self.best, self.seconds, self.running = (content[k] for k in ("step", "best", "seconds", "running"))
        self.slower = content["slower"]
        self._load(content["weights"])
        self.average, self.best_weights = content["average"], content["best_weights"]
        self.optimiser.load_state_dict(content["optimiser"])
        self.log = json.loads(content["log"])

    def model(self) -> DeepSpinModel:
        """The model with the best weights."""
        self._load(self.best_weights)
        trained, prior = self.trained, self.prior
        if self.whole_factor is not None:
            prior = prior.with_coefficients(
                prior.coefficients + self.whole_factor @ trained.changes.detach().double().numpy()
            )
        scale = self.scale * math.exp(float(trained.log_scale.detach()))
        network = None if trained.network is None else trained.network.weights()
        if network is not None:
            network.precision = self.deck.network.precision
        return DeepSpinModel(
            elements=tuple(self.elements), magnetic=self.magnetic, virtual_scale=self.virtual_scale(), shift=self.shift,
            network=network, prior=prior, invariants=None if trained.invariants is None else trained.invariants.nets_of(),
            time_reversal=bool(network is not None and self.deck.network.time_reversal), seen=self._seen(),
            provenance={"field_scale": scale, **self._provenance()},
        )  # fmt: skip

    def _seen(self) -> SeenRange:
        lengths = np.zeros((len(self.elements), 2))
        for t in np.flatnonzero(self.magnetic):
            all_lengths = [
                np.linalg.norm(s.spin[:, element_types(s, self.elements) == t], axis=-1).ravel()
                for s in self.systems["train"]
            ]
            joined = np.concatenate(all_lengths)
            lengths[t] = joined.min(), joined.max()
        return SeenRange(np.array(self.settings["shortest"]), lengths)

    def _provenance(self) -> dict[str, Any]:
        return {
            "title": self.deck.title,
            "deck": json.loads(self.deck.model_dump_json(exclude={"output", "data"})),
            "data": {
                name: [{"name": Path(s.name).name, "frames": s.frames, "atoms": s.natoms} for s in systems]
                for name, systems in self.systems.items()
            },
            "prior_fit": {k: v for k, v in self.prior_report.items() if k != "held_out_errors"},
            "best_validation": self.best_row(),
            "torch": torch.__version__,
        }


def _bytes(value: Any) -> int:
    """Memory of the tensors in a prepared frame."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        value = list(value.values())
    elif hasattr(value, "__dataclass_fields__"):
        value = list(vars(value).values())
    return sum(_bytes(item) for item in value) if isinstance(value, (list, tuple)) else 0
