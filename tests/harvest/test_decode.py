import itertools

import numpy as np
import pytest

from harvest import decode
from harvest.reasons import VideoError
from tests.harvest import fakes
from tests.paths import DATA, need


def greys(count, size=(64, 96), step=4):
    """Frame i is grey 16 + step * i, so that a decoded frame tells its number."""
    return [np.full((*size, 3), 16 + step * i, np.uint8) for i in range(count)]


def numbers(chunks, step=4):
    return np.concatenate([np.rint((c.frames.mean((1, 2, 3)) - 16) / step) for c in chunks]).astype(int)


def barcodes(count):
    """Frame i shows i in binary, one bar a bit, which survives any codec."""
    bits = np.arange(count)[:, None] >> np.arange(8) & 1
    return (255 * bits).astype(np.uint8).repeat(12, 1)[:, None, :, None] * np.ones((64, 1, 3), np.uint8)


def read(chunks):
    pictures = np.concatenate([chunk.frames for chunk in chunks])
    return (pictures[:, 10:-10, 6::12].mean((1, 3)) > 128) @ (1 << np.arange(8))


def encode(path, pictures, codec, pixels, fps=10, options=None):
    with decode.av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.options = pixels, options or {}
        for picture in pictures:
            container.mux(stream.encode(decode.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def nearest(times, ticks):
    return np.array([np.abs(np.asarray(times) - tick).argmin() for tick in ticks])


@pytest.mark.parametrize("fps", [4.0, 7.0, 15.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_variable_rate_shows_the_nearest_frame_at_each_tick(tmp_path, fps, seed):
    rng = np.random.default_rng(seed)
    times = np.round(np.concatenate([[0], np.cumsum(rng.uniform(0.02, 0.12, 49))]), 3)
    path = fakes.write(tmp_path / "v.mp4", greys(50), fps=20, times=times)
    chunks = list(decode.chunks(path, fps))
    assert chunks[0].rate == pytest.approx(min(fps, 50 / times[-1]), rel=0.05)
    found = numbers(chunks)
    ticks = np.arange(len(found)) / chunks[0].rate
    wanted = nearest(times, ticks)
    # Half-way between two frames either is right.
    error = np.abs(times[found] - ticks) - np.abs(times[wanted] - ticks)
    assert error.max() < 2e-3
    assert ticks[-1] <= times[-1] + 0.07 and times[-1] - ticks[-1] < 1 / chunks[0].rate + 0.07
    assert [c.first for c in chunks] == list(itertools.accumulate([0] + [len(c.frames) for c in chunks[:-1]]))


def test_constant_rate_and_slow_video(tmp_path):
    path = fakes.write(tmp_path / "v.mp4", greys(50), fps=25)
    assert numbers(decode.chunks(path, 12.5)).tolist() == list(range(0, 50, 2))
    slow = fakes.write(tmp_path / "slow.mp4", greys(10), fps=5)
    chunks = list(decode.chunks(slow, 15))
    # No frame is shown twice: a repeated frame would be an invented observation.
    assert numbers(chunks).tolist() == list(range(10)) and chunks[0].rate == 5


def test_one_frame(tmp_path):
    assert numbers(decode.chunks(fakes.write(tmp_path / "v.mp4", greys(1)), 15)).tolist() == [0]


def test_avi_with_permuted_stamps_keeps_its_length():
    path = need(DATA / "videos" / "mmaction2_S001C001P001R001A001_rgb.avi")
    count = sum(len(c.frames) for c in decode.chunks(path, 15))
    assert count == pytest.approx(103 / 30 * 15, abs=1)


def test_large_frames_are_scaled_and_say_so(tmp_path):
    path = fakes.write(tmp_path / "v.mp4", greys(3, size=(192, 128)))
    chunk = next(decode.chunks(path, 15, short_side=64))
    assert chunk.frames.shape == (3, 96, 64, 3) and chunk.size == (192, 128) and chunk.scale == (2.0, 2.0)


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_rotation_in_the_header_is_applied(tmp_path, matrix, turns):
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:20, :30] = 255
    path = fakes.write(tmp_path / "v.mp4", [picture] * 3)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = matrix
    words = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    data[at:at + 36] = b"".join((w & 0xFFFFFFFF).to_bytes(4, "big") for w in words)
    path.write_bytes(data)
    chunk = next(decode.chunks(path, 15))
    wanted = np.rot90(picture, turns)
    assert chunk.frames.shape[1:] == wanted.shape and chunk.size == wanted.shape[:2]
    assert np.abs(chunk.frames[0].astype(int) - wanted).mean() < 12


def test_memory_does_not_grow_with_length(tmp_path):
    path = fakes.write(tmp_path / "v.mp4", greys(50) * 6, fps=25)
    assert max(len(c.frames) for c in decode.chunks(path, 25)) == 16


@pytest.mark.parametrize("late", [np.arange(3, 32), [9.0, 31.0]])
def test_pictures_that_stand_still_are_not_a_damage(tmp_path, late):
    """The header says 30 frames a second, as recorders of screens write it, and after two seconds few follow."""
    times = np.concatenate([np.arange(60) / 30, late])
    path = fakes.write(tmp_path / "v.mkv", greys(len(times), step=2), fps=30, times=times)
    found = numbers(decode.chunks(path, 15), step=2)
    # A leap of the clock is closed up, so no tick need fall to the last picture alone.
    assert found[0] == 0 and found[-1] >= len(times) - 2


def damaged(tmp_path, kind):
    path = tmp_path / "v.mp4"
    if kind == "missing":
        return path
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    elif kind == "text":
        path.write_text("<html>not a video</html>")
    elif kind == "playlist":
        path = tmp_path / "v.m3u8"
        path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    elif kind == "cut_mkv":
        path = fakes.write(tmp_path / "v.mkv", fakes.walk(20))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 4])
    elif kind in ("cut", "cut_front"):
        fakes.write(path, fakes.walk(8), options={"movflags": "faststart"} if kind == "cut_front" else None)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // (4 if kind == "cut_front" else 2)])
    elif kind == "scrambled":
        fakes.write(path, fakes.walk(8), options={"movflags": "faststart"})
        data = bytearray(path.read_bytes())
        start = data.index(b"mdat") + 300
        data[start:] = np.random.default_rng(0).bytes(len(data) - start)
        path.write_bytes(data)
    return path


@pytest.mark.parametrize(("kind", "reason"), [
    ("missing", "missing"), ("empty", "empty"), ("noise", "corrupt"), ("text", "corrupt"), ("cut", "corrupt"),
    ("cut_front", "corrupt"), ("cut_mkv", "corrupt"), ("scrambled", "corrupt"),
])
def test_damaged_files_have_a_reason(tmp_path, kind, reason):
    with pytest.raises(VideoError) as caught:
        list(decode.chunks(damaged(tmp_path, kind), 15))
    assert caught.value.reason == reason
    assert str(tmp_path) not in caught.value.detail


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "v.mp4"
    path.write_bytes(b"x")

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(decode.av, "open", refuse)
    with pytest.raises(VideoError) as caught:
        list(decode.chunks(path, 15))
    assert caught.value.reason == "unreadable"


def test_a_playlist_reaches_no_host(tmp_path):
    with pytest.raises(VideoError) as caught:
        list(decode.chunks(damaged(tmp_path, "playlist"), 15))
    assert caught.value.reason in ("invalid", "corrupt")


def test_audio_only(tmp_path):
    import av

    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoError) as caught:
        list(decode.chunks(path, 15))
    assert caught.value.reason == "audio_only"


def test_too_long(tmp_path):
    path = fakes.write(tmp_path / "v.mp4", greys(50), fps=10)
    with pytest.raises(VideoError) as caught:
        list(decode.chunks(path, 15, max_seconds=3))
    assert caught.value.reason == "too_long"


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize("start", [0.0, 0.5, 4.0, 5.96])
@pytest.mark.parametrize("group", [10, 250])
def test_a_clip_shows_what_the_whole_video_does_there(tmp_path, suffix, start, group):
    codec = "mpeg4" if suffix == "avi" else "libx264"
    path = encode(tmp_path / f"v.{suffix}", barcodes(220), codec, "yuv420p", 25, {"g": str(group), "bf": "2"})
    clip = list(decode.chunks(path, 12.5, clip=(start, start + 2)))
    found = read(clip)
    assert len(found) == 25 and clip[0].first == 0
    # Without time stamps a file tells but roughly which of its first frames is the first.
    assert np.abs(found - (start * 25 + 2 * np.arange(25))).max() <= (2 if suffix == "avi" else 0.5)


def test_a_clip_is_reached_by_seeking(tmp_path, monkeypatch):
    path = encode(tmp_path / "v.mp4", barcodes(235), "libx264", "yuv420p", 5, {"g": "10", "bf": "2"})
    decoded, ticks = [], decode._ticks
    monkeypatch.setattr(decode, "_ticks", lambda frames, *rest: ticks((decoded.append(f) or f for f in frames), *rest))
    assert read(decode.chunks(path, 5, clip=(40, 42))).tolist() == list(range(200, 210))
    assert len(decoded) < 40


def test_a_clip_to_the_end_and_one_that_begins_there(tmp_path):
    path = fakes.write(tmp_path / "v.mp4", greys(50), fps=10)
    assert numbers(decode.chunks(path, 10, clip=(4, float("inf")))).tolist() == list(range(40, 50))
    assert numbers(decode.chunks(path, 10, clip=(4, 9))).tolist() == list(range(40, 50))
    for start in (5.0, 60.0):
        with pytest.raises(VideoError) as caught:
            list(decode.chunks(path, 10, clip=(start, 70)))
        assert caught.value.reason == "invalid"
    for clip in ((-1, 2), (3, 3), (3, 2), (float("nan"), 2)):
        with pytest.raises(ValueError, match="clip"):
            next(decode.chunks(path, 10, clip=clip))


def test_the_limit_is_that_of_the_clip(tmp_path):
    path = fakes.write(tmp_path / "v.mp4", greys(50), fps=10)
    assert len(numbers(decode.chunks(path, 10, max_seconds=2, clip=(1, 3)))) == 20
    with pytest.raises(VideoError) as caught:
        list(decode.chunks(path, 10, max_seconds=2, clip=(1, 4)))
    assert caught.value.reason == "too_long"


@pytest.mark.parametrize(("name", "codec", "pixels", "size"), [
    ("v.mkv", "libx264", "yuv444p", (61, 93)), ("v.mp4", "libx264", "yuv420p10le", (64, 96)),
    ("v.mkv", "ffv1", "yuv422p10le", (61, 93)), ("v.mkv", "ffv1", "gray", (61, 93)),
    ("v.mov", "png", "rgb24", (61, 93)), ("v.avi", "mjpeg", "yuvj444p", (61, 93)), ("v.mkv", "ffv1", "bgra", (64, 96)),
    ("v.avi", "mpeg4", "yuv420p", (61, 93)),
])
def test_pixel_formats_and_odd_sizes(tmp_path, name, codec, pixels, size):
    chunks = list(decode.chunks(encode(tmp_path / name, greys(8, size, step=12), codec, pixels), 10))
    assert chunks[0].size == size and chunks[0].frames.shape[1:] == (*size, 3)
    assert numbers(chunks, step=12).tolist() == list(range(8))


def test_a_stream_without_time_stamps(tmp_path):
    path = encode(tmp_path / "v.h264", barcodes(100), "libx264", "yuv420p", 25)
    assert read(decode.chunks(path, 25)).tolist() == list(range(100))
    # There is nothing to seek by, but the frames can be counted.
    assert read(decode.chunks(path, 25, clip=(3, 3.4))).tolist() == list(range(75, 85))


def test_no_frames_at_all(tmp_path):
    path = tmp_path / "v.avi"
    with decode.av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        container.start_encoding()
    with pytest.raises(VideoError) as caught:
        list(decode.chunks(path, 15))
    assert caught.value.reason == "corrupt"
