"""Log lines as JSON, each with the job that it belongs to."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from datetime import UTC, datetime

_JOB = re.compile(r"\bjob ([0-9a-f]{8}-[0-9a-f-]{27})\b", re.IGNORECASE)


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        # A job's task has its id in its name; other tasks say of which job they speak.
        if named := _JOB.search(_task_name()) or _JOB.search(message):
            line["job_id"] = named[1]
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _task_name() -> str:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop is here
        return ""
    return task.get_name() if task else ""
