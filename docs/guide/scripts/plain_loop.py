"""A model and its AdamW grow twice within a plain PyTorch loop."""

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy, interpolate

from nas_growclip import Clip, ClipArch, grow_optimizer, inherit

images, labels = map(torch.tensor, load_digits(return_X_y=True))
images = interpolate(images.float().view(-1, 1, 8, 8) / 16, 32).expand(-1, 3, -1, -1)
model = Clip(ClipArch.preset("tiny"))
captions = model.tokenize([f"a handwritten {digit}" for digit in range(10)])
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)


def loss_of(rows):
    image, text, scale = model(images[rows], captions)
    return cross_entropy(scale * image @ text.T, labels[rows])


for step in range(60):
    if step in (20, 40):
        sizes = {20: {"image.depth": 3}, 40: {"image.width": 96, "image.mlp_width": 384}}[step]
        parent, model = model, inherit(model, model.arch.with_sizes(sizes))
        optimizer = grow_optimizer(optimizer, parent, model)
    if step % 10 == 0:
        print(step, loss_of(slice(1500, None)).item())
    optimizer.zero_grad()
    loss_of(torch.randint(1500, (64,))).backward()
    optimizer.step()
