"""Files behind plain URLs: resumed, limited, and never named by their host; robots.txt and its cache."""

import os
import time
from urllib.robotparser import RobotFileParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvest import direct, fetch, robots
from harvest.law import Permit
from harvest.reasons import VideoError
from tests.harvest import web


@pytest.fixture(autouse=True)
def _direct(monkeypatch, tmp_path, server):
    robots._parsed.cache_clear()
    web.alone(server, tmp_path, monkeypatch)


def get(url, folder, config=None, **meta):
    source, config = web.source(url, **meta), config or web.config()
    info = direct.download(source.address, folder / "video", config, Permit(source, config))
    return (folder / "video").read_bytes(), info


def reason(url, folder, config=None, **meta):
    with pytest.raises(VideoError) as caught:
        get(url, folder, config, **meta)
    return caught.value.reason


@pytest.mark.parametrize("path", ["/good.mp4", "/file", "/octet", "/bare.mp4", "/other.mp4", "/moved.mp4",
                                  "/disposition.mp4", "/;rm -rf ~;$(x)/v.mp4", "/flaky.mp4"])
def test_a_video_is_written_whole_under_our_name(server, tmp_path, path):
    if path == "/flaky.mp4":
        assert reason(server.url + path, tmp_path) == "server"
    data, info = get(server.url + path, tmp_path)
    assert data == server.video and os.listdir(tmp_path) in (["video"], ["cache", "video"], ["video", "cache"])
    assert info["extractor"] == "direct" and info.get("content_type", "video/mp4").split("/")[0] in (
        "video", "application")


def test_a_broken_connection_is_resumed_where_it_broke(server, tmp_path):
    assert get(f"{server.url}/resumed.mp4", tmp_path)[0] == server.video
    asked = [headers for path, headers in server.asked if path == "/resumed.mp4"]
    ranges = [(headers.get("Range"), headers.get("If-Range")) for headers in asked]
    third = len(server.video) // 3
    assert ranges == [(None, None), (f"bytes={third}-", '"one"'), (f"bytes={2 * third + 1}-", '"one"')]


def test_a_file_that_changed_starts_again(server, tmp_path):
    assert get(f"{server.url}/changed.mp4", tmp_path)[0] == server.video
    assert server.hits["/changed.mp4"] == 2


def test_without_ranges_nothing_is_resumed(server, tmp_path):
    assert reason(f"{server.url}/short.mp4", tmp_path) == "incomplete"
    assert server.hits["/short.mp4"] == 1


def test_a_slow_host_is_given_up(server, tmp_path):
    assert reason(f"{server.url}/drip.mp4", tmp_path, web.config(limits={"fetch_seconds": 0.3})) == "slow"


def test_the_announced_length_is_enough_to_refuse(server, tmp_path):
    with pytest.raises(VideoError, match=str(len(server.video))):
        get(f"{server.url}/good.mp4", tmp_path, web.config(limits={"max_bytes": 1000}))
    assert (tmp_path / "video").read_bytes() == b""


def test_the_pace_is_kept(server, tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    get(f"{server.url}/good.mp4", tmp_path, web.config(rate_bytes=1000))
    assert max(slept) == pytest.approx(len(server.video) / 1000, rel=0.2)


def test_we_introduce_ourselves_and_send_cookies_and_credentials_to_their_host_only(server, tmp_path):
    jar = tmp_path / "cookies.txt"
    text = "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t9999999999\tkey\tvalue\n" \
           "example.org\tFALSE\t/\tFALSE\t9999999999\tother\tvalue\n"
    jar.write_text(text)
    config = web.config(user_agent="SkelShot/9 (me@example.org)", cookies=str(jar))
    get(server.url.replace("http://", "http://me:pass%40@") + "/elsewhere.mp4", tmp_path, config)
    asked = [headers for path, headers in server.asked if path != "/robots.txt"]
    assert [headers["User-Agent"] for headers in asked] == ["SkelShot/9 (me@example.org)"] * 3
    # From 127.0.0.1 to 127.0.0.1, and on to localhost.
    assert [headers.get("Cookie") for headers in asked] == ["key=value", "key=value", None]
    assert [headers.get("authorization") for headers in asked] == ["Basic bWU6cGFzc0A="] * 2 + [None]
    assert jar.read_text() == text


@pytest.mark.parametrize(("answer", "wanted"), [
    ((200, "User-agent: *\nDisallow: /"), "robots"), ((200, "User-agent: SkelShot\nDisallow: /good"), "robots"),
    ((200, "User-agent: other\nDisallow: /"), None), ((401, ""), "robots"), ((403, ""), "robots"), ((404, ""), None),
    ((410, ""), None), ((302, ""), None), ((429, ""), "rate_limited"), ((503, ""), "server"),
    ((200, "Disallow: /\n\x00\xff" + "#" * 600_000 + "\nUser-agent: *\nDisallow: /"), None),
])
def test_robots_txt_by_its_status(server, tmp_path, answer, wanted):
    server.robots = answer
    if wanted is None:
        assert get(f"{server.url}/good.mp4", tmp_path)[0] == server.video
    else:
        assert reason(f"{server.url}/good.mp4", tmp_path) == wanted
        assert "/good.mp4" not in server.hits
    assert get(f"{server.url}/good.mp4", tmp_path, web.config(law={"robots": False}))[0] == server.video


def test_robots_txt_is_asked_for_once_a_day(server, tmp_path):
    settings = web.config().fetch
    for _ in range(2):
        robots.check(f"{server.url}/good.mp4", settings)
    assert server.hits == {"/robots.txt": 1}
    (cached,) = (tmp_path / "cache" / "robots").iterdir()
    os.utime(cached, (0, time.time() - 25 * 3600))
    server.robots = (503, "")
    with pytest.raises(VideoError, match=r"server: robots\.txt: HTTP 503"):
        robots.check(f"{server.url}/good.mp4", settings)
    assert server.hits == {"/robots.txt": 2}


@pytest.mark.parametrize(("rule", "path", "allowed"), [
    ("Disallow: /*.mp4$", "/a/b.mp4", False), ("Disallow: /*.mp4$", "/a/b.mp4?x", True),
    ("Disallow: /a*b*c", "/aXbYc", False), ("Disallow: /a*b*c", "/acb", True),
    ("Disallow: /\nAllow: /videos/", "/videos/v.mp4", True), ("Allow: /a\nDisallow: /a/b", "/a/b/c", False),
    ("Allow: /page\nDisallow: /page", "/page", True), ("Disallow:", "/x", True),
    ("Disallow: /%7Euser", "/~user/v", False), ("Disallow: /caf%c3%a9", "/café", False), ("Disallow: /x$", "/x", False),
    ("Disallow: /x$", "/xy", True), ("Disallow: /x?q=*1", "/x?q=21", False), ("Disallow: /", "/robots.txt", True),
    ("Disallow: " + "/a*" * 60 + "b", "/a" * 500, True),
])
def test_the_longest_rule_decides_and_stars_are_understood(rule, path, allowed):
    assert robots.read(f"User-agent: *\n{rule}", "skelshot").allows(path) is allowed


def test_groups_of_a_robots_txt():
    text = "User-agent: a\nUser-agent: SkelShot # us\nDisallow: /x\n\nSitemap: /s\nUser-agent: *\nDisallow: /\n" \
           "User-agent: skelshot\nCrawl-delay: 3\nDisallow: /z\n"
    ours, others = robots.read(text, "skelshot"), robots.read(text, "b")
    assert [ours.allows(path) for path in ("/x", "/y", "/z")] == [False, True, False]
    assert not others.allows("/y")


# Of "//" the library makes "/", which the standard does not.
PATHS = st.text("ab/-", max_size=5).map("/{}".format).filter(lambda path: "//" not in path)


@given(st.lists(PATHS, max_size=5), PATHS)
def test_plain_rules_mean_what_the_standard_library_says(closed, path):
    text = "User-agent: *\n" + "".join(f"Disallow: {rule}\n" for rule in closed)
    library = RobotFileParser()
    library.parse(text.splitlines())
    assert robots.read(text, "skelshot").allows(path) == library.can_fetch("SkelShot", path)


@given(st.text(max_size=200))
def test_any_text_is_a_robots_txt(text):
    assert robots.read(text, "skelshot").allows("/v.mp4") in (True, False)


def test_a_direct_url_may_declare_its_licence(server, tmp_path):
    ours = web.config(law={"licences": ["cc by*"]})
    assert get(f"{server.url}/licensed.mp4", tmp_path, ours)[1]["licence"] == web.LICENCE
    assert reason(f"{server.url}/good.mp4", tmp_path, ours) == "licence"
    assert get(f"{server.url}/good.mp4", tmp_path, ours, licence="CC-BY-4.0")[1]["licence"] == "CC-BY-4.0"
    assert reason(f"{server.url}/licensed.mp4", tmp_path, ours, license="all rights reserved") == "licence"


def test_a_wrong_licence_in_the_list_costs_no_request(server, tmp_path):
    closed = web.source(f"{server.url}/good.mp4", licence="ARR")
    with pytest.raises(VideoError) as caught:
        fetch.fetch(closed, tmp_path, web.config(law={"licences": ["cc*"]}))
    assert caught.value.reason == "licence" and server.hits == {}
