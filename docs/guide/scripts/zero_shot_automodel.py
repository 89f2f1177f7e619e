"""Zero-shot top-1 of an AutoModel export on a folder with a folder of images for each class."""

import sys
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

export, images = map(Path, sys.argv[1:])
model = AutoModel.from_pretrained(export, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(export, trust_remote_code=True)
files = sorted(images.glob("*/*"))
classes = sorted({file.parent.name for file in files})
prompts = [f"a photo of a {name.replace('_', ' ')}." for name in classes]
pictures = [Image.open(file).convert("RGB") for file in files]
options = {"return_tensors": "pt", "padding": True, "truncation": True}
inputs = processor(text=prompts, images=pictures, **options)
with torch.no_grad():
    found = model(**inputs).logits_per_image.argmax(dim=1)
labels = torch.tensor([classes.index(file.parent.name) for file in files])
print(f"top-1 {(found == labels).float().mean():.4f} of {len(files)} images")
