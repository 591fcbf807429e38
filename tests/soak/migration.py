"""Homes whose alert store is of an earlier schema, with what it held."""

from __future__ import annotations

import shutil
from pathlib import Path

import sqlalchemy as sa

from serving.storage import database
from tests.soak import fork_server
from tests.soak.material import Material
from tests.soak.service import Lifetime, Tell, live, prepare_process


def downgraded(material: Material, kept: Path, home: Path, upto: int, revision: int) -> None:
    """A home after so many batches, with its alert store brought back to an earlier schema.

    Args:
        kept: home that is made once and copied.
        revision: number of the schema, from 1.
    """
    if not kept.exists():
        kept.mkdir()
        life = Lifetime(kept, "ingest", seed=0, upto=upto)

        def work(tell: Tell) -> None:
            prepare_process(life, log=kept / "log")
            live(life, material, tell)

        ended = fork_server.run(work)
        if ended.how != "closed":
            raise RuntimeError(f"the home to migrate: {ended.last('failed')}")
    shutil.copytree(kept, home)

    url = f"sqlite:///{home / 'serving.db'}"
    ended = fork_server.run(lambda _: migrate(url, f"a{revision:03d}", down=True))
    if ended.how != "closed":
        raise RuntimeError(f"the home to migrate: {ended.last('failed')}")


def migrate(url: str, revision: str, *, down: bool = False) -> None:
    """Bring a store up or down to a schema; in a process of its own, as alembic is not imported otherwise."""
    from alembic import command
    from alembic.config import Config

    engine = sa.create_engine(url, poolclass=sa.NullPool)
    config = Config()
    config.set_main_option("script_location", str(database._MIGRATIONS).replace("%", "%%"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        (command.downgrade if down else command.upgrade)(config, revision)
