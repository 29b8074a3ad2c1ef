r"""What it costs to cross cells of terrain, by their features.

.. math:: c(\phi) = c_0 + \sum_k w_k \phi_k, \quad w \ge 0, \qquad \text{or} \qquad c(\phi) = c_0 + e^{s(\phi)}

with a floor :math:`c_0 > 0`, the cost per meter of the best terrain there can be, and s linear in the features of the cell or a
network of those of the cell and of its neighbors.
"""

import abc
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

LARGEST_LOG = 16.0  # of the cost above the floor; beyond it cells would be as good as infinite


class TerrainCost(nn.Module, abc.ABC):
    """Cost per meter of cells by their features, at least a floor; its parameters are what is learned, for all scenes.

    Attributes:
        num_features: k.
        floor: cost per meter that nothing is cheaper than; it sets the unit of costs.
    """

    def __init__(self, num_features: int, floor: float):
        super().__init__()
        if not 0 < floor < math.inf:
            raise ValueError(f"floor must be a positive cost per meter, got {floor}")
        self.num_features, self.floor = num_features, float(floor)

    @abc.abstractmethod
    def excess(self, features: Tensor) -> Tensor:
        """Cost above the floor of ``(N, k, H, W)``: ``(N, H, W)``, not negative."""

    def forward(self, features: Tensor) -> Tensor:
        """Cost per meter ``(*batch, H, W)`` of features ``(*batch, k, H, W)``, in the dtype of the features.

        Raises:
            ValueError: there are more or fewer features.
        """
        self.check(features)
        *batch, k, H, W = features.shape
        dtype = next(self.parameters()).dtype
        excess = self.excess(features.reshape(math.prod(batch), k, H, W).to(dtype))
        return self.floor + excess.reshape(*batch, H, W).to(features.dtype)

    def check(self, features: Tensor) -> None:
        """Raise ValueError unless features are of the right number."""
        if features.ndim < 3 or features.shape[-3] != self.num_features:
            raise ValueError(
                f"the terrain cost is for {self.num_features} features, (*batch, {self.num_features}, H, W), got "
                f"{tuple(features.shape)}"
            )


class LinearTerrain(TerrainCost):
    """The floor plus a weighted sum of features that are not negative, with weights that are not negative.

    Maximum margin planning is a convex problem in these weights. Their logarithms are the parameter, ``free``.

    Args:
        weights: w ``(k,)``, not negative. One that is zero stays so under steps of its logarithm.
        floor: cost per meter of a cell without features.

    Raises:
        ValueError: weights are no vector, negative or not finite.
    """

    def __init__(self, weights: Tensor | Sequence[float], *, floor: float = 1.0):
        w = torch.as_tensor(weights, dtype=torch.float64).detach().clone()
        if w.ndim != 1 or not len(w) or not bool(((w >= 0) & w.isfinite()).all()):
            raise ValueError(f"weights must be k finite numbers that are not negative, got {w.tolist()}")
        super().__init__(len(w), floor)
        self.free = nn.Parameter(w.log())

    def config(self) -> dict[str, Any]:
        """The number of features and the floor."""
        return {"num_features": self.num_features, "floor": self.floor, "dtype": _name(self.free.dtype)}

    @classmethod
    def made(cls, config: Mapping[str, Any]) -> Self:
        """The terrain of a :meth:`config`, with weights of one."""
        made = cls(torch.ones(config["num_features"]), floor=config["floor"])
        return made.to(getattr(torch, config["dtype"]))

    @property
    def weights(self) -> Tensor:
        """The weights ``(k,)``, with a graph to the parameter."""
        return self.free.exp()

    def excess(self, features: Tensor) -> Tensor:
        """The weighted sum."""
        return torch.einsum("k,nkhw->nhw", self.weights, features)

    def check(self, features: Tensor) -> None:
        """Raise ValueError unless features are of the right number, and none is negative."""
        super().check(features)
        if bool((features < 0).any()):
            raise ValueError(
                "LinearTerrain is for features that are not negative, so that no cost is; shift them, or use "
                "ExponentialTerrain"
            )

    def extra_repr(self) -> str:
        """The weights."""
        return f"weights={self.weights.tolist()}, floor={self.floor}"


class ExponentialTerrain(TerrainCost):
    """The floor plus the exponential of a linear function of the features, or of a network.

    It begins with the same cost everywhere, one above the floor.

    Args:
        num_features: k.
        floor: cost per meter that nothing is cheaper than.
        hidden: widths of hidden layers; none for a linear function of features and a constant.
        kernel_size: cells, odd, that the first layer sees along each axis: 1 for the cell alone, 3 for its neighbors too. The
            edge of the map goes on beyond it.
        seed: of the first weights of hidden layers.

    Raises:
        ValueError: a size is out of range.
    """

    def __init__(
        self,
        num_features: int,
        *,
        floor: float = 1.0,
        hidden: Sequence[int] = (),
        kernel_size: int = 1,
        seed: int = 0,
    ):
        super().__init__(num_features, floor)
        if num_features < 1 or min(hidden, default=1) < 1 or kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(
                "need at least one feature, hidden layers of at least one unit and an odd kernel_size, got "
                f"{num_features}, {tuple(hidden)} and {kernel_size}"
            )
        self.hidden, self.kernel_size = tuple(hidden), kernel_size
        generator = torch.Generator().manual_seed(seed)
        sizes = [num_features, *hidden, 1]
        layers: list[nn.Module] = []
        for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            kernel = kernel_size if i == 0 else 1
            layer = nn.Conv2d(
                inputs,
                outputs,
                kernel,
                padding=kernel // 2,
                padding_mode="replicate",
                dtype=torch.float64,
            )
            scale = 0.0 if i == len(hidden) else (inputs * kernel**2) ** -0.5
            with torch.no_grad():
                layer.weight.copy_(scale * torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64))
                layer.bias.zero_()  # type: ignore[union-attr]
            layers += [layer, nn.Tanh()]
        self.network = nn.Sequential(*layers[:-1])

    def config(self) -> dict[str, Any]:
        """The arguments, but for the seed."""
        arguments = {"num_features": self.num_features, "floor": self.floor, "hidden": list(self.hidden)}
        return {**arguments, "kernel_size": self.kernel_size, "dtype": _name(next(self.parameters()).dtype)}

    @classmethod
    def made(cls, config: Mapping[str, Any]) -> Self:
        """The terrain of a :meth:`config`, with weights of seed 0."""
        arguments = {name: config[name] for name in ("num_features", "floor", "hidden", "kernel_size")}
        return cls(**arguments).to(getattr(torch, config["dtype"]))

    def log_excess(self, features: Tensor) -> Tensor:
        """The logarithm s of the cost above the floor of ``(N, k, H, W)``: ``(N, H, W)``."""
        return self.network(features).squeeze(-3)

    def excess(self, features: Tensor) -> Tensor:
        """Its exponential, which is bounded."""
        return self.log_excess(features).clamp_max(LARGEST_LOG).exp()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
