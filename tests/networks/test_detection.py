"""A subnet as the backbone of a torchvision detector: trained, exported to ONNX, run there."""
import warnings

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, box_iou

from timm_ofa import load_space
from timm_ofa.networks import ENTRY_POINTS, model_args

onnxruntime = pytest.importorskip('onnxruntime')

SIDE, SQUARE = 64, 24  # px
STEPS = {'ofa_mbv3_tiny': 75, 'ofa_proxyless_w13': 50, 'ofa_resnet_tiny': 75}  # space -> steps of training


class Pyramid(nn.Module):
    """Images (N, 3, H, W) -> maps of 32 channels by name, from the levels of a backbone that has `feature_info`."""
    out_channels = 32

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.fpn = FeaturePyramidNetwork(backbone.feature_info.channels(), self.out_channels)

    def forward(self, x):
        return self.fpn({str(level): features for level, features in enumerate(self.backbone(x))})


def squares():
    """Noise images (3, SIDE, SIDE), and the box of the bright square in each."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, SIDE, SIDE, generator=generator) / 4
    boxes = []
    for image in images:
        x, y = torch.randint(4, SIDE - SQUARE - 4, (2,), generator=generator).tolist()
        image[:, y:y + SQUARE, x:x + SQUARE] += 0.7
        boxes.append(torch.tensor([[x, y, x + SQUARE, y + SQUARE]], dtype=torch.float32))
    return images, [{'boxes': box, 'labels': torch.ones(1, dtype=torch.int64)} for box in boxes]


@torch.no_grad()
def saved_subnet(space, folder):
    """A folder with a subnet whose BatchNorm statistics are those of some images, as timm saves it, and the subnet."""
    torch.manual_seed(0)
    model = timm.create_model(ENTRY_POINTS[space.family], **model_args(space, space.min_arch()))
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()(torch.rand(8, 3, SIDE, SIDE))
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return model.eval()


@pytest.fixture(scope='module', params=STEPS)
def backbone(request, tmp_path_factory):
    """The last two or three levels, reduction 4 and more, of a saved network that is loaded for its features; steps."""
    folder = tmp_path_factory.mktemp(request.param)
    model = saved_subnet(load_space(request.param), folder)
    reductions = [info['reduction'] for info in model.feature_info]
    levels = [i for i, reduction in enumerate(reductions) if reduction >= 4][:3]
    backbone = timm.create_model(f'local-dir:{folder}', pretrained=True, features_only=True, out_indices=levels).eval()
    with torch.no_grad():
        expected = model.forward_intermediates(images := torch.rand(1, 3, SIDE, SIDE), indices=levels)[1]
        assert all(torch.equal(a, b) for a, b in zip(backbone(images), expected, strict=True))
    return timm.layers.freeze_batch_norm_2d(backbone), STEPS[request.param]


@pytest.fixture(scope='module')
def detector(backbone):
    """A detector that has learned to find the squares, and its losses."""
    network, steps = backbone
    torch.manual_seed(0)
    anchors = AnchorGenerator(((16, 24, 32),) * len(network.feature_info.channels()), ((1.0,),) * 3)
    model = RetinaNet(
        Pyramid(network), num_classes=2, anchor_generator=anchors, min_size=SIDE, max_size=SIDE, detections_per_img=5)
    images, targets = squares()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, betas=(0.9, 0.99))
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=10)
    losses = []
    for _ in range(steps):
        loss = sum(model(list(images), targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        warmup.step()
        losses.append(loss.item())
    return model.eval(), losses


@torch.no_grad()
def test_a_detector_on_a_subnet_learns_a_fixed_batch(detector):
    model, losses = detector
    images, targets = squares()
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    for found, target in zip(model(list(images)), targets):
        assert len(found['boxes']) and box_iou(found['boxes'][:1], target['boxes']) > 0.5


@torch.no_grad()
def test_it_finds_the_same_in_onnx_runtime(detector, tmp_path):
    model, _ = detector
    images, _ = squares()
    file = tmp_path / 'detector.onnx'
    with warnings.catch_warnings():  # the exporter that needs no other package is deprecated, and traces
        warnings.simplefilter('ignore')
        torch.onnx.export(
            model, ([images[0]],), file, dynamo=False, opset_version=17,
            input_names=['image'], output_names=['boxes', 'scores', 'labels'])
    session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
    for image in images:
        expected = model([image])[0]
        boxes, scores, labels = session.run(None, {'image': image.numpy()})
        np.testing.assert_allclose(scores, expected['scores'], atol=1e-5)
        np.testing.assert_allclose(boxes, expected['boxes'], atol=1e-3)  # px
        assert labels.tolist() == expected['labels'].tolist() and len(labels)
