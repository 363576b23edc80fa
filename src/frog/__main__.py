"""``python -m frog`` is ``frog``."""

from frog.cli.main import main

main()
