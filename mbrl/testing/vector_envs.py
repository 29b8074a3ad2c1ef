"""The contract of gymnasium vector environments, for which gymnasium itself has no checker.

A world's life is the sequence of what happens to it: an episode begins with an observation, a step leads to an observation,
a reward and two flags. The autoreset modes only differ in which call returns which part of it, so with the same seeds and
actions every mode must tell the same lives; mode DISABLED, where the caller resets, is the reference.
"""

import contextlib
import copy
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

from mbrl.testing.contract import ContractError, require

_AFTER = 5  # calls after the first end of an episode
_SEED = 7


def check_vector_env(make: Callable[..., VectorEnv], *, num_envs: int = 3, max_steps: int = 2000) -> None:
    """Check what :class:`gymnasium.vector.VectorEnv` promises, in all three autoreset modes.

    Spaces, shapes, dtypes and masks of everything that is returned; a seed decides a world's life, also its later episodes,
    whatever other worlds do; resets of some worlds leave the others alone; NEXT_STEP ignores the action of a world that it
    resets, SAME_STEP returns the last observation in ``final_obs``, DISABLED refuses to step a world that has ended; nothing
    that was handed out changes later or is used again; wrong masks, seeds and actions are refused; close. An environment with
    ``state_dict`` and ``load_state_dict``, which gymnasium does not ask for, goes on in a new environment to the bit.

    Args:
        make: ``make(num_envs=..., autoreset_mode=...)`` gives a new environment, for example
            ``functools.partial(mbrl.make_vec_env, task)``. Its episodes must end under random actions; some dozen episodes
            are run, so give long ones a shorter time limit.
        num_envs: number of worlds, at least 2.
        max_steps: how long to wait for the end of an episode.

    Raises:
        ContractError: the contract is violated.
        ValueError: num_envs is below 2, or no episode ends within ``max_steps``.
        TypeError: make is no function.
    """
    if not callable(make):
        raise TypeError(
            f"make must be a function of num_envs and autoreset_mode that gives an environment, got {make!r}"
        )
    if num_envs < 2:
        raise ValueError(f"check at least 2 worlds, got num_envs={num_envs}")
    case = _Case(make, num_envs)
    for check in (_check_spaces, _check_first_results):
        _attributed(check, case)
    first_end = _attributed(lambda case: _first_end(case, max_steps), case, "one episode")
    if first_end is None:
        raise ValueError(
            f"no episode has ended within {max_steps} steps of random actions; make the environment with a time limit"
        )
    case = _Case(make, num_envs, *first_end)
    for check in _CHECKS:
        _attributed(check, case)


def _attributed(check: Callable[["_Case"], Any], case: "_Case", what: str | None = None) -> Any:
    """The result of a check; an error in the environment is a violation, and says what was checked."""
    try:
        return check(case)
    except ContractError:
        raise
    except Exception as error:
        what = what or check.__name__.removeprefix("_check_").replace("_", " ")
        raise ContractError(f"checking {what}: {type(error).__name__}: {error}") from error


# Lives of worlds


@dataclass(frozen=True)
class _Event:
    """Something that happens to a world; an episode that begins has no reward and no flags."""

    observation: Any
    reward: float | None = None
    terminated: bool = False
    truncated: bool = False

    @property
    def name(self) -> str:
        return "first observation" if self.reward is None else "step"

    @property
    def ended(self) -> bool:
        return self.terminated or self.truncated


Lives = list[list[_Event]]


@dataclass(frozen=True)
class _Case:
    """How to make environments, and how long to run them: until the first episode ends, and some calls after it."""

    make: Callable[..., VectorEnv]
    num_envs: int
    first_end: int = 0
    lives: Lives | None = None

    @property
    def calls(self) -> int:
        return self.first_end + _AFTER

    @contextlib.contextmanager
    def env(self, mode: AutoresetMode = AutoresetMode.DISABLED) -> Iterator[VectorEnv]:
        env = self.make(num_envs=self.num_envs, autoreset_mode=mode)
        try:
            yield env
        finally:
            env.close()

    def everyone(self) -> np.ndarray:
        return np.ones(self.num_envs, dtype=bool)


class _Actions:
    """Random actions: the k-th of a world is the same in every run, whichever call it goes into."""

    def __init__(self, env: VectorEnv):
        self._space = env.single_action_space
        self._spaces = [copy.deepcopy(self._space) for _ in range(env.num_envs)]
        for i, space in enumerate(self._spaces):
            space.seed(_SEED + i)
        self._spare = copy.deepcopy(self._space)
        self._spare.seed(_SEED - 1)

    def next(self, ignored: np.ndarray) -> Any:
        """One action per world, for those in ``ignored`` one that does not count."""
        rows = [self._spare.sample() if ignored[i] else space.sample() for i, space in enumerate(self._spaces)]
        return _batch(self._space, rows)


def _batch(space: Space, rows: list[Any]) -> Any:
    return copy.deepcopy(concatenate(space, rows, create_empty_array(space, len(rows))))


def _rows(env: VectorEnv, observations: Any) -> list[Any]:
    return [copy.deepcopy(row) for row in iterate(env.observation_space, observations)]


def _first_end(case: _Case, max_steps: int) -> tuple[int, Lives] | None:
    """In which call an episode ends for the first time, and the reference: all lives in mode DISABLED. None if none ends."""
    with case.env() as env:
        actions, ended = _Actions(env), np.zeros(case.num_envs, dtype=bool)
        _reset(env, seed=_SEED)
        first_end = 0
        while not ended.any() and first_end < max_steps:
            ended = _step(env, actions.next(ended)).ended
            first_end += 1
    if not ended.any():
        return None
    with case.env() as env:
        return first_end, _live(env, first_end + _AFTER)


def _live(
    env: VectorEnv,
    calls: int,
    *,
    interrupted: np.ndarray | None = None,
    after: Callable[["_Results | tuple[Any, dict[str, Any]]"], None] = lambda returned: None,
) -> Lives:
    """Lives of all worlds over a number of calls of step, from a seeded reset.

    Args:
        env: the environment, in any mode.
        calls: of step.
        interrupted: worlds to reset after the first call.
        after: called with what each reset and step returned, once it has been looked at.
    """
    mode, actions = env.metadata["autoreset_mode"], _Actions(env)
    returned = _reset(env, seed=_SEED)
    lives: Lives = [[_Event(y)] for y in _rows(env, returned[0])]
    after(returned)
    pending = np.zeros(env.num_envs, dtype=bool)
    for call in range(calls):
        results = _step(env, actions.next(pending), begins=pending)
        rows = _rows(env, results.observations)
        for i, life in enumerate(lives):
            if pending[i]:
                life.append(_Event(rows[i]))
                continue
            same_step = mode is AutoresetMode.SAME_STEP and results.ended[i]
            last = copy.deepcopy(results.infos["final_obs"][i]) if same_step else rows[i]
            flags = bool(results.terminated[i]), bool(results.truncated[i])
            life.append(_Event(last, float(results.rewards[i]), *flags))
            if same_step:
                life.append(_Event(rows[i]))
        ended = results.ended
        pending = ended if mode is AutoresetMode.NEXT_STEP else np.zeros_like(pending)
        after(results)
        mask = ended.copy() if mode is AutoresetMode.DISABLED else np.zeros_like(ended)
        if interrupted is not None and call == 0:
            mask |= interrupted
        if mask.any():
            returned = _reset(env, mask=mask, before=rows)
            for i, y in enumerate(_rows(env, returned[0])):
                if mask[i]:
                    lives[i].append(_Event(y))
            after(returned)
            pending = pending & ~mask
    return lives


def _require_same_lives(actual: Lives, expected: Lives, sentence: str, worlds: list[int] | None = None) -> None:
    """The lives agree as far as both of them go."""
    for i in range(len(expected)) if worlds is None else worlds:
        for k, (a, e) in enumerate(zip(actual[i], expected[i], strict=False)):
            place = f"{sentence}: world {i}, event {k}"
            require(a.name == e.name, f"{place} must be a {e.name}, got a {a.name}")
            for field in ("observation", "reward", "terminated", "truncated"):
                got, wanted = getattr(a, field), getattr(e, field)
                require(_close(got, wanted), f"{place}, a {e.name}: {field} must be {wanted}, got {got}")


def _close(a: Any, b: Any, exact: bool = False) -> bool:
    """Whether two observations, infos or numbers are the same but for round-off, in structure, shape and dtype too."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_close(a[key], b[key], exact) for key in a)
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(_close(x, y, exact) for x, y in zip(a, b, strict=True))
    if a is None or b is None or isinstance(a, str) or isinstance(b, str):
        return a is b or a == b
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype == object:
        return all(_close(x, y, exact) for x, y in zip(a.flat, b.flat, strict=True))
    if a.dtype.kind != "f":
        return bool((a == b).all())
    tolerance = 0.0 if exact else 4096 * float(np.finfo(a.dtype).eps)
    return bool(np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True))


# Calls whose results are looked at


@dataclass(frozen=True)
class _Results:
    """What step returned."""

    observations: Any
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    infos: dict[str, Any]

    @property
    def ended(self) -> np.ndarray:
        return self.terminated | self.truncated


def _step(env: VectorEnv, actions: Any, begins: np.ndarray | None = None) -> _Results:
    """Call step and check the form of what it returns; worlds in ``begins`` are those that it resets first."""
    given = copy.deepcopy(actions)
    returned = env.step(actions)
    require(_close(actions, given, exact=True), "step must not modify the actions")
    require(isinstance(returned, tuple) and len(returned) == 5, "step must return five values")
    results, n, mode = _Results(*returned), env.num_envs, env.metadata["autoreset_mode"]
    _check_observations(env, results.observations, "step")
    for name in ("rewards", "terminated", "truncated"):
        value = getattr(results, name)
        kind, wanted = ("f", "floating point") if name == "rewards" else ("b", "bool")
        is_array = isinstance(value, np.ndarray)
        require(is_array, f"{name} must be a numpy array, got {type(value).__name__}")
        came = f"{value.dtype} {value.shape}"
        fits = value.shape == (n,) and value.dtype.kind == kind
        require(fits, f"{name} must be one number for each of {n} worlds, {wanted}, got {came}")
    _check_infos(env, results.infos, "step")
    if begins is not None and begins.any():
        zero = bool((results.rewards[begins] == 0).all())
        require(zero, f"mode NEXT_STEP: the call that resets a world must reward it 0, got {results.rewards[begins]}")
        going = not bool(results.ended[begins].any())
        require(going, "mode NEXT_STEP: the call that resets a world must not flag it as terminated or truncated")
    if mode is AutoresetMode.SAME_STEP and results.ended.any():
        _check_final(env, results)
    else:
        odd = sorted({"final_obs", "final_info"} & results.infos.keys())
        require(not odd, f"{', '.join(odd)} are for mode SAME_STEP and steps that end an episode")
    return results


def _reset(
    env: VectorEnv, *, seed: Any = None, mask: np.ndarray | None = None, before: list[Any] | None = None
) -> tuple[Any, dict[str, Any]]:
    """Call reset and check the form of what it returns; ``before`` are the observations that others than the mask keep."""
    options = None if mask is None else {"reset_mask": mask.copy()}
    returned = env.reset(seed=seed, options=options)
    require(isinstance(returned, tuple) and len(returned) == 2, "reset must return observations and infos")
    observations, infos = returned
    _check_observations(env, observations, "reset")
    _check_infos(env, infos, "reset")
    if mask is not None:
        for key, value in infos.items():
            if key.startswith("_"):
                others = not bool(value[~mask].any())
                require(others, f"after a reset of some worlds, the mask {key} must be false for all others")
        for i, (now, earlier) in enumerate(zip(_rows(env, observations), before or [], strict=False)):
            kept = mask[i] or _close(now, earlier, exact=True)
            require(kept, f"a reset of other worlds must leave the observation of world {i} at {earlier}, got {now}")
    return observations, infos


def _check_observations(env: VectorEnv, observations: Any, call: str) -> None:
    space = env.observation_space
    if space.dtype is not None and space.shape is not None:  # one array
        is_array = isinstance(observations, np.ndarray)
        require(is_array, f"observations of {call} must be a numpy array, got {type(observations).__name__}")
        came = f"{observations.dtype} {observations.shape}"
        fits = observations.dtype == space.dtype and observations.shape == space.shape
        require(fits, f"observations of {call} must be {space.dtype} {space.shape}, got {came}")
    contained = space.contains(observations)
    require(contained, f"observations of {call} must lie in the observation_space {space}, got {observations}")


def _check_infos(env: VectorEnv, infos: Any, call: str) -> None:
    """Each entry has a mask ``_key`` of the worlds that it is about."""
    n = env.num_envs
    require(isinstance(infos, dict), f"infos of {call} must be a dict, got {type(infos).__name__}")
    for key, value in infos.items():
        if key.startswith("_") and key[1:] in infos:
            fits = isinstance(value, np.ndarray) and value.shape == (n,) and value.dtype == np.bool_
            require(fits, f"infos of {call}: the mask {key} must be one bool for each of {n} worlds, got {value!r}")
            continue
        require(
            f"_{key}" in infos, f"infos of {call}: {key} must have a mask _{key} that says which worlds it is about"
        )
        sized = isinstance(value, dict) or (hasattr(value, "__len__") and len(value) == n)
        require(sized, f"infos of {call}: {key} must have one entry for each of {n} worlds, got {value!r}")


def _check_final(env: VectorEnv, results: _Results) -> None:
    ended = results.ended
    for key in ("final_obs", "final_info"):
        require(key in results.infos, f"mode SAME_STEP: infos must have {key} where an episode ends")
        mask = results.infos[f"_{key}"]
        same = bool((mask == ended).all())
        require(same, f"mode SAME_STEP: the mask _{key} must be terminated | truncated, {ended}, got {mask}")
    last = results.infos["final_obs"]
    form = isinstance(last, np.ndarray) and last.dtype == object
    require(form, f"mode SAME_STEP: final_obs must be an array of objects, got {getattr(last, 'dtype', type(last))}")
    for i in range(env.num_envs):
        if ended[i]:
            space = env.single_observation_space
            require(space.contains(last[i]), f"mode SAME_STEP: final_obs[{i}] must lie in {space}, got {last[i]}")
        else:
            require(last[i] is None, f"mode SAME_STEP: final_obs[{i}] must be None, world {i} has not ended")


# The checks


def _check_spaces(case: _Case) -> None:
    for mode in AutoresetMode:
        with case.env(mode) as env:
            require(isinstance(env, VectorEnv), f"make must give a gymnasium VectorEnv, got {type(env).__name__}")
            require(env.num_envs == case.num_envs, f"num_envs must be {case.num_envs}, got {env.num_envs}")
            found = env.metadata.get("autoreset_mode")
            require(found is mode, f"metadata['autoreset_mode'] must be {mode}, got {found!r}")
            for kind in ("observation_space", "action_space"):
                single, batched = getattr(env, f"single_{kind}"), getattr(env, kind)
                wanted = batch_space(single, case.num_envs)
                require(
                    batched == wanted, f"{kind} must be {case.num_envs} times single_{kind}, {wanted}, got {batched}"
                )


def _check_first_results(case: _Case) -> None:
    for mode in AutoresetMode:
        with case.env(mode) as env:
            _reset(env)
            _step(env, _Actions(env).next(~case.everyone()))


def _check_seeds(case: _Case) -> None:
    n = case.num_envs
    with case.env() as env:
        first = copy.deepcopy(_reset(env, seed=_SEED))
        require(_close(_reset(env, seed=_SEED), first, exact=True), "resets with equal seeds must give the same")
        listed = _reset(env, seed=[_SEED + i for i in range(n)])
        require(
            _close(listed, first, exact=True), f"seed={_SEED} must mean one seed per world, {_SEED}, {_SEED + 1}, ..."
        )
        same = _rows(env, _reset(env, seed=[_SEED] * n)[0])
        alike = all(_close(row, same[0]) for row in same)
        require(alike, f"worlds with equal seeds must begin alike, got {same}")
        starts = [_rows(env, _reset(env, seed=seed)[0]) for seed in range(0, 5 * n, n)]
        if not all(_close(rows, starts[0], exact=True) for rows in starts):  # where an episode begins is random
            differ = any(not _close(row, rows[0], exact=True) for rows in starts for row in rows)
            require(differ, "worlds with different seeds must begin differently, but all worlds are the same")
            first = copy.deepcopy(_reset(env, seed=_SEED)[0])
            repeated = all(_close(_reset(env)[0], first, exact=True) for _ in range(5))
            require(not repeated, "a reset without a seed must go on with other random numbers")
        for count in (n + 1, n - 1):
            seeds: Any = [_SEED] * count
            _require_refused(lambda seeds=seeds: env.reset(seed=seeds), f"{count} seeds for {n} worlds")
    with case.env() as env:
        again = _live(env, case.calls)
    _require_same_lives(again, _reference(case), "a seed must decide a world's life, in a new environment too")


def _check_disabled(case: _Case) -> None:
    """A world that has ended is not stepped."""
    with case.env() as env:
        _live_until_end(case, env)
        everything = _Actions(env).next(~case.everyone())
        _require_refused(lambda: env.step(everything), "mode DISABLED: a step of a world that has ended", Exception)


def _live_until_end(case: _Case, env: VectorEnv) -> None:
    """Stop right after the call that ends an episode, before anything is reset."""
    actions = _Actions(env)
    _reset(env, seed=_SEED)
    for _ in range(case.first_end):
        env.step(actions.next(~case.everyone()))


def _check_reset_masks(case: _Case) -> None:
    n = case.num_envs
    last = np.arange(n) == n - 1
    with case.env() as env:
        lives = _live(env, case.calls, interrupted=last)
    sentence = f"a reset of world {n - 1} must not change the lives of other worlds, nor their later episodes"
    _require_same_lives(lives, _reference(case), sentence, worlds=list(range(n - 1)))
    wrong = {
        "that is a list": [True] * n,
        "of integers": np.ones(n, dtype=np.int64),
        f"of {n + 1} worlds": np.ones(n + 1, dtype=bool),
        "without a world": np.zeros(n, dtype=bool),
    }
    with case.env() as env:
        _reset(env, seed=_SEED)
        for what, mask in wrong.items():
            _require_refused(lambda mask=mask: env.reset(options={"reset_mask": mask}), f"a reset_mask {what}")


def _check_autoreset(case: _Case) -> None:
    """All modes tell the same lives."""
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        with case.env(mode) as env:
            lives = _live(env, case.calls)
        _require_same_lives(lives, _reference(case), f"mode {mode.name} must give what mode DISABLED does")


def _check_resets_in_between(case: _Case) -> None:
    """A reset of all worlds begins everything anew, also for worlds that would have been reset by the next call."""
    for mode in AutoresetMode:
        with case.env(mode) as env:
            _live_until_end(case, env)
            lives = _live(env, case.calls)
        _require_same_lives(lives, _reference(case), f"mode {mode.name}: reset(seed=...) must begin everything anew")


def _check_copies(case: _Case) -> None:
    for mode in AutoresetMode:
        kept: list[tuple[Any, Any]] = []

        def keep(returned: Any, kept: list[tuple[Any, Any]] = kept) -> None:
            returned = vars(returned) if isinstance(returned, _Results) else returned
            kept.append((returned, copy.deepcopy(returned)))

        with case.env(mode) as env:
            _live(env, case.calls, after=keep)
        unchanged = all(_close(now, then, exact=True) for now, then in kept)
        require(unchanged, f"mode {mode.name}: what was returned must not change by later calls; return copies")
        with case.env(mode) as env:
            lives = _live(env, case.calls, after=_overwrite)
        sentence = (
            f"mode {mode.name}: what was returned must not be used again when the caller overwrites it; return copies"
        )
        _require_same_lives(lives, _reference(case), sentence)


def _overwrite(value: Any) -> None:
    """Write nonsense into all arrays."""
    if isinstance(value, _Results):
        value = vars(value)
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, tuple | list):
        for part in value:
            _overwrite(part)
    elif isinstance(value, np.ndarray) and value.dtype == object:
        for part in value.flat:
            _overwrite(part)
    elif isinstance(value, np.ndarray) and value.flags.writeable:
        value[...] = np.logical_not(value) if value.dtype == np.bool_ else np.full_like(value, 77)


def _check_actions(case: _Case) -> None:
    n = case.num_envs
    for worlds in (n - 1, n + 1):
        with case.env() as env:
            _reset(env, seed=_SEED)
            space = batch_space(env.single_action_space, worlds)
            space.seed(_SEED)
            _require_refused(lambda env=env, space=space: env.step(space.sample()), f"{worlds} actions for {n} worlds")


def _check_saving(case: _Case) -> None:
    """A new environment goes on as the one that was saved did, from files that hold no code."""
    for mode in AutoresetMode:
        with case.env(mode) as env:
            if not (hasattr(env, "state_dict") and hasattr(env.unwrapped, "state_dict")):
                return
            _reset(env, seed=_SEED)
            actions = _Actions(env)
            played = [actions.next(~case.everyone()) for _ in range(case.calls)]
            files, results = [], []
            for action in played:
                file = io.BytesIO()
                torch.save(env.state_dict(), file)  # type: ignore[attr-defined]
                files.append(file.getvalue())
                results.append(_step_and_reset(env, action))
        for k in sorted({0, case.first_end - 1, case.first_end}):
            with case.env(mode) as env:
                _reset(env)  # which it forgets
                env.load_state_dict(torch.load(io.BytesIO(files[k]), weights_only=True))  # type: ignore[attr-defined]
                for i, action in enumerate(played[k:], k):
                    place = f"mode {mode.name}: loaded with the state before call {k}, call {i} must be what it was, to the bit"
                    require(_close(_step_and_reset(env, action), results[i], exact=True), place)


def _step_and_reset(env: VectorEnv, action: Any) -> list[Any]:
    """What a step returns, and the reset of worlds that have ended where the caller has to."""
    returned = copy.deepcopy(env.step(action))
    ended = returned[2] | returned[3]
    if env.metadata["autoreset_mode"] is AutoresetMode.DISABLED and ended.any():
        return [returned, copy.deepcopy(env.reset(options={"reset_mask": ended}))]
    return [returned]


def _check_close(case: _Case) -> None:
    env = case.make(num_envs=case.num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)
    env.reset(seed=_SEED)
    env.close()
    require(env.closed, "closed must be true after close")
    env.close()


def _reference(case: _Case) -> Lives:
    return case.lives or []


def _require_refused(
    call: Callable[[], object],
    what: str,
    errors: type[Exception] | tuple[type[Exception], ...] = (ValueError, TypeError),
) -> None:
    try:
        call()
    except errors:
        return
    except Exception as error:
        raise ContractError(f"{what} must raise ValueError or TypeError, raised {type(error).__name__}") from error
    raise ContractError(f"{what} must be refused with an error")


_CHECKS: tuple[Callable[[_Case], None], ...] = (
    _check_seeds,
    _check_disabled,
    _check_reset_masks,
    _check_autoreset,
    _check_resets_in_between,
    _check_copies,
    _check_actions,
    _check_saving,
    _check_close,
)
