"""Run by Alembic for every command: the connection is the one that `migrations.upgrade` opened."""

from alembic import context

from joblet.gateway.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()
