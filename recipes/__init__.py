"""Ready-made recipes as data files, and the models, data, fine-tuning and command line that run them.

Importing this package imports neither timm nor torchvision: `surgery --help` must answer at once.
"""
