"""BP(lambda): M in time learns by eligibility traces (Pemberton and Costa 2024)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call, jacrev, vmap

from common.synthesizers.time.regression import TimeSynthesizer


class Traces:
    """Eligibility traces of M: how the predictions at all past states depend on M's parameters.

    With d_b the error of M at the start of window b against its bootstrapped target, and J_b the derivative
    of the state at the end of window b in the state at its start, the target of lambda is, as a row,

        G_b - M(s_b) = d_b + decay d_{b+1} J_b + decay^2 d_{b+2} J_{b+1} J_b + ...

    so the step on d_b e_b, with e_b = decay J_{b-1} e_{b-1} + dM(s_b)/d theta, takes every target into
    account as soon as its terms are known. decay = 0 is M's plain regression; decay = 1 learns the gradient
    of full back-propagation without a bootstrap. Memory: B S P numbers, P the parameters of M; time: S^2 B P.

    Args:
        module: M.
        decay: lambda, times the discount if there is one.
    """

    def __init__(self, module: TimeSynthesizer, decay: float) -> None:
        self._module = module
        self._decay = decay
        self._trace: Tensor | None = None

    def learn(self, state: Tensor, delta: Tensor, jacobian: Tensor) -> Tensor:
        """Add the gradient of window b to M's `.grad`s, scaled as that of `TimeSynthesizer.learn`.

        Args:
            state: (B, S) at the start of the window.
            delta: (B, S), the bootstrapped target at that state.
            jacobian: (B, S, S), J_b.

        Returns:
            (1/B) sum over the batch of ||d_b||^2, a detached scalar.
        """
        derivative = self._derivative(state.detach())
        self._trace = derivative if self._trace is None else self._trace.add_(derivative)
        error = delta.detach() - self._module.gradient(state)
        step = torch.einsum("bs,bsp->p", error, self._trace) * (-2 / len(state))
        self._accumulate(step)
        self._trace = self._decay * (jacobian @ self._trace)
        return error.square().sum() / len(state)

    def _derivative(self, state: Tensor) -> Tensor:
        """Return dM(s)/d theta, (B, S, P), parameters in module order."""
        parameters = {name: each.detach() for name, each in self._module.named_parameters()}

        def predict(values: dict[str, Tensor], row: Tensor) -> Tensor:
            out: Tensor = functional_call(self._module, values, (row,))
            return out

        by_name = vmap(jacrev(predict), in_dims=(None, 0))(parameters, state)
        return torch.cat([by_name[name].flatten(2) for name in parameters], 2)

    def _accumulate(self, step: Tensor) -> None:
        parameters = list(self._module.parameters())
        parts = torch.split(step, [each.numel() for each in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            part = part.view_as(parameter)
            parameter.grad = part.clone() if parameter.grad is None else parameter.grad.add_(part)
