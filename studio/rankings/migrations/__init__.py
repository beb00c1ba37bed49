"""How the tables of the rankings came to be, for Alembic."""
