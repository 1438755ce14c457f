"""Who answers: `local` (transformers, in this process) and `remote` (any server with OpenAI's interface, by URL)."""
