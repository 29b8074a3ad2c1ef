"""Bodies: layers and gated units against torch.nn, sequences against step by step."""

import itertools

import pytest
import torch
from torch import nn

from mbrl.policies import Body, FeedForward, Recurrent, ValueFunction
from mbrl.policies.networks import ACTIVATIONS, seeded_weights


def recurrent(units=5, hidden=(7,), inputs=3):
    with seeded_weights(0):
        body = Recurrent(inputs, units, hidden).double()
        for p in body.parameters():  # biases too
            nn.init.normal_(p, std=0.5)
    return body


def sequence(T=40, N=6, d=3):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(T, N, d, generator=generator, dtype=torch.float64)
    starts = torch.rand(T, N, generator=generator) < 0.2
    hidden = torch.randn(N, 5, generator=generator, dtype=torch.float64)
    return inputs, hidden, starts


def test_gated_units_are_those_of_torch():
    body = recurrent(hidden=())
    gru = nn.GRU(3, 5).double()
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    gru.load_state_dict({f"{name}_l0": getattr(body.cell, name) for name in names})
    inputs, hidden, starts = sequence()
    expected, last = gru(inputs, hidden.unsqueeze(0))
    features, hiddens = body.sequence(inputs, hidden, torch.zeros_like(starts))
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(hiddens[-1], last[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("hidden_layers", [(), (7,), (4, 6)])
def test_a_sequence_is_its_steps(hidden_layers):
    body = recurrent(hidden=hidden_layers)
    inputs, hidden, starts = sequence()
    features, hiddens = body.sequence(inputs, hidden, starts)
    h = hidden
    for t in range(len(inputs)):
        h = h.clone()
        h[starts[t]] = 0.0
        phi, h = body.step(inputs[t], h)
        torch.testing.assert_close(phi, features[t], rtol=0, atol=1e-12)
        torch.testing.assert_close(h, hiddens[t], rtol=0, atol=1e-12)


def test_episodes_do_not_see_each_other():
    """What follows a start is what a sequence that begins there gives, whatever was before, NaN too."""
    body = recurrent()
    inputs, hidden, starts = sequence()
    starts[:] = False
    starts[17, 2] = True
    inputs[16, 2] = float("nan")
    _, hiddens = body.sequence(inputs, hidden, starts)
    zero = torch.zeros_like(hidden[2:3])
    _, alone = body.sequence(inputs[17:, 2:3], zero, torch.zeros_like(starts[17:, :1]))
    assert bool(hiddens[16, 2].isnan().all())
    torch.testing.assert_close(hiddens[17:, 2], alone[:, 0], rtol=0, atol=1e-12)
    others = [i for i in range(6) if i != 2]
    assert bool(hiddens[:, others].isfinite().all())


def test_gradients_stop_at_starts_and_go_through_other_steps():
    body = recurrent()
    inputs, hidden, starts = sequence(T=10)
    inputs.requires_grad_()
    starts[:] = False
    starts[6] = True
    features, _ = body.sequence(inputs, hidden, starts)
    (gradient,) = torch.autograd.grad(features[-1].sum(), inputs)
    reached = gradient.abs().sum(dim=(1, 2)) > 0
    assert reached.tolist() == [t >= 6 for t in range(10)]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_layers_are_weights_biases_and_activations(activation):
    function = {
        "tanh": torch.tanh,
        "relu": torch.relu,
        "elu": nn.functional.elu,
        "silu": nn.functional.silu,
        "softplus": nn.functional.softplus,
    }[activation]
    body = FeedForward(3, (4, 6), activation).double()
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = x
    for layer in (m for m in body.layers if isinstance(m, nn.Linear)):
        z = function(z @ layer.weight.T + layer.bias)
    torch.testing.assert_close(body.step(x, x.new_zeros(5, 0))[0], z, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(64, 64), (5, 9), (9, 5)])
def test_weights_are_orthogonal_with_gain_root_two(shape):
    with seeded_weights(3):
        body = FeedForward(shape[0], (shape[1],))
    W = body.layers[0].weight.detach().double()
    gram = W @ W.T if W.shape[0] <= W.shape[1] else W.T @ W
    torch.testing.assert_close(gram, 2 * torch.eye(len(gram)).double(), rtol=0, atol=1e-5)
    assert bool((body.layers[0].bias == 0).all())


BODIES: dict[str, Body] = {
    "layers": FeedForward(3, (4,)),
    "none": FeedForward(3, ()),
    "gated": Recurrent(3, 5, (4,)),
    "gated on inputs": Recurrent(3, 5, ()),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (1,), (0,), (4,), (2, 3), (2, 0)])
def test_any_batch(name, dtype, batch):
    body = BODIES[name].to(dtype)
    x, h = torch.randn(*batch, 3, dtype=dtype), torch.randn(*batch, body.hidden_dim, dtype=dtype)
    features, following = body.step(x, h)
    assert (features.shape, features.dtype) == ((*batch, body.features), dtype)
    assert (following.shape, following.dtype) == (h.shape, dtype)
    for index in itertools.product(*(range(n) for n in batch)):
        single, _ = body.step(x[index], h[index])
        torch.testing.assert_close(single, features[index], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize(("T", "N"), [(0, 3), (3, 0), (1, 1)])
def test_sequences_of_no_steps_or_episodes(name, T, N):
    body = BODIES[name].double()
    hidden = torch.zeros(N, body.hidden_dim, dtype=torch.float64)
    features, hiddens = body.sequence(torch.zeros(T, N, 3, dtype=torch.float64), hidden, torch.zeros(T, N) > 0)
    assert features.shape == (T, N, body.features)
    assert hiddens.shape == (T, N, body.hidden_dim)


def test_without_layers_the_inputs_are_the_features():
    body, x = FeedForward(3, ()), torch.randn(4, 3)
    assert torch.equal(body.step(x, x.new_zeros(4, 0))[0], x)
    assert not list(body.parameters())


def test_an_unknown_activation():
    with pytest.raises(ValueError, match="activation must be one of tanh, relu, elu, silu, softplus, got 'gelu'"):
        FeedForward(3, (4,), "gelu")


def test_weights_of_a_seed_leave_the_global_numbers_alone():
    before = torch.get_rng_state()
    bodies = []
    for seed in (5, 5, 6):
        with seeded_weights(seed):
            bodies.append(Recurrent(3, 5))
    assert torch.equal(torch.get_rng_state(), before)
    first, second, third = ([p.detach() for p in body.parameters()] for body in bodies)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, third, strict=True))


def test_an_error_inside_restores_them_too():
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="activation"), seeded_weights(0):
        nn.Sequential(nn.Linear(2, 2), FeedForward(3, (4,), "gelu"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", BODIES)
def test_values_of_a_sequence_are_those_of_its_steps(name):
    value = ValueFunction(BODIES[name]).double()
    inputs, _, starts = sequence(T=12)
    hidden = value.initial_hidden(6)
    assert hidden.dtype == torch.float64
    values, hiddens = value.sequence(inputs, hidden, starts)
    assert values.shape == (12, 6)
    h = hidden
    for t in range(12):
        v, h = value.step(inputs[t], torch.where(starts[t].unsqueeze(-1), 0.0, h))
        torch.testing.assert_close(v, values[t], rtol=0, atol=1e-12)
        torch.testing.assert_close(h, hiddens[t], rtol=0, atol=1e-12)
