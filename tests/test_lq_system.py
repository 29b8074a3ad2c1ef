"""The factorized optimality conditions against one dense solve."""

import pytest
import torch

from planners.lq_system import LQRight, LQSystem

D, M, T, R, R_T = 3, 2, 6, 2, 2


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def system(seed=0, batch=(), *, rows=True, compliance=0.0, pinned=True):
    k = D + M
    root = draw(seed, *batch, T, k, k)
    root_T = draw(seed + 1, *batch, D, D)
    free = draw(seed + 2, *batch, T, M) > -0.8 if pinned else torch.ones(*batch, T, M, dtype=torch.bool)
    active = (
        (draw(seed + 3, *batch, T, R) > 0.3) & free & rows
    )  # no more rows at a step than controls to meet them with
    active[..., -1, :] = False  # these are left for the last state
    free[..., -1, :] = True
    return LQSystem(
        F=draw(seed + 4, *batch, T, D, k) / 2,
        H=root @ root.mT + 0.1 * torch.eye(k).double(),
        H_T=root_T @ root_T.mT,
        free=free,
        C=draw(seed + 5, *batch, T, R, k),
        active=active,
        compliance=compliance * torch.ones(*batch, T, R, dtype=torch.float64),
        C_T=draw(seed + 6, *batch, R_T, D),
        active_T=(draw(seed + 7, *batch, R_T) > 0) & rows,
        compliance_T=compliance * torch.ones(*batch, R_T, dtype=torch.float64),
    )


def right(seed=50, batch=()):
    k = D + M
    shapes = {"q": (T, k), "q_T": (D,), "b": (T, D), "h": (T, R), "h_T": (R_T,)}
    return LQRight(**{name: draw(seed + i, *batch, *shape) for i, (name, shape) in enumerate(shapes.items())})


def dense(s: LQSystem, r: LQRight):
    """Solve min 1/2 w'Hw + q'w s.t. E w = e, rows with compliance, by assembling everything; w = (x_0, u_0, x_1, ..., x_T)."""
    k, N = D + M, T * (D + M) + D
    H, q = torch.zeros(N, N).double(), torch.zeros(N).double()
    equations, values, compliances = [], [], []

    def add(columns, coefficients, value, c=0.0):
        row = torch.zeros(N).double()
        for column, coefficient in zip(columns, coefficients, strict=True):
            row[column] += coefficient
        equations.append(row)
        values.append(value)
        compliances.append(c)

    for i in range(D):
        add([i], [1.0], 0.0)
    for t in range(T):
        z = list(range(t * k, (t + 1) * k))
        H[t * k : (t + 1) * k, t * k : (t + 1) * k] = s.H[t]
        q[t * k : (t + 1) * k] = r.q[t]
        for i in range(D):
            add([*z, (t + 1) * k + i], [*s.F[t, i], -1.0], -r.b[t, i])
        for j in range(M):
            if not s.free[t, j]:
                add([z[D + j]], [1.0], 0.0)
        for i in range(R):
            if s.active[t, i]:
                add(z, s.C[t, i], -r.h[t, i], s.compliance[t, i])
    last = list(range(T * k, N))
    H[T * k :, T * k :], q[T * k :] = s.H_T, r.q_T
    for i in range(R_T):
        if s.active_T[i]:
            add(last, s.C_T[i], -r.h_T[i], s.compliance_T[i])
    E = torch.stack(equations)
    c = torch.tensor([float(v) for v in compliances], dtype=torch.float64)
    matrix = torch.cat([torch.cat([H, E.mT], dim=1), torch.cat([E, -torch.diag(c)], dim=1)])
    e = torch.tensor([float(v) for v in values], dtype=torch.float64)
    solution = torch.linalg.solve(matrix, torch.cat([-q, e]))
    w = solution[:N]
    z = w[: T * k].reshape(T, k)
    return torch.cat([z[:, :D], w[T * k :].unsqueeze(0)]), z[:, D:]


@pytest.mark.parametrize("seed", range(0, 500, 100))
@pytest.mark.parametrize(("rows", "compliance"), [(False, 0.0), (True, 0.0), (True, 0.3)])
def test_displacements_are_those_of_a_dense_solve(seed, rows, compliance):
    s, r = system(seed, rows=rows, compliance=compliance), right(seed + 50)
    factor = s.factorized()
    assert bool(factor.convex)
    found = factor.solve(r)
    dx, du = dense(s, r)
    torch.testing.assert_close(found.dx, dx, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.du, du, rtol=1e-9, atol=1e-9)
    left = s.residual(r, found)
    assert max(float(v.abs().max()) for v in vars(left).values()) < 1e-9


def test_a_batch_is_its_members():
    s, r = system(7, (4,)), right(9, (4,))
    found = s.factorized().solve(r)
    for i in range(4):
        one = LQSystem(**{name: value[i] for name, value in vars(s).items()})
        alone = one.factorized().solve(LQRight(**{name: value[i] for name, value in vars(r).items()}))
        torch.testing.assert_close(found.dx[i], alone.dx, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(found.nu[i], alone.nu, rtol=1e-8, atol=1e-8)


def test_dependent_rows_still_have_a_solution():
    s, r = system(3), right(4)
    doubled = LQSystem(
        **{
            **vars(s),
            "C_T": torch.cat([s.C_T, s.C_T]),
            "active_T": torch.ones(2 * R_T, dtype=torch.bool),
            "compliance_T": torch.zeros(2 * R_T).double(),
        }
    )
    one = LQSystem(**{**vars(s), "active_T": torch.ones(R_T, dtype=torch.bool)})
    alone = one.factorized().solve(r)
    found = doubled.factorized().solve(LQRight(**{**vars(r), "h_T": torch.cat([r.h_T, r.h_T])}))
    torch.testing.assert_close(found.dx, alone.dx, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.y_T[:R_T], found.y_T[R_T:], rtol=1e-7, atol=1e-7)


def test_curvature_is_the_smallest_eigenvalue_that_a_free_control_sees():
    s = system(11, rows=False)
    factor = s.factorized()
    smallest = [
        float(torch.linalg.eigvalsh(factor.Quu[t][s.free[t]][:, s.free[t]]).min()) for t in range(T) if s.free[t].any()
    ]
    assert float(factor.curvature()) == pytest.approx(min(smallest), rel=1e-12)
    indefinite = LQSystem(**{**vars(s), "H": s.H - 100 * torch.eye(D + M).double()})
    factor = indefinite.factorized()
    assert not bool(factor.convex)
    assert float(factor.curvature()) < 0
