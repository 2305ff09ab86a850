"""Latency tables as CSV: what is read, what is refused by its line."""
import pytest

from timm_ofa.devices.conditions import Conditions
from timm_ofa.devices.csvtables import import_csv
from timm_ofa.devices.profile import RowCost
from timm_ofa.errors import InputError
from timm_ofa.spaces.shelf import load_space


@pytest.fixture(scope='module')
def space():
    return load_space('ofa_mbv3_tiny')


@pytest.fixture(scope='module')
def keys(space):
    return [row.key for px in (20, 32) for row in space.all_rows(px)]


def imported(path, space, **kwargs):
    return import_csv(path, space, device='my-phone', runtime='tflite', **kwargs)


def test_a_table_prices_the_resolutions_that_it_holds_whole(tmp_path, space, keys):
    path = tmp_path / 'table.csv'
    path.write_text('row,ms\n' + ''.join(f'{key},0.25\n' for key in keys))
    profile = imported(path, space, overhead_ms=0.5, statistic='median', device_name='My Phone')
    arch = space.max_arch(32)
    assert profile.resolutions(space) == (20, 32)
    assert profile.latency_ms(space, [arch]) == pytest.approx([0.5 + 0.25 * len(space.rows(arch))])
    assert profile.protocol['statistic'] == 'median' and profile.device_name == 'My Phone' and profile.check is None


def test_the_conditions_that_somebody_tells_are_kept_and_others_stay_unknown(tmp_path, space):
    path = tmp_path / 'table.csv'
    path.write_text('row,ms\n' + ''.join(f'{row.key},0.25\n' for row in space.all_rows(20, 100)))
    profile = imported(path, space, num_classes=100, threads=4, batch_size=8, processor='GPU', precision='fp16')
    assert profile.name == 'my-phone-tflite-ofa-mbv3-tiny-gpu-fp16-4t-b8-c100'
    assert profile.conditions == Conditions(
        device='my-phone', runtime='tflite', provider='GPU', precision='fp16', threads=4, batch_size=8, num_classes=100)
    assert imported(path, space, num_classes=100).conditions.unknown_fields() == ['provider', 'precision', 'threads']
    assert imported(path, space, num_classes=100, resolutions=[20]).resolutions(space) == (20,)
    with pytest.raises(InputError, match=r'at 24 px \d+ rows are missing'):
        imported(path, space, num_classes=100, resolutions=[20, 24])
    with pytest.raises(InputError, match="precision: 'banana' is unknown; choose from fp32"):
        imported(path, space, num_classes=100, precision='banana')
    named = import_csv(path, space, device='my-phone', runtime='TF Lite', num_classes=100)
    assert (named.name, named.runtime) == ('my-phone-tf-lite-ofa-mbv3-tiny-c100', 'TF Lite')
    for name in ('My Phone', 'x' * 199):
        with pytest.raises(InputError, match=r"table table\.csv: (device|name): '.* is not a slug"):
            import_csv(path, space, device=name, runtime='tflite', num_classes=100)
    with pytest.raises(InputError, match='is no row of ofa_mbv3_tiny'):
        imported(path, space)


def test_median_count_and_a_price_at_one_resolution_are_kept(tmp_path, space, keys):
    path = tmp_path / 'table.csv'
    lines = [f'"{key}",0.25,0.3,20' for key in keys] + [f'{keys[0]}@20,0.75,,']
    path.write_text('\ufeffrow,ms,p50_ms,n\r\n' + '\r\n'.join(lines) + '\r\n', encoding='utf-8')
    table = imported(path, space).table
    assert (table[keys[1]], table[f'{keys[0]}@20']) == (RowCost(0.25, 0.3, 20), RowCost(0.75, None, 1))


@pytest.mark.parametrize('line, message', [
    ('KEY,-1', "row 'KEY': ms: -1.0 is not"), ('KEY,nan', "row 'KEY': ms: nan"), ('KEY,x', "line 5: 'KEY, x' is not"),
    ('stem,1', "line 5: 'stem' is no row of ofa_mbv3_tiny"), ('FIRST,1', "line 5: 'FIRST' is given twice"),
    ('KEY', 'line 5 does not have 2 values'), ('KEY@20px,1', "line 5: 'KEY@20px' is no row of ofa_mbv3_tiny"),
    ('KEY@9999,1', "line 5: 'KEY@9999' is no row of ofa_mbv3_tiny"),
    (None, 'at 20 px 1 rows are missing, the first is KEY; add them')])
def test_a_bad_line_is_named(tmp_path, space, keys, line, message):
    keys = keys[:len(space.all_rows(20))]
    lines = ['row,ms', *(f'{key},0.25' for key in keys)]
    lines[4:5] = [line.replace('KEY', keys[3]).replace('FIRST', keys[0])] if line else []
    path = tmp_path / 'table.csv'
    path.write_text('\n'.join(lines))
    with pytest.raises(InputError) as error:
        imported(path, space)
    assert message.replace('KEY', keys[3]).replace('FIRST', keys[0]) in str(error.value)
    assert 'table.csv' in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('text, message', [
    ('', 'line 1'), ('row,us\n', 'row, us.* are not the columns; write row,ms,p50_ms,n'),
    ('row,ms,ms\n', 'are not the columns'),
    ('row,ms\n', 'is not an object of rows')])
def test_another_file_is_refused(tmp_path, space, text, message):
    path = tmp_path / 'table.csv'
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        imported(path, space)
    path.unlink()
    with pytest.raises(InputError, match=r'table\.csv cannot be read'):
        imported(path, space)
