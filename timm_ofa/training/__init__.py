"""Trains supernets from a configuration, and fine-tunes the networks that are cut out of them.

- `config`: the configuration of a training or a fine-tuning, checked field by field
- `recipes`: which subnets a step runs and what they learn from; a new recipe is one class there
- `average`: the moving average of the weights
- `loop`: the steps of a phase, shared by all recipes and by fine-tuning
- `teachers`: networks whose soft targets subnets learn from; a new kind of teacher goes there
- `checkpoints`, `runs`: how a run stops and goes on, and what its folder holds
- `trackers`: where losses and accuracies are sent as well
- `supernets`, `report`: a whole run, and the accuracy of its subnets
- `specialization`: from a supernet to one network
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
