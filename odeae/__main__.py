"""`python -m odeae`: the shell."""

from odeae.shell.commands import main

if __name__ == "__main__":
    main()
