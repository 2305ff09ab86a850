"""Images for training and judging: where they come from, how they are stored, changed and put into batches.

`splits`, `sources`, `huggingface`, `timm_readers`: from a name or a folder to splits with labels. `image_sets`: stored
squares and streams. `data`: the parts for training, comparing and testing. `augmentation`, `batches`: from stored
images to batches. A new source of images is a module beside `timm_readers`; a new augmentation goes to `augmentation`.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
