"""The doctor: each check on a made-up machine, and one run on this one."""

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from nas_growclip.cli.main import main
from nas_growclip.doctor import checks, storage
from nas_growclip.doctor.checks import CHECKS, describe, diagnose, run_check
from nas_growclip.doctor.machine import Environment, Finding
from nas_growclip.doctor.storage import filesystem
from nas_growclip.records.folder import RunFolder, write_format

ROOT = Path(__file__).parents[2]

NMS = "RuntimeError: operator torchvision::nms does not exist"

VERSIONS = {
    "torch": "2.13.0+cpu",
    "torchvision": "0.28.0",
    "timm": "1.0.31",
    "open_clip_torch": "3.3.0",
    "optuna": "5.0.0",
    "optuna-dashboard": "0.21.0",
    "nni": "3.0",
    "setuptools": "80.10.2",
    "typeguard": "4.1.2",
    "websockets": "17.4",
}

REQUIREMENTS = {
    "torchvision": ["numpy", "torch==2.13.0"],
    "nni": ["typeguard <4.1.3,>=3.0.0", "websockets >=10.1"],
    "nas_growclip": metadata.requires("nas_growclip"),
}

ANSWERS: dict[str, dict[str, Any]] = {
    "pkg_resources": {"error": ""},
    "websockets": {"error": ""},
    "torch": {"error": "", "threads": 2, "devices": [], "cuda": None},
    "torchvision": {"error": ""},
    "timm": {"error": ""},
    "open_clip": {"error": ""},
}

MakeEnvironment = Callable[..., Environment]


def interpreter(folder: Path, script: str) -> str:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def printing(answers: dict[str, dict[str, Any]]) -> str:
    lines = "\n".join(json.dumps([name, answer]) for name, answer in answers.items())
    return f"cat <<'END'\nsome library's chatter\n{lines}\nEND"


@pytest.fixture
def make_environment(tmp_path: Path) -> MakeEnvironment:
    """A sound machine, but for what is given: versions, answers of imports, other fields."""
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "mounts").write_text("/dev/vda / ext4 rw 0 0\n")

    def make(
        versions: dict[str, str | None] | None = None,
        answers: dict[str, dict[str, Any]] | None = None,
        **fields: Any,
    ) -> Environment:
        packages = VERSIONS | (versions or {})
        sound: dict[str, Any] = {
            "python": interpreter(tmp_path, printing(ANSWERS | (answers or {}))),
            "version": packages.get,
            "requirements": lambda package: REQUIREMENTS.get(package, ()),
            "proc": proc,
            "nni_home": tmp_path / "nni",
            "node": Path(sys.executable),
            "cores": 4,
            "variables": {},
            "port": free_port(),
        }
        return Environment(**(sound | fields))

    return make


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def set_storage(run: Path, setting: str | None) -> None:
    write_format(run)
    (run / "config.yaml").write_text(yaml.safe_dump({"search": {"storage": setting}}))


def look(name: str, environment: Environment) -> Finding:
    return run_check(CHECKS[name], environment)


def test_every_check_has_a_status_and_a_remedy_where_one_is_needed(
    make_environment: MakeEnvironment, run: Path
) -> None:
    findings = diagnose(make_environment(run=run))
    assert list(findings) == list(CHECKS)
    assert all(finding.found for finding in findings.values())
    needy = [f for f in findings.values() if f.status in ("problem", "warning")]
    assert all(finding.remedy for finding in needy)
    assert {name for name, f in findings.items() if f.status == "problem"} == {"run config"}


def test_a_check_that_fails_is_a_problem(make_environment: MakeEnvironment) -> None:
    def broken(environment: Environment) -> Finding:
        raise RuntimeError("oh\nno postgresql://me:secret@host/x")

    finding = run_check(broken, make_environment())
    assert finding.status == "problem"
    assert (
        finding.found == "the check itself failed: RuntimeError: oh no postgresql://me:***@host/x"
    )


def test_an_old_python_is_a_problem(make_environment: MakeEnvironment) -> None:
    assert look("python", make_environment(python_version=(3, 10))).found == (
        "Python must be >=3.11, but is 3.10"
    )


@pytest.mark.parametrize("name", ["torch", "torchvision", "timm", "open_clip"])
def test_imports_that_work_are_ok(name: str, make_environment: MakeEnvironment) -> None:
    assert look(name, make_environment()).status == "ok"


def test_a_broken_torchvision_is_told_and_comes_first(make_environment: MakeEnvironment) -> None:
    broken = {name: {"error": NMS} for name in ("torchvision", "timm", "open_clip")}
    environment = make_environment(answers=broken)
    assert look("torch", environment).status == "ok"
    finding = look("torchvision", environment)
    assert finding.status == "problem"
    assert NMS in finding.found
    assert "pip install --force-reinstall torch torchvision" in finding.remedy
    assert look("timm", environment).remedy == "Repair torchvision first."


def test_torch_and_torchvision_must_belong_together(make_environment: MakeEnvironment) -> None:
    finding = look("torchvision", make_environment({"torch": "2.15.0"}))
    assert finding.status == "problem"
    assert finding.found == "torchvision 0.28.0 needs torch==2.13.0, but torch is 2.15.0"


def test_a_crash_while_importing_is_told_for_what_had_no_answer(
    make_environment: MakeEnvironment, tmp_path: Path
) -> None:
    answered = {name: ANSWERS[name] for name in ("pkg_resources", "websockets", "torch")}
    script = f"{printing(answered)}\necho 'Segmentation fault' >&2; exit 139"
    environment = make_environment()
    interpreter(tmp_path, script)
    assert look("nnictl", environment).status == "ok"
    assert "exit code 139: Segmentation fault" in look("torchvision", environment).found


def test_an_import_without_end_is_cut_off(make_environment: MakeEnvironment) -> None:
    environment = make_environment(seconds=0.2)
    Path(environment.python).write_text("#!/bin/sh\nexec sleep 60\n")
    assert "no end in 0.2 s" in look("torch", environment).found


@pytest.mark.parametrize(
    ("name", "package"),
    [("torch", "torch"), ("timm", "timm"), ("open_clip", "open_clip_torch"), ("optuna", "optuna")],
)
def test_a_missing_package_is_a_problem(
    name: str, package: str, make_environment: MakeEnvironment
) -> None:
    finding = look(name, make_environment({package: None}))
    assert finding.status == "problem"
    assert "not installed" in finding.found
    assert package in finding.remedy


@pytest.mark.parametrize("version", ["4.4.0", "6.0.0"])
def test_an_optuna_out_of_range_is_a_problem(
    version: str, make_environment: MakeEnvironment
) -> None:
    finding = look("optuna", make_environment({"optuna": version}))
    assert finding.found == f"optuna must be >=4.5,<6, but is {version}"
    assert finding.remedy == "pip install 'optuna>=4.5,<6'"


@pytest.mark.parametrize("name", ["nnictl", "typeguard", "websockets", "node", "nni port"])
def test_without_nni_its_checks_are_skipped(name: str, make_environment: MakeEnvironment) -> None:
    finding = look(name, make_environment({"nni": None}))
    assert finding.status == "skipped"
    assert "nas_growclip[nni]" in finding.remedy


@pytest.mark.parametrize("setuptools", ["84.2.1", None])
def test_nnictl_without_pkg_resources_is_a_problem(
    setuptools: str | None, make_environment: MakeEnvironment
) -> None:
    missing = {"pkg_resources": {"error": "ModuleNotFoundError: No module named 'pkg_resources'"}}
    finding = look("nnictl", make_environment({"setuptools": setuptools}, missing))
    assert finding.status == "problem"
    assert f"setuptools: {setuptools or 'not installed'}" in finding.found
    assert finding.remedy == "pip install 'setuptools>=77.0.3,<81'"


def test_setuptools_81_is_a_warning_and_nni_2_a_problem(make_environment: MakeEnvironment) -> None:
    assert look("nnictl", make_environment({"setuptools": "81.0.0"})).status == "warning"
    assert (
        look("nnictl", make_environment({"nni": "2.10"})).found
        == "nni must be >=3.0,<4, but is 2.10"
    )


@pytest.mark.parametrize(
    ("version", "status"), [("2.13.3", "problem"), ("4.1.3", "problem"), ("3.0.2", "ok")]
)
def test_typeguard_must_be_what_nni_asks_for(
    version: str, status: str, make_environment: MakeEnvironment
) -> None:
    assert look("typeguard", make_environment({"typeguard": version})).status == status


def test_websockets_that_do_not_import_are_a_problem(make_environment: MakeEnvironment) -> None:
    finding = look(
        "websockets", make_environment(answers={"websockets": {"error": "ImportError: x"}})
    )
    assert finding.status == "problem"


def test_a_node_that_does_not_start_is_a_problem(
    make_environment: MakeEnvironment, tmp_path: Path
) -> None:
    node = tmp_path / "node"
    node.write_text("#!/bin/sh\necho \"version 'GLIBC_2.28' not found\" >&2; exit 1\n")
    node.chmod(0o755)
    finding = look("node", make_environment(node=node))
    assert "GLIBC_2.28" in finding.found
    assert "glibc" in finding.remedy
    assert look("node", make_environment(node=tmp_path / "nowhere")).status == "problem"
    assert look("node", make_environment()).status == "ok"


def test_taken_ports_are_warnings(make_environment: MakeEnvironment, taken_port: int) -> None:
    environment = make_environment(port=taken_port)
    finding = look("nni port", environment)
    assert finding.status == "warning"
    assert "every interface, without a login" in finding.found
    assert "--port" in finding.remedy
    assert look("dashboard port", environment).status == "warning"


def test_free_ports_are_ok_and_the_open_server_is_told(make_environment: MakeEnvironment) -> None:
    finding = look("nni port", make_environment())
    assert finding.status == "ok"
    assert "every interface, without a login" in finding.found
    assert look("dashboard port", make_environment()).status == "ok"
    assert look("dashboard port", make_environment({"optuna-dashboard": None})).status == "skipped"


def add_process(proc: Path, pid: int, parent: int, command: Sequence[str]) -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "cmdline").write_text("\0".join(command))
    (proc / str(pid) / "stat").write_text(f"{pid} (a (b) c) S {parent} 1 1 0")


@pytest.fixture
def managers(make_environment: MakeEnvironment) -> Environment:
    """Four of NNI's experiments: owned, left over, ended, and a process number used again."""
    environment = make_environment()
    node = ["/x/nni_node/node", "/x/nni_node/main.js", "--port", "8080"]
    add_process(environment.proc, 1, 0, ["/sbin/init"])
    add_process(environment.proc, 10, 1, ["/x/bin/python", "-m", "nas_growclip", "run"])
    add_process(environment.proc, 11, 10, node)
    add_process(environment.proc, 12, 1, node)
    add_process(environment.proc, 14, 1, ["sleep", "60"])
    environment.nni_home.mkdir()
    entries = {"owned": 11, "left": 12, "ended": 13, "other": 14, "odd": None}
    listed = {name: {"id": name, "pid": pid} for name, pid in entries.items()}
    (environment.nni_home / ".experiment").write_text(json.dumps(listed))
    return environment


def test_nni_experiments_without_an_owner_are_a_warning(managers: Environment) -> None:
    finding = look("nni leftovers", managers)
    assert finding.status == "warning"
    assert finding.found.endswith(": left (process 12)")
    assert "nnictl stop --all" in finding.remedy


def test_nni_experiments_with_an_owner_are_ok(managers: Environment) -> None:
    (managers.proc / "12" / "cmdline").unlink()
    assert look("nni leftovers", managers).found == "under way with an owner: owned (process 11)"


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_an_unreadable_list_of_experiments_is_an_empty_one(
    managers: Environment, text: str
) -> None:
    (managers.nni_home / ".experiment").write_text(text)
    assert look("nni leftovers", managers).found == "under way with an owner: none"


def test_without_a_process_table_leftovers_are_skipped(
    make_environment: MakeEnvironment, tmp_path: Path
) -> None:
    assert look("nni leftovers", make_environment(proc=tmp_path / "none")).status == "skipped"


def test_threads_are_told_and_too_many_are_a_warning(make_environment: MakeEnvironment) -> None:
    finding = look("threads", make_environment(variables={"OMP_NUM_THREADS": "2"}))
    assert finding.found == "4 cores, OMP_NUM_THREADS 2, torch's threads 2"
    assert (finding.status, finding.remedy[:4]) == ("ok", "Give")
    assert look("threads", make_environment(cores=1)).status == "warning"


def test_a_gpu_that_torch_does_not_see_is_a_warning(make_environment: MakeEnvironment) -> None:
    environment = make_environment()
    assert look("cuda", environment).status == "ok"
    (environment.proc / "driver" / "nvidia").mkdir(parents=True)
    (environment.proc / "driver" / "nvidia" / "version").touch()
    assert look("cuda", environment).status == "warning"
    seen = {"torch": ANSWERS["torch"] | {"devices": ["H100"], "cuda": "13.2"}}
    assert look("cuda", make_environment(answers=seen)).found == "CUDA 13.2: H100"
    assert look("cuda", make_environment(answers={"torch": {"error": "x"}})).status == "skipped"


RUN_CHECKS = ["run config", "run folder", "run disk", "storage disk", "storage"]


@pytest.mark.parametrize("name", RUN_CHECKS)
def test_without_a_run_its_checks_are_skipped(name: str, make_environment: MakeEnvironment) -> None:
    assert look(name, make_environment()).status == "skipped"


def test_a_run_folder_without_settings_is_a_problem(
    make_environment: MakeEnvironment, run: Path
) -> None:
    assert (
        "not a run folder: it has no config.yaml"
        in look("run config", make_environment(run=run)).found
    )


def test_settings_that_are_refused_are_a_problem(
    make_environment: MakeEnvironment, run: Path, tmp_path: Path
) -> None:
    set_storage(run, None)
    refusal = "config.yaml: seeed: unknown key. Did you mean 'seed'?"
    environment = make_environment(run=run)
    interpreter(tmp_path, f'echo "{refusal}"')
    assert look("run config", environment).found == refusal
    interpreter(tmp_path, "echo 'ImportError: torch' >&2; exit 1")
    assert "exit code 1: ImportError: torch" in look("run config", environment).found
    interpreter(tmp_path, "exit 0")
    assert look("run config", environment).status == "ok"


def test_a_folder_that_cannot_be_written_is_a_problem(make_environment: MakeEnvironment) -> None:
    run = Path("/proc/self")
    if not run.exists():
        pytest.skip("needs a folder that nobody can write into")
    assert look("run folder", make_environment(run=run)).status == "problem"


def test_looking_leaves_nothing_in_the_folder(make_environment: MakeEnvironment, run: Path) -> None:
    assert look("run folder", make_environment(run=run)).status == "ok"
    diagnose(make_environment(run=run))
    assert list(run.iterdir()) == []


@pytest.mark.parametrize(
    ("free", "status"), [(15_000, "problem"), (50_000, "warning"), (2**31, "ok")]
)
def test_free_space_is_held_against_the_largest_checkpoint(
    free: int, status: str, make_environment: MakeEnvironment, run: Path
) -> None:
    (run / "stage_00").mkdir()
    (run / "stage_00" / "model.safetensors").write_bytes(bytes(10_000))
    (run / "stage_00" / "small.safetensors").write_bytes(bytes(10))
    (run / "stage_00" / "gone.safetensors").symlink_to(run / "nowhere")
    environment = make_environment(run=run, free_bytes=lambda path: free)
    assert look("run disk", environment).status == status


MOUNTS = r"""
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/vdb /home/me/fast xfs rw 0 0
me@host: /home/me/my\040disk fuse.sshfs rw 0 0
tmpfs /mnt tmpfs rw 0 0
//server/share /mnt cifs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/run", "ext4"),
        ("/homework/run", "ext4"),
        ("/home/you/run", "nfs4"),
        ("/home/me/fast", "xfs"),
        ("/home/me/faster", "nfs4"),
        ("/home/me/my disk/run", "fuse.sshfs"),
        ("/mnt/run", "cifs"),
    ],
)
def test_the_longest_mount_point_tells_the_file_system(path: str, kind: str) -> None:
    assert filesystem(Path(path), MOUNTS) == kind
    assert filesystem(Path(path), "") == "unknown"


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "lustre", "fuse.sshfs"])
def test_sqlite_on_a_network_disk_is_a_warning(
    kind: str, make_environment: MakeEnvironment, run: Path
) -> None:
    environment = make_environment(run=run)
    (environment.proc / "mounts").write_text(f"a / ext4 rw 0 0\nb {run} {kind} rw 0 0\n")
    finding = look("storage disk", environment)
    assert finding.status == "warning"
    assert f"network disk ({kind})" in finding.found
    assert "journal" in finding.remedy
    assert "PostgreSQL" in finding.remedy
    set_storage(run, "journal")
    assert look("storage disk", environment).status == "ok"
    set_storage(run, f"sqlite:///{run}/other.db?timeout=60")
    assert "other.db" in look("storage disk", environment).found
    set_storage(run, "postgresql://me:secret@host/studies")
    assert (
        look("storage disk", environment).found == "postgresql://me:***@host/studies is not a file"
    )
    (environment.proc / "mounts").unlink()
    set_storage(run, None)
    assert look("storage disk", environment).status == "skipped"


def test_sqlite_on_a_local_disk_is_ok(make_environment: MakeEnvironment, run: Path) -> None:
    assert look("storage disk", make_environment(run=run)).status == "ok"


@pytest.fixture
def database(run: Path) -> Path:
    storage = RDBStorage(f"sqlite:///{RunFolder(run).database}")
    optuna.create_study(storage=storage).ask()
    storage.engine.dispose()
    return RunFolder(run).database


def change(database: Path, statement: str, *values: str) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(statement, values)


def test_a_sound_database_is_ok(
    make_environment: MakeEnvironment, run: Path, database: Path
) -> None:
    before = database.read_bytes()
    finding = look("storage", make_environment({"optuna": optuna.__version__}, run=run))
    assert finding.status == "ok"
    assert f"written by Optuna {optuna.__version__}" in finding.found
    assert database.read_bytes() == before


def test_a_database_of_another_major_is_a_problem(
    make_environment: MakeEnvironment, run: Path, database: Path
) -> None:
    change(database, "UPDATE version_info SET library_version = ?", "4.9.0")
    finding = look("storage", make_environment({"optuna": "5.0.0"}, run=run))
    assert finding.status == "problem"
    assert "written by Optuna 4.9.0; installed is 5.0.0" in finding.found
    assert look("storage", make_environment({"optuna": "4.5.1"}, run=run)).status == "ok"


def test_studies_of_another_major_are_a_problem(
    make_environment: MakeEnvironment, run: Path, database: Path
) -> None:
    change(database, "UPDATE version_info SET library_version = ?", "5.0.0")
    row = "INSERT INTO study_user_attributes (study_id, key, value_json) VALUES (1, ?, ?)"
    change(database, row, "optuna_version", '"5.1.0"')
    assert look("storage", make_environment({"optuna": "5.0.0"}, run=run)).status == "ok"
    change(database, "UPDATE study_user_attributes SET value_json = ?", '"4.9.0"')
    finding = look("storage", make_environment({"optuna": "5.0.0"}, run=run))
    assert finding.status == "problem"
    assert "written by Optuna 4.9.0, 5.0.0; installed is 5.0.0" in finding.found


@pytest.mark.parametrize("damage", [b"no database at all", None])
def test_a_damaged_database_is_a_problem(
    damage: bytes | None, make_environment: MakeEnvironment, run: Path, database: Path
) -> None:
    whole = database.read_bytes()
    database.write_bytes(damage or whole[:8192] + bytes(len(whole) - 8192))
    finding = look("storage", make_environment(run=run))
    assert finding.status == "problem"
    assert "damaged or not Optuna's" in finding.found


def test_a_database_of_something_else_is_a_problem(
    make_environment: MakeEnvironment, run: Path
) -> None:
    change(RunFolder(run).database, "CREATE TABLE cats (name TEXT)")
    assert "no such table: version_info" in look("storage", make_environment(run=run)).found


def test_a_locked_database_is_a_warning(
    make_environment: MakeEnvironment, run: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(
        storage.sqlite3, "connect", lambda name, *, uri, timeout: connect(name, uri=uri, timeout=0)
    )
    with closing(connect(database)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        assert look("storage", make_environment(run=run)).status == "warning"


def test_a_storage_that_is_not_there_yet_is_skipped(
    make_environment: MakeEnvironment, run: Path
) -> None:
    assert look("storage", make_environment(run=run)).status == "skipped"
    (RunFolder(run).database).touch()
    assert look("storage", make_environment(run=run)).status == "skipped"
    assert (RunFolder(run).database).stat().st_size == 0


@pytest.fixture
def journal(run: Path) -> Path:
    set_storage(run, "journal")
    storage = JournalStorage(JournalFileBackend(str(RunFolder(run).journal)))
    study = optuna.create_study(storage=storage)
    study.set_user_attr("optuna_version", "4.9.0")
    study.ask()
    return RunFolder(run).journal


def test_a_journal_of_another_major_is_a_problem(
    make_environment: MakeEnvironment, run: Path, journal: Path
) -> None:
    assert look("storage", make_environment({"optuna": "4.9.0"}, run=run)).status == "ok"
    finding = look("storage", make_environment({"optuna": "5.0.0"}, run=run))
    assert finding.status == "problem"
    assert "Optuna 4.9.0" in finding.found


def test_a_journal_may_end_in_half_a_line_but_not_hold_one(
    make_environment: MakeEnvironment, run: Path, journal: Path
) -> None:
    environment = make_environment({"optuna": "4.9.0"}, run=run)
    with journal.open("a") as file:
        file.write('{"op_code"')
    assert look("storage", environment).status == "ok"
    with journal.open("a") as file:
        file.write('{"op_code": 4}\n')
    assert "line 4 cannot be read" in look("storage", environment).found


def test_a_server_that_does_not_answer_is_a_problem_and_its_password_stays_hidden(
    make_environment: MakeEnvironment, run: Path
) -> None:
    set_storage(run, f"postgresql+psycopg://me:se%40cr/et@127.0.0.1:{free_port()}/studies")
    finding = look("storage", make_environment(run=run, python=sys.executable))
    assert finding.status == "problem"
    assert "me:***@127.0.0.1" in finding.found
    assert "cannot be opened" in finding.found
    for secret in ("se%40cr", "se@cr", "cr/et"):
        assert secret not in finding.found + finding.remedy


@pytest.mark.parametrize(
    "said", ["login with 'se@cret' failed", "postgresql://me:se@cret@h/x", "password=se@cret"]
)
def test_a_password_in_a_servers_message_is_hidden(
    said: str, make_environment: MakeEnvironment, run: Path, tmp_path: Path
) -> None:
    set_storage(run, "postgresql://me:se%40cret@h/x")
    environment = make_environment(run=run)
    interpreter(tmp_path, f"cat <<'END'\n{json.dumps({'error': said})}\nEND")
    finding = look("storage", environment)
    assert "cannot be opened" in finding.found
    assert "cret" not in finding.found


def test_a_server_is_asked_for_its_versions(
    make_environment: MakeEnvironment, run: Path, database: Path, tmp_path: Path
) -> None:
    change(database, "UPDATE version_info SET library_version = ?", "4.9.0")
    environment = make_environment({"optuna": "5.0.0"}, python=sys.executable)
    finding = storage.check_server(environment, f"sqlite:///{database}")
    assert finding.status == "problem"
    assert "written by Optuna 4.9.0" in finding.found
    empty = storage.check_server(environment, f"sqlite:///{tmp_path / 'empty.db'}")
    assert (empty.status, "(not noted)" in empty.found) == ("ok", True)


def test_names_and_limits_are_those_of_the_project() -> None:
    here, project = Environment(), (ROOT / "pyproject.toml").read_text()
    for package in ("optuna", "setuptools", "timm", "open_clip_torch", "nni"):
        assert f'"{package}{here.wanted(package)}"' in project
    assert f'requires-python = "{here.required_python}"' in project
    assert here.wanted("no-such-package") == ""
    assert storage.storage_file(Path("r"), "") == RunFolder(Path("r")).database
    assert storage.storage_file(Path("r"), "journal") == RunFolder(Path("r")).journal
    assert storage.storage_file(Path("r"), "sqlite:////a/b.db?x=1") == Path("/a/b.db")
    assert storage.storage_file(Path("r"), "mysql://host/db") is None


def test_findings_are_told_in_lines_with_their_remedies() -> None:
    lines = describe({"one": Finding("ok", "fine"), "two": Finding("warning", "odd", "Mend it.")})
    assert [line.split() for line in lines] == [
        ["ok", "one", "fine"],
        ["warning", "two", "odd"],
        ["->", "Mend", "it."],
        ["problems:", "0,", "warnings:", "1"],
    ]


@pytest.mark.parametrize(
    ("status", "code"), [("ok", 0), ("skipped", 0), ("warning", 0), ("problem", 1)]
)
def test_only_a_problem_gives_exit_code_one(
    status: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(checks, "CHECKS", {"it": lambda environment: Finding(status, "so")})
    assert main(["doctor", "--json"]) == code
    told = json.loads(capsys.readouterr().out)
    assert told == [{"name": "it", "status": status, "found": "so", "remedy": ""}]
    assert main(["doctor"]) == code
    assert capsys.readouterr().out.startswith(status)


def test_a_missing_run_folder_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "nowhere"]) == 2
    assert "nowhere: no such folder" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.long("three new processes, two of which import PyTorch")
def test_on_this_machine_no_check_fails_and_torch_stays_out(run: Path, database: Path) -> None:
    write_format(run)
    shutil.copy(ROOT / "experiments" / "smoke.yaml", run / "config.yaml")
    code = (
        "import sys\n"
        "from nas_growclip.cli.main import main\n"
        f"code = main(['doctor', {str(run)!r}, '--json'])\n"
        "assert not {'torch', 'timm', 'optuna', 'nni'} & set(sys.modules)\n"
        "assert code in (0, 1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = {row.pop("name"): row for row in json.loads(done.stdout)}
    assert list(told) == list(CHECKS)
    assert not [row for row in told.values() if "the check itself failed" in row["found"]]
    for name in ("torch", "torchvision", "timm", "open_clip", "optuna", "run config", "storage"):
        assert told[name]["status"] == "ok", told[name]
