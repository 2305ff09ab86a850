"""A published network is listed on the Hub in the collection of each of its devices."""
from __future__ import annotations

import hashlib
import logging

from huggingface_hub import HfApi

from ..errors import InputError, without_password
from ..networks import hub_errors
from .metadata import evidence
from .record import Record

_logger = logging.getLogger(__name__)

COLLECTION = 'timm_ofa: networks for '  # the device follows
MAX_TITLE, MAX_NOTE = 60, 500  # characters, the Hub's limits for a collection


def collect(api: HfApi, repo_id: str, record: Record, private: bool) -> list[str]:
    """List a repository in the collections of its devices, and give the addresses of those that then hold it.

    A collection that cannot be written to is a warning.
    """
    urls = []
    for device in sorted({m.device for m in record.measurements}):
        title = _title(device)
        try:
            with hub_errors(f'collection {title!r}'):
                urls.append(_list_in(api, repo_id, title, _note(record, device), private))
        except InputError as error:
            _logger.warning('%s is published, but not listed: %s', repo_id, error)
    return urls


def _title(device: str) -> str:
    """The title of a device's collection. A title that is too long ends in a hash, so that no two devices share one."""
    title = COLLECTION + device
    end = hashlib.sha256(device.encode()).hexdigest()[:8]
    return title if len(title) <= MAX_TITLE else f'{title[:MAX_TITLE - 9]}-{end}'


def _note(record: Record, device: str) -> str:
    parts = [f'{m.typical_ms:.4g} ms on {m.device_name}, {m.runtime} {m.runtime_version}, {m.precision}, {m.source}'
             for m in evidence(record, device)[:1]]
    if record.top1_pct is not None and record.accuracy:
        parts.insert(0, f'{record.top1_pct:.2f} % top-1 on {record.accuracy.dataset}')
    return '; '.join(parts)[:MAX_NOTE]


def _list_in(api: HfApi, repo_id: str, title: str, note: str, private: bool) -> str:
    owner = repo_id.split('/')[0]
    slug = next((c.slug for c in api.list_collections(owner=owner) if c.title == title), None)
    if slug is None:
        about = 'Image classifiers with their measured or predicted latency, from timm_ofa.'
        slug = api.create_collection(title, namespace=owner, description=about, private=private, exists_ok=True).slug
    found = api.get_collection(slug)  # with all its items; the list above holds only four of each collection
    item = next((i for i in found.items if (i.item_type, i.item_id) == ('model', repo_id)), None)
    if item is None:
        api.add_collection_item(slug, repo_id, 'model', note=note, exists_ok=True)
    elif item.note != note:
        api.update_collection_item(slug, item.item_object_id, note=note)
    return without_password(found.url)
