"""Where Optuna keeps a run's studies: SQLite or a journal in the run folder, or any database."""

from pathlib import Path

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from nas_growclip.files import locked

STUDY_FILE = "study.db"
JOURNAL_FILE = "study.journal"
LOCK_FILE = "study.lock"
"""Held in the run folder while tables are made and while a trial is taken from the queue."""
SQLITE_PATIENCE = 60
"""Seconds that a SQLite writer waits for another one."""


def open_storage(setting: str | None, run: Path | None) -> BaseStorage:
    """Open Optuna's storage, or make it.

    Args:
        setting: None for SQLite in the run folder, ``journal``, or a database's URL.
        run: The run folder; None keeps the studies in memory.

    Raises:
        ValueError: If it cannot be opened.
    """
    if run is None:
        return InMemoryStorage()
    if setting == "journal":
        return JournalStorage(JournalFileBackend(str(run / JOURNAL_FILE)))
    url = setting or f"sqlite:///{run / STUDY_FILE}"
    try:
        is_sqlite = make_url(url).get_backend_name() == "sqlite"
        options = {"connect_args": {"timeout": SQLITE_PATIENCE}} if is_sqlite else {}
        with locked(run / LOCK_FILE):  # Optuna's own making of the tables is no atomic step
            return get_storage(RDBStorage(url, engine_kwargs={"pool_pre_ping": True, **options}))
    except (SQLAlchemyError, ImportError, RuntimeError, optuna.exceptions.OptunaError) as error:
        raise ValueError(
            f"search.storage: cannot open {shown_url(url)}: {' '.join(str(error).split())[:300]} "
            "Give None, 'journal' or a database's URL with its driver installed, as in "
            "postgresql+psycopg://user@host/name."
        ) from None


def shown_url(url: str) -> str:
    """A URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return repr(url)
