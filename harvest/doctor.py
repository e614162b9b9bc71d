"""What works on this machine, and how to mend what does not: skelshot doctor"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata

from harvest.estimators import weights


@dataclass(frozen=True)
class Finding:
    """One line of the report: a part, whether it works, what was seen, and the remedy when it does not."""

    part: str
    works: bool
    seen: str
    remedy: str = ""
    needed: bool = True


def _python() -> Finding:
    return Finding("Python", sys.version_info >= (3, 11), sys.version.split()[0], "install Python 3.11 or newer")


def _torch() -> Finding:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return Finding("torch", True, f"{torch.__version__}, {device}")


def _codecs() -> Finding:
    import av

    missing = [name for name, mode in (("h264", "r"), ("vp9", "r"), ("hevc", "r"), ("libx264", "w"))
               if not _codec(av, name, mode)]
    seen = f"PyAV {av.__version__}, " + (f"without {', '.join(missing)}" if missing else "h264 vp9 hevc")
    return Finding("video codecs", not missing, seen, "pip install --force-reinstall av (its wheels carry FFmpeg)")


def _codec(av: object, name: str, mode: str) -> bool:
    try:
        av.Codec(name, mode)  # type: ignore[attr-defined]
    except ValueError:  # PyAV's UnknownCodecError
        return False
    return True


def _pose_model() -> Finding:
    if weights.present():
        return Finding("pose model blazepose", True, f"in {weights.cache_folder()}")
    return Finding("pose model blazepose", True, "not in the cache yet; the first harvest fetches it by pip",
                   f"offline: download {weights.WHEEL} elsewhere and set {weights.WHEEL_VARIABLE} to the file")


def _interpreter() -> Finding:
    from ai_edge_litert.interpreter import Interpreter

    return Finding("LiteRT", Interpreter is not None, metadata.version("ai-edge-litert"))


def _ray() -> Finding:
    return Finding("Ray", True, metadata.version("ray"))


def _ytdlp() -> Finding:
    from yt_dlp.version import __version__

    return Finding("yt-dlp", True, f"{__version__} (sites change: `pip install -U yt-dlp` when downloads fail)")


def _faiss() -> Finding:
    import faiss

    return Finding("faiss", True, f"{faiss.__version__}, {'GPU' if hasattr(faiss, 'StandardGpuResources') else 'CPU'}")


def _onnx() -> Finding:
    import onnxruntime

    there = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    return Finding("ONNX (optional)", True, f"onnxruntime {onnxruntime.__version__}, {', '.join(there)}", needed=False)


def _mmpose() -> Finding:
    return Finding("MMPose (optional)", True, metadata.version("mmpose"), needed=False)


CHECKS: dict[str, tuple[Callable[[], Finding], str]] = {
    "Python": (_python, ""),
    "torch": (_torch, "pip install torch"),
    "video codecs": (_codecs, "pip install av"),
    "LiteRT": (_interpreter, "pip install ai-edge-litert"),
    "pose model blazepose": (_pose_model, ""),
    "Ray": (_ray, "pip install 'ray[default]'"),
    "yt-dlp": (_ytdlp, "pip install -U yt-dlp"),
    "faiss": (_faiss, "pip install faiss-cpu"),
    "ONNX (optional)": (_onnx, "pip install onnxruntime"),
    "MMPose (optional)": (_mmpose, "make mmpose"),
}


def examine() -> list[Finding]:
    """Run every check; a package that cannot be imported is a finding, not an error."""
    findings = []
    for part, (check, remedy) in CHECKS.items():
        try:
            findings.append(check())
        except (ImportError, OSError, metadata.PackageNotFoundError) as error:
            findings.append(Finding(part, False, str(error).splitlines()[0], remedy, "optional" not in part))
    return findings


def main(argv: Sequence[str] | None = None) -> int:
    """Print the findings; exit status 1 when something needed does not work."""
    if {"-h", "--help"} & set(argv or ()):
        print(__doc__)
        return 0
    findings = examine()
    for finding in findings:
        print(f"{'ok' if finding.works else '--':3} {finding.part:22} {finding.seen}")
        if finding.remedy and (not finding.works or "not in the cache" in finding.seen):
            print(f"    {'':22} -> {finding.remedy}")
    return int(any(finding.needed and not finding.works for finding in findings))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
