"""Repositories of the small Hub: their commits, and what the API says of their files."""
from __future__ import annotations

import functools
import hashlib
import itertools
import re
from dataclasses import dataclass, field

import yaml

COUNTER = itertools.count()  # so that no two commits of a process are the same


@dataclass
class Repo:
    private: bool
    commits: list[tuple[str, dict[str, bytes], str]] = field(default_factory=list)  # (sha, files, message), newest last
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], message: str) -> str:
        sha = hashlib.sha1(f'commit {next(COUNTER)}'.encode()).hexdigest()
        self.commits.append((sha, files, message))
        return sha

    def files(self, revision: str) -> dict[str, bytes] | None:
        sha = self.tags.get(revision, self.commits[-1][0] if revision == 'main' else revision)
        return next((files for s, files, _ in self.commits if s == sha), None)

    def sha(self, revision: str) -> str:
        return next(s for s, files, _ in self.commits if files is self.files(revision))


def is_lfs(path: str, size: int) -> bool:
    return path.endswith('.safetensors') or (size > 10 * 1024 and not path.endswith('.md'))


@functools.cache
def front_matter(card: bytes):
    """What the YAML block of a card holds; None if there is none."""
    match = re.match(r'---\n(.*?)\n---', card.decode(), re.DOTALL)
    return yaml.safe_load(match[1]) if match else None


def bare(repo_id: str) -> str:
    """The id of a repository without its kind."""
    return re.sub('^(spaces|datasets)/', '', repo_id)


def entry(path: str, data: bytes) -> dict:
    """A file of a tree, as the API lists it."""
    oid = hashlib.sha1(b'blob %d\0' % len(data) + data).hexdigest()
    found = {'type': 'file', 'path': path, 'size': len(data), 'oid': oid}
    if is_lfs(path, len(data)):
        found['lfs'] = {'oid': hashlib.sha256(data).hexdigest(), 'size': len(data), 'pointerSize': 130}
    return found
