"""Cost maps against scipy's interpolation, finite differences and the costs of graph search."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator

import mbrl
from dynamics import Car, DoubleIntegrator
from dynamics.derivatives import finite_difference_jacobian
from planners import (
    DDP,
    ICEM,
    MPPI,
    CostMap,
    ExponentialTerrain,
    FeatureGrid,
    GoalCost,
    KnotNoise,
    LinearTerrain,
    Path,
    Problem,
    shortest_path,
    solve,
)


def draw(*shape, seed=0, low=0.0, high=1.0):
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)


def grid(*batch, seed=0, shape=(6, 5), **options):
    return FeatureGrid(draw(*batch, 2, *shape, seed=seed), cell_size=0.5, origin=[-1.0, 2.0], **options)


def inside(*shape, seed=1):
    """Positions on the map, up to the outermost centers."""
    return torch.tensor([-1.0, 2.0]) + draw(*shape, 2, seed=seed) * torch.tensor([2.5, 2.0])


TERRAINS = {
    "linear": lambda: LinearTerrain([2.0, 5.0]),
    "exponential": lambda: moved(ExponentialTerrain(2)),
    "network": lambda: moved(ExponentialTerrain(2, hidden=(4, 3), kernel_size=3)),
}


def moved(terrain):
    """Parameters that are not those of the beginning."""
    with torch.no_grad():
        for i, parameter in enumerate(terrain.parameters()):
            parameter += 0.5 * draw(*parameter.shape, seed=i)
    return terrain


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_interpolation_is_that_of_scipy(dtype):
    scene, values = grid(), draw(6, 5, seed=3)
    positions = inside(40)
    axes = [-1.0 + 0.5 * np.arange(6), 2.0 + 0.5 * np.arange(5)]
    expected = RegularGridInterpolator(axes, values.numpy())(positions.numpy())
    ours = scene.interpolate(values.to(dtype), positions.to(dtype))
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours, expected, rtol=2e-6 if dtype == torch.float32 else 1e-12)
    torch.testing.assert_close(scene.interpolate(values, scene.centers), values, rtol=1e-12, atol=1e-12)


def test_beyond_the_map_costs_rise_with_the_distance():
    cost = CostMap(LinearTerrain([2.0, 5.0]), grid(), outside=3.0)
    cells = cost.cells()
    positions = torch.tensor([[-1.0, 2.0], [-1.25, 2.0], [-2.25, 2.0], [1.75, 4.25], [2.75, 6.25]], dtype=torch.float64)
    corner = cells[5, 4]
    expected = torch.stack([cells[0, 0], cells[0, 0], cells[0, 0] + 3.0, corner, corner + 9.0])
    torch.testing.assert_close(cost.at(positions), expected)
    far = torch.tensor([50.0, -70.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(cost.at(far), far)
    assert slope.tolist() == [3.0, -3.0]  # back to the map


def test_what_is_not_finite_stays_so_and_nothing_is_an_answer_to_nothing():
    cost = CostMap(LinearTerrain([2.0, 5.0]), grid())
    assert cost.at(torch.tensor([[math.nan, 2.0], [-1.0, 2.0]]).double()).isnan().tolist() == [True, False]
    assert cost.at(torch.tensor([math.inf, 2.0]).double()).item() == math.inf
    assert cost.at(torch.zeros(0, 2)).shape == (0,)
    assert CostMap(LinearTerrain([2.0, 5.0]), grid(3)).at(torch.zeros(3, 0, 2)).shape == (3, 0)


def test_a_map_of_one_cell_is_constant():
    scene = FeatureGrid(torch.ones(1, 1, 1))
    cost = CostMap(LinearTerrain([2.0]), scene)
    torch.testing.assert_close(cost.at(draw(7, 2, low=-0.5, high=0.5)), torch.full((7,), 3.0).double())
    assert scene.cells_along(torch.zeros(1, 2)) == ((0, 0),)
    assert float(scene.visits([(0, 0)]).sum()) == 0.0


@pytest.mark.parametrize("name", TERRAINS)
def test_gradients_reach_positions_and_parameters(name):
    cost, positions = CostMap(TERRAINS[name](), grid()), inside(20)
    positions.requires_grad_()
    (ours,) = torch.autograd.grad(cost.at(positions).sum(), positions)
    numeric = finite_difference_jacobian(lambda p: cost.at(p).unsqueeze(-1), positions.detach())
    torch.testing.assert_close(ours, numeric.squeeze(-2), rtol=1e-6, atol=1e-7)
    for parameter in cost.parameters():
        (ours,) = torch.autograd.grad(cost.at(positions.detach()).sum(), parameter)
        numeric = torch.zeros_like(parameter).flatten()
        for i in range(parameter.numel()):
            values = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    parameter.view(-1)[i] += step
                    values.append(cost.at(positions.detach()).sum())
                    parameter.view(-1)[i] -= step
            numeric[i] = (values[0] - values[1]) / 2e-6
        torch.testing.assert_close(ours.flatten(), numeric, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", TERRAINS)
def test_several_scenes_are_each_of_them(name):
    terrain, scenes = TERRAINS[name](), grid(3, obstacles=draw(3, 6, 5, seed=8) > 0.9)
    together, x, u = CostMap(terrain, scenes), torch.cat([inside(3, 7, 4), draw(3, 7, 4, 2)], -1), draw(3, 7, 4, 1)
    ours = together.transition(x, u, x + 0.1, 0)
    assert ours.shape == (3, 7, 4)
    for i in range(3):
        alone = together.on(scenes.scene(i))
        torch.testing.assert_close(ours[i], alone.transition(x[i], u[i], x[i] + 0.1, 0), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(together.cells()[i], alone.cells(), rtol=1e-12, atol=1e-12)
    assert together.transition(x[:1], u[:1], x[:1], 0).shape == (3, 7, 4)  # one state in all scenes
    with pytest.raises(ValueError, match="3"):
        together.at(torch.zeros(2))
    with pytest.raises(ValueError, match="one scene"):
        together.graph()
    with pytest.raises(ValueError, match="indices"):
        scenes.scene()


def test_graph_and_line_integral_agree_from_center_to_center():
    cost = CostMap(LinearTerrain([2.0, 50.0]), grid(shape=(9, 8)))
    graph = cost.graph()
    path = shortest_path(graph, (0, 0), (8, 6), graph.heuristic((8, 6)))
    assert cost.path_cost(path.positions).item() == pytest.approx(path.cost, rel=1e-12)
    assert (cost.cells() * cost.grid.visits(path.nodes)).sum().item() == pytest.approx(path.cost, rel=1e-12)
    assert float(cost.grid.visits(path.nodes).sum()) == pytest.approx(path.length, rel=1e-12)
    assert cost.grid.cells_along(path) == path.nodes
    assert cost.grid.cells_along(path.resampled(200))[-1] == path.nodes[-1]
    finer = FeatureGrid(
        draw(2, 18, 16), cell_size=0.25, origin=cost.grid.origin
    )  # a path of other cells is its positions
    assert finer.cells_along(path) == finer.cells_along(path.positions)
    assert finer.cells_along(path)[-1] == (16, 12)


@pytest.mark.parametrize(("rows", "columns"), [(0, 4), (5, 0), (4, 4), (5, 3), (2, 4), (1, 1)])
def test_a_straight_line_is_as_long_as_a_path_of_the_graph(rows, columns):
    scene = grid()
    cells = scene.cells_along(torch.stack([scene.centers[0, 0], scene.centers[rows, columns]]))
    steps = np.abs(np.diff(cells, axis=0))
    assert cells[0] == (0, 0)
    assert cells[-1] == (rows, columns)
    assert steps.max() == 1
    octile = 0.5 * (max(rows, columns) + (math.sqrt(2) - 1) * min(rows, columns))
    assert float(scene.visits(cells).sum()) == pytest.approx(octile)


def test_paths_keep_off_the_corners_of_obstacles():
    mask = torch.zeros(6, 5, dtype=torch.bool)
    mask[1, 0] = True
    scene = grid(obstacles=mask)
    way = scene.centers[[0, 0, 1], [0, 1, 1]]
    assert scene.cells_along(way) == ((0, 0), (0, 1), (1, 1))
    assert grid().cells_along(way) == ((0, 0), (1, 1))
    assert scene.cells_along(scene.centers[[0, 2], [0, 2]]) == ((0, 0), (0, 1), (1, 1), (2, 2))  # from corner to corner
    touching = mask.clone()
    touching[0, 1] = True
    with pytest.raises(ValueError, match="between two obstacles"):
        grid(obstacles=touching).cells_along(scene.centers[[0, 2], [0, 2]])
    with pytest.raises(ValueError, match=r"obstacle, first in cell \(1, 0\)"):
        scene.cells_along(scene.centers[:3, 0])
    with pytest.raises(ValueError, match=r"leaves the map of \(6, 5\) cells"):
        scene.cells_along(torch.tensor([[-1.0, 2.0], [-2.0, 2.0]]))
    for bad in (torch.zeros(0, 2), torch.zeros(3), torch.full((2, 2), math.nan)):
        with pytest.raises(ValueError, match="finite positions"):
            scene.cells_along(bad)
    with pytest.raises(ValueError, match="no path"):
        scene.cells_along(Path((), math.inf, 3))
    cost = CostMap(LinearTerrain([2.0, 5.0]), scene, obstacle=40.0)
    free = CostMap(LinearTerrain([2.0, 5.0]), grid())
    here = scene.centers[1, 0]
    assert (cost.at(here) - free.at(here)).item() == pytest.approx(40.0)
    assert float(cost.graph().costs[1, 0]) == math.inf


def test_terrain_is_paid_for_by_the_meter_or_the_step():
    scene, x, u = grid(), torch.cat([inside(8), draw(8, 2)], -1), draw(8, 2)
    x_next = torch.cat([inside(8, seed=5), draw(8, 2)], -1)
    by_meter = CostMap(LinearTerrain([2.0, 5.0]), scene)
    length = (x_next - x)[:, :2].norm(dim=-1)
    exact = length * 0.5 * (by_meter.at(x[:, :2]) + by_meter.at(x_next[:, :2]))
    torch.testing.assert_close(by_meter.transition(x, u, x_next, 0), exact, rtol=0.05, atol=0.1)
    torch.testing.assert_close(by_meter.transition(x, u, x, 0), torch.zeros(8).double())
    moving = x_next.clone().requires_grad_()
    (slope,) = torch.autograd.grad(by_meter.transition(moving.detach(), u, moving, 0).sum(), moving)
    assert bool(slope.isfinite().all())  # at rest, too
    with pytest.raises(TypeError, match="per='step'"):
        by_meter.stage(x, u, 0)
    by_step = CostMap(LinearTerrain([2.0, 5.0]), scene, per="step", position=(2, 3))
    torch.testing.assert_close(by_step.stage(x, u, 0), by_step.at(x[:, 2:]))
    torch.testing.assert_close(by_step.transition(x, u, x_next, 0), by_step.at(x[:, 2:]))


def test_the_network_begins_with_one_cost_and_sees_its_neighbors():
    scene = draw(2, 6, 5)
    torch.testing.assert_close(ExponentialTerrain(2, hidden=(4,), floor=0.5)(scene), torch.full((6, 5), 1.5).double())
    assert ExponentialTerrain(2)(scene.float()).dtype == torch.float32
    for size, seen in ((1, 1), (3, 9)):
        terrain, other = moved(ExponentialTerrain(2, hidden=(4,), kernel_size=size)), scene.clone()
        other[:, 2, 2] += 1.0
        assert int((terrain(other) != terrain(scene)).sum()) == seen
    flat = draw(2, 1, 1).expand(2, 6, 5)  # the edge of the map is no feature
    cost = moved(ExponentialTerrain(2, hidden=(4,), kernel_size=3))(flat)
    torch.testing.assert_close(cost, cost[:1, :1].expand(6, 5))
    assert moved(ExponentialTerrain(2))(1e6 * scene).max().item() < 1e7  # bounded


def test_a_map_in_another_scene_shares_the_terrain():
    cost = CostMap(LinearTerrain([2.0, 5.0]), grid(), outside=4.0)
    other = cost.on(grid(seed=9))
    assert other.terrain is cost.terrain
    assert other.outside == 4.0
    assert not torch.equal(other.cells(), cost.cells())
    assert cost.state_dict().keys() == {"terrain.free"}
    assert "6 x 5 cells" in str(cost)


def test_the_scene_goes_along_with_the_terrain():
    mask = torch.zeros(6, 5, dtype=torch.bool)
    mask[2, 3] = True
    scene = grid(obstacles=mask, names=("mud", "slope"))
    here = CostMap(TERRAINS["network"](), scene)
    x = inside(4)
    expected = here.at(x)
    single = copy.deepcopy(here).float()
    assert single.cells().dtype == single.grid.features.dtype == torch.float32
    assert single.grid.origin.dtype == torch.float64
    assert (single.grid.names, single.grid.cell_size) == (("mud", "slope"), 0.5)
    torch.testing.assert_close(single.at(x.float()), expected.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(single.double().at(x), expected, rtol=1e-5, atol=1e-5)
    away = copy.deepcopy(here).to("meta")
    assert away.cells().device.type == away.grid.origin.device.type == away.grid.obstacles.device.type == "meta"
    assert here.grid is scene  # a copy went away, and another cost of the same scene stays where it is
    assert scene.features.device.type == "cpu"
    assert scene.features.dtype == torch.float64
    assert set(here.state_dict()) == {f"terrain.{name}" for name in here.terrain.state_dict()}


def test_planners_drive_where_the_graph_leads():
    """Mud in the way: a path around it, a sampling planner that follows, and DDP that improves what it found."""
    mud = torch.zeros(1, 13, 13, dtype=torch.float64)
    mud[0, 5:8, 3:8] = 1.0
    terrain = CostMap(LinearTerrain([30.0]), FeatureGrid(mud, cell_size=0.25))
    path = shortest_path(terrain.graph(), (0, 6), (12, 6))
    way = torch.cat([path.resampled(31), torch.zeros(31, 2)], dim=-1)
    follow = GoalCost(way, [10.0, 10.0, 0.0, 0.0], 0.01, [10.0, 10.0, 0.0, 0.0])
    problem = Problem(DoubleIntegrator(2, dt=0.1), follow + terrain, 30, control_limits=(-20.0, 20.0))
    sampled = solve(problem, ICEM(noise=KnotNoise(8), max_iterations=15), way[0])
    refined = solve(problem, DDP(max_iterations=4), way[0], init=sampled, throw=False)
    assert refined.cost.item() < sampled.cost.item()
    assert terrain.path_cost(refined.xs[:, :2]).item() < 1.3 * path.cost
    straight = torch.stack([torch.linspace(0.0, 3.0, 31), torch.full((31,), 1.5)], dim=-1).double()
    assert path.cost < 0.3 * terrain.path_cost(straight).item()


def test_a_batch_of_scenes_is_a_batch_of_problems():
    scenes = grid(2, shape=(12, 12))
    cost = CostMap(LinearTerrain([2.0, 5.0]), scenes)
    x0 = torch.tensor([-1.0, 2.0, 0.5, 0.0], dtype=torch.float64)
    limits = torch.tensor([0.5, 2.0], dtype=torch.float64)

    def problem(cost):
        goal = GoalCost([3.0, 5.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], 0.01)
        return Problem(Car(dt=0.1), cost + goal, 10, control_limits=(-limits, limits))

    together = solve(problem(cost), MPPI(max_iterations=2), x0.expand(2, -1))
    for i in range(2):
        value = problem(cost.on(scenes.scene(i))).trajectory_cost(together.xs[i], together.us[i])
        assert together.cost[i].item() == pytest.approx(value.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeatureGrid(torch.zeros(3, 4)), r"\(\*batch, k, H, W\)"),
        (lambda: FeatureGrid(torch.zeros(2, 0, 4)), "none of k, H, W zero"),
        (lambda: FeatureGrid(torch.full((1, 2, 2), math.nan)), "must be finite"),
        (lambda: FeatureGrid(torch.zeros(1, 2, 2), cell_size=0.0), "cell_size"),
        (lambda: FeatureGrid(torch.zeros(1, 2, 2), origin=[0.0]), "origin"),
        (lambda: FeatureGrid(torch.zeros(1, 2, 2), obstacles=torch.zeros(2, 2)), "mask of bool"),
        (lambda: FeatureGrid(torch.zeros(1, 2, 2), names=("road", "mud")), "names"),
        (lambda: LinearTerrain([1.0, -1.0]), "not negative"),
        (lambda: LinearTerrain([1.0], floor=0.0), "floor"),
        (lambda: ExponentialTerrain(2, kernel_size=2), "odd"),
        (lambda: ExponentialTerrain(2, hidden=(0,)), "at least one unit"),
        (lambda: CostMap(LinearTerrain([1.0]), grid()), "is for 1 features"),
        (lambda: CostMap(LinearTerrain([1.0]), FeatureGrid(-torch.ones(1, 2, 2))), "ExponentialTerrain"),
        (lambda: CostMap(LinearTerrain([1.0, 1.0]), grid(), outside=-1.0), "outside"),
        (lambda: CostMap(LinearTerrain([1.0, 1.0]), grid(), per="second"), "'step'"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_other_kinds_are_refused():
    with pytest.raises(TypeError, match="FeatureGrid"):
        CostMap(LinearTerrain([1.0]), torch.zeros(1, 2, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "terrain",
    [LinearTerrain([0.5, 0.0, 2.0], floor=0.3), ExponentialTerrain(3, hidden=(4,), kernel_size=3, floor=0.3, seed=1)],
    ids=["linear", "network"],
)
def test_terrain_is_kept_in_a_file(terrain, dtype, generator, tmp_path):
    terrain = copy.deepcopy(terrain).to(dtype)
    with torch.no_grad():
        for p in terrain.parameters():
            p.add_(torch.rand(p.shape, generator=generator, dtype=dtype))
    features = torch.rand(2, 3, 5, 6, generator=generator, dtype=dtype)
    read = mbrl.load_reward(mbrl.save_reward(terrain, tmp_path / "terrain.safetensors"))
    assert type(read) is type(terrain)
    assert next(read.parameters()).dtype == dtype
    assert torch.equal(read(features), terrain(features))
