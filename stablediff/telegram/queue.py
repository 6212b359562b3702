"""Whose turn it is: one job of each user, round and round, so that nobody waits for another's whole list."""

from collections import OrderedDict, deque
from collections.abc import Iterator


class FairQueue:
    """Job ids by user. The user who was served last goes to the end."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[int, deque[int]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, user: int, job: int) -> None:
        self._waiting.setdefault(user, deque()).append(job)

    def take(self) -> int | None:
        if not self._waiting:
            return None
        user, jobs = next(iter(self._waiting.items()))
        job = jobs.popleft()
        self._waiting.move_to_end(user)
        if not jobs:
            del self._waiting[user]
        return job

    def remove(self, job: int) -> bool:
        """-> whether it was there."""
        for user, jobs in self._waiting.items():
            if job in jobs:
                jobs.remove(job)
                if not jobs:
                    del self._waiting[user]
                return True
        return False

    def order(self) -> Iterator[int]:
        """The jobs as they will be taken, if nothing new comes."""
        lists = [list(jobs) for jobs in self._waiting.values()]
        for turn in range(max(map(len, lists), default=0)):
            yield from (jobs[turn] for jobs in lists if turn < len(jobs))

    def place(self, job: int) -> int | None:
        """1 for the next one, None if it does not wait here."""
        return next((place for place, waiting in enumerate(self.order(), 1) if waiting == job), None)
