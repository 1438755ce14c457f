"""`python3 -m training …` calls `realm.cli`."""

from realm.cli import main

if __name__ == "__main__":
    main()
