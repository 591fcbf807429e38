"""Settings that mirror a file of `configs/`, with a user's own YAML file on top."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

import yaml

from data.errors import KubehabitError
from data.paths import shipped


class ConfigFile:
    """Base of dataclasses whose fields are the keys of `file`, one of `configs/`."""

    file: ClassVar[str]

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """The shipped settings, replaced key by key by those of a YAML file; KubehabitError if one cannot be used."""
        try:
            given = yaml.safe_load(path.read_text("utf-8")) or {} if path else {}
            return cls(**(shipped(cls.file) | given))
        except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
            raise KubehabitError(f"{path}: {error}. Its keys are those of configs/{cls.file}.") from error
