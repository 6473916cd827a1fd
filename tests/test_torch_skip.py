"""The PyTorch network of the benchmarks is the 2018 network."""

import numpy as np
import pytest

from tests.architectures.golden import (
    ENTRIES,
    SKIP_NAMES,
    config_from_2018,
    load_arrays,
    load_state,
)

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("name", SKIP_NAMES)
def test_output_and_training_of_the_network_are_those_of_2018(name):
    from benchmarks.torch_skip import build

    entry, arrays = ENTRIES[name], load_arrays(name)
    net = build(config_from_2018(entry["config"], "auto"), entry["output_shape"][-1]).double()
    state = load_state(name)
    with torch.no_grad():
        for parameter, key in zip(net.parameters(), sorted(state), strict=True):
            parameter.copy_(torch.from_numpy(state[key]))
    code = torch.from_numpy(arrays["z"].transpose(2, 0, 1)[None]).double()
    target = torch.from_numpy(arrays["target"].transpose(2, 0, 1)[None]).double()
    output = net(code).detach().numpy()[0].transpose(1, 2, 0)
    np.testing.assert_allclose(output, arrays["output"], atol=1e-6)
    optimizer, losses = torch.optim.Adam(net.parameters(), 0.01), []
    for _ in range(5):
        optimizer.zero_grad()
        loss = torch.mean((net(code) - target) ** 2)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, arrays["adam_losses"], rtol=1e-6)
