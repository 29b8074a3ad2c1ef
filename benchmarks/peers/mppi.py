"""pytorch_mppi on the problems of benchmarks/sampling.py, one command per request, as its users would call it.

Request: ``{"problem": "toy" | "pendulum", "K": samples, "T": horizon, "threads": n, "commands": n}``; answer: the
seconds of each command, and the cost of the plan after them.
"""

import json
import math
import sys
import time

import torch
from pytorch_mppi import MPPI

B = torch.tensor([[1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
GOAL = torch.tensor([2.0, 2.0], dtype=torch.float64)


def toy_step(x, u):
    """The plane of pytorch_mppi's own benchmark."""
    return x + u @ B.T


def toy_cost(x, u):
    """Squared distance from the goal."""
    return ((GOAL - x) ** 2).sum(-1)


def pendulum_step(x, u):
    """Gymnasium's pendulum."""
    angle, speed = x[:, 0].view(-1, 1), x[:, 1].view(-1, 1)
    speed = torch.clamp(speed + (15.0 * torch.sin(angle) + 3.0 * torch.clamp(u, -2, 2)) * 0.05, -8, 8)
    return torch.cat((angle + speed * 0.05, speed), dim=1)


def pendulum_cost(x, u):
    """Squared angle and a tenth of the squared speed."""
    angle = ((x[:, 0] + math.pi) % (2 * math.pi)) - math.pi
    return angle**2 + 0.1 * x[:, 1] ** 2


PROBLEMS = {
    "toy": (toy_step, toy_cost, [-3.0, -2.0], torch.eye(2, dtype=torch.float64)),
    "pendulum": (pendulum_step, pendulum_cost, [math.pi, 1.0], torch.eye(1, dtype=torch.float64)),
}


def controller(problem, K, T):
    """A fresh controller, and the state it starts from."""
    step, cost, x0, sigma = PROBLEMS[problem]
    limit = torch.tensor(2.0, dtype=torch.float64)
    torch.manual_seed(0)
    planner = MPPI(step, cost, 2, sigma, num_samples=K, horizon=T, lambda_=1.0, u_min=-limit, u_max=limit)
    return planner, torch.tensor(x0, dtype=torch.float64)


def plan_cost(problem, planner, x0):
    """Sum of the running costs of the states that the plan leads to, the controls clamped as the planner clamps them."""
    step, cost, _, _ = PROBLEMS[problem]
    x, total = x0.unsqueeze(0), 0.0
    for u in planner.get_action_sequence().clamp(-2.0, 2.0):
        x = step(x, u.unsqueeze(0))
        total += float(cost(x, u.unsqueeze(0)))
    return total


def answer(request):
    """What one request asks for."""
    torch.set_num_threads(request["threads"])
    planner, x0 = controller(request["problem"], request["K"], request["T"])
    seconds = []
    for _ in range(request["commands"]):
        start = time.perf_counter()
        planner.command(x0, shift_nominal_trajectory=False)
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "cost": plan_cost(request["problem"], planner, x0)}


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
