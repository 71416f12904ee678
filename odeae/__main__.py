"""`python -m odeae`: the shell."""

from odeae.cli import main

if __name__ == "__main__":
    main()
