"""Skeletons for people to look at: on frames, as figures, and as an animation for web pages."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence

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
    height = 1.5 * len(sequences)
    sheet = Figure(figsize=(1.3 * frames, height))
    FigureCanvasAgg(sheet)
    grid = sheet.subplots(len(sequences), frames, squeeze=False)
    sheet.subplots_adjust(left=0.01, right=0.99, bottom=0.05 / height, top=1 - 0.25 / height, wspace=0.05, hspace=0.25)
    for row, sequence, title in zip(grid, sequences, titles, strict=True):
        points, scores = _unit_view(sequence), sequence.scores
        lines = limbs(sequence.layout)
        for axes, t in zip(row, np.linspace(0, sequence.frames - 1, frames).round().astype(int), strict=True):
            for person in range(sequence.persons):
                _draw_axes(axes, points[person, t], scores[person, t], lines)
            axes.set(xlim=(0, 1), ylim=(1, 0), aspect="equal", xticks=[], yticks=[])
            axes.spines[:].set_color("0.85")
        # Titles are data: a dollar sign in one is no formula.
        row[0].set_title(title.replace("$", r"\$"), loc="left", fontsize=8)
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


def _unit_view(sequence: PoseSequence) -> np.ndarray:
    """Coordinates (M, T, V, 2) in the unit square, y down, centred, one scale for the whole clip."""
    flat = sequence.keypoints[..., :2] * ((1, -1) if sequence.keypoints.shape[-1] == 3 else (1, 1))
    seen = flat[sequence.scores > 0]
    if not len(seen):
        return np.zeros_like(flat)
    low, high = np.percentile(seen, (0.5, 99.5), axis=0)
    side = max(float((high - low).max()) * 1.15, 1e-6)
    return (flat - (low + high) / 2) / side + 0.5


def _draw_axes(axes: Axes, points: np.ndarray, scores: np.ndarray, lines: list[tuple[int, int, int]]) -> None:
    kept = [(a, b, side) for a, b, side in lines if min(scores[a], scores[b]) > 0]
    colours = [(*(value / 255 for value in COLOURS[side]), 0.25 + 0.75 * min(scores[a], scores[b]))
               for a, b, side in kept]
    axes.add_collection(LineCollection([points[[a, b]] for a, b, _ in kept], colors=colours, linewidths=1.6))


def _clip(sequence: PoseSequence) -> dict[str, object]:
    """A sequence as JSON: (T, M, V, 2) uint16 on a grid and (T, M, V) uint8 scores, both base64."""
    grid = np.clip(np.round(_unit_view(sequence) * _GRID), 0, _GRID)
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
