"""A small Hub on localhost, for the real huggingface_hub client: enough of the API to publish, list and load models
and to keep collections of them.

Files above 10 KiB and safetensors travel as LFS. From a client with `xet=True` they travel by Xet, whose storage is
then a folder.
"""
from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from hub_repos import COUNTER, Repo, bare, entry, front_matter, is_lfs

TOKENS = {  # token -> what whoami says of it
    'hf_write': {'name': 'acme', 'orgs': [{'name': 'acme-lab'}], 'auth': {'accessToken': {'role': 'write'}}},
    'hf_other': {'name': 'zoe', 'orgs': [], 'auth': {'accessToken': {'role': 'write'}}},
    'hf_read': {'name': 'acme', 'orgs': [], 'auth': {'accessToken': {'role': 'read'}}},
}
PAGE, SHOWN = 20, 4  # entries of a list in one answer; items of a collection in a list of collections


class HubServer:
    """`with HubServer() as hub:`

    `hub.repos` (the key of a Space is 'spaces/' and its id, that of a data set 'datasets/' and its id) and
    `hub.collections` are the state. `hub.requests` lists the requests, `hub.lose_answers` counts the commits that are
    to get no answer, `hub.forbid` is a pattern of paths that get a 403, `hub.gated` one of paths of gated repositories.
    `hub.fault` is what happens to request number `hub.fault_at` (from 0): a status, 'drop' (nothing is done, no
    answer), 'lose' (it is done, no answer), or the process id of the client, which is then killed meanwhile.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.xet_files: list[Path] = []
        self.collections: dict[str, dict] = {}  # by slug
        self.requests: list[str] = []
        self.authorized: list[str] = []  # paths of requests that came with a token
        self.forbid: str
        self.gated: str
        self.lose_answers: int
        self.tamper: Callable[[str, bytes], bytes]  # of a file's path and content, on its way out
        self.reset()
        handler = type('Handler', (_Handler,), {'hub': self})
        self.server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
        self.url = f'http://127.0.0.1:{self.server.server_address[1]}'

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.server.serve_forever, kwargs={'poll_interval': 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exc) -> None:
        self.server.shutdown()
        self.server.server_close()

    def env(self, home: Path, token: str = 'hf_write', xet: bool = False) -> dict[str, str]:
        """The variables of a client process."""
        self.cas = home / 'cas'
        return {
            'HF_ENDPOINT': self.url, 'HF_HOME': str(home), 'HF_TOKEN': token, 'HF_HUB_DISABLE_XET': str(int(not xet)),
            'HF_HUB_DISABLE_PROGRESS_BARS': '1', 'HF_HUB_DISABLE_TELEMETRY': '1'}

    def reset(self) -> None:
        """An empty and honest Hub."""
        self.repos.clear()
        self.blobs.clear()
        self.collections.clear()
        self.requests.clear()
        self.authorized.clear()
        self.lose_answers, self.tamper, self.forbid, self.gated = 0, lambda path, data: data, '(?!)', '(?!)'
        self.fault, self.fault_at = None, -1

    def blob(self, oid: str) -> bytes:
        """The uploaded file with this SHA-256. In Xet's storage it is found by the Xet hash of that one of `xet_files`
        which has the same content. The storage is in use, so a copy of it is read."""
        if oid not in self.blobs:
            import hf_xet

            source = next(p for p in self.xet_files if hashlib.sha256(p.read_bytes()).hexdigest() == oid)
            with tempfile.TemporaryDirectory() as copy:
                shutil.copytree(self.cas, f'{copy}/cas')
                target = f'{copy}/file'
                known, = hf_xet.hash_files([str(source)])
                wanted = hf_xet.PyXetDownloadInfo(target, known.hash, known.file_size)
                with warnings.catch_warnings():
                    warnings.simplefilter('ignore')  # the newer way wants a session
                    hf_xet.download_files([wanted], f'local://{copy}/cas', None, None, None)
                data = Path(target).read_bytes()
            assert hashlib.sha256(data).hexdigest() == oid
            self.blobs[oid] = data
        return self.blobs[oid]

    def info(self, repo_id: str, revision: str = 'main') -> dict:
        repo = self.repos[repo_id]
        files = repo.files(revision)
        card = front_matter(files.get('README.md', b'')) or {}
        own = [card[k] for k in ('library_name', 'pipeline_tag') if k in card] + card.get('tags', [])
        own += [f'dataset:{d}' for d in card.get('datasets', [])]
        repo_id = bare(repo_id)
        return {
            'id': repo_id, 'modelId': repo_id, 'sha': repo.sha(revision), 'private': repo.private, 'cardData': card,
            'tags': list(dict.fromkeys([*own, 'region:us'])), 'siblings': [{'rfilename': path} for path in files]}


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True  # head and body are two writes, and the second would wait for an answer

    def log_message(self, *args) -> None:
        """Quiet."""

    def reply(self, data, status: int = 200, headers: dict | None = None) -> None:
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        for name, value in {'Content-Type': 'application/json', 'Content-Length': len(body), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)

    def missing(self, code: str) -> None:
        self.reply({'error': code}, 404, {'X-Error-Code': code, 'X-Error-Message': code})

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        self.user = TOKENS.get((self.headers.get('Authorization') or '').removeprefix('Bearer '))
        path = unquote(url.path)
        fault = self.hub.fault if len(self.hub.requests) == self.hub.fault_at else None
        self.hub.requests.append(f'{self.command} {path}')
        if self.headers.get('Authorization'):
            self.hub.authorized.append(path)
        if re.match(self.hub.forbid, path):
            return self.reply({'error': 'forbidden'}, 403)
        if re.match(self.hub.gated, path):
            return self.reply({'error': 'gated'}, 403, {'X-Error-Code': 'GatedRepo', 'X-Error-Message': 'gated'})
        if fault == 'drop':
            return self.hang_up()
        if fault in (429, 500, 503):
            return self.reply({'error': 'not now'}, fault, {'Retry-After': '0'})
        if fault:  # done, but nobody hears of it
            self.wfile, answer = io.BytesIO(), self.wfile
            self.route(path)
            if fault != 'lose':
                os.kill(fault, signal.SIGKILL)
            self.wfile = answer
            return self.hang_up()
        return self.route(path)

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def route(self, path: str) -> None:
        for method, pattern, answer in ROUTES:
            match = re.fullmatch(pattern, path)
            if method == self.command.replace('HEAD', 'GET') and match:
                groups = match.groupdict()
                kind = (groups.pop('kind', None) or '').rstrip('/')
                if kind in ('spaces', 'datasets') and 'repo' in groups:
                    groups['repo'] = f'{kind}/{groups["repo"]}'
                if 'repo' in groups and groups['repo'] not in self.hub.repos:
                    return self.missing('RepoNotFound')
                return answer(self, **groups)
        return self.reply({'error': f'no route {self.command} {path}'}, 501)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = handle_any

    def whoami(self) -> None:
        if self.user:
            self.reply({'type': 'user', **self.user})
        else:
            self.reply({'error': 'Invalid username or password.'}, 401)

    def may_write(self, repo_id: str) -> bool:
        namespace = bare(repo_id).split('/')[0]
        spaces = [self.user['name'], *(o['name'] for o in self.user['orgs'])] if self.user else []
        return namespace in spaces and self.user['auth']['accessToken']['role'] == 'write'

    def create(self) -> None:
        wanted = json.loads(self.body)
        repo_id = f'{wanted.get("organization") or self.user["name"]}/{wanted["name"]}'
        if not self.may_write(repo_id):
            return self.reply({'error': 'forbidden'}, 403)
        if wanted.get('type') in ('space', 'dataset'):
            assert wanted.get('sdk', 'static') == 'static'
            repo_id = f'{wanted["type"]}s/{repo_id}'
        answer = {'url': f'{self.hub.url}/{repo_id}', 'name': repo_id, 'id': repo_id}
        if repo_id in self.hub.repos:
            return self.reply({**answer, 'error': 'You already created this model repo'}, 409)
        repo = self.hub.repos[repo_id] = Repo(wanted.get('private', False) or wanted.get('visibility') == 'private')
        first = {'style.css': b'p {}', 'README.md': b'---\nsdk: static\n---\n'} if 'sdk' in wanted else {}
        repo.commit({'.gitattributes': b'*.safetensors filter=lfs\n', **first}, 'initial commit')
        return self.reply(answer)

    def validate(self) -> None:
        valid = isinstance(front_matter(json.loads(self.body)['content'].encode()), dict)
        self.reply({'errors': [] if valid else [{'message': 'no metadata'}], 'warnings': []}, 200 if valid else 400)

    def preupload(self, repo: str, revision: str) -> None:
        have = self.hub.repos[repo].files(revision)
        found = []
        for file in json.loads(self.body)['files']:
            path, old = file['path'], have.get(file['path'])
            oid = None if old is None else entry(path, old).get('lfs', entry(path, old))['oid']
            mode = 'lfs' if is_lfs(path, file['size']) else 'regular'
            found.append({'path': path, 'uploadMode': mode, 'shouldIgnore': False, 'oid': oid})
        self.reply({'files': found})

    def xet_token(self, repo: str, revision: str) -> None:
        address, expires = f'local://{self.hub.cas}', int(time.time()) + 3600
        self.reply({'casUrl': address, 'accessToken': 'none', 'exp': expires}, headers={
            'X-Xet-Cas-Url': address, 'X-Xet-Access-Token': 'none', 'X-Xet-Token-Expiration': expires})

    def lfs_batch(self, repo: str) -> None:
        objects = []
        for wanted in json.loads(self.body)['objects']:
            href = f'{self.hub.url}/lfs/{wanted["oid"]}'
            actions = {'upload': {'href': href}, 'verify': {'href': f'{href}/verify'}}
            have = wanted['oid'] in self.hub.blobs
            objects.append({**wanted, **({} if have else {'actions': actions})})
        self.reply({'transfer': 'basic', 'objects': objects}, headers={'Content-Type': 'application/vnd.git-lfs+json'})

    def lfs_put(self, oid: str) -> None:
        right = hashlib.sha256(self.body).hexdigest() == oid
        if right:
            self.hub.blobs[oid] = self.body
        self.reply({}, 200 if right else 422)

    def lfs_verify(self, oid: str) -> None:
        self.reply({}, 200 if oid in self.hub.blobs else 404)

    def commit(self, repo: str, revision: str) -> None:
        if not self.may_write(repo):
            return self.reply({'error': 'forbidden'}, 403)
        lines = [json.loads(line) for line in self.body.splitlines()]
        found = self.hub.repos[repo]
        files, message = dict(found.files(revision)), ''
        for key, value in ((line['key'], line['value']) for line in lines):
            if key == 'header':
                message = value['summary']
                if value.get('parentCommit', found.sha(revision)) != found.sha(revision):
                    return self.reply({'error': 'the branch has moved'}, 412)
            elif key == 'file':
                files[value['path']] = base64.b64decode(value['content'])
            elif key == 'lfsFile':
                files[value['path']] = self.hub.blob(value['oid'])
            elif key == 'deletedFile':
                del files[value['path']]
        sha = found.commit(files, message)
        if self.hub.lose_answers:
            self.hub.lose_answers -= 1
            return self.hang_up()
        return self.reply({'success': True, 'commitOid': sha, 'commitUrl': f'{self.hub.url}/{repo}/commit/{sha}'})

    def listed(self, of: str) -> None:
        """The models or data sets of an author that have all the tags, one page. Fields that are not asked for are left
        out."""
        wanted, author = set(self.query.get('filter', [])), self.query.get('author', [None])[0]
        there = [r for r in self.hub.repos if (r.split('/')[0] if r.count('/') > 1 else 'models') == of]
        found = [self.hub.info(r) for r in there if author in (None, bare(r).split('/')[0])]
        keys = {'id', *(self.query.get('expand') or ['modelId', 'tags', 'private'])}
        found = [{k: v for k, v in i.items() if k in keys} for i in found if wanted <= set(i['tags'])]
        self.reply_page(found)

    def reply_page(self, found: list) -> None:
        start = int(self.query.get('cursor', [0])[0])
        more = {**self.query, 'cursor': start + PAGE}
        link = f'<{self.hub.url}{urlsplit(self.path).path}?{urlencode(more, doseq=True)}>; rel="next"'
        self.reply(found[start:start + PAGE], headers={'Link': link} if start + PAGE < len(found) else {})

    def list_collections(self) -> None:
        owner = self.query.get('owner', [None])[0]
        found = [c for c in self.hub.collections.values() if owner in (None, c['owner']['name'])]
        found = [{**c, 'items': c['items'][:SHOWN]} for c in found]
        self.reply_page([{k: v for k, v in c.items() if k != 'position'} for c in found])  # the client numbers them

    def create_collection(self) -> None:
        wanted = json.loads(self.body)
        if not self.may_write(wanted['namespace']):
            return self.reply({'error': 'forbidden'}, 403)
        if len(wanted['title']) > 60 or len(wanted.get('description', '')) > 150:
            return self.reply({'error': 'too long'}, 400)
        words = re.sub('[^a-z0-9]+', '-', wanted['title'].lower())
        slug = f'{wanted["namespace"]}/{words}-{next(COUNTER):024x}'
        self.hub.collections[slug] = {
            'slug': slug, 'title': wanted['title'], 'owner': {'name': wanted['namespace']}, 'items': [], 'position': 0,
            'lastUpdated': '2026-11-22T00:00:00.000Z', 'private': wanted['private'], 'theme': 'blue', 'upvotes': 0,
            'description': wanted.get('description')}
        return self.reply(self.hub.collections[slug])

    def collection(self, slug: str) -> None:
        if slug not in self.hub.collections:
            return self.reply({'error': 'no such collection'}, 404)
        return self.reply(self.hub.collections[slug])

    def add_item(self, slug: str) -> None:
        wanted, items = json.loads(self.body), self.hub.collections[slug]['items']
        if not self.may_write(slug):
            return self.reply({'error': 'forbidden'}, 403)
        if wanted['item'] in [{'id': i['id'], 'type': i['type']} for i in items]:
            return self.reply({'error': 'is in it already'}, 409)
        items.append({'_id': f'{next(COUNTER):024x}', **wanted['item'], 'position': len(items),
                      'note': {'html': '', 'text': wanted.get('note', '')}})
        return self.reply(self.hub.collections[slug])

    def change_item(self, slug: str, item: str) -> None:
        found = next(i for i in self.hub.collections[slug]['items'] if i['_id'] == item)
        found['note'] = {'html': '', 'text': json.loads(self.body)['note']}
        self.reply({'success': True})

    def model(self, repo: str, revision: str = 'main') -> None:
        if self.hub.repos[repo].files(revision) is None:
            return self.missing('RevisionNotFound')
        return self.reply(self.hub.info(repo, revision))

    def tree(self, repo: str, revision: str, folder: str = '') -> None:
        """All files below a folder, or, where that is asked for, those in it and its folders."""
        files = self.hub.repos[repo].files(revision)
        below = {path.removeprefix(folder).lstrip('/'): path for path in files if path.startswith(folder)}
        deep = self.query.get('recursive') != ['false']
        folders = sorted({rest.split('/')[0] for rest in below if '/' in rest}) if not deep else []
        self.reply([
            *({'type': 'directory', 'path': f'{folder}/{name}'.lstrip('/'), 'oid': '0' * 40} for name in folders),
            *(entry(path, files[path]) for rest, path in below.items() if deep or '/' not in rest)])

    def commits(self, repo: str, revision: str) -> None:
        self.reply([{'id': sha, 'title': message, 'message': '', 'authors': [], 'date': '2026-11-22T00:00:00.000Z'}
                    for sha, _, message in reversed(self.hub.repos[repo].commits)])

    def refs(self, repo: str) -> None:
        found = self.hub.repos[repo]
        tags = [{'name': n, 'ref': f'refs/tags/{n}', 'targetCommit': sha} for n, sha in found.tags.items()]
        main = {'name': 'main', 'ref': 'refs/heads/main', 'targetCommit': found.sha('main')}
        self.reply({'branches': [main], 'converts': [], 'tags': tags})

    def tag(self, repo: str, revision: str) -> None:
        self.hub.repos[repo].tags[json.loads(self.body)['tag']] = self.hub.repos[repo].sha(revision)
        self.reply({})

    def resolve(self, repo: str, revision: str, path: str) -> None:
        files = self.hub.repos[repo].files(revision)
        if files is None or path not in files:
            return self.missing('RevisionNotFound' if files is None else 'EntryNotFound')
        listed = entry(path, files[path])
        data = self.hub.tamper(path, files[path])
        headers = {'X-Repo-Commit': self.hub.repos[repo].sha(revision), 'ETag': f'"{listed["oid"]}"'}
        if 'lfs' in listed:
            headers |= {'X-Linked-ETag': f'"{listed["lfs"]["oid"]}"', 'X-Linked-Size': listed['size']}
        headers['Content-Type'] = 'application/octet-stream'
        if part := re.fullmatch(r'bytes=(\d+)-(\d*)', self.headers.get('Range') or ''):
            start, end = int(part[1]), int(part[2] or len(data) - 1)
            headers['Content-Range'] = f'bytes {start}-{min(end, len(data) - 1)}/{len(data)}'
            return self.reply(data[start:end + 1], 206, headers)
        return self.reply(data, headers=headers)


KIND, MAYBE = '(?P<kind>models|spaces|datasets)', '(?P<kind>(spaces|datasets)/)?'
REPO, SLUG = r'(?P<repo>[\w.-]+/[\w.-]+)', r'(?P<slug>[\w.-]+/[\w.-]+)'
ROUTES = [
    ('GET', '/api/whoami-v2', _Handler.whoami),
    ('POST', '/api/repos/create', _Handler.create),
    ('POST', '/api/validate-yaml', _Handler.validate),
    ('POST', f'/api/{KIND}/{REPO}/preupload/(?P<revision>[^/]+)', _Handler.preupload),
    ('GET', f'/api/{KIND}/{REPO}/xet-write-token/(?P<revision>[^/]+)', _Handler.xet_token),
    ('POST', f'/{MAYBE}{REPO}.git/info/lfs/objects/batch', _Handler.lfs_batch),
    ('PUT', '/lfs/(?P<oid>[0-9a-f]{64})', _Handler.lfs_put),
    ('POST', '/lfs/(?P<oid>[0-9a-f]{64})/verify', _Handler.lfs_verify),
    ('POST', f'/api/{KIND}/{REPO}/commit/(?P<revision>[^/]+)', _Handler.commit),
    ('GET', '/api/(?P<of>models|datasets)', _Handler.listed),
    ('GET', '/api/collections', _Handler.list_collections),
    ('POST', '/api/collections', _Handler.create_collection),
    ('GET', f'/api/collections/{SLUG}', _Handler.collection),
    ('POST', f'/api/collections/{SLUG}/items', _Handler.add_item),
    ('PATCH', f'/api/collections/{SLUG}/items/(?P<item>[0-9a-f]+)', _Handler.change_item),
    ('GET', f'/api/{KIND}/{REPO}', _Handler.model),
    ('GET', f'/api/{KIND}/{REPO}/revision/(?P<revision>[^/]+)', _Handler.model),
    ('GET', f'/api/{KIND}/{REPO}/tree/(?P<revision>[^/]+)', _Handler.tree),
    ('GET', f'/api/{KIND}/{REPO}/tree/(?P<revision>[^/]+)/(?P<folder>.+)', _Handler.tree),
    ('GET', f'/api/{KIND}/{REPO}/commits/(?P<revision>[^/]+)', _Handler.commits),
    ('GET', f'/api/models/{REPO}/refs', _Handler.refs),
    ('POST', f'/api/models/{REPO}/tag/(?P<revision>[^/]+)', _Handler.tag),
    ('GET', f'/{MAYBE}{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)', _Handler.resolve),
]
