"""What is known of a finished network, the folder that holds it, and its way to the Hugging Face Hub and back.

- `record`: all that is known of a network or a supernet; `configs`, `ofa`: the named models of `hub_configs/`;
  `checkpoints`: where their weights come from; `pins`: that these do not change unseen; `making`: weights that nobody
  has published
- `finishing`: a search result becomes a network with its record; `upstream`: so does a release of the paper's authors
- `fronts`, `timing`: what a search found, and which of it is measured within the limit; `measurements`, `cost`: figures
  of the record
- `folder`, `saving`: a network's folder is checked, is written; `supernets`: the same for trained supernets
- `metadata`, `card`, `plots`: what the Hub indexes of it, what people read, pictures
- `client`, `outgoing`, `publishing`, `device_collections`: the way to the Hub; `fetching`, `listing`,
  `catalog_page`: the way back
- `profiles`: device profiles on the Hub; `releasing`: every model of `hub_configs/` to the Hub

A new published model is a file in `hub_configs/`. A new field is a field in `record` and a line in `templates/`.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
