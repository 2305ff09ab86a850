"""Measure the networks of this folder on this device. It needs numpy and onnxruntime (or openvino), nothing else.

    python run_kit.py --threads 1

A run that was interrupted goes on when it is started again. Then take results.json back to where the kit was made. For
the kit of a search space, and for that of one network:

    timm-ofa profile --import-kit results.json --device my-phone --out my-phone.json
    timm-ofa measure DIR --import-kit results.json
"""
import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from measuring import cpu_host, finish_kit, kit_arguments, measure_groups, needs_wall_clock

KIT = Path(__file__).resolve().parent


def onnxruntime_loader(threads, provider, seed, network):
    import onnxruntime
    if provider not in onnxruntime.get_available_providers():
        sys.exit(f'provider {provider!r} is not in this onnxruntime; choose from '
                 + ', '.join(onnxruntime.get_available_providers()))

    def start(file, profile=None):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry('session.force_spinning_stop', '1')
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, profile
        session = onnxruntime.InferenceSession(str(KIT / file), options, providers=[provider])
        feed = {'x': np.random.default_rng(seed).standard_normal(session.get_inputs()[0].shape, np.float32)}
        return session, feed

    def load(file):
        session, feed = start(file)
        return lambda: session.run(None, feed)

    with TemporaryDirectory() as folder:
        session, feed = start(network, str(Path(folder) / 'profile'))
        session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding='utf-8'))
    return load, onnxruntime.__version__, own_providers(events, provider)


def own_providers(events, provider):
    """The providers that run the nodes of a profile of onnxruntime, joined by '+', the one that was asked for first."""
    found = {event['args']['provider'] for event in events
             if event.get('cat') == 'Node' and event.get('args', {}).get('provider')}
    if provider not in found:
        sys.exit(f'provider {provider!r} runs no node of the network, ' + ', '.join(sorted(found))
                 + ' does; leave --provider out')
    return '+'.join([provider, *sorted(found - {provider})])


def openvino_loader(threads, provider, seed, network):
    import openvino
    core = openvino.Core()
    if provider not in core.available_devices:
        sys.exit(f'provider {provider!r} is not in this openvino; choose from ' + ', '.join(core.available_devices))
    settings = {'INFERENCE_PRECISION_HINT': 'f32', 'PERFORMANCE_HINT': 'LATENCY', 'NUM_STREAMS': 1}
    if provider == 'CPU':  # pinned threads would wait for other work on their cores
        settings |= {'INFERENCE_NUM_THREADS': threads, 'ENABLE_CPU_PINNING': False}

    def load(file):
        model = core.compile_model(core.read_model(KIT / file), provider, settings)
        request = model.create_infer_request()
        x = np.random.default_rng(seed).standard_normal(list(model.input(0).shape), np.float32)
        request.set_input_tensor(openvino.Tensor(x))
        return request.infer

    return load, openvino.__version__.split('-')[0], provider


LOADERS = {'onnxruntime': onnxruntime_loader, 'openvino': openvino_loader}
ON_CPU = {'onnxruntime': 'CPUExecutionProvider', 'openvino': 'CPU'}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--runtime', choices=LOADERS, default='onnxruntime')
    parser.add_argument('--provider', help='of the runtime, for example XnnpackExecutionProvider, or GPU of openvino '
                                           "(default: the CPU's)")
    parser.add_argument('--seconds', type=float, default=60, help='about how long, without loading (default 60)')
    args, listing = kit_arguments(parser, KIT)
    if not 0 < args.seconds < float('inf'):
        sys.exit(f'--seconds {args.seconds} is not a number above 0; give one')
    network = next(iter(listing['groups'].values()))[-1]
    try:
        load, version, provider = LOADERS[args.runtime](
            args.threads, args.provider or ON_CPU[args.runtime], listing['task']['seed'], network)
    except ImportError:
        sys.exit(f'runtime {args.runtime!r} is not installed; run: pip install {args.runtime}')
    processor = 'cpu' if provider == ON_CPU[args.runtime] else provider
    task = {
        **listing['task'], 'runtime': args.runtime, 'runtime_version': version, 'processor': processor,
        'threads': args.threads, 'wall': needs_wall_clock(args.threads, processor), 'host': cpu_host()}
    finish_kit(lambda: measure_groups(listing['groups'], load, task, args.out, seconds=args.seconds), args.out)


if __name__ == '__main__':
    main()
