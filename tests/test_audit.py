import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dynamics.audit import audit
from dynamics.trajectories import RawLog, Trajectory


def clean(num_steps=100, seed=0, log=RawLog, **changes):
    rng = np.random.default_rng(seed)
    fields = {
        "observations": rng.normal(size=(num_steps + 1, 2)),
        "controls": rng.uniform(-1, 1, size=(num_steps, 1)),
        "rewards": rng.normal(size=num_steps),
        "times": 0.1 * np.arange(num_steps + 1),
        "names": {"observations": ["angle", "rate"], "controls": ["torque"]},
        "source": "run 7",
        **changes,
    }
    return log(**fields)


def with_values(array, **at):
    array = array.copy()
    for index, value in at.items():
        array[int(index[1:])] = value
    return array


def test_a_clean_log_has_no_findings():
    report = audit([clean(), clean(seed=1, log=Trajectory), clean(0)], control_limits=(-1, [1.0]))
    assert report.ok
    assert report.findings == ()
    assert str(report) == "3 logs, 200 steps: no findings"


TIMES = 0.1 * np.arange(101)
CLEAN = clean()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"observations": with_values(CLEAN.observations, r4=np.nan, r9=np.inf)},
            [("missing", "observations: angle", 2, 4), ("missing", "observations: rate", 2, 4)],
        ),
        ({"controls": with_values(CLEAN.controls, r3=np.nan)}, [("missing", "controls: torque", 1, 3)]),
        ({"rewards": with_values(CLEAN.rewards, r2=np.nan)}, [("missing", "rewards", 1, 2)]),
        ({"times": with_values(TIMES, r50=np.nan)}, [("missing", "times", 1, 50)]),
        ({"times": with_values(TIMES, r5=0.4)}, [("duplicate time", "times", 1, 5), ("gap", "times", 1, 5)]),
        ({"times": with_values(TIMES, r5=0.35)}, [("time backwards", "times", 1, 5), ("gap", "times", 1, 5)]),
        ({"times": TIMES + 3.0 * (TIMES > 5)}, [("gap", "times", 1, int((TIMES <= 5).sum()) - 1)]),
        ({"times": with_values(TIMES, r5=0.52)}, [("jitter", "times", 2, 4)]),
        (
            {"observations": with_values(CLEAN.observations, r6=CLEAN.observations[5])},
            [("duplicate row", "observations", 1, 6)],
        ),
        ({"observations": CLEAN.observations * [1, 0]}, [("constant", "observations: rate", 101, 0)]),
        ({"states": np.ones((101, 1))}, [("constant", "states: x0", 101, 0)]),
        (
            {"controls": np.clip(CLEAN.controls, -0.8, 2)},
            [
                (
                    "clipped",
                    "controls: torque",
                    int((CLEAN.controls < -0.8).sum()),
                    int((CLEAN.controls < -0.8).argmax()),
                )
            ],
        ),
    ],
)
def test_a_planted_fault_is_found_with_count_and_place_and_nothing_else(changes, expected):
    report = audit([CLEAN, clean(**changes)])
    assert [(f.kind, f.column, f.count, f.first) for f in report.findings] == expected
    assert {finding.source for finding in report.findings} == {"run 7"}
    assert not report.ok


def test_a_command_with_few_levels_is_not_called_clipped():
    levels = np.sign(CLEAN.controls)
    assert audit([clean(controls=levels)]).ok
    (finding,) = audit([clean(controls=levels)], control_limits=(-1, 1)).findings
    assert (finding.kind, finding.count) == ("clipped", 100)


def test_limits_find_what_touches_and_what_exceeds_them():
    controls = with_values(0.5 * CLEAN.controls, r10=0.9, r11=0.9, r20=1.5)
    found = audit([clean(controls=controls)], control_limits=(-np.inf, 0.9)).findings
    assert [(f.kind, f.count, f.first) for f in found] == [("beyond limits", 1, 20), ("clipped", 2, 10)]
    with pytest.raises(ValueError, match="lower < upper"):
        audit([CLEAN], control_limits=(1, -1))
    with pytest.raises(ValueError, match=r"one per control \('torque',\), got \[1\.0, 2\.0\]"):
        audit([CLEAN], control_limits=(-1, [1, 2]))


def test_the_report_has_a_line_per_kind_and_column_with_the_worst_log():
    stuck = clean(observations=CLEAN.observations * [1, 0], source="stuck")
    text = str(audit([stuck.replace(source="a" * 70), stuck.replace(controls=0 * stuck.controls)]))
    title, header, _, both, one = text.splitlines()
    assert title == "2 logs, 200 steps: 3 findings"
    assert header.split() == ["kind", "column", "logs", "count", "detail", "first", "row", "of", "log"]
    assert both.split() == ["constant", "observations:", "rate", "2", "202", "0", "0", "..." + "a" * 57]
    assert one.split() == ["constant", "controls:", "torque", "1", "100", "0", "0", "stuck"]


anything = st.sampled_from([0.0, 1.0, 1.0, 2.0, -3.0, np.nan, np.inf, -np.inf, 1e300, -1e300])


@settings(derandomize=True, deadline=None)
@given(st.integers(0, 6), st.data())
def test_any_values_at_all_can_be_audited_and_missing_ones_are_counted(T, data):
    observations, controls, times = (
        data.draw(arrays(float, shape, elements=anything)) for shape in ((T + 1, 2), (T, 1), (T + 1,))
    )
    log = RawLog(observations, controls, times=times)
    bad = sum(int((~np.isfinite(array)).sum()) for array in (observations, controls, times))
    for limits in (None, (-1, 1)):
        findings = audit([log], control_limits=limits).findings
        assert sum(finding.count for finding in findings if finding.kind == "missing") == bad


def test_no_logs_is_an_error():
    with pytest.raises(ValueError, match="No logs to audit"):
        audit([])
