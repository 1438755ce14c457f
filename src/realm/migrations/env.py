"""Alembic environment: online migrations on the SQLite file that `realm.db.migrate` names."""

import sqlalchemy as sa
from alembic import context

from realm.db import metadata

engine = sa.create_engine(sa.URL.create("sqlite", database=str(context.config.attributes["database"])))
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
