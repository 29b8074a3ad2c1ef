"""Costs against their formulas, autograd and finite differences; references by step and by world."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from dynamics import LinearDynamics
from dynamics.derivatives import finite_difference_jacobian
from planners import (
    DDP,
    LQR,
    Cost,
    CostMap,
    DiagonalQuadraticCost,
    FeatureGrid,
    FunctionCost,
    GoalCost,
    LinearFeatureCost,
    LinearTerrain,
    Problem,
    QuadraticCost,
    SmoothAbsCost,
    SumCost,
    TransitionCost,
    WeightedCost,
    solve,
)

N, M, L = 3, 2, 4


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def symmetric(*shape, seed=0):
    matrix = draw(*shape, shape[-1], seed=seed)
    return matrix @ matrix.mT


def quadratic(steps=(), goal=None):
    return QuadraticCost(
        symmetric(*steps, N),
        symmetric(*steps, M, seed=1),
        N=draw(*steps, N, M, seed=2),
        q=draw(*steps, N, seed=3),
        r=draw(*steps, M, seed=4),
        Q_terminal=symmetric(N, seed=5),
        goal=draw(N, seed=6) if goal is None else goal,
    )


def features(x, u, t):
    return torch.stack([x[..., 0] ** 2 * u[..., 1], (x[..., 1] + torch.as_tensor(t)).sin(), u.square().sum(-1)], dim=-1)


def terminal_features(x):
    return torch.stack([x[..., 2] ** 3, 0.0 * x[..., 0], x.prod(-1)], dim=-1)


def diagonal(known=None, terminal=(0.5, 0.1, 0.2)):
    return DiagonalQuadraticCost([1.0, 2.0, 3.0], [0.5, 0.2], terminal, goal=[0.1, -0.2, 0.3], known=known)


COSTS = {
    "quadratic": lambda: quadratic(),
    "quadratic by step": lambda: quadratic((L,)),
    "quadratic, goal by step": lambda: quadratic(goal=draw(L, N, seed=7)),
    "quadratic, goal by world and step": lambda: quadratic((L,), goal=draw(2, L, N, seed=7)),
    "goal": lambda: GoalCost([0.1, 0.2, 0.3], [1.0, 2.0, 3.0], 0.1, 4.0, angles=[1]),
    "goal by step": lambda: GoalCost(draw(L, N, seed=8), 1.0, [0.1, 0.2], [1.0, 0.0, 2.0], angles=[0]),
    "goal by world and step": lambda: GoalCost(draw(2, L, N, seed=8), 1.0, 0.3, 2.0, angles=[0, 2]),
    "smooth absolute": lambda: SmoothAbsCost([0.1, 0.2, 0.3], [1.0, 2.0, 3.0], 0.1, 4.0, smoothing=0.5, angles=[2]),
    "smooth absolute by world and step": lambda: SmoothAbsCost(draw(2, L, N, seed=9), 1.0, 0.1, 0.5),
    "function": lambda: FunctionCost(
        lambda x, u, t: (x[..., 0] * u[..., 1]).sin() + (1 + torch.as_tensor(t)) * x[..., 1] ** 3 * u[..., 0],
        lambda x: x.prod(-1),
    ),
    "linear": lambda: FunctionCost(lambda x, u, t: x.sum(-1) - u.sum(-1)),
    "diagonal quadratic": lambda: diagonal(),
    "diagonal quadratic and a known part": lambda: diagonal(quadratic((L,)), None),
    "features": lambda: LinearFeatureCost(features, [0.3, 1.0, 2.0], terminal_features),
    "features and a known part": lambda: LinearFeatureCost(
        features, [0.3, -1.0, 2.0], known=quadratic(), positive=False
    ),
    "cost map": lambda: CostMap(
        LinearTerrain([2.0]), FeatureGrid(draw(1, 9, 9, seed=11).abs(), origin=[-4.0, -4.0]), per="step"
    ),
    "sum": lambda: quadratic((L,)) + 0.5 * GoalCost(draw(2, L, N, seed=8), 1.0, 0.3, 2.0, angles=[0]),
}


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize("t", ["step", "steps"])
def test_expansions_are_the_derivatives(name, t):
    cost = COSTS[name]()
    batch, t = ((2, 5), 2) if t == "step" else ((2, 3, 5), torch.arange(5))
    z = draw(*batch, N + M, seed=10)
    x, u = z.split([N, M], dim=-1)
    # one value of t for each row of displaced points, which finite differences put on the axis before the last
    rows_t = t if isinstance(t, int) else t.unsqueeze(-1)

    def stage(z):
        return cost.stage(z[..., :N], z[..., N:], rows_t).unsqueeze(-1)

    def gradient(z):
        e = cost.expand(z[..., :N], z[..., N:], rows_t)
        return torch.cat([e.x, e.u], dim=-1)

    e = cost.expand(x, u, t)
    torch.testing.assert_close(e.value, cost.stage(x, u, t))
    assert e.value.shape == batch
    torch.testing.assert_close(
        torch.cat([e.x, e.u], -1), finite_difference_jacobian(stage, z).squeeze(-2), rtol=1e-7, atol=1e-8
    )
    hessian = torch.cat([torch.cat([e.xx, e.xu], -1), torch.cat([e.xu.mT, e.uu], -1)], -2)
    assert hessian.shape == (*batch, N + M, N + M)
    torch.testing.assert_close(hessian, finite_difference_jacobian(gradient, z), rtol=1e-7, atol=1e-8)

    last = cost.expand_terminal(x)
    torch.testing.assert_close(last.value, cost.terminal(x))
    torch.testing.assert_close(
        last.x,
        finite_difference_jacobian(lambda x: cost.terminal(x).unsqueeze(-1), x).squeeze(-2),
        rtol=1e-7,
        atol=1e-8,
    )
    torch.testing.assert_close(
        last.xx, finite_difference_jacobian(lambda x: cost.expand_terminal(x).x, x), rtol=1e-7, atol=1e-8
    )


@pytest.mark.parametrize("name", [name for name in COSTS if "quadratic" in name or name == "sum"])
def test_closed_form_expansion_equals_the_generic_one(name):
    cost, x, u, t = COSTS[name](), draw(2, 4, N), draw(2, 4, M, seed=1), torch.tensor([0, 1, 2, 9])
    ours, generic = cost.expand(x, u, t), Cost.expand(cost, x, u, t)
    for field in ("value", "x", "u", "xx", "xu", "uu"):
        torch.testing.assert_close(getattr(ours, field), getattr(generic, field), rtol=1e-12, atol=1e-12)
    ours, generic = cost.expand_terminal(x), Cost.expand_terminal(cost, x)
    for field in ("value", "x", "xx"):
        torch.testing.assert_close(getattr(ours, field), getattr(generic, field), rtol=1e-12, atol=1e-12)


def test_quadratic_cost_is_its_formula():
    cost, x, u = quadratic(), draw(N, seed=20), draw(M, seed=21)
    Q, R, C, q, r, QT, g = (v.numpy() for v in (cost.Q, cost.R, cost.N, cost.q, cost.r, cost.Q_terminal, cost.goal))
    e, v = x.numpy() - g, u.numpy()
    assert float(cost.stage(x, u, 0)) == pytest.approx(0.5 * e @ Q @ e + e @ C @ v + 0.5 * v @ R @ v + q @ e + r @ v)
    assert float(cost.terminal(x)) == pytest.approx(0.5 * e @ QT @ e)


def test_coefficients_by_step_are_held_at_their_ends():
    cost = QuadraticCost(torch.tensor([[[1.0]], [[2.0]], [[4.0]]]), torch.zeros(1, 1))
    x, u = torch.full((5, 1), 2.0), torch.zeros(5, 1)
    assert cost.stage(x, u, torch.tensor([-3, 0, 1, 2, 7])).tolist() == [2.0, 2.0, 4.0, 8.0, 8.0]
    assert [float(cost.stage(x[0], u[0], t)) for t in (0, 2, 7)] == [2.0, 8.0, 8.0]


def test_smooth_absolute_is_its_formula():
    cost = SmoothAbsCost([1.0, 0.0], [2.0, 3.0], [0.5], [5.0, 7.0], smoothing=0.2)
    x, u = [4.0, -0.3], [2.0]

    def s(z):
        return math.sqrt(z**2 + 0.04) - 0.2

    stage = 2 * s(3.0) + 3 * s(-0.3) + 0.5 * 4
    assert float(
        cost.stage(torch.tensor(x, dtype=torch.float64), torch.tensor(u, dtype=torch.float64), 0)
    ) == pytest.approx(stage, rel=1e-14)
    assert float(cost.terminal(torch.tensor(x, dtype=torch.float64))) == pytest.approx(
        5 * s(3.0) + 7 * s(-0.3), rel=1e-14
    )


def test_goal_cost_is_its_formula():
    cost = GoalCost([1.0, 0.5], [2.0, 3.0], [0.5], [5.0, 7.0], angles=[1])
    x, u = torch.tensor([4.0, 2.0]).double(), torch.tensor([2.0]).double()
    angle = 2 * (1 - math.cos(1.5))
    assert float(cost.stage(x, u, 0)) == pytest.approx(2 * 9 + 3 * angle + 0.5 * 4, rel=1e-14)
    assert float(cost.terminal(x)) == pytest.approx(5 * 9 + 7 * angle, rel=1e-14)


@pytest.mark.parametrize("kind", [GoalCost, SmoothAbsCost])
def test_full_turns_are_not_seen(kind):
    cost, x, u = kind(0.3, 1.0, 0.0, 1.0, angles=[1]), draw(6, N), draw(6, M)
    turned = x + 2 * math.pi * torch.tensor([0.0, 3.0, 0.0]).double()
    torch.testing.assert_close(cost.stage(turned, u, 0), cost.stage(x, u, 0), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(cost.terminal(turned), cost.terminal(x), rtol=1e-12, atol=1e-13)
    other = x + 2 * math.pi * torch.tensor([3.0, 0.0, 0.0])  # not an angle
    assert bool((cost.stage(other, u, 0) - cost.stage(x, u, 0)).abs().min() > 1.0)


@pytest.mark.parametrize("kind", [GoalCost, SmoothAbsCost])
def test_small_distances_survive_single_precision(kind):
    cost = kind(0.0, 1.0, 0.0, angles=[0])
    for i in (0, 1):
        x = torch.zeros(2)
        x[i] = 1e-5
        exact = 1e-10 if kind is GoalCost else 1e-10 / (2 * 0.1)
        assert float(cost.stage(x, torch.zeros(1), 0)) == pytest.approx(exact, rel=1e-5)


# References


def track(goal, start=0):
    """A cost from whose square root the tracked value is read off."""
    return GoalCost(0.0, 1.0).with_reference(torch.as_tensor(goal, dtype=torch.float64), start=start)


def seen(cost, t, n=1):
    """The goal that a cost sees at steps t, from the gradient of its squared distance at zero."""
    t = torch.as_tensor(t)
    x = torch.zeros(*t.shape, n, dtype=torch.float64)
    return (-0.5 * cost.expand(x, torch.zeros(*t.shape, 1, dtype=torch.float64), t).x).squeeze(-1).detach()


def test_reference_starts_at_its_step_and_is_held_at_its_ends():
    cost = track([[1.0], [2.0], [3.0]], start=4)
    assert seen(cost, [0, 4, 5, 6, 7, 90]).tolist() == [1, 1, 2, 3, 3, 3]
    assert [float(seen(cost, t)) for t in (0, 5, 90)] == [1, 2, 3]


@pytest.mark.parametrize("kind", ["goal", "quadratic", "sum", "nested"])
def test_window_shows_the_reference_between_two_steps_and_ends_there(kind):
    eye = torch.eye(1).double()
    goal, quad = GoalCost(0.0, 0.0, 0.0, 1.0), QuadraticCost(0 * eye, 0 * eye, Q_terminal=2 * eye, goal=[0.0])
    idle = FunctionCost(lambda x, u, t: 0 * x[..., 0])
    cost = {"goal": goal, "quadratic": quad, "sum": goal + idle, "nested": (idle + idle) + (idle + goal)}[kind]
    cost = cost.with_reference(torch.arange(10.0).double().unsqueeze(-1), start=3)
    for t0, horizon, last in ((0, 2, 0), (3, 4, 4), (5, 20, 9), (40, 2, 9)):
        window = cost.window(t0, horizon)
        assert float(window.terminal(torch.zeros(1).double())) == last**2
        again = window.window(t0, horizon)
        assert float(again.terminal(torch.zeros(1).double())) == last**2
    assert float(cost.terminal(torch.zeros(1).double())) == 81.0


def test_stage_reference_is_unchanged_by_the_window():
    cost = track(torch.arange(10.0)[:, None], start=3)
    steps = torch.arange(5, 12)
    torch.testing.assert_close(seen(cost.window(5, 6), steps), seen(cost, steps), rtol=0, atol=0)
    assert cost.window(5, 6).goal.shape == (7, 1)


def test_a_goal_without_steps_has_no_window():
    cost = GoalCost([1.0, 2.0])
    assert cost.window(3, 4) is cost
    assert FunctionCost(lambda x, u, t: x[..., 0]).window(0, 3).has_reference is False


@pytest.mark.parametrize("kind", [GoalCost, SmoothAbsCost, "quadratic", "sum"])
@pytest.mark.parametrize("samples", [(), (4,), (3, 4)], ids=["no samples", "samples", "samples and particles"])
def test_references_by_world_stay_with_their_world(kind, samples):
    worlds, T = 3, 5
    goals = draw(worlds, T, N, seed=30)
    make = {
        "quadratic": lambda: quadratic(),
        "sum": lambda: quadratic() + GoalCost(0.0, 1.0, 0.0, 1.0),
    }.get(kind, lambda: kind(0.0, 1.0, 0.0, 1.0))
    cost, t = make().with_reference(goals, start=2), 2 + torch.arange(T)
    x, u = draw(worlds, *samples, T, N, seed=31), draw(worlds, *samples, T, M, seed=32)
    alone = [make().with_reference(goals[w], start=2) for w in range(worlds)]
    torch.testing.assert_close(cost.stage(x, u, t), torch.stack([c.stage(x[w], u[w], t) for w, c in enumerate(alone)]))
    torch.testing.assert_close(
        cost.terminal(x[..., -1, :]), torch.stack([c.terminal(x[w][..., -1, :]) for w, c in enumerate(alone)])
    )
    torch.testing.assert_close(
        cost.stage(x[..., 1, :], u[..., 1, :], 3),
        torch.stack([c.stage(x[w][..., 1, :], u[w][..., 1, :], 3) for w, c in enumerate(alone)]),
    )
    windows = [c.window(4, 2) for c in alone]
    torch.testing.assert_close(
        cost.window(4, 2).stage(x, u, t), torch.stack([c.stage(x[w], u[w], t) for w, c in enumerate(windows)])
    )
    for ours, single in ((cost, alone), (cost.window(4, 2), windows)):
        torch.testing.assert_close(
            ours.expand(x, u, t).x, torch.stack([c.expand(x[w], u[w], t).x for w, c in enumerate(single)])
        )


def test_one_goal_by_world_holds_at_all_steps():
    cost = track([[[1.0]], [[2.0]]])
    x = torch.zeros(2, 3, 1).double()
    assert cost.stage(x, x, torch.arange(3)).tolist() == [[1.0] * 3, [4.0] * 3]
    assert not cost.time_varying


def test_with_reference_changes_nothing_else():
    for cost in (GoalCost([1.0, 2.0]), quadratic(), GoalCost([1.0, 2.0, 3.0]) + quadratic()):
        before = copy.deepcopy(cost.state_dict())
        other = cost.with_reference(draw(L, 2 if isinstance(cost, GoalCost) else N), start=5)
        assert type(other) is type(cost)
        assert cost.state_dict().keys() == before.keys()
        assert all(torch.equal(v, before[k]) for k, v in cost.state_dict().items())


def test_gradients_reach_a_reference():
    goal = draw(2, L, N).requires_grad_()
    cost = GoalCost(0.0, 1.0, 0.0, 1.0).with_reference(goal).window(1, 2)
    x = torch.zeros(2, N, dtype=torch.float64)
    (cost.stage(x, x, 1) + cost.terminal(x)).sum().backward()
    expected = torch.zeros_like(goal)
    expected[:, 1], expected[:, 3] = 2 * goal.detach()[:, 1], 2 * goal.detach()[:, 3]
    torch.testing.assert_close(goal.grad, expected)


@pytest.mark.parametrize(
    "cost",
    [
        FunctionCost(lambda x, u, t: x[..., 0]),
        TransitionCost(lambda x, u, y, t: x[..., 0]),
        2.0 * FunctionCost(lambda x, u, t: x[..., 0]),
    ],
)
def test_costs_without_reference_say_so(cost):
    with pytest.raises(TypeError, match="reference to replace; use a cost with a goal, such as GoalCost"):
        cost.with_reference(torch.zeros(3))


def test_references_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"must have 3 columns as the goal has, got shape \(5, 2\)"):
        quadratic().with_reference(torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r"at least one row, got shape \(0, 3\)"):
        quadratic().with_reference(torch.zeros(0, 3))


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (quadratic(), False),
        (quadratic((L,)), True),
        (quadratic((1,)), False),
        (quadratic(goal=draw(L, N)), True),
        (quadratic(goal=draw(1, N)), False),
        (GoalCost(0.0), False),
        (GoalCost(draw(L, N)) + GoalCost(0.0), True),
        (GoalCost(0.0).with_reference(draw(L, N)), True),
    ],
)
def test_costs_know_whether_they_vary_with_time(cost, expected):
    assert cost.time_varying is expected


# Sums and transitions


def test_sums_are_weighted_sums():
    a, b = quadratic(), GoalCost(0.0, 1.0, 0.3, 2.0)
    x, u = draw(4, N), draw(4, M)
    cost = a + 0.1 * b + 2 * (a + b)
    torch.testing.assert_close(cost.stage(x, u, 0), 3 * a.stage(x, u, 0) + 2.1 * b.stage(x, u, 0))
    torch.testing.assert_close(cost.terminal(x), 3 * a.terminal(x) + 2.1 * b.terminal(x))
    torch.testing.assert_close(cost.transition(x, u, x + 1, 0), cost.stage(x, u, 0))
    assert (a + a).is_quadratic
    assert (0.5 * a).is_quadratic
    assert not cost.is_quadratic


def test_sums_with_a_transition_cost_need_the_next_state():
    cost = 2.0 * TransitionCost(lambda x, u, y, t: y[..., 0] - x[..., 0]) + GoalCost(0.0, 1.0)
    x = draw(4, N)
    assert cost.needs_next_state
    torch.testing.assert_close(cost.transition(x, x, x + 3, 0), 6.0 + x.square().sum(-1))
    with pytest.raises(TypeError, match=r"depends on the next state; evaluate transition\(x, u, x_next, t\)"):
        cost.stage(x, x, 0)


def test_transition_cost_is_minus_the_reward():
    def reward(x, u, x_next, t):
        return x_next[..., 0] - x[..., 0] - 0.1 * u.square().sum(-1) + t

    cost = TransitionCost(lambda *step: -reward(*step), lambda x: x[..., 1])
    x, u, y = draw(5, N), draw(5, M), draw(5, N, seed=1)
    assert torch.equal(cost.transition(x, u, y, 3), -reward(x, u, y, 3))
    assert torch.equal(cost.terminal(x), x[..., 1])
    assert TransitionCost(lambda *step: step[0]).terminal(x).tolist() == [0.0] * 5


def test_sums_of_other_things_are_refused():
    cost = GoalCost(0.0)
    for other in (3.0, "x", None):
        with pytest.raises(TypeError, match="unsupported operand"):
            cost + other
    for weight in ("2", torch.ones(())):  # a tensor's graph would be lost
        with pytest.raises(TypeError):
            weight * cost
    assert (np.float32(0.5) * cost).weights == [0.5]
    for costs, weights in (([], None), ([cost], [1.0, 2.0])):
        with pytest.raises(ValueError, match="need at least one cost and one weight each"):
            SumCost(costs, weights)


# Numbers in, numbers out


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_costs_keep_the_dtype_of_the_state(name, dtype):
    cost, x, u = COSTS[name](), draw(2, 5, N), draw(2, 5, M)
    e = cost.expand(x.to(dtype), u.to(dtype), torch.arange(5))
    assert {e.value.dtype, e.x.dtype, e.u.dtype, e.xx.dtype, e.xu.dtype, e.uu.dtype} == {dtype}
    assert cost.terminal(x.to(dtype)).dtype == dtype
    torch.testing.assert_close(e.value.double(), cost.stage(x, u, torch.arange(5)), rtol=1e-5, atol=1e-5)


def test_numbers_are_kept_in_double_precision():
    x, u = torch.zeros(2).double(), torch.ones(1).double()
    for cost in (GoalCost([0.1, 0.1], 0.1, 0.1), QuadraticCost([[0.2, 0], [0, 0.2]], [[0.2]], goal=(0.1, 0.1))):
        assert float(cost.stage(x, u, 0)) == pytest.approx(2 * 0.1**3 + 0.1, rel=1e-15)
    integers = QuadraticCost(torch.eye(2, dtype=torch.int64), torch.eye(1), goal=[1, 2])
    assert float(integers.stage(x, 0 * u, 0)) == 2.5


def test_parameters_are_parameters_of_the_cost():
    Q, w = nn.Parameter(torch.eye(2).double()), nn.Parameter(torch.ones(2).double())
    quad, goal = QuadraticCost(Q, torch.eye(1)), GoalCost(nn.Parameter(torch.zeros(2)), w)
    assert list(quad.parameters()) == [Q]
    assert dict((quad + goal).named_parameters()).keys() == {"costs.0.Q", "costs.1.goal", "costs.1.state_weights"}
    replaced = goal.with_reference(torch.tensor([3.0, 4.0]))
    assert replaced.goal.tolist() == [3.0, 4.0]
    assert dict(goal.named_parameters()).keys() == {"goal", "state_weights"}
    replaced.stage(torch.zeros(2).double(), torch.zeros(1).double(), 0).backward()
    assert w.grad.tolist() == [9.0, 16.0]


NAN = float("nan")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: QuadraticCost(torch.tensor([[1.0, 0.1], [0.0, 1.0]]), torch.eye(1)),
            r"Q must be symmetric; use 0.5 \*",
        ),
        (lambda: QuadraticCost(torch.eye(2), torch.tensor([[1.0, 0.1], [0.0, 1.0]])), "R must be symmetric"),
        (
            lambda: QuadraticCost(torch.eye(2), torch.eye(1), N=torch.zeros(1, 2)),
            r"N must have shape \(2, 1\), .*\(1, 2\)",
        ),
        (lambda: QuadraticCost(torch.eye(2), torch.eye(1), q=torch.zeros(3)), r"q must have shape \(2,\)"),
        (lambda: QuadraticCost(torch.zeros(4, 3, 2, 2), torch.eye(1)), r"Q must have shape \(2, 2\)"),
        (lambda: QuadraticCost(torch.zeros(0, 2, 2), torch.eye(1)), r"Q must have shape .* got \(0, 2, 2\)"),
        (lambda: QuadraticCost(torch.tensor(1.0), torch.eye(1)), r"Q must have shape \(1, 1\), .* got \(\)"),
        (lambda: QuadraticCost(torch.eye(2)[:1], torch.eye(1)), r"Q must have shape \(2, 2\), .* got \(1, 2\)"),
        (
            lambda: QuadraticCost(torch.eye(2), torch.eye(1), Q_terminal=torch.eye(2)[None]),
            "Q_terminal must have shape",
        ),
        (lambda: QuadraticCost(torch.eye(2), torch.eye(1), goal=[1.0]), r"goal must have shape \(2,\), .* got \(1,\)"),
        (lambda: QuadraticCost(NAN * torch.eye(2), torch.eye(1)), "Q must be finite"),
        (lambda: QuadraticCost(torch.eye(2), torch.eye(1), r=[math.inf]), r"r must be finite, got \[inf\]"),
        (lambda: GoalCost([0.0, NAN]), r"goal must be finite, got \[0.0, nan\]"),
        (lambda: GoalCost(0.0, [1.0, -1.0]), r"state_weights must be .* not negative, got \[1.0, -1.0\]"),
        (lambda: GoalCost(0.0, 1.0, NAN), "control_weights must be finite, got nan"),
        (lambda: GoalCost(0.0, 1.0, 1.0, math.inf), "terminal_weights must be finite"),
        (lambda: GoalCost(0.0, torch.eye(2)), "state_weights must be a number or one for each dimension"),
        (lambda: GoalCost([0.0, 0.0], [1.0, 1.0, 1.0]), r"must be of one size n, got \[2, 3\]"),
        (lambda: GoalCost([0.0, 0.0], angles=[2]), r"angles must be indices of states, got \(2,\)"),
        (lambda: GoalCost(0.0, angles=[-1]), r"angles must be indices of states, got \(-1,\)"),
        (lambda: SmoothAbsCost(0.0, smoothing=0.0), "smoothing must be positive, got 0.0"),
        (lambda: SmoothAbsCost(0.0, smoothing=NAN), "smoothing must be positive, got nan"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (GoalCost(0.0, 1.0, [1.0, 2.0]), "control_weights is for vectors of size 2, the problem's have size 1"),
        (GoalCost(0.0, [1.0, 2.0, 3.0]), "state_weights is for vectors of size 3, the problem's have size 1"),
        (SmoothAbsCost([1.0, 2.0], 1.0), "goal is for vectors of size 2"),
        (QuadraticCost(torch.eye(2), torch.eye(1)), "Q is for vectors of size 2"),
        (QuadraticCost(torch.eye(1), torch.eye(2)), "R is for vectors of size 2"),
    ],
)
def test_costs_for_another_size_do_not_broadcast(cost, message):
    """A single state or control would fit weights of any size."""
    x = torch.zeros(4, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        cost.stage(x, x, 0)


def test_references_come_as_lists_and_arrays_too():
    cost, x = GoalCost([0.0, 0.0]), draw(3, 2)
    expected = cost.with_reference(torch.tensor([1.0, 2.0], dtype=torch.float64)).stage(x, x, 0)
    for reference in ([1.0, 2.0], np.array([1.0, 2.0])):
        assert torch.equal(cost.with_reference(reference).stage(x, x, 0), expected)


def test_a_weight_may_stand_on_either_side():
    cost, x, u = GoalCost(), torch.ones(3), torch.zeros(1)
    assert float((cost * 2).stage(x, u, 0)) == float((2 * cost).stage(x, u, 0)) == 6.0


# Weights that are learned


def test_weighted_costs_are_their_formulas():
    x, u, w = draw(5, N), draw(5, M, seed=1), torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)
    cost = LinearFeatureCost(features, w, terminal_features, known=quadratic())
    torch.testing.assert_close(cost.stage(x, u, 2), features(x, u, 2) @ w + quadratic().stage(x, u, 2))
    torch.testing.assert_close(cost.terminal(x), terminal_features(x) @ w + quadratic().terminal(x))
    torch.testing.assert_close(cost.without_known().stage(x, u, 2), features(x, u, 2) @ w)

    other = QuadraticCost(
        torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)),
        torch.diag(torch.tensor([0.5, 0.2], dtype=torch.float64)),
        Q_terminal=torch.diag(torch.tensor([0.5, 0.1, 0.2], dtype=torch.float64)),
        goal=[0.1, -0.2, 0.3],
    )
    torch.testing.assert_close(diagonal().stage(x, u, 0), other.stage(x, u, 0))
    torch.testing.assert_close(diagonal().terminal(x), other.terminal(x))
    torch.testing.assert_close(diagonal().features(x, u, 0) @ diagonal().weights, other.stage(x, u, 0))
    torch.testing.assert_close(diagonal().terminal_features(x) @ diagonal().weights, other.terminal(x))
    assert [v.tolist() for v in (diagonal().Q, diagonal().R)] == [pytest.approx([1, 2, 3]), pytest.approx([0.5, 0.2])]
    assert diagonal(terminal=None).Q_terminal is None


def test_weights_are_a_parameter_as_logarithms():
    cost = diagonal()
    assert [name for name, _ in cost.named_parameters()] == ["free"]
    cost.stage(torch.ones(N).double(), torch.ones(M).double(), 0).backward()
    e = torch.ones(N).double() - cost.goal
    torch.testing.assert_close(cost.free.grad[:N], 0.5 * cost.Q.detach() * e**2)
    signed = LinearFeatureCost(features, [1.0, -2.0, 0.0], positive=False)
    assert signed.free.tolist() == signed.weights.tolist() == [1.0, -2.0, 0.0]
    assert "weights=[1.0, -2.0, 0.0]" in repr(signed)


def test_other_weights_leave_the_cost_as_it_was():
    cost, w = LinearFeatureCost(features, [0.3, 1.0, 2.0], terminal_features), torch.zeros(3).double().requires_grad_()
    other = cost.with_weights(w)
    x, u = draw(N), draw(M)
    (other.stage(x, u, 1) + other.terminal(x)).backward()
    torch.testing.assert_close(w.grad, features(x, u, 1) + terminal_features(x))
    assert list(other.parameters()) == []
    assert cost.weights.tolist() == pytest.approx([0.3, 1.0, 2.0])
    assert isinstance(cost, WeightedCost)
    with pytest.raises(ValueError, match=r"weights must have shape \(3,\) or \(\*batch, 3\), got \(2,\)"):
        cost.with_weights(torch.zeros(2))


@pytest.mark.parametrize("make", [diagonal, lambda: LinearFeatureCost(features, [0.3, 1.0, 2.0], terminal_features)])
def test_weights_of_each_element_of_a_batch(make):
    cost, x, u, t = make(), draw(2, 4, N), draw(2, 4, M), torch.arange(4)
    w = cost.weights.detach() * torch.tensor([[1.0], [3.0]]).double()
    e, last = cost.with_weights(w).expand(x, u, t), cost.with_weights(w).expand_terminal(x[:, -1])
    for i in range(2):
        alone = cost.with_weights(w[i]).expand(x[i], u[i], t)
        for name, value in vars(alone).items():
            torch.testing.assert_close(getattr(e, name)[i], value)
        torch.testing.assert_close(last.xx[i], cost.with_weights(w[i]).expand_terminal(x[i, -1]).xx)


def test_the_known_part_keeps_its_reference_and_its_next_state():
    tracked = diagonal(GoalCost(draw(6, N), 1.0, 0.1))
    x, u = draw(N), draw(M)
    assert tracked.has_reference
    assert tracked.time_varying
    torch.testing.assert_close(tracked.window(3, 2).stage(x, u, 3), tracked.stage(x, u, 3))
    moved = tracked.with_reference(torch.zeros(N).double())
    torch.testing.assert_close(moved.stage(x, u, 3), diagonal(GoalCost([0.0] * N, 1.0, 0.1)).stage(x, u, 3))
    with pytest.raises(TypeError, match="has no reference"):
        diagonal().with_reference(x)
    step = diagonal(TransitionCost(lambda x, u, x_next, t: x_next.square().sum(-1)))
    assert step.needs_next_state
    torch.testing.assert_close(step.transition(x, u, 2 * x, 0), diagonal().stage(x, u, 0) + 4 * x.square().sum())


def test_planners_take_weighted_costs():
    f = LinearDynamics(torch.eye(N).double(), draw(N, M))
    x0, known = draw(2, N), quadratic()
    exact = solve(Problem(f, diagonal(known), 5), LQR(), x0)
    found = solve(
        Problem(
            f,
            LinearFeatureCost(
                lambda x, u, t: diagonal().features(x, u, t),
                diagonal().weights,
                diagonal().terminal_features,
                known=known,
            ),
            5,
        ),
        DDP(),
        x0,
    )
    torch.testing.assert_close(exact.us, found.us, rtol=1e-6, atol=1e-8)


def test_weighted_costs_say_what_does_not_fit():
    with pytest.raises(ValueError, match=r"weights must be positive.*positive=False"):
        LinearFeatureCost(features, [1.0, 0.0, 1.0])
    with pytest.raises(ValueError, match=r"weights must have shape \(k,\), got \(1, 1\)"):
        LinearFeatureCost(features, [[1.0]])
    with pytest.raises(TypeError, match="known must be a Cost, got function"):
        LinearFeatureCost(features, [1.0, 1.0, 1.0], known=features)
    with pytest.raises(ValueError, match=r"there are 2 weights, features must be \(\*batch, 2\), got \(3,\)"):
        LinearFeatureCost(features, [1.0, 1.0]).stage(draw(N), draw(M), 0)
    with pytest.raises(ValueError, match=r"Q and Q_terminal must be diagonals"):
        DiagonalQuadraticCost(torch.eye(2), [1.0])
    with pytest.raises(ValueError, match=r"Q and Q_terminal must be diagonals"):
        DiagonalQuadraticCost([1.0, 1.0], [1.0], [1.0])
    with pytest.raises(ValueError, match=r"goal must have shape \(2,\)"):
        DiagonalQuadraticCost([1.0, 1.0], [1.0], goal=[0.0])
    with pytest.raises(ValueError, match="vectors of size 2, the problem's have size 3"):
        diagonal().stage(draw(N), draw(3), 0)
