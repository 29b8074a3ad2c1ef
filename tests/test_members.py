"""Members of models as dynamics of their own."""

import pytest
import torch
from instances import ensemble, worlds

from dynamics import MemberDynamics, Pendulum
from planners import DDP, Problem, QuadraticCost, solve


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("batch", [(), (4,), (0,), (2, 3)])
def test_a_member_is_what_the_model_predicts_for_it(batch):
    model = ensemble()
    x, u = draw(*batch, 3), draw(*batch, 2, seed=1)
    for index in range(3):
        torch.testing.assert_close(MemberDynamics(model, index)(x, u), model.predict(x, u).members[index])


def test_worlds_are_the_dynamics_with_their_parameters():
    chosen = MemberDynamics(worlds(), torch.tensor([2, 0]))
    own = Pendulum().with_parameters(mass=torch.tensor([1.3, 0.8]), length=torch.tensor([1.0, 1.1]))
    x, u = draw(2, 5, 2), draw(2, 5, 1, seed=1)
    torch.testing.assert_close(chosen(x, u), own(x, u), rtol=1e-6, atol=1e-6)


def test_plans_for_each_member_are_those_of_its_own():
    model = ensemble()
    cost = QuadraticCost(torch.eye(3).double(), 0.1 * torch.eye(2).double())
    x0 = draw(3, 3)
    together = solve(Problem(MemberDynamics(model, torch.arange(3)), cost, 6), DDP(), x0)
    for index in range(3):
        alone = solve(Problem(MemberDynamics(model, index), cost, 6), DDP(), x0[index])
        torch.testing.assert_close(together.us[index], alone.us, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(together.us[0], solve(Problem(model, cost, 6), DDP(), x0[0]).us)


def test_what_is_no_member_is_said():
    with pytest.raises(TypeError, match="must be StochasticDynamics such as an Ensemble, got Pendulum"):
        MemberDynamics(Pendulum(), 0)
    for member in (3, -1, torch.tensor([0.0]), torch.zeros(2, 2, dtype=torch.long)):
        with pytest.raises(ValueError, match=r"in 0\.\.2, got"):
            MemberDynamics(ensemble(), member)
    with pytest.raises(ValueError, match=r"a member for each of 2 elements of the first batch axis, got x \(3, 3\)"):
        MemberDynamics(ensemble(), torch.tensor([0, 1]))(draw(3, 3), draw(3, 2))
