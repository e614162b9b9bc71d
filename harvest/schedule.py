"""Who may be fetched next: one broker for the whole cluster, because the driver alone hands out sources.

Pure bookkeeping with the clock passed in. A host is asked for little at a time; one that answers "too many" or asks
for proof of a human rests for all of its sources; when no host answers at all, the run rests.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from harvest.config import Fetch, Politeness
from harvest.reasons import BUSY, FAILURES, TRANSIENT
from skelcore.errors import RunError

logger = logging.getLogger(__name__)
_STRIKES = 3  # network failures in a row after which a host rests
_PROBES = 12  # probes without an answer after which an outage ends the run
_LONGEST_PROBE = 600.0
_SLOTS = 1 << 30  # of what needs no politeness: local files and object stores
_LOCAL = ""


@dataclass
class _Host:
    """One host's queue (indices of sources) and manners."""

    slots: int
    gap: float
    waiting: deque[int] = field(default_factory=deque)
    asked: int = 0
    ready: float = 0.0  # when the next may start
    rests: int = 0
    strikes: int = 0
    closed: bool = False  # asked for nothing more in this run
    queued: bool = False  # stands in one of the two heaps


class Schedule:
    """Sources (indices of the plan) waiting to be fetched, by host; ``seed`` decides the jitter of the gaps.

    The host of a local file, or of what lies in an object store, is None.
    """

    def __init__(self, rules: Politeness, fetch: Fetch, seed: int = 0) -> None:
        self._rules, self._fetch, self._dice = rules, fetch, random.Random(seed)
        self._outage = _Outage(rules)
        self._hosts: dict[str, _Host] = {}
        self._asked: dict[int, str] = {}  # hosts of what is being fetched
        self._tries: dict[int, int] = {}
        self._able: list[tuple[int, str]] = []  # (first source, host) of hosts that may be asked now
        self._resting: list[tuple[float, str]] = []  # (time, host) of those that may be asked then
        self._later: list[tuple[float, int, str]] = []  # (time, source, host) of what waits for another try
        self._left = 0

    def __len__(self) -> int:
        """How many sources wait; those being fetched are not among them."""
        return self._left

    @property
    def outage(self) -> bool:
        """Whether no host seems to be within reach."""
        return self._outage.lasts

    def paused(self, now: float) -> list[str]:
        """The hosts that rest because they asked for it or fell silent."""
        return sorted(name for ready, name in self._resting if ready > now and self._hosts[name].rests)

    def add(self, source: int, host: str | None, first: bool = False) -> None:
        """Let a source wait for its turn, at the end of its host's queue or as its ``first``."""
        name = host or _LOCAL
        found = self._hosts.get(name)
        if found is None:
            found = self._hosts[name] = self._new(name)
        (found.waiting.appendleft if first else found.waiting.append)(source)
        self._left += 1
        self._queue(name, found)

    def take(self, now: float) -> int | None:
        """A source to fetch now, the earliest in the plan that may be; None when all must wait."""
        self._wake(now)
        if not self._outage.allows(now):
            local = self._hosts.get(_LOCAL)
            return self._give(_LOCAL, local, now) if local and local.waiting else None
        while self._able:
            _, name = heappop(self._able)
            host = self._hosts[name]
            host.queued = False
            if host.ready > now:
                self._queue(name, host)
            elif host.waiting and host.asked < host.slots:
                return self._give(name, host, now)
        return None

    def wait(self, now: float) -> float:
        """Seconds until ``take`` may answer otherwise though nothing else happens; infinite if it will not."""
        times = [heap[0][0] for heap in (self._resting, self._later) if heap]
        if self.outage:
            times = [max(self._outage.next, 0.0 if self._able else min(times, default=float("inf")))]
            if self._outage.probing:
                return float("inf")
        return max(0.0, min(times) - now) if times else float("inf")

    def landed(self, source: int) -> None:
        """A source's host is asked no longer: the file is here, the fetch has failed, or the worker has died."""
        name = self._asked.pop(source)
        host = self._hosts[name]
        host.asked -= 1
        self._queue(name, host)

    def dropped(self, source: int) -> None:
        """A worker died, or was stopped, while it fetched this source, which says nothing of the host."""
        self.landed(source)
        self._outage.forget(source)

    def lost(self, source: int, host: str | None) -> None:
        """A worker died while it fetched or held this source, which is to be fetched again."""
        if source in self._asked:
            self.dropped(source)
        self.add(source, host, first=True)

    def answered(self, host: str | None) -> None:
        """A host has answered as it should."""
        if host is not None:
            self._hosts[host].rests = self._hosts[host].strikes = 0
            self._outage.over()

    def failed(self, source: int, host: str | None, reason: str, wait: float | None, now: float) -> list[int]:
        """The sources that this failed fetch settles: itself, or others of its host too, or none if it waits again.

        Raises RunError when an outage lasts so long that somebody must look after it.
        """
        name = host or _LOCAL
        if host is not None and reason == "network":
            others = len(self._hosts) - (_LOCAL in self._hosts) > 1
            if self._outage.deepens(source, name, others, now):
                return self._wait_for_network(source, name)
            self._hosts[name].strikes += 1
        elif host is not None:
            self._outage.over()
            self._hosts[name].strikes = 0
        if self._hosts[name].closed:
            return [source]
        # A host that nobody else waits for need not rest: the source's own retries take as long.
        dead = self._hosts[name].strikes >= _STRIKES and bool(self._hosts[name].waiting)
        if host is not None and (reason in BUSY or dead):
            return self._rest(source, name, reason, wait, now)
        return self._retry(source, name, now) if reason in TRANSIENT else [source]

    def _new(self, name: str) -> _Host:
        if name == _LOCAL:
            return _Host(_SLOTS, 0.0)
        rule = self._rules.hosts.get(name)
        slots, gap = (rule.concurrency, rule.gap_seconds) if rule else (None, None)
        return _Host(self._rules.concurrency if slots is None else slots,
                     self._rules.gap_seconds if gap is None else gap)

    def _queue(self, name: str, host: _Host) -> None:
        """Put a host that has work and a free slot where it will be found."""
        if host.queued or not host.waiting or host.asked >= host.slots:
            return
        host.queued = True
        if host.ready:
            heappush(self._resting, (host.ready, name))
        else:
            heappush(self._able, (host.waiting[0], name))

    def _wake(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            _, source, name = heappop(self._later)
            self._left -= 1
            self.add(source, name, first=True)
        while self._resting and self._resting[0][0] <= now:
            _, name = heappop(self._resting)
            host = self._hosts[name]
            host.queued = bool(host.waiting)
            if host.waiting:
                heappush(self._able, (host.waiting[0], name))

    def _give(self, name: str, host: _Host, now: float) -> int:
        source = host.waiting.popleft()
        self._left -= 1
        self._asked[source] = name
        host.asked += 1
        if host.gap:
            host.ready = now + host.gap + self._dice.uniform(0, self._rules.jitter_seconds)
        if name != _LOCAL:
            self._outage.probe(source)
        self._queue(name, host)
        return source

    def _retry(self, source: int, name: str, now: float) -> list[int]:
        tries = self._tries[source] = self._tries.get(source, 0) + 1
        if tries > self._fetch.retries:
            del self._tries[source]
            return [source]
        self._put_off(source, name, now + self._fetch.wait_seconds * 2 ** (tries - 1))
        return []

    def _put_off(self, source: int, name: str, until: float) -> None:
        heappush(self._later, (until, source, name))
        self._left += 1

    def _rest(self, source: int, name: str, reason: str, wait: float | None, now: float) -> list[int]:
        """No attempt of the source's: its host rests, and after too many rests is asked for nothing more."""
        host = self._hosts[name]
        host.strikes = 0
        # What was already under way when a rest began does not make for another.
        if not host.rests or now >= host.ready:
            host.rests += 1
        if host.rests > self._rules.pauses:
            return [source, *self._close(name, host)]
        usual = self._rules.bot_pause_seconds if reason == "bot_check" else self._rules.pause_seconds
        pause = usual * 2 ** (host.rests - 1) if wait is None else wait
        pause = min(pause, self._rules.longest_pause_seconds)
        if now + pause > host.ready:
            logger.warning("%s: %s; asked again in %.0f s", name, FAILURES[reason], pause)
            host.ready = now + pause
        self.add(source, name, first=True)
        return []

    def _close(self, name: str, host: _Host) -> list[int]:
        host.closed = True
        logger.warning("%s: refuses for too long; asked for nothing more in this run", name)
        gone = list(host.waiting) + [source for _, source, of in self._later if of == name]
        host.waiting.clear()
        self._later = [entry for entry in self._later if entry[2] != name]
        heapify(self._later)
        self._left -= len(gone)
        return gone

    def _wait_for_network(self, source: int, name: str) -> list[int]:
        """All hosts are silent: no source and no host is charged for it, and one at a time is asked again."""
        for silent in self._outage.silent:
            self._tries.pop(silent, None)
        for host in self._hosts.values():
            host.strikes = 0
        self._put_off(source, name, self._outage.next)
        return []


class _Outage:
    """Whether the network is down, told by failures in a row over all hosts, and when to ask again."""

    def __init__(self, rules: Politeness) -> None:
        self._rules = rules
        self.silent: dict[int, str] = {}  # sources, and their hosts, that failed since any host last answered
        self.next = 0.0
        self._probes = self._failures = 0
        self._probing: int | None = None

    @property
    def lasts(self) -> bool:
        return self._probes > 0

    @property
    def probing(self) -> bool:
        return self._probing is not None

    def allows(self, now: float) -> bool:
        return not self.lasts or (not self.probing and now >= self.next)

    def probe(self, source: int) -> None:
        if self.lasts:
            self._probing = source

    def forget(self, source: int) -> None:
        if source == self._probing:
            self._probing = None

    def over(self) -> None:
        self._probes, self._failures, self._probing = 0, 0, None
        self.silent.clear()

    def deepens(self, source: int, host: str, others: bool, now: float) -> bool:
        """Take note of a network failure; whether an outage begins with it or goes on.

        One dead host among ``others`` is no outage, however many of its sources fail.
        """
        self._failures += 1
        self.silent[source] = host
        if not self.lasts and (self._failures < self._rules.outage_failures
                               or (others and len(set(self.silent.values())) < 2)):
            return False
        # Others under way when it began say nothing new.
        if not self.lasts or source == self._probing:
            self._probes += 1
            self._probing = None
            pause = min(self._rules.outage_seconds * 2 ** (self._probes - 1), _LONGEST_PROBE)
            self.next = now + pause
            logger.warning("no host answers; one is asked again in %.0f s", pause)
        if self._probes > _PROBES:
            raise RunError(f"no host has answered to {_PROBES} probes: mend the network and run again; what is not "
                           "settled stays pending")
        return True
