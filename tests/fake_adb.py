"""What adb does, and a program in place of it: a folder is the device, and this machine's shell runs its commands.

The folder holds `device`, which stands for /data/local/tmp, `bin` with the programs of the device, `setup.json` with
what the device is like, and `calls` with a line for each run of benchmark_model.
"""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

TMP = '/data/local/tmp'


def answer(words, home):
    """(exit status, output) of adb with these words."""
    setup = json.loads((home / 'setup.json').read_text())
    if words == ['devices']:
        return setup.get('adb_fails', 0), f'List of devices attached\n{setup["devices"]}\n'
    dash, _, verb, *rest = words
    assert dash == '-s' and verb in ('push', 'shell')
    return push(*rest, home, setup) if verb == 'push' else shell(*rest, home, setup)


def push(source, target, home, setup):
    place = target.replace(TMP, str(home / 'device'))
    if not Path(source).is_dir():
        shutil.copy(home / 'bin' / 'benchmark_model', place)
    elif 'full' in setup:
        return 1, f"adb: error: failed to copy '{source}' to '{target}': remote No space left on device\n"
    else:
        shutil.copytree(source, Path(place, Path(source).name), dirs_exist_ok=True)
    return 0, f'{source}: 1 file pushed, 0 skipped.\n'


def shell(command, home, setup):
    if '--graph' in command and len((home / 'calls').read_text().splitlines()) == setup.get('gone_after'):
        return 1, "adb: device 'A1' not found\n"
    path = f'{home / "bin"}{os.pathsep}{os.environ["PATH"]}'
    done = subprocess.run(
        ['sh', '-c', command.replace(TMP, str(home / 'device'))], env={**os.environ, 'PATH': path},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


if __name__ == '__main__':
    status, output = answer(sys.argv[1:], Path(os.environ['FAKE_ADB']))
    print(output, end='')
    sys.exit(status)
