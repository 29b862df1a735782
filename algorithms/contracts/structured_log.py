"""Log lines as JSON, one event a line, that hold no patient data.

The words of our own loggers are written without patient data. Those of libraries and of exceptions
may quote a tag, a path or a row: of them only the kind and the place are kept.
"""

import json
import logging
import traceback

from pydantic import AwareDatetime, TypeAdapter

OUR_LOGGERS = ("fedgtv", "site_agent", "coordinator", "clinical_ui", "evaluation", "algorithms")
MOMENT: TypeAdapter[AwareDatetime] = TypeAdapter(AwareDatetime)
NOT_KEPT = "a library's own words, which may quote a patient, are not kept"


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: at (UTC), level, logger, event, and of an error where.

    Args:
        party: who logs, such as "site hospital-b".
    """

    def __init__(self, party: str) -> None:
        super().__init__()
        self._party = party

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        is_ours = record.name.partition(".")[0] in OUR_LOGGERS
        line: dict[str, object] = {
            "at": MOMENT.validate_python(record.created).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "party": self._party,
            "logger": record.name,
            "event": record.getMessage() if is_ours else NOT_KEPT,
        }
        if not is_ours:
            line["where"] = [f"{record.module}:{record.lineno}"]
        if record.exc_info and record.exc_info[0] is not None:
            kind, _, trace = record.exc_info
            line["error"] = kind.__name__
            line["where"] = [
                f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}"
                for frame in traceback.extract_tb(trace)
            ]
        return json.dumps(line, ensure_ascii=False)


def log_as_json(party: str) -> None:
    """Have this process log warnings and what its own modules tell, as JSON on stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(party))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in OUR_LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)
