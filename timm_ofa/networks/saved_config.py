"""timm's `config.json` of our networks, written so that timm and transformers build the network from it."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from timm.models._hub import save_config_for_hf
from torch import nn


def write_config(path: Path, model: nn.Module, model_config: dict[str, Any], model_args: dict[str, Any] | None = None,
                 data_config: dict[str, Any] | None = None) -> None:
    """Write `config.json`; the arguments are those of timm's `save_config_for_hf`.

    `model_args` then hold only what timm could not know otherwise: transformers passes the number of classes itself,
    and fails if it is repeated there.
    """
    save_config_for_hf(model, str(path), model_config, model_args, data_config)
    config = json.loads(path.read_text())
    args = config.get('model_args', {})
    known = {'num_classes': args.get('num_classes'), 'in_chans': 3, 'global_pool': 'avg'}
    config['model_args'] = {key: value for key, value in args.items() if key not in known or value != known[key]}
    if vars(model).get('drop_rate'):  # timm does not write it
        config['model_args']['drop_rate'] = vars(model)['drop_rate']
    path.write_text(json.dumps(config, indent=2) + '\n', encoding='utf-8')
