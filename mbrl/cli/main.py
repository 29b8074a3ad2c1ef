"""From arguments to an exit status: which command, with which options, and what to say when it does not work.

Status 0 is success, 2 bad input, with one sentence on standard error, and 130 an interruption by Ctrl-C. An error that the
library raises is a sentence to the user. One that comes about elsewhere is a bug, and keeps its traceback.
"""

import contextlib
import difflib
import dis
import importlib
import io
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

COMMANDS = {
    "tasks": "list the tasks to plan and learn on",
    "collect": "record episodes of a task as logs",
    "audit": "look for gaps, jitter, missing and clipped values in logs",
    "fit": "fit a model to logs and report how far ahead it predicts",
    "train": "train a policy on a task or a gymnasium environment",
    "plan": "plan on a task, once or at every step, and film the result",
    "eval": "measure a planner or a policy on a task over many episodes",
    "report": "put one run or many on one page, seeds together",
    "view": "look at logs, or at a planner while it runs, in the browser",
}

LARGEST_SEED = 2**63 - 1

PACKAGES = ("dynamics", "planners", "mbrl")


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Args:
        args: the arguments after ``mbrl``; those of the process by default.
    """
    try:
        status = answer(list(sys.argv[1:] if args is None else args))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as in mbrl plan --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still writes at its end
        return 141  # as of other programs
    return status


def answer(args: list[str]) -> int:
    """The exit status of a command, which has said what there is to say."""
    if not args or args[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        return 0
    name = args[0]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return complain("mbrl", f"there is no command {name!r}; {hint}there is {', '.join(COMMANDS)}")
    try:
        command = command_module(name)
        options = parse(command, name, args[1:])
        command.run(options)
    except KeyboardInterrupt as stop:
        return complain(f"mbrl {name}", interrupted(args, *stop.args), status=130)
    except SystemExit:  # tyro has shown its help
        return 0
    except BrokenPipeError:
        raise
    except Exception as error:
        if not is_for_the_user(error):
            raise
        return complain(f"mbrl {name}", str(error))
    return 0


def command_module(name: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f"mbrl.cli.{name}")


def parse(command: ModuleType, name: str, args: Sequence[str]) -> Any:
    """The options of a command.

    Raises:
        SystemExit: help was asked for and shown.
        ValueError: the arguments are not the command's.
    """
    import tyro

    from mbrl.cli.choices import chosen, reachable, registry

    choices = getattr(command, "CHOICES", {})
    chosen_ones, others = chosen(args, choices)
    shown = reachable(chosen_ones, choices)
    lines = [f"{f'--{path}' if path else f'mbrl {name}'} {'|'.join(names)}" for path, names in shown.items()]
    text = "\n".join([command.__doc__ or "", *lines])
    if chosen_ones and {"-h", "--help"} & set(others):  # tyro's help is that of the choice only
        sys.stdout.write(f"{text}\n\n")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = tyro.cli(
                command.Options,
                prog=f"mbrl {name}",
                description=text,
                args=[*chosen_ones, *others],
                config=(tyro.conf.CascadeSubcommandArgs, tyro.conf.SuppressFixed, tyro.conf.FlagCreatePairsOff),
                registry=registry(choices.get("", {}).get(chosen_ones[0]) if chosen_ones else None),
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise ValueError(f"{sentence(said.getvalue(), list(choices))} (mbrl {name} --help lists all options)") from None
    if not 0 <= getattr(options, "seed", 0) <= LARGEST_SEED:
        raise ValueError(f"--seed takes an integer in 0..{LARGEST_SEED}, got {options.seed}")
    return options


def sentence(box: str, choices: Sequence[str] = ()) -> str:
    """What tyro says in a box, in one sentence: its first part, and the options that it takes for meant.

    Args:
        box: what it says.
        choices: options that it does not know, because they are choices among its commands.
    """
    lines = [line.strip("\u256d\u256e\u2570\u256f\u2502 ") for line in re.sub(r"\x1b\[[\d;]*m", "", box).splitlines()]
    parts = "\n".join(line for line in lines if line).split("\n", 1)[-1]  # without the title
    first, *others = [
        part.strip() for part in re.split(r"^[\u2500-]+$", parts, flags=re.MULTILINE) if part.strip()
    ] or ["cannot be read"]
    options = [f"--{path}" for path in choices if path]
    if first.startswith("Missing from"):
        missing = re.findall(r"^(?:--[\w.-]+|[A-Z]{2,}$)", first, re.MULTILINE)
        unknown = [part for part in others if part.startswith("Unrecognized")]
        return f"{first.partition(':')[0]}: {', '.join(missing)}" + _meant(" ".join(unknown), [*missing, *options])
    first = " ".join(first.split())
    if not first.startswith("Unrecognized"):
        return first
    if hint := _meant(first, options):
        return first + hint
    first = re.sub(r" \(applied to [^)]*\)| Arguments are applied to .*", "", first)
    near = dict.fromkeys(re.findall(r"^--\w\S*", "\n".join(others), re.MULTILINE))
    for option in near:
        if option in first.split():  # it exists, but not beside what has been chosen
            return f"{first}; {option} is an option of another {option.rpartition('.')[0]}"
    meant = [option for option in near if option != "--help"]
    return first + (f"; did you mean {' or '.join(meant)}?" if meant else "")


def _meant(unknown: str, options: Sequence[str]) -> str:
    """Which of some options may be meant by a text with unknown ones; empty where none is near."""
    given = re.findall(r"--[\w.-]+", unknown)
    beside = {one: [other for other in options if other.count(".") == one.count(".")] for one in given}
    near = {one: difflib.get_close_matches(one, found, n=1, cutoff=0.8) for one, found in beside.items()}
    return "".join(f"; {one} is no option, did you mean {found[0]}?" for one, found in near.items() if found)


def overview() -> str:
    """What ``mbrl --help`` says."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {words}" for name, words in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mbrl COMMAND [OPTIONS]",
            "",
            "Model-based reinforcement learning and control, from the command line.",
            "",
            *lines,
            "",
            "mbrl COMMAND --help lists the options of a command, with examples.",
            "",
        ]
    )


def complain(who: str, text: str, *, status: int = 2) -> int:
    """Say one line on standard error."""
    sys.stderr.write(f"{who}: {' '.join(text.split())}\n")
    return status


def interrupted(args: Sequence[str], folder: Path | None = None, named: Path | None = None) -> str:
    """What to say after Ctrl-C: how to go on in a run folder, or to start again there without a checkpoint.

    Args:
        args: of the command.
        folder: of the run.
        named: what ``--run`` has to say where it is not the folder.
    """
    if folder is None or not (folder / "config.json").exists():
        return "interrupted"
    finished = (folder / "summary.json").exists() and named is None
    if finished and (args[0] != "train" or (folder / "report.html").exists()):
        return f"interrupted; the run at {folder} is finished"
    given = any(arg == "--run" or arg.startswith("--run=") for arg in args)
    again = shlex.join([*args, *(() if given else ("--run", str(named or folder)))])
    if finished:
        return f"interrupted; the run at {folder} is finished but for its page: mbrl {again}"
    goes_on = any((folder / name).exists() for name in ("fit.pt", "trainer.pt"))
    return f"interrupted; {'to go on' if goes_on else 'to start it again'}: mbrl {again}"


def is_for_the_user(error: Exception) -> bool:
    """Whether an error says what is wrong with the input: the system about files, or the library by ``raise``."""
    if isinstance(error, OSError):
        return True
    if isinstance(error, AssertionError | NotImplementedError):
        return False
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None or str(traceback.tb_frame.f_globals.get("__name__")).partition(".")[0] not in PACKAGES:
        return False
    instruction = traceback.tb_frame.f_code.co_code[traceback.tb_lasti]
    return dis.opname[instruction] == "RAISE_VARARGS"
