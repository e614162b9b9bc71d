import re
from collections import Counter
from itertools import islice

import pytest
from yt_dlp import YoutubeDL
from yt_dlp.extractor.common import InfoExtractor
from yt_dlp.utils import ExtractorError, OnDemandPagedList

from harvest import playlists
from harvest.config import Fetch
from harvest.sources import expand
from skelcore.errors import InputError, RunError
from tests.harvest import web

VIDEO = "https://www.youtube.com/watch?v="
ASKED: Counter = Counter()


class Channel(InfoExtractor):
    """A site in the manner of YouTube: a channel leads to a tab, a tab to videos page by page and to further tabs."""

    _VALID_URL = r"https?://channel\.example/(?P<id>.+)"
    _RETURN_TYPE = "any"

    def _real_extract(self, url):
        name = self._match_id(url)
        ASKED[name] += 1
        if name == "home":
            return self.url_result("https://channel.example/tabs", Channel.ie_key())
        return {"_type": "playlist", "id": name, "entries": getattr(self, f"_{name.split('/')[0]}")(name)}

    def _tabs(self, name):
        for tab in ("videos", "shorts", "videos", "tabs"):
            yield self.url_result(f"https://channel.example/{tab}", Channel.ie_key())

    def _videos(self, name):
        def page(number):
            ASKED[f"videos page {number}"] += 1
            return [self.url_result(f"https://www.youtube.com/watch?v={30 * number + i:011d}&pp=x", "Youtube")
                    for i in range(30 if number < 3 else 4)]

        return OnDemandPagedList(page, 30)

    def _shorts(self, name):
        return [self.url_result(f"{5:011d}", "Youtube"), None, self.url_result("//b.example/v", "Generic"),
                {"_type": "playlist", "entries": [{"id": "x", "formats": [{}, {"url": "https://c.example/v.mp4"}]}]}]

    def _evil(self, name):
        return [self.url_result(url)
                for url in ("file:///etc/passwd", "/etc/passwd", "javascript:alert(1)", "*.mp4", "")]

    def _broken(self, name):
        yield self.url_result("https://b.example/1")
        raise ExtractorError("[x] page 2: HTTP Error 429: Too Many Requests", expected=True)

    def _buggy(self, name):
        yield {"no": "url"}["url"]

    def _deep(self, name):
        yield self.url_result(f"https://channel.example/{name}/x", Channel.ie_key())

    def _endless(self, name):
        for number in range(10**9):
            ASKED["endless"] += 1
            yield self.url_result(f"https://b.example/{number}")


@pytest.fixture(autouse=True)
def channel(monkeypatch):
    """The site above, beside those that yt-dlp brings."""
    begin = YoutubeDL.__init__

    def extended(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        self.add_info_extractor(Channel())
        # Before the one that takes any address.
        self._ies = {Channel.ie_key(): self._ies.pop(Channel.ie_key()), **self._ies}

    monkeypatch.setattr(YoutubeDL, "__init__", extended)
    ASKED.clear()


def found(*urls, **fetch):
    return list(playlists.expand(urls, Fetch(**fetch)))


def test_a_channel_with_nested_tabs():
    videos = found("https://channel.example/home")
    assert len(videos) == len(set(videos)) == 94 + 2
    assert {f"{VIDEO}{number:011d}" for number in range(94)} <= set(videos)
    assert set(videos[94:]) == {"https://b.example/v", "https://c.example/v.mp4"}
    # Each is asked for once, and no video at all.
    assert set(ASKED) == {"home", "tabs", "videos", "shorts", *(f"videos page {n}" for n in range(4))}
    assert set(ASKED.values()) == {1}


def test_pages_are_asked_for_as_they_are_needed():
    videos = playlists.expand(["https://channel.example/videos"], Fetch())
    assert len(list(islice(videos, 30))) == 30 and ASKED["videos page 0"] == 1
    assert not ASKED["videos page 1"]
    assert len(list(islice(playlists.expand(["https://channel.example/endless"], Fetch()), 5))) == 5
    assert ASKED["endless"] < 10


def test_what_several_playlists_share_comes_once():
    assert found("https://channel.example/videos", "https://channel.example/shorts")[94:] == [
        "https://b.example/v", "https://c.example/v.mp4"]


@pytest.fixture
def site(tmp_path, monkeypatch):
    for name in web.PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(web.ROUTES, "/both.html", web.page(
        "<video src='/one.mp4'></video><video><source src='two.mp4#t=3' type='video/mp4'></video>"))
    with web.serve(tmp_path) as served:
        yield served


def test_pages_and_feeds_of_a_real_site(site):
    assert found(f"{site.url}/both.html") == [f"{site.url}/one.mp4", f"{site.url}/two.mp4"]
    assert found(f"{site.url}/feed.xml") == [f"{site.url}/item{i}.mp4" for i in range(4)]
    # What is itself one video is taken as such, and no video was asked for but that.
    assert found(f"{site.url}/good.mp4") == [f"{site.url}/good.mp4"]
    assert set(site.hits) == {"/both.html", "/feed.xml", "/good.mp4"}


def test_found_videos_are_sources(site):
    named = playlists.expand([f"{site.url}/both.html"], Fetch())
    assert [source.address for source in expand(named)] == [f"{site.url}/one.mp4", f"{site.url}/two.mp4"]


@pytest.mark.parametrize(("path", "reason"), [
    ("gone.mp4", "gone: HTTP 404"), ("page.html", "unsupported"), ("busy.mp4", "rate_limited: HTTP 429"),
    ("broken.mp4", "server: HTTP 503"),
])
def test_sites_that_fail(site, path, reason):
    with pytest.raises(RunError, match=f"playlists: {site.url}/{path}: {reason}"):
        found(f"{site.url}/{path}")


@pytest.mark.parametrize(("name", "words"), [
    ("broken", "rate_limited: HTTP 429"), ("buggy", "KeyError|'url'"), ("deep", "nested deeper than"),
    ("evil", "no video in it"),
])
def test_lists_that_fail(name, words):
    with pytest.raises(RunError, match=rf"\Aplaylists: https://channel\.example/{name}: .*({words}).*\Z") as caught:
        found(f"https://channel.example/{name}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["list.txt", "file:///etc/passwd", "ytsearch5:wave"])
def test_only_the_web_has_playlists(url):
    with pytest.raises(InputError, match=re.escape(f"playlists: {url}: not an http:// or https:// URL")):
        found(url)
