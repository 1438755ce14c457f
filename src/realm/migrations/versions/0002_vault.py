"""The Vault: zone, promotion, tags and trash of a checkpoint."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

COLUMNS = (
    sa.Column("zone", sa.String, nullable=False, server_default="hot"),
    sa.Column("promoted", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("tags", sa.JSON),
    sa.Column("trashed_at", sa.Float),
)


def upgrade() -> None:
    # 0001 makes the tables as the program has them now: a new database has the columns already.
    there = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("checkpoints")}
    for column in COLUMNS:
        if column.name not in there:
            op.add_column("checkpoints", column)


def downgrade() -> None:
    for column in COLUMNS:
        op.drop_column("checkpoints", column.name)
