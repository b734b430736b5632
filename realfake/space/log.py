"""The server's log: a JSON object a line where a program reads it, plain lines on a terminal."""

import json
import logging
import sys
from datetime import UTC, datetime

# They write the address of every request at INFO: visitors' URLs, and the signatures in the Hub's own.
_TALKATIVE = ("httpx", "httpcore", "urllib3")


class JsonLines(logging.Formatter):
    """`{"time", "level", "logger", "message"}`, with the fields that a record has under `fields`, and its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class PlainLines(logging.Formatter):
    """`LEVEL logger: message name=value …`"""

    def __init__(self):
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        return super().formatMessage(record) + "".join(
            f" {name}={value}" for name, value in fields.items()
        )


def set_up() -> None:
    """Log to the standard error, from INFO up; what asks other servers, from WARNING up."""
    handler = logging.StreamHandler()
    handler.setFormatter(PlainLines() if sys.stderr.isatty() else JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
