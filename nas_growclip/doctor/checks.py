"""What breaks in practice, looked for before it does: ``growclip doctor``.

Each check looks at one thing and says what it found and, where something is wrong, the remedy.
Libraries that may be broken are imported in another process under a time limit, so that neither
torch nor a database can hurt this one. Nothing is repaired and nothing is left behind.
"""

import importlib.util
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from nas_growclip.io.mappings import read_mapping
from nas_growclip.io.progress import say

OPTUNA = ">=4.5,<6"
SETUPTOOLS = ">=77.0.3,<81"
TYPEGUARD = ">=3,<4.1.3"
"""What NNI 3.0 asks for."""

DEFAULT_PORT = 8080
"""Of NNI's web page and of optuna-dashboard."""

NETWORK_DISKS = re.compile(
    r"(fuse\.)?(9p|afs|beegfs|ceph|ceph-fuse|cifs|davfs2?|gcsfuse|glusterfs|gpfs|juicefs|lustre|"
    r"mount-s3|ncpfs|nfs4?|panfs|pvfs2|rclone|s3fs|smb[23]?|smbfs|sshfs|wekafs)"
)

CHECKPOINTS_AHEAD = 10
"""Free space wanted, in largest checkpoints: a stage keeps a state for each of its trials."""
LEAST_FREE = 2**30

NNI_EXTRA = "pip install 'nas_growclip[nni]'"


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    status: Literal["ok", "warning", "problem", "skipped"]
    found: str
    remedy: str = ""


def installed_version(package: str) -> str | None:
    """A package's version, read without importing it; None if it is not installed."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def installed_requirements(package: str) -> Sequence[str]:
    """What a package declares that it needs; nothing if it is not installed."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.requires(package) or ()
    return ()


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def bundled_node() -> Path | None:
    """The Node runtime that comes with NNI."""
    spec = importlib.util.find_spec("nni_node")
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) / "node" if places else None


@dataclass(frozen=True, kw_only=True)
class Place:
    """What is looked at: this machine, its packages and perhaps a run folder."""

    run: Path | None = None
    python: str = sys.executable
    """The interpreter that imports what may be broken."""
    python_version: tuple[int, int] = sys.version_info[:2]
    seconds: float = 240.0
    """How long another process may take."""
    version: Callable[[str], str | None] = installed_version
    requirements: Callable[[str], Sequence[str]] = installed_requirements
    proc: Path = Path("/proc")
    nni_home: Path = field(default_factory=lambda: Path.home() / "nni-experiments")
    node: Path | None = field(default_factory=bundled_node)
    port: int = DEFAULT_PORT
    cores: int = field(default_factory=num_cores)
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free

    @cached_property
    def imports(self) -> Mapping[str, Mapping[str, Any]]:
        """For each module in ``_MODULES`` its import's error, empty if it went well."""
        printed, end = run_python(self, _IMPORT, _MODULES)
        answers = dict(json.loads(line) for line in printed.splitlines() if line[:2] == '["')
        unanswered = {"error": end or "no answer"}
        return {module: answers.get(module, unanswered) for module in _MODULES}


_MODULES = ("pkg_resources", "websockets", "torch", "torchvision", "timm", "open_clip")
"""In this order: what may crash the process comes last."""

_IMPORT = """
import importlib, json, sys
for name in sys.argv[1:]:
    try:
        module = importlib.import_module(name)
        answer = {"error": ""}
        if name == "torch":
            devices = [module.cuda.get_device_name(i) for i in range(module.cuda.device_count())]
            answer.update(threads=module.get_num_threads(), devices=devices)
            answer.update(cuda=module.version.cuda)
    except BaseException as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print("\\n" + json.dumps([name, answer]), flush=True)
"""

_LOAD_CONFIG = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import nas_growclip
del sys.path[0]  # so that nothing beside it hides the standard library
from nas_growclip.experiment.config import load_config
try:
    load_config(Path(sys.argv[1]))
except ValueError as error:
    print(error)
"""

_VERSIONS = (
    "SELECT library_version FROM version_info",
    "SELECT DISTINCT value_json FROM study_user_attributes "
    "WHERE study_user_attributes.key = 'optuna_version'",
)
"""Which Optuna made a database, and which ones wrote studies into it."""

_ASK_SERVER = """
import json, sys
import sqlalchemy
try:
    with sqlalchemy.create_engine(sys.stdin.read()).connect() as database:
        if not sqlalchemy.inspect(database).has_table("version_info"):
            sys.argv[1:] = []
        answers = [database.execute(sqlalchemy.text(query)) for query in sys.argv[1:]]
        print("\\n" + json.dumps({"values": [row[0] for rows in answers for row in rows]}))
except Exception as error:
    print("\\n" + json.dumps({"error": f"{type(error).__name__}: {error}"}))
"""


def run_python(
    place: Place, code: str, arguments: Sequence[str] = (), given: str = ""
) -> tuple[str, str]:
    """Run code in another process.

    Returns:
        What it printed, and how it ended if not well.
    """
    command = [place.python, "-P", "-c", code, *arguments]
    try:
        done = subprocess.run(
            command, input=given.encode(), capture_output=True, timeout=place.seconds
        )
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").decode(errors="replace"), f"no end in {place.seconds:g} s"
    said = done.stderr.decode(errors="replace").strip().splitlines()
    end = f"exit code {done.returncode}: {said[-1] if said else 'no message'}"
    return done.stdout.decode(errors="replace"), end if done.returncode else ""


def diagnose(place: Place) -> dict[str, Finding]:
    """Run every check.

    Raises:
        ValueError: If the run folder to look at is not there.
    """
    if place.run is not None and not place.run.is_dir():
        raise ValueError(f"{place.run}: no such folder. Give the --out of `growclip run`.")
    say("doctor: importing libraries in another process; this may take a minute")
    return {name: run_check(check, place) for name, check in CHECKS.items()}


def run_check(check: Callable[[Place], Finding], place: Place) -> Finding:
    """What a check found; a check that fails is a problem too. Passwords in URLs are hidden."""
    try:
        finding = check(place)
    except Exception as error:
        finding = Finding(
            "problem",
            f"the check itself failed: {type(error).__name__}: {error}",
            "Report it with this line; the other checks hold.",
        )
    return Finding(finding.status, _shown(finding.found), _shown(finding.remedy))


def describe(findings: Mapping[str, Finding]) -> list[str]:
    """Findings as lines for people, problems counted at the end."""
    lines = []
    for name, finding in findings.items():
        lines.append(f"{finding.status:<8} {name:<15} {finding.found}")
        if finding.remedy:
            lines.append(f"{'':<24} -> {finding.remedy}")
    statuses = [finding.status for finding in findings.values()]
    return [*lines, f"problems: {statuses.count('problem')}, warnings: {statuses.count('warning')}"]


def check_python(place: Place) -> Finding:
    """Python is new enough."""
    found = ".".join(map(str, place.python_version))
    if place.python_version >= (3, 11):
        return Finding("ok", found)
    return Finding(
        "problem", f"Python must be 3.11 or newer, but is {found}", "Install Python 3.11."
    )


def check_torch(place: Place) -> Finding:
    """Torch is there and can be imported."""
    return _imported(
        place, "torch", "torch", "Install it anew: pip install --force-reinstall torch"
    )


def check_torchvision(place: Place) -> Finding:
    """Torchvision belongs to the installed torch and can be imported beside it."""
    remedy = (
        "Install both anew from one index, CPU or CUDA alike: "
        "pip install --force-reinstall torch torchvision"
    )
    torch = place.version("torch")
    for wanted in map(Requirement, place.requirements("torchvision")):
        if wanted.name == "torch" and torch and not _fits(torch, str(wanted.specifier)):
            found = (
                f"torchvision {place.version('torchvision')} needs {wanted}, but torch is {torch}"
            )
            return Finding("problem", found, remedy)
    return _imported(place, "torchvision", "torchvision", remedy)


def check_timm(place: Place) -> Finding:
    """Timm can be imported."""
    return _imported(place, "timm", "timm", "pip install 'timm>=1.0.20,<2'")


def check_open_clip(place: Place) -> Finding:
    """OpenCLIP can be imported."""
    return _imported(place, "open_clip", "open_clip_torch", "pip install 'open_clip_torch>=3.1,<5'")


def check_optuna(place: Place) -> Finding:
    """Optuna's version is one that we support."""
    return _version_within(place, "optuna", OPTUNA)


def check_nnictl(place: Place) -> Finding:
    """``nnictl`` finds ``pkg_resources``, which setuptools no longer ships."""
    nni = place.version("nni")
    if nni is None:
        return _no_nni()
    if not _fits(nni, ">=3"):
        return Finding("problem", f"nni must be 3.0 or newer, but is {nni}", NNI_EXTRA)
    setuptools = place.version("setuptools")
    remedy = f"pip install 'setuptools{SETUPTOOLS}'"
    if error := place.imports["pkg_resources"]["error"]:
        found = f"nnictl needs pkg_resources ({error}); setuptools: {setuptools or 'not installed'}"
        return Finding("problem", found, remedy)
    if setuptools and not _fits(setuptools, "<81"):
        return Finding("warning", f"setuptools {setuptools} is about to drop pkg_resources", remedy)
    return Finding("ok", f"nni {nni}, setuptools {setuptools}")


def check_typeguard(place: Place) -> Finding:
    """Typeguard is one that NNI 3.0 can use."""
    if place.version("nni") is None:
        return _no_nni()
    return _version_within(place, "typeguard", TYPEGUARD)


def check_websockets(place: Place) -> Finding:
    """NNI's channel to its manager can be imported."""
    if place.version("nni") is None:
        return _no_nni()
    return _imported(place, "websockets", "websockets", "pip install 'websockets>=10.1'")


def check_node(place: Place) -> Finding:
    """NNI's own Node runtime starts: it needs a C library that is new enough."""
    if place.version("nni") is None or place.node is None:
        return _no_nni()
    remedy = "Use a newer base system (glibc 2.28 or later), or the search backend 'optuna'."
    try:
        command = [str(place.node), "--version"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=place.seconds)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("problem", f"NNI's Node does not start: {error}", remedy)
    if done.returncode:
        return Finding("problem", f"NNI's Node does not start: {done.stderr}", remedy)
    return Finding("ok", f"Node {done.stdout.strip()}")


def check_nni_port(place: Place) -> Finding:
    """The default port of NNI's web page is free."""
    if place.version("nni") is None:
        return _no_nni()
    note = "NNI's web server listens on every interface, without a login"
    if not _is_taken("0.0.0.0", place.port):
        return Finding("ok", f"{place.port} is free; {note}")
    return Finding(
        "warning",
        f"{place.port} is taken; {note}",
        "`growclip run` picks a free port by itself; by hand: nnictl create --port PORT",
    )


def check_dashboard_port(place: Place) -> Finding:
    """The default port of optuna-dashboard is free."""
    if place.version("optuna-dashboard") is None:
        remedy = "pip install 'nas_growclip[dashboard]'"
        return Finding("skipped", "optuna-dashboard is not installed", remedy)
    if not _is_taken("127.0.0.1", place.port):
        return Finding("ok", f"{place.port} is free on 127.0.0.1")
    remedy = "Give it another one: optuna-dashboard STORAGE --port PORT"
    return Finding("warning", f"{place.port} is taken on 127.0.0.1", remedy)


def check_nni_leftovers(place: Place) -> Finding:
    """No NNI manager runs on after whoever started it has gone."""
    if not (place.proc / "self").exists():
        return Finding("skipped", f"there is no process table in {place.proc}")
    running: list[str] = []
    left: list[str] = []
    for name, pid in _nni_experiments(place):
        if "nni_node" in _command(place, pid):
            (running if _is_owned(place, pid) else left).append(f"{name} (process {pid})")
    if left:
        remedy = "If nobody needs them: nnictl stop --all (or nnictl stop ID for one)"
        return Finding(
            "warning", f"NNI experiments run without an owner: {', '.join(left)}", remedy
        )
    return Finding("ok", f"under way with an owner: {', '.join(running) or 'none'}")


def check_threads(place: Place) -> Finding:
    """How many threads a process takes, for whoever starts several."""
    setting = place.environment.get("OMP_NUM_THREADS", "not set")
    threads = place.imports["torch"].get("threads")
    found = (
        f"{place.cores} cores, OMP_NUM_THREADS {setting}, torch's threads {threads or 'unknown'}"
    )
    share = "Give each worker its share: OMP_NUM_THREADS = cores / workers"
    if threads and threads > place.cores:
        return Finding("warning", found, share)
    return Finding("ok", found, share if threads and threads > 1 else "")


def check_cuda(place: Place) -> Finding:
    """Whether there is a GPU that torch can use."""
    torch = place.imports["torch"]
    if torch["error"]:
        return Finding("skipped", "torch cannot be imported")
    if torch.get("devices"):
        return Finding("ok", f"CUDA {torch['cuda']}: {', '.join(torch['devices'])}")
    if not (place.proc / "driver" / "nvidia" / "version").exists():
        return Finding("ok", "no NVIDIA GPU; training runs on the CPU")
    return Finding(
        "warning",
        f"there is an NVIDIA driver, but torch (CUDA build: {torch.get('cuda')}) sees no GPU",
        "Install the CUDA build of torch that this driver supports, or check CUDA_VISIBLE_DEVICES.",
    )


def check_run_config(run: Path, place: Place) -> Finding:
    """The run's settings can be read by this version."""
    try:
        read_mapping(run / "config.yaml")
    except ValueError as error:
        return Finding(
            "problem", str(error), "Give the --out of `growclip run`, or restore the file."
        )
    package = str(Path(__file__).parents[2])
    refused, end = run_python(place, _LOAD_CONFIG, [str(run / "config.yaml"), package])
    if end:
        return Finding(
            "problem",
            f"nas_growclip cannot be imported: {end}",
            "Repair what the checks above name.",
        )
    if refused.strip():
        remedy = "Use the version of nas_growclip that made the run, or start a new one."
        return Finding("problem", refused, remedy)
    return Finding("ok", f"{run / 'config.yaml'} reads")


def check_run_folder(run: Path, place: Place) -> Finding:
    """Files can be written into the run folder."""
    try:
        with tempfile.TemporaryFile(dir=run) as file:
            file.write(b"growclip doctor")
    except OSError as error:
        remedy = "Make the folder writable, or copy the run to another place."
        return Finding("problem", f"{run} cannot be written: {error.strerror}", remedy)
    return Finding("ok", f"{run} is writable")


def check_run_disk(run: Path, place: Place) -> Finding:
    """There is space for the checkpoints to come."""
    largest = max(map(_size, run.rglob("*.safetensors")), default=0)
    free = place.free_bytes(run)
    found = f"{_mebibytes(free)} free, largest checkpoint {_mebibytes(largest)}"
    remedy = "Free space, or move the run folder to a larger disk."
    if free < 2 * largest:
        return Finding("problem", found, remedy)
    if free < max(CHECKPOINTS_AHEAD * largest, LEAST_FREE):
        return Finding("warning", found, remedy)
    return Finding("ok", found)


def check_storage_disk(run: Path, place: Place) -> Finding:
    """SQLite is not on a network disk, where its locks do not hold."""
    setting = storage_setting(run)
    file = storage_file(run, setting)
    if file is None:
        return Finding("skipped", f"{_shown(setting)} is not a file")
    mounts = place.proc / "mounts"
    if not mounts.exists():
        return Finding("skipped", f"there is no list of mounts in {mounts}")
    kind = filesystem(file, mounts.read_text(encoding="utf-8", errors="replace"))
    if not NETWORK_DISKS.fullmatch(kind) or setting == "journal":
        return Finding("ok", f"{file.name} is on {kind}")
    return Finding(
        "warning",
        f"{file} is SQLite on a network disk ({kind}), where databases break",
        "For several machines start a run with search.storage: journal, or a PostgreSQL URL.",
    )


def check_storage(run: Path, place: Place) -> Finding:
    """Optuna's storage opens, is whole, and was written by one major version of Optuna."""
    setting = storage_setting(run)
    file = storage_file(run, setting)
    if file is None:
        return _check_server(place, setting)
    if not file.exists() or not file.stat().st_size:
        return Finding("skipped", f"{file} is not there yet")
    try:
        values = _journal_values(file) if setting == "journal" else _sqlite_values(file)
    except (ValueError, sqlite3.Error) as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            found = f"{file} is locked by another process"
            return Finding("warning", found, "Try again; if it stays so, see who holds the file.")
        remedy = "Restore it from a copy, or start a new run folder."
        return Finding("problem", f"{file} is damaged or not Optuna's: {error}", remedy)
    return _one_major(place, str(file), values)


def storage_setting(run: Path) -> str:
    """The run's ``search.storage``: ``journal``, a URL, or nothing for SQLite in the folder."""
    with suppress(ValueError):
        search = read_mapping(run / "config.yaml").get("search")
        setting = search.get("storage") if isinstance(search, Mapping) else None
        return setting if isinstance(setting, str) else ""
    return ""


def storage_file(run: Path, setting: str) -> Path | None:
    """The file that holds Optuna's studies; None if a server does."""
    if setting in ("", "journal"):
        return run / ("study.journal" if setting else "study.db")
    sqlite = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", setting)
    return Path(sqlite[1]) if sqlite else None


def filesystem(path: Path, mounts: str) -> str:
    """The type of the file system that a path is on, by the longest mount point above it."""
    place = str(path.resolve())
    kind, depth = "unknown", -1
    for line in mounts.splitlines():
        _, point, here, *_ = [*line.split(), "", "", ""]
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), point)
        is_above = point == "/" or place == point or place.startswith(f"{point}/")
        if point and is_above and len(point) >= depth:  # of two at one point the later one counts
            kind, depth = here, len(point)
    return kind


def _imported(place: Place, module: str, package: str, remedy: str) -> Finding:
    version = place.version(package)
    if version is None:
        return Finding("problem", f"{package} is not installed", remedy)
    error = place.imports[module]["error"]
    if not error:
        return Finding("ok", f"{version} imports")
    if module in ("timm", "open_clip") and place.imports["torchvision"]["error"]:
        remedy = "Repair torchvision first."
    return Finding("problem", f"{package} {version} cannot be imported: {error}", remedy)


def _version_within(place: Place, package: str, wanted: str) -> Finding:
    version = place.version(package)
    if version is not None and _fits(version, wanted):
        return Finding("ok", version)
    found = f"{package} must be {wanted}, but is {version or 'not installed'}"
    return Finding("problem", found, f"pip install '{package}{wanted}'")


def _fits(version: str, wanted: str) -> bool:
    return SpecifierSet(wanted).contains(version, prereleases=True)


def _no_nni() -> Finding:
    return Finding("skipped", "NNI is not installed", f"To search with it: {NNI_EXTRA}")


def _is_taken(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def _nni_experiments(place: Place) -> list[tuple[str, int]]:
    """NNI's own list of experiments: their names and their managers' processes."""
    try:
        listed = json.loads((place.nni_home / ".experiment").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []  # NNI, too, takes a list that it cannot read for an empty one
    entries = listed.items() if isinstance(listed, dict) else ()
    pids = [(name, entry.get("pid")) for name, entry in entries if isinstance(entry, dict)]
    return [(name, pid) for name, pid in pids if isinstance(pid, int)]


def _command(place: Place, pid: int) -> str:
    with suppress(OSError):
        return (place.proc / str(pid) / "cmdline").read_bytes().decode(errors="replace")
    return ""


def _is_owned(place: Place, pid: int) -> bool:
    """Whether the parent is one that starts managers, and not one that takes in orphans."""
    with suppress(OSError, ValueError, IndexError):
        stat = (place.proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        parent = int(stat.rpartition(")")[2].split()[1])
        command = _command(place, parent)
        starters = ("growclip", "nnictl") if parent == 1 else ("growclip", "nnictl", "python")
        return any(word in command for word in starters)
    return False


def _size(path: Path) -> int:
    with suppress(OSError):  # a temporary file may just have been renamed
        return path.stat().st_size
    return 0


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _sqlite_values(file: Path) -> list[str]:
    """Mode rw makes no file, but lets SQLite undo what a killed writer left half done."""
    address = f"{file.resolve().as_uri()}?mode=rw"
    with closing(sqlite3.connect(address, uri=True, timeout=5)) as database:
        (state,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise ValueError(state)
        return [row[0] for query in _VERSIONS for row in database.execute(query)]


def _journal_values(file: Path) -> list[str]:
    """Optuna passes over a last line that was cut short, but not over one in the middle."""
    values = []
    *lines, last = file.read_bytes().splitlines(keepends=True)
    for number, line in enumerate([*lines, *([last] if last.endswith(b"\n") else [])], 1):
        try:
            entry = json.loads(line)
            values.append(entry.get("user_attr", {}).get("optuna_version"))
        except (ValueError, AttributeError):
            raise ValueError(f"line {number} cannot be read") from None
    return [value for value in values if isinstance(value, str)]


def _check_server(place: Place, url: str) -> Finding:
    printed, end = run_python(place, _ASK_SERVER, _VERSIONS, given=url)
    line = printed.strip().rpartition("\n")[2]
    answer = json.loads(line) if line.startswith("{") else {"error": end or "no answer"}
    if "values" in answer:
        return _one_major(place, _shown(url), answer["values"])
    return Finding(
        "problem",
        f"{_shown(url)} cannot be opened: {_shown(_without_password(answer['error'], url))}",
        "Start the server, check the URL and its access, and install its driver: "
        "pip install 'nas_growclip[postgres]'",
    )


def _one_major(place: Place, where: str, values: Sequence[object]) -> Finding:
    """Whether the versions that wrote a storage and the installed one have the same major."""
    writers = sorted({str(value).strip('"') for value in values})
    here = place.version("optuna")
    majors = {version.partition(".")[0] for version in [*writers, *([here] if here else [])]}
    written = f"written by Optuna {', '.join(writers) or '(not noted)'}; installed is {here}"
    if len(majors) <= 1:
        return Finding("ok", f"{where} opens, {written}")
    return Finding(
        "problem",
        f"majors of Optuna are mixed on {where}: {written}",
        "Everywhere keep to the Optuna that wrote it, or start a new run folder or database: "
        "another major can pass over its constraints in silence.",
    )


def _shown(text: str) -> str:
    """One line of bounded length, without the passwords of URLs."""
    text = re.sub(r"(://[^\s:/@]*:)(?!\*\*\*@).*(?=@)", r"\1***", text, flags=re.DOTALL)
    text = re.sub(r"((?:password|passwd|pwd)=)[^&\s'\"]+", r"\1***", text, flags=re.IGNORECASE)
    return " ".join(text.split())[:400]


def _without_password(text: str, url: str) -> str:
    password = re.search(r"://[^:/@]*:(.*)@", url)
    for secret in (password[1], unquote(password[1])) if password and password[1] else ():
        text = text.replace(secret, "***")
    return text


def _of_run(check: Callable[[Path, Place], Finding]) -> Callable[[Place], Finding]:
    def checked(place: Place) -> Finding:
        if place.run is None:
            return Finding("skipped", "no run folder given: growclip doctor RUN")
        return check(place.run, place)

    return checked


CHECKS: Mapping[str, Callable[[Place], Finding]] = {
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
"""Checks by name, in the order in which they are told."""
