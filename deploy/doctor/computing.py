"""Checks of torch and CUDA, in child processes, since torch may crash or hang."""

from __future__ import annotations

import warnings

from common.cores import count_cores
from common.versions import lowest_versions, release_numbers
from deploy.doctor.findings import Verdict, failed, ok, warning
from deploy.doctor.setup import Setup

_DRIVER = "proc/driver/nvidia/version"


def examine_torch(setup: Setup) -> Verdict:
    """Import torch, compute a product, and count the threads."""
    import torch

    from common.models.threads import use_allowed_cores

    use_allowed_cores()
    version, lowest = str(torch.__version__), lowest_versions().get("torch", "0")
    if release_numbers(version) < release_numbers(lowest):
        return failed(f"torch {version} is older than {lowest}", f"pip install 'torch>={lowest}'")
    if float(torch.ones(64, 64).matmul(torch.ones(64, 64)).sum()) != 64**3:
        return failed(f"torch {version} computes a wrong product", "install another build of torch")
    threads, cores = torch.get_num_threads(), count_cores(setup.root)
    if threads > cores:
        return warning(
            f"torch {version} computes with {threads} threads on {cores} cores",
            "unset OMP_NUM_THREADS or lower it",
        )
    return ok(f"torch {version}, threads: {threads}")


def examine_cuda(setup: Setup) -> Verdict:
    """Check the driver against the build of torch, and compute on every GPU."""
    import torch

    driver = (setup.root / _DRIVER).exists()
    if torch.version.cuda is None:
        if driver:
            return warning(
                "this machine has an NVIDIA driver, but torch is a build without CUDA",
                "install a CUDA build of torch, or train on the CPU with --device cpu",
            )
        return ok("no GPU, and a build of torch without CUDA")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not devices:
        return _without_device(torch.version.cuda, driver, [str(each.message) for each in caught])
    for number in range(devices):
        if float(torch.ones(8, device=f"cuda:{number}").sum()) != 8:
            return failed(
                f"cuda:{number} computes a wrong sum", f"leave it out: --device cuda:N, N != {number}"
            )
    names = ", ".join(torch.cuda.get_device_name(number) for number in range(devices))
    return ok(f"{names}; torch is built for CUDA {torch.version.cuda}")


def _without_device(cuda: str, driver: bool, reasons: list[str]) -> Verdict:
    if not driver:
        return ok(f"no GPU; torch is built for CUDA {cuda}")
    reason = " ".join(" ".join(reasons).split()) or "torch sees no device"
    return failed(
        f"the NVIDIA driver does not serve torch's build for CUDA {cuda}: {reason}",
        "update the driver, install a build of torch for its CUDA, or train with --device cpu",
    )
