"""Pictures: whole files of the format that their name says, the same for the same data, with all that they show."""
import re
from dataclasses import replace

import numpy as np
import pytest
from hub_makers import SPACE, make_record
from PIL import Image

from timm_ofa.errors import InputError
from timm_ofa.hub.plots import (
    plot_architecture,
    plot_confusion,
    plot_fit,
    plot_front,
    plot_search,
    plot_training,
    shows_confusion,
)
from timm_ofa.hub.record import ClassAccuracy, FrontPoint

FRONT = [(1.0, 60.0), (2.0, 65.5), (3.5, 66.25)]
HISTORY = [(10, 61.0), (100, 65.0), (400, 66.25)]


def test_the_picture_of_a_search_shows_front_limit_baselines_and_progress(tmp_path):
    path = plot_search(FRONT, HISTORY, tmp_path / 'search.svg', cost='latency on a phone (ms)', limit=4,
                       baselines={'evolution': [(3.9, 65.0)]})
    again = plot_search(FRONT, HISTORY, tmp_path / 'again.svg', cost='latency on a phone (ms)', limit=4,
                        baselines={'evolution': [(3.9, 65.0)]})
    text = path.read_text()
    assert text.startswith('<?xml') and path.read_bytes() == again.read_bytes()
    for words in ('latency on a phone (ms)', 'best, 66.25 %', 'limit, 4', 'evolution', 'networks judged'):
        assert f'<!-- {words} -->' in text


def test_every_baseline_and_every_reference_is_drawn(tmp_path):
    names = [f'method {i}' for i in range(6)]
    text = plot_search(FRONT, HISTORY, tmp_path / 'search.svg', cost='ms',
                       baselines={name: [(3.0, 60.0)] for name in names}).read_text()
    points = make_record().front + tuple(FrontPoint(arch='x', top1_pct=1, latency_ms=1, label=name) for name in names)
    text += plot_front(make_record(front=points), tmp_path / 'front.svg').read_text()
    assert all(text.count(f'<!-- {name} -->') == 2 for name in names)


def test_the_picture_of_a_fit_says_its_error(tmp_path, rng):
    measured = rng.uniform(60, 70, 50)
    check = {'rmse_pct': 0.1234, 'kendall_tau': 0.912}
    path = plot_fit(measured + rng.normal(0, 0.1, 50), measured, tmp_path / 'fit.svg', check)
    assert '50 networks, held out' in path.read_text() and 'error 0.123 points, tau 0.912' in path.read_text()
    with Image.open(plot_fit(measured, np.sort(measured), tmp_path / 'fit.png', check)) as image:
        assert image.size == (720, 660)


def test_the_picture_of_a_training_names_its_phases_and_leaves_other_events_out(tmp_path):
    log = [dict(event='train', phase=phase, step=20 * i, loss=2.0 - 0.1 * i, lr=0.1)
           for i, phase in enumerate(['largest'] * 4 + ['kernel'] * 4)]
    log += [dict(event='phase', phase='kernel', top1_pct=70.0),
            dict(event='train', phase='kernel', step=9, loss='x', lr=1)]
    path = plot_training(log, tmp_path / 'training.svg')
    assert all(f'<!-- {words} -->' in path.read_text() for words in ('largest', 'kernel', 'learning rate', 'step'))


def test_a_confusion_matrix_sorts_its_classes_by_name_and_counts_images(tmp_path):
    classes = [ClassAccuracy.of(f'class {i}', {f'class {i}': 30 + i, f'class {(i + 1) % 11}': 3}) for i in range(11)]
    record = make_record(num_classes=11, class_names=tuple(c.name for c in classes), per_class=tuple(classes[::-1]))
    text = plot_confusion(record, tmp_path / 'confusion.svg').read_text()
    words = re.findall('<!-- (.*) -->', text)
    assert words.index('class 9  93 %') < words.index('class 10  93 %') and words.count('3') == 11 and '40' in words
    many = [ClassAccuracy.of(str(i), {str(i): 1}) for i in range(101)]
    assert shows_confusion(replace(record, per_class=tuple(many[:100])))
    assert not shows_confusion(replace(record, per_class=tuple(many))) and not shows_confusion(make_record())


def test_the_largest_kernels_share_a_shade(tmp_path):
    """Only a network that a space was read off may have them."""
    space = replace(SPACE, stages=tuple(replace(stage, kernel_sizes=(9, 11, 13)) for stage in SPACE.stages))
    arch = space.max_arch()
    drawn = plot_architecture(make_record(space=space, arch=arch), tmp_path / 'architecture.svg').read_text()
    assert '<!-- 13x13 -->' in drawn


def test_another_format_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(InputError, match=r"'.*search.pdf' must end in .svg or .png"):
        plot_search(FRONT, HISTORY, tmp_path / 'search.pdf', cost='ms')
    assert list(tmp_path.iterdir()) == []
