"""What the free text about a measurement's origin says: concurrency, date, campaign."""

from __future__ import annotations

import re

_CONCURRENCY = re.compile(r"(?:^|[;\s])silicon_concurrency=(\d{1,9})(?![\d.])")
_MEASURED = re.compile(r"(?:^|[;\s])measured=(\d{4}-\d{2}-\d{2})")
_CONFIG = re.compile(r"(?:^|[;\s])config_id=(\w{1,40})")
_DATE = re.compile(r"(?<!\d)(\d{4}-\d{2}-\d{2})(?!\d)")


def concurrency_in(text: str) -> float | None:
    """Requests in the whole deployment, if the text says.

    >>> concurrency_in("db-dump/2026-04-27; config_id=734; silicon_concurrency=512")
    512.0
    """
    found = _CONCURRENCY.search(text)
    return float(found[1]) if found and int(found[1]) > 0 else None


def measured_in(text: str) -> str:
    """Day of the measurement, or any day the text names, or nothing."""
    found = _MEASURED.search(text) or _DATE.search(text)
    return found[1] if found else ""


def config_in(text: str) -> str:
    """Name of the configuration in the benchmark's own data base."""
    found = _CONFIG.search(text)
    return found[1] if found else ""


def campaign_of(text: str) -> str:
    """Kind of source, without dates and folders, and the day of the measurement.

    Examples
    --------
    >>> campaign_of("db-dump/2026-04-27; config_id=734; measured=2026-04-21T00:00:00.000Z")
    'db-dump 2026-04-21'
    >>> campaign_of("source_file=/home/me/data/h100_sxm/trtllm/1.0.0rc3/Qwen_Qwen3-32B.csv")
    'data/h100_sxm/trtllm/1.0.0rc3'
    """
    head = text.split(";", 1)[0].strip()
    kind, _, name = head.rpartition("source_file=")
    if "source_file=" in head:
        folders = name.split("/")[:-1]
        kind = "/".join(folders[-4:]) if folders else "csv " + _DATE.sub("", name).removesuffix(".csv")
    else:
        kind = _DATE.sub("", head).strip("/ ")
    return f"{kind.strip()} {measured_in(text)}".strip()
