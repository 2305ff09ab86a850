"""Measure the networks of this folder on an Android device. This computer needs Python and adb, nothing else.

    python run_android.py --benchmark android_aarch64_benchmark_model

LiteRT's benchmark_model runs the networks in random order, in rounds. A reference network runs every few networks. It
becomes slower where the device gets hot; then the device rests, and these networks run again. A run that was
interrupted goes on when it is started again. Then take results.json back to where the kit was made. For the kit of a
search space, and for that of one network:

    timm-ofa profile --import-kit results.json --device my-phone --out my-phone.json
    timm-ofa measure DIR --import-kit results.json

Google links benchmark_model for Android at https://developers.google.com/edge/litert/models/measurement
"""
import argparse
import hashlib
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from random import Random

from measuring import FORMAT, Progress, fill_results, finish_kit, kit_arguments, read_results, save_results

KIT = Path(__file__).resolve().parent
TMP = '/data/local/tmp'  # the folder of the device in which a shell may run programs
PLACE = f'{TMP}/timm_ofa_kit'
FETCHED = Path('.cache', 'litert-cli', 'binaries')  # in the home folder: what Google's litert-cli fetched
PROPERTIES = ('ro.product.manufacturer', 'ro.product.model', 'ro.board.platform', 'ro.build.version.release',
              'ro.product.cpu.abilist')
ABIS = {0x03: 'x86', 0x28: 'armeabi-v7a', 0x3e: 'x86_64', 0xb7: 'arm64-v8a'}  # by the machine in the head of a program
RUNS = '--num_runs=30 --min_secs=0.3 --max_secs=100 --warmup_runs=3 --warmup_min_secs=0.3'
FLAGS = {  # processor -> precision -> flags of benchmark_model, which passes over those that it does not know
    'cpu': {'fp32': '--use_xnnpack=true', 'fp16': '--use_xnnpack=true --xnnpack_force_fp16=true'},
    'gpu': {'fp32': '--use_gpu=true --gpu_precision_loss_allowed=false --allow_fp16=false', 'fp16': '--use_gpu=true'},
    'nnapi': {'fp32': '--use_nnapi=true', 'fp16': '--use_nnapi=true --nnapi_allow_fp16=true'}}
MOST_S = 300  # for one command on the device; copying may take longer
CLEAR_S = 60  # to remove what was copied
STATES = {  # of a device that adb cannot use; the others: it is plugged in again
    'unauthorized': 'unauthorized; unlock it, and allow this computer to debug it',
    'no permissions': 'not open to this user; allow it, on Linux with the udev rules for Android devices'}
BLOCK = 10  # networks from one run of the reference to the next
TRIES = 5  # for a block of networks, with a longer rest before each
GO_ON = 'run the same command again to go on'


class Device:
    """A device behind adb. Whatever goes wrong ends the script with one line."""

    def __init__(self, adb, serial):
        if not shutil.which(adb):
            sys.exit(f'--adb {adb!r} is not found; install the Android platform tools, or give the path of adb')
        self._command = [adb]
        status, output = self._adb('devices')
        if status != 0:
            sys.exit(f'adb does not answer ({last_line(output)}); run `adb kill-server`, and this command again')
        states = dict(re.findall(r'^(\S+)\t(no permissions|\w+)', output, re.MULTILINE))
        if not states:
            sys.exit('no device is connected; plug one in, and allow USB debugging in its developer options')
        if serial is None and len(states) > 1:
            sys.exit(f'{len(states)} devices are connected; give --serial with one of {", ".join(states)}')
        serial = serial or next(iter(states))
        state = states.get(serial, 'not connected')
        if state != 'device':
            sys.exit(f'device {serial} is {STATES.get(state, f"{state}; plug it in again")}')
        self._command += ['-s', serial]

    def _adb(self, *words, most_s=MOST_S):
        """(exit status, output) of adb; the status is None where it took too long."""
        try:
            done = subprocess.run(
                [*self._command, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                encoding='utf-8', errors='replace', timeout=most_s)
        except subprocess.TimeoutExpired:
            return None, ''
        return done.returncode, done.stdout

    def shell(self, command, what):
        """(exit status, output) of a command on the device; `what` names it where it does not end."""
        status, output = self._adb('shell', f'{command} 2>&1; echo exit=$?')
        if status is None:
            sys.exit(f'{what} takes more than {MOST_S} s; {GO_ON}')
        found = re.search(r'exit=(\d+)\s*$', output)
        if not found:
            sys.exit(f'the connection broke off ({last_line(output)}); plug the device in, and {GO_ON}')
        return int(found[1]), output[:found.start()]

    def properties(self):
        """What the device says of itself: the values of PROPERTIES."""
        _, output = self.shell('; '.join(f'echo {name}=$(getprop {name})' for name in PROPERTIES), 'getprop')
        said = dict(re.findall(r'^([\w.]+)=(.*?)\s*$', output, re.MULTILINE))  # among warnings of the device
        if not said.get(PROPERTIES[-1]):
            sys.exit(f'the device does not say which programs it runs ({last_line(output)}); restart it, and {GO_ON}')
        return [re.sub(r'[^\w .,()+-]', '', said.get(name, '')).strip() for name in PROPERTIES]

    def copy(self, paths):
        """Copy files and folders into PLACE."""
        self.shell(f'mkdir -p {PLACE}', 'mkdir')
        for path, name in paths:
            status, output = self._adb('push', str(path), f'{PLACE}/{name}', most_s=None)
            if status:
                cure = 'free storage on it' if 'No space left' in output else 'plug it in again'
                sys.exit(f'{path.name} cannot be copied to the device ({last_line(output)}); {cure}, and {GO_ON}')
        self.shell(f'chmod +x {PLACE}/benchmark_model', 'chmod')

    def clear(self):
        """Remove what was copied, if the device is still there."""
        self._adb('shell', f'rm -rf {PLACE}', most_s=CLEAR_S)


def last_line(output):
    """The end of the last line, where programs say what is wrong."""
    return (output.strip().splitlines() or ['no answer'])[-1][-120:]


def find_benchmark(path, abis):
    """benchmark_model: the file that was given, or the one that litert-cli fetched; it must be for the device."""
    path = Path(path) if path else Path.home() / FETCHED / abis[0] / 'benchmark_model'
    try:
        head = path.read_bytes()[:20]
    except OSError:
        sys.exit(f'benchmark_model is not at {str(path)!r}; download it (see -h), and give --benchmark with its path')
    abi = ABIS.get(int.from_bytes(head[18:20], 'little'), 'another machine') if head[:4] == b'\x7fELF' else 'no machine'
    if abi not in abis:
        sys.exit(f'--benchmark {str(path)!r} is for {abi}, the device runs {", ".join(abis)}; download that one')
    return path


class Benchmark:
    """Runs of networks in benchmark_model on a device: results of the kit, and a file of single runs beside them."""

    def __init__(self, device, args, precision):
        self._device, self._args = device, args
        affinity = f'taskset {args.cores} ' if args.cores else ''
        self._command = f'cd {PLACE} && {affinity}./benchmark_model'
        self._flags = f'{RUNS} --num_threads={args.threads} {FLAGS[args.processor][precision]}'
        self._log, self._partial = '', Path(f'{args.out}.partial')

    def run(self, file):
        """[5th percentile in us, median in us, number] of many runs of a network."""
        status, self._log = self._device.shell(f'{self._command} --graph={file} {self._flags}', file)
        if status:
            sys.exit(f'{file} does not run on the device ({last_line(self._log)}); {GO_ON}, or with other options')
        runs = re.findall(r'\bcount=(\d+) .*\bp5=(\d+) median=(\d+)', self._log)
        if len(runs) < 2:  # the first one are the warm-up runs
            sys.exit('benchmark_model prints no percentiles (p5=, median=); download a newer one')
        count, low_us, median_us = map(int, runs[-1])
        return [max(low_us, 0.5), max(median_us, 0.5), count]  # it counts whole microseconds

    def processor(self, file):
        """What runs a network, seen in a run: '+cpu' where a part of it stays there, '.f0' where cores were chosen."""
        self.run(file)
        name = self._args.processor
        if name != 'cpu':
            taken = re.findall(r'Replacing (\d+) out of (\d+) node\(s\) with delegate \((?!\w*XNNPack)', self._log)
            if 'will not be executed by' in self._log or not (taken or 'executed by the delegate' in self._log):
                sys.exit(f'--processor {name} runs no part of the network on this device; choose another one')
            is_whole = all(count == nodes for count, nodes in taken) and 'partially executed by' not in self._log
            name += '' if is_whole else '+cpu'
        return f'{name}.{self._args.cores}' if self._args.cores else name

    def measure(self, groups, task):
        """Measure all groups into the file of results."""
        runs = read_results(self._partial, task) or {'format': FORMAT, 'task': task, 'groups': {}}
        show = Progress()

        def share(number, files, done):
            return (number + len(done) / (task['rounds'] * len(files) * (1 + 1 / BLOCK))) / len(groups)

        def measure_group(number, name, files):
            done = runs['groups'].setdefault(name, [])  # [round, place in files, 5th percentile, median, number]
            while left := next_block(files, done, task['rounds'], f'{task["seed"]} {name}'):
                show('measuring', share(number, files, done))
                done += [[left[0], *found] for found in self._steady(files, left[1], done)]
                save_results(self._partial, runs)
            return summary(done, len(files))

        fill_results(groups, measure_group, task, self._args.out)
        show('measuring', 1)
        self._partial.unlink(missing_ok=True)

    def _steady(self, files, block, done):
        """Runs of the networks of a block, then of the reference, while it is about as fast as before.

        Where it is faster, the device was hot before: what was done is removed from `done`, and so is this block.
        """
        reference = len(files) - 1
        before_us = [low_us for _, place, low_us, *_ in done if place == reference]
        for tried in range(TRIES):
            time.sleep(tried * self._args.rest)
            found = []
            for place in ([reference] if tried or (block and not before_us) else []) + [*block, reference]:
                found.append([place, *self.run(files[place])])
                before_us = before_us or [found[0][1]]
                slower_pct = 100 * (found[-1][1] / statistics.median(before_us) - 1)
                if place == reference and slower_pct > self._args.max_drift:
                    break
            else:
                if slower_pct < -self._args.max_drift:
                    done.clear()
                    return []
                return found
        sys.exit(f'the device stays {slower_pct:.0f} % slower than before; let it cool and {GO_ON}, or allow it with '
                 '--max-drift')


def next_block(files, done, rounds, seed):
    """(round, places of networks in random order) to run next; [] is the reference alone. None: all rounds are done."""
    for round_number in range(rounds):
        ran = {place for number, place, *_ in done if number == round_number}
        order = Random(f'{seed} {round_number}').sample(range(len(files) - 1), len(files) - 1)
        left = [place for place in order if place not in ran]
        if left or not ran:
            return round_number, left[:BLOCK]
    return None


def summary(runs, networks):
    """What is kept of a group, as of `measuring.summary`: medians over the rounds."""
    own = [[run[2:] for run in runs if run[1] == place] for place in range(networks)]
    low_ms = [median_ms(found, 0) for found in own]
    halves_ms = [[median_ms(part, 0) for part in (found[:(len(found) + 1) // 2], found[len(found) // 2:])]
                 for found in own]
    return {
        'low_ms': low_ms, 'p50_ms': [median_ms(found, 1) for found in own],
        'n': min(sum(count for *_, count in found) for found in own),
        'noise_pct': round(100 * statistics.median(
            abs(first - second) / low for low, (first, second) in zip(low_ms, halves_ms)), 3),
        'reference_ms': halves_ms[-1]}


def median_ms(runs, column):
    return round(statistics.median(run[column] for run in runs) / 1e3, 6)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--benchmark', metavar='FILE', help="LiteRT's benchmark_model for the device (default: the one "
                                                            "that `litert benchmark` of Google's litert-cli fetched)")
    parser.add_argument('--adb', default='adb', help='the program adb (default adb)')
    parser.add_argument('--serial', help='serial number of the device, where several are connected')
    parser.add_argument('--processor', choices=FLAGS, default='cpu', help='default cpu')
    parser.add_argument('--cores', metavar='MASK', help='CPU cores to run on, as a hexadecimal mask, like f0 for the '
                                                        'cores 4 to 7 (default: Android chooses)')
    parser.add_argument('--rounds', type=int, default=5, help='how often each network runs some 30 times (default 5)')
    parser.add_argument('--rest', type=float, default=20, help='rest of a device that got hot, in seconds; longer each '
                                                               'time (default 20)')
    parser.add_argument('--max-drift', type=float, default=10, help='how much slower the reference network may become, '
                                                                    'in percent (default 10)')
    args, listing = kit_arguments(parser, KIT)
    if args.rounds < 1 or not 0 <= args.rest < float('inf') or not args.max_drift >= 0:
        sys.exit('--rounds must be 1 or more, --rest and --max-drift 0 or more; change them')
    if args.cores and not re.fullmatch('0*[1-9a-f][0-9a-f]*', args.cores):
        sys.exit(f'--cores {args.cores!r} is not a hexadecimal mask; write it like f0')
    finish_kit(lambda: measure_kit(args, listing), args.out)


def measure_kit(args, listing):
    """Measure the networks of the list on the device."""
    device = Device(args.adb, args.serial)
    *about, abis = device.properties()
    program = find_benchmark(args.benchmark, abis.split(','))
    benchmark, groups = Benchmark(device, args, listing['task']['precision']), listing['groups']
    try:
        device.copy([(program, 'benchmark_model'), (KIT / 'networks', '')])
        benchmark.measure(groups, {
            **listing['task'], 'runtime': 'litert', 'processor': benchmark.processor(next(iter(groups.values()))[-1]),
            'runtime_version': 'sha256.' + hashlib.sha256(program.read_bytes()).hexdigest()[:12],
            'threads': args.threads, 'wall': True, 'rounds': args.rounds,
            'host': '{} {}, {}, Android {}, '.format(*about) + abis.split(',')[0]})
    finally:
        device.clear()


if __name__ == '__main__':
    main()
