"""Token maps, and what only a school can tell of a step."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # 0001 makes the tables as the program has them now: a new database has both already.
    inspector = sa.inspect(op.get_bind())
    if "facts" not in {column["name"] for column in inspector.get_columns("metrics")}:
        op.add_column("metrics", sa.Column("facts", sa.JSON))
    if "token_maps" not in inspector.get_table_names():
        op.create_table(
            "token_maps",
            sa.Column("battle_id", sa.String, primary_key=True),
            sa.Column("idx", sa.Integer, primary_key=True),
            sa.Column("row", sa.Integer, nullable=False),
            sa.Column("step", sa.Integer, nullable=False),
            sa.Column("policy", sa.String, nullable=False),
            sa.Column("tokens", sa.JSON, nullable=False),
        )


def downgrade() -> None:
    op.drop_table("token_maps")
    op.drop_column("metrics", "facts")
