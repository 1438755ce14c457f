"""Quest modules: shareable packages of practice (manifest, data by level, held-out evaluation, declarative skills).

A module is data only: nothing in it is ever executed. Try it: `python3 -m training module list`; docs/MODULES.md.
"""
