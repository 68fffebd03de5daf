"""project settings"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:

    op.create_table(
        "projectsetting",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.Column("cleared", sa.Boolean(), nullable=False),
        sa.Column("changed_at", sa.DateTime(), nullable=False),
        sa.Column("operator", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("project", "version", "key"),
    )
    with op.batch_alter_table("projectsetting", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_projectsetting_project"), ["project"], unique=False)


def downgrade() -> None:

    with op.batch_alter_table("projectsetting", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_projectsetting_project"))

    op.drop_table("projectsetting")
