"""Fashion-MNIST, 28x28 articles of clothing (Xiao et al. 2017)."""

from __future__ import annotations

from common.data.published import describe_idx

PUBLISHED = describe_idx(
    "fashion-mnist",
    homes=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    md5s=(
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
    mean=0.2860,
    std=0.3530,
)
load = PUBLISHED.load
