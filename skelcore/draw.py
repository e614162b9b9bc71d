"""Skeletons for people to look at: on frames, as figures, and as an animation for web pages."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from skelcore.errors import InputError
from skelcore.layouts import Layout
from skelcore.sequence import PoseSequence

# RGB of the middle, the left and the right side, told apart by colour-blind readers too.
COLOURS = ((150, 150, 150), (30, 136, 229), (245, 124, 0))
_GRID = 4095  # the finest step of the animation's coordinates
_MISSING = 65535
_HIDDEN = "crimson"


def limbs(layout: Layout) -> list[tuple[int, int, int]]:
    """What to draw as (joint, joint, side): the graph's edges, and the girdles where there is no neck or pelvis.

    Side 0 is the middle, also for a limb from left to right; 1 is left, 2 right.
    """
    pairs = list(layout.edges)
    for part, middle in (("shoulder", "neck"), ("hip", "pelvis")):
        pair = f"left_{part}", f"right_{part}"
        if middle not in layout.joints and set(pair) <= set(layout.joints):
            pairs.append((layout.joints.index(pair[0]), layout.joints.index(pair[1])))
    return [(a, b, _side(layout.joints[a], layout.joints[b])) for a, b in pairs]


def draw_frame(image: np.ndarray, sequence: PoseSequence, t: int) -> np.ndarray:
    """The poses of frame ``t`` on a copy of an RGB image (H, W, 3) uint8; the fainter, the lower the score.

    Coordinates are scaled when the image is not of the sequence's size. Raises InputError for 3D poses.
    """
    if sequence.keypoints.shape[-1] != 2:
        raise InputError(f"sequence {sequence.id!r}: 3D poses cannot be drawn on a frame")
    image = np.ascontiguousarray(image).copy()
    height, width = image.shape[:2]
    scale = np.array([width / sequence.size[1], height / sequence.size[0]]) if sequence.size else np.ones(2)
    thickness = max(1, round(min(height, width) / 160))
    for keypoints, scores in zip(sequence.keypoints[:, t] * scale, sequence.scores[:, t], strict=True):
        # cv2 overflows on far-away coordinates, which a bad estimate may have.
        points = np.clip(keypoints, -4 * max(height, width), 4 * max(height, width))
        for a, b, side in limbs(sequence.layout):
            score = min(scores[a], scores[b])
            if score > 0:
                cv2.line(image, _pixel(points[a]), _pixel(points[b]), _faded(side, score), thickness, cv2.LINE_AA)
        for joint in np.flatnonzero(scores):
            colour = _faded(_side(sequence.layout.joints[joint]), scores[joint])
            cv2.circle(image, _pixel(points[joint]), thickness + 1, colour, -1, cv2.LINE_AA)
    return image


def figure(sequence: PoseSequence, frames: int = 8, title: str | None = None) -> Figure:
    """One sequence as a row of skeletons over time."""
    return contact_sheet([sequence], [sequence.id if title is None else title], frames)


def contact_sheet(sequences: Sequence[PoseSequence], titles: Sequence[str], frames: int = 8) -> Figure:
    """One row of ``frames`` skeletons a sequence, equally spaced in time, each row in one scale."""
    sheet, grid = _grid(titles, frames)
    for row, sequence in zip(grid, sequences, strict=True):
        points, scores = unit_view(sequence), sequence.scores
        lines = limbs(sequence.layout)
        for axes, t in zip(row, _instants(sequence, frames), strict=True):
            for person in range(sequence.persons):
                _draw_axes(axes, points[person, t], scores[person, t], lines)
    return sheet


def reconstruction_sheet(clip: PoseSequence, hidden: np.ndarray, predicted: np.ndarray, frames: int = 8) -> Figure:
    """A masked clip as three rows of skeletons: the whole clip, what was left of it, and what was put in its place.

    ``hidden`` (M, T', V) bool are the hidden joints, each for ceil(T / T') frames, and ``predicted`` (M, T, V, C) the
    coordinates of joints in the clip's unit, of which those of hidden ones are shown. Hidden joints are red: pale where
    they were, bold where they were predicted, with a line from the one to the other; visible ones are grey.
    """
    hidden = hidden.repeat(-(-clip.frames // hidden.shape[1]), 1)[:, :clip.frames] & (clip.scores > 0)
    filled = replace(clip, keypoints=np.where(hidden[..., None], predicted, clip.keypoints))
    true, guess, lines = unit_view(clip), unit_view(filled, clip), limbs(clip.layout)
    sheet, grid = _grid(["clip", "seen, and hidden (red)", "predicted (red), and how far off"], frames)
    for (whole, masked, mended), t in zip(grid.T, _instants(clip, frames), strict=True):
        for here, there, scores, lost in zip(true[:, t], guess[:, t], clip.scores[:, t], hidden[:, t], strict=True):
            visible = (scores > 0) & ~lost
            _draw_axes(whole, here, scores, lines)
            _draw_axes(masked, here, scores * visible, lines)
            masked.scatter(*here[lost].T, s=5, color=_HIDDEN, alpha=0.35, linewidths=0)
            _draw_axes(mended, there, scores * 0.3, lines)
            mended.add_collection(LineCollection(list(np.stack([here[lost], there[lost]], 1)), colors=_HIDDEN,
                                                 alpha=0.4, linewidths=0.8))
            mended.scatter(*there[lost].T, s=9, color=_HIDDEN, linewidths=0, zorder=3)
            for axes in (masked, mended):
                axes.scatter(*here[visible].T, s=7, color="0.3", linewidths=0, zorder=3)
    return sheet


def sprite_sheet(sequences: Sequence[PoseSequence], side: int = 64) -> np.ndarray:
    """A square image (H, H, 3) uint8 of the sequences' middle frames in reading order, ``side`` pixels each."""
    columns = max(1, math.ceil(math.sqrt(len(sequences))))
    sheet = np.full((columns * side, columns * side, 3), 255, np.uint8)
    for number, sequence in enumerate(sequences):
        row, column = np.array(divmod(number, columns)) * side
        sheet[row:row + side, column:column + side] = _thumbnail(sequence, side)
    return sheet


def viewer_html(sequences: Sequence[PoseSequence], titles: Sequence[str]) -> str:
    """An HTML fragment that animates the sequences in a grid of canvases; a click pauses one.

    It needs nothing from elsewhere, may stand several times in one page, and draws only what is in view.
    """
    clips = [_clip(sequence) for sequence in sequences]
    cells = "".join(
        f'<figure><canvas role="img" aria-label="{html.escape(title)}"></canvas>'
        f"<figcaption>{html.escape(title)}</figcaption></figure>"
        for _, title in zip(clips, titles, strict=True))
    data = json.dumps({"colours": COLOURS, "clips": clips}, separators=(",", ":")).replace("<", "\\u003c")
    return (f'<div class="skeletons">{_STYLE}{cells}<script type="application/json">{data}</script>'
            f"<script>{_PLAYER}</script></div>")


def _side(*joints: str) -> int:
    left, right = (any(joint.startswith(word) for joint in joints) for word in ("left_", "right_"))
    return 0 if left == right else 1 if left else 2


def _pixel(point: np.ndarray) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))


def _faded(side: int, score: float) -> tuple[int, ...]:
    strength = 0.3 + 0.7 * float(score)
    return tuple(round(strength * value + (1 - strength) * 128) for value in COLOURS[side])


def _thumbnail(sequence: PoseSequence, side: int) -> np.ndarray:
    """The middle frame, or the nearest to it in which somebody is seen, as an image (side, side, 3)."""
    seen = np.flatnonzero((sequence.scores > 0).any((0, 2)))
    middle = sequence.frames // 2
    t = int(seen[np.abs(seen - middle).argmin()]) if len(seen) else middle
    still = replace(sequence, keypoints=sequence.keypoints[:, t:t + 1], scores=sequence.scores[:, t:t + 1])
    still = replace(still, keypoints=unit_view(still) * side, size=None)
    return draw_frame(np.full((side, side, 3), 255, np.uint8), still, 0)


def unit_view(sequence: PoseSequence, frame: PoseSequence | None = None) -> np.ndarray:
    """Coordinates (M, T, V, 2) in the unit square, y down, centred, one scale for the whole clip.

    Square and scale are those of ``frame``, if another clip is to be drawn where that one is.
    """
    flat, fitted = _flat(sequence), _flat(frame or sequence)
    seen = fitted[(frame or sequence).scores > 0]
    if not len(seen):
        return np.zeros_like(flat)
    low, high = np.percentile(seen, (0.5, 99.5), axis=0)
    side = max(float((high - low).max()) * 1.15, 1e-6)
    return (flat - (low + high) / 2) / side + 0.5


def _grid(titles: Sequence[str], frames: int) -> tuple[Figure, np.ndarray]:
    """An empty figure, and its axes (rows, frames), each the unit square with y down; one title a row."""
    height = 1.5 * len(titles)
    sheet = Figure(figsize=(1.3 * frames, height))
    FigureCanvasAgg(sheet)
    grid = sheet.subplots(len(titles), frames, squeeze=False)
    sheet.subplots_adjust(left=0.01, right=0.99, bottom=0.05 / height, top=1 - 0.25 / height, wspace=0.05, hspace=0.25)
    for axes in grid.flat:
        axes.set(xlim=(0, 1), ylim=(1, 0), aspect="equal", xticks=[], yticks=[])
        axes.spines[:].set_color("0.85")
    for axes, title in zip(grid[:, 0], titles, strict=True):
        # Titles are data: a dollar sign in one is no formula.
        axes.set_title(title.replace("$", r"\$"), loc="left", fontsize=8)
    return sheet, grid


def _instants(sequence: PoseSequence, frames: int) -> np.ndarray:
    """``frames`` frame numbers from the first to the last."""
    return np.linspace(0, sequence.frames - 1, frames).round().astype(int)


def _flat(sequence: PoseSequence) -> np.ndarray:
    """Coordinates (M, T, V, 2), y down."""
    flat: np.ndarray = sequence.keypoints[..., :2] * ((1, -1) if sequence.keypoints.shape[-1] == 3 else (1, 1))
    return flat


def _draw_axes(axes: Axes, points: np.ndarray, scores: np.ndarray, lines: list[tuple[int, int, int]]) -> None:
    kept = [(a, b, side) for a, b, side in lines if min(scores[a], scores[b]) > 0]
    colours = [(*(value / 255 for value in COLOURS[side]), 0.25 + 0.75 * min(scores[a], scores[b]))
               for a, b, side in kept]
    axes.add_collection(LineCollection([points[[a, b]] for a, b, _ in kept], colors=colours, linewidths=1.6))


def _clip(sequence: PoseSequence) -> dict[str, object]:
    """A sequence as JSON: (T, M, V, 2) uint16 on a grid and (T, M, V) uint8 scores, both base64."""
    grid = np.clip(np.round(unit_view(sequence) * _GRID), 0, _GRID)
    grid = np.where((sequence.scores > 0)[..., None], grid, _MISSING).astype("<u2").swapaxes(0, 1)
    scores = np.round(sequence.scores * 255).astype(np.uint8).swapaxes(0, 1)
    return {"frames": sequence.frames, "persons": sequence.persons, "joints": len(sequence.layout),
            "fps": round(sequence.fps or 15.0, 3), "limbs": limbs(sequence.layout),
            "xy": base64.b64encode(grid.tobytes()).decode(), "scores": base64.b64encode(scores.tobytes()).decode()}


_STYLE = """<style>
.skeletons{display:grid;grid-template-columns:repeat(auto-fill,minmax(170px,1fr));gap:12px}
.skeletons figure{margin:0}
.skeletons canvas{width:100%;aspect-ratio:1;background:#10151c;border-radius:6px;cursor:pointer;display:block}
.skeletons figcaption{font:12px/1.4 system-ui,sans-serif;padding:4px 2px;overflow-wrap:anywhere}
</style>"""

_PLAYER = """(() => {
  const root = document.currentScript.parentElement;
  const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
  const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
  const players = [...root.querySelectorAll('canvas')].map((canvas, i) => {
    const clip = data.clips[i];
    return {canvas, clip, xy: new Uint16Array(bytes(clip.xy).buffer), scores: bytes(clip.scores),
            time: 0, paused: still, visible: true, drawn: -1};
  });
  const GRID = 4095, MISSING = 65535;

  function draw(player) {
    const {canvas, clip, xy, scores} = player;
    const frame = Math.floor(player.time * clip.fps) % clip.frames;
    const size = Math.round(canvas.clientWidth * devicePixelRatio);
    if (!size || (frame === player.drawn && canvas.width === size)) return;
    if (canvas.width !== size) canvas.width = canvas.height = size;
    player.drawn = frame;
    const pen = canvas.getContext('2d');
    pen.clearRect(0, 0, size, size);
    pen.lineWidth = Math.max(1.5, size / 70);
    pen.lineCap = 'round';
    for (let person = 0; person < clip.persons; person++) {
      const first = (frame * clip.persons + person) * clip.joints;
      const at = joint => [xy[2 * (first + joint)] / GRID * size, xy[2 * (first + joint) + 1] / GRID * size];
      for (const [a, b, side] of clip.limbs) {
        if (xy[2 * (first + a)] === MISSING || xy[2 * (first + b)] === MISSING) continue;
        const score = Math.min(scores[first + a], scores[first + b]) / 255;
        pen.strokeStyle = `rgba(${data.colours[side]},${0.2 + 0.8 * score})`;
        pen.beginPath();
        pen.moveTo(...at(a));
        pen.lineTo(...at(b));
        pen.stroke();
      }
    }
  }

  const watch = new IntersectionObserver(entries => {
    for (const entry of entries) players.find(one => one.canvas === entry.target).visible = entry.isIntersecting;
  });
  for (const player of players) {
    watch.observe(player.canvas);
    player.canvas.addEventListener('click', () => { player.paused = !player.paused; });
    draw(player);
  }
  let last = performance.now();
  function step(now) {
    const passed = Math.min(now - last, 200) / 1000;
    last = now;
    for (const player of players) {
      if (!player.visible) continue;
      if (!player.paused) player.time += passed;
      draw(player);
    }
    requestAnimationFrame(step);
  }
  requestAnimationFrame(step);
})();"""
