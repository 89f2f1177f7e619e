"""The trial command of NNI: grow one candidate from the parent, train it briefly, report.

NNI runs ``growclip nni-trial --run RUN`` once a trial. The first trial to get
there also trains the control, no growth, without which there is no score; the others wait for it.
Each point of the learning curve is an intermediate result, the score the final one.

NNI's assessors want results that rise, and Curvefitting wants an accuracy. So the intermediate
result is exp(-loss): the probability of the right partner, geometric mean over the pairs. The
final one is the score in the same unit, since NNI shows both in one column.
"""

import json
import math
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from nas_growclip.cli.options import DataFolder, Device, require_at_least_one
from nas_growclip.io.choices import look_up

if TYPE_CHECKING:
    from nas_growclip.experiment.stage_context import StageContext
    from nas_growclip.growth.candidates import Candidate
    from nas_growclip.records.entries import Trial

FAILED = 1
"""Exit code of a trial that failed."""


class Reports(NamedTuple):
    """Where results go."""

    intermediate: Callable[[dict[str, float]], object]
    final: Callable[[dict[str, float]], object]


def nni_trial(
    run: Annotated[Path, typer.Option(metavar="RUN", help="run folder")],
    stage: Annotated[
        int | None, typer.Option(metavar="K", help="default: the one to search next")
    ] = None,
    trials: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="where records and states go; default: the stage's own"),
    ] = None,
    data: DataFolder = None,
    device: Device = None,
    threads: Annotated[
        int | None, typer.Option(metavar="N", help="CPU threads; default: all")
    ] = None,
    candidate: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="try this one without NNI, as in image.width=96+text.depth=4, or none",
        ),
    ] = None,
) -> int:
    """Try one candidate of a stage: the one that NNI chose, or one by hand.

    This is the trial command of an NNI experiment. A failed trial gives one line on stderr and exit
    code 1.

    Example:
        growclip nni-trial --run runs/demo --trials runs/alone --candidate image.width=24
    """
    if "NNI_PLATFORM" in os.environ:
        # NNI stops a trial with SIGINT, and takes any exit code for a failure of the trial's own.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    require_at_least_one("--threads", threads)
    sample, reports = ask_nni() if candidate is None else (None, PRINTED)
    import torch

    from nas_growclip.experiment.stage_setup import open_stage

    if threads is not None:
        torch.set_num_threads(threads)
    opened = open_stage(run, stage=stage, data_folder=data, device=device, trials=trials)
    chosen = chosen_candidate(opened, candidate, sample)
    trial = try_candidate(opened, opened.plan.growth_space.index(chosen), chosen, reports)
    if trial.score is None:
        message = " ".join(trial.message.split())
        print(f"growclip nni-trial: {trial.label}: {trial.state}: {message}", file=sys.stderr)
        return FAILED
    return 0


def chosen_candidate(
    stage: "StageContext", name: str | None, sample: Mapping[str, Any] | None
) -> "Candidate":
    """The candidate of that name, or the one of NNI's sample.

    Raises:
        ValueError: If the stage has no such candidate.
    """
    from nas_growclip.search.nni.space import candidate_from_nni

    if name is None:
        return candidate_from_nni(sample or {}, stage.plan.candidates)
    by_label = {candidate.label: candidate for candidate in stage.plan.growth_space}
    return look_up(by_label, name, "--candidate")


def try_candidate(
    stage: "StageContext", number: int, candidate: "Candidate", reports: Reports
) -> "Trial":
    """Measure a candidate against no growth, and report its curve and its score.

    Returns:
        The trial; without a score if it failed.

    Raises:
        ValueError: If the control fails.
    """
    from nas_growclip.experiment.trial import measure_candidate
    from nas_growclip.experiment.trial_records import scored_trial
    from nas_growclip.growth.candidates import NO_GROWTH
    from nas_growclip.search.objective import partner_probability

    points: list[int] = []

    def report(point: int, loss: float) -> bool:
        points.append(point)
        if math.isfinite(loss):
            reports.intermediate({"default": partner_probability(loss), "loss": loss})
        return False

    control = measure_candidate(stage, 0, NO_GROWTH) if candidate.grows else None
    if control is not None and control.state != "complete":
        raise ValueError(
            f"The control trial of stage {stage.index} must complete, but {control.state}: "
            f"{control.message}"
        )
    trial = measure_candidate(stage, number, candidate, report)
    for point, (_, loss) in enumerate(trial.curve):
        if point > len(points):
            report(point, loss)
    trial = scored_trial(stage, control or trial, trial)
    if trial.score is not None:
        reports.final(final_result(trial, control or trial))
    return trial


def final_result(trial: "Trial", control: "Trial") -> dict[str, float]:
    """The score in the unit of the intermediate results, with what it cost beside it.

    The score is a gain over no growth. Taken off the loss that no growth had at the end of its
    trial, it is a loss again, and exp(-that) a probability of the right partner: higher scores are
    higher ones, and no growth ends where its curve does.
    """
    from nas_growclip.search.objective import partner_probability

    score = float(trial.score or 0.0)
    return {
        "default": partner_probability(control.metrics["loss"] - score),
        "score": score,
        "loss": trial.metrics["loss"],
        "flops": float(trial.flops),
        "params": float(trial.params),
    }


def ask_nni() -> tuple[Mapping[str, Any], Reports]:
    """NNI's sample for this trial, empty where there is no NNI experiment.

    Raises:
        ValueError: If NNI is not installed.
        OSError: If the experiment has ended.
    """
    try:
        import nni
    except ModuleNotFoundError as error:
        raise ValueError(
            f"NNI must be installed for this, but {error.name!r} is missing. Run: pip install "
            "'nas_growclip[nni]', or give --candidate to try one without NNI."
        ) from None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Running trial code without runtime", RuntimeWarning)
        sample = nni.get_next_parameter()
    if sample is None:
        raise OSError("NNI's experiment must be running, but has ended.")
    if "NNI_TRIAL_COMMAND_CHANNEL" in os.environ:
        sample = take_own_row(os.environ["NNI_TRIAL_COMMAND_CHANNEL"])
    elif not sample:
        print("no NNI experiment: no growth is tried; --candidate tries another", file=sys.stderr)
    return sample, Reports(nni.report_intermediate_result, nni.report_final_result)


def take_own_row(channel: str) -> Mapping[str, Any]:
    """This trial's sample by NNI's table.

    NNI 3.0 hands its samples to the trials in the order in which they ask, so two that start
    together may get each other's, and the table then shows the results of one beside the sample
    of the other. As every trial takes its own row, each sample is still tried once.

    Args:
        channel: Where NNI talks to the trial: its server's address, then ``/env/`` and more.

    Returns:
        The sample in the row of this trial.
    """
    import nni
    import nni.trial
    import requests

    server = manager_address(channel)
    answer = requests.get(f"{server}/api/v1/nni/trial-jobs/{nni.get_trial_id()}", timeout=20)
    answer.raise_for_status()
    row: dict[str, Any] = json.loads(answer.json()["hyperParameters"][0])
    nni.trial._params = row
    sample: Mapping[str, Any] = row["parameters"]
    return sample


def manager_address(channel: str) -> str:
    """Where NNI's server answers.

    A trial of the local service talks to the server itself. One of the remote service talks to a
    keeper on its own machine, which has the server's address in a file beside the trials.
    """
    output = os.environ.get("NNI_OUTPUT_DIR")
    keeper = (
        Path(output).parents[1] / "trial_keeper" / "trial_keeper_config.json" if output else None
    )
    if keeper is None or not keeper.is_file():
        return channel.rpartition("/env/")[0]
    address: str = json.loads(keeper.read_text(encoding="utf-8"))["managerCommandChannel"]
    return address.partition("/platform/")[0].replace("ws", "http", 1)


def print_result(result: dict[str, float]) -> None:
    """Print a result as one line of JSON."""
    print(json.dumps(result), flush=True)


PRINTED = Reports(print_result, print_result)
"""Results on stdout."""
