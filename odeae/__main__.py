"""`python -m odeae`: the shell."""

from odeae.cli import main

main()
