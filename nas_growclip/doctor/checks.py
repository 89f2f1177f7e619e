"""What breaks in practice, looked for beforehand: ``growclip doctor``.

Each check looks at one thing and says what it found and, where something is wrong, the remedy.
Libraries that may be broken are imported in another process under a time limit, so that neither
torch nor a database can hurt this one. Nothing is repaired and nothing is left behind.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from nas_growclip.doctor.machine import Environment, Finding, without_passwords
from nas_growclip.doctor.nni import (
    check_nni_leftovers,
    check_nni_port,
    check_nnictl,
    check_node,
    check_typeguard,
    check_websockets,
)
from nas_growclip.doctor.packages import (
    check_cuda,
    check_open_clip,
    check_optuna,
    check_python,
    check_threads,
    check_timm,
    check_torch,
    check_torchvision,
)
from nas_growclip.doctor.run_folder import check_run_config, check_run_disk, check_run_folder
from nas_growclip.doctor.storage import check_dashboard_port, check_storage, check_storage_disk

_log = logging.getLogger(__name__)


def diagnose(environment: Environment) -> dict[str, Finding]:
    """Run every check.

    Raises:
        ValueError: If the run folder to look at is not there.
    """
    if environment.run is not None and not environment.run.is_dir():
        raise ValueError(f"{environment.run}: no such folder. Give the --out of `growclip run`.")
    _log.info("doctor: importing libraries in another process; this may take a minute")
    return {name: run_check(check, environment) for name, check in CHECKS.items()}


def run_check(check: Callable[[Environment], Finding], environment: Environment) -> Finding:
    """What a check found; a check that fails is a problem too. Passwords in URLs are hidden."""
    try:
        finding = check(environment)
    except Exception as error:
        finding = Finding(
            "problem",
            f"the check itself failed: {type(error).__name__}: {error}",
            "Report it with this line; the other checks hold.",
        )
    return Finding(
        finding.status, without_passwords(finding.found), without_passwords(finding.remedy)
    )


def describe(findings: Mapping[str, Finding]) -> list[str]:
    """Findings as lines for people, problems counted at the end."""
    lines = []
    for name, finding in findings.items():
        lines.append(f"{finding.status:<8} {name:<15} {finding.found}")
        if finding.remedy:
            lines.append(f"{'':<24} -> {finding.remedy}")
    statuses = [finding.status for finding in findings.values()]
    return [*lines, f"problems: {statuses.count('problem')}, warnings: {statuses.count('warning')}"]


def _of_run(check: Callable[[Path, Environment], Finding]) -> Callable[[Environment], Finding]:
    def checked(environment: Environment) -> Finding:
        if environment.run is None:
            return Finding("skipped", "no run folder given: growclip doctor RUN")
        return check(environment.run, environment)

    return checked


CHECKS: Mapping[str, Callable[[Environment], Finding]] = {
    "python": check_python,
    "torch": check_torch,
    "torchvision": check_torchvision,
    "timm": check_timm,
    "open_clip": check_open_clip,
    "optuna": check_optuna,
    "cuda": check_cuda,
    "threads": check_threads,
    "nnictl": check_nnictl,
    "typeguard": check_typeguard,
    "websockets": check_websockets,
    "node": check_node,
    "nni port": check_nni_port,
    "nni leftovers": check_nni_leftovers,
    "dashboard port": check_dashboard_port,
    "run config": _of_run(check_run_config),
    "run folder": _of_run(check_run_folder),
    "run disk": _of_run(check_run_disk),
    "storage disk": _of_run(check_storage_disk),
    "storage": _of_run(check_storage),
}
"""Checks by name, in the order in which they are reported."""
