"""What Alembic runs to bring a database to another form: the connection is given, and its transaction is the caller's."""

from alembic import context

from studio.rankings.schema import Base


def run() -> None:
    """Run the migrations that Alembic has chosen."""
    context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True)
    context.run_migrations()


# Alembic loads this file under this name.
if __name__ == "env_py":
    run()
