"""A PostgreSQL server for as long as it is needed."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from tests.support.processes import free_port

SERVER_USER = "nobody"
"""Whom root lets the server run as: it refuses to run as root."""


GUARD = """
cd "$1" || exit
{
    "$2/initdb" -D data -U growclip -A trust -E UTF8 --no-locale --no-sync &&
    "$2/pg_ctl" -D data -w -t 120 -l server.log -o "-h 127.0.0.1 -p $3 -k ''" start
} > log 2>&1 || { echo failed; exit 1; }
echo ready
read -r end
"$2/pg_ctl" -D data -w -m immediate stop > log 2>&1
rm -rf "$1"
"""
"""Starts the server; stops it when its input is closed, which a killed process does too."""


class PostgresServer(NamedTuple):
    """A server on loopback that trusts everybody on this machine."""

    programs: Path
    port: int

    def new_database(self, name: str) -> str:
        """Make an empty database; its URL as ``search.storage`` takes it."""
        place = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "growclip"]
        subprocess.run([self.programs / "createdb", *place, name], check=True)
        return f"postgresql+psycopg://growclip@127.0.0.1:{self.port}/{name}"


def missing_postgres() -> str:
    """What is missing for a PostgreSQL storage; empty if nothing is."""
    if find_spec("psycopg") is None:
        return "the Python package psycopg is not installed"
    if postgres_programs() is None:
        return "no PostgreSQL server (initdb, pg_ctl, createdb) is installed"
    return ""


def postgres_programs() -> Path | None:
    """The newest server's programs, which Debian keeps off the PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: p.parent.name.zfill(4))
    on_path = [Path(found).resolve().parent for found in [shutil.which("initdb")] if found]
    wanted = ("initdb", "pg_ctl", "postgres", "createdb")
    folders = [f for f in (*on_path, *reversed(debian)) if all((f / w).exists() for w in wanted)]
    return folders[0] if folders else None


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server in a temporary folder; stopped and deleted at the end, even if we are killed."""
    programs = postgres_programs()
    if programs is None:
        raise ValueError(f"PostgreSQL must be there, but {missing_postgres()}. Install it.")
    folder = Path(tempfile.mkdtemp(prefix="growclip-postgres-"))
    user = SERVER_USER if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    server = PostgresServer(programs, free_port())
    command = ["sh", "-c", GUARD, "guard", str(folder), str(programs), str(server.port)]
    with subprocess.Popen(
        command,
        user=user,
        group=pwd.getpwnam(user).pw_gid if user else None,
        extra_groups=[] if user else None,
        start_new_session=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as guard:
        said = guard.stdout.readline() if guard.stdout else ""
        if said != "ready\n":
            raise ChildProcessError(f"PostgreSQL must start, but did not; see {folder}/log.")
        yield server
