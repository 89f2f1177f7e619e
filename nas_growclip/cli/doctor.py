"""The command that looks for what breaks in practice."""

import json
from pathlib import Path
from typing import Annotated

import typer

from nas_growclip.cli.options import AsJson


def doctor(
    run: Annotated[Path | None, typer.Argument(metavar="RUN", help="run folder to look at")] = None,
    as_json: AsJson = False,
) -> int:
    """Look for what breaks in practice on this machine, and in a run folder if one is given.

    The exit code is 1 if there is a problem, else 0.

    Example:
        growclip doctor runs/demo
    """
    from nas_growclip.doctor.checks import describe, diagnose
    from nas_growclip.doctor.machine import Environment

    findings = diagnose(Environment(run=run))
    if as_json:
        rows = [{"name": name, **vars(finding)} for name, finding in findings.items()]
        print(json.dumps(rows, indent=2))
    else:
        print("\n".join(describe(findings)))
    return int(any(finding.status == "problem" for finding in findings.values()))
