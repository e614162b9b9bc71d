from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.collections import LineCollection

from skelcore import draw
from skelcore.errors import InputError
from skelcore.layouts import LAYOUTS, Layout
from skelcore.sequence import PoseSequence


def clip(layout: str = "coco17", persons: int = 1, frames: int = 5, channels: int = 2, **more) -> PoseSequence:
    rng = np.random.default_rng(0)
    shape = (persons, frames, len(LAYOUTS[layout]))
    return PoseSequence(rng.uniform(20, 180, (*shape, channels)), np.ones(shape), LAYOUTS[layout], **more)


@pytest.mark.parametrize("layout", [pytest.param(layout, id=name) for name, layout in LAYOUTS.items()])
def test_limbs_are_the_graph_and_take_the_side_of_their_joints(layout: Layout) -> None:
    lines = draw.limbs(layout)
    assert {(a, b) for a, b, _ in lines} >= set(layout.edges)
    mirror = layout.mirror
    sides = {frozenset((a, b)): side for a, b, side in lines}
    for a, b, side in lines:
        assert {joint.split("_")[0] for joint in (layout.joints[a], layout.joints[b])} >= {
            0: set(), 1: {"left"}, 2: {"right"}}[side]
        other = sides.get(frozenset((int(mirror[a]), int(mirror[b]))))
        assert other is None or other == {0: 0, 1: 2, 2: 1}[side]


def test_girdles_are_added_where_no_neck_or_pelvis_joins_the_sides() -> None:
    def girdles(name: str) -> set[str]:
        layout = LAYOUTS[name]
        extra = {(a, b) for a, b, _ in draw.limbs(layout)} - set(layout.edges)
        return {layout.joints[a].removeprefix("left_") for a, _ in extra}

    assert girdles("coco17") == girdles("penn13") == {"shoulder", "hip"}
    assert girdles("openpose18") == {"hip"} and girdles("ntu25") == set()


def test_a_limb_is_painted_where_it_is_in_the_colour_of_its_side() -> None:
    layout = LAYOUTS["coco17"]
    keypoints, scores = np.zeros((1, 1, 17, 2)), np.zeros((1, 1, 17))
    ends = layout.index("left_elbow", "left_wrist")
    keypoints[0, 0, ends], scores[0, 0, ends] = ((20, 50), (80, 50)), 1
    black = np.zeros((100, 100, 3), np.uint8)
    painted = draw.draw_frame(black, PoseSequence(keypoints, scores, layout), 0)
    np.testing.assert_allclose(painted[50, 50], draw.COLOURS[1], atol=25)  # less where its edge is smoothed
    assert (painted[:40] == 0).all() and (painted[60:] == 0).all()
    assert (black == 0).all()
    # Half the score is fainter, no score is nothing, and an image of twice the size is scaled to.
    fainter = draw.draw_frame(black, PoseSequence(keypoints, scores / 2, layout), 0)
    assert 0 < np.abs(fainter[50, 50].astype(int) - 128).sum() < np.abs(painted[50, 50].astype(int) - 128).sum()
    assert (draw.draw_frame(black, PoseSequence(keypoints, scores * 0, layout), 0) == 0).all()
    double = draw.draw_frame(np.zeros((200, 200, 3), np.uint8),
                             PoseSequence(keypoints, scores, layout, size=(100, 100)), 0)
    np.testing.assert_allclose(double[100, 100], draw.COLOURS[1], atol=25)
    assert (double[50] == 0).all()


def test_only_the_asked_frame_is_drawn_and_far_away_joints_do_no_harm() -> None:
    sequence = clip(frames=2, persons=2)
    image = np.zeros((200, 200, 3), np.uint8)
    first, second = (draw.draw_frame(image, sequence, t) for t in (0, 1))
    assert (first != second).any()
    far = PoseSequence(sequence.keypoints * 1e9, sequence.scores, sequence.layout)
    assert draw.draw_frame(image, far, 0).shape == image.shape
    with pytest.raises(InputError, match="3D poses"):
        draw.draw_frame(image, clip(channels=3), 0)


def test_contact_sheet_has_a_row_a_sequence_and_shows_first_and_last_frame() -> None:
    sequences = [clip(frames=20), clip("ntu25", 2, 7, 3), clip(frames=1)]
    sheet = draw.contact_sheet(sequences, ["a $x$", "b", "c"], frames=4)
    sheet.canvas.draw()
    assert len(sheet.axes) == 12
    pictures = []
    for axes in sheet.axes:
        lines = [line for line in axes.collections if isinstance(line, LineCollection)]
        pictures.append(np.concatenate([segment for line in lines for segment in line.get_segments()]))
    view = draw.unit_view(sequences[0])[0]
    pairs = [[a, b] for a, b, _ in draw.limbs(sequences[0].layout)]
    np.testing.assert_allclose(pictures[0], view[0, pairs].reshape(-1, 2))
    np.testing.assert_allclose(pictures[3], view[19, pairs].reshape(-1, 2))
    assert draw.figure(sequences[0], 3).axes[0].get_title("left") == sequences[0].id


def test_a_reconstruction_shows_what_was_hidden_where_it_was_and_where_it_was_predicted() -> None:
    whole = clip(frames=6)
    hidden = np.zeros((1, 2, 17), bool)
    hidden[0, 1, :5] = True  # in frames 3 to 5
    scores = np.array(whole.scores)
    scores[0, 5, 4] = 0  # missing, so that nothing of it was hidden
    whole = PoseSequence(whole.keypoints, scores, whole.layout)
    predicted = whole.keypoints + 10
    sheet = draw.reconstruction_sheet(whole, hidden, predicted, frames=6)
    sheet.canvas.draw()
    here, there = (draw.unit_view(PoseSequence(points, scores, whole.layout), whole)[0]
                   for points in (whole.keypoints, predicted))
    assert [axes.get_title("left")[:4] for axes in sheet.axes[::6]] == ["clip", "seen", "pred"]

    def dots(row: int, t: int) -> list[np.ndarray]:
        return [np.asarray(each.get_offsets()) for each in sheet.axes[6 * row + t].collections
                if not isinstance(each, LineCollection)]

    for t, lost in ((2, 0), (3, 5), (5, 4)):
        seen = np.setdiff1d(np.flatnonzero(scores[0, t]), np.arange(lost))
        for row, where in ((1, here), (2, there)):
            red, grey = dots(row, t)
            np.testing.assert_allclose(red, where[t, :lost], atol=1e-6)
            np.testing.assert_allclose(grey, here[t, seen], atol=1e-6)
    errors = [each for each in sheet.axes[15].collections if isinstance(each, LineCollection)][-1].get_segments()
    np.testing.assert_allclose(errors, np.stack([here[3, :5], there[3, :5]], 1), atol=1e-6)


def test_sprites_are_in_reading_order_and_show_a_frame_in_which_somebody_is_seen() -> None:
    sequences = [clip(frames=n) for n in (1, 4, 7)] + [clip("ntu25", 2, 5, 3)]
    sheet = draw.sprite_sheet([*sequences, sequences[0]], 32)
    assert sheet.shape == (96, 96, 3)
    tiles = sheet.reshape(3, 32, 3, 32, 3).swapaxes(1, 2).reshape(9, -1)
    assert ((tiles < 255).any(1) == [True] * 5 + [False] * 4).all()
    assert (tiles[0] == tiles[4]).all() and (tiles[0] != tiles[1]).any()
    scores = np.ones((1, 5, 17))
    scores[0, 1:4] = 0
    late = PoseSequence(clip(frames=5).keypoints, scores, LAYOUTS["coco17"])
    assert (draw.sprite_sheet([late]) < 255).any()
    nothing = PoseSequence(late.keypoints, scores * 0, late.layout)
    assert (draw.sprite_sheet([nothing]) == 255).all() and draw.sprite_sheet([], 8).shape == (8, 8, 3)


def test_view_keeps_proportions_turns_3d_upright_and_survives_emptiness() -> None:
    keypoints = np.zeros((1, 2, 17, 3))
    keypoints[0, :, 0] = (0, 1.8, 3)
    keypoints[0, :, 1] = (0.5, 0.2, 3)
    scores = np.zeros((1, 2, 17))
    scores[..., :2] = 1
    view = draw.unit_view(PoseSequence(keypoints, scores, LAYOUTS["coco17"]))[0, 0]
    assert view[0, 1] < view[1, 1]  # the higher joint is further up, y points down
    np.testing.assert_allclose((view[1] - view[0])[1] / (view[1] - view[0])[0], 1.6 / 0.5, rtol=1e-5)
    assert ((view[:2] > 0) & (view[:2] < 1)).all()
    nothing = PoseSequence(keypoints, scores * 0, LAYOUTS["coco17"])
    assert np.isfinite(draw.unit_view(nothing)).all()
    draw.figure(nothing).canvas.draw()
    draw.viewer_html([nothing], ["empty"])


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append((self.tags[-1], data))


def test_viewer_holds_the_joints_and_nothing_from_elsewhere() -> None:
    rng = np.random.default_rng(1)
    first = clip(persons=2, frames=7, fps=12.5)
    scores = rng.uniform(0, 1, first.scores.shape) * (rng.random(first.scores.shape) > 0.3)
    first = PoseSequence(first.keypoints, scores, first.layout, fps=12.5)
    text = draw.viewer_html([first, clip("ntu25", channels=3)], ["a", "b"])
    page = Page(text)
    assert page.tags.count("canvas") == 2
    data = json.loads(next(body for tag, body in page.texts if tag == "script"))
    one = data["clips"][0]
    assert (one["frames"], one["persons"], one["joints"], one["fps"]) == (7, 2, 17, 12.5)
    xy = np.frombuffer(base64.b64decode(one["xy"]), "<u2").reshape(7, 2, 17, 2).swapaxes(0, 1)
    scores = np.frombuffer(base64.b64decode(one["scores"]), np.uint8).reshape(7, 2, 17).swapaxes(0, 1)
    seen = first.scores > 0
    assert (xy[~seen] == 65535).all() and (xy[seen] <= 4095).all()
    np.testing.assert_allclose(xy[seen] / 4095, np.clip(draw.unit_view(first)[seen], 0, 1), atol=0.5 / 4095 + 1e-6)
    np.testing.assert_allclose(scores / 255, first.scores, atol=0.5 / 255 + 1e-6)
    assert not re.search(r"https?:|src=|@import|url\(", text)
    assert not {name for name, _ in page.attributes if name.startswith("on")}


def test_titles_cannot_break_out() -> None:
    title = "</figcaption><script>alert(1)</script>\"' onload=x & <b>"
    page = Page(draw.viewer_html([clip()], [title]))
    assert page.tags.count("script") == 2 and "b" not in page.tags
    assert ("aria-label", title) in page.attributes
    assert "".join(text for tag, text in page.texts if tag == "figcaption") == title


def test_titles_must_match_in_number() -> None:
    with pytest.raises(ValueError, match="zip"):
        draw.viewer_html([clip()], [])
