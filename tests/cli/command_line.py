"""What the tests of the command share: a verb run in this process, and small configurations."""
from timm_ofa.cli.command import main

CONFIG = {
    'kind': 'supernet', 'name': 'digits_supernet', 'space': 'ofa_mbv3_tiny', 'data': 'digits', 'resolutions': [20],
    'limit': 200, 'batch_size': 32, 'augment': {'flip': False},
    'phases': [
        {'name': 'largest', 'epochs': 1, 'lr': 0.05, 'kd_weight': 0, 'depths': [3], 'kernel_sizes': [5],
         'expand_ratios': [4]},
        {'name': 'all', 'epochs': 1, 'lr': 0.03}]}
ARCH = 'r20:k3/3/3:e2/2/2'
NAMED = {
    'kind': 'subnet', 'name': 'ofa_mbv3_tiny', 'family': 'mbv3', 'space': 'ofa_mbv3_tiny', 'arch': ARCH,
    'device': 'my-phone', 'latency_ms': 2, 'top1_pct': None, 'top5_pct': None, 'predicted_top1_pct': 91.5,
    'predicted_ms': 1.9, 'macs_m': 1, 'params_m': 0.1, 'drop_rate': 0, 'tag': 'search', 'hub_id': 'acme/tiny',
    'license': 'mit',
    'search': {'limit': 'latency <= 2 ms', 'seed': 3, 'predictor': 'that of a test', 'profile': 'my-phone'},
    'supernet': 'ofa_mbv3_tiny_supernet', 'source': 'https://example.com'}


def run(capsys, *args):
    """(exit status, stdout, stderr) of a verb."""
    try:
        status = main([str(a) for a in args])
    except SystemExit as stop:  # argparse after -h
        status = stop.code
    return status, *capsys.readouterr()


def remarks(err):
    """stderr without progress bars, which rewrite their line."""
    return [line for line in err.splitlines() if line and '\r' not in line and '%|' not in line and 'it/s' not in line]
