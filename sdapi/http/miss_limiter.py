"""Keeps ids from being scanned: an address that keeps asking for jobs that don't exist has to wait."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sdapi.domain.errors import JobNotFound, QueueFull


class MissLimiter:
    """A bucket of misses per address, refilled over time; IPv6 addresses share one per /64, which is what one customer gets.

    The addresses seen longest ago are forgotten beyond `max_addresses`, so memory stays bounded.
    """

    def __init__(self, *, misses_per_minute: int = 20, max_addresses: int = 10_000, now: Callable[[], float] = time.monotonic) -> None:
        self._capacity = float(misses_per_minute)
        self._refill_per_s = misses_per_minute / 60
        self._max_addresses = max_addresses
        self._now = now
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Per address: misses still allowed, and when that was reckoned. Unknown addresses have them all."""

    @contextmanager
    def guarding(self, address: str | None) -> Iterator[None]:
        """Count a JobNotFound raised inside against the address; None is never limited.

        Raises QueueFull while the address has no misses left, before anything is looked up: a hit must not show either.
        """
        if address is None:
            yield
            return
        bucket = _bucket(address)
        left = self._misses_left(bucket)
        if left < 1:
            raise QueueFull(retry_after_s=math.ceil((1 - left) / self._refill_per_s))
        try:
            yield
        except JobNotFound:
            self._record_miss(bucket)
            raise

    def _misses_left(self, bucket: str) -> float:
        left, reckoned_at = self._left.get(bucket, (self._capacity, 0.0))
        return min(self._capacity, left + (self._now() - reckoned_at) * self._refill_per_s)

    def _record_miss(self, bucket: str) -> None:
        self._left[bucket] = (max(self._misses_left(bucket) - 1, 0.0), self._now())
        self._left.move_to_end(bucket)
        if len(self._left) > self._max_addresses:
            self._left.popitem(last=False)


def _bucket(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
    return address
