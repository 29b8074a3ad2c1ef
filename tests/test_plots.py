import base64
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import imageio.v2 as imageio
import matplotlib
import numpy as np
import pytest
import torch

from dynamics import (
    Acrobot,
    CartPole,
    DoubleIntegrator,
    Ensemble,
    FitReport,
    LinearModel,
    MujocoDynamics,
    Pendulum,
    PredictionErrors,
    Reacher,
    Training,
    Trajectory,
    TwoLinkArm,
    fit,
    resample,
)
from mbrl.plots import (
    Picture,
    RenderingUnavailable,
    Table,
    Text,
    Video,
    animate,
    figure_to_data_uri,
    html_report,
    plot_estimates,
    plot_fit,
    plot_logged_states,
    plot_planning,
    plot_predictions,
    plot_trajectory,
    render_mujoco,
    save_figure,
    write_video,
)

UNITS = ["m", "rad", "m/s", "rad/s"]


@pytest.fixture(scope="module")
def logs():
    """Motions of a cart-pole under slow forces from random angles."""
    generator, system = torch.Generator().manual_seed(0), CartPole()
    x0 = torch.randn(16, 4, generator=generator, dtype=torch.float64) * torch.tensor([0.3, 2.0, 0.3, 1.0])
    us = 3.0 * torch.randn(16, 6, 1, generator=generator, dtype=torch.float64).repeat_interleave(10, dim=1)
    xs = system.rollout(x0, us).numpy()
    return [
        Trajectory(
            x,
            u,
            states=x,
            dt=system.dt,
            names={"observations": system.state_names, "states": system.state_names, "controls": ["force"]},
            units={"observations": UNITS, "states": UNITS, "controls": ["N"]},
            source=f"clip {number}",
        )
        for number, (x, u) in enumerate(zip(xs, us.numpy(), strict=True))
    ]


@pytest.fixture(scope="module")
def fitted(logs):
    model = Ensemble.for_trajectories(logs, angles=["angle"], members=2, hidden=(16, 16))
    return model, fit(model, logs, training=Training(steps=200, evaluate_every=40), horizons=(1, 5, 25))


def panel(figure, title):
    (axes,) = (axes for axes in figure.axes if axes.get_title(loc="left").startswith(title))
    return axes


def line(axes, label):
    (found,) = (line for line in axes.lines if line.get_label() == label)
    return found


# Figures


def test_the_figure_of_a_fit_shows_the_report(fitted):
    _, report = fitted
    figure = plot_fit(report)
    errors = panel(figure, "Held-out error")
    assert errors.get_yscale() == "log"
    assert (errors.get_xlabel(), errors.get_ylabel()) == ("prediction horizon [s]", "median k-step error [normalized]")
    for name, label in (("model", "Ensemble"), ("ridge", "ridge"), ("persistence", "persistence")):
        np.testing.assert_allclose(line(errors, label).get_xdata(), [0.04, 0.2, 1.0])
        np.testing.assert_array_equal(line(errors, label).get_ydata(), report.errors[name].median)
    assert [text.get_text() for text in errors.get_xticklabels()] == ["0.04\nk = 1", "0.2\nk = 5", "1\nk = 25"]

    calibration = panel(figure, "Calibration")
    for level, coverage in zip(report.levels, report.errors["model"].coverage, strict=True):
        np.testing.assert_array_equal(line(calibration, f"{100 * level:g} % interval").get_ydata(), 100 * coverage)
    dotted = [drawn.get_ydata() for drawn in calibration.lines if drawn.get_linestyle() == ":"]
    assert [float(level[0]) for level in dotted if len(level)] == [50, 90, 95]

    training = panel(figure, "Training")
    np.testing.assert_array_equal(line(training, "validation error").get_xdata(), [40, 80, 120, 160, 200])
    np.testing.assert_array_equal(line(training, "validation error").get_ydata(), [r["error"] for r in report.history])
    (loss,) = (axes for axes in figure.axes if axes.get_ylabel().startswith("training loss"))
    np.testing.assert_array_equal(line(loss, "training loss").get_ydata(), [r["loss"] for r in report.history])

    dimensions = panel(figure, "Error by dimension")
    assert [text.get_text() for text in dimensions.get_yticklabels()] == [
        "position",
        "angle",
        "position velocity",
        "angle velocity",
    ]
    written = [float(text.get_text()) for text in dimensions.texts]
    np.testing.assert_allclose(written, report.errors["model"].per_dimension.T.ravel(), rtol=0.05)


def test_a_closed_form_has_no_learning_curve(logs):
    model = LinearModel.for_trajectories(logs, angles=["angle"])
    figure = plot_fit(fit(model, logs, horizons=(1, 5)))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "Held-out error",
        "Calibration",
        "Error by dimension",
    ]
    assert [drawn.get_label() for drawn in panel(figure, "Held-out error").lines] == ["LinearModel", "persistence"]


def test_many_dimensions_without_intervals_and_with_divergence():
    """A model of 40 dimensions, one of which diverged, shows the worst 24."""
    per_dimension = np.tile(np.arange(40.0), (2, 1))
    per_dimension[:, 3] = math.nan
    errors = PredictionErrors(
        median=np.array([0.1, math.nan]), rmse=np.ones(2), per_dimension=per_dimension, diverged=np.array([0.0, 1.0])
    )
    report = FitReport("Other", tuple(f"x{i}" for i in range(40)), {}, {}, (1, 5), 0.1, {"model": errors}, 0.0)
    figure = plot_fit(report)
    save_figure_of(figure)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "Held-out error",
        "Error by dimension (worst 24 of 40)",
    ]
    shown = [text.get_text() for text in panel(figure, "Error by dimension").get_yticklabels()]
    assert shown == ["x3", *(f"x{i}" for i in range(17, 40))]


def save_figure_of(figure):
    """Draw everything; warnings are errors."""
    figure.canvas.draw()


def test_predictions_against_the_log(logs, fitted):
    model, _ = fitted
    figure = plot_predictions(model, logs[:2], steps=30, particles=50)
    assert len(figure.axes) == 8
    assert [figure.axes[2 * i].get_ylabel() for i in range(4)] == [
        "position\n[m]",
        "angle\n[rad]",
        "position velocity\n[m/s]",
        "angle velocity\n[rad/s]",
    ]
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == ["clip 0", "clip 1"]
    assert figure.axes[-1].get_xlabel() == "time [s]"
    with torch.no_grad():
        predicted = model.rollout(torch.tensor(logs[1].states[0]), torch.tensor(logs[1].controls[:30]))
    for i in range(4):
        axes = figure.axes[2 * i + 1]
        np.testing.assert_array_equal(line(axes, "log").get_ydata(), logs[1].states[:31, i])
        np.testing.assert_allclose(line(axes, "prediction").get_xdata(), 0.04 * np.arange(31), atol=1e-12)
        np.testing.assert_allclose(line(axes, "prediction").get_ydata(), predicted[:, i], rtol=1e-6)
        (band,) = axes.collections
        assert band.get_label() == "90 % interval"


def test_the_band_is_the_central_interval():
    """A linear model of pure noise: after one step its central 90 % reach 1.645 standard deviations to either side."""
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(40, 101, 1)).cumsum(1)
    logs = [Trajectory(x, np.zeros((100, 1)), dt=1.0) for x in noise]
    model = LinearModel.for_trajectories(logs)
    fit(model, logs, horizons=(1,))
    figure = plot_predictions(model, logs[0], steps=4, particles=4000)
    (band,) = figure.axes[0].collections
    corners = band.get_paths()[0].vertices
    for k in (1, 4):
        lower, upper = np.sort(np.unique(corners[corners[:, 0] == k, 1]))[[0, -1]]
        assert (upper - lower) / 2 == pytest.approx(1.645 * math.sqrt(k), rel=0.06)


def test_logged_angles_are_unwrapped_and_deterministic_models_have_no_band(logs):
    wrapped = logs[0].states.copy()
    wrapped[:, 1] = np.remainder(np.linspace(3.0, 5.0, 61) + np.pi, 2 * np.pi) - np.pi
    trajectory = logs[0].replace(states=wrapped)
    figure = plot_predictions(CartPole(), trajectory, steps=60)
    np.testing.assert_allclose(line(figure.axes[1], "log").get_ydata(), np.linspace(3.0, 5.0, 61), atol=1e-12)
    assert not any(axes.collections for axes in figure.axes)


def test_a_panel_is_named_after_its_log_and_not_after_what_preparation_did_to_it(logs):
    resampled = [resample(log, 0.05) for log in logs[:2]]
    assert all(" | " in log.source for log in resampled)
    figure = plot_predictions(CartPole(dt=0.05), resampled, steps=5)
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == ["clip 0", "clip 1"]


def test_a_prediction_that_runs_away_does_not_flatten_the_log(logs):
    class Runaway(CartPole):
        def forward(self, x, u, t=None):
            return x * 10.0 + 1.0

    axes = plot_predictions(Runaway(), logs[0], steps=60).axes[0]
    logged = logs[0].states[:, 0]
    lower, upper = axes.get_ylim()
    assert upper - lower < 3.2 * np.ptp(logged)
    assert lower < logged.min() < logged.max() < upper


def test_predictions_of_another_system_are_refused(logs):
    with pytest.raises(ValueError, match="the model has 2 states, the trajectories have 4 states"):
        plot_predictions(Pendulum(), logs)


def test_a_trajectory_over_time(logs):
    figure = plot_trajectory(logs[0], control_limits=(-10.0, [8.0]))
    labels = ["position\n[m]", "angle\n[rad]", "position velocity\n[m/s]", "angle velocity\n[rad/s]", "force\n[N]"]
    assert [axes.get_ylabel() for axes in figure.axes] == labels
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "", "", "time [s]"]
    np.testing.assert_array_equal(figure.axes[1].lines[0].get_ydata(), logs[0].states[:, 1])
    np.testing.assert_array_equal(figure.axes[1].lines[0].get_xdata(), logs[0].times)
    force, lower, upper = figure.axes[4].lines
    assert force.get_drawstyle() == "steps-post"  # a control is held until the next
    np.testing.assert_array_equal(force.get_ydata(), [*logs[0].controls[:, 0], logs[0].controls[-1, 0]])
    assert (lower.get_ydata()[0], upper.get_ydata()[0]) == (-10.0, 8.0)


def test_many_trajectories_with_many_columns():
    generator = np.random.default_rng(0)
    logs = [Trajectory(generator.normal(size=(11, 18)), generator.normal(size=(10, 6)), dt=0.1) for _ in range(3)]
    logs.append(Trajectory(np.zeros((1, 18)), np.zeros((0, 6)), dt=0.1))  # no step yet
    figure = plot_trajectory(logs)
    save_figure_of(figure)
    assert len(figure.axes) == 24
    assert all(len(axes.lines) == 4 for axes in figure.axes)
    assert sum(axes.get_xlabel() == "time [s]" for axes in figure.axes) == 3  # the last of each column
    places = {axes.get_ylabel(): axes.get_subplotspec() for axes in figure.axes}  # filled column by column
    order = sorted(places, key=lambda label: (places[label].colspan.start, places[label].rowspan.start))
    assert order == [*(f"y{i}" for i in range(18)), *(f"u{i}" for i in range(6))]


def test_where_the_logs_are(logs):
    figure = plot_logged_states(logs, "angle", "angle_velocity", angles=["angle"], bins=20)
    save_figure_of(figure)
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("angle [rad]", "angle velocity [rad/s]")
    assert axes.get_title(loc="left") == "976 samples of 16 trajectories"
    (mesh,) = axes.collections
    counts = np.ma.filled(mesh.get_array(), np.nan)
    assert np.nansum(counts) == 976
    column = np.clip(((logs[3].states[7, 1] + np.pi) % (2 * np.pi)) / (2 * np.pi) * 20, 0, 19).astype(int)
    velocities = np.concatenate([log.states[:, 3] for log in logs])
    row = int((logs[3].states[7, 3] - velocities.min()) / np.ptp(velocities) * 20)
    assert counts[row, column] >= 1
    assert axes.get_xlim() == pytest.approx((-math.pi, math.pi))
    with pytest.raises(ValueError, match="no column is called 'speed'; the states are position, angle"):
        plot_logged_states(logs, "angle", "speed")


def test_planning_times_and_costs():
    figure = plot_planning([0.02, 0.03, 0.05], [3.0, math.inf, 1.0], dt=0.04)
    save_figure_of(figure)
    times, costs = figure.axes
    assert sum(bar.get_height() for bar in times.patches) == 3
    assert [text.get_text() for text in times.get_legend().get_texts()] == ["median 30 ms", "control step 40 ms"]
    assert times.get_xlabel() == "planning time of a step [ms]"
    np.testing.assert_allclose(costs.lines[0].get_xdata(), [0.0, 0.04, 0.08])


def test_estimates_beside_the_truth_and_what_was_measured():
    """The truth and the measurements of an angle are drawn at the turn of the estimate; a velocity is not turned."""
    means, stds = torch.tensor([[6.2, 7.0], [6.4, 7.0]]), torch.tensor([[0.1, 0.5], [0.1, 0.5]])
    states = np.array([[-0.1, 7.1], [0.1, 7.1]])
    figure = plot_estimates(
        means,
        stds,
        dt=0.5,
        names=["angle", "angle_velocity"],
        units=["rad", "rad/s"],
        states=states,
        measurements={"angle": [math.nan, -0.1]},
        angles=["angle"],
    )
    save_figure_of(figure)
    angle, velocity = figure.axes
    measured, mean, true = (line.get_ydata() for line in angle.lines)
    np.testing.assert_allclose(measured, [math.nan, 2 * math.pi - 0.1])
    np.testing.assert_allclose(mean, means[:, 0])
    np.testing.assert_allclose(true, 2 * math.pi + states[:, 0])
    np.testing.assert_allclose(velocity.lines[1].get_ydata(), states[:, 1])
    band = velocity.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (6.0, 8.0)
    assert [text.get_text() for text in angle.get_legend().get_texts()] == ["measured", "estimated, 95 %", "true"]
    assert angle.get_ylabel() == "angle\n[rad]"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stds": np.ones((3, 2))}, r"stds must have shape \(2, 2\), time by names, got \(3, 2\)"),
        ({"states": np.ones(2)}, "states must have shape"),
        ({"measurements": {"speed": [1.0, 2.0]}}, "no state is called 'speed'; they are a, b"),
        ({"measurements": {"a": [1.0]}}, r"measurements of a must have shape \(2,\), got \(1,\)"),
        ({"angles": ["c"]}, "no state is called 'c'"),
    ],
)
def test_estimates_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        plot_estimates(**{"means": np.ones((2, 2)), "stds": np.ones((2, 2)), "dt": 1.0, "names": ["a", "b"], **options})


def test_names_are_not_formulas():
    trajectory = Trajectory(np.zeros((2, 1)), np.zeros((1, 1)), dt=1.0, names={"observations": ["cost_$x$"]})
    figure = plot_trajectory(trajectory)
    save_figure_of(figure)
    assert figure.axes[0].get_ylabel() == r"cost \$x\$"


def test_drawing_leaves_matplotlib_as_it_was(logs):
    before = dict(matplotlib.rcParams)
    plot_trajectory(logs[0])
    assert dict(matplotlib.rcParams) == before


def test_importing_the_plots_loads_no_heavy_library():
    code = "import mbrl.plots, sys; print(*(n for n in 'matplotlib imageio mujoco'.split() if n in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_figures_as_files(tmp_path, suffix, magic):
    trajectory = Trajectory(np.zeros((3, 1)), np.zeros((2, 1)), dt=1.0)
    path = save_figure(plot_trajectory(trajectory), tmp_path / "figures" / f"figure.{suffix}")
    assert path.read_bytes().startswith(magic)


def test_a_figure_as_data_uri():
    figure = plot_trajectory(Trajectory(np.zeros((3, 1)), np.zeros((2, 1)), dt=1.0))
    kind, data = figure_to_data_uri(figure).split(",")
    assert kind == "data:image/png;base64"
    picture = imageio.imread(base64.b64decode(data))
    height, width = picture.shape[:2]
    assert (width, height) == tuple(np.rint(160 * figure.get_size_inches()))
    assert picture[..., :3].std() > 5


# Videos


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # imageio's reader
def test_video_reads_back(tmp_path):
    """A square moves to the right over an odd-sized picture."""
    frames = np.full((12, 45, 61, 3), 255, dtype=np.uint8)
    for i, frame in enumerate(frames):
        frame[10:30, 3 * i : 3 * i + 20] = (200, 30, 30)
    path = write_video(tmp_path / "videos" / "square.mp4", iter(frames), fps=10)
    with imageio.get_reader(path) as reader:
        meta, read = reader.get_meta_data(), [np.array(frame) for frame in reader]
    assert (meta["fps"], meta["size"], meta["codec"], meta["pix_fmt"][:7]) == (10.0, (62, 46), "h264", "yuv420p")
    assert len(read) == 12
    for i in (0, 11):
        red = read[i][10:30, :, 1] < 128
        assert red.any(0).nonzero()[0].mean() == pytest.approx(3 * i + 9.5, abs=1)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "at least one frame, got none"),
        ([np.zeros((4, 4, 3))], r"frame 0 is float64 of shape \(4, 4, 3\), expected uint8"),
        ([np.zeros((4, 4), np.uint8)], r"frame 0 .* expected uint8 of shape \(height, width, 3\)"),
        (
            [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)],
            r"frame 1 .* expected uint8 of shape \(4, 4, 3\)",
        ),
    ],
)
def test_what_is_not_a_video(tmp_path, frames, message):
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / "video.mp4", frames, fps=10)
    with pytest.raises(ValueError, match=r"a video is written as .mp4, got 'video.gif'"):
        write_video(tmp_path / "video.gif", frames, fps=10)


def marked(frame, color, tolerance=40):
    """Pixel columns and rows of a color."""
    rows, columns = np.nonzero(np.abs(frame.astype(int) - color).max(-1) < tolerance)
    return columns, rows


ORANGE, BLUE, GREEN = (230, 159, 0), (0, 114, 178), (0, 158, 115)


def test_a_drawn_cart_pole_is_where_its_state_says():
    states = np.zeros((26, 4))
    states[:, 0] = np.linspace(-1.0, 1.0, 26)  # drives to the right
    states[:13, 1] = math.pi  # hanging, then upright
    frames = animate(CartPole(), states, fps=25)
    assert frames.shape == (26, 360, 640, 3)
    carts = [marked(frame, BLUE)[0].mean() for frame in frames]
    np.testing.assert_allclose(np.diff(carts), (carts[-1] - carts[0]) / 25, atol=1.5)
    assert carts[-1] - carts[0] > 150
    cart_row = marked(frames[0], BLUE)[1].mean()
    assert marked(frames[0], ORANGE)[1].mean() > cart_row + 10  # rows count downwards
    assert marked(frames[-1], ORANGE)[1].mean() < cart_row - 10


@pytest.mark.parametrize(
    ("system", "right_of_the_hinge"),
    [
        (Pendulum(), [math.pi / 2, 0.0]),
        (Acrobot(), [math.pi / 4, math.pi / 4, 0.0, 0.0]),
        (TwoLinkArm(), [math.pi / 4, math.pi / 4, 0.0, 0.0]),
    ],
    ids=["pendulum", "acrobot", "two-link arm"],
)
def test_drawn_rods_lean_to_positive_angles(system, right_of_the_hinge):
    states = torch.tensor([right_of_the_hinge, [-angle for angle in right_of_the_hinge]])
    right, left = animate(system, states, fps=1.0 / system.dt, width=400, height=300)
    assert marked(right, ORANGE)[0].min() > marked(left, ORANGE)[0].max() - 12  # they share the hinge


def test_a_drawn_arm_and_its_goal_are_where_the_state_says():
    """Angles count from the x axis, counterclockwise, and rows of pixels downwards; the goal is green."""
    states = np.zeros((4, 8))
    states[:, 0] = [0.0, math.pi / 2, math.pi, -math.pi / 2]
    states[:, 2:4] = 0.5 * np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    frames = animate(Reacher(), states, fps=20, width=400, height=400)
    for color, expected in (
        (ORANGE, [[1, 0], [0, -1], [-1, 0], [0, 1]]),
        (GREEN, [[1, -1], [-1, -1], [-1, 1], [1, 1]]),
    ):
        middle = np.array([[pixels.mean() for pixels in marked(frame, color)] for frame in frames])
        offset = middle - middle.mean(0)
        scale = np.abs(offset).max()
        assert scale > 30
        np.testing.assert_allclose(offset / scale, expected, atol=0.1)


def test_other_systems_are_drawn_as_curves_with_a_cursor():
    states = torch.tensor(np.random.default_rng(0).normal(size=(5, 2)), requires_grad=True)
    frames = animate(DoubleIntegrator(dt=0.1), states, fps=10, width=321, height=201)
    assert frames.shape == (5, 201, 321, 3)
    cursors = [marked(frame, (213, 94, 0))[0].mean() for frame in frames]
    np.testing.assert_allclose(np.diff(cursors), (cursors[-1] - cursors[0]) / 4, atol=1.5)
    assert cursors[-1] - cursors[0] > 100


@pytest.mark.parametrize(
    ("fps", "rows"), [(10, [0, 3, 5, 8, 10]), (25, list(range(11))), (50, [(i + 1) // 2 for i in range(21)])]
)
def test_a_video_runs_in_real_time(fps, rows):
    """0.4 s of motion: 11 states, 0.04 s apart, the one nearest to the time of each frame."""
    states = np.linspace(-1.0, 1.0, 11)[:, None] * [1.0, 0.0, 0.0, 0.0]
    frames = animate(CartPole(), states, fps=fps, width=320, height=180)
    assert len(frames) == len(rows)
    carts = [marked(frame, BLUE)[0].mean() for frame in frames]
    start, end = carts[0], carts[-1]
    np.testing.assert_allclose(carts, start + (end - start) * np.array(rows) / 10, atol=2)  # of 12 pixels a step


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (np.zeros((3, 2)), "CartPole has 4 states, got columns 2"),
        (np.zeros(4), r"states must have shape \(T\+1, n\), got \(4,\)"),
        (np.array([[0.0] * 4, [math.nan] * 4]), r"row 1 of 2 is not finite; draw states\[:1\]"),
    ],
)
def test_states_that_cannot_be_drawn(states, message):
    with pytest.raises(ValueError, match=message):
        animate(CartPole(), states)


SCENE = """
<mujoco>
  <worldbody>
    <light pos="0 -3 3" dir="0 1 -1"/>
    <camera name="front" pos="0 -4 0" xyaxes="1 0 0 0 0 1"/>
    <body><joint name="slide" type="slide" axis="1 0 0"/><geom type="sphere" size="0.3" rgba="1 0 0 1"/></body>
  </worldbody>
</mujoco>
"""


@pytest.fixture(scope="module")
def scene():
    """A red ball on a slide, where MuJoCo can draw."""
    dynamics = MujocoDynamics(SCENE, frame_skip=20)
    try:
        render_mujoco(dynamics, np.zeros((1, 2)), width=16, height=16)
    except RenderingUnavailable as error:
        pytest.skip(f"rendering of MuJoCo scenes: {error}")
    return dynamics


def test_mujoco_draws_the_states(scene):
    states = np.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    frames = render_mujoco(scene, states, camera="front", width=800, height=600, fps=25)
    assert frames.shape == (3, 600, 800, 3)
    assert frames.dtype == np.uint8
    centers = []
    for frame in frames:
        red = (frame[..., 0] > 60) & (frame[..., 1] < 40)
        assert 1000 < red.sum() < 20000
        centers.append(red.nonzero()[1].mean())
    assert centers[1] == pytest.approx(399.5, abs=2)
    # a pinhole camera 4 m away with MuJoCo's field of view of 45 degrees: 300 / tan(22.5 deg) / 4 pixels per metre
    assert centers[2] - centers[1] == pytest.approx(300 / math.tan(math.pi / 8) / 4, rel=0.03)
    assert centers[1] - centers[0] == pytest.approx(centers[2] - centers[1], rel=0.01)


def test_a_model_alone_needs_the_duration_of_a_step(scene):
    with pytest.raises(ValueError, match=r"an MjModel does not know how long a control step is; pass dt= \[s\]"):
        render_mujoco(scene.model, np.zeros((2, 2)))
    frames = render_mujoco(scene.model, np.zeros((3, 2)), dt=0.5, fps=4, width=32, height=32)
    assert len(frames) == 5


def test_what_mujoco_cannot_draw(tmp_path, monkeypatch):
    dynamics = MujocoDynamics(SCENE)
    with pytest.raises(ValueError, match="there is no camera 'side'; the model's are: 'front', and -1 is a free one"):
        render_mujoco(dynamics, np.zeros((2, 2)), camera="side")
    with pytest.raises(ValueError, match="there is no camera 1; the model's are"):
        render_mujoco(dynamics, np.zeros((2, 2)), camera=1)
    with pytest.raises(ValueError, match="the model has 7 positions, the states have 2 columns"):
        render_mujoco(MujocoDynamics(SCENE.replace('type="slide" axis="1 0 0"', 'type="free"')), np.zeros((2, 2)))


def test_without_a_graphics_library_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", str(tmp_path / "none.json"))
    with pytest.raises(RenderingUnavailable, match=r"MuJoCo cannot draw here; .* system packages libegl1 and libgl1"):
        render_mujoco(MujocoDynamics(SCENE), np.zeros((2, 2)))
    assert not list(tmp_path.iterdir())


# Reports


class Page(HTMLParser):
    """Tags with attributes, and the texts in them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag  # well nested

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data))

    def within(self, tag):
        return [text for kind, text in self.texts if kind == tag]


@pytest.fixture
def page(tmp_path):
    video = write_video(tmp_path / "a.mp4", np.zeros((2, 16, 16, 3), np.uint8), fps=5)
    figure = plot_trajectory(Trajectory(np.zeros((3, 1)), np.zeros((2, 1)), dt=1.0))
    path = html_report(
        tmp_path / "report" / "report.html",
        "Cart & pole <1>",
        [
            Text("First.\n\nSecond <script>alert('x')</script> & so on.", heading="What & why"),
            Table(["k", "error <m>"], [["1", "0.1 & less"], ["5", "<0.2>"]], caption="Errors", heading="Numbers"),
            Picture(figure, caption='The "motion" of <x>'),
            Video(video, caption="Moving"),
        ],
    )
    return video, path.read_text(encoding="utf-8")


def test_the_page_says_everything_and_escapes_it(page):
    _, text = page
    parsed = Page(text)
    assert not parsed.open
    assert parsed.within("title") == parsed.within("h1") == ["Cart & pole <1>"]
    assert parsed.within("h2") == ["What & why", "Numbers"]
    assert parsed.within("p") == ["First.", "Second <script>alert('x')</script> & so on."]
    assert parsed.within("th") == ["k", "error <m>"]
    assert parsed.within("td") == ["1", "0.1 & less", "5", "<0.2>"]
    assert parsed.within("figcaption") == ["Errors", 'The "motion" of <x>', "Moving"]
    assert [tag for tag, _ in parsed.tags].count("tr") == 3
    assert "script" not in {tag for tag, _ in parsed.tags}


def test_the_page_holds_its_pictures_and_needs_nothing_else(page):
    video, text = page
    parsed = Page(text)
    (image,) = (attributes for tag, attributes in parsed.tags if tag == "img")
    assert image["alt"] == 'The "motion" of <x>'
    assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    (clip,) = (attributes for tag, attributes in parsed.tags if tag == "video")
    assert base64.b64decode(clip["src"].removeprefix("data:video/mp4;base64,")) == video.read_bytes()
    assert {"controls", "autoplay", "muted", "loop", "playsinline"} <= clip.keys()
    addresses = [value for _, attributes in parsed.tags for key, value in attributes.items() if key in {"src", "href"}]
    assert all(address.startswith("data:") for address in addresses)
    assert {tag for tag, _ in parsed.tags}.isdisjoint({"link", "script", "iframe", "object"})
    assert not re.search(r"https?:|url\(|@import", text)


def test_the_page_fits_phones_and_the_dark(page):
    _, text = page
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "color-scheme: light dark" in text
    assert "@media (prefers-color-scheme: dark)" in text


def test_what_is_not_a_section(tmp_path):
    with pytest.raises(TypeError, match="a section is a Text, Table, Picture or Video, got str"):
        html_report(tmp_path / "report.html", "title", ["text"])
    with pytest.raises(ValueError, match="row 1 of the table has 1 cells, the header has 2"):
        html_report(tmp_path / "report.html", "title", [Table(["a", "b"], [["1", "2"], ["1"]])])
    with pytest.raises(FileNotFoundError):
        html_report(tmp_path / "report.html", "title", [Video(tmp_path / "none.mp4")])
    assert not (tmp_path / "report.html").exists()
