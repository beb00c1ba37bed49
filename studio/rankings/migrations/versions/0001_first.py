"""The first form of the tables."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None

# SQLite counts rows itself only in a column of exactly this type.
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OPTIONAL_JSON = sa.JSON(none_as_null=True)
FREE = sa.text("taken < overlap")


def whole(name: str, nullable: bool = False, primary_key: bool = False) -> sa.Column:
    return sa.Column(name, KEY, nullable=nullable, primary_key=primary_key)


def of(name: str, kind: sa.types.TypeEngine, nullable: bool = False) -> sa.Column:
    return sa.Column(name, kind, nullable=nullable)


def upgrade() -> None:
    create_pictures()
    create_tasks()
    create_answers()


def create_pictures() -> None:
    op.create_table("prompts", whole("id", primary_key=True), of("text", sa.Text()), sa.UniqueConstraint("text"))
    op.create_table(
        "pictures", sa.Column("sha256", sa.Text(), primary_key=True), of("suffix", sa.Text()), whole("width"), whole("height"), whole("size_bytes"),
    )
    op.create_table(
        "generations", whole("id", primary_key=True), whole("prompt_id"), of("picture", sa.Text()), of("model", sa.Text()), whole("seed", nullable=True),
        of("options", sa.JSON()), of("source_id", sa.Text()), sa.ForeignKeyConstraint(["prompt_id"], ["prompts.id"]),
        sa.ForeignKeyConstraint(["picture"], ["pictures.sha256"]), sa.UniqueConstraint("prompt_id", "picture", "model", "source_id"),
    )
    op.create_index("ix_generations_prompt_id", "generations", ["prompt_id"])
    op.create_index("ix_generations_picture", "generations", ["picture"])


def create_tasks() -> None:
    op.create_table(
        "tasks", whole("id", primary_key=True), of("key", sa.Text()), whole("prompt_id"), of("collection", sa.Text()), whole("overlap"), whole("taken"),
        of("gold", OPTIONAL_JSON, nullable=True), of("source_id", sa.Text()), of("created", sa.Double()),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompts.id"]), sa.UniqueConstraint("key"),
    )
    op.create_index("ix_tasks_collection", "tasks", ["collection"])
    op.create_index("ix_tasks_prompt_id", "tasks", ["prompt_id"])
    op.create_index("tasks_with_slots", "tasks", ["id"], sqlite_where=FREE, postgresql_where=FREE)
    op.create_table(
        "task_items", whole("task_id", primary_key=True), whole("position", primary_key=True), whole("generation_id"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"]), sa.ForeignKeyConstraint(["generation_id"], ["generations.id"]),
        sa.UniqueConstraint("task_id", "generation_id"),
    )
    op.create_index("ix_task_items_generation_id", "task_items", ["generation_id"])


def create_answers() -> None:
    op.create_table("annotators", whole("id", primary_key=True), of("name", sa.Text()), of("created", sa.Double()), sa.UniqueConstraint("name"))
    op.create_table(
        "assignments", whole("id", primary_key=True), whole("task_id"), whole("annotator_id"), whole("slot", nullable=True), whole("repeat"),
        of("state", sa.Text()), of("shown", sa.JSON()), of("draft", OPTIONAL_JSON, nullable=True), of("opened", sa.Double()),
        of("closed", sa.Double(), nullable=True), sa.ForeignKeyConstraint(["task_id"], ["tasks.id"]),
        sa.ForeignKeyConstraint(["annotator_id"], ["annotators.id"]), sa.UniqueConstraint("task_id", "slot"),
        sa.UniqueConstraint("task_id", "annotator_id", "repeat"),
    )
    op.create_index("assignments_of_annotator", "assignments", ["annotator_id", "state", "closed"])
    op.create_table(
        "rankings", sa.Column("assignment_id", KEY, primary_key=True, autoincrement=False), of("ranks", sa.JSON()), of("ratings", sa.JSON()),
        of("flags", sa.JSON()), of("note", sa.Text()), of("seconds", sa.Double()), whole("revision"), of("submitted", sa.Double()),
        sa.ForeignKeyConstraint(["assignment_id"], ["assignments.id"]),
    )
    op.create_table(
        "history", whole("id", primary_key=True), whole("assignment_id"), of("action", sa.Text()), of("content", sa.JSON()),
        of("request", sa.Text(), nullable=True), of("at", sa.Double()), sa.ForeignKeyConstraint(["assignment_id"], ["assignments.id"]),
        sa.UniqueConstraint("request"),
    )
    op.create_index("ix_history_assignment_id", "history", ["assignment_id"])


def downgrade() -> None:
    for table in ("history", "rankings", "assignments", "annotators", "task_items", "tasks", "generations", "pictures", "prompts"):
        op.drop_table(table)
