"""Bringing a database to the newest schema, at every start of the gateway.

`versions/` holds one Alembic revision per change, oldest first; a released one is never edited. A database that a newer
gateway has written is refused: going back is a matter of a backup.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Engine

from joblet.common.errors import ConfigError

FOLDER = Path(__file__).parent


def upgrade(engine: Engine, url: str) -> None:
    """One transaction: an upgrade that fails half-way leaves the database as it was. ConfigError when it is newer."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise ConfigError([f"gateway.database: {url} was written by another version: {error}"]) from error
