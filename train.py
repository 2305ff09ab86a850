#!/usr/bin/env python3
"""Train an elastic supernet as a configuration says: which space, which images, which recipe.

    accelerate launch train.py --config hub_configs/ofa_mbv3_fashion_supernet.yaml --output out/supernet

One command runs all phases; `--resume` goes on after an interruption; `--set key=value` overrides the config.
"""
import sys

from timm_ofa.cli import main

if __name__ == '__main__':
    sys.exit(main(['train', *sys.argv[1:]]))
