"""How fast, how light, how soon: measured against named peers and budgets, in the same run.

`python -m benchmarks [NAME…] [--quick] [--json FILE]`; what the numbers mean stands in docs/BENCHMARKS.md.
"""
