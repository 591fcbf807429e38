"""Runs the migrations on the connection that `serving.storage.database` hands over; there is no other way in."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
