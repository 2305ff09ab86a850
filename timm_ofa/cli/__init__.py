"""The `timm-ofa` command: a verb is a `Verb` with its options, and functions that are its modes.

- `verbs`: what verbs, modes and options are; `command`: runs one; `shared`: what several groups of verbs need
- a module for each group: `running` (run), `learning` (quickstart, train, collect, fit), `shelves` (spaces, devices,
  models), `measuring` (profile, measure), `searching`, `specializing`, `sharing` (publish, catalog, import-upstream),
  `releasing`, `environment` (env)
- `quickstart`: the steps of that verb; `pipeline`, `planning`: those of `run`; `stages`: what both share; `by_hand`:
  the verbs that a `run` stands for

Growth that happens here alone: a verb in the module of its group.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
