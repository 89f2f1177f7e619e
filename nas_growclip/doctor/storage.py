"""Where Optuna keeps its studies: the disk, the database server, and who wrote there before."""

import json
import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import unquote

from nas_growclip.doctor.machine import (
    Environment,
    Finding,
    is_port_taken,
    run_python,
    without_passwords,
)
from nas_growclip.io.mappings import read_mapping
from nas_growclip.records.folder import RunFolder

NETWORK_DISKS = re.compile(
    r"(fuse\.)?(9p|afs|beegfs|ceph|ceph-fuse|cifs|davfs2?|gcsfuse|glusterfs|gpfs|juicefs|lustre|"
    r"mount-s3|ncpfs|nfs4?|panfs|pvfs2|rclone|s3fs|smb[23]?|smbfs|sshfs|wekafs)"
)

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


def check_dashboard_port(environment: Environment) -> Finding:
    """The default port of optuna-dashboard is free."""
    if environment.version("optuna-dashboard") is None:
        remedy = "pip install 'nas_growclip[dashboard]'"
        return Finding("skipped", "optuna-dashboard is not installed", remedy)
    if not is_port_taken("127.0.0.1", environment.port):
        return Finding("ok", f"{environment.port} is free on 127.0.0.1")
    remedy = "Give it another one: optuna-dashboard STORAGE --port PORT"
    return Finding("warning", f"{environment.port} is taken on 127.0.0.1", remedy)


def check_storage_disk(run: Path, environment: Environment) -> Finding:
    """SQLite is not on a network disk, where its locks do not hold."""
    setting = storage_setting(run)
    file = storage_file(run, setting)
    if file is None:
        return Finding("skipped", f"{without_passwords(setting)} is not a file")
    mounts = environment.proc / "mounts"
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


def check_storage(run: Path, environment: Environment) -> Finding:
    """Optuna's storage opens, is whole, and was written by one major version of Optuna."""
    setting = storage_setting(run)
    file = storage_file(run, setting)
    if file is None:
        return check_server(environment, setting)
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
    return _one_major(environment, str(file), values)


def storage_setting(run: Path) -> str:
    """The run's ``search.storage``: ``journal``, a URL, or nothing for SQLite in the folder."""
    with suppress(ValueError):
        search = read_mapping(RunFolder(run).config).get("search")
        setting = search.get("storage") if isinstance(search, Mapping) else None
        return setting if isinstance(setting, str) else ""
    return ""


def storage_file(run: Path, setting: str) -> Path | None:
    """The file that holds Optuna's studies; None if a server does."""
    if setting in ("", "journal"):
        return RunFolder(run).journal if setting else RunFolder(run).database
    sqlite = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", setting)
    return Path(sqlite[1]) if sqlite else None


def filesystem(path: Path, mounts: str) -> str:
    """The type of the file system that a path is on, by the longest mount point above it."""
    address = str(path.resolve())
    kind, depth = "unknown", -1
    for line in mounts.splitlines():
        _, point, here, *_ = [*line.split(), "", "", ""]
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), point)
        is_above = point == "/" or address == point or address.startswith(f"{point}/")
        if point and is_above and len(point) >= depth:  # of two at one point the later one counts
            kind, depth = here, len(point)
    return kind


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


def check_server(environment: Environment, url: str) -> Finding:
    """A database server answers, and its studies are of one major version of Optuna."""
    printed, end = run_python(environment, _ASK_SERVER, _VERSIONS, given=url)
    line = printed.strip().rpartition("\n")[2]
    answer = json.loads(line) if line.startswith("{") else {"error": end or "no answer"}
    if "values" in answer:
        return _one_major(environment, without_passwords(url), answer["values"])
    reason = without_passwords(_without_password(answer["error"], url))
    return Finding(
        "problem",
        f"{without_passwords(url)} cannot be opened: {reason}",
        "Start the server, check the URL and its access, and install its driver: "
        "pip install 'nas_growclip[postgres]'",
    )


def _one_major(environment: Environment, where: str, values: Sequence[object]) -> Finding:
    """Whether the versions that wrote a storage and the installed one have the same major."""
    writers = sorted({str(value).strip('"') for value in values})
    here = environment.version("optuna")
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


def _without_password(text: str, url: str) -> str:
    password = re.search(r"://[^:/@]*:(.*)@", url)
    for secret in (password[1], unquote(password[1])) if password and password[1] else ():
        text = text.replace(secret, "***")
    return text
