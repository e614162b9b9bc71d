"""The console command: `skelshot COMMAND ...` calls the same mains as the scripts do."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

# Names only: skelcore depends on none of these packages, the command merely finds their mains.
COMMANDS = {
    "harvest": ("harvest.run", "video files and URLs -> pose shards"),
    "pretrain": ("pretrain.run", "pose shards -> encoder, without labels"),
    "adapt": ("adapt.run", "encoder + k labelled clips -> few-shot table"),
    "predict": ("adapt.predict", "a handful of videos of each class -> the classes of other videos"),
    "metatrain": ("adapt.metatrain", "encoder + labelled clips of base classes -> encoder for new classes"),
    "robustness": ("adapt.robustness", "accuracy when joints are missing, or poses come from another estimator"),
    "compare": ("adapt.compare", "few-shot results of several runs -> one table"),
    "embed": ("adapt.embed", "encoder + clips -> features by sample id"),
    "study": ("skelcore.study", "every objective on every encoder, measured alike, as one table"),
    "demo": ("skelcore.demo", "the whole chain on rendered people, offline"),
    "encoders": ("skelcore.costs", "what each encoder costs: parameters, MACs, clips/s here"),
    "import-weights": ("skelcore.import_weights", "weights of PYSKL and its family -> checkpoint"),
    "export-weights": ("skelcore.export_weights", "checkpoint -> weights in PYSKL's naming"),
    "harvest-report": ("harvest.report", "what a harvest took in, what failed and why, as one page"),
    "regate": ("harvest.regate", "other quality gates for what was harvested, without its videos"),
    "browse": ("skelcore.browse", "pose shards as one page: animated tracks, sifted by their numbers"),
    "dedup": ("harvest.dedup", "tracks that show the same motion, listed or rejected"),
    "forget": ("harvest.forget", "remove sources from a harvest for good"),
    "estimators": ("harvest.compare", "pose estimators side by side on one video: speed, agreement, a picture"),
    "doctor": ("harvest.doctor", "what works on this machine, and how to mend what does not"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; exit status 2 for an unknown one."""
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or words[0] in ("-h", "--help"):
        print("usage: skelshot COMMAND ...\n")
        for name, (_, does) in COMMANDS.items():
            print(f"  {name:14} {does}")
        print("\nskelshot COMMAND --help tells more.")
        return 0
    if words[0] not in COMMANDS:
        near = get_close_matches(words[0], COMMANDS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(COMMANDS)}"
        print(f"error: unknown command {words[0]!r}; {hint}", file=sys.stderr)
        return 2
    return int(import_module(COMMANDS[words[0]][0]).main(words[1:]))


if __name__ == "__main__":
    sys.exit(main())
