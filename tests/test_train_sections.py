"""Pages of training runs: what is drawn, what is said, by kind of algorithm."""

import json

import numpy as np
import pytest

import mbrl
from mbrl.plots import Picture, Text, plot_training, train_sections
from mbrl.plots.train_sections import training_result


def made(folder, algorithm, rows, summary=None, episodes=10, legend=True):
    """The record of a run with these rows of metrics, and with the legend of an algorithm of this library."""
    config = {"algorithm": algorithm, "task": "PendulumSwingUp", "seed": 3, "evaluation_episodes": episodes}
    run = mbrl.open_run(folder, config=config)
    kind = getattr(mbrl, algorithm["class"], None)
    if legend and kind is not None:
        (folder / "legend.json").write_text(json.dumps(kind().legend()))
    for step, row in rows.items():
        run.log(step, **row)
    if summary is not None:
        run.finish(summary)
    return mbrl.read_run(folder)


def texts(sections):
    return "\n".join(section.text for section in sections if isinstance(section, Text))


def test_cloning_shows_both_losses_in_a_panel_and_marks_the_weights_that_were_kept(tmp_path):
    losses = {100: (3.0, 2.0), 200: (1.0, -0.5), 300: (0.2, -0.5), 400: (0.1, 0.3)}
    rows = {step: {"train/loss": a, "train/held_out_loss": b, "train/passes": 1.0} for step, (a, b) in losses.items()}
    run = made(tmp_path, {"class": "BC"}, rows)
    (axes,) = plot_training(run).axes
    learned, held_out, mark = axes.lines
    np.testing.assert_array_equal(learned.get_ydata(), [a for a, _ in losses.values()])
    np.testing.assert_array_equal(held_out.get_ydata(), [b for _, b in losses.values()])
    assert set(mark.get_xdata()) == {200.0}  # training keeps the first of equal ones
    assert (axes.get_xlabel(), axes.get_yscale()) == ("gradient steps", "linear")  # a negative loss has no logarithm
    sections = train_sections(run)
    (picture,) = (section for section in sections if isinstance(section, Picture))
    assert picture.caption == (
        "Over gradient steps: loss of the demonstrated actions, minus their log-likelihood, in training and in episodes held "
        "out. The policy has the weights of the step with the lowest train/held_out_loss."
    )
    assert "train/passes 1." in texts(sections)


def test_returns_come_first_then_cost_with_its_limit_and_its_price(tmp_path):
    names = ("train/kl", "eval/return", "rollout/return", "train/multiplier", "rollout/cost", "time/update")
    rows = {k: {name: float(k + n) for n, name in enumerate(names)} | {"rollout/episodes": 8.0} for k in (1, 2)}
    run = made(tmp_path, {"class": "TRPO", "constraint": {"class": "CostConstraint", "limit": 20.0}}, rows)
    axes = plot_training(run).axes
    labels = ["rollout/return", "eval/return", "rollout/cost", "train/multiplier", "train/kl"]
    assert [one.get_ylabel() for one in axes] == labels
    assert {one.get_xlabel() for one in axes} == {"environment steps"}
    assert [set(one.lines[-1].get_ydata()) == {20.0} for one in axes] == [False, False, True, False, False]
    sections = train_sections(run)
    first, rest = (section for section in sections if isinstance(section, Picture))
    assert first.caption == "Over environment steps: returns of episodes, what they cost, and how the policy changed."
    assert [one.get_ylabel() for one in rest.figure.axes] == ["time/update [s]"]
    assert texts(sections).endswith("The same in every row of metrics.csv: rollout/episodes 8.")


def test_returns_that_never_change_are_drawn_and_one_row_is_nothing_that_never_changes(tmp_path):
    still = made(tmp_path / "still", {"class": "PPO"}, {k: {"rollout/return": -5.0, "train/kl": 0.0} for k in (1, 2)})
    assert [axes.get_ylabel() for axes in plot_training(still).axes] == ["rollout/return"]
    once = made(tmp_path / "once", {"class": "PPO"}, {1: {"rollout/return": -5.0, "train/kl": 0.0}})
    assert [axes.get_ylabel() for axes in plot_training(once).axes] == ["rollout/return", "train/kl"]
    bare = made(tmp_path / "bare", {"class": "Own"}, {k: {"train/own": 1.0} for k in (1, 2)})
    assert [axes.get_ylabel() for axes in plot_training(bare).axes] == ["train/own"]


@pytest.mark.parametrize(
    ("kind", "episodes", "summary", "sentence"),
    [
        ("PPO", 10, {"return": -381.04, "interval_low": -381.4, "interval_high": -380.7},
         "return -381 (95 % -381.4 to -380.7, interquartile mean of 10 episodes) after 4096 environment steps in 17 s"),
        ("BC", 1, {"return": 2.0, "interval_low": 2.0, "interval_high": 2.0, "success_rate": 1.0},
         "return 2 (one episode), success 100 % after 4096 gradient steps in 17 s"),
        ("PPO", 2, {"return": "-inf", "interval_low": "-inf", "interval_high": "-inf"},
         "return -inf (95 % -inf to -inf, interquartile mean of 2 episodes) after 4096 environment steps in 17 s"),
        ("PPO", 0, {}, "not evaluated, after 4096 environment steps in 17 s"),
    ],
)  # fmt: skip
def test_the_result_is_a_sentence(kind, episodes, summary, sentence, tmp_path):
    summary = {"steps": 4096, "seconds": 17.2, **summary}
    run = made(tmp_path, {"class": kind}, {1: {"train/kl": 0.1}}, summary, episodes)
    assert training_result(run) == sentence
    (first, *_) = train_sections(run, "settings: num_envs 2")
    assert first == Text(f"{sentence}\n\n{kind} on PendulumSwingUp, seed 3; settings: num_envs 2", "Result")


ROWS = {k: {"rollout/return": float(k), "train/loss": 1.0 / k, "train/own": (k - 2.0) ** 2} for k in (1, 2, 3)}


def test_what_an_algorithm_says_of_its_numbers_is_what_the_page_says(tmp_path):
    run = made(tmp_path, {"class": "Own"}, ROWS, {"steps": 3, "seconds": 1.0})
    said = {"steps": "dreams", "shows": "what was dreamt", "keeps_lowest": "train/loss"}
    (tmp_path / "legend.json").write_text(json.dumps(said))
    run = mbrl.read_run(tmp_path)
    assert training_result(run) == "not evaluated, after 3 dreams in 1 s"
    _, losses = plot_training(run).axes
    assert set(losses.lines[-1].get_xdata()) == {3.0}
    (picture, _) = (section for section in train_sections(run) if isinstance(section, Picture))
    sentence = (
        "Over dreams: returns of episodes, and what was dreamt. The policy has the weights of the step with the lowest "
    )
    assert picture.caption == sentence + "train/loss."


@pytest.mark.parametrize("legend", [None, "{", "[]", '{"steps": 3, "shows": null, "keeps_lowest": ["train/loss"]}'])
def test_a_run_whose_legend_is_missing_or_damaged_has_a_page(tmp_path, legend):
    made(tmp_path, {"class": "BC"}, ROWS, {"steps": 3, "seconds": 1.0}, legend=False)
    if legend is not None:
        (tmp_path / "legend.json").write_text(legend)
    run = mbrl.read_run(tmp_path)
    assert len(run.problems) == (legend in ("{", "[]"))
    assert training_result(run) == "not evaluated, after 3 steps in 1 s"
    (picture, _) = (section for section in train_sections(run) if isinstance(section, Picture))
    assert picture.caption == "Over steps: returns of episodes, and what else was learned."
    assert [len(axes.lines) for axes in plot_training(run).axes] == [1, 1]
