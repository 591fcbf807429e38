"""The alert store: tables, reads and writes, migrations, retention."""
