r"""Shortest paths in graphs: A* (Hart, Nilsson and Raphael 1968), and Dijkstra's algorithm, which is A* without a heuristic.

.. math:: \min_{v_0 = s, \, v_k \in G} \; \sum_{i=0}^{k-1} c(v_i, v_{i+1}), \qquad c \ge 0

The open node with the smallest :math:`f(v) = g(v) + h(v)` is expanded next; g is the cost of the cheapest path to v so far, and
h is a lower bound of the cost from v to the goal. The search ends when a goal is expanded, not when it is first seen. A node to
which a cheaper path is found later is opened again, so that the result is optimal for every admissible h; where h is consistent,
:math:`h(v) \le c(v, w) + h(w)`, no node is expanded twice, but for rounding. Of two nodes with the same f, the one closer to
the goal comes first.
"""

import heapq
import math
from collections.abc import Callable, Hashable, Iterable
from itertools import count
from typing import Any, Protocol

from planners.search.paths import Path


class Graph(Protocol):
    """A directed graph, given by the edges that leave a node.

    Two methods are optional: ``positions(nodes) -> (L, d)`` [m] gives the path its positions, and ``check_node(name, node)``
    raises ValueError where a start or goal is no node of the graph.
    """

    def successors(self, node: Any) -> Iterable[tuple[Hashable, float]]:
        """The nodes that an edge leads to, each with the cost of the edge, which is not negative; infinite means no edge."""
        ...


def shortest_path(
    graph: Graph,
    start: Hashable,
    goal: Hashable | Callable[[Any], bool],
    heuristic: Callable[[Any], float] | None = None,
) -> Path:
    """The cheapest path from a start to a goal: A* with a heuristic, Dijkstra's algorithm without one.

    Args:
        graph: anything with ``successors(node) -> iterable of (node, cost)``; nodes are hashable. :class:`GridGraph` is one.
        start: the first node.
        goal: the last node, or a function that is true for every node of a set of goals.
        heuristic: a lower bound of the cost from a node to the goal; infinite where it is known that no path leads there.
            The result is the cheapest path for every such bound; where it is too high, only some path.

    Returns:
        The path; ``found`` is false where no goal can be reached.

    Raises:
        ValueError: an edge has a negative cost or NaN, the heuristic is NaN, or start or goal is outside the graph or blocked.
        TypeError: graph has no successors, or a node is not hashable.

    Example:
        >>> from planners import shortest_path
        >>> class Subway:
        ...     lines = {"home": [("center", 4.0), ("park", 1.0)], "park": [("center", 2.0)], "center": []}
        ...     def successors(self, node):
        ...         return self.lines[node]
        >>> shortest_path(Subway(), "home", "center").nodes
        ('home', 'park', 'center')
    """
    is_goal = _checked(graph, start, goal)
    estimate = heuristic or _nothing
    cost: dict[Hashable, float] = {start: 0.0}
    arrival: dict[Hashable, tuple[Hashable, float]] = {}  # the node before, and the cost of the edge
    bound = {start: _bound(estimate, start)}
    order = count()
    queue = [(bound[start], bound[start], next(order), 0.0, start)]  # by f, then by h, then first come, first served
    expansions = 0
    while queue:
        f, _, _, g, node = heapq.heappop(queue)
        if g > cost[node] or f == math.inf:  # a cheaper path was found since, or none can lead to the goal
            continue
        if is_goal(node):
            return _path(graph, node, arrival, expansions)
        expansions += 1
        for neighbor, edge in graph.successors(node):
            if not edge >= 0:
                raise ValueError(f"costs of edges must not be negative or NaN, got {edge} from {node} to {neighbor}")
            through = g + edge
            if through < cost.get(neighbor, math.inf):
                if neighbor not in bound:
                    bound[neighbor] = _bound(estimate, neighbor)
                cost[neighbor], arrival[neighbor] = through, (node, edge)
                h = bound[neighbor]
                heapq.heappush(queue, (through + h, h, next(order), through, neighbor))
    return Path((), math.inf, expansions)


def _checked(graph: Graph, start: Hashable, goal: Hashable | Callable[[Any], bool]) -> Callable[[Any], bool]:
    """The test for a goal, after start and goal were checked."""
    if not callable(getattr(graph, "successors", None)):
        raise TypeError(f"graph must have a method successors(node) -> [(node, cost), ...], got {type(graph).__name__}")
    check = getattr(graph, "check_node", None)
    for name, node in (("start", start),) if callable(goal) else (("start", start), ("goal", goal)):
        if not isinstance(node, Hashable):
            raise TypeError(f"{name} must be hashable, such as a tuple, got {type(node).__name__}")
        if check is not None:
            check(name, node)
    return goal if callable(goal) else lambda node: node == goal


def _nothing(node: Any) -> float:
    return 0.0


def _bound(heuristic: Callable[[Any], float], node: Hashable) -> float:
    h = float(heuristic(node))
    if math.isnan(h):
        raise ValueError(f"heuristic must be a number, a lower bound of the cost to the goal, got NaN at {node}")
    return max(h, 0.0)  # costs are not negative


def _path(graph: Any, goal: Hashable, arrival: dict[Hashable, tuple[Hashable, float]], expansions: int) -> Path:
    nodes, edges = [goal], []
    while nodes[-1] in arrival:
        node, edge = arrival[nodes[-1]]
        nodes.append(node)
        edges.append(edge)
    nodes = tuple(reversed(nodes))
    cost = float(sum(reversed(edges)))  # of these nodes: under a heuristic that is too high, g may lag behind
    positions = graph.positions(nodes) if hasattr(graph, "positions") else None
    return Path(nodes, cost, expansions, positions)
