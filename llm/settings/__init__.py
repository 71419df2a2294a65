"""Every setting of a run: declaration, bounds, files and flags; nothing here acts on one."""

from .loading import Config, ConfigError, ModelConfig, applicable, dump, flatten, load, resolve

__all__ = [
    "Config",
    "ConfigError",
    "ModelConfig",
    "applicable",
    "dump",
    "flatten",
    "load",
    "resolve",
]
