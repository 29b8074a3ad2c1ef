"""The same results on a GPU: device follows the tensors that come in."""

import copy
from dataclasses import replace

import pytest
import torch
from instances import ALL_ON_POLICY

import mbrl
from dynamics import CartPole, Ensemble, Pendulum, RandomizedWorlds, Training, fit
from planners import (
    CEM,
    DDP,
    ICEM,
    LQR,
    MPC,
    MPPI,
    CostMap,
    CVaR,
    FeatureGrid,
    GoalCost,
    Implicit,
    LinearTerrain,
    PredictiveSampling,
    Problem,
    RandomShooting,
    Slack,
    StateLimits,
    solve,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


def test_systems_and_their_derivatives_agree():
    for system in (Pendulum(), CartPole()):
        x = torch.randn(16, system.state_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        u = torch.ones(16, system.control_dim, dtype=torch.float64)
        here, there = system.linearize(x, u), system.linearize(x.cuda(), u.cuda())
        for name in ("x_next", "fx", "fu"):
            torch.testing.assert_close(getattr(there, name).cpu(), getattr(here, name), rtol=1e-11, atol=1e-11)


def test_an_ensemble_predicts_plans_and_controls_on_the_gpu():
    task = mbrl.pendulum_swing_up(backend="torch")
    logs = mbrl.record(task, mbrl.SplineNoise(task.control_limits), 12, steps=40)
    model = Ensemble.for_trajectories(logs, angles=["angle"], hidden=(32, 32))
    fit(model, logs, training=Training(steps=50), progress=False)
    x = task.initial_state(4, torch.Generator().manual_seed(0))
    u = torch.zeros(4, 1, dtype=torch.float64)
    expected = model(x, u)
    model.cuda()
    torch.testing.assert_close(model(x.cuda(), u.cuda()).cpu(), expected, rtol=1e-4, atol=1e-5)
    mpc = MPC(task.problem(model), ICEM(num_samples=32, max_iterations=2))
    control, state = mpc.step(mpc.init(x.cuda()), x.cuda())
    assert control.is_cuda
    assert state.solution.xs.is_cuda
    assert bool(state.solution.usable.all())


@pytest.mark.parametrize("planner", [CEM(), ICEM(), MPPI(), RandomShooting(), PredictiveSampling()], ids=str)
def test_sampling_on_a_torch_system_stays_on_the_device(planner):
    problem = Problem(
        Pendulum(), GoalCost(angles=[0]), 20, control_limits=(-2.0, 2.0), rate_limits=(-30.0, 30.0),
        control_values=torch.linspace(-2.0, 2.0, 5).unsqueeze(-1),
    )  # fmt: skip
    x0 = torch.zeros(3, 2, device="cuda", dtype=torch.float64)
    solution = solve(problem, planner, x0)
    again = solve(problem, planner, x0, init=solution, t0=1, previous_control=solution.us[:, 0])
    assert again.us.is_cuda
    assert again.controls_at(again.time + torch.arange(3.0)).is_cuda
    assert solution.controller().K.is_cuda


def test_risk_over_worlds_on_the_device():
    worlds = RandomizedWorlds.drawn(Pendulum(), {"mass": (0.5, 1.5)}, worlds=4)
    problem = Problem(worlds, GoalCost(angles=[0]), 20, control_limits=(-2.0, 2.0))
    assert solve(problem, ICEM(risk=CVaR(0.5)), torch.zeros(3, 2, device="cuda", dtype=torch.float64)).us.is_cuda


def test_a_cost_map_goes_along_with_its_scene():
    draw = torch.Generator().manual_seed(0)
    features = torch.rand(2, 6, 5, generator=draw, dtype=torch.float64)
    here = CostMap(LinearTerrain([2.0, 5.0]), FeatureGrid(features, obstacles=features[0] > 0.8))
    x = 4 * torch.rand(8, 2, generator=draw, dtype=torch.float64)
    expected, there = here.at(x), copy.deepcopy(here).cuda()
    assert there.cells().is_cuda
    torch.testing.assert_close(there.at(x.cuda()).cpu(), expected)


def test_lqr_agrees():
    from dynamics import LinearDynamics
    from planners import QuadraticCost

    A, B = torch.tensor([[1.0, 0.1], [0.0, 1.0]]).double(), torch.tensor([[0.0], [0.1]]).double()
    problem = Problem(LinearDynamics(A, B), QuadraticCost(torch.eye(2).double(), torch.eye(1).double()), 30)
    x0 = torch.ones(5, 2, dtype=torch.float64)
    torch.testing.assert_close(solve(problem, LQR(), x0.cuda()).us.cpu(), solve(problem, LQR(), x0).us)


def test_trajectories_and_their_derivatives_agree():
    limit = torch.tensor([1.5], dtype=torch.float64)
    x0 = torch.tensor([[3.0, 0.0], [2.5, 0.5], [-2.0, 0.0], [2.8, -0.5]], dtype=torch.float64)

    def solved(device: str) -> tuple[torch.Tensor, ...]:
        upper, start = limit.to(device).requires_grad_(), x0.to(device).requires_grad_()
        problem = Problem(
            Pendulum(),
            GoalCost(state_weights=[1.0, 0.1], control_weights=0.1, angles=[0]),
            20,
            control_limits=(-upper, upper),
            constraints=(StateLimits(upper=3.0, states=[1]),),
            terminal_constraints=(StateLimits(upper=2.5, states=[1], soft=Slack(quadratic=5.0)),),
        )
        solution = solve(problem, DDP(), start, gradient=Implicit())
        gradients = torch.autograd.grad(solution.us.sum() + solution.cost.sum(), (upper, start))
        return tuple(value.detach().cpu() for value in (solution.us, solution.cost, *gradients))

    for there, here in zip(solved("cuda"), solved("cpu"), strict=True):
        torch.testing.assert_close(there, here, rtol=1e-6, atol=1e-7)


NETWORKS = {
    "memoryless": mbrl.NetworkSettings(hidden=(16,)),
    "recurrent": mbrl.NetworkSettings(hidden=(16,), recurrent=16),
}


def trained(name="PPO", network="memoryless", task=None, **given):
    longer = {"steps_per_iteration": 256, "sequence_length": 32}
    algorithm = replace(ALL_ON_POLICY[name], network=NETWORKS[network], **longer)
    task = task or mbrl.pendulum_swing_up(backend="torch")
    return mbrl.train(algorithm, task, **({"steps": 512, "device": "cuda", "evaluation_episodes": 2} | given))


def close(here, there, tolerance):
    for name, value in there.policy.state_dict().items():
        torch.testing.assert_close(here.policy.state_dict()[name].cpu(), value.cpu(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", ALL_ON_POLICY)
def test_on_policy_algorithms_train_on_the_gpu(name, network):
    there, here = trained(name, network), trained(name, network, device="cpu")
    assert there.policy.device.type == "cuda"
    assert there.metrics.keys() == here.metrics.keys()
    for p, q in zip(there.policy.parameters(), here.policy.parameters(), strict=True):
        assert p.shape == q.shape
        assert bool(p.isfinite().all())
    y = torch.tensor([[1.0, 0.0, 0.1], [0.0, 1.0, -0.1]], dtype=torch.float64)[:, : there.policy.observation_dim]
    u, _ = there.policy.act(y, there.policy.init(2))
    assert u.device == y.device
    assert here.policy.act(y, here.policy.init(2))[0].shape == u.shape
    expected, _ = there.policy.cpu().act(y, there.policy.init(2))
    torch.testing.assert_close(u, expected, rtol=1e-4, atol=1e-5)


def test_finitely_many_actions_train_on_the_gpu():
    assert trained(task="CartPole-v1").policy.device.type == "cuda"


def test_a_run_on_the_gpu_goes_on_as_if_nothing_had_happened(tmp_path):
    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(run=tmp_path / "run", on_iteration=stop)
    close(trained(run=tmp_path / "run"), trained(), 0.0)


@pytest.mark.parametrize("backend", [None, "nccl"])
def test_a_process_of_torchrun_trains_over_nccl(monkeypatch, tmp_path, backend):
    """One that makes its group, and one that finds one in which tensors on the CPU cannot be added up."""
    from torch import distributed

    alone = trained()
    given = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    if backend:
        distributed.init_process_group(backend)
    seen = []
    try:
        grouped = trained(run=tmp_path / "run", on_iteration=lambda row: seen.append(distributed.get_backend_config()))
    finally:
        if backend:
            distributed.destroy_process_group()
    assert all("cuda:nccl" in config and ("cpu:gloo" in config) == (backend is None) for config in seen)
    assert not distributed.is_initialized()
    assert grouped.policy.device == torch.device("cuda", 0)
    close(grouped, alone, 0.0)
