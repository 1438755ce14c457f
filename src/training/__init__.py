"""The documented front door: `python3 -m training …` is the `realm` command."""
