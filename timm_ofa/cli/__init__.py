"""The `timm-ofa` command: a verb is a `Verb` with its options, and functions that are its modes.

`verbs` says what verbs, modes and options are; `command` runs one. The verbs lie in a module for each group: `learning`
(quickstart, train, collect, fit), `shelves` (spaces, devices, models), `measuring` (profile, measure), `searching`,
`specializing`, `sharing` (publish, catalog, import-upstream) and `releasing`; `shared` has what several groups need,
and `quickstart` the steps of that verb. Growth that happens here alone: a verb in the module of its group.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
