"""``python -m mbrl`` is the command line."""

from mbrl.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
