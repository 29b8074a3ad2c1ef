"""Every picture, video and page of the library. Functions return matplotlib figures or frames; nothing is shown or kept."""

from mbrl.plots.animation import animate
from mbrl.plots.bodies import outlines
from mbrl.plots.estimates import plot_estimates
from mbrl.plots.fit_sections import audit_sections, fit_sections
from mbrl.plots.fits import plot_fit, plot_predictions
from mbrl.plots.learning_curves import plot_learning_curves
from mbrl.plots.paths import animate_paths, plot_paths
from mbrl.plots.rendering import RenderingUnavailable, render_mujoco
from mbrl.plots.report import Picture, Table, Text, Video, html_report
from mbrl.plots.rewards import plot_reward_maps, plot_rewards_against_truth, reward_sections
from mbrl.plots.run_comparison import run_sections
from mbrl.plots.style import figure_to_data_uri, save_figure
from mbrl.plots.tasks import render_task, write_task_video
from mbrl.plots.train_sections import plot_training, train_sections
from mbrl.plots.trajectories import plot_logged_states, plot_planning, plot_trajectory
from mbrl.plots.video import write_video

__all__ = [
    "Picture",
    "RenderingUnavailable",
    "Table",
    "Text",
    "Video",
    "animate",
    "animate_paths",
    "audit_sections",
    "figure_to_data_uri",
    "fit_sections",
    "html_report",
    "outlines",
    "plot_estimates",
    "plot_fit",
    "plot_learning_curves",
    "plot_logged_states",
    "plot_paths",
    "plot_planning",
    "plot_predictions",
    "plot_reward_maps",
    "plot_rewards_against_truth",
    "plot_training",
    "plot_trajectory",
    "render_mujoco",
    "render_task",
    "reward_sections",
    "run_sections",
    "save_figure",
    "train_sections",
    "write_task_video",
    "write_video",
]
