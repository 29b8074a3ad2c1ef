"""Crocoddyl on the problems of benchmarks/trajopt.py, one solve per repeat from controls of zero.

Requests: ``{"task": "unicycle" | "cartpole" | "lqr", "x0", "T", "solver": "DDP" | "FDDP", "iterations", "repeats"}``, for the
linear problem also ``{"A", "B", "Q", "R", "q", "r"}``, for the cart-pole ``{"terminal"}``, the weights of the last state. The
answer: the controls, the seconds of each repeat, the iterations and whether it says that it converged.

Unicycle and linear problem are its own C++ action models. It has no cart-pole: this one is written in Python as in its second
notebook, so that most of that time is Python's; the derivatives are analytic, where the notebook takes differences.
"""

import json
import sys
import time

import crocoddyl
import numpy as np

CART, POLE, LENGTH, GRAVITY, DT = 1.0, 0.1, 0.5, 9.81, 0.05
WEIGHTS = (1.0, 1.0, 0.1, 0.001, 0.001, 1.0)


class CartPole(crocoddyl.ActionModelAbstract):
    """The cart-pole of the second notebook: semi-implicit Euler steps, weighted residuals, Gauss-Newton Hessians."""

    def __init__(self, weights):
        crocoddyl.ActionModelAbstract.__init__(self, crocoddyl.StateVector(4), 1, 6)
        self.weights = np.array(weights)

    def calc(self, data, x, u=None):
        """Next state and cost."""
        force = 0.0 if u is None else u[0]
        s, c, turn = np.sin(x[1]), np.cos(x[1]), x[3]
        mass = CART + POLE * s * s
        push = force - POLE * LENGTH * s * turn**2
        along = (push + POLE * GRAVITY * c * s) / mass
        around = (push * c + (CART + POLE) * GRAVITY * s) / (LENGTH * mass)
        speeds = x[2:] + DT * np.array([along, around])
        data.xnext = np.concatenate([x[:2] + DT * speeds, speeds]) if u is not None else x.copy()
        data.r = self.weights * np.array([s, 1.0 - c, x[0], x[2], x[3], force])
        data.cost = 0.5 * float(data.r @ data.r)

    def calcDiff(self, data, x, u=None):  # noqa: N802 (the name that Crocoddyl calls)
        """Their derivatives."""
        force = 0.0 if u is None else u[0]
        s, c, turn = np.sin(x[1]), np.cos(x[1]), x[3]
        mass, dmass = CART + POLE * s * s, 2.0 * POLE * s * c
        push, dpush = force - POLE * LENGTH * s * turn**2, -POLE * LENGTH * c * turn**2
        top, dtop = push + POLE * GRAVITY * c * s, dpush + POLE * GRAVITY * (c * c - s * s)
        low = push * c + (CART + POLE) * GRAVITY * s
        dlow = dpush * c - push * s + (CART + POLE) * GRAVITY * c
        by_turn = -2.0 * POLE * LENGTH * s * turn
        by_angle = np.array([(dtop - top * dmass / mass) / mass, (dlow - low * dmass / mass) / (LENGTH * mass)])
        by_speed = np.array([by_turn / mass, by_turn * c / (LENGTH * mass)])
        by_force = np.array([1.0 / mass, c / (LENGTH * mass)])
        speeds = np.zeros((2, 4))
        speeds[0, 2] = speeds[1, 3] = 1.0
        speeds[:, 1] += DT * by_angle
        speeds[:, 3] += DT * by_speed
        data.Fx = np.concatenate([np.eye(2, 4) + DT * speeds, speeds])
        data.Fu = np.concatenate([DT * DT * by_force, DT * by_force]).reshape(4, 1)
        residual = np.zeros((6, 4))
        residual[0, 1], residual[1, 1], residual[2, 0], residual[3, 2], residual[4, 3] = c, s, 1.0, 1.0, 1.0
        residual *= self.weights[:, None]
        data.Lx, data.Lxx = residual.T @ data.r, residual.T @ residual
        data.Lu, data.Luu = np.array([self.weights[5] * data.r[5]]), np.array([[self.weights[5] ** 2]])


def problem_of(request):
    """The shooting problem."""
    x0, T = np.array(request["x0"]), request["T"]
    if request["task"] == "unicycle":
        running = last = crocoddyl.ActionModelUnicycle()
    elif request["task"] == "cartpole":
        running, last = CartPole(WEIGHTS), CartPole((*request["terminal"], 1.0))
    else:
        A, B, Q, R, q, r = (np.array(request[name]) for name in ("A", "B", "Q", "R", "q", "r"))
        running = last = crocoddyl.ActionModelLQR(A, B, Q, R, np.zeros(B.shape), np.zeros(len(q)), q, r)
    return crocoddyl.ShootingProblem(x0, [running] * T, last)


def answer(request):
    """What one request asks for."""
    problem, T = problem_of(request), request["T"]
    solver = {"DDP": crocoddyl.SolverDDP, "FDDP": crocoddyl.SolverFDDP}[request["solver"]](problem)
    solver.th_stop = 1e-12
    us = [np.zeros(model.nu) for model in problem.runningModels]
    xs = problem.rollout(us)
    seconds = []
    for _ in range(request["repeats"]):
        start = time.perf_counter()
        converged = solver.solve(xs, us, request["iterations"], False)
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": seconds,
        "us": np.array(list(solver.us)).reshape(T, -1).tolist(),
        "iterations": int(solver.iter),
        "converged": bool(converged),
    }


answers, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), file=answers, flush=True)
