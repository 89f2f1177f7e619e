"""A full-size OpenCLIP model through import, growth and export: time, memory, exactness.

Random weights under OpenCLIP's ViT-B-32 configuration; every step is a process of its own, so that
its peak memory is its own. The grown model is loaded by stock open_clip at the end, and its
embeddings are compared with the first one's.

Command: python -m benchmarks.import_grow_export --out DIR [--model ViT-B-32]    (some minutes)
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

GROWTH = ("image.mlp_width=6144", "image.depth=18", "text.width=1024")

MAKE = """
import sys, torch, open_clip
from safetensors.torch import save_file
torch.manual_seed(0)
model = open_clip.create_model(sys.argv[1])
with torch.no_grad():
    for name, p in model.named_parameters():
        if p.ndim < 2 and name != "logit_scale":
            p.add_(0.1 * torch.randn_like(p))
save_file(model.state_dict(), sys.argv[2])
"""

COMPARE = """
import sys, torch, open_clip
from safetensors.torch import load_file
stock = open_clip.create_model(sys.argv[1]); stock.load_state_dict(load_file(sys.argv[2]))
grown = open_clip.create_model(f"local-dir:{sys.argv[3]}")
torch.manual_seed(1)
size = stock.visual.image_size
images = torch.randn(4, 3, *size)
tokens = open_clip.get_tokenizer(sys.argv[1])(["a photo of a cat", "", "two red circles", "x y z"])
with torch.no_grad():
    pairs = [(f(stock.eval()), f(grown.eval())) for f in (
        lambda m: m.encode_image(images, normalize=True),
        lambda m: m.encode_text(tokens, normalize=True))]
print(max(float((a - b).abs().max()) for a, b in pairs))
"""


def measured(name: str, command: list[str]) -> str:
    """Run one step; print its time and peak memory; give what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    started = time.monotonic()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    shown = f"{peak / 2**20:.2f} GiB" if peak > before else f"under {before / 2**20:.2f} GiB"
    print(f"| {name} | {seconds:.1f} | {shown} |", flush=True)
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--set", nargs="*", default=GROWTH, dest="growth")
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True)
    weights, python = out / "stock.safetensors", sys.executable
    growclip = [python, "-m", "nas_growclip"]
    print("| step | seconds | peak memory so far |\n|---|---|---|")
    measured("make the stock model", [python, "-c", MAKE, options.model, str(weights)])
    measured("import", [*growclip, "import", options.model, str(weights), "--out", str(out / "in")])
    sizes = [word for size in options.growth for word in ("--set", size)]
    grown = measured(
        "grow", [*growclip, "grow", str(out / "in"), *sizes, "--out", str(out / "grown")]
    )
    measured("export", [*growclip, "export", str(out / "grown"), "--out", str(out / "out")])
    arguments = [options.model, str(weights), str(out / "out")]
    difference = measured("compare", [python, "-c", COMPARE, *arguments])
    print(f"\n{grown}\nLargest difference of embeddings by stock open_clip: {difference.strip()}")


if __name__ == "__main__":
    main()
