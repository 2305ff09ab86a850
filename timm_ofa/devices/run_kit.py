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

import numpy as np
from measuring import cpu_host, measure_groups

KIT = Path(__file__).resolve().parent


def onnxruntime_loader(threads, provider, seed):
    import onnxruntime
    if provider not in onnxruntime.get_available_providers():
        sys.exit(f'provider {provider!r} is not in this onnxruntime; choose from '
                 + ', '.join(onnxruntime.get_available_providers()))

    def load(file):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry('session.force_spinning_stop', '1')
        session = onnxruntime.InferenceSession(str(KIT / file), options, providers=[provider])
        feed = {'x': np.random.default_rng(seed).standard_normal(session.get_inputs()[0].shape, np.float32)}
        return lambda: session.run(None, feed)

    return load, onnxruntime.__version__


def openvino_loader(threads, provider, seed):
    import openvino
    core = openvino.Core()

    def load(file):
        model = core.compile_model(core.read_model(KIT / file), provider, {
            'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': threads, 'NUM_STREAMS': 1,
            'PERFORMANCE_HINT': 'LATENCY'})
        request = model.create_infer_request()
        x = np.random.default_rng(seed).standard_normal(list(model.input(0).shape), np.float32)
        request.set_input_tensor(openvino.Tensor(x))
        return request.infer

    return load, openvino.__version__.split('-')[0]


LOADERS = {'onnxruntime': onnxruntime_loader, 'openvino': openvino_loader}
ON_CPU = {'onnxruntime': 'CPUExecutionProvider', 'openvino': 'CPU'}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--runtime', choices=LOADERS, default='onnxruntime')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--provider', help="of onnxruntime, e.g. XnnpackExecutionProvider; default: the CPU's")
    parser.add_argument('--seconds', type=float, default=60, help='about how long, without loading (default 60)')
    parser.add_argument('--out', default=str(KIT / 'results.json'), help='default: results.json beside this file')
    args = parser.parse_args()
    if args.threads < 1:
        sys.exit(f'--threads {args.threads} is too small; give 1 or more')
    listing = json.loads((KIT / 'list.json').read_text(encoding='utf-8'))
    provider = args.provider or ON_CPU[args.runtime]
    load, version = LOADERS[args.runtime](args.threads, provider, listing['task']['seed'])
    on_cpu = provider == ON_CPU[args.runtime]
    task = {
        **listing['task'], 'runtime': args.runtime, 'runtime_version': version,
        'processor': 'cpu' if on_cpu else provider, 'threads': args.threads,
        'wall': args.threads > 1 or not on_cpu, 'host': cpu_host()}
    try:
        measure_groups(listing['groups'], load, task, args.out, seconds=args.seconds)
    except ValueError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit('\nstopped; run the same command again to go on')
    print(f'done: bring back {args.out}')


if __name__ == '__main__':
    main()
