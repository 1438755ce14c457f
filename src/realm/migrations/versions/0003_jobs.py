"""Jobs and their audit trail. A new database has the tables already (0001 makes those of the program)."""

from alembic import op

from realm import db

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = ("jobs", "job_audit")


def upgrade() -> None:
    db.metadata.create_all(op.get_bind(), tables=[db.metadata.tables[name] for name in TABLES])


def downgrade() -> None:
    db.metadata.drop_all(op.get_bind(), tables=[db.metadata.tables[name] for name in TABLES])
