"""The Vault: checkpoints on disk and in the ledger."""
