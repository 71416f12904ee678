"""`python -m odeae`: the shell."""

from odeae.shell.main import main

if __name__ == "__main__":
    main()
