"""Times as people write them, in seconds."""

from __future__ import annotations

import re

from telme.errors import TelMEError

_TIME = re.compile(
    r"(?:(?:(?P<hours>\d{1,9}):)?(?P<minutes>[0-5]?\d):(?=[0-5]?\d\b))?(?P<seconds>\d{1,9}(?:[.,]\d+)?)", re.ASCII
)


def parse_time(text: str) -> float:
    """Seconds from `12.5`, `1:05.25`, `0:01:05` or `00:01:05,250`; the decimal sign is a point or a comma.

    Raises:
        TelMEError: Any other text; the message names it and the valid forms.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise TelMEError(f"time {text!r} is neither seconds (12.5) nor hours, minutes and seconds (00:01:05,250)")
    seconds = float(match["seconds"].replace(",", "."))
    return 3600 * int(match["hours"] or 0) + 60 * int(match["minutes"] or 0) + seconds
