"""Weights whose hash nobody stated are pinned at their first use: what comes later under that name must be equal."""
from __future__ import annotations

import json
import logging
from pathlib import Path

from ..errors import InputError
from ..files import locked, sha256_of, write_text
from ..networks import read_json

PINS = 'timm_ofa_pins.json'  # beside the cache of the Hub's client: address -> SHA-256 of its weights

_logger = logging.getLogger(__name__)


def refuse_changed(name: str, address: str, weights: Path, folder: str | Path) -> None:
    """Raise `InputError` if the weights of a named model are not those that its address gave before.

    Args:
        address: Where they come from.
        folder: Where the hashes are kept. If it cannot be written, that is a warning.
    """
    path, digest = Path(folder) / PINS, sha256_of(weights)
    try:
        with locked(path):
            pins = read_json(path) if path.exists() else {}
            if address not in pins:
                write_text(path, json.dumps({**pins, address: digest}, indent=1) + '\n')
    except InputError:
        raise InputError(f'{str(path)!r} does not hold the hashes that timm_ofa wrote; remove it') from None
    except OSError as error:
        _logger.warning('the hash of the weights of %s cannot be kept in %s (%s)', name, folder, error.strerror)
        return
    pinned = pins.get(address, digest)
    if pinned != digest:
        raise InputError(
            f'weights of {name!r} at {address} have changed: SHA-256 {digest[:12]}..., at first use '
            f'{str(pinned)[:12]}...; delete {str(weights.resolve())!r} to fetch them again, or, to take these, delete '
            f'that line in {str(path)!r}')
