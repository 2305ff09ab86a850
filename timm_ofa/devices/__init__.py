"""What each network of a space costs on a device, by measuring or by computing.

- `profile`: the value that prices networks, and its JSON file; `profiles/` is the shelf of files that ship;
  `conditions`: what a latency depends on besides the network
- `plan`, `measuring`, `rowprices`: what is run, how it is timed, and the profile that follows; `heldout`: its check
- `profiler`: all of this on this machine; `kit` and `run_kit`: on another one; `run_android`: on a phone
- `work`, `fewshot`: a profile fitted on a few whole networks; `netfiles`, `csvtables`, `note10`: tables from elsewhere
- `memory`, `energy`: what else a network takes

A new device is a JSON file in `profiles/`. A new way to get a profile is a module that makes a `DeviceProfile`.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
