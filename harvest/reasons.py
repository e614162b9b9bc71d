"""Reasons: why a source gave no poses, as a closed list of names that the ledger and the summary count."""

from __future__ import annotations

from skelcore.errors import RunError

# Worth another try later: the source may well be fine.
TRANSIENT = {
    "rate_limited": "the host answered 429",
    "server": "the host answered 5xx",
    "network": "no connection, no such host, or a time-out",
    "incomplete": "the download ended before its announced length",
    "slow": "not fetched within limits.fetch_seconds",
    "bot_check": "the site asks for a login or a captcha",
    "disk": "no room for the download on this machine",
}
# The host is well, but asks us to stay away for a while: no attempt of the source.
BUSY = {"rate_limited", "bot_check"}
# The source itself is at fault, or we may not have it.
TERMINAL = {
    "missing": "no such file",
    "unreadable": "a file that this user may not read",
    "gone": "the host answered 404 or 410",
    "forbidden": "the host answered 401, 403 or 451",
    "unavailable": "private, removed, for members or of an age class",
    "geo": "not offered in this country",
    "unsupported": "a page without a video that yt-dlp knows, or with several, or a file of another kind",
    "no_format": "offered, but in no format that fetch.options takes",
    "invalid": "not a usable address or file name",
    "redirect": "its redirects run in a circle, or leave the web",
    "robots": "robots.txt, X-Robots-Tag or tdm-reservation ask to leave it alone",
    "licence": "its licence is not among law.licences",
    "opted_out": "listed in law.opt_out",
    "drm": "protected against copying",
    "too_large": "more bytes than limits.max_bytes",
    "too_long": "longer than limits.max_seconds",
    "live": "a live stream",
    "download": "the download failed for another reason",
    "empty": "zero bytes",
    "corrupt": "not decodable",
    "audio_only": "no video stream",
    "timeout": "not done within limits.deadline_seconds",
    "crash": "its worker process died twice",
    "error": "an unexpected exception, kept in the ledger",
}
FAILURES = TRANSIENT | TERMINAL


class VideoError(RunError):
    """A source that gives no poses; ``reason`` is one of ``FAILURES``, ``wait`` the seconds that its host asked for."""

    def __init__(self, reason: str, detail: str = "", wait: float | None = None) -> None:
        assert reason in FAILURES, reason
        super().__init__(f"{reason}: {detail or FAILURES[reason]}")
        self.reason, self.detail, self.wait = reason, detail or FAILURES[reason], wait
