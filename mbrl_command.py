"""The program ``mbrl``, beside the packages: Ctrl-C may come while they, and torch with them, are being imported."""

import sys


def main() -> int:
    """Run the command line and return its exit status."""
    try:
        from mbrl.cli import main as command_line
    except KeyboardInterrupt:
        sys.stderr.write("mbrl: interrupted\n")
        return 130
    return command_line()
