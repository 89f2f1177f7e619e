"""Zero-shot top-1 of an ONNX export on a folder with a folder of images for each class."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer

export, images = map(Path, sys.argv[1:])
about = json.loads((export / "inference.json").read_text())
pixels = about["preprocess_cfg"]
size = pixels["size"][0]


def load(file):
    image = Image.open(file).convert("RGB")
    image = image.resize([size * side // min(image.size) for side in image.size], Image.BICUBIC)
    left, top = (round((side - size) / 2) for side in image.size)
    values = np.asarray(image.crop((left, top, left + size, top + size))) / 255
    return ((values - pixels["mean"]) / pixels["std"]).transpose(2, 0, 1)


def run(encoder, batch, dtype):
    session = onnxruntime.InferenceSession(export / about[encoder]["file"])
    return session.run(None, {about[encoder]["input"]: np.asarray(batch, dtype)})[0]


files = sorted(images.glob("*/*"))
classes = sorted({file.parent.name for file in files})
tokenizer = Tokenizer.from_file(str(export / "tokenizer.json"))
tokens = tokenizer.encode_batch([f"a photo of a {name.replace('_', ' ')}." for name in classes])
texts = run("text_encoder", [text.ids for text in tokens], np.int64)
found = (run("image_encoder", [load(file) for file in files], np.float32) @ texts.T).argmax(axis=1)
labels = [classes.index(file.parent.name) for file in files]
print(f"top-1 {np.mean(found == labels):.4f} of {len(files)} images")
