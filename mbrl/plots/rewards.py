"""Learned rewards beside the truth: maps of worlds of cells, and a point for each transition where there is no map."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mbrl.plots.report import Picture, Section, Table, Text
from mbrl.plots.style import CYCLE, in_house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mbrl.irl.reward_findings import RewardReport
    from mbrl.tasks import GridWorld

MOST_POINTS = 2000
MOST_ROWS = 12
"""Features in the table of a report."""
MOST_ARROWS = 16
"""Cells along a side up to which the best actions are drawn."""


@in_house_style
def plot_reward_maps(world: "GridWorld", learned: Tensor, truth: Tensor | None = None) -> "Figure":
    """A learned reward as a map of cells beside the true one, and what is lost where by acting on it.

    A factor and a constant do not show in behavior, so that the learned reward is drawn with the mean and the spread of the
    truth. In small worlds arrows are the actions that are best for the reward of the map, a dot is to stay.

    Args:
        world: of cells.
        learned: rewards ``(S,)``.
        truth: likewise; None where it is not known.

    Raises:
        ValueError: there are not as many rewards as cells.
    """
    from planners import policy_evaluation, solve_mdp

    mdp = world.mdp
    for given in (learned, truth):
        if given is not None and given.shape != (mdp.states,):
            raise ValueError(f"rewards must be one for each of {mdp.states} cells, got {tuple(given.shape)}")
    best = solve_mdp(mdp, mdp.expected_rewards(learned)).policy
    if truth is None:
        figure = new_figure(4.4, 3.8)
        axes = figure.subplots()
        _map(axes, world, learned, "learned reward")
        _arrows(axes, world, best)
        return figure
    spread = float(learned.std())
    shown = truth.mean() + (learned - learned.mean()) * (float(truth.std()) / spread if spread > 0 else 0.0)
    optimum = solve_mdp(mdp, mdp.expected_rewards(truth))
    lost = optimum.values - policy_evaluation(mdp, best, mdp.expected_rewards(truth)).values
    lost = lost if lost.ndim == 1 else lost[0]
    optimal = optimum.policy if optimum.policy.ndim == 2 else optimum.policy[0]
    low, high = (float(f(torch.stack([truth, shown]).flatten())) for f in (torch.min, torch.max))
    figure = new_figure(11.0, 3.35)
    first, second, third = figure.subplots(1, 3)
    _map(first, world, truth, "true reward", low, high)
    _map(second, world, shown, "learned reward, scaled to the truth", low, high)
    _map(third, world, lost, "true value that is lost", 0.0, max(float(lost.max()), 1e-12), colors="OrRd")
    _arrows(first, world, optimal)
    _arrows(second, world, best if best.ndim == 2 else best[0])
    return figure


def _map(
    axes: "Axes",
    world: "GridWorld",
    values: Tensor,
    title: str,
    low: float | None = None,
    high: float | None = None,
    colors: str = "viridis",
) -> None:
    image = axes.imshow(world.image(values).numpy(), cmap=colors, vmin=low, vmax=high)
    axes.set(title=title, xticks=[], yticks=[])
    axes.grid(visible=False)
    if axes.figure is not None:
        axes.figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)


def _arrows(axes: "Axes", world: "GridWorld", policy: Tensor) -> None:
    """The most probable action in each cell."""
    from matplotlib import patheffects

    from mbrl.tasks.worlds import MOVES

    if world.size > MOST_ARROWS or policy.shape[-1] != len(MOVES):
        return
    moves = np.array(MOVES)[policy.argmax(-1).numpy()].reshape(world.size, world.size, 2)
    rows, columns = np.mgrid[: world.size, : world.size]
    outline = [patheffects.withStroke(linewidth=1.6, foreground="black")]
    stays = (moves == 0).all(-1)
    axes.plot(columns[stays], rows[stays], "o", color="white", markersize=3, path_effects=outline)
    goes = ~stays
    axes.quiver(
        columns[goes],
        rows[goes],
        moves[goes, 1],
        -moves[goes, 0],
        color="white",
        edgecolor="black",
        linewidth=0.5,
        pivot="mid",
        scale=1.4 * world.size,
        width=0.008,
        headwidth=4,
    )


@in_house_style
def plot_rewards_against_truth(learned: Tensor, truth: Tensor) -> "Figure":
    """A point for each state or transition, and the line on which they lie if the two differ by a factor and a constant.

    Args:
        learned: rewards ``(*batch,)``.
        truth: likewise.
    """
    x, y = truth.flatten().double().numpy(), learned.flatten().double().numpy()
    every = max(len(x) // MOST_POINTS, 1)
    figure = new_figure(4.6, 3.8)
    axes = figure.subplots()
    axes.plot(x[::every], y[::every], ".", color=CYCLE[0], markersize=4, alpha=0.6)
    if np.ptp(x) > 0:
        slope, offset = np.polyfit(x, y, 1)
        ends = np.array([x.min(), x.max()])
        axes.plot(ends, offset + slope * ends, color="0.4", linestyle="--", label="nearest factor and constant")
        axes.legend(loc="best")
    axes.set(xlabel="true reward", ylabel="learned reward")
    return figure


def reward_sections(report: "RewardReport") -> list[Section]:
    """What a page says about a learned reward, for html_report.

    Args:
        report: from :func:`mbrl.reward_report`.
    """
    sections: list[Section] = [Text("\n\n".join(_sentence(line) for line in report.lines()), "Learned reward")]
    if report.world is not None:
        words = "The learned reward of each cell"
        if report.truth is not None:
            words = (
                "The true reward of each cell; the learned one, with the mean and the spread of the truth, as behavior does not "
                "tell them; and the true value that is lost from there on by what is best for the learned reward"
            )
        arrows = (
            " Arrows are the actions that are best for the reward of the map."
            if report.world.size <= MOST_ARROWS
            else ""
        )
        figure = plot_reward_maps(report.world, report.learned, report.truth)
        sections.append(Picture(figure, words + "." + arrows))
    elif report.truth is not None:
        figure = plot_rewards_against_truth(report.learned, report.truth)
        sections.append(Picture(figure, f"Learned and true reward of each {report.compared}."))
    if report.weights is not None:
        sections.append(_weights_table(report.weights))
    if report.gap is not None:
        gap = report.gap
        order = (gap.learned - gap.expert).abs().argsort(descending=True)[:MOST_ROWS].tolist()
        rows = [[gap.names[i], *(f"{float(v[i]):.4g}" for v in (gap.expert, gap.learned, gap.random))] for i in order]
        few = f", the {MOST_ROWS} that differ most of {len(gap.names)}" if len(gap.names) > MOST_ROWS else ""
        words = "Sums of features along an episode", ", from the starts of the demonstrations"
        first, last = words if gap.counted == "sums" else ("Means of features over all steps", "")
        caption = f"{first}{few}{last}."
        sections.append(Table(("feature", "demonstrated", "learned policy", "random"), rows, caption))
    return sections


def _weights_table(weights: dict[str, tuple[float, float | None]]) -> Table:
    """Weights in shares, because a factor does not show."""
    learned = sum(weight for weight, _ in weights.values())
    known = all(truth is not None for _, truth in weights.values())
    true = sum(truth or 0.0 for _, truth in weights.values())
    rows = [
        [name, f"{weight:.4g}", f"{weight / learned:.4g}", *([f"{(truth or 0.0) / true:.4g}"] if known else [])]
        for name, (weight, truth) in weights.items()
    ]
    header = ("term of the cost", "weight", "share of the sum", *(["true share"] if known else []))
    return Table(header, rows, "Weights of the learned cost; their sum does not show in behavior.")


def _sentence(line: str) -> str:
    return line[:1].upper() + line[1:] + "."
