"""The errors that a user can do something about; the CLI prints them without a traceback."""

from __future__ import annotations


class SkillmatchError(Exception):
    """Base of every error whose message names the bad value, the place and the next action."""


class ConfigError(SkillmatchError):
    """A configuration value or key that cannot be used."""


class DatasetError(SkillmatchError):
    """A dataset that cannot be used as it stands."""


class BackboneError(SkillmatchError):
    """A backbone that cannot be found or read."""


class ModelError(SkillmatchError):
    """A model directory that cannot be used."""


class FingerprintError(SkillmatchError):
    """Vectors of two embedding spaces met."""


class LockedError(SkillmatchError):
    """A resource that another owner is writing to."""


class ReleaseError(SkillmatchError):
    """An index or a release that cannot be used."""


class MilvusError(SkillmatchError):
    """Milvus does not answer, or refused what it was asked."""


class ServiceError(SkillmatchError):
    """A running service does not answer, or refused what it was asked."""


class StorageError(SkillmatchError):
    """A disk that takes no more."""


class ReplicaError(SkillmatchError):
    """A replica of the service that was lost."""
