"""Shortest paths against scipy's Dijkstra, brute force and closed forms."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from planners import GridGraph, Path, shortest_path


class Edges:
    """A graph from a matrix of costs; infinite where there is no edge."""

    def __init__(self, costs):
        self.costs = costs
        self.asked = []

    def successors(self, node):
        self.asked.append(node)
        return [(int(j), float(self.costs[node, j])) for j in np.flatnonzero(np.isfinite(self.costs[node]))]


def random_costs(rng, size=40, degree=3.0, whole=False):
    costs = rng.integers(1, 20, (size, size)).astype(float) if whole else rng.uniform(0.1, 10.0, (size, size))
    costs[rng.random((size, size)) > degree / size] = np.inf
    return costs


def distances(costs, *, to=None, start=None):
    """All distances from a start, or to a goal, by scipy."""
    sparse = csr_matrix(np.where(np.isfinite(costs), costs, 0.0))
    return dijkstra(sparse, indices=start) if to is None else dijkstra(sparse.T.tocsr(), indices=to)


def check_path(path, costs, start, goal, optimum):
    """A path from start to goal along edges, as long as it says and as short as possible; or none where there is none."""
    assert path.found == np.isfinite(optimum)
    if not path.found:
        assert path.nodes == ()
        assert path.cost == math.inf
        return
    assert (path.nodes[0], path.nodes[-1]) == (start, goal)
    assert math.isclose(path.cost, sum(costs[i, j] for i, j in itertools.pairwise(path.nodes)), rel_tol=1e-12)
    assert math.isclose(path.cost, optimum, rel_tol=1e-12, abs_tol=1e-12)


@pytest.mark.parametrize("seed", range(30))
def test_dijkstra_on_random_graphs(seed):
    rng = np.random.default_rng(seed)
    costs = random_costs(rng)
    optimum = distances(costs, start=0)
    for goal in range(len(costs)):
        check_path(shortest_path(Edges(costs), 0, goal), costs, 0, goal, optimum[goal])


@pytest.mark.parametrize("seed", range(30))
def test_a_star_on_random_graphs(seed):
    """A consistent heuristic: optimal, no node twice, no more expansions than without it."""
    rng = np.random.default_rng(seed)
    costs = random_costs(rng, whole=seed % 2 == 0)
    optimum = distances(costs, start=0)
    for goal in rng.integers(0, len(costs), 10).tolist():
        exact = distances(costs, to=goal)
        for share in (0.5, 1.0):
            graph = Edges(costs)
            path = shortest_path(graph, 0, goal, lambda node, h=share * exact: h[node])
            check_path(path, costs, 0, goal, optimum[goal])
            assert path.expansions == len(graph.asked)
            assert len(set(graph.asked)) == len(graph.asked)
            if path.found:
                assert path.expansions <= shortest_path(Edges(costs), 0, goal).expansions
            else:
                assert path.expansions == 0  # the bound says so


def test_the_exact_heuristic_expands_the_path_alone():
    costs = random_costs(np.random.default_rng(3))
    exact = distances(costs, to=7)
    assert np.isfinite(exact[0])
    path = shortest_path(Edges(costs), 0, 7, lambda node: exact[node])
    assert path.expansions == len(path.nodes) - 1


def test_inconsistent_heuristics_are_optimal():
    """Admissible bounds that jump from node to node make the search open nodes again."""
    reopened = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        costs = random_costs(rng, size=30, degree=6.0)
        optimum = distances(costs, start=0)
        goal = int(rng.integers(1, 30))
        bound = np.where(rng.random(30) < 0.5, distances(costs, to=goal), 0.0)
        graph = Edges(costs)
        check_path(shortest_path(graph, 0, goal, lambda node, h=bound: h[node]), costs, 0, goal, optimum[goal])
        reopened += len(graph.asked) > len(set(graph.asked))
    assert reopened >= 5


def test_a_node_that_must_be_opened_again():
    """The textbook case: h(b) is exact and h(a) is not, so b is first expanded at a cost that a undercuts."""
    edges = {"s": [("a", 1.0), ("b", 3.0)], "a": [("b", 1.0)], "b": [("g", 3.0)], "g": []}
    bound = {"s": 0.0, "a": 4.0, "b": 0.0, "g": 0.0}

    class Textbook:
        def successors(self, node):
            return edges[node]

    path = shortest_path(Textbook(), "s", "g", bound.__getitem__)
    assert path.nodes == ("s", "a", "b", "g")
    assert path.cost == 5.0
    assert path.expansions == 4  # s, b, a, b again
    assert path.positions is None


def test_a_bound_that_is_too_high_gives_some_path_with_its_own_cost():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        costs = random_costs(rng, degree=5.0)
        bound = 5.0 * rng.random(len(costs)) * 20.0
        path = shortest_path(Edges(costs), 0, 9, lambda node, h=bound: h[node])
        if path.found:
            total = sum(costs[i, j] for i, j in itertools.pairwise(path.nodes))
            assert math.isclose(path.cost, total, rel_tol=1e-12)
            assert path.cost >= distances(costs, start=0)[9] - 1e-12


def test_edges_without_cost_and_negative_bounds():
    class Ring:
        def successors(self, node):
            return [((node + 1) % 5, 0.0), ((node + 3) % 5, 0.0)]

    for goal in range(5):
        path = shortest_path(Ring(), 0, goal, lambda node: -1.0)
        assert path.found
        assert path.cost == 0.0
        assert len(set(path.nodes)) == len(path.nodes)


def test_a_set_of_goals():
    costs = random_costs(np.random.default_rng(5))
    optimum = distances(costs, start=0)
    goals = {11, 17, 23, 31}
    path = shortest_path(Edges(costs), 0, goals.__contains__)
    assert path.nodes[-1] in goals
    assert math.isclose(path.cost, min(optimum[goal] for goal in goals), rel_tol=1e-12)


def test_start_at_the_goal():
    path = shortest_path(Edges(random_costs(np.random.default_rng(0))), 4, 4)
    assert (path.nodes, path.cost, path.expansions, path.found) == ((4,), 0.0, 0, True)


def test_infinite_graphs_and_infinite_edges():
    class Integers:
        def successors(self, node):
            return [(node + 1, 1.0), (node - 1, 1.0), (node + 100, math.inf)]

    path = shortest_path(Integers(), 0, 100, lambda node: abs(100 - node))
    assert path.cost == 100.0
    assert path.expansions == 100


@pytest.mark.parametrize("bad", [-1.0, math.nan])
def test_bad_edges(bad):
    class Bad:
        def successors(self, node):
            return [(node + 1, bad)]

    with pytest.raises(ValueError, match=rf"must not be negative or NaN, got {bad} from 0 to 1"):
        shortest_path(Bad(), 0, 3)


def test_bad_arguments():
    with pytest.raises(TypeError, match=r"successors\(node\) -> \[\(node, cost\), ...\], got dict"):
        shortest_path({}, 0, 1)
    graph = Edges(random_costs(np.random.default_rng(0)))
    with pytest.raises(TypeError, match="start must be hashable, such as a tuple, got list"):
        shortest_path(graph, [0], 1)
    with pytest.raises(TypeError, match="goal must be hashable, such as a tuple, got list"):
        shortest_path(graph, 0, [1])
    with pytest.raises(ValueError, match=r"heuristic must be a number, .*, got NaN at 0"):
        shortest_path(graph, 0, 1, lambda node: math.nan)


# Grids


def grid_matrix(costs, connectivity, cell_size, cut_corners):
    """All edges of a grid, written down independently: pairs of cells, numpy's norms, and a scan of the cells between."""
    cells = list(np.ndindex(costs.shape))
    matrix = np.full((len(cells), len(cells)), np.inf)
    for (i, a), (j, b) in itertools.permutations(enumerate(cells), 2):
        step = np.subtract(b, a)
        if np.abs(step).max() != 1 or (connectivity in (4, 6) and np.abs(step).sum() != 1):
            continue
        box = costs[tuple(slice(min(p, q), max(p, q) + 1) for p, q in zip(a, b, strict=True))]
        if np.isinf(costs[a]) or np.isinf(costs[b]) or (not cut_corners and np.isinf(box).any()):
            continue
        matrix[i, j] = cell_size * np.linalg.norm(step) * (costs[a] + costs[b]) / 2
    return cells, matrix


GRIDS = [((6, 7), 4), ((6, 7), 8), ((3, 4, 3), 6), ((3, 4, 3), 26), ((1, 9), 8), ((5, 1), 4)]


@pytest.mark.parametrize("cut_corners", [False, True])
@pytest.mark.parametrize(("shape", "connectivity"), GRIDS)
def test_grids(shape, connectivity, cut_corners):
    expansions = np.zeros(3, dtype=int)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        costs = rng.uniform(0.5, 3.0, shape) if seed % 3 else np.ones(shape)
        blocked = rng.random(shape) < 0.25
        grid = GridGraph(costs, connectivity, 0.3, obstacles=blocked, cut_corners=cut_corners)
        cells, matrix = grid_matrix(np.where(blocked, np.inf, costs), connectivity, 0.3, cut_corners)
        free = [cell for cell in cells if not blocked[cell]]
        if len(free) < 2:
            continue
        start, goal = (free[i] for i in rng.choice(len(free), 2, replace=False))
        exact = distances(matrix, to=cells.index(goal))
        found = []
        for heuristic in (None, grid.heuristic(goal, "euclidean"), grid.heuristic(goal)):
            path = shortest_path(grid, start, goal, heuristic)
            numbered = Path(tuple(map(cells.index, path.nodes)), path.cost, path.expansions)
            check_path(numbered, matrix, cells.index(start), cells.index(goal), exact[cells.index(start)])
            found.append(path.expansions)
        assert found[0] >= found[1] >= found[2] or not path.found
        expansions += found
        bounds = grid.heuristic(goal), grid.heuristic(goal, "euclidean")
        for cell in free:  # admissible, the straight line the weaker bound
            h = [bound(cell) for bound in bounds]
            assert h[1] <= h[0] * (1 + 1e-12)
            assert h[0] <= exact[cells.index(cell)] * (1 + 1e-12)
    assert expansions[0] > 0


@pytest.mark.parametrize(("shape", "connectivity"), GRIDS)
def test_the_bound_of_an_empty_grid_is_its_distance(shape, connectivity):
    grid = GridGraph(torch.full(shape, 2.0), connectivity, 0.5)
    goal = tuple(size // 2 for size in shape)
    bound = grid.heuristic(goal)
    cells, matrix = grid_matrix(np.full(shape, 2.0), connectivity, 0.5, False)
    exact = distances(matrix, to=cells.index(goal))
    np.testing.assert_allclose([bound(cell) for cell in cells], exact, rtol=1e-12)


class CountedGrid(GridGraph):
    asked: list

    def successors(self, node):
        self.asked.append(node)
        return super().successors(node)


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("seed", range(3))
def test_larger_grids_expand_no_cell_twice(connectivity, seed):
    """Exactly where sums are exact; elsewhere two sums of the same numbers may differ in the last bit."""
    rng = np.random.default_rng(seed)
    blocked = rng.random((60, 60)) < 0.2
    blocked[[0, -1], [0, -1]] = False
    for costs in (rng.integers(1, 4, (60, 60)), rng.uniform(1.0, 4.0, (60, 60))):
        grid = CountedGrid(costs, connectivity, obstacles=blocked)
        object.__setattr__(grid, "asked", [])
        path = shortest_path(grid, (0, 0), (59, 59), grid.heuristic((59, 59)))
        assert path.expansions == len(grid.asked)
        again = len(grid.asked) - len(set(grid.asked))
        assert again == 0 if costs.dtype == int and connectivity == 4 else again <= 0.02 * len(grid.asked)
        plain = shortest_path(grid, (0, 0), (59, 59))
        assert path.found == plain.found
        if path.found:
            assert math.isclose(path.cost, plain.cost, rel_tol=1e-12)
            assert path.expansions < plain.expansions


def test_a_wall_with_a_gap():
    """Around a wall by hand: along it, through the gap, back."""
    obstacles = torch.zeros(5, 5, dtype=torch.bool)
    obstacles[2, :4] = True
    straight = shortest_path(GridGraph(torch.ones(5, 5), 4, obstacles=obstacles), (0, 0), (4, 0))
    assert straight.cost == straight.length == 12.0
    diagonal = shortest_path(GridGraph(torch.ones(5, 5), obstacles=obstacles), (0, 0), (4, 0))
    # to the gap's corner and through it without cutting: 2 diagonals and 4 steps on each side at best, by symmetry
    assert math.isclose(diagonal.cost, 2 * (math.sqrt(2) + 4), rel_tol=1e-12)
    cutting = shortest_path(GridGraph(torch.ones(5, 5), obstacles=obstacles, cut_corners=True), (0, 0), (4, 0))
    assert math.isclose(cutting.cost, 2 * (2 * math.sqrt(2) + 2), rel_tol=1e-12)
    obstacles[2, 4] = True
    closed = shortest_path(GridGraph(torch.ones(5, 5), obstacles=obstacles), (0, 0), (4, 0))
    assert not closed.found
    assert closed.expansions == 10
    assert closed.length == math.inf
    assert "cannot be reached" in str(closed)


def test_infinite_costs_are_obstacles_and_zero_costs_are_free():
    costs = np.array([[1.0, np.inf, 1.0], [0.0, 0.0, 0.0]])
    grid = GridGraph(costs)
    path = shortest_path(grid, (0, 0), (0, 2), grid.heuristic((0, 2)))
    assert path.nodes == ((0, 0), (1, 0), (1, 1), (1, 2), (0, 2))
    assert path.cost == 1.0


def test_positions_and_cells():
    grid = GridGraph(np.ones((4, 6)), cell_size=0.5, origin=[-1.0, 2.0])
    path = shortest_path(grid, (0, 0), (3, 5))
    torch.testing.assert_close(path.positions[0], torch.tensor([-1.0, 2.0]).double())
    torch.testing.assert_close(path.positions[-1], torch.tensor([0.5, 4.5]).double())
    assert [grid.cell_at(position) for position in path.positions] == list(path.nodes)
    assert grid.cell_at([-1.24, 2.24]) == (0, 0)
    for outside in ([-1.26, 2.0], [0.76, 2.0], [0.0, 4.8]):
        with pytest.raises(ValueError, match="outside the grid"):
            grid.cell_at(outside)
    with pytest.raises(ValueError, match=r"finite, of shape \(2,\)"):
        grid.cell_at([0.0, math.nan])
    assert grid.positions([]).shape == (0, 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"costs": np.ones(3)}, r"shape \(H, W\) or \(H, W, D\), none of them zero, got \(3,\)"),
        ({"costs": np.ones((3, 0))}, "none of them zero"),
        ({"costs": [[1.0, -2.0]]}, r"negative or NaN, got -2.0 at \(0, 1\)"),
        ({"costs": [[1.0], [math.nan]]}, r"got nan at \(1, 0\)"),
        ({"connectivity": 6}, "connectivity must be 4 or 8 in 2 dimensions, got 6"),
        ({"costs": np.ones((2, 2, 2)), "connectivity": 8}, "6 or 26 in 3 dimensions, got 8"),
        ({"cell_size": 0.0}, "cell_size must be a positive number of meters, got 0.0"),
        ({"origin": [0.0]}, r"origin must be a finite position of shape \(2,\) \[m\], got \[0.0\]"),
        (
            {"obstacles": np.zeros((2, 3), dtype=bool)},
            r"mask of bool of shape \(2, 2\) as costs has, got torch.bool \(2, 3\)",
        ),
        ({"obstacles": np.zeros((2, 2))}, "mask of bool"),
    ],
)
def test_bad_grids(fields, message):
    with pytest.raises(ValueError, match=message):
        GridGraph(**{"costs": np.ones((2, 2)), **fields})


@pytest.mark.parametrize(
    ("start", "goal", "message"),
    [
        ((0, 3), (1, 1), r"start must be a tuple of integers in 0..1 x 0..2, got \(0, 3\)"),
        ((0, -1), (1, 1), "start must be a tuple"),
        ((0, 0), (2, 0), "goal must be a tuple"),
        ((0, 0), (0.0, 1.0), "goal must be a tuple of integers"),
        ((0,), (1, 1), "start must be a tuple"),
        ((0, 1), (1, 1), r"start \(0, 1\) is an obstacle; choose a free cell"),
        ((0, 0), (0, 1), r"goal \(0, 1\) is an obstacle"),
    ],
)
def test_cells_outside_and_blocked(start, goal, message):
    grid = GridGraph(torch.tensor([[1.0, math.inf, 1.0], [1.0, 1.0, 1.0]]))
    with pytest.raises(ValueError, match=message):
        shortest_path(grid, start, goal)
    if message.startswith("goal"):
        with pytest.raises(ValueError, match=message):
            grid.heuristic(goal)


def test_unknown_kind_of_heuristic():
    with pytest.raises(ValueError, match="'grid' or 'euclidean', got 'manhattan'"):
        GridGraph(np.ones((2, 2))).heuristic((0, 0), "manhattan")


# Resampling


def test_resampled_positions_have_equal_distances():
    points = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 1.0], [7.0, 4.0]]).double()
    path = Path((0, 1, 2, 3), 1.0, 0, points)
    assert path.length == 9.0
    at = path.resampled(10)
    expected = [[0, 0], [1, 0], [2, 0], [3, 0], [3, 1], [3.8, 1.6], [4.6, 2.2], [5.4, 2.8], [6.2, 3.4], [7, 4]]
    torch.testing.assert_close(at, torch.tensor(expected).double())
    assert torch.equal(path.resampled(2), points[[0, -1]])


def test_resampling_more_finely_traces_the_polyline():
    grid = GridGraph(np.ones((9, 13)), cell_size=0.2)
    path = shortest_path(grid, (0, 0), (8, 12))
    at = path.resampled(1001)
    assert torch.equal(at[[0, -1]], path.positions[[0, -1]])
    steps = at.diff(dim=0).norm(dim=-1)
    assert float(steps.max()) <= path.length / 1000 * (1 + 1e-9)
    assert math.isclose(float(steps.sum()), path.length, rel_tol=1e-4)  # corners are cut within one step


def test_resampling_one_node_and_none():
    grid = GridGraph(np.ones((2, 2)), cell_size=2.0)
    assert torch.equal(shortest_path(grid, (1, 1), (1, 1)).resampled(3), torch.full((3, 2), 2.0).double())
    with pytest.raises(ValueError, match="the goal cannot be reached"):
        Path((), math.inf, 3).resampled(5)
    with pytest.raises(ValueError, match="have no positions"):
        Path((0, 1), 1.0, 3).resampled(5)
    with pytest.raises(ValueError, match="count must be an integer of at least 2, the start and the end, got 1"):
        shortest_path(grid, (0, 0), (1, 1)).resampled(1)
