"""Pages through the real yt-dlp: extractors of the test stand in for sites, the loopback host for their servers."""

import hashlib
import io

import pytest
import yt_dlp
from yt_dlp.extractor import gen_extractor_classes
from yt_dlp.extractor.common import InfoExtractor
from yt_dlp.globals import extractors
from yt_dlp.networking.exceptions import HTTPError, SSLError, TransportError
from yt_dlp.utils import DownloadError, ExtractorError, GeoRestrictedError

from harvest import causes, fetch, ytdlp
from harvest.address import cut
from harvest.causes import explain, plain, retry_after
from harvest.reasons import VideoError
from harvest.sources import Source
from tests.harvest import web

BASE = {"id": "dQw4", "title": "A title", "license": "Creative Commons Attribution license (reuse allowed)",
        "channel_id": "UCabc", "upload_date": "20250102", "duration": 1}


class TubeIE(InfoExtractor):
    """A video site: ``answer`` is what it says of its one video, or raises."""

    _VALID_URL = r"http://127\.0\.0\.1:\d+/watch/(?P<id>\w+)"
    answer: dict = {}  # noqa: RUF012
    raised: Exception | None = None

    def _real_extract(self, url):
        if self.raised:
            raise self.raised
        return {**BASE, "url": url.partition("/watch")[0] + "/good.mp4", "ext": "mp4", **self.answer}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    gen_extractor_classes()
    before = extractors.value
    extractors.value = {"TubeIE": TubeIE, **before}
    ytdlp._idle.clear()
    with web.serve(tmp_path_factory.mktemp("web")) as site:
        yield site
    extractors.value = before
    ytdlp._idle.clear()


@pytest.fixture(autouse=True)
def _direct(monkeypatch, tmp_path, server):
    web.alone(server, tmp_path, monkeypatch)
    monkeypatch.setattr(TubeIE, "answer", {})
    monkeypatch.setattr(TubeIE, "raised", None)


def get(server, folder, config=None, path="/watch/dQw4", **meta):
    folder.mkdir(exist_ok=True)
    return fetch.fetch(web.source(server.url + path, **meta), folder, config or web.config())


def reason(server, folder, config=None, path="/watch/dQw4", **meta):
    with pytest.raises(VideoError) as caught:
        get(server, folder, config, path, **meta)
    assert str(folder) not in caught.value.detail and "dQw4" not in caught.value.detail
    return caught.value.reason


def test_a_known_site_goes_straight_to_its_extractor(server, tmp_path):
    found = get(server, tmp_path / "f")
    assert found.path.read_bytes() == server.video
    assert server.hits == {"/robots.txt": 1, "/good.mp4": 1}
    assert found.info == {
        "extractor": "Tube", "video": "dQw4", "licence": BASE["license"], "uploaded": "20250102",
        "uploader_sha256": hashlib.sha256(b"UCabc").hexdigest(), "yt_dlp": yt_dlp.version.__version__}


@pytest.mark.parametrize(("answer", "wanted"), [
    ({"is_live": True}, "live"), ({"live_status": "is_upcoming"}, "live"), ({"live_status": "was_live"}, None),
    ({"age_limit": 18}, "unavailable"), ({"age_limit": 12}, None), ({"availability": "subscriber_only"}, "unavailable"),
    ({"availability": "unlisted"}, None), ({"duration": 5000}, "too_long"), ({"duration": None}, None),
    ({"license": None}, "licence"), ({"license": "Standard YouTube License"}, "licence"),
    ({"channel_id": "UCout"}, "opted_out"), ({"uploader_id": "UCout"}, "opted_out"), ({"id": "out-id"}, "opted_out"),
    ({"formats": [{"url": "http://127.0.0.1:1/v.mp4", "has_drm": True}], "url": None}, "drm"),
    ({"formats": []}, "download"),
])
def test_what_a_site_says_is_judged_before_the_first_byte(server, tmp_path, answer, wanted):
    (tmp_path / "out.txt").write_text("channel:UCout\nout-id\n")
    config = web.config(law={"licences": ["cc by*"], "opt_out": str(tmp_path / "out.txt")})
    TubeIE.answer = answer
    if "formats" in answer:
        TubeIE.answer = answer | {"url": None}
    if wanted:
        assert reason(server, tmp_path / "f", config) == wanted
        assert "/good.mp4" not in server.hits
    else:
        assert get(server, tmp_path / "f", config).path.read_bytes() == server.video


def test_of_a_clip_its_own_length_counts(server, tmp_path):
    TubeIE.answer = {"duration": 5000}
    config, url = web.config(), server.url + "/watch/dQw4"
    found = fetch.fetch(Source("v", cut(url, 4000, 4010)), tmp_path, config)
    assert found.path.read_bytes() == server.video
    with pytest.raises(VideoError, match="too_long: 4996 s"):
        fetch.fetch(Source("v", cut(url, 4)), tmp_path, config)


@pytest.mark.parametrize(("raised", "wanted"), [
    (ExtractorError("Sign in to confirm you're not a bot", expected=True), "bot_check"),
    (ExtractorError("This content isn't available, try again later. Your account has been rate-limited by the site for "
                    "up to an hour", expected=True), "bot_check"),
    (ExtractorError("Private video. Sign in if you've been granted access", expected=True), "unavailable"),
    (ExtractorError("Video unavailable. This video has been removed by the uploader", expected=True), "unavailable"),
    (ExtractorError("Sign in to confirm your age. This video may be inappropriate", expected=True), "unavailable"),
    (ExtractorError("Join this channel to get access to members-only content", expected=True), "unavailable"),
    (ExtractorError("This live event will begin in 3 hours", expected=True), "live"),
    (ExtractorError("The requested site is known to use DRM protection", expected=True), "drm"),
    (GeoRestrictedError("The uploader has not made this video available", countries=["DE"]), "geo"),
    (ExtractorError("Failed", cause=TransportError(cause=ConnectionRefusedError(111, "refused"))), "network"),
    (ExtractorError("Failed", cause=SSLError("bad certificate")), "network"),
    (ExtractorError("something new"), "download"),
])
def test_what_a_site_raises_has_a_name(server, tmp_path, raised, wanted):
    TubeIE.raised = raised
    assert reason(server, tmp_path / "f") == wanted


@pytest.mark.parametrize(("path", "wanted"), [
    ("/gone.mp4", "gone"), ("/forbidden.mp4", "forbidden"), ("/busy.mp4", "rate_limited"), ("/broken.mp4", "server"),
    ("/loop.mp4", "redirect"), ("/passwd.mp4", "redirect"), ("/short.mp4", "incomplete")])
def test_what_the_server_of_a_site_answers_has_a_name(server, tmp_path, path, wanted):
    TubeIE.answer = {"url": server.url + path}
    assert reason(server, tmp_path / "f") == wanted


def test_file_urls_of_a_site_are_refused(server, tmp_path):
    TubeIE.answer = {"url": "file:///etc/passwd"}
    assert reason(server, tmp_path / "f") in ("invalid", "redirect")
    assert not (tmp_path / "f" / "video").exists()


def test_robots_txt_holds_for_pages_too(server, tmp_path):
    server.robots = (200, "User-agent: *\nDisallow: /watch/")
    assert reason(server, tmp_path / "f") == "robots"
    assert server.hits == {"/robots.txt": 1}


def test_a_slow_site_is_given_up(server, tmp_path):
    TubeIE.answer = {"url": f"{server.url}/drip.mp4"}
    config = web.config(limits={"fetch_seconds": 0.5}, options={"buffersize": 4, "noresizebuffer": True})
    assert reason(server, tmp_path / "f", config) == "slow"


def test_a_title_or_an_extension_names_no_file_and_is_not_kept(server, tmp_path):
    TubeIE.answer = {"ext": "mp4/../../../x"}
    assert reason(server, tmp_path / "e") == "download" and not any((tmp_path / "e").iterdir())
    TubeIE.answer = {"title": "../../x\x1b[31m;rm -rf ~", "ext": "webm", "id": "../../y"}
    found = get(server, tmp_path / "f")
    assert [path.name for path in (tmp_path / "f").iterdir()] == ["video"]
    assert not any("rm -rf" in value for value in found.info.values())
    hostile = get(server, tmp_path / "g", path="/hostile.html")
    assert [path.name for path in (tmp_path / "g").iterdir()] == ["video"]
    assert not any("rm -rf" in value for value in hostile.info.values())


def test_a_playlist_of_segments_is_one_video_and_needs_no_ffmpeg(server, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert get(server, tmp_path / "f", path="/list.m3u8").path.read_bytes() == server.segment


def test_what_a_site_tells_is_kept_short_and_printable(server, tmp_path):
    TubeIE.answer = {"license": "cc by\x1b[31m\n" + "x" * 10_000}
    licence = get(server, tmp_path / "f").info["licence"]
    assert licence.startswith("cc by [31m xxx") and len(licence) == 200


def test_cookies_are_used_and_the_users_file_is_left_alone(server, tmp_path):
    jar = tmp_path / "cookies.txt"
    text = "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t9999999999\tkey\tvalue\n"
    jar.write_text(text)
    get(server, tmp_path / "f", web.config(cookies=str(jar)))
    assert server.asked[-1][1]["Cookie"] == "key=value"
    for site in ytdlp._idle.values():
        site.close()
    assert jar.read_text() == text


def test_a_sites_downloader_serves_many_videos_and_also_after_a_failure(server, tmp_path):
    ytdlp._idle.clear()
    get(server, tmp_path / "a")
    (first,) = ytdlp._idle.values()
    TubeIE.raised = ExtractorError("Video unavailable", expected=True)
    reason(server, tmp_path / "b")
    TubeIE.raised = None
    assert get(server, tmp_path / "c").path == tmp_path / "c" / "video"
    assert list(ytdlp._idle.values()) == [first]


def test_two_threads_do_not_share_a_downloader(server):
    settings = web.config().fetch
    with ytdlp._site("a", settings) as one, ytdlp._site("a", settings) as two:
        assert one is not two
    for number in range(20):
        with ytdlp._site(f"host{number}", settings):
            pass
    assert len(ytdlp._idle) == ytdlp._MOST_SITES


@pytest.mark.parametrize(("url", "known"), [
    ("https://www.youtube.com/watch?v=dQw4w9WgXcQ", True), ("https://vimeo.com/12345", True),
    ("https://commons.wikimedia.org/wiki/File:A.webm", True), ("https://example.org/v.mp4", False),
    ("https://archive.org/download/a/b.mp4", False)])
def test_which_addresses_have_an_extractor(url, known):
    assert ytdlp.knows(url) is known


def test_the_chain_of_causes_decides_before_the_text():
    inner = ExtractorError("Video unavailable", cause=HTTPError(_response(429, {"Retry-After": "9"})))
    found = explain(DownloadError(f"ERROR: {inner}", (type(inner), inner, None)))
    assert (found.reason, found.wait) == ("rate_limited", 9.0)
    full = OSError(28, "No space left on device")
    assert explain(DownloadError("ERROR: unable to write data", (OSError, full, None))).reason == "disk"
    assert explain(DownloadError("ERROR: unable to write data: [Errno 28] No space left on device")).reason == "disk"


def _response(status, headers):
    from yt_dlp.networking.common import Response

    return Response(io.BytesIO(), "http://x/", headers, status)


@pytest.mark.parametrize(("value", "wanted"), [
    ("120", 120.0), (" 0 ", 0.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 28.0), ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
    ("-5", None), ("soon", None), ("", None), (None, None), ("9" * 40, None), ("1e9", None)])
def test_retry_after(value, wanted):
    from datetime import UTC, datetime

    assert retry_after(value, datetime(2015, 10, 21, 7, 27, 32, tzinfo=UTC)) == wanted


def test_details_tell_no_ids_credentials_or_control_characters():
    text = "ERROR: [youtube] dQw4w9: Unable to open 'https://me:secret@h.org/a?key=secret#x' \x1b[31m\u202e in " \
           "/tmp/s1; please report this issue on https://example.org"
    assert plain(text, "/tmp/s1") == "[youtube] Unable to open 'https://h.org/a' [31m in"
    assert causes.bare("http://[bad") == "(a URL)"
