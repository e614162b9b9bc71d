"""A loopback host with the failures that users meet: what a path answers is in ``ROUTES``."""

import http.server
import threading
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from harvest.address import canonical, identify
from harvest.config import Harvest
from harvest.sources import Source
from tests.harvest import fakes

LICENCE = "https://creativecommons.org/licenses/by/4.0/"
PAGE = "<html><head><title>{title}</title></head><body>{body}</body></html>"
PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


def status(code, **headers):
    return lambda reply: reply.send(b"no", "text/plain", code, headers)


def video(kind="video/mp4", **headers):
    return lambda reply: reply.send(reply.site.video, kind, headers=headers)


def page(body, title="A page", kind="text/html"):
    return lambda reply: reply.send(PAGE.format(body=body, title=title).encode(), kind)


def redirect(target):
    return lambda reply: reply.send(b"", "text/plain", 302, {"Location": target})


def drip(reply):
    reply.start("video/mp4", {"Content-Length": str(len(reply.site.video))})
    for at in range(200):
        reply.wfile.write(reply.site.video[at:at + 1])
        time.sleep(0.05)


def chunked(reply):
    """No announced length: the end is where the connection closes."""
    reply.start("video/mp4")
    reply.wfile.write(reply.site.video * 3)


def broken(reply, ranges=True, etag='"one"'):
    """Breaks off after a third, and resumes where asked to."""
    body, asked = reply.site.video, reply.headers.get("Range")
    headers = {"Accept-Ranges": "bytes" if ranges else "none", "ETag": etag}
    third = len(body) // 3
    if ranges and asked and reply.headers.get("If-Range") == etag:
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        headers |= {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}",
                    "Content-Length": str(len(body) - start)}
        reply.start("video/mp4", headers, 206)
        reply.wfile.write(body[start:start + third + 1])
    else:
        reply.start("video/mp4", headers | {"Content-Length": str(len(body))})
        reply.wfile.write(body[:third])


def changed(reply):
    """Another file at each request; the second one comes whole."""
    hits = reply.site.hits[reply.path]
    broken(reply, etag=f'"{hits}"') if hits == 1 else video(ETag=f'"{hits}"')(reply)


def unsatisfied(reply):
    """Breaks off, and then says that there is no more."""
    status(416)(reply) if reply.headers.get("Range") else broken(reply)


def flaky(reply):
    status(503)(reply) if reply.site.hits[reply.path] == 1 else video()(reply)


def silent(reply):
    reply.site.release.wait(20)


def later(reply):
    date = datetime.now(UTC) + timedelta(seconds=100)
    status(429, **{"Retry-After": format_datetime(date, usegmt=True)})(reply)


def away(reply):
    redirect(reply.site.url.replace("127.0.0.1", "localhost") + "/good.mp4")(reply)


def feed(reply):
    items = "".join(f"<item><title>{i}</title><link>http://{reply.headers['Host']}/item{i}.mp4</link></item>"
                    for i in range(4))
    reply.send(f"<rss><channel><title>All</title>{items}</channel></rss>".encode(), "text/xml")


ROUTES = {
    "/good.mp4": video(), "/file": video(), "/octet": video("application/octet-stream"), "/bare.mp4": video(""),
    "/gone.mp4": status(404), "/really.mp4": status(410), "/forbidden.mp4": status(403), "/login.mp4": status(401),
    "/busy.mp4": status(429, **{"Retry-After": "7"}), "/later.mp4": later, "/broken.mp4": status(503),
    "/odd.mp4": status(418), "/challenge.mp4": status(403, **{"cf-mitigated": "challenge"}),
    "/drip.mp4": drip, "/silent.mp4": silent, "/chunked.mp4": chunked, "/flaky.mp4": flaky,
    "/resumed.mp4": broken, "/short.mp4": lambda reply: broken(reply, ranges=False), "/changed.mp4": changed,
    "/unsatisfied.mp4": unsatisfied, "/gzip.mp4": video(**{"Content-Encoding": "gzip"}),
    "/page.html": page("no video here"), "/player.html": page("<video src='/good.mp4'></video>"),
    "/player-gone.html": page("<video src='/gone.mp4'></video>"), "/feed.xml": feed,
    "/player-short.html": page("<video src='/short.mp4'></video>"),
    "/player-drip.html": page("<video src='/drip.mp4'></video>"),
    "/player-chunked.html": page("<video src='/chunked.mp4'></video>"),
    "/several.html": page("".join(f"<video src='/item{i}.mp4'></video>" for i in range(4))),
    "/hostile.html": page("<video src='/good.mp4'></video>", title="../../x\x1b[31m\x07$(touch y);rm -rf ~\u202e"),
    "/html.mp4": page("an error with status 200"), "/json.mp4": video("application/json"),
    "/audio.mp4": video("audio/mpeg"), "/image.mp4": video("image/png"), "/image": video("image/png"),
    "/loop.mp4": redirect("/loop.mp4"), "/circle.mp4": redirect("/back.mp4"), "/back.mp4": redirect("/circle.mp4"),
    "/moved.mp4": redirect("/good.mp4"), "/moved": redirect("/player.html"),
    "/passwd.mp4": redirect("file:///etc/passwd"), "/script.mp4": redirect("javascript:alert(1)"),
    "/elsewhere.mp4": redirect("/away.mp4"), "/away.mp4": away, "/into.mp4": redirect("/private/v.mp4"),
    "/nowhere.mp4": redirect("http://[bad"),
    "/noai.mp4": video(**{"X-Robots-Tag": "max-snippet:5, NoAI"}), "/noindex": video(**{"X-Robots-Tag": "none"}),
    "/ours.mp4": video(**{"X-Robots-Tag": "skelshot: noindex"}), "/tdm.mp4": video(**{"tdm-reservation": "1"}),
    "/other.mp4": video(**{"X-Robots-Tag": "otherbot: noindex, noai"}),
    "/licensed.mp4": video(Link=f'</style.css>; rel=preload, <{LICENCE}>; rel="license"'),
    "/disposition.mp4": video(**{"Content-Disposition": 'attachment; filename="../../../etc/x; rm -rf ~"'}),
    "/headers.mp4": video(**{"X-Huge": "x" * 100_000}), "/many.mp4": video(**{f"X-{i}": "y" for i in range(300)}),
    "/private/v.mp4": video(), "/private/player.html": page("<video src='/good.mp4'></video>"),
    "/;rm -rf ~;$(x)/v.mp4": video(),
}
ROUTES |= {
    "/list.m3u8": lambda reply: reply.send(b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsegment.ts\n"
                                           b"#EXT-X-ENDLIST\n", "application/vnd.apple.mpegurl"),
    "/segment.ts": lambda reply: reply.send(reply.site.segment, "video/mp2t"),
}
ROUTES |= {f"/far{i}.mp4": redirect(f"/far{i + 1}.mp4") for i in range(20)}


class Handler(http.server.BaseHTTPRequestHandler):
    @property
    def site(self):
        return self.server

    def do_GET(self):
        self.path = self.path.partition("?")[0].replace("%20", " ")
        self.site.hits[self.path] = self.site.hits.get(self.path, 0) + 1
        self.site.asked.append((self.path, dict(self.headers)))
        if self.path == "/robots.txt":
            code, text = self.site.robots
            return self.send(text.encode(), "text/plain", code, {"Location": "/robots.txt"} if code == 302 else {})
        with suppress(BrokenPipeError, ConnectionResetError):
            ROUTES.get(self.path, status(404))(self)

    do_HEAD = do_GET

    def start(self, kind, headers=None, code=200):
        self.send_response(code)
        if kind:
            self.send_header("Content-Type", kind)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()

    def send(self, body, kind, code=200, headers=None):
        self.start(kind, {"Content-Length": str(len(body)), **(headers or {})}, code)
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@contextmanager
def serve(folder):
    """The host on a free port: ``url``, ``video`` (its bytes), ``hits`` by path, ``robots`` (status and text)."""
    body = fakes.write(folder / "v.mp4", fakes.walk(1)).read_bytes()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as site:
        site.daemon_threads = True
        site.segment = fakes.write(folder / "v.ts", fakes.walk(1)).read_bytes()
        site.video, site.url = body, f"http://127.0.0.1:{site.server_port}"
        site.release = threading.Event()
        fresh(site)
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield site
        site.release.set()
        site.shutdown()


def fresh(site):
    """As if nothing had been asked yet."""
    site.hits, site.asked = {}, []
    site.robots = (200, "User-agent: *\nDisallow: /private/\nCrawl-delay: 2.5\n")


def config(law=None, limits=None, **fetch):
    """A configuration that takes any licence unless ``law`` says otherwise."""
    options = {"retries": 0, "extractor_retries": 0, "socket_timeout": 2} | fetch.pop("options", {})
    return Harvest(sources="unused", output="unused", law={"licences": ["any"]} | (law or {}), limits=limits or {},
                   fetch=fetch | {"options": options})


def source(address, **meta):
    address = canonical(address) if "://" in address else address
    return Source(identify(address), address, meta)


def alone(site, folder, monkeypatch):
    """No proxy of this machine's, a cache of the test's own, and a host that remembers nothing."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SKELSHOT_CACHE", str(folder / "cache"))
    fresh(site)
