"""The server's log: one JSON object per line, or plain lines on a terminal."""

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

# At INFO they write the URL of every request: visitors' URLs, and signed URLs of the Hub.
_QUIET = ("httpx", "httpcore", "httpx2", "httpcore2", "urllib3")


def set_up() -> None:
    """Log to the standard error from INFO up, HTTP clients from WARNING up."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(terminal=sys.stderr.isatty()))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def formatter(terminal: bool) -> logging.Formatter:
    """Return the formatter of a line.

    Args:
        terminal: Whether a person reads the line. Otherwise it is `{"time", "level", "logger",
            "message"}`, with the record's `extra` fields and its `traceback`.
    """
    if terminal:
        return logging.Formatter("%(levelname)s %(name)s: %(message)s")
    return JsonFormatter(
        ["levelname", "name", "message"],
        rename_fields={"levelname": "level", "name": "logger", "exc_info": "traceback"},
        timestamp="time",
        json_ensure_ascii=False,
    )
