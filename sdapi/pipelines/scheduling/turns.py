"""Whose turn it is: which rows take their next step together. Pure: it knows rows by number and what a turn costs by being told.

Three rules, from the outside in:

- Among clients, none gets ahead of another by more than a quantum, about half of a usual picture (fair queueing: what a turn cost is
  charged to those who took part). Within that, whoever has fewest rows goes first, then whose job has the least work left, so that
  one who wants little is not held up by one who wants much; and who has many rows is charged up to three times as much. Whoever comes
  starts level with those who are there, without credit for the time before. Should newcomers never end, whoever waits goes first
  after two quanta, and some turns, for each of those present.
- Among a client's batches that can't share a forward, the one that has had least.
- Among the rows of a batch, that of the job with the least work left. A row that was passed over for four rounds of its batch goes
  before these: so ageing takes no more than a quarter of the places, and no row waits for more than five rounds.

A decode is a turn as well, and never follows another one while somebody could step.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

BatchT = TypeVar("BatchT", bound=Hashable)
BatchInT = TypeVar("BatchInT", bound=Hashable, contravariant=True)
AccountT = TypeVar("AccountT", bound=Hashable)

_MOST_CHARGED = 3
"""How many times a client's work counts at most, by its rows."""
_PATIENCE_QUANTA = 2
"""See above: of everybody's work, for each client present."""
_REMEMBERED = 0.99
"""How much of what the dearest turn has cost is still believed a turn later."""
_PATIENCE_ROUNDS = 4
"""So many rounds of a batch (turns that would seat all of its rows once) a row is passed over before it goes first."""
_WORTH_WAITING = 1.5
"""How much longer company may make a turn, at least."""
_SHARE_OF_TIME = 0.75
"""With n clients, company may make a turn so many times n as long: a little less than each one's share of the device would."""


@dataclass(frozen=True, slots=True)
class Wish(Generic[BatchT]):
    """A row that could be worked on now."""

    row: int
    """Tells it from others."""
    client: Hashable
    batch: BatchT
    """Rows with equal ones may share a turn."""
    samples: int
    """What it adds to a joint forward."""
    left: float
    """What its whole job still costs, in any unit."""
    is_last: bool = False
    """Whether it has taken its steps and is to be decoded."""


@dataclass(frozen=True)
class Most:
    """What one turn takes; one row always fits."""

    rows: int
    samples: int


class Costs(Protocol[BatchInT]):
    """What is known of the batches."""

    @property
    def quantum(self) -> float:
        """How far ahead a client may get, in what turns are charged in."""
        ...

    def most(self, batch: BatchInT, *, samples_each: int) -> Most:
        """What is worth taking at once, of rows that add so many samples each."""
        ...

    def seconds(self, batch: BatchInT, samples: int) -> float | None:
        """How long a turn of so many samples takes; None where nobody knows."""
        ...


@dataclass(frozen=True)
class Turn(Generic[BatchT]):
    """What is done next."""

    batch: BatchT
    wishes: tuple[Wish[BatchT], ...]
    """At least one."""
    weights: dict[Hashable, int]
    """How many times its part counts, of each client."""

    @property
    def is_last(self) -> bool:
        """Whether these are decoded."""
        return self.wishes[0].is_last

    @property
    def samples(self) -> int:
        """Of all of them."""
        return sum(wish.samples for wish in self.wishes)


class _Accounts(Generic[AccountT]):
    """What everybody has had."""

    def __init__(self) -> None:
        self._spent: dict[AccountT, float] = {}

    def __getitem__(self, name: AccountT) -> float:
        return self._spent[name]

    def meet(self, names: Iterable[AccountT], *, keeps_debts: bool = False) -> None:
        """These are there now; whoever is new starts with as much as the one who has had least.

        With `keeps_debts`, those who left and had more are remembered: they may come back at once.
        """
        here = dict.fromkeys(names)
        level = min((self._spent[name] for name in here if name in self._spent), default=0.0)
        absent = {name: spent for name, spent in self._spent.items() if keeps_debts and name not in here and spent > level}
        self._spent = {**absent, **{name: max(level, self._spent.get(name, level)) for name in here}}

    def charge(self, name: AccountT, cost: float) -> None:
        self._spent[name] = self._spent.get(name, 0.0) + cost


class _Clients(_Accounts[Hashable]):
    """What every client has had, and for how long it had to wait."""

    def __init__(self) -> None:
        super().__init__()
        self._total = 0.0
        self._largest = 0.0
        """What a turn has cost at most of late."""
        self._at_last: dict[Hashable, float] = {}
        """What everybody together had had when each was part of a turn last, or came."""

    def meet_those_of(self, wishes: Iterable[Wish[Any]]) -> None:
        here = dict.fromkeys(wish.client for wish in wishes)
        self.meet(here, keeps_debts=True)
        self._at_last = {client: self._at_last.get(client, self._total) for client in here}

    def turn_ended(self, clients: Iterable[Hashable], cost: float) -> None:
        self._total += cost
        self._largest = max(cost, _REMEMBERED * self._largest)
        for client in clients:
            self._at_last[client] = self._total

    def leader(self, wanting: Sequence[Wish[Any]], rows_of: Mapping[Hashable, int], quantum: float) -> Hashable:
        """Whose turn it is."""
        least_left: dict[Hashable, float] = {}
        for wish in wanting:
            least_left[wish.client] = min(wish.left, least_left.get(wish.client, math.inf))
        longest = min(least_left, key=lambda one: self._at_last[one])
        at_once = quantum + _MOST_CHARGED * self._largest
        if self._total - self._at_last[longest] > _PATIENCE_QUANTA * at_once * len(rows_of):
            return longest
        level = min(self[one] for one in least_left)
        near = [one for one in least_left if self[one] <= level + quantum]
        return min(near, key=lambda one: (rows_of[one], least_left[one], self[one]))


class Turns(Generic[BatchT]):
    """For one thread."""

    def __init__(self) -> None:
        self._clients = _Clients()
        self._batches: dict[Hashable, _Accounts[BatchT]] = {}
        self._passed_over: dict[int, int] = {}
        """How many turns of its batch each row has not been part of, since it was last."""
        self._was_decode = False

    def next(self, wishes: Sequence[Wish[BatchT]], costs: Costs[BatchT]) -> Turn[BatchT] | None:
        """What to do now, to be charged by `charge`; None where there is no wish. Of equals the first in `wishes` goes first."""
        if not wishes:
            return None
        rows_of = Counter(wish.client for wish in wishes)
        self._meet(wishes)
        steps = [wish for wish in wishes if not wish.is_last]
        wanting = (steps or wishes) if self._was_decode else wishes
        client = self._clients.leader(wanting, rows_of, costs.quantum)
        own = [wish for wish in wanting if wish.client == client]
        # A picture that only has to be decoded is nearest to its end.
        batches = dict.fromkeys(wish.batch for wish in [wish for wish in own if wish.is_last] or own)
        batch = min(batches, key=self._batches[client].__getitem__)
        there = [wish for wish in wanting if wish.batch == batch]
        seated = self._seated(client, there, costs, len(rows_of), has_steps=bool(steps))
        self._note_passed_over(wishes, there, {wish.row for wish in seated})
        self._was_decode = seated[0].is_last
        return Turn(batch, tuple(seated), {one: min(rows_of[one], _MOST_CHARGED) for one in {wish.client for wish in seated}})

    def charge(self, turn: Turn[BatchT], cost: float) -> None:
        """The turn has cost so much, in whatever unit all turns are charged in."""
        for wish in turn.wishes:
            part = cost * wish.samples / turn.samples
            self._clients.charge(wish.client, part * turn.weights[wish.client])
            self._batches[wish.client].charge(turn.batch, part)
        self._clients.turn_ended(turn.weights, cost)

    def _meet(self, wishes: Sequence[Wish[BatchT]]) -> None:
        self._clients.meet_those_of(wishes)
        batches: dict[Hashable, dict[BatchT, None]] = {}
        for wish in wishes:
            batches.setdefault(wish.client, {})[wish.batch] = None
        self._batches = {client: self._batches.get(client) or _Accounts() for client in batches}
        for client, accounts in self._batches.items():
            accounts.meet(batches[client])

    def _note_passed_over(self, wishes: Sequence[Wish[BatchT]], there: Sequence[Wish[BatchT]], seated: set[int]) -> None:
        known = {wish.row for wish in wishes}
        self._passed_over = {row: turns for row, turns in self._passed_over.items() if row in known and row not in seated}
        for wish in there:
            if wish.row not in seated:
                self._passed_over[wish.row] = self._passed_over.get(wish.row, 0) + 1

    def _seated(
        self, leader: Hashable, there: list[Wish[BatchT]], costs: Costs[BatchT], clients: int, *, has_steps: bool
    ) -> list[Wish[BatchT]]:
        """Those of the batch that take part, the leader's first among them."""
        batch, each = there[0].batch, min(wish.samples for wish in there)
        most = costs.most(batch, samples_each=each)
        places = max(1, min(most.rows, most.samples // each))
        patience = _PATIENCE_ROUNDS * math.ceil(len(there) / places)
        overdue = [wish for wish in there if self._passed_over.get(wish.row, 0) >= patience]
        overdue.sort(key=lambda wish: -self._passed_over[wish.row])
        ranked = sorted(there, key=lambda wish: (wish.client != leader, self._clients[wish.client], wish.left))
        queue = list({wish.row: wish for wish in [*overdue, *ranked]}.values())
        first = next(wish for wish in queue if wish.client == leader)
        own = _taken([wish for wish in ranked if wish.client == leader], most, math.inf, batch, costs)
        longest_s = self._longest_s(batch, sum(wish.samples for wish in own), costs, clients)
        if first.is_last and has_steps:
            # Those in flight wait for about one decode, not for as many as are there.
            lone_s = costs.seconds(batch, first.samples)
            longest_s = min(longest_s, 0.0 if lone_s is None else lone_s * _WORTH_WAITING)
        return _taken([first, *(wish for wish in queue if wish is not first)], most, longest_s, batch, costs)

    def _longest_s(self, batch: BatchT, samples: int, costs: Costs[BatchT], clients: int) -> float:
        """How long a turn may become by rows of others than the client whose turn it is, who brings so many samples."""
        own_s = costs.seconds(batch, samples) if clients > 1 else None
        return math.inf if own_s is None else own_s * max(_WORTH_WAITING, _SHARE_OF_TIME * clients)


def _taken(queue: Sequence[Wish[BatchT]], most: Most, longest_s: float, batch: BatchT, costs: Costs[BatchT]) -> list[Wish[BatchT]]:
    """As many from the head of the queue as fit; at least one."""
    taken: list[Wish[BatchT]] = []
    samples = 0
    for wish in queue:
        samples += wish.samples
        if taken and (len(taken) >= most.rows or samples > most.samples):
            break
        if taken and longest_s < math.inf:
            lasting_s = costs.seconds(batch, samples)
            if lasting_s is None or lasting_s > longest_s:
                break
        taken.append(wish)
    return taken
