"""The harvest on Ray: one actor a core, one video at a time each; this process owns the retries."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from harvest import estimators, scratch, video
from harvest.config import BOOTSTRAP, Harvest
from harvest.plan import Source
from harvest.video import Outcome
from skelcore.errors import RunError

_MOST_DEATHS = 2
_POLL_SECONDS = 0.5
_START_SECONDS = 300


@ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)
class Worker:
    """Estimates one video at a time in a process of its own; frames never leave it."""

    def __init__(self, config: Harvest) -> None:
        scratch.sweep()
        self._config = config
        self._estimator = estimators.build(config.estimator, config.layout)

    def ready(self) -> None:
        """Answers once the model is loaded."""

    def process(self, source: Source) -> Outcome:
        return video.process(source, self._config, self._estimator)


@dataclass
class _Lease:
    """A video in the hands of a worker."""

    worker: Any
    source: Source
    attempt: int
    until: float


def drive(config: Harvest, sources: list[Source], settle: Callable[[Source, Outcome, int], None]) -> None:
    """Process ``sources`` and call ``settle(source, outcome, attempts)`` once for each, in the order they finish.

    A worker that dies is replaced and its video tried once more; a second death settles it as ``crash``. A video
    beyond its deadline is settled as ``timeout``. Raises RunError when workers cannot be started at all.
    """
    started = _connect(config)
    try:
        _Pool(config, settle).run(sources)
    finally:
        if started:
            ray.shutdown()
        scratch.sweep()


def _connect(config: Harvest) -> bool:
    """Join the cluster that this machine heads or the environment names, else start Ray here, for us alone."""
    if ray.is_initialized():
        return False
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "critical"}
    try:
        if os.environ.get("RAY_ADDRESS") or Path(BOOTSTRAP).expanduser().exists():
            ray.init(address="auto", **common)
        else:
            # "local" never joins another Ray on this machine. Without a number Ray counts the CPUs that this
            # container may use.
            ray.init(address="local", num_cpus=config.workers, include_dashboard=False, **common)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise RunError(f"Ray does not start: {' '.join(str(error).split())[:300]}") from None
    return True


class _Pool:
    def __init__(self, config: Harvest, settle: Callable[[Source, Outcome, int], None]) -> None:
        self._config, self._settle = config, settle
        self._leases: dict[Any, _Lease] = {}
        self._idle: list[Any] = []
        # Workers whose answer that they are ready is still awaited: they load their model or queue for a CPU.
        self._starting: dict[Any, Any] = {}
        self._stillborn = 0
        self._workless_since = time.monotonic()

    def run(self, sources: list[Source]) -> None:
        waiting = deque((source, 1) for source in sources)
        size = min(len(waiting), self._config.workers or max(1, int(ray.cluster_resources().get("CPU", 1))))
        try:
            for _ in range(size):
                self._start()
            while waiting or self._leases:
                while waiting and self._idle:
                    self._lease(*waiting.popleft())
                for lease, outcome in self._finished():
                    if outcome is not None:
                        self._settle(lease.source, outcome, lease.attempt)
                    else:
                        waiting.append((lease.source, lease.attempt + 1))
        finally:
            leased = (lease.worker for lease in self._leases.values())
            for worker in [*self._idle, *self._starting.values(), *leased]:
                ray.kill(worker)

    def _start(self) -> None:
        worker = Worker.remote(self._config)  # type: ignore[attr-defined]
        self._starting[worker.ready.remote()] = worker

    def _welcome(self, reference: Any) -> None:
        """A worker has started, or has failed to: that must not be counted as the fault of a video."""
        worker = self._starting.pop(reference)
        try:
            ray.get(reference)
        except RayError as error:
            self._stillborn += 1
            failed = isinstance(error, RayActorError) and error.actor_init_failed
            # One that died otherwise went with its machine, say: others may take its place.
            if failed or self._stillborn > _MOST_DEATHS:
                raise RunError(f"a worker cannot start: {_last_line(error)}") from None
            self._start()
        else:
            self._stillborn = 0
            self._idle.append(worker)

    def _lease(self, source: Source, attempt: int) -> None:
        worker = self._idle.pop()
        until = time.monotonic() + self._config.limits.deadline_seconds
        self._leases[worker.process.remote(source)] = _Lease(worker, source, attempt, until)

    def _finished(self) -> list[tuple[_Lease, Outcome | None]]:
        """Leases that ended, with their outcome, or None for one to be tried again."""
        done, _ = ray.wait([*self._leases, *self._starting], num_returns=1, timeout=_POLL_SECONDS)
        ended = [self._collect(reference) for reference in done if reference in self._leases]
        for reference in done:
            if reference in self._starting:
                self._welcome(reference)
        now = time.monotonic()
        if self._leases or self._idle:
            self._workless_since = now
        elif now - self._workless_since > _START_SECONDS:
            raise RunError(f"no worker within {_START_SECONDS} s: the cluster has no free CPU")
        for reference in [r for r, lease in self._leases.items() if lease.until < now]:
            lease = self._leases.pop(reference)
            ray.kill(lease.worker)
            self._start()
            ended.append((lease, Outcome("failed", "timeout")))
        return ended

    def _collect(self, reference: Any) -> tuple[_Lease, Outcome | None]:
        lease = self._leases.pop(reference)
        try:
            outcome = ray.get(reference)
        except RayTaskError as error:
            outcome = Outcome("failed", "error", _last_line(error))
        except RayError:
            ray.kill(lease.worker)
            self._start()
            return lease, Outcome("failed", "crash") if lease.attempt >= _MOST_DEATHS else None
        self._idle.append(lease.worker)
        return lease, outcome


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
