"""mpc.pytorch on the problems of benchmarks/trajopt.py, as its examples call it.

Requests (arrays are nested lists; times are those of each repeat):

- ``{"task": "lqr", "A", "B", "b", "x0", "limit", "T", "iterations", "threads", "repeats", "weights"}``: controls, seconds, and
  with ``weights`` the seconds of forward and backward, and the gradients of the weighted sum of the controls by x0 and by the
  linear cost q of the states;
- ``{"task": "pendulum" | "cartpole", "x0", "T", "iterations", "eps", "threads", "repeats"}``: controls, seconds, the cost that it
  reports itself, and the states of its own simulation.
"""

import json
import sys
import time

import torch
from mpc import mpc, util
from mpc.env_dx import cartpole, pendulum
from mpc.mpc import GradMethods, LinDx, QuadCost

torch.set_default_dtype(torch.float64)


def tensor(values):
    """A float64 tensor of nested lists."""
    return torch.tensor(values, dtype=torch.float64)


def lqr(request):
    """The bounded LQR; its last control is free, so that there is one step more for the terminal cost."""
    A, B, b, x0 = (tensor(request[name]) for name in ("A", "B", "b", "x0"))
    batch, T = len(x0), request["T"] + 1
    n, m = B.shape
    F = torch.cat([A, B], dim=1).expand(T - 1, batch, n, n + m)
    f = b.expand(T - 1, batch, n)
    C = torch.eye(n + m).expand(T, batch, n + m, n + m)
    weights = tensor(request["weights"]).transpose(0, 1) if request.get("weights") else None
    solver = mpc.MPC(
        n,
        m,
        T,
        u_lower=-request["limit"],
        u_upper=request["limit"],
        lqr_iter=request["iterations"],
        exit_unconverged=False,
        detach_unconverged=False,
        eps=1e-7,
        verbose=-1,
    )
    answer = {"seconds": [], "gradient_seconds": []}
    for _ in range(request["repeats"]):
        start = time.perf_counter()
        _, us, _ = solver(x0, QuadCost(C, torch.zeros(T, batch, n + m)), LinDx(F, f))
        answer["seconds"].append(time.perf_counter() - start)
        if weights is not None:
            start = time.perf_counter()
            x, q = x0.clone().requires_grad_(), torch.zeros(n, requires_grad=True)
            linear = torch.cat([q, torch.zeros(m)]).expand(T, batch, n + m)
            linear = torch.cat([linear[:-1], torch.zeros(1, batch, n + m)])  # q counts at stages
            _, plans, _ = solver(x, QuadCost(C, linear), LinDx(F, f))
            (plans[:-1] * weights).sum().backward()
            answer["gradient_seconds"].append(time.perf_counter() - start)
            answer |= {"by_x0": x.grad.tolist(), "by_q": q.grad.tolist()}
    return answer | {"us": us[:-1].transpose(0, 1).tolist()}


def own_task(request):
    """The library's own pendulum or cart-pole under its own cost, with the settings of its examples."""
    dx = {"pendulum": pendulum.PendulumDx, "cartpole": cartpole.CartpoleDx}[request["task"]]()
    dx.params = dx.params.double()
    x0, T = tensor(request["x0"]), request["T"]
    q, p = (v.double() for v in dx.get_true_obj())
    cost = QuadCost(torch.diag(q).repeat(T, len(x0), 1, 1), p.repeat(T, len(x0), 1))
    seconds = []
    for _ in range(request["repeats"]):
        start = time.perf_counter()
        _, us, costs = mpc.MPC(
            dx.n_state,
            dx.n_ctrl,
            T,
            u_lower=float(dx.lower),
            u_upper=float(dx.upper),
            lqr_iter=request["iterations"],
            verbose=-1,
            exit_unconverged=False,
            detach_unconverged=False,
            linesearch_decay=dx.linesearch_decay,
            max_linesearch_iter=dx.max_linesearch_iter,
            grad_method=GradMethods.AUTO_DIFF,
            eps=request["eps"],
        )(x0, cost, dx)
        seconds.append(time.perf_counter() - start)
    xs = util.get_traj(T, us, x0, dx)
    return {
        "seconds": seconds,
        "us": us.detach().transpose(0, 1).tolist(),
        "xs": xs.transpose(0, 1).tolist(),
        "costs": [float(value) for value in costs],
    }


answers, sys.stdout = sys.stdout, sys.stderr  # the library prints its warnings
for line in sys.stdin:
    asked = json.loads(line)
    torch.set_num_threads(asked["threads"])
    print(json.dumps(lqr(asked) if asked["task"] == "lqr" else own_task(asked)), file=answers, flush=True)
