"""Jobs: work beside the hero loop, on this machine or on others (realm-rules §15, contracts C10).

`kinds` says what there is, `orders` takes orders, `board` is the table, `executor` runs in the arena and is the table's
only writer; `local` and `cluster` are the two places where work is done. `python3 -m training jobs list` shows it.
"""
