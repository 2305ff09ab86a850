"""The 58 networks that the authors of Once-for-All name: what they publish beside what is computed here.

    python tests/bench/released.py

The 50 released ones are their networks; the eight ResNets are those of our own search under the same MACs.
"""
from __future__ import annotations

from timm_ofa.console import table
from timm_ofa.hub.configs import named_subnets


def rows() -> list[list[str]]:
    """One line a network."""
    lines = []
    for name, subnet in named_subnets().items():
        released, other = subnet.upstream_id is not None, subnet.published
        if not released and (other is None or subnet.device):
            continue  # a network of our own without a published counterpart of its family
        macs, params = (count(subnet.arch) / 1e6 for count in (subnet.space.macs, subnet.space.params))
        said = subnet if released else other
        lines.append([
            name, subnet.upstream_id or other.id, f'{said.params_m:g}', f'{params:.2f}', f'{said.macs_m:g}',
            f'{macs:.1f}', f'{said.top1_pct:g}', '' if released else f'{subnet.predicted_top1_pct:g}'])
    return lines


if __name__ == '__main__':
    found = rows()
    print(table(['network', 'id of the authors', 'params M', 'ours', 'MACs M', 'ours', 'top-1', 'predicted'], found))
    print(f'\n{len(found)} networks; note10_lat@8ms: 79 M in the README of the authors, 75.8 M at its 160 px')
