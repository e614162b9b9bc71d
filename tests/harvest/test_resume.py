"""Runs that die anywhere, lists that grow, retries and removals: what is left of them is what one calm run leaves.

Each step is a process of its own that ends, like one that is killed, at some call that changes a file: nothing is
cleaned up, and nothing that was not written yet is.
"""

import json
import os
import random
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harvest import forget, plan, run
from harvest.ledger import Ledger
from harvest.sources import expand
from harvest.video import Outcome
from skelcore import shards
from tests.harvest import calm
from tests.harvest.test_workspace import good, mixed

KILLED, LISTS, SHARD = 137, 3, 3
_sync = os.fsync


def fate(source, mended):
    """What becomes of a source, told by the number in its name; some fail until they are mended."""
    number = int(source.location.rpartition("/")[2].partition(".")[0])
    if number % 5 == 3 or (number % 5 == 4 and not mended):
        return Outcome("failed", "gone" if number % 5 == 3 else "network")
    outcome = mixed(seed=number) if number % 2 else good(seed=number)
    if number % 5 == 2:
        outcome = replace(outcome, status="rejected", reason="too_short", sequences=[])
    outcome.origin["file"] = f"{number}.mp4"
    return outcome if outcome.sequences or outcome.dropped else Outcome("rejected", "no_person")


class World:
    """A folder of lists, an output folder, and what was ever asked for."""

    def __init__(self, root):
        self.root, self.output, self.mended = Path(root), Path(root) / "out", False
        self.rows = [[] for _ in range(LISTS)]
        self.history, self.forgotten = [], set()

    def add(self, which, numbers):
        self.rows[which] += numbers
        (self.root / f"{which}.txt").write_text("".join(f"/v/{number}.mp4\n" for number in self.rows[which]))

    @property
    def named(self):
        return [str(self.root / f"{which}.txt") for which, rows in enumerate(self.rows) if rows]

    def planned(self, output=None):
        path = (output or self.output) / "plan.jsonl"
        return list(plan.read(path)) if path.exists() else []

    def harvest(self, output, retry=(), seed=0):
        words = [f"sources=[{', '.join(self.named)}]", f"output={output}", f"shard_size={SHARD}",
                 "estimator=tests.harvest.fakes:Blobs", f"retry=[{', '.join(retry)}]"]

        def drive(config, sources, wanted, settle, watch):
            order = list(wanted)
            random.Random(seed).shuffle(order)
            for index in order:
                settle(index, fate(sources[index], self.mended), 1)

        with pytest.MonkeyPatch.context() as patch:
            calm.instead_of_ray(patch, drive)
            return run.main(words)

    def step(self, work, die_at=None, seed=0):
        """Do something in a process that ends at its ``die_at``-th change of a file; whether it came through."""
        before, size = self.planned(), len(self.planned())
        child = os.fork()
        if not child:
            code = 99
            try:
                os.dup2(os.open(self.root / "said.txt", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
                _mortal(die_at, random.Random(seed), self.output / "plan.jsonl")
                code = work()
            finally:
                os._exit(code or 0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) in (0, KILLED), (self.root / "said.txt").read_text()
        now = self.planned()
        assert now[:size] == before, "what was planned has changed"
        if len(now) > size:
            self.history.append([list(rows) for rows in self.rows])
        return status == 0

    def settled(self, output):
        planned = plan.read(output / "plan.jsonl")
        with Ledger(output / "ledger.jsonl", planned) as ledger:
            assert not len(ledger.pending()) and ledger.closed == set(range(planned.shards))
            return {source.id: ledger.status(index) for index, source in enumerate(planned)}

    def undisturbed(self, output):
        """One run over what was planned batch by batch, in which nothing fails that was mended later."""
        latest, output = self.rows, Path(output)
        output.mkdir()
        for rows in self.history:
            for which, numbers in enumerate(rows):
                self.rows[which] = []
                self.add(which, numbers)
            plan.update(output / "plan.jsonl", expand(self.named), SHARD)
        for which, numbers in enumerate(latest):
            self.rows[which] = []
            self.add(which, numbers)
        self.mended = True
        assert self.harvest(output) == 0
        if self.forgotten:
            forget.forget(output, sorted(self.forgotten))


def _mortal(die_at, dice, path):
    """Let this process end at a change of a file: before it, after it, or, where bytes are written, in its middle."""
    left, planned = [die_at], plan.read(path).size if path.exists() else 0

    def at_risk(call, partial=None):
        def deed(*words, **how):
            if left[0] is None:
                return call(*words, **how)
            left[0] -= 1
            if left[0] >= 0:
                return call(*words, **how)
            if partial:
                partial(*words)
            elif dice.random() < 0.5:
                call(*words, **how)
            os._exit(KILLED)
        return deed

    def torn(file, data, write=os.write):
        write(file, bytes(data)[:dice.randrange(len(data) + 1)])

    def cut(file, truncate=os.ftruncate):
        # What an append to the plan wrote may have come to the disk in part only.
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            truncate(file, dice.randrange(planned, path.stat().st_size + 1))

    os.write = at_risk(os.write, torn)
    os.fsync = at_risk(lambda file: None, cut)
    for name in ("replace", "unlink", "ftruncate", "mkdir"):
        setattr(os, name, at_risk(getattr(os, name)))


@pytest.fixture(scope="module", autouse=True)
def quick():
    """No waiting for the disk in the runs that nobody interrupts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


WHEN = st.one_of(st.none(), st.integers(0, 60))
STEPS = st.one_of(
    st.tuples(st.just("add"), st.integers(0, LISTS - 1), st.lists(st.integers(0, 30), min_size=1, max_size=5)),
    st.tuples(st.just("run"), WHEN, st.integers(0, 9)),
    st.tuples(st.just("run"), WHEN, st.integers(0, 9)),
    st.tuples(st.just("retry"), WHEN, st.integers(0, 9)),
    st.tuples(st.just("forget"), WHEN, st.integers(0, 9)),
)
FIRST = ("add", 0, [0, 1, 2, 3, 4, 5, 6, 9])


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.lists(STEPS, min_size=2, max_size=7))
@example([("run", None, 0), ("add", 1, [7, 8]), ("run", 3, 0), ("retry", 5, 1)])
@example([("run", None, 0), ("forget", 2, 1), ("add", 2, [0, 11]), ("retry", 9, 1), ("forget", 12, 2)])
def test_what_is_left_is_what_one_calm_run_leaves(steps):
    with tempfile.TemporaryDirectory() as root:
        world = World(root)
        for what, *words in [FIRST, *steps]:
            if what == "add":
                world.add(*words)
                continue
            when, seed = words
            if what == "forget":
                ids = [source.id for source in world.planned()]
                if not ids or not (world.output / "settings.json").exists():
                    continue
                chosen = random.Random(seed).sample(ids, 1)
                world.forgotten.update(chosen)
                world.step(lambda chosen=chosen: _forget(world.output, chosen), when, seed)
                continue
            if what == "retry":
                world.mended = True
            world.step(lambda what=what, seed=seed: world.harvest(
                world.output, ["transient"] if what == "retry" else [], seed), when, seed)
        world.mended = True
        assert world.step(lambda: world.harvest(world.output, ["all"]))
        if world.forgotten:
            assert world.step(lambda: _forget(world.output, sorted(world.forgotten)))
        world.undisturbed(calmly := world.root / "calm")
        assert (world.output / "plan.jsonl").read_bytes() == (calmly / "plan.jsonl").read_bytes()
        assert calm.handed_on(world.output) == calm.handed_on(calmly)
        found = world.settled(world.output)
        assert found == world.settled(calmly) and {id for id, s in found.items() if s == "forgotten"} == world.forgotten
        assert not calm.left_over(world.output)
        for name in ("ATTRIBUTION.csv", "summary.json"):
            assert _told(world.output / name) == _told(calmly / name)
        for tar in world.output.glob("*/*.tar"):
            shards.verify(tar)


def _forget(output, ids):
    forget.forget(output, ids)
    return 0


def _told(path):
    """A file of the accounts, but for what only one run can tell."""
    if path.suffix != ".json":
        return path.read_text()
    return {key: value for key, value in json.loads(path.read_text()).items() if key != "run"}


@pytest.mark.parametrize("account", ["attribution", "report", "summary"])
def test_a_kill_between_the_accounts_leaves_none_of_them_stale(tmp_path, monkeypatch, account):
    """Of a source that was removed nothing is told any longer."""
    world = World(tmp_path)
    world.add(0, [0, 1, 2])
    assert world.harvest(world.output) == 0
    gone = world.planned()[0].id

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(f"harvest.{account}.write", die)
        forget.forget(world.output, [gone])
    assert world.harvest(world.output) == 0
    told = [(world.output / name).read_text() for name in ("ATTRIBUTION.csv", "report.html")]
    assert all(gone not in text and world.planned()[1].id in text for text in told)
    assert json.loads((world.output / "summary.json").read_text())["forgotten"] == 1
