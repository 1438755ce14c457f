"""Training schools: each is one module with one visible training function."""
