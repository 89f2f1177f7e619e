"""An Optuna objective of your own over a growth space: loss and FLOPs of a child, both small."""

import optuna
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy, interpolate

from nas_growclip import Clip, ClipArch, count_flops, inherit, load_space

images, labels = map(torch.tensor, load_digits(return_X_y=True))
images = interpolate(images.float().view(-1, 1, 8, 8) / 16, 32).expand(-1, 3, -1, -1)
space, tiny = load_space("tiny"), Clip(ClipArch.preset("tiny"))
captions = tiny.tokenize([f"a handwritten {digit}" for digit in range(10)])


def loss_of(model, rows):
    image, text, scale = model(images[rows], captions)
    return cross_entropy(scale * image @ text.T, labels[rows])


def trained(model, steps=10):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model, torch.randint(1500, (64,))).backward()
        optimizer.step()
    return model


def objective(trial):
    candidate = space.suggest(trial, parent.arch, num_pairs=10_000)
    child = trained(inherit(parent, candidate.apply(parent.arch)))
    return loss_of(child, slice(1500, None)).item(), count_flops(child.arch)


parent = trained(tiny)
study = optuna.create_study(directions=["minimize", "minimize"])
study.optimize(objective, n_trials=6)
for trial in study.best_trials:
    print(trial.params, trial.values)
