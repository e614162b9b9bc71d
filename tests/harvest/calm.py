"""A harvest without Ray, as a naive loop in this process: what the rough ones must come to."""

import sys
from types import SimpleNamespace

from harvest.video import Outcome
from harvest.worker import Worker


def drive(config, sources, wanted, settle, watch):
    """One source after the other; what would kill or hang this process is settled as the driver settles it."""
    worker = Worker(config)
    for index in wanted:
        settle(index, _fatal(sources[index]) or outcome(worker, index, sources[index]), 1)


def _fatal(source):
    name = source.location.rpartition("/")[2]
    for word, reason in (("poison", "crash"), ("tarpit", "timeout")):
        if name.startswith(word):
            return Outcome("failed", reason)
    return None


def outcome(worker, index, source):
    """What a worker makes of a source, when nothing happens to it."""
    worker.feed(index, source)
    [(index, failure)] = worker.landed()
    return failure or worker.estimate(index)[0]


def instead_of_ray(monkeypatch, drive=drive):
    """Let harvests of this process be driven so."""
    monkeypatch.setitem(sys.modules, "harvest.drive", SimpleNamespace(drive=drive))


def handed_on(output):
    """Every file that a harvest hands on, by name."""
    return {str(path.relative_to(output)): path.read_bytes() for folder in ("shards", "rejected")
            for path in sorted((output / folder).iterdir())}


def left_over(output):
    """What must not be there once a harvest is done, or has failed."""
    return [*(output / "work").iterdir(), *output.rglob("*.tmp")]
