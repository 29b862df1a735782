"""What alembic runs: the revisions, on the connection and in the transaction of the caller."""

from alembic import context

from site_agent.database import VERSION_TABLE, Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,  # `connect` begins by hand, so SQLite can undo it as PostgreSQL does
    render_as_batch=True,  # SQLite changes a column by making the table anew
)
context.run_migrations()
