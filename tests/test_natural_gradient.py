"""Conjugate gradients against dense solves, Fisher products against explicit matrices."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from mbrl.on_policy.natural_gradient import FisherVectorProduct, conjugate_gradient, flatten, unflatten

DOUBLE = torch.float64


def spectrum(n, eigenvalues, seed):
    """A symmetric matrix of given eigenvalues in a random basis."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=DOUBLE))
    return basis @ torch.diag(torch.as_tensor(eigenvalues, dtype=DOUBLE)) @ basis.mT


@pytest.mark.parametrize("n", [1, 2, 5, 20, 60])
@pytest.mark.parametrize("seed", range(3))
def test_dense_solves(n, seed):
    A = spectrum(n, torch.linspace(0.5, 20.0, n), seed)
    b = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    found = conjugate_gradient(lambda p: A @ p, b, iterations=n)
    torch.testing.assert_close(found.solution, torch.linalg.solve(A, b), rtol=0, atol=1e-10)
    assert found.iterations <= n
    assert not found.negative_curvature
    true_residual = float((b - A @ found.solution).norm() / b.norm())
    assert found.residual == pytest.approx(true_residual, abs=1e-12)


def test_as_many_iterations_as_different_eigenvalues():
    """Nocedal and Wright, theorem 5.4."""
    A = spectrum(30, [1.0, 4.0, 9.0] * 10, seed=0)
    b = torch.randn(30, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    found = conjugate_gradient(lambda p: A @ p, b, iterations=30)
    assert found.iterations == 3
    assert found.residual <= 1e-10


def test_few_iterations_are_the_best_of_their_krylov_space():
    A = spectrum(40, torch.linspace(1.0, 50.0, 40), seed=2)
    b = torch.randn(40, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
    found = conjugate_gradient(lambda p: A @ p, b, iterations=4)
    assert found.iterations == 4
    K, _ = torch.linalg.qr(torch.stack([torch.linalg.matrix_power(A, k) @ b for k in range(4)], dim=-1))
    best = K @ torch.linalg.solve(K.mT @ A @ K, K.mT @ b)
    torch.testing.assert_close(found.solution, best, rtol=0, atol=1e-10)
    assert found.residual == pytest.approx(float((b - A @ best).norm() / b.norm()), rel=1e-8)


def test_it_stops_at_the_tolerance():
    A = spectrum(40, torch.linspace(1.0, 50.0, 40), seed=2)
    b = torch.randn(40, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
    found = conjugate_gradient(lambda p: A @ p, b, iterations=40, tolerance=1e-3)
    before = conjugate_gradient(lambda p: A @ p, b, iterations=found.iterations - 1, tolerance=1e-3)
    assert found.residual <= 1e-3 < before.residual


@pytest.mark.parametrize(("dtype", "factor"), [(torch.float32, 1e-30), (torch.float32, 1e30), (DOUBLE, 1e-200)])
def test_the_scale_of_the_right_side_does_not_matter(dtype, factor):
    A = spectrum(6, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], seed=4).to(dtype)
    b = torch.randn(6, generator=torch.Generator().manual_seed(5), dtype=dtype)
    found = conjugate_gradient(lambda p: A @ p, b * factor, iterations=6)
    assert found.solution.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found.solution / factor, torch.linalg.solve(A, b), rtol=tolerance, atol=tolerance)


def test_an_indefinite_matrix_is_flagged():
    A = spectrum(10, [-1.0, *range(1, 10)], seed=6)
    for seed in range(20):
        b = torch.randn(10, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
        found = conjugate_gradient(lambda p: A @ p, b, iterations=10)
        assert found.negative_curvature
        if found.iterations:
            same = conjugate_gradient(lambda p: A @ p, b, iterations=found.iterations)
            assert torch.equal(found.solution, same.solution)
            assert float(b @ found.solution) > 0
        else:
            assert float(b @ A @ b) <= 0
            assert torch.equal(found.solution, 0 * b)
            assert found.residual == 1.0


@pytest.mark.parametrize("factor", [-1.0, 0.0, 1e-42, math.nan, math.inf])
def test_no_direction_where_the_first_curvature_is_none(factor):
    b = torch.tensor([3.0, 0.0, -1.0])
    found = conjugate_gradient(lambda p: factor * p, b, iterations=5)
    assert found.negative_curvature
    assert found.iterations == 0
    assert found.solution.tolist() == [0.0, 0.0, 0.0]


def test_a_product_that_is_not_finite_later_leaves_the_last_iterate():
    A = spectrum(5, [1.0, 2.0, 3.0, 4.0, 5.0], seed=7)
    b = torch.ones(5, dtype=DOUBLE)
    products = []

    def broken_after_two(p):
        products.append(A @ p)
        return products[-1] if len(products) <= 2 else products[-1] * torch.nan

    found = conjugate_gradient(broken_after_two, b, iterations=5)
    assert found.negative_curvature
    assert found.iterations == 2
    assert torch.equal(found.solution, conjugate_gradient(lambda p: A @ p, b, iterations=2).solution)


def test_right_sides_without_a_direction():
    def never(p):
        raise AssertionError("there is nothing to multiply")

    for b in (torch.zeros(4), torch.zeros(0)):
        found = conjugate_gradient(never, b, iterations=5)
        assert torch.equal(found.solution, b)
        assert (found.residual, found.iterations, found.negative_curvature) == (0.0, 0, False)
    found = conjugate_gradient(never, torch.tensor([1.0, torch.nan]), iterations=5)
    assert found.solution.tolist() == [0.0, 0.0]
    assert math.isnan(found.residual)
    assert found.negative_curvature


@pytest.mark.parametrize(
    ("b", "options", "message"),
    [
        (torch.ones(2, 1), {}, r"b must be a floating-point vector \(n,\), got torch.float32 of shape \(2, 1\)"),
        (torch.ones(2, dtype=torch.int64), {}, r"b must be a floating-point vector \(n,\), got torch.int64"),
        (torch.ones(2), {"iterations": 0}, "iterations must be an integer of at least 1, got 0"),
        (torch.ones(2), {"iterations": 2.0}, "iterations must be an integer of at least 1, got 2.0"),
        (torch.ones(2), {"tolerance": -1e-3}, "tolerance must be a number of at least 0, got -0.001"),
        (torch.ones(3), {}, r"apply must return a vector of the shape of b, \(3,\), got \(2,\)"),
    ],
)
def test_errors_of_the_solver(b, options, message):
    with pytest.raises(ValueError, match=message):
        conjugate_gradient(lambda p: p[:2], b, **({"iterations": 3} | options))


class Gaussian(nn.Module):
    """Mean from a small network, one log standard deviation for all observations, and a parameter nothing depends on."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
        self.idle = nn.Parameter(torch.ones(4))
        self.log_std = nn.Parameter(torch.tensor([-0.5, 0.3]))

    def forward(self, y):
        return torch.cat([self.body(y), self.log_std.expand(len(y), 2)], dim=-1)

    @staticmethod
    def distribution(outputs):
        return Independent(Normal(outputs[..., :2], outputs[..., 2:].exp()), 1)

    @staticmethod
    def information(outputs):
        """Of (mean, log std)."""
        return torch.diag_embed(torch.cat([torch.exp(-2 * outputs[..., 2:]), torch.full_like(outputs[..., 2:], 2)], -1))


class Choices(nn.Module):
    """Logits from a small network."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4))

    def forward(self, y):
        return self.body(y)

    @staticmethod
    def distribution(outputs):
        return Categorical(logits=outputs)

    @staticmethod
    def information(outputs):
        """Of the logits."""
        p = outputs.softmax(-1)
        return torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)


def policy_and_observations(kind, dtype=DOUBLE):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind().to(dtype), torch.randn(7, 3, dtype=dtype)


def mean_divergence(policy, y):
    outputs = policy(y)
    return kl_divergence(policy.distribution(outputs.detach()), policy.distribution(outputs)).mean()


def fisher_matrix(policy, y):
    """The mean of J' M J over the observations."""
    outputs = policy(y)
    parameters = list(policy.parameters())
    rows = [
        flatten(torch.autograd.grad(output, parameters, retain_graph=True, materialize_grads=True))
        for output in outputs.flatten()
    ]
    J = torch.stack(rows).unflatten(0, outputs.shape)
    return (J.mT @ policy.information(outputs) @ J).mean(0).detach()


@pytest.mark.parametrize("damping", [0.0, 0.1, 2.5])
@pytest.mark.parametrize("kind", [Gaussian, Choices])
def test_products_are_those_of_the_explicit_matrix(kind, damping):
    policy, y = policy_and_observations(kind)
    F = fisher_matrix(policy, y)
    multiply = FisherVectorProduct(mean_divergence(policy, y), list(policy.parameters()), damping=damping)
    columns = torch.stack([multiply(unit) for unit in torch.eye(len(F), dtype=DOUBLE)], dim=-1)
    torch.testing.assert_close(columns, F + damping * torch.eye(len(F), dtype=DOUBLE), rtol=0, atol=1e-10)
    assert not columns.requires_grad
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_the_solver_inverts_the_damped_fisher_matrix():
    policy, y = policy_and_observations(Gaussian)
    F = fisher_matrix(policy, y) + 0.1 * torch.eye(38, dtype=DOUBLE)
    g = torch.randn(38, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    multiply = FisherVectorProduct(mean_divergence(policy, y), list(policy.parameters()))  # damped by 0.1
    with torch.no_grad():
        found = conjugate_gradient(multiply, g, iterations=38)
    torch.testing.assert_close(found.solution, torch.linalg.solve(F, g), rtol=0, atol=1e-8)


def test_the_divergence_of_a_small_step_is_its_quadratic_form():
    policy, y = policy_and_observations(Choices)
    parameters = list(policy.parameters())
    start, old = flatten(parameters).detach(), policy.distribution(policy(y).detach())
    step = 1e-4 * torch.randn(len(start), generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    quadratic = 0.5 * float(step @ FisherVectorProduct(mean_divergence(policy, y), parameters, damping=0.0)(step))
    with torch.no_grad():
        for parameter, moved in zip(parameters, unflatten(start + step, parameters), strict=True):
            parameter.copy_(moved)
        divergence = float(kl_divergence(old, policy.distribution(policy(y))).mean())
    assert divergence == pytest.approx(quadratic, rel=1e-3)


def test_parameters_that_the_divergence_does_not_depend_on():
    policy, y = policy_and_observations(Gaussian)
    parameters = list(policy.parameters())
    product = FisherVectorProduct(mean_divergence(policy, y), parameters, damping=0.0)(torch.ones(38, dtype=DOUBLE))
    shares = dict(zip(dict(policy.named_parameters()), unflatten(product, parameters), strict=True))
    assert shares["idle"].tolist() == [0.0] * 4
    assert all(bool(share.any()) for name, share in shares.items() if name != "idle")
    idle = FisherVectorProduct(mean_divergence(policy, y), [policy.idle], damping=0.5)
    assert idle(torch.ones(4, dtype=DOUBLE)).tolist() == [0.5] * 4


def test_a_gradient_without_curvature():
    parameter = torch.ones(3, dtype=DOUBLE, requires_grad=True)
    assert (
        FisherVectorProduct(2 * parameter.sum(), [parameter], damping=0.5)(torch.ones(3, dtype=DOUBLE)).tolist()
        == [0.5] * 3
    )


def test_single_precision():
    double, y = policy_and_observations(Gaussian)
    v = torch.randn(38, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
    expected = FisherVectorProduct(mean_divergence(double, y), list(double.parameters()))(v)
    single = double.float()
    found = FisherVectorProduct(mean_divergence(single, y.float()), list(single.parameters()))(v.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-5)


def test_errors_of_products():
    policy, y = policy_and_observations(Choices)
    parameters = list(policy.parameters())
    kl = mean_divergence(policy, y)
    with pytest.raises(ValueError, match=r"kl must be a scalar with a graph.* got one without a graph of shape \(\)"):
        FisherVectorProduct(kl.detach(), parameters)
    with pytest.raises(ValueError, match=r"kl must be a scalar with a graph.* got one with a graph of shape \(2,\)"):
        FisherVectorProduct(kl.expand(2), parameters)
    with pytest.raises(ValueError, match=r"damping must be a finite number of at least 0, got -0\.1"):
        FisherVectorProduct(kl, parameters, damping=-0.1)
    with pytest.raises(ValueError, match="parameters must be a sequence of tensors to differentiate by, got none"):
        FisherVectorProduct(kl, [])
    with pytest.raises(ValueError, match=r"the vector must have shape \(44,\), .* got \(43,\)"):
        FisherVectorProduct(kl, parameters)(torch.ones(43, dtype=DOUBLE))


def test_flat_vectors_are_exact():
    generator = torch.Generator().manual_seed(0)
    special = torch.tensor([[torch.nan, -0.0, torch.inf], [5e-324, -torch.inf, 1.0]], dtype=DOUBLE)
    tensors = [
        special.mT,  # not contiguous
        torch.randn((), generator=generator, dtype=DOUBLE),
        torch.empty(0, 3, dtype=DOUBLE),
        torch.randn(2, 1, 4, generator=generator, dtype=torch.float32),
    ]
    vector = flatten(tensors)
    assert vector.shape == (15,)
    assert vector.dtype == DOUBLE
    for found, tensor in zip(unflatten(vector, tensors), tensors, strict=True):
        assert found.shape == tensor.shape
        assert found.dtype == tensor.dtype
        assert found.numpy().tobytes() == tensor.contiguous().numpy().tobytes()


def test_errors_of_flat_vectors():
    with pytest.raises(ValueError, match="flatten takes at least one tensor, got none"):
        flatten([])
    with pytest.raises(
        ValueError, match=r"the vector must have shape \(5,\), the numbers of 2 tensors together, got \(6,\)"
    ):
        unflatten(torch.zeros(6), [torch.zeros(2), torch.zeros(3)])
    with pytest.raises(ValueError, match=r"the vector must have shape \(2,\)"):
        unflatten(torch.zeros(2, 1), [torch.zeros(2)])
