"""holdout versions and drift"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

AUDIT = sa.text("why = 'audit'")


def upgrade() -> None:
    op.create_table(
        "assignment",
        sa.Column("image_id", sa.Integer(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("near", sa.String(), nullable=False),
        sa.Column("side", sa.String(), nullable=False),
        sa.Column("since", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"]),
        sa.PrimaryKeyConstraint("image_id"),
    )
    with op.batch_alter_table("assignment", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_assignment_near"), ["near"], unique=False)
        batch_op.create_index(batch_op.f("ix_assignment_project"), ["project"], unique=False)
    # What has a label may have been trained on: it never becomes a member of the holdout by its hash.
    op.execute(
        "INSERT INTO assignment (image_id, project, near, side, since) "
        "SELECT id, project, '', 'train', 0 FROM image WHERE label IS NOT NULL AND split <> 'holdout'"
    )

    op.create_table(
        "holdoutversion",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("base", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("project", "number"),
    )
    with op.batch_alter_table("holdoutversion", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_holdoutversion_project"), ["project"], unique=False)

    op.create_table(
        "reference",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("camera", sa.String(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"]),
        sa.PrimaryKeyConstraint("run_id", "camera"),
    )
    op.create_table(
        "watch",
        sa.Column("camera", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("release", sa.Integer(), nullable=False),
        sa.Column("block", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("camera"),
    )
    with op.batch_alter_table("watch", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_watch_project"), ["project"], unique=False)

    with op.batch_alter_table("image", schema=None) as batch_op:
        batch_op.create_index(
            "ix_image_audit",
            ["project", "camera", "release"],
            unique=False,
            sqlite_where=AUDIT,
            postgresql_where=AUDIT,
        )
    # Columns are added in place: SQLite would let nobody drop and copy a table that others refer to.
    op.add_column("run", sa.Column("holdout", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("run", sa.Column("left_out", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("run", sa.Column("doubt", sa.String(), nullable=False, server_default=sa.text("''")))
    op.add_column("run", sa.Column("slices", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("release", sa.Column("holdout", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("release", "holdout")
    for name in ("slices", "doubt", "left_out", "holdout"):
        op.drop_column("run", name)
    with op.batch_alter_table("image", schema=None) as batch_op:
        batch_op.drop_index("ix_image_audit")

    with op.batch_alter_table("watch", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_watch_project"))

    op.drop_table("watch")
    op.drop_table("reference")
    with op.batch_alter_table("holdoutversion", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_holdoutversion_project"))

    op.drop_table("holdoutversion")
    with op.batch_alter_table("assignment", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_assignment_project"))
        batch_op.drop_index(batch_op.f("ix_assignment_near"))

    op.drop_table("assignment")
