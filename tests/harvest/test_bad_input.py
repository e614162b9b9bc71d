"""Videos that are unlike others, and wrong model files, through the harvest: a defined result or one clear line."""

import hashlib

import av
import numpy as np
import pytest

from harvest import video
from harvest.config import Harvest
from harvest.estimators import build
from harvest.estimators.config import OnnxConfig
from harvest.fetch import Fetched
from harvest.sources import Source
from skelcore import shards
from skelcore.errors import InputError
from skelcore.shards import Block
from tests.harvest import fakes
from tests.harvest.fakes import TEMPLATE, Blobs
from tests.harvest.graphs import Boxes, Dots, export


def harvested(path, **settings):
    config = Harvest.model_validate({"sources": ["x"], "output": "out", **settings})
    return video.estimate(Source("v", str(path)), Fetched(path, {}), config, Blobs())


def encode(path, pictures, codec="libx264", pixels="yuv420p", fps=15, stamps=None, turned=0):
    """Frames (T, H, W, 3); ``stamps`` in their number, ``turned`` degrees that a player must turn back."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.bit_rate = 4_000_000
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = pixels
        stream.options = {"crf": "12", "preset": "ultrafast"} if codec == "libx264" else {}
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = number if stamps is None else stamps[number]
            container.mux(stream.encode(frame))
        if len(pictures):
            container.mux(stream.encode())
        else:
            container.start_encoding()
    if turned:
        turn(path, turned)
    return path


def turn(path, degrees):
    """Write a rotation into the header of an MP4, as telephones do."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    words = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    data[at:at + 36] = b"".join((word & 0xFFFFFFFF).to_bytes(4, "big") for word in words)
    path.write_bytes(data)


def errors(found, pictures):
    """Distances of a track's joints to where the rectangle's are in the pictures, in pixels."""
    boxes = np.array([Blobs()._boxes(picture)[0] for picture in pictures])
    truth = boxes[:, None, :2] + TEMPLATE * (boxes[:, None, 2:] - boxes[:, None, :2])
    assert found.keypoints.shape == (1, *truth.shape)
    return np.abs(found.keypoints[0] - truth)


@pytest.mark.parametrize(("name", "codec"), [("v.avi", "mpeg4"), ("v.mp4", "libx264"), ("v.mkv", "libx264"),
                                             ("v.webm", "libvpx-vp9"), ("v.mov", "png")])
def test_a_video_without_frames_fails_as_corrupt(tmp_path, name, codec):
    pixels = "rgb24" if codec == "png" else "yuv420p"
    outcome = harvested(encode(tmp_path / name, np.zeros((0, 96, 160, 3), np.uint8), codec, pixels))
    assert (outcome.status, outcome.reason, outcome.sequences) == ("failed", "corrupt", [])
    assert "\n" not in outcome.detail


@pytest.mark.parametrize("frames", [1, 2])
def test_a_video_of_one_frame_is_a_track_of_one_frame(tmp_path, frames):
    """Too short to be kept, but counted, measured and fit for a shard."""
    pictures = fakes.walk(1)[:frames]
    path = encode(tmp_path / "v.mp4", pictures)
    outcome = harvested(path)
    assert (outcome.status, outcome.reason, outcome.frames) == ("rejected", "too_short", frames)
    every = harvested(path, gates="all")
    sequence, = every.sequences
    assert errors(sequence, pictures).max() < 2 and every.seconds == pytest.approx(frames / 15, abs=1e-3)
    assert all(np.isfinite(value) for value in sequence.meta["quality"].values())
    shards.write(tmp_path / "s.tar", [Block("v", [sequence], [sequence.meta["quality"]], {}, {})])
    block, = shards.stream(tmp_path / "s.tar")
    assert np.abs(block.sequences[0].keypoints - sequence.keypoints).max() < 0.1


@pytest.mark.parametrize(("degrees", "turns"), [(90, 3), (180, 2), (270, 1)])
def test_poses_of_a_turned_video_are_those_that_a_viewer_sees(tmp_path, degrees, turns):
    pictures = fakes.walk(1)
    outcome = harvested(encode(tmp_path / "v.mp4", pictures, turned=degrees))
    shown = np.rot90(pictures, turns, (1, 2))
    sequence, = outcome.sequences
    assert sequence.size == shown.shape[1:3]
    assert errors(sequence, shown).max() < 2


# Of 4:4:4 and ten bits the width is a multiple of 16: at others FFmpeg spoils the last columns before they are encoded.
@pytest.mark.parametrize(("name", "codec", "pixels", "size"), [
    ("v.mkv", "libx264", "yuv444p", (97, 161)), ("v.mp4", "libx264", "yuv444p10le", (97, 160)),
    ("v.mp4", "libx264", "yuv420p10le", (96, 160)), ("v.mkv", "libx264", "yuv422p10le", (97, 160)),
    ("v.mkv", "ffv1", "yuv444p12le", (97, 161)), ("v.mkv", "ffv1", "rgb48le", (97, 161)),
    ("v.mkv", "ffv1", "gray16le", (97, 161)), ("v.avi", "mjpeg", "yuvj444p", (97, 161)),
    ("v.mp4", "mpeg4", "yuv420p", (97, 161)),
])
def test_odd_sizes_full_chroma_and_deep_colour(tmp_path, name, codec, pixels, size):
    pictures = fakes.walk(1, size=size)
    outcome = harvested(encode(tmp_path / name, pictures, codec, pixels))
    sequence, = outcome.sequences
    assert sequence.size == size
    assert errors(sequence, pictures).max() < 2.5


@pytest.mark.parametrize("name", ["v.h264", "v.avi", "v.m4v"])
def test_missing_time_stamps_are_counted(tmp_path, name):
    """Raw streams have none and are taken to have 25 frames a second; AVI has only the order of its packets."""
    pictures = fakes.walk(2, fps=25)
    outcome = harvested(encode(tmp_path / name, pictures, "mpeg4" if name == "v.m4v" else "libx264", fps=25), fps=25)
    sequence, = outcome.sequences
    assert outcome.frames == 50 and sequence.fps == 25
    assert errors(sequence, pictures).max() < 2.5


@pytest.mark.parametrize("stamps", [[0] * 30, [0, 5] + [4] * 28])
def test_stamps_that_stand_still_or_go_back_end_in_a_result(tmp_path, stamps):
    """A muxer refuses such stamps or repairs them; whatever it writes must be counted as one or the other."""
    try:
        path = encode(tmp_path / "v.mkv", fakes.walk(2), "mpeg4", stamps=stamps)
    except (av.error.FFmpegError, ValueError):
        path = tmp_path / "v.mkv"
    outcome = harvested(path)
    assert outcome.status in ("ok", "rejected") or outcome.reason in ("corrupt", "empty")
    assert "\n" not in outcome.detail


def files(tmp_path, detector, pose, **options):
    for name, weights in (("detector", detector), ("pose", pose)):
        (tmp_path / f"{name}.onnx").write_bytes(weights.content)
    return OnnxConfig(detector=str(tmp_path / "detector.onnx"), pose=str(tmp_path / "pose.onnx"), **options)


def test_a_wrong_hash_is_said_before_the_model_is_looked_at(tmp_path):
    boxes, dots = export(Boxes(), (1, 3, 100, 100), outputs=2), export(Dots("simcc"), (1, 3, 256, 192), outputs=2)
    right = hashlib.sha256(dots.content).hexdigest()
    assert build(files(tmp_path, boxes, dots, pose_sha256=right)).layout.name == "coco17"
    for field in ("detector", "pose"):
        with pytest.raises(InputError, match=rf"{field}\.onnx: sha256 is [0-9a-f]+, not f+ as configured") as caught:
            build(files(tmp_path, boxes, dots, **{f"{field}_sha256": "f" * 64}))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("swap", "words"), [
    ("detector and pose changed places", r"detector\.onnx: .*expected a YOLOX grid"),
    ("26 joints asked for as penn13", r"layout=coco17: pose\.onnx answers in penn13"),
    ("channels last", r"pose\.onnx: .*expected one, floats"),
])
def test_models_of_another_layout_are_refused_in_one_line(tmp_path, swap, words):
    import torch

    boxes, dots = export(Boxes(), (1, 3, 100, 100), outputs=2), export(Dots("heatmap"), (1, 3, 256, 192))
    config = {"detector and pose changed places": lambda: files(tmp_path, dots, boxes),
              "26 joints asked for as penn13": lambda: files(tmp_path, boxes, dots, keypoints="penn13"),
              "channels last": lambda: files(tmp_path, boxes, export(torch.nn.Identity(), (1, 256, 192, 3)))}[swap]()
    with pytest.raises(InputError, match=words) as caught:
        build(config)
    assert "\n" not in str(caught.value)
