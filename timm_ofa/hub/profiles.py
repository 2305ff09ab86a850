"""Device profiles on the Hub: one person measures a device, everybody finds it and searches for it.

A profile is a data set with one JSON file and a card; `load_profile('hf-hub:ORG/NAME')` reads it. What is found may be
from anybody, and a profile that is not valid is left out with a warning.
"""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..devices import ON_HUB, PROFILE_FILE, DeviceProfile, load_profile
from ..errors import InputError
from ..fields import check_slug
from ..networks import hub_errors
from ..spaces import load_space, space_names
from .card import render_profile
from .client import OWNER, check_repo_id, hub_api, writable_id
from .folder import CARD
from .listing import READERS, repositories, valid
from .metadata import PROFILE_TAG, profile_tags
from .outgoing import public_profile
from .publishing import publish_texts


def publish_profile(profile: str | Path | DeviceProfile, owner: str | None = None, repo_id: str | None = None, *,
                    private: bool = False, dry_run: bool = False, force: bool = False) -> dict[str, Any]:
    """Bring a device profile to the Hub, as a data set. If it is there already, nothing is written.

    Args:
        profile: A profile or its file.
        owner: The namespace in which the repository gets the name of the profile; by default the user's own.
        repo_id: The repository, 'namespace/name', instead.
        private, force: As in `publish_page`.
        dry_run: Stop before the first request.

    Returns:
        repo_id, tags and files; after publishing also url, commit (sha) and changed (bool).
    """
    profile = public_profile(load_profile(profile))
    if not (repo_id or owner or dry_run):
        with hub_errors('your account'):
            repo_id = writable_id(hub_api(), None, profile.name)
    repo_id = repo_id or f'{owner or OWNER}/{profile.name}'
    check_repo_id(repo_id)
    files = {CARD: render_profile(profile, repo_id), PROFILE_FILE: profile.to_text()}
    about = dict(repo_id=repo_id, tags=profile_tags(profile), files=sorted(files))
    if dry_run:
        return {**about, 'dry_run': True}
    return {**about, **publish_texts('dataset', repo_id, files, PROFILE_TAG, private=private, force=force)}


def find_profiles(org: str, device: str | None = None) -> list[tuple[str, DeviceProfile]]:
    """The device profiles that an organization published on the Hub, each with its name for `load_profile`.

    Args:
        device: A slug: only profiles of this device.
    """
    wanted = [PROFILE_TAG] + ([f'device:{check_slug(device, "device")}'] if device else [])
    names = sorted(f'{ON_HUB}{info.id}' for info in repositories(org, wanted, 'dataset'))
    with ThreadPoolExecutor(READERS) as pool:
        reading = [(name, pool.submit(_read, name).result) for name in names]
        found = valid(reading)
    found = [(name, profile) for name, profile in found if device in (None, profile.device)]
    if not found:
        raise InputError(f'{org!r:.120} has no device profile{f" of {device}" if device else ""}; measure one with '
                         '--publish of `timm-ofa profile`, or give another source')
    return found


def _read(name: str) -> tuple[str, DeviceProfile]:
    profile = load_profile(name)
    if profile.space in space_names():
        profile.errors(load_space(profile.space))  # its networks are of its space
    return name, profile
