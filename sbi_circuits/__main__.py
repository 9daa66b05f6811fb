"""`python -m sbi_circuits`: the command line."""

from sbi_circuits.cli import main

if __name__ == "__main__":
    main()
