"""Runs `ftfw` as `python -m ftfw`."""

from ftfw.cli.commands import main

main(prog_name="ftfw")
