"""Where Optuna keeps a run's studies: SQLite or a journal in the run folder, or any database.

A storage that goes away for a while is waited for: every call of Optuna's is made again until it
works or the patience ends.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import make_url
from sqlalchemy.exc import InterfaceError, OperationalError, PendingRollbackError, SQLAlchemyError

from nas_growclip.io.files import locked
from nas_growclip.records.folder import RunFolder

_log = logging.getLogger(__name__)


SQLITE_PATIENCE = 60
"""Seconds that a SQLite writer waits for another one."""
PATIENCE_S = 600.0
"""Seconds that a storage which was there before may be away."""
FIRST_WAIT_S = 0.5
"""Seconds before a call is made again; each time twice as long, up to ``LONGEST_WAIT_S``."""
LONGEST_WAIT_S = 30.0


def open_storage(setting: str | None, run: Path | None, *, waits: bool = False) -> BaseStorage:
    """Open Optuna's storage, or make it.

    Args:
        setting: None for SQLite in the run folder, ``journal``, or a database's URL.
        run: The run folder; None keeps the studies in memory.
        waits: Whether it was there before, and is waited for.

    Returns:
        A storage whose calls wait for it where it goes away, see ``PATIENCE_S``.

    Raises:
        ValueError: If it cannot be opened.
    """
    if run is None:
        return InMemoryStorage()
    is_journal = setting == "journal"
    name = str(RunFolder(run).journal) if is_journal else shown_url(_url(setting, run))
    try:
        opened = _patiently(_open, name, PATIENCE_S if waits else 0.0)(setting, run)
    except (SQLAlchemyError, ImportError, RuntimeError, optuna.exceptions.OptunaError) as error:
        raise ValueError(
            f"search.storage: cannot open {name}: {_in_short(error)} "
            "Give None, 'journal' or a database's URL with its driver installed, as in "
            "postgresql+psycopg://user@host/name."
        ) from None
    patient: BaseStorage = PatientStorage(opened, name)
    return patient


def _open(setting: str | None, run: Path) -> BaseStorage:
    if setting == "journal":
        return JournalStorage(JournalFileBackend(str(RunFolder(run).journal)))
    url = _url(setting, run)
    is_sqlite = make_url(url).get_backend_name() == "sqlite"
    options = {"connect_args": {"timeout": SQLITE_PATIENCE}} if is_sqlite else {}
    with locked(RunFolder(run).search_lock):  # Optuna's own making of the tables is no atomic step
        return get_storage(RDBStorage(url, engine_kwargs={"pool_pre_ping": True, **options}))


def _url(setting: str | None, run: Path) -> str:
    return setting or f"sqlite:///{RunFolder(run).database}"


def _patiently(call: Callable[..., Any], name: str, patience_s: float) -> Callable[..., Any]:
    """A call that is made again while the storage is away."""

    def called(*given: Any, **named: Any) -> Any:
        deadline, wait_s = time.monotonic() + patience_s, FIRST_WAIT_S
        while True:
            try:
                return call(*given, **named)
            except Exception as error:
                left = deadline - time.monotonic()
                if not _is_away(error) or patience_s <= 0:
                    raise
                reason = _in_short(error.__cause__ or error)
            if left <= 0:
                raise ValueError(
                    f"search.storage: {name} must be there, but was away for {patience_s:g} s: "
                    f"{reason} Bring it back; then the same command resumes."
                )
            _log.info(
                f"search.storage: {name} is away: {reason} Waiting up to {left:.0f} s for it."
            )
            time.sleep(min(wait_s, left))
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    return called


def _is_away(error: BaseException) -> bool:
    """Whether an error of Optuna's says that the storage cannot be reached, read or written now."""
    causes = (error, error.__cause__)
    lost = (OperationalError, InterfaceError, OSError)
    return any(isinstance(each, lost) or _is_disconnected(each) for each in causes)


def _is_disconnected(error: BaseException | None) -> bool:
    """Whether a transaction cannot go on because its connection was lost in its middle."""
    return isinstance(error, PendingRollbackError) and error.code == "8s2b"


def _in_short(error: BaseException) -> str:
    """What an error says, without SQL."""
    words = " ".join(str(getattr(error, "orig", None) or error).split())[:300]
    return words if words.endswith(".") else f"{words}."


CALLS = frozenset(name for name in dir(BaseStorage) if not name.startswith("_"))
"""What Optuna asks of a storage."""


def _patient_call(name: str) -> Callable[..., Any]:
    def called(self: Any, *given: Any, **named: Any) -> Any:
        return _patiently(getattr(self.held, name), self.name, PATIENCE_S)(*given, **named)

    return called


def _hold(self: Any, held: BaseStorage, name: str) -> None:
    self.held, self.name = held, name


PatientStorage: Any = type(
    "PatientStorage",
    (BaseStorage,),
    {name: _patient_call(name) for name in CALLS}
    | {"__init__": _hold, "__doc__": "Another storage whose calls wait where it is away."},
)


def impatient(storage: BaseStorage) -> BaseStorage:
    """The same storage with calls that fail at once."""
    held: BaseStorage = getattr(storage, "held", storage)
    return held


def shown_url(url: str) -> str:
    """A URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return repr(url)
