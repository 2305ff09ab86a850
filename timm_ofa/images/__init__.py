"""Images for training and judging: where they come from, how they are stored, changed and put into batches.

- `sources`, `splits`, `huggingface`, `timm_readers`, `folders`: from a name or a folder to splits with labels
- `decoding`, `image_sets`: from encoded images to stored squares
- `data`: the parts for training, comparing and testing; `checking`: what is said of them before a training
- `augmentation`, `batches`: from stored images to batches; `calibration`: images for BatchNorm statistics

A new source of images is a module beside `timm_readers`; a new augmentation goes to `augmentation`.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
