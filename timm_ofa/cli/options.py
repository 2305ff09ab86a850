"""The options of every verb of the `timm-ofa` command, each verb with its help and an example; `__main__` runs them."""
from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn

from ..errors import InputError

RELEASED = 'released'  # instead of the path of a predictor
DESCRIPTION = (
    'Once-for-All as a timm plug-in: train one elastic network, then pick the best sub-network for each device.')

_VERBS: dict[str, tuple[str, str, Callable[[argparse.ArgumentParser], None]]] = {}  # help, example, adds the options


class _OneLineParser(argparse.ArgumentParser):
    """argparse without the usage block: the error line names value and cure."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f'{message}; see `{self.prog} -h`')


def parser() -> argparse.ArgumentParser:
    """Of the whole command; what it reads says the verb in `verb`."""
    command = _OneLineParser(
        prog='timm-ofa', description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example: timm-ofa quickstart --out out/quickstart')
    verbs = command.add_subparsers(dest='verb', metavar='VERB', required=True, parser_class=_OneLineParser)
    for name, (text, example, add_options) in _VERBS.items():
        sub = verbs.add_parser(
            name, help=text, description=text, epilog=f'example: timm-ofa {name} {example}',
            formatter_class=argparse.RawDescriptionHelpFormatter)
        sub.add_argument('--format', choices=['table', 'json'], default='table', help='for people, or for programs')
        add_options(sub)
    return command


def _verb(text: str, example: str) -> Callable:
    """A verb of the name of the function that adds its options."""
    def register(add_options: Callable[[argparse.ArgumentParser], None]) -> Callable:
        _VERBS[add_options.__name__.replace('_', '-')] = text, example, add_options
        return add_options
    return register


# ---- shared by verbs -----------------------------------------------------------------------------------------------

def positive(text: str) -> float:
    """Reads a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'{text!r:.40} is not a number above 0; write it without a unit, like 25')
    return value


def whole(least: int) -> Callable[[str], int]:
    """Reads a whole number that is not less."""
    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= 2**31:
            raise argparse.ArgumentTypeError(f'{text!r:.40} is not a whole number from {least} on; write one')
        return value
    return read


def profile_limit(text: str) -> tuple[str, float]:
    """Reads a profile and a limit in ms, like cpu.json=25."""
    name, equals, limit_ms = text.rpartition('=')
    if not equals or not name:
        raise argparse.ArgumentTypeError(f'{text!r:.60} is not a profile and its limit; write it like cpu.json=25')
    return name, positive(limit_ms)


def _with_seed(sub: argparse.ArgumentParser) -> None:
    sub.add_argument('--seed', type=whole(0), default=0, help='of all random choices (default 0)')


def _with_calibration(sub: argparse.ArgumentParser) -> None:
    sub.add_argument('--num-calibration', type=whole(2), default=2000, metavar='N',
                     help='training images for BatchNorm statistics (default %(default)s)')


def _with_supernet(sub: argparse.ArgumentParser, required: bool) -> None:
    sub.add_argument(
        '--supernet', required=required, metavar='X',
        help='folder that training wrote, hf-hub:ORG/NAME, or a released one by its name (timm-ofa models)')
    sub.add_argument(
        '--data', required=True, metavar='D',
        help="Hub data set, folder of images by class or of parquet files, 'digits', or 'fashion-mnist-12k'")
    _with_seed(sub)


# ---- verbs -----------------------------------------------------------------------------------------------------------


@_verb('the whole job on images that ship with the package', '--out out/quickstart')
def quickstart(sub: argparse.ArgumentParser) -> None:
    _with_seed(sub)
    sub.add_argument('--out', default='timm_ofa_quickstart', help='folder of all results (default %(default)s)')
    sub.add_argument('--data', help='other images, see collect -h')
    sub.add_argument('--max-latency-ms', type=positive, metavar='N', help='limit; default 60 %% of the largest subnet')
    sub.add_argument('--budget', type=positive, default=1.0, help='factor on the training epochs (default 1)')
    sub.add_argument('--runtime', default='onnxruntime', help='what latency is measured with (default %(default)s)')


@_verb('progressive shrinking, the same as train.py', '--config hub_configs/NAME.yaml')
def train(sub: argparse.ArgumentParser) -> None:
    sub.add_argument('--config', required=True, help="a YAML file with 'kind: supernet'")
    sub.add_argument('--data', help="instead of the config's data, see collect -h")
    sub.add_argument('--output', help='folder of the run (default out/NAME)')
    sub.add_argument('--resume', action='store_true', help='go on from the last checkpoint in the output folder')
    sub.add_argument('--set', action='append', default=[], metavar='KEY=VALUE', help='override, e.g. phases.0.epochs=2')
    sub.add_argument('--tensorboard', action='store_true', help='also write TensorBoard events')


@_verb('search spaces on the shelf', '--format json')
def spaces(sub: argparse.ArgumentParser) -> None:
    """No options of its own."""


@_verb('device profiles on the shelf', '--format json')
def devices(sub: argparse.ArgumentParser) -> None:
    """No options of its own."""


@_verb('named networks, or published ones', '--device samsung-note10 --max-latency-ms 25')
def models(sub: argparse.ArgumentParser) -> None:
    sub.add_argument('--source', metavar='ORG|DIR', help='those of an organization on the Hub, or of a folder')
    sub.add_argument('--supernets', action='store_true', help='of the source its supernets, to be searched')
    sub.add_argument('--device', help='slug of a device')
    sub.add_argument('--max-latency-ms', type=positive, metavar='N')


@_verb('measure this machine', '--space ofa_mbv3_tiny --runtime onnxruntime --out cpu.json')
def profile(sub: argparse.ArgumentParser) -> None:
    _with_seed(sub)
    sub.add_argument('--space', help='needed but for --import-kit of a space on the shelf')
    sub.add_argument('--runtime', default='onnxruntime', help='default %(default)s')
    sub.add_argument('--precision', default='fp32', help='fp32, fp16, bf16 or int8, as the runtime has it')
    sub.add_argument('--threads', type=whole(1), default=1)
    sub.add_argument('--batch-size', type=whole(1), default=1, metavar='N', help='images of a run (default 1)')
    sub.add_argument('--processor', default='cpu', help='cpu or cuda (default cpu)')
    sub.add_argument('--device', help='slug; default from the name of the processor')
    sub.add_argument('--num-classes', type=whole(1), help='of the head; default that of the space')
    sub.add_argument('--resolutions', type=whole(1), nargs='+', metavar='PX', help='default: all of the space')
    sub.add_argument('--seconds', type=positive, default=20.0, help='about how long (default 20)')
    kit = sub.add_mutually_exclusive_group()
    kit.add_argument('--export-kit', metavar='DIR', help='write what measures another device: files and a script')
    kit.add_argument('--import-kit', metavar='F', help='the results.json that came back from it')
    kit.add_argument('--few-shot', type=whole(1), metavar='N', help='measure N whole networks, and some to check, '
                     'not every row: less exact, for what takes long to load a network (a GPU, executorch)')
    kit.add_argument('--fit', metavar='F', help='instead: whole networks measured anywhere, 10 to 50 of them; a CSV of '
                     'arch,latency_ms, or JSON lines')
    kit.add_argument('--import-csv', metavar='F', help='instead: every row measured anywhere; a CSV of row,ms')
    sub.add_argument('--out', metavar='F', help='the profile; an interrupted run goes on from F.partial')


@_verb('accuracies of sampled subnets; going on where a file ends',
       '--supernet out/supernet --data fashion-mnist-12k --num 100 --out records.jsonl')
def collect(sub: argparse.ArgumentParser) -> None:
    _with_supernet(sub, required=True)
    sub.add_argument('--num', '--num-subnets', type=int, required=True, metavar='N', help=(
        'records that the file shall hold; behind torchrun, which takes --num for its own, write --num-subnets'))
    sub.add_argument('--num-images', type=whole(1), metavar='N', help='judge on so many held-out images (default all)')
    _with_calibration(sub)
    sub.add_argument('--active', action='store_true', help='after 20 networks, those that may enlarge the front most')
    sub.add_argument('--profile', metavar='F', help='whose latency spans that front; default: MACs do')
    sub.add_argument('--out', required=True, metavar='F.jsonl')


@_verb('accuracy predictor from records', '--space ofa_mbv3_tiny --records records.jsonl --out predictor.safetensors')
def fit(sub: argparse.ArgumentParser) -> None:
    _with_seed(sub)
    sub.add_argument('--space', required=True)
    sub.add_argument('--records', required=True, metavar='F.jsonl')
    sub.add_argument('--additive', action='store_true', help='a sum over blocks: less exact, but a search can prove')
    sub.add_argument('--plot', metavar='FILE.svg', help='held-out predictions against measurements, .svg or .png')
    sub.add_argument('--out', required=True, metavar='P')


@_verb('the most accurate network under a limit, and the front',
       '--space ofa_mbv3_tiny --predictor predictor.safetensors --profile cpu.json --max-latency-ms 0.5 '
       '--out front.jsonl')
def search(sub: argparse.ArgumentParser) -> None:
    _with_seed(sub)
    sub.add_argument('--space', required=True)
    sub.add_argument('--predictor', required=True, metavar='P', help=(
        f"what fit wrote, the name of a supernet that ships with one, a released .pth file, or '{RELEASED}': the one "
        'that the authors released for this space'))
    sub.add_argument('--profile', metavar='F', help='what profile wrote, or a name (timm-ofa devices)')
    sub.add_argument('--max-latency-ms', type=positive, metavar='N', help='limit on the device of --profile')
    sub.add_argument('--also', type=profile_limit, action='append', default=[], metavar='F=N',
                     help='limit in ms on one more device, e.g. gpu.json=4.5; as often as wished')
    sub.add_argument('--max-macs-m', type=positive, metavar='N', help='limit in millions of multiply-accumulates')
    sub.add_argument('--max-params-m', type=positive, metavar='N', help='limit in millions of parameters')
    sub.add_argument('--max-memory-mb', type=positive, metavar='N', help='limit on weights and activations in float32')
    sub.add_argument('--resolutions', type=whole(1), nargs='+', metavar='PX', help='default: all that are known')
    sub.add_argument('--plot', metavar='FILE.svg', help='front and progress, .svg or .png')
    sub.add_argument('--out', metavar='front.jsonl')


@_verb('a publishable folder from a search result, or of a named network',
       '--supernet out/supernet --front front.jsonl --data fashion-mnist-12k --out out/net')
def specialize(sub: argparse.ArgumentParser) -> None:
    _with_supernet(sub, required=False)
    sub.add_argument('--arch', metavar='TEXT', help='one network as text')
    sub.add_argument('--front', metavar='F', help='what search --out wrote; the best measured under its limit')
    sub.add_argument('--config', metavar='NAME', help='a named network (timm-ofa models) or its hub_configs/NAME.yaml; '
                                                      '--supernet is by default the released one of its space')
    sub.add_argument('--limits-ms', type=positive, nargs='+', metavar='N',
                     help='with --front: one network for each limit, in folders of their own in DIR')
    sub.add_argument('--publish', metavar='ORG', help='with --limits-ms: then to the Hub with them, linking each other')
    sub.add_argument('--profile', metavar='F', help='instead of the one that the front names')
    sub.add_argument('--no-measure', action='store_true', help='trust the prediction (another device)')
    sub.add_argument('--finetune-epochs', type=whole(0), default=0, metavar='N', help='labels alone')
    sub.add_argument('--finetune', metavar='YAML', help='or how, e.g. finetune_imagenet_25')
    _with_calibration(sub)
    sub.add_argument('--name', help='of the network; default from device and limit')
    sub.add_argument('--out', metavar='DIR', help='default for --config: out/NAME')


@_verb('latency of a finished network on this machine', 'out/net --runtime onnxruntime')
def measure(sub: argparse.ArgumentParser) -> None:
    sub.add_argument('folder', metavar='DIR', help='or hf-hub:ORG/NAME')
    sub.add_argument('--save', action='store_true', help='into its card and perf.json, instead of the last one like it')
    sub.add_argument('--runtime', default='onnxruntime', help='default %(default)s')
    sub.add_argument('--precision', default='fp32', help='fp32, fp16, bf16 or int8, as the runtime has it')
    sub.add_argument('--threads', type=whole(1), default=1)
    sub.add_argument('--batch-size', type=whole(1), default=1)
    sub.add_argument('--processor', default='cpu', help='cpu or cuda (default cpu)')
    sub.add_argument('--seconds', type=positive, default=3.0)
    kit = sub.add_mutually_exclusive_group()
    kit.add_argument('--export-kit', metavar='KIT', help='write what measures it on another device: files, script')
    kit.add_argument('--import-kit', metavar='F', help='the results.json that came back from there')
    sub.add_argument('--device', help='slug of where the kit ran; default: the device it was searched for')


@_verb('networks or a supernet to the Hub (HF_ENDPOINT, HF_TOKEN)', 'out/net --repo acme/net --dry-run')
def publish(sub: argparse.ArgumentParser) -> None:
    sub.add_argument('folder', metavar='DIR', nargs='+',
                     help='several, or a folder of such: networks of one search, whose cards then link each other')
    sub.add_argument('--repo', metavar='ORG/NAME', help='default: your account and the name of the network')
    sub.add_argument('--owner', metavar='ORG', help='of several; default: your account')
    sub.add_argument('--private', action='store_true')
    sub.add_argument('--dry-run', action='store_true', help='check, and say what would be published')
    sub.add_argument('--onnx', action='store_true', help='add model.onnx, any number of images at a time')
    sub.add_argument('--force', action='store_true',
                     help='also over a repository that timm_ofa did not write, or that others changed')
    sub.add_argument('--collection', action='store_true', help="list it in the account's collections, one a device")


@_verb('a page to browse published networks by device and latency', '--source acme --out index.html')
def catalog(sub: argparse.ArgumentParser) -> None:
    sub.add_argument('--source', required=True, metavar='ORG|DIR', help='an organization on the Hub, or a folder')
    sub.add_argument('--out', required=True, metavar='FILE.html')
    sub.add_argument('--space', metavar='ORG/NAME', help='also bring it to the Hub, as a static Space')
    sub.add_argument('--private', action='store_true', help='make that Space private')
    sub.add_argument('--force', action='store_true', help='also over a Space that timm_ofa did not write')


@_verb('what the authors of Once-for-All released -> our formats', '--name ofa_mbv3_w12_supernet --out out/supernet')
def import_upstream(sub: argparse.ArgumentParser) -> None:
    sub.add_argument('--name', required=True, help=(
        'a named network or supernet (timm-ofa models), ofa_mbv3_w12_predictor, ofa_resnet50d_predictor, or note10 '
        '(latency tables)'))
    sub.add_argument('--from', dest='source', metavar='FILE|URL',
                     help="or the folder of the latency tables; default: the authors' address")
    sub.add_argument('--out', required=True, metavar='DIR|FILE')
