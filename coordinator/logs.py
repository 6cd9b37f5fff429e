"""Lines of the log: as text or as JSON, with the ids of what they are about.

Whoever begins a piece of work, a request or a round, opens a scope; whoever learns an
id notes it there. Each line that is logged in the scope bears the ids known by then.
"""

import contextlib
import contextvars
import datetime as dt
import json
import logging
from collections.abc import Iterator
from typing import Final, Literal, TypeAlias

Fields: TypeAlias = dict[str, str | int]
# A context variable can only be one of a module. Threads that a request is handed to
# get the context with it, and so share the scope's dictionary.
_SCOPE: Final[contextvars.ContextVar[Fields | None]] = contextvars.ContextVar(
    "shoal_log_scope", default=None
)


def begin() -> Fields:
    """Open a scope that lasts as long as the context, and return its ids."""
    fields: Fields = {}
    _SCOPE.set(fields)
    return fields


@contextlib.contextmanager
def about(**ids: str | int) -> Iterator[None]:
    """Open a scope for the lines of a block."""
    token = _SCOPE.set({**(_SCOPE.get() or {}), **ids})
    try:
        yield
    finally:
        _SCOPE.reset(token)


def note(**ids: str | int) -> None:
    """Add ids to the scope that is open, if one is."""
    fields = _SCOPE.get()
    if fields is not None:
        fields.update(ids)


def configure(*, level: str, form: Literal["text", "json"]) -> None:
    """Log to standard error, one line a record; JSON lines hold tracebacks too."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # What these say at every start or request would drown what matters.
    for chatty in ("uvicorn.access", "uvicorn.error", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class TextLines(logging.Formatter):
    """Lines for people: moment, level, logger, message, ids."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's
        """Add the ids behind the message, before a traceback."""
        ids = " ".join(f"{name}={value}" for name, value in _ids().items())
        return super().formatMessage(record) + (f" [{ids}]" if ids else "")


class JsonLines(logging.Formatter):
    """Lines for programs: one JSON object each."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object: ``at``, ``level``, ``logger``, ``message``, ids."""
        at = dt.datetime.fromtimestamp(record.created, dt.UTC)
        line: dict[str, str | int] = {
            "at": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_ids(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _ids() -> Fields:
    return _SCOPE.get() or {}
