"""Published folders: a saved one loads bit for bit, and a changed or hostile one is refused."""
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import timm
import torch
from hub_makers import NAME, SPACE, edit, make_model, make_record

from timm_ofa.errors import InputError
from timm_ofa.files import put_in_place
from timm_ofa.hub.folder import FILES, PLOT, check_folder, load_record
from timm_ofa.hub.publishing import publish
from timm_ofa.hub.record import Calibration, Record, Search, SessionCost, Training
from timm_ofa.hub.saving import save_folder, update_folder
from timm_ofa.hub.upstream import save_released
from timm_ofa.networks import new_supernet


def test_a_saved_folder_loads_through_timm_bit_for_bit(folder):
    record = make_record()
    x = torch.randn(2, 3, record.arch.resolution, record.arch.resolution)
    loaded = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    assert torch.equal(loaded(x), make_model(record)(x))
    assert loaded.pretrained_cfg['label_names'] == list('abcd')
    assert timm.data.resolve_model_data_config(loaded)['mean'] == list(SPACE.mean)
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES[:6])


def test_the_rate_of_dropout_comes_back_with_the_folder(tmp_path):
    record = make_record()
    model = make_model(record)
    model.drop_rate = 0.2
    folder = save_folder(tmp_path / NAME, model, record)
    assert timm.create_model(f'local-dir:{folder}', pretrained=True).drop_rate == 0.2
    assert check_folder(folder) == record


def test_a_record_survives_the_folder(folder):
    assert load_record(folder) == make_record()


def test_the_same_network_gives_the_same_bytes(folder, tmp_path):
    again = save_folder(tmp_path / NAME, make_model(make_record()), make_record())
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_folder_is_replaced_whole_and_leaves_no_rubbish(tmp_path):
    record = make_record()
    for seed in (0, 1):
        save_folder(tmp_path / NAME, make_model(record, seed), record)
    x = torch.randn(1, 3, 32, 32)
    loaded = timm.create_model(f'local-dir:{tmp_path / NAME}', pretrained=True).eval()
    assert torch.equal(loaded(x), make_model(record, 1)(x))
    assert [p.name for p in tmp_path.iterdir()] == [NAME]


def test_two_who_write_one_folder_at_once_leave_a_whole_one(tmp_path):
    def write(who):
        for turn in range(30):
            new = tmp_path / f'{who}-{turn}' / 'new'
            new.mkdir(parents=True)
            for part in 'ab':
                (new / part).write_text(str(who))
            put_in_place(new, tmp_path / 'net')

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    a, b = sorted((tmp_path / 'net').iterdir())
    assert (a.name, b.name) == ('a', 'b') and a.read_text() == b.read_text()


def test_a_foreign_folder_is_not_replaced(tmp_path):
    (tmp_path / 'thesis.tex').write_text('years of work')
    with pytest.raises(InputError, match='holds something else'):
        save_folder(tmp_path, make_model(make_record()), make_record())
    assert (tmp_path / 'thesis.tex').exists()


def test_a_network_does_not_replace_a_supernet_nor_a_supernet_a_network(tmp_path, supernet, folder):
    run = tmp_path / 'run'
    shutil.copytree(supernet, run)
    with pytest.raises(InputError, match='holds something else'):
        save_folder(run, make_model(make_record()), make_record())
    assert (run / 'checkpoints').is_dir()
    with pytest.raises(InputError, match='holds something else'):
        save_released(folder, new_supernet(SPACE), {})
    check_folder(folder)
    with pytest.raises(InputError, match='holds the run of a training'):
        save_released(run, new_supernet(SPACE), {})
    assert (run / 'checkpoints').is_dir()


def test_a_model_that_is_not_the_arch_is_refused(tmp_path):
    other = make_record(arch=SPACE.max_arch())
    with pytest.raises(InputError, match='has the shape'):
        save_folder(tmp_path / 'x', make_model(other), make_record())
    assert not list(tmp_path.iterdir())


def test_a_model_that_computes_something_else_is_refused(tmp_path):
    model = make_model(make_record())
    model.act2 = torch.nn.Identity()
    with pytest.raises(InputError, match='differs by'):
        save_folder(tmp_path / 'x', model, make_record())


def test_a_space_of_ones_own_travels_in_the_folder(tmp_path):
    space = replace(SPACE, name='my_space', num_features=64)
    record = make_record(space=space)
    save_folder(tmp_path / 'x', make_model(record), record)
    assert load_record(tmp_path / 'x').space == space


def test_a_record_of_the_least_and_of_the_largest_values_is_read_as_it_was_written():
    first = make_record().measurements[0]
    least = replace(first, threads=0, num_classes=1, latency_ms=0.0, p50_ms=0.0, p90_ms=0.0, n=0, energy_mj=0.0,
                    peak_memory_mb=0.0)
    largest = replace(first, precision='p' * 20, runtime='r' * 60, latency_ms=1e7, energy_mj=1e9, peak_memory_mb=1e9)
    record = make_record(
        measurements=(least, largest), calibration=Calibration(images=0, batch_size=0), finetune_epochs=0,
        training=Training(seconds=0.0, hardware='x', gpu_hours=0.0, co2_g=0.0, images_seen=0,
                          sessions=(SessionCost(seconds=0.0, hardware='x'),)),
        search=Search(limit='x', seed=0, profile_error_pct=0.0, predictor_error_pct=0.0))
    assert record.check() == record
    for change in (dict(precision='p' * 21), dict(runtime='r' * 61), dict(batch_size=0), dict(num_classes=0)):
        with pytest.raises(InputError):
            make_record(measurements=(replace(first, **change),)).check()


@pytest.mark.parametrize(('field', 'value', 'message'), [
    ('name', '../etc', 'does not match'),
    ('space', '/etc/passwd.json', 'is not known'),
    ('device', 'My CPU', 'does not match'),
    ('num_classes', 10**9, 'out of range'),
    ('top1_pct', float('nan'), 'out of range'),
    ('top1_pct', '82', 'not a number'),
    ('limit_ms', -1, 'out of range'),
    ('device_name', 'x' * 201, 'up to 200'),
    ('device_name', 'a\nb', 'cannot be shown'),
    ('measurements', [{'device': 'x'}], 'missing'),
    ('measurements', 'none', 'not a list'),
    ('class_names', ['a'], 'entries'),
    ('accuracy', None, 'accuracy'),
    ('supernet', {'id': 'x', 'exec': 'y'}, 'unknown'),
    ('front', [{'arch': 'r999', 'top1_pct': 1, 'latency_ms': 1}], 'cannot be read'),
    ('surprise', 1, 'unknown'),
])
def test_a_hostile_record_is_one_line(field, value, message):
    with pytest.raises(InputError, match=message) as caught:
        Record.from_dict({**make_record().to_dict(), field: value})
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(('file', 'change', 'message'), [
    ('config.json', lambda d: d.update(architecture='resnet50'), 'architecture'),
    ('config.json', lambda d: d['model_args']['arch_def'][1].append('ir_r1_k3_s1_e4_c24_nre'), 'arch_def'),
    ('config.json', lambda d: d['model_args'].update(checkpoint_path='/x'), 'checkpoint_path'),
    ('config.json', lambda d: d['timm_ofa']['arch'].update(resolution=10**6), 'out of range'),
    ('config.json', lambda d: d.pop('timm_ofa'), 'no .timm_ofa. block'),
    ('config.json', lambda d: d['timm_ofa'].update(format=99), 'upgrade'),
    ('perf.json', lambda d: d.update(name='other'), 'is of'),
    ('perf.json', lambda d: d.update(model_sha256='0' * 64), 'perf.json was written for'),
    ('config.json', lambda d: d['timm_ofa'].update(model_sha256='0' * 64), 'config.json was written for'),
])
def test_a_changed_folder_is_refused(copied, file, change, message):
    edit(copied / file, change)
    with pytest.raises(InputError, match=message):
        check_folder(copied)


def test_a_folder_with_a_pickle_is_refused(copied):
    (copied / 'pytorch_model.bin').write_bytes(b'x')
    with pytest.raises(InputError, match='pickles can run code'):
        publish(copied, dry_run=True)


def test_broken_weights_are_refused(copied):
    (copied / 'model.safetensors').write_bytes(b'\xff' * 100)
    with pytest.raises(InputError, match='cannot be read'):
        check_folder(copied)


def test_pictures_are_drawn_again_only_if_they_would_show_something_new(copied):
    front, before = copied / PLOT, (copied / PLOT).read_bytes()
    front.write_text('drawn before')
    record = load_record(copied)
    update_folder(copied, lambda now: replace(now, measurements=now.measurements[:1]))
    assert front.read_text() == 'drawn before' and len(load_record(copied).measurements) == 1
    front.unlink()
    update_folder(copied, lambda now: replace(now, measurements=record.measurements))
    assert front.read_bytes() == before
    update_folder(copied, lambda now: replace(now, limit_ms=1.9))
    assert front.read_bytes() != before


def test_two_that_save_a_latency_at_once_both_keep_it(copied):
    """As two `measure --save`: each reads the folder, waits for the other, and writes."""
    waiting = threading.Barrier(4)

    def add(ms: float) -> None:
        waiting.wait(30)
        update_folder(copied, lambda record: slowly(record, ms))

    def slowly(record: Record, ms: float) -> Record:
        time.sleep(0.05)
        new = replace(record.measurements[0], device=f'device-{ms:g}', latency_ms=ms, p50_ms=ms)
        return replace(record, measurements=(*record.measurements, new))

    threads = [threading.Thread(target=add, args=(ms,)) for ms in (3.0, 4.0, 5.0, 6.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {m.device for m in check_folder(copied).measurements} == {'my-cpu', *(f'device-{ms}' for ms in (3, 4, 5, 6))}
    assert not [path for path in copied.iterdir() if path.name.startswith('.')]
