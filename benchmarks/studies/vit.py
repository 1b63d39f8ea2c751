"""Activations in a small vision transformer with 4 x 4 patches on CIFAR-10, from scratch.

Needs the folder that SURGERY_DATA names. From the root of the repository:

    SURGERY_DATA=FOLDER python -m benchmarks.studies.vit --protocol reduced
"""

from benchmarks.studies.jobs import Protocol, by_name
from benchmarks.studies.networks import Arm, Study
from recipes.settings import Finetune
from surgery import swap

ARMS = {
    "gelu": Arm("GELU, as it is", trained=False),
    "pwlu": Arm("PWLU, which begins as GELU", swap("pwlu", activation="gelu"), trained=False, control="gelu"),
    "relu": Arm("ReLU", swap("relu", activation="gelu"), trained=False, control="gelu"),
    "swish": Arm("Swish", swap("swish", activation="gelu", start="own"), trained=False, control="gelu"),
}
PROTOCOLS = by_name(
    Protocol("smoke", images=256, test_images=250, epochs=1, seeds=1),
    Protocol("reduced", images=8192, test_images=10_000, epochs=6, seeds=3),
    Protocol("full", images=50_000, test_images=10_000, epochs=100, seeds=5),
)
STUDY = Study(
    "vit_tiny", "Activations of a ViT-tiny (CIFAR-10)", "timm/vit_tiny_patch16_224", ARMS, PROTOCOLS,
    fresh=Finetune(opt="adamw", batch_size=128, lr=1e-3, weight_decay=0.05, warmup_epochs=1),
    kwargs={"num_classes": 10, "img_size": 32, "patch_size": 4},
)  # fmt: skip

if __name__ == "__main__":
    STUDY.main(__doc__)
