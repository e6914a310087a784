"""How much energy one unit of a net's output is: taken from the data, so that steps of the optimiser have the size of what is left.

The last layer of a net on top of a prior begins at zero, and one step of the optimiser moves each of its weights by about the
learning rate whatever the labels are. Where the prior leaves errors of 0.5 meV/Å, an output in eV would overshoot them a
thousandfold.
"""

import numpy as np
import torch

FRAMES = 16
RATIO = 10.0  # between 1 and 13 the loss of fcc iron after 5000 steps is the same to 1 %, with 130 it is 8 % higher


def output_scale(trainer, module) -> float:
    """eV per unit of the output of ``module`` (a ``TorchInvariants`` or ``TorchNetwork`` of a prepared training), at most one.

    RATIO times the rms of what the prior leaves of forces, or of fields, over that of nets whose last layer is random with
    outputs of order one: the smaller of the two.
    """
    frames = trainer._frames("train")
    frames = [trainer._get(*item) for item in frames[:: max(1, len(frames) // FRAMES)]]
    virtual = hasattr(module, "fitting")
    nets = module.fitting if virtual else module.nets
    generator, kept = torch.Generator().manual_seed(1), [net[-1].weight.detach().clone() for net in nets]
    sums = np.zeros((2, 2))  # of squares: what is left, what random nets make; forces, fields
    training = module.training
    module.train(False)
    with torch.no_grad():
        for net in nets:
            weight = net[-1].weight
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype) / (len(weight) + 1) ** 0.5)
    for frame in frames:
        _, force, field, _ = module(frame.network if virtual else frame.invariants)
        fields = [(trainer.scale * frame.base_field - frame.field) * frame.magnetic, field * frame.magnetic]
        if frame.along is not None:  # what training does not see must not count
            fields = [x - (x * frame.along).sum(1, keepdim=True) * frame.along for x in fields]
        for k, (rest, made) in enumerate([(frame.force, force), fields]):
            sums[0, k] += float(rest.square().sum())
            sums[1, k] += float(made.detach().square().sum())
    with torch.no_grad():
        for net, weight in zip(nets, kept, strict=True):
            net[-1].weight.copy_(weight)
    module.train(training)
    used = (sums > 0.0).all(axis=0)
    return float(min(1.0, RATIO * np.sqrt(sums[0] / sums[1], where=used, out=np.full(2, np.inf)).min()))
