"""The trainer: Algorithm 1 and what it calls; the mathematics itself lives in jackpot/.

From Python:

    cfg = llm.load("llm/configs/tiny_cpu.toml", {"run.folder": "runs/mine", "run.steps": 20})
    summary = llm.train(cfg, reward=my_reward)

`llm.load` is llm.settings.resolve. `llm.train` is a module that can be called
(training/python_api.py). Both are loaded when they are first used: `import llm` loads nothing.
"""


def __getattr__(name: str) -> object:
    import importlib

    if name == "train":  # a module that can be called
        return importlib.import_module("llm.train")
    if name in ("Config", "ConfigError", "load"):
        settings = importlib.import_module("llm.settings")
        return settings.resolve if name == "load" else getattr(settings, name)
    raise AttributeError(f"module 'llm' has no attribute {name!r}")
