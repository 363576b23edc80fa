"""Published test errors of model families whose spectral tables are in ``ww-trends``.

Sources: torchvision's top-1 errors on ImageNet as in ``ww-trends/top1_errors.json`` (ResNet, VGG).
The families of pytorchcv: errors and parameter counts of the table in osmr/imgclsmob,
``pytorch/README.md`` at commit 27b264d09145; taken only where the weights were released before the
spectral tables were made (release v0.0.421 or earlier), so that error and spectrum belong together.
GPT-2: zero-shot perplexity on WikiText-103, Radford et al. 2019, table 3.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Member:
    """A model of a family: its name in the spectral table, depth, millions of parameters, error."""

    name: str
    depth: float
    params: float
    error: float


def _family(text: str) -> tuple[Member, ...]:
    rows = (line.split() for line in text.strip().splitlines())
    return tuple(
        Member(name=name, depth=float(depth), params=float(params), error=float(error))
        for name, depth, params, error in rows
    )


TORCHVISION = {
    "ResNet, ImageNet": _family("""
        resnet18 18 11.69 30.24
        resnet34 34 21.80 26.70
        resnet50 50 25.56 23.85
        resnet101 101 44.55 22.63
        resnet152 152 60.19 21.69"""),
    "VGG, ImageNet": _family("""
        vgg11 11 132.86 30.98
        vgg13 13 133.05 30.07
        vgg16 16 138.36 28.41
        vgg19 19 143.67 27.62"""),
    "VGG-BN, ImageNet": _family("""
        vgg11_bn 11 132.87 29.62
        vgg13_bn 13 133.05 28.45
        vgg16_bn 16 138.37 26.63
        vgg19_bn 19 143.68 25.76"""),
}
"""A table per model, a row per layer."""

GPT2 = _family("""
    gpt2_small 12 124.4 37.50
    gpt2_medium 24 354.8 26.37""")
"""Perplexity, not error; two members, no correlation."""

PYTORCHCV = {
    "ResNet, CIFAR-10": _family("""
        resnet20_cifar10 20 0.272 5.97
        resnet56_cifar10 56 0.856 4.52
        resnet110_cifar10 110 1.731 3.69
        resnet164bn_cifar10 164 1.704 3.68
        resnet272bn_cifar10 272 2.817 3.33
        resnet542bn_cifar10 542 5.599 3.43
        resnet1001_cifar10 1001 10.329 3.28
        resnet1202_cifar10 1202 19.424 3.53"""),
    "ResNet, CIFAR-100": _family("""
        resnet20_cifar100 20 0.278 29.64
        resnet56_cifar100 56 0.862 24.88
        resnet110_cifar100 110 1.737 22.80
        resnet164bn_cifar100 164 1.727 20.44
        resnet272bn_cifar100 272 2.840 20.07
        resnet542bn_cifar100 542 5.622 19.32
        resnet1001_cifar100 1001 10.352 19.79
        resnet1202_cifar100 1202 19.430 21.56"""),
    "ResNet, SVHN": _family("""
        resnet20_svhn 20 0.272 3.43
        resnet56_svhn 56 0.856 2.75
        resnet110_svhn 110 1.731 2.45
        resnet164bn_svhn 164 1.704 2.42
        resnet272bn_svhn 272 2.817 2.43
        resnet542bn_svhn 542 5.599 2.34
        resnet1001_svhn 1001 10.329 2.41"""),
    "SE-ResNet, CIFAR-10": _family("""
        seresnet20_cifar10 20 0.275 6.01
        seresnet56_cifar10 56 0.863 4.13
        seresnet110_cifar10 110 1.745 3.63
        seresnet164bn_cifar10 164 1.906 3.39
        seresnet272bn_cifar10 272 3.154 3.39"""),
    "SE-ResNet, CIFAR-100": _family("""
        seresnet20_cifar100 20 0.281 28.54
        seresnet56_cifar100 56 0.869 22.94
        seresnet110_cifar100 110 1.751 20.86
        seresnet164bn_cifar100 164 1.929 19.95
        seresnet272bn_cifar100 272 3.177 19.07"""),
    "PreResNet, ImageNet": _family("""
        preresnet10 10 5.417 35.11
        preresnet12 12 5.491 33.86
        preresnet14 14 5.787 32.64
        preresnetbc14b 14 10.057 31.29
        preresnet16 16 6.967 30.53
        preresnet18_wd4 18 3.936 40.06
        preresnet18_wd2 18 5.803 34.00
        preresnet18_w3d4 18 8.474 30.23
        preresnet18 18 11.688 28.43
        preresnet26 26 17.959 26.33
        preresnetbc26b 26 15.988 25.48
        preresnet34 34 21.796 24.89
        preresnetbc38b 38 21.918 22.92
        preresnet50 50 25.549 22.40"""),
    "EfficientNet b, ImageNet": _family("""
        efficientnet_b0b 0 5.289 23.88
        efficientnet_b1b 1 7.794 21.60
        efficientnet_b2b 2 9.110 20.31
        efficientnet_b3b 3 12.233 18.83
        efficientnet_b4b 4 19.342 17.45
        efficientnet_b5b 5 30.390 16.56
        efficientnet_b6b 6 43.041 16.29
        efficientnet_b7b 7 66.348 15.94"""),
    "HRNetV2, ImageNet": _family("""
        hrnetv2_w18 1 21.299 23.24
        hrnetv2_w30 1 37.712 21.80
        hrnetv2_w32 1 41.233 21.55
        hrnetv2_w40 1 57.557 21.07
        hrnetv2_w44 1 67.065 21.11
        hrnetv2_w48 1 77.470 20.69
        hrnetv2_w64 1 128.060 20.53"""),
    "DLA, ImageNet": _family("""
        dla46c 46 1.301 34.28
        dla46xc 46 1.068 33.26
        dla60 60 22.037 22.98
        dla60xc 60 1.320 30.98
        dla102 102 33.269 21.97
        dla102x 102 26.309 21.49
        dla102x2 102 41.282 20.55
        dla169 169 53.390 21.29"""),
    "DRN, ImageNet": _family("""
        drnc26 26 21.127 24.86
        drnc42 42 31.235 22.94
        drnc58 58 40.542 21.73
        drnd22 22 16.394 25.80
        drnd38 38 26.502 23.79
        drnd54 54 35.809 21.22
        drnd105 105 54.801 20.62"""),
    "ShuffleNet, ImageNet": _family("""
        shufflenet_g1_wd4 1 0.210 62.44
        shufflenet_g3_wd4 1 0.306 61.74
        shufflenet_g1_wd2 1 0.534 46.59
        shufflenet_g3_wd2 1 0.718 44.16
        shufflenet_g1_w3d4 1 0.975 39.58
        shufflenet_g3_w3d4 1 1.238 38.20
        shufflenet_g1_w1 1 1.532 34.93
        shufflenet_g2_w1 1 1.734 34.25
        shufflenet_g3_w1 1 1.866 34.39
        shufflenet_g4_w1 1 1.968 34.19
        shufflenet_g8_w1 1 2.435 34.06"""),
    "ESPNetv2, ImageNet": _family("""
        espnetv2_wd2 1 1.241 42.32
        espnetv2_w1 1 1.670 33.92
        espnetv2_w5d4 1 1.965 32.06
        espnetv2_w3d2 1 2.315 30.83
        espnetv2_w2 1 3.498 27.94"""),
    "SqueezeNext, ImageNet": _family("""
        sqnxt23_w1 23 0.724 42.51
        sqnxt23v5_w1 23 0.922 40.77
        sqnxt23_w3d2 23 1.512 34.89
        sqnxt23v5_w3d2 23 1.954 33.81
        sqnxt23_w2 23 2.584 30.62
        sqnxt23v5_w2 23 3.366 29.63"""),
}
"""A row of averages per model. Where depth is one number for all, only width differs; that of
EfficientNet is its index, which sets depth, width and resolution together."""
