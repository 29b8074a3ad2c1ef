"""The command line: ``mbrl --help``. A command is one file here, and one line in :data:`mbrl.cli.main.COMMANDS`.

A command's module has a docstring with examples, a frozen dataclass ``Options`` whose fields are its options, and
``run(options)``. What it does is the library's business; the module reads options, calls the library, and says what came out.
"""

from mbrl.cli.main import main

__all__ = ["main"]
