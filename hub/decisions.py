"""Decisions: what rows of table `Label` mean, as conditions of a query."""

from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy.orm import aliased
from sqlmodel import col, or_, select
from sqlmodel.sql.expression import SelectOfScalar

from hub.tables import Label


def undone() -> SelectOfScalar[Any]:
    """Ids of the decisions that were taken back."""
    return select(Label.undoes).where(col(Label.undoes).is_not(None))


def news() -> ColumnElement[bool]:
    """Of a label: it says what nobody had said of its image; the same answer to a question asked again does not."""
    older = aliased(Label)
    other = select(older.id).where(
        older.image_id == Label.image_id, older.kind == "label", older.name != Label.name, col(older.id) < col(Label.id)
    )
    return or_(Label.ask == "", other.exists())
