"""Every setting of a run: declaration, bounds, files and flags; nothing here acts on one."""

from .loading import Config, ConfigError, ModelConfig, dump, flatten, load, resolve

__all__ = ["Config", "ConfigError", "ModelConfig", "dump", "flatten", "load", "resolve"]
