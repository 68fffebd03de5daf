"""what verify measures, suspects, second looks, bulk decisions"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:

    op.create_table(
        "look",
        sa.Column("image_id", sa.Integer(), nullable=False),
        sa.Column("bits", sa.LargeBinary(), nullable=False),
        sa.Column("up", sa.Float(), nullable=False),
        sa.Column("down", sa.Float(), nullable=False),
        sa.Column("view", sa.LargeBinary(), nullable=False),
        sa.Column("sharp", sa.LargeBinary(), nullable=False),
        sa.Column("soft", sa.LargeBinary(), nullable=False),
        sa.Column("copy_of", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"]),
        sa.PrimaryKeyConstraint("image_id"),
    )
    op.create_table(
        "skew",
        sa.Column("camera", sa.String(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.Column("distance", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("camera", "event_id"),
    )
    op.create_table(
        "suspect",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("image_id", sa.Integer(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("guess", sa.String(), nullable=False),
        sa.Column("confidence", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"]),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"]),
        sa.PrimaryKeyConstraint("run_id", "image_id"),
    )
    with op.batch_alter_table("label", schema=None) as batch_op:
        batch_op.add_column(sa.Column("ask", sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("bulk", sa.String(), nullable=False, server_default=""))
        batch_op.create_index(batch_op.f("ix_label_bulk"), ["bulk"], unique=False)
    # Only rows that were there before needed one.
    with op.batch_alter_table("label", schema=None) as batch_op:
        batch_op.alter_column("ask", server_default=None)
        batch_op.alter_column("bulk", server_default=None)


def downgrade() -> None:

    with op.batch_alter_table("label", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_label_bulk"))
        batch_op.drop_column("bulk")
        batch_op.drop_column("ask")

    op.drop_table("suspect")
    op.drop_table("skew")
    op.drop_table("look")
