"""Alembic migrations of the realm database; run by `realm.db.migrate` only."""
