"""Costs of terrain from paths, against all paths of small maps, exact programs and finite differences."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

import mbrl
from dynamics import Car, LinearDynamics, TorchDynamics, Trajectory
from mbrl.irl.learch import objective_and_directions
from mbrl.irl.path_margin import PathMargin
from planners import (
    ICEM,
    LQR,
    MPPI,
    CostMap,
    DiagonalQuadraticCost,
    ExponentialTerrain,
    FeatureGrid,
    FunctionCost,
    GoalCost,
    KnotNoise,
    LinearFeatureCost,
    LinearTerrain,
    Path,
    Problem,
    shortest_path,
    solve,
)

TRUE = [3.0, 9.0]
ENUMERATED = mbrl.MaxMarginPlanning(margin=0.8, margin_width=0.5, l2=0.05, tolerance=1e-7)


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def all_paths(shape, start, goal):
    """Every way from start to goal with 8 neighbors that visits no cell twice."""
    found, stack = [], [(start,)]
    while stack:
        path = stack.pop()
        if path[-1] == goal:
            found.append(path)
            continue
        for i in (-1, 0, 1):
            for j in (-1, 0, 1):
                cell = (path[-1][0] + i, path[-1][1] + j)
                if 0 <= cell[0] < shape[0] and 0 <= cell[1] < shape[1] and cell not in path:
                    stack.append((*path, cell))
    return found


def meters(paths, shape, size):
    """Meters of each path in each cell ``(P, H W)``, counted step by step."""
    visits = np.zeros((len(paths), *shape))
    for row, path in zip(visits, paths, strict=True):
        for a, b in itertools.pairwise(path):
            for cell in (a, b):
                row[cell] += 0.5 * size * math.dist(a, b)
    return visits.reshape(len(paths), -1)


def small():
    """Two maps of 3 by 3 cells with three paths, which are not the best of any weights."""
    grids = [FeatureGrid(draw(2, 3, 3, seed=s), cell_size=0.5) for s in (1, 2)]
    paths = [[((0, 0), (1, 0), (2, 1), (2, 2)), ((0, 2), (1, 1), (2, 0))], [((0, 0), (0, 1), (0, 2), (1, 2))]]
    return grids, [[Path(p, 0.0, 0) for p in scene] for scene in paths]


def brute_force(settings, grids, demonstrations):
    """For each demonstration: its meters, those of all paths, their losses, its length, its features by cell."""
    terms = []
    for grid, paths in zip(grids, demonstrations, strict=True):
        size = grid.cell_size
        for path in paths:
            every = meters(all_paths(grid.shape, path.nodes[0], path.nodes[-1]), grid.shape, size)
            own = meters([path.nodes], grid.shape, size)[0]
            loss = np.zeros(grid.shape)
            for cell in np.ndindex(*grid.shape):
                away = size * min(math.dist(cell, node) for node in path.nodes)
                loss[cell] = settings.margin * (1.0 - math.exp(-0.5 * (away / settings.margin_width) ** 2))
            terms.append((own, every, every @ loss.ravel(), own.sum(), grid.features.numpy().reshape(2, -1)))
    return terms


def brute_force_objective(terms, costs):
    parts = [
        (own @ c - (every @ c - losses).min()) / length
        for (own, every, losses, length, _), c in zip(terms, costs, strict=True)
    ]
    return sum(parts) / len(parts)


def random_costs(seed):
    return [1.0 + 2.0 * draw(3, 3, seed=seed + s) for s in (0, 50)]


def test_the_objective_is_that_of_all_paths():
    grids, demonstrations = small()
    margin, terms = PathMargin(ENUMERATED, LinearTerrain(TRUE), grids, demonstrations), None
    terms = brute_force(ENUMERATED, grids, demonstrations)
    for seed in range(6):
        a, b = random_costs(seed)
        flat = [c.numpy().ravel() for c in (a, a, b)]
        assert margin.value_and_gradients([a, b])[0] == pytest.approx(brute_force_objective(terms, flat), rel=1e-10)
        assert margin.value_and_gradients([a, b])[0] >= 0


def test_sub_gradients_are_slopes_and_bounds():
    grids, demonstrations = small()
    margin = PathMargin(ENUMERATED, LinearTerrain(TRUE), grids, demonstrations)
    for seed in range(4):
        costs = random_costs(seed)
        value, gradients, _ = margin.value_and_gradients(costs)
        for other_seed in range(10, 14):  # convex: nowhere below the tangent
            others = random_costs(other_seed)
            tangent = value + sum(float((g * (o - c)).sum()) for g, o, c in zip(gradients, others, costs, strict=True))
            assert margin.value_and_gradients(others)[0] >= tangent - 1e-12
        for scene in range(2):
            for cell in ((0, 1), (1, 1), (2, 2)):
                values = []
                for step in (1e-6, -1e-6):
                    moved = [c.clone() for c in costs]
                    moved[scene][cell] += step
                    values.append(margin.value_and_gradients(moved)[0])
                assert (values[0] - values[1]) / 2e-6 == pytest.approx(float(gradients[scene][cell]), abs=1e-6)


def slopes(numbers, value):
    """Derivatives of a value by numbers that it depends on, by finite differences."""
    numeric = torch.zeros_like(numbers).view(-1)
    for i in range(numbers.numel()):
        values = []
        for step in (1e-6, -1e-6):
            numbers.data.view(-1)[i] += step
            values.append(value())
            numbers.data.view(-1)[i] -= step
        numeric[i] = (values[0] - values[1]) / 2e-6
    return numeric.reshape(numbers.shape)


@pytest.mark.parametrize(
    "terrain", [ExponentialTerrain(2), ExponentialTerrain(2, hidden=(3,), kernel_size=3), LinearTerrain([0.7, 0.4])]
)
def test_gradients_by_parameters_are_those_of_finite_differences(terrain):
    grids, demonstrations = small()
    margin = PathMargin(ENUMERATED, terrain, grids, demonstrations)
    for i, parameter in enumerate(margin.terrain.parameters()):
        parameter.data += 0.3 * draw(*parameter.shape, seed=i)
    _, gradients = objective_and_directions(margin, margin.terrain, 0.1, False)
    if isinstance(terrain, LinearTerrain):
        gradients = [gradients[0] * margin.terrain.weights.detach()]  # by weights; the parameters are their logarithms
    for parameter, gradient in zip(margin.terrain.parameters(), gradients, strict=True):
        numeric = slopes(parameter, lambda: objective_and_directions(margin, margin.terrain, 0.1, False)[0])
        torch.testing.assert_close(gradient, numeric, rtol=1e-5, atol=1e-7)


def exact_program():
    """The minimum of the objective over weights that are not negative, all paths being constraints."""
    import cvxpy as cp

    grids, demonstrations = small()
    w, worst, cuts = cp.Variable(2, nonneg=True), cp.Variable(3), []
    for k, (own, every, losses, length, features) in enumerate(brute_force(ENUMERATED, grids, demonstrations)):
        mine = own.sum() + (features @ own) @ w
        theirs = every.sum(1) + (every @ features.T) @ w - losses
        cuts.append(worst[k] >= (mine - theirs) / length)
    program = cp.Problem(cp.Minimize(0.5 * ENUMERATED.l2 * cp.sum_squares(w) + cp.sum(worst) / 3), cuts)
    program.solve(solver=cp.CLARABEL)
    return program.value, w.value


def test_maximum_margin_planning_finds_the_exact_minimum():
    grids, demonstrations = small()
    learned = ENUMERATED.learn(LinearTerrain([0.0, 0.0]), grids, demonstrations)
    value, weights = exact_program()
    assert learned.converged
    assert learned.history["objective"][-1] == pytest.approx(value, abs=1e-6)
    assert learned.history["bound"][-1] == pytest.approx(value, abs=1e-6)
    np.testing.assert_allclose(learned.terrain.weights.detach(), weights, atol=2e-3)


def test_exponentiated_steps_find_the_same_minimum():
    grids, demonstrations = small()
    settings = mbrl.LEARCH(margin=0.8, margin_width=0.5, l2=0.05, max_iterations=120, patience=120, learning_rate=0.1)
    start = LinearTerrain([1.0, 1.0])
    learned = settings.learn(start, grids, demonstrations)
    value, _ = exact_program()
    assert value - 1e-9 <= min(learned.history["objective"]) <= value + 1e-3
    assert start.weights.tolist() == [1.0, 1.0]  # what was handed in stays


def scenes(count, seed=0):
    """Patches of two kinds of terrain, and four optimal paths across each map."""
    generator = torch.Generator().manual_seed(seed)
    grids, demonstrations = [], []
    for _ in range(count):
        noise = torch.randn(1, 2, 5, 4, generator=generator, dtype=torch.float64)
        field = torch.nn.functional.interpolate(noise, size=(18, 15), mode="bicubic")[0]
        grids.append(FeatureGrid((field > 0.3).double(), cell_size=0.5))
        graph = CostMap(LinearTerrain(TRUE), grids[-1]).graph()
        ends = torch.randint(15, (4, 2), generator=generator).tolist()
        demonstrations.append([shortest_path(graph, (0, a), (17, b)) for a, b in ends])
    return grids, demonstrations


def regret(terrain, grids, demonstrations):
    """Mean regret of plans between the ends of demonstrations."""
    values = [
        mbrl.path_regret(
            CostMap(LinearTerrain(TRUE), grid),
            shortest_path(CostMap(terrain, grid).graph(), path.nodes[0], path.nodes[-1]),
        )
        for grid, paths in zip(grids, demonstrations, strict=True)
        for path in paths
    ]
    return sum(values) / len(values)


@pytest.mark.parametrize(
    ("learner", "terrain"),
    [
        (mbrl.MaxMarginPlanning(), lambda: LinearTerrain([0.0, 0.0])),
        (mbrl.LEARCH(max_iterations=15), lambda: LinearTerrain([1.0, 1.0])),
        (mbrl.LEARCH(max_iterations=15), lambda: ExponentialTerrain(2, hidden=(8,))),
        (mbrl.LEARCH(max_iterations=15, exponentiated=True), lambda: ExponentialTerrain(2)),
    ],
)
def test_paths_are_planned_in_scenes_that_nobody_has_seen(learner, terrain):
    grids, demonstrations = scenes(6)
    learned = learner.learn(terrain(), grids[:3], demonstrations[:3])
    uniform = regret(LinearTerrain([0.0, 0.0]), grids[3:], demonstrations[3:])
    assert regret(LinearTerrain(TRUE), grids[3:], demonstrations[3:]) == pytest.approx(0.0, abs=1e-12)
    assert regret(learned.terrain, grids[3:], demonstrations[3:]) < 0.2 * uniform
    assert uniform > 0.2
    kinds = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64).unsqueeze(
        -1
    )  # (2, 3, 1), three cells
    road, one, other = learned.terrain(kinds).flatten().tolist()
    assert road < one < other


def test_learning_twice_is_the_same():
    grids, demonstrations = scenes(2)
    settings = mbrl.LEARCH(max_iterations=5)
    twice = [settings.learn(ExponentialTerrain(2, hidden=(4,)), grids, demonstrations) for _ in range(2)]
    assert twice[0].history == twice[1].history


def test_paths_positions_and_trajectories_are_the_same_demonstrations():
    grids, demonstrations = scenes(1)
    path = demonstrations[0][0]
    positions = path.positions
    states = torch.cat([positions, torch.zeros(len(positions), 2)], dim=-1).numpy()
    controls = np.zeros((len(positions) - 1, 1))
    forms = [
        path,
        positions,
        Trajectory(positions.numpy(), controls, dt=0.1),
        Trajectory(np.zeros((len(positions), 1)), controls, states=states, dt=0.1),
    ]
    costs = [1.0 + draw(18, 15)]
    values = [
        PathMargin(mbrl.LEARCH(), LinearTerrain(TRUE), grids, [[form]]).value_and_gradients(costs)[0] for form in forms
    ]
    assert values[1:] == [values[1]] * 3
    assert values[0] == pytest.approx(values[1], abs=0.2)  # without the corners that positions are cut of


def test_obstacles_are_planned_around():
    mask = torch.zeros(5, 5, dtype=torch.bool)
    mask[2, :4] = True
    grid = FeatureGrid(draw(2, 5, 5), obstacles=mask)
    graph = CostMap(LinearTerrain(TRUE), grid).graph()
    path = shortest_path(graph, (0, 0), (4, 0))
    learned = mbrl.LEARCH(max_iterations=3).learn(LinearTerrain([1.0, 1.0]), [grid], [[path]])
    planned = shortest_path(learned.on(grid).graph(), (0, 0), (4, 0))
    assert (2, 4) in planned.nodes


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (lambda g, d: (GoalCost(0.0, 1.0, 1.0), g, d), TypeError, "TerrainCost"),
        (lambda g, d: (LinearTerrain(TRUE), g[0], d), TypeError, "one entry for each scene"),
        (lambda g, d: (LinearTerrain(TRUE), g, d[:1]), ValueError, "as many"),
        (lambda g, d: (LinearTerrain(TRUE), g, [[], []]), ValueError, "at least one path"),
        (lambda g, d: (LinearTerrain(TRUE), [g[0].features] * 2, d), TypeError, "FeatureGrid of one scene"),
        (lambda g, d: (LinearTerrain([1.0]), g, d), ValueError, "is for 1 features"),
        (
            lambda g, d: (LinearTerrain(TRUE), g, [d[0], [torch.zeros(2, 2) - 9]]),
            ValueError,
            "demonstration 0 in scene 1",
        ),
        (lambda g, d: (LinearTerrain(TRUE), g, [d[0], [torch.zeros(2, 2)]]), ValueError, "where it begins"),
    ],
)
@pytest.mark.parametrize("learner", [mbrl.MaxMarginPlanning(), mbrl.LEARCH()])
def test_what_does_not_fit_is_refused(learner, arguments, error, message):
    with pytest.raises(error, match=message):
        learner.learn(*arguments(*small()))


def test_what_steps_cannot_change_is_refused():
    with pytest.raises(ValueError, match="begin with positive ones"):
        mbrl.LEARCH().learn(LinearTerrain([1.0, 0.0]), *small())
    with pytest.raises(ValueError, match="parameters to learn"):
        mbrl.LEARCH().learn(ExponentialTerrain(2).requires_grad_(False), *small())


def test_settings_out_of_range_are_refused():
    for bad in ({"margin": 1.5}, {"learning_rate": 0.0}, {"patience": 0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            mbrl.LEARCH(**bad)
    for bad in ({"l2": 0.0}, {"margin_width": -1.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            mbrl.MaxMarginPlanning(**bad)
    with pytest.raises(TypeError, match="LEARCH learns others"):
        mbrl.MaxMarginPlanning().learn(ExponentialTerrain(2), *small())


# --- metrics


def line(y, *, start=0.0, end=4.0):
    return torch.tensor([[start, y], [end, y]], dtype=torch.float64)


def test_distances_of_parallel_lines():
    assert mbrl.modified_hausdorff_distance(line(0.0), line(0.75)) == pytest.approx(0.75)
    assert mbrl.modified_hausdorff_distance(line(0.0), line(0.0)) == 0.0
    half = mbrl.modified_hausdorff_distance(line(0.0), line(0.0, end=2.0))
    assert half == pytest.approx(0.5, rel=1e-3)  # the mean of 0 over one half and of 0 to 2 m over the other
    assert half == mbrl.modified_hausdorff_distance(line(0.0, end=2.0), line(0.0))
    assert mbrl.path_overlap(line(0.3), line(0.0), tolerance=0.3) == 1.0
    assert mbrl.path_overlap(line(0.3), line(0.0), tolerance=0.29) == 0.0
    assert mbrl.path_overlap(line(0.0, end=1.0), line(0.0), tolerance=0.0) == 0.25
    assert mbrl.path_overlap(line(0.0), line(0.0, end=1.0), tolerance=0.0) == 1.0
    with pytest.raises(ValueError, match="tolerance"):
        mbrl.path_overlap(line(0.0), line(0.0), tolerance=-1.0)
    with pytest.raises(ValueError, match="finite positions"):
        mbrl.modified_hausdorff_distance(line(0.0), torch.zeros(0, 2))
    with pytest.raises(ValueError, match="no path"):
        mbrl.modified_hausdorff_distance(line(0.0), Path((), math.inf, 1))


def test_regret_is_beside_the_best_of_all_paths():
    grid = small()[0][0]
    cost = CostMap(LinearTerrain(TRUE), grid)
    every = all_paths((3, 3), (0, 0), (2, 2))
    values = meters(every, (3, 3), 0.5) @ cost.cells().detach().numpy().ravel()
    for k in (0, 7, 100, int(values.argmin())):
        assert mbrl.path_regret(cost, Path(every[k], 0.0, 0)) == pytest.approx(values[k] / values.min() - 1, abs=1e-9)
    with pytest.raises(ValueError, match="where it begins"):
        mbrl.path_regret(cost, Path(((0, 0),), 0.0, 0))


def test_regret_of_a_line_past_the_corner_of_an_obstacle_is_not_negative():
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[1, 2] = True
    cost = CostMap(LinearTerrain([1.0]), FeatureGrid(torch.zeros(1, 4, 4).double(), obstacles=mask))
    assert mbrl.path_regret(cost, torch.tensor([[0.0, 0.0], [3.0, 3.0]])) == pytest.approx(0.0, abs=1e-12)


# --- choices among sampled trajectories


def steps(x, u):
    return x + u


def walks(weights, number, seed=0):
    """A demonstrator on a line who chooses among all 16 sequences of four steps of one to either side, at random."""
    system = TorchDynamics(steps, 1, 1, 1.0)
    every = torch.tensor([[1.0 if i >> b & 1 else -1.0 for b in range(4)] for i in range(16)]).double()[..., None]
    cost = LinearFeatureCost(
        lambda x, u, t: torch.stack([x[..., 0] ** 2, 1.0 + 0.0 * x[..., 0] + u[..., 0]], -1),
        weights,
        lambda x: torch.stack([0.0 * x[..., 0], x[..., 0].abs()], -1),
    )
    problem = Problem(system, cost, 4, control_limits=(-1.0, 1.0))
    xs = system.rollout(torch.zeros(16, 1).double(), every)
    with torch.no_grad():
        p = torch.softmax(-problem.trajectory_cost(xs, every), 0)
        chosen = torch.multinomial(p, number, replacement=True, generator=torch.Generator().manual_seed(seed))
    demonstrations = [Trajectory(xs[i].numpy(), every[i].numpy(), states=xs[i].numpy(), dt=1.0) for i in chosen]
    others = torch.stack([every[torch.arange(16) != i] for i in chosen])
    return problem, demonstrations, others, chosen, xs, every


def test_where_all_candidates_can_be_counted_it_is_the_maximum_of_the_likelihood():
    problem, demonstrations, others, chosen, xs, every = walks([0.3, 0.5], 400)
    guess = LinearFeatureCost(problem.cost.feature_function, [1.0, 1.0], problem.cost.terminal_function)
    learned = mbrl.PathIntegralIRL(l2=0.0).learn(problem, guess, demonstrations, candidates=others)

    features = problem.cost.features(xs[:, :-1], every, 0).sum(1) + problem.cost.terminal_features(xs[:, -1])
    counts, F = np.bincount(chosen, minlength=16) / len(chosen), features.numpy()

    def negative_log_likelihood(w):
        return np.log(np.exp(-F @ w).sum()) + counts @ F @ w

    oracle = minimize(negative_log_likelihood, [1.0, 1.0], method="BFGS", options={"gtol": 1e-9})
    assert learned.converged
    np.testing.assert_allclose(learned.weights, oracle.x, rtol=1e-5)
    assert learned.history["objective"][-1] == pytest.approx(oracle.fun, rel=1e-9)
    np.testing.assert_allclose(learned.weights, [0.3, 0.5], atol=4 * 0.03)  # 400 choices tell that much
    p = np.exp(-F @ oracle.x) / np.exp(-F @ oracle.x).sum()
    np.testing.assert_allclose(learned.report.probabilities, p[chosen], rtol=1e-4)
    ranks = (F @ oracle.x)[None] < (F @ oracle.x)[chosen][:, None] - 1e-9
    assert abs(ranks.sum(1) - learned.report.ranks.numpy()).max() <= 3  # candidates that cost the same
    assert "15 candidates" in str(learned.report)


def test_the_temperature_is_the_scale_of_the_cost():
    problem, demonstrations, others, *_ = walks([0.3, 0.5], 50)
    one, ten = (
        mbrl.PathIntegralIRL(temperature=T, l2=0.0).learn(problem, problem.cost, demonstrations, candidates=others)
        for T in (1.0, 10.0)
    )
    np.testing.assert_allclose(ten.weights, 10.0 * one.weights, rtol=1e-4)


def gaps(problem, xs, us, others):
    """By how much the features of candidates are more than those of what was done, ``(rows, k)``."""

    def features(us):
        x = problem.dynamics.rollout(torch.zeros(*us.shape[:-2], 1).double(), us)
        rows = torch.arange(us.shape[-2]).unsqueeze(-1)
        cost = problem.cost
        return cost.features(x[..., :-1, :], us, rows).sum(-2) + cost.terminal_features(x[..., -1, :])

    return (features(others) - features(us).unsqueeze(1)).flatten(0, 1).numpy()


@pytest.mark.parametrize("optimal", [True, False])
def test_that_the_scale_is_unbounded_is_what_a_linear_program_says(optimal):
    """There is no maximum where some weights make all that was done cheapest, as in logistic regression."""
    problem, demonstrations, others, chosen, xs, every = walks([0.3, 0.5], 20)
    if optimal:
        with torch.no_grad():
            best = problem.trajectory_cost(xs, every).argmin().reshape(1)
        demonstrations = [Trajectory(xs[i].numpy(), every[i].numpy(), states=xs[i].numpy(), dt=1.0) for i in best]
        chosen, others = best, every[torch.arange(16) != best].unsqueeze(0)
    more = gaps(problem, xs[chosen], every[chosen], others)
    program = linprog([0.0, 0.0], A_ub=np.vstack([-more, -more.sum(0)]), b_ub=np.r_[np.zeros(len(more)), -1.0])
    assert (program.status == 0) == optimal
    learned = mbrl.PathIntegralIRL().learn(problem, problem.cost, demonstrations, candidates=others)
    assert learned.converged  # l2 is there
    assert learned.report.scale_unbounded == optimal
    assert (float(learned.weights.sum()) == pytest.approx(0.8)) == optimal  # what it was at first
    assert ("without end" in str(learned.report)) == optimal


def test_a_known_part_that_makes_demonstrations_the_cheapest_sets_the_scale():
    problem, _, _, _, xs, every = walks([0.3, 0.5], 1)
    with torch.no_grad():
        best = int(problem.trajectory_cost(xs, every).argmin())
    demonstration = Trajectory(xs[best].numpy(), every[best].numpy(), states=xs[best].numpy(), dt=1.0)
    others = every[torch.arange(16) != best].unsqueeze(0)
    effort = every[best].sum()  # nobody minds a control to the other side
    cost = LinearFeatureCost(
        lambda x, u, t: 2.0 + u * effort.sign(),
        [0.01],
        known=problem.cost.with_weights(torch.tensor([3.0, 5.0], dtype=torch.float64)),
    )
    report = mbrl.PathIntegralIRL().learn(problem, cost, [demonstration], candidates=others).report
    assert int(report.ranks) == 0
    assert not report.scale_unbounded


def driving(scenes_, seed=0):
    """A car that was driven by noise in each of several scenes."""
    grids = FeatureGrid(draw(scenes_, 2, 12, 12, seed=seed), cell_size=0.5, origin=[-1.0, -3.0])
    limits = torch.tensor([0.5, 2.0], dtype=torch.float64)
    goal = GoalCost([4.0, 0.0, 0.0, 0.0], 0.0, 0.01, [1.0, 1.0, 0.0, 0.0])
    system = Car(dt=0.2)
    us = (2 * draw(scenes_, 10, 2, seed=3) - 1) * limits
    xs = system.rollout(torch.tensor([0.0, 0.0, 0.0, 1.0]).double().expand(scenes_, -1), us)
    demonstrations = [Trajectory(x, u, states=x, dt=0.2) for x, u in zip(xs.numpy(), us.numpy(), strict=True)]
    return grids, goal, Problem(system, goal, 10, control_limits=(-limits, limits)), demonstrations


@pytest.mark.parametrize("terrain", [LinearTerrain([1.0, 1.0]), ExponentialTerrain(2, hidden=(3,))])
def test_gradients_of_the_choice_are_those_of_finite_differences(terrain):
    from mbrl.irl.cost_learner import Demonstrated, copied
    from mbrl.irl.path_integral import _Choice

    grids, goal, problem, demonstrations = driving(3)
    cost = copied(CostMap(terrain, grids) + goal)
    settings = mbrl.PathIntegralIRL(num_samples=6, l2=0.1)
    given = Demonstrated.of(problem, cost, demonstrations, accepted=frozenset({"control_limits"}), learner="", other="")
    choice = _Choice(settings, given, cost)
    choice.add(choice.around(given.us, torch.Generator().manual_seed(0)))
    with torch.no_grad():
        for i, parameter in enumerate(choice.parameters):
            parameter += 0.3 * draw(*parameter.shape, seed=i)
    gradients = torch.autograd.grad(choice.objective(), choice.parameters)
    for parameter, gradient in zip(choice.parameters, gradients, strict=True):
        torch.testing.assert_close(gradient, slopes(parameter, choice.value), rtol=1e-5, atol=1e-7)
    lower, upper = problem.control_limits
    assert bool(((choice.us >= lower) & (choice.us <= upper)).all())


def test_a_map_is_learned_from_driving_through_several_scenes():
    """Demonstrations are the best of many candidates by the true cost: then they are likely by the learned one."""
    grids, goal, problem, demonstrations = driving(6)
    true = CostMap(LinearTerrain([2.0, 8.0]), grids) + goal
    candidates = (2 * draw(6, 200, 10, 2, seed=9) - 1) * problem.control_limits[1]
    xs = problem.dynamics.rollout(torch.tensor([0.0, 0.0, 0.0, 1.0]).double().expand(6, 1, -1), candidates)
    value = Problem(problem.dynamics, true, 10).trajectory_cost(xs, candidates).detach()
    best = value.argmin(1)
    rows = torch.arange(6)
    demonstrations = [
        Trajectory(x, u, states=x, dt=0.2)
        for x, u in zip(xs[rows, best].numpy(), candidates[rows, best].numpy(), strict=True)
    ]
    cost = CostMap(LinearTerrain([1.0, 1.0]), grids) + goal
    learned = mbrl.PathIntegralIRL(temperature=0.1, l2=1e-3).learn(problem, cost, demonstrations, candidates=candidates)
    w = learned.cost.costs[0].terrain.weights.detach()
    assert w[1] > 2.0 * w[0]
    assert float(learned.report.ranks.double().mean()) <= 5.0  # of 200
    assert learned.weights is None  # a sum is not linear in weights of its own


def test_a_known_goal_beside_a_map_sets_the_scale():
    """All that was driven is cheaper than all candidates, and still nothing of the sum is scaled."""
    grids, goal, problem, demonstrations = driving(2)
    candidates = (2 * draw(2, 50, 10, 2, seed=9) - 1) * problem.control_limits[1]
    xs = problem.dynamics.rollout(torch.tensor([0.0, 0.0, 0.0, 1.0]).double().expand(2, 1, -1), candidates)
    cost = CostMap(LinearTerrain([1.0, 1.0]), grids) + goal
    value = Problem(problem.dynamics, cost, 10).trajectory_cost(xs, candidates).detach()
    rows, best = torch.arange(2), value.argmin(1)
    demonstrations = [
        Trajectory(x, u, states=x, dt=0.2)
        for x, u in zip(xs[rows, best].numpy(), candidates[rows, best].numpy(), strict=True)
    ]
    report = (
        mbrl.PathIntegralIRL(temperature=0.05, l2=1.0)
        .learn(problem, cost, demonstrations, candidates=candidates)
        .report
    )
    assert report.ranks.tolist() == [0, 0]
    assert not report.scale_unbounded
    assert str(report).startswith("100 % of the demonstrations are cheaper than all of their 50 candidates")


def test_plans_in_maps_that_nobody_has_seen_cost_what_the_drivers_do():
    """A point was driven by a sampling planner; what was learned of terrain is searched as a graph elsewhere."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(12, 2, 6, 5, generator=generator, dtype=torch.float64)
    patches = (torch.nn.functional.interpolate(noise, size=(18, 15), mode="bicubic") > 0.3).double()
    scenes, hidden, nothing = FeatureGrid(patches[:8], cell_size=0.5), LinearTerrain(TRUE), LinearTerrain([0.0, 0.0])
    goal = GoalCost([8.5, 3.5], 0.0, [0.01, 0.01], [20.0, 20.0])
    problem = Problem(TorchDynamics(steps, 2, 2, 1.0), CostMap(hidden, scenes) + goal, 24, control_limits=(-0.7, 0.7))
    planner = ICEM(noise=KnotNoise(6), num_samples=200, max_iterations=15)
    plan = solve(problem, planner, torch.tensor([0.0, 3.5]).double().expand(8, -1), generator=generator)
    driven = [Trajectory(x, u, states=x, dt=1.0) for x, u in zip(plan.xs.numpy(), plan.us.numpy(), strict=True)]
    guess = CostMap(LinearTerrain([1.0, 1.0]), scenes) + goal
    learned = mbrl.PathIntegralIRL(num_samples=100, noise=KnotNoise(6)).learn(problem, guess, driven)
    found, regrets = learned.cost.costs[0].terrain, []
    for patch in patches[8:]:
        true = CostMap(hidden, FeatureGrid(patch, cell_size=0.5))
        for way in (((0, 3), (17, 11)), ((0, 7), (17, 7)), ((0, 11), (17, 3))):
            graphs = [CostMap(terrain, true.grid).graph() for terrain in (nothing, found)]
            regrets.append([mbrl.path_regret(true, shortest_path(graph, *way)) for graph in graphs])
    shortest, like_the_driver = np.mean(regrets, axis=0)
    assert shortest > 0.5
    assert like_the_driver < 0.1 * shortest


def regulator(number, temperature=None):
    """Plans of a linear plant, or what their controllers of maximum entropy do, and the true weights."""
    generator = torch.Generator().manual_seed(0)
    plant = LinearDynamics(torch.tensor([[1.0, 0.3], [0.2, 0.9]]).double(), torch.tensor([[0.0], [0.5]]).double())
    truth = torch.tensor([2.0, 0.5, 0.3], dtype=torch.float64)
    problem = Problem(plant, DiagonalQuadraticCost(truth[:2], truth[2:]), 8)
    x = 2 * torch.rand(number, 2, generator=generator, dtype=torch.float64) - 1
    plan = solve(problem, LQR(), x)
    xs, us = plan.xs, plan.us
    if temperature:
        controller = plan.controller(temperature=temperature)
        memory, states, controls = controller.init(number, generator=generator), [x], []
        for _ in range(8):
            u, memory = controller.act(x, memory, deterministic=False)
            x = plant(x, u)
            states.append(x)
            controls.append(u)
        xs, us = torch.stack(states, -2), torch.stack(controls, -2)
    limit = 3.0 * float(us.abs().max())
    demonstrations = [Trajectory(x, u, states=x, dt=1.0) for x, u in zip(xs.numpy(), us.numpy(), strict=True)]
    return replace(problem, control_limits=(-limit, limit)), truth, demonstrations


def test_weights_of_a_noisy_demonstrator_are_the_true_ones():
    """With candidates about the demonstrations themselves they are all too small, to 0.6 of the true ones."""
    problem, truth, demonstrations = regulator(400, temperature=0.05)
    learner = mbrl.PathIntegralIRL(temperature=0.05)
    learned = learner.learn(problem, DiagonalQuadraticCost([1.0, 1.0], [1.0]), demonstrations)
    assert learned.converged
    assert not learned.report.scale_unbounded
    assert float((learned.weights / truth).log().abs().max()) < 0.2


def test_noise_of_several_sizes_tells_ratios_of_weights_of_an_optimal_demonstrator():
    """With limits three times as wide as what is used of them; the scale is not known, and the report says so."""
    problem, truth, demonstrations = regulator(20)
    errors = []
    for scales in (6, 1):
        guess = DiagonalQuadraticCost([1.0, 1.0], [1.0])
        learned = mbrl.PathIntegralIRL(scales=scales).learn(problem, guess, demonstrations)
        error = (learned.weights / truth).log()
        errors.append(float((error - error.mean()).abs().max()))
        assert learned.report.scale_unbounded
    assert errors[0] < 0.1 < 0.3 < errors[1]


def test_plans_join_the_candidates():
    grids, goal, problem, demonstrations = driving(2)
    cost = FunctionCost(lambda x, u, t: u.square().sum(-1)) + goal + CostMap(LinearTerrain([1.0, 1.0]), grids)
    settings = mbrl.PathIntegralIRL(num_samples=5, planner=MPPI(num_samples=20), rounds=2, max_iterations=10)
    learned = settings.learn(problem, cost, demonstrations, seed=3)
    assert learned.report.candidates == 5 + 2 * 6
    assert len(learned.history["objective"]) == 2
    again = settings.learn(problem, cost, demonstrations, seed=3)
    assert again.history == learned.history


def test_candidates_of_discrete_controls_are_allowed_ones():
    system = TorchDynamics(steps, 1, 1, 1.0)
    cost = LinearFeatureCost(lambda x, u, t: x**2, [1.0])
    problem = Problem(system, cost, 4, control_values=torch.tensor([[-1.0], [0.0], [1.0]]))
    us = np.array([[-1.0], [0.0], [0.0], [1.0]])
    xs = np.concatenate([[[1.0]], 1.0 + np.cumsum(us, axis=0)])
    learned = mbrl.PathIntegralIRL(num_samples=30, std=1.0).learn(
        problem, cost, [Trajectory(xs, us, states=xs, dt=1.0)]
    )
    assert learned.report.excluded == 0
    assert bool(learned.weights.isfinite().all())


def test_candidates_that_diverge_are_counted_and_excluded():
    system = TorchDynamics(lambda x, u: x + torch.where(u > 0.5, 1e200 * x**3 + 1e200, u), 1, 1, 1.0)
    cost = LinearFeatureCost(lambda x, u, t: torch.stack([x[..., 0] ** 2], -1), [1.0])
    problem = Problem(system, cost, 3, control_limits=(-1.0, 1.0))
    us = np.zeros((3, 1))
    demonstration = Trajectory(np.zeros((4, 1)), us, states=np.zeros((4, 1)), dt=1.0)
    candidates = torch.tensor([[1.0, 1.0, 1.0], [0.1, 0.1, 0.1]]).double().reshape(1, 2, 3, 1)
    learned = mbrl.PathIntegralIRL(max_iterations=5).learn(problem, cost, [demonstration], candidates=candidates)
    assert learned.report.excluded == 1
    assert bool(learned.weights.isfinite().all())
    assert float(learned.report.probabilities[0]) > 0.5


def test_choices_refuse_what_they_cannot_use():
    _, goal, problem, demonstrations = driving(2)
    cost = LinearFeatureCost(lambda x, u, t: x[..., :1] ** 2, [1.0], known=goal)
    with pytest.raises(ValueError, match="control_limits"):
        mbrl.PathIntegralIRL().learn(Problem(problem.dynamics, goal, 10), cost, demonstrations)
    with pytest.raises(ValueError, match=r"candidates must have shape \(2, K, 10, 2\)"):
        mbrl.PathIntegralIRL().learn(problem, cost, demonstrations, candidates=torch.zeros(2, 10, 2))
    for bad in ({"temperature": 0.0}, {"num_samples": 0}, {"std": -1.0}, {"scales": 0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            mbrl.PathIntegralIRL(**bad)
    with pytest.raises(TypeError, match="MPPI"):
        mbrl.PathIntegralIRL(planner="MPPI")
    with pytest.raises(TypeError, match="noise"):
        mbrl.PathIntegralIRL(noise=0.1)
    zero = CostMap(LinearTerrain([0.0, 1.0]), driving(2)[0])
    with pytest.raises(ValueError, match="begin with positive ones"):
        mbrl.PathIntegralIRL().learn(problem, zero, demonstrations)
    with pytest.raises(ValueError, match="no parameter to learn"):
        mbrl.PathIntegralIRL().learn(problem, goal, demonstrations)
    wide = Trajectory(np.zeros((11, 5)), np.zeros((10, 2)), states=np.zeros((11, 5)), dt=0.2)
    with pytest.raises(ValueError, match="demonstrations have 5 states and 2 controls"):
        mbrl.PathIntegralIRL().learn(problem, cost, [wide])
