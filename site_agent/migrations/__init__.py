"""How a site's database came to be what it is, one revision after another (alembic).

Used by `site_agent.schema`, which gives it a connection; no alembic.ini is needed. A new revision
is a file in `versions` named by the next number, and raises `site_agent.database.SCHEMA`.
"""
