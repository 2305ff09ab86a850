"""Libraries that others wrote read our folders and networks: transformers, segmentation models, Lightning, fastai."""
import json

import numpy as np
import pytest
import timm
import torch
from hub_makers import edit, make_model, make_record
from PIL import Image

from timm_ofa.hub.folder import CONFIG, WEIGHTS, check_folder
from timm_ofa.hub.record import Record
from timm_ofa.hub.saving import save_folder
from timm_ofa.networks import ENTRY_POINTS, model_args, new_supernet
from timm_ofa.spaces import load_space
from timm_ofa.training import save_supernet

pytestmark = pytest.mark.filterwarnings('ignore')  # theirs
NAMES = ['cat', 'dog', 'owl']


@pytest.fixture(scope='module', params=['ofa_mbv3_tiny', 'ofa_proxyless_w13', 'ofa_resnet_tiny', 'supernet'])
def saved(request, tmp_path_factory):
    """A folder of each family, and of a supernet; its network and the side of its images (px)."""
    folder = tmp_path_factory.mktemp('saved') / 'net'
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if request.param == 'supernet':
            space = load_space('ofa_mbv3_tiny').restrict(resolutions=[20, 24])
            model = new_supernet(space, num_classes=3).eval()
            save_supernet(model, folder, dict(data='pets', class_names=NAMES))
            return folder, model, 24
        space = load_space(request.param)
        arch = space.min_arch()
        model = timm.create_model(ENTRY_POINTS[space.family], num_classes=3, **model_args(space, arch)).eval()
    record = Record(name='net', space=space, arch=arch, num_classes=3, class_names=tuple(NAMES), code_version='0.1.0')
    return save_folder(folder, model, record), model, arch.resolution


def pixels(side: int) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_the_arguments_in_a_folder_are_those_that_timm_could_not_know(saved):
    args = json.loads((saved[0] / CONFIG).read_text())['model_args']
    assert args and not {'num_classes', 'in_chans', 'global_pool'} & set(args)


def test_transformers_loads_a_folder_saves_it_and_loads_it_again_with_the_same_logits_and_labels(saved, tmp_path):
    transformers = pytest.importorskip('transformers', reason='needs transformers')
    folder, model, side = saved
    x = pixels(side)
    for place in (folder, tmp_path / 'again'):
        loaded = transformers.AutoModelForImageClassification.from_pretrained(place).eval()
        with torch.inference_mode():
            torch.testing.assert_close(loaded(pixel_values=x).logits, model(x), rtol=1e-5, atol=1e-6)
        assert loaded.config.id2label == dict(enumerate(NAMES))
        loaded.save_pretrained(tmp_path / 'again')
    back = timm.create_model(f'local-dir:{tmp_path}/again', pretrained=True).eval()
    with torch.inference_mode():
        torch.testing.assert_close(back(x), model(x), rtol=1e-5, atol=1e-6)


def test_the_pipeline_of_transformers_says_what_timm_says(saved):
    transformers = pytest.importorskip('transformers', reason='needs transformers')
    folder, model, _ = saved
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (61, 50, 3), dtype=np.uint8))
    loaded = timm.create_model(f'local-dir:{folder}', pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(loaded))
    with torch.inference_mode():
        expected = model(transform(photo)[None]).softmax(-1)[0].tolist()
    found = {f['label']: f['score'] for f in transformers.pipeline('image-classification', str(folder))(photo)}
    assert found == {name: pytest.approx(p, abs=1e-4) for name, p in zip(NAMES, expected)}


def test_a_folder_that_repeats_its_classes_as_earlier_ones_did_is_still_read(tmp_path):
    record = make_record()
    folder = save_folder(tmp_path / 'net', make_model(record), record)
    edit(folder / CONFIG, lambda d: d['model_args'].update(num_classes=4, in_chans=3, global_pool='avg'))
    assert check_folder(folder) == record
    assert timm.create_model(f'local-dir:{folder}', pretrained=True).num_classes == 4 and (folder / WEIGHTS).is_file()


@pytest.mark.parametrize('decoder', [
    'unet', 'unetplusplus', 'manet', 'linknet', 'fpn', 'pspnet', 'deeplabv3', 'deeplabv3plus', 'upernet', 'segformer'])
def test_a_named_network_is_an_encoder_of_segmentation_models(decoder):
    smp = pytest.importorskip('segmentation_models_pytorch', reason='needs segmentation_models_pytorch')
    model = smp.create_model(decoder, encoder_name='tu-ofa_mbv3_note10_lat8ms', encoder_weights=None, classes=3).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3, 64, 64)


def test_lightning_trains_a_network(tmp_path):
    lightning = pytest.importorskip('lightning', reason='needs lightning')

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = timm.create_model('ofa_mobilenetv3', num_classes=3)

        def training_step(self, batch, _):
            return nn_loss(self.network(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    module = Module()
    before = module.network.conv_stem.weight.clone()
    trainer = lightning.Trainer(
        max_steps=1, accelerator='cpu', logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path)
    trainer.fit(module, torch.utils.data.DataLoader(images(), batch_size=4))
    assert not torch.equal(module.network.conv_stem.weight, before)


def test_fastai_trains_a_network_by_its_name():
    pytest.importorskip('fastai', reason='needs fastai')
    from fastai.vision.all import DataLoaders, vision_learner

    loaders = DataLoaders.from_dsets(images(), images(), bs=4, num_workers=0)
    learner = vision_learner(
        loaders, 'ofa_mobilenetv3', pretrained=False, n_out=3, loss_func=nn_loss, normalize=False)
    with learner.no_bar(), learner.no_logging():
        learner.fit(1)
    assert learner.model(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


def nn_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits, labels)


def images() -> torch.utils.data.TensorDataset:
    return torch.utils.data.TensorDataset(torch.randn(8, 3, 64, 64), torch.arange(8) % 3)
