"""Train a policy on a task of this library or on a gymnasium environment: learning curves, and a video of what it has learned.

    mbrl train ppo --task PendulumSwingUp --steps 200000 --run runs/ppo
    mbrl train ppo --task CartPole-v1 --steps 50000 --seeds 0 1 2 --run runs/cart-pole
    mbrl train ppo --task CartPoleSwingUp --steps 300000 --objective kl-penalty --objective.target 0.02 --network.hidden 128 128

The first word is the algorithm, and mbrl train ALGORITHM --help lists its options. The run folder holds the policy, the metrics
and a page to look at. After Ctrl-C or a kill, the same command goes on where it was, and mbrl eval TASK --policy RUN measures
what was learned. A training uses one thread of the processor, as its networks are small; torchrun, with a process each, or
trainings side by side use more.
"""

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import tyro

import mbrl
from dynamics import Trajectory, write_trajectories
from mbrl.cli.actors import film, one_thread, read_policy
from mbrl.cli.choices import WithoutTask, algorithm_kinds, choice, choices_of, word
from mbrl.cli.logs import Reading
from mbrl.cli.main import LARGEST_SEED
from mbrl.cli.runs import kept_folder, refuse
from mbrl.cli.tasks import find_world
from mbrl.irl.adversarial import Adversarial
from mbrl.irl.reward_findings import NO_DEMONSTRATIONS
from mbrl.runs.records import differences, json_values, told_differences
from mbrl.training.processes import is_first, started_together
from mbrl.training.train import training_config

KINDS = algorithm_kinds()
CHOICES = choices_of("", KINDS)

if TYPE_CHECKING:
    AnyAlgorithm = Any
else:
    AnyAlgorithm = Annotated[choice(KINDS), tyro.conf.arg(name="")]


@dataclass(frozen=True)
class Options:
    """Options of ``mbrl train``."""

    task: str
    """Name of the task, see mbrl tasks, or a gymnasium id."""
    steps: int | None = None
    """Environment steps in all, the last iteration a whole one; gradient steps where an algorithm takes no others, as bc. For
    those that end after --iterations, no limit by default."""
    algorithm: AnyAlgorithm = tyro.MISSING
    run: Path | None = None
    """Run folder; runs/train-DATE-TIME by default. With --seeds, what the names of the folders begin with."""
    seed: int = 0
    """Of everything that is drawn."""
    seeds: tuple[int, ...] = ()
    """Several seeds, one after the other, each with a run folder of its own, and a page that compares them."""
    evaluate_every: int | None = None
    """Steps, of the same kind, between evaluations on the way; none by default."""
    evaluation_episodes: int = 10
    """Episodes of an evaluation, on the way and at the end; 0 for none."""
    init: Path | None = None
    """Policy to begin with: the run folder of mbrl train, or its policy.safetensors."""
    demos: tuple[str, ...] = ()
    """Episodes of an expert, for algorithms that learn from some: files, folders, Minari datasets or patterns in quotes."""
    backend: str | None = None
    """Simulator, where the task has several."""
    task_options: tuple[str, ...] = ()
    """Of a world in tables, such as size=16 seed=1."""
    control: bool = False
    """Train once more at the end without demonstrations, for adversarial algorithms: the page says what that policy earns, taught
    by the form of the reward. A finished run whose page says so is left as it is."""
    device: str = "cpu"
    """Where networks are trained, such as cuda."""
    video: bool = True
    """Film an episode of the trained policy, or not with --no-video."""
    tensorboard: bool = False
    """Write event files for TensorBoard to the run folder as well; takes the extra tensorboard."""
    wandb: bool = False
    """Log to Weights & Biases as well, offline with WANDB_MODE=offline; takes the extra wandb."""
    reading: tyro.conf.OmitArgPrefixes[Reading] = field(default_factory=Reading)


@one_thread()
def run(options: Options) -> None:
    """Train, look, and compare seeds."""
    if not options.demos:
        refuse(options.reading, list(asdict(options.reading)), "without --demos no logs are read")
    if options.seeds:
        refuse(options, ["seed"], "--seeds says which")
        if min(options.seeds) < 0 or max(options.seeds) > LARGEST_SEED or len(set(options.seeds)) < len(options.seeds):
            raise ValueError(f"--seeds takes distinct integers in 0..{LARGEST_SEED}, got {_listed(options.seeds)}")
        if started_together(os.environ):
            raise ValueError(
                "--seeds are trainings one after the other; under torchrun start each with --seed, a command of its own"
            )
    training = _Training.of(options)
    if not is_first():  # whose folder, words and pictures are those of the first process
        training.train(options.run or Path("runs"), options.seed)
        return
    if not options.seeds:
        with kept_folder("train", options.run) as folder:
            training.go(folder, options.seed)
        return
    folders: list[Path] = []
    for seed in options.seeds:
        suffix = f"-seed{seed}"
        named = None if folders == [] and options.run is None else _beside(_base(options, folders), suffix)
        try:
            with kept_folder("train", named, suffix) as folder:
                folders.append(folder)
                training.go(folder, seed)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(folders[-1], _base(options, folders)) from None
    _compare(_base(options, folders), folders)


def _base(options: Options, folders: list[Path]) -> Path:
    """What the names of the folders of all seeds begin with."""
    if options.run is not None:
        return options.run
    return folders[0].with_name(folders[0].name.removesuffix(f"-seed{options.seeds[0]}"))


def _beside(base: Path, suffix: str) -> Path:
    return base.with_name(f"{base.name}{suffix}")


def _listed(seeds: tuple[int, ...]) -> str:
    return " ".join(map(str, seeds))


@dataclass(frozen=True, eq=False)
class _Training:
    """What is the same for all seeds."""

    options: Options
    task: mbrl.Task | mbrl.GridWorld | str
    algorithm: mbrl.Algorithm
    demonstrations: list[Trajectory] | None
    init: mbrl.LearnedActor | None

    @classmethod
    def of(cls, options: Options) -> "_Training":
        """Everything that the options name, read."""
        task, algorithm = find_world(options.task, options.backend, options.task_options), options.algorithm
        if isinstance(algorithm, WithoutTask):
            if not isinstance(task, mbrl.Task):
                acting = " and ".join(algorithm.acting)
                given = (
                    f"the gymnasium environment {task}" if isinstance(task, str) else f"{task.name}, a world in tables"
                )
                raise ValueError(f"the {acting} plans on a task of this library, got {given}")
            algorithm = algorithm.build(task)
        name = word(type(algorithm))
        if options.steps is None and algorithm.ends_after is None:
            raise ValueError(f"{name} ends when its {algorithm.step_unit} are spent: --steps N")
        if algorithm.demonstrations == "required" and not options.demos:
            raise ValueError(f"{name} learns from demonstrations: --demos FILE, and mbrl collect records some")
        if algorithm.demonstrations == "none" and options.demos:
            raise ValueError(f"{name} would ignore --demos: mbrl train bc --demos ..., then {name} with --init RUN")
        if options.control and started_together(os.environ):
            raise ValueError("--control is a training of its own, by one process; leave it out under torchrun")
        if options.control and isinstance(task, mbrl.GridWorld):
            raise ValueError(f"--control is for tasks and environments, got {task.name}, a world in tables")
        if options.control and not isinstance(algorithm, Adversarial):
            known = ", ".join(word(kind) for kind in KINDS if issubclass(kind, Adversarial))
            raise ValueError(f"--control is for adversarial algorithms ({known}), got {name}")
        demonstrations = options.reading.trajectories(options.demos, ()) if options.demos else None
        init = None if options.init is None else read_policy(options.init, task)
        return cls(options, task, algorithm, demonstrations, init)

    @property
    def config(self) -> dict[str, Any]:
        """What else decides the run."""
        options = self.options
        given: dict[str, Any] = {
            "backend": options.backend,
            "task_options": list(options.task_options),
            "init_from": options.init,
            "demos": list(options.demos),
        }
        return {"command": "train", **{name: value for name, value in given.items() if value}}

    def go(self, folder: Path, seed: int) -> None:
        """Train with a seed and leave a page, as far as that is not done."""
        if (folder / "summary.json").exists() and not started_together(os.environ):
            self._check_finished(folder, seed)
            page = folder / "report.html"
            told = self.options.control and page.exists() and _tells_of_a_control(page)
            if page.exists() and (told or not self.options.control):
                sys.stdout.write(f"{folder} is finished{', and its page has the control' if told else ''}\n")
            else:  # killed after the end of the training, or there is more to say
                sys.stdout.write(f"{folder} is finished but for its page\n")
                self._look(folder, read_policy(folder, self.task), None, seed)
            return
        if announcement := self.algorithm.announcement(self.task):
            sys.stdout.write(f"{announcement}\n")
        result = self.train(folder, seed)
        from mbrl.plots.train_sections import training_result

        sys.stdout.write(f"{training_result(mbrl.read_run(folder))}\npolicy: {folder / 'policy.safetensors'}\n")
        if (said := getattr(getattr(result.learner, "learned", None), "report", None)) is not None:
            sys.stdout.write(f"{said}\n")  # what a learner of costs has to say of its own answer
        self._look(folder, result.policy, result.evaluation, seed)

    def train(self, folder: Path, seed: int) -> mbrl.TrainingResult:
        """Train with a seed."""
        options = self.options
        return mbrl.train(
            self.algorithm,
            self.task,
            steps=options.steps,
            seed=seed,
            demonstrations=self.demonstrations,
            init=self.init,
            run=folder,
            evaluate_every=options.evaluate_every,
            evaluation_episodes=options.evaluation_episodes,
            device=options.device,
            on_iteration=_saying_once(f"run folder: {folder}\n"),
            loggers=self._loggers(folder, seed),
            config=self.config,
        )

    def _check_finished(self, folder: Path, seed: int) -> None:
        options = self.options
        device = torch.device(options.device)
        assignment = mbrl.Assignment(self.task, options.steps, seed, self.demonstrations, self.init, device)
        asked = training_config(
            self.algorithm, assignment, options.evaluate_every, options.evaluation_episodes, self.config
        )
        found = told_differences(mbrl.read_run(folder).config, json_values("config", asked))
        if found:
            how = "choose another --run"
            if (folder / "policy.safetensors").exists():
                how = f"to go on from its policy: --init {folder} --run NEW"
            raise mbrl.RunError(f"the run at {folder} is finished and had another config: {found}; {how}")

    def _loggers(self, folder: Path, seed: int) -> list[mbrl.Logger]:
        loggers: list[mbrl.Logger] = []
        if self.options.tensorboard:
            loggers.append(mbrl.TensorBoardLogger(folder / "tensorboard"))
        if self.options.wandb:
            config = json_values("config", {"algorithm": self.algorithm, "task": self.options.task, "seed": seed})
            loggers.append(mbrl.WandbLogger(folder, name=folder.name, config=config))
        return loggers

    def _look(self, folder: Path, policy: mbrl.LearnedActor, evaluation: mbrl.Evaluation | None, seed: int) -> None:
        """The page, its figures and its video; what was learned is kept where this fails."""
        from mbrl.plots import Video, html_report, train_sections

        name = self.task if isinstance(self.task, str) else self.task.name
        sections = train_sections(mbrl.read_run(folder), _set(self.algorithm))
        if (folder / "reward.safetensors").exists():
            sections += self._examined(folder, policy, seed)
        episode = self._episode(folder, policy, evaluation, seed)
        drawn = not isinstance(self.task, mbrl.GridWorld)
        if self.options.video and drawn and self._filmed(folder / "episode.mp4", policy, episode, seed):
            sections.insert(1, Video(folder / "episode.mp4", f"An episode of the trained policy on {name}."))
        page = html_report(folder / "report.html", f"{type(self.algorithm).__name__} on {name}", sections)
        sys.stdout.write(f"report: {page}\n")

    def _examined(self, folder: Path, policy: mbrl.LearnedActor, seed: int) -> list[Any]:
        """What there is to say about the learned reward; what was learned is kept where it cannot be said."""
        from mbrl.plots import reward_sections

        asked: dict[str, Any] = {}
        if isinstance(self.algorithm, Adversarial) and not isinstance(self.task, mbrl.GridWorld):
            asked["discount"] = self.algorithm.policy.discount
        if self.options.control:
            asked |= {"control": self.algorithm, "steps": self.options.steps, "device": self.options.device}
            sys.stdout.write("training a policy without demonstrations (--control)\n")
            sys.stdout.flush()
        report = mbrl.reward_report(
            self.task,
            mbrl.load_reward(folder),
            policy=policy,
            demonstrations=self.demonstrations,
            seed=seed,
            **asked,
        )
        sys.stdout.write(f"{report}\n")
        return reward_sections(report)

    def _episode(
        self, folder: Path, policy: mbrl.LearnedActor, evaluation: mbrl.Evaluation | None, seed: int
    ) -> Trajectory | None:
        """An episode of the policy on a task, which mbrl view plays."""
        if isinstance(self.task, str):
            return None
        if evaluation is not None:
            episode = evaluation.trajectories[0]
        else:
            (episode,) = mbrl.record(self.task, policy, 1, generator=torch.Generator().manual_seed(seed))
        write_trajectories(folder / "episode.npz", [episode], overwrite=True)
        return episode

    def _filmed(self, path: Path, policy: mbrl.LearnedActor, episode: Trajectory | None, seed: int) -> bool:
        """Whether there is a video; other environments need not be able to draw themselves."""
        sys.stdout.write("filming an episode (--no-video leaves that out)\n")
        sys.stdout.flush()
        if isinstance(self.task, mbrl.Task):
            film(path, policy, self.task, episode, seed)
            return True
        import gymnasium

        try:
            film(path, policy, self.task, episode, seed)
        except (ValueError, ImportError, gymnasium.error.Error) as error:
            sys.stdout.write(f"no video: {' '.join(str(error).split())}\n")
            return False
        return True


def _tells_of_a_control(page: Path) -> bool:
    """Whether a page has the return of a training without demonstrations, which takes as long as the other."""
    return re.search(rf"True return: [^<]*\b{NO_DEMONSTRATIONS} [-\d]", page.read_text(encoding="utf-8")) is not None


def _set(algorithm: mbrl.Algorithm) -> str:
    """Settings that are not those by default."""
    needed = [
        one.name for one in fields(algorithm) if one.default is one.default_factory is MISSING and one.name != "_"
    ]
    default = type(algorithm)(**{name: getattr(algorithm, name) for name in needed})
    found = differences(default.config(), algorithm.config())
    return "settings: " + ", ".join(f"{key} {now}" for key, _, now in found) if found else "settings by default"


def _saying_once(line: str) -> Callable[[Mapping[str, float]], object]:
    """Say a line at the first call: the options have passed."""
    lines = [line]
    return lambda row: sys.stdout.write(lines.pop()) if lines else None


def _compare(base: Path, folders: list[Path]) -> None:
    """One page for all seeds."""
    from mbrl.plots import html_report, run_sections

    sections, problems = run_sections([mbrl.read_run(folder) for folder in folders])
    for problem in problems:
        sys.stderr.write(f"mbrl train: {problem}\n")
    page = html_report(_beside(base, "-comparison.html"), f"{base.name}: {len(folders)} seeds", sections)
    sys.stdout.write(f"comparison: {page}\n")
