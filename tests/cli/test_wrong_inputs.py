"""A wrong input is one line on stderr, which names the value and the cure, and leaves no file."""
import re

import pytest
from command_line import remarks, run

WRONG = [
    ('', 'VERB'), ('serach', 'serach'), ('search', '--space'), ('spaces --format xml', 'xml'),
    ('spaces --colour red', '--colour'),
    ('models --device my-phone', 'my-phone'), ('models --max-latency-ms 25ms', '25ms'),
    ('models --max-latency-ms -3', '-3'),
    ('models --max-latency-ms nan', 'nan'), ('train --config none.yaml', 'none.yaml'),
    ('train --config bad.yaml', 'batch_size.*many'),
    ('train --config bad.json', 'bad.json'), ('train --config config.yaml --set batch=3 --output OUT', "'batch'"),
    ('train --config config.yaml --set phases.9.lr=3 --output OUT', 'phases.9.lr'),
    ('train --config config.yaml --data no/such/folder/here --output OUT', 'no/such/folder/here'),
    ('train --config config.yaml --resume --output OUT', '--resume'),
    ('profile --space ofa_mbv3_none --out OUT.json', 'ofa_mbv3_none'),
    ('profile --space bad.json --out OUT.json', 'bad.json.*missing'),
    ('profile --space torn.json --out OUT.json', 'torn.json.*JSON'),
    ('profile --space ofa_mbv3_tiny --runtime tflight --out OUT.json', 'tflight'),
    ('profile --space ofa_mbv3_tiny --out bad.jsonl/p.json', 'is a file; give a folder'),
    ('profile --space ofa_mbv3_tiny --resolutions 21 --out OUT.json', '21'),
    ('profile --space ofa_mbv3_tiny --threads 0 --out OUT.json', 'threads'),
    ('profile --space ofa_mbv3_tiny --device My_Phone --out OUT.json', 'My_Phone'),
    ('collect --supernet none --data digits --num 3 --out OUT', 'none'),
    ('collect --supernet empty --data digits --num 3 --out OUT', 'empty'),
    ('collect --supernet supernet --data no/such/folder/here --num 3 --out OUT', 'no/such/folder/here'),
    ('collect --supernet supernet --data empty --num 3 --out OUT', 'empty'),
    ('collect --supernet three --data digits --num 3 --out OUT', '3 classes.*10'),
    ('collect --supernet supernet --data digits --num 1 --out OUT', '--num 1'),
    ('collect --supernet supernet --data digits --num many --out OUT', 'many'),
    ('collect --supernet supernet --data digits --num 3 --out bad.jsonl/r.jsonl', 'is a file'),
    ('fit --space ofa_mbv3_tiny --records none.jsonl --out OUT', 'none.jsonl'),
    ('fit --space ofa_mbv3_tiny --records bad.jsonl --out OUT', 'bad.jsonl line 1'),
    ('fit --space ofa_mbv3_tiny --records bad.jsonl --out bad.jsonl/x/p', 'is a file'),
    ('search --space ofa_mbv3_tiny --predictor none --profile note10 --max-latency-ms 1', 'none'),
    ('search --space ofa_mbv3_tiny --predictor bad.json --profile none.json --max-latency-ms 1', 'none.json'),
    ('search --space ofa_mbv3_tiny --predictor bad.json --profile bad.json --max-latency-ms 1', 'bad.json'),
    ('search --space ofa_mbv3_w12 --predictor p --profile note10 --max-latency-ms 25ms', '25ms'),
    ('search --space ofa_mbv3_w12 --predictor p', '--max-macs-m'),
    ('search --space ofa_mbv3_w12 --predictor p --max-latency-ms 25', '--profile'),
    ('search --space ofa_mbv3_w12 --predictor p --max-macs-m 300 --out OUT', '--profile'),
    ('search --space ofa_mbv3_w12 --predictor p --max-macs-m 300M', '300M'),
    ('search --space ofa_mbv3_w12 --predictor . --max-macs-m 300', "predictor '.'"),
    ('search --space ofa_mbv3_w12 --predictor p --max-macs-m 300 --seed -1', "--seed: '-1'"),
    ('models --max-latency-ms 0.1', 'at most 0.1 ms'), ('models --device nokia', "'nokia'.*samsung-note10"),
    ('search --space ofa_mbv3_w10 --predictor released --max-macs-m 300', 'ofa_mbv3_w10'),
    ('specialize --supernet supernet --data digits --out OUT', '--arch'),
    ('specialize --arch r20:k3/3/3:e2/2/2 --data digits --out OUT', '--supernet'),
    ('specialize --supernet supernet --arch r20:k3/3/3:e2/2/2 --data digits', '--out'),
    ('specialize --config ofa_mbv3_note10_lat26ms --data digits --out OUT', 'ofa_mbv3_note10_lat26ms.*lat'),
    ('specialize --config bad.yaml --data digits --out OUT', 'bad.yaml'),
    ('specialize --config config.yaml --data digits --out OUT', 'config.yaml'),
    ('specialize --config ofa_mbv3_w12_supernet --data digits --out OUT', 'timm-ofa train'),
    ('specialize --config ofa_mbv3_note10_lat25ms --front f --data digits --out OUT', '--config'),
    ('specialize --config ofa_mbv3_note10_lat25ms --supernet supernet --data digits --out OUT',
     'is of ofa_mbv3_tiny, ofa_mbv3_note10_lat25ms is of ofa_mbv3_w12'),
    ('specialize --config ofa_mbv3_tiny.yaml --supernet three --data digits --out OUT', '3 classes.*10'),
    ('specialize --config ofa_mbv3_tiny.yaml --supernet supernet --data digits --num-calibration 1 --out OUT',
     "--num-calibration: '1'"),
    ('specialize --config ofa_mbv3_tiny.yaml --data digits --out OUT', 'ofa_mbv3_tiny_supernet'),
    ('specialize --supernet supernet --data digits --arch nonsense --out OUT', 'nonsense.*r20'),
    ('specialize --supernet supernet --data digits --arch r20:k9/3/3:e2/2/2 --out OUT', 'kernel_size 9'),
    ('specialize --supernet supernet --data digits --front bad.jsonl --out OUT', 'bad.jsonl'),
    ('specialize --supernet supernet --data digits --arch r20:k3/3/3:e2/2/2 --front f --out OUT', '--front'),
    ('specialize --supernet supernet --data digits --arch r20:k3/3/3:e2/2/2 --out bad.jsonl/x/y', 'is a file'),
    ('profile --space ofa_mbv3_tiny --out OUT', 'must end in .json'),
    ('profile --space ofa_mbv3_tiny --few-shot 9 --out OUT.json', "--few-shot: '9' is not a whole number from 10"),
    ('search --space ofa_mbv3_w12 --predictor p --max-macs-m 300 --seed 9999999999', 'number from 0 to 2147483648'),
    ('measure nowhere --save', "'nowhere' has no config.json"),
    ('models --device nokia', 'no model for device .nokia.; choose from'),
    ('profile --space ofa_mbv3_tiny --few-shot 20 --fit none.csv --out OUT.json', '--few-shot is not read with --fit'),
    ('profile --fit none.csv --space ofa_mbv3_tiny --device my-phone --runtime tflite --out OUT.json', 'none.csv'),
    ('profile --fit none.csv --space ofa_mbv3_tiny --out OUT.json', '--device, --runtime is missing with --fit'),
    ('profile --import-csv none.csv --space ofa_mbv3_tiny --device my-phone --runtime tflite --precision banana '
     '--out OUT.json', "--precision: 'banana' is unknown; choose from fp32"),
    ('fit --space ofa_mbv3_tiny --records bad.jsonl --out empty', '--out .empty. is a folder'),
    ('fit --space ofa_mbv3_tiny --records bad.jsonl --out OUT --plot bad.jsonl/x.svg', '--plot .bad.jsonl/x.svg.'),
    ('search --space ofa_mbv3_w12 --predictor p --max-macs-m 300 --plot bad.jsonl/x.svg', '--plot .bad.jsonl/x.svg.'),
    ('search --space ofa_mbv3_w12 --predictor p --profile note10 --max-latency-ms 5 --out empty', 'is a folder'),
    ('catalog --source files --out empty', '--out .empty. is a folder'),
    ('measure supernet', 'holds a supernet'), ('publish supernet --dry-run --onnx', '--onnx is for networks'),
    ('publish supernet bad.json --dry-run', "'bad.json' is a file; give folders"),
    ('publish empty supernet --dry-run --pt2', "--pt2 is for networks, 'supernet' holds"),
    ('publish supernet --dry-run --collection', '--collection is for networks'),
    ('models --source empty', 'timm-ofa measure DIR --save'),
    ('models --source empty --device my-phone', 'leave out --device'),
    ('import-upstream --name ofa_mbv3_cifar10_supernet --out OUT', 'was not released(?!.*cifar10_supernet,)'),
    ('specialize --supernet supernet --data none --arch r20:k3/3/3:e2/2/2 --out OUT --name BAD', "--name 'BAD'"),
    ('specialize --supernet supernet --data none --arch r20:k3/3/3:e2/2/2 --out foreign', 'holds something else'),
    ('specialize --supernet supernet --data none --arch r20:k3/3/3:e2/2/2 --out .', 'in use|holds something else'),
    ('specialize --supernet supernet --data none --arch r20:k3/3/3:e2/2/2 --out OUT --finetune nope',
     "'nope' is neither a file nor a name.* finetune_"),
    ('specialize --supernet supernet --data none --arch r20:k3/3/3:e2/2/2 --out OUT --finetune f --finetune-epochs 7',
     '--finetune-epochs 7'),
    ('collect --supernet supernet --data none --num 30 --active --profile note10 --out OUT', 'prices ofa_mbv3_w12'),
    ('collect --supernet none --data none --num 3 --profile note10 --out OUT',
     '--profile is read only with --active; add that, or leave it out'),
    ('collect --supernet supernet --data none --num 1 --out OUT', '--num 1 is out of range'),
    ('train --config hub_configs/ofa_mbv3_fashion_supernet.yaml --data no/such/path --output OUT', 'no/such/path'),
    ('train --config config.yaml --set batch_size=500 --output OUT', 'batch_size 500'),
    ('train --config config.yaml --set teacher=nope --output OUT', "teacher 'nope'"),
    ('train --config config.yaml --output foreign/notes.txt', 'notes.txt'),
    ('import-upstream --name ofa_mbv3_w12_predictor --from foreign/notes.txt --out OUT', 'notes.txt'),
    ('train --config ofa_mbv3_tony_supernet --output OUT', 'neither a file nor a name.*_supernet'),
    ('measure none', 'none'), ('measure empty', 'empty'), ('publish none --dry-run', 'none'),
    ('publish empty --repo acme/net --dry-run', 'empty'),
    ('import-upstream --name nobody --from x.pth --out OUT', 'nobody'),
    ('import-upstream --name ofa_mbv3_note10_lat22ms --from none.pth --out OUT', 'none.pth'),
]


@pytest.mark.parametrize('text, naming', WRONG, ids=[text or 'nothing' for text, _ in WRONG])
def test_a_wrong_input_is_one_line_and_leaves_nothing(capsys, files, monkeypatch, tmp_path, text, naming):
    monkeypatch.chdir(files)
    before = sorted(files.rglob('*'))
    status, out, err = run(capsys, *text.replace('OUT', str(tmp_path / 'out')).split())
    assert (status, out) == (2, ''), err
    assert len(remarks(err)) == 1 and err.startswith('timm-ofa: ') and re.search(naming, err), err
    assert 'Traceback' not in err and '_positive' not in err and len(err) < 500
    assert list(tmp_path.iterdir()) == [] and sorted(files.rglob('*')) == before


@pytest.mark.parametrize('words, flag', [
    (['publish', '', '--dry-run'], 'folder'), (['models', '--device', ''], '--device'),
    (['run', '--data', 'digits', '--from', 'x', '--profile', '', '--out', 'OUT'], '--profile'),
    (['train', '--config', 'x', '--set', 'seed=1', ''], '--set'),
    (['catalog', '--source', '', '--out', 'x'], '--source')])
def test_an_empty_value_is_not_taken_for_none(capsys, words, flag):
    """As a script gives it, in which a variable is not set."""
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, '') and err == f"timm-ofa: {flag} '' is empty; give a value, or leave it out\n"
