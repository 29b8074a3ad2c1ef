"""cvxpylayers on the bounded LQR of benchmarks/trajopt.py, as a quadratic program in states and controls.

Request: ``{"A", "B", "b", "x0", "limit", "T", "threads", "repeats", "weights"}`` (arrays are nested lists); answer: the controls,
the seconds of each repeat, and with ``weights`` the seconds of forward and backward, and the gradients of the weighted sum of
the controls by x0 and by the linear cost q of the states. The layer is built once, untimed; ``threads`` is also the number
of problems that are solved at a time. Clarabel is asked for tighter tolerances than its own, so that residuals compare.
"""

import json
import sys
import time

import cvxpy as cp
import numpy as np
import torch
from cvxpylayers.torch import CvxpyLayer


def layer_of(A, B, b, limit, T, threads):
    """The layer (x0, q) -> controls."""
    n, m = B.shape
    xs, us = cp.Variable((T + 1, n)), cp.Variable((T, m))
    x0, q = cp.Parameter(n), cp.Parameter(n)
    cost = 0.5 * cp.sum_squares(xs) + 0.5 * cp.sum_squares(us) + cp.sum(xs[:-1] @ q)
    dynamics = [xs[0] == x0, xs[1:] == xs[:-1] @ A.T + us @ B.T + np.tile(b, (T, 1))]
    problem = cp.Problem(cp.Minimize(cost), [*dynamics, us >= -limit, us <= limit])
    arguments = {
        "solve_method": "Clarabel",
        "tol_gap_abs": 1e-10,
        "tol_gap_rel": 1e-10,
        "tol_feas": 1e-10,
        "n_jobs_forward": threads,
    }
    return CvxpyLayer(problem, parameters=[x0, q], variables=[us], solver_args=arguments)


def answer(request):
    """What one request asks for."""
    torch.set_num_threads(request["threads"])
    A, B, b = (np.array(request[name]) for name in ("A", "B", "b"))
    layer = layer_of(A, B, b, request["limit"], request["T"], request["threads"])
    x0, q = torch.tensor(request["x0"], dtype=torch.float64), torch.zeros(len(b), dtype=torch.float64)
    found = {"seconds": [], "gradient_seconds": []}
    for _ in range(request["repeats"]):
        start = time.perf_counter()
        with torch.no_grad():
            (us,) = layer(x0, q)
        found["seconds"].append(time.perf_counter() - start)
        if request.get("weights"):
            weights = torch.tensor(request["weights"], dtype=torch.float64)
            start = time.perf_counter()
            x, linear = x0.clone().requires_grad_(), q.clone().requires_grad_()
            (plans,) = layer(x, linear, solver_args={"n_jobs_backward": request["threads"]})
            (plans * weights).sum().backward()
            found["gradient_seconds"].append(time.perf_counter() - start)
            found |= {"by_x0": x.grad.tolist(), "by_q": linear.grad.tolist()}
    return found | {"us": us.tolist()}


answers, sys.stdout = sys.stdout, sys.stderr  # solvers print
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), file=answers, flush=True)
