"""Reasons: why a source gave no poses, as a closed list of names that the ledger and the summary count."""

from __future__ import annotations

from skelcore.errors import RunError

# Worth another try later: the source may well be fine.
TRANSIENT = {
    "rate_limited": "the host answered 429",
    "server": "the host answered 5xx",
    "network": "no connection, no such host, or a time-out",
    "incomplete": "the download ended before its announced length",
    "bot_check": "the site asks for a login or a captcha",
}
# The source itself is at fault.
TERMINAL = {
    "missing": "no such local file",
    "unreadable": "a local file that this user may not read",
    "gone": "the host answered 404 or 410",
    "forbidden": "the host answered 401, 403 or 451",
    "unavailable": "private, removed, for members or of an age class",
    "geo": "not offered in this country",
    "unsupported": "a page without a video that yt-dlp knows, or with several",
    "no_format": "offered, but in no format that fetch.options takes",
    "invalid": "not a usable address or file name",
    "too_large": "more bytes than limits.max_bytes",
    "too_long": "longer than limits.max_seconds",
    "live": "a live stream",
    "download": "yt-dlp failed for another reason",
    "empty": "zero bytes",
    "corrupt": "not decodable",
    "audio_only": "no video stream",
    "timeout": "not done within limits.deadline_seconds",
    "crash": "its worker process died twice",
    "error": "an unexpected exception, kept in the ledger",
}
FAILURES = TRANSIENT | TERMINAL


class VideoError(RunError):
    """A source that gives no poses; ``reason`` is one of ``FAILURES``."""

    def __init__(self, reason: str, detail: str = "") -> None:
        assert reason in FAILURES, reason
        super().__init__(f"{reason}: {detail or FAILURES[reason]}")
        self.reason, self.detail = reason, detail or FAILURES[reason]
