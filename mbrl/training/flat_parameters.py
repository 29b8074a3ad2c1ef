"""The parameters of networks as one vector: on small networks an optimizer's time goes into the number of tensors."""

import torch
from torch import nn


class FlatParameters:
    """One vector of parameters and one of gradients, of which those of the networks become views.

    Gradients add up in place, where the networks' own ``zero_grad`` would take the views away; use :meth:`zero_gradients`.
    Networks must be on their device before, and stay there.

    Args:
        *networks: whose parameters have one dtype.

    Attributes:
        vector: all parameters, one after the other, with their gradient; what an optimizer gets.
        parts: those of each network, which share the memory of the vector, for optimizers of one network.

    Raises:
        ValueError: parameters are of several dtypes or on several devices, or one belongs to several networks.
    """

    def __init__(self, *networks: nn.Module):
        parameters = [list(network.parameters()) for network in networks]
        everything = [p for of_one in parameters for p in of_one]
        kinds = sorted({f"{p.dtype} on {p.device}" for p in everything})
        if len(kinds) != 1:
            raise ValueError(
                f"one vector holds parameters of one dtype and one device, got {', '.join(kinds) or 'none'}"
            )
        if len({id(p) for p in everything}) != len(everything):
            raise ValueError("a parameter belongs to several networks; give one network that holds them")
        self.vector = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in everything]))
        self.gradient = torch.zeros_like(self.vector)
        self.vector.grad = self.gradient
        sizes = [p.numel() for p in everything]
        for p, values, gradient in zip(
            everything, self.vector.detach().split(sizes), self.gradient.split(sizes), strict=True
        ):
            p.data = values.view_as(p)
            p.grad = gradient.view_as(p)
        sizes = [sum(p.numel() for p in of_one) for of_one in parameters]
        self.parts = tuple(nn.Parameter(values) for values in self.vector.detach().split(sizes))
        for part, gradient in zip(self.parts, self.gradient.split(sizes), strict=True):
            part.grad = gradient

    def zero_gradients(self) -> None:
        """Begin anew."""
        self.gradient.zero_()

    def clip_gradients(self, max_norm: float) -> None:
        """Scale the gradient of each network down to a norm."""
        for gradient in self.gradient.split([len(part) for part in self.parts]):
            gradient.mul_((max_norm / (gradient.norm() + 1e-6)).clamp_max(1.0))
