"""Folders of harvested tracks among which there are copies."""

from dataclasses import replace

from harvest import accounts, copies, plan
from harvest.config import Harvest
from harvest.ledger import Entry, Ledger
from harvest.quality import measure
from harvest.sources import Source
from harvest.video import Outcome
from harvest.workspace import Workspace
from skelcore import browse, mannequin

# What each source shows: a number of a motion, and what was done to it. Plan order is that of the names.
SOURCES = {"a": (0, "plain"), "b": (1, "plain"), "c": (0, "mirrored"), "d": (2, "plain"), "e": (1, "faster"),
           "f": (0, "trimmed"), "g": (3, "plain")}
GROUPS = {"c/0000": "a/0000", "f/0000": "a/0000", "e/0000": "b/0000"}


def track(number, how="plain", seconds=3.0):
    action = mannequin.ACTIONS[number % len(mannequin.ACTIONS)]
    one = mannequin.perform(action, number, number, seconds=seconds, fps=15.0).sequence()
    if how == "mirrored":
        order = one.layout.mirror
        one = replace(one, keypoints=(one.keypoints * [-1, 1] + [one.size[1], 0])[:, :, order],
                      scores=one.scores[:, :, order])
    if how == "faster":
        one = replace(one, fps=one.fps * 1.25)
    if how == "trimmed":
        cut = slice(one.frames // 10, -(one.frames // 10))
        one = replace(one, keypoints=one.keypoints[:, cut], scores=one.scores[:, cut])
    return replace(one, label=None, meta={"start": 0.0, "quality": {"track": 0, **measure(one)}})


def config(root):
    return Harvest.model_validate({"sources": ["x"], "output": str(root), "shard_size": 2, "gates": "all"})


def settle(root, names):
    """Harvest those sources into a folder: the plan grows, and their shards are closed."""
    with Workspace(config(root)) as space:
        planned = plan.update(space.plan, [Source(name, f"/{name}.mp4") for name in names], 2)
        with Ledger(space.ledger, planned) as ledger:
            for index in ledger.pending().tolist():
                id = planned[index].id
                space.keep(planned[index], Outcome("ok", sequences=[track(*SOURCES[id])], origin={"file": id}))
                ledger.settle(index, Entry(id, "ok", tracks=1))
            for shard in range(planned.shards):
                if shard not in ledger.closed:
                    space.close(shard, planned, ledger)
            accounts.settle(space, planned, ledger)
    return root


def told(root):
    return {copy.id: copy.of for copy in browse.copies(root / copies.FILE)}


def opened(root, work):
    """What ``work`` gives for a folder's workspace, plan and ledger."""
    with Workspace(config(root)) as space:
        planned = plan.read(space.plan)
        with Ledger(space.ledger, planned) as ledger:
            return work(space, planned, ledger)
