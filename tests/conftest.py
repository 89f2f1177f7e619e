"""Small models that every test may use."""

import gc
import os
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import config
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from nas_growclip import report
from nas_growclip.compare import results
from nas_growclip.growth.verify import perturbed
from nas_growclip.models.arch import ClipArch, ImageArch, SharedArch, TextArch
from nas_growclip.models.clip import Clip
from nas_growclip.records.frames import Run
from nas_growclip.search.optuna import dashboard
from tests.support.words import keep_words, with_words

TESTS = Path(__file__).parent

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "campaign", deadline=None, max_examples=1000, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with many slow tests come first: processes that share the files end together."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish() -> None:
    """Make this process fit to be forked at any time.

    PyTorch starts autograd's threads at the first backward pass, and none where only the CPU is
    there; after an export to ONNX it would start some, and no fork could differentiate any more.
    Libraries stay: the garbage collector need not look through them, here and in every fork.
    """
    torch.ones(1, requires_grad=True).sum().backward()
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let libraries be collected again: Triton lists what it finds uncollected at the end."""
    gc.unfreeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--longest", type=float, help="seconds of CPU time that a test may take")


CPU_SECONDS = pytest.StashKey[float]()
"""When a test's last phase ended, by ``cpu_seconds``."""


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


UPLOAD_CURVE, DRAWING = dashboard.upload_curve, (report, results)
FIGURES = [module.FIGURES for module in DRAWING]


@pytest.fixture(autouse=True, scope="session")
def without_pictures() -> Iterator[None]:
    """Draw neither learning curves for Optuna's dashboard nor figures of reports and results."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dashboard, "upload_curve", lambda *given: None)
        for module in DRAWING:
            patch.setattr(module, "FIGURES", {})
        yield


@pytest.fixture(autouse=True, scope="module")
def with_pictures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Draw them in modules where they are what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("pictures") is not None:
            patch.setattr(dashboard, "upload_curve", UPLOAD_CURVE)
            for module, figures in zip(DRAWING, FIGURES, strict=True):
                patch.setattr(module, "FIGURES", figures)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that takes longer than ``--longest`` fails, unless it is marked with its reason.

    CPU time counts, that of ended children included: a busy machine is not the test's fault.
    """
    before = item.stash.get(CPU_SECONDS, cpu_seconds())
    item.stash[CPU_SECONDS] = cpu_seconds()
    taken = item.stash[CPU_SECONDS] - before
    report = yield
    limit = item.config.getoption("--longest")
    is_timed = limit is not None and call.when == "call" and report.passed
    if is_timed and taken > limit and item.get_closest_marker("long") is None:
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid} must end within {limit:g} s, but took {taken:.0f} s. "
            'Shorten it, or say why it is long: @pytest.mark.long("reason").'
        )
    return report


@pytest.fixture(autouse=True, scope="session")
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What one test session finds in shards is not another's; its processes inherit it.

    It has the tokenizer of the small models.
    """
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    keep_words(tmp_path_factory.mktemp("words"))


ARRAYS = ("data", "evaluation", "growth", "interop", "models", "training")
"""Folders whose tests are about arrays: there the shapes that annotations name are checked."""


@pytest.fixture(autouse=True, scope="module")
def shapes_are_checked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where arrays are what is tested; whole runs pass them through the same functions.

    Checking takes a fifth of a small run's time. Other annotations are checked everywhere, and
    ``smoke_run`` is made with all.
    """
    with shape_checks(is_on=request.path.relative_to(TESTS).parts[0] in ARRAYS):
        yield


@contextmanager
def shape_checks(is_on: bool) -> Iterator[None]:
    """Check shapes of arguments and results, or not."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", not is_on)
    yield
    config.update("jaxtyping_disable", before)


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The finished run of ``experiments/smoke.yaml``; whoever changes it copies its folder."""
    from nas_growclip.experiment.config import load_config  # noqa: PLC0415 (slow)
    from nas_growclip.experiment.run import run_experiment  # noqa: PLC0415 (slow)
    from tests.support.runs import SMOKE  # noqa: PLC0415 (slow)

    with threads(1), shape_checks(is_on=True):
        return run_experiment(load_config(SMOKE), tmp_path_factory.mktemp("smoke") / "run")


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Have PyTorch use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For modules that compare records to the last digit: a forked process has one thread."""
    with threads(1):
        yield


@pytest.fixture
def close_connections() -> Iterator[None]:
    """Optuna keeps a database's connections until its storage is collected; psycopg warns then."""
    engines = set()

    def note(connection: Connection) -> None:
        engines.add(connection.engine)

    event.listen(Engine, "engine_connect", note)
    yield
    event.remove(Engine, "engine_connect", note)
    for engine in engines:
        engine.dispose()


@pytest.fixture
def tiny_arch() -> ClipArch:
    return ClipArch(
        image=ImageArch(depth=2, width=32, mlp_width=48, patch_size=8, image_size=16, head_dim=16),
        text=TextArch(depth=1, width=16, mlp_width=40, context_length=8, head_dim=16),
        shared=SharedArch(depth=1, mlp_width=24, head_dim=16),
        embed_dim=32,
    )


@pytest.fixture
def tiny_parent(tiny_arch: ClipArch) -> Clip:
    return perturbed(Clip(tiny_arch, seed=1)).eval()


@pytest.fixture
def deep_arch() -> ClipArch:
    """Two blocks everywhere, so that no operator is exact for want of a neighbour."""
    return ClipArch(
        image=ImageArch(depth=2, width=16, mlp_width=20, patch_size=4, image_size=8, head_dim=8),
        text=TextArch(depth=2, width=16, mlp_width=12, context_length=8, head_dim=8),
        shared=SharedArch(depth=2, mlp_width=12, head_dim=8),
        embed_dim=16,
    )


@pytest.fixture
def deep_parent(deep_arch: ClipArch) -> Clip:
    """With a small vocabulary: CLIP's would be nearly all of what is drawn and grown."""
    return perturbed(Clip(with_words(deep_arch), seed=1).double()).eval()


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)
