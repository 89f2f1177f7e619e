"""The tests: what every one of their processes starts with, and the run-time checks of types.

Models this small are fastest, and repeatable, with one thread: ``GROWCLIP_TEST_THREADS`` asks for
another number. A process that finds no bytecode of its libraries on the disk compiles them for ten
seconds, so the tests and what they start keep it.

Arguments and results are checked against their annotations by beartype, with ints allowed where
floats are. Only modules that annotate shapes also get jaxtyping's hook, which compares the shapes
of one call with each other and takes ten times as long.
"""

import os
import sys
from pathlib import Path

from beartype import BeartypeConf, beartype
from beartype.claw import beartype_package
from jaxtyping import install_import_hook

os.environ["OMP_NUM_THREADS"] = os.environ.get("GROWCLIP_TEST_THREADS", "1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))


def modules_with_shapes() -> list[str]:
    """The package's modules that annotate shapes."""
    root = Path(__file__).parents[1]
    paths = (root / "nas_growclip").rglob("*.py")
    shaped = (path for path in paths if "from jaxtyping import" in path.read_text())
    return [".".join(path.relative_to(root).with_suffix("").parts) for path in shaped]


beartype_package("nas_growclip", conf=BeartypeConf(is_pep484_tower=True, claw_is_pep526=False))
install_import_hook(modules_with_shapes(), f"{__name__}.check_types")
