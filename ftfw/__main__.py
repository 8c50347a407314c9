"""`python -m ftfw` is `ftfw`."""

from ftfw.cli import main

main(prog_name="ftfw")
