"""The parameters of networks as one vector."""

import copy
import pickle

import pytest
import torch
from test_policy import make, observations
from torch import nn

from mbrl.training.flat_parameters import FlatParameters


def networks():
    return make("gaussian", recurrent=4), make("squashed-gaussian", seed=1)


def loss_of(first, second, t):
    y = observations(16, seed=t)
    return (first.distribution(y).mean - y[:, :2]).square().mean() + second.distribution(y).mean.sin().mean()


def parameters_of(*several):
    return [p for network in several for p in network.parameters()]


def gradient_of(several, t):
    separate = [copy.deepcopy(network) for network in several]
    parameters = parameters_of(*separate)
    gradients = torch.autograd.grad(loss_of(*separate, t), parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.reshape(-1) for gradient in gradients])


def test_the_same_trajectory_as_separate_tensors():
    flat, separate = networks(), networks()
    before = [p.detach().clone() for p in parameters_of(*flat)]
    vector = FlatParameters(*flat)
    one = torch.optim.Adam([vector.vector], lr=1e-2, eps=1e-5)
    many = torch.optim.Adam(parameters_of(*separate), lr=1e-2, eps=1e-5)
    for t in range(30):
        vector.zero_gradients()
        loss_of(*flat, t).backward()
        one.step()
        many.zero_grad()
        loss_of(*separate, t).backward()
        many.step()
    for a, b in zip(parameters_of(*flat), parameters_of(*separate), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    assert not any(torch.equal(a, b) for a, b in zip(before[:2], parameters_of(*flat)[:2], strict=True))


def test_values_stay_and_gradients_are_the_vectors():
    several = networks()
    expected = torch.cat([p.detach().reshape(-1) for p in parameters_of(*several)])
    vector = FlatParameters(*several)
    assert torch.equal(vector.vector, expected)
    loss_of(*several, 0).backward()
    torch.testing.assert_close(vector.gradient, gradient_of(several, 0), rtol=0, atol=1e-14)
    assert vector.vector.grad is vector.gradient
    vector.zero_gradients()
    assert bool((vector.gradient == 0).all())
    assert all(bool((p.grad == 0).all()) for p in parameters_of(*several))


def test_gradients_of_each_network_are_clipped_as_torch_does():
    several, separate = networks(), networks()
    vector = FlatParameters(*several)
    for pair in (several, separate):
        (1e3 * loss_of(*pair, 0)).backward()
    vector.clip_gradients(0.5)
    for network in separate:
        nn.utils.clip_grad_norm_(network.parameters(), 0.5)
    for a, b in zip(parameters_of(*several), parameters_of(*separate), strict=True):
        expected = torch.zeros_like(b) if b.grad is None else b.grad
        torch.testing.assert_close(a.grad, expected, rtol=1e-10, atol=1e-14)


def test_views_survive_loading():
    several = networks()
    vector = FlatParameters(*several)
    other = make("gaussian", recurrent=4, seed=9)
    several[0].load_state_dict(other.state_dict())
    assert torch.equal(
        vector.vector[: sum(p.numel() for p in other.parameters())],
        torch.cat([p.detach().reshape(-1) for p in other.parameters()]),
    )
    with torch.no_grad():
        vector.vector.fill_(0.125)
    assert all(bool((p == 0.125).all()) for p in parameters_of(*several))
    vector.zero_gradients()
    loss_of(*several, 1).backward()
    assert bool((vector.gradient != 0).any())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_copies_of_the_networks_stand_alone(copied):
    several = networks()
    vector = FlatParameters(*several)
    twin, y = copied(several[0]), observations(3)
    expected, _ = several[0].act(y, several[0].init(3))
    with torch.no_grad():
        vector.vector.zero_()
    assert torch.equal(twin.act(y, twin.init(3))[0], expected)
    twin.distribution(y).mean.sum().backward()
    assert bool((vector.gradient == 0).all())


def test_networks_that_one_vector_cannot_hold():
    with pytest.raises(ValueError, match=r"one dtype and one device, got .*float32.*float64"):
        FlatParameters(nn.Linear(2, 2), nn.Linear(2, 2).double())
    shared = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="belongs to several networks"):
        FlatParameters(nn.Sequential(shared), shared)
