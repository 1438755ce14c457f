"""`python3 -m afs …` is the `afs` command."""

from afs.cli import run

if __name__ == "__main__":
    run()
