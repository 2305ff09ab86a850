"""Every option in every mode of every verb: its value reaches the work, or it is refused and the mode is named."""
import re
import sys
from types import FunctionType
from unittest.mock import MagicMock

import pytest

from timm_ofa.cli.command import VERBS
from timm_ofa.cli.verbs import parse
from timm_ofa.errors import InputError

MODES = [(verb, mode) for verb in VERBS.values() for mode in verb.modes]
PACKAGES = ('spaces', 'networks', 'images', 'devices', 'searching', 'accuracy', 'training', 'hub')
TEXTS = {  # values that are read; the first is given where an option is needed, the second changes it
    'config': ('a.yaml', 'b.yaml'), 'out': ('a.json', 'b.json'), 'also': ('cpu.json=3', 'gpu.json=5'),
    'overrides': ('seed=1', 'seed=2'), 'precision': ('fp32', 'int8'), 'processor': ('cpu', 'cuda'),
    'name': ('net_a', 'net_b'), 'plot': ('a.svg', 'b.svg'), 'finetune': ('a.yaml', 'b.yaml')}


ALSO_NEEDED = {'search': ['max_macs_m']}  # where one of several is needed


def named(mode, verb):
    return f'{verb.name} {verb.flags(mode.selectors)}'.strip()


def values(verb, name):
    """Two values of an option as somebody types them; none of a switch."""
    if not verb.options[name].metavar:
        return (), ()
    texts = TEXTS.get(name)
    if texts is None:
        texts = ('a', 'b') if verb.options[name].read is str else ('20', '32')
    return (texts[0],), (texts[1],)


def typed(verb, name, which=0):
    flag = verb.flag(name)
    return [*([flag] if flag.startswith('-') else []), *values(verb, name)[which]]


def command(verb, mode, changed=''):
    """The words that a mode cannot do without, with another value of one option, or with one option more."""
    names = dict.fromkeys([*mode.selectors, *mode.needs, *ALSO_NEEDED.get(verb.name, ()), *filter(None, [changed])])
    return [verb.name, *(word for name in names for word in typed(verb, name, name == changed))]


def shown(value):
    """A value as text: of a function, what it takes from where it was made; never its address."""
    if isinstance(value, FunctionType):
        held = [cell.cell_contents for cell in value.__closure__ or ()]
        return f'{value.__qualname__} {[shown(one) for one in held]}'
    return re.sub(r" id='\d+'| at 0x[0-9a-f]+", '', str(value))


def calls(recorder):
    return [(name, [*map(shown, args)], {key: shown(value) for key, value in kwargs.items()})
            for name, args, kwargs in recorder.mock_calls]


def work(monkeypatch, call):
    """What a mode asks of the library, and what it answers, as text. The library is a recorder here."""
    library = MagicMock(name='library')
    made = library.accuracy.collect.return_value
    made.__iter__.return_value = iter([('arch', 90.0)])
    library.accuracy.launched.return_value.is_main_process = True
    library.devices.profile_names.return_value = ['a']
    library.devices.read_networks.return_value = (['arch'], [1.0])
    library.images.stored_side.return_value = 32
    library.searching.searched_with.return_value = (10, 1)
    library.hub.find_config.return_value.name = 'shelf'
    library.hub.find_config.return_value.subnet.space.name = 'space'
    library.networks.load_supernet.return_value.space.name = 'space'
    library.hub.Source.return_value.judge.return_value.memory_mb = 1.0
    library.hub.PERF, library.networks.CONFIG = 'perf.json', 'config.json'
    library.hub.is_supernet.return_value = False
    library.hub.hub_configs.return_value = {}
    library.hub.named_subnets.return_value = {}
    library.training.load_config.return_value.name = 'run'
    for space in (library.spaces.load_space.return_value, library.networks.load_supernet.return_value.space,
                  library.training.load_config.return_value.load_space.return_value,
                  library.networks.space_of.return_value):
        space.to_dict.return_value, space.resolutions = {}, (32,)
        space.params.return_value = space.macs.return_value = 1
    library.networks.load_supernet.return_value.num_classes = library.images.load_data.return_value.num_classes = 10
    library.images.load_data.return_value.holdout.__len__.return_value = 100
    for package in PACKAGES:
        monkeypatch.setitem(sys.modules, f'timm_ofa.{package}', getattr(library, package))
    steps = MagicMock(name='steps')
    for module in ('timm_ofa.cli.quickstart', 'timm_ofa.cli.pipeline', 'safetensors.torch'):
        monkeypatch.setitem(sys.modules, module, steps)
    try:
        answer = call.run()
        said = [answer and answer.hint, answer and str(answer.data)]
    except (TypeError, ValueError, StopIteration) as error:  # of what a recorder cannot do; what came before counts
        said = [repr(error)]
    return [*calls(library), *calls(steps), *map(shown, said)]


@pytest.mark.parametrize('verb, mode', MODES, ids=[named(mode, verb) for verb, mode in MODES])
def test_every_option_of_a_mode_reaches_the_work_and_every_other_one_is_refused(verb, mode, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    base = command(verb, mode)
    with monkeypatch.context() as recorded:
        before = work(recorded, parse(VERBS, base))
    for name in verb.options:
        if name not in mode.reads:
            if not any({*mode.selectors} < {*other.selectors} <= {*mode.selectors, name} for other in verb.modes):
                with pytest.raises(InputError) as refused:
                    parse(VERBS, command(verb, mode, name))
                assert verb.flag(name) in str(refused.value)
                assert ' is not read with ' in str(refused.value) or ' is read only with ' in str(refused.value)
            continue
        if name in mode.selectors and not verb.options[name].metavar:
            continue  # the switch that chooses this mode
        with monkeypatch.context() as recorded:
            after = work(recorded, parse(VERBS, command(verb, mode, name)))
        assert after != before, f'{verb.flag(name)} changes nothing in {named(mode, verb)}'


def test_how_many_were_gone_through():
    pairs = [(verb, mode, name) for verb, mode in MODES for name in verb.options]
    read = sum(name in mode.reads for _, mode, name in pairs)
    print(f'{len(VERBS)} verbs, {len(MODES)} modes: {read} options read, {len(pairs) - read} refused')
    assert len(VERBS) == 17 and len(MODES) >= 26 and len(pairs) > 200
