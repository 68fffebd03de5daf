"""what verify measures, suspects, second looks, bulk decisions"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
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
    # In place: SQLite would let nobody drop and copy a table that refers to itself.
    op.add_column("label", sa.Column("ask", sa.String(), nullable=False, server_default=sa.text("''")))
    op.add_column("label", sa.Column("bulk", sa.String(), nullable=False, server_default=sa.text("''")))
    op.create_index("ix_label_bulk", "label", ["bulk"])


def downgrade() -> None:

    op.drop_index("ix_label_bulk", "label")
    op.drop_column("label", "bulk")
    op.drop_column("label", "ask")

    op.drop_table("suspect")
    op.drop_table("skew")
    op.drop_table("look")
