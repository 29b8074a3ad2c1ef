"""Threads that play processes which train together."""

import threading

from mbrl.training.processes import Processes


class Meeting:
    """What threads that play processes share."""

    def __init__(self, number):
        self.number, self.barrier, self.values = number, threading.Barrier(number), {}

    def processes(self):
        return [ThreadProcesses(self, rank) for rank in range(self.number)]

    def run(self, functions):
        """All functions at once, one in each thread; what they return."""
        results, errors = [None] * self.number, []

        def work(rank):
            try:
                results[rank] = functions[rank]()
            except Exception as error:
                errors.append(error)
                self.barrier.abort()

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return results


class ThreadProcesses(Processes):
    """Processes whose sums go through memory, added up in the order of ranks."""

    def __init__(self, meeting, rank):
        super().__init__()
        self.number, self.rank, self._grouped, self._meeting = meeting.number, rank, True, meeting

    def sum_into(self, values):
        meeting = self._meeting
        meeting.values[self.rank] = values.detach().clone()
        meeting.barrier.wait()
        total = sum(meeting.values[rank] for rank in range(self.number))
        meeting.barrier.wait()
        values.copy_(total)
