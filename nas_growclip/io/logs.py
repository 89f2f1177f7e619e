"""Messages of the package, by the standard ``logging`` module, under the logger ``nas_growclip``.

By default they are plain lines on stderr, so that stdout holds results only. Whoever uses the
package as a library changes that as with any logger:

    logging.getLogger("nas_growclip").setLevel(logging.WARNING)   # no progress, warnings only
    logging.getLogger("nas_growclip").handlers.clear()            # nothing on stderr ...
    logging.getLogger("nas_growclip").propagate = True            # ... but where the root sends it
"""

import logging
import sys

logger = logging.getLogger("nas_growclip")
"""Parent of every module's own logger."""


class StderrHandler(logging.Handler):
    """Plain lines on whatever stderr is at the time: a progress bar puts them above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, at once."""
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


def log_to_stderr() -> None:
    """Send the package's messages to stderr, and nowhere else; done when it is imported."""
    logger.addHandler(StderrHandler())
    logger.setLevel(logging.INFO)
    logger.propagate = False


def log_errors_only() -> None:
    """Show no progress from now on: for a process beside which another one shows the same."""
    logger.setLevel(logging.ERROR)


def is_logged_to_stderr() -> bool:
    """Whether messages still go to stderr, where a progress bar may stand beside them."""
    return any(isinstance(handler, StderrHandler) for handler in logger.handlers)
