"""The Oracle service: checkpoints that answer, over OpenAI's HTTP interface (port 8765).

    python3 -m training serve oracle
    python3 -m training oracle ask "Compute: add(①⓪①, ①①)" --model champion
"""
