"""The harvest on Ray: this process hands out sources, owns every retry, and outlives any worker."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from harvest import fetch, scratch
from harvest.config import Harvest
from harvest.schedule import Schedule
from harvest.sources import Source
from harvest.video import Outcome
from harvest.worker import Landed, Worker
from skelcore.errors import RunError

_MOST_DEATHS = 2
_POLL_SECONDS = 0.5
_START_SECONDS = 300
_TELL_SECONDS = 2.0
_HIRE_SECONDS = 1800  # on a cluster, whose machines may first have to be hired and set up
_CLUSTER = "RAY_ADDRESS"  # set by `ray job submit`, and by run.py where `ray submit` has put it
_FETCH_GRACE = 60.0  # beyond limits.fetch_seconds, which a fetch should notice itself
_NODE_SECONDS = 30.0  # within which Ray notices that a node is gone; that its workers are, it notices sooner

# Takes the index of a source, what became of it, and after how many attempts.
Settle = Callable[[int, Outcome, int], None]
# Takes the number of workers that estimate, of sources being fetched, and the hosts that are left alone for a while.
Watch = Callable[[int, int, list[str]], None]


@ray.remote(max_restarts=0, max_task_retries=0,
            concurrency_groups={"orders": 1, "news": 1})  # type: ignore[call-overload]
class Actor:
    """A worker in a process of its own, wherever Ray has room; orders and news pass while it estimates."""

    def __init__(self, config: Harvest) -> None:
        self._worker = Worker(config)

    def ready(self) -> str:
        """Answers with the node's id once the model is loaded."""
        return ray.get_runtime_context().get_node_id()

    @ray.method(concurrency_group="orders")
    def feed(self, index: int, source: Source) -> None:
        self._worker.feed(index, source)

    @ray.method(concurrency_group="news")
    def landed(self) -> list[Landed]:
        return self._worker.landed()

    def estimate(self, index: int) -> tuple[Outcome, int]:
        return self._worker.estimate(index)


@dataclass
class _Hand:
    """One worker and the sources that it has: being ``fetching`` (until when), ``landed``, and the one in hand."""

    actor: Any
    node: str = ""
    fetching: dict[int, float] = field(default_factory=dict)
    landed: deque[int] = field(default_factory=deque)
    held: int | None = None
    until: float = 0.0
    listening: bool = False
    done: int = 0
    tired: bool = False

    @property
    def load(self) -> int:
        return len(self.fetching) + len(self.landed) + (self.held is not None)


def drive(config: Harvest, sources: Sequence[Source], wanted: Iterable[int], settle: Settle, watch: Watch) -> None:
    """Process the ``wanted`` of ``sources``; each is settled once, in the order in which they finish.

    A worker that dies is replaced, and what it had is fetched again; a source in hand at two deaths is settled as
    ``crash``. A video beyond its deadline is settled as ``timeout``. Raises RunError when workers cannot be started at
    all, and when no host can be reached for long.
    """
    started = _connect(config)
    try:
        _Pool(config, sources, wanted, settle, watch).run()
    finally:
        if started:
            ray.shutdown()
        scratch.sweep()


def _connect(config: Harvest) -> bool:
    """Join the cluster that the environment names, else start Ray here, for us alone."""
    if ray.is_initialized():
        return False
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "critical"}
    try:
        if os.environ.get(_CLUSTER):
            ray.init(address="auto", **common)
        else:
            # "local" never joins another Ray on this machine. Without a number Ray counts the CPUs that this
            # container may use.
            ray.init(address="local", num_cpus=config.workers, include_dashboard=False, **common)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise RunError(f"Ray does not start: {' '.join(str(error).split())[:300]}") from None
    return True


class _Pool:
    """The workers, and what each call to them will answer."""

    def __init__(self, config: Harvest, sources: Sequence[Source], wanted: Iterable[int], settle: Settle,
                 watch: Watch) -> None:
        self._config, self._sources, self._settle, self._watch = config, sources, settle, watch
        self._schedule = Schedule(config.politeness, config.fetch)
        for index in wanted:
            self._schedule.add(index, self._host(index))
        self._hands: list[_Hand] = []
        self._calls: dict[Any, tuple[_Hand, Callable[[_Hand, Any], None]]] = {}
        # Workers whose answer that they are ready is still awaited: they load their model or queue for a CPU.
        self._starting: dict[Any, Any] = {}
        self._attempts: Counter[int] = Counter()
        self._deaths: dict[int, list[str]] = defaultdict(list)  # nodes of the workers that died with a source in hand
        self._trials: list[tuple[float, int]] = []  # (time, source): whether it is to blame is told then
        self._suspects: set[int] = set()
        self._size = 1
        self._stillborn = 0
        self._workless_since = self._told = time.monotonic()

    def run(self) -> None:
        try:
            self._size = min(len(self._schedule), self._config.workers or _room(self._config))
            for _ in range(self._size):
                self._start()
            while len(self._schedule) or self._trials or any(hand.load for hand in self._hands):
                self._hand_out()
                self._listen()
                self._enforce_deadlines()
                self._judge()
                self._tell()
        finally:
            for actor in [*self._starting.values(), *(hand.actor for hand in self._hands)]:
                ray.kill(actor)

    def _host(self, index: int) -> str | None:
        return fetch.host(self._sources[index].address)

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told >= _TELL_SECONDS:
            self._told = now
            self._watch(sum(hand.held is not None for hand in self._hands),
                        sum(len(hand.fetching) for hand in self._hands), self._schedule.paused(now))

    def _start(self) -> None:
        worker = self._config.worker
        memory = {} if worker.memory_bytes is None else {"memory": worker.memory_bytes}
        actor = Actor.options(  # type: ignore[attr-defined]
            num_cpus=worker.cpus, num_gpus=worker.gpus, **memory).remote(self._config)
        self._starting[actor.ready.remote()] = actor

    def _welcome(self, reference: Any) -> None:
        """A worker has started, or has failed to: that must not be counted as the fault of a video."""
        actor = self._starting.pop(reference)
        try:
            node = ray.get(reference)
        except RayError as error:
            self._stillborn += 1
            failed = isinstance(error, RayActorError) and error.actor_init_failed
            # Those that died otherwise went with their machine, say: others may take their place.
            if failed or self._stillborn > _MOST_DEATHS * self._size:
                raise RunError(f"a worker cannot start: {_last_line(error)}") from None
            self._start()
        else:
            self._stillborn = 0
            self._hands.append(_Hand(actor, node))

    def _hand_out(self) -> None:
        """Give every worker as much as it may have, the idlest first."""
        now = time.monotonic()
        while hand := min((hand for hand in self._hands if self._has_room(hand)), key=lambda h: h.load, default=None):
            index = self._schedule.take(now)
            if index is None:
                break
            if index in self._suspects and hand.load:
                self._schedule.lost(index, self._host(index))
                break
            hand.fetching[index] = now + self._config.limits.fetch_seconds + _FETCH_GRACE
            self._attempts[index] += 1
            hand.actor.feed.remote(index, self._sources[index])
        for hand in self._hands:
            if hand.held is None and hand.landed:
                hand.held = hand.landed.popleft()
                hand.until = now + self._config.limits.deadline_seconds
                self._calls[hand.actor.estimate.remote(hand.held)] = hand, self._take_outcome
            if hand.fetching and not hand.listening:
                hand.listening = True
                self._calls[hand.actor.landed.remote()] = hand, self._take_news

    def _has_room(self, hand: _Hand) -> bool:
        """A source suspected of killing its worker while fetched is fetched alone, so that the next death tells."""
        share = min(self._config.fetch.ahead + 1, self._config.worker.recycle_videos - hand.done)
        return (not hand.tired and hand.load < share and self._suspects.isdisjoint(hand.fetching))

    def _listen(self) -> None:
        """Wait a moment for answers and take all that have come."""
        patience = min(_POLL_SECONDS, max(0.01, self._schedule.wait(time.monotonic())))
        waiting = [*self._calls, *self._starting]
        if not waiting:
            time.sleep(patience)
            return
        done, _ = ray.wait(waiting, num_returns=1, timeout=patience)
        if done:
            done, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        for reference in done:
            if reference in self._starting:
                self._welcome(reference)
            elif reference in self._calls:  # else its worker was just found dead by another call
                self._answer(reference)
        if self._hands:
            self._workless_since = time.monotonic()
            return
        patience = _HIRE_SECONDS if os.environ.get(_CLUSTER) else _START_SECONDS
        if time.monotonic() - self._workless_since > patience:
            raise RunError(f"no worker within {patience} s: Ray has too few free CPUs, GPUs or bytes for one")

    def _answer(self, reference: Any) -> None:
        hand, take = self._calls.pop(reference)
        try:
            found = ray.get(reference)
        except RayError:
            self._bury(hand)
            return
        take(hand, found)

    def _take_news(self, hand: _Hand, news: list[Landed]) -> None:
        hand.listening = False
        for index, failure in news:
            if index not in hand.fetching:
                continue
            del hand.fetching[index]
            self._schedule.landed(index)
            host = self._host(index)
            if failure is None:
                self._schedule.answered(host)
                hand.landed.append(index)
                continue
            for gone in self._schedule.failed(index, host, failure.reason, failure.wait, time.monotonic()):
                self._end(gone, failure)

    def _take_outcome(self, hand: _Hand, answer: tuple[Outcome, int]) -> None:
        (outcome, resident), index = answer, hand.held
        hand.held = None
        hand.done += 1
        worker = self._config.worker
        hand.tired = hand.tired or hand.done >= worker.recycle_videos or resident > worker.recycle_bytes
        assert index is not None
        self._end(index, outcome)
        if hand.tired and not hand.load:
            self._replace(hand)

    def _end(self, index: int, outcome: Outcome) -> None:
        # A source of a host given up may never have been asked for itself.
        self._settle(index, outcome, max(1, self._attempts.pop(index, 1)))
        self._deaths.pop(index, None)
        self._suspects.discard(index)

    def _replace(self, hand: _Hand) -> None:
        self._hands.remove(hand)
        self._calls = {reference: call for reference, call in self._calls.items() if call[0] is not hand}
        ray.kill(hand.actor)
        self._start()

    def _bury(self, hand: _Hand) -> None:
        """A worker has died: whatever it had is fetched again, but for what is the likely cause."""
        self._replace(hand)
        if hand.held is not None:
            suspected = hand.held
        elif len(hand.fetching) == 1:
            suspected = next(iter(hand.fetching))
        else:
            suspected = None
            self._suspects.update(hand.fetching)
        for index in self._left_behind(hand):
            if index == suspected:
                self._deaths[index].append(hand.node)
            if index == suspected and len(self._deaths[index]) >= _MOST_DEATHS:
                patience = _NODE_SECONDS if len(ray.nodes()) > 1 else 0
                self._trials.append((time.monotonic() + patience, index))
            else:
                self._schedule.lost(index, self._host(index))

    def _judge(self) -> None:
        """Settle the sources that workers died of on nodes that live on; a lost node is the fault of none."""
        now = time.monotonic()
        due = [index for until, index in self._trials if until <= now]
        if not due:
            return
        self._trials = [(until, index) for until, index in self._trials if until > now]
        living = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        for index in due:
            self._deaths[index] = [node for node in self._deaths[index] if node in living]
            if len(self._deaths[index]) >= _MOST_DEATHS:
                self._end(index, Outcome("failed", "crash"))
            else:
                self._schedule.lost(index, self._host(index))

    def _left_behind(self, hand: _Hand) -> list[int]:
        """The sources of a dead worker, none of which is asked for any longer."""
        for index in hand.fetching:
            self._schedule.dropped(index)
        return [*hand.fetching, *hand.landed, *([] if hand.held is None else [hand.held])]

    def _enforce_deadlines(self) -> None:
        now = time.monotonic()
        for hand in list(self._hands):
            late = {index for index, until in hand.fetching.items() if until < now}
            if hand.held is not None and hand.until < now:
                late.add(hand.held)
            if not late:
                continue
            self._replace(hand)
            for index in self._left_behind(hand):
                if index in late:
                    self._end(index, Outcome("failed", "timeout"))
                else:
                    self._schedule.lost(index, self._host(index))


def _room(config: Harvest) -> int:
    """How many workers the cluster holds."""
    found, worker = ray.cluster_resources(), config.worker
    booked = {"CPU": worker.cpus, "GPU": worker.gpus, "memory": float(worker.memory_bytes or 0)}
    return max(1, int(min((found.get(name, 0) / amount for name, amount in booked.items() if amount), default=1)))


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
