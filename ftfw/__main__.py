"""`python -m ftfw` is `ftfw`."""

from ftfw.cli.commands import main

main(prog_name="ftfw")
