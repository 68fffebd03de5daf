"""stages of rollouts, pairs and trials, exemptions, what is retained"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:

    op.create_table(
        "pair",
        sa.Column("camera", sa.String(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("release", sa.Integer(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("other", sa.Integer(), nullable=False),
        sa.Column("other_label", sa.String(), nullable=False),
        sa.Column("trial", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("camera", "event_id"),
    )
    op.create_index("ix_pair_releases", "pair", ["project", "release", "other"])
    op.create_table(
        "trial",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("camera", sa.String(), nullable=False),
        sa.Column("trial", sa.String(), nullable=False),
        sa.Column("release", sa.Integer(), nullable=False),
        sa.Column("other", sa.Integer(), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("windows", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("project", "camera", "trial"),
    )
    op.create_table(
        "exemption",
        sa.Column("camera", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("release", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("operator", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("camera"),
    )
    op.create_index("ix_exemption_project", "exemption", ["project"])
    op.create_table(
        "retained",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("project", "name"),
    )
    op.add_column("rollout", sa.Column("kind", sa.String(), nullable=False, server_default=sa.text("'upgrade'")))
    op.add_column("rollout", sa.Column("details", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("rollout", sa.Column("evidence", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("rollout", sa.Column("history", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("rollout", sa.Column("reverts", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:

    for name in ("reverts", "history", "evidence", "details", "kind"):
        op.drop_column("rollout", name)

    op.drop_table("retained")

    op.drop_index("ix_exemption_project", "exemption")
    op.drop_table("exemption")

    op.drop_table("trial")

    op.drop_index("ix_pair_releases", "pair")
    op.drop_table("pair")
